"""BatchRun: one run of a batch, as its consumer sees it."""

from collections.abc import Awaitable, Callable
from typing import Self

from adepoll.api.job_kind import JobRef
from adepoll.batch.progress import BatchProgress
from adepoll.batch.run_tasks import RunTasks
from adepoll.common.closing import EndsWhenLeft
from adepoll.errors import ClosedError, InvalidJobIdError, JournalError
from adepoll.journal.outcomes import Outcome


class BatchRun(EndsWhenLeft[Outcome]):
    """One run of a batch: an async iterator of outcomes, and an async context manager.

    A run starts at the first iteration, or when its ``async with`` block begins. It ends in one of
    these cases:

    - Every job has an outcome.
    - The ``async with`` block ends. Without such a block: a loop over the run ends, for example by
      `break`.
    - `aclose` is called, the batch is closed, or the run is garbage collected.
    """

    _closed = True
    _started = False
    _left = False

    def __init__(self, tasks: RunTasks, start: Callable[[RunTasks], Awaitable[None]]) -> None:
        """Create a run that has not started; only `Batch.run` calls this."""
        self._tasks = tasks
        self._start_tasks = start
        self._unacknowledged: JobRef | None = None  # the job of the last outcome
        self._closed = False

    async def __anext__(self) -> Outcome:
        """Acknowledge the previous outcome, and return the next one, which is already recorded.

        Raises:
            BatchStoppedError: Results cannot be written, for example to a full disk.
            JournalWriteError: The journal cannot be written.
            JournalMovedError: The file of the journal was removed, renamed or replaced.
            AuthenticationError: The service refused the API key (401).
            PermissionDeniedError: The service refused the API key (403).
            PaymentRequiredError: The organisation has no credits left.
            CertificateError: The certificate of the service cannot be verified, or the service
                rejected the client certificate.
            ClosedError: The batch or its client was closed, another task closed the run, or you
                left an earlier loop over this run, which ended it.
        """
        if self._left:
            raise ClosedError("the run ended when a loop over it was left; start another one")
        if self._closed or self._tasks.exhausted:
            raise StopAsyncIteration
        await self._start()
        await self._acknowledge()
        outcome = await self._tasks.next()
        if not isinstance(outcome.error, InvalidJobIdError):  # invalid ids are not in the journal
            self._unacknowledged = outcome.ref
        return outcome

    def __repr__(self) -> str:
        """Return a text with the number of settled, unresolved and open jobs."""
        found = self.progress
        settled = sum(found.settled.values())
        state = "ended" if self._closed or self._tasks.exhausted else "running"
        return (
            f"<BatchRun {state if self._started else 'not started'}: {settled:,} settled, "
            f"{found.unresolved:,} unresolved, {found.open:,} open of {found.known:,} jobs>"
        )

    @property
    def progress(self) -> BatchProgress:
        """How far the run has come; a copy that does not change."""
        return self._tasks.counters.progress()

    async def __aenter__(self) -> Self:
        """Start the run."""
        await self._start()
        return await super().__aenter__()

    async def aclose(self) -> None:
        """Stop the run, and wait until its tasks have ended. Another run can continue the batch."""
        self._closed, self._left = True, False
        await self._tasks.stop()

    def leave(self) -> None:
        """Stop the run without waiting for the end of its tasks. May be called in any thread."""
        if self._started and not (self._closed or self._tasks.exhausted):
            self._closed = self._left = True
            self._tasks.abandon()

    async def _start(self) -> None:
        if not (self._started or self._closed):
            await self._start_tasks(self._tasks)
            self._started = True

    async def _acknowledge(self) -> None:
        """Record that the program has acknowledged the previous outcome.

        If the journal cannot be written, end the run, and raise the error.
        """
        if self._unacknowledged is not None and not self._tasks.stopped:
            try:
                await self._tasks.acknowledge(self._unacknowledged)
            except JournalError:  # the journal cannot record any other outcome either
                await self.aclose()
                raise
            # A cancellation skips this line, so that the next call acknowledges the outcome again.
            self._unacknowledged = None
