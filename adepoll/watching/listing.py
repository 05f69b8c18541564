"""The job list as a hint: one request shows which of 100 jobs are active. Without I/O.

Imports learning, job_state and models. Hints decide when a job is polled, and nothing else. Times
are seconds of one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final, Literal, TypeAlias

from attrs import define, field

from adepoll.api.models import JobPage, JobStatus
from adepoll.scheduling.distribution import EDGES
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning

Discovery: TypeAlias = Literal["auto", "list", "get"]
"""How a watcher finds out that jobs have settled: by polls alone ("get"), by list sweeps ("list"),
or by list sweeps where they cost fewer requests ("auto")."""

PAGE_SIZE: Final = 100
ACTIVE: Final = (JobStatus.PROCESSING, JobStatus.PENDING)
"""Statuses whose jobs a sweep lists."""


@define(eq=False, kw_only=True)
class ListTrust:
    """How far the list is trusted.

    Attributes:
        learning: Knows the ages of jobs, and how long jobs take.
        max_trust: Maximum seconds for which the list alone says that a job is active.
        first_trust: Seconds for which a new job waits until the list shows it. The list's own lag
            is added, up to the same number of seconds.
        sweeping: True while the list decides when jobs are polled.
        list_lag: Seconds for which a new job may be missing from the list, as observed so far.
        pending_confirmation: Number of jobs that are to be polled immediately.
        wasted_polls: Polls of jobs missing from the list that were still active.
        settled_share: Share of the recent jobs that had settled before the list could show them.
        sweep_rate: Requests per second of the last sweep, if it took more than half of the wanted
            time between two sweeps, as when pages wait for the request budget; else None.
    """

    learning: Learning
    max_trust: float = 300.0
    first_trust: float = 5.0
    sweeping: bool = False
    settled_share: float = 0.0
    sweep_rate: float | None = None
    list_lag: float = 0.0
    pending_confirmation: int = 0
    wasted_polls: int = 0
    _checks: float = 1.0  # polls that may check the list now while the budget is short
    _last_lag: float = 0.0  # of the job missing before

    @property
    def jobs_come_settled(self) -> bool:
        """True if a new job has probably settled, so that the list will not show it as active."""
        return self.settled_share > _MAX_SETTLED_SHARE

    def record_first(self, *, settled: bool) -> None:
        """Record whether a job had settled before the list or a poll could show it as active."""
        self.settled_share += (settled - self.settled_share) / _SHARE_OF

    def confirm_now(self, state: JobState) -> None:
        """From now on, ignore the list for this job; the caller polls it immediately."""
        self.pending_confirmation += not state.pending_confirmation
        state.ignore_list = state.pending_confirmation = True

    def confirm_when_due(self, state: JobState) -> None:
        """From now on, ignore the list for this job; the caller polls it when it is due."""
        self.trust(state)
        state.ignore_list = True

    def trust(self, state: JobState) -> None:
        """From now on, trust the list if it says that the job is active."""
        self.pending_confirmation -= state.pending_confirmation
        state.ignore_list = state.pending_confirmation = False

    def record_request(self) -> None:
        """Count a poll, or a page: while the budget is short, a share of them may be checks."""
        if self._checks < _MAX_CHECKS:
            self._checks += _CHECK_SHARE

    def may_check(self, *, is_short: bool) -> bool:
        """Return whether to poll a job only to check the list, and count that poll.

        Args:
            is_short: True if polls wait for the request budget.
        """
        if (is_short or self.sweep_rate is not None) and self._checks < 1:
            return False
        self._checks = max(self._checks - 1, 0.0)
        return True

    def trusted_until(self, state: JobState, now: float) -> float:
        """Return the time until which the list replaces a poll of the job."""
        if state.ignore_list:
            # The list may have turned out to lag more than was known when it missed the job.
            too_new = state.missing_at < state.added_at + self.list_lag
            if state.first_active_age is not None or not too_new:
                return -math.inf
            self.trust(state)
            state.missing_at = math.inf
            state.list_trusted_until = 0.0  # it depends on the list's lag
        if state.first_active_age is None and self.jobs_come_settled:
            return -math.inf
        if not state.list_trusted_until:
            state.list_trusted_until = self.next_check(state, now)
        return state.list_trusted_until

    def next_check(self, state: JobState, now: float) -> float:
        """Return the time of a poll that guards against a list that wrongly shows a job as active.

        When 99% of jobs of this age should have settled, and at the latest after `max_trust`
        seconds. A job that neither the list nor a poll has shown is polled sooner: the sweep that
        should show it may fail, or may never come.
        """
        if state.first_active_age is None:
            lag = min(self.list_lag, self.first_trust)
            return max(state.added_at + self.first_trust + lag, now)
        age = self.learning.age(state, now)
        distribution = self.learning.durations.distribution
        if distribution.quantile(_KNOWN_SHARE, age=age) > EDGES[distribution.known]:
            # No older job has been seen, as in a batch that started all at the same time: the
            # distribution beyond is a guess, and could make all jobs of the batch due.
            return now + self.max_trust
        trust = distribution.quantile(_ALMOST_ALL, age=age) - age
        return now + min(max(trust, _MIN_TRUST), self.max_trust)

    def record_active(self, state: JobState) -> bool:
        """Record that a poll found a job active, before `learning` records it.

        Returns:
            True if the job was polled because it was missing from the list.
        """
        missing_at, state.missing_at = state.missing_at, math.inf
        if missing_at == math.inf:
            return False
        self.wasted_polls += 1
        lag = max(missing_at - state.received_at, 0.0) + _LAG_MARGIN
        if state.first_active_age is None and lag < _MAX_LAG:
            # A single job that is never listed shows no lag: two jobs must agree.
            self.list_lag = max(self.list_lag, min(lag, self._last_lag))
            self._last_lag = lag
        return True


@define(kw_only=True)
class _Pages:
    """Progress of a sweep through the pages of one status."""

    expected: int  # pages of the previous sweep
    requested: int = 0
    received: int = 0
    jobs: int = 0
    total: float = math.inf
    without_new_jobs: int = 0  # in a row


@define(kw_only=True, eq=False)
class Sweep:
    """One pass through the list of active jobs: which pages to request, and what they showed.

    Jobs move from page to page meanwhile, so that one can be missed or appear twice. A service
    that announces more pages for ever, without new jobs on them, is taken to have shown all.

    Attributes:
        started: Time of the start.
        max_pages: Number of pages after which the sweep is abandoned; may change on the way.
        pages: Number of pages received.
        job_ids: Ids on those pages.
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
            now: The time.
            max_pages: Number of pages after which the sweep is abandoned.
            watched: Number of watched jobs; an estimate of the pages if there is no `previous`.
            previous: The last complete sweep.
            statuses: Statuses whose jobs are listed.
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
        """True if all pages were received."""
        return all(pages.received >= pages.total for pages in self._by_status.values())

    @property
    def is_too_long(self) -> bool:
        """True if the sweep has more pages than it may."""
        return self.pages >= self.max_pages and not self.is_complete

    @property
    def needed_pages(self) -> int:
        """Number of pages received, without those requested beyond the end of the list."""
        return sum(self.pages_of(status) for status in self._by_status)

    def pages_of(self, status: JobStatus) -> int:
        """Return the number of pages received of one status that are part of the list."""
        pages = self._by_status.get(status)
        return 0 if pages is None else int(min(pages.received, pages.total))

    @property
    def statuses(self) -> Collection[JobStatus]:
        """Statuses whose jobs are listed."""
        return self._by_status.keys()

    def jobs_of(self, status: JobStatus) -> int:
        """Return the number of jobs on the pages received of one status."""
        return self._by_status[status].jobs

    def next_page(self) -> tuple[JobStatus, int] | None:
        """Return status and number of a page to request now; None if there is none for now.

        Pending jobs come first: one that starts meanwhile is shown twice, and not missed.
        """
        for status, pages in reversed(self._by_status.items()):
            known = pages.total
            if known == math.inf:
                known = max(pages.expected, pages.received + 1)
            if pages.requested < known and self.pages < self.max_pages:
                pages.requested += 1
                return status, pages.requested - 1
        return None

    def record_page(
        self, status: JobStatus, number: int, page: JobPage, *, oldest: float = -math.inf
    ) -> None:
        """Record what a page showed.

        Args:
            status: Status of its jobs.
            number: Its number.
            page: The page.
            oldest: For a list that shows the newest jobs first: Unix time before which no watched
                job was submitted.
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
    """Return whether all jobs of a page were submitted before a Unix time."""
    if oldest == -math.inf:
        return False
    times = [job.submitted_at for job in page.jobs]
    return all(time is not None and time.timestamp() < oldest for time in times)


_MAX_SETTLED_SHARE: Final = 0.5
_SHARE_OF: Final = 8  # jobs
_CHECK_SHARE: Final = 0.03  # of the requests
_MAX_CHECKS: Final = 4.0
_ALMOST_ALL: Final = 0.99  # share of the jobs
_KNOWN_SHARE: Final = 0.95  # share that must settle within the known ages
_MIN_TRUST: Final = 10.0
_MAX_LAG: Final = 30.0  # a job missing for longer is not explained by a lag
_LAG_MARGIN: Final = 0.5  # added to an observed lag, as jobs are polled one after the other
_MAX_WITHOUT_NEW_JOBS: Final = 3  # pages
