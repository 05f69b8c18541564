"""Reads an iterable that may block, such as a generator over a database."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final, TypeVar

_T = TypeVar("_T")

_AHEAD: Final = 1_000  # items read before they are wanted


async def read_in_thread(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Yield the items, which a thread of their own reads; raise the error that ends them.

    What is not an `Exception`, such as `SystemExit`, would end the event loop. It becomes the cause
    of a `RuntimeError`.

    At most 1,000 items are read ahead. If this iterator is left, the thread ends with the next
    item; it is a daemon, because an iterable that blocks cannot be interrupted.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    room = threading.Semaphore(_AHEAD)
    found: deque[_T] = deque()
    errors: list[BaseException] = []
    is_left = threading.Event()
    has_ended = threading.Event()

    def read() -> None:
        try:
            for item in items:
                room.acquire()
                if is_left.is_set():
                    return
                found.append(item)
                loop.call_soon_threadsafe(ready.set)
        except BaseException as exc:  # noqa: BLE001 - raised again by the iterator
            errors.append(exc)
        finally:
            has_ended.set()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ready.set)

    threading.Thread(target=read, name="adepoll-sync-ids", daemon=True).start()
    try:
        while True:
            ready.clear()
            is_last = has_ended.is_set()
            while found:
                yield found.popleft()
                room.release()
            if is_last:
                break
            await ready.wait()
        for error in errors:
            if isinstance(error, Exception):
                raise error
            raise RuntimeError(f"the ids ended with {type(error).__name__}") from error
    finally:
        is_left.set()
        room.release()
