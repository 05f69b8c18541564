"""What jobs produce, as frozen attrs classes. Imports job_kind and below.

A field without a default must be present and readable. Any other field is None or its default if
the service does not send it or sends something else. The attribute `extra` has the JSON of fields
that adepoll does not know, could not read, or could not read completely. No `repr` shows a
customer's data.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, TypeAlias

from attrs import field, frozen

from adepoll.api.error_text import error_text
from adepoll.api.job_kind import JobKind
from adepoll.api.json_fields import MESSAGE_TEXT, MESSAGES, NOT_WRITTEN_IF_NONE, OWN_DATA, at_most
from adepoll.api.json_text import Json
from adepoll.api.shown import show_first, show_keys, show_size, show_text

MAX_WARNINGS: Final = 1_000
"""Largest number of warnings that are read from one job."""
MAX_FAILED_PAGES: Final = 100_000
"""Largest number of failed pages that are read from one job."""


class Facts:
    """What the metadata of all kinds have in common."""

    __slots__ = ()

    @property
    def filename(self) -> str | None:
        """Name of the document; None if the service does not say."""
        return None

    @property
    def version(self) -> str | None:
        """The model that was requested or used; None if the service does not say."""
        return None

    @property
    def fallback_model_version(self) -> str | None:
        """The model that was used after the first attempt had failed; None without one."""
        return None

    @property
    def duration_ms(self) -> int | None:
        """Duration of the job in milliseconds; None if the service does not say."""
        return None

    @property
    def warnings(self) -> "tuple[ExtractWarning, ...]":
        """Structured warnings."""
        return ()

    @property
    def credits(self) -> float | None:
        """Price of the job in credits; None if the service does not say."""
        return None

    @property
    def page_count(self) -> int | None:
        """Number of pages of the document; None if the service does not say."""
        return None

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Pages that could not be parsed, counted from 0."""
        return ()


@frozen(kw_only=True)
class ExtractWarning:
    """A structured warning of an extraction.

    Attributes:
        code: Machine-readable kind, such as ``nonconformant_schema``; None if there is none.
        msg: Text for people; None if there is none.
    """

    code: str | None = field(default=None, repr=show_text, metadata=NOT_WRITTEN_IF_NONE)
    msg: str | None = field(
        default=None, repr=show_text, metadata={**MESSAGE_TEXT, **NOT_WRITTEN_IF_NONE}
    )
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class ExtractMetadata(Facts):
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

    filename: str | None = field(default=None, repr=show_text)
    org_id: str | None = field(default=None, repr=show_text)
    duration_ms: int | None = None
    credit_usage: float | None = None
    job_id: str | None = field(default=None, repr=show_text)
    version: str | None = field(default=None, repr=show_text)
    schema_violation_error: str | None = field(default=None, repr=show_text, metadata=MESSAGE_TEXT)
    fallback_model_version: str | None = field(default=None, repr=show_text)
    warnings: tuple[ExtractWarning, ...] = field(
        default=(), repr=show_first, metadata={**MESSAGES, **at_most(MAX_WARNINGS)}
    )
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def credits(self) -> float | None:
        """As `credit_usage`."""
        return self.credit_usage


@frozen(kw_only=True)
class ExtractResult:
    """The result of a v1 extract job.

    Attributes:
        extraction: The extracted data, in the shape of the caller's schema.
        extraction_metadata: The same shape, with the chunk references of each value; None if the
            service does not send it.
        metadata: Facts about the extraction.
    """

    extraction: Json = field(repr=show_size)
    extraction_metadata: Json = field(default=None, repr=show_size)
    metadata: ExtractMetadata = ExtractMetadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class ParseMetadata(Facts):
    """Facts about one parsed document.

    Attributes:
        filename: Name of the document.
        org_id: Id of the organisation.
        page_count: Number of pages of the document.
        duration_ms: Duration of the job, milliseconds.
        credit_usage: Price of the job, credits.
        job_id: Id of the job.
        version: The model snapshot that was used.
        failed_pages: Pages that could not be parsed, counted from 0.
    """

    filename: str | None = field(default=None, repr=show_text)
    org_id: str | None = field(default=None, repr=show_text)
    page_count: int | None = None
    duration_ms: int | None = None
    credit_usage: float | None = None
    job_id: str | None = field(default=None, repr=show_text)
    version: str | None = field(default=None, repr=show_text)
    failed_pages: tuple[int, ...] = field(
        default=(),
        repr=show_first,
        metadata={**at_most(MAX_FAILED_PAGES), **NOT_WRITTEN_IF_NONE},
    )
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def credits(self) -> float | None:
        """As `credit_usage`."""
        return self.credit_usage

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """As `failed_pages`."""
        return self.failed_pages


