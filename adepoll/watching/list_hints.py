"""Moves the next polls of watched jobs, according to what the job list shows. Without I/O.

A job that the list shows as active is polled later, and a job that is missing from the list is
polled now. Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import define, field

from adepoll.api.models import JobPage, JobStatus, JobSummary
from adepoll.watching.job_state import JobState
from adepoll.watching.left_jobs import LeftJobs
from adepoll.watching.list_checks import ListChecks
from adepoll.watching.listing import ListTrust
from adepoll.watching.page_gaps import PageGaps
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.schedule_calls import ScheduleCalls


def _never_busy(_now: float, _within: float) -> bool:
    """Return False: requests are assumed not to wait for the request budget."""
    return False


@define(eq=False)
class ListHints:
    """Moves the next polls of watched jobs to earlier or later times, as the list suggests.

    Attributes:
        states: The watched jobs, by id.
        left: Jobs that nobody has watched for some seconds; the list can show them as active.
        schedule_calls: Calls the schedule.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        checks: Compares the list with polls; knows how late and how complete the list is.
        gaps: Finds jobs that a sweep may have missed because they moved to another page.
        waits_replaced_until: Until this time, sweeps count as a replacement for the polls of jobs
            that somebody waits for, because the request budget was short a moment ago.
        is_busy: Returns True if a request has waited over 0.1 s for the request budget, now or
            recently. The arguments are the present time, and the number of seconds that count as
            recent.
    """

    states: Mapping[str, JobState]
    left: LeftJobs
    schedule_calls: ScheduleCalls
    list_trust: ListTrust
    poll_queue: PollQueue
    checks: ListChecks
    gaps: PageGaps = field(factory=PageGaps, init=False)
    waits_replaced_until: float = field(default=-math.inf, init=False)
    is_busy: Callable[[float, float], bool] = field(default=_never_busy, init=False)

    def start_sweeping(self) -> None:
        """From now on, poll jobs when they are missing from the list, not by schedule."""
        if not self.list_trust.sweeping:
            self.list_trust.sweeping = True
            self.checks.restart()

    def forget_sweeps(self) -> None:
        """Forget the jobs of all sweeps; otherwise they stay in memory until the next sweep."""
        self.gaps = PageGaps()
        self.checks.restart()

    def stop_sweeping(self, now: float) -> Iterator[None]:
        """From now on, poll jobs by schedule.

        The caller must use up the returned iterator. It chooses new times for the jobs, in steps of
        500 jobs, so that other tasks can run between the steps.
        """
        if not self.list_trust.sweeping:
            return
        self.list_trust.sweeping = False
        accuracy = self.checks.accuracy
        behind = self.list_trust.list_lag
        if accuracy.is_bad:
            behind = max(behind, accuracy.limit)
        for number, state in enumerate(tuple(self.states.values()), 1):
            # A job that was forgotten meanwhile is not in the queue any more.
            if state.ticket and not state.ignore_list:
                due = now
                if state.first_active_age is not None:
                    delay = self.schedule_calls.delay(state, now)
                    spread = now + self.schedule_calls.rng.random() * delay
                    # The lag bound counts from the last poll or page that showed the job as active.
                    # A page is out of date by the list's lag.
                    due = max(min(spread, state.last_active_at - behind + delay), now)
                if due < state.due:
                    self.poll_queue.put(state, due)
            if number % _CHUNK == 0:
                yield

    def postponed_to(self, state: JobState, now: float) -> float:
        """Return when to poll a job that is due: `now`, or a later time.

        The poll is postponed while the list is enough to know that the job is active.

        A job that somebody waits for is polled now, unless the request budget is short. If it is
        short, the next page of the list replaces the poll. The first poll of a job is only
        postponed if requests wait for the budget at this moment, because the job can have ended
        long ago.
        """
        awaited = state.awaited
        is_first = awaited and not state.polls and state.first_active_age is None
        if awaited:
            within = 0.0 if is_first else _RECENT
            if not (self.list_trust.covers(state) and self.is_busy(now, within)):
                return now
        later = self.list_trust.trusted_until(state, now)
        if later == -math.inf:
            return now
        if later <= now or is_first:
            # This poll would only check the list. While the request budget is short, most polls are
            # kept for jobs that the list has dropped.
            is_short = awaited or self.schedule_calls.throughput.is_short
            if self.list_trust.may_check(is_short=is_short):
                return now
            later = max(later, now + _CHECK_LATER)
        if awaited:
            self.waits_replaced_until = now + _RECENT
            later = min(later, now + max(self.schedule_calls.delay(state, now), _MIN_LATER))
        return later

    def sweep_started(self) -> None:
        """Forget the pages of an earlier sweep that was not complete."""
        self.gaps.sweep_started()
        self.checks.accuracy.sweep_started()

    def page_listed(
        self, status: JobStatus, number: int, page: JobPage, requested_at: float, now: float
    ) -> None:
        """Record a page of the list: call `listed` for each of its jobs, and remember the page.

        Args:
            status: Only jobs with this status are in the page.
            number: Number of the page, from 0.
            page: The page.
            requested_at: Time at which the page was requested.
            now: The present time.
        """
        for job in page.jobs:
            self.listed(job, requested_at, now)
        watched = [self.states.get(job.job_id) for job in page.jobs]
        self.gaps.record_page(status, number, [state for state in watched if state is not None])

    def listed(self, job: JobSummary, requested_at: float, now: float) -> None:
        """Record that a page of the list, requested at `requested_at`, shows a job."""
        if job.is_terminal:
            return
        state = self.states.get(job.job_id)
        if state is None:
            self.left.record_listed(job.job_id, requested_at)
            self.checks.accuracy.record_listed(job.job_id, requested_at)
            return
        state.last_listed_at = requested_at
        state.not_before = 0.0  # if the job is missing later, it can be polled immediately
        state.last_active_at = max(state.last_active_at, requested_at)
        was_missing, state.missing_at = state.missing_at < math.inf, math.inf
        if state.in_flight or state.failures is not None:
            return
        is_new = state.first_active_age is None
        self._record_active(state, job, requested_at, now)
        if state.status != job.status_text and any(s.every_change for s in state.subscribers):
            if state.ticket:
                self.list_trust.confirm_now(state)
                self.poll_queue.put(state, min(state.due, now))
        elif state.ticket and not state.awaited and (was_missing or not state.ignore_list):
            # A job that was missing from the list needs no poll now. But if the list is ignored for
            # another reason, such as `JobWatcher.poll_now`, the job stays due.
            self.list_trust.trust(state)
            if is_new and self.list_trust.sweeping:
                state.list_trusted_until = self.list_trust.next_check(state, now)
                self.poll_queue.put(state, state.list_trusted_until)

    def _record_active(
        self, state: JobState, job: JobSummary, requested_at: float, now: float
    ) -> None:
        """Record that the list shows a job as active, and whether it shows a new job in time."""
        accuracy, is_new = self.checks.accuracy, state.first_active_age is None
        if is_new or (accuracy.is_proven and not self.list_trust.kept_share):
            as_of = requested_at - self.list_trust.list_lag
            self.schedule_calls.learning.record_active(state, job.submitted_at, now, as_of=as_of)
        if not state.is_compared:
            state.is_compared = True
            if requested_at <= state.received_at + accuracy.limit:
                accuracy.arrivals.count(late=False)

    def oldest(self, now: float) -> float:
        """Return a Unix time before which the service has received no watched job.

        So a sweep can leave out older jobs. The time is a minute before the receipt of the oldest
        watched job. It is minus infinity if that is not known.
        """
        oldest = min(self.states.values(), key=_RECEIVED_AT, default=None)
        if oldest is None:
            return -math.inf
        time = self.schedule_calls.learning.submitted_at(oldest, now)
        return -math.inf if time is None else time - _OLDER

    def stop_sweeping_in_one_step(self, now: float) -> None:
        """Do the same as `stop_sweeping`, but without letting other tasks run in between."""
        for _ in self.stop_sweeping(now):
            pass

    def sweep_ended(
        self, requested_at: float, now: float, *, pages_waited: bool = False
    ) -> Iterator[int]:
        """After a complete sweep, make those jobs due that are missing from the list.

        While jobs are polled by schedule, missing jobs are only recorded, and not made due. These
        jobs do not count as missing, although the sweep did not show them:

        - Jobs that are so new that the list may not show them yet.
        - If there was time between the pages of a slow sweep: jobs that may have moved between two
          pages. They count as missing if the next sweep does not show them either.

        The caller must use up the returned iterator, which does this work in steps. After each
        step, it yields the number of missing jobs that were found in this step.

        Args:
            requested_at: Start of the sweep.
            now: The present time.
            pages_waited: True if requests for pages have waited for the request budget.
        """
        for state in islice(self.states.values(), _DELAYS_SAMPLED):
            self.schedule_calls.delay(state, now)  # keeps `mean_delay` up to date during sweeps
        moved = self.gaps.sweep_ended()
        yield 0
        if not pages_waited and self.list_trust.sweep_rate is None:
            moved = ()
        rate = self.schedule_calls.throughput.rate(now)
        accuracy = self.checks.accuracy
        accuracy.limit = self.checks.useful_lag(rate)
        kept_before, kept_now = self.list_trust.kept_share, accuracy.kept.value
        self.list_trust.kept_share = kept_now
        newest = requested_at - self.list_trust.list_lag
        self.list_trust.list_lag *= _LAG_FADING
        states = [*self.states.values()]
        missing = 0
        for start in range(0, len(states), _CHUNK):
            before = missing
            for state in states[start : start + _CHUNK]:
                if (
                    state.last_active_at < requested_at
                    and state.added_at <= newest
                    and state.ticket
                    and state not in moved
                ):
                    missing += 1
                    self._record_missing(state, requested_at, now)
                elif kept_now > _KEPT_STEP * kept_before:
                    self._check_earlier(state, now)
            yield missing - before
        if self.list_trust.sweeping:
            self.checks.plan_early_sweep(now)
            self.checks.record_drops(missing, requested_at)
            waits_replaced = now < self.waits_replaced_until
            self.checks.take_sample(states, requested_at, now, waits_replaced=waits_replaced)

    def _check_earlier(self, state: JobState, now: float) -> None:
        """Poll a listed job earlier than planned, because the list is worse than assumed.

        The list goes on showing more settled jobs as active than was known at that time.
        """
        if state.ticket and not state.ignore_list and not state.awaited:
            due = now + self.schedule_calls.rng.random() * self.list_trust.check_every(state, now)
            if due < state.list_trusted_until:
                state.list_trusted_until = due
                self.poll_queue.put(state, min(due, state.due))

    def _record_missing(self, state: JobState, requested_at: float, now: float) -> None:
        """Record that a sweep did not show a job. During list sweeps, also make the job due.

        Args:
            state: The job.
            requested_at: Start of the sweep.
            now: The present time.
        """
        if not self.list_trust.sweeping:
            state.missing_at = requested_at
        elif not state.ignore_list:
            if state.not_before > now:
                self.list_trust.confirm_when_due(state)
            else:
                self.list_trust.confirm_now(state)
            state.missing_at = requested_at
            self.poll_queue.put(state, min(max(now, state.not_before), state.due))


_RECEIVED_AT: Final = operator.attrgetter("received_at")
_OLDER: Final = 60.0  # seconds by which `oldest` is earlier than the oldest watched job
_RECENT: Final = 10.0  # seconds for which a request that had to wait shows a short request budget
# Listed jobs are polled earlier if the share of settled jobs that the list goes on showing has
# grown by more than this factor.
_KEPT_STEP: Final = 1.5
_CHUNK: Final = 500  # jobs in one step of an iterator
_DELAYS_SAMPLED: Final = 8  # jobs for which `sweep_ended` asks the schedule
_MIN_LATER: Final = 1.0  # fewest seconds by which a poll is postponed for lack of request budget
_CHECK_LATER: Final = 30.0  # seconds by which a poll is postponed if it would only check the list
_LAG_FADING: Final = 0.99  # factor by which the observed lag of the list shrinks at each sweep
