"""What is due when: a heap with lazy deletion, and a line for what is overdue. Imports entry.

Every step costs O(log n) for n jobs, amortised; there is no timer, task or closure per job.
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
    """Entries by the time at which they are due; each has at most one place.

    Where more are due than can be looked at, those go first of which a look would gain most:
    a sure gain counts for `_HEADSTART` seconds of having waited. So nobody starves.

    Attributes:
        gain: Gives what a look at an entry would gain at a time: the chance, 0 to 1, that its job
            has ended.
    """

    gain: Callable[[JobState, float], float]
    _heap: list[_Item] = field(factory=list, init=False)  # by when they are due
    _line: list[_Item] = field(factory=list, init=False)  # overdue, by due less headstart
    _tickets: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)
    _on_trust: list[_Item] = field(factory=list, init=False)  # by when they are due
    _recalled_at: float = field(default=math.inf, init=False)
    _stale: int = field(default=0, init=False)

    def put(self, entry: JobState, due: float, *, on_trust: bool = False) -> None:
        """Give an entry its place, which `recall` can void; the one it had is void."""
        if entry.ticket:
            self.drop(entry)
        entry.ticket = next(self._tickets)
        entry.due = due
        heapq.heappush(self._on_trust if on_trust else self._heap, (due, entry.ticket, entry))

    def put_in_line(self, entry: JobState, now: float, gain: float) -> None:
        """Give a new entry its place, where it is due now and its gain is known.

        It is popped whatever the time then.
        """
        entry.ticket = next(self._tickets)
        entry.due = now
        heapq.heappush(self._line, (now - _HEADSTART * gain, entry.ticket, entry))

    def recall(self, now: float) -> None:
        """Make all entries due that were put on trust; each is dealt with when it is its turn."""
        if self._on_trust:
            self._recalled_at = now

    def drop(self, entry: JobState) -> None:
        """Take an entry's place away, if it has one."""
        if entry.ticket:
            entry.ticket = 0
            self._stale += 1
            self._prune()

    def pop(self, now: float) -> JobState | None:
        """Give the entry to look at now, and take its place away; None where none is due."""
        if self._on_trust:
            self._call_in(now)
        if self._line or self._overtaken(now):
            if self._heap and self._heap[0][0] <= now:
                self._line_up(now)
            if (entry := self._take(self._line, math.inf)) is not None:
                return entry
        return self._take(self._heap, now)

    def next_due(self) -> float | None:
        """Give when the next entry is due; None where there is none."""
        dues = []
        for heap in (self._line, self._heap, self._on_trust):
            self._drop_void(heap)
            if heap:
                dues.append(heap[0][2].due)
        if self._on_trust:
            dues.append(self._recalled_at)
        return min(dues) if dues else None

    def clear(self) -> None:
        """Take all places away."""
        self._heap.clear()
        self._line.clear()
        self._on_trust.clear()
        self._recalled_at = math.inf
        self._stale = 0

    def _overtaken(self, now: float) -> bool:
        """Whether more than one is due; the two next to the top of a heap are the next to be."""
        return any(item[0] <= now for item in self._heap[1:3])

    def _call_in(self, now: float) -> None:
        latest = now if self._recalled_at == math.inf else math.inf
        for _ in range(_MOST_LINED_UP):
            self._drop_void(self._on_trust)
            if not self._on_trust or self._on_trust[0][0] > latest:
                break
            due, ticket, entry = heapq.heappop(self._on_trust)
            entry.due = min(due, now)
            heapq.heappush(self._heap, (entry.due, ticket, entry))
        if not self._on_trust:
            self._recalled_at = math.inf

    def _line_up(self, now: float) -> None:
        for _ in range(_MOST_LINED_UP):
            if not self._heap or self._heap[0][0] > now:
                return
            due, ticket, entry = heapq.heappop(self._heap)
            if ticket == entry.ticket:
                key = due - _HEADSTART * self.gain(entry, now)
                heapq.heappush(self._line, (key, ticket, entry))
            else:
                self._stale -= 1

    def _take(self, heap: list[_Item], until: float) -> JobState | None:
        while heap and heap[0][0] <= until:
            _, ticket, entry = heapq.heappop(heap)
            if ticket == entry.ticket:
                entry.ticket = 0
                return entry
            self._stale -= 1
        return None

    def _drop_void(self, heap: list[_Item]) -> None:
        while heap and heap[0][1] != heap[0][2].ticket:
            heapq.heappop(heap)
            self._stale -= 1

    def _prune(self) -> None:
        # Amortised: a rebuild costs O(n) and happens after n / 2 entries have left their places.
        heaps = self._heap, self._line, self._on_trust
        if self._stale > _PRUNE_FROM and self._stale * 2 > sum(map(len, heaps)):
            for heap in heaps:
                heap[:] = [item for item in heap if item[1] == item[2].ticket]
                heapq.heapify(heap)
            self._stale = 0


_HEADSTART: Final = 30.0  # seconds
_MOST_LINED_UP: Final = 64  # in one go, to stay short
_PRUNE_FROM: Final = 1024
