"""ResponseBody: the body of one response of a storage. SegmentWriter copies a body to the disk.

A body raises an error if its bytes are not those of a JSON object, arrive too slowly, or end too
early.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

import aiohttp

from adepoll.api.body_decoding import Chunk, Read, ReadChunk
from adepoll.api.transport_errors import describe
from adepoll.common.redaction import showable
from adepoll.common.threads import wait_until_done
from adepoll.errors import ResultError, ResultMalformedError, ResultTransferError
from adepoll.fetcher.buffered_body import BlockPool
from adepoll.fetcher.disk_writer import DiskWriter
from adepoll.fetcher.storage_rules import ObjectVersion

_ChunkT = TypeVar("_ChunkT", bound=Chunk)

TakeOver: TypeAlias = Callable[[BlockPool], tuple[list[bytes], ReadChunk | None]]
"""Returns the bytes already received, and a function that reads the rest into blocks of a pool."""

_BEFORE_JSON: Final = b"\xef\xbb\xbf \t\r\n"  # the byte order mark of UTF-8, and whitespace
_BATCH: Final = 2**20  # bytes that one call in a thread writes and hashes
_BATCH_OF_BLOCKS: Final = 2**21  # bytes that one call writes if bytes arrive fast, in blocks
# Seconds after which received bytes are written and reported, even if they do not fill a batch.
_MAX_HELD: Final = 1.0
MAX_WHITESPACE: Final = 2**16
"""Maximum bytes of whitespace in a row. JSON has no limit, but a body could be endless."""


class ResponseBody:
    """The body of one response, while it is read.

    Attributes:
        version: Version of the whole object, as this response states it.
        start: Offset of the body's first byte in the object.
        stop: Offset after the body's last byte in the object; None if not known.
        is_partial: True if this is the response to a range request, and contains that range.
    """

    def __init__(
        self,
        read: Read,
        *,
        job_id: str,
        version: ObjectVersion,
        start: int = 0,
        stop: int | None = None,
        is_partial: bool = False,
        coding: str = "",
        take_over: TakeOver | None = None,
    ) -> None:
        """Create a body that has not been read yet.

        Args:
            read: Returns the next bytes; empty at the end.
            job_id: The job, for errors.
            version: Version of the whole object, as this response states it.
            start: Offset of the body's first byte in the object.
            stop: Offset after the body's last byte in the object; None if not known.
            is_partial: True if this is the response to a range request, and contains that range.
            coding: A compression, such as "br", that the response names and adepoll cannot decode,
                for an error message; empty otherwise.
            take_over: Function that takes over the connection from aiohttp, for `read_in_blocks`;
                None if that is not possible.
        """
        self.version = version
        self.start = start
        self.stop = stop
        self.is_partial = is_partial
        self._job_id = job_id
        self._read = read
        self._coding = coding
        self._take_over = take_over
        self._position = start
        self._unread: list[bytes] = []  # chunks for the next calls of `read`, in reverse order
        self._is_checked = start > 0

    async def begin(self) -> None:
        """Read until the first character shows whether the body is a JSON object.

        Do nothing if the body begins in the middle of the result. `read` returns the bytes that
        this method has read.

        Raises:
            ResultMalformedError: The body is not a JSON object but, for example, an HTML page.
            ResultTransferError: As for `read`; or the body contains nothing but whitespace.
        """
        if self._is_checked:
            return
        chunks = []
        text = b""
        while not text and (chunk := await self._receive(self._read)):
            chunks.append(chunk)
            text = chunk.lstrip(_BEFORE_JSON)
            if self._position > MAX_WHITESPACE and not text:
                raise ResultMalformedError(["endless whitespace @ $"], job_id=self._job_id)
        # A short range at the beginning of a result may contain only whitespace.
        ends_with_object = self.stop == self.version.size
        if not text and ends_with_object:
            reason = "the bytes ended within the result"
            raise ResultTransferError(
                reason,
                job_id=self._job_id,
                received=self._position,
                expected=None,
                is_object_at_fault=True,
            )
        if text and not text.startswith(b"{"):
            problem = "expected an object @ $"
            if self._coding:
                problem = f"unsupported content encoding {showable(self._coding, 20)} @ $"
            raise ResultMalformedError([problem], job_id=self._job_id)
        self._unread = chunks[::-1]
        self._is_checked = True

    def put_back(self, chunk: bytes) -> None:
        """Put back bytes that `read` has returned; the next `read` returns them again."""
        self._unread.append(chunk)

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end. The first call calls `begin`.

        Raises:
            ResultMalformedError: As for `begin`.
            ResultTransferError: The connection broke, the bytes arrived too slowly, or the body
                does not have the length that the headers state.
        """
        if not self._is_checked:
            await self.begin()
        return self._unread.pop() if self._unread else await self._receive(self._read)

    def read_in_blocks(self, blocks: BlockPool) -> ReadChunk:
        """Return a function that is used instead of `read`, and is faster for large bodies.

        The function reads into the memory of `blocks`, which several responses can share. It may
        read directly from the connection. Then no other request can reuse the connection.
        """
        if self._take_over is None or not self._is_checked:
            return self.read
        received, read = self._take_over(blocks)
        self._take_over = None
        self._position += sum(map(len, received))
        self._unread[:0] = received[::-1]
        return self.read if read is None else partial(self._read_block, read)

    async def _read_block(self, read: ReadChunk) -> Chunk:
        return self._unread.pop() if self._unread else await self._receive(read)

    async def _receive(self, read: Callable[[], Awaitable[_ChunkT]]) -> _ChunkT:
        """Call the function `read`, and return its chunk.

        Raise `ResultTransferError` if `read` fails, or if the body has fewer or more bytes than the
        headers of the response state.
        """
        has_surplus = False
        try:
            chunk = await read()
        except TooSlowError as exc:
            reason = str(exc)
        except TimeoutError:
            reason = "the storage stopped sending"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        else:
            self._position += len(chunk)
            stop = self.stop
            if stop is None or self._position == stop or (chunk and self._position < stop):
                return chunk
            has_surplus = bool(chunk)
            reason = "more bytes than announced" if chunk else "fewer bytes than announced"
        raise ResultTransferError(
            reason,
            job_id=self._job_id,
            received=self._position,
            expected=self.version.size,
            is_object_at_fault=has_surplus,  # the response is wrong; no outage truncated it
        )


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


