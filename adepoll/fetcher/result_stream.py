"""ResultStream: the bytes of a result as an async iterator, from a snapshot, file or storage."""

import asyncio
from typing import Protocol, Self

from adepoll.errors import AdePollError, ClosedError
from adepoll.errors.frames import without_frames
from adepoll.fetcher.statistics import Transfer
from adepoll.fetcher.storage_rules import ObjectVersion


class ByteSource(Protocol):
    """An object from which a `ResultStream` reads the bytes of a result, or of a range of it.

    Attributes:
        version: Version of the object in storage; its size is None if it is not known.
        start: Offset of the first byte to read.
        received: Number of bytes that `read` has returned so far.
    """

    version: ObjectVersion
    start: int
    received: int

    @property
    def resumed(self) -> int:
        """Number of times that reading was resumed after a failed request."""

    @property
    def stop(self) -> int | None:
        """Offset after the last byte to read; None if not known."""

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end."""


class ResultStream:
    """An async iterator over the bytes of one result, or of a range of it, in chunks.

    A chunk is returned as soon as it arrives. While the caller does not take the next chunk,
    receiving pauses, so memory does not grow.
    """

    def __init__(self, source: ByteSource, transfer: Transfer | None = None) -> None:
        """Create a stream; only `ResultFetcher.stream` calls this.

        Args:
            source: Reads the bytes.
            transfer: Counts whether the stream finished or failed; None to count nothing.
        """
        self._source = source
        self._transfer = transfer

    @property
    def size(self) -> int | None:
        """Size of the whole result in bytes; None if the storage does not state it."""
        return self._source.version.size

    @property
    def start(self) -> int:
        """Offset of the first byte in the result; 0 for the whole result."""
        return self._source.start

    @property
    def stop(self) -> int | None:
        """Offset after the last byte; None if it is not known.

        If it is known, the stream has `stop - start` bytes.
        """
        return self._source.stop

    @property
    def etag(self) -> str | None:
        """ETag of the object in storage; None if there is no ETag, or the result came inline."""
        return self._source.version.etag

    @property
    def received(self) -> int:
        """Number of bytes that the stream has returned so far."""
        return self._source.received

    @property
    def resumed(self) -> int:
        """Number of times that reading was resumed after a failed request."""
        return self._source.resumed

    def __aiter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk.

        Raises:
            ResultChangedError: The object in storage was replaced while the stream was read.
            ResultTransferError: The bytes did not arrive completely in the allowed attempts.
            ResultMalformedError: The bytes are not a JSON object.
            ResultError: The result could not be read for another reason, which its subclass names.
            RequestError: The API failed when a new URL was requested.
            ClosedError: The fetcher was closed.
        """
        try:
            chunk = await self._source.read()
        except (AdePollError, ClosedError) as error:
            if self._transfer is not None:
                self._transfer.fail()
            raise without_frames(error)  # noqa: B904 - it is the same error
        except asyncio.CancelledError as error:
            raise without_frames(error)  # noqa: B904 - it is the same error
        if not chunk:
            if self._transfer is not None:
                self._transfer.finish()
            raise StopAsyncIteration
        return chunk
