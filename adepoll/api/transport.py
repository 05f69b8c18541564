"""The boundary to aiohttp: its sessions, its errors in our words, its habits kept down.

Imports errors and redaction.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

import aiohttp

from adepoll.__about__ import __version__
from adepoll.errors import ClosedError
from adepoll.redaction import REDACTED, showable

USER_AGENT: Final = f"adepoll/{__version__}"


class Connections:
    """A session made at first use, and the answers that are being read from it.

    Attributes:
        reading: The answers being read; whoever reads one puts it in and takes it out again.
        is_closed: Whether `aclose` was called.
        loop: The event loop on which it is used; None before the first use.
    """

    def __init__(
        self,
        owner: str,
        make: Callable[[], aiohttp.ClientSession],
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            owner: What is closed when this is, as `ClosedError` names it.
            make: Makes the session.
            session: A session of somebody else's, used in place of one of its own.
        """
        self.reading: set[aiohttp.ClientResponse] = set()
        self.is_closed = False
        self.owns_session = session is None
        self._owner = owner
        self._make = make
        self._session = session
        self.loop: asyncio.AbstractEventLoop | None = None

    def check_open(self) -> None:
        """Raise `ClosedError` if it was closed, or is used on another loop than before."""
        if self.is_closed:
            raise ClosedError(f"the {self._owner} is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError(f"the {self._owner} belongs to another event loop; make one for each")

    def session(self) -> aiohttp.ClientSession:
        """Give the session, where `check_open` was called before; raises `ClosedError`."""
        if self.is_closed:
            self.check_open()
        if self._session is None:
            self._session = self._make()
        elif not self.owns_session and self._session.closed:
            raise ClosedError(f"the session that was given to the {self._owner} is closed")
        return self._session

    async def aclose(self) -> None:
        """Break off what is being read, and close a session of its own."""
        self.is_closed = True
        for response in self.reading:
            response.close()  # wakes its reader, as closing the session does not
        if self._session is not None and self.owns_session:
            await self._session.close()


def read_at_once(response: aiohttp.ClientResponse, most: int) -> None:
    """Have the body taken from its socket in pieces of so many bytes, where the transport lets us.

    That is asyncio's own, which takes 256 KiB if nobody says anything; uvloop's and those of TLS
    have a buffer of a fixed size.
    """
    connection = response.connection  # None where all of the body has come already
    transport = None if connection is None else connection.transport
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = most


class Bearer(str):
    """The value of the Authorization header, of which no repr shows the key.

    Errors of the HTTP layer carry the headers of their request, and get printed.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'Bearer {REDACTED}'"


class TimeLimit:
    """What `asyncio.timeout` is for one block, for any number of blocks, with one timer in all.

    As every block may take equally long, they run out in the order in which they began. A timer
    of its own for each would be a tenth of what a request costs.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long each block may take."""
        self.seconds = seconds
        self.running: dict[_Block, float] = {}  # until when; the oldest first
        self.timer: asyncio.TimerHandle | None = None

    def block(self, loop: asyncio.AbstractEventLoop, now: float) -> AbstractContextManager[None]:
        """Give a context manager that raises `TimeoutError` where its block takes too long.

        `loop` is the one that runs, and `now` its time, from which on it counts: that of no block
        may lie before that of the block which began before it.
        """
        return _Block(self, loop, now)

    def ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the blocks whose time is over, and set the timer for the next one."""
        self.timer = None
        now = loop.time()
        for block, due in [*self.running.items()]:
            if due > now:
                self.timer = loop.call_at(due, self.ring, loop)
                return
            del self.running[block]
            block.cancel()


class _Block:
    """One block under a `TimeLimit`. How it cancels is taken from `asyncio.Timeout`."""

    __slots__ = ("_cancelling", "_limit", "_loop", "_now", "_task")

    def __init__(self, limit: TimeLimit, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._limit = limit
        self._loop = loop
        self._now = now

    def cancel(self) -> None:
        self._task.cancel()

    def __enter__(self) -> None:
        limit, loop = self._limit, self._loop
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit can only hold within a task")
        self._task = task
        self._cancelling = task.cancelling()
        due = limit.running[self] = self._now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(due, limit.ring, loop)

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
        # If others cancelled the task as well, it is theirs to see the CancelledError.
        if self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc


class _BrokenError(aiohttp.ClientError):
    """What aiohttp would have met with a second request; its one argument is the true error."""


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from sending one GET twice.

    It does so by itself where a connection breaks before the answer: a retry that no budget and
    no rate would know of. It knows such a break by the two classes of error below.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise _BrokenError(exc) from exc


_BEFORE_QUOTE: Final = re.compile(r"[:\n\"']")


def describe(exc: BaseException) -> str:
    """Say what a foreign error of the HTTP layer means, without its URL, headers or body."""
    if isinstance(exc, _BrokenError):
        exc = exc.args[0]
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"cannot connect to {exc.host}:{exc.port}: {_reason(exc.os_error)}"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(exc, aiohttp.ClientResponseError):
        # Further on it quotes the wire: a document, or the very query that was sent.
        return f"the answer is no HTTP: {showable(_BEFORE_QUOTE.split(exc.message, 1)[0], 120)}"
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "the connection broke within the body"
    if isinstance(exc, OSError):
        return f"the connection failed: {_reason(exc)}"
    return f"the connection failed ({type(exc).__name__})"


def _reason(exc: OSError) -> str:
    # asyncio puts a text of its own in place of the system's; a look-up has numbers of its own.
    if exc.errno is not None and not isinstance(exc, socket.gaierror | ssl.SSLError):
        return os.strerror(exc.errno)
    return showable(exc.strerror or type(exc).__name__, 120)
