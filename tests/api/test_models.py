import copy
import json
import pickle
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from adepoll.api import codec
from adepoll.api.job_kind import JobKind
from adepoll.api.json_reader import reader_of
from adepoll.api.json_text import dumps
from adepoll.api.kinds import v1_extract
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary, from_timestamp
from adepoll.api.results import ExtractMetadata, ExtractResult, ExtractWarning
from adepoll.api.snapshot_json import shape_of
from adepoll.errors import JobCancelledError, JobFailedError, MalformedAnswerError

CANARY = "CaNaRy0123456789"
PRESIGNED = f"https://bucket.s3.example/r.json?X-Amz-Signature={CANARY}"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def make_job(status: JobStatus = JobStatus.COMPLETED, **changes: object) -> JobSnapshot:
    job = JobSnapshot(
        job_id="j-1", status=status, status_text=status.value, received_at=NOON, progress=1.0
    )
    return evolve(job, **changes)


def make_metadata(**changes: object) -> ExtractMetadata:
    metadata = ExtractMetadata(
        filename="a.pdf", org_id=None, duration_ms=9, credit_usage=1.5, job_id="j-1", version=None
    )
    return evolve(metadata, **changes)


def make_result(**changes: object) -> ExtractResult:
    return ExtractResult(
        extraction={"name": CANARY}, extraction_metadata={}, metadata=make_metadata(**changes)
    )


FULL = make_job(
    data=make_result(),
    output_url=PRESIGNED,
    metadata=make_metadata(warnings=(ExtractWarning(msg=f"at {PRESIGNED}"),)),
    extra={"new": [CANARY]},
    failure_reason=f"could not write {PRESIGNED}",
)
MODELS = [
    make_job(),
    FULL,
    JobPage(
        jobs=(
            JobSummary(
                job_id="j-1",
                status=JobStatus.PENDING,
                status_text="pending",
                received_at=NOON,
                progress=0.0,
                failure_reason=f"could not write {PRESIGNED}",
                extra={"url": PRESIGNED},
            ),
        ),
        extra={"next": PRESIGNED},
    ),
]


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (JobStatus.PENDING, False),
        (JobStatus.PROCESSING, False),
        (JobStatus.COMPLETED, True),
        (JobStatus.FAILED, True),
        (JobStatus.CANCELLED, True),
        (JobStatus.UNKNOWN, False),
    ],
)
def test_only_terminal_statuses_are_terminal(status, ended):
    assert status.is_terminal is ended
    assert make_job(status).is_terminal is ended
    summary = JobSummary(
        job_id="j", status=status, status_text=status.value, received_at=NOON, progress=0.0
    )
    assert summary.is_terminal is ended


def test_the_statuses_are_these():
    assert [status.value for status in JobStatus] == [
        "pending",
        "processing",
        "completed",
        "failed",
        "cancelled",
        "unknown",
    ]


@pytest.mark.parametrize("text", ["paused", "", "com pleted", "unknown", "a\nb"])
def test_an_undocumented_status_is_unknown(text):
    assert JobStatus.parse(text) is JobStatus.UNKNOWN


def test_documented_statuses_are_read():
    for status in JobStatus:
        assert JobStatus.parse(status.value) is status
        assert JobStatus.parse(f" {status.value.upper()}") is status
    assert JobStatus.parse("canceled") is JobStatus.CANCELLED


def test_raise_for_failure_raises_for_failed_and_cancelled_jobs():
    with pytest.raises(JobFailedError, match="job j-1 failed: no schema") as failed:
        make_job(JobStatus.FAILED, failure_reason="no schema").raise_for_failure()
    assert failed.value.job_id == "j-1"
    assert failed.value.failure_reason == "no schema"
    with pytest.raises(JobFailedError, match="no reason given"):
        make_job(JobStatus.FAILED).raise_for_failure()
    with pytest.raises(JobCancelledError, match="j-1"):
        make_job(JobStatus.CANCELLED).raise_for_failure()


@pytest.mark.parametrize(
    "status",
    [JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.COMPLETED, JobStatus.UNKNOWN],
)
def test_raise_for_failure_does_nothing_for_other_jobs(status):
    make_job(status, failure_reason="left over").raise_for_failure()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_no_repr_shows_a_presigned_query_or_a_customers_data(model, show):
    assert CANARY not in show(model)


