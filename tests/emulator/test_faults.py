"""Which requests a fault meets: by chance, window, endpoint, job and number; never by the clock."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.emulator import NAMES, Endpoint, Fault, Faults, RateLimit, When, make_fault
from adepoll.emulator.catalogue import options_of
from adepoll.emulator.effects import ABSURD_WAITS, Latency, RetryAfter, Shape
from adepoll.emulator.treatment import Treatment

NOW = 1_750_000_000.0
GET, LIST = Endpoint.GET, Endpoint.LIST


def faults(*given, seed=0, now=NOW):
    made = Faults(seed=seed, clock=lambda: now)
    for fault in given:
        made.add(fault)
    return made


def names(hits):
    return [hit.fault.name for hit in hits]


def test_without_a_fault_nothing_is_decided():
    assert faults().decide(GET, "one", NOW) == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_fault_that_meets_its_endpoints_alone(name):
    fault = make_fault(name, **({"burst": 1.0} if name == "rate-limit" else {}))
    assert fault.name == name
    for endpoint in Endpoint:
        on = faults(fault)
        on.decide(endpoint, "one", NOW)  # a rate limit lets its burst through
        hits = on.decide(endpoint, "one", NOW)
        assert bool(hits) == (endpoint in fault.effect.endpoints)
        if hits:
            Treatment.of(hits, NOW)


def test_a_request_meets_several_faults_in_the_order_of_their_addition():
    on = faults("nan", "latency", "html")
    assert names(on.decide(GET, "one", NOW)) == ["nan", "latency", "html"]
    assert on.counts == {"nan": 1, "latency": 1, "html": 1}


def test_a_fault_can_be_confined_to_endpoints_and_jobs():
    on = faults(make_fault("server-error", endpoints=["get"], jobs=["one", "two"]))
    assert on.decide(GET, "one", NOW)
    assert not on.decide(GET, "three", NOW)
    assert not on.decide(LIST, None, NOW)
    assert not on.decide(Endpoint.RESULT, "one", NOW)


def test_a_fault_can_be_confined_to_so_many_times():
    on = faults(make_fault("nan", times=2))
    assert [bool(on.decide(GET, str(n), NOW)) for n in range(4)] == [True, True, False, False]


def test_a_window_counts_from_the_addition_and_leaves_its_end_out():
    on = faults(make_fault("nan", window=(10, 20)))
    seen = [bool(on.decide(GET, "one", NOW + age)) for age in (0, 9.9, 10, 19.9, 20, 30)]
    assert seen == [False, False, True, True, False, False]


def test_a_window_comes_again_as_storms_do():
    on = faults(make_fault("nan", window=(10, 20), every=60))
    seen = [bool(on.decide(GET, "one", NOW + age)) for age in (5, 15, 25, 65, 75, 85, 3_610)]
    assert seen == [False, True, False, False, True, False, True]


def test_faults_are_removed_one_by_one_or_all():
    on = faults("html")
    first = on.add("nan")
    second = on.add("nan")
    on.remove(second)
    assert names(on.decide(GET, "one", NOW)) == ["html", "nan"]
    assert [*on][1] is first
    assert len(on) == 2
    on.clear()
    assert on.decide(GET, "one", NOW) == ()
    with pytest.raises(ValueError, match="'nan' is not on"):
        on.remove(first)


requests = st.lists(
    st.tuples(st.sampled_from([GET, Endpoint.RESULT]), st.sampled_from(["a", "b", "c/é\ud800"])),
    max_size=40,
)
some_faults = st.lists(
    st.builds(
        make_fault,
        st.sampled_from(sorted({*NAMES} - {"rate-limit"})),
        chance=st.floats(0, 1),
    ),
    max_size=4,
)


def lots(on, asked):
    """What each job met, and what was drawn for it, by endpoint."""
    seen = {}
    for endpoint, job_id in asked:
        hits = on.decide(endpoint, job_id, NOW)
        drawn = [(hit.fault.name, hit.rng.random()) for hit in hits]
        seen.setdefault((endpoint, job_id), []).append(drawn)
    return seen


@given(given=some_faults, asked=requests, seed=st.integers(), data=st.data())
def test_what_a_job_meets_does_not_depend_on_how_requests_interleave(given, asked, seed, data):
    shuffled = data.draw(st.permutations(asked))
    assert lots(faults(*given, seed=seed), asked) == lots(faults(*given, seed=seed), shuffled)


@given(given=some_faults, asked=requests)
def test_a_fault_of_no_chance_never_happens_and_a_certain_one_always(given, asked):
    on = faults("latency", *given, make_fault("stalled", chance=0.0))
    for endpoint, job_id in asked:
        met = names(on.decide(endpoint, job_id, NOW))
        assert met[0] == "latency"
        assert met.count("stalled") <= sum(f.name == "stalled" for f in given)


@given(chance=st.floats(0.05, 0.95), seed=st.integers())
def test_chances_are_kept_to(chance, seed):
    on = faults(make_fault("nan", chance=chance), seed=seed)
    met = sum(bool(on.decide(GET, str(n), NOW)) for n in range(2_000))
    assert met / 2_000 == pytest.approx(chance, abs=0.08)


@given(small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_greater_chance_meets_all_that_a_smaller_one_met(small, large):
    small, large = sorted((small, large))
    few, many = (faults(make_fault("nan", chance=chance)) for chance in (small, large))
    for n in range(50):
        assert bool(few.decide(GET, str(n), NOW)) <= bool(many.decide(GET, str(n), NOW))


@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 2), max_size=80),
)
def test_a_bucket_never_lets_more_through_than_burst_and_rate_allow(rate, burst, gaps):
    on = faults(Fault(effect=RateLimit(rate=rate, burst=burst)))
    now, passed, waits = NOW, 0, []
    for gap in gaps:
        now += gap
        hits = on.decide(GET, "one", now)
        passed += not hits
        waits += [hit.wait for hit in hits]
        assert passed <= burst + (now - NOW) * rate + 1e-6
    assert all(0 < wait <= 1 / rate + 1e-9 for wait in waits)
    assert passed >= min(burst, len(gaps))


def test_whoever_waits_as_long_as_told_is_let_through():
    on = faults(make_fault("rate-limit", rate=3, burst=1))
    now = NOW
    for _ in range(20):
        while hits := on.decide(GET, "one", now):
            refused = Treatment.of(hits, now).refused
            assert refused.until > now
            now = refused.until
        assert not on.decide(LIST, None, now + 10)  # it takes the token that came meanwhile
        now += 10


@pytest.mark.parametrize("shape", Shape)
def test_a_latency_has_its_median(shape):
    latency = Latency(shape=shape, median=2.0)
    rng = random.Random(1)
    drawn = sorted(latency.draw(rng) for _ in range(4_000))
    assert drawn[2_000] == pytest.approx(2.0, rel=0.1)
    assert all(0 <= delay <= 3_600 for delay in drawn)


@given(wait=st.floats(0, 100), fraction=st.floats(0, 0.999))
def test_a_retry_after_never_tells_less_than_it_should(wait, fraction):
    now = NOW + fraction
    for form in (RetryAfter.SECONDS, RetryAfter.DATE):
        header, until = form.told(wait, now=now, rng=random.Random(0))
        assert header
        assert now + wait - 1e-6 <= until < now + wait + 1 + 1e-6


def test_a_rate_limit_may_ask_for_more_than_until_the_next_token():
    limit = make_fault("rate-limit", rate=100, burst=1, wait_min=1.0, wait_max=5.0)
    on = faults(limit)
    assert not on.decide(GET, "one", NOW)
    refusals = [Treatment.of(on.decide(GET, "one", NOW), NOW).refused for _ in range(300)]
    told = [int(refused.retry_after) for refused in refusals]
    assert set(told) == {2, 3, 4, 5}
    assert [refused.until - NOW for refused in refusals] == told
    assert not on.decide(GET, "one", NOW + 0.02), "the bucket fills as before"
    again = faults(limit)
    again.decide(GET, "one", NOW)
    assert Treatment.of(again.decide(GET, "one", NOW), NOW).refused == refusals[0]


def test_one_wait_of_a_rate_limit_is_always_the_same():
    on = faults(make_fault("rate-limit", rate=100, burst=1, wait_min=3.0))
    on.decide(GET, "one", NOW)
    hits = [on.decide(GET, "one", NOW) for _ in range(20)]
    assert {Treatment.of(hit, NOW).refused.retry_after for hit in hits} == {"3"}


def test_an_absent_or_absurd_retry_after_asks_for_nothing_that_counts():
    assert RetryAfter.ABSENT.told(5, now=NOW, rng=random.Random(0)) == (None, 0.0)
    told = {RetryAfter.ABSURD.told(5, now=NOW, rng=random.Random(n)) for n in range(200)}
    assert told == {(text, 0.0) for text in ABSURD_WAITS}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "earthquake"}, "no fault 'earthquake'; there are latency"),
        ({"name": "nan", "rate": 1}, "fault 'nan' has no option 'rate'; it takes: none"),
        ({"name": "latency", "rate": 1}, "it takes: shape, median, sigma"),
        ({"name": "server-error", "kind": 1}, "it takes: retry_after, wait"),
        ({"name": "latency", "median": -1}, "median"),
        ({"name": "latency", "shape": "square"}, "square"),
        ({"name": "rate-limit", "burst": 0.5}, "burst"),
        ({"name": "rate-limit", "wait_min": -1}, "wait_min"),
        ({"name": "rate-limit", "wait_min": float("inf")}, "wait_min"),
        ({"name": "rate-limit", "wait_max": 5}, "wait_max must be at least wait_min"),
        ({"name": "rate-limit", "wait_min": 5, "wait_max": 4}, "wait_max must be at least"),
        ({"name": "throttled", "rate": 0}, "rate"),
        ({"name": "nan", "chance": 1.1}, "chance"),
        ({"name": "nan", "window": (3, 3)}, "window"),
        ({"name": "nan", "window": (-1, 3)}, "window"),
        ({"name": "nan", "every": 3}, "every"),
        ({"name": "nan", "window": (1, 3), "every": 2}, "every"),
        ({"name": "nan", "times": -1}, "times"),
        ({"name": "nan", "endpoints": ["put"]}, "put"),
        ({"name": "nan", "endpoints": ["get", "result"]}, "cannot happen at endpoints: result"),
    ],
)
def test_nonsense_is_refused_under_the_name_that_was_used(options, named):
    with pytest.raises(ValueError, match=named):
        make_fault(**options)


def test_one_string_of_jobs_is_refused():
    with pytest.raises(TypeError, match="several job ids"):
        When(jobs="job-1")


def test_options_beside_a_ready_fault_are_refused():
    with pytest.raises(TypeError, match="options go with the name"):
        faults().add(make_fault("nan"), chance=0.5)


def test_the_options_of_a_fault_can_be_asked_for():
    assert {*options_of("rate-limit")} == {
        "rate",
        "burst",
        "retry_after",
        "wait_min",
        "wait_max",
    }
    assert {*options_of("html")} == set()
