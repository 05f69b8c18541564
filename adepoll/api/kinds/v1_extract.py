"""v1 extract jobs: path, list parameters, payloads and the meaning of 206. Imports models.

The JSON has the field names of `JobSnapshot`, `JobSummary` and `ExtractResult`. Times are Unix
timestamps in seconds; 0 means "not known".
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from attrs import evolve

from adepoll.api import codec
from adepoll.api.error_text import error_text
from adepoll.api.json_text import Limits
from adepoll.api.kinds.job_kind import JobKind
from adepoll.api.models import ExtractResult, JobPage, JobSnapshot, JobStatus, JobSummary, Json
from adepoll.api.readers import problems_of
from adepoll.errors import MalformedAnswerError

_Job = TypeVar("_Job", JobSnapshot, JobSummary)

_DOES_NOT_CONFORM: Final = 206

# Far more than a result of 1 MB or a page of 100 jobs has, and few enough to be parsed quickly.
_LIMITS: Final = Limits(containers=100_000, values=600_000)
_LIMITS_OF_PAGE: Final = Limits(containers=10_000, values=100_000)

# Fields of the results of other kinds of jobs.
_OTHER_KINDS: Final = {"markdown": "parse", "chunks": "parse", "output": "workflow"}


def list_query(page: int, page_size: int, status: JobStatus | None) -> Mapping[str, str | int]:
    """Return the query parameters of one page of the list."""
    query: dict[str, str | int] = {"page": page, "pageSize": page_size}
    return query if status is None else {**query, "status": status.value}


def decode_job(body: bytes | str, status: int = 200) -> JobSnapshot:
    """Read the response to a GET of one job; raises `MalformedAnswerError`.

    Args:
        body: The body, JSON.
        status: The HTTP status; 206 means that the data does not conform to the caller's schema.
    """
    snapshot = codec.decode(JobSnapshot, body, _LIMITS)
    if snapshot.extra:
        snapshot = _interpret_odd_fields(snapshot)
    if status == _DOES_NOT_CONFORM or snapshot.schema_violation is not None:
        return evolve(snapshot, conforms=False)
    return snapshot


def decode_page(body: bytes | str) -> JobPage:
    """Read one page of the job list; raises `MalformedAnswerError`."""
    page = codec.decode(JobPage, body, _LIMITS_OF_PAGE)
    if any(job.extra for job in page.jobs):
        return evolve(page, jobs=tuple(_with_failure_reason(job) for job in page.jobs))
    return page


def decode_result(body: bytes | str) -> ExtractResult:
    """Read a result as it is stored behind `output_url`; raises `MalformedAnswerError`."""
    return codec.decode(ExtractResult, body)


def encode_result(result: ExtractResult) -> bytes:
    """Write a result as it is stored behind `output_url`."""
    return codec.encode(result).encode()


def _interpret_odd_fields(snapshot: JobSnapshot) -> JobSnapshot:
    """Find the reason of a failure in another field, and refuse a result that cannot be read.

    Raises:
        MalformedAnswerError: The job has completed, and neither `data` nor `output_url` is usable.
    """
    extra = snapshot.extra
    has_result = snapshot.data is not None or snapshot.output_url is not None
    if snapshot.status is JobStatus.COMPLETED and not has_result:
        problems = []
        if "data" in extra or "data_json" in extra:
            problems += _problems_of_data(extra.get("data"))
        if "output_url" in extra:
            problems.append("expected a string @ $.output_url")
        if extra.get("result") is not None:
            problems.append("it looks like the answer to a v2 job, with `result` instead of `data`")
        if problems:
            raise MalformedAnswerError(problems)
    return _with_failure_reason(snapshot)


def _with_failure_reason(job: _Job) -> _Job:
    """Return a job with the reason of its failure, which can be in a field of another name."""
    if job.status is JobStatus.FAILED and job.failure_reason is None and job.extra:
        return evolve(job, failure_reason=error_text(job.extra))
    return job


def _problems_of_data(data: Json) -> list[str]:
    problems = problems_of(ExtractResult, data, "$.data")
    for key, kind in _OTHER_KINDS.items():
        if isinstance(data, dict) and key in data:
            return [f"it looks like the answer to a {kind} job, not an extract job", *problems]
    return problems


V1_EXTRACT: Final = JobKind(
    name="v1-extract",
    path="/v1/ade/extract/jobs",
    success=frozenset({200, _DOES_NOT_CONFORM}),
    list_query=list_query,
    decode_job=decode_job,
    decode_page=decode_page,
    decode_result=decode_result,
)
