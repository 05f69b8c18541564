"""The formula by which the `Adaptive` schedule chooses a delay: the inspection plan.

Pure functions. All times are seconds. The age of a job is the time since the service received the
job. The detection lag is the time from a job's end to the poll that observes it.
"""

import functools
import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from attrs import field, frozen

from adepoll.scheduling.distribution import EDGES, WIDTHS, Distribution, bin_index
from adepoll.scheduling.lag_bound import LONGEST, LONGEST_FOR_FEW, bound_while_watching

_WIDTHS: Final = (*WIDTHS, EDGES[-1])  # the last bin, which has no end, gets a large width
_MAX_CHANCE: Final = 1 - 1e-9  # not 1, because a chance of 1 is an infinite hazard


@frozen(eq=False)
class Plan:
    """Chooses the delays between polls, if it is known how long jobs take.

    It polls often at ages at which many jobs end. In theory, no other plan with the same number of
    polls has a shorter mean detection lag.

    The best density of polls at age a is ``n(a) = sqrt(h(a) / 2c)`` polls per second. Here h is the
    hazard: the rate at which active jobs of this age settle. c is the price of a poll in seconds of
    lag (R. E. Barlow, L. C. Hunter & F. Proschan, J. SIAM 11, 1963; J. B. Keller, Management
    Science 21, 1974). So from each poll to the next, the integral of sqrt(h) over the age grows by
    the same step, ``sqrt(2c)``.

    Attributes:
        distribution: How long jobs take.
        step: Growth of the integral of sqrt(h) from one poll to the next; a larger step means fewer
            polls.
        minimum: Shortest delay.
        maximum: Longest delay, even at quiet ages, at which jobs hardly ever end.
        target_lag: Mean detection lag that the caller asked for.
        stride: Longest delay at ages at which no job was seen to end. For old jobs, a quarter of
            the age is allowed, if that is longer.
    """

    distribution: Distribution
    step: float
    minimum: float
    maximum: float
    target_lag: float
    stride: float
    _roots: Sequence[float] = field(repr=False)  # square root of the hazard in each bin
    # Integral of the square root of the hazard, from age 0 to the start of each bin.
    _integrals: Sequence[float] = field(repr=False)

    def delay(
        self,
        age: float,
        *,
        stretch: float = 1.0,
        shorten: float = 1.0,
        quiet_delay: float = LONGEST_FOR_FEW,
    ) -> float:
        """Return the seconds until the next poll of a job that a poll has found active.

        Args:
            age: Age of the job.
            stretch: Jitter of the planned delay: a random factor around 1.
            shorten: Jitter of the longest delay (see `bound`): a random factor of at most 1.
            quiet_delay: Longest delay at quiet ages.
        """
        number = bin_index(age)
        integral = self._integrals[number] + (age - EDGES[number]) * self._roots[number]
        integral += self.step * stretch
        until = bisect_right(self._integrals, integral, number) - 1
        rest = (integral - self._integrals[until]) / self._roots[until]
        delay = EDGES[until] + rest - age
        # Above the known ages, many jobs may settle, even if few jobs settle at the known ages. So
        # do not pass over those ages in one long delay.
        unknown = max(age, self.unknown_from)
        delay = min(delay, unknown - age + stretch * max(self.stride, unknown * _STRIDE))
        return max(min(delay, self.bound(age, number, quiet_delay) * shorten), self.minimum)

    def bound(self, age: float, number: int, quiet_delay: float = LONGEST_FOR_FEW) -> float:
        """Return the lag bound: the longest delay at this age. See `lag_bound`.

        Args:
            age: Age of the job.
            number: Index of the bin that contains the age.
            quiet_delay: Longest delay at quiet ages.
        """
        longest = max(LONGEST, 2 * self.target_lag)
        quiet = self.distribution.quiet
        if number < len(quiet) and quiet[number]:
            longest = max(longest, min(longest + quiet[number] - age, quiet_delay))
        return min(longest, bound_while_watching(age, self.target_lag), self.maximum)

    @property
    def unknown_from(self) -> float:
        """Age in seconds above which no job was seen to end; 0 if no job was seen to end at all."""
        return EDGES[self.distribution.known]

    @property
    def price(self) -> float:
        """The price of one poll in seconds of detection lag: c in the formula of `Plan`."""
        return self.step**2 / 2

    def cost(self) -> tuple[float, float]:
        """Return the expected detection lag in seconds, and the expected number of polls.

        Both numbers are for a job that is watched from age 0.
        """
        age, active, lag, polls = 0.0, 1.0, 0.0, 1.0
        for _ in range(_MAX_POLLS):
            if active <= _RARE:
                break
            until = age + self.delay(age)
            time = self.distribution.active_time(until) - self.distribution.active_time(age)
            lag += active * (until - age) - time
            polls += active
            age, active = until, self.distribution.survival_at(until)
        # After many polls, compute with the density of polls in each bin, which is faster.
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


