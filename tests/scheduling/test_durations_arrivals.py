"""Whether jobs are expected to be new, according to earlier arrivals."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.scheduling.durations import Arrivals

RUN = 32


def record_arrival(arrivals, age, added_at=1.0, now=0.5):
    return arrivals.record(age, added_at=added_at, now=now)


def arrivals_of(*ages):
    arrivals = Arrivals()
    for age in ages:
        record_arrival(arrivals, age)
    return arrivals


def test_jobs_are_not_expected_to_be_new_before_a_run_of_new_jobs():
    assert not Arrivals().trusted
    assert not arrivals_of(*[0.0] * (RUN - 1)).trusted
    assert arrivals_of(*[0.0] * RUN).trusted


@pytest.mark.parametrize(
    ("age", "is_new"),
    [(0.0, True), (1.9, True), (-1.9, True), (2.1, False), (500.0, False), (-3.0, False)],
)
def test_a_job_is_new_within_the_precision_of_the_clocks(age, is_new):
    arrivals = Arrivals()
    assert record_arrival(arrivals, age) is is_new
    assert (arrivals.new, arrivals.old) == (is_new, not is_new)


def test_a_single_old_job_ends_the_run_and_counts_one_reset():
    arrivals = arrivals_of(*[0.0] * 1_000)
    assert not arrivals.resets
    for _ in range(10):
        record_arrival(arrivals, 60.0)
        assert not arrivals.trusted
        assert arrivals.resets == 1
    for number in range(RUN):
        assert not arrivals.trusted, number
        record_arrival(arrivals, 0.0)
    assert arrivals.trusted
    record_arrival(arrivals, 60.0)
    assert arrivals.resets == 2


def test_new_jobs_that_arrived_before_the_reset_do_not_count_for_the_run():
    """Hundreds of them may be answered after the reset."""
    arrivals = arrivals_of(*[0.0] * 1_000)
    record_arrival(arrivals, 60.0, added_at=7.0, now=8.0)
    for _ in range(1_000):
        record_arrival(arrivals, 0.0, added_at=7.5, now=9.0)
    assert not arrivals.trusted
    for _ in range(RUN):
        record_arrival(arrivals, 0.0, added_at=8.5, now=9.0)
    assert arrivals.trusted


def test_the_share_of_old_jobs_is_never_zero():
    assert Arrivals().old_share == 0.5
    assert 0 < arrivals_of(*[0.0] * 1_000).old_share < 0.002
    assert arrivals_of(*[0.0, 60.0] * 500).old_share == pytest.approx(0.5)


def test_earlier_arrivals_count_less():
    arrivals = arrivals_of(*[60.0] * 8_000, *[0.0] * 24_000)
    assert arrivals.new + arrivals.old <= 8_001
    assert arrivals.old_share < 0.2


@given(st.lists(st.floats(-10, 10), max_size=100))
def test_arrivals_can_be_saved_and_read(ages):
    arrivals = arrivals_of(*ages)
    back = Arrivals.from_json(json.loads(json.dumps(arrivals.to_json())))
    assert back.to_json() == arrivals.to_json()
    assert back.trusted is arrivals.trusted
    assert back.old_share == arrivals.old_share


@pytest.mark.parametrize(
    ("ages", "resets"),
    [([100], 0), ([0, 100], 1), ([0, 100, 100], 1), ([0, 0, 100, 0, 100], 2)],
)
def test_only_an_old_job_after_a_new_one_is_a_reset(ages, resets):
    arrivals = Arrivals()
    for time, age in enumerate(ages):
        arrivals.record(age, added_at=time, now=time)
    assert arrivals.resets == resets


@pytest.mark.parametrize(
    "saved",
    [
        None,
        {},
        "abc",
        [],
        [1, 2],
        [1, 2, 3, 4],
        [1, 2, "3"],
        [-1, 2, 3],
        [1, math.nan, 3],
        [math.inf, 0, 3],
    ],
)
def test_other_json_is_refused(saved):
    with pytest.raises((TypeError, ValueError)):
        Arrivals.from_json(saved)


@pytest.mark.parametrize(("age", "is_new"), [(2.0, True), (-2.0, True), (2.01, False)])
def test_a_job_is_new_up_to_exactly_two_seconds(age, is_new):
    assert record_arrival(Arrivals(), age) is is_new


def test_a_job_that_arrived_when_the_last_old_one_was_found_does_not_count():
    arrivals = Arrivals()
    record_arrival(arrivals, 60.0, now=8.0)
    record_arrival(arrivals, 0.0, added_at=8.0, now=9.0)
    assert (arrivals.new_in_a_row, arrivals.resets, arrivals.reset_at) == (0, 0, 8.0)
    record_arrival(arrivals, 0.0, added_at=8.1, now=9.0)
    record_arrival(arrivals, 60.0, now=10.0)
    assert (arrivals.new_in_a_row, arrivals.resets, arrivals.reset_at) == (0, 1, 10.0)


def test_counts_of_arrivals_are_halved_above_8000():
    arrivals = arrivals_of(*[0.0] * 6_000, *[60.0] * 2_000)
    assert (arrivals.new, arrivals.old) == (6_000, 2_000)
    assert arrivals.old_share == 2_001 / 8_002
    record_arrival(arrivals, 0.0)
    assert (arrivals.new, arrivals.old) == (3_000.5, 1_000)
    assert arrivals.to_json() == [3_000.5, 1_000, 1]
