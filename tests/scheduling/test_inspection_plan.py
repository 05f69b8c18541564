"""The plan of the adaptive schedule: the target lag, for as few polls as possible."""

import itertools
import math
from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from adepoll.scheduling.distribution import EDGES, PRIOR, Distribution, bin_index
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.inspection_plan import Plan, make_plan

WIDTHS = [b - a for a, b in itertools.pairwise(EDGES)]
ages = st.floats(min_value=0, max_value=200_000)


def distribution_of(survival):
    """Return the distribution, in bins, of a survival function."""
    edges = [survival(edge) for edge in EDGES]
    pairs = itertools.pairwise(edges)
    return Distribution((*(1 - t / s if s > 1e-12 else 0.5 for s, t in pairs), 1.0))


def exponential(mean):
    return distribution_of(lambda age: math.exp(-age / mean))


def normal(mean, deviation):
    return distribution_of(lambda age: math.erfc((age - mean) / deviation / math.sqrt(2)) / 2)


DISTRIBUTIONS = {
    "prior": PRIOR,
    "exponential": exponential(30.0),
    "quick": exponential(3.0),
    "slow": exponential(300.0),
    "peaked": normal(60.0, 3.0),
    "broad": normal(200.0, 50.0),
}


def plan_of(distribution, target_lag=2.0, minimum=1e-3, maximum=1e5):
    return make_plan(distribution, target_lag=target_lag, minimum=minimum, maximum=maximum)


def play(plan, distribution, *, jobs=4_000):
    """Poll jobs by the plan; return the mean lag and the mean number of polls."""
    rng, detection_lag, polls = Random(3), [], 0
    for _ in range(jobs):
        duration = distribution.quantile(rng.random())
        age = 0.0
        polls += 1
        while age < duration:
            age += plan.delay(age)
            polls += 1
        detection_lag.append(age - duration)
    return math.fsum(detection_lag) / jobs, polls / jobs


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize("target_lag", [0.5, 2.0, 10.0])
def test_the_mean_lag_is_the_target_lag(distribution, target_lag):
    plan = plan_of(distribution, target_lag)
    lag, polls = plan.cost()
    assert lag == pytest.approx(target_lag, rel=0.02)
    if distribution.survival[-1] < 0.001 and target_lag > 1:
        played_lag, played_polls = play(plan, distribution)
        assert played_lag == pytest.approx(target_lag, rel=0.15)
        assert played_polls == pytest.approx(polls, rel=0.1)


def test_making_a_plan_does_not_compute_every_poll(monkeypatch):
    """It is made often, and blocks the event loop."""
    calls, delay = [], Plan.delay
    monkeypatch.setattr(
        Plan, "delay", lambda *args, **options: calls.append(1) or delay(*args, **options)
    )
    for distribution, target_lag in (
        (exponential(500.0), 0.5),
        (exponential(20_000.0), 0.5),
        (PRIOR, 0.3),
    ):
        calls.clear()
        plan = make_plan(distribution, target_lag=target_lag, minimum=0.25, maximum=60.0)
        assert len(calls) < 5_000
        assert plan.cost()[0] == pytest.approx(target_lag, rel=0.02)
    plan, distribution = plan_of(exponential(500.0), 0.5), exponential(500.0)
    lag, polls = play(plan, distribution, jobs=200)
    assert lag == pytest.approx(0.5, rel=0.15)
    assert polls == pytest.approx(plan.cost()[1], rel=0.2)


@given(st.sampled_from([*DISTRIBUTIONS]), ages, st.floats(0.1, 3))
def test_a_delay_stays_within_its_bounds(name, age, stretch):
    plan = BOUNDED[name]
    assert 0.5 <= plan.delay(age, stretch=stretch) <= 20


BOUNDED = {
    name: plan_of(distribution, 2.0, 0.5, 20.0) for name, distribution in DISTRIBUTIONS.items()
}


