"""Blocking work in threads: work that ends is awaited, and work that may never end is not.

A thread cannot be stopped, and its work must have ended before the caller cleans up. Therefore, a
cancelled task still waits for work that ends. Imports nothing of adepoll.
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
    """Wait until work is done, whatever its outcome, even if this task is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        # asyncio.wait would cost several times the CPU time, for each batch of bytes.
        waiter = asyncio.get_running_loop().create_future()
        work.add_done_callback(partial(_wake, waiter))
        try:
            await waiter
        except asyncio.CancelledError as exc:
            cancelled = exc
    if not work.cancelled():
        work.exception()  # so that asyncio does not log an exception that was never retrieved
    if cancelled is not None:
        raise cancelled


def _wake(waiter: asyncio.Future[None], _work: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def run_in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """Run blocking work in a thread, and return its result; if cancelled, wait for it first."""
    started = asyncio.get_running_loop().run_in_executor(None, work, *args)
    await wait_until_done(started)
    return started.result()


class _LeftError(Exception):
    """Nobody takes the items of a thread any more."""


async def items_of_thread(
    produce: Callable[[Callable[[_T], None]], None], *, ahead: int, name: str
) -> AsyncGenerator[_T, None]:
    """Yield the items that a function passes on in a thread, then raise the error that ended it.

    The function may block without end, as on a pipe: its thread is a daemon, which does not delay
    the exit of the program. When this generator is closed, the function ends with the next item
    that it passes on.

    Args:
        produce: The function. Its argument takes an item, and waits while the thread is too far
            ahead.
        ahead: Maximum number of items that were passed on but not taken.
        name: Name of the thread.

    Raises:
        RuntimeError: The function raised something that is not an `Exception`, such as
            `SystemExit`, which would end the event loop.
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
    """Return an error that does not end an event loop."""
    if isinstance(exc, Exception):
        return exc
    error = RuntimeError(f"it ended with {type(exc).__name__}")
    error.__cause__ = exc
    return error
