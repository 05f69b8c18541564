"""Lines for stdout whose reader may be slow: the event loop goes on meanwhile."""

import asyncio
import os
import select
import stat
import sys
import threading
from contextlib import suppress
from typing import Final

_AT_ONCE: Final = select.PIPE_BUF  # bytes that a pipe takes whole, where it takes any


async def put_line(text: str) -> None:
    """Write one line to stdout; return when the next program can read it.

    A reader that is slow, or sleeps (a pager, say), holds up who waits for this, but neither the
    requests under way nor Ctrl-C. Cancelled, it can leave a part of the line.

    Raises:
        OSError: It cannot be written: a full disk, or a reader that has gone.
    """
    encoding = sys.stdout.encoding or "utf-8"
    line = f"{text}\n".encode(encoding, "backslashreplace")
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
    except OSError:  # it is no file: a test's, or another program's that runs us within itself
        sys.stdout.write(line.decode(encoding))
        return
    if _takes(number, len(line)):
        _write(number, line)
    else:
        await _written(number, line)


def _takes(number: int, size: int) -> bool:
    """Tell whether to write will not block."""
    if stat.S_ISREG(os.fstat(number).st_mode):
        return True
    return size <= _AT_ONCE and bool(select.select([], [number], [], 0)[1])


def _write(number: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:  # whoever gave it to us has made it non-blocking
            select.select([], [number], [])


async def _written(number: int, line: bytes) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def write() -> None:
        failed = None
        try:
            _write(number, line)
        except OSError as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, failed)

    # A daemon, unlike the loop's own threads: a reader that sleeps must not keep us from ending.
    threading.Thread(target=write, name="adepoll-line", daemon=True).start()
    await done
