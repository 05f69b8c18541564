"""What failed polls mean, by the rules alone; `test_watched_jobs` shows what follows from them."""

import math

import pytest

from adepoll.errors import (
    AuthenticationError,
    CertificateError,
    JobNotFoundError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    ServiceDownError,
    TransportError,
    UnprocessableError,
)
from adepoll.watching.failure_handling import FailureAction, FailureRules
from adepoll.watching.job_state import JobState

GIVE_UP, END_ALL = FailureAction.GIVE_UP, FailureAction.END_ALL
UNKNOWN = JobNotFoundError(status=404, job_id="a")
FORBIDDEN = PermissionDeniedError(status=403, job_id="a")
REFUSED = AuthenticationError(status=401, job_id="a")
BROKEN = ServerError(status=503, job_id="a")
MALFORMED = MalformedAnswerError(["no JSON @ $"], job_id="a")
THROTTLED = RateLimitedError(status=429, job_id="a")


def rules_of(**options):
    return FailureRules(**{"not_found_grace": 15.0, "patience": 300.0} | options)


def job(job_id="a", *, status=None, added_at=0.0):
    return JobState(job_id, job_id, (), added_at=added_at, received_at=0.0, status=status)


def answer(rules):
    """Record what an answered poll shows."""
    rules.record_success()


def play(rules, *failures, state=None, answers=0):
    """Record failures at their times, and `answers` to other requests before each."""
    state = state or job()
    verdicts = []
    for now, error in failures:
        for _ in range(answers):
            answer(rules)
        verdicts.append(rules.record(state, error, now))
    return verdicts


def test_a_postponed_job_is_checked_every_15_s_until_its_next_poll():
    rules, state = rules_of(), job()
    rules.record(state, BROKEN, 0.0)
    failures = state.failures
    assert rules.first_check(failures, 40.0, 0.0) == failures.check_at == 15.0
    for now, then in ((15.0, 30.0), (30.0, 40.0), (40.0, 40.0)):
        assert rules.postponed_to(failures, now) == failures.check_at == then


def test_a_postponed_job_waits_if_the_host_has_failed_again():
    rules, state = rules_of(), job()
    rules.record(state, BROKEN, 0.0)
    rules.first_check(state.failures, 40.0, 0.0)
    answer(rules)
    rules.record(job("other"), BROKEN, 5.0)
    assert rules.postponed_to(state.failures, 15.0) == 30.0
    answer(rules)
    assert rules.postponed_to(state.failures, 16.0) == 16.0


@pytest.mark.parametrize(
    ("error", "silent"),
    [
        (BROKEN, True),
        (TransportError("no connection", job_id=None), True),
        (MALFORMED, False),
        (FORBIDDEN, False),
        (REFUSED, False),
    ],
)
def test_only_failed_pages_that_can_concern_the_host_count_as_its_silence(error, silent):
    rules = rules_of(outage_patience=300.0)
    rules.record_failed_page(error, 100.0)
    rules.record_failed_page(error, 1_000.0)
    assert rules.host.silent_for == (30.0 if silent else 0.0)


def test_without_a_failed_poll_no_job_is_given_up_for_an_outage():
    rules, state = rules_of(outage_patience=300.0, patience=300.0), job()
    for number in range(20):
        rules.record_failed_page(BROKEN, 20.0 * number)
    assert rules.host.silent_for == 380.0
    assert rules.outage_error(state) is None
    for number in range(3):
        assert rules.outage_error(state) is None
        rules.record(job(f"other{number}"), BROKEN, 400.0)
    assert rules.outage_error(state) is not None


def time_of_the_end(rules, error, *, every, answers=0, failures=0, state=None):
    """Return when a job is given up whose polls fail from 0 on, and with which poll."""
    state = state or job()
    for number in range(100_000):
        for _ in range(answers):
            answer(rules)
        for _ in range(failures):
            rules.host.record_failure(error, number * every, longest=math.inf)
            rules.key.failed += 1
        if rules.record(state, error, number * every) is GIVE_UP:
            return number * every, number
    raise AssertionError("never given up")


# --- jobs that the service denies ---------------------------------------------------------------


def test_the_grace_bounds_the_next_poll_and_counts_polls():
    assert play(rules_of(), *[(now, UNKNOWN) for now in (100, 101, 103, 106, 109, 112, 115)]) == [
        3.0,
        3.0,
        3.0,
        3.0,
        3.0,
        3.0,
        GIVE_UP,
    ]


def test_a_404_shows_that_the_host_works_and_accepts_the_key():
    rules = rules_of()
    rules.record(job("b"), REFUSED, 0.0)
    rules.record(job("b"), BROKEN, 0.0)
    assert (rules.host.last_error, rules.host.silent_polls) == (BROKEN, 2)
    assert rules.key.in_doubt
    rules.record(job(), UNKNOWN, 1.0)
    assert (rules.host.last_error, rules.host.silent_polls) == (None, 0)
    assert not rules.key.in_doubt


@pytest.mark.parametrize("error", [UNKNOWN, FORBIDDEN])
def test_a_job_never_seen_gets_the_grace_and_five_more_polls(error):
    assert time_of_the_end(rules_of(), error, every=1.0) == (15.0, 15)
    assert time_of_the_end(rules_of(), error, every=1_000.0) == (5_000.0, 5)


def test_all_seconds_of_an_unknown_job_count_also_while_polls_of_other_jobs_fail():
    assert time_of_the_end(rules_of(), UNKNOWN, every=1.0, failures=3) == (15.0, 15)


@pytest.mark.parametrize("error", [UNKNOWN, FORBIDDEN])
def test_a_job_found_before_gets_the_patience(error):
    found = job(status="pending")
    assert time_of_the_end(rules_of(), error, every=10.0, state=found) == (300.0, 30)


def test_a_403_counts_little_while_most_requests_are_refused():
    rules = rules_of()
    assert time_of_the_end(rules, FORBIDDEN, every=1.0, answers=1, failures=9)[0] > 100


# --- failures of the service --------------------------------------------------------------------


def test_the_patience_counts_while_the_service_answers_other_requests():
    assert time_of_the_end(rules_of(), BROKEN, every=10.0, answers=5) == (300.0, 30)


def test_seconds_count_in_proportion_to_the_share_of_answers():
    assert time_of_the_end(rules_of(), BROKEN, every=10.0, answers=1, failures=1) == (600.0, 60)


def test_a_short_budget_or_a_stopped_process_gives_no_job_up_after_a_few_polls():
    seconds, polls = time_of_the_end(rules_of(), BROKEN, every=1_000.0, answers=950, failures=50)
    assert polls >= 10
    assert seconds >= 10_000


