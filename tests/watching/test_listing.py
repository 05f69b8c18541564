"""Sweeps of lists that change, are wrong or never end; when to sweep; when to trust the list."""

import math
import time
from datetime import UTC, datetime
from random import Random

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adepoll.api.models import JobPage, JobStatus, JobSummary, from_timestamp
from adepoll.scheduling.durations import Durations
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning
from adepoll.watching.listing import ACTIVE, PAGE_SIZE, ListTrust, Sweep
from adepoll.watching.sweep_policy import Situation, SweepPolicy

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
PROCESSING, PENDING = JobStatus.PROCESSING, JobStatus.PENDING


def page_of(job_ids, *, has_more=False, status=PROCESSING):
    jobs = tuple(
        JobSummary(
            job_id=job_id,
            status=status,
            status_text=status.value,
            received_at=from_timestamp(0),
            progress=0.0,
        )
        for job_id in job_ids
    )
    return JobPage(jobs=jobs, has_more=has_more)


def listed(job_ids, number, status=PROCESSING):
    """Return that page of a list."""
    start = number * PAGE_SIZE
    part = job_ids[start : start + PAGE_SIZE]
    return page_of(part, has_more=len(job_ids) > start + PAGE_SIZE, status=status)


def make_ids(count, prefix="job"):
    return [f"{prefix}{number}" for number in range(count)]


def walk(sweep, answer, *, in_flight=1, rng=None, most=500):
    """Request all pages, `in_flight` at the same time; return which were requested."""
    asked = []
    while True:
        pages = []
        while len(pages) < in_flight and (page := sweep.next_page()) is not None:
            pages.append(page)
        if not pages:
            return asked
        asked += pages
        assert len(asked) < most, "without end"
        (rng or Random(0)).shuffle(pages)
        for status, number in pages:
            sweep.record_page(status, number, answer(status, number))


def begin(**options):
    return Sweep.start(0.0, **{"max_pages": 1_000} | options)


