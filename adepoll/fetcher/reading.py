"""How bytes come off the wire: fast enough, and undone of what encoded them. Imports errors."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeAlias, TypeVar

from adepoll.errors import ResultMalformedError, ResultTransferError

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Gives the next bytes; none at the end."""

Chunk: TypeAlias = bytes | memoryview
"""Bytes that do not change while it is there; after that, slices of it may."""

_ChunkT = TypeVar("_ChunkT", bound=Chunk)


class TooSlowError(TimeoutError):
    """Bytes come, but too few."""


class Pace(Generic[_ChunkT]):
    """Reads, and minds that bytes come fast enough while they are waited for.

    Time in which nobody asks for bytes does not count.
    """

    def __init__(
        self, read: Callable[[], Awaitable[_ChunkT]], *, period: float, least: float
    ) -> None:
        self._read = read
        self._period = period
        self._least = least
        self._time = asyncio.get_running_loop().time
        self._waited = 0.0
        self._came = 0

    async def read(self) -> _ChunkT:
        """Give the next bytes, none at the end; raises `TooSlowError`, and what reading raises."""
        began = self._time()
        chunk = await self._read()
        self._waited += self._time() - began
        self._came += len(chunk)
        if self._waited >= self._period:
            if chunk and self._came < self._least * self._waited:
                raise TooSlowError(f"the storage sends less than {self._least:g} bytes a second")
            self._waited = 0.0
            self._came = 0
        return chunk


_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB: Final = 47  # what zlib calls the choice between the two by their headers
_MOST_AT_ONCE: Final = 2**18
_MOST_GROWTH: Final = 200  # text of a result shrinks to a tenth; a bomb to a thousandth
_GROWTH_FROM: Final = 2**26


class Decoder:
    """Undoes a compression that nobody asked for, within bounds."""

    def __init__(self, read: Read, *, job_id: str) -> None:
        self._read = read
        self._job_id = job_id
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._left = b""
        self._took = 0
        self._gave = 0

    async def read(self) -> bytes:
        """Give the next bytes as they were before, none at the end.

        Raises:
            ResultTransferError: They ended within their encoding.
            ResultMalformedError: They are not so encoded, or grow out of all proportion.
        """
        while True:
            if not self._left:
                self._left = await self._read()
                self._took += len(self._left)
                if not self._left and not self._zlib.eof:
                    reason = "the bytes ended within their encoding"
                    raise ResultTransferError(
                        reason, job_id=self._job_id, received=self._gave, expected=None
                    )
                if not self._left:
                    return b""
            if chunk := self._decode():
                return chunk

    def _decode(self) -> bytes:
        if self._zlib.eof:  # a file of gzip may have several members (RFC 1952, section 2.2)
            self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        problem = ""
        try:
            chunk = self._zlib.decompress(self._left, _MOST_AT_ONCE)
        except zlib.error:
            problem = "its encoding is broken @ $"
        else:
            self._left = self._zlib.unconsumed_tail or self._zlib.unused_data
            self._gave += len(chunk)
            if self._gave <= max(_GROWTH_FROM, _MOST_GROWTH * self._took):
                return chunk
            problem = f"it decodes to more than {_MOST_GROWTH} times its size @ $"
        raise ResultMalformedError([problem], job_id=self._job_id)
