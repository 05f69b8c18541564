import math
from itertools import count

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
        if n % 9 == 8:
            outage.succeeded()


def test_waits_between_failed_probes_grow_up_to_30_seconds():
    outage = Outage(doubling)
    for _ in range(OUTAGE):
        outage.failed(0.0, is_probe=True)
    waits = []
    for _ in range(8):
        now = outage.probe_at
        outage.failed(now, is_probe=True)
        waits.append(outage.probe_at - now)
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30]


def test_failures_of_earlier_requests_do_not_delay_the_next_probe():
    outage = Outage(doubling)
    for _ in range(OUTAGE + 200):
        outage.failed(0.0, is_probe=False)
    assert outage.probe_at == 1.0


def test_each_outage_starts_with_new_waits():
    outage = Outage(doubling)
    for _ in range(3):
        for _ in range(OUTAGE):
            outage.failed(0.0, is_probe=True)
        assert outage.probe_at == next(doubling())
        outage.succeeded()
