"""Jobs of every kind of the service: their envelopes, results, odd values and lists."""

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from adepoll import (
    ConfigurationError,
    InvalidJobIdError,
    JobKind,
    JobRef,
    JobSnapshot,
    JobStatus,
    MalformedAnswerError,
    ParseResult,
    SpreadsheetParseMetadata,
    SpreadsheetParseResult,
)
from adepoll.api import codec
from adepoll.api.job_kind import job_key, kind_of_id
from adepoll.api.kinds.registry import RULES, decode_result
from adepoll.api.odd_answers import OddAnswers
from adepoll.api.protocol import read_job
from adepoll.api.received_result import ReadAnswer

ULID = "01k0c1sm00abcdefghjkmnpqrs"
V1_PARSE_METADATA = {
    "filename": "a.pdf",
    "org_id": "org",
    "page_count": 3,
    "duration_ms": 4_000,
    "credit_usage": 6.0,
    "job_id": "j-1",
    "version": "dpt-2",
}
V2_METADATA = {
    "job_id": "j-1",
    "model_version": "m-1",
    "duration_ms": 4_000,
    "openapi_spec": "1.0",
    "billing": {"service_tier": "priority", "total_credits": 6.0},
}
RESULTS = {
    JobKind.V1_EXTRACT: {
        "extraction": {"total": 7},
        "extraction_metadata": {},
        "metadata": {
            **{key: value for key, value in V1_PARSE_METADATA.items() if key != "page_count"},
            "schema_violation_error": None,
            "fallback_model_version": None,
            "warnings": [],
        },
    },
    JobKind.V1_PARSE: {
        "markdown": "# A?sig=x",
        "chunks": [{"id": "c", "type": "text", "markdown": "# A"}],
        "splits": [],
        "grounding": {},
        "metadata": V1_PARSE_METADATA,
    },
    JobKind.V2_PARSE: {
        "markdown": "# A",
        "structure": {"type": "document"},
        "metadata": V2_METADATA,
    },
    JobKind.V2_EXTRACT: {
        "extraction": {"total": 7},
        "extraction_metadata": {},
        "markdown": "# A",
        "warnings": [],
        "metadata": V2_METADATA,
    },
    JobKind.V2_WORKFLOW: {"output": {"steps": []}, "metadata": V2_METADATA},
}
V2 = [JobKind.V2_PARSE, JobKind.V2_EXTRACT, JobKind.V2_WORKFLOW]
V1 = [JobKind.V1_EXTRACT, JobKind.V1_PARSE]
kinds = pytest.mark.parametrize("kind", JobKind.all(), ids=str)


def envelope(kind, status="completed"):
    """Return the response to a poll, as the service sends it."""
    if kind in V2:
        raw = {"job_id": "j-1", "status": status, "created_at": "2026-07-01T12:00:00Z"}
        if status == "completed":
            raw |= {"completed_at": "2026-07-01T12:01:00.500Z", "result": RESULTS[kind]}
    else:
        raw = {"job_id": "j-1", "status": status, "received_at": 1_782_907_200, "progress": 0.5}
        if status == "completed":
            raw |= {
                "data": RESULTS[kind],
                "metadata": RESULTS[kind]["metadata"],
                "output_url": None,
            }
    return raw


def decode(kind, /, http_status=200, status="completed", **fields):
    raw = envelope(kind, status) | fields
    return RULES[kind].decode_job(json.dumps(raw).encode(), http_status)


@kinds
def test_a_completed_job_has_its_result_and_the_facts_that_all_kinds_share(kind):
    job = decode(kind)
    assert (job.job_id, job.kind, job.status) == ("j-1", kind, JobStatus.COMPLETED)
    assert (job.credits, job.failed_pages, job.partial) == (6.0, (), False)
    assert job.page_count == (3 if kind == JobKind.V1_PARSE else None)
    assert job.facts.version == ("m-1" if kind in V2 else "dpt-2")
    assert job.data == decode_result(kind, json.dumps(RESULTS[kind]))
    assert not job.extra
    assert not job.data.extra
    started = job.created_at if kind in V2 else job.received_at
    assert started == datetime(2026, 7, 1, 12, tzinfo=UTC)
    if kind in V2:
        assert job.completed_at == datetime(2026, 7, 1, 12, 1, 0, 500_000, tzinfo=UTC)


