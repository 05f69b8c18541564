import contextlib
import json
import pickle
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args, get_origin

import attrs
import pytest
from fuzzing import counted_calls
from hypothesis import given
from hypothesis import strategies as st

from adepoll import JobKind
from adepoll.api import codec, json_text
from adepoll.api.json_fields import json_key
from adepoll.api.json_text import Json
from adepoll.api.kinds import v1_extract
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.api.results import (
    ExtractMetadata,
    ExtractResult,
    ExtractWarning,
    ParseMetadata,
    ParseResult,
    SpreadsheetParseMetadata,
    SpreadsheetParseResult,
    V2Billing,
    V2ExtractResult,
    V2Metadata,
    V2ParseResult,
    WorkflowResult,
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


# Names of up to 8 characters that adepoll adds to the JSON of a snapshot. Fields of the service
# with such a name are not kept.
ADDED = ("conforms", "failure", "kind", "label", "partial")


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
    extras(*JOB, *ADDED),
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
    assert v1_extract.decode_result(codec.encode(decoded)) == decoded
    written = json.loads(codec.encode(decoded))
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
    names = st.text(max_size=5).filter(lambda name: name not in ADDED)
    place[data.draw(st.sampled_from(sorted(place)) | names)] = data.draw(values)
    with contextlib.suppress(MalformedAnswerError):
        snapshot = v1_extract.decode_job(json.dumps(job))
        assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


PLACES = [
    lambda job: job,
    lambda job: job["metadata"],
    lambda job: job["data"]["metadata"],
    lambda job: job["metadata"]["warnings"][0],
    lambda job: job["data"]["metadata"]["warnings"][0],
]


@given(st.data(), st.sampled_from([status.value for status in JobStatus]))
def test_no_value_of_a_side_field_makes_an_answer_malformed(data, status):
    job = {**json.loads(json.dumps(JOB)), "status": status}
    place = data.draw(st.sampled_from(PLACES))(job)
    side = sorted(place.keys() - ({"job_id", "status", "data"} if place is job else set()))
    names = data.draw(st.lists(st.sampled_from(side), min_size=1, max_size=3))
    for name in names:
        if data.draw(st.booleans()):
            place[name] = data.draw(values)
        else:
            place.pop(name, None)
    snapshot = v1_extract.decode_job(json.dumps(job))
    assert (snapshot.job_id, snapshot.status.value) == ("j-1", status)
    assert snapshot.data.extraction == RESULT["extraction"]
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot
    for name in names:  # what could not be read is kept
        if place is job and getattr(snapshot, name) is None and place.get(name) not in (None, ""):
            assert place[name] == 0 or snapshot.extra[name] == place[name]


@given(st.lists(st.just(SUMMARY) | values, max_size=5), st.integers(0, 5))
def test_a_malformed_item_of_a_page_costs_only_that_item(items, place):
    items.insert(place, {**SUMMARY, "job_id": "good"})
    page = v1_extract.decode_page(json.dumps({"jobs": items, "has_more": True}))
    assert "good" in [job.job_id for job in page.jobs]
    assert sum(job.job_id == "j-1" for job in page.jobs) == items.count(SUMMARY)
    assert page.has_more
    assert ("jobs" in page.extra) == (len(page.jobs) < len(items))


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
        raw, value = distinct(alternative)
        return [raw], (value,)
    if attrs.has(alternative):
        return sample(alternative)
    return DISTINCT.get(alternative, ({"any": ["json"]}, {"any": ["json"]}))


def sample(cls):
    """Return JSON for all declared fields of a class, and the instance that must be read."""
    raw, expected = {}, {}
    for field in attrs.fields(cls):
        if (name := json_key(field)) is None:
            continue
        value, expected[field.name] = distinct(field.type)
        raw.setdefault(name, value)
    if "status_text" in expected:
        expected["status_text"] = raw["status"]
    return raw, cls(**expected)


MODELS = [
    JobSnapshot,
    JobPage,
    JobSummary,
    ExtractResult,
    ExtractMetadata,
    ExtractWarning,
    ParseResult,
    SpreadsheetParseResult,
    V2ParseResult,
    V2ExtractResult,
    WorkflowResult,
]


@pytest.mark.parametrize("model", MODELS)
def test_every_declared_field_of_every_model_is_read_and_written(model):
    raw, expected = sample(model)
    assert codec.read(model, raw) == expected
    assert codec.read(model, raw).extra == {}
    assert codec.flatten(expected) == raw


@attrs.frozen(kw_only=True)
class Grown(ExtractMetadata):
    """Metadata after the service has added two fields."""

    pages: int | None = None
    language: str = attrs.field(default="en")


@attrs.frozen(kw_only=True)
class GrownResult(ExtractResult):
    metadata: Grown


def test_a_field_is_read_and_written_as_soon_as_it_is_declared():
    read, grown = codec.read, {**METADATA, "pages": 9}
    assert codec.read(ExtractMetadata, grown).extra == {"pages": 9}
    result = read(GrownResult, {**RESULT, "metadata": grown})
    assert (result.metadata.pages, result.metadata.language) == (9, "en")
    assert result.metadata.extra == {}
    assert read(Grown, {**grown, "language": "de"}).language == "de"
    assert codec.flatten(result)["metadata"] == {**grown, "language": "en"}
    assert read(Grown, {**METADATA, "pages": "nine"}).extra == {"pages": "nine"}


@attrs.frozen(kw_only=True)
class Anything:
    value: Json
    count: int
    extra: dict = attrs.field(factory=dict)


@pytest.mark.parametrize("value", [None, 1, "a", [1], {"a": 1}])
def test_a_field_for_json_is_never_the_problem(value):
    assert codec.read(Anything, {"value": value, "count": 1}).value == value
    with pytest.raises(MalformedAnswerError) as caught:
        codec.read(Anything, {"value": value})
    assert caught.value.problems == ("required field missing @ $.count",)


@attrs.frozen(kw_only=True)
class Checked:
    """A class with a validator, which the generated reader must not bypass."""

    size: int = attrs.field(validator=attrs.validators.gt(0))
    extra: dict = attrs.field(factory=dict)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_reader_returns_is_an_ordinary_frozen_object(model):
    raw, expected = sample(model)
    read = codec.read(model, raw)
    assert type(read) is model
    assert read == expected
    assert pickle.loads(pickle.dumps(read)) == expected
    assert weakref.ref(read)() is read
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        read.extra = {}


@pytest.mark.parametrize("kind", RULES)
def test_a_snapshot_keeps_the_text_of_a_result_as_bytes_only(kind):
    rules = RULES[kind]
    result = dict.fromkeys(rules.result_keys, "")
    job = {"job_id": "j-1", "status": "completed", "received_at": 1}
    body = json.dumps({**job, rules.result_field: result}).encode()
    snapshot = rules.decode_job(body, 200)
    assert snapshot.received_result.read() == json.dumps(result).encode()
    assert rules.decode_job(body.decode(), 200).received_result is None
    assert JobSnapshot.from_json(snapshot.to_json()).received_result is None
    without = json.dumps({**job, rules.result_field: None}).encode()
    assert rules.decode_job(without, 200).received_result is None


def test_validators_of_a_class_are_applied():
    assert codec.read(Checked, {"size": 1}).size == 1
    with pytest.raises(ValueError, match="size"):
        codec.read(Checked, {"size": 0})


@pytest.mark.parametrize(("odd", "number"), [(False, 0), (True, 1)])
def test_metadata_that_differs_only_in_a_boolean_is_read(odd, number):
    """For Python, false is equal to 0."""
    data = {**RESULT, "metadata": {**METADATA, "duration_ms": odd}}
    job = {**JOB, "data": data, "metadata": {**METADATA, "duration_ms": number}}
    snapshot = v1_extract.decode_job(json.dumps(job))
    assert snapshot.metadata.duration_ms == number
    assert snapshot.data.metadata.duration_ms is None
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


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
        {**PENDING, "job_id": [secret]},
        {**PENDING, "status": {secret: secret}},
        {**PENDING, "status": "completed", "data": secret},
        {**PENDING, "status": "completed", "data": {secret: secret}},
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


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
)
def test_a_time_that_no_timestamp_can_express_is_read_back(text):
    """Read as a timestamp, the first would be invalid, the second None, the third of 1978."""
    job = v1_extract.decode_job(json.dumps({**PENDING, "received_at": text}))
    assert job.received_at == datetime.fromisoformat(text)
    assert JobSnapshot.from_json(job.to_json()) == job


