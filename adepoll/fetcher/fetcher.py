"""ResultFetcher: brings results home, inline or from storage. Imports client and below."""

import asyncio
import math
import operator
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from attrs import frozen

from adepoll.api.client import AdeClient
from adepoll.api.kinds import v1_extract
from adepoll.api.models import ExtractResult, JobSnapshot, JobStatus
from adepoll.errors import (
    MalformedAnswerError,
    ResultChangedError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultTooLargeError,
    ResultTransferError,
    ResultUnavailableError,
)
from adepoll.fetcher.addresses import Gatekeeper
from adepoll.fetcher.download import Carrier, put
from adepoll.fetcher.items import ResultItems
from adepoll.fetcher.landing import Landing, Progress
from adepoll.fetcher.partfile import PartFile
from adepoll.fetcher.reader import Reader, make_reader
from adepoll.fetcher.stats import FetcherStats, Tally
from adepoll.fetcher.storage import Storage
from adepoll.fetcher.stream import Inline, ResultStream
from adepoll.fetcher.transfer import Link, Persistence, ResolveUrl, StoredResult
from adepoll.redaction import is_redacted


@frozen(kw_only=True)
class Download:
    """A result that has been written to disk, whole.

    Attributes:
        job_id: The job.
        path: The file.
        bytes: Its size.
        sha256: Of its bytes, in hex.
        etag: What the storage called this version; None where it did not, or the data was inline.
        resumed: How often it went on where a connection, or an earlier process, had broken off.
        seconds: From the call to the renamed file.
    """

    job_id: str
    path: Path
    bytes: int
    sha256: str
    etag: str | None
    resumed: int
    seconds: float


