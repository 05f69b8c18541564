"""How long jobs take: properties of a distribution, and what is learnt from censored jobs."""

import itertools
import json
import math
from random import Random

import pytest
from amounts import more
from hypothesis import given
from hypothesis import strategies as st
from internals import at_risk

from adepoll.errors import ConfigurationError
from adepoll.scheduling.distribution import EDGES, LAST, PRIOR, Distribution, bin_index
from adepoll.scheduling.durations import Durations, nearest_edge

DAY = 86_400.0
ages = st.floats(min_value=0, max_value=2 * DAY)


def any_distribution(seed):
    """Return an arbitrary distribution: in some bins no job ends, in others all do."""
    rng = Random(seed)
    most = rng.choice([0.001, 0.1, 1.0])
    chances = [rng.choice([0.0, rng.uniform(0, most), most]) for _ in EDGES[1:]]
    return Distribution((*chances, 1.0))


def learnt_distribution(seed):
    return learnt(Random(seed), lognormal(median=20.0 + 10 * seed), 60)


distributions = st.one_of(
    st.just(PRIOR),
    st.builds(learnt_distribution, st.integers(0, 5)),
    st.builds(any_distribution, st.integers(0, 1_000)),
)


# --- jobs that are polled -----------------------------------------------------------------------


def lognormal(*, median=20.0, sigma=0.4):
    return lambda rng: median * math.exp(rng.gauss(0, sigma))


def exponential(mean):
    return lambda rng: rng.expovariate(1 / mean)


def bimodal(rng):
    return rng.gauss(5, 0.5) if rng.random() < 0.7 else rng.gauss(60, 3)


def look_at(durations, rng, duration, *, first=0.0, every=2.0):
    """Poll a job of that duration until it has ended; return whether it was ever seen active."""
    age = first + rng.uniform(0, every)
    if age >= duration:
        return False
    durations.begin()
    entered = seen = age
    while True:
        age += rng.uniform(0.5, 1.5) * every
        if age >= duration:
            durations.end(entered, seen, age)
            return True
        durations.extend(seen, age)
        seen = age


def learnt(rng, draw, jobs, **polls):
    durations = Durations()
    for _ in range(jobs):
        look_at(durations, rng, draw(rng), **polls)
    return durations.distribution


def share_ended(draw, age, *, by=0.0, jobs=20_000):
    """Return the true share of jobs that reach `by` and have ended at `age`."""
    rng = Random(1)
    drawn = [duration for duration in (draw(rng) for _ in range(jobs)) if duration >= by]
    return sum(duration < age for duration in drawn) / len(drawn)


# --- bins ---------------------------------------------------------------------------------------


def test_edges_rise_from_zero_to_about_a_day():
    assert EDGES[0] == 0
    assert all(a < b for a, b in itertools.pairwise(EDGES))
    assert 0.95 * DAY < EDGES[-1] < DAY


@given(st.floats(min_value=-10, max_value=1e12))
def test_a_bin_contains_the_ages_from_its_edge_to_the_next(age):
    number = bin_index(age)
    assert EDGES[number] <= max(age, 0) + 1e-9 * abs(age)
    assert number == len(EDGES) - 1 or age <= EDGES[number + 1] * (1 + 1e-9)


@given(ages)
def test_no_edge_is_nearer_than_the_nearest_edge(age):
    near = abs(EDGES[nearest_edge(age)] - age)
    assert near <= min(abs(edge - age) for edge in EDGES) + 1e-9 * age


# --- a distribution -----------------------------------------------------------------------------


@given(distributions, ages, ages)
def test_survival_starts_at_one_and_never_rises(distribution, one, two):
    assert distribution.survival_at(0) == distribution.survival_at(-5) == 1
    young, old = sorted([one, two])
    assert 1 >= distribution.survival_at(young) >= distribution.survival_at(old) * (1 - 1e-9) >= 0
    assert distribution.survival_at(1e12) < 1e-6


