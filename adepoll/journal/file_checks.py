"""Checks the file of a journal, and SQLite's files beside it, before SQLite opens them.

In a folder in which other users can create files, such as ``/tmp``, one of them may have created
such a file in advance, to read or change what the journal contains. No function of this module
opens a file; `opening` says why.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from adepoll.api.file_names import check_is_local
from adepoll.common import file_system
from adepoll.common.redaction import showable
from adepoll.common.system_errors import reason_of
from adepoll.errors import JournalAccessError, NotAJournalError
from adepoll.journal.schema import ROLLBACK_END, SHM_END, WAL_END, companion

_SMALLEST: Final = 512  # bytes: size of the smallest page; every SQLite file has at least one page
# True if `os.access` can check the rights of the effective user, which are those of the process.
_EFFECTIVE: Final = os.access in os.supports_effective_ids


def absolute_path(given_path: str | os.PathLike[str]) -> Path:
    """Return the absolute path, with symbolic links resolved.

    So two paths that lead to the same file through links become equal, and have the same lock.

    Raises:
        JournalAccessError: No file can have this path, for example because of a null character. Or
            another user, who is not root, has put a link or a pipe there, or a folder above it into
            a folder like ``/tmp``.
        ConfigurationError: The path is a URL.
    """
    check_is_local(given_path, "the journal")
    try:
        file_system.check_owner_of_link(Path(given_path))
        return Path(os.path.realpath(given_path))
    except (OSError, ValueError) as exc:
        raise access_error(Path(given_path), exc) from exc


def file_status(path: Path) -> os.stat_result | None:
    """Return the status of the file at a path; None if the path does not exist.

    Raises:
        NotAJournalError: The file is not a regular file, or has 1 to 511 bytes, which is too small
            for a journal. Or `check_companions` refuses a file beside the journal.
        JournalAccessError: The folder does not exist, or the status cannot be read.
    """
    if not path.name:
        raise NotAJournalError(path=str(path), reason="it is a folder")
    check_companions(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.parent.is_dir():
            return None
        raise JournalAccessError(
            f"there is no folder {showable(str(path.parent))}; create the folder first",
            path=str(path),
            errno=errno.ENOENT,
        ) from None
    except (OSError, ValueError) as exc:
        raise access_error(path, exc) from exc
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise NotAJournalError(path=str(path), reason=f"it is {what}")
    if 0 < status.st_size < _SMALLEST:  # SQLite would take the file for empty, and overwrite it
        raise NotAJournalError(
            path=str(path),
            reason=f"it has only {status.st_size} bytes (or it is a truncated journal)",
        )
    return status


def check_companions(path: Path) -> None:
    """Check the files that SQLite creates beside the journal: -wal, -shm and -journal.

    Symbolic and hard links are refused, because SQLite would write to another file. The owner of a
    -wal file can read and change all that SQLite writes. So the owner must be this user, root, or
    the owner of the journal. The lock file is checked later.

    Raises:
        NotAJournalError: One of the files is not a regular file, or is a link, or belongs to
            another user.
    """
    for end in (WAL_END, SHM_END, ROLLBACK_END):
        beside = companion(path, end)
        try:
            found = beside.lstat()
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):
            what = "is not a regular file"
        elif found.st_nlink > 1:
            what = "is a hard link to another file"
        elif file_system.is_of_another_user(found) and found.st_uid != _owner_of(path):
            what = "belongs to another user"
        else:
            continue
        reason = f"{showable(beside.name)} beside it {what}"
        raise NotAJournalError(path=str(path), reason=reason)


def check_owner(path: Path, status: os.stat_result) -> None:
    """Check that no other user has created the file of a journal that this process will write to.

    Args:
        path: Path of the journal.
        status: Its status.

    Raises:
        JournalAccessError: The file belongs to another user, who is not root, and is in a folder
            such as ``/tmp``: every user can create files there, and remove only their own.
    """
    is_shared = path.parent.stat().st_mode & file_system.SHARED == file_system.SHARED
    if is_shared and file_system.is_of_another_user(status):
        raise JournalAccessError(
            "the file belongs to another user, and every user can create files in its folder; "
            "copy the file to a folder of your own",
            path=str(path),
            errno=errno.EPERM,
        )


def check_access(path: Path) -> None:
    """Raise `JournalAccessError` unless this process may read and write the file.

    SQLite would open a read-only file without an error, and leave a -wal file.
    """
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
        raise JournalAccessError(
            "the file is read-only or cannot be read; make it readable and writable",
            path=str(path),
            errno=errno.EACCES,
        )


def access_error(path: Path | None, exc: OSError | ValueError) -> JournalAccessError:
    """Return the error of adepoll for a journal whose file cannot be used.

    Args:
        path: Path of the journal; None if it is in memory.
        exc: The error of the system, or a ValueError because of an impossible path.
    """
    shown = None if path is None else str(path)
    if isinstance(exc, OSError):
        return JournalAccessError(reason_of(exc), path=shown, errno=exc.errno)
    return JournalAccessError(str(exc), path=shown, errno=errno.EINVAL)


def _owner_of(path: Path) -> int | None:
    """Return the user id of the owner of a file; None if the file does not exist."""
    try:
        return path.stat().st_uid
    except OSError:
        return None
