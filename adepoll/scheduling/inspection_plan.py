"""The inspection plan behind the adaptive schedule: pure functions.

Imports distribution and lag_bound. All times are seconds; ages are those of a job.
"""

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from attrs import field, frozen

from adepoll.scheduling.distribution import EDGES, WIDTHS, Distribution, bin_index
from adepoll.scheduling.lag_bound import LONGEST, bound_while_watching

_WIDTHS: Final = (*WIDTHS, EDGES[-1])  # the last bin has no end
_MAX_CHANCE: Final = 1 - 1e-9  # a chance of 1 is an infinite hazard


@frozen(eq=False)
class Plan:
    """When to poll jobs of one distribution, so that few polls lead to a short detection lag.

    To trade lag against polls, poll with density ``n(a) = sqrt(h(a) / 2c)``, where h is the hazard
    of completion at age a and c the price of a poll in seconds of lag (R. E. Barlow, L. C. Hunter &
    F. Proschan, J. SIAM 11, 1963; J. B. Keller, Management Science 21, 1974). In other words: from
    poll to poll the integral of sqrt(h), here called effort, grows by the step ``sqrt(2c)``.

    Attributes:
        distribution: How long jobs take.
        step: Effort between two polls.
        minimum: Shortest delay.
        maximum: Longest delay at quiet ages (see `lag_bound`).
        target_lag: Mean lag that the caller asked for; half of the longest delay at first.
        stride: Longest delay at ages beyond the known ones; a quarter of the age if that is more.
    """

    distribution: Distribution
    step: float
    minimum: float
    maximum: float
    target_lag: float
    stride: float
    _roots: Sequence[float] = field(repr=False)  # square root of the hazard, by bin
    _efforts: Sequence[float] = field(repr=False)  # up to each edge

    def delay(self, age: float, *, stretch: float = 1.0, shorten: float = 1.0) -> float:
        """Return the seconds until the next poll of a job that is active at an age.

        Args:
            age: Age of the job.
            stretch: Factor of the step, for jitter.
            shorten: Factor of the lag bound, at most 1, for jitter.
        """
        number = bin_index(age)
        effort = self._efforts[number] + (age - EDGES[number]) * self._roots[number]
        effort += self.step * stretch
        until = bisect_right(self._efforts, effort, number) - 1
        rest = (effort - self._efforts[until]) / self._roots[until]
        delay = EDGES[until] + rest - age
        # At unknown ages many jobs may settle, although few have at the known ones.
        unknown = max(age, EDGES[self.distribution.known])
        delay = min(delay, unknown - age + stretch * max(self.stride, unknown * _STRIDE))
        return max(min(delay, self.bound(age, number) * shorten), self.minimum)

    def bound(self, age: float, number: int) -> float:
        """Return the lag bound: the longest delay at an age, which is in bin `number`."""
        longest = max(LONGEST, 2 * self.target_lag)
        quiet = self.distribution.quiet
        if number < len(quiet) and quiet[number]:
            longest += quiet[number] - age
        return min(longest, bound_while_watching(age, self.target_lag), self.maximum)

    @property
    def price(self) -> float:
        """Price of a poll, in seconds of lag."""
        return self.step**2 / 2

    def cost(self) -> tuple[float, float]:
        """Return mean lag and mean number of polls of jobs that are watched from age 0 on."""
        age, active, lag, polls = 0.0, 1.0, 0.0, 1.0
        for _ in range(_MAX_POLLS):
            if active <= _RARE:
                break
            until = age + self.delay(age)
            time = self.distribution.active_time(until) - self.distribution.active_time(age)
            lag += active * (until - age) - time
            polls += active
            age, active = until, self.distribution.survival_at(until)
        # Where polls are many, their density is enough.
        for number in range(bin_index(age), len(EDGES) - 1):
            if active <= _RARE:
                break
            until, left = EDGES[number + 1], self.distribution.survival[number + 1]
            bound = self.bound(age, number)
            delay = max(min(self.step / self._roots[number], bound), self.minimum)
            lag += (active - left) * delay / 2
            polls += (active + left) / 2 * (until - age) / delay
            age, active = until, left
        return lag / (1.0 - active), polls


_STRIDE: Final = 0.25  # of the age
_RARE: Final = 0.001  # share of the jobs that is left out of account
_MAX_POLLS: Final = 200  # that are computed one by one


def make_plan(
    distribution: Distribution,
    *,
    target_lag: float,
    minimum: float,
    maximum: float,
    correction: float = 1.0,
) -> Plan:
    """Return the plan with that mean lag, as far as the bounds of a delay allow.

    Args:
        distribution: How long jobs take.
        target_lag: Mean lag that the caller asked for.
        minimum: Shortest delay.
        maximum: Longest delay at quiet ages.
        correction: Factor of the mean lag at which the plan aims.
    """
    aim = target_lag * correction
    hazards = (
        -math.log1p(-min(chance, _MAX_CHANCE)) / width
        for chance, width in zip(distribution.chances, _WIDTHS, strict=True)
    )
    roots = [*map(math.sqrt, hazards)]
    efforts = [*accumulate(map(operator.mul, roots[:-1], _WIDTHS), initial=0.0)]

    # Whatever happens at unknown ages, lag is half a delay, and only jobs that get there have it.
    stride = 2 * aim / max(distribution.survival[distribution.known], _RARE)

    def with_step(step: float) -> Plan:
        return Plan(
            distribution=distribution,
            step=step,
            minimum=minimum,
            maximum=maximum,
            target_lag=target_lag,
            stride=stride,
            roots=roots,
            efforts=efforts,
        )

    # In theory, lag = step / 2 * the integral of survival * sqrt(h). Where polls are few the true
    # lag differs, but it grows with the step.
    weights = zip(distribution.survival, distribution.survival[1:], roots, _WIDTHS, strict=False)
    step = 2 * aim / sum((s + t) / 2 * root * width for s, t, root, width in weights)
    low, high = 0.0, math.inf
    for _ in range(_MAX_TRIALS):
        plan = with_step(step)
        lag, _ = plan.cost()
        if abs(lag - aim) < _TOLERANCE * aim:
            break
        if lag < aim:
            low = step
        else:
            high = step
        step *= min(max(aim / lag, 0.25), 4.0)
        if not low < step < high:
            step = (low + high) / 2
    return plan


_MAX_TRIALS: Final = 12
_TOLERANCE: Final = 0.01


def official_lag(distribution: Distribution) -> float:
    """Return the mean lag of the official SDK's waiter.

    Its first pause is 1 s. Each further pause is 1.5 times as long, at most 10 s.
    """
    lag = distribution.survival_at(_OFFICIAL_POLLS[-1]) * OFFICIAL_LAG
    for seen, age in pairwise(_OFFICIAL_POLLS):
        lag += distribution.survival_at(seen) * distribution.expected_lag(seen, age)
    return lag


OFFICIAL_LAG: Final = 5.0
"""Mean lag of the official SDK's waiter for long jobs, in seconds."""

_OFFICIAL_POLLS: Final = (0.0, 1.0, 2.5, 4.75, 8.125, 13.1875, 20.78125)