@given(distributions, ages, ages)
def test_the_chance_to_end_between_two_ages_follows_from_survival(distribution, one, two):
    young, old = sorted([one, two])
    ended = distribution.ends_between(young, old)
    assert -1e-9 <= ended <= 1
    if distribution.survival_at(young) > 0:
        assert distribution.survival_at(young) * (1 - ended) == pytest.approx(
            distribution.survival_at(old)
        )
    assert distribution.ends_between(young, young) == pytest.approx(
        0 if distribution.survival_at(young) else 1
    )


@given(distributions, st.floats(0, 0.999), st.floats(0, 0.9 * DAY))
def test_survival_at_a_quantile_is_the_rest_of_the_share(distribution, share, age):
    until = distribution.quantile(share, age=age)
    assert age <= until <= DAY
    left = distribution.survival_at(age) * (1 - share)
    if until < EDGES[-1] * (1 - 1e-9) and left > 1e-200:
        assert distribution.survival_at(until) == pytest.approx(left, rel=1e-6, abs=1e-12)


@given(distributions, st.floats(0, 1), st.floats(0, 1), ages)
def test_quantiles_rise_with_the_share(distribution, one, two, age):
    less, more = sorted([one, two])
    assert distribution.quantile(less, age=age) <= distribution.quantile(more, age=age) * (1 + 1e-9)


@given(distributions, st.floats(0, 3_000))
def test_the_active_time_is_the_area_under_survival(distribution, age):
    # Survival is linear in each bin, so that the trapezes of a grid with all edges are exact.
    grid = [*(edge for edge in EDGES if edge < age), age]
    area = math.fsum(
        (b - a) * (distribution.survival_at(a) + distribution.survival_at(b)) / 2
        for a, b in itertools.pairwise(grid)
    )
    assert distribution.active_time(age) == pytest.approx(area, rel=1e-6, abs=1e-6)


@given(distributions, ages, ages)
def test_active_time_rises_and_is_at_most_the_age(distribution, one, two):
    young, old = sorted([one, two])
    assert distribution.active_time(0) == pytest.approx(0, abs=1e-6)
    passed = distribution.active_time(old) - distribution.active_time(young)
    assert -1e-6 <= passed <= (old - young) * distribution.survival_at(young) + 1e-6


def test_without_observations_the_distribution_is_the_prior():
    durations = Durations()
    assert durations.distribution is PRIOR
    assert durations.ended == 0
    assert 25 < durations.quantile(0.5) < 45
    # Heavy-tailed: the older a job, the longer it is expected to stay active.
    left = [durations.quantile(0.5, age=age) - age for age in (60.0, 600.0)]
    assert left[1] > 2 * left[0]


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_checked(share):
    with pytest.raises(ValueError, match=r"^share must be 0 to 1"):
        Durations().quantile(share)


@pytest.mark.parametrize("age", [-1.0, math.nan])
def test_an_age_is_checked(age):
    with pytest.raises(ValueError, match=r"^age must be 0 or more"):
        Durations().quantile(0.5, age=age)


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "points"),
    [
        (lognormal(median=20.0, sigma=0.4), (10, 15, 20, 25, 30, 45)),
        (lognormal(median=90.0, sigma=0.2), (60, 75, 90, 105, 130)),
        (exponential(15.0), (2, 5, 10, 20, 40)),
        (bimodal, (4, 5, 6, 15, 40, 58, 62, 70)),
    ],
    ids=["lognormal", "narrow", "exponential", "bimodal"],
)
@pytest.mark.parametrize("every", more([1.0], [4.0]))
def test_a_distribution_is_recovered_from_interval_censored_jobs(draw, points, every):
    distribution = learnt(Random(5), draw, 2_000, every=every)
    # Where the distribution is steep, half the time between polls is uncertain; else 3%.
    for age in points:
        first_look = every
        low = share_ended(draw, age - every / 4 - 0.25, by=first_look)
        high = share_ended(draw, age + every / 4 + 0.25, by=first_look)
        found = distribution.ends_between(first_look, age) if age > first_look else 0.0
        assert low - 0.05 <= found <= high + 0.05, age


