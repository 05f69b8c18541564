"""Keeps an aiohttp session, and closes it together with its open responses."""

import asyncio
from collections.abc import Callable

import aiohttp

from adepoll.common.closing import AsyncCloseable
from adepoll.errors import ClosedError


class Connections(AsyncCloseable):
    """An aiohttp session that is created at the first use, and the responses that are being read.

    Attributes:
        reading: Responses whose body is being read. Code that reads a body adds the response at the
            beginning, and removes it at the end.
        is_closed: True if `aclose` was called.
        session: The session; None before the first use.
        owns_session: True if `aclose` closes the session; False if the caller has passed the
            session.
    """

    def __init__(
        self,
        owner: str,
        make: Callable[[], aiohttp.ClientSession],
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Create an object without connections.

        Args:
            owner: What uses the connections, such as "client", for the text of `ClosedError`.
            make: Function that creates the session; called at the first use.
            session: Session of the caller, which is used instead of a new one, and is not closed
                here. None to call `make`.
        """
        self.reading: set[aiohttp.ClientResponse] = set()
        self.is_closed = False
        self.owns_session = session is None
        self._owner = owner
        self._make = make
        self.session = session
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of the first use

    def check_open(self) -> None:
        """Raise `ClosedError` after `aclose`, or if another event loop has used this object."""
        if self.is_closed:
            raise ClosedError(f"the {self._owner} is closed")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ClosedError(
                f"the {self._owner} belongs to another event loop; create one for each loop"
            )

    def open_session(self) -> aiohttp.ClientSession:
        """Return the session, and create it if necessary.

        Raises:
            ClosedError: As for `check_open`, or the session that the caller has passed is closed.
        """
        self.check_open()
        if self.session is None:
            self.session = self._make()
        elif not self.owns_session and self.session.closed:
            raise ClosedError(f"the session that was given to the {self._owner} is closed")
        return self.session

    async def aclose(self) -> None:
        """Abort all responses that are being read, and close the session if `owns_session`."""
        self.is_closed = True
        for response in self.reading:
            # Closing the session would not wake the code that is waiting for bytes of the response.
            response.close()
        if self.session is not None and self.owns_session:
            await self.session.close()
