"""The watched jobs by themselves: examples, and a state machine against a naive model."""

import math
from collections import Counter
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from internals import at_risk, places_of
from scripted import snapshot, summary
from subscribing import add_id, subscription_of

from adepoll.api.models import JobStatus, from_timestamp
from adepoll.errors import (
    AnswerTooLargeError,
    JobNotFoundError,
    MalformedAnswerError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnprocessableError,
    WrongJobError,
)
from adepoll.scheduling.durations import nearest_edge
from adepoll.scheduling.schedules import Adaptive, Exponential, Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.statistics import LagHistogram
from adepoll.watching.watched_jobs import WatchedJobs

INTERVAL = 10.0
TRUST = 300.0
FIRST_TRUST = 5.0
HEADSTART = 600.0  # longer than any head start of an overdue job in these tests


def make_watched_jobs(schedule=None, *, learning=None, **options):
    schedule = schedule or Fixed(interval=INTERVAL, jitter=0)
    schedule_calls = ScheduleCalls(
        schedule=schedule, rng=Random(0), learning=learning or Learning()
    )
    rules = FailureRules(**{"not_found_grace": 15.0, "patience": 60.0} | options)
    return WatchedJobs(schedule_calls=schedule_calls, failure_rules=rules)


def make_subscription(limit=100, *, every_change=False):
    return subscription_of(limit=limit, every_change=every_change)


def subscribe(watched_jobs, subscription, *job_ids, now=0.0, **options):
    for job_id in job_ids:
        add_id(subscription, job_id)
        watched_jobs.subscribe(job_id, job_id, subscription, now, **options)


def poll(watched_jobs, outcome, now):
    """Poll the job that is due, with a status text or an error as outcome; return its id."""
    state = watched_jobs.pop_due(now)
    if isinstance(outcome, str):
        watched_jobs.succeeded(state, snapshot(state.job_id, outcome), now)
    else:
        watched_jobs.failed(state, outcome, now)
    return state.job_id


def poll_when_due(watched_jobs, *outcomes):
    """Poll the only job once for each outcome; return the times of the polls."""
    times = []
    for outcome in outcomes:
        if (due := watched_jobs.poll_queue.next_due()) is None:
            break
        times.append(due)
        poll(watched_jobs, outcome, due)
    return times


def missing():
    return JobNotFoundError(status=404, job_id="a")


def throttled():
    return RateLimitedError(status=429, job_id="a", retry_after=3.0)


def broken():
    return TransportError("the connection broke", job_id="a")


def nonsense():
    return MalformedAnswerError(["expected an object @ $"], job_id="a")


class Patient(Fixed):
    """Polls new jobs after half the interval, as long as few jobs are old."""

    def first_delay(self, job, rng, *, old_share):
        assert (job.polls, job.age, job.watched_for) == (0, 0.0, 0.0)
        return self.interval / 2 if old_share < 0.1 else 0.0


def make_experienced(schedule=None, *, runs=1_000):
    """Return watched jobs after `runs` arrivals of new jobs."""
    watched_jobs = make_watched_jobs(schedule or Patient(interval=INTERVAL, jitter=0))
    for _ in range(runs):
        record_arrival(watched_jobs)
    return watched_jobs


def record_arrival(watched_jobs, age=0.0, now=0.0):
    """Record how old a job was on arrival."""
    watched_jobs.learning.durations.arrivals.record(age, added_at=now + 1.0, now=now)


def subscribe_waiting(watched_jobs, subscription, *job_ids, now=0.0):
    """Subscribe to jobs whose first poll can wait; return those whose first poll does."""
    for job_id in job_ids:
        add_id(subscription, job_id)
        watched_jobs.subscribe(job_id, job_id, subscription, now, can_wait=True)
    return [job_id for job_id in job_ids if watched_jobs.get(job_id).due > now]


def make_watched_jobs_with_quiet_ages(*, active=100):
    """Return watched jobs after 300 jobs of 400 s, and job "a", which is 100 s old.

    Args:
        active: Number of active jobs, including "a".
    """
    learning = Learning()
    watched_jobs = make_watched_jobs(Adaptive(jitter=0), learning=learning)
    end_jobs(learning, *[400.0] * 300)
    for _ in range(active - 1):
        learning.durations.begin()
    subscribe(watched_jobs, make_subscription(), "a")
    poll(watched_jobs, "processing", 0.0)
    watched_jobs.poll_now("a", 100.0)
    poll(watched_jobs, "processing", 100.0)
    return watched_jobs


def end_jobs(learning, *ages):
    """Record jobs that were seen active every 7 s, and ended at these ages."""
    for age in ages:
        learning.durations.begin()
        learning.durations.extend(0.0, age)
        learning.durations.end(0.0, age, age)


def next_poll(watched_jobs):
    """Return the time at which the only job is polled next."""
    while True:
        now = watched_jobs.poll_queue.next_due()
        if watched_jobs.pop_due(now) is not None:
            return now


# --- when ---------------------------------------------------------------------------------------


def test_a_pause_at_a_quiet_age_lasts_if_no_job_ends_there():
    # It begins at the age of 100 s, and half of the age is the longest pause.
    assert next_poll(make_watched_jobs_with_quiet_ages()) == 150.0


def test_a_pause_at_a_quiet_age_is_short_if_few_jobs_are_active():
    assert next_poll(make_watched_jobs_with_quiet_ages(active=12)) == 110.0
    assert next_poll(make_watched_jobs_with_quiet_ages(active=50)) == 140.0


def test_a_pause_at_a_quiet_age_ends_soon_if_jobs_end_there():
    watched_jobs = make_watched_jobs_with_quiet_ages()
    end_jobs(watched_jobs.learning, *[110.0] * 3)
    assert next_poll(watched_jobs) == 107.0  # at the first check, which comes after 7 s


def test_a_pause_at_a_quiet_age_is_checked_again_and_again():
    watched_jobs = make_watched_jobs_with_quiet_ages()
    assert watched_jobs.pop_due(107.0) is None
    assert watched_jobs.pop_due(114.0) is None
    end_jobs(watched_jobs.learning, *[110.0] * 3)
    assert next_poll(watched_jobs) == 121.0


def test_poll_now_ends_a_pause_at_a_quiet_age():
    watched_jobs = make_watched_jobs_with_quiet_ages()
    assert watched_jobs.poll_now("a", 103.0)
    assert next_poll(watched_jobs) == 103.0


@pytest.mark.parametrize("now", [107.0, 110.0])
def test_poll_now_ends_a_pause_whose_check_is_due(now):
    watched_jobs = make_watched_jobs_with_quiet_ages()
    assert watched_jobs.poll_now("a", now)
    assert watched_jobs.pop_due(now).job_id == "a"


def test_only_delays_of_the_adaptive_schedule_are_checked():
    watched_jobs = make_watched_jobs(Fixed(interval=50.0, jitter=0))
    subscribe(watched_jobs, make_subscription(), "a")
    poll(watched_jobs, "processing", 0.0)
    end_jobs(watched_jobs.learning, *[5.0] * 40)
    assert watched_jobs.poll_queue.next_due() == 50.0


def test_a_new_job_is_due_immediately():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    assert watched_jobs.poll_queue.next_due() is None
    assert watched_jobs.pop_due(5.0) is None
    subscribe(watched_jobs, subscription, "a", now=5.0)
    assert watched_jobs.poll_queue.next_due() == 5.0
    assert watched_jobs.pop_due(5.0).job_id == "a"
    assert watched_jobs.poll_queue.next_due() is None


def test_a_new_job_comes_before_one_that_is_surely_active_and_after_one_that_has_surely_settled():
    for seen_at, first in ((99.999, "new"), (1.0, "old")):
        watched_jobs, subscription = (
            make_watched_jobs(schedule=Fixed(interval=0.001, jitter=0)),
            make_subscription(),
        )
        for number in range(200):
            watched_jobs.learning.durations.begin()
            watched_jobs.learning.durations.end(0.0, 0.0, 2.0 + number / 1000)
        subscribe(watched_jobs, subscription, "old", now=0.0)
        state = watched_jobs.pop_due(0.0)
        watched_jobs.succeeded(state, snapshot("old", "processing"), seen_at)
        watched_jobs.poll_queue.lateness = 10.0
        subscribe(watched_jobs, subscription, "new", now=100.0)
        assert watched_jobs.pop_due(100.0).job_id == first


def test_jobs_are_polled_in_the_order_of_their_due_times():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    for at, job_id in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "a2")):
        subscribe(watched_jobs, subscription, job_id, now=at)
    assert [watched_jobs.pop_due(9.0).job_id for _ in range(4)] == ["a", "a2", "b", "c"]


def test_an_active_job_is_due_again_by_its_schedule():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    assert poll_when_due(watched_jobs, "pending", "processing", "completed", "never") == [0, 10, 20]
    assert len(watched_jobs) == 0


def test_the_schedule_gets_polls_and_age():
    contexts = []

    class Curious:
        def delay(self, job, rng):
            contexts.append((job.polls, job.watched_for))
            return 7.0

    watched_jobs, subscription = make_watched_jobs(Curious()), make_subscription()
    subscribe(watched_jobs, subscription, "a", now=100.0)
    poll_when_due(watched_jobs, "pending", broken(), "pending", "completed")
    # Failed polls count until one succeeds, so that polls become rarer during an outage.
    assert contexts == [(1, 0), (2, 7), (2, 13)]


