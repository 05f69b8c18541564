"""What the list shows of the watched jobs, and how it changes when they are polled; without I/O.

Imports listing, job_state, poll_queue and poll_timing. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import define

from adepoll.api.models import JobSummary
from adepoll.watching.job_state import JobState
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.poll_timing import PollTiming


@define(eq=False)
class ListHints:
    """Takes in what the list shows.

    Attributes:
        states: The watched jobs, by id.
        timing: Calls the schedule.
        list_trust: How far the list is trusted.
        poll_queue: The jobs that are due now or later.
    """

    states: Mapping[str, JobState]
    timing: PollTiming
    list_trust: ListTrust
    poll_queue: PollQueue

    def start_sweeping(self) -> None:
        """From now on, poll jobs when they are missing from the list."""
        self.list_trust.sweeping = True

    def stop_sweeping(self, now: float) -> Iterator[None]:
        """From now on, poll jobs by schedule; exhaust the iterator, which yields now and then."""
        self.list_trust.sweeping = False
        for number, state in enumerate(tuple(self.states.values()), 1):
            watched = self.states.get(state.job_id) is state
            if state.ticket and not state.ignore_list and watched:
                due = now
                if state.first_active_age is not None:
                    due += self.timing.rng.random() * self.timing.delay(state, now)
                if due < state.due:
                    self.poll_queue.put(state, due)
            if number % _CHUNK == 0:
                yield

    def listed(self, job: JobSummary, requested_at: float, now: float) -> bool:
        """Record what a list requested at `requested_at` shows of a job.

        Returns:
            True if the job is watched, and active according to the list.
        """
        state = self.states.get(job.job_id)
        if state is None or job.is_terminal:
            return False
        state.last_active_at = max(state.last_active_at, requested_at)
        requested = state.ignore_list and state.missing_at == math.inf  # by something else
        state.missing_at = math.inf
        if state.in_flight or state.failures is not None:
            return True
        new = state.first_active_age is None
        as_of = requested_at - self.list_trust.list_lag
        if new:
            self.list_trust.record_first(settled=False)
        self.timing.learning.record_active(state, job.received_at, now, as_of=as_of)
        if state.status != job.status_text and any(s.every_change for s in state.subscribers):
            if state.ticket:
                self.list_trust.confirm_now(state)
                self.poll_queue.put(state, min(state.due, now))
        elif state.ticket and not requested and not state.awaited:
            self.list_trust.trust(state)
            if new and self.list_trust.sweeping:
                state.list_trusted_until = self.list_trust.next_check(state, now)
                self.poll_queue.put(state, state.list_trusted_until)
        return True

    def sweep_ended(self, requested_at: float, now: float) -> Iterator[int]:
        """Make the jobs due that a sweep, started at `requested_at`, did not show.

        A job that is newer than the list's lag is not expected in the list. Exhaust the iterator,
        which yields the number of missing jobs among each 500.
        """
        for state in islice(self.states.values(), _DELAYS_SAMPLED):
            self.timing.delay(state, now)  # keeps `mean_delay` up to date during sweeps
        newest = requested_at - self.list_trust.list_lag
        self.list_trust.list_lag *= _LAG_FADING
        states = iter([*self.states.values()])
        while chunk := [*islice(states, _CHUNK)]:
            missing = [
                state
                for state in chunk
                if state.last_active_at < requested_at and state.added_at <= newest and state.ticket
            ]
            for state in missing:
                if not state.ignore_list:
                    if state.not_before > now:
                        self.list_trust.confirm_when_due(state)
                    else:
                        self.list_trust.confirm_now(state)
                    state.missing_at = requested_at
                    self.poll_queue.put(state, max(now, state.not_before))
            yield len(missing)


_CHUNK: Final = 500
_DELAYS_SAMPLED: Final = 8
_LAG_FADING: Final = 0.99  # of the list's lag, per sweep
