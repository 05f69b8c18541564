"""What the service says about jobs, as frozen attrs classes. Imports codec, results and below.

To add a field of the service, declare it in its class: the JSON reader is generated from it. The
classes of results and of their metadata are in `v1_results` and `v2_results`, all others here. A
field without a default must be present and readable. Any other field is None or its default if the
service does not send it or sends something else. The attribute `extra` has the JSON of fields that
adepoll does not know, could not read, or could not read completely. No `repr` shows a presigned
query or a customer's data. A kind of jobs can write a field under another name; `kinds` says which.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, Self

from attrs import evolve, field, frozen

from adepoll.api import codec
from adepoll.api.job_kind import JobKind
from adepoll.api.job_status import JobStatus as JobStatus  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_fields import (
    MESSAGE_TEXT,
    NOT_IN_JSON,
    NOT_WRITTEN_IF_NONE,
    OWN_DATA,
    Shape,
    at_most,
    json_name,
    repeats,
)
from adepoll.api.json_fields import from_timestamp as from_timestamp  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_text import Json as Json  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_text import dumps, load_object
from adepoll.api.received_result import KeptResult, ReceivedResult
from adepoll.api.redacting import redacted
from adepoll.api.results import JobMetadata, JobResult, WorkflowResult, result_classes
from adepoll.api.shown import show_first, show_keys, show_text, show_url
from adepoll.api.table_row import FACTS, RESULTS, TableRow, document_of, facts_of
from adepoll.errors import JobCancelledError, JobFailedError, MalformedAnswerError

MAX_PAGE_SIZE: Final = 100
"""Largest number of jobs in one page of the list."""


@frozen(kw_only=True)
class JobSummary:
    """One entry of the job list. It never contains a result.

    Attributes:
        job_id: Id of the job.
        status: Status of the job when the list was made; a hint, because the list can lag behind.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say.
        created_at: When the job was created, UTC; None if the service does not say.
        completed_at: When the job settled, UTC; None if the service does not say.
        progress: As in `JobSnapshot`.
        version: The model of the job.
        failure_reason: Why the job failed, if it did.
    """

    job_id: str = field(repr=show_text)
    status: JobStatus
    status_text: str = field(repr=show_text, metadata=json_name("status"))
    received_at: datetime | None = None
    progress: float | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    version: str | None = field(
        default=None, repr=show_text, metadata={**json_name("model_version"), **NOT_WRITTEN_IF_NONE}
    )
    failure_reason: str | None = field(default=None, repr=show_text, metadata=MESSAGE_TEXT)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def submitted_at(self) -> datetime | None:
        """When the service got the job, UTC: `received_at`, or else `created_at`."""
        return self.created_at if self.received_at is None else self.received_at

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

    jobs: tuple[JobSummary, ...] = field(repr=show_first, metadata=at_most(MAX_PAGE_SIZE))
    has_more: bool = False
    org_id: str | None = field(default=None, repr=show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class JobSnapshot(TableRow):
    """The state of a job of any kind at one poll. A list of them can become a DataFrame.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job.
        label: The caller's own name for the job; None without one.
        status: Status of the job; `JobStatus.UNKNOWN` if this version does not know it.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say, as
            for v2 jobs.
        created_at: When the job was created, UTC; None if the service does not say.
        completed_at: When the job settled, UTC; None if the service does not say, as for v1 jobs.
        progress: An estimate between 0.0 and 1.0, which can be 1.0 while the job is active, and
            need not reach 1.0. An extract job of v1 has 0.0 until it is complete. None if the
            service does not say.
        org_id: Id of the organisation.
        version: The model snapshot that was used.
        data: The result, if the response contains it: a class for each kind, which
            `match` distinguishes. A v1 response contains results of up to about 1 MB; see also
            `data_omitted`.
        data_omitted: True if the response contained a result that was too large to be kept in
            memory. `ResultFetcher` fetches it.
        kept_result: The bytes of that result, if the client has a `result_dir` and they could be
            written. The file is deleted with the last snapshot that refers to it.
        received_result: The bytes of `data` as the service has sent them, which `ResultFetcher`
            writes; None if they are not known, as in a copy that was saved.
        output_url: Where to download the result if the response does not contain it. This is a
            presigned URL, so it is a secret, and it expires one hour after the poll;
            `ResultFetcher` renews it. A v2 job has a URL only if it was created with
            `output_save_url`, and that URL may not be readable.
        metadata: Facts about the job.
        failure_reason: Why the job failed, if it did.
        violates_schema: True if the service said that the data of a completed job does not fully
            conform to the caller's schema; see `conforms`.
        incomplete: True if the service said that pages of the document could not be parsed (HTTP
            206).
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    job_id: str = field(repr=show_text)
    kind: JobKind = field(default=JobKind.V1_EXTRACT, repr=str, metadata=NOT_IN_JSON)
    label: str | None = field(default=None, repr=show_text, metadata=NOT_IN_JSON)
    status: JobStatus
    status_text: str = field(repr=show_text, metadata=json_name("status"))
    received_at: datetime | None = None
    progress: float | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    org_id: str | None = field(default=None, repr=show_text)
    version: str | None = field(default=None, repr=show_text)
    data: JobResult | None = None
    data_omitted: bool = field(default=False, metadata=NOT_IN_JSON)
    kept_result: KeptResult | None = field(default=None, repr=False, eq=False, metadata=NOT_IN_JSON)
    received_result: ReceivedResult | None = field(
        default=None, repr=False, eq=False, metadata={**NOT_IN_JSON, **OWN_DATA}
    )
    output_url: str | None = field(default=None, repr=show_url)
    metadata: JobMetadata | None = field(default=None, metadata=repeats("data"))
    failure_reason: str | None = field(default=None, repr=show_text, metadata=MESSAGE_TEXT)
    violates_schema: bool = field(default=False, metadata=NOT_IN_JSON)
    incomplete: bool = field(default=False, metadata=NOT_IN_JSON)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def submitted_at(self) -> datetime | None:
        """When the service got the job, UTC: `received_at`, or else `created_at`."""
        return self.created_at if self.received_at is None else self.received_at

    @property
    def is_terminal(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_terminal

    @property
    def schema_violation(self) -> str | None:
        """Why the data does not conform to the caller's schema; None if it does."""
        for holder in (self.metadata, self.data, getattr(self.data, "metadata", None)):
            violation: str | None = getattr(holder, "schema_violation_error", None)
            if violation:
                return violation
        return None

    @property
    def error_code(self) -> str | None:
        """The service's code of the failure, such as ``internal_error``; None without one."""
        for name in ("failure_reason", "error"):
            error = self.extra.get(name)
            if isinstance(error, dict) and isinstance(code := error.get("code"), str):
                return code
        return None

    @property
    def facts(self) -> JobMetadata | None:
        """The metadata of the job, or of its result in `data`; None if there is neither."""
        if self.metadata is not None:
            return self.metadata
        facts: JobMetadata | None = getattr(self.data, "metadata", None)
        return facts

    @property
    def credits(self) -> float | None:
        """Price of the job in credits; None if the service does not say."""
        return None if (facts := self.facts) is None else facts.credits

    @property
    def page_count(self) -> int | None:
        """Number of pages of the document; None if the service does not say."""
        return None if (facts := self.facts) is None else facts.page_count

    @property
    def failed_pages(self) -> tuple[int, ...]:
        """Pages that could not be parsed, counted from 0 for every kind."""
        if isinstance(self.data, WorkflowResult):
            return self.data.failed_page_indexes
        return () if (facts := self.facts) is None else facts.failed_page_indexes

    @property
    def conforms(self) -> bool | None:
        """Whether the data of an extract job fully conforms to the caller's schema.

        If not, `schema_violation` says why, if the service does. None unless the job has completed,
        and for kinds without a schema.
        """
        if self.violates_schema:
            return False
        has_schema = self.status is JobStatus.COMPLETED and self.kind in _WITH_SCHEMA
        return True if has_schema else None

    @property
    def partial(self) -> bool:
        """Whether the job has completed, but not with all that was asked for.

        That is: the data does not conform to the schema, or pages could not be parsed.
        """
        return self.status is JobStatus.COMPLETED and (
            self.violates_schema
            or self.incomplete
            or self.schema_violation is not None
            or bool(self.failed_pages)
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
        signatures and tokens are replaced. The extracted data and the Markdown, which are your own
        data, stay as they are. `ResultFetcher` accepts such a copy: it asks the service for a fresh
        URL.
        """
        shown = redacted(self)
        return shown if self.received_result is None else evolve(shown, received_result=None)

    def without_data(self) -> Self:
        """Return a copy without the result, in memory or kept in a file, but with its facts.

        `metadata` has the metadata of the result, and `partial`, `credits`, `page_count` and
        `failed_pages` stay the same; only the failed pages of a workflow are not listed any more.
        """
        return evolve(
            self,
            data=None,
            kept_result=None,
            received_result=None,
            metadata=self.facts,
            violates_schema=self.violates_schema
            or (self.status is JobStatus.COMPLETED and self.schema_violation is not None),
            incomplete=self.incomplete or bool(self.failed_pages),
        )

    def to_dict(self) -> dict[str, Json]:
        """Return the columns of the job for a table, as in docs/tables.md, without `output_url`.

        Times are datetimes in UTC. The result is not flattened: "extraction", "markdown" and
        "output" have it if it is in `data`, depending on the kind of the job.
        """
        known = self.status is not JobStatus.UNKNOWN
        return {
            "job_id": self.job_id,
            "label": self.label,
            "kind": self.kind.name,
            "status": self.status.value if known else self.status_text,
            "received_at": self.received_at,
            "created_at": self.created_at,
            "completed_at": self.completed_at,
            **dict(zip(FACTS, facts_of(self), strict=True)),
            "failure": self.failure_reason,
            "document": document_of(self),
            **{name: getattr(self.data, name, None) for name in RESULTS},
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the snapshot as JSON: the fields of the service, and what adepoll adds to them.

        The JSON is one line, or indented by `indent` spaces at each level. For every kind, the
        result is called `data`, and times are Unix timestamps. It contains the presigned
        `output_url`. Use ``job.redacted().to_json()`` for anything that other people can read.
        """
        added: dict[str, Json] = {"conforms": self.conforms, "kind": self.kind.name}
        if self.label is not None:
            added["label"] = self.label
        for name in _FLAGS:
            if getattr(self, name):
                added[name] = True
        if JobStatus.parse(self.status_text) is not self.status:
            added["status"] = self.status.value  # the text is that of a kind of your own
        sent = codec.flatten(self)
        # A field of the service with one of these names would be taken for what adepoll has added.
        sent = {name: value for name, value in sent.items() if name not in _ADDED}
        return dumps({**sent, **added}, indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSnapshot":
        """Return the snapshot that `to_json` wrote.

        Raises:
            MalformedAnswerError: The text was not written by `to_json`.
        """
        raw = load_object(text)
        name = raw.pop("kind", JobKind.V1_EXTRACT.name)
        added: dict[str, Json] = {"label": raw.pop("label", None)}
        added |= {flag: raw.pop(flag, False) for flag in _FLAGS}
        conforms = raw.pop("conforms", None)
        problems = [
            f"expected {what} @ $.{name}"
            for name, what, is_right in (
                ("kind", "a string", isinstance(name, str)),
                ("label", "a string", isinstance(added["label"], str | None)),
                ("conforms", "a boolean", isinstance(conforms, bool | None)),
                *((flag, "a boolean", isinstance(added[flag], bool)) for flag in _FLAGS),
            )
            if not is_right
        ]
        if problems:
            raise MalformedAnswerError(problems)
        kind = JobKind(str(name))
        shape = shape_of(kind, *result_classes(kind, raw.get("data") or raw))
        snapshot = codec.read(JobSnapshot, raw, shape=shape)
        return evolve(snapshot, violates_schema=conforms is False, **added)


_FLAGS: Final = ("data_omitted", "incomplete")
_ADDED: Final = frozenset({"conforms", "kind", "label", *_FLAGS})


@cache
def shape_of(kind: JobKind, result: type, metadata: type) -> Shape:
    """Return the JSON shape of a snapshot whose result and metadata have these classes.

    For `object`, `data` stays parsed JSON.
    """
    types: dict[str, Any] = {"data": Json if result is object else result, "metadata": metadata}
    defaults: dict[str, Any] = {"kind": kind}
    if kind in _V2:
        # `error` is an object. Older answers have a text, under the declared name.
        names = {"data": "result", "failure_reason": "error"}
        return Shape(types=types, names=names, defaults={**defaults, "job_id": ""})
    return Shape(types=types, defaults=defaults)


_WITH_SCHEMA: Final = {JobKind.V1_EXTRACT, JobKind.V2_EXTRACT}
_V2: Final = {JobKind.V2_PARSE, JobKind.V2_EXTRACT, JobKind.V2_WORKFLOW}
