"""Turns: which polls wait for the request budget, so that few are chosen long before they are sent.

Imports nothing of adepoll.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final


class Turns:
    """Wraps the semaphore that is held during each poll; knows the polls that wait for their turn.

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
        """Take a place; this poll does not wait any more."""
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
        """Return what releases the place."""
        return self._semaphore.__aexit__(exc_type, exc, traceback)


# What is polled next is decided as late as possible: a poll that waits long for its turn, while the
# request budget is short, would be sent before others that have become more important.
_MAX_WAITING: Final = 4
_LONG: Final = 0.25  # seconds


def _do_nothing() -> None:
    """Do nothing, as nobody wants to know."""
