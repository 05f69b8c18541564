"""Decompresses bodies, with a limit on their decompressed size."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from adepoll.errors import ResultMalformedError, ResultTransferError

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Returns the next bytes; empty at the end."""

Chunk: TypeAlias = bytes | memoryview
"""Bytes of a body. A memoryview can be of memory that is reused when the memoryview is deleted.

So keep the memoryview itself: a slice of it does not prevent the reuse.
"""

ReadChunk: TypeAlias = Callable[[], Awaitable[Chunk]]
"""Returns the next bytes; empty at the end."""

CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""Content codings that adepoll decodes."""

UNSUPPORTED_CODINGS: Final = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
"""Other registered codings. A value in neither set, such as ``aws-chunked``, is ignored."""

_MAX_CODINGS: Final = 5

# Values of zlib's argument `wbits`. With the first, zlib detects gzip or zlib by the header. The
# last is for data without a header, which some servers call deflate.
_GZIP_OR_ZLIB: Final = 47
_GZIP: Final = 31
_RAW: Final = -15
# The lower four bits of the first byte of zlib data and of gzip data.
_FIRST_BYTES: Final = (0x08, 0x0F)
_MAX_CHUNK: Final = 2**18  # maximum bytes of a decoded chunk
# Bytes. The limit cannot be a compression ratio: a table of equal rows shrinks as much as a
# decompression bomb does.
_MAX_DECODED: Final = 2**34
# Maximum number of encoded bytes in a row that decode to nothing. Without this limit, a body could
# consist of such bytes, and be endless.
_MAX_WITHOUT_TEXT: Final = 2**20
# Number of steps, each of at most 256 KiB of text, after which other tasks may run. Some bytes
# decode to far more text, or consist of very many tiny members.
_STEPS_IN_A_ROW: Final = 16
# Number of encoded bytes of which one step gets the first. At the end of a member, zlib copies the
# rest of the bytes that it got. So the steps of tiny members get few bytes.
_MAX_PIECE: Final = 2**20
_MIN_PIECE: Final = 2**9
# First bytes of JSON that is not compressed; the last is that of a byte order mark. Compressed JSON
# begins with none of them.
_PLAIN: Final = b"{ \t\r\n\xef"


class Decoder:
    """Decodes gzip and deflate, which some storages send although they were not requested.

    Some storages send `Content-Encoding` although the text is not encoded. Then the text is
    returned unchanged. Bytes after the compressed data, such as padding, are ignored.
    """

    def __init__(self, read: Read, *, job_id: str) -> None:
        """Create a decoder; the function `read` returns the next encoded bytes."""
        self._read = read
        self._job_id = job_id
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._encoded = memoryview(b"")  # bytes that were received and are not decoded yet
        self._piece = _MAX_PIECE  # number of these bytes that the next step gets
        self._encoded_of_member = 0  # encoded bytes of the current member
        self._may_hold_text = False  # True if zlib may return more text without further bytes
        self._bytes_in = 0
        self._bytes_out = 0
        self._is_plain = False
        self._is_ended = False  # True if the next bytes do not belong to the compressed data
        self._member = 0  # number of the current member: its predecessors are complete
        self._bytes_of_member = 0  # decoded bytes of the current member
        self._steps = 0  # calls of `_decode`

    async def read(self) -> bytes:
        """Return the next decoded bytes; empty at the end.

        Raises:
            ResultTransferError: The body ended within the compressed data.
            ResultMalformedError: The body cannot be decoded, decodes to more than 16 GiB, or
                decodes to far fewer bytes than it has.
        """
        while not self._is_ended:
            if not (self._encoded or self._may_hold_text or await self._receive()):
                return b""
            if self._is_plain:
                chunk, self._encoded = bytes(self._encoded), memoryview(b"")
                self._bytes_out += len(chunk)
                return chunk
            self._steps += 1
            if not self._steps % _STEPS_IN_A_ROW:
                await asyncio.sleep(0)
            if chunk := self._decode():
                return chunk
        return b""

    async def _receive(self) -> bool:
        """Read the next encoded bytes; return False if the body has ended.

        Raises:
            ResultTransferError: The body ended within the compressed data.
        """
        self._encoded = memoryview(await self._read())
        if self._encoded:
            if not self._bytes_in:
                self._begin(self._encoded[0])
            self._bytes_in += len(self._encoded)
            return True
        if not (self._zlib.eof or self._is_plain or self._may_be_padding):
            raise ResultTransferError(
                "the bytes ended within their encoding",
                job_id=self._job_id,
                received=self._bytes_out,
                expected=None,
                is_object_at_fault=True,
            )
        return False

    @property
    def _may_be_padding(self) -> bool:
        """True if the compressed data may be complete, so that the next bytes may be padding.

        Compressed data can consist of several parts ("members" in gzip), one after another. The
        value is True from the end of a member until a byte of the next member was decoded.
        """
        return self._member > 0 and not self._bytes_of_member

    def _begin(self, first: int) -> None:
        """Choose the format (text, gzip, zlib or raw deflate) by the first byte of the body."""
        self._is_plain = first in _PLAIN
        if first & 0x0F not in _FIRST_BYTES:
            self._zlib = zlib.decompressobj(_RAW)

    def _decode(self) -> bytes:
        """Decode some of the buffered bytes; raise `ResultMalformedError` if this is impossible."""
        if self._zlib.eof:  # a gzip file may have several members (RFC 1952, section 2.2)
            self._zlib = zlib.decompressobj(_GZIP)
            self._member += 1
            self._bytes_of_member = 0
            self._piece = max(_MIN_PIECE, 2 * self._encoded_of_member)
            self._encoded_of_member = 0
        problem = ""
        piece = self._encoded[: self._piece]
        try:
            chunk = self._zlib.decompress(piece, _MAX_CHUNK)
        except zlib.error:
            if self._may_be_padding:
                self._is_ended = True
                return b""
            problem = "broken content encoding @ $"
        else:
            used = len(piece) - len(self._zlib.unconsumed_tail or self._zlib.unused_data)
            self._encoded = self._encoded[used:]
            self._encoded_of_member += used
            self._piece = min(2 * self._piece, _MAX_PIECE)
            self._may_hold_text = len(chunk) == _MAX_CHUNK and not self._zlib.eof
            self._bytes_of_member += len(chunk)
            self._bytes_out += len(chunk)
            decoded = self._bytes_in - len(self._encoded)
            if self._bytes_out > _MAX_DECODED:
                problem = f"it decodes to more than {_MAX_DECODED} bytes @ $"
            elif decoded > 2 * self._bytes_out + _MAX_WITHOUT_TEXT:
                problem = "it decodes to hardly any bytes @ $"
            else:
                return chunk
        # Raise outside of the handler, so that the traceback does not show the error of zlib, too.
        raise ResultMalformedError([problem], job_id=self._job_id)


def codings_in(headers: Iterable[str]) -> list[str]:
    """Return the codings in the headers Content-Encoding, in the order of encoding."""
    return [coding.strip().lower() for coding in ",".join(headers).split(",")]


def decoded(read: Read, codings: Iterable[str], *, job_id: str) -> Read:
    """Return a function that reads the decoded bytes of a body; `read` itself without a coding.

    Args:
        read: Returns the next encoded bytes.
        codings: The codings of the body, in the order of encoding. Those that are not in `CODINGS`
            are ignored.
        job_id: Id of the job, for the errors of `Decoder.read`.

    Raises:
        ResultMalformedError: There are more than five codings.
    """
    known = [coding for coding in codings if coding in CODINGS]
    if len(known) > _MAX_CODINGS:
        problem = f"more than {_MAX_CODINGS} content codings @ $"
        raise ResultMalformedError([problem], job_id=job_id)
    for _ in known:
        read = Decoder(read, job_id=job_id).read
    return read