@given(st.sampled_from([*DISTRIBUTIONS]), ages, st.floats(0.01, 3), st.floats(0.01, 3))
def test_more_effort_means_a_longer_delay(name, age, one, two):
    less, more = sorted([one, two])
    plan = UNBOUNDED[name]
    assert plan.delay(age, stretch=less) <= plan.delay(age, stretch=more) * (1 + 1e-9)


UNBOUNDED = {name: plan_of(distribution) for name, distribution in DISTRIBUTIONS.items()}


def test_a_later_poll_is_never_followed_by_an_earlier_one():
    """After a slightly later poll, the next one is not earlier."""
    for plan in UNBOUNDED.values():
        nexts = [age + plan.delay(age) for age in (number * 0.37 for number in range(2_000))]
        assert all(a <= b + 1e-6 for a, b in itertools.pairwise(nexts))


def test_delays_are_equal_for_a_constant_hazard():
    """An exponential distribution has no memory."""
    plan = plan_of(exponential(30.0), target_lag=2.0)
    waits = [plan.delay(age) for age in (0.0, 1.0, 10.0, 33.3, 80.0)]
    assert waits == pytest.approx([waits[0]] * 5, rel=0.02)
    # If jobs end evenly between two polls, the lag is about half of the delay.
    assert 4.0 < waits[0] * 1.03 < 4.5


def test_the_lag_bound_holds_however_sure_it_is_that_jobs_are_active():
    plan = plan_of(normal(60.0, 3.0))
    assert plan.delay(0.0) == 4.0
    assert plan.delay(10.0) == 5.0
    assert plan.delay(30.0) == 7.0
    assert plan.delay(60.0) < 7.0
    assert plan_of(normal(60.0, 3.0), target_lag=0.5).delay(0.0) == 1.0


def test_delays_grow_at_quiet_ages_up_to_half_of_the_age_or_the_maximum():
    distribution = evolve(normal(600.0, 3.0), quiet=[450.0] * bin_index(450.0))
    plan = make_plan(distribution, target_lag=2.0, minimum=0.25, maximum=60.0)
    assert plan.delay(40.0) == 20.0
    assert plan.delay(300.0) == 60.0
    assert plan.delay(430.0) == 27.0  # 7 s beyond the end of the quiet ages
    assert plan.delay(460.0) == 7.0


def test_delays_at_unknown_ages_cost_at_most_the_target_lag():
    """The hazard seen so far was low; beyond, the prior may be wrong."""
    known = bin_index(20.0)
    distribution = Distribution(
        (*(0.0001 for _ in range(known)), *PRIOR.chances[known:]), known=known
    )
    plan = plan_of(distribution, target_lag=2.0)
    assert plan.delay(30.0) <= 7.0
    assert plan.delay(100.0) <= 7.0


def test_half_the_lag_costs_about_twice_the_polls():
    distribution = exponential(100.0)
    (_, few), (_, many) = plan_of(distribution, 4.0).cost(), plan_of(distribution, 2.0).cost()
    assert many == pytest.approx(2 * few, rel=0.1)


@pytest.mark.parametrize(("minimum", "maximum"), [(10.0, 60.0), (0.01, 1.0)])
def test_the_lag_is_as_near_to_the_target_as_the_bounds_allow(minimum, maximum):
    plan = plan_of(exponential(30.0), 2.0, minimum, maximum)
    expected = minimum if minimum > 4 else maximum
    assert plan.delay(5.0) == pytest.approx(expected, rel=0.1)


@given(st.integers(0, 10_000))
def test_any_distribution_gives_a_plan(seed):
    rng, durations = Random(seed), Durations()
    scale = 10 ** rng.uniform(-1, 5)
    for _ in range(rng.randrange(60)):
        entered = rng.uniform(0, scale)
        seen = entered + rng.uniform(0, scale)
        durations.begin()
        durations.extend(entered, seen)
        durations.end(entered, seen, seen + rng.uniform(0, 20))
    plan = plan_of(durations.distribution, rng.choice([0.01, 2.0, 100.0]), 0.25, 60.0)
    for age in (0.0, seed % 100, scale, 1e6):
        assert 0.25 <= plan.delay(age) <= 60
    assert 0 <= plan.cost()[0] <= 60
