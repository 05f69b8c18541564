"""Runs blocking work in threads. Imports nothing of adepoll.

A thread cannot be stopped, and its work must have ended before the caller cleans up. Therefore, a
task that is cancelled still waits for the work of `run_in_thread`. Use `items_of_thread` for work
that may never end: nothing waits for this work.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def wait_until_done(work: asyncio.Future[_T]) -> None:
    """Wait until work is done, even if the current task is cancelled.

    Raise CancelledError at the end if the current task was cancelled. Raise nothing if the work
    failed.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        # asyncio.wait would take several times as much CPU time.
        waiter = asyncio.get_running_loop().create_future()
        work.add_done_callback(partial(_wake, waiter))
        try:
            await waiter
        except asyncio.CancelledError as exc:
            cancelled = exc
    if not work.cancelled():
        work.exception()  # otherwise asyncio would log an exception that was never retrieved
    if cancelled is not None:
        raise cancelled


def _wake(waiter: asyncio.Future[None], _work: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def run_in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """Run blocking work in a thread, and return its result.

    If the current task is cancelled, wait until the work has ended, then raise CancelledError.
    """
    started = asyncio.get_running_loop().run_in_executor(None, work, *args)
    await wait_until_done(started)
    return started.result()


class _LeftError(Exception):
    """Ends a thread, because nobody takes its items any more."""


async def items_of_thread(
    produce: Callable[[Callable[[_T], None]], None], *, ahead: int, name: str
) -> AsyncGenerator[_T, None]:
    """Run a function in a thread, and yield the items that it passes on.

    If the function raises an error, the generator raises the error after the last item. The
    function may block forever, for example on a pipe: its thread is a daemon, which does not delay
    the exit of the program. After this generator was closed, the function ends when it passes the
    next item on.

    Args:
        produce: The function. It passes an item on by calling its argument with the item. The call
            blocks while `ahead` items were passed on but not taken.
        ahead: Maximum number of items that were passed on but not taken.
        name: Name of the thread.

    Raises:
        RuntimeError: The function raised an error that is not an `Exception`, such as `SystemExit`,
            which would end the event loop.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[tuple[_T] | Exception | None] = asyncio.Queue()
    capacity = threading.Semaphore(ahead)
    is_left = threading.Event()

    def put(entry: tuple[_T] | Exception | None) -> None:
        capacity.acquire()
        if is_left.is_set():
            raise _LeftError
        try:
            loop.call_soon_threadsafe(received.put_nowait, entry)
        except RuntimeError:  # the loop is closed
            raise _LeftError from None

    def run() -> None:
        with suppress(_LeftError):
            try:
                produce(lambda item: put((item,)))
            except _LeftError:
                raise
            except BaseException as exc:  # noqa: BLE001 - raised again in the event loop
                put(_survivable(exc))
            else:
                put(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        while (entry := await received.get()) is not None:
            capacity.release()
            if isinstance(entry, Exception):
                raise entry
            yield entry[0]
    finally:
        is_left.set()
        capacity.release()


def _survivable(exc: BaseException) -> Exception:
    """Return the error; if it would end the event loop, return a RuntimeError in its place."""
    if isinstance(exc, Exception):
        return exc
    error = RuntimeError(f"it ended with {type(exc).__name__}")
    error.__cause__ = exc
    return error