@kinds
@pytest.mark.parametrize("http_status", [200, 206])
@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed"])
def test_a_snapshot_is_the_same_after_it_was_saved(kind, status, http_status):
    job = decode(kind, http_status, status=status, message="why", new={"a": [1]})
    assert JobSnapshot.from_json(job.to_json()) == job
    assert json.loads(job.to_json())["kind"] == kind.name


@kinds
def test_206_makes_a_completed_job_partial(kind):
    job = decode(kind, 206)
    has_schema = kind in {JobKind.V1_EXTRACT, JobKind.V2_EXTRACT}
    assert job.partial
    assert job.conforms is (False if has_schema else None)
    assert decode(kind).conforms is (True if has_schema else None)
    assert job.incomplete is not has_schema


@pytest.mark.parametrize("status", [201, 202, 203])
@kinds
def test_a_job_is_read_with_any_status_of_success(kind, status):
    body = json.dumps(envelope(kind)).encode()
    assert read_job(RULES[kind], "j-1", status, {}, body) == read_job(
        RULES[kind], "j-1", 200, {}, body
    )


@pytest.mark.parametrize(
    ("kind", "listed"), [(JobKind.V1_PARSE, [0, 2]), (JobKind.V2_PARSE, [1, 3])], ids=str
)
def test_failed_pages_are_counted_from_0_for_every_kind(kind, listed):
    result = RESULTS[kind] | {"metadata": RESULTS[kind]["metadata"] | {"failed_pages": listed}}
    job = decode(kind, **{RULES[kind].result_field: result, "metadata": result["metadata"]})
    assert job.failed_pages == (0, 2)
    assert job.partial


def test_an_extraction_of_v2_that_violates_its_schema_is_partial():
    result = RESULTS[JobKind.V2_EXTRACT] | {"schema_violation_error": "total: not a string"}
    job = decode(JobKind.V2_EXTRACT, result=result)
    assert (job.conforms, job.partial) == (False, True)
    assert job.schema_violation == "total: not a string"


@pytest.mark.parametrize("where", ["result", "metadata"])
@pytest.mark.parametrize("kind", [JobKind.V1_EXTRACT, JobKind.V2_EXTRACT], ids=str)
def test_an_empty_text_is_no_violation_of_the_schema(kind, where):
    result = json.loads(json.dumps(RESULTS[kind]))
    (result if where == "result" else result["metadata"])["schema_violation_error"] = ""
    job = decode(kind, **{RULES[kind].result_field: result, "metadata": result["metadata"]})
    assert (job.conforms, job.partial) == (True, False)


@kinds
def test_a_job_without_its_result_has_the_same_facts(kind):
    raw = json.loads(json.dumps(envelope(kind)))
    raw.pop("metadata", None)
    result = raw["result" if kind in V2 else "data"]
    if kind in {JobKind.V1_PARSE, JobKind.V2_PARSE}:
        result["metadata"] |= {"failed_pages": [1, 2], "page_count": 3}
    elif kind == JobKind.V2_WORKFLOW:
        result["output"] = {"w": {"s": {"metadata": {"failed_pages": [1]}}}}
    elif kind == JobKind.V2_EXTRACT:
        result["schema_violation_error"] = "total: not a string"
    else:
        result["metadata"]["schema_violation_error"] = "total: not a string"
    job = RULES[kind].decode_job(json.dumps(raw).encode(), 200)
    kept = JobSnapshot.from_json(job.without_data().redacted().to_json())
    assert kept.data is None
    assert kept.partial
    assert (kept.credits, kept.page_count) == (job.credits, job.page_count)
    assert kept.credits == 6.0
    if kind != JobKind.V2_WORKFLOW:
        assert kept.failed_pages == job.failed_pages


