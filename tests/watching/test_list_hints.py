"""How the job list moves the next polls: exact times and numbers, also at their bounds."""

import math
from random import Random

import pytest
from scripted import snapshot, summary
from subscribing import add_id, subscription_of

from adepoll.errors import TransportError
from adepoll.scheduling.schedules import Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.list_accuracy import ListAccuracy
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.watched_jobs import WatchedJobs

INTERVAL = 10.0
FIRST_TRUST = 5.0
TRUST = 300.0


class Waiting:
    """Somebody who waits for a job, without a future."""

    awaits, every_change, buffer = True, False, None

    @property
    def as_tuple(self):
        return (self,)

    def deliver(self, _key, _snapshot):
        return True

    def give_up(self, _key, _error):
        """Learn nothing."""


class Scripted(Random):
    """A source of randomness that always returns the same number between 0 and 1."""

    def __init__(self, number):
        super().__init__(0)
        self.number = number

    def random(self):
        return self.number


def watched_jobs_of(
    *job_ids, interval=INTERVAL, draw=0.5, sweeping=True, wait=False, start=0.0, **options
):
    schedule_calls = ScheduleCalls(
        schedule=Fixed(interval=interval, jitter=0), rng=Scripted(draw), learning=Learning()
    )
    rules = FailureRules(not_found_grace=15.0, patience=60.0)
    watched_jobs = WatchedJobs(schedule_calls=schedule_calls, failure_rules=rules)
    if sweeping:
        watched_jobs.list_hints.start_sweeping()
    subscription = Waiting() if wait else subscription_of(limit=2_000, **options)
    for job_id in job_ids:
        if not wait:
            add_id(subscription, job_id)
        watched_jobs.subscribe(job_id, job_id, subscription, start, can_wait=True)
    for _ in range(5):  # the list is proven: no listed job is polled to check it
        watched_jobs.list_checks.accuracy.ends.count(late=False)
    return watched_jobs


def show(watched_jobs, *job_ids, at, now=None, status="processing"):
    for job_id in job_ids:
        watched_jobs.list_hints.listed(summary(job_id, status), at, at if now is None else now)


def end_sweep(watched_jobs, at, now=None):
    """End a sweep; return the number of missing jobs."""
    return sum(watched_jobs.list_hints.sweep_ended(at, at if now is None else now))


def stop(watched_jobs, now):
    for _ in watched_jobs.list_hints.stop_sweeping(now):
        pass


def make_short(watched_jobs):
    """Make the request budget so short that no poll may be made only to check the list."""
    trust = watched_jobs.list_trust
    trust.sweep_rate = 1.0
    while trust.may_check(is_short=True):
        pass


# --- the end of sweeps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lag", "late", "draw", "due"),
    [
        (0.0, 0, 0.75, 10.0 + 10.0),  # counted from the page that showed the job
        (2.0, 0, 0.75, 8.0 + 10.0),  # the page was 2 s out of date
        (0.0, 9, 0.75, 10.0 - 3.2 + 10.0),  # a bad list is at least as late as its limit
        (5.0, 9, 0.75, 5.0 + 10.0),
        (5.0, 0, 0.25, 12.5 + 2.5),  # no later than the random part of the delay
        (30.0, 0, 0.75, 12.5),
    ],
)
def test_when_sweeps_stop_a_job_is_due_one_delay_after_it_was_active(lag, late, draw, due):
    watched_jobs = watched_jobs_of("a", draw=draw)
    show(watched_jobs, "a", at=10.0)
    watched_jobs.list_trust.list_lag = lag
    for _ in range(late):
        watched_jobs.list_checks.accuracy.ends.count(late=True)
    stop(watched_jobs, 12.5)
    assert watched_jobs.get("a").due == pytest.approx(due)


