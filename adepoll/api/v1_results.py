"""The classes of the results and metadata of v1 jobs; see `models`."""

from collections.abc import Mapping

from attrs import field, frozen

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
class ExtractMetadata(Facts):
    """Facts about one extraction.

    Attributes:
        filename: Name of the document.
        org_id: Id of the organisation.
        duration_ms: Duration of the extraction in milliseconds.
        credit_usage: Price of the extraction in credits.
        job_id: Id of the job.
        version: Name of the requested model.
        schema_violation_error: Why the data does not conform to the schema; None if it conforms.
        fallback_model_version: Name of the model that was used after the requested model had
            failed; None if it had not failed.
        warnings: The first 1,000 warnings that can be read. If warnings are left out, `extra`
            contains the JSON of all warnings.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        """Price of the job in credits; None if the service does not say."""
        return self.credit_usage


@frozen(kw_only=True)
class ExtractResult(Model):
    """The result of a v1 extract job.

    Attributes:
        extraction: The extracted data, in the shape of the caller's schema.
        extraction_metadata: JSON of the same shape as `extraction`, with references to the chunks
            that each value comes from. None if the service does not send it.
        metadata: Facts about the extraction.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        duration_ms: Duration of the job in milliseconds.
        credit_usage: Price of the job in credits.
        job_id: Id of the job.
        version: Name of the model that was used.
        failed_pages: Pages that could not be parsed, counted from 0.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        """Price of the job in credits; None if the service does not say."""
        return self.credit_usage

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Pages that could not be parsed, counted from 0."""
        return self.failed_pages


@frozen(kw_only=True)
class ParseResult(Model):
    """The result of a v1 parse job for a document.

    Attributes:
        markdown: The whole document as Markdown. If the service sends a value that is not a text,
            `markdown` is empty, and `extra` contains that value.
        chunks: JSON array of the parts of the document, each with ``id``, ``type``, ``markdown``
            and ``grounding``; None if the service does not send it.
        splits: JSON array of the splits of the document, each with ``class``, ``identifier``,
            ``pages``, ``markdown`` and the ids of its ``chunks``; None if the service does not send
            it.
        grounding: JSON object with the place in the document of each chunk and table cell, by id;
            None if the service does not send it.
        metadata: Facts about the document.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    markdown: str = field(repr=show_size, metadata={**OWN_DATA, **if_odd("")})
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
        duration_ms: Duration of the job in milliseconds.
        credit_usage: Price of the job in credits.
        job_id: Id of the job.
        version: Name of the model that was used.
        extra: JSON of fields that this version does not know or could not read, by name.
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
        """Price of the job in credits; None if the service does not say."""
        return self.credit_usage


@frozen(kw_only=True)
class SpreadsheetParseResult(Model):
    """The result of a v1 parse job for a spreadsheet.

    Attributes:
        markdown: The whole spreadsheet as Markdown, as in `ParseResult`.
        chunks: JSON array of the parts of the spreadsheet, each with ``id``, ``type`` and
            ``markdown``; None if the service does not send it.
        splits: JSON array as in `ParseResult`, but with ``sheets`` instead of ``pages``; None if
            the service does not send it.
        metadata: Facts about the spreadsheet.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    markdown: str = field(repr=show_size, metadata={**OWN_DATA, **if_odd("")})
    chunks: Json = field(default=None, repr=show_size)
    splits: Json = field(default=None, repr=show_size)
    metadata: SpreadsheetParseMetadata = SpreadsheetParseMetadata()
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)
