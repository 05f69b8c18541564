import math
from itertools import count

import pytest

from adepoll.throttling.outage import OUTAGE, Outage


def doubling():
    return (2.0**n for n in count())


def test_an_outage_starts_with_the_tenth_failure_in_a_row_and_ends_with_a_success():
    outage = Outage(doubling)
    assert [outage.failed(5.0, is_probe=True) for _ in range(OUTAGE)] == [False] * 9 + [True]
    assert outage.is_on
    assert outage.probe_at == 6.0
    assert outage.succeeded()
    assert not outage.is_on
    assert outage.failures == 0
    assert outage.probe_at == -math.inf
    assert not outage.succeeded()


def test_a_success_resets_the_count_of_failures():
    outage = Outage(doubling)
    for n in range(100):
        assert not outage.failed(n, is_probe=True)
        assert outage.probe_at == -math.inf
        if n % 9 == 8:
            outage.succeeded()


def test_waits_between_failed_probes_grow_up_to_10_seconds():
    outage = Outage(doubling)
    for _ in range(OUTAGE):
        outage.failed(0.0, is_probe=True)
    waits = []
    for _ in range(8):
        now = outage.probe_at
        outage.failed(now, is_probe=True)
        waits.append(outage.probe_at - now)
    assert waits == [2, 4, 8, 10, 10, 10, 10, 10]


def test_failures_of_earlier_requests_do_not_delay_the_next_probe():
    outage = Outage(doubling)
    for _ in range(OUTAGE + 200):
        outage.failed(0.0, is_probe=False)
    assert outage.probe_at == 1.0


def test_each_outage_starts_with_new_waits():
    outage = Outage(doubling)
    for _ in range(3):
        while not outage.is_on:
            outage.failed(0.0, is_probe=True)
        assert outage.probe_at == next(doubling())
        outage.succeeded()


def test_an_outage_soon_after_others_needs_more_failures():
    outage = Outage(doubling)
    needed = []
    # The fifth one begins 600 s after the fourth, and the sixth over 600 s after the fifth.
    for now in (5.0, 6.0, 7.0, 8.0, 608.0, 1_208.1, 1_300.0):
        failures = 1
        while not outage.failed(now, is_probe=True):
            failures += 1
        needed.append(failures)
        assert outage.succeeded()
    assert needed == [10, 40, 160, 160, 160, 10, 40]


@pytest.mark.parametrize(
    ("jobs", "begins"), [("ab" * 5, False), ("abc" + "a" * 7, True), ("ab" + "a" * 7, False)]
)
def test_an_outage_needs_ten_failures_about_three_jobs(jobs, begins):
    outage = Outage(lambda: iter([1.0]))
    found = [outage.failed(0.0, is_probe=False, job_id=job_id) for job_id in jobs]
    assert found[-1] is begins
    assert not any(found[:-1])


def test_each_failure_without_a_job_counts_like_one_of_a_new_job():
    outage = Outage(lambda: iter([1.0]))
    found = [outage.failed(0.0, is_probe=False) for _ in range(10)]
    assert found == [False] * 9 + [True]


@pytest.mark.parametrize(("now", "counts"), [(220.0, False), (220.1, True)])
def test_failures_of_a_suspect_job_do_not_count_for_two_minutes(now, counts):
    outage = Outage(lambda: iter([1.0]))
    outage.failed(100.0, is_probe=False, job_id="a")
    outage.succeeded()
    outage.failed(now, is_probe=False, job_id="a")
    assert outage.failures == counts
    outage.failed(now, is_probe=False, job_id="b")
    assert outage.failures == counts + 1


def test_a_thousand_suspects_are_remembered():
    outage = Outage(lambda: iter([1.0]))
    for number in range(1_001):
        outage.failed(0.0, is_probe=False, job_id=f"j-{number}")
        if number == 500:
            outage.succeeded()
            outage.failed(0.0, is_probe=False, job_id="j-0")
            assert outage.failures == 0
    outage.succeeded()
    for job_id, counted in (("j-1", 0), ("j-1000", 0), ("j-0", 1)):
        outage.failed(0.0, is_probe=False, job_id=job_id)
        assert outage.failures == counted, job_id


def test_an_outage_ends_with_a_success_and_probes_are_as_far_apart_as_their_waits():
    outage = Outage(lambda: iter([1.0, 50.0]))
    for number in range(10):
        outage.failed(float(number), is_probe=False, job_id=f"j-{number}")
    assert (outage.is_on, outage.probe_at) == (True, 10.0)
    outage.failed(12.0, is_probe=True, job_id="j-1")
    assert outage.probe_at == 22.0, "at most 10 s"
    outage.probe_sent(22.0)
    assert outage.probe_at == 52.0, "it waits for 30 s at most"
    outage.probe_ended(43.0)
    assert outage.probe_at == 43.0
    assert outage.succeeded() is True
    assert (outage.is_on, outage.probe_at, outage.failures) == (False, -math.inf, 0)
    assert outage.succeeded() is False
    outage.probe_ended(50.0)
    assert outage.probe_at == -math.inf
