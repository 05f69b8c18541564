"""Polls jobs of several kinds, and finds the kind of each job that a caller names.

A `KindPolling` polls the jobs of one kind, and sweeps their list. It learns how long the jobs of
this kind take. All kinds of a watcher share the semaphore, the request budget of the client, and
`KeyEvidence`. Kinds at the same host of the service share `HostEvidence`.

A `SubscriptionOwner` has the `KindPolling` of all kinds, and all open subscriptions of one watcher.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Final, Protocol

from attrs import define, evolve, frozen

from adepoll.api.job_kind import PLAIN_V1_ID, JobKind, JobRef, kind_and_id
from adepoll.api.source import (
    JobSource,
    check_source,
    clock_of,
    for_kind,
    is_newest_first,
    kind_of,
    origin_of,
)
from adepoll.errors import (
    ClosedError,
    ConfigurationError,
    InvalidJobIdError,
    JobTimeoutError,
)
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.listing import Discovery
from adepoll.watching.pollers import Pollers
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.service_evidence import HostEvidence
from adepoll.watching.statistics import WatcherStats
from adepoll.watching.sweep_policy import SweepPolicy
from adepoll.watching.watched_jobs import WatchedJobs


@frozen(kw_only=True)
class PollingOptions:
    """Objects and settings that all kinds of one watcher share.

    Attributes:
        semaphore: Held during each request.
        max_polls: Maximum number of polls in flight for each kind.
        schedule: Chooses when a job is polled again.
        discovery: How the watcher finds settled jobs: by polls, by list sweeps, or by both.
        failure_rules: Decides when a job is given up. Each host of the service gets a copy with its
            own `HostEvidence`.
        rng: Source of jitter.
        on_fatal: Called with an error that ends all watches and waits.
    """

    semaphore: AbstractAsyncContextManager[object]
    max_polls: int
    schedule: Schedule
    discovery: Discovery
    failure_rules: FailureRules
    rng: Random
    on_fatal: Callable[[BaseException], None]


class KindPolling:
    """Polls the jobs of one kind.

    Attributes:
        kind: Kind of the jobs.
        watched_jobs: The watched jobs, and the time of each job's next poll.
        pollers: Polls the jobs that are due.
        sweeper: Sweeps the list of these jobs; None if `discovery` is "get".
    """

    def __init__(
        self, kind: JobKind, source: JobSource, options: PollingOptions, durations: Durations
    ) -> None:
        """Create an object that polls no job yet.

        Args:
            kind: Kind of the jobs.
            source: A source of jobs of this kind only.
            options: Objects and settings that all kinds share.
            durations: What is known of how long the jobs take; it learns from each poll.
        """
        learning = Learning(durations=durations)
        if (clock := clock_of(source)) is not None:
            learning = evolve(learning, service_time=clock)
        self.kind = kind
        self.watched_jobs = WatchedJobs(
            ScheduleCalls(schedule=options.schedule, rng=options.rng, learning=learning),
            options.failure_rules,
            uses_list=options.discovery != "get",
            kind=kind,
        )
        self.pollers = Pollers(
            self.watched_jobs,
            source,
            max_polls=options.max_polls,
            semaphore=options.semaphore,
            on_fatal=options.on_fatal,
        )
        options.failure_rules.host.jobs.append(self.watched_jobs)
        self.watched_jobs.on_due = self.pollers.pump
        self.sweeper: ListSweeper | None = None
        if options.discovery != "get":
            self.sweeper = ListSweeper(
                self.watched_jobs,
                source,
                SweepPolicy(
                    discovery=options.discovery,
                    target_lag=self.watched_jobs.schedule_calls.target_lag,
                ),
                semaphore=options.semaphore,
                on_due=self.pollers.pump,
                on_fatal=options.on_fatal,
                poll_duration=lambda: self.pollers.turns.mean_duration,
                max_requests=options.max_polls,
                newest_first=is_newest_first(source),
            )
            self.pollers.on_idle = self.sweeper.cancel_all
            self.watched_jobs.list_hints.is_busy = self._is_busy

    def pump(self) -> None:
        """Start to sweep if that saves requests, and poll the jobs that are due."""
        if self.sweeper is not None:
            self.sweeper.pump()
        self.pollers.pump()

    def _is_busy(self, now: float, within: float) -> bool:
        """Return True if a request has waited over 0.1 s for the request budget, now or recently.

        Args:
            now: The present time.
            within: Number of seconds that count as recent.
        """
        if self.pollers.turns.is_busy(now, within=within):
            return True
        return self.sweeper is not None and self.sweeper.turns.is_busy(now, within=within)

    def cancel_all(self) -> None:
        """Forget all jobs, and cancel all polls and sweeps."""
        self.pollers.cancel_all()
        if self.sweeper is not None:
            self.sweeper.cancel_all()

    def close(self) -> set[asyncio.Task[None]]:
        """Cancel all polls and sweeps, and start no new ones; return the tasks that must end."""
        return self.pollers.close() | (set() if self.sweeper is None else self.sweeper.close())

    def timeout_error(self, job_id: str, timeout: float) -> JobTimeoutError:
        """Return the error for a job that has not settled within `timeout` seconds."""
        jobs = self.watched_jobs
        return jobs.failure_rules.timeout_error(job_id, jobs.get(job_id), timeout)

    def stats(self) -> WatcherStats:
        """Return the statistics of this kind of jobs.

        `subscribers` is 0, because one subscriber can have jobs of several kinds.
        """
        counts, list_trust = self.watched_jobs.counts, self.watched_jobs.list_trust
        return WatcherStats(
            watched=len(self.watched_jobs),
            in_flight=self.pollers.in_flight,
            subscribers=0,
            polls=counts.polls,
            settled=counts.settled,
            given_up=counts.given_up,
            sweeping=list_trust.sweeping,
            sweeps=0 if self.sweeper is None else self.sweeper.sweeps,
            list_requests=0 if self.sweeper is None else self.sweeper.requests,
            wasted_polls=list_trust.wasted_polls,
            pending_confirmation=list_trust.pending_confirmation,
            detection_lag=counts.detection_lag(),
        )


class OpenSubscription(Protocol):
    """The part of a subscription that `SubscriptionOwner` and the watcher use."""

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error."""