def test_left_truncated_jobs_do_not_bias_the_distribution():
    """Left truncation: from jobs older than 20 s the distribution beyond is learnt without bias."""
    draw = exponential(15.0)
    distribution = learnt(Random(5), draw, 20_000, first=20.0, every=2.0)
    for age in (25, 30, 40, 60):
        assert distribution.ends_between(20, age) == pytest.approx(
            1 - math.exp(-(age - 20) / 15), abs=0.05
        )


def test_active_jobs_count():
    """While only the quick jobs have ended, not all jobs may seem quick."""
    rng, durations = Random(5), Durations()
    running = 0
    for _ in range(400):
        duration = exponential(50.0)(rng)
        durations.begin()
        entered = seen = 0.0
        age = 0.0
        while age < 20.0:
            age += 2.0
            if age >= duration:
                durations.end(entered, seen, age)
                break
            durations.extend(seen, age)
            seen = age
        else:
            running += 1
    assert running > 200
    assert durations.distribution.ends_between(0, 20) == pytest.approx(
        1 - math.exp(-20 / 50), abs=0.05
    )


def test_dropped_jobs_count_for_as_long_as_they_were_observed():
    rng, durations = Random(5), Durations()
    for _ in range(2_000):
        duration, leaves = exponential(50.0)(rng), rng.uniform(0, 60)
        durations.begin()
        seen = 0.0
        while True:
            age = seen + 2.0
            if age > leaves:
                durations.censor(0.0, seen)
                break
            if age >= duration:
                durations.end(0.0, seen, age)
                break
            durations.extend(seen, age)
            seen = age
    for age in (10, 20, 40):
        found = durations.distribution.ends_between(0, age)
        assert found == pytest.approx(1 - math.exp(-age / 50), abs=0.05)


@given(st.data())
def test_without_active_jobs_none_is_at_risk(data):
    durations, running = Durations(), []
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["enter", "survive", "end", "lose"]))
        if step == "enter" or not running:
            entered = data.draw(ages)
            durations.begin()
            running.append([entered, entered])
            continue
        number = data.draw(st.integers(0, len(running) - 1))
        entered, seen = running[number]
        age = seen + data.draw(st.floats(0, 1_000))
        if step == "survive":
            durations.extend(seen, age)
            running[number][1] = age
        elif step == "end":
            durations.end(entered, seen, age)
            del running[number]
        else:
            durations.censor(entered, seen)
            del running[number]
        assert at_risk(durations)[0] == len(running)
        assert durations.distribution.survival[0] == 1
    for entered, seen in running:
        durations.censor(entered, seen)
    assert at_risk(durations) == (0, {})


@given(st.lists(st.tuples(ages, st.floats(0, 1e4), st.floats(0, 1e4)), max_size=80))
def test_any_observations_give_a_distribution(sights):
    durations = Durations()
    for entered, longer, rest in sights:
        durations.begin()
        durations.extend(entered, entered + longer)
        durations.end(entered, entered + longer, entered + longer + rest)
    distribution = durations.distribution
    assert len(distribution.chances) == len(EDGES)
    assert all(0 < chance <= 1 for chance in distribution.chances)
    assert distribution.chances[-1] == 1
    assert 0 <= distribution.active_time(10.0) <= 10.0 + 1e-6


@pytest.mark.parametrize("age", [EDGES[-1], DAY, 10 * DAY, 1e10])
def test_jobs_of_more_than_a_day_are_accepted(age):
    durations = Durations()
    durations.begin()
    durations.extend(age, age + 5)
    durations.end(age, age + 5, age + 10)
    assert durations.ended == 1
    assert durations.quantile(0.5) == pytest.approx(PRIOR.quantile(0.5), rel=0.01)


def test_old_observations_fade():
    rng, durations = Random(5), Durations()
    for median in (100.0, 10.0):
        for _ in range(16_000):
            look_at(durations, rng, lognormal(median=median, sigma=0.2)(rng), every=4.0)
    assert durations.ended > 25_000
    seen = json.loads(durations.to_json())["seen"]
    assert sum(weight for *_, ended, weight in seen if ended is not None) <= 8_000
    assert durations.quantile(0.5, age=4.0) < 20
    assert durations.quantile(0.9, age=4.0) < 130


