"""The JSON of a job in a status response."""

import pytest

from adepoll import ExtractMetadata, JobSnapshot, JobStatus
from adepoll.server.job_responses import job_as_json

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