# --- a sweep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 3, 8])
@pytest.mark.parametrize(
    ("processing", "pending"), [(0, 0), (7, 0), (100, 1), (101, 350), (950, 0)]
)
@pytest.mark.parametrize("watched", [0, 350, 2_000])
def test_each_page_of_an_unchanged_list_is_requested_once(in_flight, processing, pending, watched):
    lists = {PROCESSING: make_ids(processing), PENDING: make_ids(pending, "new")}
    sweep = begin(watched=watched)
    asked = walk(
        sweep,
        lambda status, n: listed(lists[status], n, status),
        in_flight=in_flight,
        rng=Random(1),
    )
    assert sweep.is_complete
    assert not sweep.is_too_long
    sweep.max_pages = sweep.pages
    assert not sweep.is_too_long
    assert sweep.job_ids == {*lists[PROCESSING], *lists[PENDING]}
    assert len(asked) == len(set(asked)) == sweep.pages
    needed = {
        (status, n) for status in ACTIVE for n in range(max(1, -(-len(lists[status]) // 100)))
    }
    assert needed <= set(asked)
    # Each page in flight can be one that was expected and does not exist.
    assert len(asked) <= len(needed) + max(watched // PAGE_SIZE, in_flight)


def test_the_next_sweep_expects_as_many_pages_as_the_previous_one():
    ids = make_ids(750)
    last = begin()
    walk(last, lambda status, n: listed(ids if status is PROCESSING else [], n))
    assert (last.pages_of(PROCESSING), last.pages_of(PENDING)) == (8, 1)
    sweep = begin(previous=last)
    first = [sweep.next_page() for _ in range(9)]
    assert sorted(n for status, n in first if status is PROCESSING) == list(range(8))
    assert (PENDING, 0) in first
    assert sweep.next_page() is None
    assert not sweep.is_complete


@pytest.mark.parametrize("in_flight", [1, 8])
def test_sweeps_become_shorter_with_the_list(in_flight):
    sweep = begin(watched=800)
    for count, needed in ((750, 8), (250, 3), (40, 1)):
        ids = make_ids(count)
        for _ in range(2):  # the first one finds out that the list has become shorter
            sweep = begin(previous=sweep)
            walk(
                sweep,
                lambda status, n, ids=ids: listed(ids if status is PROCESSING else [], n),
                in_flight=in_flight,
            )
        assert sweep.pages == sweep.needed_pages == needed + 1


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize(("before", "after"), [(850, 120), (120, 850), (850, 0)])
def test_a_list_that_has_shrunk_or_grown_is_read_to_its_end(in_flight, before, after):
    last = begin()
    walk(last, lambda status, n: listed(make_ids(before) if status is PROCESSING else [], n))
    sweep, ids = begin(previous=last), make_ids(after)
    walk(
        sweep,
        lambda status, n: listed(ids if status is PROCESSING else [], n),
        in_flight=in_flight,
        rng=Random(3),
    )
    assert sweep.is_complete
    assert sweep.job_ids == set(ids)


@given(seed=st.integers(0, 10_000), in_flight=st.sampled_from([1, 3, 8]))
def test_a_sweep_of_a_list_that_changes_meanwhile_ends(seed, in_flight):
    """Whatever pages say: it ends, and has shown nothing that was not there."""
    rng = Random(seed)
    ids, ever = make_ids(rng.randrange(900)), set()

    def answer(_status, number):
        for _ in range(rng.randrange(60)):
            if rng.random() < 0.5 and ids:
                ids.pop(rng.randrange(len(ids)))
            else:
                ids.insert(rng.randrange(len(ids) + 1), f"new{rng.random()}")
        ever.update(ids)
        page = listed(ids, number)
        lies = rng.random()
        if lies < 0.05:
            return attrs.evolve(page, has_more=not page.has_more)
        return attrs.evolve(page, jobs=()) if lies < 0.1 else page

    sweep = begin(watched=rng.choice([0, 1_000]))
    walk(sweep, answer, in_flight=in_flight, rng=rng)
    assert sweep.is_complete
    assert sweep.job_ids <= ever


@pytest.mark.parametrize("in_flight", [1, 8])
def test_a_list_that_always_announces_more_pages_ends_when_pages_show_no_new_jobs(in_flight):
    ids = make_ids(230)
    for repeat in (lambda n: n % 3, lambda n: min(n, 2), lambda n: 0):
        sweep = begin()
        asked = walk(
            sweep,
            lambda status, n, repeat=repeat: (
                attrs.evolve(listed(ids, repeat(n)), has_more=True)
                if status is PROCESSING
                else page_of([])
            ),
            in_flight=in_flight,
        )
        assert sweep.is_complete
        assert len(asked) < 20
        assert sweep.job_ids >= {*ids[:100]}


def test_an_empty_page_is_the_last_one_whatever_it_announces():
    sweep = begin()
    asked = walk(sweep, lambda _status, _n: page_of([], has_more=True))
    assert asked == [(PENDING, 0), (PROCESSING, 0)]
    assert sweep.is_complete


@pytest.mark.parametrize("in_flight", [1, 8])
def test_a_sweep_that_is_too_long_is_abandoned(in_flight):
    ids = make_ids(100_000)
    sweep = begin(max_pages=12)
    asked = walk(sweep, lambda status, n: listed(ids, n, status), in_flight=in_flight)
    assert sweep.is_too_long
    assert not sweep.is_complete
    assert len(asked) <= 12 + in_flight


def test_the_maximum_length_may_change_during_a_sweep():
    ids = make_ids(100_000)
    sweep = begin(max_pages=1_000)

    def answer(status, number):
        sweep.max_pages = 5
        return listed(ids, number, status)

    assert len(walk(sweep, answer)) == 5
    assert sweep.is_too_long


def test_a_sweep_that_may_have_no_page_is_too_long():
    sweep = begin(max_pages=0)
    assert sweep.next_page() is None
    assert sweep.is_too_long


# --- the policy ---------------------------------------------------------------------------------


def at(now=0.0, watched=100, **more):
    none = {
        "settled": 0,
        "wasted_polls": 0,
        "pending_confirmation": 0,
        "polls": 0,
        "mean_delay": None,
    }
    return Situation(now=now, watched=watched, **none | more)


def make_policy(discovery="auto", lag=2.0, **options):
    return SweepPolicy(discovery=discovery, target_lag=lag, **options)


def sweep_of(policy, situation, pages, *, is_whole=True):
    """Run a sweep of a list with that many pages."""
    sweep = policy.start(situation)
    while (page := sweep.next_page()) is not None:
        status, number = page
        last = status is PENDING or number >= pages - 2
        ids = [f"{status.value}{number}/{n}" for n in range(3)]
        sweep.record_page(status, number, page_of(ids, has_more=not last or not is_whole))
        if not is_whole and sweep.pages >= pages:
            sweep.max_pages = 0
    assert sweep.is_complete is is_whole
    return sweep


def test_get_never_sweeps_and_list_always_sweeps_if_there_are_jobs():
    for watched in (0, 1, 9, 10, 10_000):
        assert not make_policy("get").should_sweep(at(watched=watched))
        assert make_policy("list").should_sweep(at(watched=watched)) is (watched > 0)
        assert make_policy("auto").should_sweep(at(watched=watched)) is (watched >= 10)


@pytest.mark.parametrize("discovery", ["auto", "list"])
def test_pauses_after_failures_grow_up_to_an_hour(discovery):
    policy, now, pauses = make_policy(discovery), 0.0, []
    for _ in range(16):
        assert policy.should_sweep(at(now))
        policy.record_failure(at(now))
        pauses.append(policy.paused_until - now)
        assert not policy.should_sweep(at(now + pauses[-1] - 0.1))
        now = policy.paused_until
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert pauses[-1] == 3600.0


def test_pauses_are_short_again_when_the_list_was_useful_for_some_sweeps():
    policy = make_policy()
    for now in (0.0, 10.0):
        policy.record_failure(at(now))
    assert policy.pauses == 2
    for now in range(30, 60, 5):
        policy.record_end(sweep_of(policy, at(now), 3), at(now + 1.0))
    policy.record_failure(at(60.0))
    policy.record_failure(at(61.0))
    policy.record_failure(at(62.0))
    assert policy.paused_until == 67.0


def test_after_a_bad_list_the_next_sweeps_are_a_trial():
    policy = make_policy()
    policy.record_end(sweep_of(policy, at(), 3), at(1.0, list_is_bad=True))
    assert policy.is_trial
    assert not policy.should_sweep(at(60.0))
    assert policy.should_sweep(at(62.0))
    # Nothing shows whether the list is useful: the next pause is longer.
    policy.record_end(sweep_of(policy, at(62.0), 3), at(63.0))
    assert policy.should_sweep(at(64.0))
    policy.record_end(sweep_of(policy, at(95.0), 3), at(96.0))
    assert policy.paused_until == 96.0 + 120.0
    policy.record_end(sweep_of(policy, at(220.0), 3), at(221.0, list_is_proven=True))
    assert not policy.is_trial
    assert policy.should_sweep(at(300.0))


def test_a_sweep_comes_sooner_if_it_can_tell_whether_the_list_is_late():
    policy = make_policy(lag=2.0)
    policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
    assert policy.delay(at(1.0, watched=1_000, compare_at=3.2)) == pytest.approx(2.2)
    assert policy.delay(at(0.5, watched=1_000, compare_at=0.6)) == pytest.approx(0.5)
    assert policy.delay(at(1.0, watched=1_000, compare_at=60.0)) == pytest.approx(3.0)


def test_a_sweep_that_takes_most_of_the_wanted_time_tells_the_rate_of_requests():
    policy = make_policy(lag=2.0)
    sweep = sweep_of(policy, at(), 3)
    policy.record_end(sweep, at(now=1.0))
    assert policy.short_rate(sweep, at(now=1.0)) is None
    sweep = sweep_of(policy, at(now=5.0), 3)
    policy.record_end(sweep, at(now=11.0))
    assert policy.short_rate(sweep, at(now=11.0)) == pytest.approx(0.5)


def test_a_sweep_that_failed_is_soon_repeated():
    """No job is polled meanwhile, as long as the list decides when that happens."""
    policy = make_policy(lag=2.0)
    policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
    policy.start(at(4.0, watched=1_000))
    policy.record_failure(at(4.5, watched=1_000))
    assert policy.delay(at(4.5, watched=1_000)) == pytest.approx(0.5)
    policy.record_end(sweep_of(policy, at(5.0, watched=1_000), 3), at(5.0, watched=1_000))
    assert policy.delay(at(5.0, watched=1_000)) == pytest.approx(4.0)


def test_pending_jobs_are_listed_less_often_while_there_are_none():
    policy, statuses = make_policy(), []
    ids = make_ids(5)
    for now in range(0, 100, 5):
        situation = at(float(now), wasted_polls=int(now >= 80))
        sweep = policy.start(situation)
        statuses.append(set(sweep.statuses))
        walk(sweep, lambda status, n: listed(ids if status is PROCESSING else [], n))
        policy.record_end(sweep, situation)
    assert statuses[:3] == [set(ACTIVE)] * 3
    assert 2 <= statuses[3:16].count(set(ACTIVE)) <= 3
    assert all(PROCESSING in listed_statuses for listed_statuses in statuses)
    assert statuses[16] == set(ACTIVE)  # a poll was wasted: the job may be pending


def test_sweeping_stops_if_other_peoples_jobs_make_it_cost_more_than_polls():
    policy = make_policy()
    policy.record_end(sweep_of(policy, at(), 40), at(now=1.0))
    assert policy.should_sweep(at(now=2.0, watched=100))
    assert not policy.should_sweep(at(now=2.0, watched=30))
    # If polls are rare, sweeps save fewer of them.
    assert not policy.should_sweep(at(now=2.0, watched=100, mean_delay=20.0))
    assert policy.should_sweep(at(now=2.0, watched=400, mean_delay=20.0))


def test_a_list_that_cost_too_much_is_tried_again_after_a_pause():
    policy = make_policy()
    policy.record_end(sweep_of(policy, at(), 40), at(now=1.0))
    assert not policy.should_sweep(at(now=50.0, watched=30))
    assert policy.should_sweep(at(now=70.0, watched=30))


def test_a_list_that_was_too_long_is_tried_again_when_twice_as_many_jobs_are_watched():
    policy = make_policy()
    sweep = sweep_of(policy, at(watched=20), 20, is_whole=False)
    assert sweep.is_too_long
    policy.record_end(sweep, at(now=1.0, watched=20))
    assert not policy.should_sweep(at(now=2.0, watched=20))
    assert not policy.should_sweep(at(now=50.0, watched=39))
    assert policy.should_sweep(at(now=2.0, watched=40))
    assert policy.should_sweep(at(now=70.0, watched=20))


def test_a_sweep_may_have_as_many_pages_as_it_saves_polls():
    assert make_policy().start(at(watched=30)).max_pages == 30
    assert make_policy().start(at(watched=30, mean_delay=40.0)).max_pages == 3
    assert make_policy("list").start(at(watched=30)).max_pages > 1_000


def test_failures_pause_sweeping():
    policy = make_policy()
    policy.start(at())
    policy.record_failure(at(now=1.0))
    assert not policy.should_sweep(at(now=2.0, watched=10**6))
    assert policy.should_sweep(at(now=70.0))


def test_two_failures_after_a_complete_sweep_do_not_pause_sweeping():
    policy = make_policy()
    policy.record_end(sweep_of(policy, at(), 3), at(now=1.0))
    for failure in range(2):
        policy.record_failure(at(now=2.0 + failure))
        assert policy.should_sweep(at(now=2.5 + failure))
    policy.record_failure(at(now=5.0))
    assert not policy.should_sweep(at(now=6.0))
    assert policy.should_sweep(at(now=70.0))


def test_a_complete_sweep_resets_the_failures():
    policy = make_policy()
    for now in range(0, 50, 5):
        policy.record_end(sweep_of(policy, at(now=now), 3), at(now=now + 1.0))
        policy.record_failure(at(now=now + 2.0))
    assert policy.should_sweep(at(now=50.0))


def test_wasted_polls_are_counted_once_however_many_sweeps_follow():
    policy = make_policy("list")
    for second in range(5):
        situation = at(second, wasted_polls=90)
        policy.record_end(sweep_of(policy, situation, 2), situation)
    assert policy.should_sweep(at(5.0))
    situation = at(5.0, wasted_polls=191)
    policy.record_end(sweep_of(policy, situation, 2), situation)
    assert not policy.should_sweep(at(6.0))


def test_jobs_that_settled_long_ago_do_not_justify_wasted_polls():
    policy = make_policy("list")
    for situation in (at(0.0), at(1.0, settled=500), at(3_000.0, settled=500, wasted_polls=150)):
        assert policy.should_sweep(situation)
        policy.record_end(sweep_of(policy, situation, 2), situation)
    assert not policy.should_sweep(at(3_001.0, settled=500, wasted_polls=150))


def test_the_time_between_sweeps_is_twice_the_target_lag():
    policy = make_policy(lag=2.0)
    policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
    assert policy.delay(at(now=0.0, watched=1_000)) == pytest.approx(4.0)
    assert policy.delay(at(now=3.0, watched=1_000)) == pytest.approx(1.0)
    assert policy.delay(at(now=9.0, watched=1_000)) == 0


@pytest.mark.parametrize(("took", "expected"), [(0.1, 0.4), (1.0, 2.0)])
def test_sweeps_that_replace_polls_of_waits_begin_after_twice_their_duration(took, expected):
    """A page costs one request, and replaces polls of 100 jobs: the square root of 100 counts."""
    policy = make_policy()
    policy.record_end(sweep_of(policy, at(-took, watched=1_000), 10), at(0.0, watched=1_000))
    policy.start(at(0.0))
    situation = at(watched=1_000, mean_delay=4.0, replaces_waits=True)
    assert policy.delay(situation) == pytest.approx(expected)


def test_a_long_sweep_is_followed_sooner_by_the_next():
    policy = make_policy(lag=2.0)
    policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(now=0.5, watched=1_000))
    assert policy.delay(at(now=0.5, watched=1_000)) == pytest.approx(3.5 - 0.5)
    policy.record_end(sweep_of(policy, at(now=4.0, watched=1_000), 3), at(now=9.0, watched=1_000))
    assert policy.delay(at(now=4.0, watched=1_000)) == pytest.approx(2.0)


def test_a_sweep_comes_sooner_while_missing_jobs_wait_long_for_their_polls():
    for poll_wait, expected in ((0.0, 4.0), (0.5, 3.0), (9.0, 2.0)):
        policy = make_policy(lag=2.0)
        policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
        assert policy.delay(at(watched=1_000, poll_wait=poll_wait)) == pytest.approx(expected)


def test_without_a_target_lag_sweeps_are_as_frequent_as_polls_by_schedule():
    for mean_delay, expected in ((30.0, 30.0), (None, 4.0)):
        policy = make_policy(lag=None)
        policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
        assert policy.delay(at(watched=1_000, mean_delay=mean_delay)) == pytest.approx(expected)


def test_expensive_sweeps_become_rarer_up_to_a_bound():
    waits = []
    for pages in (3, 40, 300):
        policy = make_policy(lag=2.0)
        policy.record_end(sweep_of(policy, at(watched=400), pages), at(watched=400))
        policy.record_end(
            sweep_of(policy, at(now=1.0, watched=400), pages), at(now=1.0, watched=400)
        )
        waits.append(policy.delay(at(now=1.0, watched=400)))
    assert waits[0] == pytest.approx(4.0)
    assert 4 <= waits[1] <= 4.8
    assert waits[-1] == pytest.approx(4.8)  # the lag stays within 20% of the target


def test_the_next_sweep_waits_until_missing_jobs_were_polled():
    policy = make_policy(lag=2.0)
    policy.record_end(sweep_of(policy, at(watched=1_000), 3), at(watched=1_000))
    assert policy.delay(at(now=10.0, watched=1_000, polls=100)) == 0
    busy = policy.delay(at(now=11.0, watched=1_000, polls=110, pending_confirmation=500))
    assert 20 < busy < 120
    assert policy.delay(at(now=12.0, watched=1_000, polls=120, pending_confirmation=5)) == 0


def test_a_list_that_causes_too_many_wasted_polls_pauses_sweeping():
    policy = make_policy("list")
    policy.record_end(sweep_of(policy, at(), 3), at(now=1.0))
    policy.record_end(sweep_of(policy, at(now=4.0), 3), at(now=5.0, wasted_polls=90))
    assert policy.should_sweep(at(now=6.0))
    policy.record_end(sweep_of(policy, at(now=8.0), 3), at(now=9.0, wasted_polls=210))
    assert not policy.should_sweep(at(now=10.0))
    assert policy.should_sweep(at(now=80.0))


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 100), st.integers(0, 3_000), st.integers(0, 500), st.integers(0, 100)
        ),
        max_size=30,
    ),
    lag=st.none() | st.floats(0.01, 100),
    discovery=st.sampled_from(["auto", "list"]),
)
@example(steps=[(5.0 * 2**n, 10, 0, 0) for n in range(6)], lag=None, discovery="auto")
def test_delays_are_never_negative_and_pauses_end(steps, lag, discovery):
    policy, now, polls, settled, wasted_polls = make_policy(discovery, lag), 0.0, 0, 0, 0
    for passed, watched, polled, pages in steps:
        now += passed
        polls, settled, wasted_polls = (
            polls + polled,
            settled + polled // 2,
            wasted_polls + polled // 3,
        )
        situation = at(
            now,
            watched,
            polls=polls,
            settled=settled,
            wasted_polls=wasted_polls,
            pending_confirmation=polled // 4,
        )
        if not policy.should_sweep(situation):
            continue
        if pages % 7 == 0:
            policy.start(situation)
            policy.record_failure(situation)
        else:
            policy.record_end(
                sweep_of(policy, situation, 2) if watched > 20 else policy.start(situation),
                situation,
            )
        assert policy.delay(situation) >= 0
    assert policy.paused_until <= now + 3_600
    now = max(now, policy.paused_until) + 61.0
    assert policy.should_sweep(
        at(now, 1_000, polls=polls, settled=settled, wasted_polls=wasted_polls)
    )


