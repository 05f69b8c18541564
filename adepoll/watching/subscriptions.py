"""Subscriptions: how the jobs of one consumer are watched, from reading their ids to the end.

Imports pollers and what pollers imports. Subclasses decide what is delivered.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable
from contextvars import Context
from enum import Enum
from typing import Final, TypeAlias

from attrs import define, field

from adepoll.api.job_ids import check_job_id
from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, ClosedError, InvalidJobIdError
from adepoll.watching.job_state import JobState, SnapshotBuffer, Subscriber
from adepoll.watching.pollers import Pollers
from adepoll.watching.waiter import own_instance

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]


@define(eq=False, kw_only=True)
class SubscriptionHost:
    """What the subscriptions of one watcher share.

    Attributes:
        pollers: Poll the jobs.
        on_new_jobs: Called when jobs were added.
        subscriptions: Open subscriptions; a dict, as a set keeps no order.
        readers: Tasks that read ids.
        closed: True if no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    pollers: Pollers
    on_new_jobs: Callable[[], None]
    subscriptions: "dict[Subscription, None]" = field(factory=dict)
    readers: set[asyncio.Task[None]] = field(factory=set)
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
        alone: Tuple of this subscription alone, which its jobs share.
        every_change: True if every change of status is delivered, False if only the final one.
        buffer: Room for snapshots; None if there is always room.
        ready: Set when there may be something to take, or the end.
        error: Error that ended the whole subscription.
        errors: Why jobs are unresolved, by id, until the consumer has taken the error.
        known: Number of ids read, without duplicates.
        open: Number of jobs that are still watched.
        given_up: Number of jobs that were given up.
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
            window: Most jobs watched at the same time, errors to be taken included; None for no
                bound.
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
        self._window = window
        self._window_changed = asyncio.Event()
        self._to_yield: deque[str] = deque()  # ids of jobs whose errors are to be taken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def awaits(self) -> bool:
        """True if somebody waits for each job itself: a few jobs with a timeout, or updates."""
        return self.open <= _MAX_AWAITED and (self.every_change or self._timeout is not None)

    def deliver(self, snapshot: JobSnapshot) -> bool:
        """Take a snapshot; return False if it is wanted and there is no room for it."""
        raise NotImplementedError

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """Record that an open job is not polled any more, and why."""
        self.open -= 1
        self._record_error(job_id, error)

    def open_ids(self) -> list[str]:
        """Return the ids of the jobs that are still watched."""
        return [job_id for job_id, last in self._jobs.items() if not isinstance(last, Ended)]

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
                self._timeout, self._expire, self._timeout, context=Context()
            )
        # Not loop.create_task: an eager task factory would run it before it is in `readers`.
        self._reader = asyncio.Task(self._read(), loop=loop)
        self._host.readers.add(self._reader)
        self._reader.add_done_callback(self._reader_ended)

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
        """Unsubscribe from all open jobs; return the tasks that end because of it."""
        self._closed = True
        if self not in self._host.subscriptions:
            return []
        del self._host.subscriptions[self]
        self._stop_reading()
        tasks = [] if self._reader is None else [self._reader]
        for job_id in self.open_ids() if self.open else ():
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
        pollers = self._host.pollers
        for job_id in self.open_ids():
            state = pollers.watched_jobs.get(job_id)
            error = pollers.watched_jobs.failure_rules.timeout_error(job_id, state, timeout)
            self.give_up(job_id, error)
            pollers.unsubscribe(job_id, self)
        self._stop_reading()
        self.end_of_ids()

    async def _read(self) -> None:
        """Read the ids, a limited number in each turn of the loop."""
        loop = asyncio.get_running_loop()
        count = 0
        if isinstance(self._job_ids, AsyncIterable):
            try:
                async for job_id in self._job_ids:
                    count += 1
                    self._add(job_id, loop.time())
                    self._host.on_new_jobs()
                    if self._window is not None:
                        await self._wait_for_window(self._window)
                    if count % _CHUNK == 0:
                        await asyncio.sleep(0)
            finally:
                if isinstance(self._job_ids, AsyncGenerator):
                    await self._job_ids.aclose()  # else the collector does, in a task of its own
            return
        for job_id in self._job_ids:
            count += 1
            self._add(job_id, loop.time())
            if self._window is not None:
                await self._wait_for_window(self._window)
            if count % _CHUNK == 0:
                self._host.on_new_jobs()
                await asyncio.sleep(0)
        self._host.on_new_jobs()

    async def _wait_for_window(self, window: int) -> None:
        """Wait before an id is read, not after that: a timeout would lose the id."""
        while self.open + len(self._to_yield) >= window:
            self._host.on_new_jobs()
            self._window_changed.clear()
            await self._window_changed.wait()

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
        invalid = None
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            invalid, job_id = error, error.job_id
        if job_id in self._jobs or (self._forgotten and job_id in self._forgotten):
            return
        self.known += 1
        if invalid is not None:
            self._record_error(job_id, invalid)
            return
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
        self._window_changed.set()
        self.ready.set()

    def _forget(self, job_id: str) -> None:
        """Forget a job: the consumer has its last item."""
        del self._jobs[job_id]
        if self._forgotten is not None:
            self._forgotten.add(job_id)


_CHUNK: Final = 500  # ids read in one turn of the loop
_MAX_AWAITED: Final = 8  # open jobs; more are a batch
_FIRST_JOBS: Final = 8  # first jobs of a watch, polled immediately: they may be older than others
