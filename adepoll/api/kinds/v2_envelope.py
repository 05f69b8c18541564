"""The rules that v2 jobs of all kinds share.

The field `result` contains the result, even if it is very large. `error` says why a job failed, and
times are ISO 8601 texts. The service documents no field as required. So a response without a job id
counts as one about the requested job. Exception: responses that may come from a gateway in front of
the service (`_is_about_a_job`).
"""

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from adepoll.api import codec
from adepoll.api.job_kind import KINDS_WITH_SCHEMA, JobKind
from adepoll.api.kinds.envelope import LIMITS, check_odd_fields, decode_page
from adepoll.api.kinds.kind_rules import SOME_FAILED, SUCCESS, Api, KindRules
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.results import V2Metadata
from adepoll.api.snapshot_json import shape_of
from adepoll.errors import MalformedAnswerError


def list_query(page: int, page_size: int, status: JobStatus | None) -> Mapping[str, str | int]:
    """Return the query parameters of one page of the list."""
    query: dict[str, str | int] = {"page": page, "page_size": page_size}
    return query if status is None else {**query, "status": status.value}


def rules(kind: JobKind, result: type, *, path: str, required: str) -> KindRules:
    """Return the rules of a kind of v2 jobs.

    Args:
        kind: The kind.
        result: Class of the result; its attribute `metadata` is a `V2Metadata`.
        path: Path of the job list.
        required: Key that the JSON object of a result must contain.
    """
    shape = shape_of(kind, result, V2Metadata)
    has_schema = kind in KINDS_WITH_SCHEMA

    def decode_job(body: bytes | str, status: int = 200) -> JobSnapshot:
        snapshot = codec.decode(JobSnapshot, body, LIMITS, shape=shape)
        if snapshot.extra:
            snapshot = check_odd_fields(snapshot, result, "result")
        if not snapshot.job_id and not _is_about_a_job(snapshot):
            raise MalformedAnswerError(["it has no field of a job but `status` @ $"])
        if not has_schema:
            return evolve(snapshot, incomplete=True) if status == SOME_FAILED else snapshot
        violation = getattr(snapshot.data, "schema_violation_error", None)
        if snapshot.status is JobStatus.COMPLETED and (status == SOME_FAILED or violation):
            return evolve(snapshot, violates_schema=True)
        return snapshot

    def decode_result(body: bytes | str) -> Any:
        return codec.decode(result, body)

    return KindRules(
        kind=kind,
        api=Api.V2,
        path=path,
        success=SUCCESS,
        list_query=list_query,
        can_be_cancelled=False,
        newest_first=True,
        result_field="result",
        result_keys=frozenset({required}),
        decode_job=decode_job,
        decode_page=decode_page,
        decode_result=decode_result,
        can_be_large=True,
    )


def _is_about_a_job(snapshot: JobSnapshot) -> bool:
    """Return whether a response without a job id is accepted as one about the requested job.

    A gateway can answer with its own JSON, which may contain a field ``status``. So a response with
    a final or unknown status must also have another field of a job.
    """
    fields = (
        snapshot.created_at,
        snapshot.completed_at,
        snapshot.progress,
        snapshot.data,
        snapshot.output_url,
        snapshot.metadata,
        snapshot.error_code,
    )
    is_harmless = snapshot.status in {JobStatus.PENDING, JobStatus.PROCESSING}
    return is_harmless or any(field is not None for field in fields)
