"""Ages by the service's clock, and what polls and lists teach about how long jobs take."""

import json
import math
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from internals import at_risk

from adepoll.api.models import from_timestamp
from adepoll.scheduling.durations import Durations, nearest_edge
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning, exact_duration

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def make_state(added_at=100.0):
    return JobState("a", "a", (), added_at=added_at, received_at=added_at)


def make_learning(service_time):
    return Learning(service_time=lambda: service_time)


@pytest.mark.parametrize(("ended", "seconds"), [(NOON, 0.0), (NOON - timedelta(seconds=1), None)])
def test_a_duration_is_not_negative(ended, seconds):
    assert exact_duration(NOON, ended) == seconds


def test_without_a_service_clock_ages_count_from_when_the_watcher_got_the_job():
    learning, state = Learning(), make_state(added_at=100.0)
    assert learning.age(state, 103.0) == 3.0
    learning.record_active(state, from_timestamp(0), 105.0)
    assert state.first_active_age == state.last_active_age == 5.0
    assert learning.age(state, 107.0) == 7.0


def test_with_a_service_clock_ages_count_from_when_the_service_received_the_job():
    # Our clock says 100 and the service's 12:00:30; what is cut off of received_at is made up for.
    learning, state = make_learning(NOON.timestamp() + 30), make_state()
    learning.record_active(state, NOON, 100.0)
    assert state.first_active_age == pytest.approx(29.5)
    assert learning.age(state, 110.0) == pytest.approx(39.5)


@pytest.mark.parametrize("hours", [-14, -1, 3, 24, 500_000])
def test_an_implausible_age_counts_from_when_the_watcher_got_the_job(hours):
    """Its time of receipt or the clock of the service is wrong by hours."""
    learning, state = make_learning(NOON.timestamp() + 3_600 * hours), make_state(added_at=100.0)
    learning.record_active(state, NOON, 101.0)
    assert state.first_active_age == state.last_active_age == 1.0
    assert learning.age(state, 103.0) == 3.0
    assert learning.durations.arrivals.old == 0


def test_an_old_active_job_is_plausible_where_jobs_are_known_to_take_long():
    learning, state = make_learning(NOON.timestamp() + 3 * 3_600), make_state(added_at=100.0)
    for _ in range(100):
        learning.durations.begin()
        learning.durations.end(0.0, 7_190.0, 7_210.0)
    learning.record_active(state, NOON, 101.0)
    assert learning.age(state, 101.0) == pytest.approx(3 * 3_600, abs=1)


def test_a_job_that_settled_long_ago_is_old_by_any_number_of_hours():
    learning, state = make_learning(NOON.timestamp() + 86_400), make_state(added_at=100.0)
    learning.record_settled(state, NOON, 101.0)
    assert learning.durations.arrivals.old == 1


def test_a_clock_that_jumps_does_not_change_the_age_of_a_known_job():
    clock = [NOON.timestamp() + 10]
    learning, state = Learning(service_time=lambda: clock[0]), make_state(added_at=100.0)
    learning.record_active(state, NOON, 100.0)
    clock[0] += 86_400 + 5
    learning.record_active(state, NOON, 105.0)
    assert learning.age(state, 105.0) == pytest.approx(14.5)


def test_an_age_never_decreases():
    durations = Durations()
    ahead = Learning(durations=durations, service_time=lambda: NOON.timestamp() + 60)
    behind = Learning(durations=durations, service_time=lambda: NOON.timestamp() - 60)
    state = make_state()
    ahead.record_active(state, NOON, 100.0)
    behind.record_active(state, NOON, 101.0)
    assert state.last_active_age == behind.age(state, 101.0) == pytest.approx(60.5)
    # Nor if a list from before the last poll shows the job.
    ahead.record_active(state, NOON, 102.0, as_of=80.0)
    assert state.last_active_age == pytest.approx(60.5)
    behind.record_settled(state, NOON, 103.0)
    assert at_risk(durations) == (0, {})


def test_an_observation_of_an_earlier_time_counts_for_that_time():
    learning, state = Learning(), make_state(added_at=100.0)
    learning.record_active(state, NOON, 130.0, as_of=120.0)
    assert state.first_active_age == state.last_active_age == 20.0
    learning.record_active(state, NOON, 150.0, as_of=90.0)
    assert state.last_active_age == 20.0


