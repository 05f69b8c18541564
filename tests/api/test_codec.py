import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args, get_origin

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api import codec
from adepoll.api.fast_reader import fast_reader
from adepoll.api.kinds import v1_extract
from adepoll.api.models import (
    ExtractMetadata,
    ExtractResult,
    ExtractWarning,
    JobPage,
    JobSnapshot,
    JobStatus,
    JobSummary,
)
from adepoll.errors import MalformedAnswerError

CANARY = "CaNaRy0123456789"

METADATA = {
    "filename": "a.pdf",
    "org_id": None,
    "duration_ms": 1200,
    "credit_usage": 3,
    "job_id": "j-1",
    "version": "extract-20260701",
    "schema_violation_error": None,
    "fallback_model_version": None,
    "warnings": [{"code": "nonconformant_schema", "msg": "no field 'total'"}],
}
RESULT = {
    "extraction": {"total": 12.5, "lines": [{"n": 1}]},
    "extraction_metadata": {"total": {"references": ["c-1"]}, "lines": []},
    "metadata": METADATA,
}
JOB = {
    "job_id": "j-1",
    "status": "completed",
    "received_at": 1_780_000_000,
    "progress": 1.0,
    "created_at": 1_780_000_001,
    "org_id": "org",
    "version": "extract-20260701",
    "data": RESULT,
    "output_url": "https://bucket.s3.example/r?X-Amz-Signature=s",
    "metadata": METADATA,
    "failure_reason": None,
}
PENDING = {"job_id": "j-1", "status": "pending", "received_at": 1_780_000_000, "progress": 0}
SUMMARY = {**PENDING, "created_at": 0, "failure_reason": None}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=10)
    | st.sampled_from([10**400, -(10**308), 1e308, "\ud800", "pending", "job_id"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
words = st.text(min_size=1, max_size=20)
timestamps = st.integers(min_value=1, max_value=4_102_444_800) | st.floats(1, 4_102_444_800)


def extras(*known: str) -> st.SearchStrategy[dict]:
    return st.dictionaries(st.text(max_size=8).filter(lambda name: name not in known), values)


warnings = st.builds(
    lambda fields, extra: {**extra, **fields},
    st.fixed_dictionaries({"msg": words}, optional={"code": st.none() | words}),
    extras("msg", "code", "conforms"),
)
metadatas = st.builds(
    lambda fields, extra: {**extra, **fields},
    st.fixed_dictionaries(
        {
            "filename": st.text(),
            "org_id": st.none() | words,
            "duration_ms": st.integers(),
            "credit_usage": st.integers(0, 10**9) | st.floats(0, 1e9),
            "job_id": words,
            "version": st.none() | words,
        },
        optional={
            "schema_violation_error": st.none() | words,
            "fallback_model_version": st.none() | words,
            "warnings": st.lists(warnings, max_size=3),
        },
    ),
    extras(*METADATA, "conforms"),
)
results = st.builds(
    lambda extraction, mirror, metadata, extra: {
        **extra,
        "extraction": extraction,
        "extraction_metadata": mirror,
        "metadata": metadata,
    },
    st.dictionaries(words, values, max_size=3),
    st.dictionaries(words, values, max_size=3),
    metadatas,
    extras(*RESULT, "conforms"),
)
jobs = st.builds(
    lambda fields, extra: {**extra, **fields},
    st.fixed_dictionaries(
        {
            "job_id": words,
            "status": st.sampled_from([s.value for s in JobStatus]) | words,
            "received_at": timestamps,
            "progress": st.sampled_from([0, 1, 0.0, 1.0]) | st.floats(0, 1),
        },
        optional={
            "created_at": st.just(0) | timestamps,
            "org_id": st.none() | words,
            "version": st.none() | words,
            "data": st.none() | results,
            "output_url": st.none() | words,
            "metadata": st.none() | metadatas,
            "failure_reason": st.none() | words,
        },
    ),
    # to_json adds `conforms`; all other names are the service's.
    extras(*JOB, "conforms"),
)


def problems_of(payload: object) -> tuple[str, ...]:
    with pytest.raises(MalformedAnswerError) as caught:
        v1_extract.decode_job(payload if isinstance(payload, bytes) else json.dumps(payload))
    return caught.value.problems


# --- laws ---------------------------------------------------------------------------------------


@given(jobs, st.booleans())
def test_a_snapshot_is_the_same_after_to_json_and_from_json(job, conforms):
    snapshot = v1_extract.decode_job(json.dumps(job), status=200 if conforms else 206)
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


@given(jobs)
def test_no_field_of_the_service_is_lost_in_to_json(job):
    written = json.loads(v1_extract.decode_job(json.dumps(job)).to_json())
    rewritten = {"received_at", "created_at", "data", "metadata"}  # floats rounded, defaults added
    for name, value in job.items():
        assert name in written
        assert name in rewritten or written[name] == value


@given(results)
def test_a_result_is_the_same_after_writing_and_reading(result):
    decoded = v1_extract.decode_result(json.dumps(result))
    assert v1_extract.decode_result(v1_extract.encode_result(decoded)) == decoded
    written = json.loads(v1_extract.encode_result(decoded))
    assert {**written, "metadata": None} == {**result, "metadata": None}
    assert (
        written["metadata"].items()
        >= {name: value for name, value in result["metadata"].items() if name != "warnings"}.items()
    )


@given(values)
def test_any_json_is_decoded_or_raises_malformed_answer(value):
    for decode in (
        v1_extract.decode_job,
        v1_extract.decode_page,
        v1_extract.decode_result,
        JobSnapshot.from_json,
    ):
        with contextlib.suppress(MalformedAnswerError):
            decode(json.dumps(value))


@given(st.data())
def test_any_value_in_any_field_is_decoded_or_raises_malformed_answer(data):
    job = json.loads(json.dumps(JOB))
    place = data.draw(
        st.sampled_from([job, job["data"], job["metadata"], job["metadata"]["warnings"][0]])
    )
    place[data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))] = data.draw(values)
    with contextlib.suppress(MalformedAnswerError):
        snapshot = v1_extract.decode_job(json.dumps(job))
        assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


