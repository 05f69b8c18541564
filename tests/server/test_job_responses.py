"""The status of a job as JSON, and as a response."""

import datetime as dt

import pytest

from adepoll import ExtractMetadata, JobKind, JobRef, JobSnapshot, JobStatus
from adepoll.errors import JobTimeoutError
from adepoll.server.job_responses import active_reply, job_as_json, settled_reply

LONG = "\x1b[2J" + "x" * 1_000


@pytest.mark.parametrize("key", ["failure_reason", "error_code", "schema_violation"])
def test_a_text_of_the_service_is_escaped_and_cut(key):
    job = JobSnapshot(
        job_id="a",
        status=JobStatus.FAILED,
        status_text="failed",
        failure_reason=LONG,
        extra={"error": {"code": LONG}},
        metadata=ExtractMetadata(schema_violation_error=LONG),
    )
    text = job_as_json(job)[key]
    assert text.startswith(r"\x1b[2J")
    assert len(text) == 500 + len("...")


def test_a_settled_job_is_an_answer_without_retry_after():
    time = dt.datetime(2026, 7, 1, 12, 0, 0, 500_000, tzinfo=dt.UTC)
    job = JobSnapshot(
        job_id="a",
        kind=JobKind.V2_PARSE,
        label="a.pdf",
        status=JobStatus.COMPLETED,
        status_text="Completed",
        received_at=time,
    )
    reply = settled_reply(job)
    assert (reply.status, reply.headers) == (200, {"Cache-Control": "no-store"})
    assert reply.body == {
        "job_id": "a",
        "kind": "v2-parse",
        "label": "a.pdf",
        "status": "completed",
        "is_terminal": True,
        "partial": False,
        "received_at": "2026-07-01T12:00:00.500000Z",
        "created_at": None,
        "completed_at": None,
        "progress": None,
        "version": None,
        "credits": None,
        "page_count": None,
        "failed_pages": [],
        "failure_reason": None,
        "error_code": None,
        "schema_violation": None,
    }


@pytest.mark.parametrize(
    ("last", "status"), [(None, "unknown"), ("Processing", "processing"), ("dreaming", "unknown")]
)
def test_an_active_job_can_be_requested_again_after_two_seconds(last, status):
    error = JobTimeoutError(job_id="a", timeout=1.0, last_status=last)
    reply = active_reply(
        JobRef("a", kind=JobKind.V1_PARSE, label="a.pdf"), error, default_kind=JobKind.V1_EXTRACT
    )
    assert reply.status == 202
    assert reply.headers == {"Cache-Control": "no-store", "Retry-After": "2"}
    body = reply.body
    assert (body["job_id"], body["kind"], body["label"]) == ("a", "v1-parse", "a.pdf")
    assert (body["status"], body["is_terminal"]) == (status, False)
    assert (
        active_reply(JobRef("a"), error, default_kind=JobKind.V2_PARSE).body["kind"] == "v2-parse"
    )
