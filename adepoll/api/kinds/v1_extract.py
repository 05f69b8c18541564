"""The rules of v1 extract jobs.

The fields in the JSON have the names of the attributes of `JobSnapshot`, `JobSummary` and
`ExtractResult`. Times are Unix timestamps in seconds; 0 means that the time is not known. Status
206 means that the data does not fully conform to the caller's schema.
"""

from collections.abc import Mapping
from typing import Final

from attrs import evolve

from adepoll.api import codec
from adepoll.api.job_kind import JobKind
from adepoll.api.kinds.envelope import LIMITS, check_odd_fields, decode_page
from adepoll.api.kinds.kind_rules import SOME_FAILED, SUCCESS, KindRules
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.results import ExtractResult

_COMPLETED: Final = JobStatus.COMPLETED  # faster: Python 3.11 finds a member of an Enum slowly


def list_query(page: int, page_size: int, status: JobStatus | None) -> Mapping[str, str | int]:
    """Return the query parameters of one page of the list."""
    query: dict[str, str | int] = {"page": page, "pageSize": page_size}
    return query if status is None else {**query, "status": status.value}


def decode_job(body: bytes | str, status: int = 200) -> JobSnapshot:
    """Read the response to a GET of one job; raises `MalformedAnswerError`.

    Args:
        body: The body, JSON text.
        status: The HTTP status; 206 means that the data does not conform to the caller's schema.
    """
    snapshot = codec.decode(JobSnapshot, body, LIMITS)
    if snapshot.extra:
        snapshot = check_odd_fields(snapshot, ExtractResult)
    if snapshot.status is _COMPLETED and (
        status == SOME_FAILED or snapshot.schema_violation is not None
    ):
        return evolve(snapshot, violates_schema=True)
    return snapshot


def decode_result(body: bytes | str) -> ExtractResult:
    """Read the JSON text of a result that was downloaded; raises `MalformedAnswerError`."""
    return codec.decode(ExtractResult, body)


V1_EXTRACT: Final = KindRules(
    kind=JobKind.V1_EXTRACT,
    path="/v1/ade/extract/jobs",
    success=SUCCESS,
    list_query=list_query,
    result_keys=frozenset({"extraction"}),
    decode_job=decode_job,
    decode_page=decode_page,
    decode_result=decode_result,
)
