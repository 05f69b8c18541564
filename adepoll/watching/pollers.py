"""Pollers: the tasks that poll due jobs. Also limits the number of polls in flight.

A poller is a task that polls one due job after another, until no job is due, or until it has polled
32 jobs. One timer waits for the next due job. Tasks and timer serve all subscribers. Therefore they
run in an empty `Context`, and do not keep or use the context variables of one caller.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any, Final

from adepoll.api.source import JobSource, for_polling
from adepoll.common.tasks import is_cancelled, start
from adepoll.errors import AdePollError, TransportError
from adepoll.watching.job_state import JobState, Subscriber
from adepoll.watching.turns import Turns
from adepoll.watching.watched_jobs import WatchedJobs


class PollTurns(Turns):
    """Limits how many polls wait until the request budget allows them.

    While the request budget is short, polls wait. If many polls waited, their jobs would be chosen
    long before they are polled, and a job that becomes urgent meanwhile would come last. So only
    four polls may wait at first. Each poll that gets its turn within 0.25 seconds doubles this
    number. After a longer wait, or when no poll waits, the number is four again.

    Attributes:
        held_back: True while no further poll may begin.
        mean_duration: Mean duration of recent polls in seconds, without the time before they were
            sent. Only polls of one task are measured, and only if its next poll follows
            immediately. 0 if no poll was measured.
    """

    def __init__(
        self, semaphore: AbstractAsyncContextManager[object], *, on_turn: Callable[[], None]
    ) -> None:
        """Create an object without waiting polls.

        Args:
            semaphore: Each poll holds this semaphore while it is in flight.
            on_turn: Called when a waiting poll gets its turn while other polls are held back.
        """
        super().__init__(semaphore)
        self.held_back = False
        self.mean_duration = 0.0
        self._measured: asyncio.Task[Any] | None = None  # the task whose polls are measured
        self._measured_from = -math.inf  # time at which the last poll of this task was sent
        self._on_turn = on_turn
        self._allowed = _MIN_ALLOWED  # number of polls that may wait; infinity for no limit

    def hold_back(self, now: float) -> bool:
        """Decide whether the next poll is held back; set and return `held_back`."""
        waiting = len(self.waiting)
        if waiting < _MIN_ALLOWED:
            self.held_back = False
            if not waiting:
                self._allowed = _MIN_ALLOWED
        else:
            if self.longest_wait(now) > _LONG:
                self._allowed = _MIN_ALLOWED
            self.held_back = waiting >= self._allowed
        return self.held_back

    def _record_turn(self, task: asyncio.Task[Any], now: float) -> None:
        """Double the number of polls that may wait; if polls were held back, start some."""
        if task is self._measured:
            duration = now - self.last_wait - self._measured_from
            before = self.mean_duration or duration
            self.mean_duration = before + (duration - before) / _MEAN_OF
            self._measured_from = now
        elif now > self._measured_from + _MEASURED_FOR:  # the measured task has probably ended
            self._measured, self._measured_from = task, now
        self._allowed *= 2.0
        if self.held_back:
            self._on_turn()


class Pollers:
    """Polls each watched job when it is due, and passes the result to `WatchedJobs`.

    Attributes:
        watched_jobs: Chooses which jobs are due.
        turns: Knows which polls wait to be sent, and limits their number.
        on_idle: Called when no job is watched any more. Must cancel all tasks that sweep the list
            for these jobs, and return the tasks.
    """

    def __init__(
        self,
        watched_jobs: WatchedJobs,
        source: JobSource,
        *,
        max_polls: int,
        semaphore: AbstractAsyncContextManager[object],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Create pollers; no request is sent yet.

        Args:
            watched_jobs: Chooses which jobs are due.
            source: The source of the jobs.
            max_polls: Maximum number of polls in flight.
            semaphore: Held during each request.
            on_fatal: Called with an error that ends all watches and waits: a bad key, for example,
                or a bug.
        """
        self.watched_jobs = watched_jobs
        self._max_polls = max_polls
        self.turns = PollTurns(semaphore, on_turn=self.pump)
        self._source = for_polling(source, self.turns)
        self.on_idle: Callable[[], list[asyncio.Task[None]]] = list  # by default, no tasks
        self._on_fatal = on_fatal
        self._pollers: set[asyncio.Task[None]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()  # tasks that forget many jobs in steps
        self._in_flight: dict[JobState, asyncio.Task[None]] = {}  # the poller of each polled job
        self._timer: asyncio.TimerHandle | None = None  # calls `pump` when the next job is due
        self._timer_at = math.inf
        self._idle_timer: asyncio.TimerHandle | None = None  # calls `on_idle`
        self._forget_timer: asyncio.TimerHandle | None = None  # forgets left jobs
        # Timers that cancel polls whose jobs nobody watches any more.
        self._left_polls: dict[JobState, asyncio.TimerHandle] = {}
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Number of polls in flight."""
        return len(self._in_flight)

    def pump(self) -> None:
        """Start pollers for all jobs that are due, and set the timer for the next one.

        Call this when a job may be due, or when a subscriber's buffer may have room again.
        """
        loop = asyncio.get_running_loop()
        next_due = self.watched_jobs.poll_queue.next_due
        while len(self._pollers) < self._max_polls and not self._closed:
            if self.turns.hold_back(loop.time()):
                return
            state = self._pop_due(loop.time())
            if state is None:
                if (due := next_due()) is not None:
                    self._set_timer(loop, due)
                return
            # Not loop.create_task: an eager task factory would run the task before it is stored.
            task = asyncio.Task(self._poll_jobs(state), loop=loop, context=Context())
            self._pollers.add(task)
            self.turns.waiting[task] = loop.time()
            self._in_flight[state] = task
            task.add_done_callback(self._poller_ended, context=Context())

    def unsubscribe(
        self,
        job_id: str,
        subscriber: Subscriber,
        *,
        keep_from: float | None = None,
        keep_poll: bool = False,
    ) -> list[asyncio.Task[None]]:
        """Remove a subscriber from a job. If it was the last one, stop watching the job.

        Return the cancelled tasks: the poll of the job, and the list sweeps if no other job is
        watched.

        Args:
            job_id: Id of the job.
            subscriber: The subscriber.
            keep_from: None to forget the job immediately. Otherwise the present time: the state of
                the job is kept for ten seconds, for another `wait`, and list sweeps go on for one
                more second.
            keep_poll: True to let a poll of the job go on for two seconds, if its request was sent.
        """
        task = None
        if (left := self.watched_jobs.get(job_id)) is not None:
            task = self._in_flight.get(left)
        keep_poll = keep_poll and task is not None and task not in self.turns.waiting
        state = self.watched_jobs.unsubscribe(
            job_id, subscriber, keep_from=keep_from, keep_poll=keep_poll
        )
        if state is None:
            return []
        if keep_from is not None and self._forget_timer is None:
            self._forget_left()
        tasks = []
        if not len(self.watched_jobs):
            if keep_from is None:
                tasks = self.on_idle()
            elif self._idle_timer is None:
                loop = asyncio.get_running_loop()
                self._idle_timer = loop.call_later(
                    _IDLE_FOR, self._on_idle_timer, context=Context()
                )
        if keep_poll:
            self._limit_left_poll(state)
        elif task is not None:
            task.cancel()  # when the task ends, `_poller_ended` starts another poller
            tasks.append(task)
        return tasks

    def cancel_all(self) -> None:
        """Forget all jobs, and cancel all polls except that of the calling task."""
        forgetting = self.watched_jobs.clear()
        if next(forgetting, False) is None:  # the first step did not forget all jobs
            _ = start(_in_steps(forgetting), self._forgetting)
        for task in self._pollers:
            if task is not asyncio.current_task():
                task.cancel()

    def close(self) -> set[asyncio.Task[None]]:
        """Cancel all polls, and never poll again. The caller must await the returned tasks."""
        self._closed = True
        for timer in (
            self._timer,
            self._idle_timer,
            self._forget_timer,
            *self._left_polls.values(),
        ):
            if timer is not None:
                timer.cancel()
        self.cancel_all()
        return self._pollers | self._forgetting

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        return [state.key for state in self._in_flight]

    def _pop_due(self, now: float) -> JobState | None:
        """Return the job to poll now; None if no job was found.

        If the schedule raises an error, end all watches and waits with it. Otherwise the error
        would reach a caller who has nothing to do with it, or only the log, and the job whose delay
        is unknown would never be polled again.
        """
        try:
            return self.watched_jobs.pop_due(now)
        except Exception as bug:  # noqa: BLE001 - a schedule of the caller can raise any error
            self._on_fatal(bug)
            return None

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Set the timer to the time `due`, unless it is already set to an earlier time."""
        if self._timer_at <= due:
            return  # when it fires, it will be set for this job
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = loop.call_at(due, self._on_timer, context=Context())

    def _on_timer(self) -> None:
        """Poll the jobs that are due now."""
        self._timer = None
        self._timer_at = math.inf
        self.pump()

    def _forget_left(self) -> None:
        """Forget the jobs that nobody has waited for again, and set a timer for the next ones."""
        loop = asyncio.get_running_loop()
        at = self.watched_jobs.left_jobs.forget_old(loop.time())
        self._forget_timer = None
        if at < math.inf:
            self._forget_timer = loop.call_at(at, self._forget_left, context=Context())

    def _limit_left_poll(self, state: JobState) -> None:
        """Cancel the poll of a job in two seconds, if nobody watches the job at that time."""
        if (timer := self._left_polls.get(state)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._left_polls[state] = loop.call_later(
            _LEFT_POLL, self._end_left_poll, state, context=Context()
        )

    def _end_left_poll(self, state: JobState) -> None:
        del self._left_polls[state]
        if not state.subscribers and (task := self._in_flight.get(state)) is not None:
            task.cancel()

    def _on_idle_timer(self) -> None:
        """Cancel the list sweeps, if no job is watched."""
        self._idle_timer = None
        if not len(self.watched_jobs):
            self.on_idle()

    async def _poll_jobs(self, state: JobState | None) -> None:
        """Poll the job, if one is passed, and then one due job after another: up to 32 jobs.

        The limit lets other tasks run, even if no poll waits because the source has all answers in
        memory.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        get_job, watched_jobs, in_flight = self._source.get_job, self.watched_jobs, self._in_flight
        next_due, waiting = watched_jobs.poll_queue.next_due, self.turns.waiting
        polls = 0
        while state is not None and task is not None:
            polls += 1
            try:
                snapshot = await get_job(state.job_id)
            except AdePollError as error:
                if self._failed(state, error, now := loop.time()):
                    return
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                # Something that the source awaited was cancelled, but not this task.
                cause = TransportError("the source cancelled the poll", job_id=state.job_id)
                self._failed(state, cause, now := loop.time())
            else:
                watched_jobs.succeeded(state, snapshot, now := loop.time())
                del snapshot  # otherwise it stays in memory during the next poll
            finally:
                was_sent = waiting.pop(task, None) is None
                if state.reserved_by is not None:
                    watched_jobs.cancelled(state, loop.time(), was_sent=was_sent)
                del in_flight[state]
            is_last = polls == _POLLS_PER_TASK or self.turns.hold_back(now)
            state = None if is_last else watched_jobs.pop_due(now)
            if state is None:
                self._pollers.discard(task)  # this poller ends; `pump` may start another poller
            else:
                in_flight[state] = task
                waiting[task] = now
            if len(self._pollers) < self._max_polls and (due := next_due()) is not None:
                self._set_timer(loop, due)  # because the next poll of this task can take long

    def _failed(self, state: JobState, error: AdePollError, now: float) -> bool:
        """Record that a poll failed; return True if the error ends all watches and waits."""
        if self.watched_jobs.failed(state, error, now):
            self._on_fatal(error)
            self.watched_jobs.left_jobs.ended_all(state, error, now)
            return True
        if self.watched_jobs.chooses_again:
            # Choose other jobs in place of those whose polls were not sent yet. `_poller_ended`
            # starts their pollers, and the cancelled polls are repeated later.
            for task in [*self.turns.waiting]:
                if task is not asyncio.current_task():
                    task.cancel()
        return False

    def _poller_ended(self, task: asyncio.Task[None]) -> None:
        """Remove a poller whose task has ended; report its error, and start new pollers."""
        if task not in self._pollers:
            return  # the task ended because no job was due
        self._pollers.remove(task)
        was_sent = self.turns.waiting.pop(task, None) is None
        for state in [state for state, poller in self._in_flight.items() if poller is task]:
            # The task was cancelled before its first step, so its `finally` block did not run.
            now = asyncio.get_running_loop().time()
            self.watched_jobs.cancelled(state, now, was_sent=was_sent)
            del self._in_flight[state]
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._on_fatal(bug)
        self.pump()


async def _in_steps(steps: Iterator[None]) -> None:
    """Exhaust an iterator, one item in each step of the loop."""
    for _ in steps:
        await asyncio.sleep(0)


_POLLS_PER_TASK: Final = 32  # polls after which a poller ends
# Seconds after the last wait in which sweeps go on: somebody may wait for the same jobs again.
_IDLE_FOR: Final = 1.0
# Seconds after the timeout of the last wait in which a poll of the job goes on: most polls end, and
# a poll that hangs does not keep its place for long.
_LEFT_POLL: Final = 2.0
_MIN_ALLOWED: Final = 4.0  # polls that may wait for their turn, however long they wait
_MEAN_OF: Final = 8  # measured polls that make up most of `PollTurns.mean_duration`
# Seconds without a poll of a task, after which the polls of another task are measured. During the
# first ones of these seconds, the task is perhaps between two polls.
_MEASURED_FOR: Final = 2.0
_LONG: Final = 0.25  # seconds; if polls wait longer, only `_MIN_ALLOWED` polls may wait
