"""Checks that a download may write to its target; gives the new file its name, mode and owner.

Blocking code.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from adepoll.common import file_system

# Errors of link(2) on file systems without hard links. Windows raises EINVAL, and Android EACCES.
_NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
    | {errno.EACCES, errno.EMLINK, errno.EXDEV}
)
# The name of a file's access control list on Linux (acl(5), xattr(7)). macOS has lists, too, but
# there they do not change the meaning of the mode.
_ACCESS_LIST: Final = "system.posix_acl_access"
_NO_ACCESS_LIST: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP})
_SPECIAL: Final = "it is a device, a pipe or a socket; write the chunks of stream() to it"


def check_replaceable(target: Path, *, overwrite: bool) -> os.stat_result | None:
    """Check that a download may create or replace the target.

    Return the status of the existing file; None if the target does not exist.

    Raises:
        OSError: The target is a folder, a device, a pipe or a socket, or its folder does not exist.
            With `overwrite`, also if the target is a symbolic link. Or another user may have put
            one of its folders there (`file_system.check_owners_of_folders`).
    """
    file_system.check_owners_of_folders(target)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOENT, "there is no such folder")
    try:
        # This raises for names that no file can have; for them, `is_dir` has returned False.
        found = os.lstat(target)
    except FileNotFoundError:
        return None
    is_link = stat.S_ISLNK(found.st_mode)
    if _leads_to_special_file(target) if is_link else not stat.S_ISREG(found.st_mode):
        # Raise without `overwrite`, too. Otherwise another error would say that the target exists,
        # although `overwrite` would not help the caller.
        raise OSError(errno.EINVAL, _SPECIAL)
    if overwrite and is_link:
        raise OSError(errno.ELOOP, "it is a symbolic link; pass the path that it leads to")
    return found


def _leads_to_special_file(link: Path) -> bool:
    """Return whether a symbolic link leads to something that is not a regular file."""
    try:
        return not stat.S_ISREG(os.stat(link).st_mode)  # noqa: PTH116 - os.stat follows the link
    except OSError:
        return False


def link_to_new(path: Path, target: Path) -> bool:
    """Create the hard link `target` to a file; the name must be unused.

    Unlike a rename, this fails if another process creates the target at the same time. Return False
    if the file system has no hard links; then nothing is changed. If the error of link(2) is wrong,
    and the file has both names, return True: a network file system can lose an answer, and repeat
    the request (open(2), O_EXCL).

    Raises:
        FileExistsError: The target exists.
        OSError: The file cannot get the name for another reason.
    """
    try:
        os.link(path, target)
    except OSError as exc:
        if file_system.is_same_file(path, target):
            return True
        if exc.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        return False
    return True


def set_mode_and_owner(fd: int, target: Path, replaced: os.stat_result | None, probe: Path) -> None:
    """Set mode, access control list and owner of a new file to those of the file at `target`.

    If there is no file at `target`, give the new file the mode that a new file of any program gets
    in this folder. No user gets a right that neither of these two rules gives.

    If this fails, do nothing: the bytes are complete, and nobody but the owner can read them. Some
    file systems refuse each change of the mode, such as CIFS and many FUSE file systems. In a user
    namespace, a file can have an owner that no file can be given (EINVAL).

    Args:
        fd: Descriptor of the new file.
        target: Path that the new file will have.
        replaced: Status of the file at `target`, which will be replaced; None if there is none.
        probe: Unused path in the same folder. A file is created there, to see its mode, and removed
            again. umask(2) and the access control lists of the folder decide about this mode.
    """
    if not file_system.HAS_UIDS:
        return
    with suppress(OSError):
        if replaced is None or not stat.S_ISREG(replaced.st_mode):
            mode = _mode_of_new_file(probe)
        else:
            mode = replaced.st_mode
            _set_owner(fd, replaced)
            if os.fstat(fd).st_gid == replaced.st_gid:
                _copy_access_list(target, fd)
            else:  # the new group had the rights of all other users
                mode = mode & ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
        os.fchmod(fd, mode & 0o777)


def _mode_of_new_file(probe: Path) -> int:
    """Create a file at the path `probe`, remove it, and return its mode."""
    created = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN, 0o666)
    try:
        return os.fstat(created).st_mode
    finally:
        os.close(created)
        probe.unlink()


def _set_owner(fd: int, replaced: os.stat_result) -> None:
    """Set owner and group of the file to those of the replaced file, if that is possible."""
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) == (replaced.st_uid, replaced.st_gid):
        return
    try:
        os.fchown(fd, replaced.st_uid, replaced.st_gid)
    except OSError:
        # Only root may change the owner of a file. Other users may change its group to one that
        # they belong to.
        with suppress(OSError):
            os.fchown(fd, -1, replaced.st_gid)


def _copy_access_list(source: Path, fd: int) -> None:
    """Give a file the access control list of the file `source`, or none if that file has none.

    If a file has a list, the bits of its mode for the group are not the rights of the group. They
    are the most that any entry of the list can give. So without the list, the same mode would give
    the group more rights. Do nothing on a system or file system without lists.
    """
    if not hasattr(os, "setxattr"):
        return
    try:
        os.setxattr(fd, _ACCESS_LIST, os.getxattr(source, _ACCESS_LIST, follow_symlinks=False))
    except OSError as exc:
        if exc.errno not in _NO_ACCESS_LIST:
            raise
        try:
            os.removexattr(fd, _ACCESS_LIST)  # of the folder, whose list is that of new files
        except OSError as removal:
            if removal.errno not in _NO_ACCESS_LIST:
                raise
