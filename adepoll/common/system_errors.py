"""Describes errors of the operating system, with advice if a limit of the process is exhausted.

Imports nothing of adepoll.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

_ADVICE: Final[Mapping[int, str]] = {
    errno.EMFILE: "raise the limit of this process (ulimit -n), or lower the concurrency",
    errno.ENFILE: "end other programs, or raise the limit of the system",
    errno.ENOMEM: "free some memory, or raise the limit of this process (ulimit -v)",
}
NO_MEMORY: Final = f"out of memory; {_ADVICE[errno.ENOMEM]}"
"""Message for users after a `MemoryError`."""
_OF_SQLITE: Final = 4  # files that SQLite opens for a journal: file, WAL, -shm, folder


def reason_of(exc: OSError) -> str:
    """Return the system's text of an error, without a path; with advice if a limit is exhausted."""
    text = exc.strerror or type(exc).__name__
    advice = _ADVICE.get(exc.errno or 0)
    return text if advice is None else f"{text}; {advice}"


def is_exhausted(exc: OSError) -> bool:
    """Return whether a limit of the process or of the system causes the error."""
    return exc.errno in _ADVICE or exc.errno == errno.EAGAIN


def too_few_files_left(count: int = _OF_SQLITE) -> OSError | None:
    """Return the error of opening this number of files now; None if they can be opened.

    Use it before or after a call of a library that does not tell why it cannot open a file.
    """
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            return OSError(exc.errno, exc.strerror) if is_exhausted(exc) else None
    return None
