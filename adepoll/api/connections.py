"""Connections: one session and its open responses, which are closed together. Imports errors."""

import asyncio
from collections.abc import Callable

import aiohttp

from adepoll.common.closing import AsyncCloseable
from adepoll.errors import ClosedError


class Connections(AsyncCloseable):
    """A session that is created at the first use, and the responses that are being read from it.

    Attributes:
        reading: Responses whose body is being read; the reader adds and removes them.
        is_closed: Whether `aclose` was called.
        session: The session; None before the first use.
        owns_session: Whether the session is closed with this object.
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
        self.session = session
        self._loop: asyncio.AbstractEventLoop | None = None  # of the first use

    def check_open(self) -> None:
        """Raise `ClosedError` if it is closed, or was used in another event loop before."""
        if self.is_closed:
            raise ClosedError(f"the {self._owner} is closed")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ClosedError(
                f"the {self._owner} belongs to another event loop; create one for each loop"
            )

    def open_session(self) -> aiohttp.ClientSession:
        """Return the session, which is created at the first use; raises as `check_open` does."""
        self.check_open()
        if self.session is None:
            self.session = self._make()
        elif not self.owns_session and self.session.closed:
            raise ClosedError(f"the session that was given to the {self._owner} is closed")
        return self.session

    async def aclose(self) -> None:
        """Abort all responses that are being read, and close an own session."""
        self.is_closed = True
        for response in self.reading:
            response.close()  # wakes its reader; closing the session would not
        if self.session is not None and self.owns_session:
            await self.session.close()
