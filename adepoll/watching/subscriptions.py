"""Who waits for jobs: a Waiter for one, a Feed for many, and Watch, the caller's end of a Feed.

Imports entry and below. A Feed's buffer is bounded: looks at its jobs pause while it is full.
"""

import asyncio
import copy
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from attrs import field, frozen

from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.errors import AdePollError, ClosedError, InvalidJobIdError, UnresolvedJobsError
from adepoll.watching.job_state import JobState


def _own(error: BaseException) -> BaseException:
    # Each waiter raises an instance of its own: a shared one would collect all their tracebacks.
    return copy.copy(error) if isinstance(error, AdePollError) else error


class Waiter:
    """One caller of `wait`: a follower of one job that only cares for its end."""

    __slots__ = ("future",)
    stalled: Final = ()  # it never is

    def __init__(self, future: asyncio.Future[JobSnapshot]) -> None:
        """`future` is where the snapshot or the error goes."""
        self.future = future

    @property
    def free(self) -> int:
        """Always one: one place, and one snapshot."""
        return 1

    @property
    def every_change(self) -> bool:
        """Only the end of the job matters."""
        return False

    def has_room(self) -> bool:
        """Always."""
        return True

    def reserve(self) -> None:
        """Nothing to reserve."""

    def release(self) -> None:
        """Nothing to give back."""

    def stall(self, entry: JobState) -> None:
        """Never stalls, having room."""

    def pop_stalled(self) -> None:
        """Nothing stalls."""

    def take(self, snapshot: JobSnapshot) -> bool:
        """Take the snapshot of an ended job; let the others pass."""
        if snapshot.is_terminal and not self.future.done():
            self.future.set_result(snapshot)
        return True

    def give_up(self, job_id: str, error: AdePollError) -> None:  # noqa: ARG002 - there is but one job
        """Raise the error in the caller."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Raise the error in the caller."""
        if not self.future.done():
            self.future.set_exception(_own(error))

    def forget(self) -> None:
        """The caller has left: an error that came at the same moment is nobody's any more."""
        if self.future.done() and not self.future.cancelled():
            self.future.exception()


@frozen(kw_only=True)
class WatchProgress:
    """How far a watch has come.

    Attributes:
        known: Ids taken so far, each counted once.
        settled: Jobs that have ended and were yielded, by status.
        buffered: Snapshots that wait for the consumer.
        unresolved: Jobs that were given up.
        open: Jobs that are still looked at.
        complete: Whether all ids have been taken from the iterable.
    """

    known: int
    settled: Mapping[JobStatus, int] = field(factory=dict)
    buffered: int
    unresolved: int
    open: int
    complete: bool


class Mark:
    """What a Feed knows of a job that it does not look at any more."""


BUFFERED: Final = Mark()
YIELDED: Final = Mark()
_STALLED_SLACK: Final = 64


class Feed:
    """A follower of many jobs: what came of them, in a bounded buffer, until it is asked for."""

    def __init__(self, *, limit: int, every_change: bool) -> None:
        """Make a feed.

        Args:
            limit: Most snapshots held, those reserved by looks under way counted.
            every_change: Whether to take every change of status, not only the end of a job.
        """
        self.alone = (self,)
        self.ready = asyncio.Event()
        self.complete = False
        self.error: BaseException | None = None
        self.causes: dict[str, AdePollError] = {}
        self.settled: Counter[JobStatus] = Counter()
        self.open = 0
        # By id: None or the status text last told while it is looked at, then a mark.
        self._jobs: dict[str, str | Mark | None] = {}
        self._limit = limit
        self.every_change = every_change
        self._buffer: deque[JobSnapshot] = deque()
        self._reserved = 0
        self.stalled: deque[JobState] = deque()

    # --- what comes in ---------------------------------------------------------------------

    def __contains__(self, job_id: str) -> bool:
        """Whether the id was taken before."""
        return job_id in self._jobs

    def admit(self, job_id: str) -> None:
        """Start to follow a job."""
        self._jobs[job_id] = None
        self.open += 1

    def greet(self, entry: JobState) -> None:
        """The job of which this is the entry is followed from now on, and may be known already."""

    def refuse(self, error: InvalidJobIdError) -> None:
        """An id that cannot be one ends as unresolved; the others go on."""
        self._jobs[error.job_id] = None
        self.causes[error.job_id] = error
        self.ready.set()

    async def wait_for_place(self) -> None:
        """Wait until one more job may be followed; a feed of any size never waits."""

    def end_of_input(self) -> None:
        """All ids have been taken."""
        self.complete = True
        self.ready.set()

    def fail(self, error: BaseException) -> None:
        """End the whole feed with an error, after what has been buffered."""
        if self.error is None:
            self.error = _own(error)
        self.end_of_input()

    # --- as a follower ---------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more snapshots may come."""
        return self._limit - self._reserved - len(self._buffer)

    @property
    def known(self) -> int:
        """How many ids were taken so far."""
        return len(self._jobs)

    def has_room(self) -> bool:
        """Whether one more snapshot could be taken, those reserved counted as taken."""
        return self._reserved + len(self._buffer) < self._limit

    def reserve(self) -> None:
        """Keep a place free."""
        self._reserved += 1

    def release(self) -> None:
        """Give the place back."""
        self._reserved -= 1

    def stall(self, entry: JobState) -> None:
        """Remember the entry until there is room."""
        self.stalled.append(entry)
        if len(self.stalled) > 2 * self.open + _STALLED_SLACK:
            # Those that others have woken meanwhile stand in it in vain, or more than once.
            waiting = (e for e in self.stalled if e.stalled and self in e.subscribers)
            self.stalled = deque(dict.fromkeys(waiting))

    def pop_stalled(self) -> JobState | None:
        """Give an entry that waits for room."""
        return self.stalled.popleft() if self.stalled else None

    def take(self, snapshot: JobSnapshot) -> bool:
        """Buffer a snapshot that matters; False if there is no room for it."""
        ended = snapshot.status.is_terminal
        if not (ended or self.every_change):
            return True
        told = self._jobs[snapshot.job_id]
        if isinstance(told, Mark) or (not ended and told == snapshot.status_text):
            return True
        if self._reserved + len(self._buffer) >= self._limit:
            return False
        self._buffer.append(snapshot)
        if ended:
            self._jobs[snapshot.job_id] = BUFFERED
            self.open -= 1
        else:
            self._jobs[snapshot.job_id] = snapshot.status_text
        self.ready.set()
        return True

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """The job ends as unresolved."""
        self.causes[job_id] = error
        self.open -= 1
        self.ready.set()

    # --- what goes out ---------------------------------------------------------------------

    def open_ids(self) -> list[str]:
        """Give the ids that are still looked at."""
        return [
            job_id
            for job_id, told in self._jobs.items()
            if not isinstance(told, Mark) and job_id not in self.causes
        ]

    def pop(self) -> JobSnapshot | None:
        """Give the next snapshot to yield."""
        if not self._buffer:
            return None
        snapshot = self._buffer.popleft()
        if snapshot.status.is_terminal:
            self._jobs[snapshot.job_id] = YIELDED
            self.settled[snapshot.status] += 1
        return snapshot

    def unresolved(self) -> dict[str, AdePollError | None]:
        """Give all ids that were not yielded as ended, with why, or None while that is open."""
        fatal = self.error if isinstance(self.error, AdePollError) else None
        return {
            job_id: self.causes.get(job_id, fatal)
            for job_id, told in self._jobs.items()
            if told is not YIELDED
        }

    def progress(self) -> WatchProgress:
        """Give how far it has come."""
        return WatchProgress(
            known=self.known,
            settled=dict(self.settled),
            buffered=len(self._buffer),
            unresolved=len(self.causes),
            open=self.open,
            complete=self.complete,
        )


