"""How long jobs take: a probability distribution, in bins of age.

The age of a job is the number of seconds since the service received the job. All times are seconds.
The module also has the prior: the distribution that is assumed before any job was observed. Imports
nothing of adepoll.
"""

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise, repeat, takewhile
from typing import Final

from attrs import field, frozen

# The first bins are half a second wide. From 16.5 s on, each bin is 3% wider than the previous bin.
_STEP: Final = 0.5  # width of each of the first bins, in seconds
_RATIO: Final = 1.03
_LINEAR: Final = 33  # number of bins of half a second
_DAY: Final = 86_400.0  # seconds


_WIDER: Final = accumulate(repeat(_RATIO), operator.mul, initial=_STEP * _LINEAR)
EDGES: Final[Sequence[float]] = (
    *(number * _STEP for number in range(_LINEAR)),
    *takewhile(_DAY.__gt__, _WIDER),
)
"""Ages at which the bins begin; the last bin has no end."""

WIDTHS: Final[Sequence[float]] = tuple(b - a for a, b in pairwise(EDGES))
"""Width of each bin except the last, in seconds."""

MIDDLES: Final[Sequence[float]] = tuple((a + b) / 2 for a, b in pairwise(EDGES))
"""Age in the middle of each bin except the last."""

LAST: Final = len(EDGES) - 1
"""Index of the last bin."""


def bin_index(age: float) -> int:
    """Return the index of the bin that contains `age`."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


@frozen(eq=False)
class Distribution:
    """How long jobs take: a probability distribution, in bins of age.

    Attributes:
        chances: For each bin of `EDGES`, the chance that a job ends in the bin, if it was active at
            the start of the bin.
        known: Number of bins up to the greatest age at which a job was seen to end. For the bins
            after them, the distribution is a guess.
        proven: Number of bins up to the age after which fewer than eight jobs were seen to end. For
            the bins after them, the distribution is uncertain.
        quiet: For each bin, the age until which jobs hardly ever end; 0 if jobs may end in this
            bin. For example, 300 means: from this bin until they are 300 s old, jobs hardly ever
            end. Bins without an item count as 0. See `estimation.quiet_until`.
        survival: For each bin, the chance that a job is still active at the start of the bin.
    """

    chances: Sequence[float] = field(repr=False)
    known: int = LAST
    proven: int = LAST
    quiet: Sequence[float] = field(default=(), repr=False)
    survival: tuple[float, ...] = field(init=False, repr=False)
    # Integral of the survival from the start of each bin to the start of the last bin.
    _areas: tuple[float, ...] = field(init=False, repr=False)
    # Decrease of the survival per second in each bin.
    _falls: tuple[float, ...] = field(init=False, repr=False)

    @survival.default
    def _compute_survival(self) -> tuple[float, ...]:
        """Return, for each bin, the chance that a job is still active when the bin begins."""
        stays = [1.0 - chance for chance in self.chances[:-1]]
        return tuple(accumulate(stays, operator.mul, initial=1.0))

    @_areas.default
    def _compute_areas(self) -> tuple[float, ...]:
        """Return, for each bin, the integral of `survival_at` from the bin to the last bin."""
        # Summed from the last bin to the first: adding the smallest areas first is more exact.
        bins = zip(WIDTHS, self.survival, self.survival[1:], strict=False)
        areas = [w * (s + t) / 2 for w, s, t in bins]
        return tuple(accumulate(reversed(areas), initial=0.0))[::-1]

    @_falls.default
    def _compute_falls(self) -> tuple[float, ...]:
        """Return, for each bin except the last, the decrease of `survival` per second."""
        bins = zip(WIDTHS, self.survival, self.survival[1:], strict=False)
        return tuple([(s - t) / w for w, s, t in bins])

    def survival_at(self, age: float) -> float:
        """Return the chance that a job is still active at age `age`."""
        if age <= 0:
            return 1.0
        number = bisect_right(EDGES, age) - 1
        if number == LAST:
            return self.survival[LAST] * EDGES[LAST] / age
        return self.survival[number] - (age - EDGES[number]) * self._falls[number]

    def ends_between(self, seen: float, age: float) -> float:
        """Return the chance that a job that was active at age `seen` has ended by `age`."""
        active = self.survival_at(seen)
        return 1.0 - self.survival_at(age) / active if active > 0 else 1.0

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Return the age by which a share of the jobs that are active at `age` has ended.

        It is at most a day, or `age` if that is more.
        """
        left = self.survival_at(age) * (1.0 - share)
        number = bisect_right(self.survival, -left, key=operator.neg) - 1
        if number >= LAST:
            return max(age, EDGES[LAST])
        start, end = self.survival[number], self.survival[number + 1]
        return max(age, EDGES[number] + WIDTHS[number] * (start - left) / (start - end))

    def active_time(self, age: float) -> float:
        """Return for how many seconds jobs are active, on average, up to the age `age`.

        For example, if `age` is 60, a job that takes 20 s counts as 20 s, and a job that takes 90 s
        counts as 60 s.
        """
        return self._areas[0] - self._area_from(age)

    def expected_lag(self, seen: float, age: float) -> float:
        """Return the expected detection lag of a poll at age `age`: the time since the job's end.

        The job was last seen active at age `seen`. If it is still active at the poll, its lag is 0.
        """
        chance = self.survival_at(seen)
        active = self.active_time(age) - self.active_time(seen)
        return max(age - seen - active / chance, 0.0) if chance > 0 else 0.0

    def time_until(self, ages: Sequence[float], left: float) -> float:
        """Return the seconds, at most a day, after which about `left` jobs are still active.

        For example, ``time_until(ages, 1.0)`` estimates when all jobs but one have ended. At ages
        at which no job was seen to end yet, jobs are assumed to end at the same rate as shortly
        before. The prior is not used there, because it would make the result several times too
        long.

        Args:
            ages: Present ages of the jobs; all of them are active.
            left: Expected number of jobs that are still active after the returned time.
        """
        survival = self._survival_without_prior
        chances = [(age, survival(age)) for age in ages]
        low, high = 0.0, EDGES[LAST]
        while high - low > 1 and high > _PRECISION * low:
            time = (low + high) / 2
            active = sum(survival(age + time) / now for age, now in chances if now > 0)
            low, high = (time, high) if active > left else (low, time)
        return high if ages else 0.0

    def _survival_without_prior(self, age: float) -> float:
        """Return the chance that a job is active at `age`, without the guess of the prior.

        At ages at which no job was seen to end yet, jobs are assumed to end at a constant rate.
        """
        known = EDGES[self.known]
        if age <= known:
            return self.survival_at(age)
        last, before = self.survival_at(known), self.survival_at(known * _LAST_THIRD)
        if not 0 < last < before:
            return self.survival_at(age)
        rate = math.log(before / last) / (known - known * _LAST_THIRD)
        return last * math.exp(-rate * (age - known))

    def _area_from(self, age: float) -> float:
        """Return the integral of `survival_at` from `age` to the last bin."""
        if age >= EDGES[LAST]:
            return 0.0
        after = bin_index(age) + 1
        part = (EDGES[after] - age) * (self.survival_at(age) + self.survival[after]) / 2
        return self._areas[after] + part


