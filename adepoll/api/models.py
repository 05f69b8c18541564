"""What the service says about jobs, as frozen attrs classes.

To add a field of the service:

1. Add an attribute to a class. The JSON reader and the writer are generated from it. The classes
   are here for a job and for the list, and in `v1_results` and `v2_results` for results and
   metadata (`_CLASSES` in `results` names those of each kind). `json_fields` has the functions for
   ``field(metadata=...)``.
2. Only if some kinds of jobs use another JSON name for this attribute: `snapshot_json.shape_of`.
3. Only if the field is a fact that jobs of several kinds have, such as the number of pages: a
   property in `facts.Facts`.
4. Only if the field should be a column of tables: `JobSnapshot.to_dict` for a field of the job, or
   `FACTS` and `facts_of` in `table_row` for a field of the metadata; and `JOB_COLUMNS` in
   `tables/job_rows.py`.
5. Only if responses of a server should contain the field: `job_as_json` in
   `server/job_responses.py`, and `JobModel` in `contrib/fastapi/models.py`.
6. `emulator/kinds/`: send the field in the emulated answers.
7. Documentation: the tables in `docs/kinds.md` and, for a column, in `docs/tables.md`.
8. Tests: `tests/api/` and, for a column, `tests/tables/`.

A field without a default must be present and readable. Any other field has its default if the
service does not send a readable value. The attribute `extra` contains the JSON of fields that
adepoll does not know, or could not read completely. No `repr` shows the query of a presigned URL,
or a customer's data.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Self

from attrs import evolve, field, frozen

from adepoll.api import codec
from adepoll.api.job_kind import KINDS_WITH_SCHEMA, JobKind
from adepoll.api.job_status import JobStatus as JobStatus  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_fields import (
    MESSAGE_TEXT,
    NOT_IN_JSON,
    NOT_WRITTEN_IF_NONE,
    OWN_DATA,
    Model,
    at_most,
    json_name,
    of_text,
    repeats,
)
from adepoll.api.json_fields import from_timestamp as from_timestamp  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_text import Json as Json  # noqa: PLC0414 - part of the models' types
from adepoll.api.json_text import dumps, load_object
from adepoll.api.received_result import KeptResult, ReceivedResult
from adepoll.api.redacting import redacted
from adepoll.api.results import JobMetadata, JobResult, WorkflowResult, result_classes
from adepoll.api.shown import show_first, show_keys, show_text, show_url
from adepoll.api.snapshot_json import shape_of, take_added_fields, with_added_fields
from adepoll.api.table_row import FACTS, RESULTS, TableRow, document_of, facts_of
from adepoll.errors import JobCancelledError, JobFailedError

MAX_PAGE_SIZE: Final = 100
"""Largest number of jobs in one page of the list."""


@frozen(kw_only=True)
class JobSummary(Model):
    """One entry of the job list. It never contains a result.

    Attributes:
        job_id: Id of the job.
        status: Status of the job when the list was made; only a hint, because lists can be late.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say.
        created_at: When the job was created, UTC; None if the service does not say.
        completed_at: When the job settled, UTC; None if the service does not say.
        progress: The service's estimate of the finished part; see `JobSnapshot.progress`.
        version: Name of the model of the job; None if the service does not say.
        failure_reason: Why the job failed; None if it did not fail or the service does not say.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        """When the service got the job, UTC: `received_at`, or `created_at` if that is None."""
        return self.created_at if self.received_at is None else self.received_at

    @property
    def is_terminal(self) -> bool:
        """True if the job has completed, has failed or was cancelled, so it cannot change again."""
        return self.status.is_terminal

    def redacted(self) -> Self:
        """Return a copy that may be logged or saved; see `JobSnapshot.redacted`."""
        return redacted(self)


