"""How late and how complete a list is, by jobs that are known otherwise."""

import math

import pytest

from adepoll.watching.list_accuracy import KeptShare, ListAccuracy, Score

LIMIT = 3.0


def make_accuracy():
    return ListAccuracy(limit=LIMIT)


def settle(accuracy, job_id, now, *, listed_until, every=1.0, is_check=False, sweeps_for=10.0):
    """Let a poll find a job settled at `now`; sweep until the list does not show the job."""
    accuracy.record_settled(job_id, now, active_at=now, is_check=is_check)
    started = now
    while started < now + sweeps_for:
        started += every
        if started <= listed_until:
            accuracy.record_listed(job_id, started)
        accuracy.record_sweep(started)


def test_nothing_is_known_at_first():
    accuracy = make_accuracy()
    assert not accuracy.is_bad
    assert not accuracy.is_proven
    assert accuracy.compare_at == math.inf


def test_a_list_that_still_shows_several_settled_jobs_after_the_limit_is_bad():
    accuracy = make_accuracy()
    for number in range(2):
        settle(accuracy, f"job{number}", 10.0, listed_until=14.0)
    assert accuracy.is_bad


def test_a_list_that_drops_settled_jobs_within_the_limit_is_proven():
    accuracy = make_accuracy()
    for number in range(3):
        settle(accuracy, f"job{number}", 10.0 * number, listed_until=10.0 * number + 2)
    assert accuracy.is_proven
    assert not accuracy.is_bad


def test_a_list_is_in_time_whatever_an_earlier_incomplete_sweep_has_shown():
    accuracy = make_accuracy()
    accuracy.record_settled("job", 10.0, active_at=10.0)
    accuracy.sweep_started()
    accuracy.record_listed("job", 11.0)  # then a page cannot be read, so that the sweep fails
    accuracy.sweep_started()
    accuracy.record_sweep(12.0)
    assert accuracy.ends.in_time == 1


def test_a_single_job_that_stays_in_the_list_does_not_make_the_list_bad():
    accuracy = make_accuracy()
    settle(accuracy, "odd", 10.0, listed_until=math.inf)
    assert not accuracy.is_bad
    for number in range(20):
        settle(accuracy, f"job{number}", 10.0, listed_until=10.0)
    settle(accuracy, "odd too", 10.0, listed_until=math.inf)
    assert not accuracy.is_bad
    assert accuracy.is_proven


def test_a_job_that_no_sweep_within_the_limit_could_show_says_nothing():
    accuracy = make_accuracy()
    for number in range(9):
        settle(accuracy, f"job{number}", 10.0, listed_until=0.0, every=60.0)
    assert not accuracy.is_proven
    assert not accuracy.is_bad


def test_active_jobs_that_are_missing_after_the_limit_make_the_list_bad():
    accuracy = make_accuracy()
    assert not accuracy.record_active(received_at=100.0, missing_at=102.0)
    assert 103 <= accuracy.compare_at <= 104  # then a sweep can tell
    assert accuracy.record_active(received_at=100.0, missing_at=104.0)
    assert not accuracy.is_bad
    assert accuracy.record_active(received_at=100.0, missing_at=104.0)
    assert accuracy.is_bad
    accuracy.record_sweep(104.0)
    assert accuracy.compare_at == math.inf


def test_a_proven_list_needs_no_sweep_for_a_new_job():
    accuracy = make_accuracy()
    for number in range(3):
        settle(accuracy, f"job{number}", 10.0 * number, listed_until=10.0 * number + 2)
    assert accuracy.is_proven
    assert not accuracy.record_active(received_at=100.0, missing_at=102.0)
    assert accuracy.compare_at == math.inf


def test_a_poll_of_an_unlisted_job_that_has_settled_asks_for_a_sweep_after_the_limit():
    accuracy = make_accuracy()
    accuracy.record_settled("a", 10.0, active_at=10.0)
    assert accuracy.compare_at == 13.0


def test_a_poll_of_a_listed_job_that_has_settled_asks_for_two_sweeps():
    """The first finds other jobs that have settled; the second shows that the list is late."""
    accuracy = make_accuracy()
    accuracy.record_settled("a", 10.0, active_at=10.0, sweep_now=True)
    assert accuracy.compare_at == 10.0
    accuracy.record_listed("a", 11.0)
    accuracy.record_sweep(11.0)
    assert accuracy.compare_at == 13.0
    accuracy.record_listed("a", 13.0)
    accuracy.record_sweep(13.0)
    assert accuracy.compare_at == math.inf
    assert accuracy.ends.is_suspicious


