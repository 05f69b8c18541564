"""Quantiles, bins and ticks: every value is counted once, and outliers do not hide the others."""

import statistics
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adepoll.report.chart_numbers import (
    Bins,
    bins,
    count_ticks,
    log_time_ticks,
    quantile,
    summarize,
    time_step,
    time_ticks,
)

DURATIONS = st.lists(st.floats(0, 1e9), min_size=1, max_size=200).map(sorted)


@given(DURATIONS)
@example([5e-324])
@example([0.0, 1e-320])
@example([1e8, 1e8 + 1e-7])
def test_every_value_is_counted_once(values):
    counted = bins(values)
    assert counted.below + sum(counted.counts) + counted.above == len(values)
    assert len(counted.edges) == len(counted.counts) + 1
    assert list(counted.edges) == sorted(set(counted.edges))


@given(DURATIONS)
def test_the_position_of_a_value_is_in_its_bin(values):
    counted = bins(values)
    for index, count in enumerate(counted.counts):
        inside = [v for v in values if counted.edges[index] <= v < counted.edges[index + 1]]
        if index == len(counted.counts) - 1:
            inside = [v for v in values if counted.edges[-2] <= v <= counted.edges[-1]]
        assert len(inside) == count
        assert all(index - 1e-6 <= counted.position(v) <= index + 1 + 1e-6 for v in inside)


@given(DURATIONS)
def test_the_number_of_bins_is_bounded(values):
    assert 1 <= len(bins(values).counts) <= 60


def test_one_outlier_does_not_compress_the_others():
    counted = bins(sorted([10 + number / 100 for number in range(1000)] + [86_400.0]))
    assert counted.above == 1
    assert sum(count > 0 for count in counted.counts) >= 10


def test_a_long_tail_gets_a_logarithmic_scale():
    values = sorted(2.0 ** (number % 16) for number in range(1600))
    counted = bins(values)
    assert counted.log
    assert counted.above == 0
    ratios = {round(high / low, 6) for low, high in pairwise(counted.edges[:-1])}
    assert len(ratios) == 1


def test_the_tail_after_many_zeros_has_enough_bins():
    counted = bins([0.0] * 60 + [float(number) for number in range(1, 41)])
    assert counted.log or counted.counts[0] >= 60
    assert sum(count > 0 for count in counted.counts) >= 5


@pytest.mark.parametrize("value", [0.0, 0.004, 1.0, 12.5, 1e12])
def test_equal_values_are_in_one_bin(value):
    counted = bins([value] * 7)
    assert max(counted.counts) == 7


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        (range(101), range(0, 101, 5), [5] * 19 + [6]),
        (range(100, 125), range(100, 125), [1] * 23 + [2]),
        ([*range(100), 148.0], range(0, 151, 10), [10] * 10 + [0] * 4 + [1]),
        ([7.0], [index / 2 for index in range(15)], [0] * 13 + [1]),
        ([0.0], [0.0, 0.05], [1]),
    ],
)
def test_bins_of_equal_width_begin_at_zero_unless_it_is_far(values, edges, counts):
    counted = bins([float(value) for value in values])
    assert counted.edges == pytest.approx([*edges])
    assert [*counted.counts] == counts
    assert (counted.below, counted.above, counted.log) == (0, 0, False)


def test_a_value_over_one_and_a_half_times_the_rest_is_counted_above():
    counted = bins([*map(float, range(100)), 149.0])
    assert counted.edges[-1] == 100.0
    assert counted.above == 1


@pytest.mark.parametrize(
    ("many", "tail", "log"),
    [(1.0, 8.0, False), (1.0, 8.01, True), (0.0, 0.01, False), (0.0, 0.011, True)],
)
def test_the_scale_is_logarithmic_if_p99_is_over_eight_times_the_median(many, tail, log):
    assert bins([many] * 60 + [tail] * 40).log == log


@pytest.mark.parametrize(
    ("values", "first", "number", "below"),
    [
        ([1.0] * 60 + [100.0] * 40, 1.0, 24, 0),
        ([0.001] * 5 + [10.0] * 50 + [1000.0] * 45, 0.1, 24, 5),
        ([0.0] * 60 + [1e9] * 40, 1.0, 27, 60),
        ([0.0] * 60 + [1.0] * 40, 0.001, 24, 60),
    ],
)
def test_logarithmic_bins_begin_where_most_values_do(values, first, number, below):
    counted = bins(values)
    assert counted.edges[0] == pytest.approx(first)
    assert counted.edges[-1] == pytest.approx(values[-1])
    assert len(counted.counts) == number
    assert (counted.below, counted.above) == (below, 0)
    assert counted.counts[-1] == sum(value == values[-1] for value in values)


