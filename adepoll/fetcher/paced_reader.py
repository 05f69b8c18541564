"""PacedReader: reads a body, and raises if its bytes arrive too slowly."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from adepoll.fetcher.body_decoding import Chunk

_ChunkT = TypeVar("_ChunkT", bound=Chunk)


class TooSlowError(TimeoutError):
    """The bytes of a body arrive more slowly than the minimum rate."""


class PacedReader(Generic[_ChunkT]):
    """Reads a body, and raises if its bytes arrive more slowly than a minimum rate.

    Only the time that `read` waits for bytes counts, not the time between two calls.
    """

    def __init__(
        self, read: Callable[[], Awaitable[_ChunkT]], *, period: float, min_rate: float
    ) -> None:
        """Create a reader; `min_rate` is in bytes per second, averaged over `period` seconds."""
        self._read = read
        self._period = period
        self._min_rate = min_rate
        self._time = asyncio.get_running_loop().time
        self._waited = 0.0
        self._received = 0

    async def read(self) -> _ChunkT:
        """Return the next bytes; empty at the end.

        Raises:
            TooSlowError: The bytes arrive more slowly than the minimum rate.
            TimeoutError: No byte of the body arrived within `period` seconds.
        """
        started = self._time()
        # The read timeout of aiohttp is not enough: HTTP/1.1 chunk extensions without end restart
        # it, but contain no byte of the body.
        async with asyncio.timeout(self._period):
            chunk = await self._read()
        self._waited += self._time() - started
        self._received += len(chunk)
        if self._waited >= self._period:
            if chunk and self._received < self._min_rate * self._waited:
                message = f"the storage sends less than {self._min_rate:g} bytes a second"
                raise TooSlowError(message)
            self._waited = 0.0
            self._received = 0
        return chunk
