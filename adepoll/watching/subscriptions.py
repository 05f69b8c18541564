"""Subscriptions: how one consumer follows many jobs. Imports pollers and below.

`Subscription` reads the ids and follows the jobs; `Stream` is the consumer's handle. They are two
objects so that garbage collection of an abandoned handle can end the subscription.
"""

import asyncio
import copy
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable
from enum import Enum
from types import TracebackType
from typing import Final, Generic, Self, TypeAlias, TypeVar

from attrs import define, field

from adepoll.api.job_ids import check_job_id
from adepoll.api.models import JobSnapshot
from adepoll.errors import (
    AdePollError,
    ClosedError,
    InvalidJobIdError,
    JobTimeoutError,
    UnresolvedJobsError,
)
from adepoll.watching.job_state import JobState, SnapshotBuffer, Subscriber
from adepoll.watching.pollers import Pollers, finish

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]


@define(eq=False, kw_only=True)
class SubscriptionHost:
    """What the subscriptions of one watcher share.

    Attributes:
        pollers: Poll the jobs.
        on_new_jobs: Called when jobs were added.
        check_open: Raises ClosedError if no subscription may start.
        subscriptions: Open subscriptions.
        readers: Tasks that read ids.
    """

    pollers: Pollers
    on_new_jobs: Callable[[], None]
    check_open: Callable[[], None]
    subscriptions: "dict[Subscription, None]" = field(factory=dict)  # a set keeps no order
    readers: set[asyncio.Task[None]] = field(factory=set)


class _Ended(Enum):
    """Why a job is not open any more, although the consumer has not got its last item."""

    BUFFERED = 1
    UNRESOLVED = 2


BUFFERED: Final = _Ended.BUFFERED
UNRESOLVED: Final = _Ended.UNRESOLVED


