"""JobWatcher: watches and waits, fed from one roster. Knows a JobSource, no client."""

import asyncio
import math
import operator
from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Final, Self, get_args

from attrs import evolve, frozen

from adepoll.api.job_ids import check_job_id
from adepoll.api.models import JobSnapshot
from adepoll.api.source import JobSource, TimedSource, for_polling
from adepoll.errors import (
    ClosedError,
    JobTimeoutError,
)
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.policies import Adaptive, Aimed, Schedule
from adepoll.watching.detection_lag import LagHistogram
from adepoll.watching.harvest import Harvest, HarvestFeed
from adepoll.watching.id_intake import Desk, Intake, JobIds, check_ids
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.list_sweeps import Discovery, SweepPolicy
from adepoll.watching.pollers import Pollers, finish
from adepoll.watching.semaphore import Semaphore
from adepoll.watching.status_updates import StatusUpdates, StatusUpdatesFeed
from adepoll.watching.subscriptions import Feed, Waiter, Watch
from adepoll.watching.watched_jobs import WatchedJobs

_MOST_WORKERS_ON_A_SHARED_SEMAPHORE: Final = 256


@frozen(kw_only=True)
class WatcherStats:
    """What a watcher is doing, and has done.

    Attributes:
        watched: Jobs that are looked at.
        in_flight: Looks under way.
        subscribers: Watches and waits that are open.
        polls: Looks that came back, well or ill.
        settled: Jobs that a look found ended.
        given_up: Jobs that were given up.
        sweeping: Whether jobs are now looked at when the list has them no more, or by schedule.
        sweeps: Sweeps of the list so far.
        list_requests: Requests for a page of the list.
        wasted_polls: Looks at jobs that the list had not, and that were active still.
        pending_confirmation: Jobs missing from the list that wait for their look.
        detection_lag: How long jobs had ended, at most, when a look saw it.
    """

    watched: int
    in_flight: int
    subscribers: int
    polls: int
    settled: int
    given_up: int
    sweeping: bool
    sweeps: int
    list_requests: int
    wasted_polls: int
    pending_confirmation: int
    detection_lag: LagHistogram


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
        discovery: Discovery = "auto",
        durations: Durations | None = None,
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
            schedule: When to look at a job again; None for `Adaptive()`.
            discovery: How it is found out that a job may have ended. "get": each job is looked at
                by schedule. "list": jobs are looked at when the list of active jobs, 100 a
                request, has them no more. "auto": the list, where there are enough jobs for that
                to cost fewer requests. The list only hints; where it lies, fails or is forbidden,
                a look comes later or is one too many, and no job is lost.
            durations: What is known of how long jobs take, from an earlier watcher; None to learn
                it anew.
            buffer: Most snapshots that wait for the consumer of one watch, each up to 1 MB of
                JSON; looks pause while it is full. None for twice the concurrency.
            not_found_grace: Seconds for which the service may not know a job (404) before it is
                given up: one just submitted can take a moment to show.
            patience: Seconds for which looks at a job may fail for passing reasons (connection,
                5xx) before it is given up; answers that make no sense are borne for a minute at
                most, a 404 for a job that was seen before for as long as this. 429 does not
                count.
            rng: Source of jitter, to make runs replayable.

        Raises:
            ValueError: A number is out of range.
            TypeError: `concurrency` is neither a whole number nor a semaphore.
        """
        if isinstance(concurrency, asyncio.Semaphore):
            slots: AbstractAsyncContextManager[object] = concurrency
            workers = _MOST_WORKERS_ON_A_SHARED_SEMAPHORE
        else:
            workers = operator.index(concurrency)  # 2.5 is refused here, and not at the first look
            if workers < 1:
                raise ValueError(f"concurrency must be positive, got {concurrency}")
            slots = Semaphore(workers)
        self._buffer = 2 * workers if buffer is None else buffer
        if self._buffer < 1:
            raise ValueError(f"buffer must be positive, got {buffer}")
        for name, value in (("not_found_grace", not_found_grace), ("patience", patience)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of 0 or more, got {value}")
        if discovery not in get_args(Discovery):
            raise ValueError(f"discovery must be auto, list or get, got {discovery!r}")
        schedule = schedule or Adaptive()
        learning = Learning(durations=Durations() if durations is None else durations)
        if isinstance(source, TimedSource):
            learning = evolve(learning, service_time=source.service_time)
        self._watched_jobs = WatchedJobs(
            schedule=schedule,
            rng=rng or Random(),  # noqa: S311 - jitter, not a secret
            not_found_grace=not_found_grace,
            patience=patience,
            learning=learning,
        )
        polling = for_polling(source, slots)
        self._pollers = Pollers(
            self._watched_jobs, polling, most_workers=workers, on_end=self._stop
        )
        lag = schedule.target_lag if isinstance(schedule, Aimed) else None
        self._list_sweeper = ListSweeper(
            self._watched_jobs,
            polling,
            SweepPolicy(discovery=discovery, lag=lag),
            on_news=self._pollers.pump,
            on_end=self._stop,
        )
        self._intake = Intake(self._watched_jobs, self._pollers, pump=self._pump)
        self._waiters: set[Waiter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
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
        await finish({*self._intake.pulls, *self._pollers.close(), *self._list_sweeper.close()})

    def watch(self, job_ids: JobIds, *, timeout: float | None = None) -> Watch:
        """Look at jobs until each has ended, and yield its snapshot as soon as it has.

        The first look at a job is at once; without a timeout, and where jobs have always been new
        when they were given, `Adaptive` may put most of those off until jobs are likely to end.

        Args:
            job_ids: An iterable or async iterable of any size, taken as it comes. An id that
                comes twice is watched once.
            timeout: Seconds, counted from the first iteration, after which jobs that were not
                seen to end are given up with `JobTimeoutError`, and no more ids are taken from an
                iterator; None for no bound. A consumer that is slow keeps jobs from being looked
                at, and the time runs on.

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

    def latest(self, job_ids: JobIds, *, told: Mapping[str, str] | None = None) -> StatusUpdates:
        """As `updates`, for one who may be slow: of each job only what is new and last is kept.

        What others had learnt of a job is told at once. Results are left out.

        Args:
            job_ids: As for `watch`.
            told: Status text by job, where it has been told before: it is not told again, and a
                job that is known to have ended is not looked at.

        Returns:
            An async iterator of `StatusUpdate`, and an async context manager. It ends when all jobs
            have; those that were given up come like the others.

        Raises:
            TypeError: `job_ids` is a single string.
        """
        check_ids(job_ids)
        self._check_open()
        feed = StatusUpdatesFeed(told or {})
        return StatusUpdates(feed, self._desk(job_ids, None))

    def harvest(
        self, job_ids: AsyncIterable[str], *, window: int, timeout: float | None = None
    ) -> Harvest:
        """As `watch`, for any number of jobs, in the memory that `window` of them take.

        Args:
            job_ids: Taken as there is room. They must differ: what was told is forgotten.
            window: Most jobs that are watched at once; others come in as these end.
            timeout: As for `watch`.

        Returns:
            An async iterator that gives, some at a time, how jobs ended; jobs that were given up
            come like the others.

        Raises:
            ValueError: `window` is not positive, or `timeout` no number of 0 or more.
        """
        if window < 1:
            raise ValueError(f"window must be positive, got {window}")
        check_timeout(timeout)
        self._check_open()
        feed = HarvestFeed(limit=self._buffer, window=window)
        return Harvest(feed, self._desk(job_ids, timeout))

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
        check_timeout(timeout)
        check_job_id(job_id)
        self._check_open()
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiters.add(waiter)
        entry = self._watched_jobs.subscribe(job_id, waiter, (waiter,), loop.time())
        self._pump()
        try:
            async with asyncio.timeout(timeout) as scope:
                return await waiter.future
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise  # the job was given up for a reason that is a kind of TimeoutError itself
        finally:
            self._waiters.discard(waiter)
            self._intake.unsubscribe(job_id, waiter)
            waiter.forget()
        raise JobTimeoutError(job_id=job_id, timeout=timeout, last_status=entry.status)

    def poll_now(self, job_id: str) -> bool:
        """Somebody (a webhook, a user) says that the job may have ended: look at it now.

        Returns:
            Whether the job is being watched.
        """
        if self._closed or not self._watched_jobs.poll_now(
            job_id, asyncio.get_running_loop().time()
        ):
            return False
        self._pollers.pump()
        return True

    @property
    def stats(self) -> WatcherStats:
        """What the watcher is doing, and has done; a copy that does not change."""
        tally = self._watched_jobs.tally
        return WatcherStats(
            watched=len(self._watched_jobs),
            in_flight=self._pollers.in_flight,
            subscribers=len(self._intake) + len(self._waiters),
            polls=tally.polls,
            settled=tally.settled,
            given_up=tally.given_up,
            sweeping=self._watched_jobs.hints.sweeping,
            sweeps=self._list_sweeper.sweeps,
            list_requests=self._list_sweeper.requests,
            wasted_polls=self._watched_jobs.hints.wasted_polls,
            pending_confirmation=self._watched_jobs.hints.urgent,
            detection_lag=tally.detection_lag.histogram(),
        )

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def time_left(self) -> float | None:
        """Give the seconds until the last watched job has ended, by what was learnt of the others.

        None while too few were seen to end, or none that took so long, and where none is watched.
        It is a guess.
        """
        return self._watched_jobs.time_left(asyncio.get_running_loop().time())

    @property
    def durations(self) -> Durations:
        """What has been learnt of how long jobs take; for the next watcher, and for who waits."""
        return self._watched_jobs.learning.durations

    def _watch(self, job_ids: JobIds, timeout: float | None, *, every_change: bool) -> Watch:
        check_ids(job_ids)
        check_timeout(timeout)
        self._check_open()
        feed = Feed(limit=self._buffer, every_change=every_change)
        return Watch(feed, self._desk(job_ids, timeout))

    def _desk(self, job_ids: JobIds, timeout: float | None) -> Desk:
        return Desk(self._intake, job_ids, timeout, check_open=self._check_open)

    def _pump(self) -> None:
        """Jobs have come: see whether to sweep for them, then look at what is due."""
        self._list_sweeper.pump()
        self._pollers.pump()

    def _stop(self, error: BaseException) -> None:
        """End all watches and waits with an error, and all that runs for them."""
        for waiter in self._waiters:
            waiter.fail(error)
        self._intake.end(error)
        self._pollers.halt()
        self._list_sweeper.halt()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the watcher is closed")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ClosedError("the watcher belongs to another event loop; make one for each")


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no time to wait, in seconds; None is no bound."""
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ValueError(f"timeout must be a number of 0 or more, or None, got {timeout}")
