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
from adepoll.scheduling.inspection_plan import Plan, make_plan, official_lag
from adepoll.scheduling.lag_bound import bound_while_waiting, bound_while_watching

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
    assert plan.delay(40.0, quiet_delay=90.0) == 20.0
    assert plan.delay(300.0, quiet_delay=90.0) == 60.0
    assert plan.delay(300.0, quiet_delay=30.0) == 30.0
    assert plan.delay(300.0) == 10.0
    assert plan.delay(300.0, quiet_delay=7.0) == 7.0
    assert plan.delay(430.0, quiet_delay=90.0) == 27.0  # 7 s beyond the end of the quiet ages
    assert plan.delay(460.0, quiet_delay=90.0) == 7.0


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


def slow_delay(plan, age, stretch, shorten, quiet_delay):
    """Return the delay of a plan: add up sqrt(hazard) from the age on, until it is one step."""
    chances, known = plan.distribution.chances, EDGES[plan.distribution.known]
    left, number, until = plan.step * stretch, bin_index(age), age
    while True:
        width = WIDTHS[number] if number < len(WIDTHS) else EDGES[-1]
        root = math.sqrt(-math.log1p(-min(chances[number], 1 - 1e-9)) / width)
        end = EDGES[number + 1] if number < len(WIDTHS) else math.inf
        if left <= (end - until) * root:
            break
        left, until, number = left - (end - until) * root, end, number + 1
    delay = until + left / root - age
    # At ages at which no job was seen to end, the stride limits the delay.
    unknown = max(age, known)
    delay = min(delay, unknown - age + stretch * max(plan.stride, unknown / 4))
    quiet = plan.distribution.quiet
    end = quiet[bin_index(age)] if bin_index(age) < len(quiet) else 0.0
    longest = max(7.0, 2 * plan.target_lag)
    if end and longest < quiet_delay:
        longest = min(longest + end - age, quiet_delay)
    bound = min(longest, max(2 * plan.target_lag, age / 2), plan.maximum)
    return max(min(delay, bound * shorten), plan.minimum)


KNOWN_UP_TO_20 = Distribution(PRIOR.chances, known=bin_index(20.0))


@pytest.mark.parametrize("target_lag", [0.3, 2.0, 20.0])
@pytest.mark.parametrize(
    "distribution",
    [
        *DISTRIBUTIONS.values(),
        KNOWN_UP_TO_20,
        evolve(normal(600.0, 3.0), quiet=[450.0] * bin_index(450.0)),
    ],
    ids=[*DISTRIBUTIONS, "known up to 20 s", "quiet"],
)
@pytest.mark.parametrize("quiet_delay", [7.0, 90.0])
def test_delays_follow_the_formula(distribution, target_lag, quiet_delay):
    plan = make_plan(distribution, target_lag=target_lag, minimum=0.25, maximum=60.0)
    free = make_plan(distribution, target_lag=target_lag, minimum=1e-6, maximum=1e9)
    for age in (0.0, 0.3, 0.5, 1.7, 8.0, 19.9, 20.1, 55.0, 130.0, 449.0, 455.0, 3e3, 1e5):
        for stretch, shorten in ((1.0, 1.0), (0.9, 0.95), (1.1, 1.0)):
            for one in (plan, free):
                expected = slow_delay(one, age, stretch, shorten, quiet_delay)
                found = one.delay(age, stretch=stretch, shorten=shorten, quiet_delay=quiet_delay)
                assert found == pytest.approx(expected, rel=1e-6), (age, stretch)


@pytest.mark.parametrize("target_lag", [0.5, 3.0])
@pytest.mark.parametrize("distribution", [exponential(30.0), normal(60.0, 3.0), exponential(1e3)])
def test_the_cost_of_a_plan_is_that_of_its_polls_one_by_one(distribution, target_lag):
    """After 200 polls, it is computed bin by bin, which is less exact."""
    plan = make_plan(distribution, target_lag=target_lag, minimum=0.01, maximum=1e9)
    age, lag, polls = 0.0, 0.0, 1.0
    while distribution.survival_at(age) > 0.001:
        until = age + plan.delay(age)
        lag += distribution.survival_at(age) * distribution.expected_lag(age, until)
        polls += distribution.survival_at(age)
        age = until
    ended = 1 - distribution.survival_at(age)
    assert plan.cost() == (pytest.approx(lag / ended, rel=0.002), pytest.approx(polls, rel=0.002))


@pytest.mark.parametrize(("rare", "stride"), [(1.0, 4.0), (0.5, 8.0), (1e-9, 4_000.0)])
def test_delays_at_unknown_ages_may_be_longer_if_few_jobs_reach_them(rare, stride):
    """The stride is twice the lag that is aimed at, for each job that reaches these ages."""
    known = bin_index(20.0)
    chances = [0.0] * (known - 1) + [1 - rare] + [0.01] * (len(EDGES) - known - 1) + [1.0]
    plan = plan_of(Distribution(tuple(chances), known=known))
    assert plan.stride == pytest.approx(stride)
    assert plan.unknown_from == EDGES[known]


def test_a_correction_changes_the_aim_but_not_the_bounds():
    distribution = exponential(30.0)
    plan = make_plan(distribution, target_lag=2.0, minimum=0.01, maximum=99.0, correction=0.5)
    assert plan.cost()[0] == pytest.approx(1.0, rel=0.01)
    assert plan.target_lag == 2.0
    assert plan.stride == 2.0 / max(distribution.survival[-1], 0.001)
    assert plan.price == plan.step**2 / 2
    assert plan.bound(0.0, 0) == 4.0


def test_the_lag_of_the_official_waiter_is_that_of_its_pauses():
    """It polls after 1 s, then pauses 1.5 times as long each time, up to 10 s."""
    assert official_lag(PRIOR) == pytest.approx(slow_official_lag(PRIOR), rel=1e-6)
    for distribution in (exponential(3.0), exponential(30.0), normal(60.0, 3.0)):
        assert official_lag(distribution) == pytest.approx(slow_official_lag(distribution))


def slow_official_lag(distribution):
    times, pause = [0.0], 1.0
    while pause < 10:
        times.append(times[-1] + pause)
        pause *= 1.5
    lag = distribution.survival_at(times[-1]) * 5.0
    for seen, age in itertools.pairwise(times):
        lag += distribution.survival_at(seen) * distribution.expected_lag(seen, age)
    return lag


@pytest.mark.parametrize(
    ("waited", "bound"),
    [
        (0.0, 1.0), (2.5, 1.0), (2.6, 1.04), (9.9, 3.96), (10.1, 4.0), (59.9, 4.0), (60.0, 7.0),
        (1e6, 7.0),
    ],
)  # fmt: skip
def test_the_bound_of_a_wait_grows_with_the_wait(waited, bound):
    assert bound_while_waiting(waited) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("watched", "lag", "bound"), [(0.0, 2.0, 4.0), (8.0, 2.0, 4.0), (9.0, 2.0, 4.5), (9.0, 5.0, 10)]
)
def test_the_bound_of_a_watch_is_half_of_the_time_or_twice_the_target_lag(watched, lag, bound):
    assert bound_while_watching(watched, lag) == bound
