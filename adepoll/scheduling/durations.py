"""How long jobs take, learnt from censored observations. Decides nothing.

Imports arrivals, lag_bound and errors. Times are seconds, ages seconds since the service received
a job.
"""

import json
import math
import operator
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise, repeat, takewhile
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from adepoll.errors import ConfigurationError
from adepoll.scheduling.arrivals import Arrivals
from adepoll.scheduling.lag_bound import quiet_until

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

_WIDTHS: Final[Sequence[float]] = tuple(b - a for a, b in pairwise(EDGES))
_MIDDLES: Final[Sequence[float]] = tuple((a + b) / 2 for a, b in pairwise(EDGES))
_LAST: Final = len(EDGES) - 1


def bin_index(age: float) -> int:
    """Return the number of the bin that contains an age."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


def nearest_edge(age: float) -> int:
    """Return the number of the edge nearest to an age."""
    return bisect_right(_MIDDLES, age)


@frozen(eq=False)
class Distribution:
    """Probability distribution of how long jobs take, in bins.

    Attributes:
        chances: For each bin of `EDGES`, the chance that a job ends in the bin, if it was active at
            the start of the bin.
        known: Number of the first bin beyond the last one in which a job was seen to end. From
            this bin on, the distribution is a guess.
        quiet: For the first bins, the age at which the quiet ages around the bin end; 0 if the bin
            is not quiet (see `lag_bound.quiet_until`).
        survival: For each bin, the chance that a job reaches it.
    """

    chances: Sequence[float] = field(repr=False)
    known: int = _LAST
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
        # Summed from the end, as what is left at a high age may be tiny.
        bins = zip(_WIDTHS, self.survival, self.survival[1:], strict=False)
        areas = [w * (s + t) / 2 for w, s, t in bins]
        return tuple(accumulate(reversed(areas), initial=0.0))[::-1]

    @_falls.default
    def _compute_falls(self) -> tuple[float, ...]:
        bins = zip(_WIDTHS, self.survival, self.survival[1:], strict=False)
        return tuple([(s - t) / w for w, s, t in bins])

    def survival_at(self, age: float) -> float:
        """Return the chance that a job is still active at an age."""
        if age <= 0:
            return 1.0
        number = bisect_right(EDGES, age) - 1
        if number == _LAST:
            return self.survival[_LAST] * EDGES[_LAST] / age
        return self.survival[number] - (age - EDGES[number]) * self._falls[number]

    def ends_between(self, seen: float, age: float) -> float:
        """Return the chance that a job that was active at age `seen` has ended by `age`."""
        active = self.survival_at(seen)
        return 1.0 - self.survival_at(age) / active if active > 0 else 1.0

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Return the age, at most a day, by which that share of the jobs at `age` has ended."""
        left = self.survival_at(age) * (1.0 - share)
        number = bisect_right(self.survival, -left, key=operator.neg) - 1
        if number >= _LAST:
            return max(age, EDGES[_LAST])
        start, end = self.survival[number], self.survival[number + 1]
        return max(age, EDGES[number] + _WIDTHS[number] * (start - left) / (start - end))

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
        low, high = 0.0, EDGES[_LAST]
        while high - low > 1 and high > _PRECISION * low:
            time = (low + high) / 2
            active = sum(self.survival_at(age + time) / now for age, now in chances if now > 0)
            low, high = (time, high) if active > left else (low, time)
        return high if ages else 0.0

    def _area_from(self, age: float) -> float:
        if age >= EDGES[_LAST]:
            return 0.0
        after = bin_index(age) + 1
        part = (EDGES[after] - age) * (self.survival_at(age) + self.survival[after]) / 2
        return self._areas[after] + part


