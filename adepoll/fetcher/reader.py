"""A stored result, or a range of it, in order. Imports transfer and answers."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from attrs import evolve

from adepoll.errors import (
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultRangeError,
    ResultRefusedError,
    ResultTransferError,
)
from adepoll.fetcher.answers import (
    MOST_BLANKS,
    OUT_OF_RANGE,
    Answer,
    ChangedError,
    NoRangeError,
    PastEndError,
    Range,
    Version,
)
from adepoll.fetcher.transfer import Persistence, StoredResult


class Reader:
    """Reads a result in order, over as many connections as it takes.

    Where a connection broke, the next one goes on at the byte that was reached, if the storage
    has a strong name (ETag) for what it gives; if not, or if it sends the whole again, what was
    read already is passed over, and compared by its digest where there is no such name.

    Of a range, what is before it is passed over too where the storage gives no ranges; and once
    its version is told by `begin`, it is no other one.

    Attributes:
        version: What is being read, as far as the storage tells.
        start: The first byte that is read.
        received: Bytes read so far.
        resumed: How often another connection went on after the first byte.
    """

    def __init__(
        self,
        stored: StoredResult,
        persistence: Persistence,
        *,
        start: int = 0,
        stop: int | None = None,
        version: Version | None = None,
    ) -> None:
        """Ask nobody yet.

        Args:
            stored: The result.
            persistence: How long to go on.
            start: The first byte to read.
            stop: The one after the last; None to read to the end.
            version: What it must be a range of; None for whatever is there.
        """
        self.version = version or Version()
        self.start = start
        self.received = 0
        self.resumed = 0
        self._stop = stop
        self._is_range = start > 0 or stop is not None
        self._is_pinned = version is not None
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
        self._is_pinned = self._is_range

    @property
    def stop(self) -> int | None:
        """The byte after the last that is read; None where that is not known."""
        size = self.version.size
        return size if size is None or self._stop is None else min(self._stop, size)

    async def read(self) -> bytes:
        """Give the next bytes, none at the end.

        Raises:
            ResultRangeError: The result ends before the range begins.
            ResultChangedError: There is another object now than the one that was begun with.
            ResultMalformedError: What comes is no JSON object, or blanks without end.
            ResultError: It could not be had, however often it was tried.
            RequestError: The service could not be asked for a fresh URL.
        """
        while True:
            try:
                answer = self._answer or await self._open()
                left = self._left
                if left == 0:
                    return b""
                chunk = (await answer.read())[:left]
                self._note(chunk)
            except ResultError as error:
                await self._endure(error)
            else:
                return chunk

    async def aclose(self) -> None:
        """Let go of the connection."""
        self._answer = None
        await self._stack.aclose()

    @property
    def _left(self) -> int | None:
        """Bytes until the range ends within the result; None where it goes on to the end."""
        size = self.version.size
        if self._stop is None or (size is not None and self._stop >= size):
            return None
        return self._stop - self.start - self.received

    async def _open(self) -> Answer:
        self._began = asyncio.get_running_loop().time()
        self._begun_with = self.received
        asked = self._asked()
        version = self.version if self.received or self._is_pinned else None
        try:
            opening = self._stored.open(asked=asked, version=version)
            answer = await self._stack.enter_async_context(opening)
            if self._is_range:
                await answer.begin()  # the size of a page in the way is no size
            if version is None:
                self.version = answer.version
                self._check_start()
            await self._pass_over(answer)
        except NoRangeError as error:
            self._by_range = False
            raise error.as_public() from None
        except PastEndError as error:
            if version is None:
                raise self._past_end(error.size) from None
            raise self._changed() from None
        except ChangedError:
            # Raised from None: it says nothing more, and is nobody else's business.
            raise self._changed() from None
        except ResultRefusedError as error:
            if error.status != OUT_OF_RANGE or asked is None or self.received:
                raise
            self._by_range = False  # how long it is will be told by the whole
            return await self._open()
        self.resumed += self.received > 0
        self._answer = answer
        return answer

    def _asked(self) -> Range | None:
        """Give what to ask for; without a strong name, what was read is read again."""
        start = self.start
        if self.version.is_strong:
            start += self.received
        if not self._by_range or not (start or self._is_range):
            return None
        return Range(start, None if self._left is None else self._stop)

    async def _pass_over(self, answer: Answer) -> None:
        """Read what nobody wants; then what was read before, and see that it is the same."""
        if answer.start < self.start:
            await self._pass_to_start(answer)
        left = self.start + self.received - max(self.start, answer.start)
        if not left:
            return
        same_name = self.version.is_strong and self.version.etag == answer.version.etag
        digest = hashlib.sha256()
        async for chunk in _take(answer, left):
            left -= len(chunk)
            if not same_name:
                digest.update(chunk)
        if left:
            raise ChangedError
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

    def _check_start(self) -> None:
        size = self.version.size
        if size is not None and 0 < size <= self.start:
            raise PastEndError(size)

    async def _pass_to_start(self, answer: Answer) -> None:
        left = self.start - answer.start
        last = b""
        async for chunk in _take(answer, left):
            left -= len(chunk)
            last = chunk.rstrip()[-1:] or last
        if chunk := b"" if left else await answer.read():
            answer.put_back(chunk)
            return
        if last != b"}":
            raise self._cut(self.start - left)
        raise PastEndError(self.start - left)

    def _note(self, chunk: bytes) -> None:
        """Take in what was read, and refuse an end that is none."""
        if not chunk:
            # Of a range, all may be the blanks after the end.
            if self._last != b"}" and (self._last or not self.start or not self.received):
                # A cut that nobody announced, or that was announced as the whole: its size is
                # no news of the size. That of a range has been told.
                size = self.version.size
                if not self._is_range:
                    self.version = evolve(self.version, size=None)
                raise self._cut(self.received, size)
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

    def _cut(self, received: int, expected: int | None = None) -> ResultTransferError:
        return ResultTransferError(
            "the bytes ended within the result",
            job_id=self._stored.job_id,
            received=received,
            expected=expected,
        )

    def _changed(self) -> ResultChangedError:
        return ResultChangedError(job_id=self._stored.job_id, received=self.received)

    def _past_end(self, size: int) -> ResultRangeError:
        return ResultRangeError(job_id=self._stored.job_id, start=self.start, size=size)


async def _take(answer: Answer, most: int) -> AsyncGenerator[bytes, None]:
    """Read so many bytes, or fewer where it ends."""
    while most and (chunk := await answer.read()):
        if len(chunk) > most:
            answer.put_back(chunk[most:])
            chunk = chunk[:most]
        most -= len(chunk)
        yield chunk


async def make_reader(
    stored: StoredResult, persistence: Persistence, start: int, stop: int | None
) -> Reader:
    """Make the reader of a range, which may begin so many bytes before the end.

    Raises:
        ResultError: The size could not be found out; as for `Reader.read`.
        RequestError: The service could not be asked for a fresh URL.
    """
    if start >= 0:
        return Reader(stored, persistence, start=start, stop=stop)
    version = await _measure(stored, persistence)
    start = max(0, start + (version.size or 0))
    return Reader(stored, persistence, start=start, stop=stop, version=version)


async def _measure(stored: StoredResult, persistence: Persistence) -> Version:
    """Find out how large a result is: by asking for a byte; by reading it if nobody says."""
    reader = Reader(stored, persistence, stop=1)
    try:
        await reader.begin()
    finally:
        await reader.aclose()
    if reader.version.size is not None:
        return reader.version
    reader = Reader(stored, persistence)
    try:
        while await reader.read():
            pass
    finally:
        await reader.aclose()
    return evolve(reader.version, size=reader.received)