@frozen(kw_only=True)
class JobPage(Model):
    """One page of the job list.

    Attributes:
        jobs: The first 100 jobs of the page, without those that cannot be read. If jobs are left
            out, `extra` contains the JSON of all jobs. The service documents an order only for v2
            jobs: the newest first.
        has_more: Whether the service says that there are further pages.
        org_id: Id of the organisation; None if the service does not say.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    jobs: tuple[JobSummary, ...] = field(repr=show_first, metadata=at_most(MAX_PAGE_SIZE))
    has_more: bool = False
    org_id: str | None = field(default=None, repr=show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class JobSnapshot(TableRow):
    """The state of a job of any kind at one poll.

    A list of snapshots can become a DataFrame: ``pandas.DataFrame(snapshots)``.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job.
        label: The caller's own name for the job; None if it has none.
        status: Status of the job; `JobStatus.UNKNOWN` if this version does not know it.
        status_text: The status as the service wrote it.
        received_at: When the service received the job, UTC; None if the service does not say, as
            for v2 jobs.
        created_at: When the job was created, UTC; None if the service does not say.
        completed_at: When the job settled, UTC; None if the service does not say, as for v1 jobs.
        progress: The service's estimate of the finished part, from 0.0 to 1.0. It can be 1.0 while
            the job is active, and less than 1.0 when the job has settled. A v1 extract job has 0.0
            until it has completed. None if the service does not say.
        org_id: Id of the organisation; None if the service does not say.
        version: Name of the model that was used; None if the service does not say.
        data: The result, if the response contains it; otherwise None. Its class depends on the
            kind; see `JobResult`. A v1 response contains a result of up to about 1 MB. For larger
            v2 results, see `data_omitted`.
        data_omitted: True if the response contained a result that is not in `data`, because the
            response was larger than the client's `inline_limit`. `ResultFetcher` fetches it.
        kept_result: The file with the result that is missing from `data`; None unless
            `data_omitted` is True and the client could write the file to its `result_dir`. The file
            is deleted when no snapshot refers to it any more.
        received_result: The bytes of `data` as the service sent them, which `ResultFetcher` writes
            to the result file. None if the bytes are not known, for example after `from_json`.
        output_url: URL from which the result can be downloaded, if the response does not contain
            the result. The presigned URL of a v1 job is a secret, and expires one hour after the
            poll; `ResultFetcher` renews it. A v2 job has a URL only if it was created with
            `output_save_url`, and that URL may not allow downloads.
        metadata: Facts about the job, if the response contains them outside of the result;
            otherwise None. The property `facts` also finds them in the result.
        failure_reason: Why the job failed; None if it did not fail or the service does not say.
        violates_schema: True if the service said that the data of a completed job does not fully
            conform to the caller's schema; see also `conforms`.
        incomplete: True if the service answered with HTTP 206 about a parse or workflow job, which
            means that pages of the document could not be parsed.
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
        default=None, repr=False, eq=False, metadata={**of_text("data", ReceivedResult), **OWN_DATA}
    )
    output_url: str | None = field(default=None, repr=show_url)
    metadata: JobMetadata | None = field(default=None, metadata=repeats("data"))
    failure_reason: str | None = field(default=None, repr=show_text, metadata=MESSAGE_TEXT)
    violates_schema: bool = field(default=False, metadata=NOT_IN_JSON)
    incomplete: bool = field(default=False, metadata=NOT_IN_JSON)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def submitted_at(self) -> datetime | None:
        """When the service got the job, UTC: `received_at`, or `created_at` if that is None."""
        return self.created_at if self.received_at is None else self.received_at

    @property
    def is_terminal(self) -> bool:
        """True if the job has completed, has failed or was cancelled, so it cannot change again."""
        return self.status.is_terminal

    @property
    def schema_violation(self) -> str | None:
        """Why the extracted data does not conform to the schema; None if no reason was sent."""
        for holder in (self.metadata, self.data, getattr(self.data, "metadata", None)):
            violation: str | None = getattr(holder, "schema_violation_error", None)
            if violation:
                return violation
        return None

    @property
    def error_code(self) -> str | None:
        """The service's code of the failure, such as ``internal_error``; None without a code."""
        for name in ("failure_reason", "error"):
            error = self.extra.get(name)
            if isinstance(error, dict) and isinstance(code := error.get("code"), str):
                return code
        return None

    @property
    def facts(self) -> JobMetadata | None:
        """The metadata of the job, or else of its result; None if both are missing."""
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
        """True if the data of an extract job fully conforms to the caller's schema, False if not.

        None if the job has not completed, or if jobs of its kind have no schema. If it is False,
        `schema_violation` can contain the reason.
        """
        if self.violates_schema:
            return False
        has_schema = self.status is JobStatus.COMPLETED and self.kind in KINDS_WITH_SCHEMA
        return True if has_schema else None

    @property
    def partial(self) -> bool:
        """True if the job has completed with a partial result.

        A result is partial if its data does not fully conform to the schema, or if pages of the
        document could not be parsed.
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

        The copy has no queries of URLs, signatures and tokens: not in `output_url`, in other texts,
        or in unknown fields. The extracted data and the Markdown stay as they are, because they are
        your own data. `ResultFetcher` accepts the copy, and gets a complete URL from the service.
        """
        shown = redacted(self)
        return shown if self.received_result is None else evolve(shown, received_result=None)

    def without_data(self) -> Self:
        """Return a copy without the result, but with the facts about the job.

        `data`, `kept_result` and `received_result` of the copy are None. Its `metadata` is `facts`:
        the metadata of the job, or else of the result. Its `partial`, `credits`, `page_count` and
        `failed_pages` are unchanged. Exception: `failed_pages` of a workflow job is empty.
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

        Times are datetimes in UTC. If `data` contains the result, one column contains it unchanged.
        The name of this column depends on the kind of the job: "extraction", "markdown" or
        "output".
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
        """Return the snapshot as JSON text: the service's fields, and those that adepoll adds.

        For every kind, the name of the result is `data`, and times are Unix timestamps, or null if
        they are unknown. A `status` that adepoll knows is in lower case; if the service wrote it
        differently, `status_text` has the service's text. `failure_reason` is a text or null; if
        the service sent an object, it is in `failure`. The text contains the secret `output_url`,
        so use ``job.redacted().to_json()`` for a text that other people can read.

        Args:
            indent: Spaces of indentation at each level; None to write all on one line.
        """
        raw = with_added_fields(
            codec.flatten(self),
            kind=self.kind,
            label=self.label,
            status=self.status,
            status_text=self.status_text,
            failure_reason=self.failure_reason,
            conforms=self.conforms,
            partial=self.partial,
            data_omitted=self.data_omitted,
            incomplete=self.incomplete,
        )
        return dumps(raw, indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSnapshot":
        """Return the snapshot that `to_json` wrote.

        In a program with an event loop, read text of unknown origin in a thread, for example with
        `asyncio.to_thread`: one megabyte can take half a second. In a thread, it does not stop the
        event loop.

        Raises:
            MalformedAnswerError: The text was not written by `to_json`.
        """
        raw = load_object(text)
        kind, added = take_added_fields(raw)
        # Shapes and their readers are cached, and the text can name any number of unknown kinds.
        known = kind if kind in JobKind.all() else JobKind.V1_EXTRACT
        shape = shape_of(known, *result_classes(kind, raw.get("data") or raw))
        return evolve(codec.read(JobSnapshot, raw, shape=shape), kind=kind, **added)
