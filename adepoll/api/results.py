"""The classes of results and of their metadata, by kind of job.

To add a field, add an attribute to its class in `v1_results` or `v2_results`; `models` lists all
steps.
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
"""The result of a job of any kind. Distinguish the classes with a ``match`` statement."""

JobMetadata: TypeAlias = ExtractMetadata | ParseMetadata | SpreadsheetParseMetadata | V2Metadata
"""Facts about a job of any kind."""


def result_classes(kind: JobKind, result: Json) -> tuple[type, type]:
    """Return the classes of a result and of its metadata.

    Args:
        kind: Kind of the job.
        result: The result as parsed JSON; if there is no result, the JSON of the job. It is used
            only for v1 parse jobs, because the result of a spreadsheet has other classes.
    """
    if kind == JobKind.V1_PARSE and is_of_spreadsheet(result):
        return SpreadsheetParseResult, SpreadsheetParseMetadata
    return _CLASSES.get(kind, _UNKNOWN)


def is_of_spreadsheet(result: Json) -> bool:
    """Return whether a v1 parse job has parsed a spreadsheet, and not a document.

    Args:
        result: The result as parsed JSON, or the JSON of a job that contains the metadata.
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
# For a kind of your own. The result stays parsed JSON.
_UNKNOWN: Final[tuple[type, type]] = (object, V2Metadata)
