"""What clients of a server are told of errors: kinds, and never texts."""

import json

import pytest

from adepoll import errors
from adepoll.server.problem_details import problem_details


def kinds():
    found, todo = [], [errors.AdePollError]
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
        (errors.UnresolvedJobsError({"a": errors.ClosedError("x")}), 502),
        (errors.MissingApiKeyError(variable="KEY"), 500),
        (errors.WebhookVerificationError("old"), 400),
    ],
)
def test_each_kind_has_its_status(error, status):
    problem = problem_details(error)
    assert problem.status == problem.body["status"] == status
    assert problem.body["error"] == type(error).__name__
    assert ("Retry-After" in problem.headers) == (status == 503)


def test_every_kind_of_error_has_one():
    for kind in kinds():
        problem = problem_details(kind.__new__(kind, {"a": errors.ClosedError("x")}))
        assert 400 <= problem.status < 600
        assert problem.title


def test_what_the_service_said_is_not_told():
    error = errors.ServerError(status=500, detail="canary", job_id="a", retry_after=7.2)
    problem = problem_details(error)
    assert "canary" not in json.dumps([problem.body, dict(problem.headers)])
    assert problem.headers["Retry-After"] == "8"


def test_a_job_id_is_told_as_far_as_it_may_be_shown():
    job_id = "https://host/x?X-Amz-Signature=canary" + "x" * 500
    body = json.dumps(problem_details(errors.InvalidJobIdError(job_id=job_id, reason="long")).body)
    assert "canary" not in body
    assert len(body) < 400


def test_a_log_is_told_of_what_somebody_should_look_into():
    assert problem_details(errors.AuthenticationError(status=401)).is_fault
    assert problem_details(errors.ServerError(status=500)).is_fault
    for error in (
        errors.ClosedError("the server stops"),
        errors.JobTimeoutError(job_id="a", timeout=1, last_status=None),
        errors.JobNotFoundError(status=404, job_id="a"),
    ):
        assert not problem_details(error).is_fault
