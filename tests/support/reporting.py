"""Records of a batch, as a journal returns them, for the tests of the report."""

from pathlib import Path

from adepoll.api.models import JobSnapshot, JobStatus, from_timestamp
from adepoll.api.results import ExtractMetadata, ExtractWarning
from adepoll.journal.outcomes import Record, RecordedError, ResultFile, Stage

ADDED = 1_763_744_000.0  # 2025-11-21 16:53:20 UTC, a Friday


def record(
    number=1,
    status="completed",
    *,
    job_id=None,
    took=20.0,
    lag=2.0,
    measured=True,
    received=10.0,
    reason=None,
    error=None,
    lasting=False,
    size=1_000,
    delivered=True,
    stage=None,
    **metadata,
):
    """Return a record. Times are seconds after `ADDED`; `took` counts from receipt to end.

    `status` may also be "waiting", "unresolved" or "not_fetched". `metadata` sets fields of the
    metadata.
    """
    job_id = f"job-{number}" if job_id is None else job_id
    base = {"number": number, "job_id": job_id, "added_at": ADDED}
    if status == "waiting":
        return Record(stage=Stage.WAITING, status_text=reason, **base)
    if error is None and status in {"unresolved", "not_fetched"}:
        error = RecordedError(f"job {job_id} is not there", error_class="JobNotFoundError")
    given_up = {"stage": Stage.GIVEN_UP, "error": error, "lasting": lasting}
    delivered_at = ADDED + 10_000 if delivered else None
    if status == "unresolved":
        return Record(**base, **given_up, delivered_at=delivered_at)
    text = "completed" if status == "not_fetched" else status
    settled = ADDED + received + took + lag
    snapshot = JobSnapshot(
        job_id=job_id,
        status=JobStatus.parse(text),
        status_text=text,
        received_at=from_timestamp(ADDED + received),
        progress=1.0,
        failure_reason=reason,
        metadata=_metadata(job_id, took, metadata) if measured else None,
        violates_schema=metadata.get("schema_violation_error") is not None,
    )
    done = {"stage": stage or Stage.DONE, "file": None}
    if text == "completed" and size is not None and stage is None:
        done["file"] = ResultFile(path=Path(f"/r/{number}.json"), bytes=size, sha256="0" * 64)
    if stage is Stage.FETCHING:
        delivered_at = None
    return Record(
        **base,
        **(given_up if status == "not_fetched" else done),
        status_text=text,
        snapshot=snapshot,
        settled_at=settled,
        done_at=settled,
        delivered_at=delivered_at,
    )


def _metadata(job_id, took, more):
    fields = {"filename": "scan.pdf", "credit_usage": 1.5, "version": "extract-1"} | more
    return ExtractMetadata(org_id=None, duration_ms=round(took * 1000), job_id=job_id, **fields)


def warning(code, msg="look at this"):
    return ExtractWarning(code=code, msg=msg)


def all_outcomes(first=1):
    """Return records with every outcome; the numbers of the jobs go from `first` to 70."""
    return [
        *(record(n, took=10 + n % 37, size=1000 * n) for n in range(first, 60)),
        *(record(n, "failed", reason=f"page {n} is blank", measured=False) for n in range(60, 64)),
        record(64, "cancelled", measured=False),
        record(65, "not_fetched"),
        record(66, "unresolved", lasting=True),
        record(67, stage=Stage.FETCHING),
        record(68, "waiting", reason="processing"),
        record(69, schema_violation_error="$.total: no number", warnings=(warning("odd_schema"),)),
        record(70, fallback_model_version="extract-0", delivered=False),
    ]
