"""Keeps what is known of jobs that nobody watches any more, for a following `wait`. Without I/O.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Callable
from typing import Final

from attrs import define, evolve, field

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError
from adepoll.watching.job_state import JobState, PollFailures, Subscriber
from adepoll.watching.learning import Learning
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.poll_times import SHARED_FOR


class FailureMemory:
    """Remembers the failed polls of jobs that nobody watches any more, for the next watch or wait.

    Without this memory, each call of `wait` with a short timeout would begin to count again at 0,
    and a bad job would never be given up.

    Attributes:
        failures: The failed polls of each job by job id, oldest first.
    """

    def __init__(self) -> None:
        """Create an empty memory."""
        self.failures: dict[str, PollFailures] = {}

    def keep(self, job_id: str, failures: PollFailures) -> None:
        """Remember the failed polls of a job. If there are over 1,000 jobs, forget the oldest."""
        self.failures[job_id] = failures
        if len(self.failures) > _MOST_REMEMBERED:
            del self.failures[next(iter(self.failures))]

    def recall(self, job_id: str, now: float) -> PollFailures | None:
        """Return the failed polls of a job, and forget them.

        None if no failed poll is remembered, or if the last one was over ten minutes ago.
        """
        failures = self.failures.pop(job_id, None)
        if failures is None or now - failures.last_at > _REMEMBERED_FOR:
            return None
        return failures


@define(eq=False)
class LeftJobs:
    """Keeps the states of left jobs for ten seconds.

    A job is left when its last subscriber has gone. Then no new poll of it begins.

    Why: a server can wait for a job again and again, each time with a short timeout. If each `wait`
    began with a new state, the job would be the last one in the poll queue each time. While the
    request budget is short, it would be polled very late. For the same reason, a poll goes on after
    the timeout of its `wait`, if its request was sent: the next `wait` gets the result. If the poll
    finds the job settled before somebody waits again, its snapshot is kept. If it fails so that the
    job is given up, or that all waits end, its error is kept.

    A job that nobody waits for again is forgotten. Then only its failed polls are remembered.

    Attributes:
        watched: The watched jobs, by id.
        learning: Records what is known of the duration of each forgotten job.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        stop_watching: Function that removes a job from `watched` and from the poll queue.
        states: The kept states by job id, and the times at which the jobs were left; the job that
            was left first is first.
        outcomes: The kept snapshots and errors by job id, and the times at which the jobs were
            left; the outcome that was kept first is first.
        memory: Remembers the failed polls of the forgotten jobs.
    """

    watched: dict[str, JobState]
    learning: Learning
    list_trust: ListTrust
    poll_queue: PollQueue
    stop_watching: Callable[[JobState], None]
    states: dict[str, tuple[JobState, float]] = field(factory=dict, init=False)
    outcomes: dict[str, tuple[JobSnapshot | AdePollError, float]] = field(factory=dict, init=False)
    memory: FailureMemory = field(factory=FailureMemory, init=False)

    def leave(self, state: JobState, now: float, *, keep_poll: bool = False) -> None:
        """Stop watching a job, and keep its state. Of more than 1,000 jobs, forget the oldest.

        Args:
            state: State of the job.
            now: Time at which the job was left.
            keep_poll: True if a poll of the job that is in flight goes on. If False, a copy of the
                state is kept, because a poll that is being cancelled can still use `state` itself.
        """
        # If the poll in flight is cancelled now or later, the job still needs this poll.
        ignore_list = state.ignore_list or state.in_flight
        self.stop_watching(state)
        if not keep_poll:
            state = evolve(state, reserved_by=None, poll_again=False)
        state.ignore_list = ignore_list
        self.states[state.job_id] = state, now
        self.forget_old(now)

    def resume(self, job_id: str, key: str, subscriber: Subscriber, now: float) -> JobState | None:
        """Watch a job again that was left a moment ago, and return its state.

        Return None if the caller must create a new state. If a snapshot or an error of the job is
        kept, the subscriber gets it, and the job is not watched.

        The job is due now, unless a poll is in flight. If it was overdue when it was left, it
        counts as overdue by the same number of seconds. The number of polls is set to 0 and the
        status to None, because they describe only one `wait`. If the subscriber does not wait for
        the job, and no poll is in flight, forget the state.
        """
        self.forget_old(now)
        outcome, _ = self.outcomes.pop(job_id, (None, None))
        if isinstance(outcome, AdePollError):
            subscriber.give_up(key, outcome)
            return JobState(job_id, key, (), now, now)
        if outcome is not None and subscriber.deliver(key, outcome):
            return JobState(job_id, key, (), now, now)
        if job_id not in self.states:
            return None
        state, left_at = self.states.pop(job_id)
        if not (subscriber.awaits or state.in_flight):
            self.forget(state)
            return None
        state.key, state.subscribers = key, subscriber.as_tuple
        state.polls, state.status = 0, None
        state.due = now - max(left_at - state.due, 0.0)
        state.skip_checks()
        self.watched[job_id] = state
        if state.in_flight:
            state.ignore_list = False
            # The job may have settled after the request was sent.
            state.poll_again |= now > state.polled_at + SHARED_FOR
            return state
        if state.ignore_list:
            self.list_trust.confirm_now(state)
        self.poll_queue.put(state, state.due)
        return state

    def take(self, state: JobState) -> float | None:
        """Watch a left job while the result of its poll is recorded, until `take_back` is called.

        Returns:
            Time at which the job was left; None if its state is not kept.
        """
        kept, left_at = self.states.get(state.job_id, (None, None))
        if kept is not state:
            return None
        del self.states[state.job_id]
        state.ignore_list = False
        self.watched[state.job_id] = state
        return left_at

    def take_back(
        self, state: JobState, result: JobSnapshot | AdePollError, left_at: float, now: float
    ) -> None:
        """Keep a job again after `take`; if it is not watched any more, keep the result instead.

        Args:
            state: State of the job.
            result: Snapshot or error of the poll.
            left_at: The time that `take` has returned.
            now: The present time.
        """
        if state.job_id in self.watched:
            self.leave(state, left_at)
        else:
            self._keep_outcome(state.job_id, result, left_at, now)

    def ended_all(self, state: JobState, error: AdePollError, now: float) -> None:
        """Keep an error that has ended all watches and waits, if nobody waited for its job.

        The next `wait` for the job raises the error.
        """
        if not state.subscribers:
            self._keep_outcome(state.job_id, error, now, now)

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
        """Forget the jobs that were left more than ten seconds ago, unless their poll goes on.

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

    def forget(self, state: JobState) -> None:
        """Forget a job, except its failed polls, and record what is known of its duration."""
        if state.failures is not None:
            self.memory.keep(state.job_id, state.failures)
        if state.first_active_age is not None:
            self.learning.record_dropped(state)

    def _keep_outcome(
        self, job_id: str, outcome: JobSnapshot | AdePollError, left_at: float, now: float
    ) -> None:
        """Keep the final snapshot or the error of a job; of more than 64, forget the oldest."""
        self.outcomes[job_id] = outcome, left_at
        self.forget_old(now)


_KEPT_FOR: Final = 10.0  # seconds; longer than a client needs between two calls of `wait`
_MOST_KEPT: Final = 1_000
_MOST_OUTCOMES: Final = 64  # kept snapshots; each can contain a result of up to 1 MB
_MOST_REMEMBERED: Final = 1_000  # jobs in a `FailureMemory`
_REMEMBERED_FOR: Final = 600.0  # seconds from the last failed poll of a job until it is forgotten
