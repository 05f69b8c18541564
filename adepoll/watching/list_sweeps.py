"""The list endpoint as a cheap hint: a request for 100 jobs says who is still active. Without I/O.

Imports models only. Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from typing import Final, Literal, TypeAlias

from attrs import define, field, frozen

from adepoll.api.models import JobPage, JobStatus

Discovery: TypeAlias = Literal["auto", "list", "get"]
"""How a watcher finds out that jobs have ended: by list sweeps where they are cheaper, by list
sweeps, or by GETs alone."""

PAGE_SIZE: Final = 100
ACTIVE: Final = (JobStatus.PROCESSING, JobStatus.PENDING)
"""What a sweep lists."""


@define(kw_only=True)
class _Shelf:
    """How far a sweep has come with the jobs of one status."""

    expected: int  # pages it had the last time
    asked: int = 0
    taken: int = 0
    pages: float = math.inf  # that there are
    barren: int = 0  # in a row


@define(kw_only=True, eq=False)
class Sweep:
    """One pass through the list of active jobs: which pages to ask for, and what they showed.

    Jobs move while one pages, so that one can be missed or come twice. A service that promises
    more for ever, and shows nothing new, is taken to have shown all.

    Attributes:
        started: When it began.
        most_pages: After how many pages it is given up; may change on the way.
        pages: How many were taken.
        shown: The ids that they had.
    """

    started: float
    most_pages: int
    pages: int = 0
    shown: set[str] = field(factory=set)
    _shelves: dict[JobStatus, _Shelf] = field(factory=dict)

    @classmethod
    def begin(
        cls, now: float, *, most_pages: int, watched: int = 0, before: "Sweep | None" = None
    ) -> "Sweep":
        """Begin a sweep.

        Args:
            now: The time.
            most_pages: After how many pages to give it up.
            watched: How many jobs may be listed, where nothing else tells how many to expect.
            before: The last whole sweep, which does.
        """
        shelves = {status: _Shelf(expected=1) for status in ACTIVE}
        if before is None:
            shelves[ACTIVE[0]].expected = watched // PAGE_SIZE
        else:
            for status, shelf in shelves.items():
                shelf.expected = before.pages_of(status)
        return cls(started=now, most_pages=most_pages, shelves=shelves)

    @property
    def is_whole(self) -> bool:
        """Whether it has seen all there is."""
        return all(shelf.taken >= shelf.pages for shelf in self._shelves.values())

    @property
    def is_too_long(self) -> bool:
        """Whether it took more pages than it may."""
        return self.pages >= self.most_pages and not self.is_whole

    def pages_of(self, status: JobStatus) -> int:
        """Give how many pages there were of a status."""
        return self._shelves[status].taken

    def next_page(self) -> tuple[JobStatus, int] | None:
        """Give a page to ask for now, as status and number; None where none is, for now."""
        for status, shelf in self._shelves.items():
            known = shelf.pages if shelf.pages < math.inf else max(shelf.expected, shelf.taken + 1)
            if shelf.asked < known and self.pages < self.most_pages:
                shelf.asked += 1
                return status, shelf.asked - 1
        return None

    def take(self, status: JobStatus, number: int, page: JobPage) -> None:
        """Take what a page showed."""
        shelf = self._shelves[status]
        self.pages += 1
        shelf.taken += 1
        before = len(self.shown)
        self.shown.update(job.job_id for job in page.jobs)
        shelf.barren = 0 if len(self.shown) > before else shelf.barren + 1
        if not page.has_more or not page.jobs:
            shelf.pages = min(shelf.pages, number + 1)
        elif shelf.barren >= _MOST_BARREN:
            shelf.pages = min(shelf.pages, shelf.asked)


_MOST_BARREN: Final = 3


@frozen(kw_only=True)
class Situation:
    """What there is to be weighed.

    Attributes:
        now: The time.
        watched: Jobs that are watched.
        settled: Jobs that have been seen to end so far.
        wasted_polls: Looks so far at jobs that were missing from the list, and active still.
        urgent: Jobs that are to be looked at, having been missing from the list.
        polls: Looks so far.
        mean_wait: Mean seconds from look to look that the schedule gave of late; None at first.
    """

    now: float
    watched: int
    settled: int
    wasted_polls: int
    urgent: int
    polls: int
    mean_wait: float | None


@define(kw_only=True, eq=False)
class SweepPolicy:
    """Whether to sweep, and when: what a sweep costs, against the GETs that it spares.

    Attributes:
        discovery: What the caller wants.
        lag: Mean seconds to aim at from the end of a job to the look that sees it; None to sweep
            as often as the schedule would look.
        fewest: Watched jobs below which looks are GETs by schedule, where discovery is "auto".
        forbidden: Whether the service does not let this key list jobs.
        last: The last whole sweep.
        took: Seconds from the start of a sweep to the looks that follow from it, of late.
    """

    discovery: Discovery
    lag: float | None
    fewest: int = 10
    forbidden: bool = False
    last: Sweep | None = None
    took: float = 0.0
    _began: float = -math.inf
    _failures: int = 0  # in a row
    _paused_until: float = -math.inf  # or until so many are watched
    _until_watched: float = math.inf
    _counted: Situation | None = None  # when the sums below were last brought up to date
    _requests: float = 0.0  # for sweeps, of late
    _settled: float = 0.0  # jobs, of late
    _misled: float = 0.0  # looks, of late
    _rate: float = 0.0  # looks per second, of late

    def wants(self, at: Situation) -> bool:
        """Tell whether to sweep at all."""
        if self.discovery == "get" or self.forbidden:
            return False
        if at.now < self._paused_until and at.watched < self._until_watched:
            return False
        if self.discovery == "list":
            return at.watched > 0
        if self.last is not None and at.now > self.last.started + _PAUSE:
            self.last = None  # too old to go by
        return at.watched >= self.fewest and (
            self.last is None or self.last.pages <= self._spared(at)
        )

    def begin(self, at: Situation) -> Sweep:
        """Begin a sweep."""
        self._began = at.now
        return Sweep.begin(
            at.now, most_pages=self.most_pages(at), watched=at.watched, before=self.last
        )

    def most_pages(self, at: Situation) -> int:
        """Give the pages after which a sweep is too long to pay."""
        return _MOST_PAGES if self.discovery == "list" else int(self._spared(at))

    def ended(self, sweep: Sweep, at: Situation) -> None:
        """A sweep has come to its end: it is whole, or would be too long to pay."""
        self._failures = 0
        self._count(at)
        self._requests += sweep.pages
        if sweep.is_whole:
            sweep.shown.clear()  # it has served; how many pages there were is what counts now
            self.last = sweep
            self.took = at.now - sweep.started
            if self._misled > max(_FEW, self._settled, at.watched):
                self._pause(at.now)  # such a list is worse than none
        else:
            self._pause(at.now, until_watched=2 * at.watched)

    def failed(self, at: Situation) -> None:
        """A sweep was broken off by a passing error."""
        self._failures += 1
        if self.last is None or self._failures > _FAILURES:
            self._pause(at.now)

    def wait(self, at: Situation) -> float:
        """Give the seconds from now to the next sweep."""
        self._count(at)
        every = at.mean_wait or _DEFAULT_WAIT
        if self.lag is not None:
            # At the schedule's own price of a request, a sweep for all may come so much more often
            # than a look at each; and no more often than the lag asks for: half of the time between
            # sweeps is lag, and the looks that follow take theirs.
            pages = len(ACTIVE) if self.last is None else self.last.pages
            every *= min(math.sqrt(pages / max(at.watched, 1)), 1.0)
            every = max(every, 2 * max(self.lag - self.took, self.lag / 2))
        if self.discovery == "auto":
            # Other people's jobs can make sweeps dear. Rarer ones cost less, and lag more.
            dearness = self._requests / (_SHARE * max(self._settled + at.watched, 1))
            every *= min(max(dearness, 1.0), _MOST_STRETCH)
        # What is known to be missing comes first: until then, to find more of it is of no use.
        busy = at.urgent / self._rate if self._rate else (at.urgent and every)
        return max(self._began + every - at.now, busy - every / 2, 0.0)

    def _spared(self, at: Situation) -> float:
        """Give how many GETs there would be, by schedule, from sweep to sweep."""
        if at.mean_wait is None or self.lag is None:
            return at.watched
        return at.watched * min(1.0, 2 * self.lag / at.mean_wait)

    def _pause(self, now: float, *, until_watched: float = math.inf) -> None:
        self.last = None
        self._until_watched = until_watched
        self._failures = 0
        self._paused_until = now + _PAUSE

    def _count(self, at: Situation) -> None:
        before, self._counted = self._counted, at
        if before is None or at.now <= before.now:
            return
        passed = at.now - before.now
        fading = math.exp(-passed / _MEMORY)
        self._requests *= fading
        self._settled = self._settled * fading + at.settled - before.settled
        self._misled = self._misled * fading + at.wasted_polls - before.wasted_polls
        recent = math.exp(-passed / _RECENT)
        self._rate = self._rate * recent + (1 - recent) * (at.polls - before.polls) / passed


_MOST_PAGES: Final = 10_000
_FAILURES: Final = 2
_PAUSE: Final = 60.0
_FEW: Final = 100.0
_DEFAULT_WAIT: Final = 4.0
_SHARE: Final = 0.2  # requests for sweeps, per job
_MOST_STRETCH: Final = 3.0
_MEMORY: Final = 300.0
_RECENT: Final = 10.0
