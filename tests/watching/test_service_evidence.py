"""What polls show about the hosts and the key. `test_failure_handling` tests what follows."""

import math

import pytest

from adepoll.errors import AuthenticationError, PermissionDeniedError, ServerError
from adepoll.watching.service_evidence import CONFIRMATION_STEP, HostEvidence, KeyEvidence

REFUSED = AuthenticationError(status=401, job_id="a")
BROKEN = ServerError(status=503, job_id="a")


@pytest.mark.parametrize(("others", "is_bad"), [(0, True), (4, True), (5, False), (6, False)])
def test_a_key_that_worked_is_bad_if_most_polls_of_ten_seconds_are_refused(others, is_bad):
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    key.record_accepted()
    for number in range(5):
        verdict = key.record_refusal(
            REFUSED, f"job-{number}", number * CONFIRMATION_STEP, host=host
        )
        if number < 4:
            for _ in range(others // 4 + (number < others % 4)):
                key.record_other_failure()
    assert verdict is is_bad


def test_the_share_of_answers_is_counted_from_given_numbers_on():
    host = HostEvidence(worked=5, failed=5)
    assert host.share_worked(5, 5) is None
    host.record_failure(BROKEN, 0.0, longest=10.0)
    assert host.share_worked(5, 5) == 0.0
    host.worked += 3
    assert host.share_worked(5, 5) == 0.75


def test_the_silence_of_a_host_is_the_time_between_failures_up_to_a_limit_each():
    host = HostEvidence()
    for now in (100.0, 103.0, 203.0):
        host.record_failure(BROKEN, now, longest=10.0)
    assert host.silent_for == 13.0
    assert host.last_error is BROKEN
    host.record_response()
    assert (host.silent_for, host.last_error) == (0.0, None)
    host.record_failure(BROKEN, 500.0, longest=10.0)
    assert host.silent_for == 0.0


def test_a_failed_list_request_counts_as_silence_but_not_as_a_failed_poll():
    host = HostEvidence()
    host.record_silence(BROKEN, 100.0, longest=10.0)
    assert (host.silent_for, host.last_error) == (0.0, BROKEN)
    host.record_silence(BROKEN, 104.0, longest=10.0)
    host.record_failure(BROKEN, 204.0, longest=10.0)
    assert (host.silent_for, host.silent_polls, host.failed) == (14.0, 1, 1)


FORBIDDEN = PermissionDeniedError(status=403, job_id="a")


def refuse(key, host, *times, job_id="a", error=REFUSED):
    """Record refusals of polls of a job at some times; return the last verdict."""
    verdict = None
    for now in times:
        verdict = key.record_refusal(error, job_id, now, host=host)
    return verdict


@pytest.mark.parametrize(
    ("times", "seconds", "is_bad"),
    [
        ((0.0, 2.5, 5.0, 7.5), 7.5, False),
        ((0.0, 2.5, 5.0, 7.5, 10.0), 0.0, True),  # a bad key ends the series
        ((0.0, 2.0, 4.0, 6.0, 8.0, 9.0), 9.0, False),
        ((0.0, 100.0, 200.0, 300.0, 400.0), 0.0, True),
    ],
)
def test_a_key_that_worked_must_be_refused_for_ten_seconds(times, seconds, is_bad):
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    key.record_accepted()
    assert not key.in_doubt
    assert refuse(key, host, *times) is is_bad
    assert key.refused_for == seconds
    assert key.in_doubt
    key.record_accepted()
    assert (key.refused_for, key.in_doubt) == (0.0, False)
    assert refuse(key, host, 401.0) is False, "a new series begins"


def test_a_key_that_never_worked_is_bad_after_two_refusals_of_one_job():
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    assert key.in_doubt
    assert refuse(key, host, 0.0) is False
    assert refuse(key, host, 0.0) is True


@pytest.mark.parametrize(("last", "seconds"), [(2.5, 2.5), (2.6, 0.0)])
def test_a_series_that_was_interrupted_ends_after_a_step(last, seconds):
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    key.record_accepted()
    refuse(key, host, 0.0)
    key.record_other_failure()
    assert key.confirm_within(REFUSED, "a") == math.inf, "another failure came in between"
    refuse(key, host, last)
    assert key.refused_for == seconds
    assert key.confirm_within(REFUSED, "a") == CONFIRMATION_STEP


def test_a_failure_before_the_first_refusal_does_not_interrupt_a_series():
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    key.record_accepted()
    key.record_other_failure()
    refuse(key, host, 0.0)
    assert key.confirm_within(REFUSED, "a") == CONFIRMATION_STEP
    assert refuse(key, host, 10.0, 20.0, 30.0, 40.0) is True


def test_a_job_that_was_refused_first_is_polled_again_soon():
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    assert key.confirm_within(REFUSED, "a") == math.inf
    refuse(key, host, 0.0)
    assert key.confirm_within(REFUSED, "a") == 0.5
    assert key.confirm_within(FORBIDDEN, "a") == CONFIRMATION_STEP
    assert key.confirm_within(REFUSED, "b") == math.inf
    key.record_accepted()
    assert key.confirm_within(REFUSED, "a") == math.inf


@pytest.mark.parametrize(("second", "confirms"), [(2.5, "a"), (2.6, "b")])
def test_another_job_is_polled_again_soon_if_the_first_one_is_not(second, confirms):
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    key.record_accepted()
    refuse(key, host, 0.0)
    refuse(key, host, second, job_id="b")
    within = {job_id: key.confirm_within(REFUSED, job_id) for job_id in "ab"}
    assert [job_id for job_id, seconds in within.items() if seconds < math.inf] == [confirms]


def test_403s_count_if_they_concern_two_jobs_and_the_key_never_worked():
    host = HostEvidence()
    key = KeyEvidence(hosts=[host])
    times = (0.0, 2.5, 5.0, 7.5, 10.0)
    assert refuse(key, host, *times, error=FORBIDDEN) is False, "they can concern this job only"
    assert refuse(key, host, 10.0, job_id="b", error=FORBIDDEN) is True
    key.record_accepted()
    assert refuse(key, host, *times, job_id="b", error=FORBIDDEN) is False
    assert (key.refused_for, key.in_doubt) == (0.0, False)


@pytest.mark.parametrize(
    ("jobs", "error", "refused", "is_bad"),
    [
        ([[]], None, False, True),  # no job is open there
        ([["b"]], None, False, False),
        ([[], ["b"]], None, False, False),
        ([["b"]], BROKEN, False, True),  # it fails anyway
        ([["b"]], None, True, True),
    ],
)
def test_a_key_is_not_bad_while_another_host_may_accept_it(jobs, error, refused, is_bad):
    host, other = HostEvidence(jobs=[["a"]]), HostEvidence(jobs=jobs)
    key = KeyEvidence(hosts=[host, other])
    if error is not None:
        other.record_failure(error, 0.0, longest=1.0)
    if refused:
        refuse(key, other, 0.0)
    assert any([refuse(key, host, 1.0), refuse(key, host, 2.0)]) is is_bad


def test_a_host_was_polled_if_any_poll_of_it_has_ended():
    assert not HostEvidence().was_polled
    assert HostEvidence(worked=1).was_polled
    assert HostEvidence(failed=1).was_polled


def test_the_share_of_accepted_polls_is_counted_from_given_numbers_on():
    key = KeyEvidence(accepted=5, failed=7)
    assert key.share_accepted(5, 7) is None
    assert key.share_accepted(5, 6) == 0.0
    assert key.share_accepted(2, 6) == 0.75
    assert key.share_accepted(4, 7) == 1.0