def test_a_job_is_counted_once():
    learning, state = Learning(), make_state(added_at=0.0)
    for now in (5.0, 10.0, 15.0):
        learning.record_active(state, NOON, now)
    assert at_risk(learning.durations)[0] == 1
    learning.record_settled(state, NOON, 20.0)
    assert learning.durations.ended == 1
    learning.record_settled(state, NOON, 25.0)
    learning.record_dropped(state)
    assert learning.durations.ended == 1
    assert at_risk(learning.durations) == (0, {})
    assert 5 < learning.durations.quantile(0.5, age=5.0) < 60


@pytest.mark.parametrize("offset", [None, 30.0, -30.0, 3_600.0])
def test_a_job_settled_at_its_first_poll_teaches_nothing_unless_it_was_new(offset):
    """Nor if the service's clock is unknown or wrong."""
    given_at = 100.0
    state = make_state(added_at=given_at)
    unix = None if offset is None else NOON.timestamp() + offset + 7.0
    learning = make_learning(unix)
    learning.record_settled(state, NOON, given_at + 7.0)
    learning.record_dropped(state)
    assert learning.durations.ended == 0
    assert at_risk(learning.durations) == (0, {})
    assert not learning.durations.arrivals.new
    assert learning.durations.arrivals.old == (offset is not None)


def test_a_job_that_was_new_on_arrival_is_observed_from_age_zero():
    given_at = 100.0
    for ended in (False, True):
        learning, state = make_learning(NOON.timestamp() + 40), make_state(added_at=given_at)
        if ended:
            learning.record_settled(state, NOON, given_at + 40)
            learnt = json.loads(learning.durations.to_json())
            assert learnt["seen"] == [[0, 0, nearest_edge(39.5), 1.0]]
            assert at_risk(learning.durations) == (0, {})
        else:
            learning.record_active(state, NOON, given_at + 40)
            assert state.first_active_age == 0.0
            assert state.last_active_age == pytest.approx(39.5)
            running, by_bin = at_risk(learning.durations)
            assert (running, by_bin[0]) == (1, 1)
        assert learning.durations.arrivals.new == 1


def test_the_arrival_of_a_job_is_recorded_once():
    learning, state = make_learning(NOON.timestamp() + 40), make_state(added_at=100.0)
    state.polls = 1
    learning.record_settled(state, NOON, 140.0)
    state.polls = 2  # as no subscriber had room
    learning.record_settled(state, NOON, 140.0)
    assert learning.durations.ended == 1
    assert learning.durations.arrivals.new == 1


def test_late_first_polls_do_not_bias_the_distribution():
    """Half of the jobs have ended by then, and count; so do those that go on."""
    rng, durations = Random(7), Durations()
    for number in range(4_000):
        duration, given_at, now = rng.expovariate(1 / 15), 1_000.0, 1_010.0
        state = JobState(str(number), str(number), (), added_at=given_at, received_at=given_at)
        while duration > now - given_at:
            at(durations, now, given_at).record_active(state, NOON, now)
            now += 3.0
        at(durations, now, given_at).record_settled(state, NOON, now)
    assert durations.distribution.ends_between(0, 10) == pytest.approx(
        1 - math.exp(-10 / 15), abs=0.03
    )
    assert durations.distribution.ends_between(10, 30) == pytest.approx(
        1 - math.exp(-20 / 15), abs=0.05
    )


def at(durations, now, given_at):
    """Return a learning whose service clock agrees with the local one about the job's age."""
    unix = NOON.timestamp() + 0.5 + now - given_at
    return Learning(durations=durations, service_time=lambda: unix)


def test_a_dropped_job_is_no_longer_at_risk():
    learning, state = Learning(), make_state()
    learning.record_active(state, NOON, 110.0)
    learning.record_active(state, NOON, 120.0)
    learning.record_dropped(state)
    assert state.first_active_age is None
    assert learning.durations.ended == 0
    assert at_risk(learning.durations) == (0, {})


def test_the_chance_that_a_job_has_settled_rises_with_time():
    learning, state = Learning(), make_state()
    assert 0 < learning.chance(state, 100.0) < 1  # nothing is known of a new one
    learning.record_active(state, NOON, 110.0)
    gains = [learning.chance(state, now) for now in (110.0, 112.0, 130.0, 500.0, 90_000.0)]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(0)
    assert gains[-1] > 0.99
