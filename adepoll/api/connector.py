"""Connections of aiohttp: notices stale ones, and sends GET requests on them without a session.

An `aiohttp.ClientSession` also supports redirects, cookies, uploads, proxies and tracing. A poll
needs none of these, and takes less than half of the CPU time with `DirectRequests`. Connections,
TLS and the parser of HTTP are those of aiohttp.

A session sends a GET again if its connection breaks before the response. The request budget would
not count the second request. The second connection can also be a connection that the server closes
as soon as it is used again. So `Connector.send_once` prevents the repetition, and tells apart the
failures after which a request may be sent again on a new connection.

aiohttp takes bytes that arrive on an idle connection for the answer to the next request. So
`Connector.connect` closes such a connection.
"""

import asyncio
import errno
import socket
from collections.abc import Mapping
from contextlib import suppress
from ssl import SSLContext
from types import TracebackType
from typing import Final, Self, TypeAlias
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from adepoll.api.transport_errors import BrokenError, StaleConnectionError
from adepoll.common.redaction import Secret

LONGEST_KEEP_ALIVE: Final = 15.0
"""Seconds until an idle connection is closed, unless there is a reason to close it earlier."""


class Connector(aiohttp.TCPConnector):
    """A connector that knows for which requests it has opened a connection.

    Its session must use the middleware `send_once`.
    """

    def __init__(
        self,
        *,
        ssl: SSLContext | bool,
        resolver: AbstractResolver | None,
        force_close: bool,
        keep_alive: float = LONGEST_KEEP_ALIVE,
    ) -> None:
        """Create a connector without connections, and without a limit of their number.

        Args:
            ssl: As for `aiohttp.TCPConnector`.
            resolver: As for `aiohttp.TCPConnector`.
            force_close: True to open a new connection for each request.
            keep_alive: Seconds until an idle connection is closed, if not `force_close`.
        """
        super().__init__(
            limit=0,
            ssl=ssl,
            resolver=resolver,
            force_close=force_close,
            keepalive_timeout=None if force_close else keep_alive,
        )
        self._resolver = _Resolver(self._resolver)
        # The requests in flight for which a connection was opened. The other requests use the
        # connection of an earlier request.
        self._opened_for: WeakSet[aiohttp.ClientRequest] = WeakSet()
        # The connections that were opened, and that `acquire` has not returned yet.
        self._new: set[ResponseHandler | None] = set()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - a parameter of the overridden method
    ) -> Connection:
        """Return an idle connection, or a new one.

        If an answer arrives on an idle connection, no request belongs to it, for example because
        the server has answered the last request twice. Then the connection is closed instead: no
        later answer on it can be assigned to its request (RFC 9112, section 9.2).
        """
        connection, _is_new = await self.acquire(req, traces, timeout)
        return connection

    async def acquire(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as for `connect`
    ) -> tuple[Connection, bool]:
        """Do the same as `connect`; also return True if the connection is new."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if is_new := protocol in self._new:
                self._new.discard(protocol)
            if is_new or protocol is None or not protocol.should_close:
                return connection, is_new
            connection.close()

    async def send_once(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Middleware that prevents aiohttp from sending a GET twice.

        aiohttp repeats a GET after the errors `ClientOSError` and `ServerDisconnectedError`. So
        this method raises a `BrokenError` in their place.

        Raises:
            StaleConnectionError: The connection had served an earlier request, and was closed
                before the first byte of the response.
            BrokenError: The connection broke in another way.
        """
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError:
            raise  # there was no connection; aiohttp does not repeat the request
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise error_of_broken(exc, is_new=request in self._opened_for) from exc

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - a parameter of the overridden method
    ) -> ResponseHandler:
        """Open a connection for a request; aiohttp calls this if it has no idle connection."""
        self._opened_for.add(req)
        protocol = await super()._create_connection(req, traces, timeout)
        self._new.add(protocol)
        return protocol


class _Resolver(AbstractResolver):
    """Resolves names with another resolver, and raises an OSError if a name has no address.

    aiohttp translates only an OSError into an error of its own. Python's resolver raises a
    UnicodeError for a name with a label of more than 63 characters. Another resolver can return an
    empty list, for which aiohttp raises a RuntimeError.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host name, at least one."""
        with suppress(UnicodeError):
            if addresses := await self._resolver.resolve(host, port, family):
                return addresses
        raise socket.gaierror(socket.EAI_NONAME, "the name of the host has no address")

    async def close(self) -> None:
        """Close the other resolver; aiohttp calls this only if it has created that resolver."""
        await self._resolver.close()


def error_of_broken(exc: aiohttp.ClientError, *, is_new: bool) -> BrokenError:
    """Return the error for a request whose connection broke.

    Args:
        exc: The error of aiohttp.
        is_new: True if the connection was opened for the request.
    """
    is_stale = not is_new and not _has_begun(exc)
    return StaleConnectionError(exc) if is_stale else BrokenError(exc)


def _has_begun(exc: aiohttp.ClientError) -> bool:
    """Return True if an error shows that a part of the response has arrived.

    The error of a connection that was reset does not show this.
    """
    # If nothing has arrived, the message is a text.
    return isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str)