def test_a_repr_shows_sizes_and_names_instead_of_values():
    assert "<dict of 1>" in repr(FULL)
    assert "https://bucket.s3.example/r.json?REDACTED" in repr(FULL)
    assert "extra=<new>" in repr(FULL)


@pytest.mark.parametrize("model", MODELS)
def test_models_can_be_pickled_and_copied(model):
    assert pickle.loads(pickle.dumps(model)) == model
    assert copy.deepcopy(model) == model
    assert copy.copy(model) == model


def test_models_are_frozen_and_have_slots():
    with pytest.raises(FrozenInstanceError):
        make_job().status = JobStatus.FAILED
    assert not hasattr(make_job(), "__dict__")


def test_each_model_has_its_own_extra():
    assert make_job().extra == {}
    assert make_job().extra is not make_job().extra


@pytest.mark.parametrize("kind", [JobKind.V1_EXTRACT, JobKind.V2_PARSE])
def test_the_redacted_text_of_an_error_object_stays_the_same_in_json(kind):
    error = {"message": "refused", "code": f"Bearer {CANARY}"}
    text = json.dumps(
        {"job_id": "j", "status": "failed", "kind": kind.name, "failure_reason": error}
    )
    redacted = JobSnapshot.from_json(text).redacted()
    assert redacted.failure_reason == "refused (Bearer REDACTED)"
    assert JobSnapshot.from_json(redacted.to_json()) == redacted


def test_a_redacted_copy_differs_in_secrets_only():
    redacted = FULL.redacted()
    assert redacted.output_url == "https://bucket.s3.example/r.json?REDACTED"
    assert redacted.failure_reason == "could not write https://bucket.s3.example/r.json?REDACTED"
    assert redacted.metadata.warnings[0].msg == "at https://bucket.s3.example/r.json?REDACTED"
    assert redacted.data == FULL.data
    assert FULL.output_url == PRESIGNED
    plain = make_job(data=make_result(), metadata=make_metadata(), extra={"new": ["text", 1]})
    assert plain.redacted() == plain


URL = {
    "url": [PRESIGNED],
    PRESIGNED: 1,
    "X-Amz-Signature": CANARY,
    "deep": {"a": [{"b": PRESIGNED}]},
}
WITH_URL = make_metadata(
    filename=PRESIGNED,
    org_id=PRESIGNED,
    job_id=PRESIGNED,
    version=PRESIGNED,
    schema_violation_error=f"sig={CANARY}",
    fallback_model_version=PRESIGNED,
    warnings=(ExtractWarning(code=PRESIGNED, msg=PRESIGNED, extra=URL),),
    extra=URL,
)


@pytest.mark.parametrize(
    "change",
    [
        {"output_url": PRESIGNED},
        {"failure_reason": f"Authorization: Bearer {CANARY}"},
        {"status": JobStatus.UNKNOWN, "status_text": PRESIGNED},
        {"org_id": PRESIGNED},
        {"version": PRESIGNED},
        {"extra": URL},
        {"metadata": WITH_URL},
        {"data": ExtractResult(extraction={}, metadata=WITH_URL, extra=URL)},
    ],
)
def test_a_redacted_copy_has_no_secret_in_any_text(change):
    job = make_job(**change)
    assert CANARY in job.to_json()
    assert CANARY not in job.redacted().to_json()
    assert evolve(job.redacted(), **change) == job


def test_the_status_of_a_job_of_another_kind_survives_although_its_text_is_unknown():
    job = JobSnapshot(
        job_id="a", kind=JobKind("toy"), status=JobStatus.COMPLETED, status_text="done"
    )
    again = JobSnapshot.from_json(job.to_json())
    assert (again.kind, again.status, again.is_terminal) == (job.kind, job.status, True)
    assert (json.loads(job.to_json())["status"], again.status_text) == ("completed", "done")


def test_texts_of_unknown_kinds_make_no_cache_grow():
    job, sizes = make_job(data=None), set()
    for number in range(3):
        kind = JobKind(f"toy-{number}")
        assert JobSnapshot.from_json(evolve(job, kind=kind).to_json()).kind == kind
        sizes.add((shape_of.cache_info().currsize, reader_of.cache_info().currsize))
    assert len(sizes) == 1


