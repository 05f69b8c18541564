"""The kinds of jobs that a watcher polls, and which kind each named job has.

`KindPolling` polls the jobs of one kind and sweeps their list. The kinds share the semaphore, the
request budget of the client and what is known of the service, and learn for themselves how long
jobs take. `SubscriptionHost` has all kinds of one watcher. Imports list_sweeper and pollers.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Protocol

from attrs import define, evolve, frozen

from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import V2_LETTERS, JobKind, JobRef, kind_and_id
from adepoll.api.source import (
    JobSource,
    clock_of,
    for_kind,
    for_polling,
    is_newest_first,
    kind_of,
)
from adepoll.common.tasks import finish
from adepoll.errors import ClosedError, ConfigurationError, InvalidJobIdError
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.listing import Discovery
from adepoll.watching.pollers import Pollers
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.statistics import WatcherStats
from adepoll.watching.sweep_policy import SweepPolicy
from adepoll.watching.watched_jobs import WatchedJobs


@frozen(kw_only=True)
class PollingOptions:
    """What the kinds of one watcher have in common.

    Attributes:
        semaphore: Held during each request.
        workers: Maximum number of polls in flight of one kind.
        schedule: Chooses when a job is polled again.
        discovery: How settled jobs are found.
        failure_rules: When a job is given up, with what is known of the service.
        rng: Source of jitter.
        on_fatal: Called with an error that ends everything.
    """

    semaphore: AbstractAsyncContextManager[object]
    workers: int
    schedule: Schedule
    discovery: Discovery
    failure_rules: FailureRules
    rng: Random
    on_fatal: Callable[[BaseException], None]


class KindPolling:
    """Polls the jobs of one kind.

    Attributes:
        kind: The kind.
        watched_jobs: The watched jobs, and when to poll each.
        pollers: Poll them.
        sweeper: Sweeps their list; None if that is not wanted.
    """

    def __init__(
        self, kind: JobKind, source: JobSource, options: PollingOptions, durations: Durations
    ) -> None:
        """Poll nothing yet.

        Args:
            kind: Kind of the jobs.
            source: A source of jobs of this kind only.
            options: What all kinds have in common.
            durations: What is known of how long the jobs take.
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
            max_workers=options.workers,
            semaphore=options.semaphore,
            on_fatal=options.on_fatal,
        )
        self.watched_jobs.on_due = self.pollers.pump
        self.sweeper: ListSweeper | None = None
        if options.discovery != "get":
            self.sweeper = ListSweeper(
                self.watched_jobs,
                for_polling(source, options.semaphore),
                SweepPolicy(
                    discovery=options.discovery, target_lag=self.watched_jobs.timing.target_lag
                ),
                on_due=self.pollers.pump,
                on_fatal=options.on_fatal,
                newest_first=is_newest_first(source),
            )
            self.pollers.on_idle = self.sweeper.cancel_all

    def pump(self) -> None:
        """Start to sweep if that saves requests, then poll the jobs that are due."""
        if self.sweeper is not None:
            self.sweeper.pump()
        self.pollers.pump()

    def cancel_all(self) -> None:
        """Forget all jobs, and cancel all that runs."""
        self.pollers.cancel_all()
        if self.sweeper is not None:
            self.sweeper.cancel_all()

    async def aclose(self) -> None:
        """Start nothing further, and wait for the end of all tasks."""
        await finish(set() if self.sweeper is None else self.sweeper.close())
        await self.pollers.aclose()

    def stats(self) -> WatcherStats:
        """Return what is done now, and was done so far, without subscribers."""
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
    """A subscription, as its host knows it."""

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error."""


@define(eq=False)
class NamedJob:
    """A job that the caller has named.

    Attributes:
        key: Text of the reference: ``KIND/ID``, or only the id if the kind follows from it.
        job_id: Id of the job.
        polling: Polls the jobs of its kind.
        label: The caller's own name for the job.
    """

    key: str
    job_id: str
    polling: KindPolling
    label: str | None = None


class SubscriptionHost:
    """The kinds of jobs that a watcher polls, and its open subscriptions.

    Attributes:
        kind: The watcher's own kind of jobs.
        own: Polls the jobs of that kind.
        by_kind: Polls the jobs of each kind that was named so far; the own kind is the first.
        subscriptions: Open subscriptions; a dict, as a set keeps no order.
        tasks: Tasks that read ids, or end subscriptions.
        closed: True if no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    def __init__(
        self, source: JobSource, options: PollingOptions, durations: Mapping[JobKind, Durations]
    ) -> None:
        """Poll nothing yet.

        Args:
            source: Answers the polls of all kinds.
            options: What all kinds have in common.
            durations: What is known of how long jobs take, by kind.
        """
        self._source = source
        self._options = options
        self._durations = durations
        self.kind = kind_of(source)
        self.by_kind: dict[JobKind, KindPolling] = {}
        self.own = self.add_kind(self.kind)
        self.subscriptions: dict[OpenSubscription, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def add_kind(self, kind: JobKind) -> KindPolling:
        """Return what polls the jobs of a new kind.

        Raises:
            ConfigurationError: The source has no jobs of that kind.
        """
        if (source := for_kind(self._source, kind)) is None:
            raise ConfigurationError(f"the source has no jobs of the kind {kind.name}")
        durations = self._durations.get(kind) or Durations()
        polling = self.by_kind[kind] = KindPolling(kind, source, self._options, durations)
        return polling

    def pump(self) -> None:
        """Start to sweep where that saves requests, then poll the jobs that are due."""
        for polling in self.by_kind.values():
            polling.pump()

    def check_open(self) -> None:
        """Raise ClosedError if no subscription may start in the running loop."""
        if self.closed:
            raise ClosedError("the watcher is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError("the watcher belongs to another event loop; make one for each")

    def named(self, job: str | JobRef) -> NamedJob:
        """Return the job that a text or reference means.

        Raises:
            InvalidJobIdError: The id cannot be a job id, or the source has no jobs of that kind.
        """
        if is_plain(job) and job[0] not in V2_LETTERS:  # nearly all jobs, quickly
            return NamedJob(job, job, self.own)
        ref = JobRef.of(job).resolved(self.kind)
        kind = ref.kind or self.kind
        key = ref.text(self.kind)
        if (polling := self.by_kind.get(kind)) is None:
            try:
                polling = self.add_kind(kind)
            except ConfigurationError as exc:
                raise InvalidJobIdError(job_id=key, reason=str(exc)) from None
        return NamedJob(key, ref.job_id, polling, ref.label)

    def find(self, key: str) -> NamedJob | None:
        """Return the job with that key; None if no job of its kind was named."""
        kind, job_id = self.kind_and_id(key)
        polling = self.by_kind.get(kind)
        return None if polling is None else NamedJob(key, job_id, polling)

    def kind_and_id(self, key: str) -> tuple[JobKind, str]:
        """Return the kind and the id that a key consists of; an invalid id has the own kind."""
        return kind_and_id(key, self.kind, self.by_kind)

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        return [
            key for polling in self.by_kind.values() for key in polling.pollers.keys_in_flight()
        ]

    def overdue(self) -> int:
        """Return the number of jobs that are due, and wait for a poller."""
        return sum([polling.watched_jobs.poll_queue.overdue for polling in self.by_kind.values()])
