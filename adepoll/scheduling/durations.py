"""What has been learnt of how long jobs take: censored observations -> a law. Decides nothing.

Imports arrivals and errors. All times are seconds; the age of a job is the time since the service
received it.
"""

import json
import math
import operator
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from adepoll.errors import ConfigurationError
from adepoll.scheduling.arrivals import Arrivals

# Ages are counted in bins: half seconds at first, as received_at comes in whole ones, then ever
# wider ones of 3%.
_STEP: Final = 0.5
_RATIO: Final = 1.03
_LINEAR: Final = 33
_BEND: Final = _STEP * _LINEAR
_DAY: Final = 86_400.0


def _edges() -> Iterator[float]:
    yield from (number * _STEP for number in range(_LINEAR))
    edge = _BEND
    while edge < _DAY:
        yield edge
        edge *= _RATIO


EDGES: Final[Sequence[float]] = tuple(_edges())
"""Ages at which the bins begin; the last bin has no end."""

_WIDTHS: Final[Sequence[float]] = tuple(b - a for a, b in pairwise(EDGES))
_LAST: Final = len(EDGES) - 1


_MIDDLES: Final[Sequence[float]] = tuple((a + b) / 2 for a, b in pairwise(EDGES))


def bin_of(age: float) -> int:
    """Give the bin of an age."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


def edge_near(age: float) -> int:
    """Give the number of the edge nearest to an age: how many bins lie before it, rounded."""
    return bisect_right(_MIDDLES, age)


@frozen(eq=False)
class Law:
    """A law of how long jobs take, in bins.

    Attributes:
        chances: For each bin of `EDGES`, the chance that a job that reaches it ends in it.
        survival: For each bin, the chance that a job reaches it.
        known: The first bin beyond all in which jobs were seen to end; from there on, what it says
            is belief.
    """

    chances: Sequence[float] = field(repr=False)
    known: int = _LAST
    survival: tuple[float, ...] = field(init=False, repr=False)
    _areas: tuple[float, ...] = field(init=False, repr=False)  # under survival, from each edge on
    _falls: tuple[float, ...] = field(init=False, repr=False)  # of survival, per second of a bin

    @survival.default
    def _survive(self) -> tuple[float, ...]:
        stays = (1.0 - chance for chance in self.chances[:-1])
        return tuple(accumulate(stays, operator.mul, initial=1.0))

    @_areas.default
    def _add_up(self) -> tuple[float, ...]:
        # From the end, as what is left at a high age may be tiny against what was before.
        bins = zip(_WIDTHS, self.survival, self.survival[1:], strict=False)
        areas = [w * (s + t) / 2 for w, s, t in bins]
        return tuple(accumulate(reversed(areas), initial=0.0))[::-1]

    @_falls.default
    def _fall(self) -> tuple[float, ...]:
        bins = zip(_WIDTHS, self.survival, self.survival[1:], strict=False)
        return tuple((s - t) / w for w, s, t in bins)

    def reaches(self, age: float) -> float:
        """Give the chance that a job is still active at an age."""
        if age <= 0:
            return 1.0
        number = bisect_right(EDGES, age) - 1
        if number == _LAST:
            return self.survival[_LAST] * EDGES[_LAST] / age
        return self.survival[number] - (age - EDGES[number]) * self._falls[number]

    def ends_within(self, seen: float, age: float) -> float:
        """Give the chance that a job that was active at age `seen` has ended by `age`."""
        reached = self.reaches(seen)
        return 1.0 - self.reaches(age) / reached if reached > 0 else 1.0

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Give the age by which that share of the jobs that reach `age` has ended.

        A day at most: nothing is known beyond.
        """
        left = self.reaches(age) * (1.0 - share)
        number = bisect_right(self.survival, -left, key=operator.neg) - 1
        if number >= _LAST:
            return max(age, EDGES[_LAST])
        start, end = self.survival[number], self.survival[number + 1]
        return max(age, EDGES[number] + _WIDTHS[number] * (start - left) / (start - end))

    def active_time(self, age: float) -> float:
        """Give the mean time that a job is active up to an age."""
        return self._areas[0] - self._area_from(age)

    def lag_ahead(self, seen: float, age: float) -> float:
        """Give the mean lag of a look at `age` at a job that was active at `seen`.

        Where the job does not end in between, the lag is nothing.
        """
        reached = self.reaches(seen)
        active = self.active_time(age) - self.active_time(seen)
        return max(age - seen - active / reached, 0.0) if reached > 0 else 0.0

    def expected_remaining(self, age: float) -> float:
        """Give the mean time for which a job of that age goes on, up to one of a day."""
        reached = self.reaches(age)
        return self._area_from(age) / reached if reached > 0 else 0.0

    def _area_from(self, age: float) -> float:
        if age >= EDGES[_LAST]:
            return 0.0
        after = bin_of(age) + 1
        part = (EDGES[after] - age) * (self.reaches(age) + self.survival[after]) / 2
        return self._areas[after] + part

    def time_until(self, ages: Sequence[float], left: float) -> float:
        """Give the time after which so many jobs are expected to go on, a day at most.

        Args:
            ages: Those of the jobs that go on now.
            left: How many.
        """
        reached = [(age, self.reaches(age)) for age in ages]
        low, high = 0.0, EDGES[_LAST]
        while high - low > 1 and high > _PRECISE * low:
            time = (low + high) / 2
            goes_on = sum(self.reaches(age + time) / now for age, now in reached if now > 0)
            low, high = (time, high) if goes_on > left else (low, time)
        return high if ages else 0.0