def make_hints(durations=None, **options):
    options = {"delay": lambda _state, _now: 4.0, **options}
    return ListTrust(learning=Learning(durations=durations or Durations()), **options)


@pytest.mark.parametrize(("is_short", "rate"), [(True, None), (False, 1.0)])
def test_a_small_share_of_the_requests_checks_the_list_while_the_budget_is_short(is_short, rate):
    trust = make_hints(sweep_rate=rate)
    checks = 0
    for _ in range(1_000):  # polls, or pages if the list shows every job as active
        trust.record_request()
        checks += trust.may_check(is_short=is_short)
    assert 20 <= checks <= 50


def test_every_check_of_the_list_is_made_while_the_budget_suffices():
    trust = make_hints()
    assert all(trust.may_check(is_short=False) for _ in range(100))


def make_state(hints, *, added_at=0.0, active_at=None):
    state = JobState("a", "a", (), added_at=added_at, received_at=added_at)
    if active_at is not None:
        hints.learning.record_active(state, NOON, active_at)
    return state


def quick():
    """Return what is learnt from jobs that all take 20 s."""
    durations = Durations()
    for _ in range(500):
        durations.begin()
        durations.extend(0.0, 19.0)
        durations.end(0.0, 19.0, 20.0)
    return durations


@pytest.mark.parametrize(("share", "seconds"), [(1.0, 4.0), (0.04, 20.0), (0.0001, 300.0)])
def test_a_listed_job_is_polled_more_often_the_more_settled_jobs_the_list_keeps(share, seconds):
    """The density of polls is the square root of the share, times the density by the schedule."""
    trust = make_hints()
    state = make_state(trust, active_at=100.0)
    assert trust.next_check(state, 100.0) == 400.0
    trust.kept_share = share
    assert trust.next_check(state, 100.0) == pytest.approx(100.0 + seconds)


