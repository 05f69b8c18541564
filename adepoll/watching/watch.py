"""Watch: an async iterator that yields each job when it has settled.

The consumer iterates over a `Watch`; its `WatchSubscription` watches the jobs. Pollers refer only
to the subscription. So Python's garbage collector can remove a `Watch` that the consumer has
abandoned, and this ends the subscription.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NoReturn, Self, TypeVar

from attrs import field, frozen

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.shown import show_text
from adepoll.api.table_row import TableRow
from adepoll.common.closing import EndsWhenLeft
from adepoll.common.html_tables import HtmlTable
from adepoll.common.tasks import join
from adepoll.errors import AdePollError, ClosedError, UnresolvedJobsError
from adepoll.watching.job_state import SnapshotBuffer
from adepoll.watching.kind_polling import SubscriptionOwner
from adepoll.watching.subscriptions import BUFFERED, UNRESOLVED, JobIds, Subscription


@frozen
class UnresolvedJob(TableRow):
    """A job that was given up, so that its outcome is not known.

    Attributes:
        job_id: Id of the job.
        error: Why the job was given up.
        kind: Kind of the job.
        label: The caller's own name for the job; None if the caller gave no name.
    """

    job_id: str
    error: AdePollError
    kind: JobKind = field(default=JobKind.V1_EXTRACT, kw_only=True)
    label: str | None = field(default=None, kw_only=True, repr=show_text)

    def to_dict(self) -> dict[str, str | None]:
        """Return the id, label and kind of the job, and the class name and text of the error."""
        return {
            "job_id": self.job_id,
            "label": self.label,
            "kind": self.kind.name,
            "error": type(self.error).__name__,
            "failure": str(self.error),
        }


@frozen(kw_only=True)
class WatchProgress(HtmlTable):
    """How far a watch has come.

    Attributes:
        known: Number of ids read so far, without duplicates.
        settled: Number of settled jobs whose snapshots were yielded, by status.
        buffered: Number of snapshots that wait for the consumer.
        unresolved: Number of jobs that were given up.
        open: Number of jobs that are still watched.
        complete: True if all ids have been read.
    """

    known: int
    settled: Mapping[JobStatus, int] = field(factory=dict)
    buffered: int
    unresolved: int
    open: int
    complete: bool


class WatchSubscription(Subscription):
    """A subscription that delivers snapshots, and errors of single jobs if the caller wants them.

    Attributes:
        settled: Number of settled jobs whose snapshot the consumer has taken, by status.
        holds: True if a taken snapshot keeps its place in the buffer, and a taken error its place
            in `window`, until the consumer calls `release` or `release_error`. If False, the place
            becomes free when the item is taken.
    """

    def __init__(
        self,
        owner: SubscriptionOwner,
        job_ids: JobIds,
        *,
        limit: int,
        timeout: float | None = None,
        window: int | None = None,
        every_change: bool = False,
        yield_errors: bool = False,
    ) -> None:
        """Create a subscription that holds at most `limit` snapshots; see `JobWatcher.watch`."""
        self._snapshots = SnapshotBuffer(self, limit)
        super().__init__(
            owner,
            job_ids,
            timeout=timeout,
            window=window,
            every_change=every_change,
            buffer=self._snapshots,
        )
        self._yield_errors = yield_errors
        self.settled: Counter[JobStatus] = Counter()
        self.holds = False
        self._held_errors = 0  # errors that the consumer has taken and not released

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:
        """Put the snapshot into the buffer if the watch yields it.

        A watch yields the snapshots of settled jobs and, with `every_change`, of new statuses.
        Return False only if the buffer is full.
        """
        text = snapshot.status_text
        last = self._jobs.get(key, BUFFERED)
        if last is BUFFERED or last is UNRESOLVED:
            return True  # the last item of the job is buffered, or the consumer has taken it
        settled = snapshot.status.is_terminal
        if not settled:
            if last == text:
                return True
            if not self.every_change:
                self._jobs[key] = text
                return True
        if self._snapshots.free <= 0:
            return False
        self._snapshots.snapshots.append((key, snapshot))
        self._snapshots.free -= 1
        if settled:
            self._jobs[key] = BUFFERED
            self._count_ended()
            self._room_changed.set()
        else:
            self._jobs[key] = text
        self.ready.set()
        return True

    def take(self) -> Any:
        """Return the next item for the consumer; None if no item is ready.

        Errors are returned before snapshots: they are few, and a slow consumer should see them
        early.
        """
        if self._to_yield:
            return self._take_error(self._to_yield.popleft())
        buffer = self._snapshots
        if not buffer.snapshots:
            return None
        key, snapshot = buffer.snapshots.popleft()
        if self._labels:
            snapshot = self.labelled(key, snapshot)
        if not self.holds:
            self.release()
        if snapshot.status.is_terminal:
            self.settled[snapshot.status] += 1
            self._forget(key)
        return snapshot

    def release(self) -> None:
        """Free a place in the buffer, and make jobs due that wait for a place."""
        buffer = self._snapshots
        buffer.free += 1
        if buffer.waiting and self._loop is not None:
            buffer.wake_waiting(self._loop.time())

    def release_error(self) -> None:
        """Free the place that an error takes in `window`, so that another id may be read."""
        self._held_errors -= 1
        self._room_changed.set()

    def _take_error(self, key: str) -> UnresolvedJob:
        """Remove and return the error of a job that was given up."""
        self._held_errors += 1
        if not self.holds:
            self.release_error()
        label, error = self._labels.get(key), self.errors.pop(key)
        self._forget(key)
        kind, job_id = self._owner.kind_and_id(key)
        return UnresolvedJob(job_id, error, kind=kind, label=label)

    def unresolved(self) -> dict[str, AdePollError | None]:
        """Return the error of each job without an outcome, by key; see `Watch.unresolved`."""
        fatal = self.error if isinstance(self.error, AdePollError) else None
        return {
            key: None if last is BUFFERED else self.errors.get(key, fatal)
            for key, last in self._jobs.items()
        }

    def progress(self) -> WatchProgress:
        """Return the present progress."""
        return WatchProgress(
            known=self.known,
            settled=dict(self.settled),
            buffered=len(self._snapshots.snapshots),
            unresolved=self.given_up,
            open=self.open,
            complete=self.complete,
        )

    def _untaken(self) -> int:
        """Return the number of errors that take a place in `window`."""
        return super()._untaken() + self._held_errors

    def _record_error(self, key: str, error: AdePollError) -> None:
        """Record that a job was given up; yield the error if the caller wants that."""
        if self._yield_errors:
            self._to_yield.append(key)
        super()._record_error(key, error)


SubscriptionT = TypeVar("SubscriptionT", bound=Subscription)
ItemT_co = TypeVar("ItemT_co", covariant=True)


class Stream(EndsWhenLeft[ItemT_co], Generic[SubscriptionT, ItemT_co]):
    """Yields the items of a subscription: the base class of `Watch` and `StatusUpdates`."""

    _finished = True  # the stream was closed or left, or its end was reached
    _started = False
    _left = False  # a loop over the stream was left before the end
    _end_reached = False
    _end_raised = False  # a consumer has got the error or StopAsyncIteration at the end
    _taken = 0  # items taken since other tasks were allowed to run

    def __init__(self, subscription: SubscriptionT) -> None:
        """Internal: a `JobWatcher` creates streams."""
        self._subscription = subscription
        self._take: Callable[[], ItemT_co | None] = subscription.take
        self._finished = False

    async def __aenter__(self) -> Self:
        """Start to watch."""
        self._start()
        return await super().__aenter__()

    async def __anext__(self) -> ItemT_co:
        """Return the next item, as soon as there is one.

        Raises:
            UnresolvedJobsError: At the end of a `Watch`, once, if jobs were given up; not with
                ``errors="yield"``.
            AuthenticationError: The key was refused (401).
            PermissionDeniedError: The key was refused (403).
            PaymentRequiredError: The organisation has no credits left.
            CertificateError: The certificate of the service cannot be verified, or the service
                rejected the client certificate.
            JobIdsCancelledError: The iterable of job ids was cancelled.
            ClosedError: The watcher or its client was closed; another task closed the watch during
                this call; or an earlier loop over the watch was left, which ended the watch.
        """
        self._taken += 1
        if self._taken >= _ITEMS_PER_STEP:
            self._taken = 0
            await asyncio.sleep(0)
        if self._finished:
            if self._left:
                raise ClosedError(_LEFT)
            self._raise_end()
        if not self._started:
            self._start()
        while (item := self._take()) is None:
            self._taken = 0
            await self._wait()
        return item

    async def aclose(self) -> None:
        """Stop watching, and wait for the end of all tasks of this stream.

        Jobs that other callers watch are still polled.
        """
        self._end_raised = True
        await self._close()

    def leave(self) -> None:
        """Stop watching in the next step of the event loop; may be called in any thread."""
        if self._started and not self._finished:
            self._finished = self._left = True
            self._subscription.close_soon()

    async def _close(self) -> None:
        """Stop watching, and wait until the cancelled tasks have ended."""
        self._finished, self._left = True, False
        if self._started:
            await join(self._subscription.close())

    def _start(self) -> None:
        """Start the subscription, at the first iteration."""
        if not (self._started or self._finished):
            self._subscription.start()
            self._started = True

    async def _wait(self) -> None:
        """Wait until an item may be ready.

        At the end of the stream, raise its error or StopAsyncIteration.
        """
        subscription = self._subscription
        if subscription.error is not None or (subscription.complete and not subscription.open):
            self._end_reached = True
            await self._close()  # if this is cancelled, the next request raises the error
            self._raise_end()
        subscription.ready.clear()
        await subscription.ready.wait()
        if self._end_reached:
            raise StopAsyncIteration
        if self._finished:
            raise ClosedError("the watch was closed")

    def _raise_end(self) -> NoReturn:
        """Raise the error with which the stream ends. In later calls, raise StopAsyncIteration."""
        is_first, self._end_raised = not self._end_raised, True
        if is_first and self._subscription.error is not None:
            raise self._subscription.error
        if is_first and self._subscription.errors:
            raise UnresolvedJobsError(self._subscription.errors)
        raise StopAsyncIteration


class Watch(Stream[WatchSubscription, ItemT_co]):
    """An async iterator over the outcomes of many jobs, and an async context manager.

    Watching starts with the first iteration, or when an ``async with`` block is entered. It ends
    when every job has settled or was given up, when the watch is closed, left or garbage collected,
    or when the watcher is closed. A watch is left when its ``async with`` block ends. Without a
    block, it is left when a loop over it ends in any way, such as `break`. A job is forgotten when
    its last item has been yielded.
    """

    def __repr__(self) -> str:
        """Return the state of the watch and the numbers of its jobs."""
        found = self.progress
        state = "ended" if self._finished else "running" if self._started else "not started"
        known = f"{found.known:,} jobs" if found.complete else f"{found.known:,} jobs so far"
        return (
            f"<Watch {state}: {sum(found.settled.values()):,} settled, {found.unresolved:,} "
            f"unresolved, {found.open:,} open of {known}>"
        )

    def take_ready(self) -> list[ItemT_co]:
        """Return the items, at most 500, that the next iterations would return without waiting."""
        items: list[ItemT_co] = []
        while not self._finished and len(items) < _ITEMS_PER_STEP:
            if (item := self._take()) is None:
                break
            items.append(item)
        return items

    def hold(self) -> None:
        """Count each item that is taken from now on as not taken, until `release` is called.

        So a consumer can take items immediately and work on them later. If this work is slow, polls
        and the reading of ids still pause.
        """
        self._subscription.holds = True

    def release(self, *, given_up: bool) -> None:
        """Free the place of one item; call this once for each item taken after `hold`.

        Args:
            given_up: True if the item is an `UnresolvedJob`, False if it is a snapshot.
        """
        if given_up:
            self._subscription.release_error()
        else:
            self._subscription.release()

    def last_statuses(self) -> Mapping[str, str]:
        """Return the last status text by key, for active jobs whose status is known."""
        return self._subscription.last_statuses()

    @property
    def unresolved(self) -> Mapping[str, AdePollError | None]:
        """The jobs whose outcome was not yielded, by key, and the error that is the reason.

        The error is the one with which the job was given up, or the one that ended the watch. It is
        None in three cases: the job is still watched, its snapshot was not taken yet, or the
        watcher was closed, which says nothing about the job.

        Each key is the `str` of the job's `JobRef`: the id alone, or the kind and the id, as in
        ``v1-parse/cmg4x0q5p0001``. The kind is left out if it is the watcher's default kind, or if
        the id contains the kind.
        """
        return self._subscription.unresolved()

    @property
    def progress(self) -> WatchProgress:
        """How far the watch has come now, as a copy that does not change later."""
        return self._subscription.progress()


_ITEMS_PER_STEP: Final = 500  # items taken in one step of the loop
_LEFT: Final = (
    "the watch ended when a loop over it was left; to continue later, iterate within "
    "`async with watcher.watch(...) as watch`"
)