# What is believed before anything was seen, worth so many jobs: Lomax's heavy-tailed law with a
# median of about half a minute, whose hazard, shape / (age + scale), never rises and never ends.
_PRIOR_WEIGHT: Final = 2.0
_PRIOR_SHAPE: Final = 2.0
_PRIOR_SCALE: Final = 90.0
_PRIOR_RISK: Final = tuple(
    _PRIOR_WEIGHT * (1.0 + edge / _PRIOR_SCALE) ** -_PRIOR_SHAPE for edge in EDGES
)
_PRIOR_ENDS: Final = (*map(operator.sub, _PRIOR_RISK, _PRIOR_RISK[1:]), _PRIOR_RISK[_LAST])
_PRIOR_RATES: Final = tuple(_PRIOR_SHAPE / (edge + _PRIOR_SCALE) for edge in EDGES)
PRIOR: Final = Law(tuple(map(operator.truediv, _PRIOR_ENDS, _PRIOR_RISK)), known=0)
"""What is believed before anything was seen."""

_PRECISE: Final = 1.02
_FORMAT: Final = 1
_NEWS: Final = 0.1  # share of new knowledge that is worth a new law
_FEW: Final = 1000
_MEMORY: Final = 8000.0  # jobs that ended; beyond, what is old counts half
_TRIFLE: Final = 0.05  # weight below which an observation is forgotten
_ROUNDS: Final = 6
_ENOUGH: Final = 16.0  # ends from which a hazard can be read, or so large a share of all ends:
_ENOUGH_OF_ALL: Final = 0.004
_REACH: Final = 8  # bins to either side that may be taken together for that

_LIKENESS: Final = 0.95  # of neighbouring bins
_LEAST_RATIO: Final = 0.1

# The edges near which jobs were first seen active, last seen active, and seen ended (None: never).
_Sight: TypeAlias = tuple[int, int, int | None]


