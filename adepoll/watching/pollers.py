"""Lookout: the asyncio shell around a roster that does the looking. Imports roster and source.

It runs as many tasks as there are looks under way, and one timer.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable

from adepoll.api.source import JobSource
from adepoll.errors import AdePollError, TransportError
from adepoll.watching.job_state import JobState
from adepoll.watching.watched_jobs import WatchedJobs


class Pollers:
    """Looks at each job of a roster when it is due, and gives the roster what came of it."""

    def __init__(
        self,
        watched_jobs: WatchedJobs,
        source: JobSource,
        *,
        most_workers: int,
        on_end: Callable[[BaseException], None],
    ) -> None:
        """Look at nothing yet.

        Args:
            watched_jobs: Knows which jobs are due.
            source: Is asked about them.
            most_workers: Most looks under way at once.
            on_end: Called with an error that ends everything: about the key, say, or a bug.
        """
        self._watched_jobs = watched_jobs
        self._source = source
        self._most_workers = most_workers
        self._on_end = on_end
        self._workers: set[asyncio.Task[None]] = set()
        self._looking: dict[JobState, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many looks are under way."""
        return len(self._looking)

    def pump(self) -> None:
        """Put workers on all jobs that are due, and set the alarm for the next one.

        To be called whenever a job may have become due, or room may have been made.
        """
        loop = asyncio.get_running_loop()
        while len(self._workers) < self._most_workers and not self._closed:
            entry = self._watched_jobs.pop_due(loop.time())
            if entry is None:
                self._set_alarm(loop)
                return
            task = start(self._work(entry), self._workers)
            self._looking[entry] = task
            task.add_done_callback(self._worker_ended)

    def abandon(self, entry: JobState) -> asyncio.Task[None] | None:
        """Break off the look at a job that nobody wants to know of; give the task that ends."""
        task = self._looking.get(entry)
        if task is not None:
            task.cancel()  # its place is taken by another
        return task

    def halt(self) -> None:
        """Forget all jobs, and break off all looks but the one that calls this."""
        self._watched_jobs.clear()
        for task in self._workers:
            if task is not asyncio.current_task():
                task.cancel()

    def close(self) -> set[asyncio.Task[None]]:
        """Never look again; give the tasks that are still to end."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        return set(self._workers)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._watched_jobs.next_due()
        if due is None or self._alarm_at <= due:
            return  # an alarm that comes earlier sets the next one
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = math.inf
        self.pump()

    async def _work(self, entry: JobState | None) -> None:
        """Look at one due job after another, until none is due."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        get_job, watched_jobs, looking = self._source.get_job, self._watched_jobs, self._looking
        while entry is not None and task is not None:
            looking[entry] = task
            try:
                snapshot = await get_job(entry.job_id)
            except AdePollError as error:
                if error.fatal:
                    self._on_end(error)
                    return
                watched_jobs.failed(entry, error, now := loop.time())
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                # Nobody cancelled the look: something that the source waited for was cancelled.
                cause = TransportError("the source broke the look off", job_id=entry.job_id)
                watched_jobs.failed(entry, cause, now := loop.time())
            else:
                watched_jobs.answered(entry, snapshot, now := loop.time())
            finally:
                if entry.reserved_by is not None:
                    watched_jobs.landed(entry, loop.time())
                del looking[entry]
            entry = watched_jobs.pop_due(now)
            if len(self._workers) < self._most_workers:
                self._set_alarm(loop)  # this worker may be long at its next look

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        for entry in [entry for entry, worker in self._looking.items() if worker is task]:
            # Cancelled before its first step, it could not clean up after itself.
            self._watched_jobs.landed(entry, asyncio.get_running_loop().time())
            del self._looking[entry]
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._on_end(bug)
        self.pump()


def start(
    coroutine: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]
) -> asyncio.Task[None]:
    """Start a task that stands in `tasks` until it has ended."""
    # Not loop.create_task: a loop with an eager task factory would run it before it stands there.
    task = asyncio.Task(coroutine, loop=asyncio.get_running_loop())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def finish(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them all, even if the waiting itself is cancelled."""
    pending = {task for task in tasks if task is not asyncio.current_task()}
    for task in pending:
        task.cancel()
    cancelled = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as exc:
            cancelled = exc
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled
