"""The boundary to aiohttp: sessions, GET requests and time limits.

Imports service_clock, transport_options, transport_errors and below.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
from attrs import frozen
from yarl import URL

from adepoll.__about__ import __version__
from adepoll.api.json_text import LARGE_TEXT
from adepoll.api.service_clock import ServiceClock
from adepoll.api.transport_errors import BrokenError, error_of
from adepoll.api.transport_options import TransportOptions
from adepoll.closing import AsyncCloseable
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    ClosedError,
    RequestError,
)
from adepoll.redaction import REDACTED, Secret
from adepoll.throttling.request_sender import Send

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

USER_AGENT: Final = f"adepoll/{__version__}"


class Connections(AsyncCloseable):
    """A session that is created at the first use, and the responses that are being read from it.

    Attributes:
        reading: Responses whose body is being read; the reader adds and removes them.
        is_closed: Whether `aclose` was called.
        owns_session: Whether the session is closed with this object.
        loop: The event loop that uses it; None before the first use.
    """

    def __init__(
        self,
        owner: str,
        make: Callable[[], aiohttp.ClientSession],
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            owner: Word for the object that uses the connections, for `ClosedError`.
            make: Creates the session.
            session: A session of the caller, used instead of an own one and not closed.
        """
        self.reading: set[aiohttp.ClientResponse] = set()
        self.is_closed = False
        self.owns_session = session is None
        self._owner = owner
        self._make = make
        self._session = session
        self.loop: asyncio.AbstractEventLoop | None = None

    def check_open(self) -> None:
        """Raise `ClosedError` if it is closed, or was used in another event loop before."""
        if self.is_closed:
            raise ClosedError(f"the {self._owner} is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError(
                f"the {self._owner} belongs to another event loop; create one for each loop"
            )

    def session(self) -> aiohttp.ClientSession:
        """Return the session; raises `ClosedError`. Call `check_open` before."""
        if self.is_closed:
            self.check_open()
        if self._session is None:
            self._session = self._make()
        elif not self.owns_session and self._session.closed:
            raise ClosedError(f"the session that was given to the {self._owner} is closed")
        return self._session

    async def aclose(self) -> None:
        """Abort all responses that are being read, and close an own session."""
        self.is_closed = True
        for response in self.reading:
            response.close()  # wakes its reader; closing the session would not
        if self._session is not None and self.owns_session:
            await self._session.close()


