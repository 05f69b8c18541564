"""Schedules: bounds, growth, jitter, and invalid arguments."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.job_kind import JobKind
from adepoll.scheduling.distribution import PRIOR
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.inspection_plan import official_lag
from adepoll.scheduling.lag_bound import longest_when_quiet
from adepoll.scheduling.schedules import (
    Adaptive,
    Exponential,
    FirstPollSchedule,
    Fixed,
    LagSchedule,
    PollContext,
)

seconds = st.floats(min_value=1e-3, max_value=1e6)
shares = st.floats(min_value=0, max_value=1, exclude_max=True)
# More polls than a job can get: factor ** polls overflows long before.
polls = st.integers(min_value=0, max_value=10**9)


def after(polls):
    return PollContext(polls=polls, watched_for=0.0)


def waits(schedule, count):
    return [schedule.delay(after(polls), Random(0)) for polls in range(1, count + 1)]


@given(interval=seconds, jitter=shares, polls=polls, seed=st.integers())
def test_fixed_stays_within_its_jitter(interval, jitter, polls, seed):
    wait = Fixed(interval=interval, jitter=jitter).delay(after(polls), Random(seed))
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
    polls=polls,
    seed=st.integers(),
)
def test_exponential_stays_within_its_bounds(schedule, polls, seed):
    wait = schedule.delay(after(polls), Random(seed))
    shortest = min(schedule.initial, schedule.maximum)
    assert shortest * (1 - schedule.jitter) * 0.999999 <= wait
    assert wait <= schedule.maximum * (1 + schedule.jitter) * 1.000001
    assert 0 < wait < math.inf


@given(initial=seconds, maximum=seconds, factor=st.floats(min_value=1, max_value=100))
def test_exponential_never_shrinks_without_jitter(initial, maximum, factor):
    grown = waits(Exponential(initial=initial, maximum=maximum, factor=factor, jitter=0), 40)
    assert grown == sorted(grown)


def test_exponential_grows_from_its_initial_delay_to_its_maximum():
    assert waits(Exponential(jitter=0), 8) == pytest.approx(
        [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 10, 10]
    )


def test_exponential_starts_with_the_initial_delay():
    assert Exponential(jitter=0).delay(after(0), Random(0)) == 1.0


@pytest.mark.parametrize("factor", [2, 2.0, 1e300])
def test_exponential_does_not_overflow(factor):
    assert Exponential(factor=factor, jitter=0).delay(after(100_000), Random(0)) == 10.0


def test_without_jitter_all_delays_are_equal():
    assert waits(Fixed(interval=3, jitter=0), 3) == [3, 3, 3]


def test_jitter_spreads_polls():
    rng = Random(0)
    herd = {Fixed(interval=10, jitter=0.5).delay(after(1), rng) for _ in range(100)}
    assert len(herd) == 100
    assert min(herd) < 6
    assert max(herd) > 14


def test_the_same_seed_gives_the_same_delays():
    assert waits(Exponential(), 20) == waits(Exponential(), 20)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (Fixed, "interval"),
        (Exponential, "initial"),
        (Exponential, "maximum"),
        (Adaptive, "target_lag"),
        (Adaptive, "minimum"),
        (Adaptive, "maximum"),
    ],
)
def test_a_delay_must_be_a_positive_number(schedule, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a positive number"):
        schedule(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("schedule", [Fixed, Exponential, Adaptive])
def test_jitter_must_be_a_share(schedule, value):
    with pytest.raises(ValueError, match=r"^jitter must be at least 0 and below 1"):
        schedule(jitter=value)


@pytest.mark.parametrize("value", [0, 0.99, -2, math.nan, math.inf])
def test_a_factor_must_not_shrink(value):
    with pytest.raises(ValueError, match=r"^factor must be at least 1"):
        Exponential(factor=value)


# --- adaptive -----------------------------------------------------------------------------------


def learnt(mean, count=500, seed=0):
    rng, durations = Random(seed), Durations()
    for _ in range(count):
        duration = max(rng.gauss(mean, mean / 20), 1.0)
        durations.begin()
        durations.extend(0.0, duration - 0.5)
        durations.end(0.0, duration - 0.5, duration + 0.5)
    return durations.distribution


MINUTE = learnt(60.0)


def of_age(age, distribution=MINUTE, failures=0, polls=3, watched_for=5.0, jobs=1):
    return PollContext(
        polls=polls,
        watched_for=watched_for if age is None else age,
        age=age,
        failures=failures,
        distribution=distribution,
        quiet_delay=longest_when_quiet(jobs),
    )


ADAPTIVES = [
    Adaptive(target_lag=lag, minimum=minimum, maximum=maximum, jitter=jitter)
    for lag in (0.1, 2.0, 100.0)
    for minimum, maximum in ((0.01, 5.0), (0.25, 60.0), (3.0, 3.0))
    for jitter in (0.0, 0.9)
]


@given(
    schedule=st.sampled_from(ADAPTIVES),
    distribution=st.sampled_from([PRIOR, MINUTE]),
    age=st.none() | st.floats(0, 1e6),
    failures=st.just(0) | st.integers(0, 10**6),
    seed=st.integers(),
)
def test_adaptive_stays_within_its_bounds(schedule, distribution, age, failures, seed):
    wait = schedule.delay(of_age(age, distribution, failures), Random(seed))
    assert schedule.minimum <= wait <= schedule.maximum


@pytest.mark.parametrize("awaited_for", [None, 100.0])
def test_failed_polls_do_not_make_polls_more_frequent_than_the_minimum(awaited_for):
    job = PollContext(polls=1, watched_for=100.0, awaited_for=awaited_for, failures=1)
    assert Adaptive(minimum=30.0).delay(job, Random(0)) == 30.0


def test_adaptive_polls_when_jobs_are_likely_to_end():
    schedule = Adaptive(jitter=0)
    early, near, late = (schedule.delay(of_age(age), Random(0)) for age in (40.0, 58.0, 66.0))
    assert 7.0 < early < 15
    assert near < 4.5
    assert late < 7.0


def test_adaptive_uses_the_watched_time_if_the_age_is_unknown():
    schedule = Adaptive(jitter=0)
    assert schedule.delay(of_age(None), Random(0)) == schedule.delay(of_age(5.0), Random(0))
    assert schedule.delay(of_age(None), Random(0)) != schedule.delay(of_age(50.0), Random(0))


def test_adaptive_polls_ever_later_after_failures():
    schedule = Adaptive(jitter=0)
    waits = [schedule.delay(of_age(60.0, failures=n, jobs=100), Random(0)) for n in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] == schedule.delay(of_age(60.0), Random(0))
    assert waits[4] == 16
    assert waits[-1] == 60
    late = of_age(60.0, failures=9, jobs=100)
    assert {schedule.delay(late, Random(n)) for n in range(9)} == {60.0}
    spread = {Adaptive().delay(late, Random(n)) for n in range(9)}
    assert len(spread) == 9
    assert max(spread) <= 60


def test_one_failed_poll_hardly_delays_the_detection_of_a_short_job():
    """The official SDK's waiter pauses for 1.5 s here."""
    job = PollContext(polls=2, watched_for=2.0, age=2.0, failures=1, awaited_for=2.0)
    assert Adaptive().delay(job, Random(0)) <= 1