@kinds
def test_a_fraction_that_was_rounded_is_written_as_it_was_read(kind, caplog):
    result = RESULTS[kind] | {"metadata": RESULTS[kind]["metadata"] | {"duration_ms": 4.5}}
    job = decode(kind, **{"result" if kind in V2 else "data": result})
    assert job.data.metadata.duration_ms == 4
    assert json.loads(codec.encode(job.data))["metadata"]["duration_ms"] == 4.5
    assert JobSnapshot.from_json(job.to_json()) == job
    OddAnswers().checked(job)
    assert not caplog.records  # the service's documentation has such values


def test_the_metadata_of_a_large_spreadsheet_have_their_own_class():
    metadata = {"filename": "a.xlsx", "sheet_count": 2, "total_rows": 5, "credit_usage": 1.5}
    job = decode(JobKind.V1_PARSE, data=None, metadata=metadata, output_url="https://s/x")
    assert isinstance(job.metadata, SpreadsheetParseMetadata)
    assert (job.metadata.sheet_count, job.credits) == (2, 1.5)
    assert JobSnapshot.from_json(job.to_json()) == job


def test_a_spreadsheet_has_a_class_of_its_own():
    metadata = {"filename": "a.xlsx", "sheet_count": 2, "total_rows": 5, "total_cells": 9}
    data = {"markdown": "| |", "chunks": [], "splits": [], "metadata": metadata}
    job = decode(JobKind.V1_PARSE, data=data, metadata=None)
    assert isinstance(job.data, SpreadsheetParseResult)
    assert (job.data.metadata.sheet_count, job.data.metadata.total_rows) == (2, 5)
    assert not job.data.extra
    assert JobSnapshot.from_json(job.to_json()) == job
    assert isinstance(decode(JobKind.V1_PARSE).data, ParseResult)


@pytest.mark.parametrize("kind", V2, ids=str)
def test_v2_says_why_a_job_failed_in_an_object(kind):
    error = {"code": "internal_error", "message": "try again"}
    job = decode(kind, status="failed", error=error)
    assert (job.error_code, job.failure_reason) == ("internal_error", "try again (internal_error)")
    assert JobSnapshot.from_json(job.redacted().to_json()).error_code == "internal_error"
    older = decode(kind, status="failed", failure_reason="try again")
    assert (older.error_code, older.failure_reason) == (None, "try again")


@pytest.mark.parametrize("kind", V2, ids=str)
def test_v2_may_leave_the_id_out_and_write_times_as_numbers(kind):
    raw = envelope(kind) | {"created_at": 1_782_907_200.25}
    del raw["job_id"]
    job = RULES[kind].decode_job(json.dumps(raw), 200)
    assert job.job_id == ""
    assert job.created_at == datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "raw",
    [
        {"status": "failed", "message": "upstream timed out"},
        {"status": "failed", "error": "upstream timed out"},
        {"status": "error", "message": "Internal Server Error"},
        {"status": "completed"},
    ],
)
@kinds
def test_an_answer_of_a_gateway_settles_no_job(kind, raw):
    with pytest.raises(MalformedAnswerError):
        RULES[kind].decode_job(json.dumps(raw), 200)


@pytest.mark.parametrize(
    "raw",
    [
        {"status": "pending"},
        {"status": "processing", "progress": 0.5},
        {"status": "failed", "error": {"code": "internal_error", "message": "m"}},
        {"status": "failed", "completed_at": "2026-07-01T12:00:00Z"},
        {"status": "completed", "output_url": "https://s/x"},
        {"status": "completed", "created_at": 1_782_907_200},
        {"status": "waiting", "created_at": 1_782_907_200},
    ],
)
@pytest.mark.parametrize("kind", V2, ids=str)
def test_no_field_of_an_answer_of_v2_is_required(kind, raw):
    job = RULES[kind].decode_job(json.dumps(raw), 200)
    assert (job.job_id, job.status_text) == ("", raw["status"])


