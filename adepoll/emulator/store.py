"""A store that the test owns, at the origin of the results: what was PUT there, in memory."""

import hashlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from attrs import define, field

PREFIX: Final = "/ade-saved/"
"""Where the raw paths of the store begin."""


@define(eq=False)
class Saved:
    """One object of the store.

    Attributes:
        body: Its bytes.
        modified: When it was PUT, in Unix seconds.
        etag: Its entity tag, quotes included: as S3 does, the MD5 of the bytes.
    """

    body: bytes = field(repr=False)
    modified: float
    etag: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Work out the tag."""
        self.etag = f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'

    @property
    def size(self) -> int:
        """Length, in bytes."""
        return len(self.body)

    def chunks(self, start: int, stop: int, *, chunk_bytes: int) -> Iterator[bytes]:
        """Give the bytes from `start` up to `stop` in pieces of `chunk_bytes` at most."""
        for offset in range(start, stop, chunk_bytes):
            yield self.body[offset : min(offset + chunk_bytes, stop)]


def saved_path(name: str) -> str:
    """Give the raw path of the object of that name."""
    return PREFIX + quote(name, safe="")
