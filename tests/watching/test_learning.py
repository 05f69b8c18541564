"""Ages by the service's clock, and what polls and lists teach about how long jobs take."""

import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from attrs import define
from internals import at_risk

from adepoll.api.models import from_timestamp
from adepoll.scheduling.distribution import bin_index
from adepoll.scheduling.durations import Durations, nearest_edge
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import FirstStatuses, LagRatio, Learning, exact_duration

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


# --- the ratio of the observed lag to the expected lag ------------------------------------------


@define
class Even:
    """A distribution in which jobs end at an even rate between two polls."""

    known: int = bin_index(100.0)
    chance: float = 0.5

    def expected_lag(self, seen, age):
        return self.chance * (age - seen) / 2

    def ends_between(self, seen, age):
        return self.chance


def test_the_lag_ratio_is_one_until_five_hundred_polls_of_a_sample_found_a_settled_job():
    ratio, even = LagRatio(), Even(chance=0.5)
    # Every second poll counts, and each one a little less with each further one.
    needed = next(n for n in itertools.count(1) if 40_000 * (1 - (1 - 1 / 40_000) ** n) >= 500)
    for number in range(2 * needed - 1):
        ratio.record(even, 0.0, 4.0, settled=True)
        assert ratio.value == 1.0, number
    ratio.record(even, 0.0, 4.0, settled=True)
    # A settled job has a lag of 2 s if it is alone; the expected lag of each poll is 1 s.
    assert ratio.value == pytest.approx(2.0)


def test_polls_that_find_an_active_job_lower_the_lag_ratio():
    ratio, even = LagRatio(), Even(chance=0.25)
    for number in range(8_000):
        ratio.record(even, 1.0, 5.0, settled=number % 8 < 2)  # of every second, a quarter
    assert ratio.value == pytest.approx(1.0, rel=0.01)
    for _ in range(8_000):
        ratio.record(even, 1.0, 5.0, settled=False)
    # Older polls count less: by about e^(-0.1) after 4,000 polls of the sample.
    assert ratio.value == pytest.approx(0.475, rel=0.01)


def test_polls_at_unknown_ages_do_not_count_for_the_lag_ratio():
    ratio = LagRatio()
    even = Even(known=bin_index(4.0), chance=0.5)
    for age, seen in ((4.4, 0.0), (4.5, 0.5)):  # the second is in the next bin
        for _ in range(2_000):
            ratio.record(even, seen, age, settled=age < 4.5)
    assert ratio.value == pytest.approx(2.0)


@pytest.mark.parametrize("chance", [0.0, 1e-320])
def test_a_job_that_could_not_have_settled_does_not_count_for_the_lag_ratio(chance):
    ratio = LagRatio()
    for _ in range(2_000):
        ratio.record(Even(chance=chance), 0.0, 0.0, settled=True)
    assert ratio.value == 1.0


# --- ages, at their bounds ----------------------------------------------------------------------


def test_the_clock_of_the_service_is_read_again_after_a_tenth_of_a_second():
    readings = []
    learning = Learning(service_time=lambda: readings.append(0) or 1_000.0)
    state = make_state(added_at=10.0)
    times = [learning.submitted_at(state, now) for now in (20.0, 20.05, 20.09, 20.1, 20.15)]
    assert times == pytest.approx([990.0, 990.0, 990.0, 989.9, 989.9])
    assert len(readings) == 2


def test_an_unknown_clock_is_asked_again_each_time():
    readings = iter((None, None, 1_000.0, None))
    learning, state = Learning(service_time=lambda: next(readings)), make_state(added_at=10.0)
    assert learning.submitted_at(state, 20.0) is None
    learning.record_active(state, NOON, 20.0)
    assert state.received_at == 10.0
    assert learning.submitted_at(state, 20.0) == 990.0
    assert learning.submitted_at(state, 20.2) is None


@pytest.mark.parametrize(
    ("age", "is_plausible"),
    [(-2.0, True), (-2.1, False), (0.0, True), (3_600.0, True), (3_601.0, False)],
)
def test_an_active_job_is_up_to_an_hour_old_when_the_watcher_gets_it(age, is_plausible):
    # The time of receipt is half a second later than the service says.
    learning, state = make_learning(NOON.timestamp() + 0.5 + age), make_state(added_at=100.0)
    learning.record_active(state, NOON, 100.0)
    assert state.received_at == (pytest.approx(100.0 - age) if is_plausible else 100.0)


@pytest.mark.parametrize(
    ("shift", "is_used"), [(2.0, True), (-2.0, True), (2.75, False), (-2.5, False)]
)
def test_a_time_of_receipt_may_change_by_two_seconds(shift, is_used):
    learning, state = make_learning(NOON.timestamp() + 10.5), make_state(added_at=100.0)
    learning.record_active(state, NOON, 100.0)
    assert state.received_at == pytest.approx(90.0)
    learning.record_active(state, NOON + timedelta(seconds=shift), 100.0)
    assert state.received_at == pytest.approx(90.0 + (shift if is_used else 0.0))


