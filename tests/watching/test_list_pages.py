"""What follows from the order of the jobs in the list, and from its lag, while polls are few."""

from random import Random

import pytest
from subscribing import add_id, subscription_of

from adepoll.api.models import JobPage, JobStatus, JobSummary, from_timestamp
from adepoll.scheduling.schedules import Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning
from adepoll.watching.list_hints import ListHints
from adepoll.watching.listing import Sweep
from adepoll.watching.page_gaps import PageGaps
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.watched_jobs import WatchedJobs

INTERVAL = 6.0
PROCESSING, PENDING = JobStatus.PROCESSING, JobStatus.PENDING


def sweep(gaps, states, *pages, status=PROCESSING):
    """Record a sweep whose pages show jobs by their letters; return the letters of those moved."""
    gaps.sweep_started()
    for number, letters in reversed([*enumerate(pages)]):  # pages arrive in any order
        gaps.record_page(status, number, [states[letter] for letter in letters])
    return "".join(sorted(state.job_id for state in gaps.sweep_ended()))


@pytest.mark.parametrize(
    ("pages", "moved"),
    [
        (("abc", "def", "ghi"), ""),  # all are still there
        (("abc", "efg", "hi"), "d"),  # one of a, b, c settled after the first page was read
        (("abc", "fgh", "i"), "de"),
        (("ac", "efg", "i"), "dh"),  # b was known to have settled
        (("abd", "efg", "hi"), ""),  # c settled before the first page was read
        (("abc", "def"), ""),  # the end of the list is not between two pages
        (("xabc", "efg", "hi"), "d"),
        (("abx", "yef"), ""),  # nothing is known of the order of x and y
        (("abx", "efg"), ""),
        (("abc", "yfg"), ""),
        (("ghi", "abc"), ""),  # the list has another order now
        (("abc", "", "fgh"), "de"),
        (("abc",), ""),
        ((), ""),
    ],
)
def test_jobs_between_two_pages_may_have_moved(pages, moved):
    states = {letter: JobState(letter, letter, (), 0.0, 0.0) for letter in "abcdefghixy"}
    gaps = PageGaps()
    assert not sweep(gaps, states, "abc", "def", "ghi")
    assert sweep(gaps, states, *pages) == moved
    assert not sweep(gaps, states, *pages), "a job is given the benefit of the doubt once"


def test_pages_of_two_statuses_are_not_neighbours():
    states = {letter: JobState(letter, letter, (), 0.0, 0.0) for letter in "abcd"}
    gaps = PageGaps()
    for shown in ("ab", "cd"), ("a", "d"):
        for status, letters in zip((PENDING, PROCESSING), shown, strict=True):
            gaps.record_page(status, 0, [states[letter] for letter in letters])
        assert not gaps.sweep_ended()


def test_pages_of_a_sweep_that_failed_are_forgotten():
    states = {letter: JobState(letter, letter, (), 0.0, 0.0) for letter in "abcdef"}
    gaps = PageGaps()
    sweep(gaps, states, "abc", "def")
    gaps.record_page(PROCESSING, 0, [states["a"]])
    assert not sweep(gaps, states, "abc", "def")


def test_pending_jobs_are_requested_before_others():
    """A job that starts during a sweep must not be missed."""
    first = Sweep.start(0.0, max_pages=10, watched=250)
    assert [first.next_page() for _ in range(3)] == [
        (PENDING, 0),
        (PROCESSING, 0),
        (PROCESSING, 1),
    ]


def make_sweeping(letters, *, rate=None):
    schedule_calls = ScheduleCalls(
        schedule=Fixed(interval=INTERVAL, jitter=0), rng=Random(0), learning=Learning()
    )
    watched_jobs = WatchedJobs(schedule_calls, FailureRules(not_found_grace=15.0, patience=60.0))
    subscription = subscription_of(limit=1_000, every_change=False)
    watched_jobs.list_hints.start_sweeping()
    watched_jobs.list_trust.sweep_rate = rate
    for letter in letters:
        add_id(subscription, letter)
        watched_jobs.subscribe(letter, letter, subscription, 0.0, can_wait=True)
    for _ in range(5):  # the list is proven: no listed job is polled to check it
        watched_jobs.list_checks.accuracy.ends.count(late=False)
    return watched_jobs


def read(watched_jobs, now, *pages, pages_waited=False):
    """Sweep the list; return the number of missing jobs."""
    hints: ListHints = watched_jobs.list_hints
    hints.sweep_started()
    for number, letters in enumerate(pages):
        jobs = [
            JobSummary(
                job_id=letter,
                status=PROCESSING,
                status_text="processing",
                received_at=from_timestamp(0),
                progress=0.0,
            )
            for letter in letters
        ]
        hints.page_listed(PROCESSING, number, JobPage(jobs=tuple(jobs), has_more=True), now, now)
    return sum(hints.sweep_ended(now, now, pages_waited=pages_waited))


