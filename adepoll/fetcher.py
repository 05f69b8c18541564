"""ResultFetcher: brings results home, inline or from storage. Imports client and below.

Storage is a foreign host: it gets a session of its own, with no key and no cookies.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from attrs import frozen
from yarl import URL

from adepoll import wire
from adepoll.client import USER_AGENT, AdeClient, describe
from adepoll.errors import (
    ClosedError,
    MalformedAnswerError,
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultRefusedError,
    ResultServerError,
    ResultTooLargeError,
    ResultTransferError,
    ResultUnavailableError,
    ResultUrlError,
)
from adepoll.models import ExtractResult, JobSnapshot, JobStatus
from adepoll.partfile import PartFile
from adepoll.redaction import is_redacted, showable

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_READ_BUFFER: Final = 2**20
_ERROR_BODY: Final = 4096
_MOST_FRESH_URLS: Final = 2
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})
_PASSING: Final = frozenset({408, 429})
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}


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


class ResultStream:
    """The bytes of one result, as they arrive; an async iterator of chunks.

    Attributes:
        size: How many bytes there will be; None where the storage does not say.
        etag: What the storage calls this version; None where it does not.
        received: Bytes handed out so far.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        job_id: str,
        size: int | None,
        etag: str | None,
    ) -> None:
        """Made by `ResultFetcher.stream`; `read` gives the next bytes, none at the end."""
        self.size = size
        self.etag = etag
        self.received = 0
        self._read = read
        self._job_id = job_id
        self._last = b""

    def __aiter__(self) -> Self:
        """Give the stream itself."""
        return self

    async def __anext__(self) -> bytes:
        """Give the next chunk.

        Raises:
            ResultTransferError: The connection broke, or the bytes ended too early.
            ResultMalformedError: What comes is no JSON object.
        """
        try:
            chunk = await self._read()
        except TimeoutError:
            reason = "the storage fell silent"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        else:
            if not chunk:
                self._check_end()
                raise StopAsyncIteration
            if not self.received and not chunk.lstrip().startswith(b"{"):
                raise ResultMalformedError(["expected an object @ $"], job_id=self._job_id)
            self.received += len(chunk)
            self._last = chunk[-16:]
            return chunk
        raise self._broken(reason)

    def _check_end(self) -> None:
        if self.size is None:
            # Nobody announced a length, so a cut would go unseen: a result ends its object.
            if not self._last.rstrip().endswith(b"}"):
                raise self._broken("the bytes ended within the result")
        elif self.received != self.size:
            raise self._broken("the bytes ended too early")

    def _broken(self, reason: str) -> ResultTransferError:
        return ResultTransferError(
            reason, job_id=self._job_id, received=self.received, expected=self.size
        )


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
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=read_timeout
        )
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

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
        """Close the connections to storage. Further calls raise ClosedError."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

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
            async with self._open(job_id, url) as stream:
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
            yield await self._retrying(
                job, lambda url: stack.enter_async_context(self._open(job_id, url))
            )

    async def _ended(self, job: JobSnapshot | str) -> JobSnapshot:
        """Give a snapshot that has its data, or a URL that may work."""
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
                fresh = (await self._client.get_job(job.job_id)).output_url
                refreshed += 1
                if fresh is None or fresh == url or refreshed > _MOST_FRESH_URLS:
                    raise  # the caller's own output_save_url is given out as it is, however old
                url = fresh
                continue
            except ResultError as error:
                attempts += 1
                if not error.transient or attempts >= retry.attempts:
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempts, error)
            await asyncio.sleep(next(waits))

    async def _into_memory(self, job_id: str, url: str) -> bytes:
        too_large = ResultTooLargeError(job_id=job_id, limit=self._max_result_bytes)
        async with self._open(job_id, url) as stream:
            if (stream.size or 0) > self._max_result_bytes:
                raise too_large
            chunks = []
            async for chunk in stream:
                if stream.received > self._max_result_bytes:
                    raise too_large
                chunks.append(chunk)
            return b"".join(chunks)

    @asynccontextmanager
    async def _open(self, job_id: str, url: str) -> AsyncGenerator[ResultStream, None]:
        """Request a URL byte for byte as it was given, and stream what comes."""
        target = self._check_url(job_id, url)
        async with await self._request(job_id, target) as response:
            if response.status != 200:  # noqa: PLR2004 - an HTTP status
                raise await _refusal(job_id, url, response)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                # Asked for as it is; what was encoded on the way cannot be checked for length.
                raise ResultMalformedError(["it came encoded, unasked @ $"], job_id=job_id)
            yield ResultStream(
                response.content.readany,
                job_id=job_id,
                size=response.content_length,
                etag=response.headers.get("ETag"),
            )

    async def _request(self, job_id: str, url: URL) -> aiohttp.ClientResponse:
        try:
            return await self._open_session().get(url, headers=_HEADERS, allow_redirects=False)
        except TimeoutError:
            reason = "the storage does not answer"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        # Raised out here: the foreign error carries the URL, and must not hang on ours.
        raise ResultTransferError(reason, job_id=job_id, received=0, expected=None)

    def _check_url(self, job_id: str, url: str) -> URL:
        """Give the URL as aiohttp must send it, if it may be requested at all."""
        reason = None
        if not _VISIBLE.fullmatch(url):
            reason = "the URL holds a character that no URL has"
        else:
            # encoded=True: re-quoting would break the signature (%2F is not / there).
            target = URL(url, encoded=True)
            schemes = {"https", urlsplit(self._client.base_url).scheme}
            if target.scheme not in schemes or not target.host:
                reason = "a result is only fetched over https"
            elif target.user is not None or target.password is not None:
                reason = "the URL holds a user or password"
        if reason is not None:
            raise ResultUrlError(job_id=job_id, url=url, reason=reason)
        return target

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError("the fetcher is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                timeout=self._timeout,
            )
        return self._session


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
        await asyncio.to_thread(part.open)
        async for chunk in stream:
            await asyncio.to_thread(part.write, chunk)
        return await asyncio.to_thread(part.publish)
    finally:
        part.discard()


_MESSAGE: Final = re.compile(rb"<Message>(.*?)</Message>", re.DOTALL)


async def _refusal(job_id: str, url: str, response: aiohttp.ClientResponse) -> ResultError:
    """Give the error of a status that is no success, with what the storage said."""
    try:
        body = await response.content.read(_ERROR_BODY)
    except (TimeoutError, aiohttp.ClientError, OSError):
        body = b""
    status = response.status
    said = _MESSAGE.search(body)
    detail = showable((said[1] if said else b"").decode("utf-8", "replace"), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    if status in _MAY_MEAN_EXPIRED:
        cls = ResultExpiredError if b"expired" in body.lower() else ResultForbiddenError
    elif status in _PASSING or status >= 500:  # noqa: PLR2004 - a class of HTTP statuses
        cls = ResultServerError
    return cls(job_id=job_id, status=status, detail=detail, url=url)
