"""The outcome of one job of a batch, and the record that a journal keeps of the job.

The packages `batch`, `report`, `tables` and `cli` use these classes, too.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from attrs import field, frozen

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobSnapshot, JobStatus, Json
from adepoll.api.shown import show_text
from adepoll.api.table_row import TableRow
from adepoll.common.redaction import showable
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import AdePollError, ConfigurationError

MOST_CREDITS: Final = 1e12
"""Credits. If the service states more for one job, the number counts as wrong."""

LONGEST_ERROR: Final = 1_000
"""Characters of the recorded text of an error."""

LONGEST_NAME: Final = 80
"""Characters of the recorded name of an error's class."""

_NO_SNAPSHOT: Final = tuple(
    JobSnapshot(job_id="-", status=JobStatus.PENDING, status_text="pending").to_dict()
)
_ERRORS: Final = {JobStatus.FAILED: "JobFailedError", JobStatus.CANCELLED: "JobCancelledError"}


class Stage(StrEnum):
    """How far a job of a batch has come: waiting, fetching, done or given up."""

    # The job is active, as far as the last poll shows.
    WAITING = "waiting"
    # The job has settled, but its result must still be fetched.
    FETCHING = "fetching"
    # The job has settled. Its result is in a file, if a file was wanted.
    DONE = "done"
    # The job was given up: it is unresolved, or its result could not be fetched.
    GIVEN_UP = "given_up"


class RecordedError(AdePollError):
    """An error that an earlier run recorded in the journal.

    Its class name and message contain no unprintable characters and no secrets, even if somebody
    else has written the journal.

    Attributes:
        error_class: Name of the error's class, such as ``JobNotFoundError``.
    """

    def __init__(self, message: str, *, error_class: str) -> None:
        super().__init__(showable(message, LONGEST_ERROR))
        self.error_class = showable(error_class, LONGEST_NAME)


@frozen(kw_only=True)
class ResultFile(SafeRepr):
    """A result on disk.

    Attributes:
        path: Path of the file.
        bytes: Size of the file in bytes.
        sha256: SHA-256 of the file, in hex.
    """

    path: Path
    bytes: int
    sha256: str


def _check_columns(_job: object, _attribute: object, columns: Mapping[object, object]) -> None:
    for name, value in columns.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            wrong = type(value if isinstance(name, str) else name).__name__
            raise ConfigurationError(
                f"columns must be strings, but {showable(str(name), 40)!r} has an object of the "
                f"type {wrong}; use str(value)"
            )


@frozen
class BatchJob(SafeRepr):
    """A job of a batch, together with texts of your own, which are returned with its outcome.

    Attributes:
        ref: The job.
        columns: Your texts by name, such as the other cells of the job's row in a CSV file. In the
            outcome, a pair of UTF-16 surrogates has become one character.

    Raises:
        ConfigurationError: A name or value of `columns` is not a string.
    """

    ref: JobRef
    columns: Mapping[str, str] = field(factory=dict, kw_only=True, validator=_check_columns)


@frozen(kw_only=True)
class Outcome(TableRow):
    """The outcome of one job of a batch. A list of outcomes can become a DataFrame.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job.
        label: The caller's own name for the job; None if the caller gave no name.
        columns: The caller's own texts for the job, by name (`BatchJob.columns`); empty if the
            caller gave none.
        snapshot: Snapshot of the settled job; None if the job is unresolved. In a snapshot from a
            journal, `output_url` has no query. `ResultFetcher` accepts such a snapshot, and
            requests a new URL.
        file: The file with the result; None if no file was wanted, or the result was not fetched.
        error: The reason why the job is unresolved, or why its result was not fetched; otherwise
            None. It is a `RecordedError` if an earlier run recorded the reason.
    """

    job_id: str
    kind: JobKind = JobKind.V1_EXTRACT
    label: str | None = field(default=None, repr=show_text)
    columns: Mapping[str, str] = field(factory=dict)
    snapshot: JobSnapshot | None = None
    file: ResultFile | None = None
    error: AdePollError | None = None

    @property
    def ref(self) -> JobRef:
        """Reference to the job, with its kind and label."""
        return JobRef(self.job_id, kind=self.kind, label=self.label)

    def to_dict(self) -> dict[str, Json]:
        """Return the outcome as a table row: a dict from column name to value.

        The row has the columns of `JobSnapshot.to_dict`, then "error" and "file", then the
        `BatchJob.columns`, named "input.NAME". docs/tables.md describes the columns.
        """
        columns = dict.fromkeys(_NO_SNAPSHOT) if self.snapshot is None else self.snapshot.to_dict()
        columns |= {
            "job_id": self.job_id,
            "kind": self.kind.name,
            "label": self.label,
            "error": None,
        }
        columns["file"] = None if self.file is None else str(self.file.path)
        columns |= {f"input.{name}": text for name, text in self.columns.items()}
        if self.error is not None:
            columns |= {"error": error_class_of(self.error), "failure": str(self.error)}
        elif self.snapshot is not None:
            columns["error"] = _ERRORS.get(self.snapshot.status)
        return columns