class DirectResponse:
    """The response to a request of `DirectRequests`.

    Its attributes and methods mean the same as those of `aiohttp.ClientResponse`.

    Attributes:
        status: HTTP status.
        headers: The headers.
        content: The body.
        closed: True if the whole body has arrived, or after `close` or `release`.
        connection: The connection; None if `closed`.
        request_info: The address of the service, for errors of aiohttp; the headers are missing.
        history: Always empty, because no redirect is followed.
    """

    __slots__ = ("closed", "connection", "content", "headers", "request_info", "status")

    history: Final = ()

    def __init__(
        self,
        status: int,
        headers: CIMultiDictProxy[str],
        content: aiohttp.StreamReader,
        connection: Connection,
        request_info: aiohttp.RequestInfo,
    ) -> None:
        """Create a response whose status and headers have arrived; see the attributes."""
        self.status = status
        self.headers = headers
        self.content = content
        self.request_info = request_info
        self.closed = False
        self.connection: Connection | None = connection
        content.on_eof(self.release)  # calls it immediately if the whole body has arrived already

    @property
    def content_length(self) -> int | None:
        """The value of Content-Length; None without this header."""
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)

    def release(self) -> None:
        """Make the connection available to other requests; close it if the body is incomplete."""
        if self.connection is not None:
            self.connection.release()
            self.connection, self.closed = None, True

    def close(self) -> None:
        """Close the connection, unless the whole body has arrived. Code that reads it fails."""
        if self.connection is not None:
            self.connection.close()
            self.connection, self.closed = None, True
            if self.content.exception() is None:
                self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


Response: TypeAlias = aiohttp.ClientResponse | DirectResponse
"""A response, of either way to send a request."""


class DirectRequests:
    """Sends GET requests to one origin, all with the same headers, and without a proxy."""

    def __init__(
        self, url: URL, headers: Mapping[str, str], *, max_header_bytes: int, max_headers: int
    ) -> None:
        """Create an object for requests to the origin of a URL.

        Args:
            url: The URL.
            headers: Headers of each request. aiohttp adds ``Host``.
            max_header_bytes: As for `TransportOptions`.
            max_headers: As for `TransportOptions`.
        """
        self._origin = url.origin()
        self._headers = headers
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        no_headers = CIMultiDictProxy(CIMultiDict[str]())  # the real headers contain the key
        self._info = aiohttp.RequestInfo(self._origin, "GET", no_headers, self._origin)
        # A request of aiohttp with which connections are opened, and its headers as they are sent.
        self._request: aiohttp.ClientRequest | None = None
        self._lines = Secret(b"")

    async def get(self, connector: Connector, target: str) -> DirectResponse:
        """Send a request, and return its response when the headers have arrived.

        Args:
            connector: Has the connections.
            target: Path and query of the URL, percent-encoded.

        Raises:
            aiohttp.ClientError: There is no response. The classes are those of a session that has
                the middleware `Connector.send_once`.
        """
        request = self._request or self._prepare()
        connection, is_new = await connector.acquire(request, [], _NO_TIMEOUT)
        try:
            protocol = self._send(connection, connector, target)
            message, content = await protocol.read()
            while message.code in _INFORMATIONAL:  # another response follows
                message, content = await protocol.read()
        except BaseException as exc:
            connection.close()
            if isinstance(exc, HttpProcessingError):
                raise aiohttp.ClientResponseError(
                    self._info, (), status=exc.code, message=exc.message
                ) from exc
            if isinstance(exc, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError):
                raise error_of_broken(exc, is_new=is_new) from exc
            raise
        return DirectResponse(message.code, message.headers, content, connection, self._info)

    def _prepare(self) -> aiohttp.ClientRequest:
        """Create `_request` and `_lines`; `__init__` cannot, because it may run without a loop."""
        request = self._request = aiohttp.ClientRequest(
            "GET", self._origin, headers=self._headers, loop=asyncio.get_running_loop()
        )
        lines = (f"{name}: {value}\r\n" for name, value in request.headers.items())
        self._lines = Secret(f"{''.join(lines)}\r\n".encode())
        return request

    def _send(self, connection: Connection, connector: Connector, target: str) -> ResponseHandler:
        """Send a request; return the object that receives the response."""
        protocol = connection.protocol
        transport = None if protocol is None else protocol.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ClientOSError(errno.ECONNRESET, "the connection was closed")
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=self._max_header_bytes,
            max_field_size=self._max_header_bytes,
            max_headers=self._max_headers,
        )
        close = b"Connection: close\r\n" if connector.force_close else b""
        # No variable contains the key, because error trackers record variables.
        transport.write(b"GET %b HTTP/1.1\r\n%b%b" % (target.encode(), close, self._lines.reveal()))
        return protocol


_NO_TIMEOUT: Final = aiohttp.ClientTimeout()
# Statuses of responses before the final response (RFC 9110, section 15.2). With 101, the connection
# would have another protocol, so no response follows.
_INFORMATIONAL: Final = frozenset({100, *range(102, 200)})
