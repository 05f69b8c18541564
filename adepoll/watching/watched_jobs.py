"""Holds the watched jobs, chooses the job to poll now, and records the results. Without I/O.

`poll_times` chooses the time of each poll. Times are seconds of one monotonic clock, passed in as
`now`.
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from attrs import define, evolve, field

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobSnapshot
from adepoll.api.source import with_aware_times
from adepoll.errors import AdePollError, WrongJobError
from adepoll.scheduling.durations import Arrivals
from adepoll.watching.failure_handling import FailureAction, FailureRules
from adepoll.watching.job_state import JobState, Subscriber
from adepoll.watching.learning import Learning, exact_duration
from adepoll.watching.left_jobs import LeftJobs
from adepoll.watching.list_checks import ListChecks
from adepoll.watching.list_hints import ListHints
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.poll_times import PollTimes
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.statistics import PollCounts


@define(eq=False)
class WatchedJobs:
    """The watched jobs of one kind, and the time of each job's next poll.

    Attributes:
        schedule_calls: Calls the schedule, and has the object `learning`.
        failure_rules: Decides when failed polls make the watcher give a job up.
        uses_list: True if the list may be read; if False, polls are not compared with the list.
        kind: Kind of the jobs.
        on_due: Called after jobs have become due because a subscriber's buffer has room again.
        learning: Keeps the ages of jobs, and learns how long jobs take.
        counts: Numbers of polls, settled jobs and given-up jobs so far.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        poll_times: Chooses the time of the next poll of each job.
        left_jobs: Keeps what is known of jobs that were left a moment ago.
        list_checks: Compares the list with polls.
        list_hints: Moves the next polls of jobs, according to what the list shows.
    """

    schedule_calls: ScheduleCalls
    failure_rules: FailureRules
    uses_list: bool = field(default=True, kw_only=True)
    kind: JobKind = field(default=JobKind.V1_EXTRACT, kw_only=True)
    on_due: Callable[[], None] = field(default=lambda: None, init=False)
    learning: Learning = field(init=False)
    counts: PollCounts = field(factory=PollCounts, init=False)
    list_trust: ListTrust = field(init=False)
    poll_queue: PollQueue = field(init=False)
    poll_times: PollTimes = field(init=False)
    left_jobs: LeftJobs = field(init=False)
    list_checks: ListChecks = field(init=False)
    list_hints: ListHints = field(init=False)
    _states: dict[str, JobState] = field(factory=dict, init=False)
    _arrivals: Arrivals = field(init=False)
    _known_resets: int = field(init=False)  # `Arrivals.resets` at the last poll

    def __attrs_post_init__(self) -> None:
        """Create the parts that decide when jobs are polled, such as the poll queue."""
        schedule_calls, learning = self.schedule_calls, self.schedule_calls.learning
        first_trust = _FIRST_TRUST * schedule_calls.target_lag_or_default
        self.learning = learning
        self.list_trust = ListTrust(
            learning=learning, delay=schedule_calls.delay, first_trust=first_trust
        )
        self.poll_queue = PollQueue(
            self.list_trust.chance, self._share_of_others, self.list_trust.is_awaited
        )
        self.poll_times = PollTimes(
            schedule_calls, self.list_trust, self.poll_queue, self.uses_list
        )
        self.left_jobs = LeftJobs(
            self._states, learning, self.list_trust, self.poll_queue, self._stop_watching
        )
        self.list_checks = ListChecks(
            self._states, schedule_calls, self.list_trust, self.poll_queue
        )
        self.list_hints = ListHints(
            self._states,
            self.left_jobs,
            schedule_calls,
            self.list_trust,
            self.poll_queue,
            self.list_checks,
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
            can_wait: True if the first poll may be later when the job is probably new.
        """
        state = self._states.get(job_id)
        left = self.left_jobs
        if state is None and (left.states or left.outcomes):
            state = left.resume(job_id, key, subscriber, now)
        if state is None:
            state = JobState(job_id, key, subscriber.as_tuple, now, now, owner=self)
            state.awaited_since = now
            if left.memory.failures:
                state.failures = left.memory.recall(job_id, now)
            self.poll_times.put_new(state, now, awaits=subscriber.awaits, can_wait=can_wait)
            # Not before `put_new`: if the schedule raises an error, the job is not in the queue.
            self._states[job_id] = state
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
            self._stop_watching(state)
            self.left_jobs.forget(state)
        else:
            self.left_jobs.leave(state, keep_from, keep_poll=keep_poll)
        return state

    def clear(self) -> Iterator[None]:
        """Forget all jobs; results of polls in flight will be ignored.

        The caller must use up the returned iterator. It removes the jobs from `learning`, in steps
        of 500 jobs, so that other tasks can run between the steps.
        """
        states = [*self._states.values()]
        self._states.clear()
        self.left_jobs.forget_all()
        self.poll_queue.clear()
        self.list_trust.pending_confirmation = 0
        return self.learning.record_all_dropped(states)

    @property
    def chooses_again(self) -> bool:
        """True if a failed poll has changed which jobs must be polled next.

        Then jobs whose polls were not sent yet are chosen again with `pop_due`. There are two
        cases:

        - Four polls in a row have failed. From now on, `pop_due` draws jobs at random: perhaps only
          the jobs at the head of the queue are bad, and a poll of another job shows that the
          service works.
        - The host has been down for too long. From now on, `pop_due` gives jobs up.
        """
        rules = self.failure_rules
        return rules.host.silent_polls == _DRAWS_AFTER or rules.gives_up_all

    def time_left(self, now: float) -> float | None:
        """Return the seconds until all jobs are expected to have settled; None if unknown."""
        return self.schedule_calls.time_left(self._states.values(), now)

    def pop_due(self, now: float) -> JobState | None:
        """Return a job to poll now, and reserve room for its snapshot; None if no job was found.

        If no subscriber of a job has room for its snapshot, the job is not polled until one of them
        has room. One call skips only a limited number of such jobs. So it can return None
        although jobs are due; `PollQueue.next_due` returns when the next job is due. Due jobs whose
        host has been down for too long are given up.
        """
        if self._known_resets != self._arrivals.resets:
            self._known_resets = self._arrivals.resets
            self.poll_queue.recall(now)
        sweeping = self.list_trust.sweeping
        rng = (
            self.schedule_calls.rng
            if self.failure_rules.host.silent_polls >= _DRAWS_AFTER
            else None
        )
        for _ in range(_MAX_SET_ASIDE):
            state = self.poll_queue.pop(now, rng=rng)
            if state is None:
                return None
            is_down = self.failure_rules.host.silent_for > 0
            if (is_down or state.failures is not None) and self._skip_failing(state, now):
                continue
            pause = state.pause
            if (
                pause is not None
                and state.due == pause[0]
                and not self.poll_times.check_pause(state, pause[1], now)
            ):
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
        if not state.waits_for_room:
            self.poll_times.put_now(state, now)
        return True

    def poll_sooner(self, job_id: str, now: float) -> None:
        """Choose the next poll of a job again, because somebody waits for it from now on."""
        state = self._states.get(job_id)
        if state is not None:
            self.poll_times.put_sooner(state, now)

    def succeeded(self, state: JobState, snapshot: JobSnapshot, now: float) -> None:
        """Deliver the snapshot that a poll returned, and choose the time of the next poll."""
        if snapshot.job_id != state.job_id:
            # AdeClient raises this error itself; another source can return a wrong job's snapshot.
            self.failed(state, WrongJobError(job_id=state.job_id, answered=snapshot.job_id), now)
            return
        if snapshot.kind is not self.kind:  # a source need not set the kind of its snapshots
            snapshot = evolve(snapshot, kind=self.kind)
        for time in (snapshot.received_at, snapshot.created_at, snapshot.completed_at):
            if time is not None and (time.__class__ is not datetime or time.tzinfo is not UTC):
                snapshot = with_aware_times(snapshot)  # of a caller's source, not of an AdeClient
                break
        self.counts.polls += 1
        settled = snapshot.status.is_terminal
        self.schedule_calls.throughput.record(state.due, now, settled=settled)
        self.failure_rules.record_success()
        if settled and self.poll_queue.ahead:
            self.poll_queue.record_settled(state)
        reserved = state.release_places()
        left_at = self.left_jobs.take(state) if self.left_jobs.states else None
        if self._states.get(state.job_id) is state:
            self._deliver(state, snapshot, now)
        if left_at is not None:
            self.left_jobs.take_back(state, snapshot, left_at, now)
        self._wake_after_release(reserved, now)

    def failed(self, state: JobState, error: AdePollError, now: float) -> bool:
        """Record that a poll failed: poll the job again later, or give it up.

        Returns:
            True if the error ends all watches and waits. Then the caller must end them.
        """
        self.counts.polls += 1
        self.schedule_calls.throughput.record(state.due, now, settled=False)
        action = self.failure_rules.record(state, error, now)
        if action is FailureAction.END_ALL:
            return True
        reserved = state.release_places()
        left_at = self.left_jobs.take(state) if self.left_jobs.states else None
        if self._states.get(state.job_id) is state:
            if isinstance(action, float):
                self._put_after_failure(state, now, within=action)
            else:
                self._give_up(state, error)
        if left_at is not None:
            self.left_jobs.take_back(state, error, left_at, now)
        self._wake_after_release(reserved, now)
        return False

    def cancelled(self, state: JobState, now: float, *, was_sent: bool) -> None:
        """Record that a poll was cancelled; poll the job again if it is still watched.

        If the request was sent (`was_sent`), the job is due later, by the schedule; otherwise now.
        """
        if state.in_flight:
            reserved = state.release_places()
            if self._states.get(state.job_id) is state:
                self.list_trust.confirm_when_due(state)
                self.poll_times.put_by_schedule(state, now, within=math.inf if was_sent else 0.0)
            self._wake_after_release(reserved, now)

    def _join(self, state: JobState, new: Subscriber, now: float, *, can_wait: bool) -> None:
        """Add a subscriber to a job that is watched already."""
        was_awaited = state.awaited
        state.add_subscriber(new)
        if new.awaits:
            self.poll_times.put_awaited(state, now, was_awaited=was_awaited)
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

    def _share_of_others(self, state: JobState) -> float:
        """Return the share of the watched jobs that are not in the watch of a job, 0 to 1.

        If the job is in several watches, the smallest one counts.
        """
        watched = len(self._states)
        smallest = min([subscriber.open for subscriber in state.subscribers])
        return 0.0 if smallest >= watched else 1 - smallest / watched

    def _put_after_failure(self, state: JobState, now: float, *, within: float) -> None:
        """Make a job due again after a failed poll: at the latest after `within` seconds."""
        self.list_trust.confirm_when_due(state)
        self.poll_times.put_by_schedule(state, now, within=within)
        if state.failures is not None:
            retry_at = state.due
            check_at = self.failure_rules.first_check(state.failures, retry_at, now)
            if check_at < retry_at:
                self.poll_queue.put(state, check_at)

    def _skip_failing(self, state: JobState, now: float) -> bool:
        """Give up or postpone a due job, as its failed polls or those of its host demand.

        Return False if the job must be polled now.
        """
        rules, failures = self.failure_rules, state.failures
        if (error := rules.outage_error(state)) is not None:
            self._give_up(state, error)
            return True
        if failures is not None and state.due == failures.check_at:
            later = rules.postponed_to(failures, now)
            if later > now:
                self.poll_queue.put(state, later)
                return True
        return False

    def _give_up(self, state: JobState, error: AdePollError) -> None:
        """Stop watching a job; its subscribers get the error."""
        self.counts.given_up += 1
        for subscriber in tuple(state.subscribers):
            subscriber.give_up(state.key, error)
        self._stop_watching(state)
        self.left_jobs.forget(state)

    def _stop_watching(self, state: JobState) -> None:
        """Remove a job from the watched jobs and from the poll queue."""
        del self._states[state.job_id]
        if state.ticket:
            self.poll_queue.drop(state)
        if state.ignore_list:
            self.list_trust.trust(state)

    def _wake_after_release(self, reserved: tuple[Subscriber, ...], now: float) -> None:
        """Make jobs due that wait for room in the buffers of the subscribers `reserved`.

        A poll has freed the places that it had reserved in these buffers.
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
            self.list_checks.record_poll(state, now, settled=settled)
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
        self.poll_times.recall_postponed(state, now, was_old=was_old)
        if refused:
            # These subscribers joined during the poll, and their buffers are full. When one has
            # room, the job is polled again, and the subscriber gets that snapshot.
            state.subscribers = tuple(refused)
            self._set_aside(state)
        else:
            self._stop_watching(state)  # `forget` would do nothing: the age was recorded above

    def _continue(self, state: JobState, snapshot: JobSnapshot, now: float) -> None:
        """Record that a poll found a job active, and choose the time of the next poll."""
        was_missing = state.missing_at < math.inf
        if was_missing:
            self.list_trust.record_wasted_poll(state)
        self.learning.record_active(state, snapshot.submitted_at, now)
        state.last_active_at = max(state.last_active_at, state.polled_at)
        state.found_active_at = state.polled_at
        self.poll_times.put_active(state, snapshot.progress, now, was_missing=was_missing)

    def _set_aside(self, state: JobState) -> None:
        """Do not poll a due job until a buffer of its subscribers has room."""
        state.waits_for_room = True
        for subscriber in state.subscribers:
            if (buffer := subscriber.buffer) is not None:
                buffer.add_waiting(state)
        self.list_trust.trust(state)  # otherwise the next sweep would wait for this job's poll


_FIRST_TRUST: Final = 2.5  # `first_trust` in target lags; sweeps are about two target lags apart
_DRAWS_AFTER: Final = 4  # failed polls in a row after which jobs are drawn at random
_MAX_SET_ASIDE: Final = 32  # jobs per call of `pop_due`; many pollers can call it in one step