def test_a_status_text_is_written_only_if_it_says_more_than_the_status():
    for status, text, is_written in (
        (JobStatus.COMPLETED, "completed", False),
        (JobStatus.COMPLETED, "Completed", True),
        (JobStatus.UNKNOWN, "unknown", False),
        (JobStatus.UNKNOWN, "paused", False),  # it is the status in the JSON
    ):
        job = make_job(status, status_text=text)
        written = json.loads(job.to_json())
        assert ("status_text" in written) is is_written
        assert written["status"] == (status.value if is_written else text)
        assert JobSnapshot.from_json(job.to_json()) == job


def test_a_reason_that_was_found_in_an_unknown_field_survives():
    answer = {"job_id": "v2-1", "status": "failed", "error": {"code": "c"}, "message": "encrypted"}
    job = RULES[JobKind.V2_PARSE].decode_job(json.dumps(answer))
    assert (job.failure_reason, job.error_code) == ("encrypted", "c")
    again = JobSnapshot.from_json(job.to_json())
    assert (again, again.to_json()) == (job, job.to_json())


def test_the_json_has_the_same_form_however_the_service_writes_status_and_reason():
    error = {"code": "internal_error", "message": "no pages"}
    answer = {"job_id": "v2-1", "status": "FAILED", "error": error, "completed_at": None}
    job = RULES[JobKind.V2_PARSE].decode_job(json.dumps({**answer, "created_at": None}))
    text = job.to_json()
    written = json.loads(text)
    assert (written["status"], written["partial"]) == ("failed", False)
    assert written["failure_reason"] == job.failure_reason == "no pages (internal_error)"
    again = JobSnapshot.from_json(text)
    assert (again, again.error_code) == (job, "internal_error")
    assert (again.status_text, again.to_json()) == ("FAILED", text)


def test_a_redacted_summary_has_no_secret_and_keeps_an_id_that_can_be_used():
    summary = JobSummary(
        job_id="sig=1",
        status=JobStatus.FAILED,
        status_text=PRESIGNED,
        failure_reason=PRESIGNED,
        extra=URL,
    )
    assert CANARY not in codec.encode(summary.redacted())
    assert summary.redacted().job_id == "sig=1"
    assert CANARY not in evolve(summary, job_id=PRESIGNED).redacted().job_id


def test_the_customers_data_are_not_redacted():
    result = ExtractResult(extraction={"link": PRESIGNED}, extraction_metadata=[PRESIGNED])
    assert make_job(data=result).redacted().data == result


@pytest.mark.parametrize("depth", [200, 500, 850])
def test_json_of_any_depth_is_redacted_written_and_read(depth):
    nested = json.loads('{"a":[' * (depth // 2) + f'"{PRESIGNED}"' + "]}" * (depth // 2))
    for body in ({"new": nested}, {"metadata": {"new": nested}}, {"failure_reason": nested}):
        job = v1_extract.decode_job(dumps({"job_id": "j", "status": "failed", **body}))
        shown = job.redacted().to_json()
        assert CANARY in job.to_json()
        assert CANARY not in shown
        assert JobSnapshot.from_json(job.to_json()) == job
        assert copy.deepcopy(job) == pickle.loads(pickle.dumps(job)) == job
        assert "new" in repr(job) or job.failure_reason is None
        json.dumps(attrs.asdict(job), default=str, indent=1)


def test_a_result_of_any_depth_is_written_in_both_forms():
    deep = nested = {}
    for _ in range(1_200):
        deep["a"] = [{}, 1, {"b": "c"}, inner := {}]
        deep = inner
    job = make_job(data=ExtractResult(extraction=nested))
    for text in (job.to_json(), job.redacted().to_json(indent=2)):
        assert text.count('"b"') == 1_200


def test_a_schema_violation_is_found_in_both_places():
    assert make_job().schema_violation is None
    assert make_job(metadata=make_metadata(), data=make_result()).schema_violation is None
    above = make_job(metadata=make_metadata(schema_violation_error="above"))
    within = make_job(metadata=make_metadata(), data=make_result(schema_violation_error="within"))
    assert above.schema_violation == "above"
    assert within.schema_violation == "within"


def test_a_snapshot_is_written_on_one_line_and_read_back_from_text_or_bytes():
    text = FULL.to_json()
    assert "\n" not in text
    assert JobSnapshot.from_json(text) == FULL
    assert JobSnapshot.from_json(text.encode()) == FULL
    with pytest.raises(MalformedAnswerError):
        JobSnapshot.from_json("[]")


def test_timestamps_are_aware_and_utc():
    assert from_timestamp(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert from_timestamp(1.5).utcoffset() == timedelta(0)
