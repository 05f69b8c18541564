"""Signals that stop a command: the first one in order, the second one at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

T = TypeVar("T")

# Windows has no SIGHUP.
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP")
_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"
_SIGNAL_EXIT_CODE: Final = 128  # plus the signal's number, as shells count


class Stopping:
    """Turns the first signal into the cancellation of a task, and the next one into the end.

    The handlers are Python's own, and not the loop's: they are called while the loop is busy, or
    is being closed. A signal that was ignored when the process began (nohup(1)) stays ignored.

    Attributes:
        signal: The signal that came first; None while none has.
    """

    def __init__(self) -> None:
        """Touch nothing before it is entered."""
        self.signal: signal.Signals | None = None
        self._stop: Callable[[], object] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals."""
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal that came."""
        return _SIGNAL_EXIT_CODE + (self.signal or 0)

    async def stoppable(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` in this task, which the first signal cancels."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        if self.signal is not None:
            raise asyncio.CancelledError  # it came while the loop was made
        try:
            return await main()
        finally:
            self._stop = None

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self._stop is not None:
                self._stop()
        elif signal.Signals(number).name != "SIGHUP":
            # That one is no hurry: a terminal that closes sends it twice, the kernel and the shell.
            _end(_SIGNAL_EXIT_CODE + number)


def _end(code: int) -> NoReturn:
    """End the process as it stands: nothing is cleaned up, and nothing complains of that."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)  # the live display hides it
    os._exit(code)
