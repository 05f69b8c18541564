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
from adepoll.fetcher.range_fallback import NextRequest, RangeFallback
from adepoll.fetcher.response_body import MAX_WHITESPACE, ResponseBody
from adepoll.fetcher.responses import (
    ObjectChangedError,
    RangePastEndError,
    RemoteResult,
    UnusableRangeError,
)
from adepoll.fetcher.storage_rules import ObjectVersion, Range, may_succeed_without_range

_MAX_SCANNED: Final = 2**23  # bytes of the largest object in which `_scan` looks for the end


class SequentialReader:
    """Reads a result, or a range of it, in order. After a failure, it sends another request.

    If the object has a strong ETag, the new request asks only for the bytes that were not read yet.
    Otherwise, it asks for all bytes again. The bytes that were read before are then skipped, and
    their digest must be the same as before. The reader also skips them if the storage sends the
    whole object instead of the range.

    If the storage serves no ranges, the bytes before a requested range are skipped, too. All bytes
    of a range are of the version of the object that `begin` has found.

    Attributes:
        version: Version of the object, as far as the storage states it.
        start: Offset of the first byte to read.
        received: Number of bytes that `read` has returned so far.
        resumed: Number of times that reading was resumed after a failed request. A failure before
            the first byte does not count.
    """

    def __init__(
        self,
        stored: RemoteResult,
        *,
        start: int = 0,
        stop: int | None = None,
        version: ObjectVersion | None = None,
        ranges_work: bool = True,
        is_complete: Callable[[], bool] | None = None,
    ) -> None:
        """Create a reader that has sent no request.

        Args:
            stored: The result.
            start: Offset of the first byte to read.
            stop: Offset after the last byte; None to read to the end.
            version: The only version to accept; None accepts any.
            ranges_work: False to request the whole object, and skip the bytes before `start`.
            is_complete: Function that is called when all bytes have arrived, and returns True if
                they are complete JSON. If None, the reader checks this itself: it finds the end of
                the JSON in a text of at most 8 MiB, and checks in any other text only that the last
                character is a brace.
        """
        self.version = version or ObjectVersion()
        self.start = start
        self.received = 0
        self.resumed = 0
        self._stop = stop
        self._is_range = start > 0 or stop is not None
        self._is_pinned = version is not None
        self._is_complete = is_complete
        self._text: ObjectScanner | None = None  # finds the end of the JSON; None if not needed
        self._stored = stored
        self._stack = AsyncExitStack()  # closes the current response
        self._body: ResponseBody | None = None
        self._request_started = 0.0
        self._received_before = 0  # value of `received` when the last request was sent
        self._requested: Range | None = None  # the range of the last request
        self._ranges_work = ranges_work
        self._fallback = RangeFallback(stored)
        # Digest of all bytes read. Not used if the object has a strong ETag.
        self._digest = hashlib.sha256()
        self._last = b""  # the last byte read that is not whitespace
        self._whitespace = 0  # bytes of whitespace after `_last`

    def adopt(self, body: ResponseBody, stack: AsyncExitStack) -> None:
        """Use a response that has arrived already, instead of sending a request.

        `stack` closes the response.
        """
        self.version = body.version
        self._body = body
        self._stack = stack
        self._request_started = asyncio.get_running_loop().time()

    async def begin(self) -> None:
        """Send the first request, and wait for its response, which sets `version`.

        If the request fails, try again as `read` does. The errors are those of `read`.
        """
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
        """Return the next bytes; empty at the end.

        Raises:
            ResultRangeError: The result ends before the range begins.
            ResultChangedError: The object in storage was replaced while it was read.
            ResultMalformedError: The bytes are not a JSON object, or contain more than 64 KiB of
                whitespace in a row.
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
        """Number of bytes still to read; None if the range goes to the end of the result."""
        size = self.version.size
        if self._stop is None or (size is not None and self._stop >= size):
            return None
        return self._stop - self.start - self.received

    async def _open(self) -> ResponseBody:
        """Request the bytes that were not read yet; return a body from which they can be read."""
        self._request_started = asyncio.get_running_loop().time()
        self._received_before = self.received
        requested = self._requested = self._next_range()
        version = self.version if self.received or self._is_pinned else None
        try:
            body = await self._request(requested, version)
        except UnusableRangeError as error:
            if requested is None:
                raise error.as_public() from None
        except RangePastEndError as error:
            if version is None:
                raise self._range_error(error.size) from None
            raise self._changed_error() from None
        except ObjectChangedError:
            if version is not None:
                raise self._changed_error() from None
            # The storage has refused a condition, although the request had none.
        except ResultRefusedError as error:
            if requested is None or not may_succeed_without_range(error):
                raise
        else:
            self.resumed += self.received > 0
            self._body = body
            return body
        # The storage refuses the range: request the whole object.
        self._ranges_work = False
        return await self._open()

    async def _request(
        self, requested: Range | None, version: ObjectVersion | None
    ) -> ResponseBody:
        """Send one request, and return the body of its response.

        The bytes that were read before, and those before the range, are skipped in the body.

        Args:
            requested: The range; None for the whole object.
            version: The only version to accept; None accepts any, and records it.
        """
        opening = self._stored.open(requested=requested, version=version)
        body = await self._stack.enter_async_context(opening)
        if self._is_range:
            await body.begin()  # raises for an error page, whose size is not that of the result
        if version is None:
            self.version = body.version
            self._check_start()
        await self._skip(body)
        return body

    def _next_range(self) -> Range | None:
        """Return the range to request, or None for the whole object.

        Without a strong ETag, the bytes that were read before are requested again.
        """
        start = self.start
        if self.version.is_strong:
            start += self.received
        if not self._ranges_work or not (start or self._is_range):
            return None
        return Range(start, None if self._left is None else self._stop)

    async def _skip(self, body: ResponseBody) -> None:
        """Skip bytes before the range, and bytes that were read from an earlier response.

        Raises:
            ObjectChangedError: The bytes that were read from an earlier response are missing or
                different now.
            RangePastEndError: The result ends before the range.
            ResultTransferError: The body ends before all these bytes, and may not be complete.
        """
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
        if left and body.version.size is None:
            raise self._cut_error(self.start + self.received - left)
        if left:
            raise ObjectChangedError
        if not same_etag and (self.version.is_strong or digest.digest() != self._digest.digest()):
            raise ObjectChangedError

    async def _wait_or_raise(self, error: ResultError) -> None:
        """Wait until the next request may start; raise `error` if the transfer must be given up."""
        await self.aclose()
        if self._requested is not None and self.received == self._received_before:
            next_request = await self._fallback.after(error)
            self._ranges_work = next_request is not NextRequest.WHOLE
            if next_request is not NextRequest.RANGE_LATER:
                return
        else:
            self._fallback.reset()
        await self._stored.retries.wait_or_raise(
            error,
            started=self._request_started,
            received=self.received - self._received_before,
        )

    def _check_start(self) -> None:
        """Raise `RangePastEndError` if the range begins after the end of the result."""
        size = self.version.size
        if size is not None and 0 < size <= self.start:
            raise RangePastEndError(size)

    async def _skip_to_start(self, body: ResponseBody) -> None:
        """Skip the bytes of a body that come before the range.

        Raises:
            RangePastEndError: The result ends before the range begins.
            ResultTransferError: The body ended before the range began, and is not complete: its
                last character is not a brace.
        """
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
        """Check and count a chunk. An empty chunk means that the body has ended.

        Raises:
            ResultTransferError: The body has ended before the end of the JSON.
            ResultMalformedError: The body contains more than 64 KiB of whitespace in a row.
        """
        if not chunk:
            if self._ends_early():
                # The storage may have stated a wrong size. Forget this size, so that a correct size
                # in the next response does not look like a change of the object. For a range, keep
                # the size, because the caller can have used it.
                size = self.version.size
                if not self._is_range:
                    self.version = evolve(self.version, size=None)
                raise self._cut_error(self.received, size)
            return
        self._scan(chunk)
        text = chunk.rstrip()
        whitespace = len(chunk) - len(text) + (0 if text else self._whitespace)
        if whitespace > MAX_WHITESPACE:  # raised before the chunk is counted in `received`
            problem = "endless whitespace @ $"
            raise ResultMalformedError([problem], job_id=self._stored.job_id)
        self._whitespace = whitespace
        self._last = text[-1:] or self._last
        self.received += len(chunk)
        if not self.version.is_strong:
            self._digest.update(chunk)

    def _scan(self, chunk: bytes) -> None:
        """Parse the next bytes, to find the end of the JSON.

        Without this, a text that was truncated directly after a brace would look complete. Parsing
        takes several times the CPU time of receiving the bytes. So a range is not parsed, and
        neither is an object with a stated size of more than 8 MiB.
        """
        if not self.received and not self._is_range and self._is_complete is None:
            is_large = (self.version.size or 0) > _MAX_SCANNED
            self._text = None if is_large else ObjectScanner(max_value=0)
        if self._text is not None:
            try:
                self._text.feed(chunk)
            except MalformedAnswerError:  # the caller parses the text, and finds the problem then
                self._text = None

    def _ends_early(self) -> bool:
        """Return True if the bytes have ended before the end of the JSON."""
        if self._is_complete is not None:
            return not self._is_complete()
        if self._text is not None:
            return not self._text.is_complete
        # The last byte that is not whitespace must be a brace. There is one exception: a range that
        # does not begin at 0 may contain only whitespace, because whitespace may follow the JSON.
        return self._last != b"}" and (bool(self._last) or not self.start or not self.received)

    def _cut_error(self, received: int, expected: int | None = None) -> ResultTransferError:
        """Return the error for a body that ended before the end of the result.

        Args:
            received: Number of bytes received.
            expected: Size of the result in bytes; None if it is not known.
        """
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
    """Yield the next `count` bytes in chunks, or fewer if the body ends earlier."""
    while count and (chunk := await body.read()):
        if len(chunk) > count:
            body.put_back(chunk[count:])
            chunk = chunk[:count]
        count -= len(chunk)
        yield chunk
