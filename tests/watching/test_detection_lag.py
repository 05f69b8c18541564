"""The histogram of lags."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from adepoll.watching.detection_lag import BOUNDS, DetectionLag, LagHistogram


@given(st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS)))
def test_every_lag_is_counted_once_at_the_first_bound_that_is_no_less(seconds):
    detection_lag = DetectionLag()
    for lag in seconds:
        detection_lag.add(lag)
    told = detection_lag.histogram()
    edges = (-math.inf, *told.bounds, math.inf)
    assert list(told.counts) == [
        sum(low < lag <= high for lag in seconds) for low, high in pairwise(edges)
    ]
    assert math.isclose(told.sum, math.fsum(seconds))


def test_what_was_told_does_not_change():
    detection_lag = DetectionLag()
    before = detection_lag.histogram()
    detection_lag.add(1e9)
    assert before == LagHistogram()
    assert detection_lag.histogram().counts[-1] == 1
