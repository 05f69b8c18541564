"""The boundary to aiohttp: sends the GET requests of one client, and limits their time."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextvars import Context
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from types import FunctionType, TracebackType
from typing import Any, Final, Self, TypeVar, cast

import aiohttp
from yarl import URL

from adepoll.__about__ import __version__
from adepoll.api.arriving_body import ArrivingBody
from adepoll.api.body_decoding import codings_in
from adepoll.api.connections import Connections
from adepoll.api.connector import Connector, DirectRequests, Response
from adepoll.api.json_text import NEVER_COSTLY, is_costly
from adepoll.api.protocol import MAX_ERROR_BYTES
from adepoll.api.received_result import ReadAnswer
from adepoll.api.request import Request, Root
from adepoll.api.service_clock import ServiceClock
from adepoll.api.transport_errors import REFUSED_BY_PROXY, StaleConnectionError, error_of
from adepoll.api.transport_options import Proxies, TransportOptions
from adepoll.common.redaction import Credentials, Secret
from adepoll.common.threads import start_in_thread
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    ProxyRefusedError,
    RequestError,
    ResultError,
)
from adepoll.throttling.hosts import Sent

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

USER_AGENT: Final = f"adepoll/{__version__}"


class Transport(Connections):
    """Sends the GET requests of one client. It never repeats a request itself.

    Attributes:
        headers: Headers of a request, including the API key.
        clock: Clock with the time of the service, which responses adjust.
        bytes_received: Total size of all response bodies in bytes, after decompression.
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
        """Create a transport without connections; see `AdeClient` for the arguments.

        Raises:
            ConfigurationError: A proxy in the environment variables cannot be used.
        """
        super().__init__("client", session)
        self.headers = {
            "Authorization": Credentials(f"Bearer {api_key.reveal()}"),
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": USER_AGENT,
        }
        self._key = api_key
        self._options = options
        self._proxies = options.proxies() if self.owns_session else Proxies()
        self._time_limit = TimeLimit(timeout)
        self._max_body_bytes = max_body_bytes
        self._most_inline = min(max_body_bytes, inline_limit)
        self._below_limits = min(self._most_inline, MAX_ERROR_BYTES)  # within the limit of any body
        self._read_directly = min(max_body_bytes, NEVER_COSTLY)
        self.clock = ServiceClock()
        self.bytes_received = 0

    def root(self, base_url: str) -> Root:
        """Return a base URL, and how requests are sent to it."""
        url = URL(base_url, encoded=True)
        options: dict[str, Any] = {"allow_redirects": False}
        options |= self._proxies.options_for(url, self.headers)
        if not self.owns_session:  # the client's own session has these settings itself
            return Root(url, {**options, **_SETTINGS})
        limits = self._options
        direct = DirectRequests(
            url,
            self.headers,
            max_header_bytes=limits.max_header_bytes,
            max_headers=limits.max_headers,
        )
        return Root(url, options, None if "proxy" in options else direct)

    async def get(self, request: Request[_T], sent: Sent) -> _T:
        """Send one GET, and return the value that `request.read` returns for the response.

        Args:
            request: The request.
            sent: Record of the request. Its `heard_at` is set when bytes arrive, and its `is_stale`
                if the connection was stale.

        Raises:
            RequestError: There was no usable response.
            ClosedError: The client is closed.
        """
        loop = asyncio.get_running_loop()
        job_id, answer = request.job_id, None
        response: Response | None = None
        try:
            with Block(self._time_limit, loop, sent.at, sent.task) as block:
                response = await self._send(request, is_repeated=sent.is_repeated)
                if sent.at >= self.clock.enough_until:
                    self.clock.record(response.headers.get("Date"), sent.at, loop.time())
                if _log.isEnabledFor(logging.DEBUG):
                    milliseconds = 1000 * (loop.time() - sent.at)
                    _log.debug("%s: %d in %.0f ms", request.target, response.status, milliseconds)
                if adopted := request.adopt and request.adopt(response):
                    return adopted
                has_arrived = response.closed and "Content-Encoding" not in response.headers
                if has_arrived and response.content.total_bytes <= self._below_limits:
                    body = response.content.read_nowait()  # the whole body has already arrived
                else:
                    body, answer = await self._receive(request, response, sent, block.restart)
        except TimeoutError:
            failure: RequestError = AnswerTimeoutError(
                timeout=self._time_limit.seconds, job_id=job_id
            )
        except (aiohttp.ClientError, ResultError, OSError, RuntimeError) as exc:
            sent.is_stale = isinstance(exc, StaleConnectionError)
            failure = error_of(exc, job_id=job_id, has_proxy="proxy" in request.root.options)
        else:
            if response.status == _OK and answer is None and len(body) <= self._read_directly:
                self.bytes_received += len(body)
                return request.read(_OK, response.headers, body)
            return await self._read(request, response, body, answer)
        self.check_open()  # a request that aclose() has aborted raises ClosedError
        if response is not None and response.status >= _FIRST_REDIRECT:
            # The status and Retry-After have arrived. The body is only the text of the error.
            return await self._read(request, response, b"", None)
        # Raise outside of the `except` blocks, so that no error of aiohttp becomes the context of
        # the failure. An error of aiohttp can contain the headers of the request, with the key.
        raise failure

    async def _send(self, request: Request[Any], *, is_repeated: bool) -> Response:
        """Send a request, and return its response when the headers have arrived.

        Args:
            request: The request.
            is_repeated: As for `Sent`: whether a new connection is needed.
        """
        session = self.session
        if session is None or is_repeated or self.is_closed or not self.owns_session:
            session = self.open_session(new_connection=is_repeated)
        root, options = request.root, request.root.options
        if root.direct is not None and request.headers is None and not _needs_session(session):
            # Each session that `_make_session` returns has this connector.
            return await root.direct.get(cast("Connector", session.connector), request.target)
        if request.headers is not None:
            own = options.get("headers", self.headers)
            options = {**options, "headers": {**own, **request.headers}}
        return await session.get(root.url_of(request.target), **options)

    def adopt(self, statuses: Collection[int], response: Response) -> aiohttp.ClientResponse | None:
        """Leave the body of a response to the caller if the response has the right status.

        The caller reads the body, and then calls `release`.

        Args:
            statuses: The HTTP statuses of the responses whose body the caller wants to read.
            response: The response to a request with `Request.headers`.

        Returns:
            The response; None if its status is not in `statuses`.
        """
        if response.status not in statuses or not isinstance(response, aiohttp.ClientResponse):
            return None
        self.begin_reading(response)
        return response

    def release(self, response: aiohttp.ClientResponse) -> None:
        """Close a response from `adopt`, and count the bytes of its body that were received."""
        self.end_reading(response)
        self.bytes_received += response.content.total_bytes
        response.close()

    async def _read(
        self,
        request: Request[_T],
        response: Response,
        body: bytes,
        answer: ReadAnswer | None,
    ) -> _T:
        """Call `request.read` with a response, in a thread if that takes long; return the result.

        Args:
            request: The request.
            response: The response.
            body: The complete body; of an error status, the part that could be read.
            answer: The parts of a large answer that were kept; None if the body is the whole
                answer.

        Raises:
            ProxyRefusedError: The proxy demands a user name and a password.
            AnswerTooLargeError: The body is too large, and the status is not an error.
        """
        has_proxy = "proxy" in request.root.options
        if has_proxy and response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise ProxyRefusedError(REFUSED_BY_PROXY, job_id=request.job_id)
        read = request.read
        if answer is not None:
            read = partial(read, large=answer)
        elif len(body) > self._max_body_bytes and response.status < _FIRST_REDIRECT:
            raise AnswerTooLargeError(limit=self._max_body_bytes, job_id=request.job_id)
        else:
            self.bytes_received += len(body)
        if response.status != _OK:
            read = partial(read, now=datetime.now(UTC), secret=self._key)
        if len(body) > NEVER_COSTLY and is_costly(body):
            return await start_in_thread(read, response.status, response.headers, body)
        return read(response.status, response.headers, body)

    async def _receive(
        self,
        request: Request[_T],
        response: Response,
        sent: Sent,
        restart: Callable[[float], None],
    ) -> tuple[bytes, ReadAnswer | None]:
        """Read the body of a response. `ArrivingBody` has the last arguments and the results."""
        large, most = None, MAX_ERROR_BYTES
        if response.status < _FIRST_REDIRECT:
            large = request.large
            most = self._max_body_bytes if large is None else self._most_inline
        encodings = response.headers.getall("Content-Encoding", ())
        codings = codings_in(encodings) if encodings else ()
        if response.closed and not codings and response.content.total_bytes <= most:
            return response.content.read_nowait(), None
        body = ArrivingBody(response, sent, restart, codings)
        self.begin_reading(response)
        try:
            async with response:
                read, answer = await body.read(most, large, job_id=request.job_id)
        finally:
            self.end_reading(response)
        if answer is not None:
            self.bytes_received += body.size
        return read, answer

    def _make_session(self, *, force_close: bool) -> aiohttp.ClientSession:
        """Return a session that keeps no cookies; with `force_close`, also no connections."""
        connector = Connector(
            ssl=self._options.ssl, resolver=self._options.resolver, force_close=force_close
        )
        return aiohttp.ClientSession(
            **_SETTINGS,
            headers={"User-Agent": USER_AGENT},
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(connector.send_once,),
            max_line_size=self._options.max_header_bytes,
            max_field_size=self._options.max_header_bytes,
            max_headers=self._options.max_headers,
        )


