"""An event loop with virtual time: instead of sleeping, it jumps to the next timer."""

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

THREAD_TIMEOUT: Final = 60.0
"""Real seconds that the loop waits for a thread before it raises a deadlock error."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not sleep: it adds the timeout to `now`, in virtual seconds.

    While a thread is running, the selector waits for it in real time, and `now` stays the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads:
            # A thread takes real time but no virtual time, so that every run has the same result.
            real_timeout = THREAD_TIMEOUT if timeout != 0 else 0
            events = super().select(real_timeout)
            if not events and real_timeout:
                raise RuntimeError(
                    f"deadlock: a thread has not finished in {THREAD_TIMEOUT:g} real seconds; "
                    "in virtual time, no timer fires before it finishes"
                )
            return events
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError(
                "deadlock: every task waits, no timer is set and no thread is running; in virtual "
                "time, nothing can happen any more"
            )
        self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that runs hours in milliseconds: `time()` starts at 0.0 and jumps to the next timer.

    Work in threads (`asyncio.to_thread`, `run_in_executor`) takes no virtual time. Sockets do not
    work, since the loop does not wait for them. If all tasks wait for something that cannot happen,
    the loop raises `RuntimeError` instead of hanging.
    """

    def __init__(self) -> None:
        """Create a loop whose time is 0.0 virtual seconds."""
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._jumping.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> Future[T]:
        """Run `func` in a thread; virtual time stands still until it returns."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_finished)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the signature of asyncio's method
        """Wait for the default executor's threads, in real time."""
        self._jumping.threads += 1
        try:
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()
        finally:
            self._jumping.threads -= 1

    def _thread_finished(self, _future: "Future[T]") -> None:
        self._jumping.threads -= 1


def run(main: Coroutine[Json, Json, T]) -> T:
    """Run a coroutine in a `VirtualTimeLoop`, as `asyncio.run` does in a real loop.

    At the end, remaining tasks are cancelled, asynchronous generators and threads are shut down,
    and the loop is closed.

    Raises:
        RuntimeError: All tasks wait for something that cannot happen ("deadlock: ...").
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
