"""Decides whether and when to sweep the job list.

A sweep costs one request for each page of the list, and replaces polls of listed jobs. adepoll
sweeps while that saves requests. Times are seconds of one monotonic clock.
"""

import math
from collections.abc import Sequence
from typing import Final

from attrs import define, frozen

from adepoll.api.models import JobStatus
from adepoll.watching.listing import ACTIVE, Discovery, Sweep


@frozen(kw_only=True)
class Situation:
    """The numbers on which the decisions of `SweepPolicy` depend.

    Attributes:
        now: The present time.
        watched: Number of watched jobs.
        settled: Number of jobs that polls have found settled so far.
        wasted_polls: Number of polls so far of jobs that were missing from the list but still
            active.
        pending_confirmation: Number of jobs whose next poll is due now, whatever the list says.
        polls: Number of polls so far.
        mean_delay: Mean seconds between two polls of a job by the schedule; None before the first
            poll.
        poll_wait: Mean number of seconds from the end of a sweep until a job that the sweep did not
            show has been polled.
        list_is_bad: True if polls have shown that the list is too late or wrong.
        list_is_proven: True if polls have shown that the list is right.
        compare_at: Latest time at which the next sweep should start; see `ListAccuracy`.
        replaces_waits: True if the list replaces polls of jobs that somebody waits for, because the
            request budget is short.
        pages_wait: True if the last request for a page has waited for the request budget or the
            semaphore.
        polls_per_page: Number of polls that could be made in the time of a request for a page, if
            the semaphore limits the requests; 1 if the request budget limits them.
        settled_share: While the request budget is short: the share, 0 to 1, of the recent late
            polls that found a settled job. Otherwise 0.
    """

    now: float
    watched: int
    settled: int
    wasted_polls: int
    pending_confirmation: int
    polls: int
    mean_delay: float | None
    poll_wait: float = 0.0
    list_is_bad: bool = False
    list_is_proven: bool = False
    compare_at: float = math.inf
    replaces_waits: bool = False
    pages_wait: bool = False
    polls_per_page: float = 1.0
    settled_share: float = 0.0


