"""JobWatcher: watches many jobs of one `JobSource`, which need not be a client.

Jobs can be of several kinds: a `KindPolling` polls those of each.
"""

import asyncio
import math
import operator
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from random import Random
from typing import Final, Literal, get_args, overload

from attrs import evolve

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobSnapshot
from adepoll.api.source import JobSource, kind_of
from adepoll.common.closing import AsyncCloseable
from adepoll.common.tasks import finish
from adepoll.errors import ClosedError, InvalidJobIdError
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Adaptive, Schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import JobState
from adepoll.watching.kind_polling import PollingOptions, SubscriptionHost
from adepoll.watching.listing import Discovery
from adepoll.watching.pollers import Semaphore
from adepoll.watching.statistics import WatcherStats, total
from adepoll.watching.status_updates import StatusUpdates, StatusUpdateSubscription
from adepoll.watching.subscriptions import JobIds, check_timeout
from adepoll.watching.waiter import Waiter
from adepoll.watching.watch import UnresolvedJob, Watch, WatchSubscription

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
        durations: Durations | Mapping[JobKind, Durations] | None = None,
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
            durations: What an earlier watcher learnt of how long jobs take: of the source's own
                kind, or by kind. None to start without.
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
        options = PollingOptions(
            semaphore=semaphore,
            workers=workers,
            schedule=schedule or Adaptive(),
            discovery=discovery,
            failure_rules=FailureRules(
                not_found_grace=not_found_grace,
                patience=patience,
                outage_patience=outage_patience,
            ),
            rng=rng or Random(),  # noqa: S311 - jitter, not a secret
            on_fatal=self._end_all,
        )
        if durations is None:
            durations = {}
        elif isinstance(durations, Durations):
            durations = {kind_of(source): durations}
        self._host = SubscriptionHost(source, options, durations)
        self._waiters: set[Waiter] = set()

    def __repr__(self) -> str:
        """Return what the watcher does now."""
        found = self.stats
        state = " closed," if self.is_closed else ""
        return (
            f"<JobWatcher{state} {found.watched:,} watched, {found.in_flight:,} polls in flight, "
            f"{found.settled:,} settled, {found.given_up:,} given up>"
        )

    async def aclose(self) -> None:
        """Stop everything, and wait until nothing runs; open watches and waits get ClosedError."""
        self._host.closed = True
        self._end_all(ClosedError("the watcher was closed"))
        await finish(self._host.tasks)
        for polling in [*self._host.by_kind.values()]:
            await polling.aclose()

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
        subscription = WatchSubscription(
            self._host, job_ids, limit=self._buffer, timeout=timeout, every_change=True
        )
        self._host.check_open()
        return Watch(subscription)

    def status_updates(
        self, job_ids: JobIds, *, last_status: Mapping[str, str] | None = None
    ) -> StatusUpdates:
        """As `updates`, for a consumer that may be slow: only the latest status of a job is kept.

        A status that is known from polls for other callers is yielded immediately. Results are
        left out.

        Args:
            job_ids: As for `watch`.
            last_status: Status text by job id or text of a reference, as far as the consumer knows
                it: it is not yielded again, and a job that is known to have settled is not polled.

        Returns:
            An async iterator of `StatusUpdate`, and an async context manager. It ends when all jobs
            have settled or were given up; both are yielded.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ClosedError: The watcher is closed.
        """
        subscription = StatusUpdateSubscription(self._host, job_ids, last_status=last_status or {})
        self._host.check_open()
        return StatusUpdates(subscription)

    async def wait(self, job: str | JobRef, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - the bound has an error of its own
        """Wait until one job has settled. Any number of callers share its polls.

        Args:
            job: Id of the job, or a reference.
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            JobTimeoutError: The job has not settled in time.
            InvalidJobIdError: The id is not valid; no request was sent.
            RequestError: Polls failed for too long, or the service does not know the job.
            ClosedError: The watcher or its client was closed.
        """
        check_timeout(timeout)
        self._host.check_open()
        named = self._host.named(job)
        polling = named.polling
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiters.add(waiter)
        watched_jobs = polling.watched_jobs
        state = watched_jobs.subscribe(named.job_id, named.key, waiter, loop.time())
        polling.pump()
        timer = None
        if timeout is not None:
            # Not asyncio.timeout: the loop keeps a cancelled timer, and so the caller's context.
            rules = watched_jobs.failure_rules
            timer = loop.call_later(
                timeout, _expire, waiter, rules, state, timeout, context=Context()
            )
        try:
            snapshot = await waiter.future
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.discard(waiter)
            polling.pollers.unsubscribe(named.job_id, waiter)
            waiter.forget()
        return snapshot if named.label is None else evolve(snapshot, label=named.label)

    def poll_now(self, job: str | JobRef) -> bool:
        """Poll a job immediately, for example because a webhook says that it has settled.

        Args:
            job: A reference, or an id, which stands for the watched jobs of any kind with that id.

        Returns:
            True if the job is being watched; else nothing happens.
        """
        if self._host.closed:
            return False
        try:
            ref = JobRef.of(job)
        except InvalidJobIdError:
            return False
        now, found = asyncio.get_running_loop().time(), False
        for kind, polling in self._host.by_kind.items():
            if ref.kind in {None, kind} and polling.watched_jobs.poll_now(ref.job_id, now):
                polling.pollers.pump()
                found = True
        return found

    @property
    def stats(self) -> WatcherStats:
        """What the watcher does now, and has done so far; a copy that does not change."""
        return total(
            [polling.stats() for polling in self._host.by_kind.values()],
            subscribers=len(self._host.subscriptions) + len(self._waiters),
        )

    @property
    def kind(self) -> JobKind:
        """Kind of the jobs that are named by an id whose form does not say its kind."""
        return self._host.kind

    @property
    def is_closed(self) -> bool:
        """True if `aclose` was called."""
        return self._host.closed

    def time_left(self) -> float | None:
        """Estimate the seconds until all watched jobs have settled.

        Return None if no job is watched, or if the time is unknown. It can be unknown while fewer
        than 20 jobs of a kind have settled, or while watched jobs are much older than the settled
        jobs were.
        """
        kinds = [polling.watched_jobs for polling in self._host.by_kind.values()]
        busy = [watched_jobs for watched_jobs in kinds if len(watched_jobs)]
        now = asyncio.get_running_loop().time() if busy else 0.0
        times = [watched_jobs.time_left(now) for watched_jobs in busy]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None

    @property
    def durations(self) -> Durations:
        """How long jobs take, as learnt so far; can be passed to the next watcher.

        This concerns jobs of the source's own kind; `durations_by_kind` has all kinds.
        """
        return self._host.own.watched_jobs.learning.durations

    @property
    def durations_by_kind(self) -> Mapping[JobKind, Durations]:
        """How long jobs take, as learnt so far, for each kind that was watched."""
        return {
            kind: polling.watched_jobs.learning.durations
            for kind, polling in self._host.by_kind.items()
        }

    def _end_all(self, error: BaseException) -> None:
        """End all watches and waits with an error, and all that runs for them."""
        for waiter in self._waiters:
            waiter.fail(error)
        for subscription in self._host.subscriptions:
            subscription.fail(error)
        for polling in self._host.by_kind.values():
            polling.cancel_all()


def _expire(waiter: Waiter, rules: FailureRules, state: JobState, timeout: float) -> None:
    waiter.fail(rules.timeout_error(state.job_id, state, timeout))