def test_a_job_settled_at_its_first_poll_is_not_counted():
    rng, durations = Random(5), Durations()
    assert not look_at(durations, rng, 0.0)
    assert durations.distribution is PRIOR
    assert durations.ended == 0


def test_the_distribution_is_fitted_anew_only_after_new_observations():
    rng, durations, laws_made = Random(5), Durations(), []
    for _ in range(2_000):
        look_at(durations, rng, lognormal()(rng))
        if not laws_made or durations.distribution is not laws_made[-1]:
            laws_made.append(durations.distribution)
    assert 20 < len(laws_made) < 300
    assert durations.distribution is durations.distribution


def test_the_repr_shows_how_much_is_known():
    durations = Durations()
    look_at(durations, Random(0), 30.0)
    assert repr(durations).startswith("<Durations: 1 jobs seen to end, median ")


# --- to be kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [0, 100, 500, 20_000])
def test_durations_can_be_saved_and_read(jobs):
    rng, durations = Random(5), Durations()
    for _ in range(jobs):
        look_at(durations, rng, bimodal(rng))
    durations.begin()  # what still runs is not kept
    durations.extend(3.0, 9.0)
    text = durations.to_json()
    assert "\n" not in text
    for given_text in (text, text.encode()):
        back = Durations.from_json(given_text)
        assert back.ended == durations.ended
        assert at_risk(back) == (0, {})
        assert back.to_json() == text
        for share in (0.1, 0.5, 0.9):
            found = durations.quantile(share, age=4.0)
            assert back.quantile(share, age=4.0) == pytest.approx(found, rel=0.1)


def test_saved_durations_contain_the_arrivals():
    durations = Durations()
    for _ in range(100):
        durations.arrivals.record(0.0, added_at=1.0, now=2.0)
    assert Durations.from_json(durations.to_json()).arrivals.trusted
    # Older versions did not save them.
    assert not Durations.from_json(json.dumps(KEPT)).arrivals.trusted


