"""The result of a job: bytes of an exact size that can be read at any offset. Pure.

A head and a foot contain the documented fields. Between them are numbered rows of a fixed size, so
that a test detects bytes at a wrong position, and a result of gigabytes needs no memory.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from adepoll.api.models import Json
from adepoll.emulator.schema_samples import references_for, sample_of

_ROW_BYTES: Final = 1_024
_FIRST_ROW: Final = 1_000_000_000  # ten digits in every row number, up to 9 TB
_HASH_CHUNK_BYTES: Final = 1 << 20
_PROSE: Final = "the quick amber lantern crossed the harbour ledger while copper signals rang "


@define(kw_only=True, eq=False)
class ResultBody:
    """The JSON of `data` of one job.

    Attributes:
        size: Length, in bytes.
        etag: Strong entity tag, quotes included; the same bytes always have the same tag.
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
        """Compute the size and the tag from the parts."""
        self.size = len(self._head) + self._rows * _ROW_BYTES + len(self._foot)
        digest = hashlib.blake2b(digest_size=16)
        for part in (self._head, *self._row, b"%d" % self._rows, self._foot):
            digest.update(b"%d:" % len(part))
            digest.update(part)
        self.etag = f'"{digest.hexdigest()}"'

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`, both clamped to the size."""
        stop = self.size if stop is None else min(stop, self.size)
        start = max(start, 0)
        if start >= stop:
            return b""
        rows_start = len(self._head)
        foot_start = rows_start + self._rows * _ROW_BYTES
        parts = []
        if start < rows_start:
            parts.append(self._head[start:stop])
        if start < foot_start and stop > rows_start:
            rows_stop = min(stop, foot_start) - rows_start
            parts.append(self._read_rows(max(start - rows_start, 0), rows_stop))
        if stop > foot_start:
            parts.append(self._foot[max(start - foot_start, 0) : stop - foot_start])
        return b"".join(parts)

    def chunks(self, start: int, stop: int, *, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop` in chunks of at most `chunk_bytes` bytes."""
        for offset in range(start, stop, chunk_bytes):
            yield self.read(offset, min(offset + chunk_bytes, stop))

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes, in hex; the first call reads them."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for chunk in self.chunks(0, self.size, chunk_bytes=_HASH_CHUNK_BYTES):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _read_rows(self, start: int, stop: int) -> bytes:
        before, after = self._row
        first, last = start // _ROW_BYTES, -(-stop // _ROW_BYTES)
        numbers = map(b"%d".__mod__, range(_FIRST_ROW + first, _FIRST_ROW + last))
        block = before + (after + before).join(numbers) + after
        skipped = first * _ROW_BYTES
        return block[start - skipped : stop - skipped]


def build_result(
    *,
    seed: int | str,
    job_id: str,
    size: int,
    metadata: dict[str, Json],
    schema: Json = None,
    modified: float = 0.0,
) -> ResultBody:
    """Return the result of a job. The same arguments always return the same bytes.

    Args:
        seed: The seed of the world.
        job_id: The job.
        size: Length, in bytes; a smaller value than the smallest possible result returns the
            smallest result.
        metadata: The `metadata` object of the result.
        schema: JSON schema from the submission. With a schema, the extraction conforms to it, and
            the rows are in `extraction_metadata`; without a schema, the rows are the line items of
            an invoice.
        modified: Time of the last change, in Unix seconds.
    """
    rng = random.Random(f"{seed}/{job_id}")  # noqa: S311 - reproducible, not secret
    first_row = f'[{{"row":{_FIRST_ROW - 1}}}'
    if schema is None:
        extraction = _invoice(rng)
        head = f'{{"extraction":{_open(extraction)},"line_items":{first_row}'
        tail = f'"}},"extraction_metadata":{_dump(references_for(extraction, rng))}'
    else:
        extraction = sample_of(schema, rng)
        if not isinstance(extraction, dict):  # the service extracts key-value pairs only
            extraction = {}
        references = {"_source": f"{rng.getrandbits(48):012x}", **references_for(extraction, rng)}
        head = f'{{"extraction":{_dump(extraction)},"extraction_metadata":{_open(references)}'
        head += f',"_chunks":{first_row}'
        tail = '"}'
    middle = '],"notes":"' if schema is None else '],"_notes":"'
    tail += f',"metadata":{_dump(metadata)}}}'
    rows, padding = divmod(max(size - len(head) - len(middle) - len(tail), 0), _ROW_BYTES)
    return ResultBody(
        modified=modified,
        head=head.encode(),
        row=_row(rng),
        rows=rows,
        foot=(middle + _prose(padding) + tail).encode(),
    )


def _invoice(rng: random.Random) -> dict[str, Json]:
    return {
        "document_type": "invoice",
        "number": f"INV-{rng.randrange(10**8):08d}",
        "issued_on": f"2025-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        "currency": rng.choice(("CHF", "EUR", "USD")),
        "total": rng.randrange(10**7) / 100,
        "paid": rng.choice((True, False, None)),
    }


def _row(rng: random.Random) -> tuple[bytes, bytes]:
    before = ',{"row":'
    known = {
        "code": f"{rng.getrandbits(64):016x}",
        "quantity": rng.randrange(1, 1_000),
        "price": rng.randrange(100, 10**6) / 100,
        "taxes": [{"rate": 0.081, "kind": "vat"}, {"rate": 0.0, "kind": None}],
    }
    after = f',{_dump(known)[1:-1]},"text":"'
    padding = _ROW_BYTES - len(before) - len(str(_FIRST_ROW)) - len(after) - len('"}')
    return before.encode(), (after + _prose(padding) + '"}').encode()


def _prose(length: int) -> str:
    return (_PROSE * (length // len(_PROSE) + 1))[:length]


def _dump(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _open(value: dict[str, Json]) -> str:
    return _dump(value)[:-1]