@pytest.mark.parametrize("delay", [math.nan, math.inf, -1.0])
def test_a_schedule_that_returns_no_delay_raises_value_error(delay):
    class Wrong:
        def delay(self, job, rng):
            return delay

    watched_jobs, subscription = make_watched_jobs(Wrong()), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    with pytest.raises(ValueError, match="delay"):
        poll(watched_jobs, "pending", 0.0)


# --- what an answer means -----------------------------------------------------------------------


def test_a_settled_job_is_delivered_to_all_subscribers_and_forgotten():
    watched_jobs, one, two = make_watched_jobs(), make_subscription(), make_subscription()
    subscribe(watched_jobs, one, "a")
    subscribe(watched_jobs, two, "a")
    poll(watched_jobs, "failed", 0.0)
    assert one.take().status is two.take().status is JobStatus.FAILED
    assert len(watched_jobs) == 0
    assert watched_jobs.get("a") is None
    assert (
        watched_jobs.counts.polls,
        watched_jobs.counts.settled,
        watched_jobs.counts.given_up,
    ) == (
        1,
        1,
        0,
    )


def test_a_job_with_an_unknown_status_is_active():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll(watched_jobs, "marinating", 0.0)
    assert subscription.take() is None
    assert watched_jobs.get("a").status == "marinating"
    assert watched_jobs.poll_queue.next_due() == INTERVAL


def test_an_answer_about_another_job_settles_neither():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a", "b")
    state = watched_jobs.pop_due(0.0)
    watched_jobs.succeeded(state, snapshot("b"), 0.0)
    assert subscription.take() is None
    assert subscription.open == 2
    assert poll(watched_jobs, "completed", 0.0) == "b"
    while not subscription.errors:
        due = watched_jobs.poll_queue.next_due()
        watched_jobs.succeeded(watched_jobs.pop_due(due), snapshot("b"), due)
    assert due == 60
    assert [(job_id, type(cause)) for job_id, cause in subscription.errors.items()] == [
        ("a", WrongJobError)
    ]
    assert subscription.take().job_id == "b"
    assert subscription.take() is None


def test_an_answer_without_subscribers_is_ignored():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    state = watched_jobs.pop_due(0.0)
    assert watched_jobs.unsubscribe("a", subscription) is state
    watched_jobs.succeeded(state, snapshot("a"), 0.0)
    assert subscription.take() is None
    assert subscription.buffer.free == 100


def test_a_late_answer_does_not_change_a_new_state_of_the_same_job():
    watched_jobs, old, new = make_watched_jobs(), make_subscription(), make_subscription()
    subscribe(watched_jobs, old, "a")
    state = watched_jobs.pop_due(0.0)
    watched_jobs.unsubscribe("a", old)
    subscribe(watched_jobs, new, "a", now=1.0)
    watched_jobs.failed(state, missing(), 1.0)
    watched_jobs.succeeded(state, snapshot("a"), 1.0)
    assert not new.errors
    assert new.take() is None
    assert watched_jobs.pop_due(1.0).job_id == "a"


# --- 404 ----------------------------------------------------------------------------------------


def test_a_job_may_be_unknown_during_the_grace():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    assert poll_when_due(watched_jobs, missing(), missing(), "completed") == [0, 3, 6]
    assert subscription.take().job_id == "a"
    assert not subscription.errors


def test_a_job_that_stays_unknown_is_given_up_at_the_end_of_the_grace():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    last = missing()
    times = poll_when_due(watched_jobs, *[missing() for _ in range(5)], last, missing())
    assert times == [0, 3, 6, 9, 12, 15]
    assert subscription.errors == {"a": last}
    assert subscription.open == len(watched_jobs) == 0
    assert watched_jobs.counts.given_up == 1


@given(
    added_at=st.floats(min_value=0, max_value=1e8),
    grace=st.floats(min_value=0.1, max_value=30),
    interval=st.floats(min_value=1, max_value=3),
)
def test_the_end_of_the_grace_is_reached_however_floats_round(added_at, grace, interval):
    watched_jobs = make_watched_jobs(Fixed(interval=interval, jitter=0), not_found_grace=grace)
    subscription = make_subscription()
    subscribe(watched_jobs, subscription, "a", now=added_at)
    times = poll_when_due(watched_jobs, *[missing()] * 100)
    assert subscription.errors
    assert times == sorted(set(times)), "the same moment twice: it might never pass"
    assert times[-1] == pytest.approx(added_at + grace)


def test_without_grace_the_first_404_gives_the_job_up():
    watched_jobs, subscription = make_watched_jobs(not_found_grace=0.0), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll(watched_jobs, missing(), 0.0)
    assert "a" in subscription.errors


def test_a_job_found_before_may_be_unknown_for_the_patience():
    watched_jobs, subscription = make_watched_jobs(patience=60.0), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    times = poll_when_due(watched_jobs, missing(), missing(), "pending", *[missing()] * 19)
    assert times == [0, 3, 6, *range(16, 77, 6)]
    assert "a" in subscription.errors


def test_the_grace_starts_with_the_first_404_not_with_an_earlier_outage():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(watched_jobs, broken(), broken(), broken(), missing())
    assert not subscription.errors
    assert poll_when_due(watched_jobs, *[missing()] * 6) == [33, 36, 39, 42, 45]
    assert isinstance(subscription.errors["a"], JobNotFoundError)


# --- transient failures -------------------------------------------------------------------------


def test_a_job_is_given_up_when_transient_failures_outlast_the_patience():
    watched_jobs, subscription = make_watched_jobs(outage_patience=60.0), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    assert poll_when_due(watched_jobs, *[broken()] * 20) == pytest.approx([*range(0, 61, 6)])
    assert isinstance(subscription.errors["a"], TransportError)


def test_a_job_is_not_polled_before_its_next_delay_has_passed_while_the_host_is_down():
    watched_jobs, subscription = (
        make_watched_jobs(Fixed(interval=40.0, jitter=0)),
        make_subscription(),
    )
    subscribe(watched_jobs, subscription, "a")
    poll(watched_jobs, broken(), 0.0)
    for now in (15.0, 30.0):
        assert watched_jobs.poll_queue.next_due() == now
        assert watched_jobs.pop_due(now) is None
    assert poll_when_due(watched_jobs, "completed") == [40.0]


def test_after_four_failed_polls_in_a_row_the_next_jobs_are_drawn_at_random():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    names = [f"job{number}" for number in range(50)]
    subscribe(watched_jobs, subscription, *names)
    polled, begins = [], []
    for _ in range(8):
        polled.append(poll(watched_jobs, ServerError(status=503), 0.0))
        begins.append(watched_jobs.chooses_again)
    assert polled[:4] == names[:4]
    assert polled[4] not in names[:5]
    assert begins.index(True) == 3
    assert begins.count(True) == 1
    drawn = poll(watched_jobs, "processing", 0.0)
    waiting = [name for name in names if name not in {*polled, drawn}]
    assert [poll(watched_jobs, "processing", 0.0) for _ in range(4)] == waiting[:4]


def test_after_a_long_outage_due_jobs_are_given_up_without_a_poll():
    watched_jobs, subscription = make_watched_jobs(outage_patience=100.0), make_subscription()
    subscribe(watched_jobs, subscription, "a", "b", "c")
    polled = []
    for now in range(0, 101, 10):
        if now == 100:
            subscribe(watched_jobs, subscription, "new", now=95.0)
        while (due := watched_jobs.poll_queue.next_due()) is not None and due <= now:
            if (state := watched_jobs.pop_due(now)) is None:
                break
            polled.append(state.job_id)
            watched_jobs.failed(state, broken(), now)
    assert Counter(polled) == {"a": 10, "b": 10, "c": 10, "new": 1}
    assert {job_id: type(error) for job_id, error in subscription.errors.items()} == {
        "a": TransportError,
        "b": TransportError,
        "c": TransportError,
    }
    assert watched_jobs.counts.given_up == 3


def test_a_new_job_that_was_refused_once_is_polled_again_also_without_patience():
    watched_jobs, subscription = make_watched_jobs(patience=0.0), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    refused = PermissionDeniedError(status=403, job_id="a")
    assert len(poll_when_due(watched_jobs, refused, "completed")) == 2


def test_an_answer_restarts_the_patience():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(watched_jobs, *[broken()] * 6, "pending", *[broken()] * 6, "completed")
    assert not subscription.errors
    assert subscription.take().job_id == "a"


def test_throttled_time_does_not_count_against_the_patience():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(watched_jobs, broken(), *[throttled()] * 50, broken(), "completed")
    assert not subscription.errors
    assert subscription.take().job_id == "a"


def test_throttling_never_gives_a_job_up():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    assert len(poll_when_due(watched_jobs, *[throttled()] * 1_000)) == 1_000
    assert not subscription.errors


# Without polls of other jobs, `outage_patience` bounds the failures that can concern all jobs.
@pytest.mark.parametrize(("failure", "most"), [(broken, 146), (missing, 20)])
def test_throttling_between_failures_does_not_restart_the_patience(failure, most):
    """Else a job that fails, seen through a limit that is often hit, would never end."""
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    times = poll_when_due(watched_jobs, *[failure(), throttled()] * 100)
    assert "a" in subscription.errors
    assert len(times) <= most


