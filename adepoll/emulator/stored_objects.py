"""Objects in the storage behind presigned URLs, and the paths to which jobs save results."""

import hashlib
from collections.abc import Iterator
from typing import Final, Protocol
from urllib.parse import quote

from attrs import define, field

SAVED_PREFIX: Final = "/ade-saved/"
"""Prefix of the percent-encoded paths to which jobs can save results."""


class Chunked(Protocol):
    """Bytes that are read in chunks. A subclass defines only `size` and `read`."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Length, in bytes."""

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`; None as `stop` means the end."""

    def chunks(self, start: int, stop: int, *, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop` in chunks of at most `chunk_bytes` bytes."""
        for offset in range(start, stop, chunk_bytes):
            yield self.read(offset, min(offset + chunk_bytes, stop))


class StoredObject(Chunked, Protocol):
    """An object in the storage."""

    __slots__ = ()

    @property
    def etag(self) -> str:
        """A strong ETag, with quotes."""

    @property
    def modified(self) -> float:
        """Time of the last change, in Unix seconds."""


@define(eq=False)
class SavedObject(Chunked):
    """An object that was PUT into the storage.

    Attributes:
        body: The bytes of the object.
        modified: Time of the PUT, in Unix seconds.
        etag: Strong ETag, with quotes. As in S3, it is the MD5 of the bytes.
    """

    body: bytes = field(repr=False)
    modified: float
    etag: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Compute the ETag."""
        self.etag = f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'

    @property
    def size(self) -> int:
        """Length, in bytes."""
        return len(self.body)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`."""
        return self.body[start:stop]


def saved_path(name: str) -> str:
    """Return the percent-encoded path of the saved object `name`."""
    return SAVED_PREFIX + quote(name, safe="")
