"""Sends GET requests on the connections of aiohttp, without an `aiohttp.ClientSession`.

A session also supports redirects, cookies, uploads, proxies and tracing. A poll needs none of
these, and takes less than half of the CPU time without a session. Connections, TLS and the parser
of HTTP are those of aiohttp.
"""

import asyncio
import errno
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self, TypeAlias

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from adepoll.api.connector import Connector, error_of_broken
from adepoll.common.redaction import Secret


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