KEPT = json.loads('{"format":1,"ended":1,"seen":[[1,2,3,1.0]]}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        b"\xff\xfe\xfd",
        json.dumps(KEPT | {"format": 99}),
        json.dumps(KEPT | {"ended": 1.5}),
        json.dumps(KEPT | {"ended": None}),
        json.dumps(KEPT | {"ended": -1}),
        json.dumps(KEPT | {"ended": 10**400}),
        json.dumps(KEPT | {"arrivals": None}),
        json.dumps(KEPT | {"arrivals": [1, 2]}),
        json.dumps(KEPT | {"arrivals": [1, 2, -3]}),
        *(
            json.dumps(KEPT | {"seen": [seen]})
            for seen in (
                None,
                [],
                [1, 2, 3],
                [1, 2, 3, 4, 5],
                [3, 2, 1, 1.0],
                [1, 3, 2, 1.0],
                [-1, 2, 3, 1.0],
                [1, 2, len(EDGES), 1.0],
                [1.5, 2, 3, 1.0],
                ["1", 2, 3, 1.0],
                [1, 2, 3, 0],
                [1, 2, 3, -1.0],
                [1, 2, 3, math.nan],
                [1, 2, 3, math.inf],
                [1, 2, 3, "1"],
                [1, 2, 3, 10**400],
                [1, 2, 3, 1e308],
            )
        ),
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(ConfigurationError, match="to_json"):
        Durations.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda some: st.lists(some) | st.dictionaries(st.text() | st.sampled_from([*KEPT]), some),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_refused(value):
    for seen in (value, {**KEPT, "seen": value}, {**KEPT, "seen": [value]}):
        try:
            durations = Durations.from_json(json.dumps(seen))
        except ConfigurationError:
            continue
        assert durations.distribution.survival[0] == 1


def test_waits_that_were_left_early_do_not_hide_how_long_jobs_take_now():
    durations = Durations()
    for _ in range(20_000):
        durations.begin()
        durations.extend(0.0, 20.0)
        durations.censor(0.0, 20.0)
    for _ in range(1_000):
        durations.begin()
        durations.extend(0.0, 4.5)
        durations.end(0.0, 4.5, 5.5)
    assert 4 < durations.quantile(0.5) < 6
    saved = Durations.from_json(durations.to_json())
    assert saved.quantile(0.5) == pytest.approx(durations.quantile(0.5), abs=0.5)


def test_jobs_that_were_not_seen_to_end_count_next_to_those_that_were():
    """Half of the jobs are left at 20 s, and the others end at 40 s."""
    durations = Durations()
    for number in range(2_000):
        durations.begin()
        if number % 2:
            durations.extend(0.0, 20.0)
            durations.censor(0.0, 20.0)
        else:
            durations.extend(0.0, 39.5)
            durations.end(0.0, 39.5, 40.5)
    assert durations.quantile(0.01) > 30


def test_ages_are_quiet_only_below_those_at_which_jobs_end():
    durations = Durations()
    for _ in range(1_000):
        durations.begin()
        for age in range(0, 300, 5):
            durations.extend(float(age), age + 5.0)
    durations.begin()
    durations.end(0.0, 5.0, 6.0)
    assert durations.distribution.known < bin_index(10.0)
    assert not any(durations.distribution.quiet[bin_index(7.0) :])  # all may end now
    for _ in range(1_000):
        durations.extend(300.0, 500.0)
        durations.end(0.0, 500.0, 502.0)
    quiet = durations.distribution.quiet
    assert 380.0 < quiet[bin_index(100.0)] < 420.0
    assert not any(quiet[bin_index(420.0) :])


def durations_of_400_s():
    """Return durations after 300 jobs of 400 s: the ages below about 300 s are quiet."""
    durations = Durations()
    end_at(durations, *[400.0] * 300)
    assert durations.distribution.quiet[bin_index(100.0)] > 110.0
    return durations


def end_at(durations, *ages):
    for age in ages:
        durations.begin()
        durations.extend(0.0, age)
        durations.end(0.0, age, age)


def test_delays_at_quiet_ages_grow_with_the_number_of_active_jobs():
    durations = durations_of_400_s()
    assert durations.quiet_delay == 10.0
    for _ in range(50):
        durations.begin()
    assert durations.quiet_delay == 40.0
    for _ in range(45):
        durations.censor(0.0, 1.0)
    assert durations.quiet_delay == 10.0


def test_delays_at_quiet_ages_are_short_while_jobs_end_there():
    durations = durations_of_400_s()
    for _ in range(50):
        durations.begin()
    end_at(durations, 100.0, 100.0)
    assert durations.quiet_delay == 40.0
    end_at(durations, 100.0)
    assert durations.quiet_delay == 7.0  # as at any other age
    end_at(durations, 400.0)
    assert durations.quiet_delay == 40.0


def test_an_end_after_the_quiet_ages_is_no_surprise():
    durations = durations_of_400_s()
    for _ in range(50):
        durations.begin()
    for _ in range(3):
        durations.begin()
        durations.end(0.0, 100.0, 400.0)  # it ended at some time after the quiet ages, perhaps
    assert durations.quiet_delay == 40.0


def test_what_was_learnt_is_forgotten_if_seven_jobs_are_much_shorter():
    durations = durations_of_400_s()
    end_at(durations, *[100.0] * 6)
    assert durations.is_drifting
    assert durations.shortened == 0
    assert durations.quantile(0.5) > 350.0
    end_at(durations, 100.0)
    assert durations.shortened == 1
    assert not durations.is_drifting
    assert 90.0 < durations.quantile(0.5) < 110.0
    assert durations.ended == 307


def test_jobs_that_are_a_little_shorter_are_no_surprise():
    durations = durations_of_400_s()
    end_at(durations, *[340.0] * 20)
    assert not durations.is_drifting
    assert durations.quantile(0.5) > 370.0


def test_expected_ends_weigh_against_surprising_ends():
    durations = durations_of_400_s()
    for _ in range(30):
        end_at(durations, 100.0, 400.0, 400.0)
    assert not durations.is_drifting
    assert durations.quantile(0.5) > 350.0


def test_polls_of_active_jobs_weigh_against_surprising_ends():
    durations = durations_of_400_s()
    end_at(durations, *[100.0] * 6)
    durations.begin()
    durations.extend(350.0, 420.0)  # it should have ended
    durations.extend(420.0, 500.0)
    assert not durations.is_drifting


def test_an_end_before_the_last_poll_of_the_active_job_is_no_evidence():
    """The clock of the service can differ, so that the job seems to end before that poll."""
    durations = durations_of_400_s()
    durations.begin()
    durations.end(0.0, 450.0, 455.0, exact=100.0)
    assert durations.quantile(0.5) > 350.0


def test_reported_durations_are_learnt_however_many_there_are():
    """A job that has ended no longer counts as active, even if it ended between two polls."""
    durations, rng = Durations(), Random(0)
    for _ in range(10_000):
        duration = rng.uniform(20.0, 40.0)
        durations.begin()
        durations.extend(0.0, 15.0)
        durations.end(0.0, 15.0, 45.0, exact=duration)
    assert 29.0 < durations.quantile(0.5) < 31.0
    assert 38.0 < durations.quantile(0.95) < 40.0
    assert at_risk(durations) == (0, {})


def test_nothing_is_forgotten_after_few_ends():
    durations = Durations()
    end_at(durations, *[400.0] * 15)
    assert durations.quantile(0.5) > 350.0
    end_at(durations, *[100.0] * 7)
    assert durations.quantile(0.5) > 350.0
    assert durations.shortened == 0


def test_jobs_that_are_not_seen_to_end_are_forgotten_too():
    durations = durations_of_400_s()
    for _ in range(300):
        durations.begin()
        durations.censor(0.0, 400.0)
    end_at(durations, *[100.0] * 7)
    assert durations.quantile(0.5) < 110.0


def test_the_time_until_the_last_jobs_end_is_not_that_of_the_prior():
    """The rate at the highest known ages continues; the prior has a heavy tail."""
    durations, rng = Durations(), Random(0)
    ends = [60 * math.exp(rng.gauss(0, 0.5)) for _ in range(300)]
    for _ in ends:
        durations.begin()
    for age in range(4, 112, 4):
        for end in ends:
            if end >= age:
                durations.extend(age - 4.0, float(age))
            elif end >= age - 4:
                durations.end(0.0, age - 4.0, float(age))
    active = sum(end >= 108 for end in ends)
    assert active > 20
    time = durations.distribution.time_until([108.0] * active, 0.5)
    assert 0.5 < time / (max(ends) - 108) < 2


# --- at the bounds ------------------------------------------------------------------------------


def weights_of(durations):
    """Return the weights of the observations, by their ages."""
    return {tuple(ages): weight for *ages, weight in json.loads(durations.to_json())["seen"]}


def end_jobs(durations, count, seconds=10.0):
    for _ in range(count):
        durations.begin()
        durations.end(0.0, seconds, seconds)


def test_a_new_estimate_is_made_when_the_ended_jobs_have_changed_by_over_a_tenth():
    durations, estimates = Durations(), []
    for number in range(1, 40):
        end_jobs(durations, 1)
        if not estimates or durations.distribution is not estimates[-1][1]:
            estimates.append((number, durations.distribution))
    numbers = [number for number, _ in estimates]
    # The first number after n that is greater than 1.1 n.
    assert numbers == [*range(1, 11), 12, 14, 16, 18, 20, 23, 26, 29, 32, 36]


@pytest.mark.parametrize("running", [1, 5])
def test_a_new_estimate_is_made_after_many_polls_of_active_jobs(running):
    durations = Durations()
    for _ in range(running):
        durations.begin()
    for _ in range(1_000 + running):
        durations.extend(0.0, 5.0)
    assert durations.distribution is PRIOR
    durations.extend(0.0, 5.0)
    first = durations.distribution
    assert first is not PRIOR
    for _ in range(1_000 + running):
        durations.extend(0.0, 5.0)
    assert durations.distribution is first
    durations.extend(0.0, 5.0)
    assert durations.distribution is not first


def test_of_more_than_8000_ended_jobs_all_weights_are_halved():
    durations = Durations()
    durations.begin()
    durations.censor(0.0, 3.0)
    end_jobs(durations, 8_000)
    assert weights_of(durations) == {(0, 20, 20): 8_000.0, (0, 6, None): 1.0}
    end_jobs(durations, 1)
    assert weights_of(durations) == {(0, 20, 20): 4_000.5, (0, 6, None): 0.5}
    assert durations.ended == 8_001


@pytest.mark.parametrize("ended", [0, 10])
def test_jobs_that_were_not_seen_to_end_count_for_at_most_four_times_the_ended_ones_and_200(ended):
    durations = Durations()
    end_jobs(durations, ended)
    for _ in range(4 * ended + 200):
        durations.begin()
        durations.censor(0.0, 3.0)
    known = {(0, 20, 20): float(ended)} if ended else {}
    assert weights_of(durations) == {**known, (0, 6, None): 4 * ended + 200.0}
    durations.begin()
    durations.censor(0.0, 4.0)
    expected = {(0, 6, None): 2 * ended + 100.0, (0, 8, None): 0.5}
    assert weights_of(durations) == {**known, **expected}


def test_an_observation_is_forgotten_when_its_weight_is_below_a_twentieth():
    durations = Durations()
    durations.begin()
    durations.censor(0.0, 9.0)
    left = []
    for _ in range(5):
        for _ in range(201):  # halves all weights of jobs that were not seen to end
            durations.begin()
            durations.censor(0.0, 3.0)
        left.append(weights_of(durations).get((0, 18, None)))
        for _ in range(200 - int(weights_of(durations)[0, 6, None])):
            durations.begin()
            durations.censor(0.0, 3.0)
    assert left[0] == 0.5
    assert left[-1] is None
    assert min(weight for weight in left if weight is not None) >= 0.05


def test_a_poll_of_an_active_job_counts_for_the_bins_between_both_ages():
    durations = Durations()
    durations.begin()
    durations.extend(1.0, 3.0)
    assert at_risk(durations) == (1, {2: 1, 6: -1})
    durations.extend(3.0, 3.1)  # no new bin
    assert at_risk(durations) == (1, {2: 1, 6: -1})
    durations.extend(3.1, 3.3)
    assert at_risk(durations) == (1, {2: 1, 7: -1})
    durations.end(1.0, 3.3, 4.0)
    assert at_risk(durations) == (0, {})
    durations.begin()
    durations.extend(EDGES[-1] * 2, EDGES[-1] * 3)
    assert at_risk(durations) == (1, {})


def test_a_new_arrival_counts_as_an_active_job():
    durations = Durations()
    assert durations.record_arrival(1.0, added_at=5.0, now=6.0) is True
    assert durations.record_arrival(9.0, added_at=5.0, now=6.0) is False
    assert at_risk(durations) == (1, {})


@pytest.mark.parametrize(
    ("share", "age"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 40.0), (1.0, 40.0), (0.0, 40.0)]
)
def test_a_quantile_of_the_prior_is_that_of_its_formula(share, age):
    left = (1 + age / 90) ** -2 * (1 - share)
    expected = min(90 * (left**-0.5 - 1), EDGES[-1]) if left else EDGES[-1]
    assert Durations().quantile(share, age=age) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("age", [EDGES[-1], 2 * EDGES[-1], 1e7])
