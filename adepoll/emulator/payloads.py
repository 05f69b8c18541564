"""The JSON bodies of the API's answers about jobs. Pure."""

import json
import math
from typing import Final

from adepoll.api.models import JobStatus, Json
from adepoll.emulator.jobs import Job, Outcome

_VIOLATION: Final = "'total' is not of type 'string'"


def summary_payload(job: Job, *, now: float) -> dict[str, Json]:
    """Return the fields of a job in the list; the job must have arrived."""
    if (status := job.status_at(now)) is None:
        raise AssertionError("a job that is listed has arrived")
    received_at = int(job.received_at)
    return {
        "job_id": job.job_id,
        "status": status.value,
        "received_at": received_at,
        "progress": 1.0 if status is JobStatus.COMPLETED else 0.0,
        "created_at": received_at,
        "failure_reason": job.failure_reason_at(now),
    }


def job_payload(job: Job, *, now: float, org_id: str) -> dict[str, Json]:
    """Return the answer to a GET of a job that has arrived, without its result."""
    payload = summary_payload(job, now=now)
    completed = payload["status"] == JobStatus.COMPLETED.value
    return payload | {
        "org_id": org_id,
        "version": job.version if completed else None,
        "metadata": result_metadata(job, org_id=org_id) if completed else None,
        "output_url": None,
    }


def result_metadata(job: Job, *, org_id: str) -> dict[str, Json]:
    """Return the `metadata` of a completed job, which its result contains, too."""
    violation = _VIOLATION if job.plan.outcome is Outcome.NONCONFORMANT else None
    seconds = job.plan.processing_time
    return {
        "filename": job.filename,
        "org_id": org_id,
        "duration_ms": round(seconds * 1_000) if seconds < math.inf else 0,
        "credit_usage": round(1 + job.plan.result_bytes / 100_000, 1),
        "job_id": job.job_id,
        "version": job.version,
        "schema_violation_error": violation,
        "fallback_model_version": None,
        "warnings": []
        if violation is None
        else [{"code": "nonconformant_schema", "msg": violation}],
    }


def dump(payload: Json) -> bytes:
    """Return compact JSON, on which the faults that corrupt bodies rely."""
    return json.dumps(payload, separators=(",", ":")).encode()
