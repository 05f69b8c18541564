"""Waiter: subscriber of one caller of `JobWatcher.wait`. Imports job_state, models and errors."""

import asyncio
import copy

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, ClosedError
from adepoll.watching.job_state import SnapshotBuffer, Subscriber


class Waiter:
    """A subscriber that wants the final snapshot of one job."""

    __slots__ = ("awaits", "buffer", "every_change", "future")

    def __init__(self, future: asyncio.Future[JobSnapshot]) -> None:
        """`future` gets the snapshot or the error."""
        self.future = future
        self.awaits = True
        self.every_change = False
        self.buffer: SnapshotBuffer | None = None

    @property
    def alone(self) -> tuple[Subscriber]:
        """A tuple of the waiter alone. Not an attribute: that would be a reference cycle."""
        return (self,)

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:  # noqa: ARG002 - one job only
        """Accept the snapshot of a settled job."""
        if snapshot.is_terminal and not self.future.done():
            self.future.set_result(snapshot)
        return True

    def give_up(self, key: str, error: AdePollError) -> None:  # noqa: ARG002 - one job only
        """Raise the error in the caller."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Raise the error in the caller."""
        if not self.future.done():
            self.future.set_exception(own_instance(error))

    def forget(self) -> None:
        """Mark an error as retrieved: the caller has left before it could be raised."""
        if self.future.done() and not self.future.cancelled():
            self.future.exception()


def own_instance(error: BaseException) -> BaseException:
    """Return a copy of an error for one consumer: a shared one would collect all tracebacks."""
    return copy.copy(error) if isinstance(error, AdePollError | ClosedError) else error