def test_many_listed_jobs_are_polled_when_the_list_shows_a_settled_job():
    accuracy = make_accuracy()
    accuracy.record_settled("a", 10.0, active_at=10.0, sweep_now=True)
    assert accuracy.samples(50, age=30.0, settled=1) < 10  # no sweep has begun since
    accuracy.record_listed("a", 11.0)
    accuracy.record_sweep(11.0)
    assert accuracy.samples(50, age=30.0, settled=0) == 50
    assert accuracy.samples(5_000, age=30.0, settled=0) == 128
    for job_id in ("b", "c", "d"):
        accuracy.record_settled(job_id, 11.2, active_at=10.0, sweep_now=True)
    assert accuracy.samples(5_000, age=30.0, settled=3) < 50  # four jobs are enough to compare


def test_a_restart_keeps_the_jobs_that_settled_recently():
    accuracy = make_accuracy()
    for number in range(2):
        settle(accuracy, f"job{number}", 10.0, listed_until=20.0)
        accuracy.record_settled(f"later{number}", 30.0, active_at=30.0)
    assert accuracy.is_bad
    accuracy.restart()
    assert not accuracy.is_bad
    for number in range(2):
        accuracy.record_listed(f"later{number}", 90.0)
    assert accuracy.is_bad


def check(accuracy, polls, *, kept, listed_until=math.inf):
    """Poll listed jobs that would have settled for certain if the list never dropped a job."""
    for number in range(polls):
        accuracy.kept.record_poll(1.0)
        if number < kept:
            settle(
                accuracy,
                f"kept{number}",
                100.0 * number,
                listed_until=100.0 * number + listed_until,
                is_check=True,
                sweeps_for=80.0,
            )


def test_a_list_that_keeps_a_small_share_of_the_settled_jobs_is_used_and_its_share_is_known():
    accuracy = proven()
    check(accuracy, 60, kept=3)
    assert accuracy.kept.value == pytest.approx(3 / 60, rel=0.2)
    assert accuracy.is_proven
    assert not accuracy.is_bad


def test_a_list_that_keeps_a_large_share_of_the_settled_jobs_is_bad():
    accuracy = proven()
    check(accuracy, 4, kept=1)
    assert not accuracy.is_bad, "one job can be chance"
    check(accuracy, 4, kept=4)
    assert accuracy.kept.value > 0.5
    assert accuracy.is_bad
    assert not accuracy.is_proven
    accuracy.restart()
    assert accuracy.kept.value == 0
    assert not accuracy.is_bad


def test_a_list_that_drops_settled_jobs_late_does_not_keep_them():
    accuracy = proven()
    check(accuracy, 60, kept=2, listed_until=8.0)
    assert accuracy.kept.value == 0
    assert accuracy.is_bad


def test_a_job_that_was_kept_for_a_minute_counts_although_the_list_drops_it_then():
    accuracy = proven()
    check(accuracy, 20, kept=1, listed_until=70.0)
    assert accuracy.kept.value == pytest.approx(0.05, rel=0.2)


def test_a_list_that_kept_a_job_long_ago_is_trusted_again():
    accuracy = proven()
    check(accuracy, 20, kept=1)
    assert accuracy.kept.value
    check(accuracy, 300, kept=0)
    assert not accuracy.kept.value


def proven():
    accuracy = make_accuracy()
    for number in range(3):
        settle(accuracy, f"job{number}", 10.0, listed_until=0.0)
    assert accuracy.is_proven
    return accuracy


def test_a_list_that_shows_all_jobs_although_some_should_have_settled_is_not_proven_any_more():
    accuracy = proven()
    accuracy.record_drops(0, 20.0, expected=2.0)
    assert accuracy.is_proven
    accuracy.record_drops(1, 24.0, expected=2.0)
    assert accuracy.no_drop_since == 24.0
    accuracy.record_drops(0, 28.0, expected=2.0)
    assert accuracy.is_proven
    accuracy.record_drops(0, 32.0, expected=3.0)
    assert not accuracy.is_proven
    assert not accuracy.is_bad
    assert accuracy.no_drop_since == 24.0
    accuracy.record_drops(1, 36.0, expected=2.0)  # one drop after a long time proves nothing
    assert not accuracy.is_proven


