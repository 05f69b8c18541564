"""When a sweep starts, at the bounds; `test_listing` has whole sweeps."""

import math

import pytest

from adepoll.api.models import JobPage, JobStatus, JobSummary, from_timestamp
from adepoll.watching.listing import ACTIVE, Sweep
from adepoll.watching.sweep_policy import Situation, SweepPolicy

PROCESSING, PENDING = JobStatus.PROCESSING, JobStatus.PENDING


def at(now=0.0, watched=1_000, **more):
    figures = {"settled": 0, "wasted_polls": 0, "pending_confirmation": 0, "polls": 0}
    return Situation(now=now, watched=watched, **{"mean_delay": None} | figures | more)


def policy_of(discovery="auto", lag=2.0, **options):
    return SweepPolicy(discovery=discovery, target_lag=lag, **options)


def summary(job_id):
    return JobSummary(
        job_id=job_id,
        status=PROCESSING,
        status_text="processing",
        received_at=from_timestamp(0),
        progress=0.0,
    )


def whole_sweep(policy, situation, *, pages=2, pending=0):
    """Start a sweep, and let it show this number of pages of processing jobs."""
    sweep = policy.start(situation)
    for number in range(pages - (PENDING in sweep.statuses)):
        page = JobPage(jobs=(summary(f"job-{number}"),), has_more=number < pages - 2)
        sweep.record_page(PROCESSING, number, page)
    if PENDING in sweep.statuses:
        jobs = tuple(summary(f"pending-{number}") for number in range(pending))
        sweep.record_page(PENDING, 0, JobPage(jobs=jobs, has_more=False))
    return sweep


def sweep_at(policy, now, *, took=0.0, pages=2, pending=0, **more):
    sweep = whole_sweep(policy, at(now - took, **more), pages=pages, pending=pending)
    policy.record_end(sweep, at(now, **more))
    return sweep


@pytest.mark.parametrize(
    ("discovery", "took", "pages", "missing", "pages_wait", "pauses"),
    [
        ("auto", 10.0, 20, 0, True, 0),
        ("auto", 10.0, 21, 0, True, 1),
        ("auto", 10.0, 10, 50, True, 0),
        ("auto", 10.0, 11, 50, True, 1),
        ("auto", 10.0, 21, 0, False, 0),  # the pages have delayed no poll
        ("auto", 0.9, 21, 0, True, 0),  # most of the time there is no sweep
        ("list", 10.0, 21, 0, True, 0),
    ],
)
def test_a_sweep_that_delays_polls_needs_five_active_jobs_for_each_page(
    discovery, took, pages, missing, pages_wait, pauses
):
    policy = policy_of(discovery)
    more = {"watched": 100, "pending_confirmation": missing, "pages_wait": pages_wait}
    sweep_at(policy, 10.0, took=took, pages=pages, **more)
    assert policy.pauses == pauses
    assert policy.should_sweep(at(10.0, **more)) is (not pauses)


@pytest.mark.parametrize(
    ("now", "missing", "pages_wait", "pages"),
    [
        (10.0, 0, True, 20),
        (10.0, 50, True, 10),
        (10.0, 0, False, 100),
        (2.0, 0, True, 100),  # half of the time between two sweeps
        (2.1, 0, True, 20),
    ],
)
def test_a_sweep_that_delays_polls_is_abandoned_earlier(now, missing, pages_wait, pages):
    policy = policy_of()
    policy.start(at(0.0, watched=100))
    more = {"watched": 100, "pending_confirmation": missing, "pages_wait": pages_wait}
    assert policy.max_pages(at(now, mean_delay=4.0, **more)) == pages


def test_slow_pages_that_delay_polls_count_as_many_polls_as_they_delay():
    policy = policy_of()
    policy.start(at(0.0, watched=100))
    more = {"watched": 100, "pages_wait": True, "mean_delay": 4.0}
    assert policy.max_pages(at(10.0, polls_per_page=4.0, **more)) == 5


