"""How long jobs take, and how old they arrive, learnt from what polls show. Decides nothing.

Imports distribution, estimation and errors. Times are seconds of one monotonic clock, ages seconds
since the service received a job.
"""

import json
import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

from attrs import define

from adepoll.errors import ConfigurationError
from adepoll.scheduling.distribution import LAST, MIDDLES, PRIOR, Distribution
from adepoll.scheduling.estimation import Observation, estimate


class Durations:
    """How long jobs take, learnt while they are polled.

    Nobody sees a job end: it is seen active at one age and ended at a later one. From such
    interval-censored observations, and from those of jobs that are still active (right-censored) or
    were old when first seen (left-truncated), the distribution is estimated by self-consistency
    (B. W. Turnbull, JRSS B 38, 1976, in terms of the hazard), starting from a weak prior, and
    smoothed (B. W. Silverman et al., JRSS B 52, 1990).

    Old observations fade: the last 8,000 jobs count most. Jobs that were not seen to end count at
    most four times as much as the ended ones, plus 200 jobs: otherwise waits that are left early
    would hide how long jobs take now. One object may serve several watchers of one event loop, one
    after the other or at the same time.

    Attributes:
        arrivals: How old jobs were when a watcher got them.
    """

    def __init__(self) -> None:
        """Start without observations."""
        self._gone: dict[Observation, float] = {}  # weights of jobs that are not polled any more
        self._known = 0.0  # weight of those that ended
        self._censored = 0.0  # weight of the jobs that were not seen to end
        # Number of active jobs known to have passed each bin, as differences from bin to bin.
        self._passed = [0.0] * (LAST + 1)
        self._running = 0
        self._ended = 0
        self._distribution = PRIOR
        self._is_outdated = False  # the distribution is to be estimated again
        self._known_at_fit = 0.0
        self._extended = 0  # observations of active jobs since then
        self.arrivals = Arrivals()

    def __repr__(self) -> str:
        """Show how much is known."""
        return f"<Durations: {self._ended} jobs seen to end, median {self.quantile(0.5):.1f} s>"

    @property
    def distribution(self) -> Distribution:
        """What is known now; a new object whenever about 10% more is known.

        It is estimated when it is needed, not whenever a job ends.
        """
        if self._is_outdated:
            self._refit()
        return self._distribution

    @property
    def ended(self) -> int:
        """Number of jobs that were seen to end."""
        return self._ended

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Return the age by which `share` of the jobs that reach `age` have ended; at most a day.

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

    def record_arrival(self, age: float, *, added_at: float, now: float) -> bool:
        """Record the age of a job when a watcher got it; see `Arrivals.record`.

        Returns:
            True if the job was new. Then it counts as seen active, at the age 0.
        """
        is_new = self.arrivals.record(age, added_at=added_at, now=now)
        self._running += is_new
        return is_new

    def begin(self) -> None:
        """Record that a job was seen active for the first time."""
        self._running += 1

    def extend(self, seen: float, age: float) -> None:
        """Record that a job that was seen active at age `seen` was seen active again, at `age`."""
        near = bisect_right(MIDDLES, seen)  # `nearest_edge` without a call
        if near < LAST and age >= MIDDLES[near]:
            self._passed[near] += 1
            self._passed[bisect_right(MIDDLES, age)] -= 1
        self._extended += 1
        if self._extended > self._running + _REFIT_POLLS:
            self._is_outdated = True

    def end(self, first: float, last: float, age: float) -> None:
        """Record that a job seen active from age `first` to `last` was seen ended at `age`."""
        self._ended += 1
        self._known += 1
        self._record_gone(nearest_edge(first), nearest_edge(last), nearest_edge(age))
        if self._known > _MEMORY:
            self._fade(0.5, censored=False)
            self._fade(0.5, censored=True)
        if abs(self._known - self._known_at_fit) > _REFIT_SHARE * self._known_at_fit:
            self._is_outdated = True

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
        self._is_outdated = False
        self._distribution = estimate(self._distribution, self._gone, self._passed)

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


