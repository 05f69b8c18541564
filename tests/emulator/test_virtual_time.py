"""Virtual time: sleeps take no real time, threads no virtual time, deadlocks raise errors."""

import asyncio
import threading
import time

import pytest

from adepoll.emulator import VirtualTimeLoop, run, virtual_time


def test_a_long_sleep_takes_virtual_time_only():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(10_000_000)
        return loop.time()

    assert run(main()) == 10_000_000


def test_timers_fire_in_order_and_at_their_times():
    seen = []

    async def note(delay):
        await asyncio.sleep(delay)
        seen.append((delay, asyncio.get_running_loop().time()))

    async def main():
        async with asyncio.TaskGroup() as group:
            for delay in (3_600.5, 0.001, 86_400 * 3, 0, 7):
                group.create_task(note(delay))

    run(main())
    assert seen == [(d, pytest.approx(d, abs=1e-6)) for d in (0, 0.001, 7, 3_600.5, 259_200)]


def test_a_timeout_expires_in_virtual_time():
    async def main():
        async with asyncio.timeout(3_600):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(main())


def test_a_deadlock_raises_an_error_instead_of_hanging():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock: every task waits"):
        run(main())


def test_after_a_deadlock_the_tasks_are_cancelled_and_the_loop_is_closed():
    seen = []

    async def main():
        seen.append(asyncio.get_running_loop())
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    with pytest.raises(RuntimeError, match="deadlock"):
        run(main())
    assert seen[1] == "cleaned up"
    assert seen[0].is_closed()


def test_the_loop_waits_for_a_thread_which_takes_no_virtual_time():
    async def main():
        release = threading.Event()
        loop = asyncio.get_running_loop()

        async def release_later():
            # Only the loop can set the event, while the thread waits for it.
            release.set()

        helper = asyncio.create_task(release_later())
        answer = await asyncio.to_thread(release.wait, 30)
        await helper
        return answer, loop.time()

    assert run(main()) == (True, 0.0)


def test_no_timer_fires_while_a_thread_is_running():
    async def main():
        loop = asyncio.get_running_loop()
        fired = loop.create_future()
        loop.call_later(5, lambda: fired.set_result(loop.time()))
        entered = []
        await asyncio.to_thread(lambda: entered.append(loop.time()))
        assert not fired.done()
        return entered, await fired

    assert run(main()) == ([0.0], 5)


def test_an_exception_in_a_thread_is_raised():
    async def main():
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run(main())


def test_a_thread_that_waits_for_a_timer_is_a_deadlock(monkeypatch):
    monkeypatch.setattr(virtual_time, "THREAD_TIMEOUT", 0.01)
    release = threading.Event()

    async def main():
        try:
            await asyncio.to_thread(release.wait, 30)
        finally:
            release.set()

    with pytest.raises(RuntimeError, match="deadlock: a thread"):
        run(main())


def test_a_call_from_another_thread_wakes_the_loop():
    async def main():
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        await asyncio.to_thread(loop.call_soon_threadsafe, called.set_result, "hello")
        return await called

    assert run(main()) == "hello"


def test_run_cancels_remaining_tasks_and_closes_generators():
    seen = []

    async def forever():
        try:
            await asyncio.sleep(1e9)
        finally:
            seen.append("task")

    async def generator():
        try:
            yield 1
            yield 2
        finally:
            seen.append("generator")

    async def main():
        task = asyncio.create_task(forever())
        numbers = generator()
        await anext(numbers)
        await asyncio.sleep(1)
        seen.append((task, numbers))

    run(main())
    assert seen[1:] == ["task", "generator"]


def test_the_loop_starts_at_zero_and_ignores_the_wall_clock():
    loop = VirtualTimeLoop()
    try:
        before = loop.time()
        assert before == 0.0
        assert loop.run_until_complete(asyncio.sleep(3, "done")) == "done"
        assert loop.time() == 3.0
        assert loop.time() != time.time()
    finally:
        loop.close()


def test_a_day_of_a_thousand_tasks_replays_identically():
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        async def poll(n):
            for k in range(5):
                await asyncio.sleep(86_400 / (n + k + 1))
            seen.append((n, loop.time()))

        async with asyncio.TaskGroup() as group:
            for n in range(1_000):
                group.create_task(poll(n))
        return seen

    assert run(main()) == run(main())
