"""Hears the signals that stop a server, and leaves them to the server. Imports nothing of adepoll.

A server that waits for its connections before it ends its application, as uvicorn does, would
wait for an endless answer for ever, if nothing told that answer that it should end.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeAlias

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def overhearing(told: Callable[[], object]) -> Iterator[None]:
    """Call `told` in the running loop when SIGINT or SIGTERM comes, and then who has the signal.

    A signal that nobody has taken is left alone, and so are all where this is not the main thread,
    which alone gets signals. Whoever takes the signals later has them to himself.
    """
    loop = asyncio.get_running_loop()
    placed: list[tuple[signal.Signals, _Handler, _Handler]] = []
    if threading.current_thread() is threading.main_thread():
        for number in _NUMBERS:
            before = signal.getsignal(number)
            if callable(before):  # and not SIG_DFL, SIG_IGN, or something outside of Python
                after = _chained(loop, told, before)
                signal.signal(number, after)
                placed.append((number, after, before))
    try:
        yield
    finally:
        for number, after, before in placed:
            if signal.getsignal(number) is after:
                signal.signal(number, before)


def _chained(
    loop: asyncio.AbstractEventLoop, told: Callable[[], object], before: _Handler
) -> _Handler:
    def heard(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing runs that should stop
            loop.call_soon_threadsafe(told)
        before(number, frame)

    return heard
