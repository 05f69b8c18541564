"""Reads a stored result, or a byte range of it, in order, and resumes after failures."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Final

from attrs import evolve

from adepoll.api.json_envelope import ObjectScanner
from adepoll.errors import (
    MalformedAnswerError,
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultRangeError,
    ResultRefusedError,
    ResultTransferError,
)
from adepoll.fetcher.responses import (
    MAX_WHITESPACE,
    ObjectChangedError,
    RangePastEndError,
    RemoteResult,
    ResponseBody,
    UnusableRangeError,
)
from adepoll.fetcher.storage_rules import ObjectVersion, Range, may_refuse_range

_MAX_SCANNED: Final = 2**23  # bytes


class SequentialReader:
    """Reads a result in order, over one connection after the other.

    After a failure, the next request starts at the first unread byte if the object has a strong
    ETag. If it has none, or the storage sends the whole object again, the bytes already read are
    skipped; without a strong ETag, their digest must be the same as before.

    If the storage serves no ranges, the bytes before a requested range are skipped, too. After
    `begin` has returned, a range is read from no other version than the one it found.

    Attributes:
        version: Version of the object, as far as the storage states it.
        start: Offset of the first byte to read.
        received: Bytes read so far.
        resumed: Number of resumptions after the first byte.
    """

    def __init__(
        self,
        stored: RemoteResult,
        *,
        start: int = 0,
        stop: int | None = None,
        version: ObjectVersion | None = None,
        is_complete: Callable[[], bool] | None = None,
    ) -> None:
        """Request nothing yet.

        Args:
            stored: The result.
            start: Offset of the first byte to read.
            stop: Offset after the last byte; None to read to the end.
            version: The only version to accept; None accepts any.
            is_complete: Called at the end of the bytes: returns whether the text is complete. If
                None, the reader finds that out, for a large text only by its last byte.
        """
        self.version = version or ObjectVersion()
        self.start = start
        self.received = 0
        self.resumed = 0
        self._stop = stop
        self._is_range = start > 0 or stop is not None
        self._is_pinned = version is not None
        self._is_complete = is_complete
        self._text: ObjectScanner | None = None  # finds the end of the text
        self._stored = stored
        self._stack = AsyncExitStack()
        self._body: ResponseBody | None = None
        self._request_started = 0.0
        self._received_before = 0  # bytes, when that request started
        self._ranges_work = True
        self._digest = hashlib.sha256()  # of all bytes read, if the version has no strong ETag
        self._last = b""  # the last byte read that is not whitespace
        self._whitespace = 0  # bytes of whitespace after it

    def adopt(self, body: ResponseBody, stack: AsyncExitStack) -> None:
        """Read from a response that has arrived already; `stack` closes the response."""
        self.version = body.version
        self._body = body
        self._stack = stack
        self._request_started = asyncio.get_running_loop().time()

    async def begin(self) -> None:
        """Wait for the response; `version` is known afterwards. Raises the errors of `read`."""
        while self._body is None:
            try:
                await self._open()
            except ResultError as error:
                await self._wait_or_raise(error)
        self._is_pinned = self._is_range

    @property
    def stop(self) -> int | None:
        """Offset after the last byte to read; None if not known."""
        size = self.version.size
        return size if size is None or self._stop is None else min(self._stop, size)

    async def read(self) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            ResultRangeError: The result ends before the range begins.
            ResultChangedError: The object in storage is another one than at the beginning.
            ResultMalformedError: The bytes are not a JSON object, or end in endless whitespace.
            ResultError: The result could not be read in the allowed number of attempts.
            RequestError: The API failed when a new URL was requested.
        """
        while True:
            try:
                body = self._body or await self._open()
                left = self._left
                if left == 0:
                    return b""
                chunk = (await body.read())[:left]
                self._record(chunk)
            except ResultError as error:
                await self._wait_or_raise(error)
            else:
                return chunk

    async def aclose(self) -> None:
        """Close the connection."""
        self._body = None
        await self._stack.aclose()

    @property
    def _left(self) -> int | None:
        """Bytes left of a range that ends within the result; None if it is read to the end."""
        size = self.version.size
        if self._stop is None or (size is not None and self._stop >= size):
            return None
        return self._stop - self.start - self.received

    async def _open(self) -> ResponseBody:
        self._request_started = asyncio.get_running_loop().time()
        self._received_before = self.received
        requested = self._next_range()
        version = self.version if self.received or self._is_pinned else None
        try:
            opening = self._stored.open(requested=requested, version=version)
            body = await self._stack.enter_async_context(opening)
            if self._is_range:
                await body.begin()  # the size of an error page is not the size of the result
            if version is None:
                self.version = body.version
                self._check_start()
            await self._skip(body)
        except UnusableRangeError as error:
            self._ranges_work = False
            raise error.as_public() from None
        except RangePastEndError as error:
            if version is None:
                raise self._range_error(error.size) from None
            raise self._changed_error() from None
        except ObjectChangedError:
            # from None: the internal error says nothing more.
            raise self._changed_error() from None
        except ResultRefusedError as error:
            if requested is None or not may_refuse_range(error):
                raise
            self._ranges_work = False  # request the whole object, which also shows its size
            return await self._open()
        self.resumed += self.received > 0
        self._body = body
        return body

    def _next_range(self) -> Range | None:
        """Return the range to request; without a strong ETag, from the beginning again."""
        start = self.start
        if self.version.is_strong:
            start += self.received
        if not self._ranges_work or not (start or self._is_range):
            return None
        return Range(start, None if self._left is None else self._stop)

    async def _skip(self, body: ResponseBody) -> None:
        """Skip bytes before the range, and bytes read before, which must be the same again."""
        if body.start < self.start:
            await self._skip_to_start(body)
        left = self.start + self.received - max(self.start, body.start)
        if not left:
            return
        same_etag = self.version.is_strong and self.version.etag == body.version.etag
        digest = hashlib.sha256()
        async for chunk in _take(body, left):
            left -= len(chunk)
            if not same_etag:
                digest.update(chunk)
        if left:
            raise ObjectChangedError
        if not same_etag and (self.version.is_strong or digest.digest() != self._digest.digest()):
            raise ObjectChangedError

    async def _wait_or_raise(self, error: ResultError) -> None:
        await self.aclose()
        await self._stored.retries.wait_or_raise(
            error,
            started=self._request_started,
            received=self.received - self._received_before,
        )

    def _check_start(self) -> None:
        size = self.version.size
        if size is not None and 0 < size <= self.start:
            raise RangePastEndError(size)

    async def _skip_to_start(self, body: ResponseBody) -> None:
        left = self.start - body.start
        last = b""
        async for chunk in _take(body, left):
            left -= len(chunk)
            last = chunk.rstrip()[-1:] or last
        if chunk := b"" if left else await body.read():
            body.put_back(chunk)
            return
        if last != b"}":
            raise self._cut_error(self.start - left)
        raise RangePastEndError(self.start - left)

    def _record(self, chunk: bytes) -> None:
        """Record a chunk; raise if the stream ended before the JSON did."""
        if not chunk:
            if self._ends_early():
                # The announced size was wrong, or none was announced: forget it, so that another
                # size is not taken for a change. The size of a range has been shown to the caller.
                size = self.version.size
                if not self._is_range:
                    self.version = evolve(self.version, size=None)
                raise self._cut_error(self.received, size)
            return
        self._scan(chunk)
        text = chunk.rstrip()
        whitespace = len(chunk) - len(text) + (0 if text else self._whitespace)
        if whitespace > MAX_WHITESPACE:  # a rejected chunk does not count as read
            problem = "endless whitespace @ $"
            raise ResultMalformedError([problem], job_id=self._stored.job_id)
        self._whitespace = whitespace
        self._last = text[-1:] or self._last
        self.received += len(chunk)
        if not self.version.is_strong:
            self._digest.update(chunk)

    def _scan(self, chunk: bytes) -> None:
        """Look for the end of the text, which can be cut after any brace.

        That costs several times as much as receiving the bytes. Therefore it is left out for a
        range, and for a large object, of which the storage states the size.
        """
        if not self.received and not self._is_range and self._is_complete is None:
            is_large = (self.version.size or 0) > _MAX_SCANNED
            self._text = None if is_large else ObjectScanner(max_value=0, max_members=None)
        if self._text is not None:
            try:
                self._text.feed(chunk)
            except MalformedAnswerError:  # the caller finds out what is wrong with the text
                self._text = None

    def _ends_early(self) -> bool:
        if self._is_complete is not None:
            return not self._is_complete()
        if self._text is not None:
            return not self._text.is_complete
        # All of a range may be the whitespace after the JSON.
        return self._last != b"}" and (bool(self._last) or not self.start or not self.received)

    def _cut_error(self, received: int, expected: int | None = None) -> ResultTransferError:
        return ResultTransferError(
            "the bytes ended within the result",
            job_id=self._stored.job_id,
            received=received,
            expected=expected,
            is_object_at_fault=True,
        )

    def _changed_error(self) -> ResultChangedError:
        return ResultChangedError(job_id=self._stored.job_id, received=self.received)

    def _range_error(self, size: int) -> ResultRangeError:
        return ResultRangeError(job_id=self._stored.job_id, start=self.start, size=size)


