"""Which job is polled next: a heap with lazy deletion, and one for overdue jobs.

Imports job_state. Every step costs O(log n) for n jobs, amortised; no job has a timer, a task or a
closure of its own.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from attrs import define, field

from adepoll.watching.job_state import JobState

_Item: TypeAlias = tuple[float, int, JobState]


@define(eq=False)
class PollQueue:
    """Jobs ordered by the time of their next poll; each job has at most one valid place.

    If more jobs are due than can be polled, those with the highest chance of having settled come
    first. A chance of 1 is worth `_HEAD_START` seconds of waiting, so that no job starves.

    Attributes:
        chance: Returns the chance, 0 to 1, that a job has settled at a given time.
    """

    chance: Callable[[JobState, float], float]
    _heap: list[_Item] = field(factory=list, init=False)  # by due time
    _overdue: list[_Item] = field(factory=list, init=False)  # by due time minus head start
    _postponed: list[_Item] = field(factory=list, init=False)  # by due time
    _tickets: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)
    _recalled_at: float = field(default=math.inf, init=False)
    _stale: int = field(default=0, init=False)

    def put(self, state: JobState, due: float, *, postponed: bool = False) -> None:
        """Add a job, or move it; `recall` makes postponed jobs due."""
        if state.ticket:
            self.drop(state)
        state.ticket = next(self._tickets)
        state.due = due
        heapq.heappush(self._postponed if postponed else self._heap, (due, state.ticket, state))

    def put_overdue(self, state: JobState, now: float, chance: float) -> None:
        """Add a new job that is due now, with a known chance, to the overdue jobs."""
        state.ticket = next(self._tickets)
        state.due = now
        heapq.heappush(self._overdue, (now - _HEAD_START * chance, state.ticket, state))

    def recall(self, now: float) -> None:
        """Make all postponed jobs due now; `pop` moves them, a limited number per call."""
        if self._postponed:
            self._recalled_at = now

    def drop(self, state: JobState) -> None:
        """Remove a job's place, if it has one."""
        if state.ticket:
            state.ticket = 0
            self._stale += 1
            self._prune()

    def pop(self, now: float) -> JobState | None:
        """Remove and return the job to poll now; None if no job is due."""
        if self._postponed:
            self._move_postponed(now)
        heap = self._heap
        # More than one job may be due: the second and third items are next to the top of the heap.
        if self._overdue or (len(heap) > 1 and min(heap[1:3])[0] <= now):
            if heap and heap[0][0] <= now:
                self._move_overdue(now)
            if (state := self._take(self._overdue, math.inf)) is not None:
                return state
        return self._take(heap, now)

    @property
    def overdue(self) -> int:
        """Number of overdue jobs; some may be out of date."""
        return len(self._overdue)

    def next_due(self) -> float | None:
        """Return the time at which the next job is due; None if there is no job."""
        due = math.inf
        for heap in (self._overdue, self._heap, self._postponed):
            while heap and heap[0][1] != heap[0][2].ticket:
                heapq.heappop(heap)
                self._stale -= 1
            if heap:
                due = min(due, heap[0][2].due)
        if self._postponed:
            due = min(due, self._recalled_at)
        return due if due < math.inf else None

    def clear(self) -> None:
        """Remove all places."""
        self._heap.clear()
        self._overdue.clear()
        self._postponed.clear()
        self._recalled_at = math.inf
        self._stale = 0

    def _move_postponed(self, now: float) -> None:
        latest = now if self._recalled_at == math.inf else math.inf
        for _ in range(_MAX_MOVED):
            heap = self._postponed
            while heap and heap[0][1] != heap[0][2].ticket:
                heapq.heappop(heap)
                self._stale -= 1
            if not heap or heap[0][0] > latest:
                break
            due, ticket, state = heapq.heappop(heap)
            state.due = min(due, now)
            heapq.heappush(self._heap, (state.due, ticket, state))
        if not self._postponed:
            self._recalled_at = math.inf

    def _move_overdue(self, now: float) -> None:
        for _ in range(_MAX_MOVED):
            if not self._heap or self._heap[0][0] > now:
                return
            due, ticket, state = heapq.heappop(self._heap)
            if ticket == state.ticket:
                key = due - _HEAD_START * self.chance(state, now)
                heapq.heappush(self._overdue, (key, ticket, state))
            else:
                self._stale -= 1

    def _take(self, heap: list[_Item], until: float) -> JobState | None:
        while heap and heap[0][0] <= until:
            _, ticket, state = heapq.heappop(heap)
            if ticket == state.ticket:
                state.ticket = 0
                return state
            self._stale -= 1
        return None

    def _prune(self) -> None:
        # Amortised: rebuilding costs O(n), and happens once per n / 2 dropped places.
        heaps = self._heap, self._overdue, self._postponed
        if self._stale > _PRUNE_FROM and self._stale * 2 > sum(map(len, heaps)):
            for heap in heaps:
                heap[:] = [item for item in heap if item[1] == item[2].ticket]
                heapq.heapify(heap)
            self._stale = 0


_HEAD_START: Final = 30.0  # seconds
_MAX_MOVED: Final = 64  # jobs per call of `pop`, which must be short
_PRUNE_FROM: Final = 1024
