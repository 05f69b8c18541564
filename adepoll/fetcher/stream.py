"""ResultStream: what a caller iterates over. Imports answers and stats."""

from typing import Protocol, Self

from adepoll.errors import AdePollError, ResultRangeError
from adepoll.fetcher.answers import Version
from adepoll.fetcher.stats import Transfer


class Source(Protocol):
    """What a stream reads from."""

    version: Version
    start: int
    received: int
    resumed: int

    @property
    def stop(self) -> int | None:
        """The byte after the last that is read; None where that is not known."""

    async def read(self) -> bytes:
        """Give the next bytes, none at the end."""


class Inline:
    """Data that came with the snapshot, as the source of a stream."""

    def __init__(
        self, body: bytes, *, job_id: str = "", start: int = 0, stop: int | None = None
    ) -> None:
        """`body` is the JSON of the result; of it, a range as `ResultFetcher.stream` has it.

        Raises:
            ResultRangeError: It ends before the range begins.
        """
        size = len(body)
        self.version = Version(size=size)
        self.start = max(0, size + start) if start < 0 else start
        self.stop = size if stop is None else min(stop, size)
        self.received = 0
        self.resumed = 0
        if 0 < size <= self.start:
            raise ResultRangeError(job_id=job_id, start=self.start, size=size)
        self._body = body[self.start : self.stop]

    async def read(self) -> bytes:
        """Give all of it, then nothing."""
        body, self._body = self._body, b""
        self.received += len(body)
        return body


class ResultStream:
    """The bytes of one result, or of a range of it, as they arrive; an async iterator of chunks.

    What is not read stays with the storage: the socket waits, and memory does not grow.
    """

    def __init__(self, source: Source, transfer: Transfer | None = None) -> None:
        """Made by `ResultFetcher.stream`; how it ends is counted with `transfer`."""
        self._source = source
        self._transfer = transfer

    @property
    def size(self) -> int | None:
        """How many bytes the whole result has; None where the storage does not say."""
        return self._source.version.size

    @property
    def start(self) -> int:
        """Where the first byte that is given stands in the result; 0 if all of it is given."""
        return self._source.start

    @property
    def stop(self) -> int | None:
        """Where the byte after the last one stands; None where the storage does not say the size.

        `stop - start` bytes are given in all.
        """
        return self._source.stop

    @property
    def etag(self) -> str | None:
        """What the storage calls this version; None where it has no name for it."""
        return self._source.version.etag

    @property
    def received(self) -> int:
        """Bytes handed out so far."""
        return self._source.received

    @property
    def resumed(self) -> int:
        """How often another connection went on where one had broken."""
        return self._source.resumed

    def __aiter__(self) -> Self:
        """Give the stream itself."""
        return self

    async def __anext__(self) -> bytes:
        """Give the next chunk.

        Raises:
            ResultChangedError: There is another object now than the one that was begun with.
            ResultTransferError: The bytes did not arrive whole, however often it was tried.
            ResultMalformedError: What comes is no JSON object.
            ResultError: The other subclasses say what else kept it from going on.
            RequestError: The service could not be asked for a fresh URL.
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