class Transport(Connections):
    """Sends the GET requests of one client, each once.

    Attributes:
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
        self.clock = ServiceClock()
        self.bytes_received = 0

    def root(self, base_url: str) -> "Root":
        """Return an address of the service, for `request`; raises `ConfigurationError`."""
        url = URL(base_url, encoded=True)
        proxy = self._options.proxies().for_url(url) if self.owns_session else None
        return Root(url, url.raw_path.rstrip("/"), proxy)

    def request(
        self, root: "Root", path: str, read: Callable[..., _T], job_id: str | None = None
    ) -> Send[_T]:
        """Return a function that sends one GET and returns what `read` makes of the response.

        Args:
            root: Address of the service.
            path: Encoded path, and query if there is one.
            read: Called with status, headers and body; for an error status also with ``now`` and
                ``secret``, as `protocol.read_job` takes them.
            job_id: The job that the request is about, for errors.

        Raises:
            ClosedError: The client is closed.
        """
        self.check_open()
        path, _, query = path.partition("?")
        # Encoded by the caller: yarl would send "%25" for "%".
        url = root.url.with_path(root.path + path, encoded=True)
        if query:
            url = url.with_query(query)
        return partial(self._send, url, root.proxy, read, job_id)

    async def _send(
        self,
        url: URL,
        proxy: str | None,
        read: Callable[..., _T],
        job_id: str | None,
        sent_at: float,
    ) -> _T:
        loop = self.loop or asyncio.get_running_loop()
        try:
            with self._time_limit.block(loop, sent_at):
                response = await self.session().get(
                    url,
                    headers=self._headers_of_request,
                    allow_redirects=False,
                    raise_for_status=False,  # a session of the caller can have it on
                    timeout=_NO_TIMEOUT,
                    proxy=proxy,
                )
                headers = response.headers
                if sent_at >= self.clock.enough_until:
                    self.clock.record(headers.get("Date"), sent_at, loop.time())
                if _log.isEnabledFor(logging.DEBUG):
                    milliseconds = 1000 * (loop.time() - sent_at)
                    _log.debug("%s: %d in %.0f ms", url.path_qs, response.status, milliseconds)
                if response.closed:  # the body has arrived already
                    body = response.content.read_nowait()
                else:
                    async with response:
                        body = await self._read(response)
        except TimeoutError:
            failure: RequestError = AnswerTimeoutError(
                timeout=self._time_limit.seconds, job_id=job_id
            )
        except (aiohttp.ClientError, OSError) as exc:
            failure = error_of(exc, job_id=job_id)
        else:
            if len(body) > self._max_body_bytes:
                raise AnswerTooLargeError(limit=self._max_body_bytes, job_id=job_id)
            self.bytes_received += len(body)
            if response.status != _OK:
                read = partial(read, now=datetime.now(UTC), secret=self._key)
            if len(body) < LARGE_TEXT:
                return read(response.status, headers, body)
            return await asyncio.to_thread(read, response.status, headers, body)
        self.check_open()  # a request that aclose() has aborted raises ClosedError
        # Raised here, so that it has no foreign error as its context: these can carry the headers
        # of the request, and with them the key.
        raise failure

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body; only its beginning if the body is larger than `max_body_bytes`."""
        chunks: list[bytes] = []
        size = 0
        self.reading.add(response)
        try:
            while size <= self._max_body_bytes and (chunk := await response.content.readany()):
                size += len(chunk)
                chunks.append(chunk)
        finally:
            self.reading.discard(response)
        return b"".join(chunks)

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
    proxy: str | None


_OK: Final = 200
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()  # a TimeLimit replaces it


def limit_read_size(response: aiohttp.ClientResponse, most: int) -> None:
    """Read the body from its socket in pieces of at most `most` bytes, if the transport can.

    asyncio's own transport can, and reads 256 KiB by default. The buffers of uvloop and of TLS have
    a fixed size.
    """
    connection = response.connection  # None if the whole body has arrived
    transport = None if connection is None else connection.transport
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = most


class Bearer(str):
    """The value of the Authorization header, with a repr that does not show the key.

    Errors of aiohttp contain the headers of their request, and are printed.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'Bearer {REDACTED}'"


class TimeLimit:
    """`asyncio.timeout` for any number of blocks with the same limit, with one timer in total.

    All blocks have the same limit, so they expire in the order of their start. One timer for each
    block would cost 10% of the CPU time of a request.
    """

    def __init__(self, seconds: float) -> None:
        """Create a limit of `seconds` for each block."""
        self.seconds = seconds
        self.running: dict[_Block, float] = {}  # deadlines; the earliest first
        self.timer: asyncio.TimerHandle | None = None

    def block(self, loop: asyncio.AbstractEventLoop, now: float) -> AbstractContextManager[None]:
        """Return a context manager that raises `TimeoutError` if its block takes too long.

        Args:
            loop: The running loop.
            now: Loop time at which the block begins, not earlier than that of the last block.
        """
        return _Block(self, loop, now)

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


class _Block:
    """One block under a `TimeLimit`. It cancels its task as `asyncio.Timeout` does."""

    __slots__ = ("_cancelling", "_limit", "_loop", "_now", "_task")

    def __init__(self, limit: TimeLimit, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._limit = limit
        self._loop = loop
        self._now = now

    def cancel(self) -> None:
        self._task.cancel()

    def __enter__(self) -> None:
        limit, loop = self._limit, self._loop
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit works within a task only")
        self._task = task
        self._cancelling = task.cancelling()
        deadline = limit.running[self] = self._now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(deadline, limit.expire, loop, context=Context())

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
