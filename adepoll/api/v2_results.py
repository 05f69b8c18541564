"""The classes of the results and metadata of v2 jobs; see `models`."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from attrs import field, frozen

from adepoll.api.error_text import error_text
from adepoll.api.facts import MAX_FAILED_PAGES, MAX_WARNINGS, ExtractWarning, Facts
from adepoll.api.json_fields import (
    MESSAGE_TEXT,
    MESSAGES,
    NOT_WRITTEN_IF_NONE,
    OWN_DATA,
    Model,
    at_most,
    if_odd,
)
from adepoll.api.json_text import Json
from adepoll.api.shown import show_first, show_keys, show_size, show_text


@frozen(kw_only=True)
class V2Billing(Model):
    """The price of a v2 job.

    Attributes:
        service_tier: ``standard`` (minutes to hours) or ``priority`` (seconds to minutes).
        total_credits: Price of the job in credits.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    service_tier: str | None = field(default=None, repr=show_text)
    total_credits: float | None = None
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class V2Metadata(Facts):
    """Facts about a v2 job of any kind. Lengths are in characters.

    Attributes:
        job_id: Id of the job.
        model_version: Name of the model that was used.
        duration_ms: Duration of the job in milliseconds.
        page_count: Number of pages of a parsed document.
        failed_pages: Pages that could not be parsed, counted from 1. In the metadata of v1 jobs,
            pages are counted from 0.
        doc_id: Id of the document from which an extract job has extracted data.
        input_markdown_chars: Length of the Markdown from which data was extracted.
        output_markdown_chars: Length of the Markdown that a parse job produced.
        output_extraction_chars: Length of the JSON that an extract job produced.
        range_units: Unit in which the result counts positions in a text, such as
            "unicode_codepoints".
        openapi_spec: Which OpenAPI description of the service is valid for the result.
        billing: Price and service tier; None if the service does not say.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        """Name of the model that was used; None if the service does not say."""
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
class V2ParseResult(Model):
    """The result of a v2 parse job.

    Attributes:
        markdown: The whole document as Markdown. If the service sends a value that is not a text,
            `markdown` is empty, and `extra` contains that value.
        structure: JSON tree of the document: pages and elements, and where they are. None if the
            service does not send it.
        metadata: Facts about the job.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    markdown: str = field(repr=show_size, metadata={**OWN_DATA, **if_odd("")})
    structure: Json = field(default=None, repr=show_size)
    metadata: V2Metadata = V2Metadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)


@frozen(kw_only=True)
class V2ExtractResult(Model):
    """The result of a v2 extract job.

    Attributes:
        extraction: The extracted data, in the shape of the caller's schema.
        extraction_metadata: JSON of the same shape as `extraction`, with references to the places
            that each value comes from. None if the service does not send it.
        markdown: The Markdown from which the data was extracted; None if the service does not send
            it.
        schema_violation_error: Why the data does not conform to the schema; None if it conforms.
        warnings: The first 1,000 warnings that can be read, as in `ExtractMetadata`.
        metadata: Facts about the job.
        extra: JSON of fields that this version does not know or could not read, by name.
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
class WorkflowResult(Model):
    """The result of a v2 workflow job.

    Attributes:
        output: JSON object with the results of the steps, by workflow and step.
        metadata: Facts about the job.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    output: Json = field(repr=show_size)
    metadata: V2Metadata = V2Metadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)

    @property
    def schema_violation_error(self) -> str | None:
        """Why the data of a step does not conform to its schema; None if no step reports this."""
        for step in _steps(self.output):
            violation = step.get("schema_violation_error")
            if text := violation if isinstance(violation, str) else error_text(violation):
                return text
        return None

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Pages that at least one step of the workflow could not parse, counted from 0."""
        pages: set[int] = set()
        for step in _steps(self.output):
            metadata = step.get("metadata")
            listed = metadata.get("failed_pages") if isinstance(metadata, dict) else None
            if isinstance(listed, list):
                found = islice(listed, MAX_FAILED_PAGES)
                pages.update(page - 1 for page in found if type(page) is int)
        return tuple(sorted(pages))


def _steps(output: Json) -> Iterator[dict[str, Json]]:
    """Yield the results of all steps of a workflow job: the values ``output[workflow][step]``."""
    workflows = output.values() if isinstance(output, dict) else ()
    for workflow in islice(workflows, _MAX_STEPS):
        steps = workflow.values() if isinstance(workflow, dict) else ()
        for step in islice(steps, _MAX_STEPS):
            if isinstance(step, dict):
                yield step


_MAX_STEPS: Final = 100  # workflows of an output, and steps of a workflow, that are read
