"""The state of one watched job, and the interface of its subscribers. Imports models and errors.

Times are seconds of one monotonic clock; ages are seconds since the service received the job.
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
    """Holds the states of jobs of one kind."""

    def wake(self, state: "JobState", now: float) -> bool:
        """Make a job due that waits for room; return False if it does not wait any more."""

    on_due: Callable[[], None]
    """Called when a subscriber's buffer has got room, and has made jobs due."""


class Subscriber(Protocol):
    """Gets what the polls of a job bring. Its methods neither block nor call back."""

    @property
    def alone(self) -> "tuple[Subscriber]":
        """A tuple of the subscriber alone; its jobs share one, to save memory."""

    @property
    def every_change(self) -> bool:
        """True if the subscriber wants every change of status, False if only the final one."""

    @property
    def awaits(self) -> bool:
        """True if somebody waits for these jobs; then the lag bound of `wait` applies to them."""

    @property
    def buffer(self) -> "SnapshotBuffer | None":
        """Room for snapshots; None if the subscriber can always take one."""

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:
        """Accept a snapshot of a job; return False if it is wanted and the buffer is full."""

    def give_up(self, key: str, error: AdePollError) -> None:
        """Record that a job is not polled any more, and why."""


@define(eq=False)
class SnapshotBuffer:
    """Bounded room for the snapshots of one subscriber; its polls pause while there is no room.

    A poll reserves a place before its request is sent, so that its snapshot has room.

    Attributes:
        subscriber: The subscriber.
        free: Places neither used nor reserved; all of them at first. Below 0 while polls for
            other subscribers of the same jobs are in flight.
        snapshots: Snapshots that wait for the consumer, with the keys of their jobs, oldest first.
        waiting: Jobs that are due and wait for room, oldest first; some may be out of date.
    """

    subscriber: Subscriber
    free: int
    snapshots: deque[tuple[str, JobSnapshot]] = field(factory=deque, init=False)
    waiting: "deque[JobState]" = field(factory=deque, init=False)
    _prune_above: int = field(default=64, init=False)

    def add_waiting(self, state: "JobState") -> None:
        """Remember a job of the subscriber until there is room."""
        self.waiting.append(state)
        if len(self.waiting) > self._prune_above:
            # Other subscribers may have woken some of them, or added them more than once.
            up_to_date = (
                s for s in self.waiting if s.waits_for_room and self.subscriber in s.subscribers
            )
            self.waiting = deque(dict.fromkeys(up_to_date))
            self._prune_above = 2 * len(self.waiting) + _PRUNE_SLACK

    def wake_waiting(self, now: float, caller: JobOwner | None = None) -> int:
        """Make due as many waiting jobs as there is room for; return their number.

        To be called whenever there may be more room than before. It calls `on_due` of the owners of
        these jobs, but not that of `caller`.
        """
        woken = 0
        owners: set[JobOwner] = set()
        while woken < self.free and self.waiting:
            state = self.waiting.popleft()
            # The job may wait for other subscribers alone by now.
            owner = state.owner
            if self.subscriber in state.subscribers and owner and owner.wake(state, now):
                woken += 1
                owners.add(owner)
        for owner in owners - {caller}:
            owner.on_due()
        return woken


class FailureKind(Enum):
    """Kinds of failed polls, by what they say.

    `NOT_FOUND`: a 404 of a job that was never found. `FORBIDDEN`: a 403 of such a job. `LOST`: a
    404 or 403 of a job that was found before. `MALFORMED`: an answer that could not be understood.
    `FAILED`: no answer, or an error that can concern all jobs.
    """

    NOT_FOUND = 1
    FORBIDDEN = 2
    LOST = 3
    MALFORMED = 4
    FAILED = 5


@define(eq=False, weakref_slot=False, kw_only=True)
class PollFailures:
    """Failed polls of one job since the last successful one.

    Attributes:
        last_at: Time of the last failure.
        last_status: Status text of the last successful poll; None if there was none.
        last_error: The last failure.
        polls: Number of failed polls.
        kind: Kind of the last failure that was not a 429; None if there was none.
        seconds: Seconds that count as evidence, by kind; see `failure_handling`.
        total: Seconds of failed polls of any kind.
        answered: `ServiceEvidence.answered` after the last failure.
        failed: `ServiceEvidence.failed` after the last failure.
    """

    last_at: float
    last_status: str | None = None
    last_error: AdePollError | None = None
    polls: int = 0
    kind: FailureKind | None = None
    seconds: dict[FailureKind, float] = field(factory=dict)
    total: float = 0.0
    answered: int = 0
    failed: int = 0


@define(eq=False, weakref_slot=False)
class JobState:
    """What the watcher knows of one watched job.

    Attributes:
        job_id: Id of the job.
        key: Text of the job's reference, by which its subscribers know it.
        subscribers: Subscribers of the job, each once, oldest first.
        added_at: Time at which the watcher got the job.
        received_at: Time at which the service received the job; `added_at` while unknown.
        ticket: Number of its valid place in the poll queue; 0 without a place.
        due: Time of the next poll, if the job has a place in the poll queue.
        polled_at: Time at which the last poll started.
        by_schedule: True if the schedule alone chose the time of the last poll.
        polls: Number of successful polls.
        status: Status text of the last successful poll; None before.
        first_active_age: Age at which the job was first known to be active; None before, and
            after the job has settled.
        last_active_age: Age at which the job was last known to be active.
        last_active_at: Start of the last poll or list request that showed the job as active.
        last_listed_at: Start of the last list request that showed the job as active.
        is_compared: True if the list has shown the job, or has turned out to be late for it.
        missing_at: Time of the list request that did not show the job, if that is why the job is
            polled; else infinity.
        not_before: Earliest time of a poll because the job is missing from the list.
        list_trusted_until: Time until which the list, not a poll, says that the job is active; 0
            if that was not decided yet.
        failures: Failed polls since the last successful one; None if there were none.
        reserved_by: Subscribers that reserve room for the poll in flight; None if there is no
            such poll.
        poll_again: True if another poll follows immediately when the one in flight ends.
        ignore_list: True if the job is polled when it is due, whatever the list says.
        pending_confirmation: True if, in addition, its next poll is due immediately.
        waits_for_room: True while the job is due, and all buffers of its subscribers are full.
        awaited_since: Time from which on somebody has waited for the job itself, if it is
            `awaited`.
        progress: Progress that the service reported last, and the time; None before, and for kinds
            whose progress says nothing.
        owner: Holds this state.
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
    progress: tuple[float, float] | None = None
    owner: JobOwner | None = None

    @property
    def in_flight(self) -> bool:
        """True while the job is polled."""
        return self.reserved_by is not None

    @property
    def awaited(self) -> bool:
        """True if somebody waits for the job itself."""
        return any(subscriber.awaits for subscriber in self.subscribers)

    def add_subscriber(self, subscriber: Subscriber) -> None:
        """Add a subscriber that is not present."""
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


# A million jobs of one watch share one tuple. In a server, one job can have thousands of waiters;
# they are in a dict, since a tuple would be copied for each of them.
_MAX_TUPLE: Final = 8
_PRUNE_SLACK: Final = 64
