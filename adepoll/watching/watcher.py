"""JobWatcher: watches many jobs of one `JobSource`, such as a client.

The jobs can be of several kinds. For each kind, a `KindPolling` polls the jobs.
"""

import asyncio
import math
import operator
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from random import Random
from typing import Any, Final, Literal, get_args, overload

from attrs import evolve

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobSnapshot
from adepoll.api.source import JobSource, kind_of
from adepoll.common.closing import AsyncCloseable
from adepoll.common.redaction import showable
from adepoll.common.tasks import has_loop, join
from adepoll.errors import ClosedError, InvalidJobIdError
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Schedule, checked_schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import JobState
from adepoll.watching.kind_polling import PollingOptions, SubscriptionOwner
from adepoll.watching.listing import Discovery
from adepoll.watching.statistics import WatcherStats, total
from adepoll.watching.status_updates import StatusUpdates, StatusUpdateSubscription
from adepoll.watching.subscriptions import JobIds, check_timeout
from adepoll.watching.turns import Semaphore
from adepoll.watching.waiter import Waiter
from adepoll.watching.watch import UnresolvedJob, Watch, WatchSubscription

_MAX_POLLS_OF_SHARED_SEMAPHORE: Final = 256


class JobWatcher(AsyncCloseable):
    """Polls many jobs until they have settled.

    Use it as ``async with JobWatcher(client) as watcher``, or close it with `aclose`. A watcher
    serves any number of watches and waits in one event loop. Watches and waits for the same job
    share its polls. The number of tasks grows with the requests in flight, not with the jobs.
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
            source: An `AdeClient`, or another object with the methods `get_job` and `list_jobs`.
                Without `list_jobs`, it is polled as with ``discovery="get"``.
            concurrency: Maximum number of requests in flight. Or a semaphore that is held during
                each request, to share one maximum with other code.
            schedule: Chooses when a job is polled again; None for `Adaptive()`.
            discovery: How the watcher finds out that jobs have settled. "get": each job is polled
                by schedule. "list": jobs are polled when they are missing from the list of active
                jobs; one list request shows 100 jobs. "auto": like "list" while that needs fewer
                requests, otherwise like "get". The list is only a hint: if it is wrong, fails or
                is forbidden, jobs are polled later or more often, and no job is lost.
            durations: What an earlier watcher has learnt of how long jobs take: its
                `durations_by_kind`, or its `durations`, which must be of the default kind of
                `source`. None to start without this knowledge.
            buffer: Maximum number of snapshots that wait for the consumer of one watch, each up to
                1 MB of JSON. While the buffer is full, polls pause. None for twice the concurrency,
                or for 512 if `concurrency` is a semaphore.
            not_found_grace: Seconds for which a job that was never found may be unknown to the
                service (404) or forbidden (403) before it is given up; a new job can take a moment
                to appear.
            patience: Seconds for which polls of a job may fail before it is given up, while the
                service answers other requests. Examples of failed polls: a connection error, a 5xx,
                and a 404 or 403 of a job that was found before. Malformed answers are accepted for
                at most a minute. Hardly any time counts while the process is stopped, the request
                budget is short, or the whole service is down; docs/giving-up.md has the rules.
            outage_patience: Seconds after which a job is given up if, in all of this time, its
                polls have failed or the service was down. None for 12 times `patience`; a value
                below `patience` counts as `patience`.
            rng: Source of jitter; pass a seeded one to make runs reproducible.

        Raises:
            ValueError: A number is out of range, or `discovery` is not one of the three texts.
            TypeError: `concurrency` is neither a whole number nor a semaphore, `source` has no
                method `get_job`, `schedule` has no method `delay`, or `durations` has other types.
        """
        if isinstance(concurrency, asyncio.Semaphore):
            semaphore: AbstractAsyncContextManager[object] = concurrency
            max_polls = _MAX_POLLS_OF_SHARED_SEMAPHORE
        else:
            max_polls = operator.index(concurrency)  # raises TypeError for a number such as 2.5
            if max_polls < 1:
                raise ValueError(f"concurrency must be positive, got {concurrency}")
            semaphore = Semaphore(max_polls)
        self._buffer = 2 * max_polls if buffer is None else buffer
        if not self._buffer >= 1:
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
            max_polls=max_polls,
            schedule=checked_schedule(schedule),
            discovery=discovery,
            failure_rules=FailureRules(
                not_found_grace=not_found_grace,
                patience=patience,
                outage_patience=outage_patience,
            ),
            rng=rng or Random(),  # noqa: S311 - jitter, not a secret
            on_fatal=self._end_all,
        )
        self._owner = SubscriptionOwner(source, options, _by_kind(durations, kind_of(source)))
        self._waiters: set[Waiter] = set()

    def __repr__(self) -> str:
        """Return the numbers of watched, settled and given-up jobs, and of polls in flight."""
        found = self.stats
        state = " closed," if self.is_closed else ""
        return (
            f"<JobWatcher{state} {found.watched:,} watched, {found.in_flight:,} polls in flight, "
            f"{found.settled:,} settled, {found.given_up:,} given up>"
        )

    async def aclose(self) -> None:
        """Cancel all polls, and wait for the end of all tasks.

        Open watches and waits raise ClosedError.

        Raises:
            ClosedError: The watcher is used in another event loop that is still open.
        """
        self._owner.check_loop()
        self._owner.closed = True
        self._end_all(ClosedError("the watcher was closed"))
        await join(self._owner.close())

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
        """Poll jobs until they have settled; yield the snapshot of each as soon as it has settled.

        The first poll of a job is immediate if there is a timeout, and for the first eight jobs.
        The first poll of a later job can be some seconds later, in two cases: during list sweeps,
        and with `Adaptive` if earlier jobs were new when the watcher got them. docs/poll-times.md
        has the exact rules.

        Every id ends as exactly one snapshot or one unresolved job. A failed job has settled, and
        is yielded like the others. A duplicate in a collection is ignored. A duplicate from an
        iterator, which may be endless, is ignored while the job is open or waits to be yielded;
        after that, the job is watched again. So memory grows only with the open jobs and, if
        `errors` is "raise", with the jobs that were given up.

        The iteration also raises the errors that end all watches, such as a refused key;
        docs/giving-up.md#what-ends-all-watches lists them.

        Args:
            job_ids: An iterable or async iterable of any size, read while jobs are polled.
            timeout: Seconds from the first iteration until jobs that have not settled are given up
                with `JobTimeoutError`. From then on, no further ids are read from an iterator. Time
                in which polls pause because the consumer is slow counts, too. None for no limit.
            window: Maximum number of jobs watched at the same time; more ids are read as jobs
                settle. None for 20,000 if `job_ids` is an iterator, and for no limit if it is a
                collection. Ids of an iterator are read no faster than jobs are polled and taken.
            errors: How the caller learns of jobs that are given up. "raise": `UnresolvedJobsError`
                is raised at the end. "yield": each job is yielded as an `UnresolvedJob` as soon as
                it is given up.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ValueError: `timeout` is not a number of 0 or more, `window` is not positive, or
                `errors` is neither "raise" nor "yield".
            ClosedError: The watcher is closed.
        """
        if window is not None and not window >= 1:
            raise ValueError(f"window must be positive, got {window}")
        if errors not in {"raise", "yield"}:
            raise ValueError(f"errors must be 'raise' or 'yield', got {errors!r}")
        subscription = WatchSubscription(
            self._owner,
            job_ids,
            limit=self._buffer,
            timeout=timeout,
            window=window,
            yield_errors=errors == "yield",
        )
        self._owner.check_open()
        return Watch(subscription)

    def updates(self, job_ids: JobIds, *, timeout: float | None = None) -> Watch[JobSnapshot]:
        """Watch jobs like `watch`, and yield a snapshot at every observed change of status.

        The first snapshot of a job is yielded, too. A status that begins and ends between two polls
        is not observed. If the consumer is slow, polls pause, and more statuses are missed.

        `job_ids` and `timeout` mean the same as for `watch`, and the same errors are raised. Jobs
        that were given up are in an `UnresolvedJobsError` at the end.
        """
        subscription = WatchSubscription(
            self._owner, job_ids, limit=self._buffer, timeout=timeout, every_change=True
        )
        self._owner.check_open()
        return Watch(subscription)

    def status_updates(
        self, job_ids: JobIds, *, last_status: Mapping[str, str | None] | None = None
    ) -> StatusUpdates:
        """Watch jobs, and yield the latest status of each; the consumer may be slow.

        Only the latest status of a job is kept until it is yielded, so polls never pause. A status
        that is known from polls for other callers is yielded immediately. Results are left out.

        Args:
            job_ids: Ids or references; see `watch`.
            last_status: Status texts that the consumer knows already, by job id or text of a
                reference. A known status is not yielded again. A job that is known to have settled
                is not polled. A text can be None, like `StatusUpdate.status_text` of a job that was
                given up: then no status is known.

        Returns:
            An async iterator of `StatusUpdate`, and an async context manager. It ends after the
            last updates of all jobs: a final status, or the error of a job that was given up.

        Raises:
            TypeError: `job_ids` is a single string, or not iterable.
            ClosedError: The watcher is closed.
        """
        subscription = StatusUpdateSubscription(self._owner, job_ids, last_status=last_status or {})
        self._owner.check_open()
        return StatusUpdates(subscription)

    async def wait(self, job: str | JobRef, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - the timeout must raise JobTimeoutError, not TimeoutError
        """Wait until one job has settled. Any number of callers share the polls of a job.

        Args:
            job: Id of the job, or a reference.
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            ValueError: `timeout` is not a number of 0 or more.
            JobTimeoutError: The job has not settled in time.
            InvalidJobIdError: The id is not valid; no request was sent.
            RequestError: Polls failed for too long, the service does not know the job, or an error
                has ended all waits, such as a refused key.
            ClosedError: The watcher or its client was closed.
        """
        check_timeout(timeout)
        self._owner.check_open()
        named = self._owner.named(job)
        polling = named.polling
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiters.add(waiter)
        watched_jobs = polling.watched_jobs
        state = watched_jobs.subscribe(named.job_id, named.key, waiter, loop.time())
        polling.pump()
        timer = None
        if timeout is not None:
            # Not asyncio.timeout: the loop keeps cancelled timers, here with the caller's context.
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
            if has_loop():
                polling.pollers.unsubscribe(
                    named.job_id, waiter, keep_from=loop.time(), keep_poll=waiter.timed_out
                )
            waiter.forget()
        return snapshot if named.label is None else evolve(snapshot, label=named.label)

    def poll_now(self, job: str | JobRef) -> bool:
        """Poll a job immediately, for example because a webhook says that it has settled.

        Args:
            job: A reference or an id. An id means every watched job with this id, of any kind.

        Returns:
            True if the job is watched. If a poll of the job is in flight, another poll follows it.
            If the buffer is full, the job is polled when the consumer has taken a snapshot. False
            if the job is not watched; then nothing happens.
        """
        if self._owner.closed:
            return False
        try:
            ref = JobRef.of(job)
        except InvalidJobIdError:
            return False
        now, found = asyncio.get_running_loop().time(), False
        for kind, polling in self._owner.by_kind.items():
            if ref.kind in {None, kind} and polling.watched_jobs.poll_now(ref.job_id, now):
                polling.pollers.pump()
                found = True
        return found

    @property
    def stats(self) -> WatcherStats:
        """The statistics of the watcher, as a copy that does not change later.

        May be read in any thread.
        """
        # A copy of `by_kind`: the loop can add a kind while another thread reads the statistics.
        return total(
            [polling.stats() for polling in [*self._owner.by_kind.values()]],
            subscribers=len(self._owner.subscriptions) + len(self._waiters),
        )

    @property
    def kind(self) -> JobKind:
        """Default kind: the kind of each job whose id does not contain the kind."""
        return self._owner.kind

    @property
    def is_closed(self) -> bool:
        """True if `aclose` was called."""
        return self._owner.closed

    def time_left(self) -> float | None:
        """Estimate the seconds until all watched jobs have settled; None if the time is unknown.

        The time can be unknown while fewer than 20 jobs of a kind have settled. It can also be
        unknown while watched jobs may take several times as long as the jobs that have settled. The
        result is also None if no job is watched.
        """
        kinds = [polling.watched_jobs for polling in self._owner.by_kind.values()]
        busy = [watched_jobs for watched_jobs in kinds if len(watched_jobs)]
        now = asyncio.get_running_loop().time() if busy else 0.0
        times = [watched_jobs.time_left(now) for watched_jobs in busy]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None

    @property
    def durations(self) -> Durations:
        """How long jobs of the default kind (`kind`) take, as learnt so far.

        You can pass this object to the next watcher. If you watch jobs of several kinds, pass
        `durations_by_kind`.
        """
        return self._owner.default_polling.watched_jobs.learning.durations

    @property
    def durations_by_kind(self) -> Mapping[JobKind, Durations]:
        """How long jobs take, as learnt so far, for each kind that was watched."""
        return {
            kind: polling.watched_jobs.learning.durations
            for kind, polling in self._owner.by_kind.items()
        }

    def _end_all(self, error: BaseException) -> None:
        """End all watches and waits with an error, and cancel all polls and sweeps."""
        for waiter in self._waiters:
            waiter.fail(error)
        for subscription in self._owner.subscriptions:
            subscription.fail(error)
        for polling in self._owner.by_kind.values():
            polling.cancel_all()


def _expire(waiter: Waiter, rules: FailureRules, state: JobState, timeout: float) -> None:
    """Give up the job of one `wait`, because its timeout has passed."""
    waiter.fail(rules.timeout_error(state.job_id, state, timeout))


def _by_kind(durations: object, default: JobKind) -> dict[JobKind, Durations]:
    """Return the durations of each kind; those without a kind are of the kind `default`.

    Raises:
        TypeError: A key is not a kind, or a value is not a `Durations`. Otherwise, they would never
            be used.
    """
    if durations is None:
        return {}
    if isinstance(durations, Durations):
        return {default: durations}
    what = type(durations).__name__
    if isinstance(durations, Mapping):
        found: dict[Any, Any] = dict(durations)
        wrong = [key for key in found if not isinstance(key, JobKind)]
        others = [value for value in found.values() if not isinstance(value, Durations)]
        if not (wrong or others):
            return found
        if wrong:
            what = f"the key {showable(repr(wrong[0]), 40)}"
        else:
            what = f"a value of type {type(others[0]).__name__}"
    raise TypeError(
        "durations must be a Durations, or a mapping from JobKind to Durations such as "
        f"`durations_by_kind`, got {what}; use JobKind.named(...) and Durations.from_json(...)"
    )