@frozen(kw_only=True)
class ParseResult:
    """The result of a v1 parse job for a document.

    Attributes:
        markdown: The whole document as Markdown.
        chunks: JSON array of its parts, each with ``id``, ``type``, ``markdown`` and ``grounding``.
        splits: JSON array of its splits, each with ``class``, ``identifier``, ``pages``,
            ``markdown`` and the ids of its ``chunks``.
        grounding: JSON object: the place of each chunk and table cell, by id.
        metadata: Facts about the document.
    """

    markdown: str = field(repr=show_size, metadata=OWN_DATA)
    chunks: Json = field(default=None, repr=show_size)
    splits: Json = field(default=None, repr=show_size)
    grounding: Json = field(default=None, repr=show_size)
    metadata: ParseMetadata = ParseMetadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class SpreadsheetParseMetadata(Facts):
    """Facts about one parsed spreadsheet.

    Attributes:
        filename: Name of the spreadsheet.
        org_id: Id of the organisation.
        sheet_count: Number of sheets.
        total_rows: Number of rows of all sheets.
        total_cells: Number of cells of all sheets.
        total_chunks: Number of chunks.
        total_images: Number of images.
        duration_ms: Duration of the job, milliseconds.
        credit_usage: Price of the job, credits.
        job_id: Id of the job.
        version: The model snapshot that was used.
    """

    filename: str | None = field(default=None, repr=show_text)
    org_id: str | None = field(default=None, repr=show_text)
    sheet_count: int | None = None
    total_rows: int | None = None
    total_cells: int | None = None
    total_chunks: int | None = None
    total_images: int | None = None
    duration_ms: int | None = None
    credit_usage: float | None = None
    job_id: str | None = field(default=None, repr=show_text)
    version: str | None = field(default=None, repr=show_text)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def credits(self) -> float | None:
        """As `credit_usage`."""
        return self.credit_usage


@frozen(kw_only=True)
class SpreadsheetParseResult:
    """The result of a v1 parse job for a spreadsheet.

    Attributes:
        markdown: The whole spreadsheet as Markdown.
        chunks: JSON array of its parts, each with ``id``, ``type`` and ``markdown``.
        splits: JSON array of its splits, with ``sheets`` instead of ``pages``.
        metadata: Facts about the spreadsheet.
    """

    markdown: str = field(repr=show_size, metadata=OWN_DATA)
    chunks: Json = field(default=None, repr=show_size)
    splits: Json = field(default=None, repr=show_size)
    metadata: SpreadsheetParseMetadata = SpreadsheetParseMetadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class V2Billing:
    """The price of a v2 job.

    Attributes:
        service_tier: ``standard`` (minutes to hours) or ``priority`` (seconds to minutes).
        total_credits: Price of the job, credits.
    """

    service_tier: str | None = field(default=None, repr=show_text)
    total_credits: float | None = None
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class V2Metadata(Facts):
    """Facts about a v2 job of any kind. Lengths are in characters.

    Attributes:
        job_id: Id of the job.
        model_version: The model that was used.
        duration_ms: Duration of the job, milliseconds.
        page_count: Number of pages of a parsed document.
        failed_pages: Pages that could not be parsed, counted from 1, unlike those of v1.
        doc_id: Id of the document that was extracted from.
        input_markdown_chars: Length of the input of an extraction.
        output_markdown_chars: Length of the Markdown that a parse job produced.
        output_extraction_chars: Length of the JSON that an extraction produced.
        range_units: Unit of the ranges in the result.
        openapi_spec: Version of the service's description.
        billing: Price and service tier; None if the service does not say.
    """

    job_id: str | None = field(default=None, repr=show_text)
    model_version: str | None = field(default=None, repr=show_text, metadata=NOT_WRITTEN_IF_NONE)
    duration_ms: int | None = None
    page_count: int | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    failed_pages: tuple[int, ...] = field(
        default=(),
        repr=show_first,
        metadata={**at_most(MAX_FAILED_PAGES), **NOT_WRITTEN_IF_NONE},
    )
    doc_id: str | None = field(default=None, repr=show_text, metadata=NOT_WRITTEN_IF_NONE)
    input_markdown_chars: int | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    output_markdown_chars: int | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    output_extraction_chars: int | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    range_units: str | None = field(default=None, repr=show_text, metadata=NOT_WRITTEN_IF_NONE)
    openapi_spec: str | None = field(default=None, repr=show_text)
    billing: V2Billing | None = field(default=None, metadata=NOT_WRITTEN_IF_NONE)
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def version(self) -> str | None:
        """As `model_version`."""
        return self.model_version

    @property
    def credits(self) -> float | None:
        """Price of the job in credits; None if the service does not say."""
        return None if self.billing is None else self.billing.total_credits

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Pages that could not be parsed, counted from 0."""
        return tuple([page - 1 for page in self.failed_pages])


@frozen(kw_only=True)
class V2ParseResult:
    """The result of a v2 parse job.

    Attributes:
        markdown: The whole document as Markdown.
        structure: JSON tree of the document: pages, elements, and their places.
        metadata: Facts about the job.
    """

    markdown: str = field(repr=show_size, metadata=OWN_DATA)
    structure: Json = field(default=None, repr=show_size)
    metadata: V2Metadata = V2Metadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class V2ExtractResult:
    """The result of a v2 extract job.

    Attributes:
        extraction: The extracted data, in the shape of the caller's schema.
        extraction_metadata: The same shape, with the references of each value.
        markdown: The input of the extraction, which the service repeats.
        schema_violation_error: Why the data does not conform to the schema; None if it does.
        warnings: Structured warnings, at most 1,000, as in `ExtractMetadata`.
        metadata: Facts about the job.
    """

    extraction: Json = field(repr=show_size)
    extraction_metadata: Json = field(default=None, repr=show_size)
    markdown: str | None = field(default=None, repr=show_size, metadata=OWN_DATA)
    schema_violation_error: str | None = field(
        default=None, repr=show_text, metadata={**MESSAGE_TEXT, **NOT_WRITTEN_IF_NONE}
    )
    warnings: tuple[ExtractWarning, ...] = field(
        default=(), repr=show_first, metadata={**MESSAGES, **at_most(MAX_WARNINGS)}
    )
    metadata: V2Metadata = V2Metadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class WorkflowResult:
    """The result of a v2 workflow job.

    Attributes:
        output: JSON of what the steps of the workflow produced.
        metadata: Facts about the job.
    """

    output: Json = field(repr=show_size)
    metadata: V2Metadata = V2Metadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def schema_violation_error(self) -> str | None:
        """Why the data of a step does not conform to its schema; None if it does."""
        for step in _steps(self.output):
            if (violation := step.get("schema_violation_error")) is not None:
                return violation if isinstance(violation, str) else error_text(violation)
        return None

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Pages that could not be parsed in a step, counted from 0."""
        pages: set[int] = set()
        for step in _steps(self.output):
            metadata = step.get("metadata")
            listed = metadata.get("failed_pages") if isinstance(metadata, dict) else None
            if isinstance(listed, list):
                found = islice(listed, MAX_FAILED_PAGES)
                pages.update(page - 1 for page in found if type(page) is int)
        return tuple(sorted(pages))