@pytest.mark.parametrize(
    "odd",
    [
        {"filename": None},
        {"warnings": None},
        {"warnings": [{"message": "m"}, {"any": 1}, 7]},
        {"duration_ms": 1234.5},
        {"org_id": ...},
        {"failed_pages": None},
        {"failed_pages": ["x", {}]},
        {"billing": 7},
        {"page_count": "3"},
    ],
)
@kinds
def test_an_odd_value_in_the_metadata_never_costs_a_result(kind, odd):
    metadata = RESULTS[kind]["metadata"] | odd
    metadata = {key: value for key, value in metadata.items() if value is not ...}
    result = RESULTS[kind] | {"metadata": metadata}
    within = decode(kind, **{RULES[kind].result_field: result})
    beside = decode(kind, metadata=metadata)
    for job in (within, beside):
        assert job.status is JobStatus.COMPLETED
        assert job.data is not None
        assert JobSnapshot.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    "odd",
    [
        {"received_at": 1_782_907_200_000},
        {"received_at": "2026-07-01T12:00:00Z"},
        {"received_at": None},
        {"created_at": "1782907200"},
        {"created_at": {"at": 1}},
        {"completed_at": "soon"},
        {"progress": None},
        {"progress": "0.5"},
        {"progress": [1]},
        {"metadata": None},
        {"metadata": [1]},
        {"error": None},
        {"output_url": None},
    ],
)
@kinds
def test_an_odd_value_in_the_envelope_never_costs_a_result(kind, odd):
    job = decode(kind, **odd)
    assert job.status is JobStatus.COMPLETED
    assert job.data is not None
    assert JobSnapshot.from_json(job.to_json()) == job


@pytest.mark.parametrize("odd", [None, 7, ["x"], {"text": "x"}, False])
@pytest.mark.parametrize("sheet", [{}, {"sheet_count": 2}], ids=["document", "sheet"])
@pytest.mark.parametrize("kind", [JobKind.V1_PARSE, JobKind.V2_PARSE], ids=str)
def test_odd_markdown_never_costs_the_rest_of_a_result(kind, sheet, odd):
    result = RESULTS[kind] | {"markdown": odd, "metadata": RESULTS[kind]["metadata"] | sheet}
    job = decode(kind, **{RULES[kind].result_field: result})
    assert job.status is JobStatus.COMPLETED
    assert (job.data.markdown, job.data.extra["markdown"]) == ("", odd)
    assert job.data == decode_result(kind, json.dumps(result))
    assert JobSnapshot.from_json(job.to_json()) == job
    assert json.loads(codec.encode(job.data))["markdown"] == odd


@pytest.mark.parametrize(
    ("sent", "time"),
    [
        ("2026-07-01t12:00:00z", datetime(2026, 7, 1, 12, tzinfo=UTC)),
        (1_782_907_200_000_000_000, datetime(2026, 7, 1, 12, tzinfo=UTC)),
        (1e300, None),
        (-1, None),
        (0, None),
    ],
)
@kinds
def test_a_time_is_read_or_is_unknown_but_never_invented(kind, sent, time):
    assert decode(kind, created_at=sent).created_at == time


@pytest.mark.parametrize("name", ["label", "kind", "conforms", "data_omitted", "incomplete"])
@kinds
def test_a_new_field_of_the_service_is_not_taken_for_one_of_adepoll(kind, name):
    job = decode(kind, **{name: {"new": 1}})
    assert job.extra[name] == {"new": 1}
    again = JobSnapshot.from_json(job.to_json())
    assert (again.kind, again.label, again.data, again.conforms, again.partial) == (
        (kind, None, job.data, job.conforms, job.partial)
    )