@define(kw_only=True, eq=False)
class SweepPolicy:
    """Decides whether and when to sweep the job list.

    A *pause* is a time without sweeps, after sweeps were useless or have failed. A *trial* is a
    time after the list was too late or wrong: sweeps only compare the list with polls, and the
    schedule alone decides when jobs are polled.

    Attributes:
        discovery: When to sweep, apart from pauses. "get": never. "list": while any job is watched.
            "auto": while sweeps save requests.
        target_lag: Mean detection lag to aim at, in seconds; None to sweep as often as the schedule
            would poll a job.
        min_watched: Number of watched jobs that "auto" needs to start sweeping.
        last: The last complete sweep. None if its number of pages does not show how many requests
            the next sweep needs: no sweep was complete, a pause has followed, or `should_sweep` has
            found that the last complete sweep began over a minute ago.
        duration: Seconds that the last complete sweep took.
        paused_until: End of the present pause. If the reason was that the list has too many pages,
            the pause also ends when twice as many jobs are watched.
        pauses: Number of pauses since the list was last useful, at most 16. Each of them doubles
            the duration of the next one.
        is_trial: True during a trial. It ends when polls have shown that the list is right again
            (`ListAccuracy.is_proven`).
    """

    discovery: Discovery
    target_lag: float | None
    min_watched: int = 10
    last: Sweep | None = None
    duration: float = 0.0
    paused_until: float = -math.inf
    pauses: int = 0
    is_trial: bool = False
    _trial_ends: float = -math.inf  # time at which sweeping pauses if the list is not proven
    # Number of consecutive sweeps that showed no pending job, or did not list pending jobs.
    _without_pending: int = 0
    _useful: int = 0  # number of complete sweeps since the last pause
    _started: float = -math.inf  # time at which the last sweep started
    _failures: int = 0  # number of consecutive sweeps that failed
    _until_watched: float = math.inf  # number of watched jobs that ends a pause early
    # Situation at the last update of the next four figures, in which older events count less.
    _counted: Situation | None = None
    _requests: float = 0.0  # number of list requests
    _settled: float = 0.0  # number of settled jobs
    _wasted: float = 0.0  # number of wasted polls
    _rate: float = 0.0  # polls per second

    def should_sweep(self, situation: Situation) -> bool:
        """Return True if sweeps are worth their requests, and are not paused."""
        if self.discovery == "get":
            return False
        if situation.now < self.paused_until and situation.watched < self._until_watched:
            return False
        if self.discovery == "list":
            return situation.watched > 0
        if self.last is not None and situation.now > self.last.started + _PAUSE:
            self.last = None  # the sweep is out of date
        if self.last is None:
            return situation.watched >= self.min_watched
        pages = self.last.needed_pages
        return situation.watched >= _MIN_LEFT and pages <= self._replaced_polls(situation)

    def start(self, situation: Situation) -> Sweep:
        """Start and return a sweep."""
        self._started = situation.now
        statuses: Sequence[JobStatus] = ACTIVE
        if self._without_pending >= _MIN_WITHOUT_PENDING:
            if self._counted is not None and situation.wasted_polls > self._counted.wasted_polls:
                self._without_pending = 0
            elif (self._without_pending + 1) % _PENDING_EVERY:
                self._without_pending += 1
                statuses = ACTIVE[:1]  # only processing jobs: no job was pending recently
        return Sweep.start(
            situation.now,
            max_pages=self.max_pages(situation),
            watched=situation.watched,
            previous=self.last,
            statuses=statuses,
        )

    def max_pages(self, situation: Situation) -> int:
        """Return the number of pages after which to abandon a sweep.

        With "auto", a sweep with more pages would need more requests than the polls that it
        replaces, or would delay polls for too long (`_delays_polls`).
        """
        if self.discovery == "list":
            return _MAX_PAGES
        most = self._replaced_polls(situation)
        if self._delays_polls(situation, situation.now - self._started):
            most = min(most, self._worthwhile_pages(situation))
        return int(most)

    def record_end(self, sweep: Sweep, situation: Situation) -> None:
        """Record the end of a sweep that is complete, or was abandoned after too many pages."""
        self._failures = 0
        self._count(situation)
        self._requests += sweep.pages
        if sweep.is_complete:
            sweep.job_ids.clear()  # frees memory; only the numbers of pages are still needed
            self.last = sweep
            if JobStatus.PENDING in sweep.statuses:
                none = not sweep.jobs_of(JobStatus.PENDING)
                self._without_pending = self._without_pending + 1 if none else 0
            self.duration = situation.now - sweep.started
            if situation.list_is_proven:
                self.is_trial = False
            wastes = self._wasted > max(_MIN_WASTED, self._settled, situation.watched)
            trial_failed = self.is_trial and situation.now > self._trial_ends
            if situation.list_is_bad or wastes or trial_failed:
                self.is_trial = True
                # Polls by schedule find settled jobs earlier than sweeps, or cost less.
                self._pause(situation.now, _PAUSE)
            elif (
                self.discovery == "auto"
                and self._delays_polls(situation, self.duration)
                and sweep.needed_pages > self._worthwhile_pages(situation)
            ):
                self._pause(situation.now, _PAUSE, until_watched=2 * situation.watched)
            elif not self.is_trial:
                self._useful += 1
                if self._useful >= _MIN_USEFUL:
                    self.pauses = 0
        else:
            self._pause(situation.now, _PAUSE, until_watched=2 * situation.watched)

    def record_failure(self, situation: Situation) -> None:
        """Record that an error or a timeout ended a sweep."""
        self._failures += 1
        if self.last is None or self._failures > _MAX_FAILURES:
            self._pause(situation.now, _SHORT_PAUSE)

    def delay(self, situation: Situation) -> float:
        """Return the seconds from now until the next sweep."""
        self._count(situation)
        every = self._interval(situation)
        if self._failures:
            # Repeat a failed sweep soon: most jobs are not polled before a sweep has ended.
            every = min(every, _NEXT_AFTER_FAILURE)
        # Poll most of the jobs known to be missing before the next sweep finds more of them.
        if self._rate:
            busy = situation.pending_confirmation / self._rate
        else:
            busy = every if situation.pending_confirmation else 0.0
        if situation.compare_at > self._started:
            every = min(every, max(situation.compare_at - self._started, _MIN_APART))
        return max(self._started + every - situation.now, busy - every / 2, 0.0)

    def short_rate(self, sweep: Sweep, situation: Situation) -> float | None:
        """Return the requests per second of a sweep that has just ended, if the sweep was slow.

        A sweep is slow if it took more than half of the time after which the next sweep should
        start. If it was not slow, return None.
        """
        is_slow = self.duration > self._interval(situation) / 2
        return sweep.pages / self.duration if is_slow else None

    def _interval(self, situation: Situation) -> float:
        """Return how many seconds after the start of a sweep the next sweep should start."""
        every = situation.mean_delay or _DEFAULT_DELAY
        if self.target_lag is not None:
            # One sweep replaces polls of many jobs. So the best time between two sweeps is shorter
            # than the time between two polls of one job: divide that time by the square root of the
            # number of jobs per page. But sweep no more often than the target lag requires:
            #     mean lag = every / 2 + duration of a sweep / 2 + wait of missing jobs for a poll
            pages = len(ACTIVE) if self.last is None else self.last.needed_pages
            every *= min(math.sqrt(pages / max(situation.watched, 1)), 1.0)
            after = self.duration / 2 + situation.poll_wait
            enough = 2 * max(self.target_lag - after, self.target_lag / 2)
            if situation.replaces_waits:
                # Without the list, polls of these jobs would use the whole budget. So sweeps may
                # follow more closely, with a pause as long as the last sweep, until they are as
                # frequent as the target lag requires. (Slower sweeps have shorter pauses or none.)
                return max(every, min(2 * self.duration, enough))
            every = max(every, enough)
        if self.discovery == "auto":
            # The jobs of other programs make the list longer, and sweeps more expensive. Then
            # sweeps are up to 20% less frequent, which saves requests and adds a little lag.
            cost = self._requests / (_REQUEST_SHARE * max(self._settled + situation.watched, 1))
            every *= min(max(cost, 1.0), _MAX_STRETCH)
        return every

    def _replaced_polls(self, situation: Situation) -> float:
        """Return the number of polls that one sweep replaces.

        These are the polls of all jobs that the schedule would make between two sweeps.
        """
        if not situation.mean_delay or self.target_lag is None:
            return situation.watched
        # Two sweeps are about two target lags apart.
        polls = situation.watched * min(1.0, 2 * self.target_lag / situation.mean_delay)
        # The list replaces no polls of settled jobs. After a complete sweep, nearly all polls are
        # of jobs that are missing from the list, so their share says nothing about other jobs.
        return polls * (1 - situation.settled_share) if self.last is None else polls

    def _delays_polls(self, situation: Situation, seconds: float) -> bool:
        """Return True if a sweep that has taken `seconds` delays polls.

        Its pages have waited for the request budget or the semaphore, and it has taken more than
        half of the time after which the next sweep should start.
        """
        return situation.pages_wait and seconds > self._interval(situation) / 2

    def _worthwhile_pages(self, situation: Situation) -> float:
        """Return the largest number of pages of a sweep that is useful although it delays polls.

        While every request delays another one, a sweep of p pages takes the time of p polls, or of
        `polls_per_page * p` polls. Without sweeps, n active jobs would be polled in turn, so the
        end of a job would be detected after n / 2 polls on average. A sweep is useful if it takes
        at most the time of n / 5 polls: there must also be time to poll the jobs that the sweep
        finds missing, and to poll some listed jobs, because the list may be wrong.
        """
        polls = (situation.watched - situation.pending_confirmation) / _JOBS_PER_PAGE
        return polls / situation.polls_per_page

    def _pause(self, now: float, seconds: float, *, until_watched: float = math.inf) -> None:
        """Stop sweeping for some time.

        Args:
            now: The present time.
            seconds: Duration of the first pause since the list was last useful. Each further pause
                is twice as long, up to an hour.
            until_watched: If at least this number of jobs is watched, the pause ends early.
        """
        self.last = None
        self._until_watched = until_watched
        self._failures = self._useful = 0
        self._wasted = 0.0
        self.paused_until = now + min(seconds * 2**self.pauses, _MAX_PAUSE)
        self.pauses = min(self.pauses + 1, _MAX_PAUSES)
        self._trial_ends = self.paused_until + _TRIAL

    def _count(self, situation: Situation) -> None:
        """Update the counts of requests, settled jobs and wasted polls, and the rate of polls.

        In these counts, older events count less.
        """
        before, self._counted = self._counted, situation
        if before is None or situation.now <= before.now:
            return
        passed = situation.now - before.now
        fading = math.exp(-passed / _MEMORY)
        self._requests *= fading
        self._settled = self._settled * fading + situation.settled - before.settled
        self._wasted = self._wasted * fading + situation.wasted_polls - before.wasted_polls
        recent = math.exp(-passed / _RATE_MEMORY)
        self._rate = self._rate * recent + (1 - recent) * (situation.polls - before.polls) / passed


