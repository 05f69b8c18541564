"""The status of a job as JSON, and as an HTTP response."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from attrs import frozen

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobSnapshot, JobStatus, Json
from adepoll.common.redaction import showable
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import JobTimeoutError
from adepoll.server.problem_details import RETRY_AFTER

__all__ = ["StatusReply", "job_as_json"]

_MAX_TEXT_LENGTH: Final = 500  # characters of a text from the service


@frozen(kw_only=True)
class StatusReply(SafeRepr):
    """A response with the status of a job.

    Attributes:
        status: 200 if the job has settled, 202 if it has not settled yet.
        headers: Headers of the response, with ``Retry-After`` in seconds if the status is 202.
        body: The JSON of the response, which `job_as_json` describes.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Json]


def job_as_json(job: JobSnapshot) -> dict[str, Json]:
    """Return the facts about a job that clients of a server may see: no result, no presigned URL.

    The keys are ``job_id``, ``kind``, ``label``, ``status``, ``is_terminal``, ``partial``,
    ``received_at``, ``created_at``, ``completed_at``, ``progress``, ``version``, ``credits``,
    ``page_count``, ``failed_pages``, ``failure_reason``, ``error_code`` and ``schema_violation``.
    All keys are always present; an unknown value is null. Times are ISO 8601 in UTC.
    """
    return {
        "job_id": job.job_id,
        "kind": job.kind.name,
        "label": job.label,
        "status": job.status.value,
        "is_terminal": job.is_terminal,
        "partial": job.partial,
        "received_at": _utc(job.received_at),
        "created_at": _utc(job.created_at),
        "completed_at": _utc(job.completed_at),
        "progress": job.progress,
        "version": job.version,
        "credits": job.credits,
        "page_count": job.page_count,
        "failed_pages": [*job.failed_pages],
        "failure_reason": _short(job.failure_reason),
        "error_code": _short(job.error_code),
        "schema_violation": _short(job.schema_violation),
    }


def settled_reply(job: JobSnapshot) -> StatusReply:
    """Return the response about a settled job."""
    return StatusReply(status=200, headers=_HEADERS, body=job_as_json(job))


def active_reply(job: JobRef, error: JobTimeoutError, *, default_kind: JobKind) -> StatusReply:
    """Return the response about a job that has not settled in time.

    Args:
        job: Reference to the job.
        error: The error with which the wait ended. The response contains the `last_status` of this
            error, or "unknown" if that is None.
        default_kind: Kind of the job if neither `job` nor its id contains the kind.
    """
    status = JobStatus.UNKNOWN if error.last_status is None else JobStatus.parse(error.last_status)
    snapshot = JobSnapshot(
        job_id=job.job_id,
        kind=job.kind_or(default_kind),
        label=job.label,
        status=status,
        status_text=status.value,
    )
    return StatusReply(
        status=202,
        headers={**_HEADERS, "Retry-After": str(RETRY_AFTER)},
        body=job_as_json(snapshot),
    )


def _utc(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat().replace("+00:00", "Z")


def _short(text: str | None) -> str | None:
    return None if text is None else showable(text, _MAX_TEXT_LENGTH)


_HEADERS: Final = {"Cache-Control": "no-store"}