def test_a_job_that_fails_in_different_ways_is_given_up():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(watched_jobs, *[missing(), broken(), throttled()] * 100)
    assert "a" in subscription.errors


@pytest.mark.parametrize(
    "error",
    [
        UnprocessableError(status=422),
        AnswerTooLargeError(limit=1, job_id="a"),
    ],
)
def test_a_permanent_failure_gives_the_job_up_immediately(error):
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll(watched_jobs, error, 0.0)
    assert subscription.errors == {"a": error}


@pytest.mark.parametrize(("patience", "last"), [(300.0, 60), (25.0, 25)])
def test_malformed_answers_are_accepted_for_a_minute_and_at_most_for_the_patience(patience, last):
    watched_jobs, subscription = make_watched_jobs(patience=patience), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    assert poll_when_due(watched_jobs, *[nonsense()] * 20)[-1] == last
    assert isinstance(subscription.errors["a"], MalformedAnswerError)


def test_two_malformed_answers_in_a_long_outage_do_not_shorten_the_patience():
    watched_jobs, subscription = make_watched_jobs(patience=300.0), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(
        watched_jobs, nonsense(), *[broken()] * 20, nonsense(), *[broken()] * 5, "completed"
    )
    assert not subscription.errors


def test_a_good_answer_resets_the_count_of_malformed_ones():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll_when_due(watched_jobs, *[nonsense(), nonsense(), "pending"] * 5, "completed")
    assert not subscription.errors


def test_all_subscribers_are_notified_when_a_job_is_given_up():
    watched_jobs, one, two = make_watched_jobs(), make_subscription(), make_subscription()
    subscribe(watched_jobs, one, "a")
    subscribe(watched_jobs, two, "a")
    poll(watched_jobs, UnprocessableError(status=422), 0.0)
    assert one.errors == two.errors != {}
    assert one.open == two.open == 0
    assert watched_jobs.counts.given_up == 1


# --- polls without a result ---------------------------------------------------------------------


@pytest.mark.parametrize(("was_sent", "due"), [(True, 10.0), (False, 1.0)])
def test_a_cancelled_poll_is_repeated(was_sent, due):
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    state = watched_jobs.pop_due(0.0)
    watched_jobs.cancelled(state, 1.0, was_sent=was_sent)
    assert not state.in_flight
    assert subscription.buffer.free == 100
    assert watched_jobs.poll_queue.next_due() == due  # delays count from poll to poll


def test_cancelling_after_an_answer_changes_nothing():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    state = watched_jobs.pop_due(0.0)
    watched_jobs.succeeded(state, snapshot("a", "pending"), 0.0)
    watched_jobs.cancelled(state, 5.0, was_sent=True)
    assert watched_jobs.poll_queue.next_due() == 10.0
    assert places_of([state], watched_jobs) == 1


# --- poll_now -----------------------------------------------------------------------------------


def test_poll_now_makes_a_job_due():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    poll(watched_jobs, "pending", 0.0)
    assert watched_jobs.poll_now("a", 3.0)
    assert watched_jobs.poll_queue.next_due() == 3.0
    poll(watched_jobs, "pending", 3.0)
    assert watched_jobs.poll_queue.next_due() == 13.0


def test_poll_now_returns_false_for_a_job_that_is_not_watched():
    watched_jobs = make_watched_jobs()
    assert not watched_jobs.poll_now("a", 0.0)
    assert watched_jobs.poll_queue.next_due() is None


def test_poll_now_during_a_poll_causes_another_one_after_it():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    state = watched_jobs.pop_due(0.0)
    for _ in range(100):
        assert watched_jobs.poll_now("a", 0.5)
    assert watched_jobs.poll_queue.next_due() is None
    watched_jobs.succeeded(state, snapshot("a", "pending"), 1.0)
    assert watched_jobs.poll_queue.next_due() == 1.0
    poll(watched_jobs, "pending", 1.0)
    assert watched_jobs.poll_queue.next_due() == 11.0


def test_poll_now_never_delays_a_job():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a", "b", now=0.0)
    watched_jobs.poll_now("a", 5.0)
    assert watched_jobs.pop_due(5.0).job_id == "a"


def test_many_calls_of_poll_now_do_not_grow_the_heap():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a", "b")
    poll(watched_jobs, "pending", 0.0)
    poll(watched_jobs, "pending", 0.0)
    for step in range(100_000):
        assert watched_jobs.poll_now("ab"[step % 2], 1.0 + step * 1e-6)
    states = [watched_jobs.get("a"), watched_jobs.get("b")]
    assert places_of(states, watched_jobs) < 1_100  # up to 1,024 items may be out of date
    assert {watched_jobs.pop_due(2.0).job_id, watched_jobs.pop_due(2.0).job_id} == {"a", "b"}
    assert watched_jobs.pop_due(2.0) is None


# --- room ---------------------------------------------------------------------------------------


def test_no_more_jobs_are_polled_than_there_is_room_for():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=2)
    subscribe(watched_jobs, subscription, "a", "b", "c")
    polls = [watched_jobs.pop_due(0.0) for _ in range(3)]
    assert [state and state.job_id for state in polls] == ["a", "b", None]
    assert watched_jobs.poll_queue.next_due() is None


def test_a_job_waits_until_the_consumer_makes_room():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=1)
    subscribe(watched_jobs, subscription, "a", "b")
    poll(watched_jobs, "completed", 0.0)
    assert watched_jobs.pop_due(0.0) is None
    assert subscription.buffer.wake_waiting(1.0) == 0
    subscription.take()
    assert subscription.buffer.wake_waiting(2.0) == 1
    assert watched_jobs.poll_queue.next_due() == 2.0
    assert watched_jobs.pop_due(2.0).job_id == "b"


@pytest.mark.parametrize("end", ["pending", "unknown", "cancelled look", "given up"])
def test_a_poll_that_delivers_nothing_makes_room_for_waiting_jobs(end):
    """Else they would wait until something is consumed, and there may be nothing to consume."""
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=1)
    subscribe(watched_jobs, subscription, "a", "b")
    state = watched_jobs.pop_due(0.0)
    assert watched_jobs.pop_due(0.0) is None  # b is set aside
    if end == "pending":
        watched_jobs.succeeded(state, snapshot("a", "pending"), 1.0)
    elif end == "unknown":
        watched_jobs.failed(state, missing(), 1.0)
    elif end == "given up":
        watched_jobs.failed(state, UnprocessableError(status=422), 1.0)
    else:
        watched_jobs.cancelled(state, 1.0, was_sent=True)
    assert watched_jobs.pop_due(1.0).job_id == "b"


def test_a_poll_without_subscribers_makes_room_too():
    watched_jobs, full, other = make_watched_jobs(), make_subscription(limit=1), make_subscription()
    subscribe(watched_jobs, full, "a", "b")
    subscribe(watched_jobs, other, "b")
    state = watched_jobs.pop_due(0.0)
    reserved = watched_jobs.pop_due(0.0)
    assert (state.job_id, reserved.job_id) == ("a", "b")
    subscribe(watched_jobs, full, "c")
    assert watched_jobs.pop_due(0.0) is None
    watched_jobs.unsubscribe("a", full)
    watched_jobs.succeeded(state, snapshot("a"), 1.0)
    watched_jobs.succeeded(reserved, snapshot("b", "pending"), 1.0)
    assert watched_jobs.pop_due(1.0).job_id == "c"


def test_a_subscriber_with_room_gets_a_job_for_which_another_has_none():
    watched_jobs, full, free = make_watched_jobs(), make_subscription(limit=1), make_subscription()
    subscribe(watched_jobs, full, "a", "b")
    poll(watched_jobs, "completed", 0.0)
    assert watched_jobs.pop_due(0.0) is None  # b waits for room
    subscribe(watched_jobs, free, "b", now=1.0)
    poll(watched_jobs, "completed", 1.0)
    assert free.take().job_id == "b"
    assert watched_jobs.pop_due(1.0) is None  # b waits again, for the other one
    assert full.take().job_id == "a"
    full.buffer.wake_waiting(2.0)
    poll(watched_jobs, "completed", 2.0)
    assert full.take().job_id == "b"
    assert len(watched_jobs) == 0
    assert watched_jobs.counts.settled == 2


@pytest.mark.parametrize("leaves", [True, False])
def test_a_full_subscriber_that_joins_a_waiting_job_wakes_it_with_its_own_room(leaves):
    watched_jobs, one, two = (
        make_watched_jobs(),
        make_subscription(limit=1),
        make_subscription(limit=1),
    )
    subscribe(watched_jobs, one, "a", "b")
    subscribe(watched_jobs, two, "c")
    poll(watched_jobs, "completed", 0.0)
    poll(watched_jobs, "completed", 0.0) if watched_jobs.poll_queue.next_due() is not None else None
    assert one.buffer.free <= 0
    assert watched_jobs.pop_due(0.0) is None
    subscribe(watched_jobs, two, "b", now=0.0)
    if two.buffer.free > 0:
        pytest.fail("the second follower should be full")
    if leaves:
        watched_jobs.unsubscribe("b", one)
    assert two.take().job_id == "c"
    two.buffer.wake_waiting(1.0)
    poll(watched_jobs, "completed", 1.0)
    assert two.take().job_id == "b"


