"""ResultFolder: the folder in which polls keep results that are too large for memory.

The files of one client have names with the same token: ``.adepoll-TOKEN-NUMBER.result``. While they
are in use, the process keeps the file ``.adepoll-TOKEN.lock`` locked (flock(2)) or, on Windows,
open. The system releases the lock when the process ends, even if it is killed. The next process
that uses the folder then removes the files. Blocking code; call it from threads.
"""

import contextlib
import itertools
import os
import re
import secrets
import threading
import weakref
from pathlib import Path
from typing import Final

from adepoll.api.received_result import KeptResult
from adepoll.common import file_system

_NAME: Final = re.compile(r"\.adepoll-([0-9a-f]{16})(?:\.lock|-[0-9]+\.result)")


class ResultFolder:
    """Creates the files in which one client keeps large results.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        """Create an object for an existing folder. No file is created yet."""
        self.path = path.absolute()  # the program may change its current folder meanwhile
        self._numbers = itertools.count()
        self._claim: weakref.ref[_Claim] | None = None
        self._mutex = threading.Lock()

    def create(self) -> KeptResult:
        """Create an empty file of mode 0600, deleted when the returned object is garbage collected.

        The first call also removes the files of processes that have ended.

        Raises:
            OSError: The file cannot be created, or another user could replace the folder.
        """
        with self._mutex:
            if self._claim is None:
                file_system.check_owners_of_folders(self.path / "file")
                remove_unused(self.path)
            claim = None if self._claim is None else self._claim()
            if claim is None:
                claim = _Claim(self.path)
                self._claim = weakref.ref(claim)
            number = next(self._numbers)
        path = self.path / f".adepoll-{claim.token}-{number}.result"
        os.close(os.open(path, _NEW_FILE, 0o600))
        return KeptResult(path, claim)


class _Claim:
    """A lock file. It shows other processes that the result files of one client are in use.

    The lock is released when the last `KeptResult` that refers to this object is deleted.

    Attributes:
        token: The 16 hexadecimal digits in the names of the lock file and of these result files.
    """

    def __init__(self, folder: Path) -> None:
        """Create the lock file and lock it. Raise `OSError` if the file cannot be created."""
        while True:
            self.token = secrets.token_hex(8)
            path = _lock_path(folder, self.token)
            fd = os.open(path, _NEW_FILE, 0o600)
            if _lock_new(fd, path):
                break
            os.close(fd)
        weakref.finalize(self, _release, fd, path)


def _lock_new(fd: int, path: Path) -> bool:
    """Lock a lock file that was just created; return True if it is locked now.

    Return False if another process has found the file before it was locked. That process then
    removes the file, because an unlocked file seems to be unused.
    """
    try:
        file_system.lock(fd)
    except BlockingIOError:
        return False
    except OSError:
        return True  # the file system has no locks, so no other process can lock the file
    return os.path.lexists(path)


def remove_unused(folder: Path) -> None:
    """Remove the result files and lock files that ended processes of this user have left."""
    for token in sorted(_tokens_in(folder)):
        with contextlib.suppress(OSError):  # another process or user still has the files
            _remove_unused(folder, token)


def _remove_unused(folder: Path, token: str) -> None:
    """Remove the files with one token in their names; raise `OSError` if a process uses them.

    Args:
        folder: The folder.
        token: 16 hexadecimal digits.
    """
    path = _lock_path(folder, token)
    fd = None
    if file_system.HAS_FLOCK:
        # If the lock file is missing, no process uses the files: it is created before all others.
        with contextlib.suppress(FileNotFoundError):
            fd = file_system.open_without_following(path, os.O_RDWR)
    try:
        if fd is not None:
            if not file_system.is_own_file(os.fstat(fd)):
                return
            file_system.lock(fd)
        path.unlink(missing_ok=True)  # on Windows, this fails while a process has the file open
        for name in _names_in(folder):
            found = _NAME.fullmatch(name)
            if found and found[1] == token and file_system.is_own_file((folder / name).lstat()):
                (folder / name).unlink(missing_ok=True)
    finally:
        if fd is not None:
            os.close(fd)


def _tokens_in(folder: Path) -> set[str]:
    return {found[1] for name in _names_in(folder) if (found := _NAME.fullmatch(name))}


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.startswith(".adepoll-")]
    except OSError:  # a folder can be writable but not readable
        return []


def _lock_path(folder: Path, token: str) -> Path:
    return folder / f".adepoll-{token}.lock"


def _release(fd: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        file_system.remove_open(fd, path)


_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN
