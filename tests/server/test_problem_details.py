"""Problem details contain the kind of an error, and no text from the service."""

import json
import re

import pytest

from adepoll import errors
from adepoll.server.problem_details import problem_details, status_and_title


def error_classes():
    found, todo = [], [errors.AdePollError, errors.ClosedError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.JobNotFoundError(status=404, job_id="a"), 404),
        (errors.InvalidJobIdError(job_id="a b", reason="blank"), 422),
        (errors.JobTimeoutError(job_id="a", timeout=1, last_status="pending"), 504),
        (errors.ClosedError("closed"), 503),
        (errors.AuthenticationError(status=401), 502),
        (errors.RateLimitedError(status=429), 503),
        (errors.ServerError(status=500), 503),
        (errors.TransportError("reset", job_id="a"), 503),
        (errors.AnswerTimeoutError(timeout=1, job_id="a"), 504),
        (errors.UnexpectedStatusError(status=418), 502),
        (errors.MalformedAnswerError(["x"]), 502),
        (errors.JobFailedError(job_id="a", failure_reason="blurred"), 409),
        (errors.ResultUnavailableError(job_id="a"), 410),
        (errors.ResultForbiddenError(job_id="a", status=403, detail="", url="https://x/"), 502),
        (errors.ResultServerError(job_id="a", status=500, detail="", url="https://x/"), 503),
        (errors.UnresolvedJobsError({"a": errors.TransportError("x", job_id="a")}), 502),
        (errors.MissingApiKeyError(variable="KEY"), 500),
        (errors.WebhookVerificationError("old"), 400),
    ],
)
def test_each_kind_of_error_has_its_status(error, status):
    problem = problem_details(error)
    assert problem.status == problem.body["status"] == status
    assert problem.body["error"] == type(error).__name__
    assert ("Retry-After" in problem.headers) == (status in {503, 504})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.JobNotFoundError(status=404, job_id="a"), 1008),
        (errors.InvalidJobIdError(job_id="a b", reason="blank"), 1008),
        (errors.ClosedError("closed"), 1013),
        (errors.JobTimeoutError(job_id="a", timeout=1, last_status="pending"), 1013),
        (errors.AuthenticationError(status=401), 1011),
        (errors.MissingApiKeyError(variable="KEY"), 1011),
    ],
)
def test_a_close_code_says_what_the_client_should_do(error, code):
    assert problem_details(error).close_code == code


def test_every_error_class_has_a_status_and_a_title():
    for kind in error_classes():
        status, title = status_and_title(kind)
        assert 400 <= status < 600
        assert title


def test_a_timeout_of_a_wait_says_what_is_known():
    error = errors.JobTimeoutError(job_id="a", timeout=5, last_status="Processing", polls=3)
    problem = problem_details(error, instance="/jobs/a")
    assert problem.body == {
        "type": "urn:adepoll:problem:job-timeout",
        "title": "The job has not settled yet",
        "status": 504,
        "detail": "The wait ended after 5 s. The job is processing. Try again in 2 seconds.",
        "instance": "/jobs/a",
        "error": "JobTimeoutError",
        "job_id": "a",
        "last_status": "processing",
    }
    assert problem.headers["Retry-After"] == "2"


def test_a_timeout_before_any_poll_succeeded_says_why():
    """A handler that uses the watcher itself must not call an unknown job active."""
    unknown = errors.JobNotFoundError(status=404, job_id="a")
    error = errors.JobTimeoutError(job_id="a", timeout=5, last_status=None, last_error=unknown)
    assert problem_details(error).status == 404
    seen = errors.JobTimeoutError(
        job_id="a", timeout=5, last_status="pending", last_error=errors.ServerError(status=500)
    )
    assert problem_details(seen).status == 504


def test_a_path_with_a_line_break_or_a_secret_is_made_harmless():
    path = "/jobs/a\r\n\x1b[2J?X-Amz-Signature=canary"
    instance = problem_details(errors.TransportError("x", job_id=None), instance=path).instance
    assert instance.isprintable()
    assert "canary" not in instance
    assert is_uri_path(instance)


def test_the_instance_is_a_uri_reference():
    instance = problem_details(errors.TransportError("x", job_id=None), instance="/jobs/a b/50%")
    assert instance.instance == "/jobs/a%20b/50%25"


def is_uri_path(text):
    return re.fullmatch(r"(?:[A-Za-z0-9/:@!$&'()*+,;=~._-]|%[0-9A-F]{2})*", text)


def test_text_from_the_service_is_left_out():
    error = errors.ServerError(status=500, detail="canary", job_id="a", retry_after=7.2)
    problem = problem_details(error)
    assert "canary" not in json.dumps([problem.body, dict(problem.headers)])
    assert problem.headers["Retry-After"] == "8"
    assert problem.body["detail"] == (
        "The ADE service responded with the status 500. Try again in 8 seconds."
    )


def test_a_job_id_is_redacted_and_shortened():
    job_id = "https://host/x?X-Amz-Signature=canary" + "x" * 500
    body = json.dumps(problem_details(errors.InvalidJobIdError(job_id=job_id, reason="long")).body)
    assert "canary" not in body
    assert len(body) < 400


def test_the_detail_of_an_invalid_id_keeps_capital_letters():
    error = errors.InvalidJobIdError(job_id="a", reason="it contains 'B'")
    assert problem_details(error).body["detail"] == "It contains 'B'."


def test_only_errors_for_an_operator_are_faults():
    assert problem_details(errors.AuthenticationError(status=401)).is_fault
    assert problem_details(errors.ServerError(status=500)).is_fault
    internal = problem_details(errors.AdePollError("a bug"))
    assert (internal.status, internal.is_fault) == (500, True)
    for error in (
        errors.ClosedError("the server stops"),
        errors.JobTimeoutError(job_id="a", timeout=1, last_status=None),
        errors.JobNotFoundError(status=404, job_id="a"),
    ):
        assert not problem_details(error).is_fault
