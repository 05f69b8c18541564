"""What SQLite says went wrong, as errors of ours. Imports errors only.

SQLite's own text is passed on where it names its problem, and holds no value from a row.
"""

import errno
import sqlite3
from pathlib import Path
from typing import Final

from adepoll.errors import (
    JournalAccessError,
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalWriteError,
)

# Primary result codes (sqlite.org/rescode.html); the eight bits below the extended ones.
_PRIMARY: Final = 0xFF
_DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ERRNOS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


def primary_code(exc: sqlite3.Error) -> int:
    """Give SQLite's primary result code; `SQLITE_MISUSE` where the module itself complains."""
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & _PRIMARY


def not_opened(exc: sqlite3.Error, path: Path | None) -> JournalError:
    """Say why a journal could not be opened or read."""
    code = primary_code(exc)
    shown = None if path is None else str(path)
    if code in _DAMAGE:
        return JournalDamagedError([str(exc)], path=shown)
    if code in _BUSY and shown is not None:
        return JournalBusyError(path=shown, pid=None)
    reason = {
        sqlite3.SQLITE_FULL: "the disk is full; make room first",
        sqlite3.SQLITE_READONLY: "it, or its folder, may only be read; make both writable",
        sqlite3.SQLITE_CANTOPEN: (
            "SQLite cannot open it, or its -wal and -shm, there; see that file and folder may be "
            "read and written"
        ),
    }.get(code, str(exc))
    return JournalAccessError(reason, path=shown, errno=_ERRNOS.get(code))


def not_written(exc: sqlite3.Error, path: Path | None) -> JournalError:
    """Say why something could not be written."""
    code = primary_code(exc)
    shown = None if path is None else str(path)
    if code in _DAMAGE:
        return JournalDamagedError([str(exc)], path=shown)
    reason = {
        sqlite3.SQLITE_FULL: "the disk is full; make room",
        sqlite3.SQLITE_IOERR: f"the disk failed or is full ({exc}); see to it",
        sqlite3.SQLITE_READONLY: "it may only be read; make it and its folder writable",
        sqlite3.SQLITE_BUSY: "another program, such as a sqlite3 shell, has it locked; end that",
    }.get(code, f"{exc}; see to that")
    name = getattr(exc, "sqlite_errorname", "SQLITE_MISUSE")
    return JournalWriteError(reason, path=shown, code=name, errno=_ERRNOS.get(code))
