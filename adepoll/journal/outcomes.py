"""What becomes of a job of a batch: its Outcome, and what a journal keeps of it, a Record.

Imports models and errors only; batch, journal and report share these.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from attrs import field, frozen

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError


class Stage(StrEnum):
    """How far a job of a batch has come."""

    WAITING = "waiting"  # not seen to have ended
    FETCHING = "fetching"  # has ended; its result is still to be brought home
    DONE = "done"  # has ended; its result, where one was wanted, is home
    GIVEN_UP = "given_up"  # could not be resolved, or its result not be brought home


class RecordedError(AdePollError):
    """An error of an earlier run, as the journal tells it.

    Attributes:
        kind: The name of the error's class, such as ``JobNotFoundError``.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@frozen(kw_only=True)
class ResultFile:
    """A result on disk.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Of its bytes, in hex.
    """

    path: Path
    bytes: int
    sha256: str


@frozen(kw_only=True)
class Outcome:
    """What became of one job of a batch.

    Attributes:
        job_id: The job.
        snapshot: The job as it ended; None where that was not seen. From a journal, its
            `output_url` has no query; `ResultFetcher` takes it all the same.
        file: Where its result lies; None where none was wanted, is due or could be had.
        error: Why the job could not be resolved, or its result not be brought home; a
            `RecordedError` where an earlier run met it.
    """

    job_id: str
    snapshot: JobSnapshot | None = None
    file: ResultFile | None = None
    error: AdePollError | None = None


@frozen(kw_only=True)
class Record:
    """One job, as a journal knows it. Times are Unix seconds; `settled_at` by the service's clock.

    Attributes:
        number: Its place in the journal; jobs are numbered as they were added.
        job_id: The job.
        stage: How far it has come.
        status_text: The status last seen, as the service wrote it; None before the first look.
        snapshot: The job as it ended, `output_url` without its query; None where it has not.
        file: Where its result lies.
        modified_ns: When that file was written, as the file system tells it, in nanoseconds.
        error: Why it was given up.
        lasting: Whether trying again is of no use; None where it was not given up.
        added_at: When it was added.
        settled_at: When it was seen to have ended.
        done_at: When its outcome was written down.
        delivered_at: When its outcome had been taken by the consumer; None while it is not.
    """

    number: int
    job_id: str
    stage: Stage
    status_text: str | None = None
    snapshot: JobSnapshot | None = None
    file: ResultFile | None = None
    modified_ns: int | None = None
    error: RecordedError | None = None
    lasting: bool | None = None
    added_at: float
    settled_at: float | None = None
    done_at: float | None = None
    delivered_at: float | None = None

    def outcome(self) -> Outcome:
        """Give the outcome, as the run that met it gave it."""
        return Outcome(job_id=self.job_id, snapshot=self.snapshot, file=self.file, error=self.error)


@frozen(kw_only=True)
class Counts:
    """How many jobs a journal holds.

    Attributes:
        jobs: All.
        by_stage: By how far they have come.
        by_status: Those seen to have ended, by the status text of their snapshot.
        delivered: Those whose outcome was taken by the consumer.
        bytes: Size of all results on disk.
    """

    jobs: int
    by_stage: Mapping[Stage, int] = field(factory=dict)
    by_status: Mapping[str, int] = field(factory=dict)
    delivered: int = 0
    bytes: int = 0

    @property
    def open(self) -> int:
        """Jobs without an outcome yet."""
        return self.by_stage.get(Stage.WAITING, 0) + self.by_stage.get(Stage.FETCHING, 0)


def as_recorded(error: AdePollError) -> RecordedError:
    """Give what a journal keeps of an error."""
    if isinstance(error, RecordedError):
        return error
    return RecordedError(str(error), kind=type(error).__name__)