def test_room_is_not_used_for_a_job_that_waits_for_other_subscribers_only():
    """It has that job's snapshot already, and other jobs wait."""
    watched_jobs, one, two = (
        make_watched_jobs(),
        make_subscription(limit=1),
        make_subscription(limit=1),
    )
    subscribe(watched_jobs, one, "a")
    subscribe(watched_jobs, two, "b")
    poll(watched_jobs, "completed", 0.0)
    poll(watched_jobs, "completed", 0.0)
    subscribe(watched_jobs, one, "shared")
    subscribe(watched_jobs, two, "shared")
    assert watched_jobs.pop_due(0.0) is None  # both are full
    keen = make_subscription()
    subscribe(watched_jobs, keen, "shared", now=1.0)  # and this one is not
    poll(watched_jobs, "pending", 1.0)
    watched_jobs.unsubscribe("shared", keen)
    subscribe(watched_jobs, one, "mine", now=11.0)
    assert watched_jobs.pop_due(11.0) is None  # now it waits a second time
    one.take()
    one.buffer.wake_waiting(12.0)
    assert poll(watched_jobs, "completed", 12.0) == "shared"  # and two has no room yet
    assert one.take().job_id == "shared"
    one.buffer.wake_waiting(13.0)
    assert poll(watched_jobs, "completed", 13.0) == "mine"


def test_a_full_buffer_does_not_collect_duplicates_of_a_waiting_job():
    watched_jobs, full = make_watched_jobs(), make_subscription(limit=1)
    subscribe(watched_jobs, full, "a", "b")
    poll(watched_jobs, "completed", 0.0)
    assert watched_jobs.pop_due(0.0) is None
    for round_ in range(1_000):
        keen = make_subscription()
        subscribe(watched_jobs, keen, "b", now=float(round_))
        poll(watched_jobs, "pending", float(round_))
        watched_jobs.unsubscribe("b", keen)
        assert watched_jobs.pop_due(round_ + INTERVAL) is None
    assert len(full.buffer.waiting) < 100
    full.take()
    full.buffer.wake_waiting(5_000.0)
    poll(watched_jobs, "completed", 5_000.0)
    assert full.take().job_id == "b"


def test_a_subscriber_that_joins_during_a_poll_gets_its_snapshot_if_it_has_room():
    watched_jobs, one, two = make_watched_jobs(), make_subscription(), make_subscription(limit=1)
    subscribe(watched_jobs, one, "a")
    state = watched_jobs.pop_due(0.0)
    subscribe(watched_jobs, two, "a")
    watched_jobs.succeeded(state, snapshot("a"), 0.0)
    assert one.take().job_id == two.take().job_id == "a"
    assert watched_jobs.poll_queue.next_due() is None


def test_the_number_of_jobs_set_aside_in_one_call_is_limited():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=1)
    subscribe(watched_jobs, subscription, *(f"job{number}" for number in range(1_000)))
    poll(watched_jobs, "completed", 0.0)
    calls = 0
    while watched_jobs.poll_queue.next_due() is not None:
        assert watched_jobs.pop_due(0.0) is None
        calls += 1
    assert 10 <= calls <= 100
    subscription.take()
    assert subscription.buffer.wake_waiting(1.0) == 1  # only as many as there is room for
    assert watched_jobs.pop_due(1.0) is not None
    assert watched_jobs.pop_due(1.0) is None


def test_jobs_that_waited_for_room_do_not_come_back_after_clear():
    watched_jobs, old, new = make_watched_jobs(), make_subscription(limit=1), make_subscription()
    subscribe(watched_jobs, old, "a", "b")
    poll(watched_jobs, "completed", 0.0)
    assert watched_jobs.pop_due(0.0) is None
    stale = watched_jobs.get("b")
    [*watched_jobs.clear()]
    assert len(watched_jobs) == 0
    assert watched_jobs.poll_queue.next_due() is None
    subscribe(watched_jobs, new, "b", now=1.0)
    old.take()
    assert old.buffer.wake_waiting(1.0) == 0
    assert not watched_jobs.wake(stale, 1.0)
    assert watched_jobs.pop_due(1.0).subscribers == (new,)
    assert watched_jobs.pop_due(1.0) is None


# --- the heap -----------------------------------------------------------------------------------


def test_unsubscribed_jobs_leave_nothing_behind():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    job_ids = [f"job{number}" for number in range(10_000)]
    subscribe(watched_jobs, subscription, *job_ids)
    entries = [watched_jobs.get(job_id) for job_id in job_ids]
    for job_id in job_ids[:-1]:
        watched_jobs.unsubscribe(job_id, subscription)
    assert len(watched_jobs) == 1
    assert places_of(entries, watched_jobs) < 2_000
    assert watched_jobs.pop_due(0.0).job_id == job_ids[-1]
    assert places_of(entries, watched_jobs) == 0


def test_a_job_is_forgotten_with_its_last_subscriber():
    watched_jobs, one, two = make_watched_jobs(), make_subscription(), make_subscription()
    subscribe(watched_jobs, one, "a")
    subscribe(watched_jobs, two, "a")
    assert watched_jobs.unsubscribe("a", one) is None
    assert watched_jobs.unsubscribe("a", one) is None
    state = watched_jobs.get("a")
    assert watched_jobs.unsubscribe("a", two) is state
    assert watched_jobs.unsubscribe("a", two) is None
    assert watched_jobs.unsubscribe("unheard of", two) is None


# --- during list sweeps -------------------------------------------------------------------------


def make_sweeping(*job_ids):
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    watched_jobs.list_hints.start_sweeping()
    subscribe(watched_jobs, subscription, *job_ids, can_wait=True)
    for _ in range(5):  # the list is proven: no listed job is polled to check it
        watched_jobs.list_checks.accuracy.ends.count(late=False)
    return watched_jobs


def test_a_new_job_waits_for_the_list():
    watched_jobs = make_sweeping("a")
    assert watched_jobs.pop_due(0.0) is None
    assert watched_jobs.poll_queue.next_due() == FIRST_TRUST
    watched_jobs.list_hints.listed(summary("a"), 0.0, 1.0)
    assert sum(watched_jobs.list_hints.sweep_ended(0.0, 1.0)) == 0
    assert 1.0 + TRUST >= watched_jobs.poll_queue.next_due() > 10.0


def test_a_subscriber_that_joins_a_new_job_waits_for_the_list_too():
    watched_jobs = make_sweeping("a")
    subscribe(watched_jobs, make_subscription(), "a", can_wait=False)
    assert watched_jobs.poll_queue.next_due() == FIRST_TRUST


@pytest.mark.parametrize(("lag", "due"), [(0.0, 5.0), (3.0, 8.0), (60.0, 10.0)])
def test_a_new_job_that_no_sweep_has_shown_is_polled(lag, due):
    """A sweep can fail or come late, and the list can be later than it seems."""
    watched_jobs = make_sweeping("a")
    watched_jobs.list_trust.list_lag = lag
    assert watched_jobs.pop_due(due - 0.1) is None
    assert watched_jobs.pop_due(due).job_id == "a"


def test_jobs_wait_no_longer_for_the_list_when_it_turns_out_to_lag():
    """Two jobs that were missing from a sweep are active: the others are too new for the list."""
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    watched_jobs.list_hints.start_sweeping()
    subscribe(watched_jobs, subscription, "a", "b", "c", can_wait=True)
    assert sum(watched_jobs.list_hints.sweep_ended(1.0, 1.0)) == 3
    poll(watched_jobs, "pending", 1.0)
    poll(watched_jobs, "pending", 1.0)
    assert watched_jobs.pop_due(1.0) is None
    assert watched_jobs.get("c").due == pytest.approx(FIRST_TRUST + 1.5)


def test_a_job_missing_from_the_list_is_polled():
    watched_jobs = make_sweeping("a", "b")
    for job_id in "ab":
        watched_jobs.list_hints.listed(summary(job_id), 1.0, 1.0)
    watched_jobs.list_hints.listed(summary("b"), 5.0, 5.0)
    assert sum(watched_jobs.list_hints.sweep_ended(5.0, 5.5)) == 1
    assert watched_jobs.pop_due(5.5).job_id == "a"
    assert watched_jobs.pop_due(5.5) is None


def test_a_job_newer_than_the_lag_of_the_list_is_not_missing():
    watched_jobs = make_sweeping("a")
    watched_jobs.list_trust.list_lag = 3.0
    assert sum(watched_jobs.list_hints.sweep_ended(2.9, 3.0)) == 0
    assert watched_jobs.pop_due(3.0) is None
    assert sum(watched_jobs.list_hints.sweep_ended(6.0, 6.0)) == 1
    assert watched_jobs.pop_due(6.0).job_id == "a"


def test_the_list_settles_nothing():
    watched_jobs = make_sweeping("a")
    watched_jobs.list_hints.listed(summary("a", "completed"), 1.0, 1.0)
    assert watched_jobs.get("a") is not None
    assert sum(watched_jobs.list_hints.sweep_ended(2.0, 2.0)) == 1