@pytest.mark.parametrize(("fraction", "age"), [(0.0, 9.5), (0.25, 9.75), (0.75, 9.25)])
def test_only_a_time_in_whole_seconds_counts_as_rounded_down(fraction, age):
    learning, state = make_learning(NOON.timestamp() + 10), make_state(added_at=100.0)
    learning.record_active(state, NOON + timedelta(seconds=fraction), 100.0)
    assert learning.age(state, 100.0) == pytest.approx(age)


def test_a_job_without_a_time_of_receipt_keeps_its_age():
    learning, state = make_learning(NOON.timestamp() + 10.5), make_state(added_at=100.0)
    learning.record_active(state, None, 103.0)
    assert (state.received_at, state.first_active_age) == (100.0, 3.0)
    assert learning.durations.arrivals.new == learning.durations.arrivals.old == 0


@pytest.mark.parametrize(
    ("exact", "bounds"),
    [(None, (4.0, 7.0)), (5.0, (5.0, 5.0)), (9.0, (7.0, 7.0)), (1.0, (2.0, 2.0))],
)
def test_a_job_ended_between_its_last_polls_or_at_its_reported_end(exact, bounds):
    learning, state = Learning(), make_state(added_at=100.0)
    learning.record_active(state, NOON, 102.0)
    learning.record_active(state, NOON, 104.0)
    assert learning.record_settled(state, NOON, 107.0, exact=exact) is None
    ((first, last, ended, _),) = json.loads(learning.durations.to_json())["seen"]
    assert (first, last, ended) == tuple(map(nearest_edge, (2.0, *bounds)))
    assert state.first_active_age is None


@pytest.mark.parametrize(
    ("polls", "received", "was_old"),
    [
        (1, NOON, False),
        (2, NOON, None),  # it was seen before
        (1, NOON - timedelta(seconds=30), True),
        (1, None, True),
    ],
)
def test_a_first_poll_tells_whether_a_settled_job_was_old(polls, received, was_old):
    learning, state = make_learning(NOON.timestamp() + 1.5), make_state(added_at=100.0)
    state.polls = polls
    assert learning.record_settled(state, received, 101.0) is was_old


@pytest.mark.parametrize(("late", "counts"), [(0.0, True), (0.49, True), (0.5, False)])
@pytest.mark.parametrize("by_schedule", [True, False])
@pytest.mark.parametrize("settled", [True, False])
def test_only_polls_on_time_count_for_the_lag_ratio(late, counts, by_schedule, settled):
    polls = []
    learning, state = Learning(lag_ratio=Recorder(polls)), make_state(added_at=100.0)
    learning.record_active(state, NOON, 101.0)
    state.by_schedule, state.due, state.polled_at = by_schedule, 104.0, 104.0 + late
    if settled:
        learning.record_settled(state, NOON, 105.0)
    else:
        learning.record_active(state, NOON, 105.0)
    assert polls == ([(1.0, 5.0, settled)] if counts and by_schedule else [])


@define
class Recorder:
    """Stands for a `LagRatio`: remembers its arguments."""

    polls: list
    value: float = 1.0

    def record(self, _distribution, seen, age, *, settled):
        self.polls.append((seen, age, settled))


def test_what_the_list_shows_does_not_count_for_the_lag_ratio():
    polls = []
    learning, state = Learning(lag_ratio=Recorder(polls)), make_state(added_at=100.0)
    learning.record_active(state, NOON, 101.0)
    state.by_schedule = True
    learning.record_active(state, NOON, 105.0, as_of=103.0)
    assert (polls, state.last_active_age) == ([], 3.0)


def test_many_jobs_are_dropped_in_steps_of_five_hundred():
    learning, states = Learning(), [make_state() for _ in range(1_200)]
    for state in states:
        learning.record_active(state, NOON, 101.0)
    steps = learning.record_all_dropped(states)
    next(steps)
    assert at_risk(learning.durations)[0] == 700
    next(steps)
    assert at_risk(learning.durations)[0] == 200
    assert not [*steps]
    assert at_risk(learning.durations) == (0, {})


def test_a_job_just_seen_active_has_not_settled():
    learning, state = Learning(), make_state()
    assert learning.chance(state, 100.0) == 0.5
    learning.record_active(state, NOON, 110.0)
    assert learning.chance(state, 109.0) == learning.chance(state, 110.0) == 0.0
    assert 0.0 < learning.chance(state, 110.1) < 0.01


@pytest.mark.parametrize(
    ("settled", "expected"),
    [([True] * 5, False), ([True] * 6, True), ([True] * 6 + [False], False)],
)
def test_jobs_have_mostly_settled_at_first_if_most_of_the_last_ones_had(settled, expected):
    """Each job changes the share by an eighth of the difference: 1 - (7/8) ** 6 is 0.55."""
    first_statuses = FirstStatuses()
    for one in settled:
        first_statuses.record(settled=one)
    assert first_statuses.mostly_settled is expected
