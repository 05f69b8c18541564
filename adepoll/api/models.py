"""What the service tells, as frozen attrs classes with Pythonic types. Imports errors only.

Every class keeps the fields that adepoll does not know yet in `extra`, and no `repr` shows a
presigned query or a customer's data.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Self, TypeAlias

from attrs import evolve, field, frozen

from adepoll.errors import JobCancelledError, JobFailedError
from adepoll.redaction import redact_url, showable

Json: TypeAlias = Any
"""JSON of a shape that only the caller's own schema knows."""


class JobStatus(Enum):
    """Where a job stands. `UNKNOWN` is a status string that this version has not heard of.

    Attributes:
        is_terminal: Whether the job will never change again.
    """

    is_terminal: bool

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # a member is only equal to itself, and Enum's own is slow

    @classmethod
    def parse(cls, text: str) -> "JobStatus":
        """Give the status of that text, `UNKNOWN` for one that is not documented."""
        status = _BY_TEXT.get(text)
        return cls.UNKNOWN if status is None else status


for _status in JobStatus:  # asked at every look, and a property of an Enum is slow
    _status.is_terminal = _status.value in {"completed", "failed", "cancelled"}
_BY_TEXT: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}


def _show_keys(extra: Mapping[str, Json]) -> str:
    # A field nobody knows may hold anything, a presigned URL too: only its name is shown.
    return f"<{', '.join(showable(key, 40) for key in extra)}>" if extra else "{}"


def _show_url(url: str | None) -> str:
    return repr(None if url is None else showable(redact_url(url)))


def _show_text(text: str | None) -> str:
    return repr(None if text is None else showable(text))


def _show_size(value: Json) -> str:
    return f"<{type(value).__name__} of {len(value)}>" if hasattr(value, "__len__") else "<...>"


@frozen(kw_only=True)
class ExtractWarning:
    """One structured warning of an extraction.

    Attributes:
        code: What kind, such as ``nonconformant_schema``; None where none is given.
        msg: What a person should read.
    """

    code: str | None = None
    msg: str = field(repr=_show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class ExtractMetadata:
    """How an extraction went.

    Attributes:
        filename: Name of the document.
        org_id: The organisation.
        duration_ms: How long the extraction took, in milliseconds.
        credit_usage: What it cost, in credits.
        job_id: The job.
        version: The model snapshot asked for.
        schema_violation_error: Why the data does not conform to the schema; None: it conforms.
        fallback_model_version: The model really used, when the first attempt failed.
        warnings: Structured warnings.
    """

    filename: str
    org_id: str | None
    duration_ms: int
    credit_usage: float
    job_id: str
    version: str | None
    schema_violation_error: str | None = field(default=None, repr=_show_text)
    fallback_model_version: str | None = None
    warnings: tuple[ExtractWarning, ...] = ()
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class ExtractResult:
    """The result of an extract job.

    Attributes:
        extraction: The extracted key-value pairs, of the shape that the caller's schema asked for.
        extraction_metadata: The same shape, with the chunk references of every value.
        metadata: How the extraction went.
    """

    extraction: Json = field(repr=_show_size)
    extraction_metadata: Json = field(repr=_show_size)
    metadata: ExtractMetadata
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class JobSummary:
    """One line of the list of jobs. It never carries a result.

    Attributes:
        job_id: The job.
        status: Where it stood when the list was made; a hint, for the list can lag.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, aware, UTC.
        created_at: When the job was created, aware, UTC; None where the service does not say.
        progress: 0.0 not complete, 1.0 complete; nothing in between for extract jobs.
        failure_reason: What went wrong, if the job failed.
    """

    job_id: str
    status: JobStatus
    status_text: str = field(repr=_show_text)
    received_at: datetime
    progress: float
    created_at: datetime | None = None
    failure_reason: str | None = field(default=None, repr=_show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)

    @property
    def is_terminal(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_terminal


@frozen(kw_only=True)
class JobPage:
    """One page of the list of jobs.

    Attributes:
        jobs: At most `page_size` of them, in no documented order.
        has_more: Whether the service says that there are further pages.
        org_id: The organisation.
    """

    jobs: tuple[JobSummary, ...]
    has_more: bool = False
    org_id: str | None = None
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class JobSnapshot:
    """What one look at a job saw.

    Attributes:
        job_id: The job.
        status: Where it stood; `JobStatus.UNKNOWN` for a status this version has not heard of.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, aware, UTC.
        created_at: When the job was created, aware, UTC; None where the service does not say.
        progress: 0.0 not complete, 1.0 complete; nothing in between for extract jobs.
        org_id: The organisation.
        version: The exact model snapshot used.
        data: The result, where it came inline (at most 1 MB).
        output_url: Where to download the result otherwise. Presigned, so a secret, and dead one
            hour after this look; `ResultFetcher` deals with both.
        metadata: How the extraction went.
        failure_reason: What went wrong, if the job failed.
        conforms: False where the data does not fully conform to the caller's schema (HTTP 206);
            `schema_violation` says why.
        extra: Fields that this version does not know.
    """

    job_id: str
    status: JobStatus
    status_text: str = field(repr=_show_text)
    received_at: datetime
    progress: float
    created_at: datetime | None = None
    org_id: str | None = None
    version: str | None = None
    data: ExtractResult | None = None
    output_url: str | None = field(default=None, repr=_show_url)
    metadata: ExtractMetadata | None = None
    failure_reason: str | None = field(default=None, repr=_show_text)
    conforms: bool = True
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)

    @property
    def is_terminal(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_terminal

    @property
    def schema_violation(self) -> str | None:
        """Why the data does not conform to the caller's schema; None where it does."""
        if self.metadata is not None and self.metadata.schema_violation_error is not None:
            return self.metadata.schema_violation_error
        return None if self.data is None else self.data.metadata.schema_violation_error

    def raise_for_failure(self) -> None:
        """Do nothing unless the job ended badly.

        Raises:
            JobFailedError: It failed; the error carries the reason.
            JobCancelledError: It was cancelled.
        """
        if self.status is JobStatus.FAILED:
            raise JobFailedError(job_id=self.job_id, failure_reason=self.failure_reason)
        if self.status is JobStatus.CANCELLED:
            raise JobCancelledError(job_id=self.job_id)

    def redacted(self) -> Self:
        """Give a copy that may be logged or written down: `output_url` without its query.

        `ResultFetcher` takes such a copy all the same: it asks the service for a fresh URL.
        """
        return (
            self
            if self.output_url is None
            else evolve(self, output_url=redact_url(self.output_url))
        )

    def to_json(self) -> str:
        """Give the snapshot as one line of JSON, in the shape of the service, plus `conforms`.

        The presigned `output_url` is in it, so that nothing is lost on the way; use
        ``job.redacted().to_json()`` for anything that others may read.
        """
        from adepoll.api import codec  # noqa: PLC0415 - wire knows the models; only these two methods look back

        return codec.encode_job(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSnapshot":
        """Read back what `to_json` wrote.

        Raises:
            MalformedAnswerError: It is not that.
        """
        from adepoll.api import codec  # noqa: PLC0415 - as in to_json

        return codec.decode_saved_job(text)


def from_timestamp(seconds: float) -> datetime:
    """Give the aware UTC time of a Unix timestamp in seconds."""
    return _EPOCH + timedelta(0, seconds)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