@pytest.mark.parametrize(
    ("rate", "pages_waited", "missing"),
    [(0.5, False, [1, 2]), (None, True, [1, 2]), (None, False, [2, 2])],
)
def test_a_job_between_two_pages_is_not_polled_while_the_budget_is_short(
    rate, pages_waited, missing
):
    """With enough budget, its poll costs little, and the lag bound holds."""
    watched_jobs = make_sweeping("abcdef", rate=rate)
    assert read(watched_jobs, 1.0, "abc", "def") == 0
    found = [read(watched_jobs, now, "ac", "ef", pages_waited=pages_waited) for now in (5.0, 9.0)]
    assert found == missing
    assert watched_jobs.get("b").due == 5.0
    assert watched_jobs.get("d").due == (9.0 if missing == [1, 2] else 5.0)


def test_a_late_list_is_useful_while_polls_would_be_later():
    """With 1,000 jobs and 2 requests/s, each job would be polled every 500 s."""
    watched_jobs = make_sweeping([f"job-{number}" for number in range(1_000)], rate=2.0)
    accuracy, throughput = watched_jobs.list_checks.accuracy, watched_jobs.schedule_calls.throughput
    read(watched_jobs, 1.0)
    assert accuracy.limit == 3.2, "no poll waits: pages alone are slow"
    for number in range(30):
        throughput.record(number - 10.0, float(number), settled=False)
    read(watched_jobs, 30.0)
    assert accuracy.limit == 125.0
    watched_jobs.list_trust.sweep_rate = None
    read(watched_jobs, 34.0)
    assert 125.0 < accuracy.limit < 500.0, "1 poll/s was made"


@pytest.mark.parametrize("replaced", [False, True])
def test_few_listed_jobs_are_polled_while_the_list_replaces_polls_of_waits(replaced):
    """These polls would take the budget of the jobs that are missing from the list."""
    letters = [chr(number) for number in range(ord("A"), ord("z"))]
    watched_jobs = make_sweeping(letters)
    if replaced:
        watched_jobs.list_hints.waits_replaced_until = 100.0
    watched_jobs.list_checks.accuracy.restart()  # the list is not proven
    read(watched_jobs, 20.0, letters)
    samples = len([*iter(lambda: watched_jobs.pop_due(20.0), None)])
    assert samples == (1 if replaced else 5)


@pytest.mark.parametrize("lag", [0.0, 5.0])
def test_jobs_that_a_late_list_showed_are_polled_sooner_when_sweeps_end(lag):
    """The page showed them as they were before; the lag bound counts from then."""
    watched_jobs = make_sweeping("a")
    read(watched_jobs, 10.0, "a")
    watched_jobs.list_trust.list_lag = lag
    for _ in range(9 if lag else 0):
        watched_jobs.list_checks.accuracy.ends.count(late=True)
    for _ in watched_jobs.list_hints.stop_sweeping(11.0):
        pass
    assert watched_jobs.get("a").due <= 10.0 + INTERVAL - lag


def test_listed_jobs_are_polled_earlier_once_the_list_was_found_to_keep_settled_jobs():
    letters = [f"job-{number}" for number in range(50)]
    watched_jobs = make_sweeping(letters)
    read(watched_jobs, 1.0, letters)
    read(watched_jobs, 5.0, letters)
    states = [watched_jobs.get(letter) for letter in letters]
    assert min(state.due for state in states) > 200.0
    kept = watched_jobs.list_checks.accuracy.kept
    kept.found, kept.expected = 1.0, 25.0
    read(watched_jobs, 9.0, letters)
    latest = 9.0 + INTERVAL * 5
    assert max(state.due for state in states) <= latest
    assert max(state.due for state in states) - min(state.due for state in states) > INTERVAL
    read(watched_jobs, 13.0, letters)
    assert max(state.due for state in states) <= latest


@pytest.mark.parametrize(("settled", "moved"), [(200, 200), (201, 0)])
def test_so_many_jobs_between_two_pages_mean_that_the_order_has_changed(settled, moved):
    """If the order is always another one, a sweep would take quadratic time."""
    states = [JobState(f"job-{number}", "", (), 0.0, 0.0) for number in range(500)]
    gaps = PageGaps()
    for number in range(5):
        gaps.record_page(PROCESSING, number, states[100 * number : 100 * number + 100])
    assert not gaps.sweep_ended()
    gaps.record_page(PROCESSING, 0, states[:50])
    gaps.record_page(PROCESSING, 1, states[50 + settled :])
    assert len(gaps.sweep_ended()) == moved
