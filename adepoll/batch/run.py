"""BatchRun: one run of a batch, as its consumer sees it."""

import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from adepoll.batch.run_tasks import RunTasks
from adepoll.errors import InvalidJobIdError, JournalError
from adepoll.journal.outcomes import Outcome


class BatchRun:
    """An async iterator of outcomes, and an async context manager; created by `Batch.run`.

    A run starts with the first iteration or on entering. It ends when every job has an outcome,
    when it is closed, left or garbage collected, or when its batch is closed.
    """

    def __init__(self, tasks: RunTasks, start: Callable[[RunTasks], Awaitable[None]]) -> None:
        """Use `Batch.run`."""
        self._tasks = tasks
        self._start_tasks = start
        self._finalizer: weakref.finalize[[], BatchRun] | None = None
        self._in_hand: str | None = None  # the job whose outcome was returned last
        self._closed = False

    def __aiter__(self) -> Self:
        """Return the run itself."""
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome, which is durable, and acknowledge the previous one.

        Raises:
            BatchStoppedError: Results cannot be written, for example to a full disk.
            JournalWriteError: The journal cannot be written.
            AuthenticationError: The service refused the API key; also `PermissionDeniedError`.
            ClosedError: The batch or its client was closed, or another task closed the run.
        """
        if self._closed or self._tasks.exhausted:
            raise StopAsyncIteration
        await self._start()
        await self._acknowledge()
        outcome = await self._tasks.next()
        if not isinstance(outcome.error, InvalidJobIdError):  # these are not in the journal
            self._in_hand = outcome.job_id
        return outcome

    async def __aenter__(self) -> Self:
        """Start the run."""
        await self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the run."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the run and wait until its tasks have ended. The next run continues from here."""
        self._closed = True
        if self._finalizer is not None:
            self._finalizer.detach()
        await self._tasks.stop()

    async def _start(self) -> None:
        if self._finalizer is None and not self._closed:
            await self._start_tasks(self._tasks)
            # `break` does not close an iterator; only its garbage collection shows that it is left.
            self._finalizer = weakref.finalize(self, self._tasks.abandon)
            self._finalizer.atexit = False

    async def _acknowledge(self) -> None:
        if self._in_hand is not None and not self._tasks.stopped:
            try:
                await self._tasks.acknowledge(self._in_hand)
            except JournalError:  # the journal cannot record any other outcome either
                await self.aclose()
                raise
            self._in_hand = None  # if this was cancelled before, the next call acknowledges again