class ResultFetcher:
    """Brings the results of ended jobs home: into memory, to disk, or as a stream.

    All methods take a snapshot or just a job id, deal with results that came inline as with
    those in storage, and ask the service for a fresh URL when one has expired. Use it as ``async
    with ResultFetcher(client) as fetcher``, or close it with `aclose`; it then closes its own
    connections, not the client.
    """

    def __init__(
        self,
        client: AdeClient,
        *,
        max_result_bytes: int = 64 * 2**20,
        connections: int = 4,
        connect_timeout: float = 30.0,
        read_timeout: float = 60.0,
        min_rate: float = 1024.0,
        allow_private: bool = False,
        resolve_url: ResolveUrl | None = None,
    ) -> None:
        """Make a fetcher; nothing is requested before the first call.

        Args:
            client: Who is asked for URLs. Its retry policy rules how often a transfer is tried.
            max_result_bytes: Largest result that `result` takes into memory.
            connections: Most connections over which one `download` gets its parts, where the
                storage gives parts, and one connection alone is slow.
            connect_timeout: Most seconds until a connection stands.
            read_timeout: Most seconds without a byte.
            min_rate: Fewest bytes per second over each `read_timeout`; who sends fewer counts as
                fallen silent.
            allow_private: Whether results may come from private, loopback and link-local
                addresses, and over plain http: from a storage of your own network. Otherwise
                they only may if the API itself is there.
            resolve_url: Gives the URL from which the result of a job can be read, for jobs whose
                `output_save_url` was presigned for writing only, or of which the service keeps
                no result (zero data retention). It is called with the snapshot, and again with a
                fresh one when that URL has expired; it may be a coroutine function.

        Raises:
            ValueError: A number is out of range.
            TypeError: `connections` is not a whole number.
        """
        for name, value in (
            ("max_result_bytes", max_result_bytes),
            ("connections", operator.index(connections)),
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not (math.isfinite(min_rate) and min_rate >= 0):
            raise ValueError(f"min_rate must be a number of 0 or more, got {min_rate}")
        self._client = client
        self._max_result_bytes = max_result_bytes
        self._connections = connections
        self._resolve_url = resolve_url
        self._tally = Tally()
        self._storage = Storage(
            gatekeeper=Gatekeeper(api_url=client.base_url, allow_private=allow_private),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            min_rate=min_rate,
        )
        # Who reads the same result by the same URL shares the fresh one.
        self._links: WeakValueDictionary[tuple[str, str | None], Link] = WeakValueDictionary()

    @property
    def stats(self) -> FetcherStats:
        """What was done so far; a copy that does not change."""
        return self._tally.stats(bytes_received=self._storage.bytes_received)

    async def __aenter__(self) -> Self:
        """Give the fetcher itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the fetcher."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to storage.

        Further calls, and those under way, raise `ClosedError`.
        """
        await self._storage.aclose()

    async def result(self, job: JobSnapshot | str) -> ExtractResult:
        """Give the result of a job, whole, in memory.

        Args:
            job: A snapshot of the job, or its id.

        Raises:
            JobFailedError: The job failed; `JobCancelledError`: it was cancelled.
            ResultNotReadyError: It has not ended.
            ResultUnavailableError: The service has no result of it (zero data retention).
            ResultTooLargeError: It is larger than `max_result_bytes`.
            ResultError: It could not be fetched; the other subclasses say why.
            RequestError: The service could not be asked for a URL.
        """
        with self._tally.transfer():
            job = await self._ended(job)
            if job.data is not None:
                return job.data
            body = await self._into_memory(job)
            try:
                return await asyncio.to_thread(v1_extract.decode_result, body)
            except MalformedAnswerError as exc:
                problems = exc.problems
            raise ResultMalformedError(problems, job_id=job.job_id)

    async def download(
        self,
        job: JobSnapshot | str,
        path: str | PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = False,
    ) -> Download:
        """Write the result of a job to a file, which appears whole or not at all.

        The bytes go to a hidden temporary file in the same folder (mode 0600), are checked, synced
        to the disk and renamed. What has arrived when a download fails, is cancelled or killed
        stays there, from a mebibyte on, and the next download of that job to that path goes on
        with it, if the storage still has the same object (RFC 9110: a strong ETag, and its size).

        Args:
            job: A snapshot of the job, or its id.
            path: The file; its folder must exist.
            progress: Is called with the bytes that are there, and those that there will be or
                None, each time that has changed.
            overwrite: Whether a file that is there already is replaced; if not, it is refused
                before anything is requested.

        Raises:
            TargetExistsError: There is a file already.
            StorageError: It cannot be written.
            ResultTransferError: The bytes did not arrive whole, however often it was tried.
            AdePollError: As for `result`.
        """
        with self._tally.transfer():
            return await self._download(job, Path(path), progress, overwrite=overwrite)

    async def _download(
        self,
        job: JobSnapshot | str,
        target: Path,
        progress: Progress | None,
        *,
        overwrite: bool,
    ) -> Download:
        loop = asyncio.get_running_loop()
        started = loop.time()
        job_id = job if isinstance(job, str) else job.job_id
        part = PartFile(target, job_id=job_id, overwrite=overwrite)
        await asyncio.to_thread(part.check)
        job = await self._ended(job)
        landing = Landing(part, progress)
        if job.data is None:
            carrier = Carrier(
                self._stored(job, in_bulk=True),
                self._persistence(),
                landing,
                connections=self._connections,
            )
            fetched = await carrier.run()
        else:
            fetched = await put(landing, await _inline(job.data, job.job_id))
        return Download(
            job_id=job.job_id,
            path=target,
            bytes=fetched.size,
            sha256=fetched.sha256,
            etag=fetched.etag,
            resumed=fetched.resumed,
            seconds=loop.time() - started,
        )

    @asynccontextmanager
    async def stream(
        self, job: JobSnapshot | str, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ResultStream, None]:
        """Give the bytes of a result, or of a range of it, as they arrive, in constant memory.

        ``async with fetcher.stream(job) as chunks: async for chunk in chunks: ...``. Where a
        connection breaks, another goes on at the byte that was reached.

        A range is a slice of the bytes: what goes beyond the end is left out. The storage is asked
        for that range alone; one that gives no ranges sends what is before it too, which is passed
        over. Ranges of two calls belong together if their streams have the same strong `etag`.

        Args:
            job: A snapshot of the job, or its id.
            start: The first byte. If negative, so many bytes from the end; that costs a request
                more, by which the size is found out, and where the storage does not tell it, the
                whole is read for that.
            stop: The byte after the last; None for all to the end.

        Raises:
            ValueError: `stop` is not after `start`, or `start` is negative and there is a `stop`.
            ResultRangeError: The result ends before the range begins; it carries the size. On
                entering.
            AdePollError: As for `result`, on entering or from the iteration.
        """
        start, stop = operator.index(start), None if stop is None else operator.index(stop)
        if stop is not None and (start < 0 or stop <= start):
            raise ValueError(f"no range: start {start}, stop {stop}")
        with self._tally.transfer() as transfer:
            job = await self._ended(job)
            async with AsyncExitStack() as stack:
                source: Inline | Reader
                if job.data is not None:
                    source = await _inline(job.data, job.job_id, start, stop)
                else:
                    stored, persistence = self._stored(job), self._persistence()
                    source = await make_reader(stored, persistence, start, stop)
                    stack.push_async_callback(source.aclose)
                    await source.begin()
                try:
                    yield ResultStream(source, transfer)
                finally:
                    transfer.abandon()  # unless the stream has said otherwise

    @asynccontextmanager
    async def items(self, job: JobSnapshot | str, prefix: str) -> AsyncGenerator[ResultItems, None]:
        """Walk a large array within a result, in the memory that one item takes.

        ``async with fetcher.items(job, "extraction.rows.item") as rows: async for row in rows:
        ...``. Needs the extra ``json``. Numbers come as `result` gives them; an unpaired
        surrogate, which JSON may hold and text may not, comes as a question mark.

        Args:
            job: A snapshot of the job, or its id.
            prefix: Where the items are: keys joined by dots, ``item`` for what is in an array.
                One that leads nowhere gives nothing.

        Raises:
            ConfigurationError: ijson is not installed.
            ResultTooLargeError: One item is larger than `max_result_bytes`.
            AdePollError: As for `stream`.
        """
        job_id = job if isinstance(job, str) else job.job_id
        async with self.stream(job) as stream:
            yield ResultItems(stream, prefix, job_id=job_id, most_bytes=self._max_result_bytes)

    async def _ended(self, job: JobSnapshot | str) -> JobSnapshot:
        """Give a snapshot that has its data, or a URL that may work."""
        self._storage.check_open()
        if isinstance(job, str):
            job = await self._client.get_job(job)
        elif job.status is JobStatus.COMPLETED and job.data is None and _needs_url(job):
            # A snapshot that was redacted, or saved without the URL.
            job = await self._client.get_job(job.job_id)
        if not job.is_terminal:
            raise ResultNotReadyError(job_id=job.job_id, status=job.status_text)
        job.raise_for_failure()
        if job.data is None and job.output_url is None and self._resolve_url is None:
            raise ResultUnavailableError(job_id=job.job_id)
        return job

    def _stored(self, job: JobSnapshot, *, in_bulk: bool = False) -> StoredResult:
        key = (job.job_id, job.output_url)
        link = self._links.get(key)
        if link is None:
            link = Link(self._client, job, self._resolve_url, self._tally)
            self._links[key] = link
        return StoredResult(self._storage, link, job_id=job.job_id, in_bulk=in_bulk)

    def _persistence(self) -> Persistence:
        return Persistence(
            self._client.retry,
            self._client.rng,
            check_open=self._storage.check_open,
            tally=self._tally,
        )

    async def _into_memory(self, job: JobSnapshot) -> bytes:
        too_large = ResultTooLargeError(job_id=job.job_id, limit=self._max_result_bytes)
        stored = self._stored(job)
        persistence = self._persistence()
        while True:
            reader = Reader(stored, persistence)
            try:
                await reader.begin()
                if (reader.version.size or 0) > self._max_result_bytes:
                    raise too_large
                chunks = []
                while chunk := await reader.read():
                    if reader.received > self._max_result_bytes:
                        raise too_large
                    chunks.append(chunk)
                return b"".join(chunks)
            except ResultChangedError as changed:  # nobody has seen a byte: begin anew
                error = ResultTransferError(
                    "the object in storage changed",
                    job_id=job.job_id,
                    received=changed.received,
                    expected=reader.version.size,
                )
            finally:
                await reader.aclose()
            now = asyncio.get_running_loop().time()
            await persistence.endure(error, began=now, gained=0, size=None)


def _needs_url(job: JobSnapshot) -> bool:
    return job.output_url is None or is_redacted(job.output_url)


async def _inline(
    data: ExtractResult, job_id: str, start: int = 0, stop: int | None = None
) -> Inline:
    """Give data that came with the snapshot as the stream it would have been."""
    body = await asyncio.to_thread(v1_extract.encode_result, data)
    return Inline(body, job_id=job_id, start=start, stop=stop)
