"""How late and how complete a list is, by jobs that are known otherwise."""

import math

import pytest

from adepoll.watching.list_accuracy import ListAccuracy

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