def _needs_session(session: aiohttp.ClientSession) -> bool:
    """Return True if other code observes or replaces the requests of sessions.

    Libraries for tracing add a `aiohttp.TraceConfig` to each session. Libraries for tracing or
    tests replace the method that sends a request. They would not notice `DirectRequests`.
    """
    send = aiohttp.ClientSession._request  # noqa: SLF001 - the method that these libraries replace
    is_original = type(send) is FunctionType and send.__code__.co_filename == _FILE_OF_SESSION
    return bool(session.trace_configs) or not is_original


class TimeLimit:
    """Limits how long code blocks may run: an `asyncio.timeout` for many concurrent blocks.

    A code block is the code in one ``with Block(...)`` statement. All blocks have the same limit,
    so they expire in the order in which they began. Therefore one timer is enough. It takes less
    CPU time than one timer for each block.
    """

    def __init__(self, seconds: float) -> None:
        """Create a time limit; each ``with Block(...)`` statement may take `seconds` seconds."""
        self.seconds = seconds
        # Loop time at which each running block expires; the earliest first.
        self.running: dict[Block, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the code blocks whose time has passed; set the timer for the next code block."""
        self.timer = None
        now = loop.time()
        for block, deadline in [*self.running.items()]:
            if deadline > now:
                self.timer = loop.call_at(deadline, self.expire, loop, context=Context())
                return
            del self.running[block]
            block.cancel()


class Block:
    """A ``with`` statement whose time is limited by a `TimeLimit`.

    When its time has passed, its task is cancelled, and the statement raises TimeoutError, as
    `asyncio.timeout` does.
    """

    __slots__ = ("_cancelling", "_limit", "_task")

    def __init__(
        self,
        limit: TimeLimit,
        loop: asyncio.AbstractEventLoop,
        now: float,
        task: asyncio.Task[object] | None,
    ) -> None:
        """Start the time of a ``with`` statement, which must begin immediately afterwards.

        Args:
            limit: The time limit.
            loop: The running loop.
            now: Loop time at which the statement begins; not earlier than for the previous `Block`.
            task: The running task.

        Raises:
            RuntimeError: No task is running.
        """
        if task is None:
            raise RuntimeError("a time limit works within a task only")
        self._limit = limit
        self._task = task
        self._cancelling = task.cancelling()
        deadline = limit.running[self] = now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(deadline, limit.expire, loop, context=Context())

    def restart(self, now: float) -> None:
        """Start the time limit again at the loop time `now`, unless it has already passed."""
        running = self._limit.running
        if running.pop(self, None) is not None:
            running[self] = now + self._limit.seconds

    def cancel(self) -> None:
        """Cancel the task that runs the ``with`` statement."""
        self._task.cancel()

    def __enter__(self) -> Self:
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
        # If other code has cancelled the task as well, the CancelledError must reach that code.
        if self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc


_FILE_OF_SESSION: Final = aiohttp.client.__file__
_OK: Final = 200
_FIRST_REDIRECT: Final = 300  # a response with a lower status can contain a job


# Settings of a request that a session can have, too. aiohttp needs no timers, because `TimeLimit`
# has one.
_SETTINGS: Final[Mapping[str, Any]] = {
    "raise_for_status": False,
    # If aiohttp cannot decompress a body, it raises an error, and the status is lost.
    "auto_decompress": False,
    "timeout": aiohttp.ClientTimeout(),
}