def test_adaptive_spreads_polls():
    herd = {Adaptive().delay(of_age(10.0), Random(n)) for n in range(50)}
    assert len(herd) == 50
    plain = Adaptive(jitter=0).delay(of_age(10.0), Random(0))
    assert min(herd) < plain
    assert max(herd) <= 5.0  # the lag bound at an age of 10 s


def test_adaptive_postpones_the_first_poll_of_a_job_that_is_surely_new():
    schedule = Adaptive(jitter=0)
    new = PollContext(polls=0, watched_for=0.0, age=0.0, distribution=MINUTE)
    wait = schedule.first_delay(new, Random(0), old_share=0.0005)
    assert wait == schedule.delay(new, Random(0)) == 4.0
    assert schedule.first_delay(new, Random(0), old_share=0.9) == 0.0
    # A short delay costs less lag.
    assert 0 < Adaptive(jitter=0).first_delay(after(0), Random(0), old_share=0.03) < 5


def test_only_adaptive_chooses_the_first_poll():
    assert isinstance(Adaptive(), FirstPollSchedule)
    assert not isinstance(Fixed(), FirstPollSchedule)
    assert not isinstance(Exponential(), FirstPollSchedule)


def test_adaptive_makes_one_plan_per_distribution():
    schedule = Adaptive()
    assert schedule.plan(PRIOR) is schedule.plan(PRIOR)
    assert schedule.plan(PRIOR) is not schedule.plan(MINUTE)
    assert schedule.plan(MINUTE).distribution is MINUTE
    distributions = [learnt(10.0 + n, count=20) for n in range(20)]
    for distribution in distributions:
        assert schedule.plan(distribution).distribution is distribution
        schedule.delay(of_age(3.0, distribution), Random(0))
        assert schedule.plan(distribution) is schedule.plan(distribution)
    assert len(schedule._plans) <= 8
    assert schedule.plan(PRIOR).distribution is PRIOR


