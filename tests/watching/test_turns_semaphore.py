"""The semaphore never admits more tasks than it has places."""

import asyncio
from random import Random

import pytest

from adepoll.watching.turns import Semaphore


def test_places_go_to_the_task_that_has_waited_longest(replay):
    async def script():
        semaphore, order = Semaphore(2), []

        async def hold(name, seconds):
            async with semaphore:
                order.append((name, asyncio.get_running_loop().time()))
                await asyncio.sleep(seconds)

        async with asyncio.TaskGroup() as group:
            for name in "abcde":
                group.create_task(hold(name, 1))
        return order

    assert replay(script) == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]


def test_a_place_is_released_if_the_block_fails(replay):
    async def script():
        semaphore = Semaphore(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with semaphore:
                    raise ZeroDivisionError

    replay(script)


@pytest.mark.parametrize("when", ["while waiting", "just before", "just after"])
def test_a_cancelled_waiter_takes_no_place(replay, when):
    """Also if it is cancelled in the step of the loop in which it gets a place."""

    async def script():
        semaphore = Semaphore(1)

        async def hold():
            async with semaphore:
                await asyncio.sleep(1)

        async def hold_and_cancel():
            async with semaphore:
                await asyncio.sleep(1)
                if when == "just before":
                    leaving.cancel()
            if when == "just after":
                leaving.cancel()

        holding = asyncio.create_task(hold_and_cancel())
        leaving, staying = (asyncio.create_task(hold()) for _ in range(2))
        if when == "while waiting":
            asyncio.get_running_loop().call_later(0.5, leaving.cancel)
        await asyncio.gather(holding, leaving, staying, return_exceptions=True)
        assert leaving.cancelled()
        assert [holding.exception(), staying.exception()] == [None, None]
        return asyncio.get_running_loop().time()

    assert replay(script) == 2


def test_a_cancelled_waiter_is_removed_from_the_queue(replay):
    async def script():
        semaphore = Semaphore(1)
        async with semaphore:
            waiting = [asyncio.create_task(semaphore.__aenter__()) for _ in range(100)]
            await asyncio.sleep(0)
            assert len(semaphore._waiting) == 100
            for task in waiting:
                task.cancel()
            await asyncio.sleep(0)
            assert not semaphore._waiting

    replay(script)


def test_a_coroutine_closed_while_waiting_takes_no_place(replay):
    async def script():
        semaphore = Semaphore(1)
        async with semaphore:
            first, second = semaphore.__aenter__(), semaphore.__aenter__()
            places = [waiting.send(None) for waiting in (first, second)]
            second.close()
            assert not any(place.done() for place in places)
            first.close()
        async with semaphore:
            pass

    replay(script)


@pytest.mark.parametrize("seed", range(20))
def test_no_place_is_lost_or_taken_twice_when_tasks_are_cancelled(replay, seed):
    rng = Random(seed)
    most = rng.randrange(1, 6)

    async def script():
        semaphore, inside, highest = Semaphore(most), 0, 0

        async def hold(start, seconds):
            nonlocal inside, highest
            await asyncio.sleep(start)
            async with semaphore:
                inside += 1
                highest = max(highest, inside)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    inside -= 1

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
