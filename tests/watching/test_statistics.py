"""The counts of a watcher, and the histogram of detection lags."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from adepoll.watching.statistics import BOUNDS, LagHistogram, PollCounts, Throughput


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
