"""JournalLock: one process has a journal open, and others can tell which. Imports errors only.

flock(2) on a file beside it, since the journal itself may be opened by SQLite alone: closing it
would drop SQLite's own locks (fcntl(2)). There is no flock on Windows, where adepoll does not run.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final, Self

from adepoll.errors import JournalAccessError, JournalBusyError

_TRIES: Final = 10
_PAUSE: Final = 0.01  # seconds; longer than `holder_of` has the file locked
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class JournalLock:
    """Held until `release`, or until the process ends in whatever way."""

    def __init__(self, path: Path, fd: int) -> None:
        """Hold the lock that `fd`, the file `path`, has; made by `take`."""
        self._path = path
        self._fd: int | None = fd

    @classmethod
    def take(cls, journal: Path) -> Self:
        """Take the lock of that journal, which another one in this process can have, too.

        Raises:
            JournalBusyError: Somebody has it.
            JournalAccessError: The file of the lock cannot be made.
        """
        path = _lock_path(journal)
        pid = None
        for _ in range(_TRIES):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
                try:
                    if _is_locked_by(fd, path):
                        _write_pid(fd)
                        return cls(path, fd)
                    pid = _read_pid(fd)
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
            except OSError as exc:
                raise JournalAccessError(
                    f"its lock {path.name} cannot be made: {exc.strerror}",
                    path=str(journal),
                    errno=exc.errno,
                ) from exc
            # It may be somebody who only looks who has it, or has just removed it.
            time.sleep(_PAUSE)
        raise JournalBusyError(path=str(journal), pid=pid)

    def release(self) -> None:
        """Let others have it; may be repeated."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # Removed while it is locked: who has opened it meanwhile finds that it has no name left.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(fd), os.lstat(self._path)):
                self._path.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked may have it open, too
        os.close(fd)


def holder_of(journal: Path) -> int | None:
    """Give the pid of the process that has the journal open; None where none has, or says so."""
    try:
        fd = os.open(_lock_path(journal), os.O_RDONLY | _FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_pid(fd)
    else:
        return None  # left by a process that was killed
    finally:
        os.close(fd)


def _lock_path(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.lock")


def _is_locked_by(fd: int, path: Path) -> bool:
    """Lock the file, if nobody has; tell whether it is locked and still the one of that name."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EEXIST, "something else is in its place")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, os.lstat(path))
    return False


def _write_pid(fd: int) -> None:
    os.fchmod(fd, 0o600)
    # On a full disk the lock is good all the same; only its holder will not be named.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _read_pid(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return None