def test_above_the_greatest_edge_a_quantile_is_the_age(age):
    assert PRIOR.quantile(0.5, age=age) == age
    assert PRIOR.survival_at(age) == pytest.approx(PRIOR.survival[-1] * EDGES[-1] / age)
    assert PRIOR.active_time(age) == PRIOR.active_time(EDGES[-1])


def test_a_distribution_in_which_no_job_is_active_any_more_has_no_lag():
    distribution = Distribution((0.5, 1.0, *[0.5] * (len(EDGES) - 3), 1.0))
    assert distribution.ends_between(2.0, 3.0) == 1.0
    assert distribution.expected_lag(2.0, 3.0) == 0.0
    assert distribution.survival_at(1.0) == 0.0
    assert distribution.survival_at(0.5) == 0.5
    assert distribution.expected_lag(0.5, 1.0) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("known", "age", "survival"),
    [
        (60.0, 30.0, "own"),
        (60.0, 60.0, "own"),
        (60.0, 90.0, "same rate"),
        (0.0, 90.0, "own"),
        (EDGES[-1], 90.0, "own"),
    ],
)
def test_beyond_the_known_ages_jobs_end_at_the_rate_of_the_last_third(known, age, survival):
    """One job of that age is expected to be active with that chance after the returned time."""
    at = bin_index(known)
    distribution = Distribution(PRIOR.chances, known=at)
    edge = EDGES[at]
    own = distribution.survival_at
    rate = math.log(own(edge * 2 / 3) / own(edge)) / (edge / 3) if edge else 0.0

    def active(seconds):
        if survival == "own":
            return own(seconds)
        return own(edge) * math.exp(-rate * (seconds - edge))

    for left in (0.9, 0.5):
        if survival == "own" and distribution.quantile(1 - left, age=age) > edge > 0:
            continue  # it would end at unknown ages
        time = distribution.time_until([age], left)
        assert active(age + time) / active(age) == pytest.approx(left, abs=0.01)
        several = distribution.time_until([age] * 10, 10 * left)
        assert several == time
    assert distribution.time_until([], 0.5) == 0.0


