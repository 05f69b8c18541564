"""How far a batch has come: BatchProgress, and the Tally behind it. Imports models and outcome."""

from collections import Counter
from collections.abc import Mapping

from attrs import define, field, frozen

from adepoll.api.models import JobStatus
from adepoll.journal.outcomes import Counts, Stage


@frozen(kw_only=True)
class BatchProgress:
    """How far a batch has come; a copy that does not change.

    Attributes:
        known: Jobs in the journal, and ids given to this run that cannot be any.
        settled: Those that have ended, by status.
        before: How many of them had when the run began.
        unresolved: Jobs that could not be resolved, and ids that cannot be any.
        missed: Jobs that have ended, and whose results could not be brought home.
        open: Jobs without an outcome yet.
        fetching: Results on their way.
        bytes_fetched: Bytes of the results that this run has brought home or is bringing; those
            that an earlier run had left of them count, too.
        complete: Whether all ids that were given have been taken in.
    """

    known: int = 0
    settled: Mapping[JobStatus, int] = field(factory=dict)
    before: int = 0
    unresolved: int = 0
    missed: int = 0
    open: int = 0
    fetching: int = 0
    bytes_fetched: int = 0
    complete: bool = False


@define(eq=False)
class Tally:
    """What a run counts; see `BatchProgress`."""

    known: int = 0
    settled: Counter[JobStatus] = field(factory=Counter)
    before: int = 0
    unresolved: int = 0
    missed: int = 0
    open: int = 0
    bytes_home: int = 0
    on_their_way: dict[str, int] = field(factory=dict)  # bytes, by job
    complete: bool = False

    def begin(self, counts: Counts) -> None:
        """Begin with what the journal holds."""
        given_up = counts.by_stage.get(Stage.GIVEN_UP, 0)
        ended = sum(counts.by_status.values())
        at_home = counts.by_stage.get(Stage.DONE, 0) + counts.by_stage.get(Stage.FETCHING, 0)
        self.known = counts.jobs
        self.open = counts.open
        self.before = ended
        self.missed = ended - at_home
        self.unresolved = given_up - self.missed
        for text, count in counts.by_status.items():
            self.settled[JobStatus.parse(text)] += count

    @property
    def ended(self) -> int:
        """How many jobs are known to have ended, or could not be resolved."""
        return self.settled.total() + self.unresolved

    def progress(self) -> BatchProgress:
        """Give what is known now."""
        return BatchProgress(
            known=self.known,
            settled={status: count for status, count in self.settled.items() if count},
            before=self.before,
            unresolved=self.unresolved,
            missed=self.missed,
            open=self.open,
            fetching=len(self.on_their_way),
            bytes_fetched=self.bytes_home + sum(self.on_their_way.values()),
            complete=self.complete,
        )