def test_a_listed_job_that_is_not_watched_is_ignored():
    watched_jobs = make_sweeping("a")
    watched_jobs.list_hints.listed(summary("b"), 1.0, 1.0)
    assert len(watched_jobs) == 1


def test_an_active_job_that_the_list_never_shows_is_polled_as_often_as_by_schedule():
    watched_jobs = make_sweeping("a")
    sum(watched_jobs.list_hints.sweep_ended(1.0, 1.0))
    poll(watched_jobs, "pending", 1.0)
    assert watched_jobs.list_trust.wasted_polls == 1
    for second in range(40):
        sum(watched_jobs.list_hints.sweep_ended(2.0 + second, 2.0 + second))
    assert watched_jobs.poll_queue.next_due() == 1.0 + INTERVAL


def test_a_job_that_is_missing_again_after_it_was_listed_is_polled_immediately():
    """As when it moved to a page that the sweep before had already requested."""
    watched_jobs = make_sweeping("a")
    sum(watched_jobs.list_hints.sweep_ended(1.0, 1.0))
    poll(watched_jobs, "pending", 1.0)
    watched_jobs.list_hints.listed(summary("a"), 2.0, 2.0)
    assert watched_jobs.pop_due(2.5) is None
    sum(watched_jobs.list_hints.sweep_ended(3.0, 3.0))
    assert watched_jobs.pop_due(3.0).job_id == "a"


def test_a_job_listed_during_its_poll_is_not_missing():
    """Otherwise a job that was listed during its poll would be missing from the list."""
    watched_jobs = make_sweeping("a")
    watched_jobs.poll_now("a", 0.0)
    state = watched_jobs.pop_due(0.0)
    watched_jobs.list_hints.listed(summary("a"), 1.0, 1.5)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 2.0)
    assert sum(watched_jobs.list_hints.sweep_ended(1.0, 2.5)) == 0


def test_poll_now_during_a_poll_works_while_sweeping():
    watched_jobs = make_sweeping("a")
    watched_jobs.poll_now("a", 0.0)
    state = watched_jobs.pop_due(0.0)
    watched_jobs.poll_now("a", 0.5)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 1.0)
    assert watched_jobs.pop_due(1.0) is state


def test_poll_now_is_not_undone_by_a_page():
    for listed_before in (True, False):
        watched_jobs = make_sweeping("a")
        if listed_before:
            watched_jobs.list_hints.listed(summary("a"), 1.0, 1.0)
            sum(watched_jobs.list_hints.sweep_ended(2.0, 2.0))
        watched_jobs.poll_now("a", 3.0)
        watched_jobs.list_hints.listed(summary("a"), 2.5, 3.0)
        assert watched_jobs.pop_due(3.0).job_id == "a"


def test_poll_now_of_a_due_job_works_when_sweeping_starts():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a", "b", can_wait=True)
    watched_jobs.list_hints.start_sweeping()
    watched_jobs.poll_now("b", 0.0)
    assert watched_jobs.pop_due(0.0).job_id == "b"
    assert watched_jobs.pop_due(0.0) is None


def test_jobs_that_wait_for_room_or_fail_do_not_delay_sweeps():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=1)
    watched_jobs.list_hints.start_sweeping()
    subscribe(watched_jobs, subscription, "a", "b", "c")
    sum(watched_jobs.list_hints.sweep_ended(1.0, 1.0))
    assert watched_jobs.list_trust.pending_confirmation == 3
    poll(watched_jobs, broken(), 1.0)
    assert watched_jobs.list_trust.pending_confirmation == 2
    poll(watched_jobs, "completed", 1.0)
    assert watched_jobs.pop_due(1.0) is None  # the buffer is full
    assert watched_jobs.list_trust.pending_confirmation == 0


def test_when_sweeping_stops_each_job_is_due_within_its_delay():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=2_000)
    watched_jobs.list_hints.start_sweeping()
    job_ids = [f"job{number}" for number in range(1_200)]
    subscribe(watched_jobs, subscription, *job_ids, can_wait=True)
    for job_id in job_ids[:1_100]:
        watched_jobs.list_hints.listed(summary(job_id), 1.0, 1.0)
    assert len(list(watched_jobs.list_hints.stop_sweeping(5.0))) == 2  # it yields now and then
    dues = [watched_jobs.get(job_id).due for job_id in job_ids]
    assert set(dues[1_100:]) == {5.0}  # these were never seen
    assert 5.0 < min(dues[:1_100]) < 6.0
    # Within a delay since the list showed them, not since the end of the sweeps.
    assert 10.0 < max(dues[:1_100]) <= 1.0 + INTERVAL
    assert len({round(due, 3) for due in dues[:1_100]}) > 500


# --- against a naive model ----------------------------------------------------------------------

JOBS = [f"job{number}" for number in range(6)]
jobs = st.sampled_from(JOBS)
subscriptions = st.integers(min_value=0, max_value=2)


class Model:
    """What the watched jobs should hold of one job."""

    def __init__(self, state, due):
        self.state = state
        self.due = due  # None during a poll, and while it waits for room
        self.poll_again = False