def test_a_failing_job_is_polled_again_within_15_seconds_and_later_a_tenth_of_the_patience():
    failures = [(30.0 * number, BROKEN) for number in range(6)]
    assert play(rules_of(), *failures, answers=1) == [15.0, 15.0, 15.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(("good", "within"), [(1, 15.0), (0, 360.0)])
def test_a_failing_job_is_polled_again_soon_if_a_fifth_of_the_other_polls_succeed(good, within):
    rules, state = rules_of(), job()
    rules.record(state, BROKEN, 0.0)
    for _ in range(good):
        answer(rules)
    for number in range(4):
        rules.record(job(f"other-{number}"), BROKEN, 1.0)
    assert rules.record(state, BROKEN, 2.0) == within


@pytest.mark.parametrize("error", [UNKNOWN, FORBIDDEN])
def test_a_job_that_the_list_has_shown_gets_the_patience(error):
    state = job()
    state.last_listed_at = 0.0
    assert time_of_the_end(rules_of(), error, every=10.0, answers=1, state=state) == (300.0, 30)


def test_short_waits_for_a_listed_job_that_is_forbidden_count_together():
    """The list shows the job after the first poll of each wait, and so not in its first verdict."""
    rules, failures = rules_of(), None
    for wait in range(200):
        state = job()
        state.failures = failures
        for second in (0.0, 2.0):
            answer(rules)
            if rules.record(state, FORBIDDEN, 4.0 * wait + second) is GIVE_UP:
                assert wait == 75  # 300 s
                return
            state.last_listed_at = 4.0 * wait + 1.0
        failures = state.failures
    raise AssertionError("never given up")


def test_a_job_that_failed_while_others_were_answered_is_no_outage_later():
    rules, state = rules_of(), job()
    for number in range(12):
        answer(rules)
        rules.record(state, BROKEN, 10.0 * number)
    assert rules.host.failed == 9  # the later ones say nothing about the service
    later = play(rules, *[(10.0 * number, BROKEN) for number in range(12, 40)], state=state)
    assert later.index(GIVE_UP) == 300 / 10 - 12


@pytest.mark.parametrize("gap", [10.0, 30.0, 300.0])
def test_three_failures_before_an_outage_do_not_make_it_the_fault_of_the_job(gap):
    rules, state = rules_of(), job()
    for number in range(3):
        answer(rules)
        rules.record(state, BROKEN, gap * number)
    outage = play(rules, *[(3 * gap + 30.0 * number, BROKEN) for number in range(60)], state=state)
    assert GIVE_UP not in outage


def test_the_list_does_not_show_that_polls_work():
    rules, state = rules_of(), job()
    for number in range(60):
        rules.record_accepted_key()
        assert rules.record(state, BROKEN, 10.0 * number) is not GIVE_UP


@pytest.mark.parametrize(("options", "within"), [({}, 360.0), ({"outage_patience": 900.0}, 90.0)])
def test_in_an_outage_the_next_poll_comes_within_a_tenth_of_the_outage_patience(options, within):
    assert play(rules_of(**options), (0.0, BROKEN), (30.0, BROKEN)) == [within, within]


@pytest.mark.parametrize(("options", "limit"), [({}, 3_600.0), ({"outage_patience": 700.0}, 700.0)])
def test_a_single_job_with_a_dead_service_ends_after_the_outage_patience(options, limit):
    assert time_of_the_end(rules_of(**options), BROKEN, every=50.0)[0] == limit


@pytest.mark.parametrize("short", [0.0, 1.0, 60.0, 299.0, 300.0])
@pytest.mark.parametrize("every", [5.0, 20.0, 50.0])
def test_an_outage_patience_below_the_patience_counts_as_the_patience(short, every):
    found = time_of_the_end(rules_of(outage_patience=short), BROKEN, every=every)
    assert found[0] == max(300.0, every * 10)


def fail_two(rules):
    """Record that the first polls of two jobs fail."""
    for number in range(2):
        rules.record(job(f"failed{number}"), BROKEN, 0.0)


def test_after_a_long_outage_each_job_ends_with_its_first_failed_poll():
    rules = rules_of()
    fail_two(rules)
    seconds, _ = time_of_the_end(rules, BROKEN, every=50.0)
    assert rules.record(job("b"), BROKEN, seconds + 50.0) is GIVE_UP
    answer(rules)
    assert rules.record(job("c"), BROKEN, seconds + 100.0) is not GIVE_UP


def test_after_a_long_outage_due_jobs_are_given_up_without_a_poll():
    rules = rules_of()
    fail_two(rules)
    assert rules.outage_error(job("b")) is None
    assert time_of_the_end(rules, BROKEN, every=50.0)[0] == 3_600.0
    error = rules.outage_error(job("b"))
    assert (error.failures, error.cause) == (75, BROKEN)
    assert rules.outage_error(job("c", added_at=1.0)) is None
    answer(rules)
    assert rules.outage_error(job("b")) is None


def test_failed_polls_of_a_bad_job_are_no_outage_for_jobs_that_were_not_polled():
    rules = rules_of(patience=2.0, outage_patience=24.0)
    bad, good = job(), job("b")
    play(rules, *[(2.0 * number, BROKEN) for number in range(20)], state=bad)
    assert rules.host.silent_for == 38.0
    assert rules.outage_error(good) is None
    assert play(rules, (40.0, BROKEN), (41.0, BROKEN), state=good) == [2.4, 2.4]
    assert rules.outage_error(good) is None
    rules.record(good, BROKEN, 42.0)
    assert rules.outage_error(good) is BROKEN


@pytest.mark.parametrize("error", [UNKNOWN, FORBIDDEN])
@pytest.mark.parametrize("status", [None, "processing"])
def test_without_patience_the_grace_for_a_job_that_is_not_found_remains(error, status):
    rules, state = rules_of(patience=0.0), job(status=status)
    for now in range(15):
        assert rules.record(state, error, float(now)) is not GIVE_UP
        assert rules.outage_error(state) is None
    ends = {rules.record(state, error, 15.0 + now) for now in range(3)}
    assert GIVE_UP in ends


def test_the_error_of_such_a_job_is_that_of_its_own_last_poll_if_the_outage_caused_it():
    rules = rules_of()
    states = {error: job() for error in (BROKEN, REFUSED, UNKNOWN, MALFORMED, THROTTLED)}
    for error, state in states.items():
        rules.record(state, BROKEN, 0.0)
        rules.record(state, error, 0.0)
    fail_two(rules)
    time_of_the_end(rules, BROKEN, every=50.0)
    errors = {error: rules.outage_error(state) for error, state in states.items()}
    assert (errors[BROKEN], errors[REFUSED]) == (BROKEN, REFUSED)
    for error in (UNKNOWN, MALFORMED, THROTTLED):
        assert type(errors[error]) is ServiceDownError


def test_an_outage_from_before_a_job_was_watched_does_not_give_it_up():
    rules = rules_of()
    seconds, _ = time_of_the_end(rules, BROKEN, every=50.0)
    later = job("b", added_at=seconds + 1_000.0)
    assert isinstance(rules.record(later, BROKEN, seconds + 1_000.1), float)
    during = job("c", added_at=seconds - 1_000.0)
    assert isinstance(rules.record(during, BROKEN, seconds + 1_050.0), float)
    assert rules.record(job("d", added_at=50.0), BROKEN, seconds + 1_100.0) is GIVE_UP


@pytest.mark.parametrize("status", [None, "processing"])
@pytest.mark.parametrize("error", [UNKNOWN, MALFORMED, FORBIDDEN, REFUSED])
def test_a_response_after_a_long_outage_gives_no_job_up(error, status):
    rules = rules_of()
    answer(rules)
    rules.record_accepted_key()
    seconds, _ = time_of_the_end(rules, BROKEN, every=50.0)
    assert isinstance(rules.record(job("b", status=status), error, seconds + 50.0), float)


def test_no_job_waits_longer_than_the_outage_patience_beside_many_that_fail():
    assert time_of_the_end(rules_of(), BROKEN, every=50.0, answers=1, failures=999)[0] == 3_600.0


def test_throttled_time_is_left_out():
    rules = rules_of()
    throttled = [(10.0 * number, THROTTLED) for number in range(1, 1_000)]
    assert GIVE_UP not in play(rules, (0.0, BROKEN), *throttled, (9_991.0, BROKEN), answers=1)


def test_malformed_answers_are_accepted_for_a_minute_and_ten_polls():
    assert time_of_the_end(rules_of(), MALFORMED, every=3.0) == (60.0, 20)
    assert time_of_the_end(rules_of(), MALFORMED, every=100.0) == (1_000.0, 10)
    assert time_of_the_end(rules_of(patience=10.0), MALFORMED, every=1.0) == (10.0, 10)


def test_malformed_answers_of_all_jobs_are_no_outage():
    rules = rules_of(patience=10.0)
    states = [job(f"job-{number}") for number in range(200)]
    ends = {rules.record(state, MALFORMED, float(now)) for now in range(10) for state in states}
    assert ends == {1.0}
    assert {rules.record(state, MALFORMED, 10.0) for state in states} == {GIVE_UP}


@pytest.mark.parametrize("before", [(), ((0.0, BROKEN),)])
def test_a_permanent_failure_gives_the_job_up(before):
    assert play(rules_of(), *before, (1.0, UnprocessableError(status=422)))[-1] is GIVE_UP


@pytest.mark.parametrize("options", [{"patience": 0.0}, {"outage_patience": 0.0, "patience": 0.0}])
def test_without_patience_the_first_failure_gives_the_job_up(options):
    assert play(rules_of(**options), (0.0, BROKEN)) == [GIVE_UP]
    assert play(rules_of(not_found_grace=0.0), (0.0, UNKNOWN)) == [GIVE_UP]


def test_the_grace_does_not_depend_on_the_patience():
    assert play(rules_of(patience=0.0), (0.0, UNKNOWN)) == [3.0]


# --- refusals -----------------------------------------------------------------------------------


def test_an_error_of_the_account_ends_everything():
    error = PaymentRequiredError(status=402, job_id="a")
    assert play(rules_of(), (0.0, error), answers=10) == [END_ALL]


@pytest.mark.parametrize("error", [REFUSED, CertificateError("self-signed", job_id="a")])
def test_a_key_that_never_worked_ends_everything_with_the_second_refusal(error):
    assert play(rules_of(), (0.0, error), (0.5, error)) == [0.5, END_ALL]


def test_a_single_refusal_among_the_first_polls_ends_nothing():
    rules = rules_of()
    assert rules.record(job("a"), REFUSED, 0.0) == 0.5
    answer(rules)
    assert rules.record(job("b"), REFUSED, 0.1) is not END_ALL


def test_a_key_that_worked_is_refused_after_ten_seconds_without_an_answer():
    rules = rules_of()
    answer(rules)
    times = (0.0, 2.5, 5.0, 7.5, 10.0)
    assert play(rules, *[(now, REFUSED) for now in times]) == [2.5, 2.5, 2.5, 2.5, END_ALL]


@pytest.mark.parametrize("worked", [True, False])
def test_after_a_bad_key_a_single_refusal_ends_nothing(worked):
    rules = rules_of()
    if worked:
        answer(rules)
    number = 0
    while rules.record(job(), REFUSED, 2.5 * number) is not END_ALL:
        number += 1
    [first, second] = play(rules, (3_600.0, REFUSED), (3_600.5, REFUSED), state=job("b"))
    assert (first, second) == (0.5, END_ALL)


def test_a_stopped_process_confirms_no_refusal():
    rules = rules_of()
    answer(rules)
    assert play(rules, (0.0, REFUSED), (9_999.0, REFUSED)) == [2.5, 2.5]


@pytest.mark.parametrize("other", [BROKEN, MALFORMED, THROTTLED])
def test_stray_refusals_among_other_failures_end_nothing(other):
    """As with the last job of a watch, which fails for hours, and nothing else is polled."""
    rules = rules_of(outage_patience=1e9, malformed_patience=1e9, patience=1e9)
    answer(rules)
    state = job()
    for step in range(2_000):
        (result,) = play(rules, (2.6 * step, REFUSED if step % 7 == 0 else other), state=state)
        assert result is not END_ALL
        if step % 7:
            assert result > 5.0  # no confirmation is sought while the key is not refused


def test_a_revoked_key_is_recognised_among_a_few_other_failures():
    rules = rules_of()
    answer(rules)
    for step in range(1_000):
        error = BROKEN if step % 20 == 5 else REFUSED
        (result,) = play(rules, (0.02 * step, error), state=job(f"job-{step % 50}"))
        if result is END_ALL:
            break
    assert 10.0 <= 0.02 * step < 11.0


def test_a_gateway_that_mostly_fails_and_sometimes_refuses_is_an_outage():
    rules = rules_of()
    answer(rules)
    for step in range(5_000):
        error = REFUSED if step % 5 == 0 else BROKEN
        (result,) = play(rules, (0.02 * step, error), state=job(f"job-{step % 50}"))
        assert result is not END_ALL


def test_an_answer_to_another_request_shows_that_the_key_works():
    assert END_ALL not in play(rules_of(), *[(2.5 * n, REFUSED) for n in range(20)], answers=1)


def test_a_burst_of_refusals_is_not_believed_before_the_time_is_over():
    rules = rules_of()
    answer(rules)
    states = [job(f"job-{number}") for number in range(60)]
    assert {rules.record(state, REFUSED, 0.0) for state in states} == {2.5, 15.0, 360.0}
    assert rules.record(states[7], REFUSED, 9.0) is not END_ALL
    answer(rules)
    assert rules.record(states[8], REFUSED, 99.0) is not END_ALL


def test_a_403_of_one_job_never_ends_everything():
    rules = rules_of()
    state = job()
    assert {rules.record(state, FORBIDDEN, float(now)) for now in range(16)} == {
        2.5,
        2.0,
        1.0,
        GIVE_UP,
    }


def test_403s_of_one_job_do_not_confirm_a_stray_401():
    rules = rules_of()
    answer(rules)
    assert play(rules, *[(2.5 * n, FORBIDDEN) for n in range(6)])[-1] is not END_ALL
    assert rules.record(job("b"), REFUSED, 15.0) is not END_ALL


def test_a_key_that_may_read_no_job_ends_everything():
    rules = rules_of()
    one, two = job("a"), job("b")
    verdicts = [rules.record(s, FORBIDDEN, 2.5 * n) for n in range(6) for s in (one, two)]
    assert END_ALL in verdicts
    assert GIVE_UP not in verdicts


def test_a_firewall_that_refuses_all_jobs_of_a_key_that_worked_is_an_outage():
    rules = rules_of()
    answer(rules)
    states = [job(f"job-{number}", status="pending") for number in range(60)]
    verdicts = {rules.record(s, FORBIDDEN, 10.0 * n) for n in range(60) for s in states}
    assert not verdicts & {GIVE_UP, END_ALL}


# --- timeouts, and failures between two waits ---------------------------------------------------


def test_a_timeout_error_says_what_polls_found():
    rules, state = rules_of(), job(status="processing")
    state.polls = 2
    rules.record(state, BROKEN, 0.0)
    error = rules.timeout_error("a", state, 5.0)
    assert (error.last_status, error.last_error, error.polls) == ("processing", BROKEN, 3)
    assert "last seen processing; 3 polls; the last error: job a: the service answered 503" in str(
        error
    )


def test_a_timeout_error_says_what_was_found_before_an_earlier_wait_ended():
    rules, earlier, state = rules_of(), job(status="processing"), job()
    rules.record(earlier, BROKEN, 0.0)
    state.failures = earlier.failures
    assert rules.timeout_error("a", state, 5.0).last_status == "processing"


def test_a_timeout_error_of_a_job_not_polled_yet_says_why_the_service_is_silent():
    rules = rules_of()
    rules.record(job("b"), BROKEN, 0.0)
    error = rules.timeout_error("a", job(), 5.0)
    assert (error.last_status, error.last_error, error.polls) == (None, BROKEN, 0)
    answer(rules)
    assert rules.timeout_error("a", None, 5.0).last_error is None


def test_an_unknown_certificate_is_not_transient():
    assert not CertificateError("self-signed", job_id=None).transient
    assert TransportError("reset", job_id=None).transient
