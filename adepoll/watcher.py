"""JobWatcher: the thin asyncio shell around roster and schedule. Knows a JobSource, no client."""

import asyncio
import math
from collections.abc import AsyncIterable, Coroutine, Iterable
from random import Random
from types import TracebackType
from typing import Final, Self, TypeAlias

from attrs import define, frozen

from adepoll.errors import AdePollError, ClosedError, InvalidJobIdError, JobTimeoutError
from adepoll.feeds import Feed, Waiter, Watch
from adepoll.jobids import check_job_id
from adepoll.models import JobSnapshot
from adepoll.roster import Entry, Roster
from adepoll.schedule import Exponential, Schedule
from adepoll.source import JobSource, hold_slots

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]

_MOST_WORKERS_ON_A_SHARED_SEMAPHORE: Final = 256
_IDS_AT_ONCE: Final = 500


@frozen(kw_only=True)
class WatcherStats:
    """What a watcher is doing, and has done.

    Attributes:
        watched: Jobs that are looked at.
        in_flight: Looks under way.
        followers: Watches and waits that are open.
        looks: Looks that came back, well or ill.
        settled: Jobs that a look found ended.
        given_up: Jobs that were given up.
    """

    watched: int
    in_flight: int
    followers: int
    looks: int
    settled: int
    given_up: int


@define(eq=False, weakref_slot=False)
class _Intake:
    """How the ids of a feed come in, until when it may take, and what runs for it."""

    job_ids: JobIds
    timeout: float | None
    pull: asyncio.Task[None] | None = None
    deadline: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if self.pull is not None:
            self.pull.cancel()