class WatchedJobsMachine(RuleBasedStateMachine):
    """The watched jobs and a dict are compared after each step.

    Three subscriptions with small buffers share six jobs; some want every change. At times the list
    is read, and shows anything. The model copies what it cannot know: which of several overdue
    jobs is first, and what follows from the list.
    """

    in_flight = Bundle("in_flight")

    @initialize(limits=st.tuples(*[st.integers(min_value=1, max_value=3)] * 3))
    def begin(self, limits):
        self.watched_jobs = make_watched_jobs()
        self.now = 0.0
        self.limits = limits
        self.subscriptions = [make_subscription(limit, every_change=limit == 3) for limit in limits]
        self.model = {}
        self.sweeping = False
        self.asked_at = 0.0
        self.looking = []  # (state, those it was reserved by)
        # The final snapshots that each has got.
        self.ended = {subscription: [] for subscription in self.subscriptions}
        self.given = {subscription: set() for subscription in self.subscriptions}

    # What the caller does.

    @rule(job_id=jobs, number=subscriptions)
    def subscribe(self, job_id, number):
        subscription = self.subscriptions[number]
        if job_id in self.given[subscription]:
            return
        self.given[subscription].add(job_id)
        add_id(subscription, job_id)
        known = self.model.get(job_id)
        awaited = known is not None and known.state.awaited
        state = self.watched_jobs.subscribe(job_id, job_id, subscription, self.now)
        if known is not None and known.due is not None and subscription.awaits:
            soon = max(self.now, state.polled_at + 1.0) if awaited else self.now
            if soon < known.due:
                known.due, known.poll_again = soon, True
        if job_id not in self.model:
            self.model[job_id] = Model(state, self.now)
        elif self.model[job_id].due is None and state.ticket:
            assert subscription.buffer.free > 0
            self.model[job_id].due = self.now  # it waited for room, and here is room

    @rule(number=subscriptions)
    def leave(self, number):
        """Close a subscription, as when a watch is closed; another one replaces it."""
        subscription = self.subscriptions[number]
        for job_id in subscription.open_ids():
            state = self.model[job_id].state
            last = state.subscribers == (subscription,)
            assert self.watched_jobs.unsubscribe(job_id, subscription) is (state if last else None)
            if last:
                del self.model[job_id]
        fresh = make_subscription(self.limits[number], every_change=self.limits[number] == 3)
        self.subscriptions[number] = fresh
        self.ended[fresh] = []
        self.given[fresh] = set()

    @rule(number=subscriptions)
    def consume(self, number):
        subscription = self.subscriptions[number]
        if (job := subscription.take()) is not None:
            if job.is_terminal:
                self.ended[subscription].append(job.job_id)
            subscription.buffer.wake_waiting(self.now)
            self.update_woken_jobs()

    @rule(job_id=jobs)
    def poll_now(self, job_id):
        assert self.watched_jobs.poll_now(job_id, self.now) is (job_id in self.model)
        if (known := self.model.get(job_id)) is not None:
            if known.state.in_flight:
                known.poll_again = True
            elif known.due is not None:
                known.due = min(known.due, self.now)
                known.poll_again = True

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 40.0]))
    def pass_time(self, seconds):
        self.now += seconds

    # What the watcher does.

    @rule(target=in_flight)
    def start_poll(self):
        due = sorted(
            (known.due, job_id)
            for job_id, known in self.model.items()
            if known.due is not None and known.due <= self.now
        )
        with_room = [(when, job_id) for when, job_id in due if self.has_room(job_id)]
        state = self.watched_jobs.pop_due(self.now)
        for when, job_id in due:
            known = self.model[job_id]
            if known.state.waits_for_room:
                assert (when, job_id) not in with_room
                known.due = None
            elif known.state is state:
                assert (when, job_id) in with_room
            elif known.state.due > self.now:
                assert self.sweeping, "postponed without a reason"
                assert not known.poll_again, "poll_now was lost"
                assert known.state.due <= self.now + TRUST
                known.due = known.state.due
            elif state is None or when + HEADSTART < self.model[state.job_id].due:
                pytest.fail(f"{job_id} was due long before, and was not polled")
        if state is None:
            return multiple()
        known = self.model[state.job_id]
        known.due, known.poll_again = None, False
        assert state.in_flight
        self.looking.append((state, state.subscribers))
        return state

    @rule(state=consumes(in_flight), status=st.sampled_from(["pending", "processing", "failed"]))
    def answer(self, state, status):
        before, polled_at = state.subscribers, state.polled_at
        known = self.land(state)
        self.watched_jobs.succeeded(state, snapshot(state.job_id, status), self.now)
        if known is None:
            return
        if status != "failed":
            if self.sweeping and not known.poll_again:
                assert self.now < state.due <= self.now + TRUST
                known.due = state.due
            else:
                self.expect_again(known, polled_at)
        elif self.watched_jobs.get(state.job_id) is None:
            del self.model[state.job_id]
        else:  # some had no room: they stay subscribed, and the job waits for them
            assert state.waits_for_room or state.ticket
            assert set(state.subscribers) < set(before) or state.subscribers == before
        self.update_woken_jobs()

    @rule(
        state=consumes(in_flight),
        error=st.sampled_from(
            [missing(), throttled(), broken(), nonsense(), ServerError(status=503)]
        ),
    )
    def fail(self, state, error):
        known = self.land(state)
        subscribers = state.subscribers
        self.watched_jobs.failed(state, error, self.now)
        if known is None:
            return
        if self.watched_jobs.get(state.job_id) is None:
            assert not isinstance(error, RateLimitedError)
            del self.model[state.job_id]
            assert all(subscription.errors[state.job_id] is error for subscription in subscribers)
        else:
            if known.poll_again:
                assert state.due == self.now
            assert self.now <= state.due <= self.now + INTERVAL
            known.due = state.due
        self.update_woken_jobs()

    @rule(state=consumes(in_flight), was_sent=st.booleans())
    def cancel(self, state, was_sent):
        known = self.land(state)
        self.watched_jobs.cancelled(state, self.now, was_sent=was_sent)
        if known is not None:
            self.expect_again(known, state.polled_at)
            if not was_sent:
                known.due = self.now
        self.update_woken_jobs()

    # What the list shows: hints, which change only when a job is polled.

    @rule(begin=st.booleans())
    def sweep_or_not(self, begin):
        if begin:
            self.watched_jobs.list_hints.start_sweeping()
        else:
            assert len(list(self.watched_jobs.list_hints.stop_sweeping(self.now))) == 0
        self.sweeping = begin
        self.take_over(at_most=TRUST if begin else INTERVAL)

    @precondition(lambda self: self.sweeping)
    @rule()
    def request_the_list(self):
        self.asked_at = self.now

    @precondition(lambda self: self.sweeping)
    @rule(job_id=jobs, status=st.sampled_from(["pending", "processing", "completed"]))
    def list_a_job(self, job_id, status):
        self.watched_jobs.list_hints.listed(summary(job_id, status), self.asked_at, self.now)
        self.take_over(at_most=TRUST)

    @precondition(lambda self: self.sweeping)
    @rule()
    def end_the_list(self):
        sum(self.watched_jobs.list_hints.sweep_ended(self.asked_at, self.now))
        self.take_over(at_most=TRUST)

    @precondition(lambda self: self.now > 100)
    @rule()
    def stop(self):
        """As with a bad key: all jobs are forgotten, and results of polls in flight are ignored."""
        [*self.watched_jobs.clear()]
        self.model.clear()
        for number in range(3):
            self.subscriptions[number] = make_subscription(self.limits[number])
            self.ended[self.subscriptions[number]] = []
            self.given[self.subscriptions[number]] = set()
        self.now = self.asked_at = 0.0

    # The bookkeeping of the model.

    def land(self, state):
        self.looking = [look for look in self.looking if look[0] is not state]
        known = self.model.get(state.job_id)
        return known if known is not None and known.state is state else None

    def expect_again(self, known, polled_at):
        known.due = max(polled_at + INTERVAL, self.now + INTERVAL / 2)
        if known.poll_again:
            known.due = self.now

    def take_over(self, *, at_most):
        """Copy due times: no job is postponed for long, or at all after poll_now."""
        for known in self.model.values():
            if known.due is not None:
                due = known.state.due
                assert due <= max(known.due, self.now + at_most)
                assert not known.poll_again or due <= known.due, "poll_now was lost"
                known.due = due

    def update_woken_jobs(self):
        for known in self.model.values():
            if known.due is None and known.state.ticket:
                known.due = self.now

    def has_room(self, job_id):
        return any(
            subscription.buffer.free > 0 for subscription in self.model[job_id].state.subscribers
        )

    # What must always hold.

    @invariant()
    def the_same_jobs_are_due_at_the_same_times(self):
        assert len(self.watched_jobs) == len(self.model)
        for job_id, known in self.model.items():
            state = self.watched_jobs.get(job_id)
            assert state is known.state
            flags = (bool(state.ticket), state.waits_for_room, state.in_flight)
            assert sum(flags) == 1, f"{job_id} would never be polled, or twice: {flags}"
            if known.due is not None:
                assert state.due == known.due
        due = [known.due for known in self.model.values() if known.due is not None]
        first = min(due, default=None)
        if first is None or first > self.now:
            assert self.watched_jobs.poll_queue.next_due() == first
        else:
            assert self.watched_jobs.poll_queue.next_due() <= self.now

    @invariant()
    def jobs_to_confirm_now_are_counted(self):
        states = [known.state for known in self.model.values()]
        assert self.watched_jobs.list_trust.pending_confirmation == sum(
            state.pending_confirmation for state in states
        )
        assert all(state.ignore_list or not state.pending_confirmation for state in states)

    @invariant()
    def jobs_at_risk_are_known(self):
        durations = self.watched_jobs.learning.durations
        entered = [k.state for k in self.model.values() if k.state.first_active_age is not None]
        passed = Counter(nearest_edge(state.first_active_age) for state in entered)
        passed.subtract(nearest_edge(state.last_active_age) for state in entered)
        by_bin = {number: count for number, count in passed.items() if count}
        assert at_risk(durations) == (len(entered), by_bin)

    @invariant()
    def only_polls_in_flight_reserve_places(self):
        for subscription, limit in zip(self.subscriptions, self.limits, strict=True):
            kept = sum(reserved.count(subscription) for _, reserved in self.looking)
            buffer = subscription.buffer
            assert limit - buffer.free - len(buffer.snapshots) == kept
            assert len(buffer.snapshots) <= limit

    @invariant()
    def no_job_waits_for_room_that_is_free(self):
        for job_id, known in self.model.items():
            if known.state.waits_for_room:
                for subscription in known.state.subscribers:
                    coming = sum(
                        other.due is not None
                        and other.due <= self.now
                        and subscription in other.state.subscribers
                        for other in self.model.values()
                    )
                    assert subscription.buffer.free <= coming, (
                        f"{job_id} waits, and nothing would wake it"
                    )

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self):
        for subscription in self.subscriptions:
            buffered = [job.job_id for _, job in subscription.buffer.snapshots if job.is_terminal]
            items = self.ended[subscription] + buffered + list(subscription.errors)
            assert len(items) == len(set(items))
            assert self.given[subscription] == {*items, *subscription.open_ids()}
            assert subscription.open == len(subscription.open_ids())
            for job_id in subscription.open_ids():
                assert subscription in self.model[job_id].state.subscribers


WatchedJobsMachine.TestCase.settings = settings(
    max_examples=3 * settings().max_examples, stateful_step_count=40
)


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_sweep_does_not_postpone_a_job_that_somebody_waits_for(is_listed):
    machine = WatchedJobsMachine()
    machine.begin(limits=(3, 1, 1))
    machine.sweep_or_not(begin=True)
    machine.subscribe("job0", 1)
    machine.answer(machine.start_poll(), "pending")
    machine.list_a_job("job0", "pending")
    machine.subscribe("job0", 0)
    machine.pass_time(0.5)
    if not is_listed:
        machine.request_the_list()
    machine.end_the_list()  # it checks that the job is as urgent as before


TestWatchedJobsMachine = WatchedJobsMachine.TestCase


# --- the first poll -----------------------------------------------------------------------------


MANY = [f"job-{number}" for number in range(1_000)]


def test_first_polls_are_postponed_if_jobs_were_always_new_except_for_a_few():
    watched_jobs, subscription = make_experienced(), make_subscription()
    waiting = subscribe_waiting(watched_jobs, subscription, *MANY, now=7.0)
    assert len(waiting) == len(MANY)
    delays = [watched_jobs.get(job_id).due - 7.0 for job_id in MANY]
    earlier = [delay for delay in delays if delay != INTERVAL / 2]
    assert 20 < len(earlier) < 90
    assert 0 < min(earlier) < max(earlier) < INTERVAL / 2


@pytest.mark.parametrize(
    "watched_jobs",
    [
        make_watched_jobs(Patient(interval=INTERVAL)),
        make_experienced(runs=31),
        make_experienced(Fixed(interval=INTERVAL)),
        make_experienced(Exponential()),
    ],
    ids=["nothing is known", "little is known", "fixed", "exponential"],
)
def test_first_polls_are_immediate_without_that_experience_or_schedule(watched_jobs):
    assert subscribe_waiting(watched_jobs, make_subscription(), *MANY) == []


