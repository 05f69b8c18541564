"""ResultFetcher: brings results home, inline or from storage. Imports client and below."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, TypeVarTuple, Unpack

import aiohttp
from attrs import frozen

from adepoll import wire
from adepoll.client import AdeClient
from adepoll.errors import (
    MalformedAnswerError,
    ResultError,
    ResultExpiredError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultTooLargeError,
    ResultUnavailableError,
)
from adepoll.fetcher.partfile import PartFile
from adepoll.fetcher.storage import ResultStream, Storage
from adepoll.models import ExtractResult, JobSnapshot, JobStatus
from adepoll.redaction import is_redacted

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_MOST_FRESH_URLS: Final = 2


@frozen(kw_only=True)
class Download:
    """A result that has been written to disk, whole.

    Attributes:
        job_id: The job.
        path: The file.
        bytes: Its size.
        sha256: Of its bytes, in hex.
        etag: What the storage called this version; None where it did not, or the data was inline.
        seconds: From the call to the renamed file.
    """

    job_id: str
    path: Path
    bytes: int
    sha256: str
    etag: str | None
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
        connect_timeout: float = 30.0,
        read_timeout: float = 60.0,
    ) -> None:
        """Make a fetcher; nothing is requested before the first call.

        Args:
            client: Who is asked for URLs. Its retry policy rules how often a transfer is tried.
            max_result_bytes: Largest result that `result` takes into memory.
            connect_timeout: Most seconds until a connection stands.
            read_timeout: Most seconds without a byte.

        Raises:
            ValueError: A number is out of range.
        """
        for name, value in (
            ("max_result_bytes", max_result_bytes),
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self._client = client
        self._max_result_bytes = max_result_bytes
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=read_timeout
        )
        self._storage = Storage(api_url=client.base_url, timeout=timeout)

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
        """Close the connections to storage. Further calls, and those under way, raise ClosedError.

        A stream under way breaks off with `ResultTransferError`.
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
        job = await self._ended(job)
        if job.data is not None:
            return job.data
        job_id = job.job_id
        body = await self._retrying(job, lambda url: self._into_memory(job_id, url))
        try:
            return await asyncio.to_thread(wire.decode_result, body)
        except MalformedAnswerError as exc:
            problems = exc.problems
        raise ResultMalformedError(problems, job_id=job_id)

    async def download(
        self, job: JobSnapshot | str, path: str | PathLike[str], *, overwrite: bool = False
    ) -> Download:
        """Write the result of a job to a file, which appears whole or not at all.

        The bytes go to a temporary file in the same folder (mode 0600), whose length is checked;
        then it is synced, renamed, and the folder synced.

        Args:
            job: A snapshot of the job, or its id.
            path: The file; its folder must exist.
            overwrite: Whether a file that is there already is replaced; if not, it is refused
                before anything is requested.

        Raises:
            TargetExistsError: There is a file already.
            StorageError: It cannot be written.
            ResultTransferError: The bytes did not arrive whole, however often it was tried.
            AdePollError: As for `result`.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        target = Path(path)
        job_id = job if isinstance(job, str) else job.job_id
        part = PartFile(target, job_id=job_id, overwrite=overwrite)
        await asyncio.to_thread(part.check)
        job = await self._ended(job)

        async def to_disk(url: str) -> tuple[int, str, str | None]:
            async with self._storage.open(job_id, url) as stream:
                return *(await _write(part, stream)), stream.etag

        if job.data is None:
            size, digest, etag = await self._retrying(job, to_disk)
        else:
            size, digest = await _write(part, await _inline(job.job_id, job.data))
            etag = None
        return Download(
            job_id=job.job_id,
            path=target,
            bytes=size,
            sha256=digest,
            etag=etag,
            seconds=loop.time() - started,
        )

    @asynccontextmanager
    async def stream(self, job: JobSnapshot | str) -> AsyncGenerator[ResultStream, None]:
        """Give the bytes of a result as they arrive, in constant memory.

        ``async with fetcher.stream(job) as chunks: async for chunk in chunks: ...``. A request
        that brings no bytes is tried again; a connection that breaks later is told by
        `ResultTransferError`, since bytes have been handed out.

        Args:
            job: A snapshot of the job, or its id.

        Raises:
            AdePollError: As for `result`, on entering or from the iteration.
        """
        job = await self._ended(job)
        if job.data is not None:
            yield await _inline(job.job_id, job.data)
            return
        job_id = job.job_id
        async with AsyncExitStack() as stack:

            async def begin(url: str) -> ResultStream:
                async with AsyncExitStack() as attempt:
                    opened = await attempt.enter_async_context(self._storage.open(job_id, url))
                    await opened.begin()
                    stack.push_async_exit(attempt.pop_all())
                    return opened

            yield await self._retrying(job, begin)

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
        if job.data is None and job.output_url is None:
            raise ResultUnavailableError(job_id=job.job_id)
        return job

    async def _retrying(self, job: JobSnapshot, use: Callable[[str], Awaitable[_T]]) -> _T:
        """Use the job's URL, until it works, the retry policy ends, or no fresh URL helps."""
        retry = self._client.retry
        waits = retry.waits(self._client.rng)
        url = job.output_url or ""
        attempts = refreshed = 0
        while True:
            try:
                return await use(url)
            except ResultExpiredError:
                if refreshed >= _MOST_FRESH_URLS:
                    raise
                refreshed += 1
                fresh = (await self._client.get_job(job.job_id)).output_url
                if fresh is None or fresh == url:
                    raise  # the caller's own output_save_url is given out as it is, however old
                url = fresh
                continue
            except ResultError as error:
                self._storage.check_open()
                attempts += 1
                if not error.transient or attempts >= retry.attempts:
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempts, error)
            await asyncio.sleep(next(waits))

    async def _into_memory(self, job_id: str, url: str) -> bytes:
        too_large = ResultTooLargeError(job_id=job_id, limit=self._max_result_bytes)
        async with self._storage.open(job_id, url) as stream:
            if (stream.size or 0) > self._max_result_bytes:
                raise too_large
            chunks = []
            async for chunk in stream:
                if stream.received > self._max_result_bytes:
                    raise too_large
                chunks.append(chunk)
            return b"".join(chunks)


def _needs_url(job: JobSnapshot) -> bool:
    return job.output_url is None or is_redacted(job.output_url)


async def _inline(job_id: str, data: ExtractResult) -> ResultStream:
    """Give data that came with the snapshot as the stream it would have been."""
    body = await asyncio.to_thread(wire.encode_result, data)
    pieces = iter([body])

    async def read() -> bytes:
        return next(pieces, b"")

    return ResultStream(read, job_id=job_id, size=len(body), etag=None)


async def _write(part: PartFile, stream: ResultStream) -> tuple[int, str]:
    """Write a stream to its file; give size and sha256. Disk work stays off the event loop."""
    try:
        await _in_thread(part.open)
        async for chunk in stream:
            await _in_thread(part.write, chunk)
        return await _in_thread(part.publish)
    finally:
        part.discard()


async def _in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """Do disk work in a thread, and stay until it is done, even when cancelled.

    A thread cannot be stopped. Who leaves it behind would clean up before it has written.
    """
    done = asyncio.get_running_loop().run_in_executor(None, work, *args)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is None:
        return done.result()
    done.exception()  # seen, so that nobody complains that it was not
    raise cancelled