class Durations:
    """How long jobs take, learnt while they are looked at.

    Nobody sees a job end: it is seen active at one age and ended at a later one. Such
    interval-censored observations, with those of jobs that still run (right-censored) or that were
    old when first seen (left-truncated), give the law of the durations by self-consistency (B. W.
    Turnbull, JRSS B 38, 1976, in terms of the hazard), from a weak prior, and smoothed (B. W.
    Silverman et al., JRSS B 52, 1990).

    What is old fades: a few thousand jobs count. One object may serve several watchers of one
    event loop, one after the other or at once.

    Attributes:
        law: What is known by now; a new object whenever that has changed by a tenth or so.
        arrivals: How old the jobs were when they were given to a watcher.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._gone: dict[_Sight, float] = {}
        self._known = 0.0  # how many of those gone from sight ended
        # How many of the running jobs are known to have passed each bin, as differences.
        self._passed = [0.0] * (_LAST + 1)
        self._running = 0
        self._ended = 0
        self.law = PRIOR
        self._law_knows = 0.0
        self._survivals = 0  # since that law was made
        self.arrivals = Arrivals()

    def __repr__(self) -> str:
        """Show how much is known."""
        return f"<Durations: {self._ended} jobs seen to end, median {self.quantile(0.5):.1f} s>"

    # --- what is known ---------------------------------------------------------------------

    @property
    def ended(self) -> int:
        """How many jobs were seen to end."""
        return self._ended

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Give the age, at most a day, by which that share of the jobs that reach `age` has ended.

        Raises:
            ValueError: `share` is not between 0 and 1, or `age` is negative.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be 0 to 1, got {share}")
        return self.law.quantile(share, age=_checked("age", age))

    def expected_remaining(self, age: float) -> float:
        """Give the mean time for which a job of that age goes on, each counted for a day at most.

        Raises:
            ValueError: `age` is negative.
        """
        return self.law.expected_remaining(_checked("age", age))

    # --- to be kept ------------------------------------------------------------------------

    def to_json(self) -> str:
        """Give what was learnt from jobs that are gone as one line of JSON, for `from_json`.

        It holds counts by age, and nothing of any single job.
        """
        seen = [[*sight, round(weight, 3)] for sight, weight in sorted(self._gone.items(), key=str)]
        arrivals = self.arrivals.to_json()
        saved = {"format": _FORMAT, "ended": self._ended, "seen": seen, "arrivals": arrivals}
        return json.dumps(saved, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Durations":
        """Read back what `to_json` wrote.

        Raises:
            ConfigurationError: It is not that, or of another version of adepoll that kept it in
                another way. To start afresh does no harm: what is known is soon learnt anew.
        """
        read = cls()
        try:
            saved = json.loads(text)
            read._ended, read._gone = _read(saved)
            if "arrivals" in saved:  # which adepoll has not always kept
                read.arrivals = Arrivals.from_json(saved["arrivals"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
            raise ConfigurationError(f"Durations.to_json did not write this: {exc}") from exc
        read._count_known()
        read._heed_news()
        return read

    # --- learning --------------------------------------------------------------------------

    def enter(self) -> None:
        """A job was seen active for the first time."""
        self._running += 1

    def survived(self, seen: float, age: float) -> None:
        """A job that was seen active at age `seen` was seen active again, at `age`."""
        near = bisect_right(_MIDDLES, seen)  # as `edge_near`, at every look
        if near < _LAST and age >= _MIDDLES[near]:
            self._passed[near] += 1
            self._passed[bisect_right(_MIDDLES, age)] -= 1
        self._survivals += 1
        if self._survivals > self._running + _FEW:
            self._make_law()

    def end(self, entered: float, seen: float, age: float) -> None:
        """A job first seen active at age `entered` and last at `seen` was seen ended at `age`."""
        self._ended += 1
        self._known += 1
        self._leave(edge_near(entered), edge_near(seen), edge_near(age))
        if self._known > _MEMORY:
            self._fade()
        self._heed_news()

    def lose(self, entered: float, seen: float) -> None:
        """A job first seen active at age `entered` and last at `seen` is not looked at any more."""
        self._leave(edge_near(entered), edge_near(seen), None)

    def _leave(self, entered: int, seen: int, ended: int | None) -> None:
        self._running -= 1
        self._passed[entered] -= 1
        self._passed[seen] += 1
        sight = entered, seen, ended
        self._gone[sight] = self._gone.get(sight, 0.0) + 1.0

    def _heed_news(self) -> None:
        if abs(self._known - self._law_knows) > _NEWS * self._law_knows:
            self._make_law()

    def _make_law(self) -> None:
        self._law_knows = self._known
        self._survivals = 0
        self.law = _fit(self.law, self._gone, self._passed)

    def _fade(self) -> None:
        halves = ((sight, weight / 2) for sight, weight in self._gone.items())
        self._gone = {sight: weight for sight, weight in halves if weight >= _TRIFLE}
        self._count_known()

    def _count_known(self) -> None:
        self._known = sum(w for (_, _, ended), w in self._gone.items() if ended is not None)


def _read(saved: Any) -> tuple[int, dict[_Sight, float]]:
    if saved["format"] != _FORMAT:
        raise ValueError(f"it is of format {saved['format']!r}, not {_FORMAT}")
    return operator.index(saved["ended"]), dict(map(_read_sight, saved["seen"]))


def _read_sight(item: Sequence[Any]) -> tuple[_Sight, float]:
    entered, seen, ended, weight = item
    edges = (entered, seen) if ended is None else (entered, seen, ended)
    if [*edges] != sorted(map(operator.index, edges)) or edges[0] < 0 or edges[-1] > _LAST:
        raise ValueError(f"{item} are no ages")
    if not (isinstance(weight, int | float) and 0 < weight < math.inf):
        raise ValueError(f"{weight} is no weight")
    return (entered, seen, ended), float(weight)


def _checked(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")
    return value


def _fit(law: Law, gone: Mapping[_Sight, float], passed: Sequence[float]) -> Law:
    """Give the law that observations are consistent with, from one that is not far."""
    known_risk = list(passed)
    censored: dict[tuple[int, int], float] = {}  # how many ended in which range of bins
    for (entered, seen, ended), weight in gone.items():
        known_risk[entered] += weight
        known_risk[seen] -= weight
        if ended is not None and seen < _LAST:
            bins = seen, max(ended, seen + 1)
            censored[bins] = censored.get(bins, 0.0) + weight
    known_risk = list(accumulate(known_risk))
    # Beyond the oldest job there is nothing to be learnt, and most bins lie there.
    horizon = max((stop for _, stop in censored), default=0)
    survival: Sequence[float] = law.survival[: horizon + 1]
    for _ in range(_ROUNDS):
        ends, risk = _expected(survival, censored)
        risk = [*map(operator.add, risk, known_risk)]
        columns = zip(ends, _PRIOR_ENDS, risk, _PRIOR_RISK, strict=False)
        stays = (1 - (e + p) / (r + q) for e, p, r, q in columns)
        survival = [*accumulate(stays, operator.mul, initial=1.0)]
    return _smooth(ends, [*risk, *known_risk[horizon:]])


def _expected(
    survival: Sequence[float], censored: Mapping[tuple[int, int], float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Give how many ends to expect in each bin, and how many jobs at risk of them there.

    Only the bins in which a job may have ended count here: before them, its risk is known.

    Args:
        survival: By edge, the chance to reach it.
        censored: How many jobs ended in which range of bins.
    """
    density = [0.0] * len(survival)  # differences by bin, as the next
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


