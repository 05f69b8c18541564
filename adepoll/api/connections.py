"""Keeps an aiohttp session, and closes it together with its open responses."""

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from adepoll.common.closing import AsyncCloseable
from adepoll.errors import ClosedError


class Connections(AsyncCloseable):
    """An aiohttp session that is created at the first use, and the responses that are being read.

    Attributes:
        reading: Responses whose body is being read. Code that reads a body calls `begin_reading`
            before it, and `end_reading` after it.
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
        self._watches: dict[aiohttp.ClientResponse, _ConnectionWatch] = {}

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

    def begin_reading(self, response: aiohttp.ClientResponse) -> None:
        """Record that the body of a response is being read.

        The reading fails as soon as the connection is lost.
        """
        self.reading.add(response)
        watch = _ConnectionWatch(response)
        if watch.begin():
            self._watches[response] = watch

    def end_reading(self, response: aiohttp.ClientResponse) -> None:
        """Record that the body of a response is not read any more."""
        self.reading.discard(response)
        if (watch := self._watches.pop(response, None)) is not None:
            watch.end()

    async def aclose(self) -> None:
        """Abort all responses that are being read, and close the session if `owns_session`."""
        self.is_closed = True
        for response in self.reading:
            # Closing the session would not wake the code that is waiting for bytes of the response.
            response.close()
        if self.session is not None and self.owns_session:
            await self.session.close()


class _ConnectionWatch:
    """Makes the reading of a body fail as soon as its connection is lost.

    If bytes in the middle of a body are not HTTP, aiohttp closes the connection, but does not wake
    the code that waits for more of the body. That code would wait until its timeout.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._closed: asyncio.Future[None] | None = None

    def begin(self) -> bool:
        """Begin to watch; return False if the whole body has arrived already."""
        connection = self._response.connection
        protocol = None if connection is None else connection.protocol
        if protocol is None:
            return False
        self._protocol = protocol
        self._closed = closed = protocol.closed
        if closed is None:
            self._fail(None)
            return False
        # A connection serves many responses, one after the other: `_retrieve` is added only once.
        closed.remove_done_callback(_retrieve)
        closed.add_done_callback(_retrieve)
        closed.add_done_callback(self._fail)
        return True

    def end(self) -> None:
        """Stop watching."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._fail)

    def _fail(self, _closed: asyncio.Future[None] | None) -> None:
        response, content = self._response, self._response.content
        if content.is_eof() or content.exception() is not None:
            return
        error: aiohttp.ClientError = aiohttp.ClientPayloadError()
        cause = self._protocol.exception()
        if isinstance(cause, HttpProcessingError):  # as aiohttp does if the headers are not HTTP
            error = aiohttp.ClientResponseError(
                response.request_info, response.history, status=cause.code, message=cause.message
            )
        content.set_exception(error)


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Retrieve the error of a lost connection; asyncio would log an error that nobody retrieves."""
    if not closed.cancelled():
        closed.exception()
