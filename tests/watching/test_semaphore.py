"""Slots are a semaphore: never more within than there are places, and none is lost."""

import asyncio
from random import Random

import pytest

from adepoll.watching.semaphore import Semaphore


def test_who_comes_first_is_served_first(replay):
    async def script():
        slots, order = Semaphore(2), []

        async def hold(name, seconds):
            async with slots:
                order.append((name, asyncio.get_running_loop().time()))
                await asyncio.sleep(seconds)

        async with asyncio.TaskGroup() as group:
            for name in "abcde":
                group.create_task(hold(name, 1))
        return order

    assert replay(script) == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]


def test_a_place_is_given_back_where_the_block_fails(replay):
    async def script():
        slots = Semaphore(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with slots:
                    raise ZeroDivisionError

    replay(script)


@pytest.mark.parametrize("when", ["while he waits", "just before", "just after"])
def test_who_is_cancelled_takes_no_place(replay, when):
    """Before or after he is given one, that is, in the same step of the loop."""

    async def script():
        slots = Semaphore(1)

        async def hold():
            async with slots:
                await asyncio.sleep(1)

        async def hold_and_cancel():
            async with slots:
                await asyncio.sleep(1)
                if when == "just before":
                    leaving.cancel()
            if when == "just after":
                leaving.cancel()

        holding = asyncio.create_task(hold_and_cancel())
        leaving, staying = (asyncio.create_task(hold()) for _ in range(2))
        if when == "while he waits":
            asyncio.get_running_loop().call_later(0.5, leaving.cancel)
        await asyncio.gather(holding, leaving, staying, return_exceptions=True)
        assert leaving.cancelled()
        assert [holding.exception(), staying.exception()] == [None, None]
        return asyncio.get_running_loop().time()

    assert replay(script) == 2


def test_who_has_left_stands_in_no_line(replay):
    async def script():
        slots = Semaphore(1)
        async with slots:
            waiting = [asyncio.create_task(slots.__aenter__()) for _ in range(100)]
            await asyncio.sleep(0)
            assert len(slots._line) == 100
            for task in waiting:
                task.cancel()
            await asyncio.sleep(0)
            assert not slots._line

    replay(script)


def test_a_coroutine_that_is_closed_while_it_waits_takes_no_place(replay):
    async def script():
        slots = Semaphore(1)
        async with slots:
            waiting = slots.__aenter__()
            waiting.send(None)
            waiting.close()
        async with slots:
            pass

    replay(script)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_comes_and_goes_there_are_never_more_than_places_and_none_is_lost(replay, seed):
    rng = Random(seed)
    most = rng.randrange(1, 6)

    async def script():
        slots, within, highest = Semaphore(most), 0, 0

        async def hold(start, seconds):
            nonlocal within, highest
            await asyncio.sleep(start)
            async with slots:
                within += 1
                highest = max(highest, within)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    within -= 1

        tasks = [asyncio.create_task(hold(rng.random(), rng.random())) for _ in range(40)]
        loop = asyncio.get_running_loop()
        for task in rng.sample(tasks, 15):
            loop.call_later(rng.random() * 5, task.cancel)
        await asyncio.sleep(50)
        assert highest == most
        again = [asyncio.create_task(hold(0, 1)) for _ in range(most)]
        before = loop.time()
        await asyncio.gather(*again)
        assert loop.time() == pytest.approx(before + 1)  # all places are there
        assert highest == most

    replay(script)
