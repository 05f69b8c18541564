"""The time limit of requests; sessions and errors are tested with the client."""

import asyncio
import contextlib

import pytest
from internals import timers

from adepoll.api.transport import Block, TimeLimit
from adepoll.emulator import run


def block(limit):
    loop = asyncio.get_running_loop()
    return Block(limit, loop, loop.time(), asyncio.current_task())


async def keep(limit, seconds):
    with block(limit):
        await asyncio.sleep(seconds)


def test_a_block_that_takes_too_long_raises_timeout_error_at_its_deadline():
    async def main():
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            await keep(TimeLimit(5.0), 60)
        assert loop.time() == began + 5.0
        assert asyncio.current_task().cancelling() == 0

    run(main())


def test_an_error_of_a_block_that_took_too_long_is_raised():
    async def close_slowly():
        with block(TimeLimit(5.0)):
            try:
                await asyncio.sleep(60)
            finally:
                raise ZeroDivisionError

    async def main():
        with pytest.raises(ZeroDivisionError):
            await close_slowly()
        assert asyncio.current_task().cancelling() == 0

    run(main())


def test_a_block_that_ends_in_time_raises_nothing():
    async def main():
        limit = TimeLimit(5.0)
        for _ in range(3):
            await keep(limit, 4.9)
        await asyncio.sleep(60)

    run(main())


def test_overlapping_blocks_have_their_own_deadlines_and_share_one_timer():
    async def main():
        loop = asyncio.get_running_loop()
        limit, ended = TimeLimit(5.0), {}

        async def one(number):
            await asyncio.sleep(number)
            before = loop.time()
            with contextlib.suppress(TimeoutError):
                await keep(limit, 60 if number % 2 else 3)
            ended[number] = loop.time() - before

        async with asyncio.TaskGroup() as group:
            for number in range(1, 21):
                group.create_task(one(number))
            await asyncio.sleep(0)
            with block(limit):
                assert len(timers()) == 20 + 1  # one for each sleep, and one for all blocks
        assert ended == {n: pytest.approx(5.0 if n % 2 else 3.0) for n in range(1, 21)}
        assert timers() == []

    run(main())


def test_no_timer_is_left_after_the_last_block():
    async def main():
        limit = TimeLimit(5.0)
        with block(limit):
            assert len(timers()) == 1
        assert timers() == []

    run(main())


def test_a_block_that_restarts_its_limit_expires_after_those_that_began_meanwhile():
    async def main():
        loop, limit, ended = asyncio.get_running_loop(), TimeLimit(5.0), {}

        async def restart_twice():
            with block(limit) as running:
                for _ in range(2):
                    await asyncio.sleep(4)
                    running.restart(loop.time())
                await asyncio.sleep(60)

        async def begin_later():
            await asyncio.sleep(6)
            await keep(limit, 60)

        async def end(name, use):
            with pytest.raises(TimeoutError):
                await use
            ended[name] = loop.time()

        await asyncio.gather(end("restarted", restart_twice()), end("later", begin_later()))
        assert ended == {"later": 11.0, "restarted": 13.0}
        assert timers() == []

    run(main())


def test_an_error_of_the_block_is_not_changed():
    async def main():
        limit = TimeLimit(5.0)
        with pytest.raises(ZeroDivisionError), block(limit):
            raise ZeroDivisionError
        assert timers() == []

    run(main())


def test_a_cancellation_by_others_is_not_a_timeout():
    async def main():
        task = asyncio.create_task(keep(TimeLimit(5.0), 60))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_cancellation_at_the_deadline_is_not_swallowed():
    async def main():
        task = asyncio.create_task(keep(TimeLimit(5.0), 60))
        asyncio.get_running_loop().call_at(5.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_it_works_within_an_asyncio_timeout():
    async def main():
        limit, loop = TimeLimit(5.0), asyncio.get_running_loop()
        shorter = asyncio.wait_for(keep(limit, 60), 3)
        with pytest.raises(TimeoutError):
            await shorter
        assert loop.time() == 3.0
        async with asyncio.timeout(7) as longer:
            with pytest.raises(TimeoutError):
                await keep(limit, 60)
        assert loop.time() == 8.0
        assert not longer.expired()

    run(main())


def test_it_works_within_a_task_only():
    async def main():
        loop, met = asyncio.get_running_loop(), []

        def enter():
            with pytest.raises(RuntimeError, match="within a task"):
                block(TimeLimit(5.0))
            met.append(True)

        loop.call_soon(enter)
        await asyncio.sleep(0)
        assert met

    run(main())
