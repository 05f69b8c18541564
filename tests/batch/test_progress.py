"""The rate of outcomes, from which a batch estimates the time that is left."""

import pytest

from adepoll.batch.progress import OutcomeRate


def rate_of(times, now):
    rate = OutcomeRate()
    for time in times:
        rate.add(1, time)
    return rate.per_second(now)


def test_a_steady_rate_is_found():
    for seconds in (5, 60, 600):
        times = [100 + number / 4 for number in range(4 * seconds)]
        assert rate_of(times, times[-1]) == pytest.approx(4, rel=0.1)


def test_the_rate_follows_a_change_and_a_standstill():
    fast = [number / 10 for number in range(1_000)]
    slow = [100 + number for number in range(150)]
    assert rate_of([*fast, *slow], 250) == pytest.approx(1, rel=0.1)
    assert rate_of(fast, 250) < 0.1


def test_few_outcomes_give_no_rate():
    assert rate_of([], 100) is None
    assert rate_of([float(number) for number in range(19)], 19) is None
    assert rate_of([0.01 * number for number in range(50)], 0.5) is None
