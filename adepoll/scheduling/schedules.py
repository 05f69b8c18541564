"""The schedules: they choose the delay until the next poll of a job. No I/O.

Other modules decide about the next poll, too. Each has a docstring that says more:

1. `watching.schedule_calls` calls the schedule: in most cases `Adaptive.delay`, in this module.
2. `inspection_plan` computes the delay (`Plan.delay`): polls are frequent at ages at which many
   jobs settle.
3. `lag_bound` limits the delay.
4. `watching.poll_times` sets the time of the next poll. `watching.watched_jobs` calls it when
   somebody begins to watch a job or to wait for it (`WatchedJobs.subscribe`), and after a poll
   (`succeeded`, `failed` and `cancelled`). The next poll is earlier than the schedule says if the
   progress of the job promises an earlier end (`ScheduleCalls.expected_end`), while it is not
   known yet whether jobs take only seconds (`ScheduleCalls.early_delay`), and for a few new jobs
   (`ScheduleCalls.polls_early`). It is immediate when jobs have become much shorter, after
   `JobWatcher.poll_now`, and when a buffer has room again (`WatchedJobs.wake`).
5. After a failed poll, `watching.failure_handling` can make the next poll earlier or later.
6. During list sweeps, the list replaces polls. `watching.listing` decides for how long
   (`ListTrust.trusted_until`). `watching.list_hints` makes jobs due that are missing from the list,
   and postpones polls that the next sweep can replace (`ListHints.postponed_to`).
   `watching.list_checks` makes a few listed jobs due, to check the list. `watching.sweep_policy`
   decides when the list is read.
7. `watching.left_jobs` keeps the time of the next poll for ten seconds after the last `wait` for a
   job has ended.
8. `watching.poll_queue` decides the order, if more jobs are due than can be polled.
9. `watching.pollers` starts the poll. A due job waits while no subscriber has room in its buffer
   (`JobState.reserve_places`), while other polls wait for the request budget (`PollTurns`),
   and until the request budget allows the request (`throttling.rate_limiter`).

All times are seconds.
"""

import math
from random import Random
from typing import Any, Final, Protocol, runtime_checkable

from attrs import Attribute, define, field, frozen

from adepoll.common.safe_repr import SafeRepr
from adepoll.scheduling.distribution import PRIOR, Distribution
from adepoll.scheduling.inspection_plan import OFFICIAL_LAG, Plan, make_plan, official_lag
from adepoll.scheduling.lag_bound import (
    LONGEST,
    LONGEST_AFTER_FAILURE,
    LONGEST_FOR_FEW,
    bound_while_waiting,
    bound_while_watching,
)


@define(kw_only=True)  # created for every poll; frozen would take twice as long
class PollContext(SafeRepr):
    """What a schedule knows of a job.

    Attributes:
        polls: Number of successful polls, plus the failed polls since the last successful poll.
        watched_for: Seconds since the watcher got the job.
        age: Seconds since the service received the job; None if unknown.
        failures: Number of failed polls since the last successful poll.
        awaited_for: Seconds for which somebody has waited for the job; None if nobody waits.
        distribution: What is known of how long jobs take.
        lag_ratio: Observed detection lag divided by the lag that was expected from `distribution`.
        quiet_delay: Longest delay at ages at which jobs hardly ever end, and after failed polls, in
            seconds. It is longer if many jobs are active.
    """

    polls: int
    watched_for: float
    age: float | None = None
    failures: int = 0
    awaited_for: float | None = None
    distribution: Distribution = PRIOR
    lag_ratio: float = 1.0
    quiet_delay: float = LONGEST_FOR_FEW


class Schedule(Protocol):
    """Chooses the delay until the next poll of a job.

    The first poll is immediate, unless the schedule is also a `FirstPollSchedule`.
    """

    def delay(self, job: PollContext, rng: Random) -> float:
        """Return the seconds from now until the next poll: a finite number of 0 or more.

        An error, or any other number, ends all watches and waits of the watcher.

        Args:
            job: What is known of the job.
            rng: Source of random numbers for jitter, so that polls do not come at the same moment.
                With a fixed seed, a run is reproducible.
        """


@runtime_checkable
class LagSchedule(Protocol):
    """A schedule that aims at a mean detection lag. List sweeps aim at it, too."""

    @property
    def target_lag(self) -> float:
        """Mean time to aim at, in seconds, from a job's end to the poll that observes it."""


