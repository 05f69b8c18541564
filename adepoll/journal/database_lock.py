"""DatabaseLock: locks a journal on systems without flock(2), such as Windows.

The locks of SQLite work on every system, and end with the process. So this lock is an unfinished
transaction on a second database, the lock file beside the journal. The lock file has no tables; the
number in its `user_version` is the pid of the process.
"""

import errno
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Self

from adepoll.common.system_errors import reason_of
from adepoll.errors import JournalAccessError, JournalBusyError
from adepoll.journal.schema import LOCK_END, companion
from adepoll.journal.sqlite_errors import READING_ERRORS, primary_code

_TIMEOUT: Final = 0.1  # seconds to wait for the lock; `holder_of` holds it for a shorter time
_TRIES: Final = 10
# Result codes for a file that is not a database, or a damaged one (see `primary_code`).
_OTHER_FILE: Final = frozenset(
    {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISUSE}
)


class DatabaseLock:
    """The lock of one journal. It is held until `release`, or until the process ends."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Store the arguments; callers use `take` instead.

        Args:
            path: Path of the lock file.
            connection: Connection to the lock file, with an unfinished transaction.
        """
        self._path = path
        self._connection: sqlite3.Connection | None = connection

    @classmethod
    def take(cls, journal: Path) -> Self:
        """Acquire the lock of a journal.

        Raises:
            JournalBusyError: Another process, or another `Journal` of this process, has the lock.
            JournalAccessError: The lock file cannot be created.
        """
        path = companion(journal, LOCK_END)
        try:
            if not _is_lock(path):
                raise JournalAccessError(
                    f"its lock file {path.name} cannot be created: its name is taken by another "
                    "file",
                    path=str(journal),
                    errno=errno.EEXIST,
                )
            for _ in range(_TRIES):
                if (connection := _locked(path)) is not None:
                    return cls(path, connection)
        except OSError as exc:
            raise JournalAccessError(
                f"its lock file {path.name} cannot be created: {reason_of(exc)}",
                path=str(journal),
                errno=exc.errno,
            ) from exc
        except READING_ERRORS as exc:
            if primary_code(exc) != sqlite3.SQLITE_BUSY:
                raise JournalAccessError(
                    f"its lock file {path.name} cannot be created: {exc}",
                    path=str(journal),
                    errno=errno.EACCES,
                ) from exc
        raise JournalBusyError(path=str(journal), pid=holder_of(journal))

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        # Windows does not remove an open file. So the file is closed first there, and it is removed
        # only if no other process has it open.
        try:
            self._path.unlink()
        except OSError:
            connection.close()
            with suppress(OSError):
                self._path.unlink()
        else:
            connection.close()


def holder_of(journal: Path) -> int | None:
    """Return the pid of the process that has the journal open; None if no process has."""
    path = companion(journal, LOCK_END)
    try:
        if not path.exists() or _can_lock(path):
            return None
        with closing(_connect(path, timeout=0)) as connection:
            (pid,) = connection.execute("PRAGMA user_version").fetchone()
            return int(pid)
    except (OSError, *READING_ERRORS):
        return None


def _is_lock(path: Path) -> bool:
    """Return True if the file at `path` is a lock file, or if no file exists there.

    A lock file is a regular file, and a database without tables.
    """
    if not os.path.lexists(path):
        return True
    if path.is_symlink():
        return False
    try:
        with closing(_connect(path, timeout=_TIMEOUT)) as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return not tables
    except READING_ERRORS as exc:
        if primary_code(exc) in _OTHER_FILE:
            return False
        raise


def _locked(path: Path) -> sqlite3.Connection | None:
    """Acquire the lock, and return the connection that holds it.

    Return None if another process removed the lock file at the same time.

    Raises:
        sqlite3.Error: Another connection has the lock, or the file cannot be written.
    """
    connection = _connect(path, timeout=_TIMEOUT)
    try:
        # Other processes can read the pid while the transaction prevents them from writing.
        connection.execute(f"PRAGMA user_version = {os.getpid()}")
        path.chmod(0o600)
        connection.execute("BEGIN IMMEDIATE")
    except BaseException as exc:
        connection.close()
        if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
            return None
        raise
    return connection


def _can_lock(path: Path) -> bool:
    """Return True if no connection has locked the database at `path`.

    Raise `sqlite3.Error` if the file is not a database.
    """
    with closing(_connect(path, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            if primary_code(exc) == sqlite3.SQLITE_BUSY:
                return False
            raise
        return True


def _connect(path: Path, *, timeout: float) -> sqlite3.Connection:
    # Different threads may open and close a journal, so SQLite must not check the thread.
    return sqlite3.connect(path, isolation_level=None, timeout=timeout, check_same_thread=False)
