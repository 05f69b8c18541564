"""How far the list is believed: until when, for which jobs, and when no more."""

import math
from datetime import UTC, datetime

import pytest

from adepoll.scheduling.durations import Durations
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning
from adepoll.watching.list_hints import ListHints

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def make_hints(durations=None, **options):
    return ListHints(learning=Learning(durations=durations or Durations()), **options)


def make_entry(hints, *, since=0.0, active_at=None):
    entry = JobState("a", (), since=since, born=since)
    if active_at is not None:
        hints.learning.active(entry, NOON, active_at)
    return entry


def quick():
    """Give what is known where all jobs take 20 s."""
    durations = Durations()
    for _ in range(500):
        durations.enter()
        durations.survived(0.0, 19.0)
        durations.end(0.0, 19.0, 20.0)
    return durations


def test_a_new_job_waits_for_the_list_but_not_for_ever():
    hints = make_hints()
    entry = make_entry(hints, since=5.0)
    assert hints.believed_until(entry, 5.0) == 5.0 + hints.trust
    assert hints.believed_until(entry, 100.0) == 5.0 + hints.trust  # not put off again and again


def test_a_job_is_looked_at_when_hardly_any_would_be_active():
    hints = make_hints(quick())
    entry = make_entry(hints, active_at=5.0)
    assert 15 <= hints.believed_until(entry, 5.0) <= 35
    old = make_entry(hints, active_at=500.0)
    assert 500 + 10 <= hints.believed_until(old, 500.0) <= 500 + hints.trust


@pytest.mark.parametrize("ended", [2, 200, 2_000])
def test_where_no_job_was_seen_that_is_older_the_list_is_believed(ended):
    """All began at once 20 s ago: those that go on were listed 3 s ago, and some have ended."""
    durations = Durations()
    for number in range(ended):
        age = 20.0 * (number + 0.5) / ended
        durations.enter()
        durations.end(0.0, max(age - 4.0, 0.0), age)
    for _ in range(3_000):
        durations.enter()
        durations.survived(0.0, 17.0)
    hints = make_hints(durations)
    for age in (17.0, 18.0, 19.9):
        entry = make_entry(hints, active_at=age)
        assert hints.believed_until(entry, age) == age + hints.trust


def test_nothing_is_believed_for_longer_than_that():
    hints = make_hints(trust=60.0)
    for active_at in (1.0, 1e4, 1e6):
        entry = make_entry(hints, active_at=active_at)
        assert active_at < hints.believed_until(entry, active_at) <= active_at + 60


def test_who_is_in_a_hurry_is_not_told_to_wait():
    hints = make_hints()
    for entry in (make_entry(hints), make_entry(hints, active_at=3.0)):
        hints.hurry(entry)
        assert hints.believed_until(entry, 5.0) == -math.inf


def test_the_urgent_are_counted_once_each_and_those_that_are_only_doubted_not():
    hints = make_hints()
    one, two = make_entry(hints), make_entry(hints)
    for _ in range(2):
        hints.hurry(one)
        hints.hurry(two)
    assert hints.urgent == 2
    hints.doubt(one)
    assert hints.urgent == 1
    assert hints.believed_until(one, 5.0) == -math.inf
    hints.hurry(one)
    assert hints.urgent == 2
    for _ in range(2):
        hints.calm(one)
        hints.calm(two)
    assert hints.urgent == 0


def test_a_job_that_the_list_lacked_is_waited_for_once_the_list_is_known_to_be_late():
    hints = make_hints()
    entry = make_entry(hints, since=10.0)
    hints.hurry(entry)
    entry.missed_at = 12.0
    assert hints.believed_until(entry, 12.0) == -math.inf
    hints.lag = 3.0
    assert hints.believed_until(entry, 12.0) == 12.0 + hints.trust
    assert hints.urgent == 0
    assert entry.missed_at == math.inf


def test_a_nudge_is_not_taken_back_by_a_late_list():
    hints = make_hints(lag=30.0)
    entry = make_entry(hints, since=10.0)
    hints.hurry(entry)
    assert hints.believed_until(entry, 12.0) == -math.inf


def test_that_a_new_job_was_missing_tells_how_late_the_list_is():
    hints = make_hints()
    entry = make_entry(hints, since=10.0)
    entry.missed_at = 12.0
    assert hints.proven_active(entry)
    assert hints.wasted_polls == 1
    assert 2 <= hints.lag <= 3
    assert entry.missed_at == math.inf
    assert not hints.proven_active(entry)
    assert hints.wasted_polls == 1


@pytest.mark.parametrize(("since", "active_at"), [(10.0, None), (45.0, 50.0)])
def test_one_that_was_there_before_or_is_missing_for_long_tells_nothing_of_that(since, active_at):
    hints = make_hints()
    entry = make_entry(hints, since=since, active_at=active_at)
    entry.missed_at = 100.0 if active_at is None else 52.0
    assert hints.proven_active(entry)
    assert hints.wasted_polls == 1
    assert hints.lag == 0