class SegmentWriter:
    """Writes consecutive bytes of a file in batches.

    A thread writes one batch while the bytes of the next batch arrive.
    """

    def __init__(
        self,
        disk: DiskWriter,
        offset: int,
        record: Callable[[int], int],
        *,
        full_chunk: int = 0,
    ) -> None:
        """Create a writer that begins at an offset of the file.

        Args:
            disk: Writes the file.
            offset: Offset of the first byte in the file.
            record: Function that is called after each batch with the number of its bytes. It
                returns the number of bytes at the start of the file that are written without a gap.
            full_chunk: Size in bytes of the chunks of a fast connection. A smaller chunk shows that
                bytes arrive slowly. So it is written and recorded before the next chunk is read. 0
                if the size of a chunk does not show this.
        """
        self._batch = _BATCH_OF_BLOCKS if full_chunk else _BATCH
        self._full_chunk = full_chunk
        self._disk = disk
        self._offset = offset
        self._record = record
        self._chunks: list[Chunk] = []  # the next batch
        self._held_bytes = 0  # bytes of `_chunks`
        self._writing: asyncio.Future[None] | None = None  # done when the last batch is written
        self._writing_bytes = 0  # bytes of the batch that is being written
        self._time = asyncio.get_running_loop().time
        self._last_write = self._time()  # time at which the last batch was begun

    async def copy(self, read: ReadChunk) -> None:
        """Write all bytes that `read` returns, even if `read` raises an error after them.

        If a batch is full while the previous batch is still being written, wait before the next
        call of `read`. So memory is limited to two batches.

        Raises:
            ResultError: `read` raised this error, or the bytes cannot be written.
        """
        failure: ResultError | None = None
        try:
            while True:
                try:
                    chunk = await read()
                except ResultError as error:
                    failure = error
                    break
                if not chunk:
                    break
                self._chunks.append(chunk)
                self._held_bytes += len(chunk)
                is_slow = len(chunk) < self._full_chunk or (
                    self._time() - self._last_write >= _MAX_HELD
                )
                if is_slow or self._held_bytes >= self._batch:
                    await self._start_writing()
                if is_slow:
                    # The next chunk may take long, so these bytes are reported before it arrives.
                    await self._finish_writing()
            await self._start_writing()
            await self._finish_writing()
        finally:
            if self._writing is not None:  # only after an error, which is raised after this wait
                await wait_until_done(self._writing)
        if failure is not None:
            raise failure

    async def _start_writing(self) -> None:
        """Wait until the previous batch is written; then start to write the collected bytes."""
        await self._finish_writing()
        self._last_write = self._time()
        if self._held_bytes:
            self._writing = self._disk.write(self._offset, self._chunks)
            self._writing_bytes = self._held_bytes
            self._offset += self._held_bytes
            self._chunks = []
            self._held_bytes = 0

    async def _finish_writing(self) -> None:
        """Wait until the batch in the thread is written, if there is one, and record its bytes."""
        if self._writing is not None:
            writing = self._writing
            try:
                if not writing.done():
                    await wait_until_done(writing)
            finally:
                self._writing = None
            writing.result()
            prefix = self._record(self._writing_bytes)
            self._disk.record(self._writing_bytes, prefix)
