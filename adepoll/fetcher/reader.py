"""A stored result in order, from its first byte to its last. Imports transfer and answers."""

import asyncio
import hashlib
from contextlib import AsyncExitStack

from attrs import evolve

from adepoll.errors import (
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultTransferError,
)
from adepoll.fetcher.answers import (
    MOST_BLANKS,
    Answer,
    ChangedError,
    NoRangeError,
    Range,
    Version,
)
from adepoll.fetcher.transfer import Persistence, StoredResult


class Reader:
    """Reads a result in order, over as many connections as it takes.

    Where a connection broke, the next one goes on at the byte that was reached, if the storage
    has a strong name (ETag) for what it gives; if not, or if it sends the whole again, what was
    read already is passed over, and compared by its digest where there is no such name.

    Attributes:
        version: What is being read, as far as the storage tells.
        received: Bytes read so far.
        resumed: How often another connection went on after the first byte.
    """

    def __init__(self, stored: StoredResult, persistence: Persistence) -> None:
        """Ask nobody yet."""
        self.version = Version()
        self.received = 0
        self.resumed = 0
        self._stored = stored
        self._persistence = persistence
        self._stack = AsyncExitStack()
        self._answer: Answer | None = None
        self._began = 0.0
        self._begun_with = 0
        self._by_range = True
        self._digest = hashlib.sha256()  # of what was read, where its version has no strong name
        self._last = b""  # the last byte so far that is no blank
        self._blanks = 0  # those after it

    def adopt(self, answer: Answer, stack: AsyncExitStack) -> None:
        """Begin with an answer that is there already, and close it in the end with `stack`."""
        self.version = answer.version
        self._answer = answer
        self._stack = stack
        self._began = asyncio.get_running_loop().time()

    async def begin(self) -> None:
        """Wait for an answer, which tells the version; raises as `read`."""
        while self._answer is None:
            try:
                await self._open()
            except ResultError as error:
                await self._endure(error)

    async def read(self) -> bytes:
        """Give the next bytes, none at the end.

        Raises:
            ResultChangedError: There is another object now than the one that was begun with.
            ResultMalformedError: What comes is no JSON object, or blanks without end.
            ResultError: It could not be had, however often it was tried.
            RequestError: The service could not be asked for a fresh URL.
        """
        while True:
            try:
                answer = self._answer or await self._open()
                chunk = await answer.read()
                self._note(chunk)
            except ResultError as error:
                await self._endure(error)
            else:
                return chunk

    async def aclose(self) -> None:
        """Let go of the connection."""
        self._answer = None
        await self._stack.aclose()

    async def _open(self) -> Answer:
        self._began = asyncio.get_running_loop().time()
        self._begun_with = self.received
        asked = None
        if self.received and self.version.is_strong and self._by_range:
            asked = Range(self.received)
        version = self.version if self.received else None
        try:
            opening = self._stored.open(asked=asked, version=version)
            answer = await self._stack.enter_async_context(opening)
            if self.received == 0:
                self.version = answer.version
            await self._pass_over(answer, self.received - answer.start)
        except NoRangeError as error:
            self._by_range = False
            raise error.as_public() from None
        except ChangedError:
            # Raised from None: it says nothing more, and is nobody else's business.
            raise ResultChangedError(job_id=self._stored.job_id, received=self.received) from None
        self.resumed += self.received > 0
        self._answer = answer
        return answer

    async def _pass_over(self, answer: Answer, left: int) -> None:
        """Read what was read before, and see that it is the same."""
        if not left:
            return
        same_name = self.version.is_strong and self.version.etag == answer.version.etag
        digest = hashlib.sha256()
        while left:
            if not (chunk := await answer.read()):
                raise ChangedError
            if len(chunk) > left:
                answer.put_back(chunk[left:])
                chunk = chunk[:left]
            left -= len(chunk)
            if not same_name:
                digest.update(chunk)
        if not same_name and (self.version.is_strong or digest.digest() != self._digest.digest()):
            raise ChangedError

    async def _endure(self, error: ResultError) -> None:
        await self.aclose()
        await self._persistence.endure(
            error,
            began=self._began,
            gained=self.received - self._begun_with,
            size=self.version.size,
        )

    def _note(self, chunk: bytes) -> None:
        """Take in what was read, and refuse an end that is none."""
        if not chunk:
            if self._last != b"}":
                # A cut that nobody announced, or that was announced as the whole: its size is
                # no news of the size.
                size = self.version.size
                self.version = evolve(self.version, size=None)
                raise ResultTransferError(
                    "the bytes ended within the result",
                    job_id=self._stored.job_id,
                    received=self.received,
                    expected=size,
                )
            return
        text = chunk.rstrip()
        blanks = len(chunk) - len(text) + (0 if text else self._blanks)
        if blanks > MOST_BLANKS:  # and what is refused does not count as read
            problem = "blanks without end @ $"
            raise ResultMalformedError([problem], job_id=self._stored.job_id)
        self._blanks = blanks
        self._last = text[-1:] or self._last
        self.received += len(chunk)
        if not self.version.is_strong:
            self._digest.update(chunk)