def test_when_sweeps_stop_no_poll_is_moved_to_a_later_time_or_made_twice():
    job_ids = [f"job-{number}" for number in range(1_200)]
    watched_jobs = watched_jobs_of(*job_ids)
    *_, first, failing, left, polled = job_ids
    show(watched_jobs, *job_ids[:-1], at=1.0)
    watched_jobs.poll_now(failing, 2.0)
    state = watched_jobs.pop_due(2.0)
    watched_jobs.failed(state, TransportError("the connection broke", job_id="a"), 2.0)
    retry_at = state.due
    watched_jobs.poll_queue.put(watched_jobs.get(first), 4.5)
    steps = watched_jobs.list_hints.stop_sweeping(4.0)
    next(steps)
    left_state = watched_jobs.get(left)
    (subscriber,) = left_state.subscribers
    watched_jobs.unsubscribe(left, subscriber)  # while the iterator pauses
    assert len([*steps]) == 1
    assert state.due == retry_at, "only its failures decide when it is polled"
    assert watched_jobs.get(first).due == 4.5
    assert watched_jobs.get(polled).due == 4.0
    popped = []
    while (state := watched_jobs.pop_due(1e6)) is not None:
        popped.append(state.job_id)
    assert sorted(popped) == sorted({*job_ids} - {left})


def test_stopping_again_moves_no_poll():
    watched_jobs = watched_jobs_of("a", draw=0.0)
    show(watched_jobs, "a", at=1.0)
    stop(watched_jobs, 2.0)
    due = watched_jobs.get("a").due
    watched_jobs.poll_queue.put(watched_jobs.get("a"), 100.0)
    stop(watched_jobs, 2.0)
    assert (due, watched_jobs.get("a").due) == (2.0, 100.0)


# --- polls that are postponed -------------------------------------------------------------------


def postponed(watched_jobs, now, job_id="a"):
    return watched_jobs.list_hints.postponed_to(watched_jobs.get(job_id), now)


@pytest.mark.parametrize(("now", "later"), [(9.9, 10.0), (10.0, 40.0), (12.0, 42.0)])
def test_a_check_of_the_list_is_postponed_by_30_s_while_the_budget_is_short(now, later):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=1.0)
    watched_jobs.get("a").list_trusted_until = 10.0
    make_short(watched_jobs)
    assert postponed(watched_jobs, now) == later


@pytest.mark.parametrize("now", [10.0, 12.0])
def test_a_check_of_the_list_is_made_if_the_budget_suffices(now):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=1.0)
    watched_jobs.get("a").list_trusted_until = 10.0
    assert postponed(watched_jobs, now) == now
    assert postponed(watched_jobs, 9.9) == 10.0


@pytest.mark.parametrize(
    ("job", "asked"),
    [
        ("new", (20.0, 0.0)),  # the job may have ended long ago: only if requests wait now
        ("listed", (20.0, 10.0)),
        ("polled", (20.0, 10.0)),
    ],
)
@pytest.mark.parametrize("busy", [False, True])
def test_a_job_that_somebody_waits_for_is_polled_unless_requests_wait(job, asked, busy):
    watched_jobs = watched_jobs_of("a", wait=True)
    state, hints, questions = watched_jobs.get("a"), watched_jobs.list_hints, []
    if job == "listed":
        show(watched_jobs, "a", at=1.0)
    elif job == "polled":
        watched_jobs.pop_due(0.0)
        watched_jobs.succeeded(state, snapshot("a", "processing"), 0.0)
        state.first_active_age = None  # as after a poll that could not date the job
    state.list_trusted_until = 15.0
    hints.is_busy = lambda *question: questions.append(question) or busy
    make_short(watched_jobs)
    assert postponed(watched_jobs, 20.0) == (30.0 if busy else 20.0)
    assert questions == [asked]
    assert hints.waits_replaced_until == (30.0 if busy else -math.inf)


@pytest.mark.parametrize(("interval", "later"), [(0.3, 21.0), (10.0, 30.0), (200.0, 50.0)])
def test_a_poll_for_somebody_who_waits_is_postponed_by_one_delay_at_most(interval, later):
    watched_jobs = watched_jobs_of("a", wait=True, interval=interval)
    watched_jobs.list_hints.is_busy = lambda _now, _within: True
    make_short(watched_jobs)
    watched_jobs.get("a").list_trusted_until = 21.5  # it is a first poll, whatever this time is
    assert postponed(watched_jobs, 20.0) == later