def test_timestamps_may_have_a_fraction():
    job = v1_extract.decode_job(json.dumps({**PENDING, "received_at": 1_780_000_000.25}))
    assert job.received_at.microsecond == 250_000
    assert json.loads(job.to_json())["received_at"] == 1_780_000_000.25


@pytest.mark.parametrize("time", [1780000000, 1, 0.5])
def test_a_time_is_written_as_the_number_of_seconds_that_was_read(time):
    job = v1_extract.decode_job(json.dumps({**PENDING, "received_at": time}))
    assert f'"received_at":{time},' in job.to_json()


def test_the_bytes_of_a_result_are_not_shown():
    job = v1_extract.decode_job(json.dumps(JOB))
    assert job.data is not None
    assert "received_result" not in repr(job)


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
    assert json.loads(job.to_json())["data"]["metadata"]["warnings"] == [warning]


@pytest.mark.parametrize("name", ["extra", "status_text", "conforms"])
def test_a_field_with_the_name_of_a_derived_attribute_is_unknown(name):
    job = v1_extract.decode_job(json.dumps({**PENDING, name: "theirs"}))
    assert job.extra == {name: "theirs"}
    assert job.status_text == "pending"
    assert job.conforms is None, "there is no data yet"


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
    assert json.loads(codec.encode(result))["extraction"] == extraction


