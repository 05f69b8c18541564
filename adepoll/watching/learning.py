"""What looks and lists tell of a job's age, and so of how long jobs take. Imports durations, entry.

Times are seconds of one monotonic clock, ages seconds since the service received the job.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import define, field, frozen

from adepoll.scheduling.durations import Durations, Law, bin_of
from adepoll.watching.job_state import JobState

_CUT_OFF: Final = 0.5  # received_at is in whole seconds; so much is lost on average


def _nobody_knows() -> None:
    """Be the clock of a service that does not tell the time."""


@define(eq=False)
class Surprise:
    """How the lag that came of looks compares to the one that was to be expected.

    A law that is not quite right makes plans that are not quite right. The sums run over looks,
    whether they see an end or not, so that they are right in the midst of a batch, too.
    """

    _seen: float = 0.0  # seconds of lag, of late
    _expected: float = 0.0
    _ends: float = 0.0
    _looks: int = 0

    def looked(self, law: Law, seen: float, age: float, *, ended: bool) -> None:
        """Take in a look at age `age` at a job that was active at age `seen`."""
        self._looks += 1
        if self._looks % _ONE_IN or bin_of(age) > law.known:
            return  # a sample will do, and what is mere belief is no standard
        expected = law.lag_ahead(seen, age)
        self._seen *= _FADING
        self._expected = _FADING * self._expected + expected
        self._ends *= _FADING
        if ended and (chance := law.ends_within(seen, age)) > 0:
            self._seen += expected / chance
            self._ends += 1

    @property
    def ratio(self) -> float:
        """The lag that was seen, relative to the one expected; 1 while too little was seen."""
        if self._ends < _FEWEST_ENDS or not self._expected:
            return 1.0
        return self._seen / self._expected


@define(eq=False)
class Offset:
    """By how much the service's clock is ahead of ours, asked for once in a while.

    Attributes:
        service_time: As in `Learning`.
        seconds: What was found when it was asked for last; None where it was not known.
        known_until: Up to when that will do.
    """

    service_time: Callable[[], float | None]
    seconds: float | None = None
    known_until: float = -math.inf

    def ask(self, now: float) -> float | None:
        """Give the offset in seconds; None while it is not known."""
        unix = self.service_time()
        if unix is None:
            self.seconds = None
        else:
            self.seconds = unix - now
            self.known_until = now + _WHILE
        return self.seconds


@frozen(kw_only=True)
class Learning:
    """Keeps each entry's age, and teaches `durations`.

    Attributes:
        durations: What is learnt.
        surprise: How the lag of looks that the schedule made compares to the expected one.
        service_time: Gives the Unix time of the service, which `received_at` is of: its clock need
            not agree with ours. None while that is not known; then ages count from when the
            watcher was told of a job.
    """

    durations: Durations = field(factory=Durations)
    service_time: Callable[[], float | None] = _nobody_knows
    surprise: Surprise = field(factory=Surprise)
    _offset: Offset = field(init=False)

    @_offset.default
    def _ask_for_offset(self) -> Offset:
        return Offset(self.service_time)

    def age(self, entry: JobState, now: float) -> float:
        """Give the age of a job, which never goes back."""
        return max(now - entry.born, entry.seen)

    def active(
        self, entry: JobState, received_at: datetime, now: float, *, as_of: float | None = None
    ) -> None:
        """Note that a job was active at `as_of`, now if None."""
        dated = self._date(entry, received_at, now)
        if entry.entered is None and dated:
            self._meet(entry, now)
        seen = entry.seen
        age = max((now if as_of is None else as_of) - entry.born, seen)
        if entry.entered is None:
            entry.entered = age
            self.durations.enter()
        else:
            if as_of is None and self._is_due(entry):
                self.surprise.looked(self.durations.law, seen, age, ended=False)
            self.durations.survived(seen, age)
        entry.seen = age

    def ended(self, entry: JobState, received_at: datetime, now: float) -> None:
        """Note that a job was seen ended.

        Where it was old when it was given, and never seen active, that tells nothing: of such jobs
        one cannot say which were at risk of being given, too.
        """
        if entry.entered is None and entry.polls <= 1 and self._date(entry, received_at, now):
            self._meet(entry, now)
        if entry.entered is not None:
            age = self.age(entry, now)
            if self._is_due(entry):
                self.surprise.looked(self.durations.law, entry.seen, age, ended=True)
            self.durations.end(entry.entered, entry.seen, age)
            entry.entered = None

    def _date(self, entry: JobState, received_at: datetime, now: float) -> bool:
        """Note when the service received a job; False where its clock is not known."""
        offset = self._offset
        ahead = offset.seconds if now < offset.known_until else offset.ask(now)
        if ahead is None:
            return False
        entry.born = received_at.timestamp() + _CUT_OFF - ahead
        return True

    def _meet(self, entry: JobState, now: float) -> None:
        """Note how old a job was when it was given.

        A new one has been at risk before our eyes from its age 0 on, however late the first look
        at it, and whatever that finds: nothing is truncated, and what ended did so in (0, age].
        """
        age = entry.since - entry.born
        if self.durations.arrivals.met(age, given_at=entry.since, now=now):
            entry.entered = entry.seen = 0.0
            self.durations.enter()

    def _is_due(self, entry: JobState) -> bool:
        """Tell whether the schedule is to answer for when the look was made."""
        return entry.by_schedule and entry.polled_at - entry.due < _IN_TIME

    def lost(self, entry: JobState) -> None:
        """Note that a job is not looked at any more, whether it was seen ended or not."""
        if entry.entered is not None:
            self.durations.lose(entry.entered, entry.seen)
            entry.entered = None

    def gain(self, entry: JobState, now: float) -> float:
        """Give the chance that a job has ended."""
        if entry.entered is None:
            return EVEN
        seen, age = entry.seen, now - entry.born
        return self.durations.law.ends_within(seen, age) if age > seen else 0.0


EVEN: Final = 0.5
"""The chance that a job has ended of which nothing is known."""

_WHILE: Final = 0.1  # seconds; a clock is not known better any sooner
_IN_TIME: Final = 0.5  # seconds
_ONE_IN: Final = 2
_FADING: Final = 1 - 1 / 40_000  # from look to look of the sample
_FEWEST_ENDS: Final = 500.0