def test_a_freed_distribution_does_not_share_its_plan_with_another():
    """Its id may be reused."""
    schedule = Adaptive(jitter=0)
    for n in range(60):
        distribution = learnt(10.0 + n, count=5)
        schedule.delay(of_age(0.0, distribution), Random(0))
        assert schedule.plan(distribution).distribution is distribution


def test_only_adaptive_has_a_target_lag():
    assert isinstance(Adaptive(), LagSchedule)
    assert not isinstance(Fixed(), LagSchedule)
    assert not isinstance(Exponential(), LagSchedule)


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(ValueError, match="minimum"):
        Adaptive(minimum=10, maximum=5)


def delays(distribution, *, until, step=0.25, **known):
    """Return the delays of jobs that are watched or waited for, by the time since the start."""
    schedule = Adaptive(jitter=0)
    times = [step * n for n in range(round(until / step))]
    contexts = (
        PollContext(
            polls=3,
            watched_for=time,
            awaited_for=time if known.get("waits") else None,
            age=time + known.get("older", 0.0),
            distribution=distribution,
            quiet_delay=known.get("quiet_delay", 10.0),
        )
        for time in times
    )
    return [
        (time, schedule.delay(job, Random(0))) for time, job in zip(times, contexts, strict=True)
    ]


KNOWLEDGE = {
    "nothing": PRIOR,
    "5 s": learnt(5.0),
    "a minute": MINUTE,
    "ten minutes": learnt(600.0),
}


@pytest.mark.parametrize("older", [0.0, 7200.0, 1e6])
@pytest.mark.parametrize("distribution", KNOWLEDGE.values(), ids=KNOWLEDGE)
def test_a_wait_is_never_behind_the_official_waiter(distribution, older):
    """The official SDK pauses 1 s, then 1.5 times as long after each poll, 10 s at most."""
    for waited, delay in delays(distribution, until=200, waits=True, older=older):
        assert delay <= min(max(1.0, 0.4 * waited), 4.0 if waited < 60 else 7.0)
        assert delay <= min(1 + waited / 2, 10.0)


@pytest.mark.parametrize("waited", [15.0, 59.0, 61.0, 1_800.0])
@pytest.mark.parametrize("distribution", [PRIOR, learnt(5.0)], ids=["nothing", "5 s"])
def test_jitter_makes_no_delay_of_a_wait_longer_than_the_bound_of_unknown_ages(
    distribution, waited
):
    job = PollContext(
        polls=9, watched_for=waited, awaited_for=waited, age=waited, distribution=distribution
    )
    schedule = Adaptive()
    spread = {schedule.delay(job, Random(seed)) for seed in range(200)}
    assert len(spread) == 200
    assert max(spread) <= 4.0


def polls_and_lag(pause, about):
    """Return the mean polls and the mean lag of a wait for a job that takes 0.7 to 1.3 x `about`.

    `pause` returns the delay after a wait of some seconds. Requests take no time.
    """
    shortest, longest = 0.7 * about, 1.3 * about
    time = after = polls = lag = 0.0
    number = 1
    while after < longest:
        time, after = after, after + pause(after)
        number += 1
        first, last = max(time, shortest), min(after, longest)
        if last > first:
            share = (last - first) / (longest - shortest)
            polls += share * number
            lag += share * (after - (first + last) / 2)
    return polls, lag


