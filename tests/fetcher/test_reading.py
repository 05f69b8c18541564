"""The pace of a storage is that of its bytes while they are waited for."""

import asyncio
import zlib

import pytest

from adepoll.errors import ResultMalformedError
from adepoll.fetcher import reading
from adepoll.fetcher.reading import Decoder, Pace, TooSlowError


def source(*chunks):
    """Reads that take so many seconds and give so many bytes, in virtual time."""
    left = list(chunks)

    async def read():
        seconds, count = left.pop(0)
        await asyncio.sleep(seconds)
        return b"x" * count

    return read


def paced(*chunks, pause=0.0, period=10.0, least=100.0):
    async def script():
        pace = Pace(source(*chunks), period=period, least=least)
        total = 0
        for _ in chunks:
            total += len(await pace.read())
            await asyncio.sleep(pause)
        return total

    return script


def test_enough_bytes_in_each_period_are_enough(replay):
    assert replay(paced(*[(1.0, 100)] * 50)) == 5_000


def test_too_few_over_a_period_are_told(replay):
    with pytest.raises(TooSlowError, match="100 bytes a second"):
        replay(paced(*[(1.0, 99)] * 10))


def test_too_few_are_borne_until_the_period_is_over(replay):
    assert replay(paced(*[(1.0, 1)] * 9)) == 9


def test_a_burst_is_not_saved_for_later_periods(replay):
    with pytest.raises(TooSlowError):
        replay(paced((10.0, 10**6), *[(1.0, 1)] * 10))


def test_a_slow_beginning_is_forgiven_with_the_period(replay):
    assert replay(paced((9.0, 1), (1.0, 10_000), *[(1.0, 100)] * 20)) == 12_001


def test_time_in_which_nobody_asks_does_not_count(replay):
    assert replay(paced(*[(0.1, 11)] * 300, pause=1_000.0)) == 3_300


def test_the_end_may_take_its_time(replay):
    assert replay(paced((1.0, 100), (30.0, 0))) == 100


@pytest.mark.parametrize(("size", "allowed"), [(1_000, True), (1_001, False)])
async def test_a_small_text_may_grow_by_any_factor_up_to_a_bound(monkeypatch, size, allowed):
    monkeypatch.setattr(reading, "_GROWTH_FROM", 1_000)
    monkeypatch.setattr(reading, "_MOST_GROWTH", 2)
    encoded = [zlib.compress(b"0" * size)]

    async def read():
        return encoded.pop()

    decoder = Decoder(read, job_id="job-1")
    if allowed:
        assert await decoder.read() == b"0" * size
    else:
        with pytest.raises(ResultMalformedError, match="more than 2 times its size"):
            await decoder.read()
