"""ResultStream: what a caller iterates over. Imports answers."""

from typing import Protocol, Self

from adepoll.fetcher.answers import Version


class Source(Protocol):
    """What a stream reads from."""

    version: Version
    received: int
    resumed: int

    async def read(self) -> bytes:
        """Give the next bytes, none at the end."""


class Inline:
    """Data that came with the snapshot, as the source of a stream."""

    def __init__(self, body: bytes) -> None:
        """`body` is the JSON of the result."""
        self.version = Version(size=len(body))
        self.received = 0
        self.resumed = 0
        self._body = body

    async def read(self) -> bytes:
        """Give all of it, then nothing."""
        body, self._body = self._body, b""
        self.received += len(body)
        return body


class ResultStream:
    """The bytes of one result, as they arrive; an async iterator of chunks.

    What is not read stays with the storage: the socket waits, and memory does not grow.
    """

    def __init__(self, source: Source) -> None:
        """Made by `ResultFetcher.stream`."""
        self._source = source

    @property
    def size(self) -> int | None:
        """How many bytes there will be; None where the storage does not say."""
        return self._source.version.size

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
        chunk = await self._source.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk
