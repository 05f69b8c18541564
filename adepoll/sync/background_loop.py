"""BackgroundLoop: an event loop in a separate thread, which runs coroutines.

What happens on SIGINT in a program that uses `adepoll.sync`: Python raises `KeyboardInterrupt` in
the call of `BackgroundLoop.run`. `run` cancels its coroutine, waits for the end of the coroutine,
and raises the `KeyboardInterrupt` again. adepoll installs no handler.
"""

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from adepoll import ClosedError
from adepoll.common.threads import start_thread

_T = TypeVar("_T")

# Maximum seconds of one wait. On Windows, Ctrl-C takes effect only at the end of a wait.
_SLICE: Final = 1.0


class BackgroundLoop:
    """An event loop in a daemon thread; `close` ends both."""

    def __init__(self) -> None:
        """Start the thread; raise `OSError` if the system cannot start another thread."""
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        try:
            self._thread = start_thread(self._serve, name="adepoll-sync")
        except BaseException:
            self._loop.close()
            raise

    @property
    def is_closed(self) -> bool:
        """True if no coroutine can run.

        This is the case after `close`, and at the end of the program. It is also the case in a
        process that was forked after the start of the loop, because the thread of the loop does not
        run there.
        """
        return self._loop.is_closed() or sys.is_finalizing() or self._was_forked

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the loop, and return its result.

        An error of the coroutine is raised here, too. If it is `SystemExit`, the loop goes on.

        Raises:
            ClosedError: The loop is closed, was closed during the call, or belongs to the process
                from which this process was forked.
            RuntimeError: The call comes from the thread of the loop. It would block the loop, and
                so wait forever.
        """
        if self.owns_current_thread():
            main.close()
            raise RuntimeError("adepoll.sync was called from its own event loop; await instead")
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[_T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(_survive(main)))
            tasks[0].add_done_callback(lambda task: _pass_on(task, done))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                _cancel(done)

        try:
            self._call(start)
            self._wait_for(done)
        except BaseException:  # Ctrl-C, or whatever a signal handler raises
            with suppress(ClosedError):
                self._call(cancel)
                self._wait_for(done)
            raise
        finally:
            if not tasks or tasks[0].done():
                main.close()  # otherwise Python warns of a coroutine that has not begun
        if done.cancelled():
            raise ClosedError("the session was closed during this call")
        return done.result()

    def owns_current_thread(self) -> bool:
        """Return True if the calling thread is the one that runs the loop."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Cancel all tasks of the loop, and end the thread; may be called again."""
        if not self.is_closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    @property
    def _was_forked(self) -> bool:
        return os.getpid() != self._pid

    def _call(self, function: Callable[[], None]) -> None:
        """Schedule a call of `function` in the loop; raise `ClosedError` if the loop is closed."""
        if self._was_forked:
            raise ClosedError(
                "the session was opened before this process was forked; open a session in this "
                "process"
            )
        if not self.is_closed:
            with suppress(RuntimeError):  # the loop was closed after the check
                self._loop.call_soon_threadsafe(function)
                return
        raise ClosedError("the session is closed; open it again with a `with` block")

    def _wait_for(self, done: concurrent.futures.Future[Any]) -> None:
        """Wait for the future `done`, which completes when a call in the loop has ended.

        If the thread of the loop ends before `done` completes, cancel `done`.
        """
        while not done.done():
            concurrent.futures.wait([done], timeout=_SLICE)
            # In this order, because the thread can set `done` and end between the two calls.
            if not self._thread.is_alive() and not done.done():
                _cancel(done)  # the loop has ended without running the call

    def _serve(self) -> None:
        """Run the loop until it is stopped; then end its tasks and close it."""
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_all())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


class _ExitError(Exception):
    """A coroutine has raised its cause, a `SystemExit` or `KeyboardInterrupt`."""


async def _survive(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine, but raise `_ExitError` for an error that would end the loop."""
    try:
        return await main
    except (SystemExit, KeyboardInterrupt) as exc:
        raise _ExitError from exc


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _pass_on(task: asyncio.Task[_T], done: concurrent.futures.Future[_T]) -> None:
    """Set the result or error of an ended task in `done`."""
    if task.cancelled():
        _cancel(done)
    elif (error := task.exception()) is not None:
        done.set_exception(error.__cause__ if isinstance(error, _ExitError) else error)
    else:
        done.set_result(task.result())


def _cancel(done: concurrent.futures.Future[Any]) -> None:
    done.cancel()
    done.set_running_or_notify_cancel()  # wakes the threads that wait for `done`