def test_a_page_is_read_with_its_jobs_and_has_more():
    page = v1_extract.decode_page(
        json.dumps({"jobs": [SUMMARY] * 2, "org_id": "o", "has_more": True})
    )
    assert isinstance(page, JobPage)
    assert [job.job_id for job in page.jobs] == ["j-1", "j-1"]
    assert page.has_more
    assert page.org_id == "o"
    assert not v1_extract.decode_page('{"jobs": []}').has_more


def test_a_summary_is_written_as_the_service_sends_it_but_an_unknown_time_is_null():
    (summary,) = v1_extract.decode_page(json.dumps({"jobs": [SUMMARY]})).jobs
    assert json.loads(codec.encode(summary)) == {**SUMMARY, "created_at": None}


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job_id", "status"])
def test_a_missing_required_field_is_named(name):
    job = {key: value for key, value in PENDING.items() if key != name}
    assert problems_of(job) == (f"required field missing @ $.{name}",)


DONE = {**PENDING, "status": "completed"}
NO_EXTRACTION = {name: RESULT[name] for name in RESULT if name != "extraction"}


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ({**PENDING, "job_id": 7}, "expected a string, got a number @ $.job_id"),
        ({**PENDING, "status": None}, "expected a string, got null @ $.status"),
        ({**DONE, "data": []}, "expected an object, got an array @ $.data"),
        ({**DONE, "data": NO_EXTRACTION}, "required field missing @ $.data.extraction"),
        ({**DONE, "output_url": {}}, "expected a string @ $.output_url"),
    ],
)
def test_a_required_field_of_the_wrong_type_is_reported_with_its_path(job, problem):
    assert problems_of(job) == (problem,)


def test_only_a_completed_job_needs_its_result():
    for job in ({**PENDING, "data": {}}, {**PENDING, "status": "failed", "output_url": 7}):
        assert v1_extract.decode_job(json.dumps(job)).data is None
    for unreadable, readable in (("data", "output_url"), ("output_url", "data")):
        snapshot = v1_extract.decode_job(json.dumps({**JOB, "status": "completed", unreadable: 7}))
        assert getattr(snapshot, unreadable) is None
        assert getattr(snapshot, readable) is not None
        assert snapshot.extra == {unreadable: 7}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"data": {"markdown": "# A", "chunks": [], "splits": [], "metadata": {}}}, "parse job"),
        ({"data": {"chunks": []}}, "parse job"),
        ({"data": {"output": {}}}, "workflow job"),
        ({"result": {"extraction": {}}}, "v2 job"),
    ],
)
def test_the_answer_to_a_job_of_another_kind_is_reported_as_such(change, kind):
    assert "it looks like the answer to a " + kind in problems_of({**DONE, **change})[0]


SETTLED = {**JOB, "data": RESULT}