def test_a_doubted_list_is_proven_again_if_polls_find_that_its_jobs_are_active():
    accuracy = proven()
    accuracy.record_drops(0, 20.0, expected=5.0)
    for _ in range(29):
        accuracy.record_still_active(0.1)
    accuracy.record_drops(0, 24.0, expected=1.0)
    assert not accuracy.is_proven
    accuracy.record_still_active(0.2)
    accuracy.record_drops(0, 28.0, expected=1.0)
    assert accuracy.is_proven
    assert accuracy.no_drop_since == 28.0


def test_a_listed_job_that_has_settled_keeps_the_list_doubted():
    accuracy = proven()
    accuracy.record_drops(0, 20.0, expected=5.0)
    for _ in range(29):
        accuracy.record_still_active(0.1)
    accuracy.record_settled("job", 22.0, active_at=12.0)
    accuracy.record_still_active(0.2)
    accuracy.record_drops(0, 24.0, expected=1.0)
    assert not accuracy.is_proven


@pytest.mark.parametrize("listed", [10, 100, 1_000, 100_000])
def test_samples_are_few_and_fewer_once_the_list_is_proven(listed):
    accuracy = make_accuracy()
    first = sum(accuracy.samples(listed, age=10.0, settled=0) for _ in range(10))
    assert 10 <= first <= max(min(1.5 * listed ** (1 / 3), 32) * 10, 10)
    old = sum(accuracy.samples(listed, age=3_000.0, settled=0) for _ in range(10))
    assert old <= first
    for number in range(3):
        settle(accuracy, f"job{number}", 10.0, listed_until=0.0)
    assert sum(accuracy.samples(listed, age=10.0, settled=0) for _ in range(40)) == 10
    assert accuracy.samples(listed, age=10.0, settled=100) in (15, 16)
    for _ in range(40):
        accuracy.kept.record_poll(1.0)
    assert accuracy.samples(listed, age=10.0, settled=100) in (3, 4)


@pytest.mark.parametrize(("chance", "samples"), [(0.05, 0), (0.1, 20), (0.5, 4)])
def test_a_proven_list_is_checked_soon_if_it_may_hide_many_settled_jobs(chance, samples):
    """The jobs that the list has dropped say nothing about those that it goes on showing."""
    accuracy = proven()
    for _ in range(2):
        assert accuracy.samples(300, age=30.0, settled=0, chance=chance) - samples in (0, 1)
    for _ in range(7):
        accuracy.kept.record_poll(1.0)
    assert accuracy.samples(300, age=30.0, settled=0, chance=chance) <= 1


def test_a_proven_list_that_shows_one_settled_job_needs_no_more_samples():
    """A list that is some seconds late, but less than the limit, shows such a job after a poll."""
    accuracy = proven()
    accuracy.record_settled("a", 20.0, active_at=19.0)
    accuracy.record_listed("a", 21.0)
    accuracy.record_sweep(21.0)
    assert accuracy.samples(50, age=30.0, settled=0) == 0


def samples_of(accuracy, *, age=30.0, sweeps=10, listed=512):
    return sum(accuracy.samples(listed, age=age, settled=0) for _ in range(sweeps))


def test_young_jobs_which_have_hardly_settled_need_few_samples():
    assert samples_of(make_accuracy(), age=4.0) <= 0.1 * samples_of(make_accuracy(), age=16.0)


def test_each_job_that_a_list_drops_in_time_saves_samples():
    late, in_time = make_accuracy(), make_accuracy()
    for _ in range(3):
        in_time.arrivals.count(late=False)
    for accuracy in (late, in_time):
        accuracy.dropped = 2
    assert samples_of(in_time) < samples_of(late) / 2
    assert samples_of(late) == samples_of(make_accuracy())


def test_many_listed_jobs_are_polled_once_the_list_has_shown_a_settled_job_for_too_long():
    accuracy = make_accuracy()
    settle(accuracy, "job", 10.0, listed_until=14.0)
    assert not accuracy.is_bad
    assert accuracy.samples(50, age=30.0, settled=1) == 50
    assert accuracy.samples(5_000, age=30.0, settled=1) == 128


