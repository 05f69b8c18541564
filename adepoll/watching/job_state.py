"""The state of one watched job, and the interface of its subscribers.

A subscriber is any object that is notified about a job, such as a watch. Times are seconds of one
monotonic clock. The age of a job is the number of seconds since the service received the job.
"""

import math
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Final, Protocol

from attrs import define, field

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError


class JobOwner(Protocol):
    """Holds the states of the watched jobs of one kind; see `WatchedJobs`."""

    def wake(self, state: "JobState", now: float) -> bool:
        """If the job waits for room in a buffer, make it due now and return True.

        In any other case, return False.
        """

    on_due: Callable[[], None]
    """Called after jobs have become due because a subscriber's buffer has room again."""


class Subscriber(Protocol):
    """Is notified of the snapshots and the error of a job.

    The methods of a subscriber must not block, and must not call the watcher.
    """

    @property
    def as_tuple(self) -> "tuple[Subscriber]":
        """The tuple ``(self,)``. All jobs of the subscriber share it, which saves memory."""

    @property
    def every_change(self) -> bool:
        """True if the subscriber wants every change of status, False if only the final one."""

    @property
    def awaits(self) -> bool:
        """True if somebody waits for the subscriber's jobs, so that they are polled often."""

    @property
    def open(self) -> int:
        """Number of the subscriber's open jobs: neither settled nor given up."""

    @property
    def buffer(self) -> "SnapshotBuffer | None":
        """Limits the snapshots that wait for the subscriber's consumer; None for no limit."""

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:
        """Accept a snapshot of a job; return False if the buffer has no room for it.

        If the subscriber does not want the snapshot, ignore it and return True.
        """

    def give_up(self, key: str, error: AdePollError) -> None:
        """Record that a job was given up; `error` is the reason."""


@define(eq=False)
class SnapshotBuffer:
    """Limits the number of snapshots that wait for the consumer of one subscriber.

    A poll reserves a place in the buffer before its request is sent, so that there is room for its
    snapshot. While no place is free, the jobs are not polled for this subscriber.

    Attributes:
        subscriber: The subscriber.
        free: Number of places that are neither used nor reserved; at first, the size of the buffer.
            It can be below 0 while polls that were made for another subscriber of the same jobs are
            in flight.
        snapshots: Keys and snapshots of the jobs that wait for the consumer, oldest first.
        waiting: Jobs that are due and wait for room, oldest first. It can contain a job twice, and
            jobs that no longer wait.
    """

    subscriber: Subscriber
    free: int
    snapshots: deque[tuple[str, JobSnapshot]] = field(factory=deque, init=False)
    waiting: "deque[JobState]" = field(factory=deque, init=False)
    _prune_above: int = field(default=64, init=False)

    def add_waiting(self, state: "JobState") -> None:
        """Add a job that waits until the buffer has room."""
        self.waiting.append(state)
        if len(self.waiting) > self._prune_above:
            # Other subscribers may have woken some of these jobs. Some may be present twice.
            up_to_date = (
                s for s in self.waiting if s.waits_for_room and self.subscriber in s.subscribers
            )
            self.waiting = deque(dict.fromkeys(up_to_date))
            self._prune_above = 2 * len(self.waiting) + _PRUNE_SLACK

    def wake_waiting(self, now: float, caller: JobOwner | None = None) -> int:
        """Make one waiting job due for each free place in the buffer; return their number.

        Call this whenever a place may have become free.

        Args:
            now: The present time.
            caller: The owner that calls this method, so that its `on_due` need not be called. None
                to call the `on_due` of every owner of a job that is due now.
        """
        woken = 0
        owners: set[JobOwner] = set()
        while woken < self.free and self.waiting:
            state = self.waiting.popleft()
            # This subscriber may have unsubscribed from the job while the job waited.
            owner = state.owner
            if self.subscriber in state.subscribers and owner and owner.wake(state, now):
                woken += 1
                owners.add(owner)
        for owner in owners - {caller}:
            owner.on_due()
        return woken


