"""Reads the result of a v2 job, which is part of the API's answer to a request of the job.

The answer can be too large for the memory. So the result is cut out of it while it arrives.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import islice
from typing import Final

import aiohttp
from attrs import evolve

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.json_envelope import ObjectScanner
from adepoll.api.kinds.kind_rules import KindRules
from adepoll.api.models import JobSnapshot
from adepoll.errors import (
    JobNotFoundError,
    MalformedAnswerError,
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultRangeError,
    ResultTransferError,
    ResultUnavailableError,
    StatusError,
)
from adepoll.fetcher.completed_job import raise_unless_completed
from adepoll.fetcher.patience import TransferRetries
from adepoll.fetcher.range_fallback import is_refused_range
from adepoll.fetcher.response_body import ResponseBody
from adepoll.fetcher.responses import MAX_ERROR_PAGE, ObjectChangedError, UnusableRangeError
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.storage_client import StorageClient
from adepoll.fetcher.storage_rules import ObjectVersion, Range, request_headers

_OK: Final = 200


class PolledResult:
    """The result of a v2 job, as part of the API's answer to a request of the job.

    It can be requested any number of times. The offset of the result within the answer is not known
    before the answer was read. So every reader receives the answer from its beginning.

    Attributes:
        job_id: The job.
        retries: Decides whether the transfer of this result goes on after a failure.
        is_completed: True if the job is known to have completed.
    """

    def __init__(
        self,
        client: AdeClient,
        ref: JobRef,
        rules: KindRules,
        retries: TransferRetries,
        storage: StorageClient,
        *,
        is_completed: bool = False,
    ) -> None:
        """Create an object that has sent no request.

        Args:
            client: Client of the API.
            ref: The job.
            rules: Rules for the kind of the job.
            retries: Decides whether the transfer of this result goes on after a failure.
            storage: Knows the time limits of the fetcher, and counts the received bytes.
            is_completed: True if the job is known to have completed. If False, the first request is
                not repeated more often than any other call of the client.
        """
        self.job_id = ref.job_id
        self.retries = retries
        self.is_completed = is_completed
        self._client = client
        self._rules = rules
        self._ref = ref
        self._storage = storage
        self._interpreter = storage.interpreter(ref.job_id)
        self._first: PolledReader | None = None
        # Seconds before each request that follows an outdated answer.
        self._waits = islice(client.retry.waits(client.rng), client.retry.attempts - 1)

    @asynccontextmanager
    async def open(
        self, *, requested: Range | None = None, version: ObjectVersion | None = None
    ) -> AsyncGenerator[ResponseBody, None]:
        """Request the job from the API, and yield the body of the API's answer.

        Args:
            requested: The range of the answer to request; None for the whole answer.
            version: The only version of the answer to accept; None accepts any.

        Raises:
            UnusableRangeError: The API refused the range.
            RequestError: The API failed.
            AdePollError: As for `StorageClient.open`.
        """
        headers = request_headers(requested, version)
        async with AsyncExitStack() as stack:

            def request() -> Awaitable[aiohttp.ClientResponse]:
                return stack.enter_async_context(self._client.open_answer(self._ref, headers))

            try:
                response = await self._answered(request, is_range=requested is not None)
            except StatusError as error:
                if requested is None or not is_refused_range(error):
                    raise
                problem = f"{error.status} in the place of a byte range @ $"
                raise UnusableRangeError([problem], job_id=self.job_id) from None
            with self._storage.receiving(response):
                body = await self._body(response, requested)
                if version is not None and version.differs(body.version):
                    raise ObjectChangedError
                yield body

    async def _answered(
        self, request: Callable[[], Awaitable[aiohttp.ClientResponse]], *, is_range: bool
    ) -> aiohttp.ClientResponse:
        """Call a function that requests the job, until it returns a response.

        If it is not known that the job has completed, call the function only once. A 404 about a
        job that has completed comes from a server that is out of date (see `is_outdated`), so the
        function is called again. A 404 to a request of a range is raised, because it can also mean
        that the API serves no ranges.
        """
        while self.is_completed:
            try:
                return await self.retries.until_answered(request)
            except JobNotFoundError:
                wait = None if is_range else next(self._waits, None)
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        return await request()

    async def begin(self) -> JobSnapshot | None:
        """Request the job, and read the API's answer until the result begins or the answer ends.

        Return None if the answer contains a result. Otherwise return the snapshot of the job.

        Raises:
            AdePollError: As for `PolledReader.read`.
        """
        self._first = PolledReader(self)
        await self._first.begin()
        return self._first.answer

    async def reader(self, start: int = 0, stop: int | None = None) -> "PolledReader":
        """Return a reader of the result, or of a range of it.

        The first reader continues to read the answer that `begin` has requested.

        Args:
            start: Offset of the first byte. A negative number counts from the end. Then the whole
                result is read first to find its size.
            stop: Offset after the last byte; None for the end of the result.

        Raises:
            AdePollError: As for `PolledReader.read`.
        """
        reader, self._first = self._first or PolledReader(self), None
        if start < 0:
            async with aclosing(reader):
                while await reader.read():
                    pass
            start = max(0, start + reader.received)
            reader = PolledReader(self)
        reader.set_range(start, stop)
        return reader

    async def is_outdated(self, answer: JobSnapshot) -> bool:
        """Return whether a server that is out of date has sent an answer; then wait.

        This is so if the job has completed, but the answer says that the job is still active, as
        for `request_completed`. After as many such answers as `RetryPolicy.attempts`, return False.
        """
        if answer.is_terminal or not self.is_completed:
            return False
        wait = next(self._waits, None)
        if wait is None:
            return False
        await asyncio.sleep(wait)
        return True

    async def aclose(self) -> None:
        """Close the connection that `begin` has opened, unless a reader continues to use it."""
        if self._first is not None:
            await self._first.aclose()

    def scanner(self) -> ObjectScanner:
        """Return a new scanner, which finds the result in the bytes of the API's answer."""
        return ObjectScanner(streamed=self._rules.result_field)

    def snapshot_of(self, scanner: ObjectScanner) -> JobSnapshot:
        """Return the snapshot of the job from the API's answer, without the result.

        `scanner` must have read the whole answer.

        Raises:
            ResultMalformedError: The answer is not about this job, or cannot be read.
        """
        body = scanner.short_members()
        try:
            snapshot = self._client.without_key(self._rules.decode_job(body, _OK), body)
        except MalformedAnswerError as exc:
            problems = exc.problems  # raised below, because here `exc` would become the context
        else:
            if snapshot.job_id in {"", self.job_id}:
                return evolve(
                    snapshot, job_id=self.job_id, kind=self._rules.kind, label=self._ref.label
                )
            problems = ("it is the answer about another job @ $.job_id",)
        raise ResultMalformedError(problems, job_id=self.job_id)

    async def _body(
        self, response: aiohttp.ClientResponse, requested: Range | None
    ) -> ResponseBody:
        """Return the body of the API's response; raise an error for an error status."""
        # A 206 without Content-Range is not a byte range: it says that the result is partial.
        if response.status in self._rules.success and "Content-Range" not in response.headers:
            return self._interpreter.whole(response)
        return await self._interpreter.interpret(response, "", requested)


