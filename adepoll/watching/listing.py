"""Sweeps of the job list, and for how long the list replaces polls. Without I/O.

One list request shows up to 100 active jobs. The list is only a hint: it can move the next poll of
a job, but never settles a job. A job is *listed* if the list shows it as active, and *missing* if a
complete sweep did not show it. Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal, TypeAlias

from attrs import define, field

from adepoll.api.models import JobPage, JobStatus
from adepoll.api.source import aware
from adepoll.scheduling.distribution import EDGES
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning

Discovery: TypeAlias = Literal["auto", "list", "get"]
"""How a watcher finds out that jobs have settled: by polls alone ("get"), by list sweeps ("list"),
or by list sweeps where they cost fewer requests ("auto")."""

PAGE_SIZE: Final = 100  # jobs on one page of the list, except the last page
ACTIVE: Final = (JobStatus.PROCESSING, JobStatus.PENDING)
"""A sweep requests the lists of jobs with these statuses."""


@define(eq=False, kw_only=True)
class ListTrust:
    """Decides for how long a listed job needs no poll, because the list is trusted.

    Attributes:
        learning: Knows the ages of jobs, and how long jobs take.
        delay: Returns the seconds between two polls of a job by the schedule.
        max_trust: Maximum seconds until a listed job is polled again, to check the list.
        first_trust: Seconds for which a new job is not polled, because the list will probably show
            it soon. `list_lag` is added, but the time is at most doubled.
        sweeping: True while the list, not the schedule, decides when jobs are polled.
        list_lag: Observed number of seconds from the receipt of a job until the list shows the job.
        pending_confirmation: Number of jobs whose next poll is due now, whatever the list says. In
            most cases, the reason is that the list does not show the job.
        wasted_polls: Number of polls of jobs that were missing from the list but still active.
        kept_share: Observed share of the settled jobs that the list goes on showing as active.
        sweep_rate: Requests per second of the last sweep, if it was slow, for example because the
            request budget is short; None if it was not. A sweep is slow if it takes more than half
            of the time after which the next sweep should start.
    """

    learning: Learning
    delay: Callable[[JobState, float], float]
    max_trust: float = 300.0
    first_trust: float = 5.0
    sweeping: bool = False
    kept_share: float = 0.0
    sweep_rate: float | None = None
    list_lag: float = 0.0
    pending_confirmation: int = 0
    wasted_polls: int = 0
    # Number of polls that may now be made only to check the list, if the request budget is short.
    _checks: float = 1.0
    # Lag of the list in seconds, as measured with the last new job whose poll was wasted.
    _last_lag: float = 0.0

    def confirm_now(self, state: JobState) -> None:
        """Poll this job now, whatever the list says. The caller must make the job due."""
        self.pending_confirmation += not state.pending_confirmation
        state.ignore_list = state.pending_confirmation = True

    def confirm_when_due(self, state: JobState) -> None:
        """Poll this job when it is due, whatever the list says."""
        self.trust(state)
        state.ignore_list = True

    def trust(self, state: JobState) -> None:
        """Undo `confirm_now`: do not poll this job while the list shows it as active."""
        self.pending_confirmation -= state.pending_confirmation
        state.ignore_list = state.pending_confirmation = False

    def record_request(self) -> None:
        """Count a poll or a list request.

        While the request budget is short, one poll that only checks the list is allowed for every
        33 requests.
        """
        if self._checks < _MAX_CHECKS:
            self._checks += _CHECK_SHARE

    def checks_allowed(self, *, is_short: bool) -> float:
        """Return how many jobs may be polled now only to check the list; infinity for no limit.

        Args:
            is_short: True if polls wait for the request budget. Then few such polls are allowed.
        """
        return self._checks // 1 if is_short or self.sweep_rate is not None else math.inf

    def may_check(self, *, is_short: bool) -> bool:
        """Return True if a job may be polled only to check the list, and count that poll.

        `checks_allowed` describes the argument.
        """
        if self.checks_allowed(is_short=is_short) < 1:
            return False
        self._checks = max(self._checks - 1, 0.0)
        return True

    def chance(self, state: JobState, now: float) -> float:
        """Return the chance that a job has settled; 1 if its poll is urgent.

        The poll is urgent if the job is missing from the list. It is also urgent if it is the first
        one since somebody has begun to wait for the job, except in two cases: the list decides when
        the job is polled, or the job is probably new. (If these polls were urgent, too, waiters
        could use the whole budget without finding a settled job.)
        """
        if state.missing_at < math.inf:
            return 1.0
        is_first = state.polled_at <= state.awaited_since and self.is_awaited(state)
        if is_first and not self._is_probably_new(state):
            return 1.0
        return self.learning.chance(state, now)

    def _is_probably_new(self, state: JobState) -> bool:
        """Return True if a job was probably new when somebody began to wait for it."""
        was_polled = state.first_active_age is not None
        if was_polled or state.awaited_since > state.added_at:
            return False
        return self.learning.durations.arrivals.trusted

    def is_awaited(self, state: JobState) -> bool:
        """Return True if somebody waits for the job, and the list does not replace its polls."""
        return state.awaited and not self.covers(state)

    def covers(self, state: JobState) -> bool:
        """Return True if the list, not the schedule, decides when this job is polled.

        False if the job is missing from the list, or if the list is ignored for it.
        """
        return self.sweeping and not state.ignore_list and state.missing_at == math.inf

    def trusted_until(self, state: JobState, now: float) -> float:
        """Return the time until which the job needs no poll, because the list is trusted.

        Minus infinity if the job must be polled now.
        """
        if state.ignore_list:
            # The lag of the list may be longer than was known when the job was found missing. If
            # so, the job was perhaps only too new to be listed.
            too_new = state.missing_at < state.added_at + self.list_lag
            if state.first_active_age is not None or not too_new:
                return -math.inf
            self.trust(state)
            state.missing_at = math.inf
            state.list_trusted_until = 0.0  # chosen again below, with the present lag of the list
        if state.first_active_age is None and self.learning.first_statuses.mostly_settled:
            return -math.inf  # the list never shows such a job as active
        if not state.list_trusted_until:
            state.list_trusted_until = self.next_check(state, now)
        return state.list_trusted_until

    def next_check(self, state: JobState, now: float) -> float:
        """Return the time at which a listed job is polled, because the list can be wrong.

        This is the time at which 99% of jobs of its age should have settled, and at the latest
        `max_trust` seconds from now. A new job that neither the list nor a poll has shown as active
        is polled earlier: perhaps no sweep will show it.
        """
        if state.first_active_age is None:
            lag = min(self.list_lag, self.first_trust)
            return max(state.added_at + self.first_trust + lag, now)
        age = self.learning.age(state, now)
        longest = min(self.max_trust, self.check_every(state, now))
        distribution = self.learning.durations.distribution
        if distribution.quantile(_KNOWN_SHARE, age=age) > EDGES[distribution.known]:
            # No settled job was much older than this job is now, as in a batch whose jobs all
            # started at the same time. So the distribution only guesses when jobs of this age
            # settle. A wrong guess would make all of them due.
            return now + longest
        trust = distribution.quantile(_ALMOST_ALL, age=age) - age
        return now + min(max(trust, _MIN_TRUST), longest)

    def check_every(self, state: JobState, now: float) -> float:
        """Return the longest time, in seconds, between two polls of a listed job.

        It is the delay of the schedule divided by the square root of `kept_share`, and infinity if
        `kept_share` is 0. The reason: polls are needed only for the settled jobs that the list
        goes on showing. The best rate of polls grows with the square root of the rate at which such
        jobs settle (see `scheduling.inspection_plan`).
        """
        return self.delay(state, now) / math.sqrt(self.kept_share) if self.kept_share else math.inf

    def record_wasted_poll(self, state: JobState) -> None:
        """Record that a job was missing from the list, but a poll has found it active.

        Call this before `learning` records the poll.
        """
        missing_at, state.missing_at = state.missing_at, math.inf
        self.wasted_polls += 1
        lag = max(missing_at - state.received_at, 0.0) + _LAG_MARGIN
        if state.first_active_age is None and lag < _MAX_LAG:
            # A lag counts only if two jobs have shown it, because the list may never show a certain
            # job for another reason. So use the smaller of the last two values.
            self.list_lag = max(self.list_lag, min(lag, self._last_lag))
            self._last_lag = lag


@define(kw_only=True)
class _Pages:
    """Counts the pages of a sweep with the jobs of one status.

    `jobs` is the number of jobs on the received pages. All other attributes are numbers of pages.
    """

    expected: int  # estimated at the start, for example from the previous sweep
    requested: int = 0
    received: int = 0
    jobs: int = 0
    total: float = math.inf  # infinity until the last page is known
    without_new_jobs: int = 0  # consecutive pages on which no job was new


@define(kw_only=True, eq=False)
class Sweep:
    """One pass through the list of active jobs: chooses the pages to request, and records them.

    During a sweep, jobs move from page to page. So a job can be missed or appear twice. If three
    pages in a row show no new job, the sweep ends, even if the service announces more pages.

    Attributes:
        started: Time at which the sweep started.
        max_pages: Number of pages after which the sweep is abandoned; can change during the sweep.
        pages: Number of pages received.
        job_ids: Ids of the jobs on the received pages.
    """

    started: float
    max_pages: int
    pages: int = 0
    job_ids: set[str] = field(factory=set)
    _by_status: dict[JobStatus, _Pages] = field(factory=dict)

    @classmethod
    def start(
        cls,
        now: float,
        *,
        max_pages: int,
        watched: int = 0,
        previous: "Sweep | None" = None,
        statuses: Sequence[JobStatus] = ACTIVE,
    ) -> "Sweep":
        """Start a sweep.

        Args:
            now: The present time.
            max_pages: Number of pages after which the sweep is abandoned.
            watched: Number of watched jobs, from which the number of pages is estimated if there is
                no `previous`.
            previous: The last complete sweep; None if no sweep was complete.
            statuses: Statuses of the jobs to list.
        """
        by_status = {status: _Pages(expected=1) for status in statuses}
        if previous is None:
            by_status[statuses[0]].expected = watched // PAGE_SIZE
        else:
            for status, pages in by_status.items():
                pages.expected = previous.pages_of(status)
        return cls(started=now, max_pages=max_pages, by_status=by_status)

    @property
    def is_complete(self) -> bool:
        """True if all pages of all statuses were received."""
        return all(pages.received >= pages.total for pages in self._by_status.values())

    @property
    def in_flight(self) -> int:
        """Number of pages that were requested, and not received yet."""
        return sum(pages.requested - pages.received for pages in self._by_status.values())

    @property
    def is_too_long(self) -> bool:
        """True if `max_pages` pages were received, and the sweep is not complete."""
        return self.pages >= self.max_pages and not self.is_complete

    @property
    def needed_pages(self) -> int:
        """Number of received pages, without those beyond the end of the list."""
        return sum(self.pages_of(status) for status in self._by_status)

    def pages_of(self, status: JobStatus) -> int:
        """Return the number of received pages of a status, without those beyond the list's end."""
        pages = self._by_status.get(status)
        return 0 if pages is None else int(min(pages.received, pages.total))

    @property
    def statuses(self) -> Collection[JobStatus]:
        """Statuses of the jobs that this sweep lists."""
        return self._by_status.keys()

    def jobs_of(self, status: JobStatus) -> int:
        """Return the number of jobs with this status on the received pages."""
        return self._by_status[status].jobs

    def next_page(self) -> tuple[JobStatus, int] | None:
        """Return status and number of the next page to request; None if none can be requested.

        Pages of pending jobs come first. So a job that begins processing during the sweep appears
        twice, and is not missed.
        """
        for status, pages in reversed(self._by_status.items()):
            known = pages.total
            if known == math.inf:
                # If more pages arrive than were expected, expect as many further pages again.
                beyond = max(pages.received - pages.expected, 0)
                known = max(pages.expected, pages.received + 1 + beyond)
            if pages.requested < known and self.pages < self.max_pages:
                pages.requested += 1
                return status, pages.requested - 1
        return None

    def record_page(
        self, status: JobStatus, number: int, page: JobPage, *, oldest: float = -math.inf
    ) -> None:
        """Record a received page.

        Args:
            status: Status of the jobs on the page.
            number: Number of the page.
            page: The page.
            oldest: Unix time before which no watched job was submitted. If the list shows the
                newest jobs first, the sweep requests no further page of this status after a page
                whose jobs are all older. Minus infinity if the list has another order.
        """
        pages = self._by_status[status]
        self.pages += 1
        pages.received += 1
        pages.jobs += len(page.jobs)
        before = len(self.job_ids)
        self.job_ids.update(job.job_id for job in page.jobs)
        pages.without_new_jobs = 0 if len(self.job_ids) > before else pages.without_new_jobs + 1
        if not page.has_more or not page.jobs or _all_before(page, oldest):
            pages.total = min(pages.total, number + 1)
        elif pages.without_new_jobs >= _MAX_WITHOUT_NEW_JOBS:
            pages.total = min(pages.total, pages.requested)


def _all_before(page: JobPage, oldest: float) -> bool:
    """Return True if all jobs of a page were submitted before the Unix time `oldest`."""
    if oldest == -math.inf:
        return False
    times = [job.submitted_at for job in page.jobs]
    return all(time is not None and aware(time).timestamp() < oldest for time in times)


_CHECK_SHARE: Final = 0.03  # number of polls, only to check the list, that each request allows
_MAX_CHECKS: Final = 4.0  # polls, only to check the list, that can be saved for later
_ALMOST_ALL: Final = 0.99  # when this share of jobs of its age should have settled, a job is polled
# The distribution decides only if this share of the jobs of an age should settle at known ages.
_KNOWN_SHARE: Final = 0.95
_MIN_TRUST: Final = 10.0  # seconds; the distribution cannot make a listed job due earlier
_MAX_LAG: Final = 30.0  # seconds; if a job is missing for longer, a lag is not the reason
# Seconds added to the age of a job that was not listed yet. The sum is the assumed lag of the list,
# because the lag is longer than this age.
_LAG_MARGIN: Final = 0.5
_MAX_WITHOUT_NEW_JOBS: Final = 3  # pages in a row
