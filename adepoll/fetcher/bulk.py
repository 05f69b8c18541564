"""The rest of a large body, from its connection straight into memory. Imports reading.

aiohttp parses each piece of a body, and copies it into new memory. Where the rest is so many plain
bytes, nothing is left to parse: the event loop then writes them into blocks of ours
(`asyncio.BufferedProtocol`), with TLS, too.
"""

import asyncio
import weakref
from collections import deque
from typing import Final

import aiohttp

from adepoll.fetcher.reading import Chunk

BLOCK_BYTES: Final = 2**21
"""What is given at a time, where bytes come fast."""

_MOST_AHEAD: Final = 2  # blocks that wait to be read; then the socket waits
_LONGEST_FILLING: Final = 0.1  # seconds; then what is there of a block is given, copied
_WORTH_IT: Final = 2**24  # the connection can serve for nothing else afterwards


class Blocks:
    """Memory that is used again once nobody holds what was given of it.

    New memory would have to be zeroed, or mapped by the system, each time.
    """

    def __init__(self) -> None:
        """Take no memory yet."""
        self._made: list[tuple[bytearray, weakref.ref[memoryview]]] = []

    def take(self) -> memoryview:
        """Give a block."""
        free = (memory for memory, taken in self._made if taken() is None)
        memory = next(free, None) or bytearray(BLOCK_BYTES)
        block = memoryview(memory)
        self._made = [made for made in self._made if made[0] is not memory]
        self._made.append((memory, weakref.ref(block)))
        return block


class BulkBody(asyncio.BufferedProtocol):
    """Takes a connection over from aiohttp, in the middle of a body of known length.

    To aiohttp its body never ends, so that it closes the connection with the response; `end` then
    sees that nothing is left of it.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        transport: asyncio.Transport,
        handler: asyncio.Protocol,
        *,
        left: int,
        silence: float,
    ) -> None:
        """Made by `take_over`."""
        self._response = response
        self._transport: asyncio.Transport | None = transport
        self._handler: asyncio.Protocol | None = handler
        self._left = left  # bytes to come
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._blocks = Blocks()
        self._block = self._blocks.take()
        self._filled = 0
        self._full: deque[Chunk] = deque()
        self._paused = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    # --- what the event loop calls ---------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as much as there is room for
        """Give the room that is left in the block."""
        return self._block[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes of it have come."""
        self._response.content.total_bytes += nbytes
        self._left -= nbytes
        self._filled += nbytes
        if self._filled == BLOCK_BYTES:
            self._full.append(self._block)
            self._block = self._blocks.take()
            self._filled = 0
        elif self._left:
            return
        if self._transport is not None and (not self._left or len(self._full) >= _MOST_AHEAD):
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """No more will come; aiohttp keeps book of its connections, and must be told."""
        handler, self._handler = self._handler, None
        self._transport = None  # which, with TLS, would keep this, and its blocks, alive
        self._lost = True
        self._wake()
        if handler is not None:
            handler.connection_lost(exc)

    def end(self) -> None:
        """Whoever read it has left, or is to be left: nothing of the connection may stay.

        A mere `close` of TLS waits for the other side, for ever where reading is paused.
        """
        self._lost = True
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    # --- what the reader calls -------------------------------------------------------------

    async def read(self) -> Chunk:
        """Give the next bytes, none at the end.

        Raises:
            TimeoutError: None has come for as long as that may be.
            aiohttp.ClientPayloadError: The connection broke.
        """
        until = self._loop.time() + self._silence
        while not (self._full or self._lost) and self._left:
            now = self._loop.time()
            if await self._wait(min(_LONGEST_FILLING, until - now)) or self._filled:
                break
            if self._loop.time() >= until:
                raise TimeoutError
        if not self._full:
            return self._give_rest()
        chunk = self._full.popleft()
        if self._paused and self._left and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def _give_rest(self) -> bytes:
        """Give a copy of what is there of a block, as the next bytes are to overwrite it."""
        if self._left and not self._filled:
            raise aiohttp.ClientPayloadError
        piece = bytes(self._block[: self._filled])
        self._filled = 0
        return piece

    async def _wait(self, seconds: float) -> bool:
        """Wait for a full block, or the end; False if neither came in time."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(max(seconds, 0.0), self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return bool(self._full) or self._lost

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def take_over(
    response: aiohttp.ClientResponse, *, silence: float
) -> tuple[list[bytes], BulkBody | None]:
    """Take the rest of a body over, if it is worth it; whoever does so reads `response` no more.

    Args:
        response: With a body of a length that was announced, not encoded, being read by nobody.
        silence: Most seconds without a byte.

    Returns:
        What has come already, to be read first; and the rest, None where `response` has it.
    """
    length, content = response.content_length, response.content
    if length is None or length - content.total_bytes < _WORTH_IT:
        return [], None
    if content.exception() is not None:
        return [], None  # its reader will be told
    # Once nothing more is to be had, aiohttp's parser holds nothing back either: it does so only
    # while its own buffer is full.
    come = [*iter(content.read_nowait, b"")]
    connection = response.connection
    if connection is None:
        return come, None
    handler, transport = connection.protocol, connection.transport
    if handler is None or transport is None or transport.is_closing():
        return come, None
    left = length - content.total_bytes
    body = BulkBody(response, transport, handler, left=left, silence=silence)
    handler.pause_reading()  # ends its wait for the next byte, too
    connection.add_callback(body.end)
    transport.set_protocol(body)
    transport.resume_reading()
    return come, body
