"""What polls and lists reveal of jobs' ages, and so of how long jobs take.

Imports distribution, durations and job_state. Times are seconds of one monotonic clock; ages are
seconds since the service received the job.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import define, field, frozen

from adepoll.scheduling.distribution import EDGES, Distribution, bin_index
from adepoll.scheduling.durations import Durations
from adepoll.watching.job_state import JobState

_TRUNCATED: Final = 0.5  # mean of the seconds lost, as received_at is in whole seconds


def _unknown() -> None:
    """Return None, as the service's clock is not known."""


@define(eq=False)
class LagRatio:
    """Ratio of the observed detection lag to the one that the distribution led to expect.

    A distribution that is slightly wrong makes polls too rare or too frequent. The ratio also
    counts polls of jobs that are still active, so it is right while many jobs of a batch are open.

    Attributes:
        value: Observed lag divided by expected lag; 1 until enough jobs have been seen to end.
    """

    value: float = 1.0
    _observed: float = 0.0  # seconds of lag; older polls count less
    _expected: float = 0.0
    _ends: float = 0.0
    _polls: int = 0

    def record(self, distribution: Distribution, seen: float, age: float, *, settled: bool) -> None:
        """Record a poll at age `age` of a job that was active at age `seen`."""
        self._polls += 1
        if self._polls % _SAMPLE_EVERY or bin_index(age) > distribution.known:
            return  # a sample is enough; beyond the known ages there is nothing to compare with
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
    """Seconds by which the service's clock is ahead of the monotonic clock.

    Attributes:
        service_time: As in `Learning`.
        seconds: Offset when it was read last; None if it was not known.
        known_until: Time until which `seconds` may be used.
    """

    service_time: Callable[[], float | None]
    seconds: float | None = None
    known_until: float = -math.inf

    def read(self, now: float) -> float | None:
        """Read the service's clock; return the offset, or None while it is not known."""
        unix = self.service_time()
        if unix is None:
            self.seconds = None
        else:
            self.seconds = unix - now
            self.known_until = now + _KNOWN_FOR
        return self.seconds


@frozen(kw_only=True)
class Learning:
    """Keeps the age of each job, and teaches `durations`.

    Attributes:
        durations: What is learnt of how long jobs take.
        lag_ratio: Observed to expected lag of the polls whose time the schedule chose.
        service_time: Returns the Unix time of the service's clock, which also sets `received_at`
            and can differ from the local clock. None while it is not known: then ages count from
            when the watcher got a job.
    """

    durations: Durations = field(factory=Durations)
    service_time: Callable[[], float | None] = _unknown
    lag_ratio: LagRatio = field(factory=LagRatio)
    _offset: ClockOffset = field(init=False)

    @_offset.default
    def _make_offset(self) -> ClockOffset:
        return ClockOffset(self.service_time)

    def age(self, state: JobState, now: float) -> float:
        """Return the age of a job; it never decreases."""
        return max(now - state.received_at, state.last_active_age)

    def submitted_at(self, state: JobState, now: float) -> float | None:
        """Return the Unix time at which the service got a job; None if its clock is unknown."""
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
        """Record that a job was active at time `as_of`, which is now if None."""
        dated = self._date(state, received_at, now, is_active=True)
        if state.first_active_age is None and dated:
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
        """Record that a poll found a job settled, after `exact` seconds if that is known.

        Otherwise the job ended between two polls.

        A job that was old on arrival and was never seen active is left out: it is not known how
        many other jobs were at risk to arrive at that age.

        Returns:
            For a job that was never seen active: True if it was old on arrival, or its age is
            unknown. None for other jobs.
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
                exact = min(max(exact, first), age)  # clocks within the service can differ
                seen, age = exact, exact
            self.durations.end(first, seen, age)
        return was_old

    def record_dropped(self, state: JobState) -> None:
        """Record that a job is not polled any more; if it was active, its duration is censored."""
        if state.first_active_age is not None:
            self.durations.censor(state.first_active_age, state.last_active_age)
            state.first_active_age = None

    def chance(self, state: JobState, now: float) -> float:
        """Return the chance that a job has settled; 1 if its poll is urgent.

        A poll is urgent if somebody waits for the job, or if the job is missing from the list.
        """
        if state.missing_at < math.inf or state.awaited:
            return 1.0
        if state.first_active_age is None:
            return UNKNOWN_CHANCE
        seen, age = state.last_active_age, now - state.received_at
        return self.durations.distribution.ends_between(seen, age) if age > seen else 0.0

    def _date(
        self, state: JobState, received_at: datetime | None, now: float, *, is_active: bool
    ) -> bool:
        """Record when the service received a job; return False if that or its clock is unknown.

        The age of an active job is implausible if the watcher got the job earlier than the service
        did, or if the job was then older than an hour and older than twice the known ages. An
        implausible age is not used: the age is counted from the time when the watcher got the job.
        A later answer with another time of receipt changes nothing.
        """
        if received_at is None:
            return False
        offset = self._offset
        ahead = offset.seconds if now < offset.known_until else offset.read(now)
        if ahead is None:
            return False
        received = received_at.timestamp() + _TRUNCATED - ahead
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
        """Record how old a job was when the watcher got it; return whether it was new.

        A new job is observed from its age 0 on, however late its first poll is, and whatever that
        poll finds: its duration is not truncated, and if it has settled, it did so in (0, age].
        """
        age = state.added_at - state.received_at
        is_new = self.durations.record_arrival(age, added_at=state.added_at, now=now)
        if is_new:
            state.first_active_age = state.last_active_age = 0.0
        return is_new


def exact_duration(submitted_at: datetime | None, completed_at: datetime | None) -> float | None:
    """Return the seconds between two times of the service; None if that is not a duration."""
    if submitted_at is None or completed_at is None:
        return None
    seconds = (completed_at - submitted_at).total_seconds()
    return seconds if seconds >= 0 else None


def _is_on_time(state: JobState) -> bool:
    """Return whether the last poll was made when it was due, and not later."""
    return state.polled_at - state.due < _ON_TIME


UNKNOWN_CHANCE: Final = 0.5
"""Chance that a job has settled of which nothing is known."""

_KNOWN_FOR: Final = 0.1  # seconds; clocks are not known more exactly
_OLDEST: Final = 3600.0  # seconds
_TOLERANCE: Final = 2.0  # seconds; clocks and times of receipt are in whole seconds
_ON_TIME: Final = 0.5  # seconds
_SAMPLE_EVERY: Final = 2  # polls
_FADING: Final = 1 - 1 / 40_000  # per poll of the sample
_MIN_ENDS: Final = 500.0