@kinds
def test_statuses_in_capitals_are_understood(kind):
    raw = envelope(kind) | {"status": "COMPLETED"}
    job = RULES[kind].decode_job(json.dumps(raw).encode(), 200)
    assert (job.status, job.status_text) == (JobStatus.COMPLETED, "COMPLETED")


@pytest.mark.parametrize(
    ("kind", "other", "job"),
    [
        (JobKind.V1_EXTRACT, JobKind.V1_PARSE, "a parse job"),
        (JobKind.V1_EXTRACT, JobKind.V2_WORKFLOW, "a workflow job"),
        (JobKind.V1_PARSE, JobKind.V1_EXTRACT, "an extract job"),
        (JobKind.V2_WORKFLOW, JobKind.V2_PARSE, "a parse job"),
        (JobKind.V2_PARSE, JobKind.V1_EXTRACT, "an extract job"),
    ],
    ids=str,
)
def test_an_answer_of_another_kind_says_so(kind, other, job):
    with pytest.raises(MalformedAnswerError, match=f"it looks like the answer to {job}"):
        decode(kind, **{RULES[kind].result_field: RESULTS[other]})


@pytest.mark.parametrize("result", [{"markdown": "# A"}, "chunks"])
def test_another_malformed_answer_is_not_called_one_of_another_kind(result):
    with pytest.raises(MalformedAnswerError) as error:
        decode(JobKind.V2_EXTRACT, result=result)
    assert "looks like" not in str(error.value)


@kinds
def test_a_list_of_any_kind_is_read(kind):
    job = {"job_id": "j-1", "status": "failed", "failure_reason": "why", "model_version": "m"}
    listed = [job | {"created_at": "2026-07-01T12:00:00Z", "completed_at": None, "progress": 1}]
    body = json.dumps({"jobs": listed, "has_more": True, "page": 0, "page_size": 10})
    page = RULES[kind].decode_page(body.encode())
    assert page.has_more
    [summary] = page.jobs
    assert (summary.job_id, summary.status, summary.version) == ("j-1", JobStatus.FAILED, "m")
    assert not summary.extra
    size = "page_size" if kind in V2 else "pageSize"
    assert RULES[kind].list_query(2, 50, JobStatus.PENDING) == {
        "page": 2, size: 50, "status": "pending",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"parse-{ULID}", JobKind.V2_PARSE),
        (f"extract-{ULID}", JobKind.V2_EXTRACT),
        (f"v2-workflow-{ULID}", JobKind.V2_WORKFLOW),
        (f"parse-{ULID}x", None),
        (f"parse-{ULID[:-1]}u", None),  # a letter that Crockford's alphabet lacks
        (f"PARSE-{ULID}", None),
        ("cmg4x0q5p0001", None),
    ],
)
def test_the_form_of_an_id_says_its_kind(text, kind):
    assert kind_of_id(text) == kind
    assert JobRef.of(text).kind_or(JobKind.V1_PARSE) == (kind or JobKind.V1_PARSE)