async def _take(body: ResponseBody, count: int) -> AsyncGenerator[bytes, None]:
    """Yield the next `count` bytes, or fewer if the body ends before."""
    while count and (chunk := await body.read()):
        if len(chunk) > count:
            body.put_back(chunk[count:])
            chunk = chunk[:count]
        count -= len(chunk)
        yield chunk


async def make_reader(stored: RemoteResult, start: int, stop: int | None) -> SequentialReader:
    """Return a reader of a range; a negative `start` counts from the end of the result.

    Raises:
        ResultError: The size could not be determined; as for `SequentialReader.read`.
        RequestError: The API failed when a new URL was requested.
    """
    if start >= 0:
        return SequentialReader(stored, start=start, stop=stop)
    version = await _find_size(stored)
    start = max(0, start + (version.size or 0))
    return SequentialReader(stored, start=start, stop=stop, version=version)


async def _find_size(stored: RemoteResult) -> ObjectVersion:
    """Return the version with its size: request one byte, or read all if no size is stated."""
    reader = SequentialReader(stored, stop=1)
    try:
        await reader.begin()
    finally:
        await reader.aclose()
    if reader.version.size is not None:
        return reader.version
    reader = SequentialReader(stored)
    try:
        while await reader.read():
            pass
    finally:
        await reader.aclose()
    return evolve(reader.version, size=reader.received)
