"""The result of a job: bytes of an exact size that can be read at any offset. Does no I/O.

A head and a foot contain the documented fields. Between them are filler rows: numbered rows of one
size that have no meaning. So a test detects bytes at a wrong position, and a result of gigabytes
needs little memory.
"""

import hashlib
from typing import Final

from attrs import define, field

from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator.stored_objects import Chunked

ROW_BYTES: Final = 1_024
"""Size of a row, in bytes."""

FIRST_ROW: Final = 1_000_000_000
"""Number of the first row. It is large, so that all row numbers have ten digits."""

_HASH_CHUNK_BYTES: Final = 1 << 20


@define(kw_only=True, eq=False)
class ResultBody(Chunked, SafeRepr):
    """The JSON of the result of one job.

    Attributes:
        size: Length, in bytes.
        etag: Strong ETag with its quotes; the same bytes always have the same ETag.
        modified: Time of the last change, in Unix seconds.
    """

    size: int = field(init=False)
    etag: str = field(init=False)
    modified: float = 0.0
    _head: bytes
    _row: tuple[bytes, bytes]
    _rows: int
    _foot: bytes
    _sha256: str | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        """Compute the size and the ETag from the parts."""
        self.size = len(self._head) + self._rows * ROW_BYTES + len(self._foot)
        digest = hashlib.blake2b(digest_size=16)
        for part in (self._head, *self._row, b"%d" % self._rows, self._foot):
            digest.update(b"%d:" % len(part))
            digest.update(part)
        self.etag = f'"{digest.hexdigest()}"'

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`. Both are limited to the size."""
        stop = self.size if stop is None else min(stop, self.size)
        start = max(start, 0)
        if start >= stop:
            return b""
        rows_start = len(self._head)
        foot_start = rows_start + self._rows * ROW_BYTES
        parts = []
        if start < rows_start:
            parts.append(self._head[start:stop])
        if start < foot_start and stop > rows_start:
            rows_stop = min(stop, foot_start) - rows_start
            parts.append(self._read_rows(max(start - rows_start, 0), rows_stop))
        if stop > foot_start:
            parts.append(self._foot[max(start - foot_start, 0) : stop - foot_start])
        return b"".join(parts)

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes, in hex. Only the first call reads the bytes."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for chunk in self.chunks(0, self.size, chunk_bytes=_HASH_CHUNK_BYTES):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _read_rows(self, start: int, stop: int) -> bytes:
        """Return the bytes of the filler rows from `start` up to `stop`."""
        before, after = self._row
        first, last = start // ROW_BYTES, -(-stop // ROW_BYTES)
        numbers = map(b"%d".__mod__, range(FIRST_ROW + first, FIRST_ROW + last))
        block = before + (after + before).join(numbers) + after
        skipped = first * ROW_BYTES
        return block[start - skipped : stop - skipped]
