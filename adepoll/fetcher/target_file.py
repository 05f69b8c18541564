"""What a download may replace, and whose mode and owner the new file gets. Blocking code.

Imports file_system.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from adepoll.common import file_system

_SPECIAL: Final = "it is a device, a pipe or a socket; write the chunks of stream() to it"


def check_replaceable(target: Path, *, overwrite: bool) -> os.stat_result | None:
    """Return the status of what is at the target; None if nothing is there.

    Raises:
        OSError: It is a folder, a device, a pipe or a socket, or its folder is missing. With
            `overwrite` also: it is a symbolic link.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOENT, "there is no such folder")
    try:
        # is_dir only returns False for names that no file can have.
        found = os.lstat(target)
    except FileNotFoundError:
        return None
    is_link = stat.S_ISLNK(found.st_mode)
    if _leads_to_special_file(target) if is_link else not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, _SPECIAL)  # also without `overwrite`, which would not help
    if overwrite and is_link:
        raise OSError(errno.ELOOP, "it is a symbolic link; pass the path that it leads to")
    return found


def _leads_to_special_file(link: Path) -> bool:
    try:
        return not stat.S_ISREG(os.stat(link).st_mode)  # noqa: PTH116 - of what the link leads to
    except OSError:
        return False


def set_mode_and_owner(fd: int, replaced: os.stat_result | None, probe: Path) -> None:
    """Give a file the mode and owner of the one that it replaces, or the mode of a new file.

    Args:
        fd: The file.
        replaced: Status of the file that it replaces; None if there is none.
        probe: Unused name in the same folder. A file is created there, to see which mode umask(2)
            and the access control lists of the folder give it.

    Raises:
        OSError: The mode could not be set.
    """
    if not file_system.HAS_UIDS:
        return
    if replaced is not None and stat.S_ISREG(replaced.st_mode):
        _set_owner(fd, replaced)
        mode = replaced.st_mode
    else:
        created = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN, 0o666)
        try:
            mode = os.fstat(created).st_mode
        finally:
            os.close(created)
            probe.unlink()
    os.fchmod(fd, mode & 0o777)


def _set_owner(fd: int, replaced: os.stat_result) -> None:
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) == (replaced.st_uid, replaced.st_gid):
        return
    try:
        os.fchown(fd, replaced.st_uid, replaced.st_gid)
    except PermissionError:  # only root may give files away, but to a group of one's own
        with suppress(PermissionError):
            os.fchown(fd, -1, replaced.st_gid)
