"""Writes to stdout without blocking the event loop, even if the reader is slow."""

import asyncio
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

# Number of bytes that a pipe accepts without blocking when `select` reports it as writable. None on
# Windows, where `select` does not support pipes.
_PIPE_BUF: Final[int | None] = getattr(select, "PIPE_BUF", None)


def write_line(text: str) -> None:
    """Write one line to stdout and flush it; may block."""
    with naming_stdout():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


@contextmanager
def naming_stdout() -> Iterator[None]:
    """Set the file name "stdout" in each `OSError` that the block raises without a file name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "stdout"
        raise


async def write_line_async(text: str) -> None:
    """Write one line to stdout, and wait until it is written; see `write_bytes_async`."""
    await write_bytes_async(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


async def write_bytes_async(data: bytes) -> None:
    """Write bytes to stdout, and wait until they are written.

    A slow or stopped reader (such as a pager) delays only the caller: requests and Ctrl-C still
    work. If the call is cancelled, some of the bytes may have been written.

    Raises:
        OSError: stdout cannot be written: the disk is full, or the reader has closed the pipe.
    """
    with naming_stdout():
        sys.stdout.flush()
        try:
            fd = sys.stdout.fileno()
        except OSError:  # stdout is not a file, as in a test
            sys.stdout.buffer.write(data)
            return
        if _is_ready(fd, len(data)):
            _write(fd, data)
        else:
            await _write_in_thread(fd, data)


def _is_ready(fd: int, size: int) -> bool:
    """Return True if `size` bytes can be written without waiting for the reader."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return True
    if _PIPE_BUF is None or size > _PIPE_BUF:
        return False
    return bool(select.select([], [fd], [], 0)[1])


def _write(fd: int, data: bytes) -> None:
    """Write all bytes to a file descriptor; wait while the reader is slow."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # the parent process has made stdout non-blocking
            select.select([], [fd], [])


async def _write_in_thread(fd: int, data: bytes) -> None:
    """Write bytes in a thread, because the write can block; return when they are written."""
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
        failure = None
        try:
            _write(fd, data)
        except OSError as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, failure)

    # The thread is a daemon, because a thread of the loop's executor would delay the exit of the
    # process.
    threading.Thread(target=write, name="adepoll-stdout", daemon=True).start()
    await done
