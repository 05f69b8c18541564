"""Which jobs are watched, when each is due, and what an answer means for it; without I/O.

Imports schedule, models and errors. Times are seconds of one monotonic clock, passed in as `now`.
"""

import heapq
import itertools
from collections.abc import Iterator
from random import Random
from typing import Final, Protocol

from attrs import define, field

from adepoll.errors import (
    AdePollError,
    AnswerError,
    JobNotFoundError,
    RateLimitedError,
    WrongJobError,
)
from adepoll.models import JobSnapshot
from adepoll.schedule import Schedule, Watched
from adepoll.trouble import Trouble


class Follower(Protocol):
    """Somebody who wants to know about a job. Its methods neither block nor call back."""

    @property
    def free(self) -> int:
        """How many more snapshots could be taken, those reserved counted as taken."""

    def has_room(self) -> bool:
        """Whether one more snapshot could be taken, those reserved counted as taken."""

    def reserve(self) -> None:
        """Keep a place free: a look is under way that may bring a snapshot."""

    def release(self) -> None:
        """Give the place back; what the look brought, if anything, follows."""

    def stall(self, entry: "Entry") -> None:
        """Remember the entry: it is due, and waits until there is room."""

    def pop_stalled(self) -> "Entry | None":
        """Give an entry that waits for room, the first one first."""

    def take(self, snapshot: JobSnapshot) -> bool:
        """Be told what a look saw; False if it matters and there is no room for it."""

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """Be told that nothing more will be learnt of the job."""


