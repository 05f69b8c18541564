"""The counts of a watcher, and the histogram of detection lags."""

import math
from itertools import pairwise

import pytest
from attrs import fields_dict
from hypothesis import given
from hypothesis import strategies as st

from adepoll.watching.statistics import (
    BOUNDS,
    LagHistogram,
    PollCounts,
    Throughput,
    WatcherStats,
    total,
)


@given(st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS)))
def test_each_lag_is_counted_in_the_first_bucket_whose_bound_is_not_below_it(seconds):
    counts = PollCounts()
    for lag in seconds:
        counts.record_settled(lag)
    shown = counts.detection_lag()
    edges = (-math.inf, *shown.bounds, math.inf)
    assert list(shown.counts) == [
        sum(low < lag <= high for lag in seconds) for low, high in pairwise(edges)
    ]
    assert math.isclose(shown.sum, math.fsum(seconds))


def test_a_histogram_is_a_copy():
    counts = PollCounts()
    before = counts.detection_lag()
    counts.record_settled(1e9)
    assert before == LagHistogram()
    assert counts.detection_lag().counts[-1] == 1


def test_a_rate_is_known_only_while_most_polls_are_more_than_two_seconds_late():
    throughput = Throughput()
    for second in range(30):
        throughput.record(float(second), second + 2.0, settled=False)
    assert throughput.rate(32.0) is None
    for second in range(30, 90):
        throughput.record(float(second), second + 2.25, settled=False)
    assert math.isclose(throughput.rate(91.25), 1.0, rel_tol=0.1)


@pytest.mark.parametrize(
    ("lateness", "is_short"),
    [
        ([2.5] * 2, False),  # at least three polls must be late
        ([2.5] * 3, True),
        ([2.0] * 9, False),
        ([2.5] * 4 + [0.0] * 4, True),  # half of the polls
        ([2.5] * 4 + [0.0] * 5, False),
    ],
)
def test_the_budget_is_short_if_half_of_the_polls_and_at_least_three_are_late(lateness, is_short):
    throughput = Throughput()
    for late in lateness:
        throughput.record(10.0, 10.0 + late, settled=False)
    assert throughput.is_short is is_short
    assert (throughput.rate(12.5) is not None) is is_short


def test_the_rate_of_polls_counts_from_the_first_due_time_and_fades():
    """With n polls, faded by e^(-t / 20), over the seconds since the first one was due."""
    throughput = Throughput()
    for _ in range(40):
        throughput.record(10.0, 13.0, settled=False)
    counted = 40.0
    assert throughput.rate(13.0) == pytest.approx(counted / (20 * (1 - math.exp(-3 / 20))))
    assert throughput.rate(23.0) == pytest.approx(
        counted * math.exp(-0.5) / (20 * (1 - math.exp(-13 / 20)))
    )
    throughput.record(20.0, 33.0, settled=False)
    counted = 40 * math.exp(-1) + 1
    assert throughput.rate(33.0) == pytest.approx(counted / (20 * (1 - math.exp(-23 / 20))))
    throughput.record(20.0, 33.05, settled=False)  # fading takes time: not for every poll
    assert throughput.rate(33.0) == pytest.approx((counted + 1) / (20 * (1 - math.exp(-23 / 20))))


def test_a_rate_assumes_at_least_two_seconds():
    throughput = Throughput()
    throughput.record(12.0, 12.1, settled=False)
    for _ in range(4):
        throughput.record(10.0, 12.5, settled=False)
    counted = math.exp(-0.5 / 20) + 4
    assert throughput.rate(12.5) == pytest.approx(counted / (20 * (1 - math.exp(-2 / 20))))


def test_only_late_polls_count_in_the_share_of_settled_jobs():
    throughput = Throughput()
    assert throughput.settled_share == 0.0
    for late, settled in ((1.0, True), (3.0, True), (3.0, False), (3.0, False), (3.0, False)):
        throughput.record(10.0, 10.0 + late, settled=settled)
    assert throughput.settled_share == 0.25
    throughput.record(10.0, 40.0, settled=True)
    fading = math.exp(-(40.0 - 13.0) / 20)
    assert throughput.settled_share == pytest.approx((fading * 1 + 1) / (fading * 4 + 1))


@pytest.mark.parametrize(
    ("lags", "text"),
    [
        ([], "no lag yet"),
        ([0.5] * 19 + [50.0], "mean 3.0 s, 95% within 0.5 s"),
        ([0.5] * 18 + [50.0] * 2, "mean 5.5 s, 95% within 60 s"),
        ([300.0], "mean 300.0 s, 95% within 300 s"),
        ([301.0], "mean 301.0 s"),
    ],
)
def test_the_text_of_a_histogram_names_the_bound_of_95_percent(lags, text):
    counts = PollCounts()
    for lag in lags:
        counts.record_settled(lag)
    assert str(counts.detection_lag()) == text


def test_the_figures_of_kinds_add_up():
    one, two, lag = PollCounts(), PollCounts(), (1.0, 400.0)
    for counts, seconds in zip((one, two), lag, strict=True):
        counts.record_settled(seconds)
    names = [
        name
        for name in fields_dict(WatcherStats)
        if name not in {"subscribers", "sweeping", "detection_lag"}
    ]
    parts = [
        WatcherStats(
            **{name: factor * number for number, name in enumerate(names, 1)},
            subscribers=77,
            sweeping=sweeping,
            detection_lag=counts.detection_lag(),
        )
        for factor, sweeping, counts in ((1, False, one), (100, True, two))
    ]
    both = total(parts, subscribers=3)
    assert [getattr(both, name) for name in names] == [101 * n for n in range(1, len(names) + 1)]
    assert (both.subscribers, both.sweeping) == (3, True)
    assert both.detection_lag.sum == 401.0
    assert both.detection_lag.counts == (0, 1, 0, 0, 0, 0, 0, 0, 1)
    assert not total(parts[:1], subscribers=0).sweeping