@pytest.mark.parametrize("in_data", [True, False], ids=["data.metadata", "metadata"])
@pytest.mark.parametrize(
    ("change", "read", "extra"),
    [
        ({"filename": None}, {"filename": None}, {}),
        ({"filename": 7}, {"filename": None}, {"filename": 7}),
        ({"warnings": None}, {"warnings": ()}, {}),
        ({"warnings": "none"}, {"warnings": ()}, {"warnings": "none"}),
        ({"duration_ms": 1200.4}, {"duration_ms": 1200}, {"duration_ms": 1200.4}),
        ({"duration_ms": "1200"}, {"duration_ms": 1200}, {}),
        ({"duration_ms": True}, {"duration_ms": None}, {"duration_ms": True}),
        ({"duration_ms": 10**400}, {"duration_ms": None}, {"duration_ms": 10**400}),
        ({"credit_usage": "3.5"}, {"credit_usage": 3.5}, {}),
        ({"credit_usage": {}}, {"credit_usage": None}, {"credit_usage": {}}),
        ({"org_id": ...}, {"org_id": None}, {}),
        ({"job_id": ..., "version": ...}, {"job_id": None, "version": None}, {}),
    ],
)
def test_odd_metadata_are_read_as_far_as_possible(in_data, change, read, extra):
    odd = {name: value for name, value in {**METADATA, **change}.items() if value is not ...}
    change = {"data": {**RESULT, "metadata": odd}} if in_data else {"metadata": odd}
    snapshot = v1_extract.decode_job(json.dumps({**SETTLED, **change}))
    metadata = snapshot.data.metadata if in_data else snapshot.metadata
    assert {name: getattr(metadata, name) for name in read} == read
    assert metadata.extra == extra
    assert snapshot.data.extraction == RESULT["extraction"]
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot


@pytest.mark.parametrize("change", [{"metadata": ...}, {"metadata": 7}, {"metadata": None}])
def test_a_result_without_metadata_is_read(change):
    data = {name: value for name, value in {**RESULT, **change}.items() if value is not ...}
    result = v1_extract.decode_result(json.dumps(data))
    assert result.metadata.filename is None
    assert result.extraction == RESULT["extraction"]
    without_mirror = {"extraction": {}, "metadata": METADATA}
    assert v1_extract.decode_result(json.dumps(without_mirror)).extraction_metadata is None


@pytest.mark.parametrize(
    ("warning", "code", "msg"),
    [
        ({"code": "c", "msg": "m"}, "c", "m"),
        ({"message": "m"}, None, "m"),
        ({"code": "c", "detail": {"message": "m"}}, "c", "m"),
        ({"msg": {"message": "m"}}, None, "m"),
        ({"msg": None, "code": 7}, None, None),
        ({}, None, None),
        ("m", None, "m"),
    ],
)
def test_a_warning_of_any_shape_is_read(warning, code, msg):
    metadata = codec.read(ExtractMetadata, {**METADATA, "warnings": [warning]})
    assert [(w.code, w.msg) for w in metadata.warnings] == [(code, msg)]
    assert codec.read(ExtractMetadata, codec.flatten(metadata)) == metadata


def test_other_items_than_warnings_are_kept_in_extra():
    items = [{"msg": "m"}, 7, None]
    metadata = codec.read(ExtractMetadata, {**METADATA, "warnings": items})
    assert [warning.msg for warning in metadata.warnings] == ["m"]
    assert metadata.extra == {"warnings": items}
    assert codec.flatten(metadata)["warnings"] == items


def test_at_most_1000_warnings_are_read_and_the_json_of_all_is_kept():
    items = [{"msg": str(number)} for number in range(1_001)]
    metadata = codec.read(ExtractMetadata, {**METADATA, "warnings": items})
    assert len(metadata.warnings) == 1_000
    assert metadata.extra == {"warnings": items}
    assert codec.read(ExtractMetadata, {"warnings": items[:1_000]}).extra == {}


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "time"),
    [
        (1_782_907_200, NOON),
        (1_782_907_200_000, NOON),
        (1_782_907_200_000_000, NOON),
        (1_782_907_200_000_000_000, NOON),
        (1_782_907_200.5, NOON.replace(microsecond=500_000)),
        ("1782907200", NOON),
        ("1782907200000", NOON),
        ("2026-07-01T12:00:00Z", NOON),
        ("2026-07-01T14:00:00+02:00", NOON),
        ("2026-07-01 12:00:00", NOON),
        (0, None),
        (0.0, None),
        ("0", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["received_at", "created_at"])
def test_a_time_in_any_usual_form_is_read(name, written, time):
    for model, raw in ((JobSnapshot, PENDING), (JobSummary, PENDING)):
        job = codec.read(model, {**raw, name: written})
        assert getattr(job, name) == time
        assert job.extra == {}


@pytest.mark.parametrize("written", ["yesterday", [1], {}, True, -1e300, "-" + "9" * 50])
def test_any_other_time_is_unknown_and_kept(written):
    job = codec.read(JobSnapshot, {**PENDING, "received_at": written})
    assert job.received_at is None
    assert job.extra == {"received_at": written}


@pytest.mark.parametrize(
    ("written", "progress", "is_kept"),
    [
        (None, None, False),
        ("0.5", 0.5, False),
        (1, 1.0, False),
        ("half", None, True),
        (True, None, True),
        ([], None, True),
    ],
)
def test_progress_of_any_shape_is_read(written, progress, is_kept):
    for model in (JobSnapshot, JobSummary):
        job = codec.read(model, {**PENDING, "progress": written})
        assert job.progress == progress
        assert job.extra == ({"progress": written} if is_kept else {})


def test_times_and_progress_can_be_absent():
    for model in (JobSnapshot, JobSummary):
        job = codec.read(model, {"job_id": "j-1", "status": "pending"})
        assert (job.received_at, job.progress, job.extra) == (None, None, {})


@pytest.mark.parametrize(
    ("written", "has_more", "extra"),
    [
        (None, False, {}),
        (1, True, {}),
        ("true", True, {}),
        ("x", False, {"has_more": "x"}),
    ],
)
def test_has_more_of_any_shape_is_read(written, has_more, extra):
    page = v1_extract.decode_page(json.dumps({"jobs": [], "has_more": written}))
    assert page.has_more is has_more
    assert page.extra == extra


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"failure_reason": "no"}, "no"),
        ({"failure_reason": {"code": "internal_error", "message": "no"}}, "no (internal_error)"),
        ({"error": {"code": "internal_error", "message": "no"}}, "no (internal_error)"),
        ({"error": "no"}, "no"),
        ({"detail": [{"msg": "no", "loc": ["body", "schema"]}]}, "no @ body.schema"),
        ({"message": "no", "failure_reason": None}, "no"),
        ({"failure_reason": 7}, None),
        ({"other": "text"}, None),
    ],
)
def test_the_reason_of_a_failure_is_found_in_any_usual_place(odd, reason):
    snapshot = v1_extract.decode_job(json.dumps({**PENDING, "status": "failed", **odd}))
    assert snapshot.failure_reason == reason
    assert JobSnapshot.from_json(snapshot.to_json()) == snapshot
    kept = {name: odd[name] for name in snapshot.extra}
    assert kept == snapshot.extra


def test_a_message_of_an_active_job_is_no_failure_reason():
    snapshot = v1_extract.decode_job(json.dumps({**PENDING, "message": "in the queue"}))
    assert snapshot.failure_reason is None


@pytest.mark.parametrize("text", ["Completed", "COMPLETED", " completed\n"])
def test_a_status_in_other_case_is_understood(text):
    snapshot = v1_extract.decode_job(json.dumps({**JOB, "status": text}))
    assert snapshot.status is JobStatus.COMPLETED
    assert snapshot.status_text == text
    american = v1_extract.decode_job(json.dumps({**PENDING, "status": "Canceled"}))
    assert american.status is JobStatus.CANCELLED


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000])
def test_a_number_that_python_cannot_represent_does_not_cost_the_job(number):
    body = json.dumps(JOB).replace("12.5", number).encode()
    for text in (body, body.decode().encode("utf-16")):
        total = v1_extract.decode_job(text).data.extraction["total"]
        assert total == (None if number.lstrip("-")[0] in "NI" else number)


def test_all_problems_are_reported_together():
    assert len(problems_of({"status": 1})) == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON: .* @ line 1 column 1"),
        (b"null", "expected an object, got null"),
        (b"[]", "expected an object, got an array"),
        (b'"x"', "expected an object, got a string"),
        (b'{"a": "\xff\xfe"}', "not JSON: not utf-8 @ byte 7"),
        (b"[" * 15_000, "nested too deeply"),
        (b'{"a":' * 90_000, "nested too deeply"),
        (b'{"job_id": "j-1"} trailing', "not JSON: Extra data @ line 1 column 19"),
    ],
)
def test_other_text_than_a_json_object_is_refused_with_the_reason(body, problem):
    with pytest.raises(MalformedAnswerError, match=problem) as caught:
        v1_extract.decode_job(body)
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 400