@define(eq=False)
class Arrivals:
    """An estimate of whether the next jobs are new, from the first answers about earlier jobs.

    An immediate poll of a new job finds it active, and is wasted. One old job makes adepoll poll
    all waiting and later jobs immediately, until 32 new jobs in a row have arrived: old jobs rarely
    come alone, as when a batch is started again.

    Attributes:
        new: Jobs that were new; earlier ones count less.
        old: Jobs that were not new; earlier ones count less.
        run: New jobs in a row since the last old one.
        resets: Number of runs that an old job ended.
        reset_at: Time at which the last old job was found.
    """

    new: float = 0.0
    old: float = 0.0
    run: int = 0
    resets: int = 0
    reset_at: float = -math.inf

    def record(self, age: float, *, added_at: float, now: float) -> bool:
        """Record the age of a job at its arrival; return whether the job was new.

        Args:
            age: Seconds since the service had received it. A negative age shows that the clocks
                differ, and that ages are not known: the job does not count as new.
            added_at: When the watcher got the job.
            now: The time.
        """
        new = abs(age) <= _MAX_NEW_AGE
        if new:
            self.new += 1
            # A job that arrived before the last old one was found says nothing about later ones.
            self.run += added_at > self.reset_at
        else:
            self.old += 1
            self.resets += self.run > 0
            self.run = 0
            self.reset_at = now
        if self.new + self.old > _MEMORY:
            self.new /= 2
            self.old /= 2
        return new

    @property
    def trusted(self) -> bool:
        """True if the next job is expected to be new."""
        return self.run >= _MIN_RUN

    @property
    def old_share(self) -> float:
        """Probability that the next job is old, by Laplace's rule of succession."""
        return (self.old + 1) / (self.new + self.old + 2)

    def to_json(self) -> list[float]:
        """Return what `from_json` reads."""
        return [self.new, self.old, self.run]

    @classmethod
    def from_json(cls, saved: object) -> "Arrivals":
        """Read what `to_json` returned; raise ValueError or TypeError if it is something else."""
        if not isinstance(saved, list):
            raise TypeError("arrivals must be a list")
        new, old, run = saved
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in saved):
            raise ValueError(f"{saved} are not counts of arrivals")
        return cls(float(new), float(old), int(run))


def nearest_edge(age: float) -> int:
    """Return the number of the edge nearest to an age."""
    return bisect_right(MIDDLES, age)


def _read(saved: Any) -> tuple[int, dict[Observation, float]]:
    if saved["format"] != _FORMAT:
        raise ValueError(f"its format is {saved['format']!r}, not {_FORMAT}")
    return operator.index(saved["ended"]), dict(map(_read_observation, saved["seen"]))


def _read_observation(item: Sequence[Any]) -> tuple[Observation, float]:
    first, last, ended, weight = item
    edges = (first, last) if ended is None else (first, last, ended)
    if [*edges] != sorted(map(operator.index, edges)) or edges[0] < 0 or edges[-1] > LAST:
        raise ValueError(f"{item} are not ages")
    if not (isinstance(weight, int | float) and 0 < weight < math.inf):
        raise ValueError(f"{weight} is not a weight")
    return (first, last, ended), float(weight)


def _checked(name: str, value: float) -> float:
    if value >= 0:
        return value
    raise ValueError(f"{name} must be 0 or more, got {value}")


_FORMAT: Final = 1
_REFIT_SHARE: Final = 0.1  # growth of the knowledge after which the distribution is refitted
_REFIT_POLLS: Final = 1000
_MEMORY: Final = 8000.0  # ended jobs, or arrivals; beyond, all counts are halved
_CENSORED_PER_END: Final = 4.0
_MIN_CENSORED: Final = 200.0
_MIN_WEIGHT: Final = 0.05  # below, an observation is forgotten
_MAX_NEW_AGE: Final = 2.0  # seconds; received_at and the service's clock are in whole seconds
_MIN_RUN: Final = 32
