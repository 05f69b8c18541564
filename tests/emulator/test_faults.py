"""Which requests a fault applies to: chance, window, endpoint, job and number of requests."""

import random
import re
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.emulator import (
    FAULT_NAMES,
    Emulator,
    Endpoint,
    Fault,
    Faults,
    RateLimit,
    When,
    make_fault,
)
from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import Latency, LatencyShape, option_names
from adepoll.emulator.refusals import ABSURD_VALUES, RetryAfter

NOW = 1_750_000_000.0
GET, LIST = Endpoint.GET, Endpoint.LIST


def faults(*to_add, seed=0, now=NOW):
    made = Faults(seed=seed, clock=lambda: now)
    for fault in to_add:
        made.add(fault)
    return made


def names(hits):
    return [hit.fault.name for hit in hits]


def test_without_a_fault_no_fault_applies():
    assert faults().select(GET, "one", NOW) == ()


@pytest.mark.parametrize("name", FAULT_NAMES)
def test_every_fault_applies_to_its_endpoints_only(name):
    fault = make_fault(name, **({"burst": 1.0} if name == "rate-limit" else {}))
    assert fault.name == name
    for endpoint in Endpoint:
        on = faults(fault)
        on.select(endpoint, "one", NOW)  # a rate limit lets its burst through
        hits = on.select(endpoint, "one", NOW)
        assert bool(hits) == (endpoint in fault.effect.endpoints)
        if hits:
            CombinedEffect.of(hits, NOW)


def test_several_faults_apply_in_the_order_in_which_they_were_added():
    on = faults("nan", "latency", "html")
    assert names(on.select(GET, "one", NOW)) == ["nan", "latency", "html"]
    assert on.counts == {"nan": 1, "latency": 1, "html": 1}


def test_a_fault_can_be_limited_to_endpoints_and_jobs():
    on = faults(make_fault("server-error", endpoints=["get"], jobs=["one", "two"]))
    assert on.select(GET, "one", NOW)
    assert not on.select(GET, "three", NOW)
    assert not on.select(LIST, None, NOW)
    assert not on.select(Endpoint.RESULT, "one", NOW)


@pytest.mark.parametrize("condition", ["endpoints", "jobs", "kinds"])
def test_an_empty_condition_matches_no_request(condition):
    assert not faults(make_fault("server-error", **{condition: []})).select(GET, "one", NOW)


def test_a_fault_can_be_limited_to_a_number_of_requests():
    on = faults(make_fault("nan", times=2))
    assert [bool(on.select(GET, str(n), NOW)) for n in range(4)] == [True, True, False, False]


def test_a_window_starts_at_the_addition_and_excludes_its_end():
    on = faults(make_fault("nan", window=(10, 20)))
    seen = [bool(on.select(GET, "one", NOW + age)) for age in (0, 9.9, 10, 19.9, 20, 30)]
    assert seen == [False, False, True, True, False, False]


def test_a_window_can_repeat():
    on = faults(make_fault("nan", window=(10, 20), every=60))
    seen = [bool(on.select(GET, "one", NOW + age)) for age in (5, 15, 25, 65, 75, 85, 3_610, -45)]
    assert seen == [False, True, False, False, True, False, True, False]


def test_faults_are_removed_one_by_one_or_all():
    on = faults("html")
    first = on.add("nan")
    second = on.add("nan")
    on.remove(second)
    assert names(on.select(GET, "one", NOW)) == ["html", "nan"]
    assert [*on][1] is first
    assert len(on) == 2
    on.clear()
    assert on.select(GET, "one", NOW) == ()
    with pytest.raises(ValueError, match="'nan' is not active"):
        on.remove(first)


requests = st.lists(
    st.tuples(st.sampled_from([GET, Endpoint.RESULT]), st.sampled_from(["a", "b", "c/é\ud800"])),
    max_size=40,
)
some_faults = st.lists(
    st.builds(
        make_fault,
        st.sampled_from(sorted({*FAULT_NAMES} - {"rate-limit"})),
        chance=st.floats(0, 1),
    ),
    max_size=4,
)


def applied(on, sent):
    """Return the faults that applied to each job, and the numbers drawn for them, by endpoint."""
    seen = {}
    for endpoint, job_id in sent:
        hits = on.select(endpoint, job_id, NOW)
        drawn = [(hit.fault.name, hit.rng.random()) for hit in hits]
        seen.setdefault((endpoint, job_id), []).append(drawn)
    return seen