def _smooth(ends: Sequence[float], risk: Sequence[float]) -> Law:
    """Give the law of a hazard, the ends per job at risk: smooth, and believed where it is known.

    Neighbouring bins are taken together where there are few ends. Where there is no risk, the
    hazard is the prior's, or dies away from that of the bin before: what has begun goes on.
    """
    known = len(ends)
    bins = min(known + _REACH, _LAST)
    ends = [*ends, *repeat(0.0, _LAST - len(ends))]
    # A bin is 3% wider than the one before; per unit of time spent at risk, they can be compared.
    times = [w * (r - e / 2) for w, r, e in zip(_WIDTHS, risk, ends, strict=False)]
    sum_ends = (0.0, *accumulate(ends))
    sum_times = (0.0, *accumulate(times))
    enough = max(_ENOUGH, _ENOUGH_OF_ALL * sum_ends[-1])
    chances = []
    ratio = 1.0  # of the hazard to the prior's
    for number in range(_LAST):
        low, high = number, number + 1
        if number < bins:
            while sum_ends[high] - sum_ends[low] < enough and 0 < low > number - _REACH:
                low, high = low - 1, min(high + 1, _LAST)
        seen_ends = (sum_ends[high] - sum_ends[low]) / (high - low)
        seen_time = (sum_times[high] - sum_times[low]) / (high - low)
        believed = _PRIOR_RATES[number] * ratio**_LIKENESS
        weight = _PRIOR_RISK[number] * _WIDTHS[number]
        rate = (seen_ends + weight * believed) / (max(seen_time, 0.0) + weight)
        chances.append(-math.expm1(-rate * _WIDTHS[number]))
        ratio = max(rate / _PRIOR_RATES[number], _LEAST_RATIO)
    return Law((*chances, 1.0), known=known)
