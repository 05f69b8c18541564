"""The boundary to aiohttp: sessions, GET requests and time limits.

Imports service_clock, transport_options, transport_errors and below.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, Generic, TypeVar

import aiohttp
from attrs import frozen
from yarl import URL

from adepoll.__about__ import __version__
from adepoll.api.connections import Connections
from adepoll.api.json_text import LARGE_TEXT
from adepoll.api.kept_result import ReadAnswer
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.service_clock import ServiceClock
from adepoll.api.time_limit import Block, TimeLimit
from adepoll.api.transport_errors import BrokenError, error_of
from adepoll.api.transport_options import TransportOptions
from adepoll.common.redaction import REDACTED, Secret
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    MalformedAnswerError,
    RequestError,
)
from adepoll.throttling.request_sender import Send

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

USER_AGENT: Final = f"adepoll/{__version__}"


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
        self._inline_limit = inline_limit
        self.clock = ServiceClock()
        self.bytes_received = 0

    def root(self, base_url: str) -> "Root":
        """Return an address of the service, for `request`; raises `ConfigurationError`."""
        url = URL(base_url, encoded=True)
        proxy = self._options.proxies().for_url(url) if self.owns_session else None
        return Root(url, url.raw_path.rstrip("/"), proxy)

    def request(
        self,
        root: "Root",
        path: str,
        read: Callable[..., _T],
        job_id: str | None = None,
        *,
        large: Callable[[], LargeAnswer] | None = None,
    ) -> Send[_T]:
        """Return a function that sends one GET and returns what `read` makes of the response.

        Args:
            root: Address of the service.
            path: Encoded path, and query if there is one.
            read: Called with status, headers and body; for an error status also with ``now`` and
                ``secret``, as `protocol.read_job` takes them.
            job_id: The job that the request is about, for errors.
            large: Begins to read an answer that is larger than `inline_limit`; `read` then gets
                what remains of it as ``large``. None for answers that are never large.

        Raises:
            ClosedError: The client is closed.
        """
        most = self._max_body_bytes
        if large is not None:
            most = min(most, self._inline_limit)
        return partial(
            self._send, _Request(self._url(root, path), root.proxy, read, job_id, most, large)
        )

    def opening(
        self,
        root: "Root",
        path: str,
        read: Callable[..., aiohttp.ClientResponse],
        job_id: str,
        *,
        statuses: Collection[int],
        headers: Mapping[str, str],
    ) -> Send[aiohttp.ClientResponse]:
        """Return a function that sends one GET and returns the response without reading its body.

        The caller reads the body, and then calls `release`.

        Args:
            root: As for `request`, and so are `path` and `job_id`.
            path: See `root`.
            read: Called for a response with another status, as for `request`.
            job_id: See `root`.
            statuses: Statuses of the responses to return.
            headers: Further headers of the request.
        """

        def adopt(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse | None:
            if response.status not in statuses:
                return None
            self.reading.add(response)
            return response

        request = _Request(
            self._url(root, path),
            root.proxy,
            read,
            job_id,
            self._max_body_bytes,
            adopt=adopt,
            headers={**self.headers, "Accept-Encoding": "identity", **headers},
        )
        return partial(self._send, request)

    def release(self, response: aiohttp.ClientResponse) -> None:
        """Close a response of `opening`."""
        self.reading.discard(response)
        self.bytes_received += response.content.total_bytes
        response.close()

    def _url(self, root: "Root", path: str) -> URL:
        self.check_open()
        path, _, query = path.partition("?")
        # Encoded by the caller: yarl would send "%25" for "%".
        url = root.url.with_path(root.path + path, encoded=True)
        return url.with_query(query) if query else url

    async def _send(self, request: "_Request[_T]", sent_at: float) -> _T:
        loop = self.loop or asyncio.get_running_loop()
        job_id, answer = request.job_id, None
        try:
            with self._time_limit.block(loop, sent_at) as block:
                response = await self.session().get(
                    request.url,
                    headers=request.headers or self._headers_of_request,
                    allow_redirects=False,
                    raise_for_status=False,  # a session of the caller can have it on
                    timeout=_NO_TIMEOUT,
                    proxy=request.proxy,
                )
                headers = response.headers
                if sent_at >= self.clock.enough_until:
                    self.clock.record(headers.get("Date"), sent_at, loop.time())
                if _log.isEnabledFor(logging.DEBUG):
                    _log_answer(request.url, response.status, loop.time() - sent_at)
                if adopted := request.adopt and request.adopt(response):
                    return adopted
                if response.closed and response.content.total_bytes <= request.most:
                    body = response.content.read_nowait()  # all of it has arrived already
                else:
                    body, answer = await self._receive(response, request, block)
        except TimeoutError:
            failure: RequestError = AnswerTimeoutError(
                timeout=self._time_limit.seconds, job_id=job_id
            )
        except (aiohttp.ClientError, OSError) as exc:
            failure = error_of(exc, job_id=job_id)
        else:
            read = self._reader(request, response.status, len(body), answer)
            if len(body) < LARGE_TEXT:
                return read(response.status, headers, body)
            return await asyncio.to_thread(read, response.status, headers, body)
        self.check_open()  # a request that aclose() has aborted raises ClosedError
        # Raised here, so that it has no foreign error as its context: these can carry the headers
        # of the request, and with them the key.
        raise failure

    async def _receive(
        self, response: aiohttp.ClientResponse, request: "_Request[_T]", block: Block
    ) -> tuple[bytes, ReadAnswer | None]:
        """Return the body, or what remains of a large answer."""
        async with response:
            large = request.large if response.status in _SUCCESS else None
            chunks: list[bytes] = []
            size = 0 if large is None else response.content_length or 0
            if size <= request.most:  # or not declared
                chunks = await self._read(response, request.most)
                size = sum(map(len, chunks))
            if large is None or size <= request.most:
                return b"".join(chunks), None
            answer = await self._read_large(response, chunks, large(), request.job_id, block)
            return answer.body, answer

    def _reader(
        self, request: "_Request[_T]", status: int, size: int, answer: ReadAnswer | None
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

    async def _read(self, response: aiohttp.ClientResponse, most: int) -> list[bytes]:
        """Return the chunks of the body; only the first ones of more than `most` bytes."""
        chunks: list[bytes] = []
        size = 0
        self.reading.add(response)
        try:
            while size <= most and (chunk := await response.content.readany()):
                size += len(chunk)
                chunks.append(chunk)
        finally:
            self.reading.discard(response)
        return chunks

    async def _read_large(
        self,
        response: aiohttp.ClientResponse,
        chunks: list[bytes],
        answer: LargeAnswer,
        job_id: str | None,
        block: Block,
    ) -> ReadAnswer:
        """Read a large answer, whose first chunks have arrived and are not kept.

        The time limit holds for each part of it.
        """
        loop = asyncio.get_running_loop()
        size = since_restart = 0
        chunks.reverse()
        self.reading.add(response)
        try:
            while chunk := chunks.pop() if chunks else await response.content.readany():
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
            self.reading.discard(response)

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
class _Request(Generic[_T]):
    """One GET request; see `Transport.request`. At most `most` bytes of the body are kept."""

    url: URL
    proxy: str | None
    read: Callable[..., _T]
    job_id: str | None
    most: int
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
    proxy: str | None


_OK: Final = 200
_SUCCESS: Final = frozenset({200, 206})
_MIN_PROGRESS: Final = 2**16  # bytes of a large answer, for which its time limit starts again
_LARGEST: Final = 2**30  # bytes of an answer
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()  # a TimeLimit replaces it


def _log_answer(url: URL, status: int, seconds: float) -> None:
    _log.debug("%s: %d in %.0f ms", url.path_qs, status, 1000 * seconds)


class Bearer(str):
    """The value of the Authorization header, with a repr that does not show the key.

    Errors of aiohttp contain the headers of their request, and are printed.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'Bearer {REDACTED}'"


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
