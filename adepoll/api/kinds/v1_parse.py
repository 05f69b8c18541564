"""The rules of v1 parse jobs, for documents and spreadsheets.

Apart from the result, a response has the same fields as for v1 extract jobs. Status 206 means that
pages of the document could not be parsed.
"""

from typing import Final

from attrs import evolve

from adepoll.api import codec
from adepoll.api.job_kind import JobKind
from adepoll.api.json_text import load_object
from adepoll.api.kinds.envelope import LIMITS, check_odd_fields, decode_page
from adepoll.api.kinds.kind_rules import SOME_FAILED, SUCCESS, KindRules
from adepoll.api.kinds.v1_extract import list_query
from adepoll.api.models import JobSnapshot
from adepoll.api.results import (
    ParseMetadata,
    ParseResult,
    SpreadsheetParseMetadata,
    SpreadsheetParseResult,
    is_of_spreadsheet,
)
from adepoll.api.snapshot_json import shape_of

_DOCUMENT: Final = shape_of(JobKind.V1_PARSE, ParseResult, ParseMetadata)
_SPREADSHEET: Final = shape_of(JobKind.V1_PARSE, SpreadsheetParseResult, SpreadsheetParseMetadata)


def decode_job(body: bytes | str, status: int = 200) -> JobSnapshot:
    """Read the response to a GET of one job; raises `MalformedAnswerError`.

    Args:
        body: The body, JSON text.
        status: The HTTP status; 206 means that pages of the document could not be parsed.
    """
    raw = load_object(body, LIMITS)
    is_sheet = is_of_spreadsheet(raw.get("data") or raw)
    snapshot = codec.read(
        JobSnapshot, raw, shape=_SPREADSHEET if is_sheet else _DOCUMENT, text=body
    )
    if snapshot.extra:
        result = SpreadsheetParseResult if is_sheet else ParseResult
        snapshot = check_odd_fields(snapshot, result)
    return evolve(snapshot, incomplete=True) if status == SOME_FAILED else snapshot


def decode_result(body: bytes | str) -> ParseResult | SpreadsheetParseResult:
    """Read the JSON text of a result that was downloaded; raises `MalformedAnswerError`."""
    raw = load_object(body)
    if is_of_spreadsheet(raw):
        return codec.read(SpreadsheetParseResult, raw)
    return codec.read(ParseResult, raw)


V1_PARSE: Final = KindRules(
    kind=JobKind.V1_PARSE,
    path="/v1/ade/parse/jobs",
    success=SUCCESS,
    list_query=list_query,
    result_keys=frozenset({"markdown"}),
    decode_job=decode_job,
    decode_page=decode_page,
    decode_result=decode_result,
)
