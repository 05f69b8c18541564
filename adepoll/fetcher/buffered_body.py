"""Receives a large body in reused memory, to save CPU time.

aiohttp parses each chunk of a body, and copies the chunk into new memory. This is not necessary if
the length of the body is known, and the body is neither compressed nor chunked. Then aiohttp reads
only the headers and the first bytes. This module takes over the connection, and the event loop
writes the other bytes into reused blocks of memory (`asyncio.BufferedProtocol`). This also works
with TLS.
"""

import asyncio
import weakref
from collections import deque
from typing import Final

import aiohttp

from adepoll.api.body_decoding import Chunk

BLOCK_BYTES: Final = 2**20
"""Size of a block, which is also the size of a chunk if bytes arrive fast."""

_MAX_FULL_BLOCKS: Final = 2  # unread blocks at which reading from the socket pauses
# Seconds. If a block is not full after this time, `read` returns a copy of its filled part.
_MAX_FILL_TIME: Final = 0.1
# Bytes. A smaller rest of a body is left to aiohttp, because a connection that was taken over
# cannot be reused for another request.
_MIN_BYTES: Final = 2**24


class BlockPool:
    """A pool of memory blocks. A block is used again when its last user has released it.

    This saves time: new memory must be zeroed or mapped by the kernel before it can be used.
    """

    def __init__(self) -> None:
        """Create a pool without blocks."""
        # Each block, and a weak reference to the memoryview that `take` returned last for it.
        self._blocks: list[tuple[bytearray, weakref.ref[memoryview]]] = []

    def take(self) -> memoryview:
        """Return an unused block. It is in use until the returned memoryview is deleted.

        Other memoryviews of the block, such as slices, do not prevent its reuse.
        """
        free = (memory for memory, reference in self._blocks if reference() is None)
        memory = next(free, None) or bytearray(BLOCK_BYTES)
        block = memoryview(memory)
        self._blocks = [entry for entry in self._blocks if entry[0] is not memory]
        self._blocks.append((memory, weakref.ref(block)))
        return block


class BufferedBody(asyncio.BufferedProtocol):
    """The protocol of a connection that was taken over from aiohttp in the middle of a body.

    aiohttp does not see the end of the body. So it does not reuse the connection. When the response
    is closed, `abort` closes the transport.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        transport: asyncio.Transport,
        handler: asyncio.Protocol,
        *,
        left: int,
        silence: float,
        blocks: BlockPool,
    ) -> None:
        """Create a protocol; only `take_over` calls this.

        Args:
            response: The response.
            transport: Transport of the response's connection.
            handler: The protocol of aiohttp, which this object replaces.
            left: Number of bytes of the body that are not received yet.
            silence: Maximum seconds without a byte.
            blocks: The memory for the body.
        """
        self._response = response
        self._transport: asyncio.Transport | None = transport
        self._handler: asyncio.Protocol | None = handler
        self._left = left  # bytes to receive
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._pool = blocks
        self._block = self._pool.take()  # the block that is being filled
        self._filled = 0  # bytes received into `_block`
        self._full: deque[Chunk] = deque()  # full blocks that are not read yet
        self._paused = False  # True while reading from the socket is paused
        self._lost = False  # True after the connection was closed
        self._waiter: asyncio.Future[None] | None = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all free space is offered
        """Return the memory for the next bytes: the free part of the block that is being filled."""
        return self._block[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Record that `nbytes` bytes were received into the block that is being filled."""
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
        """Notify aiohttp that the connection is closed, because aiohttp counts its connections."""
        handler, self._handler = self._handler, None
        # A transport with TLS refers to this object. Without this line, the cycle of references
        # would keep the blocks in memory.
        self._transport = None
        self._lost = True
        self._wake()
        if handler is not None:
            handler.connection_lost(exc)

    def abort(self) -> None:
        """Close the connection immediately; called when the response is closed.

        `transport.close` would wait for an answer of the TLS peer, and wait forever if reading is
        paused.
        """
        self._lost = True
        self._full.clear()  # so that the next response can use these blocks
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    async def read(self) -> Chunk:
        """Return the next bytes; empty at the end.

        Raises:
            TimeoutError: No byte arrived for `silence` seconds.
            aiohttp.ClientPayloadError: The connection was closed before the end of the body.
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
        """Return a copy of the bytes in the block that is being filled; empty at the end.

        The next bytes overwrite this block, so the caller gets a copy.

        Raises:
            aiohttp.ClientPayloadError: The block is empty, although the body has not ended.
        """
        if self._left and not self._filled:
            raise aiohttp.ClientPayloadError
        chunk = bytes(self._block[: self._filled])
        self._filled = 0
        return chunk

    async def _wait(self, seconds: float) -> bool:
        """Wait at most `seconds` until a block is full, the body ends, or the connection is closed.

        Return True if a block is full or the connection is closed; otherwise False.
        """
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
    response: aiohttp.ClientResponse, *, silence: float, blocks: BlockPool | None = None
) -> tuple[list[bytes], BufferedBody | None]:
    """Take over the connection of a response if at least 16 MiB of its body are not received yet.

    Args:
        response: A response whose body is not compressed. No other task may be reading the body.
        silence: Maximum seconds without a byte.
        blocks: The memory for the body, which several responses can share; None for new memory.

    Returns:
        The bytes that aiohttp has already received, and the object from which the caller then reads
        the rest of the body. The object is None if the caller must read the rest from `response`.
    """
    length, content = response.content_length, response.content
    if length is None or length - content.total_bytes < _MIN_BYTES:
        return [], None
    if content.exception() is not None:
        return [], None  # the next read from the response raises this error
    # The parser of aiohttp keeps bytes back only while the buffer is full. So after the buffer is
    # read, no received bytes are left in the parser.
    received = [*iter(content.read_nowait, b"")]
    connection = response.connection
    if connection is None:
        return received, None
    handler, transport = connection.protocol, connection.transport
    if handler is None or transport is None or transport.is_closing():
        return received, None
    left = length - content.total_bytes
    blocks = blocks or BlockPool()
    body = BufferedBody(response, transport, handler, left=left, silence=silence, blocks=blocks)
    handler.pause_reading()  # also stops the read timeout of aiohttp
    connection.add_callback(body.abort)
    transport.set_protocol(body)
    transport.resume_reading()
    return received, body