# What is assumed before anything was observed, with the weight of two jobs: Lomax's heavy-tailed
# distribution with a median of 37 s. Its hazard, shape / (age + scale), falls and never ends.
_PRIOR_WEIGHT: Final = 2.0
_PRIOR_SHAPE: Final = 2.0
_PRIOR_SCALE: Final = 90.0
_PRIOR_RISK: Final = tuple(
    _PRIOR_WEIGHT * (1.0 + edge / _PRIOR_SCALE) ** -_PRIOR_SHAPE for edge in EDGES
)
_PRIOR_ENDS: Final = (*map(operator.sub, _PRIOR_RISK, _PRIOR_RISK[1:]), _PRIOR_RISK[_LAST])
_PRIOR_RATES: Final = tuple(_PRIOR_SHAPE / (edge + _PRIOR_SCALE) for edge in EDGES)
PRIOR: Final = Distribution(tuple(map(operator.truediv, _PRIOR_ENDS, _PRIOR_RISK)), known=0)

_PRECISION: Final = 1.02
_FORMAT: Final = 1
_REFIT_SHARE: Final = 0.1  # growth of the knowledge after which the distribution is refitted
_REFIT_POLLS: Final = 1000
_MEMORY: Final = 8000.0  # ended jobs; beyond, all counts are halved
_CENSORED_PER_END: Final = 4.0
_MIN_CENSORED: Final = 200.0
_MIN_WEIGHT: Final = 0.05  # below, an observation is forgotten
_ROUNDS: Final = 6
_MIN_ENDS: Final = 16.0  # ends from which a hazard is estimated, or a share of all ends:
_MIN_ENDS_SHARE: Final = 0.004
_REACH: Final = 8  # bins on either side that may be pooled for that
_LIKENESS: Final = 0.95  # of neighbouring bins
_MIN_RATIO: Final = 0.1

# Nearest edges to the ages at which a job was first seen active, last seen active, and seen ended;
# the last is None if the job was never seen ended.
_Observation: TypeAlias = tuple[int, int, int | None]


