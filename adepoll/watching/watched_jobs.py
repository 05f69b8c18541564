"""Holds the watched jobs, plans the next poll of each, and records the results. Without I/O.

The time of the next poll comes from the schedule, and during list sweeps from `listing` and
`list_hints`. `scheduling.schedules` lists all modules that take part in this decision.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define, evolve, field

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, WrongJobError
from adepoll.scheduling.durations import Arrivals
from adepoll.watching.failure_handling import FailureAction, FailureRules
from adepoll.watching.job_state import JobState, Subscriber
from adepoll.watching.learning import UNKNOWN_CHANCE, Learning, exact_duration
from adepoll.watching.left_jobs import LeftJobs
from adepoll.watching.list_hints import ListHints
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.statistics import PollCounts


@define(eq=False)
class WatchedJobs:
    """The watched jobs of one kind, and the time of each job's next poll.

    Attributes:
        timing: Calls the schedule, and has the object `learning`.
        failure_rules: Decides when failed polls make the watcher give a job up.
        uses_list: True if the list may be read; if False, polls are not compared with the list.
        kind: Kind of the jobs.
        on_due: Called after jobs have become due because a subscriber's buffer has room again.
        learning: Keeps the ages of jobs, and learns how long jobs take.
        counts: Numbers of polls, settled jobs and given-up jobs so far.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        list_hints: Moves the next polls of jobs, according to what the list shows.
    """

    timing: ScheduleCalls
    failure_rules: FailureRules
    uses_list: bool = field(default=True, kw_only=True)
    kind: JobKind = field(default=JobKind.V1_EXTRACT, kw_only=True)
    on_due: Callable[[], None] = field(default=lambda: None, init=False)
    learning: Learning = field(init=False)
    counts: PollCounts = field(factory=PollCounts, init=False)
    list_trust: ListTrust = field(init=False)
    poll_queue: PollQueue = field(init=False)
    list_hints: ListHints = field(init=False)
    _states: dict[str, JobState] = field(factory=dict, init=False)
    _left: LeftJobs = field(init=False)
    _arrivals: Arrivals = field(init=False)
    _known_resets: int = field(init=False)  # `Arrivals.resets` at the last poll

    def __attrs_post_init__(self) -> None:
        """Create the poll queue, the list hints, and the other parts made from `timing`."""
        timing, learning = self.timing, self.timing.learning
        first_trust = _FIRST_TRUST * (timing.target_lag or _TARGET_LAG)
        self.learning = learning
        self.list_trust = ListTrust(learning=learning, delay=timing.delay, first_trust=first_trust)
        self.poll_queue = PollQueue(self.list_trust.chance)
        self._left = LeftJobs(learning)
        self.list_hints = ListHints(
            self._states, self._left, timing, self.list_trust, self.poll_queue
        )
        self._arrivals = learning.durations.arrivals
        self._known_resets = self._arrivals.resets

    def __len__(self) -> int:
        """Return the number of watched jobs."""
        return len(self._states)

    def get(self, job_id: str) -> JobState | None:
        """Return the state of a job; None if it is not watched."""
        return self._states.get(job_id)

    def subscribe(
        self, job_id: str, key: str, subscriber: Subscriber, now: float, *, can_wait: bool = False
    ) -> JobState:
        """Add a subscriber to a job. A new job is polled immediately, unless it can wait.

        If the last `wait` for the job has ended a few seconds ago, the job is not new: its earlier
        state is used again. If a poll has settled the job since then, or the job was given up, the
        subscriber gets the snapshot or the error immediately, and the job is not watched.

        Args:
            job_id: Id of the job.
            key: Text of the job's reference; see `JobState`.
            subscriber: Is notified of snapshots and of the error.
            now: The present time.
            can_wait: True if the first poll may be later, in case the job is probably new.
        """
        state = self._states.get(job_id)
        if state is None and (self._left.states or self._left.outcomes):
            state = self._resume(job_id, key, subscriber, now)
        if state is None:
            state = self._states[job_id] = JobState(
                job_id, key, subscriber.alone, now, now, owner=self
            )
            state.awaited_since = now
            if self._left.memory.failures:
                state.failures = self._left.memory.recall(job_id, now)
            if can_wait and (delay := self._first_delay()):
                self.poll_queue.put(state, now + delay, postponed=True)
            else:
                # While the request budget is short, a page that shows the job replaces the first
                # poll for somebody who waits.
                awaits = subscriber.awaits
                if self.uses_list and not awaits and (self.list_trust.sweeping or not can_wait):
                    self.list_trust.confirm_now(state)
                chance = 1.0 if awaits else UNKNOWN_CHANCE
                self.poll_queue.put_overdue(state, now, chance)
        elif subscriber not in state.subscribers:
            self._join(state, subscriber, now, can_wait=can_wait)
        return state

    def unsubscribe(
        self,
        job_id: str,
        subscriber: Subscriber,
        *,
        keep_from: float | None = None,
        keep_poll: bool = False,
    ) -> JobState | None:
        """Remove a subscriber. If it was the last one, stop watching the job, and return its state.

        Args:
            job_id: Id of the job.
            subscriber: The subscriber.
            keep_from: The present time, to keep what is known of the job for some seconds, in case
                somebody waits for it again. None to forget the job immediately.
            keep_poll: True if the poll of the job that is in flight goes on.
        """
        state = self._states.get(job_id)
        if state is None or subscriber not in state.subscribers:
            return None
        state.remove_subscriber(subscriber)
        if state.subscribers:
            return None
        if keep_from is None:
            self._remove(state)
        else:
            self._leave(state, keep_from, keep_poll=keep_poll)
        return state

    def forget_left(self, now: float) -> float:
        """Forget the jobs that nobody has waited for again within ten seconds.

        Returns:
            Time of the next call; infinity if no such job is kept.
        """
        return self._left.forget_old(now)

    def clear(self) -> Iterator[None]:
        """Forget all jobs; results of polls in flight will be ignored.

        The caller must use up the returned iterator. It removes the jobs from `learning`, in steps
        of 500 jobs, so that other tasks can run between the steps.
        """
        states = [*self._states.values()]
        self._states.clear()
        self._left.forget_all()
        self.poll_queue.clear()
        self.list_trust.pending_confirmation = 0
        return self.learning.record_all_dropped(states)

    def time_left(self, now: float) -> float | None:
        """Return the seconds until all jobs are expected to have settled; None if unknown."""
        return self.timing.time_left(self._states.values(), now)

    def pop_due(self, now: float) -> JobState | None:
        """Return a job to poll now, and reserve room for its snapshot; None if no job was found.

        If no subscriber of a job has room for its snapshot, the job is not polled until one of them
        has room. To stay short, a call skips a limited number of such jobs. So it can return None
        although jobs are due; `PollQueue.next_due` returns when the next job is due.
        """
        if self._known_resets != self._arrivals.resets:
            self._known_resets = self._arrivals.resets
            self.poll_queue.recall(now)
        sweeping = self.list_trust.sweeping
        for _ in range(_MAX_SET_ASIDE):
            state = self.poll_queue.pop(now)
            if state is None:
                return None
            failures = state.failures
            if failures is not None and state.due == failures.check_at:
                later = self.failure_rules.postponed_to(failures, now)
                if later > now:
                    self.poll_queue.put(state, later)
                    continue
            if sweeping and (later := self.list_hints.postponed_to(state, now)) > now:
                self.poll_queue.put(state, later)
                continue
            if not state.reserve_places():
                self._set_aside(state)
                continue
            ignore_list = state.ignore_list
            state.by_schedule = not (sweeping or ignore_list or state.due <= state.added_at)
            if ignore_list:
                self.list_trust.trust(state)
            state.polled_at = now
            return state
        return None

    def wake(self, state: JobState, now: float) -> bool:
        """Make a job due now if it waits for room in a buffer; return False if it does not wait."""
        if not state.waits_for_room or self._states.get(state.job_id) is not state:
            return False
        state.waits_for_room = False
        self.list_trust.confirm_now(state)
        self.poll_queue.put(state, now)
        return True

    def poll_now(self, job_id: str, now: float) -> bool:
        """Make a job due now, since it may have settled; return False if it is not watched."""
        state = self._states.get(job_id)
        if state is None:
            return False
        if state.in_flight:
            state.poll_again = True  # the poll in flight may be too early to find the job settled
        elif not state.waits_for_room:
            self.list_trust.confirm_now(state)
            state.missing_at = math.inf  # now the list is not the reason for the next poll
            if state.due > now:
                self.poll_queue.put(state, now)
        return True

    def succeeded(self, state: JobState, snapshot: JobSnapshot, now: float) -> None:
        """Deliver the snapshot that a poll returned, and choose the time of the next poll."""
        if snapshot.job_id != state.job_id:
            # AdeClient raises this error itself; another source can return a wrong job's snapshot.
            self.failed(state, WrongJobError(job_id=state.job_id, answered=snapshot.job_id), now)
            return
        if snapshot.kind is not self.kind:  # a source need not set the kind of its snapshots
            snapshot = evolve(snapshot, kind=self.kind)
        self.counts.polls += 1
        self.timing.throughput.record(state.due, now, settled=snapshot.status.is_terminal)
        self.failure_rules.record_success()
        reserved = state.release_places()
        left_at = self._left.take(state) if self._left.states else None
        if left_at is not None:
            self._watch_again(state)  # only until the end of this call
        if self._states.get(state.job_id) is state:
            self._deliver(state, snapshot, now)
        if left_at is not None:
            if state.job_id in self._states:
                self._leave(state, left_at)
            else:
                self._left.keep_outcome(state.job_id, snapshot, left_at, now)
        self._wake_after_release(reserved, now)

    def failed(self, state: JobState, error: AdePollError, now: float) -> bool:
        """Record that a poll failed: poll the job again later, or give it up.

        Returns:
            True if the error ends all watches and waits. Then the caller must end them.
        """
        self.counts.polls += 1
        self.timing.throughput.record(state.due, now, settled=False)
        action = self.failure_rules.record(state, error, now)
        if action is FailureAction.END_ALL:
            return True
        reserved = state.release_places()
        if self._states.get(state.job_id) is state:
            if isinstance(action, float):
                self.list_trust.confirm_when_due(state)
                self._put_by_schedule(state, now, within=action)
                if state.failures is not None:
                    retry_at = state.due
                    check_at = self.failure_rules.first_check(state.failures, retry_at, now)
                    if check_at < retry_at:
                        self.poll_queue.put(state, check_at)
            else:
                self.counts.given_up += 1
                for subscriber in tuple(state.subscribers):
                    subscriber.give_up(state.key, error)
                self._remove(state)
        elif not isinstance(action, float) and (left_at := self._left.take(state)) is not None:
            self.counts.given_up += 1
            self._left.forget(state)
            self._left.keep_outcome(state.job_id, error, left_at, now)
        self._wake_after_release(reserved, now)
        return False

    def ended_all(self, state: JobState, error: AdePollError, now: float) -> None:
        """Keep an error that has ended all watches and waits, if nobody waited for its job.

        The next `wait` for the job raises the error.
        """
        if not state.subscribers:
            self._left.keep_outcome(state.job_id, error, now, now)

    def cancelled(self, state: JobState, now: float) -> None:
        """Record that a poll was cancelled; poll the job again later if it is still watched."""
        if state.in_flight:
            reserved = state.release_places()
            if self._states.get(state.job_id) is state:
                self.list_trust.confirm_when_due(state)
                self._put_by_schedule(state, now)
            self._wake_after_release(reserved, now)

    def _resume(self, job_id: str, key: str, subscriber: Subscriber, now: float) -> JobState | None:
        """Watch a job again that was left a moment ago; return None if its state is not kept."""
        outcome = self._left.take_outcome(job_id, now)
        if isinstance(outcome, AdePollError):
            subscriber.give_up(key, outcome)
            return JobState(job_id, key, (), now, now)
        if outcome is not None and subscriber.deliver(key, outcome):
            return JobState(job_id, key, (), now, now)
        state = self._left.resume(job_id, now, awaits=subscriber.awaits)
        if state is not None:
            state.key, state.subscribers = key, subscriber.alone
            if state.in_flight:
                self._watch_again(state)
                # The job may have settled after the request was sent.
                state.poll_again |= now > state.polled_at + _SHARED_FOR
            else:
                self._states[job_id] = state
                if state.ignore_list:
                    self.list_trust.confirm_now(state)
                self.poll_queue.put(state, state.due)
        return state

    def _watch_again(self, state: JobState) -> None:
        """Watch a left job again whose last poll has not been cancelled."""
        state.ignore_list = False
        self._states[state.job_id] = state

    def _leave(self, state: JobState, now: float, *, keep_poll: bool = False) -> None:
        """Stop watching a job, and keep what is known of it."""
        # If the poll in flight is cancelled now or later, the job still needs this poll.
        ignore_list = state.ignore_list or state.in_flight
        self._stop_watching(state)
        self._left.keep(state, now, ignore_list=ignore_list, keep_poll=keep_poll)

    def _first_delay(self) -> float:
        """Return the seconds until the first poll of a new job that can wait; 0 to poll it now."""
        trust = self.list_trust
        if trust.jobs_come_settled:
            return 0.0
        if trust.sweeping:
            # Wait for the list: one page probably shows this job, and 99 others, as active.
            return trust.first_trust
        return self.timing.first_delay() if self._arrivals.trusted else 0.0

    def _join(self, state: JobState, new: Subscriber, now: float, *, can_wait: bool) -> None:
        """Add a subscriber to a job that is watched already."""
        was_awaited = state.awaited
        state.add_subscriber(new)
        if new.awaits:
            self._await(state, now, was_awaited=was_awaited)
        sweeping = self.list_trust.sweeping
        never_polled = state.first_active_age is None and not (state.failures or state.ignore_list)
        if never_polled and not can_wait and not sweeping and state.is_queued and state.due > now:
            self.poll_queue.put(state, now)
        if state.waits_for_room:
            buffer = new.buffer
            if buffer is None or buffer.free > 0:
                self.wake(state, now)
            else:
                buffer.add_waiting(state)

    def _await(self, state: JobState, now: float, *, was_awaited: bool) -> None:
        """Make a job due now, because somebody begins to wait for it.

        If others have waited for it already (`was_awaited`), it is due at least a second after the
        start of its last poll. So waiters that begin soon after each other share the polls.
        """
        due = now
        if was_awaited:
            due = max(now, state.polled_at + _SHARED_FOR)
        else:
            state.awaited_since = now
        if state.is_queued and due < state.due:
            self.poll_queue.put(state, due)

    def _wake_after_release(self, reserved: tuple[Subscriber, ...], now: float) -> None:
        """After a poll, make the jobs due that wait for the places that the poll had reserved.

        The poll had reserved places in the buffers of the subscribers `reserved`.
        """
        # A poll that delivers no snapshot frees its places. Wake the jobs that wait for room here:
        # usually the consumer wakes them when it takes a snapshot, but there may be none to take.
        for subscriber in reserved:
            if (buffer := subscriber.buffer) is not None and buffer.waiting:
                buffer.wake_waiting(now, caller=self)

    def _deliver(self, state: JobState, snapshot: JobSnapshot, now: float) -> None:
        """Pass a snapshot to the subscribers; then forget the job, or plan its next poll."""
        changed = state.status != snapshot.status_text
        settled = snapshot.status.is_terminal
        if self.uses_list:
            self.list_hints.record_poll(state, now, settled=settled)
        state.polls += 1
        state.status = snapshot.status_text
        state.failures = None
        refused = []
        for subscriber in state.subscribers:
            if not subscriber.deliver(state.key, snapshot):
                refused.append(subscriber)  # noqa: PERF401 - a comprehension would be slower
        if not settled:
            self._continue(state, snapshot, now)
            return
        submitted_at = snapshot.submitted_at
        completed_at = snapshot.completed_at
        exact = None if completed_at is None else exact_duration(submitted_at, completed_at)
        was_old = self.learning.record_settled(state, submitted_at, now, exact=exact)
        if changed:
            # The list shows the job as it was some time ago, so the lag of the list is subtracted.
            active_at = state.last_active_at - self.list_trust.list_lag
            lag = now - max(active_at, state.added_at)
            if exact is not None:
                lag = min(lag, max(self.learning.age(state, now) - exact, 0.0))
            self.counts.record_settled(lag)
        # If a new job was polled late, it may have been active for seconds before. Then it says
        # nothing that the first poll found it settled.
        if was_old or (was_old is False and state.polled_at < state.added_at + _EARLY):
            self.list_trust.record_first(settled=True)
            if self.list_trust.jobs_come_settled:
                self.poll_queue.recall(now)  # postponed jobs have probably settled, too
        if refused:
            # These subscribers joined during the poll, and their buffers are full. When one has
            # room, the job is polled again, and the subscriber gets that snapshot.
            state.subscribers = tuple(refused)
            self._set_aside(state)
        else:
            self._remove(state)

    def _continue(self, state: JobState, snapshot: JobSnapshot, now: float) -> None:
        """Record that a poll found a job active, and choose the time of the next poll."""
        was_missing = state.missing_at < math.inf
        if state.first_active_age is None:
            self.list_trust.record_first(settled=False)
        if was_missing:
            self.list_trust.record_wasted_poll(state)
        self.learning.record_active(state, snapshot.submitted_at, now)
        state.last_active_at = max(state.last_active_at, state.polled_at)
        state.found_active_at = state.polled_at

        if self.list_trust.sweeping and not (state.poll_again or state.awaited):
            self._put_by_list(state, now, was_missing=was_missing)
        else:
            state.list_trusted_until = 0.0
            within = self.timing.expected_end(state, snapshot.progress, now)
            self._put_by_schedule(state, now, within=within)

    def _put_by_list(self, state: JobState, now: float, *, was_missing: bool) -> None:
        """During list sweeps, plan the next poll of a job that a poll has found active.

        `was_missing` is True if the job had been polled because the list did not show it.
        """
        if was_missing:
            # The list may never show this job. So poll it no more often than the schedule would.
            state.not_before = now + self.timing.delay(state, now)
        state.list_trusted_until = self.list_trust.next_check(state, now, polled=not was_missing)
        self.poll_queue.put(state, state.list_trusted_until)

    def _put_by_schedule(self, state: JobState, now: float, *, within: float = math.inf) -> None:
        """Make a job due when the schedule says, and at the latest after `within` seconds."""
        if state.poll_again:
            state.poll_again = False
            self.list_trust.confirm_now(state)
            self.poll_queue.put(state, now)
            return
        delay = self.timing.delay(state, now)
        # The delay begins at the start of the last poll. If that poll took long, at least half of
        # the delay remains after its end.
        due = max(state.polled_at + delay, now + delay / 2)
        self.poll_queue.put(state, min(due, now + within))

    def _remove(self, state: JobState) -> None:
        """Stop watching a job, and forget it."""
        self._stop_watching(state)
        self._left.forget(state)

    def _stop_watching(self, state: JobState) -> None:
        """Remove a job from the watched jobs and from the poll queue."""
        del self._states[state.job_id]
        if state.ticket:
            self.poll_queue.drop(state)
        if state.ignore_list:
            self.list_trust.trust(state)

    def _set_aside(self, state: JobState) -> None:
        """Do not poll a due job until a buffer of its subscribers has room."""
        state.waits_for_room = True
        for subscriber in state.subscribers:
            if (buffer := subscriber.buffer) is not None:
                buffer.add_waiting(state)
        self.list_trust.trust(state)  # otherwise the next sweep would wait for this job's poll


_TARGET_LAG: Final = 2.0  # target lag in seconds, if the schedule has none
_FIRST_TRUST: Final = 2.5  # `first_trust` in target lags; sweeps are about two target lags apart
_SHARED_FOR: Final = 1.0  # seconds after the start of a poll in which further waiters cause no poll
_EARLY: Final = 0.5  # seconds after a job was added; a poll that starts before this time is early
_MAX_SET_ASIDE: Final = 32  # jobs per call of `pop_due`; many pollers can call it in one step
