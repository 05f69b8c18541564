"""Disk work in threads, and tasks of one's own, never left behind. Imports nothing of adepoll."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def begin(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> asyncio.Future[_T]:
    """Begin disk work in a thread; whoever does so must `finish` it."""
    return asyncio.get_running_loop().run_in_executor(None, work, *args)


async def settle(begun: asyncio.Future[_T]) -> None:
    """Wait until it is done, in whatever way, even when cancelled meanwhile.

    A thread cannot be stopped. Who leaves it behind would clean up before it has written.
    """
    cancelled: asyncio.CancelledError | None = None
    while not begun.done():
        # Not left to asyncio.wait, which costs several times that: this is for each batch of bytes.
        waiter = asyncio.get_running_loop().create_future()
        begun.add_done_callback(partial(_wake, waiter))
        try:
            await waiter
        except asyncio.CancelledError as exc:
            cancelled = exc
    if not begun.cancelled():
        begun.exception()  # seen, so that nobody complains that it was not
    if cancelled is not None:
        raise cancelled


def _wake(waiter: asyncio.Future[None], _begun: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def finish(begun: asyncio.Future[_T]) -> _T:
    """Wait for work in a thread, as `settle` does, and give what it gives."""
    await settle(begun)
    return begun.result()


async def in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """Do disk work in a thread, and stay until it is done."""
    return await finish(begin(work, *args))


async def stop(task: asyncio.Task[None]) -> None:
    """Cancel a task, and stay until it has ended, as `settle` does."""
    task.cancel()
    await settle(task)
