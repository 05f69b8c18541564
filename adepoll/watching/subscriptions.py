"""Subscription: reads the ids of one consumer's jobs, and watches the jobs until all have ended.

Subclasses decide which items the consumer gets, for example snapshots or status updates.
"""

import asyncio
import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Collection,
    Iterable,
    Iterator,
)
from contextvars import Context, copy_context
from enum import Enum
from itertools import islice
from typing import Any, Final, TypeAlias

from attrs import evolve

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.common.tasks import has_loop, join, start
from adepoll.errors import (
    AdePollError,
    InvalidJobIdError,
    JobIdsCancelledError,
)
from adepoll.watching.job_state import JobState, SnapshotBuffer, Subscriber
from adepoll.watching.kind_polling import NamedJob, SubscriptionOwner
from adepoll.watching.waiter import own_instance

JobIds: TypeAlias = Iterable[str | JobRef] | AsyncIterable[str | JobRef]


def check_ids(job_ids: object) -> None:
    """Raise TypeError if `job_ids` is a single id, or is not an iterable."""
    if isinstance(job_ids, str | bytes):
        raise TypeError(
            "job_ids must be an iterable of ids, not one id; use [job_id], or JobWatcher.wait"
        )
    if not isinstance(job_ids, Iterable | AsyncIterable):
        raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError unless `timeout` is None or a number of at least 0."""
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ValueError(f"timeout must be a number of 0 or more, or None, got {timeout}")


class Ended(Enum):
    """How a job of a subscription has ended.

    `BUFFERED`: its last item waits for the consumer. `UNRESOLVED`: it was given up.
    """

    BUFFERED = 1
    UNRESOLVED = 2


BUFFERED: Final = Ended.BUFFERED
UNRESOLVED: Final = Ended.UNRESOLVED


class Subscription(ABC):
    """Watches many jobs for one consumer.

    The consumer takes items: snapshots, status updates or errors of single jobs. When the consumer
    takes the last item of a job, the subscription forgets the job. So memory does not grow if the
    ids come from an endless iterator. The key of a job is the text of its `JobRef`.

    Attributes:
        as_tuple: The tuple ``(self,)``. It is the `subscribers` of all jobs that only this
            subscription watches, to save memory.
        every_change: True if every change of status is delivered, False if only the final one.
        awaits: True if the open jobs are polled as often as for `wait`: at most eight jobs are
            open, and the caller has passed a timeout or wants every change of status. Then somebody
            probably waits for the jobs.
        buffer: Limits the snapshots that wait for the consumer; None for no limit.
        ready: Set when an item may be ready, or when the subscription may have ended.
        error: Error that ended the whole subscription; None if no error has.
        errors: Errors of jobs that were given up, by key; removed when the consumer takes them.
        known: Number of ids read, without duplicates.
        open: Number of jobs that are still watched.
        given_up: Number of jobs that were given up.
        complete: True when no further id will be read: all ids were read, the timeout has passed,
            or an error has ended the subscription.
    """

    def __init__(
        self,
        owner: SubscriptionOwner,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        every_change: bool = False,
        buffer: SnapshotBuffer | None = None,
    ) -> None:
        """Create a subscription; `start` starts it.

        Args:
            owner: Polls the jobs, and knows all open subscriptions of the watcher.
            job_ids: Ids of the jobs.
            timeout: Seconds after which the jobs still open are given up; None for no limit.
            window: Maximum number of watched jobs, plus errors or updates that wait for the
                consumer. None for `ITERATOR_WINDOW` if the ids come from an iterator, and for no
                limit if they are a collection.
            every_change: True if every change of status is delivered, False if only the final one.
            buffer: Limits the snapshots that wait for the consumer; None for no limit.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ValueError: `timeout` is not a number of 0 or more.
        """
        check_ids(job_ids)
        check_timeout(timeout)
        self.as_tuple: tuple[Subscriber] = (self,)
        self.every_change = every_change
        # False if nobody waits for the jobs, however few are open.
        self._can_await = every_change or timeout is not None
        self.awaits = self._can_await
        self.buffer = buffer
        self.ready = asyncio.Event()
        self.error: BaseException | None = None
        self.errors: dict[str, AdePollError] = {}
        self.known = 0
        self.open = 0
        self.given_up = 0
        self.complete = False
        # The value for each key: the last status text of an open job, None for an open job that has
        # no status text yet, or an `Ended` for a job that has ended.
        self._jobs: dict[str, str | Ended | None] = {}
        self._labels: dict[str, str] = {}  # labels by key, for jobs that have a label
        # Keys of forgotten jobs, to find duplicate ids. None for an iterator, because the set would
        # grow without limit. None also after the last id, because no duplicate can follow.
        self._forgotten: set[str] | None = set() if isinstance(job_ids, Collection) else None
        self._owner = owner
        self._job_ids = job_ids
        self._timeout = timeout
        self._paced = not isinstance(job_ids, Collection)  # read no faster than jobs are polled
        if window is None:
            window = ITERATOR_WINDOW if self._paced else sys.maxsize
        self._window = window
        self._room_changed = asyncio.Event()
        self._to_yield: deque[str] = deque()  # keys of jobs whose errors wait for the consumer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._stopped = False  # True after `close` or `fail`
        self._ending: list[asyncio.Task[None]] = []

    @abstractmethod
    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:
        """Accept a snapshot of a job; return False if the buffer has no room for it.

        If the consumer does not want the snapshot, ignore it and return True.
        """

    @abstractmethod
    def take(self) -> Any:
        """Return the next item for the consumer; None if no item is ready.

        Each subclass has its own type of items; see `Stream`.
        """

    def give_up(self, key: str, error: AdePollError) -> None:
        """Record that an open job was given up; `error` is the reason."""
        self._count_ended()
        self._record_error(key, error)

    def labelled(self, key: str, snapshot: JobSnapshot) -> JobSnapshot:
        """Return the snapshot with the label of the job, if the job has one."""
        if not self._labels or (label := self._labels.get(key)) is None:
            return snapshot
        return evolve(snapshot, label=label)

    def last_statuses(self) -> dict[str, str]:
        """Return the last status text by key, for open jobs whose status is known."""
        return {key: last for key, last in self._jobs.items() if isinstance(last, str)}

    def start(self) -> None:
        """Start to read the ids, and to watch the jobs."""
        self._owner.check_open()
        loop = self._loop = asyncio.get_running_loop()
        self._owner.subscriptions[self] = None
        if self._timeout is not None:
            # With an empty context, as the event loop keeps a cancelled timer and its context.
            self._timer = loop.call_later(
                self._timeout, self._give_up_open_jobs, self._timeout, context=Context()
            )
        # The iterable belongs to the caller: it is read in the caller's context.
        self._reader = start(self._read(), self._owner.tasks, context=copy_context())
        self._reader.add_done_callback(self._reader_or_expiry_ended)

    def end_of_ids(self) -> None:
        """Record that no further ids are read."""
        self.complete = True
        self._forgotten = None
        if not self.open or self.error is not None:
            self.ready.set()

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error; the consumer first gets the buffered items."""
        self._stop_reading()
        if self.error is None:
            self.error = own_instance(error)
        self.end_of_ids()

    def close(self) -> list[asyncio.Task[None]]:
        """End the subscription. The caller must await the returned tasks.

        They are the cancelled tasks and, if many jobs are open, a task that unsubscribes from the
        last of them.
        """
        self._stop_reading()
        self.ready.set()
        if self not in self._owner.subscriptions:
            return self._ending
        del self._owner.subscriptions[self]
        if self.buffer is not None:
            self.buffer.free = -sys.maxsize  # without room, no poll begins for this subscription
        self._ending = [task for task in (self._reader, self._expiry) if task is not None]
        if self.open:
            # The jobs whose polls are in flight come first. Each of them is in `keys` twice.
            keys = [key for key in self._owner.keys_in_flight() if key in self._jobs]
            keys += self._jobs
            self._ending += self._unsubscribe(keys[:_JOBS_PER_STEP])
            if rest := keys[_JOBS_PER_STEP:]:
                self._ending.append(start(self._unsubscribe_all(iter(rest)), self._owner.tasks))
        return self._ending

    def close_soon(self) -> None:
        """Call `close` in the next step of the event loop; may be called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def _count_ended(self) -> None:
        """Count a job as no longer open; if few jobs remain, choose their next polls again soon."""
        self.open -= 1
        if self.open == _FEW_OPEN and self._can_await:
            self.awaits = True
            if self._loop is not None:
                self._loop.call_soon(self._poll_sooner, context=Context())

    def _poll_sooner(self) -> None:
        """Choose the next polls of the open jobs again, if somebody waits for them now."""
        if self._stopped or self._loop is None or not self.awaits:
            return
        now = self._loop.time()
        for key, last in self._jobs.items():
            if not isinstance(last, Ended) and (job := self._owner.find(key)) is not None:
                job.polling.watched_jobs.poll_sooner(job.job_id, now)
        self._owner.pump()

    def _stop_reading(self) -> None:
        """Stop reading ids, and stop the timer and the task of the timeout."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._reader, self._expiry):
            if task is not None:
                task.cancel()

    def _unsubscribe(self, keys: Iterable[str]) -> list[asyncio.Task[None]]:
        """Unsubscribe from some jobs; return the tasks of the polls that are cancelled."""
        jobs = [job for key in keys if (job := self._owner.find(key)) is not None]
        return [task for job in jobs for task in job.polling.pollers.unsubscribe(job.job_id, self)]

    async def _unsubscribe_all(self, keys: Iterator[str]) -> None:
        """Unsubscribe from all jobs in steps, and wait for the end of the cancelled polls."""
        cancelled = []
        while step := [*islice(keys, _JOBS_PER_STEP)]:
            cancelled += self._unsubscribe(step)
            await asyncio.sleep(0)
        await join(cancelled)

    def _give_up_open_jobs(self, timeout: float) -> None:
        """The timeout has passed: stop reading ids, and give up the open jobs."""
        if self._reader is not None:
            self._reader.cancel()
        self._expiry = start(self._expire(timeout), self._owner.tasks)
        self._expiry.add_done_callback(self._reader_or_expiry_ended, context=Context())

    async def _expire(self, timeout: float) -> None:  # noqa: ASYNC109 - the timeout has already passed
        """Give up all open jobs in steps, because `timeout` seconds have passed.

        If the ids are a collection, give up the jobs of the unread ids, too.
        """
        keys = iter([*self._jobs])
        while step := [*islice(keys, _JOBS_PER_STEP)]:
            for key in step:
                job = self._owner.find(key)
                if job is not None and not isinstance(self._jobs.get(key, UNRESOLVED), Ended):
                    self.give_up(key, job.polling.timeout_error(job.job_id, timeout))
                    job.polling.pollers.unsubscribe(job.job_id, self)
            await asyncio.sleep(0)
        if self.complete or not isinstance(self._job_ids, Collection):
            return
        unread = iter(self._job_ids)
        while more := [*islice(unread, _JOBS_PER_STEP)]:
            for given in more:
                if (job := self._register(given)) is not None:
                    self._record_error(job.key, job.polling.timeout_error(job.job_id, timeout))
            await asyncio.sleep(0)

    async def _read(self) -> None:
        """Read the ids and watch their jobs, a limited number in each step of the loop."""
        if isinstance(self._job_ids, AsyncIterable):
            await self._read_arriving(self._job_ids)
        else:
            await self._read_present(self._job_ids)

    async def _read_arriving(self, job_ids: AsyncIterable[str | JobRef]) -> None:
        """Read ids that may arrive late, and pass each job to the pollers immediately."""
        now, pump = asyncio.get_running_loop().time, self._owner.pump
        count = 0
        try:
            async for job_id in job_ids:
                if self._stopped or self._expiry is not None:
                    break  # the iterable has suppressed the CancelledError of this task
                self._add(job_id, now())
                pump()
                await self._wait_for_room()
                count += 1
                if count % _IDS_PER_STEP == 0:
                    await self._wait_for_polls()
        finally:
            if isinstance(job_ids, AsyncGenerator) and has_loop():
                await job_ids.aclose()  # otherwise asyncio closes it later, in a new task

    async def _read_present(self, job_ids: Iterable[str | JobRef]) -> None:
        """Read ids that are present already, and pass the jobs to the pollers in groups of 500."""
        now, pump = asyncio.get_running_loop().time, self._owner.pump
        has_limit = self._window < sys.maxsize
        for count, job_id in enumerate(job_ids, 1):
            self._add(job_id, now())
            if has_limit and self.open + self._untaken() >= self._window:
                await self._wait_for_room()
            if count % _IDS_PER_STEP == 0:
                if count % _NEW_JOBS == 0:
                    pump()
                await self._wait_for_polls()
        pump()

    async def _wait_for_room(self) -> None:
        """Wait until the window has room for one more job.

        Read the next id only after that. If an id was read and then had to wait, a timeout could
        lose it.
        """
        while self.open + self._untaken() >= self._window:
            self._owner.pump()
            self._room_changed.clear()
            await self._room_changed.wait()

    async def _wait_for_polls(self) -> None:
        """Let other tasks run; for an iterator of ids, also wait while over 2,000 jobs are due."""
        await asyncio.sleep(0)
        while self._paced and min(self.open, self._backlog()) > _READ_AHEAD:  # noqa: ASYNC110 - each poll would have to set an event
            await asyncio.sleep(_BACKLOG_PAUSE)

    def _backlog(self) -> int:
        """Return the number of due jobs that wait for a poller or for room in the buffer."""
        overdue = self._owner.overdue()
        return overdue if self.buffer is None else overdue + len(self.buffer.waiting)

    def _untaken(self) -> int:
        """Return the number of errors, or of updates, that wait for the consumer."""
        return len(self._to_yield)

    def _reader_or_expiry_ended(self, task: asyncio.Task[None]) -> None:
        """Handle the end of `task`, which has read the ids, or has ended the jobs at the timeout.

        If the task has failed, end the subscription with its error. If other code has cancelled the
        task, end the subscription with `JobIdsCancelledError`. If it has ended normally, record
        that no further id will be read. Do nothing if the subscription was closed before, or if the
        task of the timeout goes on.
        """
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
        elif self._stopped or (task is self._reader and self._expiry is not None):
            return  # `close` or `fail` has cancelled the task; or the task `_expiry` goes on
        elif task.cancelled():
            self.fail(JobIdsCancelledError())
        else:
            self.end_of_ids()

    def _register(self, given: str | JobRef) -> NamedJob | None:
        """Count a job, keep its label, and return it; return None for a duplicate.

        If the id is invalid, record an error of the job, and return None.
        """
        job: NamedJob | None = None
        try:
            job = self._owner.named(given)
        except InvalidJobIdError as exc:
            error, key = exc, exc.job_id
            label = given.label if isinstance(given, JobRef) else None
        else:
            key, label = job.key, job.label
        if key in self._jobs or (self._forgotten and key in self._forgotten):
            return None
        self.known += 1
        if label is not None:
            self._labels[key] = label
        if job is None:
            self._record_error(key, error)
        return job

    def _add(self, given: str | JobRef, now: float) -> None:
        """Watch a job, unless it is a duplicate or its id is invalid."""
        if (job := self._register(given)) is not None:
            self._jobs[job.key] = None
            self.open += 1
            self.awaits = self._can_await and self.open <= _FEW_OPEN
            self._subscribe(job, now)

    def _subscribe(self, job: NamedJob, now: float) -> JobState:
        """Subscribe to a job, and return its state."""
        can_wait = self.known > _FIRST_JOBS and self._timeout is None and not self.every_change
        watched_jobs = job.polling.watched_jobs
        return watched_jobs.subscribe(job.job_id, job.key, self, now, can_wait=can_wait)

    def _record_error(self, key: str, error: AdePollError) -> None:
        """Record that a job was given up; wake the consumer, and the task that reads the ids."""
        self._jobs[key] = UNRESOLVED
        self.errors[key] = error
        self.given_up += 1
        self._room_changed.set()
        self.ready.set()

    def _forget(self, key: str) -> None:
        """Forget a job whose last item the consumer has taken."""
        del self._jobs[key]
        if self._labels:
            self._labels.pop(key, None)
        if self._forgotten is not None:
            self._forgotten.add(key)


ITERATOR_WINDOW: Final = 20_000
"""Default of `window` if the ids come from an iterator."""

# Open jobs of a subscription; if more are open, hardly anybody waits for each of them.
_FEW_OPEN: Final = 8
_IDS_PER_STEP: Final = 100  # ids read in one step of the loop
# Ids of a plain iterable between two calls of `pump`. There are many, because the first list sweep
# begins at the first call, and estimates its number of pages from the watched jobs.
_NEW_JOBS: Final = 500
_JOBS_PER_STEP: Final = 500  # jobs unsubscribed or given up in one step of the loop
_READ_AHEAD: Final = 2_000  # due jobs; while more are due, no further ids of an iterator are read
_BACKLOG_PAUSE: Final = 0.05  # seconds between two checks of the number of due jobs
_FIRST_JOBS: Final = 8  # first jobs of a watch: polled immediately, because they can be older
