"""An aiohttp connector that detects stale connections, and answers that belong to no request.

aiohttp sends a GET again if its connection breaks before the response. The request budget would not
count the second request. The second connection can also be a connection that the server closes as
soon as it is used again. So `Connector.send_once` prevents the repetition, and tells apart the
failures after which a request may be sent again on a new connection.

aiohttp takes bytes that arrive on an idle connection for the answer to the next request. So
`Connector.connect` closes such a connection.
"""

import socket
from contextlib import suppress
from ssl import SSLContext
from typing import Final
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from adepoll.api.transport_errors import BrokenError, StaleConnectionError

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
