"""Whether and when to sweep the job list: what sweeps cost, against the polls that they replace.

Imports listing. Times are seconds of one monotonic clock.
"""

import math
from collections.abc import Sequence
from typing import Final

from attrs import define, frozen

from adepoll.api.models import JobStatus
from adepoll.watching.listing import ACTIVE, Discovery, Sweep


@frozen(kw_only=True)
class Situation:
    """The figures by which `SweepPolicy` decides.

    Attributes:
        now: The time.
        watched: Watched jobs.
        settled: Jobs found settled so far.
        wasted_polls: Polls so far of jobs missing from the list that were still active.
        pending_confirmation: Jobs that are to be polled immediately.
        polls: Polls so far.
        mean_delay: Mean seconds between two polls of a job by the schedule; None at first.
        list_is_bad: True if the list turned out to be too late or wrong.
        list_is_proven: True if it turned out to be right.
        compare_at: Time of a sweep that can tell whether the list is late; infinity if there is
            none.
    """

    now: float
    watched: int
    settled: int
    wasted_polls: int
    pending_confirmation: int
    polls: int
    mean_delay: float | None
    list_is_bad: bool = False
    list_is_proven: bool = False
    compare_at: float = math.inf


@define(kw_only=True, eq=False)
class SweepPolicy:
    """Whether and when to sweep: what a sweep costs, against the polls that it replaces.

    Attributes:
        discovery: The caller's choice.
        target_lag: Mean detection lag to aim at, in seconds; None to sweep as often as the
            schedule would poll.
        min_watched: Watched jobs from which on "auto" begins to sweep.
        last: The last complete sweep.
        duration: Seconds that the last complete sweep took.
        paused_until: Time until which the list is not requested, unless many jobs are added.
        pauses: Number of pauses since the list was last useful; each is longer than the one before.
        is_trial: True if the list was too late or wrong, and has not been proven to be right since.
    """

    discovery: Discovery
    target_lag: float | None
    min_watched: int = 10
    last: Sweep | None = None
    duration: float = 0.0
    paused_until: float = -math.inf
    pauses: int = 0
    is_trial: bool = False
    _trial_ends: float = -math.inf
    _without_pending: int = 0  # complete sweeps in a row
    _useful: int = 0  # complete sweeps since the last pause
    _started: float = -math.inf
    _failures: int = 0  # in a row
    _until_watched: float = math.inf
    _counted: Situation | None = None  # at the last update of the sums below, which fade
    _requests: float = 0.0  # for sweeps
    _settled: float = 0.0  # jobs
    _wasted: float = 0.0  # polls
    _rate: float = 0.0  # polls per second

    def should_sweep(self, at: Situation) -> bool:
        """Return whether to sweep at all."""
        if self.discovery == "get":
            return False
        if at.now < self.paused_until and at.watched < self._until_watched:
            return False
        if self.discovery == "list":
            return at.watched > 0
        if self.last is not None and at.now > self.last.started + _PAUSE:
            self.last = None  # out of date
        if self.last is None:
            return at.watched >= self.min_watched
        return at.watched >= _MIN_LEFT and self.last.needed_pages <= self._replaced_polls(at)

    def start(self, at: Situation) -> Sweep:
        """Start a sweep."""
        self._started = at.now
        statuses: Sequence[JobStatus] = ACTIVE
        if self._without_pending >= _MIN_WITHOUT_PENDING:
            wasted = self._counted is not None and at.wasted_polls > self._counted.wasted_polls
            self._without_pending = 0 if wasted else self._without_pending + 1
            if self._without_pending % _PENDING_EVERY:
                statuses = ACTIVE[:1]  # no job was pending recently
        return Sweep.start(
            at.now,
            max_pages=self.max_pages(at),
            watched=at.watched,
            previous=self.last,
            statuses=statuses,
        )

    def max_pages(self, at: Situation) -> int:
        """Return the number of pages above which a sweep costs more than polls."""
        return _MAX_PAGES if self.discovery == "list" else int(self._replaced_polls(at))

    def record_end(self, sweep: Sweep, at: Situation) -> None:
        """Record the end of a sweep: it is complete, or was stopped after too many pages."""
        self._failures = 0
        self._count(at)
        self._requests += sweep.pages
        if sweep.is_complete:
            sweep.job_ids.clear()  # only the number of pages is still needed
            self.last = sweep
            if JobStatus.PENDING in sweep.statuses:
                none = not sweep.jobs_of(JobStatus.PENDING)
                self._without_pending = self._without_pending + 1 if none else 0
            self.duration = at.now - sweep.started
            if at.list_is_proven:
                self.is_trial = False
            wastes = self._wasted > max(_MIN_WASTED, self._settled, at.watched)
            if at.list_is_bad or wastes or (self.is_trial and at.now > self._trial_ends):
                self.is_trial = True
                self._pause(at.now, _PAUSE)  # polls by schedule find ends earlier, or cost less
            elif not self.is_trial:
                self._useful += 1
                if self._useful >= _MIN_USEFUL:
                    self.pauses = 0
        else:
            self._pause(at.now, _PAUSE, until_watched=2 * at.watched)

    def record_failure(self, at: Situation) -> None:
        """Record that an error or a timeout ended a sweep."""
        self._failures += 1
        if self.last is None or self._failures > _MAX_FAILURES:
            self._pause(at.now, _SHORT_PAUSE)

    def delay(self, at: Situation) -> float:
        """Return the seconds until the next sweep."""
        self._count(at)
        every = self._interval(at)
        if self._failures:
            every = min(every, _RETRY_AFTER)  # no job is polled meanwhile
        # Jobs known to be missing are polled first; more of them are not needed before that.
        if self._rate:
            busy = at.pending_confirmation / self._rate
        else:
            busy = every if at.pending_confirmation else 0.0
        if at.compare_at > self._started:
            every = min(every, max(at.compare_at - self._started, _MIN_APART))
        return max(self._started + every - at.now, busy - every / 2, 0.0)

    def short_rate(self, sweep: Sweep, at: Situation) -> float | None:
        """Return the requests per second of a sweep that has ended, if it took long.

        None if it took at most half of the wanted time between two sweeps.
        """
        return sweep.pages / self.duration if self.duration > self._interval(at) / 2 else None

    def _interval(self, at: Situation) -> float:
        """Return the wanted seconds from the start of a sweep to that of the next one."""
        every = at.mean_delay or _DEFAULT_DELAY
        if self.target_lag is not None:
            # By the schedule's own price of a request, a sweep that replaces many polls may come
            # more often than each of them. It need not come more often than the target asks for:
            # half of the time between sweeps is lag, and so is the time of the polls that follow.
            pages = len(ACTIVE) if self.last is None else self.last.needed_pages
            every *= min(math.sqrt(pages / max(at.watched, 1)), 1.0)
            every = max(every, 2 * max(self.target_lag - self.duration, self.target_lag / 2))
        if self.discovery == "auto":
            # Other people's jobs make the list longer. Rarer sweeps cost less and lead to more lag.
            cost = self._requests / (_REQUEST_SHARE * max(self._settled + at.watched, 1))
            every *= min(max(cost, 1.0), _MAX_STRETCH)
        return every

    def _replaced_polls(self, at: Situation) -> float:
        """Return how many polls of all jobs the schedule would make between two sweeps."""
        if at.mean_delay is None or self.target_lag is None:
            return at.watched
        return at.watched * min(1.0, 2 * self.target_lag / at.mean_delay)

    def _pause(self, now: float, seconds: float, *, until_watched: float = math.inf) -> None:
        self.last = None
        self._until_watched = until_watched
        self._failures = self._useful = 0
        self._wasted = 0.0
        self.paused_until = now + min(seconds * 2**self.pauses, _MAX_PAUSE)
        self.pauses = min(self.pauses + 1, _MAX_PAUSES)
        self._trial_ends = self.paused_until + _TRIAL

    def _count(self, at: Situation) -> None:
        before, self._counted = self._counted, at
        if before is None or at.now <= before.now:
            return
        passed = at.now - before.now
        fading = math.exp(-passed / _MEMORY)
        self._requests *= fading
        self._settled = self._settled * fading + at.settled - before.settled
        self._wasted = self._wasted * fading + at.wasted_polls - before.wasted_polls
        recent = math.exp(-passed / _RATE_MEMORY)
        self._rate = self._rate * recent + (1 - recent) * (at.polls - before.polls) / passed


_MIN_LEFT: Final = 3  # watched jobs down to which "auto" goes on
_MAX_PAGES: Final = 10_000
_MAX_FAILURES: Final = 2
_PAUSE: Final = 60.0  # seconds; each pause is twice as long as the one before
_SHORT_PAUSE: Final = 5.0
_RETRY_AFTER: Final = 1.0  # seconds from the start of a sweep that fails to that of the next one
_TRIAL: Final = 30.0
_MIN_APART: Final = 1.0  # seconds between two sweeps that compare the list with polls
_MAX_PAUSE: Final = 3600.0
_MAX_PAUSES: Final = 16
_MIN_WITHOUT_PENDING: Final = 3  # sweeps
_PENDING_EVERY: Final = 8  # sweeps
_MIN_USEFUL: Final = 5  # sweeps
_MIN_WASTED: Final = 100.0
_DEFAULT_DELAY: Final = 4.0
_REQUEST_SHARE: Final = 0.2  # requests for sweeps, per job
_MAX_STRETCH: Final = 1.2
_MEMORY: Final = 300.0
_RATE_MEMORY: Final = 10.0