@runtime_checkable
class FirstPollSchedule(Protocol):
    """A schedule that also chooses when a new job is polled for the first time."""

    def first_delay(self, job: PollContext, rng: Random, *, old_share: float) -> float:
        """Return the seconds from now until the first poll; 0 to poll immediately.

        Args:
            job: The context of a new job: its age is 0 s, and it was never polled.
            rng: Source of jitter.
            old_share: Probability that the job is not new, so that it may have settled already. A
                new job was received by the service at most 2 s before the watcher got it.
        """


def _positive(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{attribute.name} must be a positive number, got {value}")


def _share(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} must be at least 0 and below 1, got {value}")


def _growth(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(f"{attribute.name} must be at least 1, got {value}")


def _with_jitter(delay: float, jitter: float, rng: Random) -> float:
    return delay * rng.uniform(1 - jitter, 1 + jitter) if jitter else delay


@frozen(kw_only=True)
class Fixed(SafeRepr):
    """Poll every `interval` seconds.

    Attributes:
        interval: Seconds between two polls.
        jitter: Largest random change of a delay, as a share of the delay, 0 to below 1.

    Raises:
        ValueError: A number is out of range.
    """

    interval: float = field(default=5.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: PollContext, rng: Random) -> float:  # noqa: ARG002 - the same for all jobs
        """Return the seconds from now until the next poll."""
        return _with_jitter(self.interval, self.jitter, rng)


@frozen(kw_only=True)
class Exponential(SafeRepr):
    """Poll less and less often: each delay is `factor` times as long as the previous delay.

    Attributes:
        initial: Seconds between the first and the second poll.
        factor: Growth from delay to delay, 1 or more.
        maximum: Longest delay without jitter, in seconds.
        jitter: Largest random change of a delay, as a share of the delay, 0 to below 1.

    Raises:
        ValueError: A number is out of range.
    """

    initial: float = field(default=1.0, validator=_positive)
    factor: float = field(default=1.5, validator=_growth)
    maximum: float = field(default=10.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: PollContext, rng: Random) -> float:
        """Return the seconds from now until the next poll."""
        try:
            delay = self.initial * self.factor ** max(job.polls - 1, 0)
        except OverflowError:
            delay = self.maximum
        return _with_jitter(min(delay, self.maximum), self.jitter, rng)


@define(eq=False, kw_only=True)
class Adaptive(SafeRepr):
    """Poll often at ages at which a job probably settles, as learnt from earlier jobs.

    No delay is longer than the lag bound: at most 7 s, or twice the target lag if that is longer.
    The bound is shorter in the first seconds of a job, and if somebody waits for the job. `minimum`
    and `maximum` can make a delay longer; `lag_bound` has the exact rules.

    Attributes:
        target_lag: Mean detection lag to aim at, in seconds: the time from a job's end to the poll
            that observes it. Half of the lag needs about twice as many polls. If `target_lag` is at
            most 5 s, `Adaptive` aims at a shorter lag for jobs that take only seconds; see `aim`.
        minimum: Shortest delay, in seconds, even if the lag bound is shorter.
        maximum: Longest delay, in seconds, after failed polls and at quiet ages: ages at which jobs
            hardly ever end. In both cases, the limit is 10 s if at most 12 jobs are active, and
            40 s if 50 jobs are. After failed polls of a job that somebody waits for, it is 10 s.
            `minimum` can be longer than these limits.
        jitter: Largest random change of a delay, as a share of the delay, 0 to below 1.

    Raises:
        ValueError: A number is out of range, or `minimum` is above `maximum`.
    """

    target_lag: float = field(default=2.0, validator=_positive)
    minimum: float = field(default=0.25, validator=_positive)
    maximum: float = field(default=60.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)
    _plans: dict[int, Plan] = field(factory=dict, init=False, repr=False)  # by id(distribution)

    def __attrs_post_init__(self) -> None:
        """Raise ValueError if `minimum` is above `maximum`."""
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum must be at most maximum, got {self.minimum} and {self.maximum}"
            )

    @property
    def longest(self) -> float:
        """Longest delay without failed polls at ages that are not quiet, in seconds."""
        return max(LONGEST, 2 * self.target_lag, self.minimum)

    def delay(self, job: PollContext, rng: Random) -> float:
        """Return the seconds from now until the next poll."""
        plan = self._plans.get(id(job.distribution)) or self.plan(
            job.distribution, lag_ratio=job.lag_ratio
        )
        age = job.watched_for if job.age is None else job.age
        stretch = rng.uniform(1 - self.jitter, 1 + self.jitter)
        shorten = (stretch + 1 - self.jitter) / 2  # at most 1, so that no delay exceeds the bound
        quiet_delay = job.quiet_delay
        if quiet_delay > LONGEST_FOR_FEW and self.jitter:
            # Jobs of the same age must not all have their long delays at the same time.
            quiet_delay = rng.uniform(LONGEST_FOR_FEW, min(quiet_delay, self.maximum))
        delay = plan.delay(age, stretch=stretch, shorten=shorten, quiet_delay=quiet_delay)
        if job.awaited_for is not None:
            bound = bound_while_waiting(job.awaited_for)
            if age >= plan.unknown_from:
                bound = min(bound, 2 * self.target_lag)  # see `lag_bound`
        elif job.watched_for < age:
            bound = bound_while_watching(job.watched_for, self.target_lag)
        else:
            bound = math.inf
        delay = max(min(delay, bound * shorten), self.minimum)
        if job.failures:
            # Fewer requests help the service, whatever the reason of the failures is.
            delay = max(delay, self.target_lag / 2 * 2.0 ** min(job.failures - 1, 32))
            maximum = LONGEST_AFTER_FAILURE
            if job.awaited_for is None:
                maximum = max(maximum, job.quiet_delay)
            delay = min(delay, maximum, self.maximum)
            delay = max(delay * rng.uniform(1 - self.jitter, 1), self.minimum)
        return delay

    def first_delay(self, job: PollContext, rng: Random, *, old_share: float) -> float:
        """Return the seconds until the first poll of a job that is probably new.

        A delay saves a poll if the job is new. If the job is old, its end is detected later. So
        return 0 if ``old_share * delay`` is more than the price of a poll (`Plan.price`).
        """
        delay = self.delay(job, rng)
        return delay if old_share * delay <= self.plan(job.distribution).price else 0.0

    def aim(self, distribution: Distribution) -> float:
        """Return the mean detection lag to aim at, in seconds, for jobs with these durations.

        A `target_lag` above 5 s is returned unchanged. A shorter one is limited by the mean lag
        that the official SDK's waiter would have with these jobs. For jobs that take only seconds,
        this mean lag is below 2.5 s. Then three quarters of it are the limit: the first jobs end
        before it is known how long jobs take, so their lag is longer.
        """
        if self.target_lag > OFFICIAL_LAG:
            return self.target_lag
        official = official_lag(distribution)
        if official < _SHORT_LAG:
            official *= _SHARE_OF_SHORT_LAG
        return min(self.target_lag, official)

    def plan(self, distribution: Distribution, *, lag_ratio: float = 1.0) -> Plan:
        """Return the plan for jobs with these durations. It is kept for later calls.

        Args:
            distribution: How long jobs take.
            lag_ratio: Observed detection lag divided by expected lag. It is limited to the range
                from 2/3 to 1.5; then the lag at which the plan aims is divided by it.
        """
        plan = self._plans.get(id(distribution))
        if plan is None:
            correction = min(max(1 / lag_ratio, 1 / _MAX_CORRECTION), _MAX_CORRECTION)
            correction *= self.aim(distribution) / self.target_lag
            plan = make_plan(
                distribution,
                target_lag=self.target_lag,
                minimum=self.minimum,
                maximum=self.maximum,
                correction=correction,
            )
            while len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            # The plan keeps the distribution alive, so no other distribution gets the same id.
            self._plans[id(distribution)] = plan
        return plan


def checked_schedule(schedule: Schedule | None) -> Schedule:
    """Return the schedule that a caller has passed, or `Adaptive()` for None.

    Raises:
        TypeError: The object is no schedule, for example the class of a schedule.
    """
    if schedule is None:
        return Adaptive()
    if isinstance(schedule, type) or not callable(getattr(schedule, "delay", None)):
        raise TypeError(
            f"schedule must be an object with a method delay, such as Adaptive(), got {schedule!r}"
        )
    return schedule


_SHORT_LAG: Final = 2.5  # seconds; the mean lag of the SDK's waiter is shorter for short jobs
_SHARE_OF_SHORT_LAG: Final = 0.75  # aim for short jobs, as a share of that lag
_MAX_CORRECTION: Final = 1.5  # largest factor by which `lag_ratio` makes the aim longer or shorter
# Plans that a schedule keeps. A watcher has one distribution for each kind of jobs, and the service
# has five kinds. Several watchers can share a schedule.
_PLANS_KEPT: Final = 8