@pytest.mark.parametrize(
    "about",
    [
        *(2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 400.0, 1_800.0),
        pytest.param(7_200.0, marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("distribution", [PRIOR, learnt(5.0)], ids=["nothing", "5 s"])
def test_for_a_job_of_unknown_length_polls_and_lag_are_those_of_the_official_waiter(
    distribution, about
):
    """The product of both does not depend on the delays, as long as the delays are equal."""

    def pause(waited):
        job = PollContext(
            polls=3,
            watched_for=waited,
            awaited_for=waited,
            age=waited,
            distribution=distribution,
        )
        return Adaptive(jitter=0).delay(job, Random(0))

    polls, lag = polls_and_lag(pause, about)
    sdk_polls, sdk_lag = polls_and_lag(lambda waited: min(1 + waited / 2, 10.0), about)
    assert lag <= min(sdk_lag, 2.15)
    assert polls * lag <= 1.05 * sdk_polls * sdk_lag


@pytest.mark.parametrize("older", [0.0, 7200.0, 1e6])
@pytest.mark.parametrize("distribution", KNOWLEDGE.values(), ids=KNOWLEDGE)
def test_a_watch_keeps_the_lag_bound(distribution, older):
    for watched, delay in delays(distribution, until=200, older=older):
        assert delay <= min(max(4.0, watched / 2), 60.0)


def test_a_job_older_than_those_known_is_polled_every_few_seconds():
    assert max(delay for _, delay in delays(learnt(5.0), until=1000, step=5.0)) <= 7.0


def test_delays_are_long_only_at_ages_that_many_jobs_have_passed():
    few = dict(delays(learnt(600.0, count=100), until=900))
    many = dict(delays(learnt(600.0, count=1000), until=900))
    assert max(few.values()) <= 7.0
    assert many[300.0] == 10.0
    assert max(delay for age, delay in many.items() if age > 500) <= 7.0


def test_delays_at_quiet_ages_are_longer_if_many_jobs_are_active():
    many = dict(delays(learnt(600.0, count=1000), until=900, quiet_delay=100.0))
    assert many[20.0] == 10.0  # half of the age
    assert many[300.0] == 60.0  # `maximum`
    assert max(delay for age, delay in many.items() if age > 550) <= 7.0


def test_long_delays_at_quiet_ages_are_random():
    schedule, rng = Adaptive(), Random(0)
    context = PollContext(
        polls=9, watched_for=300.0, age=300.0, distribution=learnt(600.0), quiet_delay=100.0
    )
    found = [schedule.delay(context, rng) for _ in range(300)]
    assert 9.0 <= min(found) < 15.0
    assert 50.0 < max(found) <= 60.0


def test_after_failures_a_wait_is_polled_every_ten_seconds_at_least():
    contexts = (
        PollContext(polls=9, watched_for=100.0, awaited_for=100.0, failures=failures)
        for failures in range(1, 12)
    )
    waits = [Adaptive(jitter=0).delay(job, Random(0)) for job in contexts]
    assert waits == sorted(waits)
    assert waits[-1] == 10.0


@pytest.mark.parametrize("seconds", [2.0, 3.5, 5.0, 7.0])
def test_for_short_jobs_adaptive_aims_at_less_than_the_lag_of_the_official_waiter(seconds):
    distribution = learnt(seconds)
    assert official_lag(distribution) < 2.5
    lag, polls = Adaptive(target_lag=4.0).plan(distribution).cost()
    assert lag <= 0.77 * official_lag(distribution)
    assert Adaptive(target_lag=6.0).plan(distribution).cost()[1] <= polls


def test_the_aim_is_the_target_unless_the_official_waiter_does_better():
    short = learnt(5.0)
    assert Adaptive().aim(MINUTE) == 2.0
    assert Adaptive().aim(short) == 0.75 * official_lag(short) < 2.0
    assert Adaptive(target_lag=6.0).aim(short) == 6.0
    longer = learnt(9.0)
    assert Adaptive(target_lag=4.9).aim(longer) == official_lag(longer) < 4.9


def test_for_long_jobs_the_official_waiter_takes_five_seconds():
    assert official_lag(MINUTE) == pytest.approx(5.0, rel=0.01)
    assert Adaptive().plan(MINUTE).cost()[0] == pytest.approx(2.0, rel=0.05)


def known(**options):
    """Return what a schedule knows of a job about whose duration nothing is known."""
    return PollContext(**{"polls": 3, "watched_for": 30.0, "age": 30.0, **options})


class Fair(Random):
    """A source of randomness that always returns the same share of the range."""

    def __init__(self, share):
        super().__init__(0)
        self.share = share

    def random(self):
        return self.share


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.999])
def test_jitter_changes_a_delay_by_its_share_but_never_beyond_the_bound(draw):
    """`stretch` is drawn between 0.8 and 1.2, and the bound gets at most the factor 1."""
    schedule, rng = Adaptive(jitter=0.2), Fair(draw)
    stretch = 0.8 + 0.4 * draw
    shorten = (stretch + 0.8) / 2
    plan = schedule.plan(PRIOR)
    job = known(watched_for=5.0, age=50.0)  # older than its watch
    expected = min(plan.delay(50.0, stretch=stretch, shorten=shorten), 4.0 * shorten)
    assert schedule.delay(job, rng) == pytest.approx(expected)
    job = known(watched_for=1.0, age=1.0, distribution=MINUTE)
    assert schedule.delay(job, rng) == pytest.approx(4.0 * shorten)
    job = known(awaited_for=100.0, distribution=MINUTE, age=40.0, watched_for=40.0)
    expected = schedule.plan(MINUTE).delay(40.0, stretch=stretch, shorten=shorten)
    assert schedule.delay(job, rng) == pytest.approx(min(expected, 7.0 * shorten))
    failing = known(failures=4, age=None)
    assert schedule.delay(failing, rng) == pytest.approx(8.0 * (0.8 + 0.2 * draw))


def test_a_wait_is_bounded_by_twice_the_target_lag_only_at_unknown_ages():
    schedule = Adaptive(jitter=0)
    edge = schedule.plan(MINUTE).unknown_from
    below, above = (
        schedule.delay(
            known(age=age, awaited_for=100.0, distribution=MINUTE, watched_for=100.0), Random(0)
        )
        for age in (40.0, edge)
    )
    assert 4.0 < below <= 7.0
    assert above <= 4.0


@pytest.mark.parametrize(
    ("failures", "awaited_for", "jobs", "maximum", "delay"),
    [
        (0, None, 99, 60.0, Adaptive().plan(PRIOR).delay(0.0)),
        (1, None, 99, 60.0, Adaptive().plan(PRIOR).delay(0.0)),
        (3, None, 99, 60.0, 4.0),  # 1 s, doubled with each further failure
        (4, None, 99, 60.0, 8.0),
        (6, None, 99, 60.0, 32.0),
        (7, None, 99, 60.0, 60.0),
        (7, None, 99, 40.0, 40.0),
        (7, None, 50, 60.0, 40.0),  # fewer jobs cause fewer requests
        (7, None, 1, 60.0, 10.0),
        (7, None, 1, 9.0, 9.0),
        (10_000, None, 1e13, 1e12, 2.0**32),
        (4, 99.0, 99, 60.0, 8.0),
        (5, 99.0, 99, 60.0, 10.0),
        (5, 99.0, 99, 9.0, 9.0),
    ],
)
def test_delays_double_with_each_failure_up_to_the_maximum(
    failures, awaited_for, jobs, maximum, delay
):
    quiet_delay = longest_when_quiet(jobs)
    job = known(failures=failures, watched_for=0.0, age=0.0, quiet_delay=quiet_delay)
    if awaited_for is not None:
        job = known(failures=failures, awaited_for=awaited_for, quiet_delay=quiet_delay)
    assert Adaptive(jitter=0, maximum=maximum).delay(job, Random(0)) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("lag_ratio", "lag"), [(1.0, 2.0), (1.2, 1.667), (0.8, 2.5), (9.0, 1.333), (0.01, 3.0)]
)
def test_the_observed_lag_corrects_the_aim_by_the_factor_1_5_at_most(lag_ratio, lag):
    distribution = learnt(60.0)
    plan = Adaptive(target_lag=2.0, minimum=0.01).plan(distribution, lag_ratio=lag_ratio)
    assert plan.cost()[0] == pytest.approx(lag, rel=0.05)


