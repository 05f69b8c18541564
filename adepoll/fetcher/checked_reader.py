"""CheckedReader: reads a whole stored result, after a check that it is a result."""

from collections import deque
from collections.abc import Collection

from adepoll.errors import ResultMalformedError
from adepoll.fetcher.responses import MAX_ERROR_PAGE, RemoteResult
from adepoll.fetcher.result_check import ResultCheck
from adepoll.fetcher.sequential_reader import SequentialReader


class CheckedReader:
    """Reads a whole result in order, as a `SequentialReader`. `begin` checks that it is a result.

    A gateway can answer with status 200 and JSON of its own. So `begin` holds the first bytes back
    until they contain a key that only a result has. Usually, the first chunk contains this key. If
    the bytes end before, the result is requested again.

    Attributes:
        version: Version of the object, as far as the storage states it.
        start: Always 0.
        received: Number of bytes that `read` has returned so far.
    """

    def __init__(self, stored: RemoteResult, keys: Collection[str]) -> None:
        """Create a reader that has sent no request.

        Args:
            stored: The result.
            keys: Top-level keys that a result must contain.
        """
        self._stored = stored
        self._keys = keys
        self._restart()
        self.start = 0
        self.received = 0

    def _restart(self) -> None:
        self._reader = SequentialReader(self._stored)
        self.version = self._reader.version
        self._check = ResultCheck(self._keys, counts_braces=False)
        self._held: deque[bytes] = deque()  # chunks for the next calls of `read`

    @property
    def resumed(self) -> int:
        """Number of times that reading was resumed after a failed request."""
        return self._reader.resumed

    @property
    def stop(self) -> int | None:
        """Offset after the last byte; None if not known."""
        return self._reader.stop

    async def begin(self) -> None:
        """Send the first request, and read until the bytes are known to be a result.

        Bytes that are not a result are requested again, as often as `TransferRetries` allows. Stop
        to check after 1 MiB, since no error page is so long.

        Raises:
            ResultMalformedError: The bytes are not a result.
            ResultError, RequestError: As for `SequentialReader.read`.
        """
        while True:
            await self._reader.begin()
            held = 0
            while self._check.problems and held <= MAX_ERROR_PAGE:
                chunk = await self._receive()
                if not chunk:
                    break
                self._held.append(chunk)
                held += len(chunk)
            self.version = self._reader.version
            if not self._check.problems or held > MAX_ERROR_PAGE:
                return
            await self._reader.aclose()
            await self._stored.retries.wait_or_raise(self._error())
            self._restart()

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            ResultMalformedError: The bytes have ended, and were not those of a result.
            ResultError, RequestError: As for `SequentialReader.read`.
        """
        chunk = self._held.popleft() if self._held else await self._receive()
        if not chunk and self._check.problems:
            raise self._error()
        self.received += len(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the connection."""
        await self._reader.aclose()

    async def _receive(self) -> bytes:
        chunk = await self._reader.read()
        self.version = self._reader.version
        self._check.add(chunk)
        return chunk

    def _error(self) -> ResultMalformedError:
        return ResultMalformedError(self._check.problems, job_id=self._stored.job_id)
