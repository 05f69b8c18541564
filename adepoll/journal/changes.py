"""The changes that `Journal.write` records, one class for each."""

from typing import Final, TypeAlias

from attrs import frozen

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import (
    AdePollError,
    InvalidJobIdError,
    JobNotFoundError,
    ResultUnavailableError,
)
from adepoll.journal.outcomes import ResultFile


@frozen
class StatusChanged(SafeRepr):
    """An active job has a new status.

    The change is ignored if the job is not waiting any more, that is, if it has settled or was
    given up.

    Attributes:
        job: The job. A plain id means a v1 extract job, unless the id contains another kind.
        status_text: The status of the job as the service wrote it.
    """

    job: str | JobRef
    status_text: str


@frozen
class Settled(SafeRepr):
    """A job has settled.

    A journal file also stores the inline result of the snapshot, until a `Fetched` says that the
    result is in a file of its own.

    Attributes:
        snapshot: Snapshot of the settled job. The query of its presigned URL is not recorded.
        at: Time when the job was observed as settled, in Unix seconds.
        fetching: True if the result of the job must still be fetched. If False, the outcome of the
            job is complete.
    """

    snapshot: JobSnapshot
    at: float
    fetching: bool


@frozen
class Fetched(SafeRepr):
    """The result of a job has been written to a file, so the outcome of the job is complete.

    Attributes:
        job: The job. A plain id means a v1 extract job, unless the id contains another kind.
        file: The file with the result.
        modified_ns: Modification time of the result file, in nanoseconds since 1970.
        at: Time when the file was complete, in Unix seconds.
    """

    job: str | JobRef
    file: ResultFile
    modified_ns: int
    at: float


@frozen
class GivenUp(SafeRepr):
    """A job was given up: its outcome is not known, or its result could not be fetched.

    Attributes:
        job: The job. A plain id means a v1 extract job, unless the id contains another kind.
        error: The reason why the job was given up.
        lasting: True if another attempt would fail in the same way; see `LASTING_ERRORS`.
        at: Time when the job was given up, in Unix seconds.
    """

    job: str | JobRef
    error: AdePollError
    lasting: bool
    at: float


@frozen
class Acknowledged(SafeRepr):
    """The program that runs a batch has acknowledged an outcome: it has requested the next one.

    Attributes:
        job: The job. A plain id means a v1 extract job, unless the id contains another kind.
        at: Time of the acknowledgement, in Unix seconds.
    """

    job: str | JobRef
    at: float


@frozen
class FileLost(SafeRepr):
    """The result file of a job is missing or was changed; the result must be fetched again.

    Attributes:
        job: The job. A plain id means a v1 extract job, unless the id contains another kind.
    """

    job: str | JobRef


LASTING_ERRORS: Final = (InvalidJobIdError, JobNotFoundError, ResultUnavailableError)
"""Errors of a job after which another attempt would fail in the same way."""

Change: TypeAlias = StatusChanged | Settled | Fetched | GivenUp | Acknowledged | FileLost
"""A change that `Journal.write` accepts."""
