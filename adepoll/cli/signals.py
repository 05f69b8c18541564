"""What happens on SIGINT, SIGTERM and SIGHUP: the first signal cancels the command.

`run.run` uses `StopSignals` for every command with an event loop:

1. The first signal cancels the task of the command. The command closes connections and the journal,
   and keeps part files.
2. `fetch`, `watch` and `resume` print how to continue (the argument `on_stop` of `run.run`).
3. `run.run` exits with 128 plus the number of the signal (130 after SIGINT).

A second SIGINT or SIGTERM ends the process immediately, with the same codes. A second SIGHUP is
ignored. In a command without an event loop (`completion`, `export`, `status`), the first signal
raises `KeyboardInterrupt`, and the command removes its temporary files. `run.run_sync` exits with
the same codes.

For servers, see `server.stop_signals`; for programs that use `adepoll.sync`, see
`sync.background_loop`. In any other program, adepoll installs no handler.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from adepoll.cli.exit_codes import exit_code_of_signal

T = TypeVar("T")

# Windows has no SIGHUP.
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP")
_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"


class StopSignals:
    """Context manager: the first signal stops a command, the second one ends the process.

    The handlers are installed with `signal.signal` and not on the event loop, so that they also run
    while the loop is busy or closing. A signal that was ignored when the process started (as SIGHUP
    under nohup) stays ignored.

    Attributes:
        received: The first signal that arrived; None before a signal has arrived.
    """

    def __init__(self) -> None:
        """Create the object; `__enter__` installs the handlers."""
        self.received: signal.Signals | None = None
        self._cancel: Callable[[], object] | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Install the handlers."""
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        self._stack.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    async def run_cancellable(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine function `main` in the current task, which the first signal cancels."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self._wake_on_signals(loop)
        if task is not None:
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self.received is not None:
            raise asyncio.CancelledError  # the signal arrived while the loop was created
        try:
            return await main()
        finally:
            self._cancel = None

    def _wake_on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the loop when a signal arrives, so that the handler runs immediately.

        Otherwise, the handler would run when the loop wakes for another reason, if another thread
        received the signal, or if the signal arrived just before the loop began to wait.
        """
        if (previous := signal.set_wakeup_fd(-1)) != -1:
            signal.set_wakeup_fd(previous)  # uvloop and the loop of Windows wake themselves
            return
        receiver, sender = map(self._stack.enter_context, socket.socketpair())
        receiver.setblocking(False)
        sender.setblocking(False)
        loop.add_reader(receiver, receiver.recv, 1_024)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, -1)

    def run_interruptible(self, main: Callable[[], T]) -> T:
        """Run the function `main`, in which the first signal raises `KeyboardInterrupt`."""
        self._cancel = _interrupt
        try:
            if self.received is not None:
                _interrupt()  # the signal arrived before `main` was called
            return main()
        finally:
            self._cancel = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Stop the command at the first signal; exit immediately at the second."""
        if self.received is None:
            self.received = signal.Signals(number)
            if self._cancel is not None:
                self._cancel()
        elif signal.Signals(number).name != "SIGHUP":
            # A second SIGHUP is ignored, because a closing terminal causes two: one from the kernel
            # and one from the shell.
            _exit_immediately(exit_code_of_signal(number))


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _exit_immediately(code: int) -> NoReturn:
    """End the process without cleanup; only show the cursor, which the live display has hidden."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
    os._exit(code)
