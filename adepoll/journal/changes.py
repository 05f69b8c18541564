"""What can be written of a job, one class a change; and which records can be asked for.

Imports errors, models and outcome only.
"""

from enum import Enum, auto
from typing import TypeAlias

from attrs import frozen

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError
from adepoll.journal.outcomes import ResultFile


class Which(Enum):
    """Which jobs' records to give."""

    FETCHING = auto()  # have ended, and their results are still to be brought home
    UNDELIVERED = auto()  # have an outcome that the consumer did not take
    DELIVERED = auto()  # have one that it took
    ENDED = auto()  # have one
    UNFETCHED = auto()  # have ended, and were given up: their results could not be brought home


@frozen
class Seen:
    """A job that still runs was seen. Passed over where it is known to have ended.

    Attributes:
        job_id: The job.
        status_text: Its status, as the service wrote it.
    """

    job_id: str
    status_text: str


@frozen
class Settled:
    """A job was seen to have ended.

    Attributes:
        snapshot: The job as it ended; written down without its presigned URL's query.
        at: When it was seen, Unix seconds.
        fetching: Whether its result is still to be brought home. If not, this is its outcome. A
            result that came inline is kept until it is in a file.
    """

    snapshot: JobSnapshot
    at: float
    fetching: bool


@frozen
class Fetched:
    """The result of a job has been brought home, which makes it done.

    Attributes:
        job_id: The job.
        file: Where the result lies.
        modified_ns: When that file was written, as the file system tells it, in nanoseconds.
        at: When it was home, Unix seconds.
    """

    job_id: str
    file: ResultFile
    modified_ns: int
    at: float


@frozen
class GivenUp:
    """A job could not be resolved, or its result not be brought home.

    Attributes:
        job_id: The job.
        error: Why.
        lasting: Whether trying again is of no use.
        at: When, Unix seconds.
    """

    job_id: str
    error: AdePollError
    lasting: bool
    at: float


@frozen
class Delivered:
    """The consumer has taken the outcome of a job.

    Attributes:
        job_id: The job.
        at: When, Unix seconds.
    """

    job_id: str
    at: float


@frozen
class Lost:
    """The result of a job is no longer where it was; it is to be brought home again.

    Attributes:
        job_id: The job.
    """

    job_id: str


Change: TypeAlias = Seen | Settled | Fetched | GivenUp | Delivered | Lost
"""Anything that `Journal.write` takes."""
