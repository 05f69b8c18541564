"""Reaction to the signals that stop a server. Imports nothing from adepoll.

uvicorn waits for its open connections before it ends the application's lifespan. A stream without
an end must therefore learn of the signal itself.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeAlias

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_signal(callback: Callable[[], object]) -> Iterator[None]:
    """On SIGINT or SIGTERM, schedule `callback` on the running loop, then call the old handler.

    A signal without a Python handler is left alone. Outside the main thread, which alone handles
    signals, this does nothing. A handler that is installed within the block replaces this one.
    """
    loop = asyncio.get_running_loop()
    installed: list[tuple[signal.Signals, _Handler, _Handler]] = []
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            old = signal.getsignal(number)
            if callable(old):  # not SIG_DFL, SIG_IGN or a handler outside of Python
                new = _chain(loop, callback, old)
                signal.signal(number, new)
                installed.append((number, new, old))
    try:
        yield
    finally:
        for number, new, old in installed:
            if signal.getsignal(number) is new:
                signal.signal(number, old)


def _chain(
    loop: asyncio.AbstractEventLoop, callback: Callable[[], object], old: _Handler
) -> _Handler:
    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, so there is nothing to stop
            loop.call_soon_threadsafe(callback)
        old(number, frame)

    return handle