class Durations:
    """How long jobs take, learnt while they are polled.

    Nobody sees a job end: it is seen active at one age and ended at a later one. From such
    interval-censored observations, and from those of jobs that are still active (right-censored) or
    were old when first seen (left-truncated), the distribution is estimated by self-consistency
    (B. W. Turnbull, JRSS B 38, 1976, in terms of the hazard), starting from a weak prior, and
    smoothed (B. W. Silverman et al., JRSS B 52, 1990).

    Old observations fade: the last 8,000 jobs count most. Of jobs that were not seen to end, at
    most four count for each that was, and 200 more: waits that are left early must not hide how
    long jobs take now. One object may serve several watchers of
    one event loop, one after the other or at the same time.

    Attributes:
        distribution: What is known now; a new object whenever about 10% more is known.
        arrivals: How old jobs were when a watcher got them.
    """

    def __init__(self) -> None:
        """Start without observations."""
        self._gone: dict[_Observation, float] = {}  # weights of jobs that are not polled any more
        self._known = 0.0  # weight of those that ended
        self._censored = 0.0  # weight of the others
        # Number of active jobs known to have passed each bin, as differences from bin to bin.
        self._passed = [0.0] * (_LAST + 1)
        self._running = 0
        self._ended = 0
        self.distribution = PRIOR
        self._known_at_fit = 0.0
        self._extended = 0  # observations of active jobs since the distribution was fitted
        self.arrivals = Arrivals()

    def __repr__(self) -> str:
        """Show how much is known."""
        return f"<Durations: {self._ended} jobs seen to end, median {self.quantile(0.5):.1f} s>"

    @property
    def ended(self) -> int:
        """Number of jobs that were seen to end."""
        return self._ended

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Return the age by which that share of the jobs that reach `age` has ended; at most a day.

        Raises ValueError if `share` is not between 0 and 1, or `age` is negative.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be 0 to 1, got {share}")
        return self.distribution.quantile(share, age=_checked("age", age))

    def expected_remaining(self, age: float) -> float:
        """Return the mean time for which a job of that age stays active, up to the age of a day.

        Raises ValueError if `age` is negative.
        """
        return self.distribution.expected_remaining(_checked("age", age))

    def to_json(self) -> str:
        """Return counts of jobs by age, nothing about a single job, as JSON for `from_json`."""
        seen = [[*ages, round(weight, 3)] for ages, weight in sorted(self._gone.items(), key=str)]
        arrivals = self.arrivals.to_json()
        saved = {"format": _FORMAT, "ended": self._ended, "seen": seen, "arrivals": arrivals}
        return json.dumps(saved, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Durations":
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: `to_json` did not write it, or one of another version of adepoll
                did. It does no harm to start with a new object, which learns the same again.
        """
        durations = cls()
        try:
            saved = json.loads(text)
            durations._ended, durations._gone = _read(saved)
            if "arrivals" in saved:  # older versions did not write it
                durations.arrivals = Arrivals.from_json(saved["arrivals"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
            raise ConfigurationError(f"Durations.to_json did not write this: {exc}") from exc
        durations._count_known()
        if durations._known:
            durations._refit()
        return durations

    def begin(self) -> None:
        """Record that a job was seen active for the first time."""
        self._running += 1

    def extend(self, seen: float, age: float) -> None:
        """Record that a job that was seen active at age `seen` was seen active again, at `age`."""
        near = bisect_right(_MIDDLES, seen)  # `nearest_edge` without a call
        if near < _LAST and age >= _MIDDLES[near]:
            self._passed[near] += 1
            self._passed[bisect_right(_MIDDLES, age)] -= 1
        self._extended += 1
        if self._extended > self._running + _REFIT_POLLS:
            self._refit()

    def end(self, first: float, last: float, age: float) -> None:
        """Record that a job seen active from age `first` to `last` was seen ended at `age`."""
        self._ended += 1
        self._known += 1
        self._record_gone(nearest_edge(first), nearest_edge(last), nearest_edge(age))
        if self._known > _MEMORY:
            self._fade(0.5, censored=False)
            self._fade(0.5, censored=True)
        if abs(self._known - self._known_at_fit) > _REFIT_SHARE * self._known_at_fit:
            self._refit()

    def censor(self, first: float, last: float) -> None:
        """Record the end of polling of a job that was seen active from age `first` to `last`."""
        self._record_gone(nearest_edge(first), nearest_edge(last), None)
        self._censored += 1
        if self._censored > _CENSORED_PER_END * self._known + _MIN_CENSORED:
            self._fade(0.5, censored=True)

    def _record_gone(self, first: int, last: int, ended: int | None) -> None:
        self._running -= 1
        self._passed[first] -= 1
        self._passed[last] += 1
        ages = first, last, ended
        self._gone[ages] = self._gone.get(ages, 0.0) + 1.0

    def _refit(self) -> None:
        self._known_at_fit = self._known
        self._extended = 0
        self.distribution = _fit(self.distribution, self._gone, self._passed)

    def _fade(self, factor: float, *, censored: bool) -> None:
        """Multiply the weights of the jobs that ended, or of the others, by a factor."""
        weights = (
            (ages, weight * factor if (ages[2] is None) is censored else weight)
            for ages, weight in self._gone.items()
        )
        self._gone = {ages: weight for ages, weight in weights if weight >= _MIN_WEIGHT}
        self._count_known()

    def _count_known(self) -> None:
        self._known = sum(w for (_, _, ended), w in self._gone.items() if ended is not None)
        self._censored = sum(self._gone.values()) - self._known


def _read(saved: Any) -> tuple[int, dict[_Observation, float]]:
    if saved["format"] != _FORMAT:
        raise ValueError(f"its format is {saved['format']!r}, not {_FORMAT}")
    return operator.index(saved["ended"]), dict(map(_read_observation, saved["seen"]))


def _read_observation(item: Sequence[Any]) -> tuple[_Observation, float]:
    first, last, ended, weight = item
    edges = (first, last) if ended is None else (first, last, ended)
    if [*edges] != sorted(map(operator.index, edges)) or edges[0] < 0 or edges[-1] > _LAST:
        raise ValueError(f"{item} are not ages")
    if not (isinstance(weight, int | float) and 0 < weight < math.inf):
        raise ValueError(f"{weight} is not a weight")
    return (first, last, ended), float(weight)


def _checked(name: str, value: float) -> float:
    if value >= 0:
        return value
    raise ValueError(f"{name} must be 0 or more, got {value}")


def _fit(
    start: Distribution, gone: Mapping[_Observation, float], passed: Sequence[float]
) -> Distribution:
    """Return the distribution that is consistent with the observations, starting from `start`."""
    known_risk = list(passed)
    censored: dict[tuple[int, int], float] = {}  # number of ends by range of bins
    for (first, last, ended), weight in gone.items():
        known_risk[first] += weight
        known_risk[last] -= weight
        if ended is not None and last < _LAST:
            bins = last, max(ended, last + 1)
            censored[bins] = censored.get(bins, 0.0) + weight
    known_risk = list(accumulate(known_risk))
    # Most bins are beyond the oldest job; nothing is observed there.
    horizon = max((stop for _, stop in censored), default=0)
    survival: Sequence[float] = start.survival[: horizon + 1]
    for _ in range(_ROUNDS):
        ends, risk = _expected(survival, censored)
        risk = [*map(operator.add, risk, known_risk)]
        columns = zip(ends, _PRIOR_ENDS, risk, _PRIOR_RISK, strict=False)
        stays = [1 - (e + p) / (r + q) for e, p, r, q in columns]
        survival = [*accumulate(stays, operator.mul, initial=1.0)]
    return _smooth(ends, [*risk, *known_risk[horizon:]])


def _expected(
    survival: Sequence[float], censored: Mapping[tuple[int, int], float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the expected number of ends in each bin, and of jobs at risk of them there.

    `survival` is the chance to reach each edge, `censored` the number of ends by range of bins.
    Only the bins in which a job may have ended count; its risk in earlier bins is known.
    """
    density = [0.0] * len(survival)  # as differences from bin to bin, like `after`
    after = [0.0] * len(survival)
    for (first, stop), weight in censored.items():
        chance = survival[first] - survival[stop]
        if chance > 0:
            each = weight / chance
            density[first] += each
            density[stop] -= each
            after[first] += each * survival[stop]
            after[stop] -= each * survival[stop]
    columns = zip(accumulate(density), accumulate(after), survival, survival[1:], strict=False)
    pairs = [(d * (s - t), d * s - a) for d, a, s, t in columns]
    return [ends for ends, _ in pairs], [risk for _, risk in pairs]


def _smooth(ends: Sequence[float], risk: Sequence[float]) -> Distribution:
    """Return the distribution of a smooth hazard: ends per job at risk.

    Neighbouring bins are pooled where ends are few. Without jobs at risk, the ratio of the hazard
    to that of the prior approaches 1 from bin to bin.
    """
    known = len(ends)
    bins = min(known + _REACH, _LAST)
    ends = [*ends, *repeat(0.0, _LAST - len(ends))]
    # Per second at risk, bins of different widths can be compared.
    times = [w * (r - e / 2) for w, r, e in zip(_WIDTHS, risk, ends, strict=False)]
    sum_ends = (0.0, *accumulate(ends))
    sum_times = (0.0, *accumulate(times))
    enough = max(_MIN_ENDS, _MIN_ENDS_SHARE * sum_ends[-1])
    chances = []
    ratio = 1.0  # of the hazard to the prior's
    for number in range(_LAST):
        low, high = number, number + 1
        if number < bins:
            while sum_ends[high] - sum_ends[low] < enough and 0 < low > number - _REACH:
                low, high = low - 1, min(high + 1, _LAST)
        seen_ends = (sum_ends[high] - sum_ends[low]) / (high - low)
        seen_time = (sum_times[high] - sum_times[low]) / (high - low)
        assumed = _PRIOR_RATES[number] * ratio**_LIKENESS
        weight = _PRIOR_RISK[number] * _WIDTHS[number]
        rate = (seen_ends + weight * assumed) / (max(seen_time, 0.0) + weight)
        chances.append(-math.expm1(-rate * _WIDTHS[number]))
        ratio = max(rate / _PRIOR_RATES[number], _MIN_RATIO)
    return Distribution((*chances, 1.0), known=known, quiet=quiet_until(EDGES, ends, risk))