class Subscription:
    """Follows many jobs for one consumer, from reading their ids to taking what came of them.

    A subclass decides what is delivered. A job is forgotten when the consumer has taken its last
    item, so that memory does not grow with the number of ids.

    Attributes:
        alone: Tuple of this subscription alone, which its jobs share.
        every_change: True if every change of status is delivered, False if only the final one.
        buffer: Room for snapshots; None if there is always room.
        ready: Set when there may be something to take, or the end.
        error: Error that ended the whole subscription.
        errors: Why jobs are unresolved, by id, until the consumer has been told.
        known: Number of ids read, without duplicates.
        open: Number of jobs that are still watched.
        complete: True if no more ids are read.
    """

    def __init__(
        self,
        host: SubscriptionHost,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        every_change: bool = False,
        buffer: SnapshotBuffer | None = None,
    ) -> None:
        """Create a subscription; `start` starts it.

        Args:
            host: The watcher's part.
            job_ids: Ids of the jobs.
            timeout: Seconds after which the jobs still open are given up; None for no bound.
            window: Most jobs watched at the same time; None for no bound.
            every_change: As the attribute.
            buffer: As the attribute.
        """
        self.alone: tuple[Subscriber] = (self,)
        self.every_change = every_change
        self.buffer = buffer
        self.ready = asyncio.Event()
        self.error: BaseException | None = None
        self.errors: dict[str, AdePollError] = {}
        self.known = 0
        self.open = 0
        self.complete = False
        # By id: the last status text, or None, while the job is open; then why it is not.
        self._jobs: dict[str, str | _Ended | None] = {}
        # Ids of a collection that were forgotten before all of it was read.
        self._forgotten: set[str] | None = set() if isinstance(job_ids, Collection) else None
        self._host = host
        self._job_ids = job_ids
        self._timeout = timeout
        self._window = window
        self._has_place = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def deliver(self, snapshot: JobSnapshot) -> bool:
        """Take a snapshot; return False if it is wanted and the buffer is full."""
        raise NotImplementedError

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """Record that an open job is not polled any more, and why."""
        self.open -= 1
        self._record_error(job_id, error)

    def open_ids(self) -> list[str]:
        """Return the ids of the jobs that are still watched."""
        return [job_id for job_id, last in self._jobs.items() if not isinstance(last, _Ended)]

    def last_statuses(self) -> dict[str, str]:
        """Return the last status text of each open job, if one was seen."""
        return {job_id: last for job_id, last in self._jobs.items() if isinstance(last, str)}

    # Life cycle: start, end of the ids, error or timeout, close.

    def start(self) -> None:
        """Read the ids, and watch the jobs."""
        self._host.check_open()
        loop = self._loop = asyncio.get_running_loop()
        self._host.subscriptions[self] = None
        if self._timeout is not None:
            self._timer = loop.call_later(self._timeout, self._expire, self._timeout)
        # Not loop.create_task: an eager task factory would run it before it is in `readers`.
        self._reader = asyncio.Task(self._read(), loop=loop)
        self._host.readers.add(self._reader)
        self._reader.add_done_callback(self._reader_ended)

    def end_of_ids(self) -> None:
        """Record that no more ids are read."""
        self.complete = True
        self._forgotten = None
        self.ready.set()

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error, which follows what is buffered."""
        self._stop_reading()
        if self.error is None:
            self.error = _own(error)
        self.end_of_ids()

    def close(self) -> list[asyncio.Task[None]]:
        """Unsubscribe from all open jobs; return the tasks that end because of it."""
        self._closed = True
        if self not in self._host.subscriptions:
            return []
        del self._host.subscriptions[self]
        self._stop_reading()
        tasks = [] if self._reader is None else [self._reader]
        for job_id in self.open_ids():
            tasks += self._host.pollers.unsubscribe(job_id, self)
        return tasks

    def close_soon(self) -> None:
        """As `close`, in the next step of the loop; may be called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def _stop_reading(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reader is not None:
            self._reader.cancel()

    def _expire(self, timeout: float) -> None:
        if not self.complete and isinstance(self._job_ids, Collection):
            now = asyncio.get_running_loop().time()
            for job_id in self._job_ids:  # ids not read yet time out like the others
                self._add(job_id, now)
        for job_id in self.open_ids():
            state = self._host.pollers.watched_jobs.get(job_id)
            last_status = None if state is None else state.status
            self.give_up(
                job_id, JobTimeoutError(job_id=job_id, timeout=timeout, last_status=last_status)
            )
            self._host.pollers.unsubscribe(job_id, self)
        self._stop_reading()
        self.end_of_ids()

    # Reading ids.

    async def _read(self) -> None:
        """Read the ids, a limited number in each turn of the loop."""
        loop = asyncio.get_running_loop()
        count = 0
        if isinstance(self._job_ids, AsyncIterable):
            try:
                async for job_id in self._job_ids:
                    count += 1
                    await self._wait_for_place()
                    self._add(job_id, loop.time())
                    self._host.on_new_jobs()
                    if count % _CHUNK == 0:
                        await asyncio.sleep(0)
            finally:
                if isinstance(self._job_ids, AsyncGenerator):
                    await self._job_ids.aclose()  # else the collector does, in a task of its own
            return
        for job_id in self._job_ids:
            count += 1
            if not self._has_room_in_window():
                self._host.on_new_jobs()
                await self._wait_for_place()
            self._add(job_id, loop.time())
            if count % _CHUNK == 0:
                self._host.on_new_jobs()
                await asyncio.sleep(0)
        self._host.on_new_jobs()

    def _reader_ended(self, task: asyncio.Task[None]) -> None:
        self._host.readers.discard(task)
        if task.cancelled():
            if not self.complete:  # not by the watcher: what the iterable waited for was cancelled
                self.fail(asyncio.CancelledError("the iterable of job ids was cancelled"))
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.end_of_ids()

    def _add(self, job_id: str, now: float) -> None:
        """Watch a job, unless its id is a duplicate or invalid."""
        if self.complete or self._closed:
            return  # the iterable goes on although its reader was cancelled
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            if self._is_new(error.job_id):
                self.known += 1
                self._record_error(error.job_id, error)
            return
        if self._is_new(job_id):
            self._jobs[job_id] = None
            self.open += 1
            self.known += 1
            self._subscribe(job_id, now)

    def _subscribe(self, job_id: str, now: float) -> JobState:
        can_wait = (
            self._timeout is None and not self.every_change and self.known > _POLLED_IMMEDIATELY
        )
        watched_jobs = self._host.pollers.watched_jobs
        return watched_jobs.subscribe(job_id, self, self.alone, now, can_wait=can_wait)

    def _is_new(self, job_id: str) -> bool:
        return job_id not in self._jobs and not (self._forgotten and job_id in self._forgotten)

    def _has_room_in_window(self) -> bool:
        """Return whether one more job may be watched."""
        return self._window is None or self.open < self._window

    async def _wait_for_place(self) -> None:
        while not self._has_room_in_window():
            self._has_place.clear()
            await self._has_place.wait()

    # Bookkeeping for subclasses.

    def _record_error(self, job_id: str, error: AdePollError) -> None:
        self._jobs[job_id] = UNRESOLVED
        self.errors[job_id] = error
        self._has_place.set()
        self.ready.set()

    def _forget(self, job_id: str) -> None:
        """Forget a job: the consumer has its last item."""
        del self._jobs[job_id]
        if self._forgotten is not None:
            self._forgotten.add(job_id)


_SubscriptionT = TypeVar("_SubscriptionT", bound=Subscription)


class Stream(Generic[_SubscriptionT]):
    """The consumer's handle of a subscription: what all such handles have in common."""

    def __init__(self, subscription: _SubscriptionT) -> None:
        """Created by a `JobWatcher`."""
        self._subscription = subscription
        self._finalizer: weakref.finalize[[], Stream[_SubscriptionT]] | None = None
        self._finished = False  # closed, or the end was reached
        self._end_reached = False

    def __aiter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __aenter__(self) -> Self:
        """Start to watch."""
        self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching, and wait until nothing runs for this stream.

        Jobs that somebody else watches are still polled.
        """
        self._finished = True
        self._subscription.ready.set()  # another task may be waiting for an item
        if self._finalizer is not None and self._finalizer.detach():
            await finish(self._subscription.close())

    def _start(self) -> None:
        if self._finalizer is None and not self._finished:
            self._subscription.start()
            # `break` does not close an iterator: the garbage collector ends the subscription.
            self._finalizer = weakref.finalize(self, self._subscription.close_soon)
            self._finalizer.atexit = False

    async def _wait(self) -> None:
        """Wait until there may be an item, or raise what ends the iteration."""
        subscription = self._subscription
        if subscription.error is not None or (subscription.complete and not subscription.open):
            self._end_reached = True
            await self.aclose()
            if subscription.error is not None:
                raise subscription.error
            if subscription.errors:
                raise UnresolvedJobsError(subscription.errors)
            raise StopAsyncIteration
        subscription.ready.clear()
        await subscription.ready.wait()
        if self._end_reached:
            raise StopAsyncIteration
        if self._finished:
            raise ClosedError("the watch was closed")


class Waiter:
    """One caller of `JobWatcher.wait`: a subscriber that wants the final snapshot of one job."""

    __slots__ = ("future",)
    every_change: Final = False
    buffer: Final = None

    def __init__(self, future: asyncio.Future[JobSnapshot]) -> None:
        """`future` gets the snapshot or the error."""
        self.future = future

    def deliver(self, snapshot: JobSnapshot) -> bool:
        """Take the snapshot of a settled job."""
        if snapshot.is_terminal and not self.future.done():
            self.future.set_result(snapshot)
        return True

    def give_up(self, job_id: str, error: AdePollError) -> None:  # noqa: ARG002 - one job only
        """Raise the error in the caller."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Raise the error in the caller."""
        if not self.future.done():
            self.future.set_exception(_own(error))

    def forget(self) -> None:
        """Mark an error as retrieved: the caller has left before it could be raised."""
        if self.future.done() and not self.future.cancelled():
            self.future.exception()


def check_ids(job_ids: JobIds) -> None:
    """Raise TypeError if `job_ids` is not an iterable of ids, but for example a single id."""
    if isinstance(job_ids, str | bytes):
        raise TypeError("job_ids must be an iterable of ids, not one id; use [job_id], or wait()")
    if not isinstance(job_ids, Iterable | AsyncIterable):
        raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")


def _own(error: BaseException) -> BaseException:
    # Each consumer raises an instance of its own: a shared one would collect all their tracebacks.
    return copy.copy(error) if isinstance(error, AdePollError) else error


_CHUNK: Final = 500  # ids read in one turn of the loop
_POLLED_IMMEDIATELY: Final = 8  # first jobs of a watch; they may be old, unlike those before
