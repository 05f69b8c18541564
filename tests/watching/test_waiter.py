"""A waiter gets the final snapshot of its job, or the error, and nothing else."""

import asyncio

import pytest
from scripted import snapshot

from adepoll.api.models import JobStatus
from adepoll.errors import AnswerTimeoutError, ClosedError, TransportError
from adepoll.watching.waiter import Waiter


def test_a_waiter_takes_only_the_final_snapshot(replay):
    async def script():
        waiter = Waiter(asyncio.get_running_loop().create_future())
        assert waiter.buffer is None
        waiter.deliver("a", snapshot("a", "pending"))
        assert not waiter.future.done()
        waiter.deliver("a", snapshot("a"))
        waiter.deliver("a", snapshot("a", "failed"))
        waiter.fail(ClosedError("too late"))
        return await waiter.future

    assert replay(script).status is JobStatus.COMPLETED


def test_each_waiter_raises_its_own_instance_of_an_error(replay):
    async def script():
        loop = asyncio.get_running_loop()
        error = AnswerTimeoutError(timeout=3.0, job_id="a")
        error.__cause__ = OSError("the reason")
        raised = []
        for _ in range(2):
            waiter = Waiter(loop.create_future())
            waiter.give_up("a", error)
            with pytest.raises(AnswerTimeoutError) as caught:
                await waiter.future
            raised.append(caught.value)
        assert len({id(error), *map(id, raised)}) == 3
        assert {one.__cause__ for one in raised} == {error.__cause__}
        assert [(one.timeout, one.job_id, str(one)) for one in raised] == [
            (3.0, "a", str(error))
        ] * 2

    replay(script)


def test_an_error_of_a_waiter_that_has_left_is_not_reported_as_lost(replay):
    async def script():
        waiter = Waiter(asyncio.get_running_loop().create_future())
        waiter.fail(TransportError("broken", job_id="a"))
        waiter.forget()
        unfinished = Waiter(asyncio.get_running_loop().create_future())
        unfinished.forget()
        unfinished.future.cancel()
        unfinished.forget()
        unfinished.deliver("a", snapshot("a"))
        unfinished.fail(ClosedError("late"))

    replay(script)  # which complains of errors that are never retrieved
