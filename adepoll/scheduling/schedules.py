"""When to poll a job next: pure functions of what is known of it. Imports the rest of scheduling.

All times are seconds. `watching.schedule_calls` applies them; after a failed poll,
`watching.failure_handling` limits the delay, and during list sweeps `watching.list_hints` does.
"""

import math
from random import Random
from typing import Any, Final, Protocol, runtime_checkable

from attrs import Attribute, define, field, frozen

from adepoll.scheduling.distribution import PRIOR, Distribution
from adepoll.scheduling.inspection_plan import OFFICIAL_LAG, Plan, make_plan, official_lag
from adepoll.scheduling.lag_bound import (
    LONGEST_AFTER_FAILURE,
    bound_while_waiting,
    bound_while_watching,
)


@define(kw_only=True)  # created for every poll; frozen would take twice as long
class PollContext:
    """What a schedule knows of a job.

    Attributes:
        polls: All successful polls, plus the failed polls since the last success.
        watched_for: Seconds since the watcher got the job.
        age: Seconds since the service received the job; None if unknown.
        failures: Failed polls since the last successful one.
        awaited_for: Seconds for which somebody has waited for the job itself; None if nobody does.
        distribution: What is known of how long jobs take.
        lag_ratio: Observed detection lag divided by the lag expected from `distribution`.
    """

    polls: int
    watched_for: float
    age: float | None = None
    failures: int = 0
    awaited_for: float | None = None
    distribution: Distribution = PRIOR
    lag_ratio: float = 1.0


class Schedule(Protocol):
    """Chooses the delay until the next poll of a job.

    The first poll is immediate, unless the schedule is a `FirstPollSchedule` as well.
    """

    def delay(self, job: PollContext, rng: Random) -> float:
        """Return the seconds from now until the next poll.

        Args:
            job: What is known of the job.
            rng: Source of jitter, which keeps polls apart and makes runs reproducible.
        """


@runtime_checkable
class LagSchedule(Protocol):
    """A schedule with a target for the detection lag, which list sweeps use as well."""

    @property
    def target_lag(self) -> float:
        """Mean detection lag to aim at, in seconds."""


@runtime_checkable
class FirstPollSchedule(Protocol):
    """A schedule that chooses the time of a new job's first poll, too."""

    def first_delay(self, job: PollContext, rng: Random, *, old_share: float) -> float:
        """Return the seconds from now until the first poll; 0 to poll immediately.

        Args:
            job: What is assumed of the job.
            rng: As for `Schedule.delay`.
            old_share: Probability that the job is old, and may have settled long ago.
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
class Fixed:
    """Poll every `interval` seconds.

    Attributes:
        interval: Seconds between two polls.
        jitter: Largest random change of a delay, as a share of it, 0 to below 1.
    """

    interval: float = field(default=5.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: PollContext, rng: Random) -> float:  # noqa: ARG002 - the same for all jobs
        """Return the seconds from now until the next poll."""
        return _with_jitter(self.interval, self.jitter, rng)


@frozen(kw_only=True)
class Exponential:
    """Poll ever less often: after `initial` x `factor` ** (polls - 1) seconds, up to `maximum`.

    Attributes:
        initial: Seconds between the first and the second poll.
        factor: Growth from delay to delay, 1 or more.
        maximum: Longest delay, in seconds.
        jitter: Largest random change of a delay, as a share of it, 0 to below 1.
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
class Adaptive:
    """Poll when a job is likely to have settled, by what was learnt of how long jobs take.

    Attributes:
        target_lag: Mean detection lag to aim at, in seconds. Half of it costs twice as many polls.
            The aim is the mean lag of the official SDK's waiter if that is shorter, as for jobs of
            a few seconds, unless the target is above 5 s.
        minimum: Shortest delay, in seconds, also where the lag bound is shorter.
        maximum: Longest delay, in seconds, at ages at which jobs hardly ever end, and while polls
            fail. Elsewhere a delay is at most 7 s, or twice the target if that is more. The lag
            bound is shorter in a job's first seconds, and if somebody waits for it (see
            `lag_bound`).
        jitter: Largest random change of the effort between two polls (see `Plan`), as a share of
            it, 0 to below 1.
    """

    target_lag: float = field(default=2.0, validator=_positive)
    minimum: float = field(default=0.25, validator=_positive)
    maximum: float = field(default=60.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)
    _plans: dict[int, Plan] = field(factory=dict, init=False, repr=False)  # by id of distribution

    def __attrs_post_init__(self) -> None:
        """Raise ValueError if `minimum` is above `maximum`."""
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum must be at most maximum, got {self.minimum} and {self.maximum}"
            )

    def delay(self, job: PollContext, rng: Random) -> float:
        """Return the seconds from now until the next poll."""
        plan = self._plans.get(id(job.distribution)) or self.plan(
            job.distribution, lag_ratio=job.lag_ratio
        )
        age = job.watched_for if job.age is None else job.age
        stretch = rng.uniform(1 - self.jitter, 1 + self.jitter)
        shorten = (stretch + 1 - self.jitter) / 2  # 1 at most: jitter must not exceed the bound
        delay = plan.delay(age, stretch=stretch, shorten=shorten)
        if job.awaited_for is not None:
            bound = bound_while_waiting(job.awaited_for)
        elif job.watched_for < age:
            bound = bound_while_watching(job.watched_for, self.target_lag)
        else:
            bound = math.inf
        delay = max(min(delay, bound * shorten), self.minimum)
        if job.failures:
            # Whatever is wrong with the service, fewer requests help it.
            delay = max(delay, self.target_lag * 2.0 ** min(job.failures, 32))
            maximum = self.maximum if job.awaited_for is None else LONGEST_AFTER_FAILURE
            delay = min(delay, maximum, self.maximum)
            delay *= rng.uniform(1 - self.jitter, 1)
        return delay

    def first_delay(self, job: PollContext, rng: Random, *, old_share: float) -> float:
        """Return the seconds until the first poll of a new job; 0 if it may well be old.

        A later first poll saves a poll. If the job is old, all of the delay is lag.
        """
        delay = self.delay(job, rng)
        return delay if old_share * delay <= self.plan(job.distribution).price else 0.0

    def aim(self, distribution: Distribution) -> float:
        """Return the mean lag to aim at for jobs of a distribution, in seconds.

        Less than `target_lag` if the jobs are so short that the official SDK's waiter does better.
        """
        if self.target_lag > OFFICIAL_LAG:
            return self.target_lag
        return min(self.target_lag, official_lag(distribution))

    def plan(self, distribution: Distribution, *, lag_ratio: float = 1.0) -> Plan:
        """Return the plan for jobs of a distribution; it is made once for each.

        Args:
            distribution: How long jobs take.
            lag_ratio: As in `PollContext`; the plan aims at another lag to make up for it.
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
            # The plan refers to the distribution, so that no other object gets the same id.
            self._plans[id(distribution)] = plan
        return plan


_MAX_CORRECTION: Final = 1.5
_PLANS_KEPT: Final = 4  # more than one, as watchers may share a schedule