def test_a_reference_is_written_as_text_and_read_from_it():
    ref = JobRef("cmg1", kind=JobKind.V1_PARSE, label="invoice-17.pdf")
    assert str(ref) == "v1-parse/cmg1"
    assert JobRef.of(str(ref)) == ref
    assert str(JobRef("cmg1", kind=JobKind.V1_EXTRACT)) == "cmg1"
    assert str(JobRef(f"parse-{ULID}", kind=JobKind.V2_PARSE)) == f"parse-{ULID}"
    assert JobRef("cmg1").text(JobKind.V1_PARSE) == "cmg1"
    assert JobRef("cmg1", kind=JobKind.V1_EXTRACT).text(JobKind.V1_PARSE) == "v1-extract/cmg1"
    with pytest.raises(InvalidJobIdError, match="'v3-parse' is not a kind of jobs; the kinds"):
        JobRef.of("v3-parse/cmg1")
    not_texts = (b"v1-parse/cmg1", PurePosixPath("v1-parse/cmg1"))
    for bad in ("v3-parse/cmg1", "v1-parse/", "v1-parse/a/b", "/cmg1", *not_texts):
        with pytest.raises(InvalidJobIdError):
            JobRef.of(bad)


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (["a", "v1-parse/a", JobRef("a"), JobRef("a", kind=JobKind.V1_PARSE, label="x")], "a"),
        (["v1-extract/a", JobRef("a", kind=JobKind.V1_EXTRACT)], "v1-extract/a"),
        ([f"parse-{ULID}", JobRef(f"parse-{ULID}", kind=JobKind.V2_PARSE)], f"parse-{ULID}"),
        (["?", "v1-parse/?", JobRef("?")], "?"),
    ],
)
def test_all_names_of_a_job_have_the_same_key(names, key):
    assert {job_key(name, JobKind.V1_PARSE) for name in names} == {key}


def test_a_kind_is_found_by_its_name():
    assert [JobKind.named(kind.name) for kind in JobKind.all()] == list(JobKind.all())
    with pytest.raises(ConfigurationError, match="unknown kind 'v3-parse'; the kinds are v1-"):
        JobKind.named("v3-parse")


def test_every_kind_of_the_service_is_a_declared_class_variable():
    declared = [name for name in JobKind.__annotations__ if name.isupper()]
    assert [getattr(JobKind, name) for name in declared] == list(JobKind.all())


def test_the_markdown_of_a_customer_is_not_redacted():
    job = decode(JobKind.V1_PARSE)
    assert job.redacted().data.markdown == "# A?sig=x"


def test_a_workflow_is_partial_if_one_of_its_steps_is():
    def workflow(**step):
        return decode(JobKind.V2_WORKFLOW, result={"output": {"parse-extract": {"step": step}}})

    assert not workflow(extraction={}).partial
    violating = workflow(extraction={}, schema_violation_error="total: not a string")
    assert (violating.partial, violating.schema_violation) == (True, "total: not a string")
    for empty in ("", {}, {"code": "none"}):
        steps = [{"schema_violation_error": text} for text in (empty, "no total")]
        output = {"parse-extract": dict(zip("ab", steps, strict=True))}
        violating = decode(JobKind.V2_WORKFLOW, result={"output": output})
        assert (violating.partial, violating.schema_violation) == (True, "no total")
    failed = workflow(markdown="", metadata={"failed_pages": [3, 1, "x"]})
    assert (failed.partial, failed.failed_pages) == (True, (0, 2))


@kinds
def test_a_result_is_written_as_it_was_read(kind):
    result = RESULTS[kind]
    assert json.loads(codec.encode(decode_result(kind, json.dumps(result)))) == result


def test_a_warning_is_written_with_the_names_that_the_service_used():
    warnings = [{"message": "m"}, {"code": "c", "msg": "m"}, {"msg": "m", "message": "n"}]
    result = RESULTS[JobKind.V2_EXTRACT] | {"warnings": warnings}
    read = decode_result(JobKind.V2_EXTRACT, json.dumps(result))
    assert [warning.msg for warning in read.warnings] == ["m", "m", "m"]
    assert json.loads(codec.encode(read))["warnings"] == warnings


@pytest.mark.parametrize("large", [None, ReadAnswer(body=b"", is_partial=False, result=None)])
def test_a_snapshot_has_the_kind_of_its_rules(large):
    rules = evolve(RULES[JobKind.V2_PARSE], kind=JobKind("my-parse"))
    body = json.dumps({"job_id": "j-1", "status": "processing"}).encode()
    assert read_job(rules, "j-1", 200, {}, body, large=large).kind == rules.kind
