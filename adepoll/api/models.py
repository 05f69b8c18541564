"""What the service says about jobs, as frozen attrs classes. Imports codec and below.

To add a field of the service, declare it in its class: the JSON reader is generated from it. A
field without a default must be present and readable. Any other field is None or its default if the
service does not send it or sends something else. The attribute `extra` has the JSON of fields that
adepoll does not know, could not read, or could not read completely. No `repr` shows a presigned
query or a customer's data.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Final, Self

from attrs import evolve, field, frozen

from adepoll.api import codec
from adepoll.api.json_fields import MESSAGE_TEXT, MESSAGES, NOT_IN_JSON, at_most, json_name, repeats
from adepoll.api.json_fields import from_timestamp as from_timestamp  # noqa: PLC0414 - as below
from adepoll.api.json_text import Json as Json  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_text import dumps, load_object
from adepoll.api.redacting import redacted
from adepoll.errors import JobCancelledError, JobFailedError, MalformedAnswerError
from adepoll.redaction import redact_url, showable

MAX_PAGE_SIZE: Final = 100
"""Largest number of jobs in one page of the list."""
MAX_WARNINGS: Final = 1_000
"""Largest number of warnings that are read from one job."""


class JobStatus(Enum):
    """The status of a job. `UNKNOWN` stands for a status text that this version does not know.

    Attributes:
        is_terminal: Whether a job with this status never changes again.
    """

    is_terminal: bool

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # faster than Enum's; a member is equal to itself only

    @classmethod
    def parse(cls, text: str) -> "JobStatus":
        """Return the status with that text in upper or lower case, or `UNKNOWN`."""
        return _BY_TEXT.get(text) or _BY_TEXT.get(text.strip().lower()) or cls.UNKNOWN


for _status in JobStatus:  # read at every poll, and a property of an Enum is slow
    _status.is_terminal = _status.value in {"completed", "failed", "cancelled"}
_BY_TEXT: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
_BY_TEXT["canceled"] = JobStatus.CANCELLED  # the American spelling


_SHOWN_ITEMS: Final = 20  # of an array or `extra`, so that a repr is short


def _show_keys(extra: Mapping[str, Json]) -> str:
    # The value of an unknown field can be anything, even a presigned URL.
    names = [showable(key, 40) for key in islice(extra, _SHOWN_ITEMS)]
    more = [f"{len(extra) - len(names)} more"] if len(extra) > len(names) else []
    return f"<{', '.join([*names, *more])}>" if extra else "{}"


def _show_url(url: str | None) -> str:
    return repr(None if url is None else showable(redact_url(url)))


def _show_text(text: str | None) -> str:
    return repr(None if text is None else showable(text))


def _show_first(items: tuple[object, ...]) -> str:
    rest = len(items) - _SHOWN_ITEMS
    return f"{items[:_SHOWN_ITEMS]!r}{f' and {rest} more' if rest > 0 else ''}"


def _show_size(value: Json) -> str:
    return f"<{type(value).__name__} of {len(value)}>" if hasattr(value, "__len__") else "<...>"


@frozen(kw_only=True)
class ExtractWarning:
    """A structured warning of an extraction.

    Attributes:
        code: Machine-readable kind, such as ``nonconformant_schema``; None if there is none.
        msg: Text for people; None if there is none.
    """

    code: str | None = field(default=None, repr=_show_text)
    msg: str | None = field(default=None, repr=_show_text, metadata=MESSAGE_TEXT)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class ExtractMetadata:
    """Facts about one extraction.

    Attributes:
        filename: Name of the document.
        org_id: Id of the organisation.
        duration_ms: Duration of the extraction, milliseconds.
        credit_usage: Price of the extraction, credits.
        job_id: Id of the job.
        version: The requested model snapshot.
        schema_violation_error: Why the data does not conform to the schema; None if it does.
        fallback_model_version: The model that was used after the first attempt had failed.
        warnings: Structured warnings, at most 1,000. If there are more, or one is not an object,
            `extra` has the JSON of all.
    """

    filename: str | None = field(default=None, repr=_show_text)
    org_id: str | None = field(default=None, repr=_show_text)
    duration_ms: int | None = None
    credit_usage: float | None = None
    job_id: str | None = field(default=None, repr=_show_text)
    version: str | None = field(default=None, repr=_show_text)
    schema_violation_error: str | None = field(default=None, repr=_show_text, metadata=MESSAGE_TEXT)
    fallback_model_version: str | None = field(default=None, repr=_show_text)
    warnings: tuple[ExtractWarning, ...] = field(
        default=(), repr=_show_first, metadata={**MESSAGES, **at_most(MAX_WARNINGS)}
    )
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class ExtractResult:
    """The result of an extract job.

    Attributes:
        extraction: The extracted data, in the shape of the caller's schema.
        extraction_metadata: The same shape, with the chunk references of each value; None if the
            service does not send it.
        metadata: Facts about the extraction.
    """

    extraction: Json = field(repr=_show_size)
    extraction_metadata: Json = field(default=None, repr=_show_size)
    metadata: ExtractMetadata = ExtractMetadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class JobSummary:
    """One entry of the job list. It never contains a result.

    Attributes:
        job_id: Id of the job.
        status: Status of the job when the list was made; a hint, because the list can lag behind.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say.
        created_at: When the job was created, UTC; None if the service does not say.
        progress: 0.0 until an extract job is complete, then 1.0; None if the service does not say.
        failure_reason: Why the job failed, if it did.
    """

    job_id: str = field(repr=_show_text)
    status: JobStatus
    status_text: str = field(repr=_show_text, metadata=json_name("status"))
    received_at: datetime | None = None
    progress: float | None = None
    created_at: datetime | None = None
    failure_reason: str | None = field(default=None, repr=_show_text, metadata=MESSAGE_TEXT)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)

    @property
    def is_terminal(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_terminal

    def redacted(self) -> Self:
        """Return a copy that may be logged or saved; see `JobSnapshot.redacted`."""
        return redacted(self)


@frozen(kw_only=True)
class JobPage:
    """One page of the job list.

    Attributes:
        jobs: At most 100 jobs, in no documented order. If the page has others, or some that cannot
            be read, `extra` has the JSON of all.
        has_more: Whether the service says that there are further pages.
        org_id: Id of the organisation.
    """

    jobs: tuple[JobSummary, ...] = field(repr=_show_first, metadata=at_most(MAX_PAGE_SIZE))
    has_more: bool = False
    org_id: str | None = field(default=None, repr=_show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)


@frozen(kw_only=True)
class JobSnapshot:
    """The state of a job at one poll.

    Attributes:
        job_id: Id of the job.
        status: Status of the job; `JobStatus.UNKNOWN` if this version does not know it.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say.
        created_at: When the job was created, UTC; None if the service does not say.
        progress: 0.0 until an extract job is complete, then 1.0; None if the service does not say.
        org_id: Id of the organisation.
        version: The model snapshot that was used.
        data: The result, if the response contains it (at most 1 MB).
        output_url: Where to download the result otherwise. A presigned URL, so a secret; it
            expires one hour after the poll. `ResultFetcher` handles both.
        metadata: Facts about the extraction.
        failure_reason: Why the job failed, if it did.
        conforms: False if the data does not fully conform to the caller's schema (HTTP 206); then
            `schema_violation` says why.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    job_id: str = field(repr=_show_text)
    status: JobStatus
    status_text: str = field(repr=_show_text, metadata=json_name("status"))
    received_at: datetime | None = None
    progress: float | None = None
    created_at: datetime | None = None
    org_id: str | None = field(default=None, repr=_show_text)
    version: str | None = field(default=None, repr=_show_text)
    data: ExtractResult | None = None
    output_url: str | None = field(default=None, repr=_show_url)
    metadata: ExtractMetadata | None = field(default=None, metadata=repeats("data"))
    failure_reason: str | None = field(default=None, repr=_show_text, metadata=MESSAGE_TEXT)
    conforms: bool = field(default=True, metadata=NOT_IN_JSON)
    extra: Mapping[str, Json] = field(factory=dict, repr=_show_keys)

    @property
    def is_terminal(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_terminal

    @property
    def schema_violation(self) -> str | None:
        """Why the data does not conform to the caller's schema; None if it does."""
        if self.metadata is not None and self.metadata.schema_violation_error is not None:
            return self.metadata.schema_violation_error
        return None if self.data is None else self.data.metadata.schema_violation_error

    @property
    def partial(self) -> bool:
        """Whether the job has completed, but its data does not fully conform to the schema."""
        return self.status is JobStatus.COMPLETED and not (
            self.conforms and self.schema_violation is None
        )

    def raise_for_failure(self) -> None:
        """Raise if the job failed or was cancelled; otherwise do nothing.

        Raises:
            JobFailedError: The job failed; the error contains the reason.
            JobCancelledError: The job was cancelled.
        """
        if self.status is JobStatus.FAILED:
            raise JobFailedError(job_id=self.job_id, failure_reason=self.failure_reason)
        if self.status is JobStatus.CANCELLED:
            raise JobCancelledError(job_id=self.job_id)

    def redacted(self) -> Self:
        """Return a copy that may be logged or saved, without possible secrets.

        `output_url` has no query. In all other texts and unknown fields, URLs have no query, and
        signatures and tokens are replaced. `data.extraction` and `data.extraction_metadata`, which
        are your own data, stay as they are. `ResultFetcher` accepts such a copy: it asks the
        service for a fresh URL.
        """
        return redacted(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the snapshot as JSON: the fields of the service, and `conforms`.

        The JSON is one line, or indented by `indent` spaces at each level.
        It contains the presigned `output_url`. Use ``job.redacted().to_json()`` for anything that
        other people can read.
        """
        return dumps({**codec.flatten(self), "conforms": self.conforms}, indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSnapshot":
        """Return the snapshot that `to_json` wrote.

        Raises:
            MalformedAnswerError: The text was not written by `to_json`.
        """
        raw = load_object(text)
        conforms = raw.pop("conforms", True)
        if not isinstance(conforms, bool):
            raise MalformedAnswerError(["expected a boolean @ $.conforms"])
        return evolve(codec.read(JobSnapshot, raw), conforms=conforms)
