"""Snapshots, outcomes and unresolved jobs as rows, as they are."""

import json

import pytest
from journalling import snapshot
from lazyimport import lazy_import

from adepoll import JobKind, Outcome, UnresolvedJob
from adepoll.api.models import JobSnapshot
from adepoll.errors import JobTimeoutError

LIBRARIES = [pandas, polars] = lazy_import("pandas"), lazy_import("polars")
DATA = {"extraction": {"total": 1.5}, "extraction_metadata": None}
METADATA = {"filename": "a.pdf", "duration_ms": 1500, "credit_usage": 2.5, "job_id": "j0"}
URL = "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=secret"
JOBS = [
    snapshot("j0", data=DATA | {"metadata": METADATA}),
    snapshot("j1", "failed", failure_reason="no pages"),
    snapshot("j2", "processing", output_url=URL),
]
TIMEOUT = JobTimeoutError(job_id="j3", timeout=5.0, last_status=None)
OUTCOMES = [Outcome(job_id=job.job_id, snapshot=job) for job in JOBS[:2]]
OUTCOMES.append(Outcome(job_id="j3", error=TIMEOUT))


@pytest.mark.parametrize("library", LIBRARIES, ids=["pandas", "polars"])
def test_a_data_frame_accepts_snapshots(library):
    jobs = library.DataFrame(JOBS)
    assert list(jobs["job_id"]) == ["j0", "j1", "j2"]
    assert list(jobs["status"]) == ["completed", "failed", "processing"]
    assert list(jobs["failure"])[1] == "no pages"
    assert next(iter(jobs["seconds"])) == 1.5
    assert next(iter(jobs["extraction"])) == {"total": 1.5}
    assert "secret" not in str(jobs.to_dict())


@pytest.mark.parametrize("library", LIBRARIES, ids=["pandas", "polars"])
def test_a_data_frame_accepts_outcomes(library):
    jobs = library.DataFrame(OUTCOMES)
    assert list(jobs["job_id"]) == ["j0", "j1", "j3"]
    assert list(jobs["error"])[1:] == ["JobFailedError", "JobTimeoutError"]
    assert list(jobs["failure"])[2] == str(TIMEOUT)


def test_all_outcomes_have_the_same_columns():
    assert len({tuple(sorted(outcome.to_dict())) for outcome in OUTCOMES}) == 1


def test_an_unresolved_job_is_a_row_too():
    rows = pandas.DataFrame([UnresolvedJob("j3", TIMEOUT, kind=JobKind.V1_PARSE, label="a.pdf")])
    row = {"job_id": "j3", "label": "a.pdf", "kind": "v1-parse", "error": "JobTimeoutError"}
    assert rows.to_dict("records") == [row | {"failure": str(TIMEOUT)}]


def test_a_row_is_a_mapping_and_still_a_value():
    job = JOBS[0]
    assert dict(job) == job.to_dict()
    assert (job["job_id"], len(job), list(job)) == ("j0", len(job.to_dict()), list(job.keys()))
    assert job == JobSnapshot.from_json(job.to_json())
    assert job != dict(job)
    assert "output_url" in json.loads(job.to_json())