def test_a_new_job_waits_for_the_list_at_most_first_trust():
    hints = make_hints()
    state = make_state(hints, added_at=5.0)
    assert hints.trusted_until(state, 5.0) == 5.0 + hints.first_trust
    assert (
        hints.trusted_until(state, 100.0) == 5.0 + hints.first_trust
    )  # not put off again and again


def test_a_listed_job_is_polled_when_almost_no_job_of_its_age_is_active():
    hints = make_hints(quick())
    state = make_state(hints, active_at=5.0)
    assert 19 <= hints.trusted_until(state, 5.0) <= 25
    old = make_state(hints, active_at=500.0)
    assert 500 + 10 <= hints.trusted_until(old, 500.0) <= 500 + hints.max_trust


@pytest.mark.parametrize("ended", [2, 200, 2_000])
def test_the_list_is_trusted_beyond_the_known_ages(ended):
    """All started 20 s ago: some have settled, and the others were listed 3 s ago."""
    durations = Durations()
    for number in range(ended):
        age = 20.0 * (number + 0.5) / ended
        durations.begin()
        durations.end(0.0, max(age - 4.0, 0.0), age)
        _ = durations.distribution  # the schedule needs it after each poll
    for _ in range(3_000):
        durations.begin()
        durations.extend(0.0, 17.0)
    hints = make_hints(durations)
    for age in (17.0, 18.0, 19.9):
        state = make_state(hints, active_at=age)
        assert hints.trusted_until(state, age) == age + hints.max_trust


