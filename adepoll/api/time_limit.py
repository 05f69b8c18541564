"""A time limit for many blocks of code, with one timer in total. Imports nothing of adepoll."""

import asyncio
from contextlib import AbstractContextManager
from contextvars import Context
from types import TracebackType
from typing import Self


class TimeLimit:
    """`asyncio.timeout` for any number of blocks with the same limit, with one timer in total.

    All blocks have the same limit, so they expire in the order of their start. One timer for each
    block would cost 10% of the CPU time of a request.
    """

    def __init__(self, seconds: float) -> None:
        """Create a limit of `seconds` for each block."""
        self.seconds = seconds
        self.running: dict[Block, float] = {}  # deadlines; the earliest first
        self.timer: asyncio.TimerHandle | None = None

    def block(self, loop: asyncio.AbstractEventLoop, now: float) -> AbstractContextManager["Block"]:
        """Return a context manager that raises `TimeoutError` if its block takes too long.

        Args:
            loop: The running loop.
            now: Loop time at which the block begins, not earlier than that of the last block.
        """
        return Block(self, loop, now)

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the blocks whose time is over, and set the timer for the next block."""
        self.timer = None
        now = loop.time()
        for block, deadline in [*self.running.items()]:
            if deadline > now:
                self.timer = loop.call_at(deadline, self.expire, loop, context=Context())
                return
            del self.running[block]
            block.cancel()


class Block:
    """One block under a `TimeLimit`. It cancels its task as `asyncio.Timeout` does."""

    __slots__ = ("_cancelling", "_limit", "_loop", "_now", "_task")

    def __init__(self, limit: TimeLimit, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._limit = limit
        self._loop = loop
        self._now = now

    def restart(self, now: float) -> None:
        """Begin the limit again, in the middle of the block."""
        running = self._limit.running
        if running.pop(self, None) is not None:  # else it has expired
            running[self] = now + self._limit.seconds

    def cancel(self) -> None:
        """Cancel the task that runs in the block."""
        self._task.cancel()

    def __enter__(self) -> Self:
        limit, loop = self._limit, self._loop
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit works within a task only")
        self._task = task
        self._cancelling = task.cancelling()
        deadline = limit.running[self] = self._now + limit.seconds
        if limit.timer is None:
            limit.timer = loop.call_at(deadline, limit.expire, loop, context=Context())
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
        # If the task was also cancelled by others, they must see the CancelledError.
        if self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc
