"""Learns from polls how long jobs take, and whether jobs are new when a watcher gets them.

All times are in seconds and from one monotonic clock. The age of a job is the number of seconds
since the service received the job.
"""

import json
import math
import operator
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from attrs import define

from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import ConfigurationError
from adepoll.scheduling.distribution import LAST, MIDDLES, PRIOR, Distribution
from adepoll.scheduling.estimation import Observation, estimate
from adepoll.scheduling.lag_bound import LONGEST, longest_when_quiet


@define(eq=False)
class Arrivals:
    """Predicts whether the next jobs will be new, from the ages of earlier jobs.

    A poll of a new job is wasted, because the job is still active. An old job should be polled
    immediately, because it may have settled. Old jobs rarely come alone: if a batch is started
    again, all of its jobs are old. So after one old job, adepoll polls all waiting and later jobs
    immediately, until 32 consecutive new jobs have arrived.

    Attributes:
        new: Number of jobs that were new: at most 2 s old when the watcher got them. Earlier jobs
            count less.
        old: Number of the other jobs. Earlier jobs count less.
        new_in_a_row: Number of consecutive new jobs since the last old job.
        resets: Number of times that an old job has set `new_in_a_row` back to 0.
        reset_at: Time at which the last old job was found.
    """

    new: float = 0.0
    old: float = 0.0
    new_in_a_row: int = 0
    resets: int = 0
    reset_at: float = -math.inf

    def record(self, age: float, *, added_at: float, now: float) -> bool:
        """Record how old a job was when the watcher got the job; return True if it was new.

        A new job is at most 2 s old.

        Args:
            age: Seconds from the time at which the service received the job to `added_at`. It is
                negative if the clocks of the service and of this machine differ. Below -2 s, the
                job counts as old.
            added_at: Time at which the watcher got the job.
            now: The present time.
        """
        new = abs(age) <= _MAX_NEW_AGE
        if new:
            self.new += 1
            # A job that arrived before the last old job was found says nothing about later jobs.
            self.new_in_a_row += added_at > self.reset_at
        else:
            self.old += 1
            self.resets += self.new_in_a_row > 0
            self.new_in_a_row = 0
            self.reset_at = now
        if self.new + self.old > _MOST_ARRIVALS:
            self.new /= 2
            self.old /= 2
        return new

    @property
    def trusted(self) -> bool:
        """True if the next job is expected to be new."""
        return self.new_in_a_row >= _MIN_RUN

    @property
    def old_share(self) -> float:
        """Probability that the next job is not new, by Laplace's rule of succession."""
        return (self.old + 1) / (self.new + self.old + 2)

    def to_json(self) -> list[float]:
        """Return the attributes `new`, `old` and `new_in_a_row`, for `from_json`."""
        return [self.new, self.old, self.new_in_a_row]

    @classmethod
    def from_json(cls, saved: object) -> "Arrivals":
        """Return an object with the values in `saved`, which `to_json` has returned.

        Raises:
            ValueError, TypeError: The values are not those of `to_json`.
        """
        if not isinstance(saved, list):
            raise TypeError("arrivals must be a list")
        new, old, new_in_a_row = saved
        if not all(0 <= n < math.inf for n in saved):
            raise ValueError(f"{saved} are not counts of arrivals")
        return cls(float(new), float(old), int(new_in_a_row))