@given(st.data())
def test_the_fast_reader_returns_what_the_slow_one_returns_or_raises(data):
    job = json.loads(json.dumps(JOB))
    place = data.draw(
        st.sampled_from([job, job["data"], job["metadata"], job["metadata"]["warnings"][0]])
    )
    if data.draw(st.booleans()):
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(values)
    else:
        place[data.draw(st.text(min_size=1, max_size=5))] = data.draw(values)
    fast = read_fast(JobSnapshot, job)
    try:
        slow = codec.read_slowly(JobSnapshot, job)
    except MalformedAnswerError:
        slow = None
    assert fast is None or fast == slow


def read_fast(cls, raw):
    """Return what the generated reader returns; None if it leaves the JSON to the slow one."""
    try:
        return fast_reader(cls)(raw)
    except (KeyError, ValueError, OverflowError):
        return None


@given(st.sampled_from(JobStatus), st.booleans(), st.booleans(), st.integers(0, 2**40))
def test_a_job_in_the_documented_form_is_read_by_the_fast_reader(status, data, url, created):
    job = {
        **JOB,
        "status": status.value,
        "created_at": created,
        "data": RESULT if data else None,
        "metadata": METADATA if data else None,
        "output_url": JOB["output_url"] if url else None,
    }
    fast = read_fast(JobSnapshot, job)
    if created >= 253_402_300_800:  # the year 10,000
        assert fast is None
    else:
        assert fast == codec.read_slowly(JobSnapshot, job)


OPTIONAL = ("schema_violation_error", "fallback_model_version", "warnings")


@given(st.data())
def test_metadata_with_any_optional_and_unknown_fields_are_read_by_the_fast_reader(data):
    text = st.none() | st.text(max_size=5)
    warning = st.fixed_dictionaries({"msg": st.text(max_size=5)}, optional={"code": text})
    optional = dict(zip(OPTIONAL, (text, text, st.lists(warning, max_size=2)), strict=True))
    required = {name: METADATA[name] for name in METADATA if name not in OPTIONAL}
    nullable = {"org_id": text, "version": text}
    metadata = data.draw(extras(*METADATA, "conforms")) | required
    metadata |= data.draw(st.fixed_dictionaries(nullable, optional=optional))
    fast = read_fast(ExtractMetadata, metadata)
    assert fast is not None
    assert fast == codec.read_slowly(ExtractMetadata, metadata)


