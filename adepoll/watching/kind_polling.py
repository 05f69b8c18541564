"""KindPolling: the jobs of one kind, and what polls them and sweeps their list.

A watcher has one for each kind. They share the semaphore, the request budget of the client and what
is known of the service, and learn for themselves how long jobs take. Imports list_sweeper and
pollers.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random

from attrs import evolve, frozen

from adepoll.api.job_kind import JobKind
from adepoll.api.source import JobSource, clock_of, for_polling, is_newest_first
from adepoll.common.tasks import finish
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.policies import Schedule
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.listing import Discovery
from adepoll.watching.poll_timing import PollTiming
from adepoll.watching.pollers import Pollers
from adepoll.watching.semaphore import Turns
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
            PollTiming(schedule=options.schedule, rng=options.rng, learning=learning),
            options.failure_rules,
            uses_list=options.discovery != "get",
            kind=kind,
        )
        turns = Turns(options.semaphore)
        self.pollers = Pollers(
            self.watched_jobs,
            for_polling(source, turns),
            max_workers=options.workers,
            turns=turns,
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
