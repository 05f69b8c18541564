"""Counts the jobs of one kind for the report."""

from array import array
from collections.abc import Mapping

from attrs import define, field

from adepoll.journal.outcomes import Record, credits_of
from adepoll.report.chart_numbers import quantile
from adepoll.report.facts import KindSummary, OutcomeKind

_FAILED = frozenset({OutcomeKind.FAILED, OutcomeKind.CANCELLED})
_GIVEN_UP = frozenset({OutcomeKind.UNRESOLVED, OutcomeKind.NOT_FETCHED})


def floats() -> "array[float]":
    """Return an empty array, in which a float needs 8 bytes."""
    return array("d")


@define(kw_only=True)
class KindCounter:
    """Counts the jobs of one kind; `KindSummary` describes the numbers.

    Attributes:
        durations: Durations of the settled jobs in seconds.
    """

    durations: "array[float]" = field(factory=floats)
    _jobs: int = field(default=0, init=False)
    _completed: int = field(default=0, init=False)
    _partial: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _given_up: int = field(default=0, init=False)
    _open: int = field(default=0, init=False)
    _pages: int = field(default=0, init=False)
    _credits: float = field(default=0.0, init=False)

    def add(self, record: Record, outcome: OutcomeKind) -> None:
        """Count a job."""
        self._jobs += 1
        self._completed += outcome is OutcomeKind.COMPLETED
        self._failed += outcome in _FAILED
        self._given_up += outcome in _GIVEN_UP
        self._open += outcome.is_open
        if (job := record.snapshot) is not None:
            self._partial += job.partial
            self._pages += max(job.page_count or 0, 0)
            self._credits += credits_of(job) or 0.0

    def summary(self, kind: str) -> KindSummary:
        """Return the summary of the counted jobs; `kind` is the name of their kind."""
        ordered = sorted(self.durations)
        return KindSummary(
            kind=kind,
            jobs=self._jobs,
            completed=self._completed,
            partial=self._partial,
            failed=self._failed,
            given_up=self._given_up,
            open=self._open,
            pages=self._pages,
            credits=self._credits,
            median=quantile(ordered, 0.5) if ordered else None,
        )


def summaries(kinds: Mapping[str, KindCounter]) -> tuple[KindSummary, ...]:
    """Return the summaries of all kinds, the most frequent kind first."""
    found = [counter.summary(kind) for kind, counter in kinds.items()]
    return tuple(sorted(found, key=lambda summary: -summary.jobs))