@given(st.data())
def test_a_changed_result_is_read_by_the_fast_reader_as_by_the_slow_one_or_not_at_all(data):
    result = json.loads(json.dumps(RESULT))
    metadata = result["metadata"]
    place = data.draw(st.sampled_from([result, metadata, metadata["warnings"][0]]))
    if data.draw(st.booleans()):
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(values)
    else:
        place[data.draw(st.text(min_size=1, max_size=5))] = 1
    try:
        slow = codec.read_slowly(ExtractResult, result)
    except MalformedAnswerError:
        slow = None
    fast = read_fast(ExtractResult, result)
    assert fast is None or fast == slow


@pytest.mark.parametrize(
    "change",
    [
        {"warnings": None},
        {"warnings": [{"code": "c"}]},
        {"warnings": ["m"]},
        {"duration_ms": True},
        {"credit_usage": "3"},
        {"org_id": 7},
    ],
)
def test_metadata_of_other_types_are_not_read_by_the_fast_reader(change):
    assert read_fast(ExtractMetadata, METADATA) is not None
    assert read_fast(ExtractMetadata, METADATA | change) is None
    assert read_fast(ExtractResult, RESULT | {"metadata": METADATA | change}) is None


@pytest.mark.parametrize("change", [{"new": 1}, {"warnings": [{"msg": "m", "new": 1}]}])
def test_unknown_fields_are_read_by_the_fast_reader(change):
    metadata = METADATA | change
    fast = read_fast(ExtractResult, RESULT | {"metadata": metadata})
    assert fast.metadata == read_fast(ExtractMetadata, metadata)
    assert fast.metadata == codec.read_slowly(ExtractMetadata, metadata)


# A value of each type that differs from the default of any field.
DISTINCT = {
    str: ("text", "text"),
    int: (17, 17),
    float: (0.25, 0.25),
    bool: (True, True),
    datetime: (1_780_000_007, datetime(2026, 5, 28, 20, 26, 47, tzinfo=UTC)),
    JobStatus: ("cancelled", JobStatus.CANCELLED),
}


def distinct(declared):
    """Return JSON for the declared type of a field, and the value that must be read from it."""
    [alternative, *_] = get_args(declared) or [declared]
    if get_origin(declared) is tuple:
        raw, value = sample(alternative)
        return [raw], (value,)
    if attrs.has(alternative):
        return sample(alternative)
    return DISTINCT.get(alternative, ({"any": ["json"]}, {"any": ["json"]}))


def sample(cls):
    """Return JSON for all declared fields of a class, and the instance that must be read."""
    raw, expected = {}, {}
    for field in attrs.fields(cls):
        if field.name in {"extra", "conforms"}:
            continue
        name = "status" if field.name == "status_text" else field.name
        value, expected[field.name] = distinct(field.type)
        raw.setdefault(name, value)
    if "status_text" in expected:
        expected["status_text"] = raw["status"]
    return raw, cls(**expected)


MODELS = [JobSnapshot, JobPage, JobSummary, ExtractResult, ExtractMetadata, ExtractWarning]


@pytest.mark.parametrize("read", [codec.read, codec.read_slowly], ids=["fast", "slow"])
@pytest.mark.parametrize("model", MODELS)
def test_every_declared_field_of_every_model_is_read_and_written(model, read):
    raw, expected = sample(model)
    assert read(model, raw) == expected
    assert read(model, raw).extra == {}
    assert codec.flatten(expected) == raw


@attrs.frozen(kw_only=True)
class Grown(ExtractMetadata):
    """Metadata after the service has added two fields."""

    pages: int | None = None
    language: str = attrs.field(default="en")


@attrs.frozen(kw_only=True)
class GrownResult(ExtractResult):
    metadata: Grown


@pytest.mark.parametrize("read", [codec.read, codec.read_slowly], ids=["fast", "slow"])
def test_a_field_is_read_and_written_as_soon_as_it_is_declared(read):
    grown = {**METADATA, "pages": 9}
    assert codec.read(ExtractMetadata, grown).extra == {"pages": 9}
    result = read(GrownResult, {**RESULT, "metadata": grown})
    assert (result.metadata.pages, result.metadata.language) == (9, "en")
    assert result.metadata.extra == {}
    assert read(Grown, {**grown, "language": "de"}).language == "de"
    assert codec.flatten(result)["metadata"] == {**grown, "language": "en"}
    with pytest.raises(MalformedAnswerError, match=r"expected a number, got a string @ \$.pages"):
        read(Grown, {**METADATA, "pages": "9"})


