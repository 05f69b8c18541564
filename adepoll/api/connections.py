"""Connections: one session and its open responses, which are closed together.

Imports transport_errors.
"""

import asyncio
from collections.abc import Callable

import aiohttp

from adepoll.api.transport_errors import BrokenError
from adepoll.common.closing import AsyncCloseable
from adepoll.errors import ClosedError


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
        """Return the session; raise `ClosedError` as `check_open` does."""
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


def limit_read_size(response: aiohttp.ClientResponse, most: int) -> None:
    """Read the body from its socket in pieces of at most `most` bytes, if the transport can.

    asyncio's own transport can, and reads 256 KiB by default. The buffers of uvloop and of TLS have
    a fixed size.
    """
    connection = response.connection  # None if the whole body has arrived
    transport = None if connection is None else connection.transport
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = most


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