def test_a_list_that_dropped_a_job_before_a_late_poll_is_not_known_to_be_in_time():
    """The job can have settled long before the poll, and the list can have dropped it late."""
    for active_at, in_time in ((8.0, True), (4.0, False)):
        accuracy = make_accuracy()
        for number in range(3):
            accuracy.record_settled(f"job{number}", 10.0, active_at=active_at)
        accuracy.record_sweep(10.5)
        assert accuracy.is_proven is in_time


def dropping():
    """Return an object for a list that has dropped many jobs; how soon, is not known."""
    accuracy = make_accuracy()
    accuracy.dropped = 10
    return accuracy


def test_a_list_is_proven_if_polls_of_its_jobs_find_fewer_settled_jobs_than_a_late_list_had():
    accuracy = dropping()
    accuracy.record_expected(2.9)
    assert not accuracy.is_proven
    accuracy.record_expected(0.1)
    assert accuracy.is_proven


def test_settled_jobs_that_polls_find_in_the_list_count_against_the_proof():
    accuracy = dropping()
    accuracy.record_expected(3.9)
    settle(accuracy, "job", 10.0, listed_until=10.0, every=LIMIT + 2.0, is_check=True)
    assert not accuracy.is_proven
    accuracy.record_expected(0.1)
    assert accuracy.is_proven


def test_a_settled_job_that_the_list_still_shows_must_be_dropped_before_the_list_is_proven():
    accuracy = dropping()
    accuracy.record_expected(9.0)
    accuracy.record_settled("job", 10.0, active_at=0.0, is_check=True)
    assert not accuracy.is_proven
    accuracy.record_listed("job", 11.0)
    accuracy.record_sweep(11.0)
    assert not accuracy.is_proven
    assert accuracy.compare_at == 10.0 + LIMIT
    accuracy.record_sweep(10.0 + LIMIT)
    assert accuracy.is_proven


def test_few_settled_jobs_are_remembered():
    accuracy = make_accuracy()
    for number in range(10_000):
        accuracy.record_settled(f"job{number}", 10.0, active_at=9.0)
    for number in range(10_000):
        accuracy.record_listed(f"job{number}", 20.0)
    assert accuracy.ends.late < 65


# --- at the bounds ------------------------------------------------------------------------------


def score(late, in_time):
    result = Score()
    result.late, result.in_time = float(late), float(in_time)
    return result


@pytest.mark.parametrize(
    ("late", "in_time", "is_suspicious", "is_bad"),
    [
        (0, 0, False, False),
        (1, 0, True, False),
        (1.5, 0, True, False),
        (1.6, 0, True, True),
        (3, 17, False, False),  # 15%
        (3, 16.9, True, True),
    ],
)
def test_a_score_is_bad_above_15_percent_and_one_and_a_half_jobs(
    late, in_time, is_suspicious, is_bad
):
    assert score(late, in_time).is_suspicious is is_suspicious
    assert score(late, in_time).is_bad is is_bad


def test_older_jobs_count_a_hundredth_less_in_a_score_with_each_further_one():
    counted = Score()
    counted.count(late=True)
    counted.count(late=False)
    assert (counted.late, counted.in_time) == (0.99, 1.0)
    counted.count(late=True)
    assert (counted.late, counted.in_time) == (pytest.approx(1.9801), 0.99)


@pytest.mark.parametrize(
    ("found", "expected", "value", "is_large"),
    [
        (0.49, 0.0, 0.0, False),
        (0.5, 0.0, 0.5, True),
        (0.5, 4.0, 0.125, False),
        (3.0, 10.0, 0.3, False),
        (3.1, 10.0, 0.31, True),
        (9.0, 2.0, 1.0, True),
    ],
)
def test_the_kept_share_is_known_from_half_a_job_on(found, expected, value, is_large):
    kept = KeptShare(found, expected)
    assert kept.value == value
    assert kept.is_large is is_large


def test_older_polls_count_less_in_the_kept_share():
    kept = KeptShare(2.0, 10.0)
    kept.record_poll(0.5)
    assert (kept.found, kept.expected) == (2.0 * (1 - 0.0025), 10.0 * (1 - 0.0025) + 0.5)


@pytest.mark.parametrize(
    ("attribute", "late", "is_bad"),
    [("ends", 2, True), ("arrivals", 2, True), ("ends", 1, False), ("arrivals", 1, False)],
)
def test_a_list_is_bad_by_its_ends_or_its_arrivals(attribute, late, is_bad):
    accuracy = make_accuracy()
    for _ in range(late):
        getattr(accuracy, attribute).count(late=True)
    assert accuracy.is_bad is is_bad