def _steps(output: Json) -> Iterator[dict[str, Json]]:
    """Yield the results of the steps, which are in the output by workflow and step."""
    workflows = output.values() if isinstance(output, dict) else ()
    for workflow in islice(workflows, _MAX_STEPS):
        steps = workflow.values() if isinstance(workflow, dict) else ()
        for step in islice(steps, _MAX_STEPS):
            if isinstance(step, dict):
                yield step


_MAX_STEPS: Final = 100

JobResult: TypeAlias = (
    ExtractResult
    | ParseResult
    | SpreadsheetParseResult
    | V2ParseResult
    | V2ExtractResult
    | WorkflowResult
)
"""What a job of any kind produces; `match` tells the classes apart."""

JobMetadata: TypeAlias = ExtractMetadata | ParseMetadata | SpreadsheetParseMetadata | V2Metadata
"""Facts about a job of any kind."""


def result_classes(kind: JobKind, result: Json) -> tuple[type, type]:
    """Return the classes of a result and of its metadata.

    Args:
        kind: Kind of the job.
        result: The result, as parsed JSON; without one, the job's own JSON, for its metadata.
    """
    if kind == JobKind.V1_PARSE:
        facts = result.get("metadata") if isinstance(result, dict) else None
        if isinstance(facts, dict) and "sheet_count" in facts:
            return SpreadsheetParseResult, SpreadsheetParseMetadata
    return _CLASSES.get(kind, _UNKNOWN)


_CLASSES: Final[Mapping[JobKind, tuple[type, type]]] = {
    JobKind.V1_EXTRACT: (ExtractResult, ExtractMetadata),
    JobKind.V1_PARSE: (ParseResult, ParseMetadata),
    JobKind.V2_PARSE: (V2ParseResult, V2Metadata),
    JobKind.V2_EXTRACT: (V2ExtractResult, V2Metadata),
    JobKind.V2_WORKFLOW: (WorkflowResult, V2Metadata),
}
_UNKNOWN: Final[tuple[type, type]] = (object, V2Metadata)  # the result stays parsed JSON