@pytest.mark.parametrize(("now", "is_old"), [(60.0, False), (60.1, True)])
def test_a_sweep_is_out_of_date_after_a_minute(now, is_old):
    policy = policy_of()
    sweep_at(policy, 0.0)
    # With 5 watched jobs, "auto" goes on with sweeps, but does not start them.
    assert policy.should_sweep(at(now, watched=5)) is not is_old
    assert (policy.last is None) is is_old


@pytest.mark.parametrize(("watched", "sweeps"), [(2, False), (3, True)])
def test_sweeps_go_on_while_three_jobs_are_watched(watched, sweeps):
    policy = policy_of()
    sweep_at(policy, 0.0)
    assert policy.should_sweep(at(1.0, watched=watched)) is sweeps


@pytest.mark.parametrize(("pages", "sweeps"), [(10, True), (11, False)])
def test_sweeps_go_on_while_they_have_no_more_pages_than_they_replace_polls(pages, sweeps):
    policy = policy_of()
    sweep_at(policy, 0.0, pages=pages)
    assert policy.last.needed_pages == pages
    assert policy.should_sweep(at(1.0, watched=10)) is sweeps


@pytest.mark.parametrize(
    ("lag", "mean_delay", "pages"),
    [(2.0, None, 1_000), (None, 8.0, 1_000), (2.0, 8.0, 500), (2.0, 4.0, 1_000), (2.0, 0.0, 1_000)],
)
def test_a_sweep_replaces_the_polls_of_two_target_lags(lag, mean_delay, pages):
    assert policy_of(lag=lag).max_pages(at(mean_delay=mean_delay)) == pages
    assert policy_of("list", lag=lag).max_pages(at(mean_delay=mean_delay)) == 10_000


def test_before_the_first_complete_sweep_the_list_replaces_no_polls_of_settled_jobs():
    policy = policy_of()
    assert policy.max_pages(at(mean_delay=4.0, settled_share=0.75)) == 250
    sweep_at(policy, 0.0)
    assert policy.max_pages(at(mean_delay=4.0, settled_share=0.75)) == 1_000


@pytest.mark.parametrize(("now", "watched", "sweeps"), [
    (64.9, 1_999, False), (65.0, 1_999, True), (5.1, 2_000, True), (5.1, 1_999, False),
])  # fmt: skip
def test_a_pause_ends_after_a_minute_or_when_twice_as_many_jobs_are_watched(now, watched, sweeps):
    policy = policy_of()
    sweep = policy.start(at(4.0))
    sweep.max_pages = 0
    assert sweep.is_too_long
    policy.record_end(sweep, at(5.0))
    assert policy.should_sweep(at(now, watched=watched)) is sweeps
    policy.record_failure(at(200.0))
    assert not policy.should_sweep(at(209.9, watched=10**6)), "a failure is another reason"
    assert policy.should_sweep(at(210.0))


@pytest.mark.parametrize(("failures", "pauses"), [(2, 0), (3, 1)])
def test_sweeping_pauses_after_the_third_failure_in_a_row(failures, pauses):
    policy = policy_of()
    sweep_at(policy, 0.0)
    for number in range(failures):
        policy.record_failure(at(1.0 + number))
    assert policy.pauses == pauses
    assert (policy.last is None) is bool(pauses)


@pytest.mark.parametrize(("useful", "pause"), [(4, 10.0), (5, 5.0)])
def test_pauses_are_short_again_after_five_useful_sweeps(useful, pause):
    policy = policy_of()
    policy.record_failure(at(0.0))
    for number in range(useful):
        sweep_at(policy, 10.0 + number)
    policy.last = None
    policy.record_failure(at(20.0))
    assert policy.paused_until == 20.0 + pause