def test_a_first_poll_for_somebody_who_waits_is_made_if_the_list_may_be_checked():
    watched_jobs = watched_jobs_of("a", wait=True)
    watched_jobs.list_hints.is_busy = lambda _now, _within: True
    watched_jobs.get("a").list_trusted_until = 21.5
    assert postponed(watched_jobs, 20.0) == 20.0
    watched_jobs.list_trust.may_check(is_short=True)
    assert postponed(watched_jobs, 20.0) == 30.0, "waits make the budget short"


def test_a_job_that_somebody_waits_for_is_polled_if_new_jobs_have_usually_settled():
    watched_jobs = watched_jobs_of("a", wait=True)
    watched_jobs.list_hints.is_busy = lambda _now, _within: True
    make_short(watched_jobs)
    watched_jobs.learning.first_statuses.mostly_settled = True
    assert postponed(watched_jobs, 20.0) == 20.0
    assert watched_jobs.list_hints.waits_replaced_until == -math.inf


def test_a_new_job_that_nobody_waits_for_is_left_to_the_list():
    watched_jobs = watched_jobs_of("a")
    watched_jobs.list_hints.is_busy = lambda _now, _within: True
    assert postponed(watched_jobs, 1.0) == FIRST_TRUST
    assert watched_jobs.list_hints.waits_replaced_until == -math.inf


# --- jobs that a page shows ---------------------------------------------------------------------


def test_a_page_that_was_requested_earlier_does_not_make_a_job_look_older():
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=5.0)
    show(watched_jobs, "a", at=3.0, now=6.0)
    assert watched_jobs.get("a").last_active_at == 5.0


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_settled_job_in_the_list_changes_nothing(status):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=5.0, status=status)
    state = watched_jobs.get("a")
    assert (state.due, state.last_listed_at) == (FIRST_TRUST, -math.inf)


def test_a_page_moves_no_poll_of_a_job_whose_polls_fail_or_are_in_flight():
    watched_jobs = watched_jobs_of("a", "b")
    for job_id in "ab":
        watched_jobs.poll_now(job_id, 0.0)
    failing, polled = watched_jobs.pop_due(0.0), watched_jobs.pop_due(0.0)
    watched_jobs.failed(failing, TransportError("the connection broke", job_id="a"), 0.0)
    retry_at = failing.due
    show(watched_jobs, "a", "b", at=1.0)
    assert (failing.due, failing.first_active_age) == (retry_at, None)
    assert (polled.is_queued, polled.first_active_age) == (False, None)


@pytest.mark.parametrize(
    ("every_change", "status", "due"),
    [
        (True, "pending", 3.0),
        (True, "processing", TRUST + 2.0),
        (False, "pending", TRUST + 2.0),
    ],
)
def test_a_listed_job_is_polled_if_its_status_has_changed_for_a_watch_of_all_changes(
    every_change, status, due
):
    watched_jobs = watched_jobs_of("a", every_change=every_change)
    watched_jobs.poll_now("a", 0.0)
    state = watched_jobs.pop_due(0.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 0.0)
    state.list_trusted_until = TRUST + 2.0
    watched_jobs.poll_queue.put(state, TRUST + 2.0)
    show(watched_jobs, "a", at=2.5, now=3.0, status=status)
    assert state.due == due
    assert state.pending_confirmation is (due == 3.0)
    watched_jobs.poll_queue.put(state, 1.0)
    show(watched_jobs, "a", at=3.5, now=4.0, status=status)
    assert state.due == 1.0, "an overdue job is not moved to a later time"


def test_a_listed_job_is_due_when_the_list_is_checked_but_only_during_sweeps():
    for sweeping, due in ((True, 2.0 + TRUST), (False, FIRST_TRUST)):
        watched_jobs = watched_jobs_of("a")
        watched_jobs.list_trust.sweeping = sweeping
        show(watched_jobs, "a", at=1.0, now=2.0)
        assert watched_jobs.get("a").due == due
        show(watched_jobs, "a", at=3.0, now=4.0)
        assert watched_jobs.get("a").due == due, "a later page changes nothing"