@define(eq=False, weakref_slot=False)
class Entry:
    """One watched job.

    Attributes:
        job_id: The job.
        followers: Who wants to know.
        since: When it was added.
        ticket: The number of its one valid place in the heap; 0 where it has none.
        due: When to look next, where it has a place in the heap.
        looks: Looks that brought an answer.
        status: The status text last seen; None before the first answer.
        trouble: How looks have failed since the last answer; None where none has.
        reserved_by: The followers that keep a place for the look under way; None where none is.
        nudged: Whether to look again at once when the look under way has brought nothing.
        stalled: Whether it waits for a follower to have room.
    """

    job_id: str
    followers: tuple[Follower, ...]
    since: float
    ticket: int = 0
    due: float = 0.0
    looks: int = 0
    status: str | None = None
    trouble: Trouble | None = None
    reserved_by: tuple[Follower, ...] | None = None
    nudged: bool = False
    stalled: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether a look is under way."""
        return self.reserved_by is not None


@define
class Tally:
    """What a roster has seen so far.

    Attributes:
        looks: Looks that came back, well or ill.
        settled: Jobs that a look found ended.
        given_up: Jobs that were given up.
    """

    looks: int = 0
    settled: int = 0
    given_up: int = 0


_MOST_STALLS: Final = 256
_PRUNE_FROM: Final = 1024


@define(eq=False, kw_only=True)
class Roster:
    """The watched jobs, in a heap by the time of their next look.

    Attributes:
        schedule: Says when to look next.
        rng: Source of its jitter.
        not_found_grace: Seconds for which a job may be unknown to the service (404), counted from
            the first such answer: a job just submitted can take a moment to show.
        patience: Seconds for which looks at a job may fail for passing reasons before it is given
            up; 429 does not count, it only says to come later.
        most_nonsense: Answers that make no sense, without a good one between them, after which
            `nonsense_patience` holds in place of `patience`.
        nonsense_patience: Seconds for which looks at a job may bring nonsense.
        tally: What has been seen so far.
    """

    schedule: Schedule
    rng: Random
    not_found_grace: float
    patience: float
    most_nonsense: int = 3
    nonsense_patience: float = 60.0
    tally: Tally = field(factory=Tally)
    _entries: dict[str, Entry] = field(factory=dict, init=False)
    _heap: list[tuple[float, int, Entry]] = field(factory=list, init=False)
    _tickets: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)
    _stale: int = field(default=0, init=False)

    def __len__(self) -> int:
        """How many jobs are watched."""
        return len(self._entries)

    def get(self, job_id: str) -> Entry | None:
        """Give the entry of a job, if it is watched."""
        return self._entries.get(job_id)

    def follow(self, job_id: str, follower: Follower, alone: tuple[Follower], now: float) -> Entry:
        """Let `follower` know about the job; look at it at once if it is new.

        Args:
            job_id: The job.
            follower: Who wants to know.
            alone: The tuple of just that follower, which a million entries can share.
            now: The time.
        """
        entry = self._entries.get(job_id)
        if entry is None:
            entry = self._entries[job_id] = Entry(job_id, alone, now)
            self._put(entry, now)
        elif follower not in entry.followers:
            entry.followers = (*entry.followers, follower)
            if entry.stalled:
                if follower.has_room():
                    self.wake(entry, now)
                else:
                    follower.stall(entry)  # room of its own wakes it, whatever the others do
        return entry

    def unfollow(self, job_id: str, follower: Follower) -> Entry | None:
        """Forget that `follower` wants to know; give the entry if nobody is left, and forget it."""
        entry = self._entries.get(job_id)
        if entry is None or follower not in entry.followers:
            return None
        entry.followers = tuple(other for other in entry.followers if other is not follower)
        if entry.followers:
            return None
        self._remove(entry)
        return entry

    def clear(self) -> None:
        """Forget all jobs; looks under way come back to nothing."""
        self._entries.clear()
        self._heap.clear()
        self._stale = 0

    def next_due(self) -> float | None:
        """Give the time at which the next job is due; None where there is none."""
        self._drop_stale_top()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Entry | None:
        """Give a job to look at now, a place reserved with its followers; None where none is.

        A job whose followers have no room is set aside until one has. To stay short, only so many
        are set aside in one call; `next_due` tells whether more is to be done.
        """
        for _ in range(_MOST_STALLS):
            self._drop_stale_top()
            if not self._heap or self._heap[0][0] > now:
                return None
            entry = heapq.heappop(self._heap)[2]
            entry.ticket = 0
            if any(follower.has_room() for follower in entry.followers):
                entry.reserved_by = entry.followers
                for follower in entry.reserved_by:
                    follower.reserve()
                return entry
            self._stall(entry)
        return None

    def wake(self, entry: Entry, now: float) -> bool:
        """Make a stalled job due; False if it was not stalled any more."""
        if not entry.stalled or self._entries.get(entry.job_id) is not entry:
            return False
        entry.stalled = False
        self._put(entry, now)
        return True

    def made_room(self, follower: Follower, now: float) -> int:
        """Make due what waits for room with a follower, as much as it has room for; say how much.

        To be called whenever a follower may have more room than before.
        """
        woken = 0
        while woken < follower.free and (entry := follower.pop_stalled()) is not None:
            # It may wait for others alone by now, having told this one; that would be no use.
            woken += follower in entry.followers and self.wake(entry, now)
        return woken

    def nudge(self, job_id: str, now: float) -> bool:
        """Somebody says the job may have ended: look now. False if it is not watched."""
        entry = self._entries.get(job_id)
        if entry is None:
            return False
        if entry.in_flight:
            entry.nudged = True  # the look under way may have been too early
        elif not entry.stalled and entry.due > now:
            self._put(entry, now)
        return True

    def landed(self, entry: Entry, now: float) -> None:
        """A look has ended; if it was broken off, look again should anybody still want to know."""
        if entry.in_flight:
            reserved = self._release(entry)
            if self._wanted(entry):
                self._again(entry, now)
            self._made_room(reserved, now)

    def answered(self, entry: Entry, snapshot: JobSnapshot, now: float) -> None:
        """A look brought a snapshot: tell the followers, and see when to look next."""
        if snapshot.job_id != entry.job_id:
            # AdeClient refuses these itself; another source must not settle the wrong job either.
            error = WrongJobError(job_id=entry.job_id, answered=snapshot.job_id)
            self.failed(entry, error, now)
            return
        self.tally.looks += 1
        reserved = self._release(entry)
        if self._wanted(entry):
            self._tell(entry, snapshot, now)
        self._made_room(reserved, now)

    def failed(self, entry: Entry, error: AdePollError, now: float) -> None:
        """A look brought an error about this job: try again later, or give the job up."""
        self.tally.looks += 1
        reserved = self._release(entry)
        if self._wanted(entry) and not self._bear(entry, error, now):
            self.tally.given_up += 1
            for follower in entry.followers:
                follower.give_up(entry.job_id, error)
            self._remove(entry)
        self._made_room(reserved, now)

    def _wanted(self, entry: Entry) -> bool:
        return self._entries.get(entry.job_id) is entry

    def _release(self, entry: Entry) -> tuple[Follower, ...]:
        reserved = entry.reserved_by or ()
        entry.reserved_by = None
        for follower in reserved:
            follower.release()
        return reserved

    def _made_room(self, reserved: tuple[Follower, ...], now: float) -> None:
        # A look that brought nothing gives its places to those who wait for room: nothing may
        # ever be consumed that would.
        for follower in reserved:
            self.made_room(follower, now)

    def _tell(self, entry: Entry, snapshot: JobSnapshot, now: float) -> None:
        news = entry.status != snapshot.status_text
        entry.looks += 1
        entry.status = snapshot.status_text
        entry.trouble = None
        refused = tuple(f for f in entry.followers if not f.take(snapshot))
        if not snapshot.is_terminal:
            self._again(entry, now)
            return
        self.tally.settled += news
        if refused:
            # These came while the look was under way and had no room. The job has ended, and
            # will still have ended when they have.
            entry.followers = refused
            self._stall(entry)
        else:
            self._remove(entry)

    def _bear(self, entry: Entry, error: AdePollError, now: float) -> bool:
        """Look again later in spite of an error; False if that is enough of them."""
        if entry.trouble is None:
            entry.trouble = Trouble(now)
        trouble = entry.trouble
        trouble.looks += 1
        if isinstance(error, RateLimitedError):
            trouble.throttled(now)
        elif isinstance(error, JobNotFoundError):
            # One that has answered before is not new, and what hides it now may well pass.
            seen = entry.status is not None
            grace = max(self.not_found_grace, self.patience if seen else 0.0)
            left = grace - trouble.missing_for(now)
            if now + left <= now:  # as `left <= 0`, but for what is lost in rounding
                return False
            trouble.looked_at = now
            self._again(entry, now, at_most=left)
            return True
        else:
            trouble.nonsense += isinstance(error, AnswerError)
            failing_for = trouble.failing_for(now)
            nonsense = trouble.nonsense >= self.most_nonsense
            # Nonsense about one job stays; a gateway's page about all of them passes.
            patience = min(self.patience, self.nonsense_patience) if nonsense else self.patience
            if not error.transient or failing_for >= patience:
                return False
        trouble.looked_at = now
        self._again(entry, now)
        return True

    def _again(self, entry: Entry, now: float, *, at_most: float = float("inf")) -> None:
        if entry.nudged:
            entry.nudged = False
            self._put(entry, now)
            return
        # Looks that failed count too, so that an outage is met with ever fewer of them.
        looks = entry.looks + (0 if entry.trouble is None else entry.trouble.looks)
        watched = Watched(looks=looks, watched_for=now - entry.since)
        delay = self.schedule.delay(watched, self.rng)
        if not delay >= 0:  # not a number would spoil the order of the heap
            raise ValueError(f"{self.schedule!r} gave {delay} as the delay of a look")
        self._put(entry, now + min(delay, at_most))

    def _put(self, entry: Entry, due: float) -> None:
        if entry.ticket:
            self._stale += 1
            self._prune()
        entry.ticket = next(self._tickets)
        entry.due = due
        heapq.heappush(self._heap, (due, entry.ticket, entry))

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.job_id]
        if entry.ticket:
            entry.ticket = 0
            self._stale += 1
            self._prune()

    def _stall(self, entry: Entry) -> None:
        entry.stalled = True
        for follower in entry.followers:
            follower.stall(entry)

    def _drop_stale_top(self) -> None:
        while self._heap and self._heap[0][1] != self._heap[0][2].ticket:
            heapq.heappop(self._heap)
            self._stale -= 1

    def _prune(self) -> None:
        # Amortised: a rebuild costs O(n) and happens after n / 2 removals or nudges.
        if self._stale > _PRUNE_FROM and self._stale * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[1] == item[2].ticket]
            heapq.heapify(self._heap)
            self._stale = 0
