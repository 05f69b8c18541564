"""When to look at a job next: pure functions of what is known of it. Imports durations.

All times are seconds.
"""

import math
from random import Random
from typing import Any, Final, Protocol, runtime_checkable

from attrs import Attribute, define, field, frozen

from adepoll.scheduling.durations import PRIOR, Law
from adepoll.scheduling.inspection_plan import Plan, make_plan


@define(kw_only=True)  # one is made at every look, and a frozen one takes twice as long
class PollContext:
    """What a schedule is told of a job.

    Attributes:
        polls: Looks at it so far: those that brought an answer, and failures since the last one.
        watched_for: Seconds since the watcher was told of it.
        age: Seconds since the service received it; None where that is not known.
        failures: Looks that failed since the last that brought an answer.
        law: What is known of how long jobs take.
        surprise: Lag that came of looks, relative to the one that `law` had led to expect.
    """

    polls: int
    watched_for: float
    age: float | None = None
    failures: int = 0
    law: Law = PRIOR
    surprise: float = 1.0


class Schedule(Protocol):
    """Says how long to wait until the next look at a job.

    The first look is at once, where the schedule is not `Foresighted`.
    """

    def delay(self, job: PollContext, rng: Random) -> float:
        """Give the seconds from now to the next look.

        Args:
            job: What is known of the job.
            rng: Source of jitter, so that a herd spreads and a run can be replayed.
        """


@runtime_checkable
class Aimed(Protocol):
    """A schedule that aims at a lag, which sweeps of the list can then aim at, too."""

    @property
    def target_lag(self) -> float:
        """Mean seconds from the end of a job to the look that sees it."""


@runtime_checkable
class Foresighted(Protocol):
    """A schedule that knows when to look first at a job that is new."""

    def first_delay(self, job: PollContext, rng: Random, *, risk: float) -> float:
        """Give the seconds from now to the first look; 0 for at once.

        Args:
            job: What is believed of the job.
            rng: As for `Schedule.delay`.
            risk: The chance that the job is an old one, and may have ended long ago.
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


def _spread(delay: float, jitter: float, rng: Random) -> float:
    return delay * rng.uniform(1 - jitter, 1 + jitter) if jitter else delay


@frozen(kw_only=True)
class Fixed:
    """Look every `interval` seconds.

    Attributes:
        interval: Seconds between looks.
        jitter: Share of the interval by which a wait may be shorter or longer, 0 to 1.
    """

    interval: float = field(default=5.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: PollContext, rng: Random) -> float:  # noqa: ARG002 - the same for every job
        """Give the seconds from now to the next look."""
        return _spread(self.interval, self.jitter, rng)


@frozen(kw_only=True)
class Exponential:
    """Look often at first and ever less often: `initial` x `factor` ** looks, up to `maximum`.

    Attributes:
        initial: Seconds between the first look and the second.
        factor: Growth from wait to wait, 1 or more.
        maximum: Longest wait, seconds.
        jitter: Share of a wait by which it may be shorter or longer, 0 to 1.
    """

    initial: float = field(default=1.0, validator=_positive)
    factor: float = field(default=1.5, validator=_growth)
    maximum: float = field(default=10.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: PollContext, rng: Random) -> float:
        """Give the seconds from now to the next look."""
        try:
            wait = self.initial * self.factor ** max(job.polls - 1, 0)
        except OverflowError:
            wait = self.maximum
        return _spread(min(wait, self.maximum), self.jitter, rng)


@define(eq=False, kw_only=True)
class Adaptive:
    """Look when a job is likely to have ended, by what has been learnt of how long jobs take.

    Attributes:
        target_lag: Mean seconds from the end of a job to the look that sees it. Half of it costs
            twice as many looks.
        minimum: Shortest wait, seconds.
        maximum: Longest wait, seconds: no job is looked at later than that after the last look,
            however sure it seems that it goes on.
        jitter: Share by which the effort (see `Plan`) from look to look may be less or more.
    """

    target_lag: float = field(default=2.0, validator=_positive)
    minimum: float = field(default=0.25, validator=_positive)
    maximum: float = field(default=60.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)
    _plans: dict[int, Plan] = field(factory=dict, init=False, repr=False)  # by id of their law

    def __attrs_post_init__(self) -> None:
        """Refuse bounds between which there is nothing."""
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum must be at most maximum, got {self.minimum} and {self.maximum}"
            )

    def delay(self, job: PollContext, rng: Random) -> float:
        """Give the seconds from now to the next look."""
        plan = self._plans.get(id(job.law)) or self.plan(job.law, surprise=job.surprise)
        age = job.watched_for if job.age is None else job.age
        wait = plan.wait(age, stretch=rng.uniform(1 - self.jitter, 1 + self.jitter))
        if job.failures:
            # Whatever ails the service, being asked ever less often does it good.
            wait = min(self.maximum, max(wait, self.target_lag * 2.0 ** min(job.failures, 32)))
            wait *= rng.uniform(1 - self.jitter, 1)
        return wait

    def first_delay(self, job: PollContext, rng: Random, *, risk: float) -> float:
        """Give the seconds to the first look at a job that is new; 0 where it may well be old.

        To wait spares a look. Should the job be an old one, it costs all of the wait in lag.
        """
        wait = self.delay(job, rng)
        return wait if risk * wait <= self.plan(job.law).price else 0.0

    def plan(self, law: Law, *, surprise: float = 1.0) -> Plan:
        """Give the plan for jobs of that law; it is made once for each.

        Args:
            law: How long jobs take.
            surprise: As in `PollContext`: where the lag is not as expected, another is aimed at.
        """
        plan = self._plans.get(id(law))
        if plan is None:
            correction = min(max(1 / surprise, 1 / _MOST_CORRECTION), _MOST_CORRECTION)
            plan = make_plan(
                law,
                target_lag=self.target_lag * correction,
                minimum=self.minimum,
                maximum=self.maximum,
            )
            while len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[id(law)] = plan  # which keeps the law, so that no other has its id
        return plan


_MOST_CORRECTION: Final = 1.5
_PLANS_KEPT: Final = 4  # more than one, should watchers of several kinds of jobs share a schedule
