"""File operations that work on every system.

Windows has no pread(2), pwritev(2), fdatasync(2), flock(2) and O_NOFOLLOW. It cannot sync folders,
and cannot rename or remove an open file. For these cases, the functions have alternatives. Blocking
code; call it from threads.
"""

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

from adepoll.common.redaction import showable

try:
    import fcntl
except ImportError:
    HAS_FLOCK = False
else:
    HAS_FLOCK = True
"""True on POSIX systems, which have flock(2), and can rename and remove open files."""

HAS_UIDS: Final = hasattr(os, "geteuid") and hasattr(os, "fchown")
"""True where files have an owner and a mode that decide who can read them."""

# Flags for every file: child processes do not inherit it, and Windows does not change line ends.
PLAIN: Final[int] = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
)
_NO_LINK: Final[int | None] = getattr(os, "O_NOFOLLOW", None)
_NO_WAIT: Final[int] = getattr(os, "O_NONBLOCK", 0)
# Error numbers for a folder that can be written but not synced: the file system cannot open or sync
# folders, or the process may write the folder but not read it.
_NO_FOLDER_SYNC: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF}
    | {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)

_MAX_CHUNKS_PER_CALL: Final = 1024  # the limit of pwritev(2) on Linux and the BSDs (IOV_MAX)
# Linux caches written data in memory blocks, each as large as the write, up to 2 MiB. Large blocks
# can be slow to allocate. In a virtual machine that had returned its memory to the host, writing a
# gigabyte took 2 to 4 s, and with writes of 512 KiB 0.3 to 0.6 s (ext4, Linux 6.18).
_MAX_BYTES_PER_CALL: Final = 2**19

SHARED: Final = stat.S_IWOTH | stat.S_ISVTX
"""The mode of a folder such as /tmp: every user can create files, but rename only their own."""

_RENAMES: Final = 20
_BETWEEN_RENAMES: Final = 0.05  # seconds

_position = threading.Lock()  # held while the position of a file is moved and used


def plain_path(path: Path) -> Path:
    """Return a path as an absolute path without "..".

    A journal contains only such paths. Symbolic links are resolved only if the path contains "..".
    In this case, the link must be resolved, because ".." means the folder above the target of the
    link.
    """
    absolute = path.absolute()
    return Path(os.path.realpath(absolute)) if ".." in absolute.parts else absolute


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file, for example through links."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def is_at(fd: int, path: Path) -> bool:
    """Return whether an open file is at a path, and not a symbolic link to it."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def open_without_following(path: Path, flags: int, mode: int = 0o777) -> int:
    """Open a file with `os.open`, but raise if it is a symbolic link; return the descriptor.

    The folders in `path` can be symbolic links. A named pipe is opened without waiting. On Windows,
    the file must be a regular file.

    Raises:
        OSError: The file cannot be opened, or `path` itself is a symbolic link.
    """
    if _NO_LINK is not None:
        return os.open(path, flags | PLAIN | _NO_WAIT | _NO_LINK, mode)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.open(path, flags | PLAIN | _NO_WAIT, mode)


if hasattr(os, "pread") and hasattr(os, "preadv"):

    def read_at(fd: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of a file from an offset on; empty at the end of the file."""
        return os.pread(fd, size, offset)

    def read_into(fd: int, buffer: memoryview, offset: int) -> int:
        """Read bytes from an offset of a file into a buffer; return their number, 0 at the end."""
        return os.preadv(fd, [buffer], offset)
