"""A fast semaphore for asyncio. Imports nothing of adepoll."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType


class Semaphore(AbstractAsyncContextManager[None, None]):
    """An async context manager that at most `limit` tasks hold at the same time.

    It works like `asyncio.Semaphore`. It creates no coroutine while a place is free, which saves
    time in every request. A place that becomes free goes to the task that has waited longest. All
    tasks must run in the same event loop; this is not checked.
    """

    def __init__(self, limit: int) -> None:
        """Start with `limit` free places."""
        self._free = limit  # number of free places; 0 while a task waits
        self._waiting: deque[asyncio.Future[None]] = deque()
        # A completed future, which `async with` can await without a suspension of the task.
        self._done: asyncio.Future[None] | None = None

    def __aenter__(self) -> Awaitable[None]:  # type: ignore[override]  # `async with` accepts any awaitable
        """Acquire a place; wait until one is free."""
        if self._free:
            self._free -= 1
            return self._done or self._make_done()
        return self._wait()

    def __aexit__(  # type: ignore[override]  # `async with` accepts any awaitable
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        """Release the place."""
        if self._waiting:
            self._release()
        else:
            self._free += 1
        return self._done or self._make_done()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:  # also GeneratorExit, which a closed coroutine raises
            if waiter.done() and not waiter.cancelled():
                self._release()  # this task got a place just before it was cancelled
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _make_done(self) -> asyncio.Future[None]:
        self._done = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        return self._done
