"""The distribution of how long jobs take, in bins of their age; and the one assumed at first.

Imports nothing of adepoll. Times are seconds, ages seconds since the service received a job.
"""

import operator
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise, repeat, takewhile
from typing import Final

from attrs import field, frozen

# Ages are counted in bins of half a second; from 16.5 s on, each is 3% wider than the one before.
_STEP: Final = 0.5
_RATIO: Final = 1.03
_LINEAR: Final = 33
_DAY: Final = 86_400.0


_WIDER: Final = accumulate(repeat(_RATIO), operator.mul, initial=_STEP * _LINEAR)
EDGES: Final[Sequence[float]] = (
    *(number * _STEP for number in range(_LINEAR)),
    *takewhile(_DAY.__gt__, _WIDER),
)
"""Ages at which the bins begin; the last bin has no end."""

WIDTHS: Final[Sequence[float]] = tuple(b - a for a, b in pairwise(EDGES))
"""Width of each bin but the last."""

MIDDLES: Final[Sequence[float]] = tuple((a + b) / 2 for a, b in pairwise(EDGES))
"""Middle of each bin but the last."""

LAST: Final = len(EDGES) - 1
"""Number of the last bin."""


def bin_index(age: float) -> int:
    """Return the number of the bin that contains an age."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


@frozen(eq=False)
class Distribution:
    """Probability distribution of how long jobs take, in bins.

    Attributes:
        chances: For each bin of `EDGES`, the chance that a job ends in the bin, if it was active at
            the start of the bin.
        known: Number of the first bin beyond the last one in which a job was seen to end. From
            this bin on, the distribution is a guess.
        quiet: For the first bins, the age at which the quiet ages around the bin end; 0 if the bin
            is not quiet (see `estimation.quiet_until`).
        survival: For each bin, the chance that a job reaches it.
    """

    chances: Sequence[float] = field(repr=False)
    known: int = LAST
    quiet: Sequence[float] = field(default=(), repr=False)
    survival: tuple[float, ...] = field(init=False, repr=False)
    _areas: tuple[float, ...] = field(init=False, repr=False)  # under survival, from each edge on
    _falls: tuple[float, ...] = field(init=False, repr=False)  # of survival, per second of a bin

    @survival.default
    def _compute_survival(self) -> tuple[float, ...]:
        stays = [1.0 - chance for chance in self.chances[:-1]]
        return tuple(accumulate(stays, operator.mul, initial=1.0))

    @_areas.default
    def _compute_areas(self) -> tuple[float, ...]:
        # Summed from the end, since the areas at high ages may be tiny.
        bins = zip(WIDTHS, self.survival, self.survival[1:], strict=False)
        areas = [w * (s + t) / 2 for w, s, t in bins]
        return tuple(accumulate(reversed(areas), initial=0.0))[::-1]

    @_falls.default
    def _compute_falls(self) -> tuple[float, ...]:
        bins = zip(WIDTHS, self.survival, self.survival[1:], strict=False)
        return tuple([(s - t) / w for w, s, t in bins])

    def survival_at(self, age: float) -> float:
        """Return the chance that a job is still active at an age."""
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
        """Return the age, at most a day, by which that share of the jobs at `age` has ended."""
        left = self.survival_at(age) * (1.0 - share)
        number = bisect_right(self.survival, -left, key=operator.neg) - 1
        if number >= LAST:
            return max(age, EDGES[LAST])
        start, end = self.survival[number], self.survival[number + 1]
        return max(age, EDGES[number] + WIDTHS[number] * (start - left) / (start - end))

    def active_time(self, age: float) -> float:
        """Return the mean time that a job is active up to an age."""
        return self._areas[0] - self._area_from(age)

    def expected_lag(self, seen: float, age: float) -> float:
        """Return the mean detection lag of a poll at `age` of a job that was active at `seen`.

        A job that has not ended counts with a lag of 0.
        """
        chance = self.survival_at(seen)
        active = self.active_time(age) - self.active_time(seen)
        return max(age - seen - active / chance, 0.0) if chance > 0 else 0.0

    def expected_remaining(self, age: float) -> float:
        """Return the mean time for which a job of that age stays active, up to the age of a day."""
        chance = self.survival_at(age)
        return self._area_from(age) / chance if chance > 0 else 0.0

    def time_until(self, ages: Sequence[float], left: float) -> float:
        """Return the time, at most a day, after which `left` of jobs of these ages are active."""
        chances = [(age, self.survival_at(age)) for age in ages]
        low, high = 0.0, EDGES[LAST]
        while high - low > 1 and high > _PRECISION * low:
            time = (low + high) / 2
            active = sum(self.survival_at(age + time) / now for age, now in chances if now > 0)
            low, high = (time, high) if active > left else (low, time)
        return high if ages else 0.0

    def _area_from(self, age: float) -> float:
        if age >= EDGES[LAST]:
            return 0.0
        after = bin_index(age) + 1
        part = (EDGES[after] - age) * (self.survival_at(age) + self.survival[after]) / 2
        return self._areas[after] + part


_PRECISION: Final = 1.02

# What is assumed before anything was observed, with the weight of two jobs: Lomax's heavy-tailed
# distribution with a median of 37 s. Its hazard, shape / (age + scale), falls and never ends.
_PRIOR_WEIGHT: Final = 2.0
_PRIOR_SHAPE: Final = 2.0
_PRIOR_SCALE: Final = 90.0
PRIOR_RISK: Final = tuple(
    _PRIOR_WEIGHT * (1.0 + edge / _PRIOR_SCALE) ** -_PRIOR_SHAPE for edge in EDGES
)
"""Jobs that are assumed to reach each bin."""

PRIOR_ENDS: Final = (*map(operator.sub, PRIOR_RISK, PRIOR_RISK[1:]), PRIOR_RISK[LAST])
"""Jobs that are assumed to end in each bin."""

PRIOR_RATES: Final = tuple(_PRIOR_SHAPE / (edge + _PRIOR_SCALE) for edge in EDGES)
"""Assumed hazard at the start of each bin, per second."""

PRIOR: Final = Distribution(tuple(map(operator.truediv, PRIOR_ENDS, PRIOR_RISK)), known=0)
