"""One watched job as the roster knows it, and who follows it. Imports models, errors and trouble.

Times are seconds of one monotonic clock, ages seconds since the service received the job.
"""

import math
from collections.abc import Collection
from typing import Final, Protocol

from attrs import define

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError
from adepoll.watching.failures import Trouble


class Subscriber(Protocol):
    """Somebody who wants to know about a job. Its methods neither block nor call back."""

    @property
    def free(self) -> int:
        """How many more snapshots could be taken, those reserved counted as taken."""

    @property
    def every_change(self) -> bool:
        """Whether it matters to them when a job changes its status and goes on."""

    def has_room(self) -> bool:
        """Whether one more snapshot could be taken, those reserved counted as taken."""

    def reserve(self) -> None:
        """Keep a place free: a look is under way that may bring a snapshot."""

    def release(self) -> None:
        """Give the place back; what the look brought, if anything, follows."""

    def stall(self, entry: "JobState") -> None:
        """Remember the entry: it is due, and waits until there is room."""

    @property
    def stalled(self) -> "Collection[JobState]":
        """What it remembers."""

    def pop_stalled(self) -> "JobState | None":
        """Give an entry that waits for room, the first one first."""

    def take(self, snapshot: JobSnapshot) -> bool:
        """Be told what a look saw; False if it matters and there is no room for it."""

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """Be told that nothing more will be learnt of the job."""


@define(eq=False, weakref_slot=False)
class JobState:
    """One watched job.

    Attributes:
        job_id: The job.
        subscribers: Who wants to know, each once, in the order in which they came.
        since: When it was added.
        born: When the service received it, as far as is known; else as `since`.
        ticket: The number of its one valid place in the agenda; 0 where it has none.
        due: When to look next, where it has a place in the agenda.
        polled_at: When the last look began.
        by_schedule: Whether it began because the schedule had said so, and nothing else.
        polls: Looks that brought an answer.
        status: The status text last seen; None before the first answer.
        entered: Its age when it was first known to be active; None before.
        seen: Its age when it was last known to be active.
        active_at: When it was last said to be active, by a look at it or by the list.
        missed_at: When a list was asked for in which it was missing; such a job is asked for.
        not_before: When to look next at the earliest because it is missing from the list.
        doubt_at: When to look next although the list says that it is active; 0 before it does.
        trouble: How looks have failed since the last answer; None where none has.
        reserved_by: The followers that keep a place for the look under way; None where none is.
        poll_again: Whether to look again at once when the look under way has brought nothing.
        urgent: Whether it is to be looked at though the list may say that it is active.
        pressing: Whether that is to be at once.
        stalled: Whether it waits for a follower to have room.
    """

    job_id: str
    subscribers: Collection[Subscriber]
    since: float
    born: float
    ticket: int = 0
    due: float = 0.0
    polled_at: float = 0.0
    by_schedule: bool = False
    polls: int = 0
    status: str | None = None
    entered: float | None = None
    seen: float = 0.0
    active_at: float = -math.inf
    missed_at: float = math.inf
    not_before: float = 0.0
    doubt_at: float = 0.0
    trouble: Trouble | None = None
    reserved_by: tuple[Subscriber, ...] | None = None
    poll_again: bool = False
    urgent: bool = False
    pressing: bool = False
    stalled: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether a look is under way."""
        return self.reserved_by is not None

    def join(self, subscriber: Subscriber) -> None:
        """Add a follower that is none yet."""
        if isinstance(self.subscribers, dict):
            self.subscribers[subscriber] = None
        elif len(self.subscribers) < _MANY:
            self.subscribers = (*self.subscribers, subscriber)
        else:
            self.subscribers = dict.fromkeys((*self.subscribers, subscriber))

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a follower, who is one."""
        if isinstance(self.subscribers, dict):
            del self.subscribers[subscriber]
        else:
            self.subscribers = tuple(other for other in self.subscribers if other is not subscriber)


# A million entries can share a tuple of one follower; thousands at one entry, as there are in a
# server, need something that is not copied with each.
_MANY: Final = 8