def test_a_missing_job_that_a_later_page_shows_is_left_to_the_list_again():
    watched_jobs = watched_jobs_of("a", "b")
    show(watched_jobs, "a", "b", at=1.0)
    assert end_sweep(watched_jobs, 2.0) == 2
    assert watched_jobs.list_trust.pending_confirmation == 2
    show(watched_jobs, "a", at=3.0)
    assert watched_jobs.list_trust.pending_confirmation == 1
    state = watched_jobs.get("a")
    assert (state.ignore_list, state.missing_at, state.not_before) == (False, math.inf, 0.0)


@pytest.mark.parametrize(("at", "in_time"), [(3.2, 1.0), (3.3, 0.0)])
def test_a_list_is_in_time_if_it_shows_a_new_job_within_the_limit(at, in_time):
    watched_jobs = watched_jobs_of("a")
    assert watched_jobs.list_checks.accuracy.limit == pytest.approx(3.2)
    show(watched_jobs, "a", at=at)
    arrivals = watched_jobs.list_checks.accuracy.arrivals
    assert (arrivals.in_time, arrivals.late) == (in_time, 0.0)
    show(watched_jobs, "a", at=2.0)
    assert arrivals.in_time == in_time, "each job counts once"


@pytest.mark.parametrize(
    ("proven", "kept_share", "age"), [(True, 0.0, 8.0), (True, 0.1, 1.0), (False, 0.0, 1.0)]
)
def test_only_a_list_that_drops_settled_jobs_shows_that_a_job_is_still_active(
    proven, kept_share, age
):
    watched_jobs = watched_jobs_of("a")
    watched_jobs.list_trust.list_lag = 2.0
    if not proven:
        watched_jobs.list_checks.accuracy.restart()
    watched_jobs.list_trust.kept_share = kept_share
    show(watched_jobs, "a", at=3.0, now=4.0)
    show(watched_jobs, "a", at=10.0, now=11.0)
    assert watched_jobs.get("a").last_active_age == age


# --- complete sweeps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed_at", "started", "missing"), [(4.9, 5.0, 1), (5.0, 5.0, 0), (5.1, 5.0, 0)]
)
def test_a_job_is_missing_if_it_was_not_seen_active_since_the_sweep_began(
    listed_at, started, missing
):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=listed_at)
    assert end_sweep(watched_jobs, started, 6.0) == missing


@pytest.mark.parametrize(("lag", "missing"), [(4.9, 1), (5.0, 1), (5.1, 0)])
def test_a_job_as_old_as_the_lag_of_the_list_can_be_missing(lag, missing):
    watched_jobs = watched_jobs_of("a")
    watched_jobs.list_trust.list_lag = lag
    assert end_sweep(watched_jobs, 5.0, 6.0) == missing
    assert watched_jobs.list_trust.list_lag == pytest.approx(0.99 * lag)


def test_a_sweep_tells_the_number_of_missing_jobs_in_each_step():
    job_ids = [f"job-{number}" for number in range(1_001)]
    watched_jobs = watched_jobs_of(*job_ids)
    show(watched_jobs, *job_ids[:100], at=3.0)
    watched_jobs.poll_now(job_ids[600], 0.0)
    assert watched_jobs.pop_due(0.0).job_id == job_ids[600]  # its poll is in flight
    assert [*watched_jobs.list_hints.sweep_ended(2.0, 3.0)] == [0, 400, 499, 1]


@pytest.mark.parametrize(
    ("not_before", "due", "urgent"), [(0.0, 6.0, 1), (6.0, 6.0, 1), (8.0, 8.0, 0)]
)
def test_a_missing_job_is_due_immediately_unless_it_was_missing_before(not_before, due, urgent):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=1.0)
    state = watched_jobs.get("a")
    state.not_before = not_before
    assert end_sweep(watched_jobs, 5.0, 6.0) == 1
    assert (state.due, state.missing_at, state.ignore_list) == (due, 5.0, True)
    assert watched_jobs.list_trust.pending_confirmation == urgent
    assert end_sweep(watched_jobs, 7.0, 7.5) == 1
    assert (state.due, state.missing_at) == (due, 5.0), "the next sweep does not move it"