_LAST_THIRD: Final = 2 / 3  # beginning of the last third of the known ages, as a share of them
_PRECISION: Final = 1.02  # a result is exact enough if its bounds differ by less than this factor

# The prior is a Lomax distribution, which has a heavy tail; its median is 37 s. It counts as much
# as two observed jobs. Its hazard, shape / (age + scale), falls with the age, but is never 0.
_PRIOR_WEIGHT: Final = 2.0  # observed jobs that count as much as the prior
_PRIOR_SHAPE: Final = 2.0
_PRIOR_SCALE: Final = 90.0  # seconds
PRIOR_RISK: Final = tuple(
    _PRIOR_WEIGHT * (1.0 + edge / _PRIOR_SCALE) ** -_PRIOR_SHAPE for edge in EDGES
)
"""Number of jobs that reach each bin, in the prior."""

PRIOR_ENDS: Final = (*map(operator.sub, PRIOR_RISK, PRIOR_RISK[1:]), PRIOR_RISK[LAST])
"""Number of jobs that end in each bin, in the prior."""

PRIOR_RATES: Final = tuple(_PRIOR_SHAPE / (edge + _PRIOR_SCALE) for edge in EDGES)
"""Hazard at the start of each bin, per second, in the prior."""

PRIOR: Final = Distribution(tuple(map(operator.truediv, PRIOR_ENDS, PRIOR_RISK)), known=0, proven=0)
