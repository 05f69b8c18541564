"""Describes errors of the operating system, with advice if a limit of the process is exhausted.

Imports nothing of adepoll.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

_ADVICE: Final[Mapping[int | None, str]] = {
    errno.EMFILE: "raise the limit of this process (ulimit -n), or lower the concurrency",
    errno.ENFILE: "end other programs, or raise the limit of the system",
    errno.EFBIG: "raise the limit of this process (ulimit -f), or use another file system",
    errno.ENOMEM: "free some memory, or raise the limit of this process (ulimit -v)",
}
NO_MEMORY: Final = f"out of memory; {_ADVICE[errno.ENOMEM]}"
"""Message for users after a `MemoryError`."""
_OF_SQLITE: Final = 4  # files that SQLite opens for a journal: file, WAL, -shm, folder


def reason_of(exc: OSError) -> str:
    """Return the system's text of an error, without a path, such as "No space left on device".

    If a limit is exhausted, advice is added.
    """
    text = exc.strerror or type(exc).__name__
    advice = _ADVICE.get(exc.errno)
    return text if advice is None else f"{text}; {advice}"


def is_exhausted(exc: OSError) -> bool:
    """Return whether the cause of an error is that a limit of the process or system is reached."""
    return exc.errno in _ADVICE or exc.errno == errno.EAGAIN


def too_few_files_left(count: int = _OF_SQLITE) -> OSError | None:
    """Check whether `count` more files can be opened; return the error if a limit prevents it.

    Return None if no limit prevents it. Call this function if a library could not open a file, and
    did not say why.

    Args:
        count: Number of files.
    """
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            return OSError(exc.errno, exc.strerror) if is_exhausted(exc) else None
    return None


def too_large_error(files: Iterable[Path], room: int) -> OSError | None:
    """Return an error if one of the files cannot grow by `room` bytes; None if all can.

    The cause is the limit of the process for the size of a file (ulimit -f). Call this function if
    a library could not write to a file, and did not say why.

    Args:
        files: The files.
        room: Number of bytes by which each file should be able to grow.
    """
    try:
        import resource  # noqa: PLC0415 - Windows does not have this module
    except ModuleNotFoundError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return None
    for file in files:
        with suppress(OSError):
            if file.stat().st_size + room > limit:
                return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return None


def unwritable_error(folder: Path, size: int) -> OSError | None:
    """Try to write `size` bytes to a new file in a folder; return the error, or None if it works.

    The file is removed again. Call this function if a library could not write to a file, and did
    not say why: the disk can be full, or the disk quota of the user can be exceeded.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())  # a network file system can report its errors this late
    except OSError as exc:
        return exc
    return None