def test_the_time_until_jobs_have_ended_is_at_most_a_day():
    assert PRIOR.time_until([EDGES[-1]] * 1_000, 0.001) == pytest.approx(EDGES[-1], rel=0.03)


@pytest.mark.parametrize(
    "item",
    [
        [0, 3, 2, 1.0], [3, 2, None, 1.0], [-1, 2, 3, 1.0], [0, 2, LAST + 1, 1.0], [0, 2, 3, 0],
        [0, 2, 3, -1.0], [0, 2, 3, 2**53 + 2], [0, 2, 3, "1"], [0, 2.0, 3, 1.0], [0, 2, 3],
        [0, LAST + 1, None, 1.0],
    ],
)  # fmt: skip
def test_saved_observations_are_checked(item):
    saved = {"format": 1, "ended": 1, "seen": [item]}
    with pytest.raises(ConfigurationError):
        Durations.from_json(json.dumps(saved))


@pytest.mark.parametrize(
    "item", [[0, 2, 3, 2**53], [0, 0, 0, 1], [2, 2, None, 0.5], [LAST, LAST, LAST, 1.0]]
)
def test_saved_observations_at_the_bounds_are_read(item):
    saved = {"format": 1, "ended": 2**53, "seen": [item]}
    durations = Durations.from_json(json.dumps(saved))
    assert weights_of(durations) == {tuple(item[:3]): item[3]}
    assert durations.ended == 2**53
    assert (durations.distribution is PRIOR) is (item[2] is None)


@pytest.mark.parametrize("ended", [-1, 2**53 + 1, 1.5, "1", None])
def test_a_saved_number_of_ended_jobs_is_checked(ended):
    with pytest.raises(ConfigurationError):
        Durations.from_json(json.dumps({"format": 1, "ended": ended, "seen": []}))


@pytest.mark.parametrize("arrivals", [[1, 2], [1, 2, -1], [1, 2, math.inf], [1, 2, "3"], "abc", {}])
def test_saved_arrivals_are_checked(arrivals):
    saved = {"format": 1, "ended": 0, "seen": [], "arrivals": arrivals}
    with pytest.raises(ConfigurationError):
        Durations.from_json(json.dumps(saved))
    saved["arrivals"] = [0, 2, 3]
    read = Durations.from_json(json.dumps(saved)).arrivals
    assert (read.new, read.old, read.new_in_a_row) == (0.0, 2.0, 3)
