"""SemaphoreWrapper: how code that passes a semaphore learns when each request is sent.

Imports nothing of adepoll.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SemaphoreWrapper(Protocol):
    """An object that wraps a semaphore, and records when each request is sent.

    `RequestSender` acquires `semaphore`, and calls `sent` when it sends the request. It calls
    `waits_again` before it sends the same request once more.
    Other code uses the wrapper itself as a semaphore. Then a request counts as sent when its task
    has acquired the wrapper.

    Attributes:
        semaphore: The semaphore.
    """

    semaphore: AbstractAsyncContextManager[object]

    def sent(self, task: asyncio.Task[Any] | None, now: float) -> None:
        """Record that a request is sent now.

        Args:
            task: The task that sends the request; None if no task sends it.
            now: The present time.
        """

    def waits_again(self, task: asyncio.Task[Any] | None, now: float) -> None:
        """Record that a request which was sent waits for its turn again; arguments as of `sent`."""
