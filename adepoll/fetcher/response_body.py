"""ResponseBody: the body of one response of a storage, while it is read.

Raises if the bytes are not those of a JSON object, arrive too slowly, or end too early.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

import aiohttp

from adepoll.api.transport_errors import describe
from adepoll.common.redaction import showable
from adepoll.errors import ResultMalformedError, ResultTransferError
from adepoll.fetcher.body_decoding import Chunk, Read, ReadChunk
from adepoll.fetcher.buffered_body import BlockPool
from adepoll.fetcher.storage_rules import ObjectVersion

_ChunkT = TypeVar("_ChunkT", bound=Chunk)

TakeOver: TypeAlias = Callable[[BlockPool], tuple[list[bytes], ReadChunk | None]]
"""Returns the bytes already received, and a function that reads the rest into blocks of a pool."""

_BEFORE_JSON: Final = b"\xef\xbb\xbf \t\r\n"  # the byte order mark of UTF-8, and whitespace
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
                for an error message; empty if there is none.
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
