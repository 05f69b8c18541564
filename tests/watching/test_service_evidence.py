"""What polls show about the hosts and the key. `test_failure_handling` tests what follows."""

import pytest

from adepoll.errors import AuthenticationError, ServerError
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
