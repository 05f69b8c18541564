"""JobWatcher: watches many jobs of one `JobSource`, which need not be a client."""

import asyncio
import math
import operator
from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from random import Random
from typing import Final, Literal, get_args, overload

from attrs import evolve

from adepoll.api.job_ids import check_job_id
from adepoll.api.models import JobSnapshot
from adepoll.api.source import JobSource, clock_of, for_polling
from adepoll.closing import AsyncCloseable
from adepoll.errors import ClosedError
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.policies import Adaptive, Schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.listing import Discovery
from adepoll.watching.poll_timing import PollTiming
from adepoll.watching.pollers import Pollers, finish
from adepoll.watching.semaphore import Semaphore, Turns
from adepoll.watching.statistics import WatcherStats
from adepoll.watching.status_updates import StatusUpdates, StatusUpdateSubscription
from adepoll.watching.subscriptions import JobIds, SubscriptionHost
from adepoll.watching.sweep_policy import SweepPolicy
from adepoll.watching.waiter import Waiter
from adepoll.watching.watch import UnresolvedJob, Watch, WatchSubscription
from adepoll.watching.watched_jobs import WatchedJobs

_WORKERS_ON_A_SHARED_SEMAPHORE: Final = 256


class JobWatcher(AsyncCloseable):
    """Polls many jobs until they have settled, each by its own schedule.

    Use it as ``async with JobWatcher(client) as watcher``, or close it with `aclose`. It serves any
    number of watches and waits of one event loop; they share the polls of a job. It runs as many
    tasks as there are requests in flight.
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
        outage_patience: float | None = None,
        rng: Random | None = None,
    ) -> None:
        """Create a watcher; no request is sent before the first watch or wait.

        Args:
            source: An `AdeClient`, or anything with its `get_job` and `list_jobs`.
            concurrency: Maximum number of requests in flight; or a semaphore that is held during
                each request, to share the bound with something else.
            schedule: Chooses when a job is polled again; None for `Adaptive()`.
            discovery: How the watcher finds out that jobs have settled. "get": each job is polled
                by schedule. "list": jobs are polled when they are missing from the list of active
                jobs, of which one request shows 100. "auto": the list, if that costs fewer
                requests. The list is only a hint; if it is wrong, fails or is forbidden, polls
                come later or more often, and no job is lost.
            durations: What an earlier watcher learnt of how long jobs take; None to start without.
            buffer: Maximum number of snapshots that wait for the consumer of one watch, each up to
                1 MB of JSON; polls pause while it is full. None for twice the concurrency.
            not_found_grace: Seconds for which a job that was never found may be unknown to the
                service (404) or forbidden (403) before it is given up; a new job can take a moment
                to appear.
            patience: Seconds for which polls of a job may fail (connection, 5xx) before it is given
                up, while the service answers other requests; also for a 404 or 403 of a job that
                was found before. Malformed answers are accepted for at most a minute. Time does not
                count while the process is stopped, the request budget is short, or the whole
                service is down; the guide has the rules under "When a job is given up".
            outage_patience: Seconds for which polls may fail for any reason, as while the whole
                service is down; None for 12 times `patience`.
            rng: Source of jitter, to make runs reproducible.

        Raises:
            ValueError: A number is out of range.
            TypeError: `concurrency` is neither a whole number nor a semaphore.
        """
        if isinstance(concurrency, asyncio.Semaphore):
            semaphore: AbstractAsyncContextManager[object] = concurrency
            workers = _WORKERS_ON_A_SHARED_SEMAPHORE
        else:
            workers = operator.index(concurrency)  # raises for 2.5 now, not at the first poll
            if workers < 1:
                raise ValueError(f"concurrency must be positive, got {concurrency}")
            semaphore = Semaphore(workers)
        self._buffer = 2 * workers if buffer is None else buffer
        if self._buffer < 1:
            raise ValueError(f"buffer must be positive, got {buffer}")
        given = {"not_found_grace": not_found_grace, "patience": patience}
        if outage_patience is not None:
            given["outage_patience"] = outage_patience
        for name, value in given.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of 0 or more, got {value}")
        if discovery not in get_args(Discovery):
            raise ValueError(f"discovery must be auto, list or get, got {discovery!r}")
        learning = Learning(durations=Durations() if durations is None else durations)
        if (clock := clock_of(source)) is not None:
            learning = evolve(learning, service_time=clock)
        self._watched_jobs = WatchedJobs(
            timing=PollTiming(
                schedule=schedule or Adaptive(),
                rng=rng or Random(),  # noqa: S311 - jitter, not a secret
                learning=learning,
            ),
            failure_rules=FailureRules(
                not_found_grace=not_found_grace,
                patience=patience,
                outage_patience=outage_patience,
            ),
            uses_list=discovery != "get",
        )
        turns = Turns(semaphore)
        self._pollers = Pollers(
            self._watched_jobs,
            for_polling(source, turns),
            max_workers=workers,
            turns=turns,
            on_fatal=self._end_all,
        )
        self._list_sweeper: ListSweeper | None = None
        if discovery != "get":
            self._list_sweeper = ListSweeper(
                self._watched_jobs,
                for_polling(source, semaphore),
                SweepPolicy(discovery=discovery, target_lag=self._watched_jobs.timing.target_lag),
                on_due=self._pollers.pump,
                on_fatal=self._end_all,
            )
            self._pollers.on_idle = self._list_sweeper.cancel_all
        self._host = SubscriptionHost(
            pollers=self._pollers,
            on_new_jobs=self._pollers.pump if discovery == "get" else self._pump,
        )
        self._waiters: set[Waiter] = set()

    async def aclose(self) -> None:
        """Stop everything, and wait until nothing runs; open watches and waits get ClosedError."""
        self._host.closed = True
        self._end_all(ClosedError("the watcher was closed"))
        sweeps = set() if self._list_sweeper is None else self._list_sweeper.close()
        await finish({*self._host.tasks, *sweeps})
        await self._pollers.aclose()

    @overload
    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Watch[JobSnapshot]: ...

    @overload
    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["yield"],
    ) -> Watch[JobSnapshot | UnresolvedJob]: ...

    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Watch[JobSnapshot] | Watch[JobSnapshot | UnresolvedJob]:
        """Poll jobs until each has settled, and yield its snapshot as soon as it has.

        The first poll of a job is immediate. Without a timeout, if jobs have always been new when
        the watcher got them, `Adaptive` may postpone it, by twice its target lag at most.

        Every id ends as exactly one snapshot or one unresolved job; a failed job has settled, and
        is yielded like the others. In a collection, each id counts once. In an iterator, which may
        be endless, an id is a duplicate as long as its job is open or waits to be yielded; later it
        is watched again. So memory grows with the open jobs only, and with those that were given up
        if `errors` is "raise".

        Args:
            job_ids: An iterable or async iterable of any size, read while jobs are polled.
            timeout: Seconds, counted from the first iteration, after which jobs that have not
                settled are given up with `JobTimeoutError`, and no more ids are read from an
                iterator; None for no limit. It also counts while polls pause because the consumer
                is slow.
            window: Maximum number of jobs watched at the same time; more ids are read as jobs
                settle. None for 20,000 if `job_ids` is an iterator, and for no limit if it is a
                collection. Ids of an iterator are read no faster than jobs are polled and taken.
            errors: What becomes of jobs that are given up. "raise": `UnresolvedJobsError` is
                raised at the end. "yield": each is yielded as an `UnresolvedJob` as soon as it is
                given up.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ValueError: `timeout` is not a number of 0 or more, `window` is not positive, or
                `errors` is something else.
            ClosedError: The watcher is closed.
        """
        if window is not None and window < 1:
            raise ValueError(f"window must be positive, got {window}")
        if errors not in {"raise", "yield"}:
            raise ValueError(f"errors must be 'raise' or 'yield', got {errors!r}")
        check_ids(job_ids)
        check_timeout(timeout)
        subscription = WatchSubscription(
            self._host,
            job_ids,
            limit=self._buffer,
            timeout=timeout,
            window=window,
            yield_errors=errors == "yield",
        )
        self._host.check_open()
        return Watch(subscription)

    def updates(self, job_ids: JobIds, *, timeout: float | None = None) -> Watch[JobSnapshot]:
        """As `watch`, and yield every change of status that a poll observes, the first included.

        Statuses between two polls are not observed; a slow consumer misses more of them.
        """
        check_ids(job_ids)
        check_timeout(timeout)
        subscription = WatchSubscription(
            self._host, job_ids, limit=self._buffer, timeout=timeout, every_change=True
        )
        self._host.check_open()
        return Watch(subscription)

    def status_updates(
        self, job_ids: JobIds, *, last_status: Mapping[str, str] | None = None
    ) -> StatusUpdates:
        """As `updates`, for a consumer that may be slow: only the latest status of a job is kept.

        A status known from polls for others is yielded immediately. Results are left out.

        Args:
            job_ids: As for `watch`.
            last_status: Status text by job id, as far as the consumer knows it: it is not yielded
                again, and a job that is known to have settled is not polled.

        Returns:
            An async iterator of `StatusUpdate`, and an async context manager. It ends when all jobs
            have settled or were given up; both are yielded.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ClosedError: The watcher is closed.
        """
        check_ids(job_ids)
        subscription = StatusUpdateSubscription(self._host, job_ids, last_status=last_status or {})
        self._host.check_open()
        return StatusUpdates(subscription)

    async def wait(self, job_id: str, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - the bound has an error of its own
        """Wait until one job has settled. Any number of callers share its polls.

        Args:
            job_id: Id of the job.
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            JobTimeoutError: The job has not settled in time.
            InvalidJobIdError: The id is not valid; no request was sent.
            RequestError: Polls failed for too long, or the service does not know the job.
            ClosedError: The watcher or its client was closed.
        """
        check_timeout(timeout)
        check_job_id(job_id)
        self._host.check_open()
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiters.add(waiter)
        state = self._watched_jobs.subscribe(job_id, waiter, (waiter,), loop.time())
        self._pump()
        timer = None
        if timeout is not None:
            # Not asyncio.timeout: the loop keeps a cancelled timer, and so the caller's context.
            rules = self._watched_jobs.failure_rules
            timer = loop.call_later(
                timeout, _expire, waiter, rules, state, timeout, context=Context()
            )
        try:
            return await waiter.future
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.discard(waiter)
            self._pollers.unsubscribe(job_id, waiter)
            waiter.forget()

    def poll_now(self, job_id: str) -> bool:
        """Poll a job immediately, for example because a webhook says that it has settled.

        Returns:
            True if the job is being watched; else nothing happens.
        """
        if self._host.closed or not self._watched_jobs.poll_now(
            job_id, asyncio.get_running_loop().time()
        ):
            return False
        self._pollers.pump()
        return True

    @property
    def stats(self) -> WatcherStats:
        """What the watcher does now, and has done so far; a copy that does not change."""
        counts, list_trust = self._watched_jobs.counts, self._watched_jobs.list_trust
        sweeper = self._list_sweeper
        return WatcherStats(
            watched=len(self._watched_jobs),
            in_flight=self._pollers.in_flight,
            subscribers=len(self._host.subscriptions) + len(self._waiters),
            polls=counts.polls,
            settled=counts.settled,
            given_up=counts.given_up,
            sweeping=list_trust.sweeping,
            sweeps=0 if sweeper is None else sweeper.sweeps,
            list_requests=0 if sweeper is None else sweeper.requests,
            wasted_polls=list_trust.wasted_polls,
            pending_confirmation=list_trust.pending_confirmation,
            detection_lag=counts.detection_lag(),
        )

    @property
    def is_closed(self) -> bool:
        """True if `aclose` was called."""
        return self._host.closed

    def time_left(self) -> float | None:
        """Estimate the seconds until all watched jobs have settled.

        None if no job is watched, and while fewer than 20 jobs have settled, or the watched jobs
        are much older than those.
        """
        return self._watched_jobs.time_left(asyncio.get_running_loop().time())

    @property
    def durations(self) -> Durations:
        """What was learnt of how long jobs take; it can be passed to the next watcher."""
        return self._watched_jobs.learning.durations

    def _pump(self) -> None:
        """Start to sweep if that saves requests, then poll the jobs that are due."""
        if self._list_sweeper is not None:
            self._list_sweeper.pump()
        self._pollers.pump()

    def _end_all(self, error: BaseException) -> None:
        """End all watches and waits with an error, and all that runs for them."""
        for waiter in self._waiters:
            waiter.fail(error)
        for subscription in self._host.subscriptions:
            subscription.fail(error)
        self._pollers.cancel_all()
        if self._list_sweeper is not None:
            self._list_sweeper.cancel_all()


def _expire(waiter: Waiter, rules: FailureRules, state: JobState, timeout: float) -> None:
    waiter.fail(rules.timeout_error(state.job_id, state, timeout))


def check_ids(job_ids: JobIds) -> None:
    """Raise TypeError if `job_ids` is not an iterable of ids, but for example a single id."""
    if isinstance(job_ids, str | bytes):
        raise TypeError("job_ids must be an iterable of ids, not one id; use [job_id], or wait()")
    if not isinstance(job_ids, Iterable | AsyncIterable):
        raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError if `timeout` is neither a number of seconds, 0 or more, nor None."""
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ValueError(f"timeout must be a number of 0 or more, or None, got {timeout}")