@given(added=some_faults, sent=requests, seed=st.integers(), data=st.data())
def test_the_faults_of_a_job_do_not_depend_on_the_requests_for_other_jobs(added, sent, seed, data):
    shuffled = data.draw(st.permutations(sent))
    assert applied(faults(*added, seed=seed), sent) == applied(faults(*added, seed=seed), shuffled)


@given(added=some_faults, sent=requests)
def test_chance_0_never_applies_and_chance_1_always_does(added, sent):
    on = faults("latency", *added, make_fault("stalled", chance=0.0))
    for endpoint, job_id in sent:
        seen = names(on.select(endpoint, job_id, NOW))
        assert seen[0] == "latency"
        assert seen.count("stalled") <= sum(f.name == "stalled" for f in added)


@given(chance=st.floats(0.05, 0.95), seed=st.integers())
def test_a_fault_applies_to_its_share_of_requests(chance, seed):
    on = faults(make_fault("nan", chance=chance), seed=seed)
    met = sum(bool(on.select(GET, str(n), NOW)) for n in range(2_000))
    assert met / 2_000 == pytest.approx(chance, abs=0.08)


@given(small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_larger_chance_includes_the_requests_of_a_smaller_chance(small, large):
    small, large = sorted((small, large))
    few, many = (faults(make_fault("nan", chance=chance)) for chance in (small, large))
    for n in range(50):
        assert bool(few.select(GET, str(n), NOW)) <= bool(many.select(GET, str(n), NOW))


@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 2), max_size=80),
)
def test_a_bucket_lets_through_no_more_than_burst_and_rate_allow(rate, burst, gaps):
    on = faults(Fault(effect=RateLimit(rate=rate, burst=burst)))
    now, passed, waits = NOW, 0, []
    for gap in gaps:
        now += gap
        hits = on.select(GET, "one", now)
        passed += not hits
        waits += [hit.until_token for hit in hits]
        assert passed <= burst + (now - NOW) * rate + 1e-6
    assert all(0 < wait <= 1 / rate + 1e-9 for wait in waits)
    assert passed >= min(burst, len(gaps))


def test_a_client_that_waits_as_requested_is_let_through():
    on = faults(make_fault("rate-limit", rate=3, burst=1))
    now = NOW
    for _ in range(20):
        while hits := on.select(GET, "one", now):
            refusal = CombinedEffect.of(hits, now).replacement
            assert refusal.until > now
            now = refusal.until
        assert not on.select(LIST, None, now + 10)  # takes the token that was added meanwhile
        now += 10


@pytest.mark.parametrize("shape", LatencyShape)
def test_the_median_of_a_latency_is_right(shape):
    latency = Latency(shape=shape, median=2.0)
    rng = random.Random(1)
    drawn = sorted(latency.draw(rng) for _ in range(4_000))
    assert drawn[2_000] == pytest.approx(2.0, rel=0.1)
    assert all(0 <= delay <= 3_600 for delay in drawn)


@given(wait=st.floats(0, 100), fraction=st.floats(0, 0.999))
def test_a_retry_after_is_never_too_short(wait, fraction):
    now = NOW + fraction
    for form in (RetryAfter.SECONDS, RetryAfter.DATE):
        header, until = form.header(wait, now=now, rng=random.Random(0))
        if form is RetryAfter.DATE:  # RFC 9110, section 5.6.7
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", header)
            assert parsedate_to_datetime(header).timestamp() == until
        else:
            assert now + int(header) == pytest.approx(until)
        assert now + wait - 1e-6 <= until < now + wait + 1 + 1e-6


def test_a_rate_limit_can_ask_for_a_wait_beyond_the_next_token():
    limit = make_fault("rate-limit", rate=100, burst=1, wait_min=1.0, wait_max=5.0)
    on = faults(limit)
    assert not on.select(GET, "one", NOW)
    refusals = [CombinedEffect.of(on.select(GET, "one", NOW), NOW).replacement for _ in range(300)]
    waits = [int(refusal.retry_after) for refusal in refusals]
    assert set(waits) == {2, 3, 4, 5}
    assert [refusal.until - NOW for refusal in refusals] == waits
    assert not on.select(GET, "one", NOW + 0.02), "the bucket fills as before"
    again = faults(limit)
    again.select(GET, "one", NOW)
    assert CombinedEffect.of(again.select(GET, "one", NOW), NOW).replacement == refusals[0]


def test_a_fault_that_was_removed_after_it_has_happened_happens_no_more():
    fault = make_fault("server-error")
    on = faults(fault, make_fault("server-error", endpoints=["list"]))
    assert on.select(GET, "one", NOW)
    on.remove(fault)
    assert not on.select(GET, "one", NOW)


