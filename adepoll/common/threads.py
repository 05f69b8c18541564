"""Runs blocking work in threads. Imports nothing of adepoll.

A thread cannot be stopped, and its work must have ended before the caller cleans up. Therefore, a
task that is cancelled still waits for the work of `run_in_thread`. Use `items_of_thread` for work
that may never end: nothing waits for this work.
"""

import asyncio
import concurrent.futures.thread  # asyncio would import it when the first thread is needed
import errno
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Final, Generic, TypeVar, TypeVarTuple, Unpack

from attrs import define, field

NO_THREAD: Final = "the system cannot start another thread (see ulimit -u)"
"""Message for users if a limit of the system is reached."""

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def wait_until_done(work: asyncio.Future[_T]) -> None:
    """Wait until a future is done, even if the current task is cancelled.

    Raise CancelledError at the end if the current task was cancelled. Do not raise the error of the
    future.
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


def is_thread_limit(exc: RuntimeError) -> bool:
    """Return whether an error says that the system cannot start another thread.

    This is the case if the process, its user or its container has reached a limit. Python has no
    error class of its own for it.
    """
    return str(exc).startswith("can't start new thread")


def start_in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> asyncio.Future[_T]:
    """Start blocking work in a thread, and return a future with its result.

    If the system cannot start another thread, the work is done in the current thread. Then the
    event loop must wait, but no result is lost.
    """
    once = _Once(partial(copy_context().run, work, *args))
    try:
        return asyncio.get_running_loop().run_in_executor(None, once)
    except RuntimeError as exc:
        if not is_thread_limit(exc):
            raise
    once.run()
    return asyncio.wrap_future(once.done)


async def run_in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """Run blocking work in a thread as `start_in_thread` does, and return its result.

    If the current task is cancelled, wait until the work has ended, then raise CancelledError.
    """
    started = start_in_thread(work, *args)
    await wait_until_done(started)
    return started.result()


@define(eq=False)
class _Once(Generic[_T]):
    """A function call that is made only once, even if two threads try to make it.

    Two threads can try if the system cannot start another thread. The executor then raises an
    error, but has already queued the call. So a thread of the executor can still make it, while the
    code that gets the error makes it, too.

    Attributes:
        done: Completed with the result or the error of the call.
    """

    _work: Callable[[], _T]
    done: concurrent.futures.Future[_T] = field(factory=concurrent.futures.Future, init=False)
    # Acquired by the thread that makes the call.
    _claim: threading.Lock = field(factory=threading.Lock, init=False)

    def run(self) -> None:
        """Do the work, unless another thread has begun it; `done` gets its result or error."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            result = self._work()
        except BaseException as exc:  # noqa: BLE001 - `done` raises it
            self.done.set_exception(exc)
        else:
            self.done.set_result(result)

    def __call__(self) -> _T:
        """Do the work, or wait until another thread has done it; return its result."""
        self.run()
        return self.done.result()


def start_thread(run: Callable[[], None], *, name: str) -> threading.Thread:
    """Start a daemon thread; raise `OSError` if the system cannot start another thread."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        if not is_thread_limit(exc):
            raise
        raise OSError(errno.EAGAIN, NO_THREAD) from None
    return thread


class _LeftError(Exception):
    """The consumer of `items_of_thread` has closed the generator or the event loop.

    It is raised in the thread, and ends the function that produces the items.
    """


async def items_of_thread(
    produce: Callable[[Callable[[_T], None]], None], *, ahead: int, name: str
) -> AsyncGenerator[_T, None]:
    """Run a function in a thread, and yield the items that the function produces.

    If the function raises an error, the generator raises the error after the last item. The
    function may block forever, for example on a pipe: its thread is a daemon, which does not delay
    the exit of the program. If the generator is closed early, the function ends at its next item.

    Args:
        produce: The function. Its argument is another function, which it must call with each item.
            This call blocks while `ahead` items wait for the consumer of the generator.
        ahead: Maximum number of items that wait for the consumer.
        name: Name of the thread.

    Raises:
        OSError: The system cannot start another thread.
        RuntimeError: The function raised an error that is not an `Exception`, such as `SystemExit`,
            which would end the event loop.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[tuple[_T] | Exception | None] = asyncio.Queue()
    capacity = threading.Semaphore(ahead)
    is_left = threading.Event()

    def put(entry: tuple[_T] | Exception | None) -> None:
        """Send an item, an error, or None for the end, to the generator in the event loop."""
        capacity.acquire()
        if is_left.is_set():
            raise _LeftError
        try:
            loop.call_soon_threadsafe(received.put_nowait, entry)
        except RuntimeError:  # the loop is closed
            raise _LeftError from None

    def run() -> None:
        """Call `produce`. When it returns or raises, send the end or the error to the generator."""
        with suppress(_LeftError):
            try:
                produce(lambda item: put((item,)))
            except _LeftError:
                raise
            except BaseException as exc:  # noqa: BLE001 - raised again in the event loop
                put(_survivable(exc))
            else:
                put(None)

    start_thread(run, name=name)
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
    """Return an error that can be raised in the event loop without stopping the loop.

    This is `exc` itself if it is an `Exception`. For an error such as `SystemExit`, which would
    stop the loop, it is a RuntimeError with `exc` as its cause.
    """
    if isinstance(exc, Exception):
        return exc
    error = RuntimeError(f"it ended with {type(exc).__name__}")
    error.__cause__ = exc
    return error
