"""Blocking work in threads, whose end is awaited even by a task that is cancelled.

A thread cannot be stopped, and it must have ended before the caller cleans up. Imports nothing of
adepoll.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def start_in_thread(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> asyncio.Future[_T]:
    """Start blocking work in a thread; the caller must wait for it with `wait_until_done`."""
    return asyncio.get_running_loop().run_in_executor(None, work, *args)


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
    started = start_in_thread(work, *args)
    await wait_until_done(started)
    return started.result()