def test_a_rate_limit_says_when_the_next_token_comes():
    on = faults(make_fault("rate-limit", rate=0.1, burst=1))
    assert not on.select(GET, "one", NOW)
    hits = [on.select(GET, "one", NOW + later)[0] for later in (0.0, 4.0)]
    assert [hit.until_token for hit in hits] == pytest.approx([10.0, 6.0])


def test_a_rate_limit_with_wait_min_only_always_asks_for_that_wait():
    on = faults(make_fault("rate-limit", rate=100, burst=1, wait_min=3.0))
    on.select(GET, "one", NOW)
    hits = [on.select(GET, "one", NOW) for _ in range(20)]
    assert {CombinedEffect.of(hit, NOW).replacement.retry_after for hit in hits} == {"3"}


def test_an_absent_or_absurd_retry_after_requires_no_wait():
    assert RetryAfter.ABSENT.header(5, now=NOW, rng=random.Random(0)) == (None, 0.0)
    headers = {RetryAfter.ABSURD.header(5, now=NOW, rng=random.Random(n)) for n in range(200)}
    assert headers == {(text, 0.0) for text in ABSURD_VALUES}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "earthquake"}, "no fault is named 'earthquake'; faults: latency"),
        ({"name": "nan", "rate": 1}, "fault 'nan' has no option 'rate'; options: none"),
        ({"name": "latency", "rate": 1}, "options: shape, median, sigma"),
        ({"name": "server-error", "kind": 1}, "options: retry_after, wait"),
        ({"name": "latency", "median": -1}, "median"),
        ({"name": "latency", "shape": "square"}, "square"),
        ({"name": "rate-limit", "burst": 0.5}, "burst"),
        ({"name": "rate-limit", "wait_min": -1}, "wait_min"),
        ({"name": "rate-limit", "wait_min": float("inf")}, "wait_min"),
        ({"name": "rate-limit", "wait_max": 5}, "wait_max must be at least wait_min"),
        ({"name": "rate-limit", "wait_min": 5, "wait_max": 4}, "wait_max must be at least"),
        ({"name": "slow-body", "rate": 0}, "rate"),
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
def test_a_wrong_value_is_refused_with_its_name(options, named):
    with pytest.raises(ValueError, match=named):
        make_fault(**options)


def test_one_string_in_place_of_several_is_refused():
    with pytest.raises(TypeError, match="several job ids"):
        When(jobs="job-1")
    with pytest.raises(TypeError, match="several kinds of jobs"):
        When(kinds="v1-parse")
    with pytest.raises(TypeError, match="several keys"):
        Emulator(more_keys="key")


def test_options_together_with_a_fault_are_refused():
    with pytest.raises(TypeError, match="only be passed with the name"):
        faults().add(make_fault("nan"), chance=0.5)


def test_the_options_of_a_fault_are_known():
    assert {*option_names("rate-limit")} == {
        "rate",
        "burst",
        "retry_after",
        "wait_min",
        "wait_max",
    }
    assert {*option_names("html")} == set()


def test_the_effects_of_several_faults_are_combined():
    fixed = {"shape": "constant"}
    on = faults(
        make_fault("latency", median=1.0, **fixed),
        make_fault("latency", median=0.5, **fixed),
        make_fault("slow-body", rate=100.0),
        make_fault("slow-body", rate=50.0),
        make_fault("slow-body", rate=70.0),
        make_fault("wrong-length", by=3),
        make_fault("wrong-length", by=-5),
        make_fault("overlong", extra_bytes=10),
        make_fault("overlong", extra_bytes=7),
        "redirect",
        "unauthorized",
        "not-found",
    )
    effect = CombinedEffect.of(on.select(Endpoint.RESULT, "one", NOW), NOW)
    assert (effect.delay, effect.rate, effect.off_by, effect.extra_bytes) == (1.5, 50.0, 3, 17)
    assert effect.needs_raw_socket
    assert not effect.is_corrupting
    assert effect.connection_failure is None
    refused = CombinedEffect.of(on.select(GET, "one", NOW), NOW)
    assert refused.replacement.status == 401  # the first refusal


@pytest.mark.parametrize("size", [0, 1, 2, 1_000])
def test_a_body_breaks_off_before_its_end_and_after_its_first_byte(size):
    for seed in range(50):
        [hit] = faults("truncated", seed=seed).select(GET, "one", NOW)
        sent = CombinedEffect.of([hit], NOW).draw_break(size)
        assert sent == 0 if size < 2 else 0 < sent < size
