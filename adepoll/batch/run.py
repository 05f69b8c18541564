"""BatchRun: the caller's end of one run of a batch. Imports work and below."""

import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from adepoll.batch.work import Work
from adepoll.errors import InvalidJobIdError, JournalError
from adepoll.journal.outcomes import Outcome


class BatchRun:
    """An async iterator of outcomes, and an async context manager; made by `Batch.run`.

    Work begins with the first iteration (or on entering), and ends when all jobs have been told
    of, when the run is closed, left or garbage collected, or with its batch.
    """

    def __init__(self, work: Work, begin: Callable[[Work], Awaitable[None]]) -> None:
        """Made by `Batch.run`."""
        self._work = work
        self._begin = begin
        self._dropper: weakref.finalize[[], BatchRun] | None = None
        self._told: str | None = None  # the job whose outcome the consumer has
        self._finished = False

    def __aiter__(self) -> Self:
        """Give the run itself."""
        return self

    async def __anext__(self) -> Outcome:
        """Give the next outcome, which is durable; to ask for it says that the last one is taken.

        Raises:
            BatchStoppedError: The disk is full, say: nothing can be written any more.
            JournalWriteError: Likewise, where it is the journal.
            AuthenticationError: The key was refused; likewise `PermissionDeniedError`.
            ClosedError: The batch, or its client, was closed; or another task closed the run.
        """
        if self._finished or self._work.over:
            raise StopAsyncIteration
        await self._start()
        await self._deliver()
        outcome = await self._work.next()
        if not isinstance(outcome.error, InvalidJobIdError):  # of which the journal knows nothing
            self._told = outcome.job_id
        return outcome

    async def __aenter__(self) -> Self:
        """Begin to work."""
        await self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop, and wait until nothing runs. What is under way is taken up by the next run."""
        self._finished = True
        if self._dropper is not None:
            self._dropper.detach()
        await self._work.stop()

    async def _start(self) -> None:
        if self._dropper is None and not self._finished:
            await self._begin(self._work)
            # A loop that is left with `break` closes no iterator: the collector tells us.
            self._dropper = weakref.finalize(self, self._work.abandon)
            self._dropper.atexit = False

    async def _deliver(self) -> None:
        if self._told is not None and not self._work.stopped:
            try:
                await self._work.delivered(self._told)
            except JournalError:  # which befalls the rest, too
                await self.aclose()
                raise
            self._told = None  # and not before: cancelled here, the next one is to say it again