def test_sweeps_of_a_trial_are_not_useful():
    policy = policy_of()
    sweep_at(policy, 0.0, list_is_bad=True)
    assert (policy.is_trial, policy.pauses, policy.paused_until) == (True, 1, 60.0)
    for number in range(9):
        sweep_at(policy, 61.0 + number)
    assert (policy.is_trial, policy.pauses) == (True, 1)
    sweep_at(policy, 71.0, list_is_proven=True)
    assert not policy.is_trial
    for number in range(4):
        sweep_at(policy, 72.0 + number)
    assert policy.pauses == 0, "five sweeps, the one that ended the trial included"


@pytest.mark.parametrize(("now", "pauses"), [(90.0, 1), (90.1, 2)])
def test_a_trial_ends_half_a_minute_after_the_pause(now, pauses):
    policy = policy_of()
    sweep_at(policy, 0.0, list_is_bad=True)
    sweep_at(policy, now)
    assert policy.pauses == pauses


@pytest.mark.parametrize(
    ("wasted", "settled", "watched", "pauses"),
    [
        (100, 0, 10, 0), (101, 0, 10, 1), (150, 150, 10, 0), (151, 150, 10, 1),
        (150, 0, 150, 0), (151, 0, 150, 1), (101, 0, 101, 0),
    ],
)  # fmt: skip
def test_wasted_polls_pause_sweeping_if_they_are_many(wasted, settled, watched, pauses):
    policy = policy_of("list")
    policy.record_end(whole_sweep(policy, at(watched=watched)), at(watched=watched))
    figures = {"watched": watched, "wasted_polls": wasted, "settled": settled}
    sweep_at(policy, 1e-9, **figures)
    assert policy.pauses == pauses


def test_wasted_polls_and_settled_jobs_count_less_after_five_minutes():
    """By the factor 1/e each."""
    for wasted, pauses in ((270, 0), (272, 1)):
        policy = policy_of("list")
        sweep_at(policy, 0.0, watched=10)
        sweep_at(policy, 1e-9, watched=10, wasted_polls=wasted, settled=1_000)
        sweep_at(policy, 300.0, watched=10, wasted_polls=wasted, settled=1_000)
        assert policy.pauses == 0
        policy._settled = 0.0
        sweep_at(policy, 300.0, watched=10, wasted_polls=wasted, settled=1_000)
        assert policy.pauses == pauses


def test_the_longest_pause_is_an_hour():
    policy, now, pauses = policy_of(), 0.0, []
    for _ in range(20):
        policy.record_failure(at(now))
        pauses.append(policy.paused_until - now)
        now = policy.paused_until
    assert pauses == [min(5.0 * 2**number, 3_600.0) for number in range(20)]
    assert policy.pauses == 16


@pytest.mark.parametrize(
    ("compare_at", "delay"),
    [(math.inf, 3.0), (0.0, 3.0), (0.5, 0.0), (2.5, 1.5), (9.0, 3.0)],
)
def test_a_comparison_needs_a_sweep_but_not_within_a_second_of_the_last(compare_at, delay):
    policy = policy_of()
    sweep_at(policy, 0.0)
    assert policy.delay(at(1.0, compare_at=compare_at)) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("pending", "polls", "delay"),
    [(0, 0, 4.0), (5, 0, 4.0), (0, 10, 4.0), (5, 10, 4.0), (100, 10, 8.5087), (60, 10, 4.3052)],
)
def test_a_sweep_waits_for_the_polls_of_missing_jobs(pending, polls, delay):
    """The rate of polls is a mean over about 10 s, here of the first second."""
    policy = policy_of()
    policy.delay(at(-1.0))
    sweep_at(policy, 0.0, polls=polls)
    rate = (1 - math.exp(-0.1)) * polls
    found = policy.delay(at(0.0, pending_confirmation=pending, polls=polls))
    expected = max(4.0, pending / rate - 2.0) if polls else 4.0
    assert found == pytest.approx(expected)


def test_without_a_rate_of_polls_a_sweep_waits_for_one_interval():
    policy = policy_of()
    sweep_at(policy, 0.0)
    assert policy.delay(at(9.0)) == 0.0
    assert policy.delay(at(9.0, pending_confirmation=1)) == 2.0  # half of 4 s