class FailureKind(Enum):
    """Kinds of failed polls. They differ in what they say about the job and the service.

    `NOT_FOUND`: a 404 of a job that was never found. `FORBIDDEN`: a 403 of a job that was never
    found. `LOST`: a 404 or 403 of a job that was found before. `MALFORMED`: an answer that could
    not be understood. `FAILED`: no response, or an error that can concern all jobs.
    """

    NOT_FOUND = 1
    FORBIDDEN = 2
    LOST = 3
    MALFORMED = 4
    FAILED = 5


@define(eq=False, weakref_slot=False, kw_only=True)
class PollFailures:
    """Failed polls of one job since its last successful poll.

    The last four attributes are copies of counters of all jobs, made after the last failed poll of
    this job that was not a 429. With them, `FailureRules` finds out how many polls of other jobs
    have succeeded or failed since then.

    Attributes:
        last_at: Time of the last failed poll.
        check_at: Time of the next check whether the host works. If it does, the job is polled
            before `retry_at`.
        retry_at: Time of the next poll by the schedule.
        last_status: Status text of the last successful poll; None if no poll was successful.
        was_listed: True if the list showed the job while polls failed, perhaps in an earlier watch.
        last_error: Error of the last failed poll.
        polls: Number of failed polls.
        kind: Kind of the last failure other than a 429; None if all failures were 429.
        seconds: For each kind of failure, the seconds that count as evidence against the job; see
            `failure_handling`.
        total: Seconds for which polls of the job have failed, in whatever way. Of a long time
            between two polls, only a part counts.
        worked: Copy of `HostEvidence.worked`.
        failed: Copy of `HostEvidence.failed`.
        accepted: Copy of `KeyEvidence.accepted`.
        failed_anywhere: Copy of `KeyEvidence.failed`.
    """

    last_at: float
    check_at: float = math.inf
    retry_at: float = math.inf
    last_status: str | None = None
    was_listed: bool = False
    last_error: AdePollError | None = None
    polls: int = 0
    kind: FailureKind | None = None
    seconds: dict[FailureKind, float] = field(factory=dict)
    total: float = 0.0
    worked: int = 0
    failed: int = 0
    accepted: int = 0
    failed_anywhere: int = 0