@pytest.mark.parametrize(("found", "is_bad"), [(1.5, False), (1.6, True)])
def test_a_list_is_bad_if_it_keeps_two_jobs_and_many(found, is_bad):
    accuracy = make_accuracy()
    accuracy.kept.found, accuracy.kept.expected = found, 2.0
    assert accuracy.kept.is_large
    assert accuracy.is_bad is is_bad
    accuracy.kept.expected = 20.0
    assert not accuracy.is_bad


@pytest.mark.parametrize(
    ("ends", "arrivals", "dropped", "expected", "is_proven"),
    [
        (2.5, 0.0, 0, 0.0, True),
        (2.4, 0.0, 0, 3.0, False),  # it may never drop a job
        (0.0, 2.5, 3, 0.0, True),
        (0.0, 2.4, 3, 0.0, False),  # it may be late
        (0.0, 2.5, 2, 0.0, False),
        (0.0, 0.0, 3, 3.0, True),
        (0.0, 0.0, 3, 2.9, False),
        (1.3, 1.3, 3, 0.0, False),
    ],
)
def test_a_list_is_proven_if_it_drops_jobs_and_is_in_time(
    ends, arrivals, dropped, expected, is_proven
):
    accuracy = make_accuracy()
    accuracy.ends.in_time, accuracy.arrivals.in_time = ends, arrivals
    accuracy.dropped = dropped
    accuracy.record_expected(expected)
    assert accuracy.is_proven is is_proven


@pytest.mark.parametrize("reason", ["ends", "arrivals", "kept"])
def test_a_suspicious_list_is_not_proven(reason):
    accuracy = proven()
    assert accuracy.is_proven
    if reason == "kept":
        accuracy.kept.found = 0.5
    else:
        getattr(accuracy, reason).late = 1.0
    accuracy.dropped = 9
    assert not accuracy.is_proven


@pytest.mark.parametrize(("expected", "is_proven"), [(4.59, True), (4.6, False)])
def test_a_list_is_doubted_if_4_6_jobs_should_be_missing(expected, is_proven):
    accuracy = proven()
    accuracy.record_drops(0, 20.0, expected=expected)
    assert accuracy.is_proven is is_proven


def test_a_missing_job_of_a_doubted_list_starts_the_proof_again():
    accuracy = proven()
    accuracy.dropped = 9
    accuracy.record_expected(9.0)
    accuracy.record_drops(0, 20.0, expected=4.6)
    accuracy.record_drops(1, 24.0, expected=1.0)
    assert not accuracy.is_proven
    assert (accuracy.no_drop_since, accuracy.dropped, accuracy.ends.in_time) == (24.0, 0, 0.0)
    accuracy.dropped = 3
    accuracy.record_expected(3.0)
    assert accuracy.is_proven, "the doubt is over"
    accuracy.record_drops(1, 28.0, expected=1.0)
    assert (accuracy.is_proven, accuracy.dropped) == (True, 3)


@pytest.mark.parametrize(("explained", "since"), [(2.9, -math.inf), (3.0, 20.0)])
def test_a_sweep_without_missing_jobs_is_explained_by_three_polls_of_active_jobs(explained, since):
    accuracy = proven()
    accuracy.record_still_active(explained)
    accuracy.record_drops(0, 20.0, expected=4.6)
    assert accuracy.no_drop_since == since
    assert accuracy.is_proven is (since == 20.0)


def test_an_explanation_counts_once():
    accuracy = proven()
    accuracy.record_still_active(3.0)
    accuracy.record_drops(0, 20.0, expected=4.6)
    accuracy.record_drops(0, 24.0, expected=4.6)
    assert (accuracy.no_drop_since, accuracy.is_proven) == (20.0, False)


