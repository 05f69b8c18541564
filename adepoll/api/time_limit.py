"""TimeLimit: limits the time of requests with one timer. Imports nothing of adepoll."""

import asyncio
from contextvars import Context
from types import TracebackType
from typing import Self


class TimeLimit:
    """Limits the time of many blocks of code at the same time, as `asyncio.timeout` does for one.

    All blocks have the same limit, so they expire in the order in which they began. Therefore, one
    timer is enough. One timer for each block would take more CPU time.
    """

    def __init__(self, seconds: float) -> None:
        """Create a limit of `seconds` for each block."""
        self.seconds = seconds
        # Loop time at which each running block expires; the earliest first.
        self.running: dict[Block, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the blocks that have reached their deadlines; set the timer for the next block."""
        self.timer = None
        now = loop.time()
        for block, deadline in [*self.running.items()]:
            if deadline > now:
                self.timer = loop.call_at(deadline, self.expire, loop, context=Context())
                return
            del self.running[block]
            block.cancel()


class Block:
    """A block of code under a `TimeLimit`: raises `TimeoutError` if it takes too long.

    It cancels its task as `asyncio.Timeout` does.
    """

    __slots__ = ("_cancelling", "_limit", "_task")

    def __init__(self, limit: TimeLimit, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Begin a block; it must be entered immediately.

        Args:
            limit: The limit of the block.
            loop: The running loop.
            now: Loop time at which the block begins; not earlier than for the previous block.

        Raises:
            RuntimeError: No task is running.
        """
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit works within a task only")
        self._limit = limit
        self._task = task
        self._cancelling = task.cancelling()
        deadline = limit.running[self] = now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(deadline, limit.expire, loop, context=Context())

    def restart(self, now: float) -> None:
        """Give the block the full time again, from `now` on, unless the block has expired."""
        running = self._limit.running
        if running.pop(self, None) is not None:
            running[self] = now + self._limit.seconds

    def cancel(self) -> None:
        """Cancel the task that runs in the block."""
        self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        limit = self._limit
        in_time = limit.running.pop(self, None) is not None
        if not limit.running and limit.timer is not None:
            limit.timer.cancel()
            limit.timer = None
        if in_time:
            return
        # If other code has cancelled the task as well, the CancelledError must reach that code.
        if self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc
