import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from adepoll import errors
from adepoll.api import protocol
from adepoll.api.job_ids import check_job_id
from adepoll.api.job_requests import job_path, list_query
from adepoll.api.kinds.v1_extract import V1_EXTRACT
from adepoll.api.models import JobStatus
from adepoll.common.redaction import Secret
from adepoll.errors import (
    InvalidJobIdError,
    MalformedAnswerError,
    RequestError,
    StatusError,
    WrongJobError,
)

CANARY = "CaNaRy0123456789+/=="
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
JSON = CIMultiDict({"Content-Type": "application/json"})
JOB = {"job_id": "j-1", "status": "pending", "received_at": 1_780_000_000, "progress": 0}


def is_valid(job_id: str) -> bool:
    try:
        check_job_id(job_id)
    except InvalidJobIdError:
        return False
    return True


job_ids = st.text(st.sampled_from("aZ9-_.~:@é漢&=+;,'\"<>|{}^`$!*()[]") | st.characters()).filter(
    is_valid
)


# --- requests -----------------------------------------------------------------------------------


@given(job_ids)
@example("a+b")
@example("~tilde.-_")
def test_a_job_id_is_encoded_exactly_once(job_id):
    path = job_path(V1_EXTRACT, job_id)
    head, _, last = path.rpartition("/")
    assert head == "/v1/ade/extract/jobs"
    assert unquote(last, errors="strict") == job_id
    assert path.isascii()
    assert urlsplit(f"https://h{path}").path == path


@pytest.mark.parametrize("job_id", ["", "..", "a/../b", "a?b", "a%2Fb", "a b", "a" * 257])
def test_an_id_that_would_change_the_path_is_refused(job_id):
    with pytest.raises(InvalidJobIdError):
        job_path(V1_EXTRACT, job_id)


@given(st.integers(0, 10**6), st.integers(1, 100), st.sampled_from([None, *JobStatus]))
def test_the_list_is_requested_with_the_parameters_of_the_service(page, page_size, status):
    if status is JobStatus.UNKNOWN:
        with pytest.raises(ValueError, match="status must be one that the service documents"):
            list_query(V1_EXTRACT, page=page, page_size=page_size, status=status)
        return
    query = list_query(V1_EXTRACT, page=page, page_size=page_size, status=status)
    expected = {"page": [str(page)], "pageSize": [str(page_size)]}
    if status is not None:
        expected["status"] = [status.value]
    assert parse_qs(query) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"page": -1}, "page must be 0 or more, got -1"),
        ({"page_size": 0}, "page_size must be 1 to 100, got 0"),
        ({"page_size": 101}, "page_size must be 1 to 100, got 101"),
    ],
)
def test_a_parameter_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        list_query(V1_EXTRACT, **{"page": 0, "page_size": 10, "status": None, **arguments})


# --- answers ------------------------------------------------------------------------------------


def test_a_valid_response_becomes_a_snapshot():
    job = protocol.read_job(V1_EXTRACT, "j-1", 200, JSON, json.dumps(JOB).encode())
    assert job.job_id == "j-1"
    assert job.conforms is None


@pytest.mark.parametrize(("status", "conforms"), [(200, True), (206, False)])
def test_206_is_a_completed_job_that_does_not_conform(status, conforms):
    body = json.dumps(JOB | {"status": "completed"}).encode()
    assert protocol.read_job(V1_EXTRACT, "j-1", status, JSON, body).conforms is conforms


def test_a_response_about_another_job_is_refused_with_both_ids():
    body = json.dumps({**JOB, "job_id": "j-2"}).encode()
    with pytest.raises(WrongJobError, match="'j-2'") as caught:
        protocol.read_job(V1_EXTRACT, "j-1", 200, JSON, body)
    assert caught.value.job_id == "j-1"
    assert caught.value.answered == "j-2"


