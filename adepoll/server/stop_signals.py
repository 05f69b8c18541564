"""Reaction to the signals that stop a server. Imports nothing from adepoll.

uvicorn waits for its open connections before it ends the application's lifespan. A stream without
an end must therefore learn of the signal itself.
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

    A signal without a Python handler is left alone. Outside the main thread, which alone handles
    signals, this does nothing. A handler that is installed within the block replaces this one.
    Blocks may end in any order; the old handler is restored at the end of the last one.
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
        entries: Loop and callback of each open block.
    """

    def __init__(self, number: signal.Signals, old: _Handler) -> None:
        self.entries: dict[int, tuple[asyncio.AbstractEventLoop, _Callback]] = {}
        self._number = number
        self._old = old

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, callback in self.entries.values():
            with suppress(RuntimeError):  # the loop is closed, so there is nothing to stop
                # The signal may interrupt a request, whose context does not belong to the callback.
                loop.call_soon_threadsafe(callback, context=Context())
        self._old(number, frame)

    def leave(self, key: int) -> None:
        """Forget a block; after the last one, restore the old handler."""
        del self.entries[key]
        number, old = self._number, self._old  # `is` narrows `self` to the type of `getsignal`
        if not self.entries and signal.getsignal(number) is self:
            signal.signal(number, old)


def _handler_of(number: signal.Signals) -> _SharedHandler | None:
    """Return the installed shared handler; install one if necessary and possible."""
    old = signal.getsignal(number)
    if isinstance(old, _SharedHandler):
        return old
    if not callable(old):  # SIG_DFL, SIG_IGN or a handler outside of Python
        return None
    handler = _SharedHandler(number, old)
    signal.signal(number, handler)
    return handler
