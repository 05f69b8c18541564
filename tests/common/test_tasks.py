"""Tasks: waiting for tasks that were cancelled, in virtual time."""

import asyncio

import pytest

from adepoll.common.tasks import has_loop, is_cancelled, join


def test_a_cancelled_join_waits_for_all_tasks_before_it_raises(replay):
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (1, 2, 3)]
        joining = asyncio.create_task(join(tasks))
        await asyncio.sleep(1.5)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert all(task.done() for task in tasks)

    replay(main)


def test_a_cancelled_error_without_a_task_is_a_cancellation(replay):
    """A coroutine can run without a task, as in a callback of the loop."""

    async def main():
        loop, found = asyncio.get_running_loop(), []
        loop.call_soon(lambda: found.append(is_cancelled()))
        await asyncio.sleep(0)
        assert found == [True]
        assert not is_cancelled()

    replay(main)


def test_a_thread_has_a_loop_while_one_runs_in_it(replay):
    async def main():
        return has_loop(), await asyncio.to_thread(has_loop)

    assert replay(main) == (True, False)
    assert not has_loop()