class PolledReader:
    """Reads the result of a v2 job, or a range of it, in order from the API's answer.

    Attributes:
        version: An `ObjectVersion` without size and ETag, because the API states only the size and
            ETag of the whole answer.
        start: Offset of the first byte to read, within the result.
        stop: Offset after the last byte; None to read to the end of the result.
        received: Number of bytes of the result that `read` has returned so far.
        answer: Snapshot of the job, if the whole answer was read and contains no result; otherwise
            None.
    """

    def __init__(self, polled: PolledResult) -> None:
        """Create a reader that has sent no request."""
        self.version = ObjectVersion()
        self.start = 0
        self.stop: int | None = None
        self.received = 0
        self._polled = polled
        self._resumed = 0  # sum of `resumed` of the earlier readers, which `_start` has replaced
        self._start()

    def _start(self) -> None:
        """Discard all bytes that were read, so that the answer is requested from its beginning."""
        self.answer: JobSnapshot | None = None
        self._scanner = scanner = self._polled.scanner()
        # The scanner detects that an answer is truncated. A brace as the last byte does not show
        # that the answer is complete, because the answer can be truncated after any brace.
        self._reader = SequentialReader(self._polled, is_complete=lambda: scanner.is_complete)
        self._pieces: deque[memoryview] = deque()  # received pieces of the result, not read yet
        self._position = 0  # offset of the first piece in the result
        # True if the result is null, False if it is an object, None if it has not begun.
        self._is_null: bool | None = None
        self._has_ended = False

    @property
    def resumed(self) -> int:
        """Number of requests that were sent again after a failed request or a malformed answer."""
        return self._resumed + self._reader.resumed

    def set_range(self, start: int, stop: int | None) -> None:
        """Set the range of the result to read. Call this before `read`."""
        self.start = start
        self.stop = stop

    async def begin(self) -> None:
        """Read the answer until the first byte of the range has arrived, or the answer ends.

        `read` then returns the bytes of the range that have arrived. The errors are those of
        `read`.
        """
        while not self._has_ended and not (self._pieces and self._skip_to_start()):
            await self._receive()
        if self._has_ended and not self._pieces and 0 < self._position <= self.start:
            raise ResultRangeError(
                job_id=self._polled.job_id, start=self.start, size=self._position
            )

    async def read(self) -> bytes:
        """Return the next bytes of the range; empty at the end.

        Raises:
            ResultNotReadyError: The job has not settled yet.
            JobFailedError: The job failed.
            JobCancelledError: The job was cancelled.
            ResultUnavailableError: The answer contains no result.
            ResultMalformedError: The answer is malformed, or is about another job.
            ResultRangeError: The result ends before the range begins.
            AdePollError: As for `SequentialReader.read`.
        """
        left = None if self.stop is None else self.stop - self.start - self.received
        if left == 0:
            return b""
        await self.begin()
        if self.answer is not None:
            raise_unless_completed(self.answer)
            raise ResultUnavailableError(job_id=self._polled.job_id)
        pieces, self._pieces = self._pieces, deque()
        chunk = b"".join(pieces)
        self._position += len(chunk)
        chunk = chunk[:left]
        self.received += len(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the connection."""
        await self._reader.aclose()

    def _skip_to_start(self) -> bool:
        """Discard buffered bytes before the range; return True if others remain in the buffer."""
        while self._pieces and self._position < self.start:
            piece = self._pieces.popleft()
            skipped = min(len(piece), self.start - self._position)
            self._position += skipped
            if skipped < len(piece):
                self._pieces.appendleft(piece[skipped:])
        return bool(self._pieces)

    async def _receive(self) -> None:
        """Read the next bytes of the answer, and buffer those of the result.

        If the answer is malformed or has changed, request it again if that can help.
        """
        try:
            chunk = await self._reader.read()
            self._interpret(chunk)
        except (ResultMalformedError, ResultChangedError) as error:
            # The malformed answer may be the error page of a gateway. Another request can help,
            # unless the caller already has bytes of this answer.
            if self._position or self._reader.received > MAX_ERROR_PAGE:
                raise
            await self._start_again_or_raise(error)
        else:
            if self.answer is not None and await self._polled.is_outdated(self.answer):
                await self._start_again()

    async def _start_again_or_raise(self, error: ResultError) -> None:
        """Wait, and begin to read the answer again; raise if the transfer must be given up."""
        await self._reader.aclose()
        if isinstance(error, ResultChangedError):
            error = changed_error(error.job_id, received=error.received, expected=None)
        await self._polled.retries.wait_or_raise(error)
        await self._start_again()

    async def _start_again(self) -> None:
        """Close the connection, so that the answer is requested from its beginning."""
        await self._reader.aclose()
        self._resumed = self.resumed + 1
        self._start()

    def _interpret(self, chunk: bytes) -> None:
        """Find the bytes of the result in a chunk of the answer, and buffer them.

        An empty chunk is the end of the answer.

        Raises:
            ResultMalformedError: The answer is malformed.
        """
        try:
            pieces = self._scanner.feed(chunk)
        except MalformedAnswerError as exc:
            problems = exc.problems  # raised below, because here `exc` would become the context
        else:
            self._add(pieces)
            if not chunk:
                self._finish()
            return
        raise ResultMalformedError(problems, job_id=self._polled.job_id)

    def _add(self, pieces: list[memoryview]) -> None:
        """Buffer the next bytes of the result; raise if the result is neither object nor null."""
        if pieces and self._is_null is None:
            first = bytes(pieces[0][:1])
            self._is_null = first == b"n"
            self._polled.is_completed |= not self._is_null
            if first not in b"{n":
                problem = "expected an object as the result @ $"
                raise ResultMalformedError([problem], job_id=self._polled.job_id)
        if not self._is_null:
            self._pieces.extend(pieces)

    def _finish(self) -> None:
        """Check the snapshot of the job at the end of the answer.

        If the answer contains no result, store the snapshot in `answer`.
        """
        answer = self._polled.snapshot_of(self._scanner)
        self._has_ended = True
        if self._is_null is False:
            raise_unless_completed(answer)
        else:
            self.answer = answer


def changed_error(job_id: str, *, received: int, expected: int | None) -> ResultTransferError:
    """Return a temporary error for a result that has changed while it was read.

    `ResultChangedError` ends a transfer. Use this error instead if the result can be read again
    from its beginning, because the caller has received no bytes of it.

    Args:
        job_id: The job.
        received: Number of bytes received.
        expected: Size of the result in bytes; None if it is not known.
    """
    return ResultTransferError(
        "the object in storage changed",
        job_id=job_id,
        received=received,
        expected=expected,
        is_object_at_fault=True,
    )
