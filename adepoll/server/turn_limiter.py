"""A limit on the tasks that continue in one turn of the event loop. Imports nothing of adepoll."""

import asyncio
from collections import deque
from contextvars import Context


class TurnLimiter:
    """Lets a limited number of tasks continue in each turn of the event loop, in their order.

    If thousands of tasks wait for the same job, all of them wake in one turn of the loop, and
    nothing else runs until each has done its part. With this class the loop serves others in
    between.
    """

    def __init__(self, limit: int) -> None:
        """At most `limit` tasks continue in each turn."""
        self._limit = limit
        self._passed = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def wait_turn(self) -> None:
        """Return immediately, or wait for a later turn if this one has reached the limit."""
        loop = asyncio.get_running_loop()
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next_turn, context=Context())
        if self._passed < self._limit and not self._waiting:
            self._passed += 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next_turn(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else its task was cancelled
                waiter.set_result(None)
                self._passed += 1
        self._scheduled = self._passed > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_turn, context=Context())