_MIN_LEFT: Final = 3  # watched jobs; with fewer, "auto" stops sweeping
_MAX_PAGES: Final = 10_000
_MAX_FAILURES: Final = 2  # consecutive failed sweeps; after more of them, sweeping pauses
_PAUSE: Final = 60.0  # seconds of the first pause; each pause is twice as long as the previous one
_SHORT_PAUSE: Final = 5.0  # seconds of the first pause after failed sweeps, which doubles each time
_NEXT_AFTER_FAILURE: Final = (
    1.0  # seconds from the start of a failed sweep to the start of the next one
)
_TRIAL: Final = 30.0  # seconds after a pause in which sweeps can prove the list
# Minimum seconds between the starts of two sweeps, if the second one is early to check the list.
_MIN_APART: Final = 1.0
_MAX_PAUSE: Final = 3600.0  # seconds of the longest pause
_MAX_PAUSES: Final = 16  # maximum of `pauses`, so that the power of 2 stays small
# Sweeps without a pending job, after which most sweeps do not list pending jobs.
_MIN_WITHOUT_PENDING: Final = 3
_PENDING_EVERY: Final = 8  # every eighth sweep lists pending jobs in any case
_MIN_USEFUL: Final = 5  # complete sweeps since the last pause, after which `pauses` is 0 again
_MIN_WASTED: Final = 100.0  # wasted polls; with fewer, sweeping does not pause because of them
_DEFAULT_DELAY: Final = 4.0  # assumed seconds between two polls of a job before its first poll
_REQUEST_SHARE: Final = 0.2  # list requests per job; if there are more, sweeps become rarer
_JOBS_PER_PAGE: Final = 5.0  # active jobs for which a page is useful if it delays one poll
_MAX_STRETCH: Final = 1.2  # maximum factor by which the time between sweeps becomes longer
_MEMORY: Final = 300.0  # seconds after which an event counts only 1/e, or 37%
_RATE_MEMORY: Final = 10.0  # seconds after which a poll counts only 1/e in `_rate`
