"""Learns from polls and lists how old jobs are, and how long jobs take.

Times are seconds of one monotonic clock. The age of a job is the number of seconds since the
service received the job. A job is new if it was at most 2 s old when the watcher got it, and old if
not (`scheduling.durations.Arrivals`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from attrs import define, field, frozen

from adepoll.scheduling.distribution import EDGES, Distribution, bin_index
from adepoll.scheduling.durations import Durations
from adepoll.watching.job_state import JobState

# Seconds added to a time of receipt in whole seconds, because the service has rounded it down.
_MEAN_ROUNDING: Final = 0.5


def _unknown() -> None:
    """Return None; the default of `service_time`, for a service whose clock is not known."""


@define(eq=False)
class LagRatio:
    """Compares observed detection lags with the expected ones.

    If the estimated durations are slightly wrong, polls are too rare or too frequent. The ratio
    shows by how much. Polls that find a job still active count, too: without them, the ratio would
    be wrong while many jobs of a batch are open.

    Attributes:
        value: Observed lag divided by expected lag, from a sample of the polls; 1 until about 500
            of them have found a settled job.
    """

    value: float = 1.0
    # In these three sums, older polls count less.
    _observed: float = 0.0  # seconds of observed lag
    _expected: float = 0.0  # seconds of expected lag
    _ends: float = 0.0  # number of polls that found a settled job
    _polls: int = 0  # number of recorded polls

    def record(self, distribution: Distribution, seen: float, age: float, *, settled: bool) -> None:
        """Record a poll at age `age` of a job that was last known to be active at age `seen`."""
        self._polls += 1
        if self._polls % _SAMPLE_EVERY or bin_index(age) > distribution.known:
            return  # a sample of the polls is enough; at unknown ages, the distribution is a guess
        expected = distribution.expected_lag(seen, age)
        self._observed *= _FADING
        self._expected = _FADING * self._expected + expected
        self._ends *= _FADING
        if settled and (chance := distribution.ends_between(seen, age)) > 0:
            self._observed += expected / chance
            self._ends += 1
        is_known = self._ends >= _MIN_ENDS and self._expected
        self.value = self._observed / self._expected if is_known else 1.0


@define(eq=False)
class ClockOffset:
    """Difference between the service's clock and the local monotonic clock.

    Attributes:
        service_time: Returns the Unix time of the service's clock; None if it is not known.
        seconds: Unix time minus monotonic time when the clock was last read; None if the service's
            clock was not known then.
        known_until: Monotonic time until which `seconds` may be used.
    """

    service_time: Callable[[], float | None]
    seconds: float | None = None
    known_until: float = -math.inf

    def read(self, now: float) -> float | None:
        """Read the service's clock; return the new value of `seconds`."""
        unix = self.service_time()
        if unix is None:
            self.seconds = None
        else:
            self.seconds = unix - now
            self.known_until = now + _KNOWN_FOR
        return self.seconds


@define(eq=False)
class FirstStatuses:
    """Finds out whether jobs have usually settled already when the watcher gets them.

    Attributes:
        mostly_settled: True if most of the recent jobs had settled before the list or a poll could
            show them as active.
    """

    mostly_settled: bool = False
    _settled_share: float = 0.0  # share of the recent jobs; older jobs count less

    def record(self, *, settled: bool) -> None:
        """Record whether a job had already settled when it was seen for the first time."""
        self._settled_share += (settled - self._settled_share) / _SHARE_OF
        self.mostly_settled = self._settled_share > _MAX_SETTLED_SHARE


