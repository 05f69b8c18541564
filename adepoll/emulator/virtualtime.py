"""An event loop whose time is virtual: it jumps to the next timer instead of sleeping."""

import asyncio
import selectors
import sys
from asyncio import Future
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Final, TypeVar, TypeVarTuple

from adepoll.api.models import Json

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_PATIENCE: Final = 60.0
"""How many real seconds the loop waits for a thread before it calls that a deadlock."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never sleeps while no thread is at work: it adds the time it should have slept to `now`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads:
            # A thread takes real time and no virtual time, so that what it finds is deterministic.
            patience = THREAD_PATIENCE if timeout != 0 else 0
            events = super().select(patience)
            if not events and patience:
                raise RuntimeError(
                    f"deadlock: a thread has not come back for {THREAD_PATIENCE:g} real seconds; "
                    "in virtual time no timer fires before it does"
                )
            return events
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError(
                "deadlock: every task waits, no timer is set and no thread is at work; in virtual "
                "time nothing can ever happen again"
            )
        self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that replays hours in milliseconds: `time()` starts at 0.0 and jumps to each timer.

    Work in threads (`asyncio.to_thread`, `run_in_executor`) takes no virtual time. Sockets are of
    no use in it, since the loop does not wait for them. Where nothing can ever happen again, it
    raises `RuntimeError` instead of hanging.
    """

    def __init__(self) -> None:
        """Start at 0.0 virtual seconds."""
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Give the virtual seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> Future[T]:
        """Run in a thread as ever, and keep virtual time from passing meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_came_back)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own signature
        """Wait for the default executor's threads, in real time."""
        self._jumping.threads += 1
        try:
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()
        finally:
            self._jumping.threads -= 1

    def _thread_came_back(self, _future: "Future[T]") -> None:
        self._jumping.threads -= 1


def run(main: Coroutine[Json, Json, T]) -> T:
    """Run a coroutine in a `VirtualTimeLoop`, as `asyncio.run` does in a real one.

    Tasks left over are cancelled, asynchronous generators and threads shut down, the loop closed.

    Raises:
        RuntimeError: Everything waits for something that cannot happen ("deadlock: ...").
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
