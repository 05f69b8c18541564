"""Cancels handlers whose client has disconnected, in an aiohttp server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from aiohttp import web

_CHECK_INTERVAL: Final = 0.25  # seconds between two checks for disconnected clients


class DisconnectMonitor:
    """Cancels handlers whose client has disconnected.

    aiohttp itself cancels them only if the server was started with ``handler_cancellation``. So
    this class checks, four times per second, the connections of all requests in a `cancelling`
    block.
    """

    def __init__(self) -> None:
        # The keys are the blocks, because one request can have several blocks at the same time.
        self._requests: dict[object, web.Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def cancelling(self, request: web.Request) -> Iterator[None]:
        """Cancel the handler of the request if its client disconnects during the ``with`` block."""
        block = object()
        self._requests[block] = request
        if self._timer is None:
            self._check()
        try:
            yield
        finally:
            self._requests.pop(block, None)
            if not self._requests and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _check(self) -> None:
        """Cancel each handler whose connection is closed, and schedule the next check."""
        handlers: set[asyncio.Task[None]] = set()
        for block, request in list(self._requests.items()):
            if request.transport is None or request.transport.is_closing():
                del self._requests[block]
                if request.task is not None:  # aiohttp sets it to None after the response
                    handlers.add(request.task)
        for handler in handlers:
            handler.cancel()
        self._timer = None
        if self._requests:
            # The timer serves all requests, so it must not keep the context variables of a
            # single request.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_CHECK_INTERVAL, self._check, context=Context())
