"""The semaphore of a watcher, and the waits of its requests for their turn.

The turn of a request comes when the request budget allows it to be sent; then the request acquires
the semaphore. `pollers.PollTurns` wraps the semaphore for polls, and `PageTurns` for requests of
list pages. Imports nothing of adepoll. Times are seconds of the event loop.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, Final


class Semaphore(AbstractAsyncContextManager[None, None]):
    """An async context manager that at most `limit` tasks hold at the same time.

    It works like `asyncio.Semaphore`, but creates no coroutine while a place is free, which saves
    time in every request. A place that becomes free goes to the task that has waited longest. All
    tasks must run in the same event loop; this is not checked.
    """

    def __init__(self, limit: int) -> None:
        """Create a semaphore with `limit` free places."""
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
        """Wait for a place; if the task is cancelled, give the place to the next task."""
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

    def locked(self) -> bool:
        """Return True if no place is free, as `asyncio.Semaphore.locked` does."""
        return not self._free

    def _release(self) -> None:
        """Free a place, or pass it to the next waiting task."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _make_done(self) -> asyncio.Future[None]:
        """Create and keep the completed future that is returned while a place is free."""
        self._done = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        return self._done


class Turns(AbstractAsyncContextManager[object, bool | None]):
    """Wraps the semaphore that is held during each request; measures how long requests wait.

    It is a `SemaphoreWrapper` (`common/semaphores.py`).

    Attributes:
        semaphore: The wrapped semaphore.
        waiting: Tasks whose request was not sent yet, oldest first, and the times at which these
            requests began to wait.
        last_wait: Seconds for which the last request had waited when it was sent.
    """

    def __init__(self, semaphore: AbstractAsyncContextManager[object]) -> None:
        """Create an object without waiting requests.

        Args:
            semaphore: Each request holds this semaphore while it is in flight.
        """
        self.waiting: dict[asyncio.Task[Any], float] = {}
        self.semaphore = semaphore
        self.last_wait = 0.0
        self._turn_at = -math.inf  # time at which the last request got its turn

    def is_busy(self, now: float, *, within: float = 0.0) -> bool:
        """Return True if a request has waited over 0.1 s for the request budget, now or recently.

        Args:
            now: The present time.
            within: Number of seconds that count as recent; 0 to ask only for the present.
        """
        if self.last_wait > _SPARE and now < self._turn_at + within:
            return True
        return bool(self.waiting) and self.longest_wait(now) > _SPARE

    def longest_wait(self, now: float) -> float:
        """Return `last_wait`, or the wait of the oldest waiting request if that is longer."""
        return max(self.last_wait, now - next(iter(self.waiting.values())))

    def sent(self, task: asyncio.Task[Any] | None, now: float) -> None:
        """Record that the request of a task is sent now, so that it no longer waits."""
        if task is not None and (began := self.waiting.pop(task, None)) is not None:
            self.last_wait = now - began
            self._turn_at = now
            self._record_turn(task, now)

    def waits_again(self, task: asyncio.Task[Any] | None, now: float) -> None:
        """Record that the request of a task must be sent once more, and waits for its turn."""
        if task is not None:
            self.waiting[task] = now

    async def __aenter__(self) -> None:
        """Acquire the semaphore, for a request that is sent after that."""
        await self.semaphore.__aenter__()
        self.sent(asyncio.current_task(), asyncio.get_running_loop().time())

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Release the semaphore."""
        return await self.semaphore.__aexit__(exc_type, exc, traceback)

    def _record_turn(self, task: asyncio.Task[Any], now: float) -> None:
        """Record that a request which has waited is sent now."""


class PageTurns(Turns):
    """Measures how long requests for a page take, without the time before they are sent."""

    def __init__(self, semaphore: AbstractAsyncContextManager[object]) -> None:
        """Create an object without waiting requests.

        Args:
            semaphore: Each request holds this semaphore while it is in flight.
        """
        super().__init__(semaphore)
        self._sent: dict[asyncio.Task[Any], float] = {}
        self._limits: dict[asyncio.Task[Any], tuple[asyncio.Timeout, float]] = {}
        self.restart()

    def restart(self) -> None:
        """Forget the requests that have ended."""
        self._seconds = 0.0
        self._requests = 0
        self._turns = 0
        self._last_places = 0

    @property
    def takes_last_places(self) -> bool:
        """True if most of the requests have taken the last free place of the semaphore.

        So the semaphore limits how many requests can be sent, not the request budget.
        """
        return self._last_places * 2 > self._turns

    @property
    def mean_duration(self) -> float:
        """Mean duration of a request in seconds; 0 if none has ended."""
        return self._seconds / self._requests if self._requests else 0.0

    @contextmanager
    def request(self, timeout: asyncio.Timeout, seconds: float) -> Iterator[None]:
        """Measure how long the request in the ``with`` block waits, and how long it takes.

        Args:
            timeout: Time limit of the request; it is started when the request is sent.
            seconds: Length of the time limit.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("a request for a page needs a task")
        self.waiting[task] = loop.time()
        self._limits[task] = timeout, seconds
        try:
            yield
        finally:
            self.waiting.pop(task, None)
            del self._limits[task]
            if (sent := self._sent.pop(task, None)) is not None:
                self._seconds += loop.time() - sent
                self._requests += 1

    def waits_again(self, task: asyncio.Task[Any] | None, now: float) -> None:
        """Record that the request of a task waits again; stop its time limit meanwhile."""
        super().waits_again(task, now)
        if task is not None and (sent := self._sent.pop(task, None)) is not None:
            self._seconds += now - sent
            self._limits[task][0].reschedule(None)

    def _record_turn(self, task: asyncio.Task[Any], now: float) -> None:
        """Record that a request is sent now, and start its time limit."""
        self._sent[task] = now
        self._turns += 1
        if isinstance(self.semaphore, Semaphore | asyncio.Semaphore):
            self._last_places += self.semaphore.locked()
        timeout, seconds = self._limits[task]
        timeout.reschedule(now + seconds)


_SPARE: Final = 0.1  # seconds by which a poll that can be left out may delay other requests