def test_a_malformed_answer_names_the_job_and_the_content_type():
    headers = CIMultiDict({"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(MalformedAnswerError) as caught:
        protocol.read_job(V1_EXTRACT, "j-1", 200, headers, b"<html>")
    assert caught.value.job_id == "j-1"
    assert caught.value.problems[-1] == "it came as text/html; charset=utf-8"
    assert caught.value.__context__ is None
    with pytest.raises(MalformedAnswerError, match="it came as no type"):
        protocol.read_page(V1_EXTRACT, 200, CIMultiDict(), b"")


def test_the_content_type_is_not_mentioned_if_it_is_json():
    headers = CIMultiDict({"Content-Type": "application/problem+json"})
    with pytest.raises(MalformedAnswerError) as caught:
        protocol.read_page(V1_EXTRACT, 200, headers, b"[]")
    assert caught.value.problems == ("expected an object, got an array @ $",)


def test_a_content_type_is_redacted_and_shortened():
    headers = CIMultiDict({"Content-Type": f"text/x; Bearer {CANARY} {'x' * 5000}\x1b"})
    with pytest.raises(MalformedAnswerError) as caught:
        protocol.read_job(V1_EXTRACT, "j-1", 200, headers, b"")
    assert CANARY not in repr(caught.value.problems)
    assert all(len(problem) < 150 for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("status", "name", "transient", "fatal"),
    [
        (301, "RedirectRefusedError", False, False),
        (302, "RedirectRefusedError", False, False),
        (304, "RedirectRefusedError", False, False),
        (308, "RedirectRefusedError", False, False),
        (400, "UnexpectedStatusError", True, False),
        (401, "AuthenticationError", False, True),
        (402, "PaymentRequiredError", False, True),
        (403, "PermissionDeniedError", False, False),
        (404, "JobNotFoundError", False, False),
        (408, "ServerTimeoutError", True, False),
        (418, "UnexpectedStatusError", True, False),
        (422, "UnprocessableError", False, False),
        (429, "RateLimitedError", True, False),
        (500, "ServerError", True, False),
        (502, "ServerError", True, False),
        (503, "ServerError", True, False),
        (504, "ServerError", True, False),
        (599, "ServerError", True, False),
        # invalid statuses count as 5xx (RFC 9110, section 15)
        (0, "ServerError", True, False),
        (99, "ServerError", True, False),
        (600, "ServerError", True, False),
        (999, "ServerError", True, False),
        (204, "UnexpectedStatusError", True, False),
        (207, "UnexpectedStatusError", True, False),
    ],
)
def test_every_error_status_has_its_class(status, name, transient, fatal):
    for decipher in (
        lambda: protocol.read_job(V1_EXTRACT, "j-1", status, JSON, b'{"detail": "said"}'),
        lambda: protocol.read_page(V1_EXTRACT, status, JSON, b'{"detail": "said"}'),
    ):
        with pytest.raises(StatusError, match=f"answered {status}: said") as caught:
            decipher()
        assert type(caught.value) is getattr(errors, name)
        assert caught.value.status == status
        assert caught.value.detail == "said"
        assert caught.value.transient is transient
        assert caught.value.fatal is fatal


def test_206_is_an_error_status_for_a_list():
    with pytest.raises(errors.UnexpectedStatusError):
        protocol.read_page(V1_EXTRACT, 206, JSON, b'{"jobs": []}')


@given(st.integers(0, 999), st.binary() | st.text().map(str.encode))
@example(503, b"")
@example(201, b"")
def test_any_status_and_body_raise_a_request_error(status, body):
    for decipher in (
        lambda: protocol.read_job(V1_EXTRACT, "j-1", status, JSON, body),
        lambda: protocol.read_page(V1_EXTRACT, status, JSON, body),
    ):
        with pytest.raises(RequestError) as caught:
            decipher()
        assert isinstance(caught.value, StatusError) == (
            status not in (V1_EXTRACT.success if caught.value.job_id else {200})
        )
        assert str(caught.value).isprintable()


def detail_of(body: object, secret: str = "") -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    hidden = Secret(secret) if secret else None
    return protocol.status_error(500, JSON, raw, job_id=None, secret=hidden).detail


def test_the_problems_of_a_fastapi_422_are_shown_with_their_paths():
    body = {
        "detail": [
            {"loc": ["query", "pageSize"], "msg": "must be at most 100", "type": "le"},
            {"loc": [], "msg": "no place", "type": "x"},
            {"msg": "no loc"},
            "no object",
        ]
    }
    assert detail_of(body) == ("must be at most 100 @ query.pageSize; no place; no loc; no object")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"detail": "Not Found"}, "Not Found"),
        ({"message": "Forbidden"}, "Forbidden"),
        ({"error": "Forbidden"}, "Forbidden"),
        ({"code": "auth", "message": "Forbidden"}, "Forbidden (auth)"),
        ({"code": "auth_error", "message": "auth_error: no"}, "auth_error: no"),
        ({"error": {"code": "auth", "message": "Forbidden"}}, "Forbidden (auth)"),
        ({"detail": {"error": ["a", {"msg": "b"}]}}, "a; b"),
        ({"message": None, "error": "", "detail": "Forbidden"}, "Forbidden"),
        ({"detail": None}, '{"detail":null}'),
        ({"status": 7}, '{"status":7}'),
        ({}, ""),
        ("plain", "plain"),
        (7, "7"),
        (b"", ""),
        (b"<html><body><h1>502 Bad\n Gateway</h1> it &amp; us</body>", "502 Bad Gateway it & us"),
        (b"\xff\xfe oops", "\ufffd\ufffd oops"),
    ],
)
def test_the_detail_of_an_error_body_is_one_line(body, detail):
    assert detail_of(body) == detail


def test_a_detail_of_any_size_or_depth_is_shortened():
    for body in (
        {"detail": "x" * 100_000},
        {"detail": [{"msg": "x" * 10_000, "loc": ["y"] * 1_000}] * 100},
        b"<p>" * 100_000,
        b"x" * 1_000_000,
        b'{"detail":' * 100_000,
        b'{"detail": [{"msg": ' + b"[" * 900 + b"]" * 900 + b"}]}",
        {"detail": {"a": 10**4_000}},
    ):
        assert len(detail_of(body)) < 1_100


@pytest.mark.parametrize(
    "body",
    [
        f"you sent Authorization: Bearer {CANARY}",
        f"your key {CANARY} is wrong",
        {"detail": f"key {CANARY} is wrong"},
        {"detail": [{"msg": f"key {CANARY}", "loc": [CANARY]}, CANARY]},
        {"headers": {"authorization": CANARY}},
        json.dumps({"detail": CANARY}).replace("=", r"\u003d").replace("/", r"\/").encode(),
        f"<p>{CANARY.replace('=', '&#x3D;').replace('/', '&#x2F;')}</p>".encode(),
        json.dumps({"detail": CANARY}).encode("utf-16"),
        b" " * 4_080 + CANARY.encode(),
        b"<p>" * 1_360 + b"x" * 10 + CANARY.encode(),
        b"x" * 190 + CANARY.encode(),
    ],
)
def test_a_key_quoted_by_an_error_page_is_redacted(body):
    raw = body.encode() if isinstance(body, str) else body
    assert CANARY[:8] not in detail_of(raw, secret=CANARY)


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503, 500])
def test_errors_contain_retry_after(status):
    headers = CIMultiDict({"retry-after": "9"})
    assert protocol.status_error(status, headers, b"", job_id=None).retry_after == 9.0
    assert protocol.status_error(status, JSON, b"", job_id=None).retry_after is None