@pytest.mark.parametrize(
    ("value", "position"), [(-1, -0.5), (0, 0), (5, 0.5), (10, 1), (15, 1.5), (20, 2), (21, 2.5)]
)
def test_a_position_is_counted_in_bins_of_equal_width(value, position):
    assert Bins(edges=(0.0, 10.0, 20.0), counts=(1, 1)).position(value) == position


@pytest.mark.parametrize(("power", "position"), [(0, 0), (0.5, 0.5), (1, 1), (1.25, 1.25), (2, 2)])
def test_a_position_is_counted_in_logarithmic_bins(power, position):
    counted = Bins(edges=(1.0, 10.0, 100.0), counts=(1, 1), log=True)
    assert counted.position(10**power) == pytest.approx(position)


def test_no_values_have_no_summary_and_no_bins():
    assert bins([]) is None
    assert summarize([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_the_median_equals_that_of_the_statistics_module(values):
    assert quantile(sorted(values), 0.5) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize(("share", "value"), [(0.0, 0.0), (0.25, 7.5), (0.5, 15.0), (1.0, 30.0)])
def test_a_quantile_between_two_values_is_interpolated(share, value):
    assert quantile([0.0, 10.0, 20.0, 30.0], share) == value


def test_a_summary_contains_median_p95_and_extremes():
    some = summarize([1.0, 2.0, 3.0, 4.0, 6.0])
    assert (some.count, some.least, some.median, some.p95, some.most) == (5, 1, 3, 5.6, 6)


def test_the_summary_of_one_value_is_that_value():
    one = summarize([4.0])
    assert (one.count, one.least, one.median, one.p95, one.most) == (1, 4.0, 4.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("least", "step"),
    [
        (0.2, 0.2),
        (0.03, 0.05),
        (1, 1),
        (2, 2),
        (2.1, 5),
        (5, 5),
        (7, 10),
        (10, 10),
        (11, 15),
        (15 * (1 + 1e-10), 15),
        (16, 20),
        (21, 30),
        (40, 60),
        (61, 120),
        (121, 300),
        (301, 600),
        (601, 900),
        (901, 1_200),
        (1_201, 1_800),
        (1_801, 3_600),
        (3_601, 7_200),
        (7_201, 10_800),
        (10_801, 14_400),
        (14_401, 21_600),
        (21_601, 28_800),
        (28_801, 43_200),
        (43_201, 86_400),
        *(
            (86_400 * less + 1, 86_400 * days)
            for less, days in pairwise([1, 2, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200, 365])
        ),
        (86_400 * 365 + 1, 50_000_000),
    ],
)
def test_time_steps_are_round(least, step):
    assert time_step(least) == pytest.approx(step)


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (3, 97, 5, [20, 40, 60, 80]),
        (20, 80, 3, [20, 60]),
        (0, 100, 6, [0, 20, 40, 60, 80, 100]),
        (0, 100, 5, [0, 40, 80]),
        (5, 5, 3, [5]),
    ],
)
def test_ticks_are_round_times(low, high, most, ticks):
    assert time_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (13, [1, 2, 3, 5, 10, 20, 30, 60, 120, 180, 300, 600, 900]),
        (12, [1, 3, 10, 30, 60, 180, 600]),
        (7, [1, 3, 10, 30, 60, 180, 600]),
        (6, [1, 10, 60, 600]),
        (4, [1, 10, 60, 600]),
        (3, [1, 60]),
        (1, [1]),
    ],
)
def test_a_logarithmic_axis_drops_the_less_round_times_first(most, ticks):
    assert log_time_ticks(1, 1_000, most) == pytest.approx(ticks)


def test_a_logarithmic_axis_without_a_round_time_has_no_ticks():
    assert log_time_ticks(11, 12, 5) == []


@given(st.floats(0, 1e6), st.floats(0.001, 1e8), st.integers(2, 9))
def test_ticks_are_on_the_axis_and_their_number_is_bounded(low, width, most):
    for ticks in (time_ticks, log_time_ticks):
        marks = ticks(low, low + width, most)
        assert len(marks) <= most
        slack = 1e-6 * (low + width)
        assert all(low - slack <= mark <= low + width + slack for mark in marks)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, [0, 1]),
        (3, [0, 1, 2, 3]),
        (7, [0, 2, 4, 6, 8]),
        (10, [0, 5, 10]),
        (40, [0, 10, 20, 30, 40]),
    ],
)
def test_count_ticks_have_round_steps(most, ticks):
    assert count_ticks(most, 4) == ticks


@given(st.integers(0, 10**7))
def test_count_ticks_are_whole_numbers_up_to_at_least_the_maximum(most):
    ticks = count_ticks(most, 4)
    assert ticks[0] == 0
    assert ticks[-1] >= max(most, 1)
    assert len(ticks) <= 7
    assert all(isinstance(tick, int) for tick in ticks)
