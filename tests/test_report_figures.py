"""Bins hold every value once, and show the many however far out the few lie."""

import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.report.figures import (
    bins,
    count_ticks,
    log_time_ticks,
    quantile,
    spread,
    time_step,
    time_ticks,
)

DURATIONS = st.lists(st.floats(0, 1e9), min_size=1, max_size=200).map(sorted)


@given(DURATIONS)
def test_every_value_is_counted_once(values):
    counted = bins(values)
    assert counted.below + sum(counted.counts) + counted.above == len(values)
    assert len(counted.edges) == len(counted.counts) + 1
    assert list(counted.edges) == sorted(set(counted.edges))


@given(DURATIONS)
def test_each_value_is_in_the_bin_where_its_position_is(values):
    counted = bins(values)
    for index, count in enumerate(counted.counts):
        inside = [v for v in values if counted.edges[index] <= v < counted.edges[index + 1]]
        if index == len(counted.counts) - 1:
            inside = [v for v in values if counted.edges[-2] <= v <= counted.edges[-1]]
        assert len(inside) == count
        assert all(index - 1e-6 <= counted.position(v) <= index + 1 + 1e-6 for v in inside)


@given(DURATIONS)
def test_no_chart_has_more_bars_than_can_be_seen(values):
    assert 1 <= len(bins(values).counts) <= 60


def test_one_straggler_does_not_squash_the_others():
    counted = bins(sorted([10 + number / 100 for number in range(1000)] + [86_400.0]))
    assert counted.above == 1
    assert sum(count > 0 for count in counted.counts) >= 10


def test_a_long_tail_gets_bins_of_one_ratio():
    values = sorted(2.0 ** (number % 16) for number in range(1600))
    counted = bins(values)
    assert counted.log
    assert counted.above == 0
    ratios = {round(high / low, 6) for low, high in pairwise(counted.edges[:-1])}
    assert len(ratios) == 1


def test_many_zeros_and_a_tail_leave_room_for_the_tail():
    counted = bins([0.0] * 60 + [float(number) for number in range(1, 41)])
    assert counted.log or counted.counts[0] >= 60
    assert sum(count > 0 for count in counted.counts) >= 5


@pytest.mark.parametrize("value", [0.0, 0.004, 1.0, 12.5, 1e12])
def test_equal_values_stand_in_one_bin(value):
    counted = bins([value] * 7)
    assert max(counted.counts) == 7


def test_nothing_gives_nothing():
    assert bins([]) is None
    assert spread([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_median_is_what_statistics_says(values):
    assert quantile(sorted(values), 0.5) == pytest.approx(statistics.median(values))


def test_spread_of_one_value_is_that_value():
    one = spread([4.0])
    assert (one.count, one.least, one.median, one.p95, one.most) == (1, 4.0, 4.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("least", "step"), [(0.03, 0.05), (7, 10), (11, 15), (40, 60), (3601, 7200), (90_000, 172_800)]
)
def test_steps_are_what_people_count_time_in(least, step):
    assert time_step(least) == pytest.approx(step)


@given(st.floats(0, 1e6), st.floats(0.001, 1e8), st.integers(2, 9))
def test_ticks_lie_on_the_axis_and_are_few(low, width, most):
    for ticks in (time_ticks, log_time_ticks):
        marks = ticks(low, low + width, most)
        assert len(marks) <= most
        slack = 1e-6 * (low + width)
        assert all(low - slack <= mark <= low + width + slack for mark in marks)


@given(st.integers(0, 10**7))
def test_counts_are_marked_with_whole_numbers_that_reach_over_all(most):
    ticks = count_ticks(most, 4)
    assert ticks[0] == 0
    assert ticks[-1] >= max(most, 1)
    assert len(ticks) <= 7
    assert all(isinstance(tick, int) for tick in ticks)