def test_a_restart_forgets_all_figures():
    accuracy = proven()
    accuracy.dropped, accuracy.kept.found = 9, 2.0
    accuracy.arrivals.in_time = 9.0
    accuracy.record_expected(9.0)
    accuracy.record_drops(0, 20.0, expected=4.0)
    accuracy.record_still_active(2.0)
    accuracy.restart()
    assert not accuracy.is_proven
    assert (accuracy.dropped, accuracy.kept.value, accuracy.arrivals.in_time) == (0, 0.0, 0.0)
    accuracy.dropped = 3
    assert not accuracy.is_proven, "nothing was expected since"
    accuracy.record_expected(3.0)
    accuracy.record_drops(0, 24.0, expected=4.5)
    assert accuracy.is_proven
    accuracy.record_still_active(2.9)
    accuracy.record_drops(0, 28.0, expected=1.0)
    assert not accuracy.is_proven


@pytest.mark.parametrize(("missing_at", "is_late"), [(103.6, False), (103.7, True)])
def test_a_new_job_shows_a_late_list_after_the_limit_and_what_dates_lack(missing_at, is_late):
    accuracy = make_accuracy()
    assert accuracy.record_active(received_at=100.0, missing_at=missing_at) is is_late
    assert accuracy.arrivals.late == float(is_late)
    assert accuracy.compare_at == (math.inf if is_late else 103.6)


@pytest.mark.parametrize(("at", "late"), [(12.9, 0.0), (13.0, 1.0)])
def test_a_list_is_late_if_a_page_requested_after_the_limit_shows_a_settled_job(at, late):
    accuracy = make_accuracy()
    accuracy.record_settled("a", 10.0, active_at=10.0)
    accuracy.record_listed("a", at)
    assert accuracy.ends.late == late
    accuracy.record_listed("a", 99.0)
    accuracy.record_listed("a", 99.0)
    assert accuracy.ends.late == 1.0, "each job counts once"


@pytest.mark.parametrize(("started", "in_time"), [(13.9, 1.0), (14.0, 0.0)])
def test_only_an_early_sweep_without_a_settled_job_proves_that_the_list_is_in_time(
    started, in_time
):
    accuracy = make_accuracy()
    accuracy.record_settled("a", 11.0, active_at=10.0)
    accuracy.record_sweep(started)
    assert accuracy.ends.in_time == in_time


@pytest.mark.parametrize(("started", "in_time"), [(10.9, 0.0), (11.0, 1.0)])
def test_a_sweep_before_the_poll_shows_nothing(started, in_time):
    accuracy = make_accuracy()
    accuracy.record_settled("a", 11.0, active_at=10.0)
    accuracy.record_sweep(started)
    assert accuracy.ends.in_time == in_time
    assert accuracy.compare_at == 14.0


@pytest.mark.parametrize(("started", "compare_at"), [(12.9, 13.0), (13.0, math.inf)])
def test_a_sweep_in_time_is_the_one_that_was_wanted(started, compare_at):
    accuracy = make_accuracy()
    accuracy.compare_at = 13.0
    accuracy.record_sweep(started)
    assert accuracy.compare_at == compare_at


def keep(accuracy, job_id, settled_at, *, listed_at):
    """Let the list show a job long after a check has found it settled."""
    accuracy.record_settled(job_id, settled_at, active_at=settled_at, is_check=True)
    accuracy.record_listed(job_id, listed_at)


@pytest.mark.parametrize(("started", "found"), [(70.0, 0.0), (70.1, 1.0)])
def test_a_job_counts_as_kept_for_good_after_a_minute(started, found):
    accuracy = make_accuracy()
    keep(accuracy, "a", 10.0, listed_at=20.0)
    accuracy.record_sweep(20.0)
    assert (accuracy.kept.found, accuracy.ends.late) == (1.0, 0.0)
    accuracy.record_listed("a", 60.0)
    accuracy.record_sweep(started)
    assert accuracy.kept.found == 1.0
    accuracy.record_sweep(started + 1.0)
    assert (accuracy.kept.found, accuracy.ends.late) == (found, 1.0 - found)
    accuracy.record_sweep(started + 2.0)
    assert accuracy.ends.late == 1.0 - found, "each job counts once"


def test_only_the_kept_job_that_is_dropped_after_all_counts_no_more():
    accuracy = make_accuracy()
    for job_id in ("a", "b"):
        keep(accuracy, job_id, 10.0, listed_at=20.0)
    accuracy.record_sweep(20.0)
    found = accuracy.kept.found
    accuracy.record_listed("b", 30.0)
    accuracy.record_sweep(30.0)
    assert accuracy.kept.found == found - 1
    accuracy.record_listed("b", 35.0)
    accuracy.record_sweep(35.0)
    assert accuracy.kept.found == found - 1, "each job counts once"
    accuracy.kept.found = 0.5
    accuracy.record_sweep(40.0)
    assert accuracy.kept.found == 0.0


def test_at_most_64_settled_jobs_are_compared():
    accuracy = make_accuracy()
    for number in range(65):
        accuracy.record_settled(f"job-{number}", 10.0, active_at=10.0)
    for number in range(65):
        accuracy.record_listed(f"job-{number}", 20.0)
    assert accuracy.ends.late == pytest.approx(sum(0.99**n for n in range(64)))
    assert accuracy.ends.in_time == 0.0
    for job_id in ("a", "b"):
        accuracy.record_settled(job_id, 30.0, active_at=30.0)
        accuracy.record_listed(job_id, 40.0)
    accuracy.record_listed("job-0", 40.0)  # the first one was forgotten
    assert accuracy.ends.late == pytest.approx(sum(0.99**n for n in range(66)))


def test_a_proven_list_need_not_be_compared_because_of_a_settled_job():
    accuracy = proven()
    accuracy.record_settled("a", 20.0, active_at=20.0)
    assert accuracy.compare_at == math.inf
    accuracy.record_sweep(19.0)
    assert accuracy.compare_at == math.inf
    accuracy.record_settled("b", 20.0, active_at=20.0, sweep_now=True)
    assert accuracy.compare_at == 20.0


@pytest.mark.parametrize(
    ("listed", "age", "size"),
    [
        (1_000, 16.0, 15.0),  # 1.5 times the cube root
        (1_000, 60.0, 15.0),
        (1_000, 8.0, 15.0 / 4),
        (1_000, 240.0, 15.0 / 2),
        (1_000, 0.0, 1.0),
        (1_000, 1e9, 1.0),
        (64, 30.0, 6.0),
        (27_000, 30.0, 32.0),
    ],
)
def test_the_size_of_a_sample_depends_on_number_and_age_of_the_jobs(listed, age, size):
    assert samples_of(make_accuracy(), listed=listed, age=age, sweeps=100) == pytest.approx(
        100 * size, abs=1
    )


def test_a_sample_is_three_times_as_large_while_the_list_is_doubted():
    accuracy = make_accuracy()
    accuracy.record_drops(0, 20.0, expected=4.6)
    assert samples_of(accuracy, listed=64) == pytest.approx(180, abs=1)
    accuracy.arrivals.in_time, accuracy.dropped = 3.0, 5
    assert samples_of(accuracy, listed=64) == pytest.approx(180, abs=1)


def test_a_sample_is_smaller_by_the_number_of_dropped_jobs_of_a_list_in_time():
    accuracy = make_accuracy()
    accuracy.arrivals.in_time, accuracy.dropped = 3.0, 2
    assert samples_of(accuracy, listed=64) == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("expected", "listed", "chance", "size"),
    [
        (0.0, 300, 0.0, 0.25 + 0.15 * 2),
        (29.9, 300, 0.0, 0.25 + 0.15 * 2),
        (30.0, 300, 0.0, 0.1 + 0.03 * 2),
        (5.9, 300, 0.4, 0.25 + 5.0),
        (6.0, 300, 0.4, 0.25 + 0.15 * 2),
        (4.9, 100, 0.4, 0.25 + 5.0),  # 5% of the jobs are enough
        (5.0, 100, 0.4, 0.25 + 0.15 * 2),
        (0.0, 300, 0.1, 0.25 + 20.0),
        (0.0, 300, 0.09, 0.25 + 0.15 * 2),
    ],
)
def test_the_size_of_a_sample_of_a_proven_list(expected, listed, chance, size):
    accuracy = proven()
    accuracy.kept.expected = expected
    total = sum(accuracy.samples(listed, age=30.0, settled=2, chance=chance) for _ in range(100))
    assert total == pytest.approx(100 * size, abs=1)


@pytest.mark.parametrize(("settled", "samples"), [(3, 128), (4, 15)])
def test_a_suspicious_list_is_checked_until_four_settled_jobs_can_be_compared(settled, samples):
    accuracy = make_accuracy()
    accuracy.ends.count(late=True)
    for number in range(settled):
        accuracy.record_settled(f"job-{number}", 10.0, active_at=10.0)
    assert accuracy.samples(1_000, age=30.0, settled=0) == samples
