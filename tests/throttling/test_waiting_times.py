import math
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.throttling.waiting_times import RetryPolicy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts", 0),
        ("attempts", -1),
        *((name, bad) for name in ("base", "max_wait") for bad in (0, -1, math.inf, math.nan)),
        *(("factor", bad) for bad in (0.5, -2, math.inf, math.nan)),
        *((name, bad) for name in ("budget", "refill") for bad in (-0.1, math.inf, math.nan)),
    ],
)
def test_a_number_out_of_range_is_refused_under_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        RetryPolicy(**{name: value})


def test_a_policy_may_forbid_retries():
    assert RetryPolicy(attempts=1, budget=0, refill=0).attempts == 1


@given(st.floats(0.001, 10), st.floats(1, 10), st.floats(0.001, 100), st.integers(0, 2**32))
def test_waits_stay_below_bounds_that_grow_up_to_the_maximum(base, factor, max_wait, seed):
    policy = RetryPolicy(base=base, factor=factor, max_wait=max_wait)
    for n, wait in enumerate(islice(policy.waits(Random(seed)), 20)):
        assert 0 <= wait <= min(max_wait, base * factor**n) * 1.0001


def test_waits_are_distributed_evenly_between_zero_and_their_bound():
    rng = Random(7)
    policy = RetryPolicy(base=1.0)
    firsts = [next(policy.waits(rng)) for _ in range(2_000)]
    assert min(firsts) < 0.01
    assert max(firsts) > 0.99
    assert 0.47 < sum(firsts) / len(firsts) < 0.53


def test_waits_use_the_given_generator_only():
    policy = RetryPolicy()
    assert list(islice(policy.waits(Random(3)), 9)) == list(islice(policy.waits(Random(3)), 9))