def test_a_missing_job_is_not_due_while_the_schedule_decides():
    watched_jobs = watched_jobs_of("a", sweeping=False)
    state = watched_jobs.pop_due(0.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 0.0)
    assert end_sweep(watched_jobs, 5.0, 6.0) == 1
    assert (state.due, state.missing_at, state.ignore_list) == (INTERVAL, 5.0, False)


@pytest.mark.parametrize(("kept", "due"), [(0.15, TRUST + 1.0), (0.16, 6.0 + 0.5 * 10.0 / 0.4)])
def test_listed_jobs_are_polled_earlier_if_the_list_keeps_half_as_many_settled_jobs_more(kept, due):
    watched_jobs = watched_jobs_of("a")
    show(watched_jobs, "a", at=1.0)
    hints = watched_jobs.list_hints
    hints.checks.accuracy.kept.found, hints.checks.accuracy.kept.expected = kept * 10, 10.0
    watched_jobs.list_trust.kept_share = 0.1
    show(watched_jobs, "a", at=5.0)
    assert end_sweep(watched_jobs, 5.0, 6.0) == 0
    assert watched_jobs.get("a").due == pytest.approx(due)
    assert watched_jobs.list_trust.kept_share == pytest.approx(kept)


@pytest.mark.parametrize(
    "why",
    ["is due earlier", "is polled whatever the list shows", "waits", "begins to wait", "polls"],
)
def test_the_other_polls_are_not_moved_when_the_list_keeps_settled_jobs(why):
    watched_jobs = watched_jobs_of("a", wait=why == "waits")
    show(watched_jobs, "a", at=1.0)
    state = watched_jobs.get("a")
    if why == "begins to wait":
        watched_jobs.subscribe("a", "a", Waiting(), 2.0, can_wait=True)
    due = 7.0 if why == "is due earlier" else 50.0
    watched_jobs.poll_queue.put(state, due)
    if why == "polls":
        assert watched_jobs.poll_queue.pop(50.0) is state
    if why == "is polled whatever the list shows":
        watched_jobs.list_trust.confirm_when_due(state)
    kept = watched_jobs.list_checks.accuracy.kept
    kept.found, kept.expected = 2.0, 10.0
    state.last_active_at = 5.0
    assert end_sweep(watched_jobs, 5.0, 6.0) == 0
    assert state.due == due


def test_a_listed_job_that_waits_for_room_in_a_buffer_goes_on_waiting():
    watched_jobs = watched_jobs_of(sweeping=False)
    watched_jobs.subscribe("a", "a", subscription_of("a", limit=0), 0.0)
    assert watched_jobs.pop_due(0.0) is None
    assert watched_jobs.get("a").waits_for_room
    watched_jobs.list_hints.start_sweeping()
    show(watched_jobs, "a", at=1.0)
    assert watched_jobs.poll_queue.next_due() is None


def test_a_sweep_asks_the_schedule_for_few_delays():
    watched_jobs = watched_jobs_of(*map(str, range(100)))
    watched_jobs.schedule_calls.mean_delay = 20.0
    end_sweep(watched_jobs, 1.0)
    assert watched_jobs.schedule_calls.mean_delay == pytest.approx(10 + 10 * (31 / 32) ** 8)


def test_the_end_of_a_sweep_is_no_request_of_a_sample_if_the_schedule_decides():
    watched_jobs = watched_jobs_of(*map(str, range(40)), sweeping=False)
    watched_jobs.list_checks.accuracy.restart()
    for _ in range(40):
        state = watched_jobs.pop_due(0.0)
        watched_jobs.succeeded(state, snapshot(state.job_id, "processing"), 0.0)
    show(watched_jobs, *map(str, range(40)), at=5.0)
    end_sweep(watched_jobs, 5.0, 6.0)
    assert watched_jobs.poll_queue.next_due() == INTERVAL


