"""The problems that a batch prints at its end: grouped, with the first jobs of each group."""

from collections import Counter
from typing import Final

from attrs import define, field

from adepoll.cli.output_lines import error_line
from adepoll.errors import TargetExistsError
from adepoll.journal.outcomes import Outcome, kind_of

_MOST: Final = 20  # lines
_FIRST: Final = 3  # lines of a group that has more jobs than there is room for


@define
class ProblemList:
    """Collects outcomes, and returns at most twenty lines about them in constant memory."""

    _first: dict[str, list[str]] = field(factory=dict, init=False)  # lines by group
    _jobs: Counter[str] = field(factory=Counter, init=False)  # by group

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a job that failed, is unresolved, or whose result was not fetched."""
        group = _group_of(outcome)
        self._jobs[group] += 1
        lines = self._first.setdefault(group, [])
        if len(lines) < _MOST:
            lines.append(error_line(outcome))

    def lines(self) -> list[str]:
        """Return the lines, one for each job, and one for the jobs of a group that are left out."""
        shown = _MOST if len(self._first) == 1 or self._jobs.total() <= _MOST else _FIRST
        lines = []
        for group, first in self._first.items():
            lines += first[:shown]
            if more := self._jobs[group] - len(first[:shown]):
                lines.append(f"... and {more:,} more: {group}")
        return lines


def _group_of(outcome: Outcome) -> str:
    error = outcome.error
    if error is None:
        return "unknown" if outcome.snapshot is None else outcome.snapshot.status.value
    kind = kind_of(error)
    if kind == TargetExistsError.__name__:
        return "result not fetched: the file exists with other contents"
    return f"{'unresolved' if outcome.snapshot is None else 'result not fetched'}: {kind}"
