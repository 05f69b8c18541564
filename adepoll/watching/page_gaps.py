"""Finds jobs that a sweep can miss because they move between pages.

The pages of a list are requested one after the other. When a job settles in this time, all later
jobs move forward by one place. So the first job of a page can move to the previous page, which was
read already. Then no page shows this job. While the request budget is short, this happens in most
sweeps, and each such job would cost a poll. Imports `job_state` and `models`.
"""

from collections.abc import Collection, Iterable
from itertools import pairwise

from attrs import define, field

from adepoll.api.models import JobStatus
from adepoll.watching.job_state import JobState


@define(eq=False)
class PageGaps:
    """Remembers the order of the watched jobs in the list, to find jobs that a sweep missed."""

    # Watched jobs in the order in which the last complete sweep showed them.
    _order: list[JobState] = field(factory=list, init=False)
    # Watched jobs of the present sweep, by status and page number.
    _pages: dict[tuple[str, int], list[JobState]] = field(factory=dict, init=False)

    def sweep_started(self) -> None:
        """Forget the pages of an earlier sweep that was not complete."""
        self._pages = {}

    def record_page(self, status: JobStatus, number: int, states: Iterable[JobState]) -> None:
        """Remember which watched jobs a page shows, in the order of the list."""
        self._pages[status.value, number] = [*states]

    def sweep_ended(self) -> Collection[JobState]:
        """Record the end of a complete sweep; return the jobs that it can have missed.

        In the order of the previous sweep, such a job was between two jobs. Now one of the two is
        the last job of a page, and the other is the first job of the next page. A job that the next
        sweep does not show either is not returned again.
        """
        pages = [(status, states) for (status, _), states in sorted(self._pages.items()) if states]
        self._pages = {}
        gaps = [
            (before[-1], after[0])
            for (status, before), (next_status, after) in pairwise(pages)
            if status == next_status
        ]
        last, self._order = self._order, [state for _, states in pages for state in states]
        if not gaps:
            return ()
        edges = {state for gap in gaps for state in gap}
        places = {state: place for place, state in enumerate(last) if state in edges}
        moved: set[JobState] = set()
        for before, after in gaps:
            if before in places and after in places:
                moved.update(last[places[before] + 1 : places[after]])
        return moved