def test_the_list_is_never_trusted_for_longer_than_max_trust():
    hints = make_hints(max_trust=60.0)
    for active_at in (1.0, 1e4, 1e6):
        state = make_state(hints, active_at=active_at)
        assert active_at < hints.trusted_until(state, active_at) <= active_at + 60


def test_a_job_to_be_confirmed_now_does_not_wait_for_the_list():
    hints = make_hints()
    for state in (make_state(hints), make_state(hints, active_at=3.0)):
        hints.confirm_now(state)
        assert hints.trusted_until(state, 5.0) == -math.inf


def test_only_jobs_to_be_confirmed_now_are_counted_and_once_each():
    hints = make_hints()
    one, two = make_state(hints), make_state(hints)
    for _ in range(2):
        hints.confirm_now(one)
        hints.confirm_now(two)
    assert hints.pending_confirmation == 2
    hints.confirm_when_due(one)
    assert hints.pending_confirmation == 1
    assert hints.trusted_until(one, 5.0) == -math.inf
    hints.confirm_now(one)
    assert hints.pending_confirmation == 2
    for _ in range(2):
        hints.trust(one)
        hints.trust(two)
    assert hints.pending_confirmation == 0


def test_a_missing_job_is_not_polled_once_the_list_is_known_to_lag():
    hints = make_hints()
    state = make_state(hints, added_at=10.0)
    hints.confirm_now(state)
    state.missing_at = 12.0
    assert hints.trusted_until(state, 12.0) == -math.inf
    hints.list_lag = 3.0
    assert hints.trusted_until(state, 12.0) == 10.0 + hints.first_trust + 3.0
    assert hints.pending_confirmation == 0
    assert state.missing_at == math.inf


