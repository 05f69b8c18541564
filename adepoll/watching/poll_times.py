"""Chooses the time of the next poll of a watched job. Without I/O.

The time comes from the schedule or, during list sweeps, from the list. `scheduling.schedules` lists
all modules that take part in this decision. Times are seconds of one monotonic clock, passed in as
`now`.
"""

import math
from typing import Final

from attrs import define, field

from adepoll.watching.job_state import JobState
from adepoll.watching.learning import UNKNOWN_CHANCE
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.schedule_calls import FEW_ENDED, ScheduleCalls


@define(eq=False)
class PollTimes:
    """Puts watched jobs into the poll queue, each with the time of its next poll.

    Attributes:
        schedule_calls: Calls the schedule.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        uses_list: True if the list may be read.
    """

    schedule_calls: ScheduleCalls
    list_trust: ListTrust
    poll_queue: PollQueue
    uses_list: bool
    _shortened: int = field(init=False)  # `Durations.shortened` at the last recall

    @_shortened.default
    def _count_shortened(self) -> int:
        """Return how often jobs had become shorter before this object was created."""
        return self.schedule_calls.learning.durations.shortened

    def put_new(self, state: JobState, now: float, *, awaits: bool, can_wait: bool) -> None:
        """Choose the time of the first poll of a new job: now, or later if it can wait.

        Args:
            state: The job.
            now: The present time.
            awaits: True if somebody waits for the job.
            can_wait: True if the first poll may be later when the job is probably new.
        """
        state.polled_early = not awaits and self.schedule_calls.polls_early(now)
        if can_wait and not state.polled_early and (delay := self._first_delay()):
            self.poll_queue.put(state, now + delay, postponed=True)
            return
        # While the request budget is short, a page that shows the job replaces the first poll for
        # somebody who waits.
        if self.uses_list and not awaits and (self.list_trust.sweeping or not can_wait):
            self.list_trust.confirm_now(state)
        chance = 1.0 if awaits else UNKNOWN_CHANCE
        if self.schedule_calls.learning.durations.arrivals.trusted:
            chance = 0.0  # the job is probably new, so other overdue jobs come first
        self.poll_queue.put_overdue(state, now, chance)

    def put_awaited(self, state: JobState, now: float, *, was_awaited: bool) -> None:
        """Make a job due now, because somebody begins to wait for it.

        If others have waited for it already (`was_awaited`), it is due at least a second after the
        start of its last poll. So waiters that begin soon after each other share the polls.
        """
        due = now
        if was_awaited:
            due = max(now, state.polled_at + SHARED_FOR)
        else:
            state.awaited_since = now
        if not state.is_queued:
            return
        if due < state.due or not was_awaited:
            # Also if the job is overdue: the queue then notices that its poll is urgent now.
            self.poll_queue.put(state, min(due, state.due))
        if state.due <= now:
            if was_awaited and not self.list_trust.covers(state):
                self._put_urgent(state, state.due)  # for the new waiter, it is the first poll
            state.skip_checks()

    def put_sooner(self, state: JobState, now: float) -> None:
        """Choose the next poll of a job again, because few jobs of its watch are left.

        From now on, somebody waits for the job. So its poll is urgent if it is due, and may be
        earlier if it is not.
        """
        if not state.is_queued:
            return
        due = state.due
        if due > now:
            due = min(due, max(state.polled_at + self.schedule_calls.delay(state, now), now))
        self.poll_queue.put(state, due)  # the queue notices that the poll is urgent

    def put_now(self, state: JobState, now: float) -> None:
        """Make a job due now, or immediately after the poll in flight: it may have settled."""
        if state.in_flight:
            state.poll_again = True  # the poll in flight may be too early to find the job settled
            return
        self.list_trust.confirm_now(state)
        state.missing_at = math.inf  # now the list is not the reason for the next poll
        self._put_urgent(state, min(state.due, now))
        state.skip_checks()

    def put_active(
        self, state: JobState, progress: float | None, now: float, *, was_missing: bool
    ) -> None:
        """Choose the time of the next poll of a job that a poll has found active.

        Args:
            state: The job.
            progress: Progress that the service has reported, 0 to 1; None if unknown.
            now: The present time.
            was_missing: True if the job had been polled because the list did not show it.
        """
        if self.list_trust.sweeping and not (state.poll_again or state.awaited):
            self._put_by_list(state, now, was_missing=was_missing)
        else:
            state.list_trusted_until = 0.0
            within = self.schedule_calls.expected_end(state, progress, now)
            self.put_by_schedule(state, now, within=within)

    def put_by_schedule(self, state: JobState, now: float, *, within: float = math.inf) -> None:
        """Make a job due when the schedule says, and at the latest after `within` seconds."""
        if state.poll_again:
            state.poll_again = False
            self.list_trust.confirm_now(state)
            self._put_urgent(state, now)
            return
        delay = self.schedule_calls.delay(state, now)
        is_uncertain = self.schedule_calls.is_uncertain(state, now)
        if is_uncertain:
            delay = min(delay, self.schedule_calls.early_delay(state, now))
        due = min(_after_poll(state, delay, now), now + within)
        # Later polls are not recalled: an old job that is found among new jobs recalls all, too.
        postponed = state.polls <= _RECALLED and (
            is_uncertain or self.schedule_calls.is_new(state, now)
        )
        if due - now > self.schedule_calls.long_delay and state.failures is None:
            self._put_paused(state, now, due)
        else:
            self.poll_queue.put(state, due, postponed=postponed)

    def _put_urgent(self, state: JobState, due: float) -> None:
        """Make a job due since the time `due`; it is polled before other jobs that are overdue."""
        self.poll_queue.drop(state)
        self.poll_queue.put_overdue(state, due, 1.0)

    def check_pause(self, state: JobState, until: float, now: float) -> bool:
        """Check a job's long delay, which ends at `until`; return True if the job is due now.

        The delay is long because jobs hardly ever end at the job's age. If they do end there, as
        polls of other jobs have shown since then, the delay becomes shorter.
        """
        until = min(until, state.polled_at + self.schedule_calls.longest_delay(state))
        if until <= now:
            return True
        self._put_paused(state, now, until)
        return False

    def _put_paused(self, state: JobState, now: float, until: float) -> None:
        """Make a job due at `until`; before, check every few seconds whether this is too late."""
        check_at = min(until, now + self.schedule_calls.long_delay)
        state.pause = check_at, until
        self.poll_queue.put(state, check_at)

    def recall_postponed(self, state: JobState, now: float, *, was_old: bool | None) -> None:
        """After a job has settled, make the postponed jobs due if they have probably settled, too.

        Their polls were postponed before one of these facts was known:

        - Most jobs have settled already when the watcher gets them.
        - Jobs take only seconds: the fourth job that has settled is young.
        - Jobs have become shorter (`Durations.shortened`).

        So jobs are postponed if they wait for their first poll, or if they are young and were
        polled at most twice.

        Args:
            state: The job that has settled.
            now: The present time.
            was_old: What `Learning.record_settled` has returned.
        """
        # If a new job was polled late, it may have been active for seconds before. Then it has no
        # meaning that the first poll found it settled.
        if was_old or (was_old is False and state.polled_at < state.added_at + _EARLY):
            first_statuses = self.schedule_calls.learning.first_statuses
            first_statuses.record(settled=True)
            if first_statuses.mostly_settled:
                self.poll_queue.recall(now)
        durations = self.schedule_calls.learning.durations
        if durations.shortened != self._shortened:
            self._shortened = durations.shortened
            self.poll_queue.recall(now)
        is_fourth = not was_old and self.schedule_calls.learning.durations.ended == FEW_ENDED
        if is_fourth and self.schedule_calls.is_young(state, now):
            self.poll_queue.recall(now)

    def _put_by_list(self, state: JobState, now: float, *, was_missing: bool) -> None:
        """During list sweeps, choose the time of the next poll of a job that is active.

        `was_missing` is True if the job had been polled because the list did not show it.
        """
        if was_missing:
            # The list may never show this job. So poll it no more often than the schedule would.
            state.not_before = now + self.schedule_calls.delay(state, now)
        state.list_trusted_until = self.list_trust.next_check(state, now)
        due = state.list_trusted_until
        # Later, early sweeps replace further early polls (`ListChecks.plan_early_sweep`).
        if state.polled_early and state.polls == 1 and self.schedule_calls.is_uncertain(state, now):
            early = _after_poll(state, self.schedule_calls.early_delay(state, now), now)
            if early < due:
                self.list_trust.confirm_when_due(state)
                due = early
        self.poll_queue.put(state, due)

    def _first_delay(self) -> float:
        """Return the seconds until the first poll of a new job that can wait; 0 to poll it now."""
        trust, learning = self.list_trust, self.schedule_calls.learning
        if learning.first_statuses.mostly_settled:
            return 0.0
        if trust.sweeping:
            # Wait for the list: one page probably shows this job, and 99 others, as active.
            return trust.first_trust
        return self.schedule_calls.first_delay() if learning.durations.arrivals.trusted else 0.0


def _after_poll(state: JobState, delay: float, now: float) -> float:
    """Return the time of the next poll: `delay` seconds after the start of the last poll.

    If the last poll took long, at least half of the delay remains after its end.
    """
    return max(state.polled_at + delay, now + delay / 2)


SHARED_FOR: Final = 1.0
"""Seconds after the start of a poll in which further waiters cause no poll."""
_EARLY: Final = 0.5  # seconds after a job was added; a poll that starts before this time is early
_RECALLED: Final = 2  # polls of a job after which no recall concerns the job any more
