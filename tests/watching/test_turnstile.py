"""A crowd goes on a few at a time; one alone does not wait."""

import asyncio

from adepoll.watching.turnstile import TurnLimiter


async def turns(crowd, most):
    """Let a crowd through; give how many went in each turn of the loop that any went in."""
    turnstile, turn, went = TurnLimiter(most), 0, []

    async def go():
        await turnstile.through()
        went.append(turn)

    tasks = [asyncio.create_task(go()) for _ in range(crowd)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turn += 1
    return [went.count(number) for number in sorted(set(went))]


def test_a_crowd_goes_on_a_few_at_a_time(replay):
    assert max(replay(lambda: turns(100, 7))) <= 7


def test_who_is_alone_does_not_wait(replay):
    async def script():
        turnstile = TurnLimiter(1)
        for _ in range(3):
            coroutine = turnstile.through()
            try:
                coroutine.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waits")
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    replay(script)


def test_who_is_cancelled_in_line_holds_nobody_up(replay):
    async def script():
        turnstile, went = TurnLimiter(1), []

        async def go(number):
            await turnstile.through()
            went.append(number)

        tasks = [asyncio.create_task(go(number)) for number in range(6)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert went == [0, 4, 5]

    replay(script)
