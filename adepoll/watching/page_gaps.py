"""Finds jobs that a sweep can miss because they move between pages.

The pages of a list are requested one after the other. When a job settles in this time, all later
jobs move forward by one place. So the first job of a page can move to the previous page, which was
read already. Then no page shows this job. While the request budget is short, this happens in most
sweeps, and each such job would cost a poll.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Final, TypeAlias

from attrs import define, field

from adepoll.api.models import JobStatus
from adepoll.watching.job_state import JobState
from adepoll.watching.listing import PAGE_SIZE

_Page: TypeAlias = tuple[str, int]  # status of the jobs, and number of the page


@define(eq=False)
class _Sweep:
    """The watched jobs that a sweep showed, in the order of the list.

    Attributes:
        pages: The jobs of each page.
        page_of: The page of each job.
    """

    pages: dict[_Page, list[JobState]] = field(factory=dict)
    page_of: dict[JobState, _Page] = field(factory=dict)

    def between(self, before: JobState, after: JobState, order: list[_Page]) -> list[JobState]:
        """Return the jobs between two jobs; an empty list if there are more than 200.

        In the time between two requests, 200 jobs hardly ever settle. So the order of the list has
        changed. Then nearly all jobs could be between the two. To collect them for every page would
        take too long.

        Args:
            before: The job before the returned jobs.
            after: The job after them.
            order: All pages, sorted.
        """
        if before not in self.page_of or after not in self.page_of:
            return []
        first, last = self.page_of[before], self.page_of[after]
        found: list[JobState] = []
        for page in order[bisect_left(order, first) : bisect_right(order, last)]:
            jobs = self.pages[page]
            start = jobs.index(before) + 1 if page == first else 0
            found += jobs[start : jobs.index(after) if page == last else None]
            if len(found) > _MOST_MOVED:
                return []
        return found


@define(eq=False)
class PageGaps:
    """Remembers the order of the watched jobs in the list, to find jobs that a sweep missed.

    The work is spread over the pages of a sweep, because the list can have 1,000 pages and more.
    """

    _last: _Sweep = field(factory=_Sweep, init=False)  # the last complete sweep
    _present: _Sweep = field(factory=_Sweep, init=False)

    def sweep_started(self) -> None:
        """Forget the pages of an earlier sweep that was not complete."""
        self._present = _Sweep()

    def record_page(self, status: JobStatus, number: int, states: Iterable[JobState]) -> None:
        """Remember which watched jobs a page shows, in the order of the list."""
        page = status.value, number
        jobs = self._present.pages[page] = [*states]
        self._present.page_of.update(dict.fromkeys(jobs, page))

    def sweep_ended(self) -> Collection[JobState]:
        """Record the end of a complete sweep; return the jobs that it may have missed.

        These are the jobs that were between two other jobs in the previous sweep, if these two are
        the last job of a page and the first job of the next page in this sweep. A job that the next
        sweep does not show either is not returned again.
        """
        last, self._last, self._present = self._last, self._present, _Sweep()
        order = sorted(last.pages)
        pages = [(page, jobs) for page, jobs in sorted(self._last.pages.items()) if jobs]
        moved: set[JobState] = set()
        for ((status, _), before), ((next_status, _), after) in pairwise(pages):
            if status == next_status:
                moved.update(last.between(before[-1], after[0], order))
        return moved


_MOST_MOVED: Final = 2 * PAGE_SIZE  # jobs between two pages