@define(eq=False, weakref_slot=False)
class JobState:
    """What the watcher knows of one watched job.

    Attributes:
        job_id: Id of the job.
        key: Text of the job's reference; subscribers know the job by its key.
        subscribers: Subscribers of the job, each once, oldest first.
        added_at: Time at which the watcher got the job.
        received_at: Time at which the service received the job; `added_at` if that is not known.
        ticket: Number of the job's present item in the poll queue; 0 if the job is not in the
            queue.
        due: Time of the next poll, if the job is in the poll queue.
        polled_at: Time at which the last poll started.
        by_schedule: True if the schedule alone chose the time of the last poll.
        polls: Number of successful polls.
        status: Status text of the last successful poll; None before the first.
        first_active_age: Age at which the job was first known to be active; None if the job was
            never known to be active, or has settled.
        last_active_age: Age at which the job was last known to be active.
        last_active_at: Start of the last poll or list request that showed the job as active.
        found_active_at: Start of the last poll that found the job active.
        last_listed_at: Start of the last list request that showed the job as active.
        is_compared: True if it is already known whether the list showed this job in time when it
            was new. `ListAccuracy.arrivals` counts each job once.
        missing_at: Time of the list request that did not show the job. Infinity if the next poll of
            the job has another reason.
        not_before: The earliest time at which the job is polled again because the list does not
            show it. 0 for no limit.
        list_trusted_until: Time at which the job is polled even if the list still shows it as
            active. 0 if this time was not chosen yet.
        failures: Failed polls since the last successful poll; None if no poll has failed.
        reserved_by: Subscribers with a reserved place for the poll in flight; None if no poll of
            the job is in flight.
        poll_again: True if another poll must follow immediately after the poll in flight.
        ignore_list: True if the job is polled when it is due, whatever the list says.
        pending_confirmation: True if the next poll is due now, whatever the list says. In most
            cases, the reason is that the list does not show the job.
        waits_for_room: True while the job is due, and all buffers of its subscribers are full.
        awaited_since: Time at which somebody began to wait for the job, if it is `awaited`.
        pause: While the delay until the next poll is long: the time of the next check whether it
            should become shorter (`PollTimes.check_pause`), and the end of the delay. Ignored if
            `due` is not the time of the check. None if no delay was long yet.
        polled_early: True if the first polls of the job are early; see `ScheduleCalls.polls_early`.
        progress: Progress, 0 to 1, that the service reported last, and the time of that report.
            None if there was no report, or if the progress of this kind of job is not useful.
        owner: Object that holds this state; None if no object holds it.
    """

    job_id: str
    key: str
    subscribers: Collection[Subscriber]
    added_at: float
    received_at: float
    ticket: int = 0
    due: float = 0.0
    polled_at: float = 0.0
    by_schedule: bool = False
    polls: int = 0
    status: str | None = None
    first_active_age: float | None = None
    last_active_age: float = 0.0
    last_active_at: float = -math.inf
    found_active_at: float = -math.inf
    last_listed_at: float = -math.inf
    is_compared: bool = False
    missing_at: float = math.inf
    not_before: float = 0.0
    list_trusted_until: float = 0.0
    failures: PollFailures | None = None
    reserved_by: tuple[Subscriber, ...] | None = None
    poll_again: bool = False
    ignore_list: bool = False
    pending_confirmation: bool = False
    waits_for_room: bool = False
    awaited_since: float = 0.0
    pause: tuple[float, float] | None = None
    polled_early: bool = False
    progress: tuple[float, float] | None = None
    owner: JobOwner | None = None

    @property
    def is_queued(self) -> bool:
        """True if the job is in the poll queue. To save time, some code tests `ticket` instead."""
        return self.ticket > 0

    @property
    def in_flight(self) -> bool:
        """True while a poll of the job is in flight."""
        return self.reserved_by is not None

    @property
    def awaited(self) -> bool:
        """True if somebody waits for the job, so that it is polled often."""
        return any(subscriber.awaits for subscriber in self.subscribers)

    def skip_checks(self) -> None:
        """Poll the job at its next due time, without a check that can postpone this poll.

        The checks are those of `pause` and of `PollFailures.check_at`.
        """
        self.pause = None
        if self.failures is not None:
            self.failures.check_at = math.inf

    def add_subscriber(self, subscriber: Subscriber) -> None:
        """Add a subscriber; it must not be present."""
        if isinstance(self.subscribers, dict):
            self.subscribers[subscriber] = None
        elif len(self.subscribers) < _MAX_TUPLE:
            self.subscribers = (*self.subscribers, subscriber)
        else:
            self.subscribers = dict.fromkeys((*self.subscribers, subscriber))

    def remove_subscriber(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; it must be present."""
        if isinstance(self.subscribers, dict):
            del self.subscribers[subscriber]
        else:
            self.subscribers = tuple(other for other in self.subscribers if other is not subscriber)

    def reserve_places(self) -> bool:
        """Reserve a place for the snapshot of a poll in the buffer of each subscriber.

        If all buffers are full, reserve nothing, and return False. If only some are full, their
        `SnapshotBuffer.free` falls below 0.
        """
        for subscriber in self.subscribers:
            if (buffer := subscriber.buffer) is None or buffer.free > 0:
                break
        else:
            return False
        self.reserved_by = tuple(self.subscribers)
        for subscriber in self.reserved_by:
            if (buffer := subscriber.buffer) is not None:
                buffer.free -= 1
        return True

    def release_places(self) -> tuple[Subscriber, ...]:
        """Free the places that were reserved for a poll; return the subscribers that had them."""
        reserved, self.reserved_by = self.reserved_by or (), None
        for subscriber in reserved:
            if (buffer := subscriber.buffer) is not None:
                buffer.free += 1
        return reserved


# Up to this number of subscribers are in a tuple, because all jobs of a watch, up to a million, can
# share one tuple. More subscribers are in a dict, because a job in a server can have thousands of
# waiters, and a tuple would be copied for each new one.
_MAX_TUPLE: Final = 8
# After a pruning, `SnapshotBuffer.waiting` may grow to twice its length plus this number of jobs.
_PRUNE_SLACK: Final = 64