def listed_in_short_supply(*listed, others=0):
    """Watch jobs while one poll may be made only to check the list; the list shows some of them."""
    watched_jobs = watched_jobs_of(*listed, *[f"other-{number}" for number in range(others)])
    watched_jobs.list_checks.accuracy.restart()
    make_short(watched_jobs)
    show(watched_jobs, *listed, *[f"other-{number}" for number in range(others)], at=40.0)
    show(watched_jobs, *listed, at=60.0)
    return watched_jobs


def allow_a_check(watched_jobs):
    for _ in range(34):
        watched_jobs.list_trust.record_request()


def test_a_sample_without_a_listed_job_costs_no_check_of_the_list():
    watched_jobs = listed_in_short_supply(others=20)
    allow_a_check(watched_jobs)
    assert end_sweep(watched_jobs, 60.0) == 20
    assert watched_jobs.list_trust.may_check(is_short=True)
    assert not watched_jobs.list_trust.may_check(is_short=True)


def test_a_sample_of_a_listed_job_costs_a_check_of_the_list():
    watched_jobs = listed_in_short_supply("a")
    allow_a_check(watched_jobs)
    end_sweep(watched_jobs, 60.0)
    assert watched_jobs.pop_due(60.0).job_id == "a"
    assert not watched_jobs.list_trust.may_check(is_short=True)


def test_samples_go_on_after_all_jobs_were_forgotten():
    """As after an error that ends all watches, while a job of the last sample is due."""
    watched_jobs = listed_in_short_supply("a")
    for watch in range(2):
        allow_a_check(watched_jobs)
        end_sweep(watched_jobs, 60.0)
        assert watched_jobs.get("a").ignore_list, f"no sample in watch {watch}"
        for _ in watched_jobs.clear():
            pass
        stop(watched_jobs, 60.0)
        watched_jobs.list_hints.start_sweeping()
        subscribed = watched_jobs.subscribe("a", "a", subscription_of(), 0.0, can_wait=True)
        show(watched_jobs, "a", at=60.0)
        assert not subscribed.ignore_list


# --- what polls show of the list ----------------------------------------------------------------


@pytest.mark.parametrize(("started", "in_time"), [(6.4, 1), (6.5, 0)])
def test_a_list_without_sweeps_is_in_time_if_it_drops_a_job_within_twice_the_limit(
    started, in_time
):
    watched_jobs = watched_jobs_of("a", sweeping=False)
    hints = watched_jobs.list_hints
    hints.checks.accuracy.restart()
    state = watched_jobs.pop_due(0.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 0.0)
    hints.checks.accuracy.limit = 3.2
    assert end_sweep(watched_jobs, started, started) == 1
    assert watched_jobs.pop_due(INTERVAL) is state
    watched_jobs.succeeded(state, snapshot("a", "completed"), INTERVAL)
    assert (hints.checks.accuracy.ends.in_time, hints.checks.accuracy.dropped) == (in_time, 1)


def test_a_list_during_sweeps_proves_nothing_of_its_own_lag():
    watched_jobs = watched_jobs_of("a")
    accuracy = watched_jobs.list_checks.accuracy
    accuracy.restart()
    show(watched_jobs, "a", at=1.0)
    end_sweep(watched_jobs, 2.0)
    watched_jobs.succeeded(watched_jobs.pop_due(2.0), snapshot("a", "completed"), 2.0)
    assert (accuracy.ends.in_time, accuracy.dropped) == (0, 1)