else:

    def read_at(fd: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of a file from an offset on; empty at the end of the file."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, size)

    def read_into(fd: int, buffer: memoryview, offset: int) -> int:
        """Read bytes from an offset of a file into a buffer; return their number, 0 at the end."""
        chunk = read_at(fd, len(buffer), offset)
        buffer[: len(chunk)] = chunk
        return len(chunk)


if hasattr(os, "pwrite") and hasattr(os, "pwritev"):

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write to an offset of a file; return the number of bytes written, perhaps not all."""
        return os.pwrite(fd, data, offset)

    def write_chunks_at(fd: int, chunks: Sequence[memoryview], offset: int) -> int:
        """Write chunks one after another; return the number of bytes written, perhaps not all."""
        return os.pwritev(fd, chunks, offset)
else:

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write to an offset of a file; return the number of bytes written, perhaps not all."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def write_chunks_at(fd: int, chunks: Sequence[memoryview], offset: int) -> int:
        """Write chunks one after another; return the number of bytes written, perhaps not all."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            total = 0
            for chunk in chunks:
                count = os.write(fd, chunk)
                total += count
                if count < len(chunk):
                    break
            return total


def write_all_at(fd: int, chunks: Sequence[bytes | memoryview], offset: int) -> int:
    """Write all chunks to a file one after another; return the offset after the last byte."""
    # Each system call releases the interpreter lock and must acquire it again. If the event loop is
    # busy, this takes as long as the writing. So one call writes many chunks.
    left = deque([memoryview(chunk) for chunk in chunks])
    while left:
        count = write_chunks_at(fd, _first(left, _MAX_BYTES_PER_CALL), offset)
        offset += count
        while left and count >= len(left[0]):
            count -= len(left.popleft())
        if count:
            left[0] = left[0][count:]
    return offset


sync_data = getattr(os, "fdatasync", os.fsync)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder, such as a new or renamed file, to the disk (fsync(2)).

    Without this, a power cut can remove the name of a file although its bytes are on the disk. Do
    nothing if the system cannot sync folders. Raise `OSError` if the sync fails.
    """
    as_folder = getattr(os, "O_DIRECTORY", None)
    if as_folder is None:
        return
    try:
        fd = os.open(folder, os.O_RDONLY | as_folder | PLAIN)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise


def is_own_file(status: os.stat_result) -> bool:
    """Return whether a file is a regular file that belongs to this user.

    On systems without user ids, every regular file counts as a file of this user.
    """
    effective_user = getattr(os, "geteuid", None)
    is_own = effective_user is None or status.st_uid == effective_user()
    return stat.S_ISREG(status.st_mode) and is_own


def is_of_another_user(status: os.stat_result) -> bool:
    """Return whether a file belongs to a user other than this user and root.

    The result is False on systems without user ids.
    """
    effective_user = getattr(os, "geteuid", None)
    return effective_user is not None and status.st_uid not in {0, effective_user()}


def check_owners_of_folders(path: Path) -> None:
    """Raise if another user may have put a folder, or a link to one, into the path of a file.

    In a folder like /tmp, every user can create entries, and rename only their own. So another user
    could at any time replace a folder there by a link to one of this user's folders, and then
    adepoll would replace files in it. Only root can create a mount point.

    Raises:
        PermissionError: A folder above `path`, or a link to a folder, belongs to another user, who
            is not root, and every user can create entries beside it.
        ValueError: No file can have this path.
    """
    folder = _folder_of_another_user(path)
    if folder is not None:
        raise PermissionError(
            errno.EPERM,
            f"{showable(str(folder))} belongs to another user, and every user can create folders "
            "beside it; use a folder of your own",
            str(path),
        )


def _folder_of_another_user(path: Path) -> Path | None:
    try:
        for above, folder in pairwise(reversed(path.absolute().parents)):
            shared = above.stat()
            if shared.st_mode & SHARED == SHARED:
                found = folder.lstat()
                is_foreign = is_of_another_user(found) and found.st_uid != shared.st_uid
                if is_foreign and not folder.is_mount():
                    return folder
    except OSError:
        pass  # the folder does not exist yet, or writing raises the same error
    return None


def check_owner_of_link(path: Path) -> None:
    """Raise if another user may have put a link, a pipe or a device in the place of a file.

    In a folder like /tmp, every user can create a link or a pipe. Linux refuses to follow such a
    link (protected_symlinks in proc_sys_fs(5)), but only in folders with the sticky bit, and not if
    the path was resolved before. The folders above `path` are checked, too.

    Raises:
        PermissionError: A link, pipe, device or socket at `path` belongs to another user, who is
            not root. Or `check_owners_of_folders` raises.
        ValueError: No file can have this path.
    """
    check_owners_of_folders(path)
    try:
        found = path.lstat()
    except OSError:
        return  # it does not exist, or writing raises the same error
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    if not is_plain and is_of_another_user(found):
        raise PermissionError(
            errno.EPERM, "it is a link, pipe or device of another user", str(path)
        )


def make_private(fd: int, path: Path) -> None:
    """Set the mode of an open file to 0600, independent of the umask."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, 0o600)
    else:
        path.chmod(0o600)


def lock(fd: int, *, shared: bool = False) -> None:
    """Lock an open file without waiting; do nothing on systems without flock(2).

    Args:
        fd: Descriptor of the file.
        shared: True for a lock that several processes can have at the same time. False for a lock
            that only one process can have.

    Raises:
        BlockingIOError: Another process has locked the file.
        OSError: The file system has no locks.
    """
    if HAS_FLOCK:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def unlock(fd: int) -> None:
    """Release the lock of an open file.

    To close the file is not always enough: the lock remains if a forked child process also has the
    file open.
    """
    if HAS_FLOCK:
        fcntl.flock(fd, fcntl.LOCK_UN)


def rename_open(fd: int, source: Path, target: Path) -> None:
    """Rename an open file. A file that already has the new name is replaced.

    A network file system can rename the file and lose the answer. Then it repeats the request, and
    reports an error, although the file has the new name. Such an error is not raised.

    If the system cannot rename open files, the file is closed and opened again, with the same
    descriptor.

    Args:
        fd: Descriptor of the file.
        source: Present path of the file.
        target: New path.

    Raises:
        OSError: The file could not be renamed, or another process has replaced the file.
    """
    if HAS_FLOCK:
        try:
            source.replace(target)
        except OSError:
            if not is_at(fd, target):
                raise
        return
    before = os.fstat(fd)
    # Open the null device in its place, because otherwise another thread could get the descriptor.
    _reopen(Path(os.devnull), fd)
    try:
        _replace(source, target)
    except OSError:
        _reopen(source, fd)
        raise
    _reopen(target, fd)
    if not os.path.samestat(before, os.fstat(fd)):
        raise OSError(errno.EBUSY, "another process has replaced the file")


def remove_open(fd: int, path: Path) -> None:
    """Delete an open file, and close it; raise `OSError` if this fails.

    Where the system allows it, the file is deleted before it is closed, because closing releases
    the lock of the file.
    """
    if HAS_FLOCK:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
    else:
        os.close(fd)
        path.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Rename a file to `target`, and replace an existing `target`.

    On Windows, which cannot replace an open file, retry for up to one second: another download may
    just have written `target`, or a virus scanner may be reading it.
    """
    for left in reversed(range(_RENAMES)):
        try:
            source.replace(target)
        except PermissionError:
            if HAS_FLOCK or not left:
                raise
            time.sleep(_BETWEEN_RENAMES)
        else:
            return


def _reopen(path: Path, fd: int) -> None:
    """Make `fd` the descriptor of the file at `path`, instead of the file that it has open now."""
    opened = os.open(path, os.O_RDWR | PLAIN)
    try:
        os.dup2(opened, fd, inheritable=False)
    finally:
        os.close(opened)


def _first(chunks: Iterable[memoryview], size: int) -> list[memoryview]:
    """Return the first `size` bytes of the chunks, from at most 1,024 chunks."""
    first: list[memoryview] = []
    for chunk in islice(chunks, _MAX_CHUNKS_PER_CALL):
        first.append(chunk[:size])
        size -= len(chunk)
        if size <= 0:
            break
    return first