def test_a_subscriber_that_cannot_wait_gets_an_immediate_first_poll():
    watched_jobs, subscription, hasty = make_experienced(), make_subscription(), make_subscription()
    subscribe(watched_jobs, hasty, "a", now=1.0)
    assert watched_jobs.get("a").due == 1.0
    first, second, third, *_ = subscribe_waiting(watched_jobs, subscription, *MANY, now=1.0)
    subscribe(watched_jobs, hasty, first, now=2.0)
    assert watched_jobs.get(first).due == 2.0
    assert watched_jobs.poll_now(second, 2.0)
    assert watched_jobs.get(second).due == 2.0
    subscribe_waiting(watched_jobs, hasty, third, now=2.0)
    assert watched_jobs.get(third).due == 1.0 + INTERVAL / 2


def test_a_subscriber_that_cannot_wait_changes_nothing_after_the_first_poll():
    watched_jobs, subscription = make_experienced(), make_subscription()
    for job_id, outcome in (("a", "processing"), ("b", missing()), ("c", broken())):
        subscribe(watched_jobs, subscription, job_id)
        poll(watched_jobs, outcome, 0.0)
        due = watched_jobs.get(job_id).due
        assert due > 1.0
        subscribe(watched_jobs, make_subscription(), job_id, now=1.0)
        assert watched_jobs.get(job_id).due == due


def test_a_new_job_waits_for_the_list_while_sweeping():
    watched_jobs, subscription = make_experienced(), make_subscription()
    watched_jobs.list_hints.start_sweeping()
    subscribe_waiting(watched_jobs, subscription, *MANY)
    assert {watched_jobs.get(job_id).due for job_id in MANY} == {FIRST_TRUST}


def test_an_old_job_makes_all_postponed_first_polls_due():
    watched_jobs, subscription = make_experienced(), make_subscription(limit=2_000)
    subscribe(watched_jobs, subscription, "seen")
    poll(watched_jobs, "processing", 0.0)
    waiting = subscribe_waiting(watched_jobs, subscription, *MANY)
    record_arrival(watched_jobs, 500.0)
    polled_at = []
    while (state := watched_jobs.pop_due(0.0)) is not None:
        polled_at.append(state.job_id)
    assert {*polled_at} == {*waiting} == {*MANY}
    assert subscribe_waiting(watched_jobs, subscription, "late") == []
    assert watched_jobs.poll_queue.next_due() == 0.0  # "late"


@pytest.mark.parametrize(("took", "due"), [(0.2, 0.25 + 1.225), (1.5, 1.75 + 0.9375)])
def test_during_sweeps_a_slow_poll_of_a_new_job_is_not_repeated_at_once(took, due):
    watched_jobs = make_watched_jobs(Adaptive())
    watched_jobs.list_hints.start_sweeping()
    subscribe(watched_jobs, make_subscription(), "a", can_wait=True)
    state = watched_jobs.pop_due(0.25)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 0.25 + took)
    assert state.due == pytest.approx(due)


@pytest.mark.parametrize(
    ("sweeping", "listed_at", "sweep_at"),
    [(True, 0.5, 2.2), (True, -math.inf, math.inf), (False, 0.5, math.inf)],
)
def test_a_sweep_follows_soon_after_the_early_poll_of_a_listed_job(sweeping, listed_at, sweep_at):
    watched_jobs = make_watched_jobs(Adaptive())
    if sweeping:
        watched_jobs.list_hints.start_sweeping()
    subscribe(watched_jobs, make_subscription(), "a")
    poll(watched_jobs, "processing", 0.0)
    watched_jobs.poll_now("a", 1.0)
    state = watched_jobs.pop_due(1.0)
    state.polled_early, state.last_listed_at = True, listed_at
    watched_jobs.succeeded(state, snapshot("a", "processing"), 1.0)
    checks = watched_jobs.list_hints.checks
    assert checks.accuracy.compare_at == pytest.approx(sweep_at)
    checks.accuracy.compare_at = math.inf
    checks.plan_early_sweep(7.0)
    assert checks.accuracy.compare_at == math.inf, "the job takes longer than seconds"


def test_young_jobs_are_polled_at_once_after_seven_surprisingly_short_jobs():
    learning = Learning()
    for _ in range(100):
        learning.durations.record_arrival(0.0, added_at=1.0, now=1.0)
        learning.durations.end(0.0, 59.0, 61.0)
    watched_jobs = make_watched_jobs(Adaptive(), learning=learning)
    subscription = make_subscription()
    names = [f"short {number}" for number in range(7)]
    subscribe(watched_jobs, subscription, *names, "other")
    for _ in names:
        assert poll(watched_jobs, "processing", 0.0) in names
    assert poll(watched_jobs, "processing", 0.0) == "other"
    for _ in range(6):
        assert poll(watched_jobs, "completed", 1.1) in names
    other = watched_jobs.get("other")
    other.polled_early = False
    watched_jobs.poll_times.put_by_schedule(other, 1.1)
    assert other.due > 3.0
    assert poll(watched_jobs, "completed", 1.1) in names
    assert poll(watched_jobs, "processing", 1.1) == "other"


def test_an_old_job_found_earlier_does_not_affect_new_watched_jobs():
    watched_jobs = make_experienced()
    record_arrival(watched_jobs, 500.0)
    for _ in range(1_000):
        record_arrival(watched_jobs)
    later = make_watched_jobs(Patient(interval=INTERVAL, jitter=0), learning=watched_jobs.learning)
    waiting = subscribe_waiting(later, make_subscription(limit=2_000), *MANY)
    assert later.pop_due(0.0) is None
    dues = [later.get(job_id).due for job_id in waiting]
    assert 0.9 < dues.count(INTERVAL / 2) / len(MANY) < 1


def test_a_404_of_a_late_first_poll_gets_the_whole_grace():
    watched_jobs, subscription = make_experienced(), make_subscription()
    job_id, *_ = subscribe_waiting(
        watched_jobs, subscription, *(f"job-{number}" for number in range(20))
    )
    for other in set(subscription.open_ids()) - {job_id}:
        watched_jobs.unsubscribe(other, subscription)
    assert poll_when_due(watched_jobs, *[missing()] * 9) == [5, 8, 11, 14, 17, 20]
    assert isinstance(subscription.errors[job_id], JobNotFoundError)


@pytest.mark.parametrize("delay", [math.nan, -0.5])
def test_a_first_delay_that_is_not_a_number_of_0_or_more_raises_value_error(delay):
    class Broken(Fixed):
        def first_delay(self, job, rng, *, old_share):
            return delay

    with pytest.raises(ValueError, match=str(delay)):
        subscribe_waiting(make_experienced(Broken()), make_subscription(), *MANY)


def test_a_first_delay_of_0_makes_a_new_job_due_immediately():
    class Eager(Fixed):
        def first_delay(self, job, rng, *, old_share):
            return 0.0

    assert subscribe_waiting(make_experienced(Eager()), make_subscription(), *MANY) == []


@pytest.mark.parametrize("sweeping", [False, True])
def test_only_polls_at_times_of_the_schedule_count_for_the_lag_ratio(sweeping):
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=2_000)
    job_ids = [f"job-{number}" for number in range(1_500)]
    subscribe(watched_jobs, subscription, *job_ids)
    for _ in job_ids:
        poll(watched_jobs, "processing", 0.0)
    if sweeping:
        # These are missing from the list, so that their end is not unexpected.
        watched_jobs.list_hints.start_sweeping()
        assert sum(watched_jobs.list_hints.sweep_ended(5.0, 10.0)) == len(job_ids)
    for _ in job_ids:
        poll(watched_jobs, "completed", 10.0)
    assert (watched_jobs.learning.lag_ratio.value == 1.0) is sweeping


# --- detection lags -----------------------------------------------------------------------------


def test_a_lag_counts_from_the_start_of_the_last_poll_that_found_the_job_active():
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a", now=5.0)
    state = watched_jobs.pop_due(5.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 6.0)
    poll(watched_jobs, broken(), 15.0)
    assert watched_jobs.counts.detection_lag() == LagHistogram()
    state = watched_jobs.pop_due(watched_jobs.poll_queue.next_due())
    watched_jobs.succeeded(state, snapshot("a"), 29.0)
    assert lags_of(watched_jobs) == {30.0: 1}  # 24 s
    assert watched_jobs.counts.detection_lag().sum == 24.0


def test_a_lag_of_a_job_never_seen_active_counts_from_when_it_was_added():
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a", now=100.0)
    subscribe(watched_jobs, make_subscription(), "a", now=100.5)  # the job is watched by then
    poll(watched_jobs, "failed", 101.5)
    assert lags_of(watched_jobs) == {2.0: 1}
    assert watched_jobs.counts.detection_lag().sum == 1.5


def test_a_lag_counts_from_the_last_list_that_showed_the_job_minus_the_lag_of_the_list():
    watched_jobs = make_sweeping("a", "b")
    for job_id in "ab":
        watched_jobs.list_hints.listed(summary(job_id), 20.0, 20.0)
    assert sum(watched_jobs.list_hints.sweep_ended(24.0, 24.0)) == 2
    poll(watched_jobs, "completed", 24.0)
    assert watched_jobs.counts.detection_lag().sum == 4.0
    watched_jobs.list_trust.list_lag = 3.0
    poll(watched_jobs, "completed", 24.0)
    assert watched_jobs.counts.detection_lag().sum == 11.0
    assert lags_of(watched_jobs) == {5.0: 1, 10.0: 1}