@attrs.frozen(kw_only=True)
class Checked:
    """A class with a validator, which the generated reader must not bypass."""

    size: int = attrs.field(validator=attrs.validators.gt(0))
    extra: dict = attrs.field(factory=dict)


def test_validators_of_a_class_are_applied():
    assert codec.read(Checked, {"size": 1}).size == 1
    with pytest.raises(ValueError, match="size"):
        codec.read(Checked, {"size": 0})


def test_metadata_that_differs_from_the_metadata_of_the_data_is_read():
    job = {**JOB, "metadata": {**METADATA, "duration_ms": 7}}
    snapshot = v1_extract.decode_job(json.dumps(job))
    assert snapshot.metadata.duration_ms == 7
    assert snapshot.data.metadata.duration_ms == 1200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_all_encodings_of_json_are_read(encoding):
    body = json.dumps({**JOB, "failure_reason": "ü漢"}, ensure_ascii=False)
    for text in (body, f" {body}\r\n"):
        assert v1_extract.decode_job(text.encode(encoding)).failure_reason == "ü漢"


@given(st.binary() | st.text().map(lambda text: text.encode("utf-16")))
def test_random_bytes_raise_malformed_answer(body):
    for decode in (v1_extract.decode_job, v1_extract.decode_page, v1_extract.decode_result):
        with pytest.raises(MalformedAnswerError):
            decode(body)


@given(st.text(max_size=5), st.text(max_size=5))
def test_errors_contain_no_value_of_the_body(before, after):
    """A body can contain a customer's document."""
    secret = before + CANARY + after
    for job in (
        {**PENDING, "received_at": secret},
        {**PENDING, "data": secret},
        {**PENDING, "data": {**RESULT, "metadata": {**METADATA, "duration_ms": secret}}},
        {**PENDING, "data": {**RESULT, "metadata": {**METADATA, "warnings": [secret]}}},
        [secret],
        secret,
    ):
        for body in (json.dumps(job), json.dumps(job)[:-1], json.dumps(job) + secret):
            with pytest.raises(MalformedAnswerError) as caught:
                v1_extract.decode_job(body)
            error = caught.value
            assert CANARY not in f"{error} {error!r} {error.problems} {vars(error)}"
            assert error.__cause__ is None
            assert error.__context__ is None


# --- what is read -------------------------------------------------------------------------------


def test_every_documented_field_of_a_job_is_read():
    job = v1_extract.decode_job(json.dumps(JOB).encode())
    assert job.job_id == "j-1"
    assert job.status is JobStatus.COMPLETED
    assert job.status_text == "completed"
    assert job.received_at == datetime(2026, 5, 28, 20, 26, 40, tzinfo=UTC)
    assert job.created_at == datetime(2026, 5, 28, 20, 26, 41, tzinfo=UTC)
    assert job.progress == 1.0
    assert (job.org_id, job.version) == ("org", "extract-20260701")
    assert job.output_url == "https://bucket.s3.example/r?X-Amz-Signature=s"
    assert job.failure_reason is None
    assert job.conforms
    assert job.extra == {}
    assert isinstance(job.data, ExtractResult)
    assert job.data.extraction == RESULT["extraction"]
    assert job.data.extraction_metadata == RESULT["extraction_metadata"]
    assert job.data.metadata == job.metadata
    assert job.metadata.filename == "a.pdf"
    assert job.metadata.duration_ms == 1200
    assert job.metadata.credit_usage == 3.0
    assert job.metadata.warnings[0].code == "nonconformant_schema"


def test_the_four_required_fields_are_enough():
    job = v1_extract.decode_job(json.dumps(PENDING))
    assert job.status is JobStatus.PENDING
    assert job.created_at is None
    assert job.data is None
    assert job.metadata is None


def test_null_means_the_same_as_an_absent_field():
    nulls = dict.fromkeys(
        ["created_at", "org_id", "version", "data", "output_url", "metadata", "failure_reason"]
    )
    assert v1_extract.decode_job(json.dumps({**PENDING, **nulls})) == v1_extract.decode_job(
        json.dumps(PENDING)
    )


def test_created_at_zero_means_unknown():
    assert v1_extract.decode_job(json.dumps({**PENDING, "created_at": 0})).created_at is None


def test_timestamps_may_have_a_fraction():
    job = v1_extract.decode_job(json.dumps({**PENDING, "received_at": 1_780_000_000.25}))
    assert job.received_at.microsecond == 250_000
    assert json.loads(job.to_json())["received_at"] == 1_780_000_000.25


