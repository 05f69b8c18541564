"""What jobs produce: the result and metadata of each kind. Imports v1_results and v2_results.

To add a field, add an attribute to its class in those modules: its reader is generated.
A field without a default must be present and readable. Any other field is None or its default if
the service does not send it or sends something else. The attribute `extra` has the JSON of fields
that adepoll does not know, could not read, or could not read completely. No `repr` shows a
customer's data.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from adepoll.api.facts import ExtractWarning
from adepoll.api.job_kind import JobKind
from adepoll.api.json_text import Json
from adepoll.api.v1_results import (
    ExtractMetadata,
    ExtractResult,
    ParseMetadata,
    ParseResult,
    SpreadsheetParseMetadata,
    SpreadsheetParseResult,
)
from adepoll.api.v2_results import (
    V2Billing,
    V2ExtractResult,
    V2Metadata,
    V2ParseResult,
    WorkflowResult,
)

__all__ = [
    "ExtractMetadata",
    "ExtractResult",
    "ExtractWarning",
    "JobMetadata",
    "JobResult",
    "ParseMetadata",
    "ParseResult",
    "SpreadsheetParseMetadata",
    "SpreadsheetParseResult",
    "V2Billing",
    "V2ExtractResult",
    "V2Metadata",
    "V2ParseResult",
    "WorkflowResult",
    "result_classes",
]

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
    if kind == JobKind.V1_PARSE and is_of_spreadsheet(result):
        return SpreadsheetParseResult, SpreadsheetParseMetadata
    return _CLASSES.get(kind, _UNKNOWN)


def is_of_spreadsheet(result: Json) -> bool:
    """Return whether the result of a v1 parse job, or JSON with its metadata, is of a spreadsheet.

    Args:
        result: Parsed JSON.
    """
    facts = result.get("metadata") if type(result) is dict else None
    return type(facts) is dict and "sheet_count" in facts


_CLASSES: Final[Mapping[JobKind, tuple[type, type]]] = {
    JobKind.V1_EXTRACT: (ExtractResult, ExtractMetadata),
    JobKind.V1_PARSE: (ParseResult, ParseMetadata),
    JobKind.V2_PARSE: (V2ParseResult, V2Metadata),
    JobKind.V2_EXTRACT: (V2ExtractResult, V2Metadata),
    JobKind.V2_WORKFLOW: (WorkflowResult, V2Metadata),
}
_UNKNOWN: Final[tuple[type, type]] = (object, V2Metadata)  # the result stays parsed JSON