@frozen(kw_only=True)
class Record:
    """One job as a journal records it. Times are Unix seconds.

    `added_at` is a time of this machine's clock. The other times are those of the service's clock,
    if adepoll knew that clock, and otherwise those of this machine's clock.

    Attributes:
        number: Number of the job in the journal. Numbers rise in the order in which jobs are added.
        job_id: Id of the job.
        kind: Kind of the job.
        label: The caller's own name for the job; None if the caller gave no name.
        columns: The caller's own texts for the job, by name (`BatchJob.columns`); empty if the
            caller gave none.
        stage: How far the job has come.
        status_text: Last known status of the job. A status that adepoll knows is in lower case.
            None before the first poll.
        snapshot: Snapshot of the settled job; None if no poll has observed that the job has
            settled. Its `output_url` has no query, because the query can be secret.
        file: The file with the result; None if there is no file.
        modified_ns: Modification time of the result file, in nanoseconds since 1970; None if there
            is no file.
        error: The reason why the job was given up; None if it was not given up.
        lasting: True if another attempt would fail in the same way; None if the job was not
            given up.
        added_at: Time when the job was added.
        settled_at: Time when a poll observed that the job has settled; None before that.
        done_at: Time when the outcome was recorded; None while there is no outcome.
        delivered_at: Time when the program acknowledged the outcome, by requesting the next one;
            None before that.
    """

    number: int
    job_id: str
    kind: JobKind = JobKind.V1_EXTRACT
    label: str | None = field(default=None, repr=show_text)
    columns: Mapping[str, str] = field(factory=dict)
    stage: Stage
    status_text: str | None = field(default=None, repr=show_text)
    snapshot: JobSnapshot | None = None
    file: ResultFile | None = None
    modified_ns: int | None = None
    error: RecordedError | None = None
    lasting: bool | None = None
    added_at: float
    settled_at: float | None = None
    done_at: float | None = None
    delivered_at: float | None = None

    @property
    def ref(self) -> JobRef:
        """Reference to the job, with its kind and label."""
        return JobRef(self.job_id, kind=self.kind, label=self.label)

    def outcome(self) -> Outcome:
        """Return the recorded outcome of the job. Call this only if `done_at` is not None."""
        return Outcome(
            job_id=self.job_id,
            kind=self.kind,
            label=self.label,
            columns=self.columns,
            snapshot=self.snapshot,
            file=self.file,
            error=self.error,
        )


@frozen(kw_only=True)
class Counts:
    """How many jobs a journal contains, in total and by stage and status.

    Attributes:
        jobs: Number of all jobs.
        by_stage: Number of jobs in each stage.
        by_status: Number of settled jobs with each status; the status is in lower case.
        acknowledged: Number of jobs whose outcome the program has acknowledged.
        bytes: Total size of all result files in bytes.
        without_file: Number of completed jobs that have an outcome without an error and without a
            file.
        partial: Number of completed jobs with a partial result.
        credits: Total credits that the settled jobs have used. A job for which the service does
            not state the credits counts as 0.
    """

    jobs: int
    by_stage: Mapping[Stage, int] = field(factory=dict)
    by_status: Mapping[str, int] = field(factory=dict)
    acknowledged: int = 0
    bytes: int = 0
    without_file: int = 0
    partial: int = 0
    credits: float = 0.0

    @property
    def open(self) -> int:
        """Number of jobs without an outcome."""
        return self.by_stage.get(Stage.WAITING, 0) + self.by_stage.get(Stage.FETCHING, 0)


@frozen(kw_only=True)
class Failure(SafeRepr):
    """A group of jobs that failed for the same reason.

    Attributes:
        error_class: Name of the error's class; ``JobFailedError`` if the jobs have the status
            failed.
        reason: Text of the error, with "..." in place of the job id; None if it has no text.
        lasting: True if another attempt would fail in the same way.
        jobs: Number of jobs in the group.
        example: Reference of one job of the group, such as ``v1-parse/ID``.
    """

    error_class: str
    reason: str | None
    lasting: bool
    jobs: int
    example: str


def error_class_of(error: AdePollError) -> str:
    """Return the name of an error's class; for a `RecordedError`, the name that was recorded."""
    return error.error_class if isinstance(error, RecordedError) else type(error).__name__


def credits_of(job: JobSnapshot) -> float | None:
    """Return the credits that a job has used; None if the number is missing or impossible."""
    used = job.credits
    return None if used is None or not 0 <= used <= MOST_CREDITS else float(used)