def test_a_settled_job_that_is_polled_again_for_a_full_subscriber_counts_once():
    watched_jobs, late = make_watched_jobs(), make_subscription(limit=1)
    subscribe(watched_jobs, late, "first")
    poll(watched_jobs, "completed", 0.0)
    subscribe(watched_jobs, make_subscription(), "a")
    state = watched_jobs.pop_due(0.0)
    subscribe(watched_jobs, late, "a")
    watched_jobs.succeeded(state, snapshot("a"), 1.0)
    late.take()
    late.buffer.wake_waiting(50.0)
    assert poll(watched_jobs, "completed", 50.0) == "a"
    assert len(watched_jobs) == 0
    assert lags_of(watched_jobs) == {0.5: 1, 1.0: 1}


def lags_of(watched_jobs):
    """Return the number of lags by upper bound, without empty buckets."""
    detection_lag = watched_jobs.counts.detection_lag()
    counts = zip((*detection_lag.bounds, math.inf), detection_lag.counts, strict=True)
    return {bound: count for bound, count in counts if count}


# --- at the bounds ------------------------------------------------------------------------------


class Awaiting:
    """Somebody who waits for a job, without a future."""

    awaits, every_change, buffer = True, False, None

    def __init__(self):
        self.as_tuple = (self,)

    def deliver(self, _key, _snapshot):
        return True

    def give_up(self, _key, _error):
        """Learn nothing."""


@pytest.mark.parametrize(("now", "due"), [(3.5, 4.0), (4.0, 4.0), (5.0, 5.0)])
def test_somebody_who_joins_a_waiter_shares_polls_of_one_second(now, due):
    watched_jobs = make_watched_jobs()
    watched_jobs.subscribe("a", "a", Awaiting(), 0.0)
    state = watched_jobs.pop_due(3.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 3.25)
    watched_jobs.subscribe("a", "a", Awaiting(), now)
    assert state.due == due
    assert state.awaited_since == 0.0


def test_the_first_waiter_makes_a_watched_job_due_immediately():
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a")
    poll(watched_jobs, "processing", 3.0)
    watched_jobs.subscribe("a", "a", Awaiting(), 3.5)
    state = watched_jobs.get("a")
    assert (state.due, state.awaited_since) == (3.5, 3.5)
    assert watched_jobs.pop_due(4.0) is state
    watched_jobs.subscribe("a", "a", Awaiting(), 4.0)
    assert not state.is_queued, "its poll is in flight"


def test_the_poll_of_an_overdue_job_is_urgent_for_another_waiter():
    """It is the first poll for this waiter, although not for the others."""
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "other")
    assert poll(watched_jobs, "processing", 0.0) == "other"
    watched_jobs.subscribe("awaited", "awaited", Awaiting(), 1.0)
    assert poll(watched_jobs, "processing", 2.0) == "awaited"
    watched_jobs.subscribe("awaited", "awaited", Awaiting(), 30.0)
    assert [watched_jobs.pop_due(30.0).job_id for _ in range(2)] == ["awaited", "other"]


def test_a_waiter_makes_no_overdue_job_due_later():
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a")
    watched_jobs.subscribe("a", "a", Awaiting(), 9.0)
    assert watched_jobs.get("a").due == 0.0


@pytest.mark.parametrize(
    ("started", "ended", "due"),
    [(0.0, 1.0, 10.0), (0.0, 5.0, 10.0), (0.0, 6.0, 11.0), (3.0, 30.0, 35.0)],
)
def test_at_least_half_of_the_delay_remains_after_a_slow_poll(started, ended, due):
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a")
    state = watched_jobs.pop_due(started)
    watched_jobs.succeeded(state, snapshot("a", "processing"), ended)
    assert state.due == due


def test_at_most_32_jobs_are_set_aside_in_one_call():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=0)
    subscribe(watched_jobs, subscription, *[f"job-{number}" for number in range(80)])
    counts = []
    for _ in range(3):
        assert watched_jobs.pop_due(0.0) is None
        states = [watched_jobs.get(f"job-{number}") for number in range(80)]
        counts.append(sum(state.waits_for_room for state in states))
    assert counts == [32, 64, 80]


@pytest.mark.parametrize("after", [0.0, 0.49, 0.5])
def test_only_an_early_first_poll_shows_that_new_jobs_have_settled(after):
    clock = [0.5]  # of the service; the jobs were received at 0 of it
    learning = Learning(service_time=lambda: clock[0])
    watched_jobs = make_watched_jobs(learning=learning)
    for number in range(9):
        subscribe(watched_jobs, make_subscription(), f"job-{number}", now=0.0)
        state = watched_jobs.pop_due(after)
        watched_jobs.succeeded(state, snapshot(state.job_id), after)
    assert learning.durations.arrivals.new == 9
    assert learning.first_statuses.mostly_settled is (after < 0.5)


def test_a_poll_that_was_made_by_schedule_counts_as_such():
    watched_jobs, subscription = make_watched_jobs(), make_subscription()
    subscribe(watched_jobs, subscription, "a")
    found = []
    for now in (0.0, 10.0, 12.0):
        if now == 12.0:
            watched_jobs.poll_now("a", now)
        state = watched_jobs.pop_due(now)
        found.append(state.by_schedule)
        watched_jobs.succeeded(state, snapshot("a", "processing"), now)
    assert found == [False, True, False]


def test_a_subscriber_that_cannot_wait_polls_a_job_of_which_nothing_is_known():
    """But not a job whose poll has failed, or that is not due by the schedule."""
    watched_jobs, patient = make_experienced(), make_subscription()
    waiting = subscribe_waiting(watched_jobs, patient, *MANY[:60], now=1.0)
    first, failing, ignored, polled, *_ = waiting
    state = watched_jobs.get(failing)
    watched_jobs.poll_queue.put(state, 1.0)
    while watched_jobs.pop_due(1.0) is not state:
        pass
    watched_jobs.failed(state, broken(), 1.0)
    watched_jobs.list_trust.confirm_when_due(watched_jobs.get(ignored))
    retry_at, dues = state.due, watched_jobs.get(ignored).due
    for job_id in (first, failing, ignored):
        subscribe(watched_jobs, make_subscription(), job_id, now=2.0)
    assert watched_jobs.get(first).due == 2.0
    assert (state.due, watched_jobs.get(ignored).due) == (retry_at, dues)
    watched_jobs.list_hints.start_sweeping()
    due = watched_jobs.get(polled).due
    subscribe(watched_jobs, make_subscription(), polled, now=2.0)
    assert watched_jobs.get(polled).due == due


@pytest.mark.parametrize(("due", "then"), [(5.0, 1.0), (0.7, 0.7)])
def test_when_few_jobs_are_left_a_poll_may_be_earlier_and_never_later(due, then):
    watched_jobs = make_watched_jobs()
    subscribe(watched_jobs, make_subscription(), "a")
    poll(watched_jobs, "processing", 0.0)
    state = watched_jobs.get("a")
    watched_jobs.poll_queue.put(state, due * INTERVAL)
    watched_jobs.poll_times.put_sooner(state, 0.5 * INTERVAL)
    assert state.due == then * INTERVAL


def test_a_short_delay_is_not_checked_before_it_ends():
    watched_jobs = make_watched_jobs(Adaptive(jitter=0))
    subscribe(watched_jobs, make_subscription(), "a", now=1e6)
    poll(watched_jobs, "processing", 1e6)
    state = watched_jobs.get("a")
    assert 1e6 < state.due < 1e6 + watched_jobs.schedule_calls.long_delay
    assert state.pause is None


def test_a_wake_needs_a_job_that_waits_and_is_watched():
    watched_jobs, subscription = make_watched_jobs(), make_subscription(limit=0)
    subscribe(watched_jobs, subscription, "a", "b")
    state = watched_jobs.get("a")
    assert not watched_jobs.wake(state, 1.0)
    assert watched_jobs.pop_due(1.0) is None
    assert watched_jobs.wake(state, 5.0)
    assert (state.due, state.waits_for_room, state.pending_confirmation) == (5.0, False, True)
    assert not watched_jobs.wake(state, 6.0)
    left = watched_jobs.get("b")
    watched_jobs.unsubscribe("b", subscription)
    assert left.waits_for_room
    assert not watched_jobs.wake(left, 6.0)


def test_the_lag_of_a_job_ends_with_its_reported_end():
    watched_jobs = make_watched_jobs(learning=Learning(service_time=lambda: 100.5))
    subscribe(watched_jobs, make_subscription(), "a", now=100.0)
    state = watched_jobs.pop_due(100.0)
    job = evolve(snapshot("a"), received_at=from_timestamp(97), completed_at=from_timestamp(99))
    watched_jobs.succeeded(state, job, 100.0)
    assert watched_jobs.counts.detection_lag().sum == 0.0
    subscribe(watched_jobs, make_subscription(), "b", now=90.0)
    state = watched_jobs.pop_due(100.0)
    job = evolve(snapshot("b"), received_at=from_timestamp(90), completed_at=from_timestamp(96))
    watched_jobs.succeeded(state, job, 100.0)
    assert watched_jobs.counts.detection_lag().sum == pytest.approx(4.0)