def test_poll_now_is_not_undone_by_a_list_that_lags():
    hints = make_hints(list_lag=30.0)
    state = make_state(hints, added_at=10.0)
    hints.confirm_now(state)
    assert hints.trusted_until(state, 12.0) == -math.inf


def test_a_new_job_missing_from_the_list_shows_the_lag_of_the_list():
    hints = make_hints()
    state = make_state(hints, added_at=10.0)
    state.missing_at = 12.0
    hints.record_wasted_poll(state)
    assert hints.wasted_polls == 1
    assert hints.list_lag == 0  # a single job may never be listed
    assert state.missing_at == math.inf
    state.missing_at = 20.0
    hints.record_wasted_poll(state)
    assert 2 <= hints.list_lag <= 3


@pytest.mark.parametrize(("added_at", "active_at"), [(10.0, None), (45.0, 50.0)])
def test_a_job_listed_before_or_missing_for_long_does_not_show_the_lag_of_the_list(
    added_at, active_at
):
    hints = make_hints()
    state = make_state(hints, added_at=added_at, active_at=active_at)
    state.missing_at = 100.0 if active_at is None else 52.0
    hints.record_wasted_poll(state)
    assert hints.wasted_polls == 1
    assert hints.list_lag == 0


# --- trust, at its bounds -----------------------------------------------------------------------