def test_a_failed_sweep_is_repeated_one_second_after_its_start():
    policy = policy_of()
    sweep_at(policy, 0.0)
    policy.start(at(4.0))
    policy.record_failure(at(4.25))
    assert policy.delay(at(4.25)) == 0.75
    assert policy.delay(at(6.0)) == 0.0


@pytest.mark.parametrize(("took", "rate"), [(1.0, None), (2.0, None), (2.25, 2 / 2.25)])
def test_a_sweep_is_slow_if_it_takes_over_half_of_the_interval(took, rate):
    policy = policy_of(lag=3.0)
    sweep = sweep_at(policy, 10.0, took=took)
    every = 2 * (3.0 - took / 2)
    found = policy.short_rate(sweep, at(10.0))
    assert found == (pytest.approx(rate) if rate else None)
    assert (took > every / 2) is (rate is not None)


@pytest.mark.parametrize(
    ("mean_delay", "watched", "poll_wait", "every"),
    [
        (None, 1_000, 0.0, 4.0),
        (60.0, 8, 0.0, 30.0),  # divided by the square root of 4 jobs per page
        (60.0, 1, 0.0, 60.0),
        (60.0, 0, 0.0, 60.0),
        (60.0, 1_000, 0.5, 3.0),
        (60.0, 1_000, 9.0, 2.0),
        (8.0, 2, 0.0, 8.0),
    ],
)
def test_the_interval_depends_on_the_jobs_of_each_page(mean_delay, watched, poll_wait, every):
    policy = policy_of("list")
    policy.start(at(0.0))
    situation = at(0.0, watched=watched, mean_delay=mean_delay, poll_wait=poll_wait)
    expected = (
        max(mean_delay * math.sqrt(2 / watched), every) if watched > 8 and mean_delay else every
    )
    assert policy.delay(situation) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("took", "every"), [(0.5, 1.0), (1.0, 2.0), (1.2, 2.4), (1.5, 2.5), (5.0, 2.0)]
)
def test_sweeps_in_place_of_waits_begin_after_twice_their_duration_or_as_usual(took, every):
    policy = policy_of()
    sweep_at(policy, 0.0, took=took)
    policy.start(at(0.0))
    found = policy.delay(at(0.0, watched=10**6, mean_delay=4.0, replaces_waits=True))
    assert found == pytest.approx(every)


@pytest.mark.parametrize(
    ("discovery", "pages", "settled", "factor"),
    [
        ("auto", 20, 0, 1.0),  # one request for five jobs
        ("auto", 22, 0, 1.1),
        ("auto", 30, 0, 1.2),
        ("auto", 30, 50, 1.0),
        ("list", 30, 0, 1.0),
    ],
)
def test_sweeps_are_up_to_a_fifth_rarer_if_they_cost_many_requests(
    discovery, pages, settled, factor
):
    policy = policy_of(discovery)
    policy.delay(at(-1e-9, watched=100))
    sweep_at(policy, 0.0, watched=100, pages=pages, settled=settled)
    found = policy.delay(at(0.0, watched=100, settled=settled))
    assert found == pytest.approx(4.0 * factor)


def test_requests_count_less_after_five_minutes():
    policy = policy_of()
    sweep_at(policy, 0.0, watched=100, pages=22 * 3)
    policy.start(at(300.0, watched=100))
    expected = 4.0 * max(22 * 3 / math.e / 20, 1.0)
    assert 4.0 < expected < 4.9
    found = policy.delay(at(300.0, watched=100))
    assert found == pytest.approx(min(expected, 4.8))


