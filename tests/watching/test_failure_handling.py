"""What failed polls mean, by the rules alone; `test_watched_jobs` shows what follows from them."""

import math

import pytest

from adepoll.errors import (
    JobNotFoundError,
    MalformedAnswerError,
    PaymentRequiredError,
    RateLimitedError,
    ServerError,
)
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import JobState

RULES = FailureRules(not_found_grace=15.0, patience=300.0)


def play(*failures, status=None):
    """Record failures at their times; return the seconds that each leaves."""
    state = JobState("a", (), added_at=0.0, received_at=0.0, status=status)
    return [RULES.record(state, error, now) for now, error in failures]


def unknown():
    return JobNotFoundError(status=404, job_id="a")


def test_the_grace_is_a_bound_of_the_next_poll():
    assert play((100.0, unknown()), (110.0, unknown()), (115.0, unknown())) == [15.0, 5.0, None]


def test_a_job_found_before_may_be_unknown_for_the_patience():
    assert play((0.0, unknown()), (299.0, unknown()), status="pending") == [300.0, 1.0]


def test_transient_failures_have_no_bound_until_the_patience_is_over():
    error = ServerError(status=503)
    assert play((0.0, error), (299.9, error), (300.0, error)) == [math.inf, math.inf, None]


def test_throttled_time_is_left_out():
    error, throttled = ServerError(status=503), RateLimitedError(status=429)
    assert play((0.0, error), (250.0, throttled), (349.0, error)) == [math.inf] * 3


def test_three_malformed_answers_shorten_the_patience():
    error = MalformedAnswerError(["no JSON @ $"])
    assert play((0.0, error), (60.0, error), (60.0, error)) == [math.inf, math.inf, None]


@pytest.mark.parametrize("before", [(), ((0.0, ServerError(status=503)),)])
def test_a_permanent_failure_gives_the_job_up(before):
    assert play(*before, (1.0, PaymentRequiredError(status=402)))[-1] is None
