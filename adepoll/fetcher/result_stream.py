"""ResultStream: the bytes of a result as an async iterator, wherever they come from."""

from typing import Protocol, Self

from adepoll.errors import AdePollError, ClosedError
from adepoll.errors.frames import without_frames
from adepoll.fetcher.statistics import Transfer
from adepoll.fetcher.storage_rules import ObjectVersion


class ByteSource(Protocol):
    """What a `ResultStream` reads from."""

    version: ObjectVersion
    start: int
    received: int

    @property
    def resumed(self) -> int:
        """Number of resumptions after a failed connection."""

    @property
    def stop(self) -> int | None:
        """Offset after the last byte to read; None if not known."""

    async def read(self) -> bytes:
        """Return the next bytes, none at the end."""


class ResultStream:
    """The bytes of one result, or of a range of it, as they arrive; an async iterator of chunks.

    Bytes are received only as fast as they are read, so memory stays constant.
    """

    def __init__(self, source: ByteSource, transfer: Transfer | None = None) -> None:
        """Made by `ResultFetcher.stream`; `transfer` counts the outcome."""
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
        """Offset after the last byte; None if the storage does not state the size.

        The stream has `stop - start` bytes.
        """
        return self._source.stop

    @property
    def etag(self) -> str | None:
        """ETag of the object in storage; None if it has none."""
        return self._source.version.etag

    @property
    def received(self) -> int:
        """Bytes returned so far."""
        return self._source.received

    @property
    def resumed(self) -> int:
        """Number of resumptions after a failed connection."""
        return self._source.resumed

    def __aiter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk.

        Raises:
            ResultChangedError: The object in storage is another one than at the beginning.
            ResultTransferError: The bytes did not arrive completely in the allowed attempts.
            ResultMalformedError: The bytes are not a JSON object.
            ResultError: The other subclasses name further reasons.
            RequestError: The API failed when a new URL was requested.
            ClosedError: The fetcher was closed.
        """
        try:
            chunk = await self._source.read()
        except (AdePollError, ClosedError) as error:
            if self._transfer is not None:
                self._transfer.fail()
            raise without_frames(error)  # noqa: B904 - the same error
        if not chunk:
            if self._transfer is not None:
                self._transfer.finish()
            raise StopAsyncIteration
        return chunk
