"""The poll queue: orders the jobs by the times of their next polls, and chooses the next job.

It does not decide when a job is due; `scheduling.schedules` lists the modules that do.
`watched_jobs` passes the time to `PollQueue.put`. More jobs can be due than can be polled; then
`PollQueue` decides which is first.

The jobs are in heaps. Removing a job only marks its heap item as out of date; the item is removed
later. For n jobs, each call costs O(log n). No job has a timer, a task or a closure of its own.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, TypeAlias

from attrs import define, field

from adepoll.watching.job_state import JobState

_Item: TypeAlias = tuple[float, int, JobState]  # sort key, ticket, state of the job


@define(eq=False)
class _Heap:
    """A heap that removes out-of-date items later.

    Each new item of a job gets a number, its ticket, which is also stored in the job's state. If
    the two tickets differ, the item is out of date. It is removed when it reaches the top.

    If many items are out of date, the heap is cleaned in small steps, because one long step would
    block the event loop. The list `items` becomes the list `old`, and a new list `items` begins.
    Each call of `move` takes some items from the end of `old`, and puts those that are up to date
    into `items`. Both lists are valid heaps at any time.
    """

    items: list[_Item] = field(factory=list)
    old: list[_Item] = field(factory=list)

    def __len__(self) -> int:
        """Return the number of items, out-of-date ones included."""
        return len(self.items) + len(self.old)

    def first(self) -> _Item | None:
        """Return the first item, even if it is out of date; None if the heap is empty."""
        if self.old and not (self.items and self.items[0] < self.old[0]):
            return self.old[0]
        return self.items[0] if self.items else None

    def pop(self) -> _Item:
        """Remove and return the first item."""
        old = self.old and not (self.items and self.items[0] < self.old[0])
        return heapq.heappop(self.old if old else self.items)

    def move(self, count: int) -> int:
        """Move `count` items from `old` to `items`; drop out-of-date items, return their number."""
        removed = 0
        for _ in range(min(count, len(self.old))):
            item = self.old.pop()
            if item[1] == item[2].ticket:
                heapq.heappush(self.items, item)
            else:
                removed += 1
        return removed


@define(eq=False)
class _Overdue(_Heap):
    """Overdue jobs that are not urgent, by due time minus their head start.

    The head start of a job depends on the chance that the job has settled, which grows while the
    job is overdue. Without updates, its place in the order would depend forever on the age at which
    it became due. So head starts are calculated again, in small steps. If thousands of jobs are
    overdue, this is less frequent: it would take more CPU time than the polls.

    Attributes:
        reordered_at: Time since which not all of the head starts were calculated again.
        reorder_at: Time from which they can be calculated again.
    """

    reordered_at: float = math.inf
    reorder_at: float = math.inf

    def begin(self, now: float) -> None:
        """Record that a job is added now, and that it is the only one."""
        self.reordered_at, self.reorder_at = now, now + _REORDER_EVERY

    def must_reorder(self, now: float) -> bool:
        """Return True if the head starts of the items in `old` must be calculated again."""
        if self.old:
            return True
        if now < (earliest := self.reordered_at + _REORDER_TIME * len(self)):
            self.reorder_at = earliest
            return False
        self.items, self.old = [], self.items
        self.reordered_at, self.reorder_at = now, now + _REORDER_EVERY
        return True


@define(eq=False)
class PollQueue:
    """Jobs ordered by the time of their next poll; each job is in the queue at most once.

    If more jobs are due than can be polled, urgent jobs are polled first: jobs that somebody has
    begun to wait for, jobs that are missing from the list, and jobs named in `poll_now`. The other
    overdue jobs are in two groups: *awaited* jobs, for which somebody waits, and *unhurried* jobs.
    Polls are divided between the groups in proportion to their sizes, but the smaller group gets
    more: otherwise, a few waits beside a large watch would be as late as that watch, and a small
    watch as late as many waits. It gets half of the polls at first. If it is ahead of its share by
    8% of the number of jobs in the larger group, it gets only its share, which is at least 8% of
    the polls. So the larger group is at most about 10% later for each of these two reasons. Polls
    that find a settled job do not count, since they are necessary in any order. At every tenth poll
    of an overdue job, both groups come before the urgent jobs, so that no job waits forever.

    In a group, the order depends on how long the jobs have been due, and how probably they have
    settled. In the group of unhurried jobs, it also depends on how small their watch is. Without
    this rule, a watch of 10 jobs beside a watch of 1,000 jobs would be as late as the large one.
    With it, a watch with the share s of the jobs gets about the share sqrt(s) of the polls, so the
    large watch still gets most of them.

    Attributes:
        chance: Returns the chance, 0 to 1, that a job has settled at a given time; 1 also for an
            urgent job.
        share_of_others: Returns the share, 0 to 1, of the watched jobs that are not in the watch of
            an unhurried job.
        is_awaited: Returns True for an awaited job.
        lateness: Seconds for which overdue jobs had been due when they were polled: the mean of
            about the last 32 jobs.
        ahead: Number of polls by which awaited jobs, if they are the smaller group, are ahead of
            their share. If unhurried jobs are the smaller group and ahead, it is negative.
    """

    chance: Callable[[JobState, float], float]
    share_of_others: Callable[[JobState], float] = field(default=lambda _state: 0.0)
    is_awaited: Callable[[JobState], bool] = field(default=lambda _state: False)
    lateness: float = field(default=0.0, init=False)
    ahead: float = field(default=0.0, init=False)
    _heap: _Heap = field(factory=_Heap, init=False)  # jobs not known to be overdue, by due time
    _urgent: _Heap = field(factory=_Heap, init=False)  # urgent overdue jobs, by due time
    _awaited: _Overdue = field(factory=_Overdue, init=False)
    _unhurried: _Overdue = field(factory=_Overdue, init=False)
    # Number of polls by which awaited jobs are behind their share; below 0 if they are ahead.
    _behind: float = field(default=0.0, init=False)
    _postponed: _Heap = field(factory=_Heap, init=False)  # jobs that `recall` makes due
    _tickets: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)
    _recalled_at: float = field(default=math.inf, init=False)  # time of the last call of `recall`
    _stale: int = field(default=0, init=False)  # number of out-of-date items in all heaps
    _polls: int = field(default=0, init=False)  # number of polls of overdue jobs

    def put(self, state: JobState, due: float, *, postponed: bool = False) -> None:
        """Add a job, or change its due time.

        Args:
            state: The job.
            due: Time of its next poll.
            postponed: True if the next call of `recall` makes the job due immediately.
        """
        if state.ticket:
            self.drop(state)
        state.ticket = next(self._tickets)
        state.due = due
        heap = self._postponed if postponed else self._heap
        heapq.heappush(heap.items, (due, state.ticket, state))

    def put_overdue(self, state: JobState, due: float, chance: float) -> None:
        """Add an overdue job that is not in the queue.

        Args:
            state: The job.
            due: Time from which the job counts as due.
            chance: Chance that the job has settled; 1 if the job is urgent.
        """
        ticket = state.ticket = next(self._tickets)
        state.due = due
        if chance >= 1:
            heapq.heappush(self._urgent.items, (due, ticket, state))
        elif self.lateness > _IN_TIME:
            self._add_overdue(state, chance)
        else:  # all jobs are polled in time, so their order hardly matters
            unhurried = self._unhurried
            if not (unhurried.items or unhurried.old):
                unhurried.begin(due)
            heapq.heappush(unhurried.items, (due, ticket, state))

    def recall(self, now: float) -> None:
        """Make all postponed jobs due at the time `now`.

        To keep each call short, the next calls of `pop` do this for up to 64 jobs each.
        """
        if self._postponed.items or self._postponed.old:
            self._recalled_at = now

    def drop(self, state: JobState) -> None:
        """Remove a job, if it is in the queue."""
        if state.ticket:
            state.ticket = 0
            self._stale += 1
            self._prune()

    def pop(self, now: float, *, rng: Random | None = None) -> JobState | None:
        """Remove and return the job to poll now; None if no job is due.

        A single call is kept short, so it can return None although jobs are due; see `next_due`.

        Args:
            now: The present time.
            rng: None to choose the first job. Otherwise a job whose last poll has not failed is
                drawn, if there are several overdue jobs; urgent jobs still come before others.
        """
        if self._postponed.items or self._postponed.old:
            self._move_postponed(now)
        heap, urgent, awaited, unhurried = (
            self._heap,
            self._urgent,
            self._awaited,
            self._unhurried,
        )
        items = heap.items
        # True if a second job is due: the second smallest item of a heap is at index 1 or 2.
        several_due = (later := items[1:3]) and min(later)[0] <= now
        has_overdue = (
            unhurried.items
            or unhurried.old
            or urgent.items
            or urgent.old
            or awaited.items
            or awaited.old
        )
        must_move = several_due or heap.old or (has_overdue and items and items[0][0] <= now)
        if must_move:
            self._move_overdue(now)
        if (must_move or has_overdue) and (state := self._pop_overdue(now, rng)):
            return state
        return self._take(heap, now) if items or heap.old else None

    @property
    def overdue(self) -> int:
        """Number of overdue jobs. It can be too large, because it includes out-of-date items."""
        return len(self._urgent) + len(self._awaited) + len(self._unhurried)

    def next_due(self) -> float | None:
        """Return the time at which the next job is due; None if the queue is empty.

        The time can be too early if many items are out of date; then `pop` returns None.
        """
        due = math.inf
        for heap in (self._heap, self._urgent, self._awaited, self._unhurried, self._postponed):
            if (heap.items or heap.old) and (item := self._first(heap)) is not None:
                due = min(due, item[2].due if item[1] == item[2].ticket else item[0])
                if heap is self._postponed:
                    due = min(due, self._recalled_at)
        return due if due < math.inf else None

    def clear(self) -> None:
        """Remove all jobs."""
        self._heap, self._postponed = _Heap(), _Heap()
        self._urgent, self._awaited, self._unhurried = _Heap(), _Overdue(), _Overdue()
        self._recalled_at = math.inf
        self._stale = 0

    def _first(self, heap: _Heap) -> _Item | None:
        """Return the first item of a heap; None if the heap is empty.

        Out-of-date items at the top are removed first, up to 1,024 in one call. If more remain, the
        returned item is out of date, too, and the next call removes more.
        """
        for _ in range(_MAX_STALE):
            item = heap.first() if heap.old or not heap.items else heap.items[0]
            if item is None or item[1] == item[2].ticket:
                return item
            heap.pop()
            self._stale -= 1
        return heap.first()

    def _move_postponed(self, now: float) -> None:
        """Move up to 64 postponed jobs into `_heap`: those that are due or, after `recall`, any."""
        latest = now if self._recalled_at == math.inf else math.inf
        for _ in range(_MAX_MOVED):
            item = self._first(self._postponed)
            if item is None:
                break
            due, ticket, state = item
            is_out_of_date = ticket != state.ticket  # the next call of `_first` removes it
            if due > latest or is_out_of_date:
                break
            self._postponed.pop()
            state.due = min(due, now)
            heapq.heappush(self._heap.items, (state.due, ticket, state))
        if not self._postponed:
            self._recalled_at = math.inf

    def _move_overdue(self, now: float) -> None:
        """Move up to 64 jobs that have become due to the heaps of overdue jobs."""
        for _ in range(_MAX_MOVED):
            item = self._first(self._heap)
            if item is None or item[0] > now or item[1] != item[2].ticket:
                return
            due, _, state = self._heap.pop()
            self.put_overdue(state, due, self.chance(state, now))

    def _add_overdue(self, state: JobState, chance: float) -> None:
        """Add an overdue job with a new ticket to its group, with a head start."""
        group, head_start = self._awaited, _HEAD_START * chance
        if not self.is_awaited(state):
            group = self._unhurried
            head_start += self.share_of_others(state)
        if not (group.items or group.old):
            group.begin(state.due)
        key = state.due - self.lateness * head_start
        heapq.heappush(group.items, (key, state.ticket, state))

    def _pop_overdue(self, now: float, rng: Random | None) -> JobState | None:
        """Remove and return the overdue job to poll now; None if none is found."""
        awaited, unhurried = self._awaited, self._unhurried
        for group in (awaited, unhurried):
            if group.old or now >= group.reorder_at:
                self._reorder(group, now)
        first, second = (awaited, unhurried) if self._behind >= 0 else (unhurried, awaited)
        order: tuple[_Heap, ...] = self._urgent, first, second
        self._polls += 1
        if self._polls % _KEPT_POLL == 0:  # so that no job waits forever
            order = first, second, self._urgent
        for heap in order:
            if not (heap.items or heap.old):
                continue
            if rng is not None and (state := self._draw(heap, rng)):
                return state
            if state := self._take(heap, math.inf):
                self.lateness += (now - state.due - self.lateness) / _MEAN_OF
                if self._behind or self.ahead or awaited.items or awaited.old or heap is awaited:
                    self._record_turn(heap)
                return state
        return None

    def _record_turn(self, heap: _Heap) -> None:
        """Record that an overdue job of this heap is polled now."""
        if heap is self._urgent:
            return
        is_awaited = heap is self._awaited
        awaited = len(self._awaited) + is_awaited
        unhurried = len(self._unhurried) + (not is_awaited)
        if not unhurried:
            self._behind = 0.0
            return
        share = _MIN_SHARE + (1 - 2 * _MIN_SHARE) * awaited / (awaited + unhurried)
        most = _MAX_AHEAD * max(awaited, unhurried)
        lowest, highest = (0.0, most) if awaited < unhurried else (-most, 0.0)
        self.ahead = min(max(self.ahead + is_awaited - share, lowest), highest)
        if abs(self.ahead) < most - 1:
            share = 0.5
        # While no awaited job is overdue, polls of other jobs give them no right to later polls.
        most = 1.0 if awaited else 0.0
        self._behind = min(max(self._behind + share - is_awaited, -1.0), most)

    def record_settled(self, state: JobState) -> None:
        """Record that a poll has found a job settled: the poll does not count in `ahead`."""
        if state.awaited:
            self.ahead -= min(max(self.ahead, 0.0), 1.0)
        else:
            self.ahead -= max(min(self.ahead, 0.0), -1.0)

    def _reorder(self, group: _Overdue, now: float) -> None:
        """Calculate up to eight head starts of a group again, if it is time for that."""
        if not group.must_reorder(now):
            return
        for _ in range(min(_REORDERED, len(group.old))):
            _, ticket, state = group.old.pop()
            if ticket != state.ticket:
                self._stale -= 1
            elif (chance := self.chance(state, now)) >= 1:
                heapq.heappush(self._urgent.items, (state.due, ticket, state))
            else:
                self._add_overdue(state, chance)

    def _take(self, heap: _Heap, until: float) -> JobState | None:
        """Remove and return the first job of a heap; None if it is due later than `until`."""
        items = heap.items
        if heap.old or not items or items[0][1] != items[0][2].ticket:
            item = self._first(heap)  # removes out-of-date items
            if item is None or item[0] > until or item[1] != item[2].ticket:
                return None
            heap.pop()
        else:  # nearly always: the first item is up to date
            item = items[0]
            if item[0] > until:
                return None
            heapq.heappop(items)
        state = item[2]
        state.ticket = 0
        return state

    def _draw(self, heap: _Heap, rng: Random) -> JobState | None:
        """Remove and return a random job whose last poll has not failed; None if none is found."""
        for _ in range(_DRAWS):
            _, ticket, state = rng.choice(heap.items or heap.old)
            if ticket == state.ticket and state.failures is None:
                self.drop(state)
                return state
        return None

    def _prune(self) -> None:
        """If many items are out of date, remove some of them."""
        heaps = self._heap, self._urgent, self._awaited, self._unhurried, self._postponed
        if self._stale > _PRUNE_FROM and self._stale * 2 > sum(map(len, heaps)):
            for heap in heaps:
                if not heap.old:
                    heap.items, heap.old = [], heap.items
        self._stale -= sum(heap.move(_MAX_PRUNED) for heap in heaps if heap.old)


# Head start of a job that has certainly settled, as a share of `PollQueue.lateness`; a small watch
# has more. With a longer head start, jobs whose chance is small, or estimated too low, would wait
# far longer than others.
_HEAD_START: Final = 0.5
_IN_TIME: Final = 0.1  # seconds of `lateness` up to which the order of the jobs hardly matters
_MEAN_OF: Final = 32  # polls of overdue jobs that make up most of `PollQueue.lateness`
_KEPT_POLL: Final = 10  # every tenth poll of an overdue job first takes a job that is not urgent
_MIN_SHARE: Final = 0.08  # share of the polls for the smaller group, while both are overdue
# Maximum of `PollQueue.ahead` that the smaller group can reach with half of the polls, for each
# job of the larger group.
_MAX_AHEAD: Final = 0.08
_MAX_MOVED: Final = 64  # jobs that a call of `pop`, which must be short, moves to another heap
_REORDERED: Final = 8  # overdue jobs whose chances one call of `pop` calculates again
_REORDER_EVERY: Final = 1.0  # seconds; the chance of a job is calculated again no more often
# Seconds for each overdue job; the chances of all of them are calculated again no more often. With
# less than 60 polls a second, `_REORDERED` limits the calculations more.
_REORDER_TIME: Final = 0.002
_DRAWS: Final = 8  # jobs that one call of `_draw` draws
_MAX_PRUNED: Final = 4  # items of each heap that one call of `_prune` moves or removes
_MAX_STALE: Final = 1_024  # out-of-date items that one call of `_first` removes
_PRUNE_FROM: Final = 1_024  # out-of-date items in all heaps; with fewer, `_prune` does nothing
