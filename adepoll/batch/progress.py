"""Counts how far a run of a batch has come (`RunCounters`), and shows it (`BatchProgress`)."""

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
        known: Number of jobs in the journal, plus the number of invalid ids passed to this run.
        settled: Number of settled jobs with each status.
        before: Number of jobs that had settled before the run began.
        unresolved: Number of jobs that were given up before adepoll knew that they had settled,
            plus the number of invalid ids.
        missed: Number of settled jobs whose results could not be fetched.
        open: Number of jobs without an outcome.
        fetching: Number of results that are being fetched now.
        bytes_fetched: Number of bytes of results that this run has fetched so far. If this run
            continues a download of an interrupted run, the bytes of that run count, too.
        adopted: Number of results that this run did not write, because a complete file existed.
        partial: Number of completed jobs with a partial result; see `JobSnapshot.partial`.
        credits: Sum of the credits that the service states for settled jobs.
        complete: True if all ids passed to the run have been read and added to the journal.
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
    """Measures the outcomes per second, averaged over about 30 seconds.

    All times are seconds of the same clock.
    """

    _started: float = math.nan  # seconds; time of the first outcome
    _updated: float = math.nan  # seconds; time of the last outcome
    _recent: float = 0.0  # weighted number of outcomes: an older outcome has a smaller weight
    _total: int = 0

    def add(self, count: int, now: float) -> None:
        """Count `count` more outcomes at the time `now`, in seconds."""
        if not self._total:
            self._started = self._updated = now
        self._recent = self._recent * math.exp(-(now - self._updated) / _MEMORY) + count
        self._updated = now
        self._total += count

    def per_second(self, now: float) -> float | None:
        """Return the outcomes per second at the time `now`, in seconds.

        Return None until there were 20 outcomes, and one second has passed since the first one.
        """
        passed = now - self._started
        if self._total < _MIN_OUTCOMES or passed < _MIN_TIME:
            return None
        recent = self._recent * math.exp(-(now - self._updated) / _MEMORY)
        return recent / (_MEMORY * -math.expm1(-passed / _MEMORY))


_MEMORY: Final = 30.0  # seconds in which the weight of an outcome falls to 1/e
_MIN_OUTCOMES: Final = 20
_MIN_TIME: Final = 1.0  # seconds after the first outcome until a rate is returned


@define(eq=False)
class RunCounters:
    """The numbers of a run while it is running; `progress` returns a copy of them.

    `BatchProgress` describes the attributes that both classes have.

    Attributes:
        outcome_rate: Measures the outcomes per second.
        bytes_complete: Total size in bytes of the results that this run has fetched completely.
        bytes_partial: Number of received bytes of each result that is being fetched, by job.
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
        """Set the counters at the start of a run; `counts` are the numbers in the journal."""
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
        """Count jobs that have settled or were given up. The journal has recorded them before."""
        for end in ends:
            if isinstance(end, UnresolvedJob):
                self.unresolved += 1
                continue
            self.settled[end.status] += 1
            self.partial += end.partial
            self.credits += credits_of(end) or 0.0

    def record_outcomes(self, count: int, now: float) -> None:
        """Record that `count` open jobs got an outcome at `now`, in seconds of the running loop."""
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