@define(eq=False)
class NamedJob:
    """A job that the caller has named by an id or a reference.

    Attributes:
        key: Text of the reference: ``KIND/ID``, or only the id if the kind is in the id or is the
            default kind.
        job_id: Id of the job.
        polling: The `KindPolling` that polls the job.
        label: The caller's own name for the job; None if the caller gave no name.
    """

    key: str
    job_id: str
    polling: KindPolling
    label: str | None = None


class SubscriptionOwner:
    """Shared by all subscriptions of one watcher: polls the jobs of each kind.

    Attributes:
        kind: Default kind: the kind of each job whose id does not contain the kind.
        default_polling: `KindPolling` of the default kind.
        by_kind: `KindPolling` of each kind that was used so far; the default kind is first.
        subscriptions: Open subscriptions, oldest first. It is a dict without values, because a set
            has no order.
        tasks: Running tasks of subscriptions: they read ids, or close a subscription.
        closed: True after `close`; then no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    def __init__(
        self, source: JobSource, options: PollingOptions, durations: Mapping[JobKind, Durations]
    ) -> None:
        """Create an object without jobs and subscriptions.

        Args:
            source: The source of the jobs of all kinds.
            options: Objects and settings that all kinds share.
            durations: What is known of how long jobs take, by kind. For a missing kind, a new
                `Durations` is created.
        """
        self._source = source
        self._options = options
        self._durations = durations
        self._rules: dict[str, FailureRules] = {}  # by host of the service
        self.kind = kind_of(source)
        self.by_kind: dict[JobKind, KindPolling] = {}
        self.default_polling = self.add_kind(self.kind)
        self.subscriptions: dict[OpenSubscription, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def close(self) -> set[asyncio.Task[None]]:
        """Cancel all tasks, and start no new ones. The caller must await the returned tasks."""
        self.closed = True
        for task in self.tasks:
            task.cancel()
        return self.tasks.union(*[polling.close() for polling in self.by_kind.values()])

    def add_kind(self, kind: JobKind) -> KindPolling:
        """Create, keep and return the `KindPolling` of a new kind.

        Raises:
            ConfigurationError: The source has no jobs of that kind.
            TypeError: The source has no method `get_job`.
        """
        if (source := for_kind(self._source, kind)) is None:
            raise ConfigurationError(f"the source has no jobs of the kind {kind.name}")
        check_source(source)
        origin = origin_of(source)
        if (rules := self._rules.get(origin)) is None:
            rules = self._rules[origin] = evolve(self._options.failure_rules, host=HostEvidence())
            rules.key.hosts.append(rules.host)
        options = evolve(self._options, failure_rules=rules)
        durations = self._durations.get(kind) or Durations()
        polling = self.by_kind[kind] = KindPolling(kind, source, options, durations)
        return polling

    def pump(self) -> None:
        """For each kind, start to sweep if that saves requests, and poll the jobs that are due."""
        for polling in self.by_kind.values():
            polling.pump()

    def check_open(self) -> None:
        """Raise ClosedError if no subscription may start in the running loop."""
        if self.closed:
            raise ClosedError("the watcher is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError(_OTHER_LOOP)

    def check_loop(self) -> None:
        """Raise ClosedError if the tasks of the watcher are in another event loop that is open.

        The running loop must not wait for such tasks: it would not notice when they end.
        """
        other = None if self.loop is asyncio.get_running_loop() else self.loop
        if other is not None and not other.is_closed():
            raise ClosedError(_OTHER_LOOP)

    def named(self, job: str | JobRef) -> NamedJob:
        """Return the job that is named by an id, by a reference, or by the text of a reference.

        Raises:
            InvalidJobIdError: The id cannot be a job id, or the source has no jobs of that kind.
        """
        if type(job) is str and PLAIN_V1_ID.fullmatch(job):  # a shortcut for nearly all jobs
            return NamedJob(job, job, self.default_polling)
        ref = JobRef.of(job)
        kind, key = ref.kind_or(self.kind), ref.text(self.kind)
        if (polling := self.by_kind.get(kind)) is None:
            try:
                polling = self.add_kind(kind)
            except ConfigurationError as exc:
                raise InvalidJobIdError(job_id=key, reason=str(exc)) from None
        return NamedJob(key, ref.job_id, polling, ref.label)

    def find(self, key: str) -> NamedJob | None:
        """Return the job with the key `key`; None if no job of its kind was named yet."""
        kind, job_id = self.kind_and_id(key)
        polling = self.by_kind.get(kind)
        return None if polling is None else NamedJob(key, job_id, polling)

    def kind_and_id(self, key: str) -> tuple[JobKind, str]:
        """Return the kind and the id of the job with the key `key`.

        If the id is invalid, the kind is the default kind.
        """
        return kind_and_id(key, self.kind, self.by_kind)

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        return [
            key for polling in self.by_kind.values() for key in polling.pollers.keys_in_flight()
        ]

    def overdue(self) -> int:
        """Return about how many due jobs wait for a poller.

        Subscriptions read no further ids while this number is large. If jobs at two hosts are
        watched, or were polled before, the waiting jobs of each host are counted, and the smaller
        number is returned. So a slow host does not delay the reading of ids of jobs at the other
        host.
        """
        by_host: dict[HostEvidence, int] = {}
        for jobs in [polling.watched_jobs for polling in self.by_kind.values()]:
            host = jobs.failure_rules.host
            if host.was_polled or len(jobs):
                by_host[host] = by_host.get(host, 0) + jobs.poll_queue.overdue
        return min(by_host.values(), default=0)


_OTHER_LOOP: Final = "the watcher belongs to another event loop; create one for each loop"