_STRIDE: Final = 0.25  # longest delay at ages at which no job was seen to end: a share of the age
_RARE: Final = 0.001  # when only this share of the jobs is still active, later polls are ignored
_MAX_POLLS: Final = 200  # polls that are computed one by one


def make_plan(
    distribution: Distribution,
    *,
    target_lag: float,
    minimum: float,
    maximum: float,
    correction: float = 1.0,
) -> Plan:
    """Return a plan whose mean detection lag is about ``target_lag * correction`` seconds.

    The mean lag is not exactly this number, because `minimum`, `maximum` and the lag bound (see
    `Plan.bound`) limit each delay.

    Args:
        distribution: How long jobs take.
        target_lag: Mean detection lag that the caller asked for.
        minimum: Shortest delay.
        maximum: Longest delay. It is usually reached only at quiet ages, at which jobs hardly ever
            end; at other ages, the lag bound is shorter.
        correction: Factor by which `target_lag` is multiplied, because real lags differ from the
            calculated ones.
    """
    aim = target_lag * correction
    hazards = (
        -math.log1p(-min(chance, _MAX_CHANCE)) / width
        for chance, width in zip(distribution.chances, _WIDTHS, strict=True)
    )
    roots = [*map(math.sqrt, hazards)]
    integrals = [*accumulate(map(operator.mul, roots[:-1], _WIDTHS), initial=0.0)]

    # At ages at which no job was seen to end, the mean lag is half of a delay. Only jobs that reach
    # these ages have this lag, so the delay may be longer if such jobs are rare.
    stride = 2 * aim / max(distribution.survival[distribution.known], _RARE)

    def with_step(step: float) -> Plan:
        """Return a plan with this `step`; see `Plan`."""
        return Plan(
            distribution=distribution,
            step=step,
            minimum=minimum,
            maximum=maximum,
            target_lag=target_lag,
            stride=stride,
            roots=roots,
            integrals=integrals,
        )

    # In theory, the mean lag is step / 2 times the integral of survival * sqrt(h). If there are few
    # polls, the real lag differs, but it grows with the step. So search for the step.
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
_TOLERANCE: Final = 0.01  # difference between mean lag and aim that is accepted, as a share


@functools.lru_cache(maxsize=8)  # called often for the same distribution, at each list sweep
def official_lag(distribution: Distribution) -> float:
    """Return the mean detection lag of the official SDK's waiter with jobs of these durations.

    The first pause of that waiter is 1 s. Each further pause is 1.5 times as long, up to 10 s.
    """
    lag = distribution.survival_at(_OFFICIAL_POLLS[-1]) * OFFICIAL_LAG
    for seen, age in pairwise(_OFFICIAL_POLLS):
        lag += distribution.survival_at(seen) * distribution.expected_lag(seen, age)
    return lag


OFFICIAL_LAG: Final = 5.0
"""Mean lag of the official SDK's waiter for long jobs, in seconds: half of its longest pause."""

# Seconds after which the waiter polls, until its pauses reach 10 s.
_OFFICIAL_POLLS: Final = (0.0, 1.0, 2.5, 4.75, 8.125, 13.1875, 20.78125)
