"""FileLock: locks a journal with flock(2) on a separate file, which holds the pid.

Only SQLite may open the journal itself, because closing a file releases all fcntl(2) locks of the
process on it, SQLite's included.
"""

import contextlib
import errno
import os
import re
import stat
import time
from pathlib import Path
from typing import Final, Self

from adepoll.common import file_system
from adepoll.errors import JournalAccessError, JournalBusyError
from adepoll.journal.schema import LOCK_END, companion

_TRIES: Final = 10
_PAUSE: Final = 0.01  # seconds between two tries; longer than `holder_of` holds the lock
_PID: Final = re.compile(rb"(?:\d{1,20}\n)?")  # the whole contents of a lock file


class FileLock:
    """A lock that is held until `release` or until the process ends, killed or not."""

    def __init__(self, path: Path, fd: int) -> None:
        """Keep the locked file `path`, open as `fd`; use `take` instead."""
        self._path = path
        self._fd: int | None = fd

    @classmethod
    def take(cls, journal: Path) -> Self:
        """Take the lock of a journal.

        Raises:
            JournalBusyError: Another process, or another `Journal` of this process, holds it.
            JournalAccessError: The lock file cannot be created.
        """
        path = companion(journal, LOCK_END)
        pid = None
        for _ in range(_TRIES):
            try:
                fd = file_system.open_without_following(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    _check_is_lock(fd)
                    if _try_lock(fd, path):
                        _write_pid(fd, path)
                        return cls(path, fd)
                    pid = _read_pid(fd)
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
            except OSError as exc:
                raise JournalAccessError(
                    f"its lock file {path.name} cannot be created: {exc.strerror}",
                    path=str(journal),
                    errno=exc.errno,
                ) from exc
            # Try again: `holder_of` may hold it for a moment, or its holder has just removed it.
            time.sleep(_PAUSE)
        raise JournalBusyError(path=str(journal), pid=pid)

    def release(self) -> None:
        """Release the lock; may be called again."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # Remove the file before unlocking it. A process that has opened it in the meantime then
        # sees that its file is no longer the one of that name (see `_try_lock`).
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(fd), os.lstat(self._path)):
                self._path.unlink()
        with contextlib.suppress(OSError):
            file_system.unlock(fd)  # closing is not enough if a forked child has it open
        os.close(fd)


def holder_of(journal: Path) -> int | None:
    """Return the pid of the process that has the journal open; None if no process has."""
    try:
        fd = file_system.open_without_following(companion(journal, LOCK_END), os.O_RDONLY)
    except OSError:
        return None
    try:
        file_system.lock(fd, shared=True)
    except OSError:
        return _read_pid(fd)
    else:
        return None  # the lock file of a killed process
    finally:
        os.close(fd)


def _try_lock(fd: int, path: Path) -> bool:
    """Lock the file; return True if it is locked now and is still the file at `path`."""
    found = os.fstat(fd)
    try:
        file_system.lock(fd)
    except BlockingIOError:
        return False
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, os.lstat(path))
    return False


def _check_is_lock(fd: int) -> None:
    """Raise unless this is a lock file: empty, or with a pid. Any other file stays unchanged."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EEXIST, "its name is taken by something that is not a file")
    if found.st_nlink > 1 or not _PID.fullmatch(file_system.read_at(fd, 32, 0)):
        raise OSError(errno.EEXIST, "its name is taken by another file")


def _write_pid(fd: int, path: Path) -> None:
    file_system.make_private(fd, path)
    # The lock works on a full disk, too; only its holder's pid is unknown then.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        file_system.write_at(fd, f"{os.getpid()}\n".encode(), 0)


def _read_pid(fd: int) -> int | None:
    try:
        return int(file_system.read_at(fd, 32, 0))
    except (OSError, ValueError):
        return None
