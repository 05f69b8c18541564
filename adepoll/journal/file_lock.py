"""FileLock: locks a journal with flock(2) on a separate file, which contains the pid.

The lock is not on the journal itself, because only SQLite may open the journal. When a process
closes a file, the system releases all fcntl(2) locks of the process on this file. If the file is
the journal, these are the locks of SQLite.
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
from adepoll.common.system_errors import reason_of
from adepoll.errors import JournalAccessError, JournalBusyError
from adepoll.journal.schema import LOCK_END, companion

_TRIES: Final = 10
_PAUSE: Final = 0.01  # seconds between two tries; `holder_of` holds the lock for a shorter time
_PID: Final = re.compile(rb"(?:\d{1,10}\n)?")  # matches the whole contents of a lock file


class FileLock:
    """The lock of one journal. It is held until `release`, or until the process ends."""

    def __init__(self, path: Path, fd: int) -> None:
        """Store the arguments; callers use `take` instead.

        Args:
            path: Path of the lock file.
            fd: Descriptor of the lock file, which is locked.
        """
        self._path = path
        self._fd: int | None = fd

    @classmethod
    def take(cls, journal: Path) -> Self:
        """Acquire the lock of a journal.

        Raises:
            JournalBusyError: Another process, or another `Journal` of this process, has the lock.
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
                    f"its lock file {path.name} cannot be created: {reason_of(exc)}",
                    path=str(journal),
                    errno=exc.errno,
                ) from exc
            # Try again: `holder_of` may hold the lock for a moment, or the process that held it may
            # have just removed the file.
            time.sleep(_PAUSE)
        raise JournalBusyError(path=str(journal), pid=pid)

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # The file is removed before it is unlocked. If another process has opened it before, that
        # process then sees that its file does not have the name any more (see `_try_lock`).
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(fd), os.lstat(self._path)):
                self._path.unlink()
        with contextlib.suppress(OSError):
            file_system.unlock(fd)  # closing would not unlock it if a forked child has it open
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
        return None  # a process was killed, and has left its lock file
    finally:
        os.close(fd)


def _try_lock(fd: int, path: Path) -> bool:
    """Try to lock an open file; return True if it is locked, and is still the file at `path`.

    Between opening and locking, another process may have removed or replaced the file.
    """
    found = os.fstat(fd)
    try:
        file_system.lock(fd)
    except BlockingIOError:
        return False
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, os.lstat(path))
    return False


def _check_is_lock(fd: int) -> None:
    """Raise `OSError` if the file is not a lock file, which is empty or contains only a pid.

    So a file of the user that has the name of a lock file by chance is not changed.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EEXIST, "its name is taken by something that is not a file")
    if found.st_nlink > 1 or not _PID.fullmatch(file_system.read_at(fd, 32, 0)):
        raise OSError(errno.EEXIST, "its name is taken by another file")


def _write_pid(fd: int, path: Path) -> None:
    file_system.make_private(fd, path)
    # If the disk is full, the file is locked all the same, but other processes cannot find out the
    # pid.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        file_system.write_at(fd, f"{os.getpid()}\n".encode(), 0)


def _read_pid(fd: int) -> int | None:
    try:
        text = file_system.read_at(fd, 32, 0)
    except OSError:
        return None
    return int(text) if text and _PID.fullmatch(text) else None