def test_whole_seconds_are_written_as_integers():
    assert '"received_at":1780000000,' in v1_extract.decode_job(json.dumps(PENDING)).to_json()


def test_an_unknown_status_keeps_its_text_and_is_active():
    job = v1_extract.decode_job(json.dumps({**PENDING, "status": "paused"}))
    assert job.status is JobStatus.UNKNOWN
    assert job.status_text == "paused"
    assert not job.is_terminal
    assert json.loads(job.to_json())["status"] == "paused"


def test_unknown_fields_are_kept_at_every_level():
    warning = {"msg": "m", "severity": 3}
    metadata = {**METADATA, "pages": 9, "warnings": [warning]}
    job = v1_extract.decode_job(
        json.dumps({**JOB, "eta": [1], "data": {**RESULT, "metadata": metadata, "chunks": None}})
    )
    assert job.extra == {"eta": [1]}
    assert job.data.extra == {"chunks": None}
    assert job.data.metadata.extra == {"pages": 9}
    assert job.data.metadata.warnings[0].extra == {"severity": 3}
    assert json.loads(job.to_json())["data"]["metadata"]["warnings"] == [{**warning, "code": None}]


@pytest.mark.parametrize("name", ["extra", "status_text", "conforms"])
def test_a_field_with_the_name_of_a_derived_attribute_is_unknown(name):
    job = v1_extract.decode_job(json.dumps({**PENDING, name: "theirs"}))
    assert job.extra == {name: "theirs"}
    assert job.status_text == "pending"
    assert job.conforms


def test_http_206_and_a_schema_violation_both_mean_that_the_data_does_not_conform():
    assert v1_extract.decode_job(json.dumps(JOB)).conforms
    assert not v1_extract.decode_job(json.dumps(JOB), status=206).conforms
    violating = {**METADATA, "schema_violation_error": "no field 'total'"}
    assert not v1_extract.decode_job(json.dumps({**JOB, "metadata": violating})).conforms
    within = {**RESULT, "metadata": violating}
    assert not v1_extract.decode_job(json.dumps({**JOB, "data": within})).conforms


def test_conforms_is_saved_and_restored():
    for conforms in (True, False):
        job = v1_extract.decode_job(json.dumps(JOB), status=200 if conforms else 206)
        assert JobSnapshot.from_json(job.to_json()).conforms is conforms
    assert JobSnapshot.from_json(json.dumps(JOB)).conforms
    with pytest.raises(MalformedAnswerError, match=r"a boolean @ \$.conforms"):
        JobSnapshot.from_json(json.dumps({**JOB, "conforms": 1}))


@pytest.mark.parametrize("extraction", [{}, {"a": 10**400}, {"a": "\ud800"}, {"": [[[]]]}, [], "x"])
def test_an_extraction_of_any_shape_is_kept_exactly(extraction):
    result = v1_extract.decode_result(json.dumps({**RESULT, "extraction": extraction}))
    assert result.extraction == extraction
    assert json.loads(v1_extract.encode_result(result))["extraction"] == extraction


def test_a_page_is_read_with_its_jobs_and_has_more():
    page = v1_extract.decode_page(
        json.dumps({"jobs": [SUMMARY] * 2, "org_id": "o", "has_more": True})
    )
    assert isinstance(page, JobPage)
    assert [job.job_id for job in page.jobs] == ["j-1", "j-1"]
    assert page.has_more
    assert page.org_id == "o"
    assert not v1_extract.decode_page('{"jobs": []}').has_more


