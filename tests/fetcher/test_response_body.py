"""A storage is too slow if few bytes arrive while a reader waits for them."""

import asyncio

import pytest

from adepoll.fetcher.response_body import PacedReader, TooSlowError


def source(*chunks):
    """Return a read function; each chunk is (seconds to wait, bytes to return)."""
    left = list(chunks)

    async def read():
        seconds, count = left.pop(0)
        await asyncio.sleep(seconds)
        return b"x" * count

    return read


def paced(*chunks, pause=0.0, period=10.0, min_rate=100.0):
    async def script():
        reader = PacedReader(source(*chunks), period=period, min_rate=min_rate)
        total = 0
        for _ in chunks:
            total += len(await reader.read())
            await asyncio.sleep(pause)
        return total

    return script


def test_the_minimum_rate_in_each_period_is_enough(replay):
    assert replay(paced(*[(1.0, 100)] * 50)) == 5_000


def test_a_rate_below_the_minimum_raises(replay):
    with pytest.raises(TooSlowError, match="100 bytes a second"):
        replay(paced(*[(1.0, 99)] * 10))


def test_a_low_rate_does_not_raise_before_the_period_is_over(replay):
    assert replay(paced(*[(1.0, 1)] * 9)) == 9


def test_a_burst_does_not_count_in_later_periods(replay):
    with pytest.raises(TooSlowError):
        replay(paced((9.9, 10**6), *[(1.0, 1)] * 12))


def test_a_slow_beginning_does_not_count_in_later_periods(replay):
    assert replay(paced((9.0, 1), (1.0, 10_000), *[(1.0, 100)] * 20)) == 12_001


def test_time_between_reads_does_not_count(replay):
    assert replay(paced(*[(0.1, 11)] * 300, pause=1_000.0)) == 3_300


def test_a_late_end_of_the_body_does_not_raise(replay):
    assert replay(paced((1.0, 100), (9.5, 0))) == 100


def test_a_read_that_takes_longer_than_the_period_raises(replay):
    with pytest.raises(TimeoutError):
        replay(paced((10.1, 100), min_rate=0))