def test_the_wait_for_polls_of_missing_jobs_is_a_mean():
    watched_jobs = watched_jobs_of("a", "b", "c")
    show(watched_jobs, "a", "b", "c", at=1.0)
    end_sweep(watched_jobs, 2.0)
    for now in (10.0, 6.0):
        state = watched_jobs.pop_due(now)
        watched_jobs.succeeded(state, snapshot(state.job_id, "completed"), now)
    assert watched_jobs.list_checks.poll_wait == pytest.approx(8 / 16 * 15 / 16 + 4 / 16)
    stop(watched_jobs, 6.0)
    state = watched_jobs.pop_due(99.0)
    watched_jobs.succeeded(state, snapshot(state.job_id, "completed"), 99.0)
    assert watched_jobs.list_checks.poll_wait == pytest.approx(8 / 16 * 15 / 16 + 4 / 16)


def test_the_time_of_the_oldest_job_is_a_minute_earlier_if_it_is_known():
    learning = Learning(service_time=lambda: 1_000_000.0)
    schedule_calls = ScheduleCalls(schedule=Fixed(), rng=Random(0), learning=learning)
    rules = FailureRules(not_found_grace=15.0, patience=60.0)
    watched_jobs = WatchedJobs(schedule_calls=schedule_calls, failure_rules=rules)
    assert watched_jobs.list_hints.oldest(100.0) == -math.inf
    for job_id, added_at in (("a", 90.0), ("b", 80.0), ("c", 95.0)):
        watched_jobs.subscribe(job_id, job_id, Waiting(), added_at)
    assert watched_jobs.list_hints.oldest(100.0) == 1_000_000.0 - 20.0 - 60.0
    assert watched_jobs_of("a").list_hints.oldest(100.0) == -math.inf


def test_polls_of_listed_jobs_tell_how_many_settled_jobs_a_late_list_would_show(monkeypatch):
    """The chances count from the last page minus the limit, or from the last sweep with drops."""
    chances = {"expected": [], "active": []}
    for name, key in (("record_expected", "expected"), ("record_still_active", "active")):
        monkeypatch.setattr(
            ListAccuracy, name, lambda _self, chance, key=key: chances[key].append(chance)
        )
    watched_jobs = watched_jobs_of("a", start=100.0)
    durations = watched_jobs.learning.durations
    for number in range(20):
        durations.begin()
        durations.end(0.0, 10.0 + 2 * number, 12.0 + 2 * number)
    state, accuracy = watched_jobs.get("a"), watched_jobs.list_checks.accuracy
    show(watched_jobs, "a", at=120.0)
    accuracy.no_drop_since = 105.0
    watched_jobs.poll_now("a", 130.0)
    assert watched_jobs.pop_due(130.0) is state
    ends = durations.distribution.ends_between
    watched_jobs.succeeded(state, snapshot("a", "processing"), 130.0)
    assert chances["expected"] == [pytest.approx(ends(20.0 - accuracy.limit, 30.0))]
    assert chances["active"] == [pytest.approx(ends(5.0, 30.0))]
    assert accuracy.kept.expected == pytest.approx(ends(0.0, 30.0)), "no poll found it active"
    watched_jobs.poll_now("a", 140.0)
    watched_jobs.pop_due(140.0)
    kept, chance = accuracy.kept.expected, ends(30.0, 40.0)
    watched_jobs.succeeded(state, snapshot("a"), 140.0)
    assert len(chances["active"]) == 1, "only of jobs that are still active"
    assert accuracy.kept.expected == pytest.approx(kept * (1 - chance / 200) + chance)


@pytest.mark.parametrize(("ended", "sweeping"), [(9, True), (20, False)])
def test_a_poll_is_no_check_while_little_is_known_or_the_schedule_decides(ended, sweeping):
    watched_jobs = watched_jobs_of("a")
    durations = watched_jobs.learning.durations
    for number in range(ended):
        durations.begin()
        durations.end(0.0, 10.0 + number, 12.0 + number)
    state = watched_jobs.get("a")
    show(watched_jobs, "a", at=20.0)
    watched_jobs.list_trust.sweeping = sweeping
    watched_jobs.poll_now("a", 30.0)
    watched_jobs.pop_due(30.0)
    watched_jobs.succeeded(state, snapshot("a", "processing"), 30.0)
    assert watched_jobs.list_checks.accuracy.kept.expected == 0.0
