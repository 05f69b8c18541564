"""Decompression of bodies, with a limit on their size. Imports errors only."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from adepoll.errors import ResultMalformedError, ResultTransferError

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Returns the next bytes; none at the end."""

Chunk: TypeAlias = bytes | memoryview
"""Bytes that stay unchanged while this object exists; its slices may change after that."""

ReadChunk: TypeAlias = Callable[[], Awaitable[Chunk]]
"""Returns the next bytes, which may be in reused memory; none at the end."""

_GZIP_OR_ZLIB: Final = 47  # zlib's wbits for: detect the format by its header
_RAW: Final = -15  # the same for: no header at all, which some servers call deflate
_FIRST_BYTES: Final = (0x08, 0x0F)  # lower half of the first byte of zlib and gzip
_MAX_CHUNK: Final = 2**18
_MAX_DECODED: Final = 2**34  # bytes; equal rows shrink as much as a decompression bomb does
_MAX_WITHOUT_TEXT: Final = 2**20  # bytes that decode to fewer bytes: compressed data hardly grows
_PLAIN: Final = b"{ \t\r\n"  # no compressed data begins with one of these


class Decoder:
    """Decodes gzip and deflate, which some storages send although they were not requested.

    Some storages also send the header with a text that is not encoded; it is left unchanged.
    """

    def __init__(self, read: Read, *, job_id: str) -> None:
        """`read` returns the next encoded bytes."""
        self._read = read
        self._job_id = job_id
        self._format = _GZIP_OR_ZLIB
        self._zlib = zlib.decompressobj(self._format)
        self._encoded = b""  # received, not decoded yet
        self._bytes_in = 0
        self._bytes_out = 0
        self._is_plain = False

    async def read(self) -> bytes:
        """Return the next decoded bytes, none at the end.

        Raises:
            ResultTransferError: The body ended within the compressed data.
            ResultMalformedError: The body is not compressed data, or its decoded size is
                implausible: too large, or nearly 0.
        """
        while True:
            if not self._encoded:
                self._encoded = await self._read()
                if not self._bytes_in and self._encoded:
                    self._begin(self._encoded[0])
                self._bytes_in += len(self._encoded)
                if not self._encoded and not (self._zlib.eof or self._is_plain):
                    reason = "the bytes ended within their encoding"
                    raise ResultTransferError(
                        reason,
                        job_id=self._job_id,
                        received=self._bytes_out,
                        expected=None,
                        is_object_at_fault=True,
                    )
                if not self._encoded:
                    return b""
                if self._is_plain:
                    chunk, self._encoded = self._encoded, b""
                    self._bytes_out += len(chunk)
                    return chunk
            if chunk := self._decode():
                return chunk

    def _begin(self, first: int) -> None:
        """Find out the format by the first byte."""
        self._is_plain = first in _PLAIN
        if first & 0x0F not in _FIRST_BYTES:
            self._format = _RAW
            self._zlib = zlib.decompressobj(self._format)

    def _decode(self) -> bytes:
        if self._zlib.eof:  # a gzip file may have several members (RFC 1952, section 2.2)
            self._zlib = zlib.decompressobj(self._format)
        problem = ""
        try:
            chunk = self._zlib.decompress(self._encoded, _MAX_CHUNK)
        except zlib.error:
            problem = "broken content encoding @ $"
        else:
            self._encoded = self._zlib.unconsumed_tail or self._zlib.unused_data
            self._bytes_out += len(chunk)
            if self._bytes_out > _MAX_DECODED:
                problem = f"it decodes to more than {_MAX_DECODED} bytes @ $"
            elif self._bytes_in > 2 * self._bytes_out + _MAX_WITHOUT_TEXT:
                problem = "it decodes to hardly any bytes @ $"
            else:
                return chunk
        # Raised here, so that zlib's error is not its context.
        raise ResultMalformedError([problem], job_id=self._job_id)
