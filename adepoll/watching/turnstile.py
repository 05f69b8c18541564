"""Turnstile: lets a crowd go on a few at a time, so that the event loop has time for others.

When a job has ended for which thousands wait, or a sweep has found hundreds, all of them wake in
one turn of the loop, and nobody else is served until each has done its part. Imports nothing of
adepoll.
"""

import asyncio
from collections import deque


class TurnLimiter:
    """Lets at most so many through in each turn of the event loop, in the order they came."""

    def __init__(self, most: int) -> None:
        """`most` go through in each turn."""
        self._most = most
        self._gone = 0  # in this turn
        self._line: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def through(self) -> None:
        """Go through; at once, where there is no crowd."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._gone < self._most and not self._line:
            self._gone += 1
            return
        place = loop.create_future()
        self._line.append(place)
        await place

    def _turn(self) -> None:
        self._gone = 0
        while self._line and self._gone < self._most:
            place = self._line.popleft()
            if not place.done():  # who was cancelled has left
                place.set_result(None)
                self._gone += 1
        self._turning = self._gone > 0
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
