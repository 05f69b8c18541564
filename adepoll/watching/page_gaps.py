"""Jobs that a sweep can miss because they move from page to page. Imports job_state and models.

While the pages of a list are requested one after the other, jobs settle. Then the jobs behind them
move forward, and the first one of a page can move to the page that was read before: no page shows
it. Without this, each sweep would cost polls of such jobs while the request budget is short.
"""

from collections.abc import Collection, Iterable
from itertools import pairwise

from attrs import define, field

from adepoll.api.models import JobStatus
from adepoll.watching.job_state import JobState


@define(eq=False)
class PageGaps:
    """The order of the watched jobs in the list, and the gaps between its pages."""

    _order: list[JobState] = field(factory=list, init=False)  # in the last complete sweep
    _pages: dict[tuple[str, int], list[JobState]] = field(factory=dict, init=False)

    def sweep_started(self) -> None:
        """Forget the pages of a sweep that did not end."""
        self._pages = {}

    def record_page(self, status: JobStatus, number: int, states: Iterable[JobState]) -> None:
        """Record the watched jobs of a page, in their order."""
        self._pages[status.value, number] = [*states]

    def sweep_ended(self) -> Collection[JobState]:
        """Return the jobs that stood between two pages: in the last sweep, but not in this one.

        A job is returned once at most: if the next sweep does not show it either, it was not in
        the last one.
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
