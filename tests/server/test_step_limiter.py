"""The step limiter keeps the steps of the event loop short."""

import asyncio

from adepoll.server.step_limiter import StepLimiter


async def tasks_per_step(count, limit):
    """Return how many tasks continued in each step of the loop, except those without any."""
    limiter, step, went = StepLimiter(limit), 0, []

    async def go():
        await limiter.wait()
        went.append(step)

    tasks = [asyncio.create_task(go()) for _ in range(count)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        step += 1
    return [went.count(number) for number in sorted(set(went))]


def test_a_limited_number_of_tasks_continues_in_each_step(replay):
    assert max(replay(lambda: tasks_per_step(100, 7))) <= 7


def test_a_single_task_does_not_wait(replay):
    async def script():
        limiter = StepLimiter(1)
        for _ in range(3):
            coroutine = limiter.wait()
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
        limiter, went = StepLimiter(1), []

        async def go(number):
            await limiter.wait()
            went.append(number)

        tasks = [asyncio.create_task(go(number)) for number in range(6)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert went == [0, 4, 5]

    replay(script)
