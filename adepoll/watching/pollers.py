"""Pollers: the tasks that poll due jobs. Also limits the number of polls in flight.

There are as many tasks as polls in flight, and one timer. They serve all subscribers. Therefore
they run in an empty `Context`, and do not keep or use the context variables of one caller. Imports
watched_jobs and source.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from types import TracebackType
from typing import Any, Final

from adepoll.api.source import JobSource, for_polling
from adepoll.common.tasks import finish, is_cancelled, join, start
from adepoll.errors import AdePollError, TransportError
from adepoll.watching.job_state import JobState, Subscriber
from adepoll.watching.watched_jobs import WatchedJobs


class Pollers:
    """Polls each watched job when it is due, and passes the result to `WatchedJobs`.

    Attributes:
        watched_jobs: Chooses which jobs are due.
        on_idle: Called when the last job has lost its last subscriber. Must cancel all tasks that
            sweep the list for these jobs, and return the tasks.
    """

    def __init__(
        self,
        watched_jobs: WatchedJobs,
        source: JobSource,
        *,
        max_workers: int,
        semaphore: AbstractAsyncContextManager[object],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Create pollers; no request is sent yet.

        Args:
            watched_jobs: Chooses which jobs are due.
            source: Answers the polls.
            max_workers: Maximum number of polls in flight.
            semaphore: Held during each request.
            on_fatal: Called with an error that ends all watches and waits: a bad key, for example,
                or a bug.
        """
        self.watched_jobs = watched_jobs
        self._max_workers = max_workers
        self._turns = Turns(semaphore, on_turn=self.pump)
        self._source = for_polling(source, self._turns)
        self.on_idle: Callable[[], list[asyncio.Task[None]]] = list
        self._on_fatal = on_fatal
        self._workers: set[asyncio.Task[None]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._in_flight: dict[JobState, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Number of polls in flight."""
        return len(self._in_flight)

    def pump(self) -> None:
        """Start pollers for all jobs that are due, and set the timer for the next one.

        To be called when a job may be due, or a subscriber's buffer may have room again.
        """
        loop = asyncio.get_running_loop()
        pop_due, next_due = self.watched_jobs.pop_due, self.watched_jobs.poll_queue.next_due
        while len(self._workers) < self._max_workers and not self._closed:
            if self._turns.hold_back(loop.time()):
                return
            state = pop_due(loop.time())
            if state is None:
                if (due := next_due()) is not None:
                    self._set_timer(loop, due)
                return
            # Not loop.create_task: an eager task factory would run the task before it is stored.
            task = asyncio.Task(self._work(state), loop=loop, context=Context())
            self._workers.add(task)
            self._turns.waiting[task] = loop.time()
            self._in_flight[state] = task
            task.add_done_callback(self._worker_ended, context=Context())

    def unsubscribe(self, job_id: str, subscriber: Subscriber) -> list[asyncio.Task[None]]:
        """Remove `subscriber` from a job; cancel and return the tasks that are not needed now."""
        state = self.watched_jobs.unsubscribe(job_id, subscriber)
        if state is None:
            return []
        tasks = [] if len(self.watched_jobs) else self.on_idle()
        if (task := self._in_flight.get(state)) is not None:
            task.cancel()  # when the task ends, `_worker_ended` starts another poller
            tasks.append(task)
        return tasks

    def cancel_all(self) -> None:
        """Forget all jobs, and cancel all polls except that of the calling task."""
        forgetting = self.watched_jobs.clear()
        if next(forgetting, False) is None:  # the first step did not forget all jobs
            _ = start(_in_steps(forgetting), self._forgetting)
        for task in self._workers:
            if task is not asyncio.current_task():
                task.cancel()

    async def aclose(self) -> None:
        """Start no further polls, cancel those in flight, and wait for the end of all tasks."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await finish(self._workers)
        await join(self._forgetting)

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        return [state.key for state in self._in_flight]

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer_at <= due:
            return  # the present timer fires earlier, and then sets the timer for this job
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = loop.call_at(due, self._on_timer, context=Context())

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.pump()

    async def _work(self, state: JobState | None) -> None:
        """Poll one due job after another, until none is due."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        get_job, watched_jobs, in_flight = self._source.get_job, self.watched_jobs, self._in_flight
        next_due, waiting = watched_jobs.poll_queue.next_due, self._turns.waiting
        while state is not None and task is not None:
            try:
                snapshot = await get_job(state.job_id)
            except AdePollError as error:
                if watched_jobs.failed(state, error, now := loop.time()):
                    self._on_fatal(error)
                    return
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                # Something that the source awaited was cancelled, but not this task.
                cause = TransportError("the source cancelled the poll", job_id=state.job_id)
                watched_jobs.failed(state, cause, now := loop.time())
            else:
                watched_jobs.succeeded(state, snapshot, now := loop.time())
                del snapshot  # otherwise it stays in memory during the next poll
            finally:
                if state.reserved_by is not None:
                    watched_jobs.cancelled(state, loop.time())
                waiting.pop(task, None)
                del in_flight[state]
            state = None if self._turns.hold_back(now) else watched_jobs.pop_due(now)
            if state is None:
                self._workers.discard(task)  # this poller ends; `pump` may start another poller
            else:
                in_flight[state] = task
                waiting[task] = now
            if len(self._workers) < self._max_workers and (due := next_due()) is not None:
                self._set_timer(loop, due)  # because the next poll of this task can take long

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        if task not in self._workers:
            return  # the task ended because no job was due
        self._workers.remove(task)
        self._turns.waiting.pop(task, None)
        for state in [state for state, worker in self._in_flight.items() if worker is task]:
            # The task was cancelled before its first step, so its `finally` block did not run.
            self.watched_jobs.cancelled(state, asyncio.get_running_loop().time())
            del self._in_flight[state]
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._on_fatal(bug)
        self.pump()


async def _in_steps(steps: Iterator[None]) -> None:
    """Exhaust an iterator, one item in each step of the loop."""
    for _ in steps:
        await asyncio.sleep(0)


class Semaphore(AbstractAsyncContextManager[None, None]):
    """An async context manager that at most `limit` tasks hold at the same time.

    It works like `asyncio.Semaphore`. It creates no coroutine while a place is free, which saves
    time in every request. A place that becomes free goes to the task that has waited longest. All
    tasks must run in the same event loop; this is not checked.
    """

    def __init__(self, limit: int) -> None:
        """Start with `limit` free places."""
        self._free = limit  # number of free places; 0 while a task waits
        self._waiting: deque[asyncio.Future[None]] = deque()
        # A completed future, which `async with` can await without a suspension of the task.
        self._done: asyncio.Future[None] | None = None

    def __aenter__(self) -> Awaitable[None]:  # type: ignore[override]  # `async with` accepts any awaitable
        """Acquire a place; wait until one is free."""
        if self._free:
            self._free -= 1
            return self._done or self._make_done()
        return self._wait()

    def __aexit__(  # type: ignore[override]  # `async with` accepts any awaitable
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        """Release the place."""
        if self._waiting:
            self._release()
        else:
            self._free += 1
        return self._done or self._make_done()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:  # also GeneratorExit, which a closed coroutine raises
            if waiter.done() and not waiter.cancelled():
                self._release()  # this task got a place just before it was cancelled
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _make_done(self) -> asyncio.Future[None]:
        self._done = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        return self._done


class Turns:
    """Wraps the semaphore that is held during each poll; limits how many polls wait for their turn.

    A poll waits for its turn while the request budget is short. If many polls waited, they would be
    sent long after they were chosen, and before jobs that have become more important since then.

    Attributes:
        waiting: Tasks of the polls whose request was not sent yet, oldest first, and the times at
            which these polls began.
        held_back: True while no further poll may begin, because at least four polls wait for their
            turn, and polls wait longer than 0.25 seconds.
    """

    def __init__(
        self, semaphore: AbstractAsyncContextManager[object], *, on_turn: Callable[[], None]
    ) -> None:
        """Start without polls.

        Args:
            semaphore: Held during each poll.
            on_turn: Called when a waiting poll gets its turn while other polls are held back.
        """
        self.waiting: dict[asyncio.Task[None], float] = {}
        self.held_back = False
        self._semaphore = semaphore
        self._on_turn = on_turn
        self._last_wait = 0.0  # seconds for which the last poll waited for its turn

    def hold_back(self, now: float) -> bool:
        """Decide whether the next poll is held back; set and return `held_back`."""
        waiting = self.waiting
        self.held_back = (
            len(waiting) >= _MAX_WAITING
            and max(self._last_wait, now - next(iter(waiting.values()))) > _LONG
        )
        return self.held_back

    async def __aenter__(self) -> None:
        """Acquire the semaphore. After that, the poll of this task no longer waits for its turn."""
        await self._semaphore.__aenter__()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is not None and (began := self.waiting.pop(task, None)) is not None:
            self._last_wait = loop.time() - began
            if self.held_back:
                self.held_back = False
                self._on_turn()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, bool | None]:
        """Return a coroutine that releases the semaphore."""
        return self._semaphore.__aexit__(exc_type, exc, traceback)


_MAX_WAITING: Final = 4  # polls that may wait for their turn, however long they wait
_LONG: Final = 0.25  # seconds; if polls wait longer, only `_MAX_WAITING` polls may wait
