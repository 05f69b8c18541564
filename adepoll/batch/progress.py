"""BatchProgress: how far a batch has come, and RunCounters, the numbers behind it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field, frozen

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.common.html_tables import HtmlTable
from adepoll.journal.outcomes import Counts, Stage, credits_of
from adepoll.watching.watch import UnresolvedJob


@frozen(kw_only=True)
class BatchProgress(HtmlTable):
    """How far a batch has come; a copy that does not change.

    Attributes:
        known: Jobs in the journal, and invalid ids passed to this run.
        settled: Settled jobs by status.
        before: Jobs that were settled when the run began.
        unresolved: Jobs that could not be resolved, and invalid ids.
        missed: Settled jobs whose results could not be fetched.
        open: Jobs without an outcome.
        fetching: Results being fetched.
        bytes_fetched: Bytes of the results that this run has fetched or is fetching, including
            bytes that an interrupted run had fetched of them.
        adopted: Results that this run has found complete in existing files.
        partial: Completed jobs with a partial result; see `JobSnapshot.partial`.
        credits: Credits that the settled jobs have used, as far as the service states them.
        complete: True if all ids passed to the run are in the journal.
    """

    known: int = 0
    settled: Mapping[JobStatus, int] = field(factory=dict)
    before: int = 0
    unresolved: int = 0
    missed: int = 0
    open: int = 0
    fetching: int = 0
    bytes_fetched: int = 0
    adopted: int = 0
    partial: int = 0
    credits: float = 0.0
    complete: bool = False


@define(eq=False)
class OutcomeRate:
    """Outcomes per second during about the last 30 seconds. Times are those of one clock."""

    _started: float = math.nan  # time of the first outcome
    _updated: float = math.nan
    _recent: float = 0.0  # outcomes; older ones count less
    _total: int = 0

    def add(self, count: int, now: float) -> None:
        """Count outcomes."""
        if not self._total:
            self._started = self._updated = now
        self._recent = self._recent * math.exp(-(now - self._updated) / _MEMORY) + count
        self._updated = now
        self._total += count

    def per_second(self, now: float) -> float | None:
        """Return the rate; None until there were 20 outcomes and one second has passed."""
        passed = now - self._started
        if self._total < _MIN_OUTCOMES or passed < _MIN_TIME:
            return None
        recent = self._recent * math.exp(-(now - self._updated) / _MEMORY)
        return recent / (_MEMORY * -math.expm1(-passed / _MEMORY))


_MEMORY: Final = 30.0  # seconds
_MIN_OUTCOMES: Final = 20
_MIN_TIME: Final = 1.0  # seconds


@define(eq=False)
class RunCounters:
    """The numbers of a run while it changes them; see `BatchProgress`.

    Attributes:
        outcome_rate: How many of the open jobs get an outcome in a second.
        bytes_complete: Bytes of the results that are completely fetched.
        bytes_partial: Bytes of the results being fetched, by job.
    """

    known: int = 0
    settled: Counter[JobStatus] = field(factory=Counter)
    before: int = 0
    unresolved: int = 0
    missed: int = 0
    open: int = 0
    outcome_rate: OutcomeRate = field(factory=OutcomeRate)
    bytes_complete: int = 0
    bytes_partial: dict[JobRef, int] = field(factory=dict)
    adopted: int = 0
    partial: int = 0
    credits: float = 0.0
    complete: bool = False

    def begin(self, counts: Counts) -> None:
        """Start with the jobs of the journal."""
        given_up = counts.by_stage.get(Stage.GIVEN_UP, 0)
        settled = sum(counts.by_status.values())
        not_missed = counts.by_stage.get(Stage.DONE, 0) + counts.by_stage.get(Stage.FETCHING, 0)
        self.known = counts.jobs
        self.open = counts.open
        self.before = settled
        self.missed = settled - not_missed
        self.unresolved = given_up - self.missed
        self.partial = counts.partial
        self.credits = counts.credits
        for text, count in counts.by_status.items():
            self.settled[JobStatus.parse(text)] += count

    def record_ends(self, ends: Iterable[JobSnapshot | UnresolvedJob]) -> None:
        """Count jobs that have settled or were given up, and that the journal has recorded."""
        for end in ends:
            if isinstance(end, UnresolvedJob):
                self.unresolved += 1
                continue
            self.settled[end.status] += 1
            self.partial += end.partial
            self.credits += credits_of(end) or 0.0

    def close(self, count: int, now: float) -> None:
        """Count jobs that have an outcome now; `now` is the time of the running loop."""
        self.open -= count
        self.outcome_rate.add(count, now)

    @property
    def ended(self) -> int:
        """Number of settled and unresolved jobs."""
        return self.settled.total() + self.unresolved

    def progress(self) -> BatchProgress:
        """Return a copy of the current numbers."""
        return BatchProgress(
            known=self.known,
            settled={status: count for status, count in self.settled.items() if count},
            before=self.before,
            unresolved=self.unresolved,
            missed=self.missed,
            open=self.open,
            fetching=len(self.bytes_partial),
            bytes_fetched=self.bytes_complete + sum(self.bytes_partial.values()),
            adopted=self.adopted,
            partial=self.partial,
            credits=self.credits,
            complete=self.complete,
        )
