"""The boundary to aiohttp: the GET requests of one client, with one timer for their time limits.

Imports connections, service_clock, transport_options, transport_errors and below.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from contextvars import Context
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import aiohttp
from attrs import field, frozen
from yarl import URL

from adepoll.__about__ import __version__
from adepoll.api.connections import Connections
from adepoll.api.json_text import is_costly
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.received_result import ReadAnswer
from adepoll.api.service_clock import ServiceClock
from adepoll.api.transport_errors import BrokenError, error_of
from adepoll.api.transport_options import TransportOptions
from adepoll.common.redaction import Bearer, Secret
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    MalformedAnswerError,
    RequestError,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

USER_AGENT: Final = f"adepoll/{__version__}"


class Transport(Connections):
    """Sends the GET requests of one client, each once.

    Attributes:
        headers: Headers of a request, with the key.
        clock: The time of the service, updated with every response.
        bytes_received: Bytes of response bodies, after decompression.
    """

    def __init__(
        self,
        *,
        api_key: Secret[str],
        session: aiohttp.ClientSession | None,
        options: TransportOptions,
        timeout: float,
        max_body_bytes: int,
        inline_limit: int,
    ) -> None:
        """Open nothing yet; see `AdeClient` for the arguments."""
        super().__init__("client", self._make_session, session)
        self.headers = {
            "Authorization": Bearer(f"Bearer {api_key.reveal()}"),
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        }
        self._key = api_key
        # A session of the caller has its own headers and middlewares, which stay as they are.
        self._headers_of_request = None if session is None else self.headers
        self._options = options
        self._time_limit = TimeLimit(timeout)
        self._max_body_bytes = max_body_bytes
        self._most_inline = min(max_body_bytes, inline_limit)
        self.clock = ServiceClock()
        self.bytes_received = 0

    def root(self, base_url: str) -> "Root":
        """Return an address of the service; raises `ConfigurationError`."""
        url = URL(base_url, encoded=True)
        proxy = self._options.proxies().for_url(url) if self.owns_session else None
        return Root(url, url.raw_path.rstrip("/"), proxy)

    async def get(self, request: "Request[_T]", sent_at: float) -> _T:
        """Send one GET, and return what `read` of the request makes of the response.

        Args:
            request: The request.
            sent_at: Loop time at which it is sent.

        Raises:
            RequestError: There was no usable response.
            ClosedError: The client is closed.
        """
        loop = asyncio.get_running_loop()
        job_id, answer = request.job_id, None
        most = self._max_body_bytes if request.large is None else self._most_inline
        url = _url_of(request)
        try:
            with self._time_limit.block(loop, sent_at) as block:
                session = self.session
                if session is None or session.closed:
                    session = self.open_session()
                response = await session.get(
                    url,
                    headers=request.headers or self._headers_of_request,
                    allow_redirects=False,
                    raise_for_status=False,  # a session of the caller can have it on
                    timeout=_NO_TIMEOUT,
                    proxy=request.root.proxy,
                )
                if sent_at >= self.clock.enough_until:
                    self.clock.record(response.headers.get("Date"), sent_at, loop.time())
                if _log.isEnabledFor(logging.DEBUG):
                    milliseconds = 1000 * (loop.time() - sent_at)
                    _log.debug("%s: %d in %.0f ms", url.path_qs, response.status, milliseconds)
                if adopted := request.adopt and request.adopt(response):
                    return adopted
                if response.closed and response.content.total_bytes <= most:
                    body = response.content.read_nowait()  # all of it has arrived already
                else:
                    body, answer = await self._receive(response, request, most, block)
        except TimeoutError:
            failure: RequestError = AnswerTimeoutError(
                timeout=self._time_limit.seconds, job_id=job_id
            )
        except (aiohttp.ClientError, OSError) as exc:
            failure = error_of(exc, job_id=job_id)
        else:
            read = self._reader(request, response.status, len(body), answer)
            if is_costly(body):
                return await asyncio.to_thread(read, response.status, response.headers, body)
            return read(response.status, response.headers, body)
        self.check_open()  # a request that aclose() has aborted raises ClosedError
        # Raised here, so that it has no foreign error as its context: these can carry the headers
        # of the request, and with them the key.
        raise failure

    def adopt(
        self, statuses: Collection[int], response: aiohttp.ClientResponse
    ) -> aiohttp.ClientResponse | None:
        """Return a response with one of these statuses, whose body is not read; None for another.

        The caller reads the body, and then calls `release`.
        """
        if response.status not in statuses:
            return None
        self.reading.add(response)
        return response

    def release(self, response: aiohttp.ClientResponse) -> None:
        """Close a response that `adopt` has returned."""
        self.reading.discard(response)
        self.bytes_received += response.content.total_bytes
        response.close()

    async def _receive(
        self, response: aiohttp.ClientResponse, request: "Request[_T]", most: int, block: "Block"
    ) -> tuple[bytes, ReadAnswer | None]:
        """Return the body of at most `most` bytes, or what remains of a large answer."""
        content = response.content
        async with response:
            self.reading.add(response)
            try:
                large = request.large if response.status in _SUCCESS else None
                chunks: list[bytes] = []
                size = 0 if large is None else response.content_length or 0
                if size <= most:  # or not declared
                    size = 0
                    while size <= most and (chunk := await content.readany()):
                        size += len(chunk)
                        chunks.append(chunk)
                if large is None or size <= most:
                    return b"".join(chunks), None
                answer = await self._read_large(content, chunks, large(), request.job_id, block)
                return answer.body, answer
            finally:
                self.reading.discard(response)

    def _reader(
        self, request: "Request[_T]", status: int, size: int, answer: ReadAnswer | None
    ) -> Callable[..., _T]:
        """Return the function that reads a complete body; raise if the body is too large."""
        read = request.read
        if answer is not None:
            read = partial(read, large=answer)
        elif size > self._max_body_bytes:
            raise AnswerTooLargeError(limit=self._max_body_bytes, job_id=request.job_id)
        else:
            self.bytes_received += size
        if status != _OK:
            read = partial(read, now=datetime.now(UTC), secret=self._key)
        return read

    async def _read_large(
        self,
        content: aiohttp.StreamReader,
        chunks: list[bytes],
        answer: LargeAnswer,
        job_id: str | None,
        block: "Block",
    ) -> ReadAnswer:
        """Read a large answer, whose first chunks have arrived and are not kept.

        The time limit holds for each part of it.
        """
        loop = asyncio.get_running_loop()
        size = since_restart = 0
        chunks.reverse()
        try:
            while chunk := chunks.pop() if chunks else await content.read(_CHUNK):
                await answer.feed(chunk)
                size += len(chunk)
                since_restart += len(chunk)
                if since_restart >= _MIN_PROGRESS:
                    since_restart = 0
                    block.restart(loop.time())
                if size > _LARGEST:
                    raise AnswerTooLargeError(limit=_LARGEST, job_id=job_id)
            self.bytes_received += size
            return await answer.finish()
        except MalformedAnswerError as exc:
            raise MalformedAnswerError(exc.problems, job_id=job_id) from None
        finally:
            answer.close()

    def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self.headers,
            connector=aiohttp.TCPConnector(
                limit=0,  # the rate limiter limits them
                ssl=self._options.ssl,
                resolver=self._options.resolver,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(send_once,),
            max_line_size=self._options.max_header_bytes,
            max_field_size=self._options.max_header_bytes,
            max_headers=self._options.max_headers,
        )


@frozen(kw_only=True)
class Request(Generic[_T]):
    """One GET request.

    Attributes:
        root: Address of the service.
        path: Encoded path, and query if there is one.
        read: Called with status, headers and body; for an error status also with ``now`` and
            ``secret``, as `protocol.read_job` takes them.
        job_id: The job that the request is about, for errors; None for none.
        large: Begins to read an answer that is larger than `inline_limit`; `read` then gets what
            remains of it as ``large``. None for answers that are never large.
        adopt: Returns a response whose body is not read; see `Transport.adopt`. None to read all.
        headers: All headers of the request; None for those of `Transport.headers`.
    """

    root: "Root"
    path: str
    read: Callable[..., _T]
    job_id: str | None = None
    large: Callable[[], LargeAnswer] | None = None
    adopt: Callable[[aiohttp.ClientResponse], _T | None] | None = None
    headers: Mapping[str, str] | None = None


@frozen
class Root:
    """An address of the service.

    Attributes:
        url: The address.
        path: Its path, without a slash at the end.
        proxy: Proxy for requests to it; None without one.
    """

    url: URL
    path: str
    proxy: str | None = field(repr=False)  # may contain a password


_OK: Final = 200
_SUCCESS: Final = frozenset({200, 206})
_CHUNK: Final = 2**17  # bytes of a large answer that are read in one step; bounds the memory
_MIN_PROGRESS: Final = 2**16  # bytes of a large answer, for which its time limit starts again
_LARGEST: Final = 2**30  # bytes of an answer
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()  # a TimeLimit replaces it


def _url_of(request: Request[_T]) -> URL:
    path, _, query = request.path.partition("?")
    # Encoded already: yarl would send "%25" for "%".
    url = request.root.url.with_path(request.root.path + path, encoded=True)
    return url.with_query(query) if query else url


async def send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from sending a GET twice.

    aiohttp repeats a GET if the connection breaks before the response, which it knows by the two
    error classes below. The request budget would not count such a retry.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise BrokenError(exc) from exc


class TimeLimit:
    """`asyncio.timeout` for any number of blocks with the same limit, with one timer in total.

    All blocks have the same limit, so they expire in the order of their start. One timer for each
    block would cost 10% of the CPU time of a request.
    """

    def __init__(self, seconds: float) -> None:
        """Create a limit of `seconds` for each block."""
        self.seconds = seconds
        self.running: dict[Block, float] = {}  # deadlines; the earliest first
        self.timer: asyncio.TimerHandle | None = None

    def block(self, loop: asyncio.AbstractEventLoop, now: float) -> AbstractContextManager["Block"]:
        """Return a context manager that raises `TimeoutError` if its block takes too long.

        Args:
            loop: The running loop.
            now: Loop time at which the block begins, not earlier than that of the last block.
        """
        return Block(self, loop, now)

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the blocks whose time is over, and set the timer for the next block."""
        self.timer = None
        now = loop.time()
        for block, deadline in [*self.running.items()]:
            if deadline > now:
                self.timer = loop.call_at(deadline, self.expire, loop, context=Context())
                return
            del self.running[block]
            block.cancel()


class Block:
    """One block under a `TimeLimit`. It cancels its task as `asyncio.Timeout` does."""

    __slots__ = ("_cancelling", "_limit", "_loop", "_now", "_task")

    def __init__(self, limit: TimeLimit, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._limit = limit
        self._loop = loop
        self._now = now

    def restart(self, now: float) -> None:
        """Begin the limit again, in the middle of the block."""
        running = self._limit.running
        if running.pop(self, None) is not None:  # else it has expired
            running[self] = now + self._limit.seconds

    def cancel(self) -> None:
        """Cancel the task that runs in the block."""
        self._task.cancel()

    def __enter__(self) -> Self:
        limit, loop = self._limit, self._loop
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit works within a task only")
        self._task = task
        self._cancelling = task.cancelling()
        deadline = limit.running[self] = self._now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(deadline, limit.expire, loop, context=Context())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        limit = self._limit
        in_time = limit.running.pop(self, None) is not None
        if not limit.running and limit.timer is not None:
            limit.timer.cancel()
            limit.timer = None
        if in_time:
            return
        # If the task was also cancelled by others, they must see the CancelledError.
        if self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc
