"""Waiter: the subscriber for one call of `wait`."""

import asyncio

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, ClosedError, JobTimeoutError
from adepoll.errors.frames import copy_of
from adepoll.watching.job_state import SnapshotBuffer, Subscriber


class Waiter:
    """A subscriber that wants the final snapshot of one job."""

    __slots__ = ("awaits", "buffer", "every_change", "future", "open")

    def __init__(self, future: asyncio.Future[JobSnapshot]) -> None:
        """Create a waiter that sets the snapshot or the error as the result of `future`."""
        self.future = future
        self.awaits = True
        self.every_change = False
        self.open = 1
        self.buffer: SnapshotBuffer | None = None

    @property
    def as_tuple(self) -> tuple[Subscriber]:
        """The tuple ``(self,)``.

        It is created for each use, because a stored tuple would be a reference cycle.
        """
        return (self,)

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:  # noqa: ARG002 - a waiter has one job
        """Accept a snapshot of the job. The wait ends only if the snapshot shows a settled job."""
        if snapshot.is_terminal and not self.future.done():
            self.future.set_result(snapshot)
        return True

    def give_up(self, key: str, error: AdePollError) -> None:  # noqa: ARG002 - a waiter has one job
        """End the wait with an error, because the job was given up."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error, which is raised in the caller."""
        if not self.future.done():
            self.future.set_exception(own_instance(error))

    @property
    def timed_out(self) -> bool:
        """True if the wait has ended by its timeout."""
        future = self.future
        ended = future.done() and not future.cancelled()
        return ended and isinstance(future.exception(), JobTimeoutError)

    def forget(self) -> None:
        """Mark the error of `future` as retrieved.

        If the error was set after the caller had been cancelled, asyncio would otherwise log that
        it was never retrieved.
        """
        if self.future.done() and not self.future.cancelled():
            self.future.exception()


def own_instance(error: BaseException) -> BaseException:
    """Return a copy of an error for one consumer; errors of other libraries are not copied.

    A StopAsyncIteration becomes a RuntimeError, as in an async generator (PEP 525). Otherwise a
    loop over the watch would end as if all jobs had settled.
    """
    if isinstance(error, StopAsyncIteration):
        bug = RuntimeError("the source or the iterable of job ids raised StopAsyncIteration")
        bug.__cause__ = error
        return bug
    return copy_of(error) if isinstance(error, AdePollError | ClosedError) else error