def test_a_page_without_a_readable_entry_is_malformed_and_the_entries_are_named():
    bad = {**SUMMARY, "job_id": None}
    assert problems_of_page([bad]) == ("expected a string, got null @ $.jobs[0].job_id",)
    *twenty, last = problems_of_page([bad] * 5_000)
    assert twenty == [f"expected a string, got null @ $.jobs[{n}].job_id" for n in range(20)]
    assert last == "4980 more items were not checked @ $.jobs"
    assert problems_of_page({}) == ("expected an array, got an object @ $.jobs",)


def test_at_most_100_jobs_of_a_page_are_read():
    page = v1_extract.decode_page(json.dumps({"jobs": [SUMMARY] * 101}))
    assert len(page.jobs) == 100
    assert len(page.extra["jobs"]) == 101


@pytest.mark.parametrize(
    ("decode", "item", "problem"),
    [
        (v1_extract.decode_page, "{}", "more than 10000 objects and arrays"),
        (v1_extract.decode_page, "[]", "more than 10000 objects and arrays"),
        (v1_extract.decode_page, "0", "more than 100000 values"),
        (v1_extract.decode_job, "[]", "more than 100000 objects and arrays"),
        (v1_extract.decode_job, "0", "more than 600000 values"),
    ],
)
def test_far_too_many_values_are_refused_before_they_are_parsed(decode, item, problem, monkeypatch):
    monkeypatch.setattr(json_text, "loads", None)
    body = b'{"jobs":[' + b",".join([item.encode()] * 650_000) + b"]}"
    for text in (body, body.decode()):
        with pytest.raises(MalformedAnswerError, match=problem):
            decode(text)


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
        ours = {json_key(field) for field in attrs.fields(model)} - {None, *OF_V2}
        assert ours == set(schemas[name]["properties"])


OF_V2 = {"completed_at", "model_version"}
OTHER_SPECS = [
    ("ade-v1-parse-jobs", ParseResult, "ParseResponse"),
    ("ade-v1-parse-jobs", ParseMetadata, "ParseMetadata"),
    ("ade-v1-parse-jobs", SpreadsheetParseResult, "SpreadsheetParseResponse"),
    ("ade-v1-parse-jobs", SpreadsheetParseMetadata, "SpreadsheetParseMetadata"),
    ("ade-v2-jobs", V2ParseResult, "ParseResponse"),
    ("ade-v2-jobs", V2Billing, "V2Billing"),
]


@pytest.mark.skipif(not SPEC.exists(), reason="the service's OpenAPI description is not here")
@pytest.mark.parametrize(("spec", "model", "name"), OTHER_SPECS)
def test_results_have_exactly_the_fields_of_the_openapi_description(spec, model, name):
    raw = json.loads(SPEC.with_name(f"{spec}.openapi.json").read_text())
    ours = {json_key(field) for field in attrs.fields(model)} - {None}
    assert ours == set(raw["components"]["schemas"][name]["properties"])


@pytest.mark.skipif(not SPEC.exists(), reason="the service's OpenAPI description is not here")
def test_v2_metadata_has_the_fields_of_all_kinds_of_the_openapi_description():
    raw = json.loads(SPEC.with_name("ade-v2-jobs.openapi.json").read_text())
    schemas = raw["components"]["schemas"]
    names = ("ParseMetadata", "V2ExtractMetadata", "V2WorkflowMetadata")
    ours = {json_key(field) for field in attrs.fields(V2Metadata)} - {None}
    assert ours == {field for name in names for field in schemas[name]["properties"]}


PAGES = {
    "whole numbers": [*range(9_000)],
    "texts": ["x"] * 9_000,
    "objects": [{}] * 3_000,
}


@pytest.mark.parametrize("pages", PAGES)
def test_an_array_is_not_read_item_by_item_if_no_item_or_every_item_is_odd(pages):
    failed = {"failed_pages": PAGES[pages]}
    result = {"markdown": "", "structure": {}, "metadata": failed}
    body = json.dumps({"job_id": "j", "status": "completed", "result": result}).encode()
    rules = RULES[JobKind.V2_PARSE]
    rules.decode_job(body, 200)  # generates the readers
    with counted_calls() as count:
        job = rules.decode_job(body, 200)
    assert count() < 3_000
    assert job.data.metadata.failed_pages == (
        tuple(range(9_000)) if pages == "whole numbers" else ()
    )
    assert job.data.metadata.extra == ({} if pages == "whole numbers" else failed)


