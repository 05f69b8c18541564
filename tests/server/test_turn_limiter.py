"""The turn limiter keeps the turns of the event loop short."""

import asyncio

from adepoll.server.turn_limiter import TurnLimiter


async def turns(count, limit):
    """Return how many tasks continued in each turn of the loop, turns without any left out."""
    limiter, turn, went = TurnLimiter(limit), 0, []

    async def go():
        await limiter.wait_turn()
        went.append(turn)

    tasks = [asyncio.create_task(go()) for _ in range(count)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turn += 1
    return [went.count(number) for number in sorted(set(went))]


def test_a_limited_number_of_tasks_continues_in_each_turn(replay):
    assert max(replay(lambda: turns(100, 7))) <= 7


def test_a_single_task_does_not_wait(replay):
    async def script():
        limiter = TurnLimiter(1)
        for _ in range(3):
            coroutine = limiter.wait_turn()
            try:
                coroutine.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waited")
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    replay(script)


def test_a_cancelled_task_does_not_delay_the_others(replay):
    async def script():
        limiter, went = TurnLimiter(1), []

        async def go(number):
            await limiter.wait_turn()
            went.append(number)

        tasks = [asyncio.create_task(go(number)) for number in range(6)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert went == [0, 4, 5]

    replay(script)
