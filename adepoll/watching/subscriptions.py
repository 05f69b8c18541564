"""Subscriptions: how the jobs of one consumer are watched, from reading their ids to the end.

Imports pollers and what pollers imports. Subclasses decide what is delivered.
"""

import asyncio
import sys
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
    Iterator,
)
from contextvars import Context, copy_context
from enum import Enum
from itertools import islice
from typing import Final, TypeAlias

from attrs import define, field

from adepoll.api.job_ids import check_job_id
from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, ClosedError, InvalidJobIdError, JobIdsCancelledError
from adepoll.watching.job_state import JobState, SnapshotBuffer, Subscriber
from adepoll.watching.pollers import Pollers, join, start
from adepoll.watching.waiter import own_instance

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]


@define(eq=False, kw_only=True)
class SubscriptionHost:
    """What the subscriptions of one watcher share.

    Attributes:
        pollers: Poll the jobs.
        on_new_jobs: Called when jobs were added.
        subscriptions: Open subscriptions; a dict, as a set keeps no order.
        tasks: Tasks that read ids, or end subscriptions.
        closed: True if no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    pollers: Pollers
    on_new_jobs: Callable[[], None]
    subscriptions: "dict[Subscription, None]" = field(factory=dict)
    tasks: set[asyncio.Task[None]] = field(factory=set)
    closed: bool = False
    loop: asyncio.AbstractEventLoop | None = None

    def check_open(self) -> None:
        """Raise ClosedError if no subscription may start in the running loop."""
        if self.closed:
            raise ClosedError("the watcher is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError("the watcher belongs to another event loop; make one for each")


class Ended(Enum):
    """Why a job is not open any more, although the consumer has not taken its last item."""

    BUFFERED = 1
    UNRESOLVED = 2


BUFFERED: Final = Ended.BUFFERED
UNRESOLVED: Final = Ended.UNRESOLVED


class Subscription:
    """Watches many jobs for one consumer.

    A job is forgotten when the consumer has taken its last item, so that memory does not grow with
    the number of ids.

    Attributes:
        alone: ``(self,)``: one tuple for all its jobs, to save memory.
        every_change: True if every change of status is delivered, False if only the final one.
        buffer: Room for snapshots; None if there is always room.
        ready: Set when there may be something to take, or the end.
        error: Error that ended the whole subscription.
        errors: Why jobs are unresolved, by id, until the consumer has taken the error.
        known: Number of ids read, without duplicates.
        open: Number of jobs that are still watched.
        given_up: Number of jobs that were given up.
        complete: True after the last id was read.
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
            host: What the subscriptions of the watcher share.
            job_ids: Ids of the jobs.
            timeout: Seconds after which the jobs still open are given up; None for no limit.
            window: Maximum number of jobs that are watched, or whose error was not taken yet; None
                for no limit if `job_ids` is a collection, and for `ITERATOR_WINDOW` if it is not.
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
        self.given_up = 0
        self.complete = False
        # By id: the last status text, or None, while the job is open; then why it is not.
        self._jobs: dict[str, str | Ended | None] = {}
        # Ids of a collection that were forgotten before all of it was read.
        self._forgotten: set[str] | None = set() if isinstance(job_ids, Collection) else None
        self._host = host
        self._job_ids = job_ids
        self._timeout = timeout
        self._paced = not isinstance(job_ids, Collection)
        if window is None:
            window = ITERATOR_WINDOW if self._paced else sys.maxsize
        self._window = window
        self._room_changed = asyncio.Event()
        self._to_yield: deque[str] = deque()  # ids of jobs whose errors are to be taken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._stopped = False  # by `close` or `fail`
        self._ending: list[asyncio.Task[None]] = []

    @property
    def awaits(self) -> bool:
        """True if somebody waits for each job: at most eight jobs with a timeout or updates."""
        return self.open <= _MAX_AWAITED and (self.every_change or self._timeout is not None)

    def deliver(self, snapshot: JobSnapshot) -> bool:
        """Accept a snapshot; return False if it is wanted and there is no room for it."""
        raise NotImplementedError

    def take(self) -> object:
        """Return the next item for the consumer; None if there is none."""
        raise NotImplementedError

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """Record that an open job is not polled any more, and why."""
        self.open -= 1
        self._record_error(job_id, error)

    def last_statuses(self) -> dict[str, str]:
        """Return the last status text of each open job, if one was seen."""
        return {job_id: last for job_id, last in self._jobs.items() if isinstance(last, str)}

    def start(self) -> None:
        """Read the ids, and watch the jobs."""
        self._host.check_open()
        loop = self._loop = asyncio.get_running_loop()
        self._host.subscriptions[self] = None
        if self._timeout is not None:
            # In an empty context: the loop keeps a cancelled timer, and so the caller's context.
            self._timer = loop.call_later(
                self._timeout, self._on_timeout, self._timeout, context=Context()
            )
        # The iterable belongs to the caller: it is read in the caller's context.
        self._reader = start(self._read(), self._host.tasks, context=copy_context())
        self._reader.add_done_callback(self._task_ended)

    def end_of_ids(self) -> None:
        """Record that no more ids are read."""
        self.complete = True
        self._forgotten = None
        if not self.open or self.error is not None:
            self.ready.set()

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error, which follows what is buffered."""
        self._stop_reading()
        if self.error is None:
            self.error = own_instance(error)
        self.end_of_ids()

    def close(self) -> list[asyncio.Task[None]]:
        """Unsubscribe from all open jobs; return the tasks that are still to end because of it.

        If there are many jobs, one of these tasks unsubscribes from the rest.
        """
        self._stop_reading()
        self.ready.set()
        if self not in self._host.subscriptions:
            return self._ending
        del self._host.subscriptions[self]
        if self.buffer is not None:
            self.buffer.close()  # no more polls for this subscription, even before the last step
        self._ending = [task for task in (self._reader, self._expiry) if task is not None]
        if self.open:
            job_ids = iter([*self._host.pollers.ids_in_flight(), *self._jobs])
            self._ending += self._unsubscribe(islice(job_ids, _JOBS_PER_STEP))
            if len(self._jobs) > _JOBS_PER_STEP:
                self._ending.append(start(self._unsubscribe_all(job_ids), self._host.tasks))
        return self._ending

    def close_soon(self) -> None:
        """As `close`, in the next step of the loop; may be called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.close)

    def _stop_reading(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._reader, self._expiry):
            if task is not None:
                task.cancel()

    def _unsubscribe(self, job_ids: Iterable[str]) -> list[asyncio.Task[None]]:
        """Unsubscribe from some jobs; return the tasks of the polls that are cancelled."""
        unsubscribe = self._host.pollers.unsubscribe
        return [task for job_id in job_ids for task in unsubscribe(job_id, self)]

    async def _unsubscribe_all(self, job_ids: Iterator[str]) -> None:
        cancelled = []
        while step := [*islice(job_ids, _JOBS_PER_STEP)]:
            cancelled += self._unsubscribe(step)
            await asyncio.sleep(0)
        await join(cancelled)

    def _on_timeout(self, timeout: float) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self._expiry = start(self._expire(timeout), self._host.tasks)
        self._expiry.add_done_callback(self._task_ended, context=Context())

    async def _expire(self, timeout: float) -> None:  # noqa: ASYNC109 - it has passed already
        """Give up all open jobs, and the ids of a collection that were not read yet."""
        watched_jobs = self._host.pollers.watched_jobs
        timeout_error = watched_jobs.failure_rules.timeout_error
        job_ids = iter([*self._jobs])
        while step := [*islice(job_ids, _JOBS_PER_STEP)]:
            for job_id in step:
                if not isinstance(self._jobs.get(job_id, UNRESOLVED), Ended):
                    error = timeout_error(job_id, watched_jobs.get(job_id), timeout)
                    self.give_up(job_id, error)
                    self._host.pollers.unsubscribe(job_id, self)
            await asyncio.sleep(0)
        if self.complete or not isinstance(self._job_ids, Collection):
            return
        unread = iter(self._job_ids)
        while step := [*islice(unread, _JOBS_PER_STEP)]:
            for job_id in step:
                if self._register(job_id):
                    error = timeout_error(job_id, watched_jobs.get(job_id), timeout)
                    self._record_error(job_id, error)
            await asyncio.sleep(0)

    async def _read(self) -> None:
        """Read the ids, a limited number in each step of the loop."""
        now, on_new_jobs = asyncio.get_running_loop().time, self._host.on_new_jobs
        count = 0
        if isinstance(self._job_ids, AsyncIterable):
            try:
                async for job_id in self._job_ids:
                    self._add(job_id, now())
                    on_new_jobs()
                    await self._wait_for_room()
                    count += 1
                    if count % _IDS_PER_STEP == 0:
                        await self._wait_for_polls()
            finally:
                if isinstance(self._job_ids, AsyncGenerator):
                    await self._job_ids.aclose()  # else the collector does, in a task of its own
            return
        for job_id in self._job_ids:
            self._add(job_id, now())
            if self.open + self._untaken() >= self._window:
                await self._wait_for_room()
            count += 1
            if count % _IDS_PER_STEP == 0:
                if count % _NEW_JOBS == 0:
                    on_new_jobs()
                await self._wait_for_polls()
        on_new_jobs()

    async def _wait_for_room(self) -> None:
        """Wait for the window before an id is read, not after that: a timeout would lose the id."""
        while self.open + self._untaken() >= self._window:
            self._host.on_new_jobs()
            self._room_changed.clear()
            await self._room_changed.wait()

    async def _wait_for_polls(self) -> None:
        """Let other tasks run; with ids of an iterator, wait while many jobs wait for polls."""
        await asyncio.sleep(0)
        while self._paced and min(self.open, self._backlog()) > _READ_AHEAD:  # noqa: ASYNC110 - each poll would have to set an event
            await asyncio.sleep(_BACKLOG_PAUSE)

    def _backlog(self) -> int:
        """Return the number of jobs that are due, and wait for a poller or for room."""
        overdue = self._host.pollers.watched_jobs.poll_queue.overdue
        return overdue if self.buffer is None else overdue + len(self.buffer.waiting)

    def _untaken(self) -> int:
        """Return the number of items beside snapshots that the consumer has not taken."""
        return len(self._to_yield)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Continue after the end of the task that reads ids, or of the one that gives jobs up."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        elif self._stopped or (task is self._reader and self._expiry is not None):
            return  # `close`, `fail` or `_expire` has cancelled it
        elif task.cancelled():
            self.fail(JobIdsCancelledError())
        else:
            self.end_of_ids()

    def _register(self, job_id: str) -> bool:
        """Count a new id; return False if it is a duplicate or invalid."""
        invalid = None
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            invalid, job_id = error, error.job_id
        if job_id in self._jobs or (self._forgotten and job_id in self._forgotten):
            return False
        self.known += 1
        if invalid is not None:
            self._record_error(job_id, invalid)
        return invalid is None

    def _add(self, job_id: str, now: float) -> None:
        """Watch a job, unless its id is a duplicate or invalid."""
        if self._stopped or self._expiry is not None:
            return  # the iterable ignored the cancellation of its reader
        if self._register(job_id):
            self._jobs[job_id] = None
            self.open += 1
            self._subscribe(job_id, now)

    def _subscribe(self, job_id: str, now: float) -> JobState:
        can_wait = self.known > _FIRST_JOBS and self._timeout is None and not self.every_change
        watched_jobs = self._host.pollers.watched_jobs
        return watched_jobs.subscribe(job_id, self, self.alone, now, can_wait=can_wait)

    def _record_error(self, job_id: str, error: AdePollError) -> None:
        self._jobs[job_id] = UNRESOLVED
        self.errors[job_id] = error
        self.given_up += 1
        self._room_changed.set()
        self.ready.set()

    def _forget(self, job_id: str) -> None:
        """Forget a job: the consumer has its last item."""
        del self._jobs[job_id]
        if self._forgotten is not None:
            self._forgotten.add(job_id)


ITERATOR_WINDOW: Final = 20_000
"""Default of `window` if the ids come from an iterator."""

_IDS_PER_STEP: Final = 100  # ids read in one step of the loop
# Ids after which new jobs are announced; the first sweep estimates its pages by their number.
_NEW_JOBS: Final = 500
_JOBS_PER_STEP: Final = 500  # jobs left or given up in one step of the loop
_READ_AHEAD: Final = 1_000  # jobs that wait for polls; with more of them, no more ids are read
_BACKLOG_PAUSE: Final = 0.05  # seconds
_MAX_AWAITED: Final = 8  # open jobs; more are a batch
_FIRST_JOBS: Final = 8  # first jobs of a watch, polled immediately: they may be older than others
