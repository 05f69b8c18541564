"""Keeps the aiohttp sessions of a client or fetcher, and closes them with their open responses."""

import asyncio
from abc import abstractmethod

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from adepoll.api.connector import Response
from adepoll.common.closing import AsyncCloseable
from adepoll.errors import ClosedError


class Connections(AsyncCloseable):
    """An aiohttp session that is created at the first use, and the responses that are being read.

    A second session is for requests that must be sent on a new connection.

    Attributes:
        reading: Responses whose body is being read. Code that reads a body calls `begin_reading`
            before it, and `end_reading` after it.
        is_closed: True if `aclose` was called.
        session: The session; None before the first use.
        owns_session: True if `aclose` closes the session; False if the caller has passed the
            session.
    """

    def __init__(self, owner: str, session: aiohttp.ClientSession | None = None) -> None:
        """Create an object without connections.

        Args:
            owner: What uses the connections, such as "client", for the text of `ClosedError`.
            session: Session of the caller, which is used instead of a new one, and is not closed
                here. None to create one.
        """
        self.reading: set[Response] = set()
        self.is_closed = False
        self.owns_session = session is None
        self._owner = owner
        self.session = session
        self._unpooled: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of the first use
        self._watches: dict[Response, _ConnectionWatch] = {}

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

    def open_session(self, *, new_connection: bool = False) -> aiohttp.ClientSession:
        """Return the session, and create it if necessary.

        Args:
            new_connection: True for the session that opens a new connection for each request. It
                exists only if `owns_session`.

        Raises:
            ClosedError: As for `check_open`, or the session that the caller has passed is closed.
        """
        self.check_open()
        if new_connection:
            if self._unpooled is None:
                self._unpooled = self._make_session(force_close=True)
            return self._unpooled
        if self.session is None:
            self.session = self._make_session(force_close=False)
        elif not self.owns_session and self.session.closed:
            raise ClosedError(f"the session that was given to the {self._owner} is closed")
        return self.session

    def begin_reading(self, response: Response) -> None:
        """Record that the body of a response is being read.

        The reading fails as soon as the connection is lost.
        """
        self.reading.add(response)
        watch = _ConnectionWatch(response)
        if watch.begin():
            self._watches[response] = watch

    def end_reading(self, response: Response) -> None:
        """Record that the body of a response is not read any more."""
        self.reading.discard(response)
        if (watch := self._watches.pop(response, None)) is not None:
            watch.end()

    async def aclose(self) -> None:
        """Abort all responses that are being read, and close the sessions created here."""
        self.is_closed = True
        for response in self.reading:
            # Closing the session would not wake the code that is waiting for bytes of the response.
            response.close()
        try:
            if self._unpooled is not None:
                await self._unpooled.close()
        finally:  # also if this task is cancelled meanwhile
            if self.session is not None and self.owns_session:
                await self.session.close()

    @abstractmethod
    def _make_session(self, *, force_close: bool) -> aiohttp.ClientSession:
        """Return a new session. With `force_close`, it opens a new connection for each request."""


class _ConnectionWatch:
    """Makes the reading of a body fail as soon as its connection is lost.

    If bytes in the middle of a body are not HTTP, aiohttp closes the connection, but does not wake
    the code that waits for more of the body. That code would wait until its timeout.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._closed: asyncio.Future[None] | None = None

    def begin(self) -> bool:
        """Begin to watch the connection; return False if the whole body has arrived already."""
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
        """Stop watching the connection, because the body is not read any more."""
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