class Durations(SafeRepr):
    """How long jobs take, learnt while they are polled.

    A poll never sees the moment at which a job ends: one poll finds the job active, and a later
    poll finds that it has ended. Some jobs are still active, and others were old already when they
    were first seen. `Durations` estimates the distribution of durations from all of these
    observations.

    Older observations count less: the last 8,000 jobs count most. If jobs become much shorter, most
    of the older observations are forgotten; see `_record_drift`. The weight of jobs that were not
    seen to end is limited. Without this limit, many waits with a short timeout would hide how long
    jobs take. One object may serve several watchers of one event loop.

    The method for observations that are interval-censored, right-censored and left-truncated:
    self-consistency (B. W. Turnbull, JRSS B 38, 1976, in terms of the hazard) with a weak prior,
    and smoothing after it (B. W. Silverman et al., JRSS B 52, 1990).

    Attributes:
        ended: Number of jobs that were seen to end.
        arrivals: Counts of the jobs that were new, and of those that were old, when a watcher got
            them.
        shortened: Number of times that jobs have become much shorter. Each time, most of the older
            observations were forgotten.
    """

    def __init__(self) -> None:
        """Create an object that has observed no job yet."""
        self._gone: dict[Observation, float] = {}  # weights of jobs that are no longer polled
        self._known = 0.0  # sum of the weights in `_gone` of jobs that were seen to end
        self._censored = 0.0  # sum of the weights in `_gone` of the other jobs
        # Number of active jobs that were seen active before and after each bin. To save time, each
        # item is the difference between this number and that of the previous bin.
        self._active_changes = [0.0] * (LAST + 1)
        self._running = 0  # number of active jobs
        self.ended = 0
        self._drift = 0.0  # evidence that jobs have become shorter; see `_record_drift`
        # Ended jobs since `_drift` was last 0.
        self._surprising: deque[Observation] = deque(maxlen=_MOST_SURPRISING)
        self._distribution = PRIOR
        self._is_outdated = False  # True if the distribution must be estimated again
        self._known_at_fit = 0.0  # value of `_known` at the last estimate
        self._extended = 0  # number of observations of active jobs since the last estimate
        self.arrivals = Arrivals()
        self.shortened = 0

    def __repr__(self) -> str:
        """Return the number of jobs seen to end, and the median duration."""
        return f"<Durations: {self.ended} jobs seen to end, median {self.quantile(0.5):.1f} s>"

    @property
    def distribution(self) -> Distribution:
        """The present estimate of how long jobs take.

        Reading this property makes a new estimate if much was observed since the last one: many
        polls of active jobs, or so many ended jobs that their weight has changed by over 10%. Each
        estimate is a new object.
        """
        if self._is_outdated:
            self._refit()
        return self._distribution

    @property
    def quiet_delay(self) -> float:
        """Longest delay until the next poll of a job at quiet ages, in seconds.

        Jobs hardly ever end at quiet ages. But if several of the last jobs have ended at such ages,
        jobs have become shorter, and a quiet age allows no longer delay than another age.
        """
        return LONGEST if self.is_drifting else longest_when_quiet(self._running)

    @property
    def is_drifting(self) -> bool:
        """True if several of the last jobs were much shorter than expected."""
        return self._drift > _SUSPICIOUS

    def quantile(self, share: float, *, age: float = 0.0) -> float:
        """Return the age by which a share of the jobs has ended, in seconds.

        It is at most a day, or `age` if that is more. For example, ``quantile(0.5)`` is the median
        duration. Of the jobs that were active at 60 s, half have ended by the age
        ``quantile(0.5, age=60)``.

        Raises:
            ValueError: `share` is not between 0 and 1, or `age` is negative.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be 0 to 1, got {share}")
        return self.distribution.quantile(share, age=_checked("age", age))

    def to_json(self) -> str:
        """Return what was learnt as JSON, for `from_json`. It has counts of jobs, but no ids."""
        seen = [[*ages, round(weight, 3)] for ages, weight in sorted(self._gone.items(), key=str)]
        arrivals = self.arrivals.to_json()
        saved = {"format": _FORMAT, "ended": self.ended, "seen": seen, "arrivals": arrivals}
        return json.dumps(saved, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Durations":
        """Create an object from the text that `to_json` has returned.

        Reading a megabyte can take a quarter of a second. So in a program with an event loop, call
        this method in a thread if the origin of the text is unknown.

        Raises:
            ConfigurationError: `text` does not come from `to_json`, or comes from an incompatible
                version of adepoll. In this case, start with a new `Durations`.
        """
        durations = cls()
        try:
            saved = json.loads(text)
            durations.ended, durations._gone = _read(saved)
            if "arrivals" in saved:  # older versions of adepoll did not save arrivals
                durations.arrivals = Arrivals.from_json(saved["arrivals"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
            raise ConfigurationError(f"Durations.to_json did not write this: {exc}") from exc
        durations._count_known()
        if durations._known:
            durations._refit()
        return durations

    def record_arrival(self, age: float, *, added_at: float, now: float) -> bool:
        """Record how old a job was when a watcher got the job. See `Arrivals.record`.

        Returns:
            True if the job was new. A new job also counts as a job that was seen active at age 0.
        """
        is_new = self.arrivals.record(age, added_at=added_at, now=now)
        self._running += is_new
        return is_new

    def begin(self) -> None:
        """Count a job that was just seen active for the first time."""
        self._running += 1

    def extend(self, seen: float, age: float) -> None:
        """Record that a job was seen active at the age `seen`, and later at the age `age`."""
        self._record_drift(seen, age)
        near = bisect_right(MIDDLES, seen)  # the same as `nearest_edge(seen)`, but faster
        if near < LAST and age >= MIDDLES[near]:
            self._active_changes[near] += 1
            self._active_changes[bisect_right(MIDDLES, age)] -= 1
        self._extended += 1
        if self._extended > self._running + _REFIT_POLLS:
            self._is_outdated = True

    def end(self, first: float, last: float, age: float, *, exact: float | None = None) -> None:
        """Record that a job was seen to have ended.

        Args:
            first: Age at which the job was first seen active.
            last: Age at which the job was last seen active.
            age: Age at which the job was seen to have ended.
            exact: Age at which the job ended, if the service has reported it; None if not.
        """
        self.ended += 1
        self._known += 1
        self._record_drift(last, age if exact is None else exact, ended=True)
        observation = self._record_gone(first, last, age, exact=exact)
        if self._drift:
            self._surprising.append(observation)
            if self._drift > _CERTAIN:
                self._forget_longer()
        else:
            self._surprising.clear()
        if self._known > _MEMORY:
            self._fade(0.5, censored=False)
            self._fade(0.5, censored=True)
        if abs(self._known - self._known_at_fit) > _REFIT_SHARE * self._known_at_fit:
            self._is_outdated = True

    def censor(self, first: float, last: float) -> None:
        """Record that an active job is no longer polled.

        Args:
            first: Age at which the job was first seen active.
            last: Age at which the job was last seen active.
        """
        self._record_gone(first, last, None)
        self._censored += 1
        if self._censored > _CENSORED_PER_END * self._known + _MIN_CENSORED:
            self._fade(0.5, censored=True)

    def _record_drift(self, seen: float, age: float, *, ended: bool = False) -> None:
        """Compare a poll with what was expected, to find out whether jobs have become shorter.

        This is a CUSUM chart (E. S. Page, Biometrika 41, 1954): `_drift` is the logarithm of the
        likelihood that jobs end four times as often as expected, divided by the likelihood that
        they end as often as expected. It is at least 0.

        A job that is only a little shorter than expected is no evidence, because the distribution
        is an estimate. So also count the ends that were expected up to 1.25 times the age.

        Args:
            seen: Age at which the job was last seen active.
            age: Age at the poll, or at the end of the job if it is known.
            ended: True if the poll found that the job has ended.
        """
        if (ended or self._drift) and self._known_at_fit > _MANY_ENDS:
            expected = self._distribution.ends_between(seen, max(_MUCH * age, seen))
            self._drift = max(self._drift + ended * _LOG_TIMES - expected * (_TIMES - 1), 0.0)

    def _forget_longer(self) -> None:
        """Forget most of what was learnt before jobs became shorter."""
        self.shortened += 1
        factor = min(_KEPT / self._known, 1.0)
        self._fade(factor, censored=False)
        self._fade(factor, censored=True)
        for observation in self._surprising:
            self._gone[observation] = self._gone.get(observation, 0.0) + 1.0 - factor
        self._count_known()
        self._surprising.clear()
        self._drift = 0.0

    def _record_gone(
        self, first: float, last: float, ended: float | None, *, exact: float | None = None
    ) -> Observation:
        """Record that a job is no longer polled, and return the observation.

        Args:
            first: Age at which the job was first seen active.
            last: Age at which the job was last seen active.
            ended: Age at which the job was seen to have ended; None if it was still active.
            exact: Age at which the job ended, if the service has reported it; None if not.
        """
        self._running -= 1
        ages = (  # `nearest_edge` without calls
            bisect_right(MIDDLES, first),
            bisect_right(MIDDLES, last),
            None if ended is None else bisect_right(MIDDLES, ended),
        )
        # `extend` has counted the job as active from `first` to `last`, also if `exact` differs.
        self._active_changes[ages[0]] -= 1
        self._active_changes[ages[1]] += 1
        if exact is not None:
            edge = bisect_right(MIDDLES, exact)
            ages = ages[0], edge, edge
        self._gone[ages] = self._gone.get(ages, 0.0) + 1.0
        return ages

    def _refit(self) -> None:
        """Estimate the distribution again from all observations."""
        self._known_at_fit = self._known
        self._extended = 0
        self._is_outdated = False
        self._distribution = estimate(self._distribution, self._gone, self._active_changes)

    def _fade(self, factor: float, *, censored: bool) -> None:
        """Multiply the weights of earlier jobs by `factor`, so that they count less.

        Args:
            factor: A number below 1.
            censored: True to change only jobs that were not seen to end; False to change only jobs
                that were.
        """
        weights = (
            (ages, weight * factor if (ages[2] is None) is censored else weight)
            for ages, weight in self._gone.items()
        )
        self._gone = {ages: weight for ages, weight in weights if weight >= _MIN_WEIGHT}
        self._count_known()

    def _count_known(self) -> None:
        """Add up the weights of the jobs that were seen to end, and those of all other jobs."""
        self._known = sum(w for (_, _, ended), w in self._gone.items() if ended is not None)
        self._censored = sum(self._gone.values()) - self._known


def nearest_edge(age: float) -> int:
    """Return the index of the item of `EDGES` that is nearest to `age`."""
    return bisect_right(MIDDLES, age)


def _read(saved: Any) -> tuple[int, dict[Observation, float]]:
    if saved["format"] != _FORMAT:
        raise ValueError(f"its format is {saved['format']!r}, not {_FORMAT}")
    ended = operator.index(saved["ended"])
    if not 0 <= ended <= _MOST_ENDED:
        raise ValueError("its number of ended jobs is impossible")
    return ended, dict(map(_read_observation, saved["seen"]))


def _read_observation(item: Sequence[Any]) -> tuple[Observation, float]:
    """Return an observation and its weight from JSON; raise if they are invalid."""
    first, last, ended, weight = item
    edges = (first, last) if ended is None else (first, last, ended)
    if [*edges] != sorted(map(operator.index, edges)) or edges[0] < 0 or edges[-1] > LAST:
        raise ValueError(f"{item} are not ages")
    if not (isinstance(weight, int | float) and 0 < weight <= _MOST_ENDED):
        raise ValueError(f"{weight} is not a weight")
    return (first, last, ended), float(weight)


def _checked(name: str, value: float) -> float:
    if value >= 0:
        return value
    raise ValueError(f"{name} must be 0 or more, got {value}")


# A job is new if it was at most this many seconds old when the watcher got it. The number cannot
# be smaller, because the service states times in whole seconds.
_MAX_NEW_AGE: Final = 2.0
_MOST_ARRIVALS: Final = (
    8000.0  # number of jobs above which the counts of new and of old jobs are halved
)
_MIN_RUN: Final = 32  # after so many new jobs in a row, the next job is expected to be new, too

_FORMAT: Final = 1
_MOST_ENDED: Final = 2**53  # a larger integer is not exact as a float
_REFIT_SHARE: Final = 0.1  # change of the weight of ended jobs that requires a new estimate
# The distribution is estimated again after one poll of each active job, and this number of polls.
_REFIT_POLLS: Final = 1000
_MEMORY: Final = 8000.0  # number of ended jobs above which all weights are halved
# Jobs not seen to end: they count for at most this multiple of the ended jobs, plus this number.
_CENSORED_PER_END: Final = 4.0
_MIN_CENSORED: Final = 200.0
_MIN_WEIGHT: Final = 0.05  # an observation with a smaller weight is forgotten
_MUCH: Final = 1.25  # an age below the expected one by this factor is much shorter
_TIMES: Final = 4.0  # if jobs end this number of times as often as expected, they are shorter
_LOG_TIMES: Final = math.log(_TIMES)
# Values that `_drift` exceeds after three ends that nothing predicted, and after seven. After the
# seventh, what was learnt before is forgotten.
_SUSPICIOUS: Final = 2.5 * _LOG_TIMES
_CERTAIN: Final = 6.5 * _LOG_TIMES
_MOST_SURPRISING: Final = 64  # maximum number of ended jobs that are not forgotten
# If fewer jobs were seen to end, the estimate is too uncertain to compare polls with it.
_MANY_ENDS: Final = 15.0
_KEPT: Final = 0.5  # all forgotten jobs together still count as this number of jobs
