"""Translates errors of SQLite into errors of adepoll.

The message of SQLite is part of adepoll's message only if it names the problem, and cannot contain
a value from the journal.
"""

import errno
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adepoll.common.system_errors import (
    NO_MEMORY,
    reason_of,
    too_few_files_left,
    too_large_error,
    unwritable_error,
)
from adepoll.errors import (
    JournalAccessError,
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalWriteError,
)
from adepoll.journal.schema import files_of

# An extended result code has the primary result code in its lowest eight bits
# (sqlite.org/rescode.html).
_PRIMARY: Final = 0xFF
READING_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""Errors that Python's module `sqlite3` raises while it reads.

It raises `UnicodeDecodeError` if the message of SQLite quotes a text that is not UTF-8.
"""
BAD_CHANGE: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)
"""Errors that mean that a change is wrong, not the journal.

SQLite or JSON cannot store a value, or the stage of the job does not allow the change.
"""

# A disk with no room for so many bytes counts as full, and a file that is nearer to the size limit
# of the process as too large. SQLite's files grow by 32 KiB.
_ROOM: Final = 2**16
_NO_ROOM: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is exceeded; free some space",
    errno.EROFS: "the file system is read-only now; make it writable",
}
_OF_READING: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})
_DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
)
# Result codes for damage that is found when values are read, and the text for each.
_UNREADABLE: Final = {
    sqlite3.SQLITE_INTERRUPT: "a query did not end",  # `limit_instructions` has stopped the query
    sqlite3.SQLITE_MISUSE: "a text is not valid UTF-8",  # see `primary_code`
    sqlite3.SQLITE_TOOBIG: "a value is too large",
}
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ERRNOS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


def primary_code(exc: sqlite3.Error | UnicodeDecodeError) -> int:
    """Return SQLite's primary result code.

    Return `SQLITE_MISUSE` if Python's module raised the error itself, without a result code.
    """
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & _PRIMARY


def reading_error(exc: sqlite3.Error | UnicodeDecodeError, path: Path | None) -> JournalError:
    """Return the error of adepoll for a journal that could not be opened or read."""
    code = primary_code(exc)
    shown = None if path is None else str(path)
    if code in _DAMAGE or code in _UNREADABLE:
        return JournalDamagedError([_UNREADABLE.get(code, str(exc))], path=shown)
    if code in _BUSY and shown is not None:
        return JournalBusyError(path=shown, pid=None)
    if code == sqlite3.SQLITE_CANTOPEN and (limit := too_few_files_left()) is not None:
        return JournalAccessError(reason_of(limit), path=shown, errno=limit.errno)
    if (cause := _cause(exc, path)) is not None:
        return JournalAccessError(_text_of(cause), path=shown, errno=cause.errno)
    reason = {
        sqlite3.SQLITE_FULL: _NO_ROOM[errno.ENOSPC],
        sqlite3.SQLITE_IOERR: f"the file or its disk cannot be read ({exc})",
        sqlite3.SQLITE_READONLY: "the file or its folder is read-only; make both writable",
        sqlite3.SQLITE_NOMEM: NO_MEMORY,
        sqlite3.SQLITE_CANTOPEN: (
            "SQLite cannot open the file or its -wal and -shm files; make the file and its folder "
            "readable and writable"
        ),
    }.get(code, str(exc))
    return JournalAccessError(reason, path=shown, errno=_ERRNOS.get(code))


def writing_error(exc: sqlite3.Error, path: Path | None) -> JournalError:
    """Return the error of adepoll for a write that failed."""
    code = primary_code(exc)
    shown = None if path is None else str(path)
    if code in _DAMAGE:
        return JournalDamagedError([str(exc)], path=shown)
    name = getattr(exc, "sqlite_errorname", "SQLITE_MISUSE")
    if (cause := _cause(exc, path)) is not None:
        return JournalWriteError(_text_of(cause), path=shown, code=name, errno=cause.errno)
    reason = {
        sqlite3.SQLITE_FULL: _NO_ROOM[errno.ENOSPC],
        sqlite3.SQLITE_IOERR: f"the disk failed ({exc}); check the disk",
        sqlite3.SQLITE_READONLY: "the file is read-only; make it and its folder writable",
        sqlite3.SQLITE_NOMEM: NO_MEMORY,
        sqlite3.SQLITE_BUSY: (
            "another program, such as a sqlite3 shell, has locked it; end that program"
        ),
    }.get(code, f"{exc}; solve this problem")
    return JournalWriteError(reason, path=shown, code=name, errno=_ERRNOS.get(code))


def _cause(exc: sqlite3.Error | UnicodeDecodeError, path: Path | None) -> OSError | None:
    """Return an error of the system that can be why SQLite could not write, or None.

    SQLite reports `SQLITE_IOERR`, as for an error of the disk, in these cases:

    - The disk is full, and there is no space for the -shm file.
    - The disk quota of the user is exceeded.
    - A file reaches the maximum size of the process (RLIMIT_FSIZE).
    - The file system has become read-only.
    """
    if primary_code(exc) != sqlite3.SQLITE_IOERR or path is None:
        return None
    if getattr(exc, "sqlite_errorcode", None) in _OF_READING:
        return None
    if (limit := too_large_error(files_of(path), _ROOM)) is not None:
        return limit
    error = unwritable_error(path.parent, _ROOM)
    return error if error is not None and error.errno in _NO_ROOM else None


def _text_of(cause: OSError) -> str:
    return _NO_ROOM.get(cause.errno) or reason_of(cause)