@frozen(kw_only=True)
class Learning:
    """Keeps the age of each job in its `JobState`, and records durations in `durations`.

    Attributes:
        durations: What is learnt of how long jobs take.
        lag_ratio: Observed lag divided by expected lag, for polls whose time the schedule chose.
        first_statuses: Knows whether jobs have usually settled when the watcher gets them.
        service_time: Returns the Unix time of the service's clock, which can differ from the local
            clock; None while it is not known. As long as it is None, ages count from the time when
            the watcher got a job.
    """

    durations: Durations = field(factory=Durations)
    service_time: Callable[[], float | None] = _unknown
    lag_ratio: LagRatio = field(factory=LagRatio)
    first_statuses: FirstStatuses = field(factory=FirstStatuses)
    _offset: ClockOffset = field(init=False)

    @_offset.default
    def _make_offset(self) -> ClockOffset:
        """Return a new `ClockOffset` for `service_time`."""
        return ClockOffset(self.service_time)

    def age(self, state: JobState, now: float) -> float:
        """Return the age of a job; it never decreases."""
        return max(now - state.received_at, state.last_active_age)

    def submitted_at(self, state: JobState, now: float) -> float | None:
        """Return the Unix time at which the service received a job; None if it is not known."""
        offset = self._offset
        ahead = offset.seconds if now < offset.known_until else offset.read(now)
        return None if ahead is None else state.received_at + ahead

    def record_active(
        self,
        state: JobState,
        received_at: datetime | None,
        now: float,
        *,
        as_of: float | None = None,
    ) -> None:
        """Record that a job was active at a certain time.

        Args:
            state: The job.
            received_at: Time at which the service received the job; None if it is not known.
            now: The present time.
            as_of: Time at which the job was active; None for `now`.
        """
        is_first = state.first_active_age is None
        if is_first:
            self.first_statuses.record(settled=False)
        if self._date(state, received_at, now, is_active=True) and is_first:
            self._record_arrival(state, now)
        seen = state.last_active_age
        age = max((now if as_of is None else as_of) - state.received_at, seen)
        if state.first_active_age is None:
            state.first_active_age = age
            self.durations.begin()
        else:
            if as_of is None and state.by_schedule and _is_on_time(state):
                self.lag_ratio.record(self.durations.distribution, seen, age, settled=False)
            self.durations.extend(seen, age)
        state.last_active_age = age

    def record_settled(
        self,
        state: JobState,
        received_at: datetime | None,
        now: float,
        *,
        exact: float | None = None,
    ) -> bool | None:
        """Record that a poll found a job settled.

        If the job was old when the watcher got it, and no poll has found it active, its duration is
        not recorded. Such durations would distort the estimate, because nobody knows how many other
        jobs of that age were still active.

        Args:
            state: The job.
            received_at: Time at which the service received the job; None if it is not known.
            now: The present time.
            exact: Duration of the job in seconds, if the service has reported it; None if not.

        Returns:
            None if an earlier poll found the job active. If no poll did: True if the job was old
            when the watcher got it, or if its age is not known; False if it was new.
        """
        was_old = None
        if state.first_active_age is None and state.polls <= 1:
            dated = self._date(state, received_at, now, is_active=False)
            was_old = not (dated and self._record_arrival(state, now))
        if (first := state.first_active_age) is not None:
            state.first_active_age = None
            seen = state.last_active_age
            age = max(now - state.received_at, seen)
            if state.by_schedule and _is_on_time(state):
                self.lag_ratio.record(self.durations.distribution, seen, age, settled=True)
            if exact is not None:
                exact = min(max(exact, first), age)  # the service's clocks can be inexact
            self.durations.end(first, seen, age, exact=exact)
        return was_old

    def record_dropped(self, state: JobState) -> None:
        """Record that a job is no longer polled, although it may not have settled."""
        if state.first_active_age is not None:
            self.durations.censor(state.first_active_age, state.last_active_age)
            state.first_active_age = None

    def record_all_dropped(self, states: Iterable[JobState]) -> Iterator[None]:
        """Record that these jobs are no longer polled; yield after every 500 jobs."""
        for number, state in enumerate(states, 1):
            self.record_dropped(state)
            if number % _CHUNK == 0:
                yield

    def chance(self, state: JobState, now: float) -> float:
        """Return the chance that a job has settled."""
        if state.first_active_age is None and not self.durations.arrivals.trusted:
            return UNKNOWN_CHANCE
        seen, age = state.last_active_age, now - state.received_at
        return self.durations.distribution.ends_between(seen, age) if age > seen else 0.0

    def _date(
        self, state: JobState, received_at: datetime | None, now: float, *, is_active: bool
    ) -> bool:
        """Record when the service received a job; return False if the time cannot be used.

        If no time can be used, the age of the job counts from the time when the watcher got it.
        After one time was used, a different time in a later answer is ignored. A time cannot be
        used in these cases:

        - It is not known, or the service's clock is not known.
        - The job is active, but the service received it after the watcher got it.
        - The job is active. When the watcher got it, it was over an hour old, and over twice as old
          as any job that was seen to end.
        """
        if received_at is None:
            return False
        offset = self._offset
        ahead = offset.seconds if now < offset.known_until else offset.read(now)
        if ahead is None:
            return False
        rounding = 0.0 if received_at.microsecond else _MEAN_ROUNDING
        received = received_at.timestamp() + rounding - ahead
        if state.first_active_age is not None:
            if abs(received - state.received_at) > _TOLERANCE:
                return False
        elif is_active:
            oldest = max(_OLDEST, 2 * EDGES[self.durations.distribution.known])
            if not -_TOLERANCE <= state.added_at - received <= oldest:
                return False
        state.received_at = received
        return True

    def _record_arrival(self, state: JobState, now: float) -> bool:
        """Record how old a job was when the watcher got the job; return True if it was new.

        A new job counts as observed from age 0, even if its first poll is later. So its duration is
        learned, even if the first poll finds the job settled.
        """
        age = state.added_at - state.received_at
        is_new = self.durations.record_arrival(age, added_at=state.added_at, now=now)
        if is_new:
            state.first_active_age = state.last_active_age = 0.0
        return is_new


def exact_duration(submitted_at: datetime | None, completed_at: datetime | None) -> float | None:
    """Return the seconds from receipt to end of a job; None if this is unknown or negative."""
    if submitted_at is None or completed_at is None:
        return None
    seconds = (completed_at - submitted_at).total_seconds()
    return seconds if seconds >= 0 else None


def _is_on_time(state: JobState) -> bool:
    """Return True if the last poll started at most half a second after it was due."""
    return state.polled_at - state.due < _ON_TIME


UNKNOWN_CHANCE: Final = 0.5
"""Assumed chance that a job has settled, for a job that was never polled and may be old."""

# Seconds until the service's clock is read again. Reading it more often would not be more exact.
_KNOWN_FOR: Final = 0.1
_OLDEST: Final = 3600.0  # seconds; an age up to this one on arrival is always plausible
_TOLERANCE: Final = 2.0  # seconds; the service's clock and times of receipt are in whole seconds
_CHUNK: Final = 500  # jobs in one step of an iterator
_MAX_SETTLED_SHARE: Final = 0.5  # if `_settled_share` is larger, new jobs have probably settled
_SHARE_OF: Final = 8  # recent jobs that make up most of `_settled_share`
_ON_TIME: Final = 0.5  # seconds after its due time in which a poll can start and is still on time
_SAMPLE_EVERY: Final = 2  # every second poll is in the sample
_FADING: Final = 1 - 1 / 40_000  # factor by which older polls count less at each poll of the sample
_MIN_ENDS: Final = 500.0  # polls that found a settled job; with fewer, the ratio is 1
