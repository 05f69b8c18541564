"""What happens in a server on SIGINT and SIGTERM: adepoll ends waits and event streams.

After a signal, uvicorn waits for all open connections before it ends the lifespan of the
application. Event streams would keep their connections open. So `on_stop_signal` calls a function
as soon as the signal arrives: `ServerResources.stop` or `TenantPool.stop`. `contrib.starlette` and
`contrib.fastapi` use it. An aiohttp server calls the same functions by itself
(`Application.on_shutdown`).
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from types import FrameType
from typing import Any, Final, TypeAlias

__all__ = ["on_stop_signal"]

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]
_Callback: TypeAlias = Callable[[], object]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_signal(callback: _Callback) -> Iterator[None]:
    """On SIGINT or SIGTERM, schedule `callback` on the running loop, then call the old handler.

    Do nothing outside of the main thread, because Python handles signals only there. Do nothing for
    a signal that has no handler in Python. If the code in the ``with`` block installs its own
    handler, only that handler is called. Several blocks may be open, and end in any order. The end
    of the last block restores the old handler.
    """
    entry = (asyncio.get_running_loop(), callback)
    joined: list[_SharedHandler] = []
    if threading.current_thread() is threading.main_thread():
        joined += [handler for number in _SIGNALS if (handler := _handler_of(number)) is not None]
    for handler in joined:
        handler.entries[id(entry)] = entry
    try:
        yield
    finally:
        for handler in joined:
            handler.leave(id(entry))


class _SharedHandler:
    """The handler of one signal, which all open `on_stop_signal` blocks share.

    Attributes:
        entries: Loop and callback of each open ``with`` block, by a number that identifies the
            block.
    """

    def __init__(self, number: signal.Signals, old: _Handler) -> None:
        self.entries: dict[int, tuple[asyncio.AbstractEventLoop, _Callback]] = {}
        self._number = number
        self._old = old

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, callback in self.entries.values():
            with suppress(RuntimeError):  # the loop is closed, so there is nothing to stop
                # The signal may interrupt a request. The callback must not get the context
                # variables of that request.
                loop.call_soon_threadsafe(callback, context=Context())
        self._old(number, frame)

    def leave(self, key: int) -> None:
        """Remove the entry of a closed block; after the last one, restore the old handler."""
        del self.entries[key]
        # Read the attributes before the comparison with `is`. After it, type checkers assume that
        # `self` has the type that `getsignal` returns.
        number, old = self._number, self._old
        if not self.entries and signal.getsignal(number) is self:
            signal.signal(number, old)


def _handler_of(number: signal.Signals) -> _SharedHandler | None:
    """Return the shared handler of a signal. At the first call, install the handler.

    Return None if the signal has no handler in Python.
    """
    old = signal.getsignal(number)
    if isinstance(old, _SharedHandler):
        return old
    if not callable(old):  # SIG_DFL, SIG_IGN or a handler outside of Python
        return None
    handler = _SharedHandler(number, old)
    signal.signal(number, handler)
    return handler
