"""Receives the rest of a large body in reused memory, to save CPU time.

aiohttp parses each chunk of a body, and copies it into new memory. In a body of known length that
is not encoded, nothing is left to parse, so the event loop writes it into preallocated blocks
(`asyncio.BufferedProtocol`); this also works with TLS.
"""

import asyncio
import weakref
from collections import deque
from typing import Final

import aiohttp

from adepoll.fetcher.body_decoding import Chunk

BLOCK_BYTES: Final = 2**20
"""Size of a chunk if bytes arrive fast."""

_MAX_FULL_BLOCKS: Final = 2  # unread; then reading from the socket pauses
_MAX_FILL_TIME: Final = 0.1  # seconds; then a copy of the part of the block that is filled is read
_MIN_BYTES: Final = 2**24  # the connection cannot be reused afterwards


class BlockPool:
    """Blocks of memory, each reused when its last reference is gone.

    New memory would have to be zeroed, or mapped by the kernel, each time.
    """

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._blocks: list[tuple[bytearray, weakref.ref[memoryview]]] = []

    def take(self) -> memoryview:
        """Return an unused block."""
        free = (memory for memory, reference in self._blocks if reference() is None)
        memory = next(free, None) or bytearray(BLOCK_BYTES)
        block = memoryview(memory)
        self._blocks = [entry for entry in self._blocks if entry[0] is not memory]
        self._blocks.append((memory, weakref.ref(block)))
        return block


class BufferedBody(asyncio.BufferedProtocol):
    """The protocol of a connection that was taken over from aiohttp in the middle of a body.

    For aiohttp, the body never ends, so aiohttp closes the connection with the response; `abort`
    then closes the transport.
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
        self._left = left  # bytes to receive
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._pool = BlockPool()
        self._block = self._pool.take()
        self._filled = 0
        self._full: deque[Chunk] = deque()
        self._paused = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all free space is offered
        """Return the free part of the current block."""
        return self._block[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Record the bytes received into the buffer."""
        self._response.content.total_bytes += nbytes
        self._left -= nbytes
        self._filled += nbytes
        if self._filled == BLOCK_BYTES:
            self._full.append(self._block)
            self._block = self._pool.take()
            self._filled = 0
        elif self._left:
            return
        if self._transport is not None and (not self._left or len(self._full) >= _MAX_FULL_BLOCKS):
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the event on to aiohttp, which keeps count of its connections."""
        handler, self._handler = self._handler, None
        self._transport = None  # with TLS, it would keep this object and its blocks alive
        self._lost = True
        self._wake()
        if handler is not None:
            handler.connection_lost(exc)

    def abort(self) -> None:
        """Close the connection immediately, since its response is closed.

        `close` would wait for the TLS peer, forever if reading is paused.
        """
        self._lost = True
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    async def read(self) -> Chunk:
        """Return the next bytes, none at the end.

        Raises:
            TimeoutError: No byte arrived for `silence` seconds.
            aiohttp.ClientPayloadError: The connection broke.
        """
        until = self._loop.time() + self._silence
        while not (self._full or self._lost) and self._left:
            now = self._loop.time()
            if await self._wait(min(_MAX_FILL_TIME, until - now)) or self._filled:
                break
            if self._loop.time() >= until:
                raise TimeoutError
        if not self._full:
            return self._copy_partial_block()
        chunk = self._full.popleft()
        if self._paused and self._left and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def _copy_partial_block(self) -> bytes:
        """Return a copy of the filled part of the block, which the next bytes will overwrite."""
        if self._left and not self._filled:
            raise aiohttp.ClientPayloadError
        chunk = bytes(self._block[: self._filled])
        self._filled = 0
        return chunk

    async def _wait(self, seconds: float) -> bool:
        """Wait for a full block or the end of the body; return False on a timeout."""
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
) -> tuple[list[bytes], BufferedBody | None]:
    """Take over the connection of a response if enough of its body is left.

    Args:
        response: A response whose body is not encoded and not being read.
        silence: Maximum seconds without a byte.

    Returns:
        The bytes that aiohttp has already received, to be read first; and the rest of the body,
        or None if it must be read from `response`.
    """
    length, content = response.content_length, response.content
    if length is None or length - content.total_bytes < _MIN_BYTES:
        return [], None
    if content.exception() is not None:
        return [], None  # the next read from the response raises it
    # aiohttp's parser holds bytes back only while its buffer is full, so none are left in it now.
    received = [*iter(content.read_nowait, b"")]
    connection = response.connection
    if connection is None:
        return received, None
    handler, transport = connection.protocol, connection.transport
    if handler is None or transport is None or transport.is_closing():
        return received, None
    left = length - content.total_bytes
    body = BufferedBody(response, transport, handler, left=left, silence=silence)
    handler.pause_reading()  # also stops its read timeout
    connection.add_callback(body.abort)
    transport.set_protocol(body)
    transport.resume_reading()
    return received, body
