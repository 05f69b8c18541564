"""ResultFetcher: fetches the results of jobs, wherever they are."""

import asyncio
import functools
import math
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from attrs import frozen

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot
from adepoll.api.results import JobResult
from adepoll.api.transport_options import TransportOptions
from adepoll.common.closing import AsyncCloseable
from adepoll.common.safe_repr import SafeRepr
from adepoll.common.threads import run_in_thread, start_in_thread
from adepoll.errors import (
    AdePollError,
    ClosedError,
    MalformedAnswerError,
    ResultChangedError,
    ResultMalformedError,
    ResultTooLargeError,
)
from adepoll.errors.frames import without_frames
from adepoll.fetcher.disk_writer import DiskWriter, Progress
from adepoll.fetcher.download import ResultDownload, write_local
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.part_names import LeftoverRemoval, has_resume_state
from adepoll.fetcher.polled_result import changed_error
from adepoll.fetcher.responses import MAX_ERROR_PAGE
from adepoll.fetcher.result_items import ResultItems
from adepoll.fetcher.result_sources import FoundResult, Job, Reader, ResultSources, ref_of
from adepoll.fetcher.result_stream import ResultStream
from adepoll.fetcher.ssrf_guard import SsrfGuard
from adepoll.fetcher.statistics import Counters, FetcherStats
from adepoll.fetcher.storage_client import StorageClient
from adepoll.fetcher.stored_result import ResolveUrl

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _hide_frames(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Decorate a coroutine function: the tracebacks of its errors do not show stack frames.

    The variables of a frame can contain secrets, and some tools log them. The frames are removed
    from adepoll's errors, and from CancelledError, because the traceback of a TimeoutError of
    `asyncio.timeout` also shows the CancelledError.
    """

    @functools.wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await function(*args, **kwargs)
        except (AdePollError, ClosedError, asyncio.CancelledError) as error:
            raise without_frames(error)  # noqa: B904 - it is the same error

    return call


@frozen(kw_only=True)
class Download(SafeRepr):
    """A result that has been written to a file.

    Attributes:
        job_id: The job.
        path: The file.
        bytes: Size of the file in bytes.
        sha256: SHA-256 of the file, in hex.
        etag: ETag of the object in storage; None if there is no ETag, or the result came inline.
        resumed: How often the download was resumed after a failure, by the same or a later process.
        seconds: Seconds from the call of `download` until the file was complete.
    """

    job_id: str
    path: Path
    bytes: int
    sha256: str
    etag: str | None
    resumed: int
    seconds: float


class ResultFetcher(AsyncCloseable):
    """Fetches the results of completed jobs: into memory, to a file, or as a stream.

    All methods take a snapshot, a `JobRef` or a job id. The result can be inline or in a storage.
    When the URL of a result has expired, the fetcher requests a new URL from the API. Use the
    fetcher as ``async with ResultFetcher(client) as fetcher``, or close it with `aclose`. Closing
    it does not close the client.
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
        patience: float = 120.0,
        allow_private: bool = False,
        resolve_url: ResolveUrl | None = None,
        transport: TransportOptions | None = None,
    ) -> None:
        """Create a fetcher; nothing is requested before the first call.

        Args:
            client: Client of the API, which provides URLs.
            max_result_bytes: Size in bytes of the largest result that `result` reads into memory,
                and of the largest item that `items` yields.
            connections: Maximum number of connections of one `download`. There are several only if
                the storage serves byte ranges and a single connection is slow.
            connect_timeout: Maximum seconds until a connection is established.
            read_timeout: Maximum seconds without a byte of the body. Also the maximum seconds from
                the established connection to the end of the headers.
            min_rate: Minimum bytes per second, averaged over periods of `read_timeout` seconds. If
                a response is slower, its request counts as failed, and is repeated.
            patience: Maximum seconds without progress. A transfer is given up when this time has
                passed, and as many requests have failed as the `RetryPolicy.attempts` of the client
                allows. It is given up immediately if the storage asks for a longer wait.
            allow_private: True to fetch results from a storage in your own network: from private,
                loopback and link-local addresses, and over plain http. If False, such addresses are
                allowed only if the API has one, and plain http only if the API uses it.
            resolve_url: Function that returns the URL from which the result of a job can be read.
                You need it for jobs whose `output_save_url` was presigned for writing only, and for
                results that the service does not keep (zero data retention). It is called with the
                snapshot, and again with a new snapshot when that URL has expired. It may be a
                coroutine function.
            transport: Proxies, certificates and header limits; None to use those of the client.

        Raises:
            ConfigurationError: A proxy in the environment variables cannot be used.
            ValueError: A number is out of range.
            TypeError: `connections` is not an integer.
        """
        for name, value in (
            ("max_result_bytes", max_result_bytes),
            ("connections", operator.index(connections)),
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, value in (("min_rate", min_rate), ("patience", patience)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of 0 or more, got {value}")
        self._max_result_bytes = max_result_bytes
        self._connections = connections
        self._counters = Counters()
        self._leftovers = LeftoverRemoval()
        options = transport or client.transport
        self._storage = StorageClient(
            guard=SsrfGuard(
                api_url=client.base_url,
                allow_private=allow_private,
                proxies=options.proxies(),
                resolver=options.resolver,
                timeout=connect_timeout,
            ),
            options=options,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            min_rate=min_rate,
        )
        self._sources = ResultSources(
            client,
            self._storage,
            self._counters,
            patience=patience,
            resolve_url=resolve_url,
        )

    @property
    def stats(self) -> FetcherStats:
        """Statistics of the fetcher at this moment; the returned object does not change later."""
        return self._counters.stats(bytes_received=self._storage.bytes_received)

    def __repr__(self) -> str:
        """Return a text with the numbers of current, finished and failed transfers."""
        found = self.stats
        return (
            f"<ResultFetcher {found.in_flight:,} transfers in progress, {found.finished:,} "
            f"finished, {found.failed:,} failed>"
        )

    async def aclose(self) -> None:
        """Close the connections to storages.

        Calls in progress and later calls raise `ClosedError`.
        """
        await self._storage.aclose()

    @_hide_frames
    async def result(self, job: Job) -> JobResult:
        """Return the result of a job.

        Args:
            job: A snapshot of the job, a `JobRef`, or its id.

        Raises:
            JobFailedError: The job failed.
            JobCancelledError: The job was cancelled.
            ResultNotReadyError: The job has not settled yet.
            ResultUnavailableError: The service keeps no result (zero data retention).
            ResultTooLargeError: The result is larger than `max_result_bytes`.
            ResultError: The result could not be fetched for another reason, which the subclass
                names.
            RequestError: The API failed when a snapshot or URL was requested.
        """
        with self._counters.transfer():
            async with self._sources.find(job) as found:
                if isinstance(found.source, JobSnapshot) and found.source.data is not None:
                    return found.source.data
                return await self._decoded(found)

    @_hide_frames
    async def download(
        self,
        job: Job,
        path: str | PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = False,
    ) -> Download:
        """Write the result of a job to a file, which appears complete or not at all.

        The bytes are written to a hidden part file in the same folder (mode 0600). When they are
        complete, they are checked and synced to the disk, and the part file is renamed.

        If a download fails, is cancelled or killed, a part file of 1 MiB or more stays. The next
        download of that job to that path resumes it if the object in storage has not changed. This
        requires a strong ETag (RFC 9110, section 8.8.3) and a known size.

        Args:
            job: A snapshot of the job, a `JobRef`, or its id.
            path: The file; its folder must exist.
            progress: Function that is called at the beginning and after each write. Its arguments
                are the number of bytes written so far, and the size of the result in bytes, or None
                if the size is not known.
            overwrite: True to replace an existing file. If False, `TargetExistsError` is raised
                for an existing file, before anything is requested.

        Raises:
            TargetExistsError: The file exists.
            StorageError: The file cannot be written.
            ResultTransferError: The bytes did not arrive completely in the allowed attempts.
            AdePollError: As for `result`.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        job_id = job.job_id if isinstance(job, JobSnapshot) else ref_of(job).job_id
        target = Path(path)

        def prepare() -> PartFile:
            part = PartFile(target, job_id=job_id, overwrite=overwrite)
            self._leftovers.clean(target.absolute().parent)
            part.check()
            return part

        with self._counters.transfer():
            part = await run_in_thread(prepare)
            async with self._sources.find(job, in_bulk=True) as found:
                disk = DiskWriter(part, progress, result_keys=found.rules.result_keys)
                if isinstance(found.source, JobSnapshot):
                    async with aclosing(await found.reader()) as reader:
                        published = await write_local(disk, reader)
                else:
                    download = ResultDownload(found.source, disk, connections=self._connections)
                    published = await download.run()
            return Download(
                job_id=found.ref.job_id,
                path=target,
                bytes=published.size,
                sha256=published.sha256,
                etag=published.etag,
                resumed=published.resumed,
                seconds=loop.time() - started,
            )

    @staticmethod
    def can_resume(job: Job, path: str | PathLike[str]) -> bool:
        """Return whether an interrupted download of a job to `path` can be resumed.

        If so, call `download` with the same job and path. Nothing is requested.

        Raises:
            InvalidJobIdError: The id cannot be a job id.
        """
        return has_resume_state(Path(path), ref_of(job).job_id)

    @asynccontextmanager
    async def stream(
        self, job: Job, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ResultStream, None]:
        """Yield a stream of the bytes of a result, or of a range of it, in constant memory.

        ``async with fetcher.stream(job) as chunks: async for chunk in chunks: ...``. After a failed
        connection, the stream continues at the first unread byte. A whole result begins when it
        contains a key that only a result has, or after 1 MiB.

        `start` and `stop` work like those of a Python slice: if the result ends before `stop`, the
        stream ends with the result. Only the range is requested from a storage. If the storage
        serves no ranges, or the API sends the result (v2), the bytes before the range are received,
        too, and skipped. If the streams of two calls have the same strong `etag`, their bytes are
        of the same version of the result.

        Args:
            job: A snapshot of the job, a `JobRef`, or its id.
            start: Offset of the first byte. A negative number counts from the end of the result.
                Then one more request asks the storage for the size. If the storage does not state
                the size, or the API sends the result, the whole result is read first, to find its
                size.
            stop: Offset after the last byte; None for the end of the result.

        Raises:
            ValueError: `stop` is not after `start`, or `start` is negative and `stop` is not None.
            ResultRangeError: Raised on entering if the result ends before the range begins. The
                error has the size of the result.
            AdePollError: As for `result`; raised on entering or by the iteration.
        """
        start, stop = operator.index(start), None if stop is None else operator.index(stop)
        if stop is not None and (start < 0 or stop <= start):
            raise ValueError(f"not a range: start {start}, stop {stop}")
        with self._counters.transfer() as transfer:
            async with AsyncExitStack() as stack:
                source = await self._open_reader(job, start, stop, stack)
                try:
                    yield ResultStream(source, transfer)
                finally:
                    transfer.abandon()  # unless the stream has finished or failed

    @asynccontextmanager
    async def items(self, job: Job, prefix: str) -> AsyncGenerator[ResultItems, None]:
        """Yield an iterator over the items of a large array within a result.

        ``async with fetcher.items(job, "extraction.rows.item") as rows: async for row in rows:
        ...``. Only a small part of the result is in memory at the same time. Needs the extra
        ``json``. Numbers have the same types as in `result`. A string in JSON can contain an
        unpaired surrogate, which is not valid text: it becomes a question mark. NaN and Infinity
        are not JSON (RFC 8259, section 6): the iteration raises `ResultMalformedError` when it
        reaches them, but `result` reads them as None. The same is true for a number of more than
        4,300 digits (an integer) or 16,384 characters, which `result` reads as text or as a float.

        Args:
            job: A snapshot of the job, a `JobRef`, or its id.
            prefix: Path of the items: keys joined by dots, ``item`` for the elements of an array.
                For an empty array, the iteration yields nothing. If nothing in the result has this
                path, the iteration raises `ResultMalformedError` at its end.

        Raises:
            ConfigurationError: ijson is not installed.
            ResultTooLargeError: An item is larger than `max_result_bytes`.
            AdePollError: As for `stream`.
        """
        async with self.stream(job) as stream:
            yield ResultItems(
                stream, prefix, job_id=ref_of(job).job_id, max_bytes=self._max_result_bytes
            )

    @_hide_frames
    async def _open_reader(
        self, job: Job, start: int, stop: int | None, stack: AsyncExitStack
    ) -> Reader:
        """Find a result, request its bytes from `start` to `stop`, and wait for the response.

        Return a reader of these bytes. `stack` closes the reader.
        """
        found = await stack.enter_async_context(self._sources.find(job))
        reader = await found.checked_reader(start, stop)
        stack.push_async_callback(reader.aclose)
        await reader.begin()
        return reader

    async def _decoded(self, found: FoundResult) -> JobResult:
        """Read a result into memory, and decode it.

        If the bytes are not a result, but may be the error page of a gateway, request the result
        again.
        """
        while True:
            body = await self._into_memory(found)
            try:
                return await start_in_thread(found.rules.decode_result, body)
            except MalformedAnswerError as exc:
                problems = exc.problems
            error = ResultMalformedError(problems, job_id=found.ref.job_id)
            if isinstance(found.source, JobSnapshot) or len(body) > MAX_ERROR_PAGE:
                raise error
            await found.source.retries.wait_or_raise(error)

    async def _into_memory(self, found: FoundResult) -> bytes:
        """Return the bytes of a result. If the result changes meanwhile, request it again."""
        job_id = found.ref.job_id
        while True:
            reader = await found.reader()
            try:
                await reader.begin()
                return await self._read_all(reader, job_id)
            except ResultChangedError as changed:  # the caller has no bytes yet, so read again
                size = reader.version.size
                error = changed_error(job_id, received=changed.received, expected=size)
            finally:
                await reader.aclose()
            if isinstance(found.source, JobSnapshot):
                raise error  # the result is part of the snapshot, and cannot be requested again
            await found.source.retries.wait_or_raise(error)

    async def _read_all(self, reader: Reader, job_id: str) -> bytes:
        """Return all bytes of a reader.

        Raise `ResultTooLargeError` if they are more than `max_result_bytes`.
        """
        limit = self._max_result_bytes
        chunks = []
        is_too_large = (reader.version.size or 0) > limit
        while not is_too_large and (chunk := await reader.read()):
            chunks.append(chunk)
            is_too_large = reader.received > limit
        if is_too_large:
            raise ResultTooLargeError(job_id=job_id, limit=limit)
        return b"".join(chunks)