def test_a_summary_is_written_as_the_service_sends_it():
    (summary,) = v1_extract.decode_page(json.dumps({"jobs": [SUMMARY]})).jobs
    assert json.loads(codec.encode(summary)) == SUMMARY


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job_id", "status", "received_at", "progress"])
def test_a_missing_required_field_is_named(name):
    job = {key: value for key, value in PENDING.items() if key != name}
    (problem,) = problems_of(job)
    assert problem.endswith(f"@ $.{name}")
    assert "missing" in problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"job_id": 7}, "expected a string, got a number @ $.job_id"),
        ({"status": None}, "expected a string, got null @ $.status"),
        ({"progress": "1"}, "expected a number, got a string @ $.progress"),
        ({"progress": True}, "expected a number, got a boolean @ $.progress"),
        ({"progress": 10**400}, "expected a number, got one out of range @ $.progress"),
        ({"received_at": 1e300}, "expected a Unix timestamp, got one out of range @ $.received_at"),
        ({"received_at": [1]}, "expected a number, got an array @ $.received_at"),
        ({"data": []}, "expected an object, got an array @ $.data"),
        ({"output_url": {}}, "expected a string, got an object @ $.output_url"),
        (
            {"data": {**RESULT, "metadata": {**METADATA, "duration_ms": 1.5}}},
            "expected a whole number @ $.data.metadata.duration_ms",
        ),
        (
            {"data": {**RESULT, "metadata": {**METADATA, "warnings": [{"code": "c"}]}}},
            "required field missing @ $.data.metadata.warnings[0].msg",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_reported_with_its_path(change, problem):
    assert problems_of({**PENDING, **change}) == (problem,)


@pytest.mark.parametrize(
    "aside",
    [
        {"metadata": {"filename": "a"}},
        {"created_at": 1_780_000_000_000_000},
        {"version": 7, "org_id": []},
        {"failure_reason": {"code": 1}, "metadata": "none"},
    ],
)
def test_an_unreadable_side_field_does_not_hide_that_the_job_has_settled(aside):
    snapshot = v1_extract.decode_job(json.dumps({**PENDING, "status": "failed", **aside}))
    assert snapshot.status is JobStatus.FAILED
    assert snapshot.extra == aside
    assert all(getattr(snapshot, name) is None for name in aside)
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


def test_a_bad_status_is_refused_also_with_a_bad_side_field():
    bad = {**PENDING, "status": 1, "metadata": 2}
    assert problems_of(bad) == ("expected a string, got a number @ $.status",)


def test_all_problems_are_reported_together():
    assert len(problems_of({"status": 1, "progress": "x"})) == 4


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON: .* @ line 1 column 1"),
        (b"null", "expected an object, got null"),
        (b"[]", "expected an object, got an array"),
        (b'"x"', "expected an object, got a string"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "a number is out of range"),
        (b'{"a": "\xff\xfe"}', "not JSON: not utf-8 @ byte 7"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not usable JSON: Exceeds the limit"),
        (b'{"job_id": "j-1"} trailing', "not JSON: Extra data"),
    ],
)
def test_other_text_than_a_json_object_is_refused_with_the_reason(body, problem):
    with pytest.raises(MalformedAnswerError, match=problem) as caught:
        v1_extract.decode_job(body)
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 400


def test_the_error_of_a_page_names_the_bad_entry():
    with pytest.raises(MalformedAnswerError) as caught:
        v1_extract.decode_page(json.dumps({"jobs": [SUMMARY, {**SUMMARY, "job_id": None}]}))
    assert caught.value.problems == ("expected a string, got null @ $.jobs[1].job_id",)


def test_an_array_is_not_checked_further_after_20_malformed_items():
    bad = {**SUMMARY, "job_id": None}
    *twenty, last = problems_of_page([SUMMARY, *[bad] * 10_000])
    assert twenty == [f"expected a string, got null @ $.jobs[{n}].job_id" for n in range(1, 21)]
    assert last == "9980 more items were not checked @ $.jobs"
    assert problems_of_page([SUMMARY, *[bad] * 20]) == tuple(twenty)


def problems_of_page(summaries):
    with pytest.raises(MalformedAnswerError) as caught:
        v1_extract.decode_page(json.dumps({"jobs": summaries}))
    return caught.value.problems


# --- against the service's own description ------------------------------------------------------

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "ade-v1-extract-jobs.openapi.json"


@pytest.mark.skipif(not SPEC.exists(), reason="the service's OpenAPI description is not here")
def test_the_models_have_exactly_the_fields_of_the_openapi_description():
    schemas = json.loads(SPEC.read_text())["components"]["schemas"]
    for model, name in {
        JobSnapshot: "ExtractJobStatusResponse",
        ExtractResult: "ExtractResponse",
        ExtractMetadata: "ExtractMetadata",
        ExtractWarning: "ExtractWarning",
        JobPage: "JobsListResponse",
        JobSummary: "JobSummary",
    }.items():
        ours = {f.name for f in attrs.fields(model)} - {"extra", "status_text", "conforms"}
        assert ours == set(schemas[name]["properties"])
