"""ResultStream: the bytes of a result as an async iterator, from storage or from a snapshot."""

from typing import Protocol, Self

from adepoll.errors import AdePollError, ResultRangeError
from adepoll.errors._frames import hide_frames
from adepoll.fetcher.statistics import Transfer
from adepoll.fetcher.storage_rules import ObjectVersion


class ByteSource(Protocol):
    """What a `ResultStream` reads from."""

    version: ObjectVersion
    start: int
    received: int
    resumed: int

    @property
    def stop(self) -> int | None:
        """Offset after the last byte to read; None if not known."""

    async def read(self) -> bytes:
        """Return the next bytes, none at the end."""


class InlineResult:
    """A result that came with the snapshot, as the source of a stream."""

    def __init__(
        self, body: bytes, *, job_id: str = "", start: int = 0, stop: int | None = None
    ) -> None:
        """Read a range of `body`, the JSON of the result; the range as in `ResultFetcher.stream`.

        Raises:
            ResultRangeError: The result ends before the range begins.
        """
        size = len(body)
        self.version = ObjectVersion(size=size)
        self.start = max(0, size + start) if start < 0 else start
        self.stop = size if stop is None else min(stop, size)
        self.received = 0
        self.resumed = 0
        if 0 < size <= self.start:
            raise ResultRangeError(job_id=job_id, start=self.start, size=size)
        self._body = body[self.start : self.stop]

    async def read(self) -> bytes:
        """Return all bytes, then none."""
        body, self._body = self._body, b""
        self.received += len(body)
        return body


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

    @hide_frames
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
        except AdePollError:
            if self._transfer is not None:
                self._transfer.fail()
            raise
        if not chunk:
            if self._transfer is not None:
                self._transfer.finish()
            raise StopAsyncIteration
        return chunk
