"""The histogram of lags."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from adepoll.lags import BOUNDS, LagHistogram, Lags


@given(st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS)))
def test_every_lag_is_counted_once_at_the_first_bound_that_is_no_less(seconds):
    lags = Lags()
    for lag in seconds:
        lags.add(lag)
    told = lags.histogram()
    edges = (-math.inf, *told.bounds, math.inf)
    assert list(told.counts) == [
        sum(low < lag <= high for lag in seconds) for low, high in pairwise(edges)
    ]
    assert math.isclose(told.sum, math.fsum(seconds))


def test_what_was_told_does_not_change():
    lags = Lags()
    before = lags.histogram()
    lags.add(1e9)
    assert before == LagHistogram()
    assert lags.histogram().counts[-1] == 1
