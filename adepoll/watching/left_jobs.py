"""Keeps what is known of jobs that are not watched any more.

Imports `failure_handling`, `job_state` and `learning`. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from typing import Final

from attrs import define, evolve, field

from adepoll.watching.failure_handling import FailureMemory
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning


@define(eq=False)
class LeftJobs:
    """Jobs that the last subscriber has left: for ten seconds, the next `wait` uses their states.

    A server can wait for a job again and again, each time with a short timeout. If each of these
    calls began with a new state, the job would be the last one in the poll queue each time, and no
    sweep would find it missing: while the request budget is short, a sweep takes longer than such a
    call. So the job would be polled very late.

    These jobs are not watched: they are not polled, and they have no subscribers. Of a job that is
    forgotten, only the failed polls are remembered.

    Attributes:
        learning: Learns from the forgotten jobs.
        states: The kept states by job id, and the times at which the jobs were left; the job that
            was left first is first.
        memory: Remembers the failed polls of the forgotten jobs.
    """

    learning: Learning
    states: dict[str, tuple[JobState, float]] = field(factory=dict, init=False)
    memory: FailureMemory = field(factory=FailureMemory, init=False)

    def keep(self, state: JobState, now: float, *, ignore_list: bool) -> None:
        """Keep a copy of the state of a job; of more than 1,000 jobs, forget the oldest.

        A poll that is being cancelled can still use `state` itself. The copy has no polls and no
        status: these are what the polls of one `wait` have found.

        Args:
            state: The state.
            now: The time.
            ignore_list: True if the job must be polled next, whatever the list says.
        """
        left = evolve(
            state,
            ignore_list=ignore_list,
            reserved_by=None,
            poll_again=False,
            polls=0,
            status=None,
        )
        self.states[state.job_id] = left, now
        self.forget_old(now)

    def resume(self, job_id: str, now: float, *, awaits: bool) -> JobState | None:
        """Return the state of a job that is watched again; None if the job begins a new state.

        The job is due now. If it was overdue when it was left, it is due earlier by the seconds for
        which it was overdue. The state is forgotten if `awaits` is False, that is, if nobody waits
        for the job now.
        """
        self.forget_old(now)
        if job_id not in self.states:
            return None
        state, left_at = self.states.pop(job_id)
        if not awaits:
            self.forget(state)
            return None
        state.due = now - max(left_at - state.due, 0.0)
        return state

    def forget(self, state: JobState) -> None:
        """Remember only the failed polls of a job, and what is known of its duration."""
        if state.failures is not None:
            self.memory.keep(state.job_id, state.failures)
        if state.first_active_age is not None:
            self.learning.record_dropped(state)

    def forget_all(self) -> None:
        """Forget all jobs."""
        self.forget_old(math.inf)

    def record_listed(self, job_id: str, requested_at: float) -> None:
        """Record that a list request, sent at `requested_at`, shows a job as active."""
        if job_id in self.states:
            state, _ = self.states[job_id]
            state.last_listed_at = requested_at
            state.last_active_at = max(state.last_active_at, requested_at)
            state.missing_at = math.inf

    def forget_old(self, now: float) -> float:
        """Forget the jobs that were left too long ago.

        Returns:
            Time at which the next job must be forgotten; infinity if no job is kept.
        """
        while self.states:
            job_id, (state, left_at) = next(iter(self.states.items()))
            if now < left_at + _KEPT_FOR and len(self.states) <= _MOST_KEPT:
                return left_at + _KEPT_FOR
            del self.states[job_id]
            self.forget(state)
        return math.inf


_KEPT_FOR: Final = 10.0  # seconds; longer than a client needs between two calls of `wait`
_MOST_KEPT: Final = 1_000
