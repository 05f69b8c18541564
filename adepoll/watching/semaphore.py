"""Slots: a semaphore that takes few steps where there is room. Imports nothing of adepoll."""

import asyncio
from collections import deque
from types import TracebackType


class Semaphore:
    """So many places, each held for a block; an async context manager that any number may enter.

    What `asyncio.Semaphore` is, for one who enters at every request: where a place is free, that
    is taken at once. Else places pass from who leaves to who has waited longest. It is for one
    event loop, which nothing here checks.
    """

    def __init__(self, most: int) -> None:
        """Begin with `most` places."""
        self._free = most  # more than none only while nobody waits
        self._line: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Take a place, or wait for one."""
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        try:
            await waiter
        except BaseException:  # a coroutine can be closed, too
            if waiter.done() and not waiter.cancelled():
                self._leave()  # it was given a place at that very moment
            elif waiter in self._line:
                self._line.remove(waiter)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the place back."""
        self._leave()

    def _leave(self) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