def test_pending_jobs_are_listed_by_every_eighth_sweep_while_there_are_none():
    policy, listed = policy_of(), []
    for number in range(24):
        sweep = sweep_at(policy, float(number))
        listed.append(PENDING in sweep.statuses)
    assert listed == [True] * 3 + [False] * 4 + [True] + [False] * 7 + [True] + [False] * 7 + [True]
    sweep_at(policy, 24.0)
    assert sweep_at(policy, 25.0, wasted_polls=1).statuses == {*ACTIVE}, "a poll was wasted"
    assert sweep_at(policy, 26.0, wasted_polls=1).statuses == {*ACTIVE}


def test_pending_jobs_are_listed_again_by_each_sweep_once_there_is_one():
    policy = policy_of()
    for number in range(7):
        sweep_at(policy, float(number))
    assert PENDING in sweep_at(policy, 7.0, pending=1).statuses
    assert all(PENDING in sweep_at(policy, 8.0 + number).statuses for number in range(3))
    assert PENDING not in sweep_at(policy, 11.0).statuses


def test_the_next_sweep_expects_the_pages_of_the_last_one():
    policy = policy_of()
    first = policy.start(at(0.0, watched=250))
    assert [first.next_page() for _ in range(4)] == [
        (PENDING, 0), (PROCESSING, 0), (PROCESSING, 1), None,
    ]  # fmt: skip
    sweep_at(policy, 0.0, pages=5)
    assert not policy.last.job_ids, "the ids would take memory"
    second = policy.start(at(4.0, watched=250))
    assert [second.next_page() for _ in range(6)] == [
        (PENDING, 0), *((PROCESSING, number) for number in range(4)), None,
    ]  # fmt: skip


# --- the pages of one sweep ---------------------------------------------------------------------


def page(*job_ids, has_more=True):
    return JobPage(jobs=tuple(map(summary, job_ids)), has_more=has_more)


def test_a_sweep_ends_after_three_pages_without_new_jobs():
    sweep = Sweep.start(0.0, max_pages=100, watched=500, statuses=(PROCESSING,))
    for number in range(5):
        assert sweep.next_page() == (PROCESSING, number)
    assert sweep.in_flight == 5
    for number, jobs in enumerate(["ab", "a", "c", "b", "c"]):
        sweep.record_page(PROCESSING, number, page(*jobs))
        assert not sweep.is_complete
    assert sweep.next_page() == (PROCESSING, 5)
    sweep.record_page(PROCESSING, 5, page("a"))
    assert sweep.is_complete
    assert (sweep.pages, sweep.in_flight, sweep.needed_pages) == (6, 0, 6)
    assert sweep.jobs_of(PROCESSING) == 7
    assert sweep.pages_of(PENDING) == 0


def test_more_pages_are_requested_the_more_came_unexpectedly():
    sweep = Sweep.start(0.0, max_pages=100, watched=199, statuses=(PROCESSING,))
    requested = []
    for number in range(4):
        while (wanted := sweep.next_page()) is not None:
            requested.append(wanted[1])
        sweep.record_page(PROCESSING, number, page(f"job-{number}"))
        requested.append("received")
    assert requested == [0, "received", 1, "received", 2, 3, "received", 4, 5, "received"]


def test_no_page_beyond_the_maximum_is_requested():
    sweep = Sweep.start(0.0, max_pages=2, watched=900, statuses=(PROCESSING,))
    for number in range(2):
        assert sweep.next_page() == (PROCESSING, number)
        assert not sweep.is_too_long
        sweep.record_page(PROCESSING, number, page(f"job-{number}"))
    assert sweep.next_page() is None
    assert sweep.is_too_long


def test_pages_beyond_the_end_of_the_list_are_not_needed():
    sweep = Sweep.start(0.0, max_pages=100, watched=300, statuses=(PROCESSING,))
    for _ in range(3):
        sweep.next_page()
    sweep.record_page(PROCESSING, 2, page(has_more=True))
    assert sweep.next_page() is None
    sweep.record_page(PROCESSING, 1, page("b", has_more=False))
    sweep.record_page(PROCESSING, 0, page("a"))
    assert sweep.is_complete
    assert sweep.needed_pages == sweep.pages_of(PROCESSING) == 2