class FeedOwner(Protocol):
    """The side of a watcher that a Watch needs."""

    def start_feed(self, feed: Feed) -> None:
        """Take ids in, and look at them."""

    def made_room(self, feed: Feed) -> None:
        """The consumer took a snapshot, and jobs waited for room."""

    def drop_feed(self, feed: Feed) -> None:
        """Nobody consumes the feed any more: forget its jobs, soon."""

    async def close_feed(self, feed: Feed) -> None:
        """As `drop_feed`, and wait until nothing of it runs."""


_FeedT = TypeVar("_FeedT", bound=Feed)


class Stream(Generic[_FeedT]):
    """The caller's end of a feed: what all such have in common.

    Looking begins with the first iteration (or on entering), and ends when all jobs have been
    told of, when the outlet is closed, left or garbage collected, or with its watcher.
    """

    def __init__(self, feed: _FeedT, owner: FeedOwner) -> None:
        """Made by a `JobWatcher`."""
        self._feed = feed
        self._owner = owner
        self._dropper: weakref.finalize[[Feed], Stream[_FeedT]] | None = None
        self._finished = False  # closed, or its end has been told
        self._told_end = False

    def __aiter__(self) -> Self:
        """Give the outlet itself."""
        return self

    async def _wait_for_news(self) -> None:
        """Wait until there may be something to give, or raise what ends the iteration."""
        feed = self._feed
        if feed.error is not None or (feed.complete and not feed.open):
            self._told_end = True
            await self.aclose()
            if feed.error is not None:
                raise feed.error
            if feed.causes:
                raise UnresolvedJobsError(feed.causes)
            raise StopAsyncIteration
        feed.ready.clear()
        await feed.ready.wait()
        if self._told_end:
            raise StopAsyncIteration
        if self._finished:
            raise ClosedError("the watch was closed")

    async def __aenter__(self) -> Self:
        """Begin to look."""
        self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop looking."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop looking at jobs that nobody else follows, and wait until nothing of it runs."""
        self._finished = True
        self._feed.ready.set()  # another task may be waiting for a snapshot
        if self._dropper is not None and self._dropper.detach():
            await self._owner.close_feed(self._feed)

    def _start(self) -> None:
        if self._dropper is None and not self._finished:
            self._owner.start_feed(self._feed)
            # A loop that is left with `break` closes no iterator: the collector tells us.
            drop: Callable[[Feed], None] = self._owner.drop_feed
            self._dropper = weakref.finalize(self, drop, self._feed)
            self._dropper.atexit = False


class Watch(Stream[Feed]):
    """An async iterator of snapshots over many jobs, and an async context manager.

    Looking begins with the first iteration (or on entering), and ends when all jobs have been
    told of, when the watch is closed, left or garbage collected, or with its watcher.
    """

    async def __anext__(self) -> JobSnapshot:
        """Give the next snapshot, as soon as there is one.

        Raises:
            UnresolvedJobsError: At the end, once, if jobs could not be resolved.
            AuthenticationError: The key was refused; likewise `PermissionDeniedError`.
            ClosedError: The watcher or its client was closed; or another task closed the watch
                while this one waited.
        """
        if self._finished:
            raise StopAsyncIteration
        self._start()
        while (snapshot := self._feed.pop()) is None:
            await self._wait_for_news()
        if self._feed.stalled:
            self._owner.made_room(self._feed)
        return snapshot

    @property
    def unresolved(self) -> Mapping[str, AdePollError | None]:
        """The ids not yielded as ended: why they were given up, or None for those still open."""
        return self._feed.unresolved()

    @property
    def progress(self) -> WatchProgress:
        """How far the watch has come; a copy that does not change."""
        return self._feed.progress()
