"""Ages by the service's clock, and what looks and lists teach of how long jobs take."""

from datetime import UTC, datetime

import pytest

from adepoll.durations import Durations
from adepoll.entry import Entry
from adepoll.learning import Learning
from adepoll.models import from_timestamp

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def make_entry(since=100.0):
    return Entry("a", (), since=since, born=since)


def make_learning(service_time):
    return Learning(service_time=lambda: service_time)


def test_without_a_clock_ages_count_from_when_the_job_was_given():
    learning, entry = Learning(), make_entry(since=100.0)
    assert learning.age(entry, 103.0) == 3.0
    learning.active(entry, from_timestamp(0), 105.0)
    assert entry.entered == entry.seen == 5.0
    assert learning.age(entry, 107.0) == 7.0


def test_by_the_services_clock_ages_count_from_when_it_received_the_job():
    # Our clock says 100 and the service's 12:00:30; what is cut off of received_at is made up for.
    learning, entry = make_learning(NOON.timestamp() + 30), make_entry()
    learning.active(entry, NOON, 100.0)
    assert entry.entered == pytest.approx(29.5)
    assert learning.age(entry, 110.0) == pytest.approx(39.5)


def test_a_job_from_the_future_is_new():
    learning, entry = make_learning(NOON.timestamp() - 3_600), make_entry()
    learning.active(entry, NOON, 100.0)
    assert entry.entered == entry.seen == 0.0
    assert learning.age(entry, 101.0) == 0.0


def test_an_age_never_goes_back():
    durations = Durations()
    ahead = Learning(durations=durations, service_time=lambda: NOON.timestamp() + 60)
    behind = Learning(durations=durations, service_time=lambda: NOON.timestamp() - 60)
    entry = make_entry()
    ahead.active(entry, NOON, 100.0)
    behind.active(entry, NOON, 101.0)
    assert entry.seen == behind.age(entry, 101.0) == pytest.approx(59.5)
    # Nor where what is told is of a time before the last look.
    ahead.active(entry, NOON, 102.0, as_of=80.0)
    assert entry.seen == pytest.approx(59.5)
    behind.ended(entry, 103.0)
    assert durations._running == 0
    assert not any(durations._passed)


def test_what_is_told_of_a_time_counts_for_that_time():
    learning, entry = Learning(), make_entry(since=100.0)
    learning.active(entry, NOON, 130.0, as_of=120.0)
    assert entry.entered == entry.seen == 20.0
    learning.active(entry, NOON, 150.0, as_of=90.0)
    assert entry.seen == 20.0


def test_a_job_is_learnt_from_once():
    learning, entry = Learning(), make_entry(since=0.0)
    for now in (5.0, 10.0, 15.0):
        learning.active(entry, NOON, now)
    assert learning.durations._running == 1
    learning.ended(entry, 20.0)
    assert learning.durations.ended == 1
    learning.ended(entry, 25.0)
    learning.lost(entry)
    assert learning.durations.ended == 1
    assert learning.durations._running == 0
    assert not any(learning.durations._passed)
    assert 5 < learning.durations.quantile(0.5, age=5.0) < 60


def test_a_job_found_ended_at_the_first_look_teaches_nothing():
    learning, entry = Learning(), make_entry()
    learning.ended(entry, 200.0)
    learning.lost(entry)
    assert learning.durations.ended == 0
    assert learning.durations._running == 0
    assert not any(learning.durations._passed)


def test_a_job_that_is_let_go_is_at_risk_no_more():
    learning, entry = Learning(), make_entry()
    learning.active(entry, NOON, 110.0)
    learning.active(entry, NOON, 120.0)
    learning.lost(entry)
    assert entry.entered is None
    assert learning.durations.ended == 0
    assert learning.durations._running == 0
    assert not any(learning.durations._passed)


def test_the_gain_of_a_look_rises_with_the_time_since_the_last():
    learning, entry = Learning(), make_entry()
    assert 0 < learning.gain(entry, 100.0) < 1  # nothing is known of a new one
    learning.active(entry, NOON, 110.0)
    gains = [learning.gain(entry, now) for now in (110.0, 112.0, 130.0, 500.0, 90_000.0)]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(0)
    assert gains[-1] > 0.99
