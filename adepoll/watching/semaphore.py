"""Limits on the polls that run at the same time. Imports nothing of adepoll."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final


class Semaphore:
    """An async context manager that at most `limit` tasks hold at the same time.

    It does what `asyncio.Semaphore` does, in fewer steps while a place is free, since every
    request enters it. A place that becomes free goes to the task that has waited longest. It
    serves one event loop; that is not checked.
    """

    def __init__(self, limit: int) -> None:
        """Start with `limit` free places."""
        self._free = limit  # above 0 only while no task waits
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Acquire a place; wait until one is free."""
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:  # GeneratorExit too: a coroutine can be closed
            if waiter.done() and not waiter.cancelled():
                self._release()  # the place was handed over in this very step
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the place."""
        self._release()

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


class Turns:
    """Wraps the semaphore that is held during each poll; knows the polls that wait for their turn.

    While the request budget is short, few polls are chosen long before they are sent.

    Attributes:
        waiting: Tasks of the polls whose request was not sent yet, and the times at which the polls
            began; the oldest comes first.
        held_back: True if no other poll should begin yet, as polls wait long for their turn.
        on_turn: Called when a poll gets its turn while others are held back.
    """

    def __init__(self, semaphore: AbstractAsyncContextManager[object]) -> None:
        """`semaphore` is held during each poll."""
        self.waiting: dict[asyncio.Task[None], float] = {}
        self.held_back = False
        self.on_turn: Callable[[], None] = _do_nothing
        self._semaphore = semaphore
        self._last_wait = 0.0  # seconds

    def hold_back(self, now: float) -> bool:
        """Decide and return whether the next poll is held back."""
        waiting = self.waiting
        self.held_back = (
            len(waiting) >= _MAX_WAITING
            and max(self._last_wait, now - next(iter(waiting.values()))) > _LONG
        )
        return self.held_back

    async def __aenter__(self) -> None:
        """Acquire a place; this poll no longer waits for its turn."""
        await self._semaphore.__aenter__()
        task = asyncio.current_task()
        if task is not None and (began := self.waiting.pop(task, None)) is not None:
            self._last_wait = asyncio.get_running_loop().time() - began
            if self.held_back:
                self.held_back = False
                self.on_turn()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, bool | None]:
        """Return a coroutine that releases the place."""
        return self._semaphore.__aexit__(exc_type, exc, traceback)


# What is polled next is decided as late as possible: a poll that waits long for its turn, while the
# request budget is short, would be sent before others that have become more important.
_MAX_WAITING: Final = 4
_LONG: Final = 0.25  # seconds


def _do_nothing() -> None:
    """Do nothing: the default of `Turns.on_turn`."""
