"""Decodes what the responses of all kinds have in common.

The envelope is the JSON of a response about a job without the result: id, status, times and so on.
This module defines the limits of a response, finds the reason of a failure, and refuses results
that cannot be read.
"""

from typing import Any, Final, TypeVar

from attrs import evolve

from adepoll.api import codec
from adepoll.api.error_text import error_text
from adepoll.api.json_text import Json, Limits
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.errors import MalformedAnswerError

_Job = TypeVar("_Job", JobSnapshot, JobSummary)

# A result of 1 MB, or a page of 100 jobs, has far fewer values. Up to the limits, parsing is fast.
LIMITS: Final = Limits(containers=100_000, values=600_000)
_LIMITS_OF_PAGE: Final = Limits(containers=10_000, values=100_000)

# Names of kinds of jobs, by a field that only results of this kind have.
_LOOKS: Final = {
    "extraction": "an extract job",
    "markdown": "a parse job",
    "chunks": "a parse job",
    "output": "a workflow job",
}


def decode_page(body: bytes | str) -> JobPage:
    """Read one page of the job list of any kind; raises `MalformedAnswerError`."""
    page = codec.decode(JobPage, body, _LIMITS_OF_PAGE)
    if any(job.extra for job in page.jobs):
        return evolve(page, jobs=tuple(with_failure_reason(job) for job in page.jobs))
    return page


def check_odd_fields(snapshot: JobSnapshot, result: type, name: str = "data") -> JobSnapshot:
    """Refuse a completed job whose result cannot be read; return any other snapshot.

    Called for a snapshot with unknown or unreadable fields. If the job failed without a known
    reason, the returned snapshot has a reason from the unknown fields, if there is one.

    Args:
        snapshot: The snapshot; its `extra` is not empty.
        result: Class of the result.
        name: Name of the result in JSON.

    Raises:
        MalformedAnswerError: The job has completed. The response has fields for a result or an
            `output_url`, but none of them can be read.
    """
    extra = snapshot.extra
    has_result = snapshot.data is not None or snapshot.output_url is not None
    if snapshot.status is JobStatus.COMPLETED and not has_result:
        problems = []
        if "data" in extra:
            problems += _problems_of_data(result, extra.get("data"), name)
        if "output_url" in extra:
            problems.append("expected a string @ $.output_url")
        if extra.get("result") is not None:
            problems.append("it looks like the answer to a v2 job, with `result` instead of `data`")
        if problems:
            raise MalformedAnswerError(problems)
    return with_failure_reason(snapshot)


def with_failure_reason(job: _Job) -> _Job:
    """Return the job; if it failed without a known reason, search its unknown fields for one."""
    if job.status is JobStatus.FAILED and job.failure_reason is None:
        return evolve(job, failure_reason=error_text(job.extra))
    return job


def _problems_of_data(result: type, data: Json, name: str) -> list[str]:
    """Return why a result cannot be read: a list of texts, each "problem @ path".

    If the result looks like that of another kind of jobs, the first text says so.

    Args:
        result: The class that the result should have.
        data: The JSON of the result.
        name: Name of the result in the response.
    """
    problems = codec.problems_of(result, data, f"$.{name}")
    own: Any = getattr(result, "__slots__", ())
    for key, job in _LOOKS.items():
        if isinstance(data, dict) and key in data and key not in own:
            return [f"it looks like the answer to {job}, which is of another kind", *problems]
    return problems