@pytest.mark.parametrize("value", [7, {}, [[]], {"a": {"b": [1]}}], ids=json.dumps)
def test_unknown_fields_cost_no_call_each(value):
    unknown = {f"field-{number}": value for number in range(2_000)}
    body = json.dumps({"job_id": "j", "status": "pending", "received_at": 1, **unknown}).encode()
    v1_extract.decode_job(body)
    with counted_calls() as count:
        job = v1_extract.decode_job(body)
    assert count() < 300
    assert job.extra == unknown


@pytest.mark.parametrize("item", ["{}", '{"a": [1.5]}', "7", "[7]", "[[], 0.5]"])
def test_other_threads_run_while_very_many_values_are_parsed(item):
    """Python switches to another thread only when the scanner, written in C, calls Python code."""
    body = f"[{', '.join([item] * 20_100)}]".encode()
    with counted_calls() as count:
        assert json_text.loads(body) == [json.loads(item)] * 20_100
    assert count() >= 20_100


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600"),
        (b"\\ud83d\xed\xb8\x80", "\U0001f600"),
        (b"\xed\xa0\xbd\\ude00", "\U0001f600"),
        (b"\\\\\xed\xa0\xbd\xed\xb8\x80", "\\\U0001f600"),
        (b"\xc3\xa9\xed\xb8\x80\xed\xa0\xbd", "é\ude00\ud83d"),
        (b"\xed\xa0\xbd", "\ud83d"),
    ],
    ids=[
        "CESU-8",
        "second half as CESU-8",
        "first half as CESU-8",
        "after a backslash",
        "in the wrong order",
        "half a pair",
    ],
)
def test_texts_with_surrogates_are_the_same_after_they_were_written_and_read(sent, read):
    answer = b'{"job_id":"j","status":"failed","received_at":1,"failure_reason":"%b","%b":"%b"}'
    job = v1_extract.decode_job(answer % (sent, sent, sent))
    assert job.failure_reason == read
    assert job.extra == {read: read}
    assert JobSnapshot.from_json(job.to_json()) == job
    text = (answer % (sent, sent, sent)).decode("utf-8", "surrogatepass")
    assert JobSnapshot.from_json(text) == job


def test_a_surrogate_after_a_backslash_is_not_json():
    with pytest.raises(MalformedAnswerError, match="escape"):
        json_text.loads(b'["\\\xed\xa0\xbd"]')


def test_only_the_unknown_fields_that_are_nested_too_deeply_are_kept_as_text():
    deep = json.loads("[" * 102 + "]" * 102)
    shallow = json.loads('{"a":' * 100 + "0" + "}" * 100)
    unknown = {"first": 1, "deep": deep, "shallow": shallow, "last": [[], {}]}
    body = json.dumps({"job_id": "j", "status": "pending", "received_at": 1, **unknown}).encode()
    extra = v1_extract.decode_job(body).extra
    assert extra == unknown | {"deep": "[" * 102 + "]" * 102}
    assert [*extra] == [*unknown]


def test_a_text_with_few_values_is_parsed_without_a_call_for_each():
    body = json.dumps({"text": "x" * 2**20, "rows": [[1.5, {}]] * 2_000}).encode()
    with counted_calls() as count:
        json_text.loads(body)
    assert count() < 2_100  # one for each fraction


@pytest.mark.parametrize("step", ["[", "[ \n"])
def test_an_answer_of_nested_arrays_is_refused_before_it_is_parsed(step):
    """Python frees such arrays, and collects their garbage, ten times as slowly as others."""
    nested = ",".join([step * 90 + "]" * 90] * 250)
    body = f'{{"job_id":"j","status":"completed","new":[{nested}]}}'.encode()
    with counted_calls() as count, pytest.raises(MalformedAnswerError, match="within arrays"):
        v1_extract.decode_job(body)
    assert count() < 1_000  # mostly those of the assertion


@pytest.mark.parametrize(
    "new",
    [
        "[[1, 2], [3, 4]] " * 4_000,  # a text of a document
        [[[number, 0.5], [1, 2]] for number in range(4_000)],
        json.loads("[" * 900 + "]" * 900),
    ],
    ids=["text", "matrices", "900 levels"],
)
def test_an_answer_with_arrays_in_arrays_is_read(new):
    body = json.dumps({"job_id": "j", "status": "pending", "received_at": 1, "new": new})
    assert v1_extract.decode_job(body).extra["new"] == (
        body[body.index('"new": ') + 7 : -1] if isinstance(new, list) and len(new) == 1 else new
    )