class JobWatcher:
    """Looks at many jobs until they have ended, each by its own schedule, a few at a time.

    Use it as ``async with JobWatcher(client) as watcher``, or close it with `aclose`. It serves
    any number of watches and waits of one event loop; a job that several of them follow is
    looked at once for all. It runs as many tasks as there are requests on the wire.
    """

    def __init__(
        self,
        source: JobSource,
        *,
        concurrency: int | asyncio.Semaphore = 64,
        schedule: Schedule | None = None,
        buffer: int | None = None,
        not_found_grace: float = 15.0,
        patience: float = 300.0,
        rng: Random | None = None,
    ) -> None:
        """Make a watcher; nothing is asked before the first watch or wait.

        Args:
            source: Who is asked: an `AdeClient`, or anything with its `get_job` and `list_jobs`.
            concurrency: Most requests on the wire at once; or a semaphore, held during each
                request and at no other time, to share the bound with something else.
            schedule: When to look at a job again; None for `Exponential()`.
            buffer: Most snapshots that wait for the consumer of one watch, each up to 1 MB of
                JSON; looks pause while it is full. None for twice the concurrency.
            not_found_grace: Seconds for which the service may not know a job (404) before it is
                given up: one just submitted can take a moment to show.
            patience: Seconds for which looks at a job may fail for passing reasons (connection,
                5xx) before it is given up. 429 does not count.
            rng: Source of jitter, to make runs replayable.

        Raises:
            ValueError: A number is out of range.
        """
        if isinstance(concurrency, int):
            if concurrency < 1:
                raise ValueError(f"concurrency must be positive, got {concurrency}")
            semaphore = asyncio.Semaphore(concurrency)
            self._most_workers = concurrency
        else:
            semaphore = concurrency
            self._most_workers = _MOST_WORKERS_ON_A_SHARED_SEMAPHORE
        self._buffer = 2 * self._most_workers if buffer is None else buffer
        if self._buffer < 1:
            raise ValueError(f"buffer must be positive, got {buffer}")
        for name, value in (("not_found_grace", not_found_grace), ("patience", patience)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of 0 or more, got {value}")
        self._source = hold_slots(source, semaphore)
        self._roster = Roster(
            schedule=schedule or Exponential(),
            rng=rng or Random(),  # noqa: S311 - jitter, not a secret
            not_found_grace=not_found_grace,
            patience=patience,
        )
        self._feeds: dict[Feed, _Intake] = {}
        self._waiters: set[Waiter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: dict[Entry, asyncio.Task[None]] = {}
        self._workers = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        """Give the watcher itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the watcher."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop everything, and wait until nothing runs. Those who still wait get ClosedError."""
        self._closed = True
        self._stop(ClosedError("the watcher was closed"))
        if self._alarm is not None:
            self._alarm.cancel()
        await _finish(self._tasks)

    def watch(self, job_ids: JobIds, *, timeout: float | None = None) -> Watch:
        """Look at jobs until each has ended, and yield its snapshot as soon as it has.

        Args:
            job_ids: An iterable or async iterable of any size, taken as it comes. An id that
                comes twice is watched once.
            timeout: Seconds, counted from the first iteration, after which jobs that have not
                ended are given up with `JobTimeoutError`; None for no bound.

        Returns:
            An async iterator. Every id ends as exactly one snapshot or one entry of
            `Watch.unresolved`; if there are such, `UnresolvedJobsError` is raised at the end. A
            job that failed has ended: it is yielded like the others.

        Raises:
            TypeError: `job_ids` is a single string.
            ValueError: `timeout` is no number of 0 or more.
        """
        return self._watch(job_ids, timeout, every_change=False)

    def updates(self, job_ids: JobIds, *, timeout: float | None = None) -> Watch:
        """As `watch`, and yield every change of status that a look sees, the first one included.

        Statuses between two looks, and those of a consumer too slow for them, are passed over.
        """
        return self._watch(job_ids, timeout, every_change=True)

    async def wait(self, job_id: str, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - a bound is part of what waiting for a job is, and has its own error
        """Wait until one job has ended. Any number of callers share its looks.

        Args:
            job_id: The job.
            timeout: Seconds to wait at most; None for no bound.

        Raises:
            JobTimeoutError: It has not ended by then.
            InvalidJobIdError: The id cannot be one; nothing was sent.
            RequestError: The service could not be asked, or does not know the job.
            ClosedError: The watcher or its client was closed.
        """
        _check_timeout(timeout)
        check_job_id(job_id)
        self._check_open()
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiters.add(waiter)
        entry = self._roster.follow(job_id, waiter, (waiter,), loop.time())
        self._pump()
        try:
            async with asyncio.timeout(timeout) as scope:
                return await waiter.future
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise  # the job was given up for a reason that is a kind of TimeoutError itself
        finally:
            self._waiters.discard(waiter)
            self._unfollow(job_id, waiter)
            waiter.forget()
        raise JobTimeoutError(job_id=job_id, timeout=timeout, last_status=entry.status)

    def nudge(self, job_id: str) -> bool:
        """Somebody (a webhook, a user) says that the job may have ended: look at it now.

        Returns:
            Whether the job is being watched.
        """
        if self._closed or not self._roster.nudge(job_id, asyncio.get_running_loop().time()):
            return False
        self._pump()
        return True

    @property
    def stats(self) -> WatcherStats:
        """What the watcher is doing, and has done; a copy that does not change."""
        tally = self._roster.tally
        return WatcherStats(
            watched=len(self._roster),
            in_flight=len(self._looking),
            followers=len(self._feeds) + len(self._waiters),
            looks=tally.looks,
            settled=tally.settled,
            given_up=tally.given_up,
        )

    # --- feeds -----------------------------------------------------------------------------

    def _watch(self, job_ids: JobIds, timeout: float | None, *, every_change: bool) -> Watch:
        if isinstance(job_ids, str | bytes):
            raise TypeError(
                "job_ids must be an iterable of ids, not one id; use [job_id], or wait()"
            )
        if not isinstance(job_ids, Iterable | AsyncIterable):
            raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")
        _check_timeout(timeout)
        self._check_open()
        feed = Feed(limit=self._buffer, every_change=every_change)
        return Watch(feed, _FeedDesk(self, _Intake(job_ids, timeout)))

    def _start_feed(self, feed: Feed, intake: _Intake) -> None:
        self._check_open()
        loop = asyncio.get_running_loop()
        self._feeds[feed] = intake
        if intake.timeout is not None:
            intake.deadline = loop.call_later(intake.timeout, self._expire, feed, intake.timeout)
        intake.pull = self._spawn(self._pull(feed, intake.job_ids))
        intake.pull.add_done_callback(lambda task: _pulled(feed, task))

    async def _pull(self, feed: Feed, job_ids: JobIds) -> None:
        """Take ids in, a few hundred at a time, so that the first looks need not wait for all."""
        taken = 0
        if isinstance(job_ids, AsyncIterable):
            async for job_id in job_ids:
                self._admit(feed, job_id)
                self._pump()
                taken += 1
                if taken % _IDS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return
        for job_id in job_ids:
            self._admit(feed, job_id)
            taken += 1
            if taken % _IDS_AT_ONCE == 0:
                self._pump()
                await asyncio.sleep(0)
        self._pump()

    def _admit(self, feed: Feed, job_id: str) -> None:
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            feed.refuse(error)
            return
        if job_id not in feed:
            feed.admit(job_id)
            self._roster.follow(job_id, feed, feed.alone, asyncio.get_running_loop().time())

    def _expire(self, feed: Feed, timeout: float) -> None:
        if feed in self._feeds:
            for job_id in feed.open_ids():
                entry = self._roster.get(job_id)
                last_status = None if entry is None else entry.status
                feed.give_up(
                    job_id, JobTimeoutError(job_id=job_id, timeout=timeout, last_status=last_status)
                )
                self._unfollow(job_id, feed)
            self._feeds[feed].stop()
            feed.end_of_input()

    def _made_room(self, feed: Feed) -> None:
        now = asyncio.get_running_loop().time()
        woken = 0
        while woken < feed.free and (entry := feed.pop_stalled()) is not None:
            woken += self._roster.wake(entry, now)
        if woken:
            self._pump()

    def _drop_feed(self, feed: Feed) -> list[asyncio.Task[None]]:
        """Forget a feed; give the tasks that end because of it."""
        intake = self._feeds.pop(feed, None)
        if intake is None:
            return []
        intake.stop()
        ending = [] if intake.pull is None else [intake.pull]
        for job_id in feed.open_ids():
            ending += self._unfollow(job_id, feed)
        return ending

    def _unfollow(self, job_id: str, follower: Feed | Waiter) -> list[asyncio.Task[None]]:
        orphan = self._roster.unfollow(job_id, follower)
        if orphan is None or (task := self._looking.get(orphan)) is None:
            return []
        task.cancel()  # nobody wants to know any more; the worker's place is taken by another
        return [task]

    # --- looking ---------------------------------------------------------------------------

    def _pump(self) -> None:
        """Put workers on all jobs that are due, and set the alarm for the next one."""
        loop = asyncio.get_running_loop()
        while self._workers < self._most_workers and not self._closed:
            entry = self._roster.pop_due(loop.time())
            if entry is None:
                self._set_alarm(loop)
                return
            self._workers += 1
            task = self._spawn(self._work(entry))
            self._looking[entry] = task
            task.add_done_callback(self._worker_ended)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._roster.next_due()
        if due is None:
            return
        if self._alarm is not None and not self._alarm.cancelled():
            if loop.time() < self._alarm.when() <= due:
                return  # it comes in time, and sets the next one
            self._alarm.cancel()
        self._alarm = loop.call_at(due, self._pump)

    async def _work(self, entry: Entry | None) -> None:
        """Look at one due job after another, until none is due."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        while entry is not None and task is not None:
            self._looking[entry] = task
            try:
                snapshot = await self._source.get_job(entry.job_id)
            except AdePollError as error:
                if error.fatal:
                    self._stop(error)
                    return
                self._roster.failed(entry, error, loop.time())
            else:
                self._roster.answered(entry, snapshot, loop.time())
            finally:
                self._roster.landed(entry)
                del self._looking[entry]
            entry = self._roster.pop_due(loop.time())
            if self._workers < self._most_workers:
                self._set_alarm(loop)  # this worker may be long at its next look

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        self._workers -= 1
        for entry in [entry for entry, worker in self._looking.items() if worker is task]:
            # Cancelled before its first step, it could not clean up after itself.
            self._roster.landed(entry)
            del self._looking[entry]
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._stop(bug)
        self._pump()

    def _stop(self, error: BaseException) -> None:
        """End all watches and waits with an error, and all that runs for them."""
        for waiter in self._waiters:
            waiter.fail(error)
        for feed, intake in self._feeds.items():
            intake.stop()
            feed.fail(error)
        self._roster.clear()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the watcher is closed")


class _FeedDesk:
    """What a Watch may ask of its watcher, with the intake that belongs to it."""

    def __init__(self, watcher: JobWatcher, intake: _Intake) -> None:
        self._watcher = watcher
        self._intake = intake
        self._loop: asyncio.AbstractEventLoop | None = None

    def start_feed(self, feed: Feed) -> None:
        self._loop = asyncio.get_running_loop()
        self._watcher._start_feed(feed, self._intake)  # noqa: SLF001 - the desk is the watcher's own

    def made_room(self, feed: Feed) -> None:
        self._watcher._made_room(feed)  # noqa: SLF001 - as above

    def drop_feed(self, feed: Feed) -> None:
        # The collector calls this, in the middle of anything and in any thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._watcher._drop_feed, feed)  # noqa: SLF001 - as above

    async def close_feed(self, feed: Feed) -> None:
        await _finish(self._watcher._drop_feed(feed))  # noqa: SLF001 - as above


def _pulled(feed: Feed, task: asyncio.Task[None]) -> None:
    """The ids have all been taken, or the caller's iterable raised."""
    if not task.cancelled() and (error := task.exception()) is not None:
        feed.fail(error)
    else:
        feed.end_of_input()


async def _finish(tasks: Iterable[asyncio.Task[None]]) -> None:
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


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ValueError(f"timeout must be a number of 0 or more, or None, got {timeout}")