def test_few_checks_of_the_list_are_saved_for_later():
    trust = make_hints()
    assert trust.may_check(is_short=True), "one at first"
    assert not trust.may_check(is_short=True)
    for _ in range(33):
        trust.record_request()
    assert not trust.may_check(is_short=True)  # 0.99
    trust.record_request()
    assert trust.may_check(is_short=True)
    for _ in range(1_000):
        trust.record_request()
    saved = 0
    while trust.may_check(is_short=True):
        saved += 1
    assert saved == 4
    assert trust.may_check(is_short=False)
    for _ in range(33):
        trust.record_request()
    assert not trust.may_check(is_short=True), "less than none are not saved"
    trust.record_request()
    trust.record_request()
    assert trust.may_check(is_short=True)


def test_a_check_counts_also_while_the_budget_suffices():
    trust = make_hints()
    assert trust.may_check(is_short=False)
    assert not trust.may_check(is_short=True)


class Awaiting:
    """A subscriber of which only matters that it waits."""

    awaits = True


@pytest.mark.parametrize(
    ("missing", "awaited", "sweeping", "ignored", "is_urgent", "is_covered"),
    [
        (False, False, True, False, False, True),
        (True, False, True, False, True, False),
        (False, True, True, False, False, True),
        (False, True, True, True, True, False),
        (False, True, False, False, True, False),
        (False, False, False, False, False, False),
        (False, False, True, True, False, False),
    ],
)
def test_a_poll_is_urgent_if_the_job_is_missing_or_awaited_without_the_list(
    missing, awaited, sweeping, ignored, is_urgent, is_covered
):
    trust = make_hints(sweeping=sweeping)
    state = make_state(trust)
    state.missing_at = 5.0 if missing else math.inf
    state.subscribers = (Awaiting(),) if awaited else ()
    state.ignore_list = ignored
    assert (trust.chance(state, 6.0) == 1.0) is is_urgent
    assert trust.covers(state) is is_covered


@pytest.mark.parametrize(
    ("new_jobs", "awaited_since", "was_polled", "is_urgent"),
    [
        (31, 0.0, False, True),
        (32, 0.0, False, False),
        (32, 1.0, False, True),
        (32, 3.0, True, True),
    ],
)
def test_the_first_poll_for_a_waiter_is_not_urgent_if_the_job_is_probably_new(
    new_jobs, awaited_since, was_polled, is_urgent
):
    trust = make_hints(sweeping=False)
    for _ in range(new_jobs):
        trust.learning.durations.arrivals.record(0.5, added_at=0.0, now=1.0)
    state = make_state(trust)
    state.subscribers = (Awaiting(),)
    state.awaited_since = awaited_since
    if was_polled:
        state.first_active_age = state.last_active_age = state.polled_at = 2.0
    assert (trust.chance(state, 6.0) == 1.0) is is_urgent


