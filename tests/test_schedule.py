"""When to look next: bounds, growth, jitter, and what is refused."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.schedule import Exponential, Fixed, Watched

seconds = st.floats(min_value=1e-3, max_value=1e6)
shares = st.floats(min_value=0, max_value=1, exclude_max=True)
# Up to more looks than a job can get in a lifetime: factor ** looks overflows long before.
looks = st.integers(min_value=0, max_value=10**9)


def after(looks):
    return Watched(looks=looks, watched_for=0.0)


def waits(schedule, count):
    return [schedule.delay(after(looks), Random(0)) for looks in range(1, count + 1)]


@given(interval=seconds, jitter=shares, looks=looks, seed=st.integers())
def test_fixed_stays_within_its_jitter(interval, jitter, looks, seed):
    wait = Fixed(interval=interval, jitter=jitter).delay(after(looks), Random(seed))
    assert interval * (1 - jitter) * 0.999999 <= wait <= interval * (1 + jitter) * 1.000001
    assert wait > 0


@given(
    schedule=st.builds(
        Exponential,
        initial=seconds,
        maximum=seconds,
        factor=st.floats(min_value=1, max_value=1e6),
        jitter=shares,
    ),
    looks=looks,
    seed=st.integers(),
)
def test_exponential_stays_within_its_bounds(schedule, looks, seed):
    wait = schedule.delay(after(looks), Random(seed))
    shortest = min(schedule.initial, schedule.maximum)
    assert shortest * (1 - schedule.jitter) * 0.999999 <= wait
    assert wait <= schedule.maximum * (1 + schedule.jitter) * 1.000001
    assert 0 < wait < math.inf


@given(initial=seconds, maximum=seconds, factor=st.floats(min_value=1, max_value=100))
def test_exponential_never_shrinks_without_jitter(initial, maximum, factor):
    grown = waits(Exponential(initial=initial, maximum=maximum, factor=factor, jitter=0), 40)
    assert grown == sorted(grown)


def test_exponential_grows_from_its_initial_wait_to_its_maximum():
    assert waits(Exponential(jitter=0), 8) == pytest.approx(
        [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 10, 10]
    )


def test_exponential_starts_anew_where_no_look_has_succeeded_yet():
    assert Exponential(jitter=0).delay(after(0), Random(0)) == 1.0


@pytest.mark.parametrize("factor", [2, 2.0, 1e300])
def test_exponential_does_not_overflow(factor):
    assert Exponential(factor=factor, jitter=0).delay(after(100_000), Random(0)) == 10.0


def test_without_jitter_every_wait_is_the_same():
    assert waits(Fixed(interval=3, jitter=0), 3) == [3, 3, 3]


def test_jitter_spreads_a_herd():
    rng = Random(0)
    herd = {Fixed(interval=10, jitter=0.5).delay(after(1), rng) for _ in range(100)}
    assert len(herd) == 100
    assert min(herd) < 6
    assert max(herd) > 14


def test_the_same_seed_gives_the_same_waits():
    assert waits(Exponential(), 20) == waits(Exponential(), 20)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("schedule", "name"),
    [(Fixed, "interval"), (Exponential, "initial"), (Exponential, "maximum")],
)
def test_a_wait_must_be_a_positive_number(schedule, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a positive number"):
        schedule(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("schedule", [Fixed, Exponential])
def test_jitter_must_be_a_share(schedule, value):
    with pytest.raises(ValueError, match=r"^jitter must be at least 0 and below 1"):
        schedule(jitter=value)


@pytest.mark.parametrize("value", [0, 0.99, -2, math.nan, math.inf])
def test_a_factor_must_not_shrink(value):
    with pytest.raises(ValueError, match=r"^factor must be at least 1"):
        Exponential(factor=value)
