"""Polls per second while the request budget is short."""

import pytest

from adepoll.watching.statistics import Throughput


def play(throughput, *, rate, seconds, late, since=0.0, settled=False):
    """Record evenly spaced polls, each so many seconds after its job was due; return the time."""
    now = since
    for number in range(1, round(rate * seconds) + 1):
        now = since + number / rate
        throughput.record(now - late, now, settled=settled)
    return now


@pytest.mark.parametrize("rate", [1, 30, 500])
@pytest.mark.parametrize("seconds", [5, 60])
def test_late_polls_show_the_highest_rate(rate, seconds):
    throughput = Throughput()
    now = play(throughput, rate=rate, seconds=seconds, late=4.0)
    assert throughput.rate(now) == pytest.approx(rate, rel=0.5 if seconds < 10 else 0.1)


def test_punctual_polls_show_no_rate():
    throughput = Throughput()
    assert throughput.rate(0.0) is None
    now = play(throughput, rate=30, seconds=20, late=0.3)
    assert throughput.rate(now) is None


def test_the_rate_follows_a_change():
    throughput = Throughput()
    now = play(throughput, rate=100, seconds=100, late=10.0)
    now = play(throughput, rate=5, seconds=100, late=10.0, since=now)
    assert throughput.rate(now) == pytest.approx(5, rel=0.2)
    now = play(throughput, rate=5, seconds=60, late=0.2, since=now)
    assert throughput.rate(now) is None


@pytest.mark.parametrize("hours", [0.1, 1, 5, 1_000])
def test_nothing_is_known_after_a_long_time_without_a_poll(hours):
    throughput = Throughput()
    now = play(throughput, rate=100, seconds=60, late=10.0)
    assert throughput.rate(now + 1.0) is not None
    assert throughput.rate(now + hours * 3600) is None
    assert not throughput.is_short
    now = play(throughput, rate=100, seconds=60, late=10.0, since=now + hours * 3600)
    assert throughput.rate(now) == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("settled", [True, False])
def test_it_knows_whether_late_polls_find_settled_jobs(settled):
    throughput = Throughput()
    play(throughput, rate=10, seconds=5, late=9.0, settled=settled)
    assert throughput.settled_share == settled