@pytest.mark.parametrize(("old_share", "waits"), [(0.99, True), (1.01, False)])
def test_a_first_poll_waits_if_the_expected_lag_costs_less_than_a_poll(old_share, waits):
    schedule = Adaptive(jitter=0)
    new = PollContext(polls=0, watched_for=0.0, age=0.0, distribution=MINUTE)
    share = old_share * schedule.plan(MINUTE).price / 4.0
    assert schedule.first_delay(new, Random(0), old_share=share) == (4.0 if waits else 0.0)


def test_a_schedule_keeps_the_plans_of_the_last_eight_distributions():
    schedule, made = Adaptive(), [learnt(10.0 + n, count=20) for n in range(9)]
    plans = [schedule.plan(distribution) for distribution in made[:8]]
    assert [schedule.plan(distribution) for distribution in made[:8]] == plans
    schedule.plan(made[8])
    assert [schedule.plan(distribution) for distribution in made[1:8]] == plans[1:]
    assert schedule.plan(made[0]) is not plans[0]


def test_a_schedule_keeps_a_plan_for_each_kind_of_jobs():
    schedule, made = Adaptive(), [learnt(10.0 + n, count=20) for n, _ in enumerate(JobKind.all())]
    plans = [schedule.plan(distribution) for distribution in made]
    assert [schedule.plan(distribution) for distribution in made] == plans


def test_the_aim_changes_at_five_seconds():
    short = learnt(5.0)
    assert Adaptive(target_lag=5.0).aim(short) == 0.75 * official_lag(short)
    assert Adaptive(target_lag=5.1).aim(short) == 5.1


@pytest.mark.parametrize("mean", [7.0, 9.0])
def test_the_aim_is_three_quarters_of_an_official_lag_below_2_5_s(mean):
    distribution = learnt(mean)
    official = official_lag(distribution)
    assert (official < 2.5) is (mean == 7.0)
    assert Adaptive(target_lag=4.0).aim(distribution) == official * (0.75 if mean == 7.0 else 1.0)
