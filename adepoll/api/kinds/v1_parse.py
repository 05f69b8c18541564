"""v1 parse jobs, for documents and spreadsheets. Imports envelope and v1_extract.

The envelope is that of extract jobs. 206 means that pages of the document could not be parsed.
"""

from typing import Final

from attrs import evolve

from adepoll.api import codec
from adepoll.api.job_kind import JobKind
from adepoll.api.json_text import load_object
from adepoll.api.kinds.envelope import LIMITS, check_odd_fields, decode_page
from adepoll.api.kinds.kind_rules import SOME_FAILED, KindRules
from adepoll.api.kinds.v1_extract import list_query
from adepoll.api.models import JobSnapshot, shape_of
from adepoll.api.results import ParseResult, SpreadsheetParseResult, result_classes


def decode_job(body: bytes | str, status: int = 200) -> JobSnapshot:
    """Read the response to a GET of one job; raises `MalformedAnswerError`."""
    raw = load_object(body, LIMITS)
    result, metadata = result_classes(JobKind.V1_PARSE, raw.get("data") or raw)
    shape = shape_of(JobKind.V1_PARSE, result, metadata)
    snapshot = codec.read(JobSnapshot, raw, shape=shape)
    if snapshot.extra:
        snapshot = check_odd_fields(snapshot, result)
    return evolve(snapshot, incomplete=True) if status == SOME_FAILED else snapshot


def decode_result(body: bytes | str) -> ParseResult | SpreadsheetParseResult:
    """Read a result as it is stored behind `output_url`; raises `MalformedAnswerError`."""
    raw = load_object(body)
    result: ParseResult | SpreadsheetParseResult
    result = codec.read(result_classes(JobKind.V1_PARSE, raw)[0], raw)
    return result


V1_PARSE: Final = KindRules(
    kind=JobKind.V1_PARSE,
    path="/v1/ade/parse/jobs",
    success=frozenset({200, SOME_FAILED}),
    list_query=list_query,
    result_keys=frozenset({"markdown"}),
    decode_job=decode_job,
    decode_page=decode_page,
    decode_result=decode_result,
)