@pytest.mark.parametrize(
    ("missing_at", "lag", "active_at", "is_polled"),
    [(12.9, 3.0, None, False), (13.0, 3.0, None, True), (12.9, 3.0, 11.0, True)],
)
def test_a_missing_job_is_polled_unless_it_was_too_new_to_be_listed(
    missing_at, lag, active_at, is_polled
):
    trust = make_hints(list_lag=lag)
    state = make_state(trust, added_at=10.0, active_at=active_at)
    trust.confirm_now(state)
    state.missing_at = missing_at
    assert (trust.trusted_until(state, 13.0) == -math.inf) is is_polled
    assert state.ignore_list is is_polled


def test_a_new_job_is_polled_if_new_jobs_have_usually_settled():
    trust = make_hints()
    trust.learning.first_statuses.mostly_settled = True
    assert trust.trusted_until(make_state(trust), 1.0) == -math.inf
    assert trust.trusted_until(make_state(trust, active_at=1.0), 1.0) > 1.0


@pytest.mark.parametrize(
    ("lag", "now", "until"),
    [(0.0, 1.0, 15.0), (3.0, 1.0, 18.0), (9.0, 1.0, 20.0), (0.0, 16.0, 16.0)],
)
def test_a_job_that_the_list_may_show_first_is_not_polled_for_a_while(lag, now, until):
    trust = make_hints(list_lag=lag)
    assert trust.next_check(make_state(trust, added_at=10.0), now) == until


@pytest.mark.parametrize(
    ("kept", "delay", "every"), [(0.0, 4.0, math.inf), (0.25, 4.0, 8.0), (1.0, 4.0, 4.0)]
)
def test_listed_jobs_are_polled_by_the_share_of_settled_jobs_that_are_kept(kept, delay, every):
    trust = make_hints(delay=lambda _state, _now: delay, kept_share=kept)
    assert trust.check_every(make_state(trust), 1.0) == every


@pytest.mark.parametrize(
    ("lags", "active_at", "expected"),
    [
        ([2.0], None, 0.0),
        ([2.0, 5.0], None, 2.5),  # half a second is added
        ([5.0, 2.0], None, 2.5),
        ([5.0, 5.0, 1.0], None, 5.5),
        ([2.0, 5.0], 10.5, 0.0),  # it was seen before
        ([29.4, 29.4], None, 29.9),
        ([29.5, 29.5], None, 0.0),  # too long for a lag
        ([-4.0, -4.0], None, 0.5),
    ],
)
def test_the_lag_of_the_list_is_what_two_jobs_have_shown(lags, active_at, expected):
    trust = make_hints()
    for lag in lags:
        state = make_state(trust, added_at=10.0, active_at=active_at)
        state.missing_at = 10.0 + lag
        trust.record_wasted_poll(state)
        assert state.missing_at == math.inf
    assert trust.list_lag == pytest.approx(expected)
    assert trust.wasted_polls == len(lags)


@pytest.mark.parametrize(
    ("times", "has_more", "is_last"),
    [
        ([5.0, 4.0], True, True),
        ([5.0, 10.0], True, False),  # 10 is not before 10
        ([5.0, None], True, False),
        ([50.0, 60.0], False, True),
    ],
)
def test_a_sweep_ends_at_a_page_of_jobs_older_than_all_watched_ones(times, has_more, is_last):
    sweep = begin(statuses=(PROCESSING,), watched=500)
    jobs = tuple(
        attrs.evolve(job, received_at=None if time is None else from_timestamp(time))
        for job, time in zip(page_of(["a", "b"]).jobs, times, strict=True)
    )
    page = JobPage(jobs=jobs, has_more=has_more)
    assert sweep.next_page() == (PROCESSING, 0)
    sweep.record_page(PROCESSING, 0, page, oldest=10.0)
    assert sweep.is_complete is is_last
    other = begin(statuses=(PROCESSING,))
    other.next_page()
    other.record_page(PROCESSING, 0, page)
    assert other.is_complete is not has_more


@pytest.fixture
def in_tokyo(monkeypatch):
    """Local time is 9 hours ahead of UTC."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows cannot change its time zone")
@pytest.mark.usefixtures("in_tokyo")
def test_a_naive_time_in_a_list_is_utc():
    sweep = begin(statuses=(PROCESSING,), watched=500)
    (job,) = page_of(["a"]).jobs
    naive = from_timestamp(5.0).replace(tzinfo=None)
    page = JobPage(jobs=(attrs.evolve(job, received_at=naive),), has_more=True)
    sweep.next_page()
    sweep.record_page(PROCESSING, 0, page, oldest=4.0)
    assert not sweep.is_complete
