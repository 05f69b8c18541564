"""Keeps what is known of jobs that nobody watches any more, for a following `wait`.

Imports `failure_handling`, `job_state` and `learning`. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from typing import Final

from attrs import define, evolve, field

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError
from adepoll.watching.failure_handling import FailureMemory
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning


@define(eq=False)
class LeftJobs:
    """Keeps the states of left jobs for ten seconds, so that a following `wait` can use them.

    A job is left when its last subscriber has gone. Then no new poll of it begins.

    Why: a server can wait for a job again and again, each time with a short timeout. If each `wait`
    began with a new state, the job would be the last one in the poll queue each time. While the
    request budget is short, it would be polled very late. For the same reason, a poll goes on after
    the timeout of its `wait`, if its request was sent: the next `wait` gets the result. If the poll
    finds the job settled before somebody waits again, its snapshot is kept. If it fails so that the
    job is given up, or that all waits end, its error is kept.

    A job that nobody waits for again is forgotten. Then only its failed polls are remembered.

    Attributes:
        learning: Records what is known of the duration of each forgotten job.
        states: The kept states by job id, and the times at which the jobs were left; the job that
            was left first is first.
        outcomes: The kept snapshots and errors by job id, and the times at which the jobs were
            left; the outcome that was kept first is first.
        memory: Remembers the failed polls of the forgotten jobs.
    """

    learning: Learning
    states: dict[str, tuple[JobState, float]] = field(factory=dict, init=False)
    outcomes: dict[str, tuple[JobSnapshot | AdePollError, float]] = field(factory=dict, init=False)
    memory: FailureMemory = field(factory=FailureMemory, init=False)

    def keep(
        self, state: JobState, now: float, *, ignore_list: bool, keep_poll: bool = False
    ) -> None:
        """Keep the state of a job. If there are over 1,000 jobs, forget the oldest.

        Args:
            state: State of the job.
            now: Time at which the job was left.
            ignore_list: True if the job must be polled next, whatever the list says.
            keep_poll: True if a poll of the job that is in flight goes on. If False, a copy of the
                state is kept, because a poll that is being cancelled can still use `state` itself.
        """
        if not keep_poll:
            state = evolve(state, reserved_by=None, poll_again=False)
        state.ignore_list = ignore_list
        self.states[state.job_id] = state, now
        self.forget_old(now)

    def keep_outcome(
        self, job_id: str, outcome: JobSnapshot | AdePollError, left_at: float, now: float
    ) -> None:
        """Keep the final snapshot or the error of a job; of more than 64, forget the oldest."""
        self.outcomes[job_id] = outcome, left_at
        self.forget_old(now)

    def take(self, state: JobState) -> float | None:
        """No longer keep a state; return when the job was left, or None if it is not kept."""
        kept, left_at = self.states.get(state.job_id, (None, None))
        if kept is not state:
            return None
        del self.states[state.job_id]
        return left_at

    def take_outcome(self, job_id: str, now: float) -> JobSnapshot | AdePollError | None:
        """Return the kept snapshot or error of a job, and no longer keep it; None without one."""
        self.forget_old(now)
        outcome, _ = self.outcomes.pop(job_id, (None, None))
        return outcome

    def resume(self, job_id: str, now: float, *, awaits: bool) -> JobState | None:
        """Return the state of a job that is watched again; None if it needs a new state.

        The job is due now, unless a poll is in flight. If it was overdue when it was left, it
        counts as overdue by the same number of seconds. The state has no polls and no status,
        because these belong to one `wait`.

        Args:
            job_id: Id of the job.
            now: The present time.
            awaits: True if somebody waits for the job now. If False, and no poll is in flight, the
                state is forgotten.
        """
        self.forget_old(now)
        if job_id not in self.states:
            return None
        state, left_at = self.states.pop(job_id)
        if not (awaits or state.in_flight):
            self.forget(state)
            return None
        state.polls, state.status = 0, None
        state.due = now - max(left_at - state.due, 0.0)
        return state

    def forget(self, state: JobState) -> None:
        """Forget a job, except its failed polls, and record what is known of its duration."""
        if state.failures is not None:
            self.memory.keep(state.job_id, state.failures)
        if state.first_active_age is not None:
            self.learning.record_dropped(state)

    def forget_all(self) -> None:
        """Forget all jobs."""
        self.forget_old(math.inf)
        self.outcomes.clear()

    def record_listed(self, job_id: str, requested_at: float) -> None:
        """Record that a page of the list, requested at `requested_at`, shows a job as active."""
        if job_id in self.states:
            state, _ = self.states[job_id]
            state.last_listed_at = requested_at
            state.last_active_at = max(state.last_active_at, requested_at)
            state.missing_at = math.inf

    def forget_old(self, now: float) -> float:
        """Forget the jobs that were left over ten seconds ago, except those whose poll goes on.

        Returns:
            Time at which the next job must be forgotten; infinity if no job is kept.
        """
        next_at = math.inf
        while self.outcomes:
            job_id, (_, left_at) = next(iter(self.outcomes.items()))
            if now < left_at + _KEPT_FOR and len(self.outcomes) <= _MOST_OUTCOMES:
                next_at = left_at + _KEPT_FOR
                break
            del self.outcomes[job_id]
        while self.states:
            job_id, (state, left_at) = next(iter(self.states.items()))
            if now < left_at + _KEPT_FOR and len(self.states) <= _MOST_KEPT:
                return min(next_at, left_at + _KEPT_FOR)
            if state.in_flight and now < math.inf:
                # It will end soon: it is late only because the process was stopped. If the job were
                # forgotten now, the next `wait` would begin a second poll of the job.
                return min(next_at, now + _KEPT_FOR)
            del self.states[job_id]
            self.forget(state)
        return next_at


_KEPT_FOR: Final = 10.0  # seconds; longer than a client needs between two calls of `wait`
_MOST_KEPT: Final = 1_000
_MOST_OUTCOMES: Final = 64  # kept snapshots; each can contain a result of up to 1 MB
