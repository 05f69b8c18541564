"""StepLimiter: limits how many waiting tasks continue in one step of the event loop."""

import asyncio
from collections import deque
from contextvars import Context


class StepLimiter:
    """Allows a limited number of tasks to continue in each step of the event loop.

    If thousands of tasks wait for the same job, all of them continue in the same step of the loop.
    Until each of them has sent its response, nothing else runs. With this class, the tasks continue
    in several steps, in the order of their calls, and other tasks run in between.
    """

    def __init__(self, limit: int) -> None:
        """Create an object without waiting tasks; `limit` tasks continue in each step."""
        self._limit = limit
        self._passed = 0  # tasks that have continued in this step
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def wait(self) -> None:
        """Return immediately if fewer than `limit` tasks have continued in this step.

        Otherwise, return in a later step.
        """
        loop = asyncio.get_running_loop()
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next_step, context=Context())
        if self._passed < self._limit and not self._waiting:
            self._passed += 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next_step(self) -> None:
        """Wake the next waiting tasks; called in each step of the loop while tasks wait."""
        self._passed = 0
        while self._waiting and self._passed < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():  # a waiter is done if its task was cancelled
                waiter.set_result(None)
                self._passed += 1
        self._scheduled = self._passed > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_step, context=Context())
