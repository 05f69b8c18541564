"""File operations: with an alternative where a system lacks one, and for replacing a whole file.

Windows has no pread(2), pwritev(2), fdatasync(2), flock(2), O_NOFOLLOW, and no folders that can be
synced. It neither renames nor removes an open file. Blocking code, called from threads.
"""

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

try:
    import fcntl
except ImportError:
    HAS_FLOCK = False
else:
    HAS_FLOCK = True
"""True on POSIX systems, which have flock(2), and which rename and remove open files."""

HAS_UIDS: Final = hasattr(os, "geteuid") and hasattr(os, "fchown")
"""True where files have an owner and a mode that decide who can read them."""

# Flags for every file: child processes do not inherit it, and Windows does not change line ends.
PLAIN: Final[int] = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
)
_NO_LINK: Final[int | None] = getattr(os, "O_NOFOLLOW", None)
_NO_WAIT: Final[int] = getattr(os, "O_NONBLOCK", 0)
# Errors for folders that can be written but not synced: the file system does not support it, or
# this process may not read the folder.
_NO_FOLDER_SYNC: Final = frozenset({errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})

_position = threading.Lock()  # held while the position of a file is moved and used


def open_without_following(path: Path, flags: int, mode: int = 0o777) -> int:
    """Open a file unless its name is a symbolic link; do not wait for the other end of a pipe.

    Raises:
        OSError: The file cannot be opened, or is a symbolic link.
    """
    if _NO_LINK is not None:
        return os.open(path, flags | PLAIN | _NO_WAIT | _NO_LINK, mode)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.open(path, flags | PLAIN | _NO_WAIT, mode)


if hasattr(os, "pread") and hasattr(os, "preadv"):

    def read_at(fd: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at an offset; empty at the end of the file."""
        return os.pread(fd, size, offset)

    def read_into(fd: int, buffer: memoryview, offset: int) -> int:
        """Read bytes at an offset into a buffer; return their number, 0 at the end of the file."""
        return os.preadv(fd, [buffer], offset)
else:

    def read_at(fd: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at an offset; empty at the end of the file."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, size)

    def read_into(fd: int, buffer: memoryview, offset: int) -> int:
        """Read bytes at an offset into a buffer; return their number, 0 at the end of the file."""
        chunk = read_at(fd, len(buffer), offset)
        buffer[: len(chunk)] = chunk
        return len(chunk)


if hasattr(os, "pwrite") and hasattr(os, "pwritev"):

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at an offset; return the number of bytes that were written."""
        return os.pwrite(fd, data, offset)

    def write_chunks_at(fd: int, chunks: Sequence[memoryview], offset: int) -> int:
        """Write chunks one after another; return the number of bytes that were written."""
        return os.pwritev(fd, chunks, offset)
else:

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at an offset; return the number of bytes that were written."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def write_chunks_at(fd: int, chunks: Sequence[memoryview], offset: int) -> int:
        """Write chunks one after another; return the number of bytes that were written."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            total = 0
            for chunk in chunks:
                count = os.write(fd, chunk)
                total += count
                if count < len(chunk):
                    break
            return total


sync_data = getattr(os, "fdatasync", os.fsync)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder: a power cut can lose a name whose bytes are on the disk.

    Do nothing where folders cannot be synced. Raise `OSError` if the sync failed (fsync(2)).
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
    """Return whether this is a regular file of this user, or of anyone on systems without uids."""
    effective_user = getattr(os, "geteuid", None)
    is_own = effective_user is None or status.st_uid == effective_user()
    return stat.S_ISREG(status.st_mode) and is_own


def make_private(fd: int, path: Path) -> None:
    """Give an open file mode 0600, whatever the umask."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, 0o600)
    else:
        path.chmod(0o600)


def lock(fd: int, *, shared: bool = False) -> None:
    """Lock an open file without waiting; do nothing on systems without flock(2).

    Raises:
        BlockingIOError: Another process has it locked.
        OSError: The file system has no locks.
    """
    if HAS_FLOCK:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def unlock(fd: int) -> None:
    """Release a lock, also if a forked child has the file open, which closing would not do."""
    if HAS_FLOCK:
        fcntl.flock(fd, fcntl.LOCK_UN)


def rename_open(fd: int, source: Path, target: Path) -> None:
    """Rename the open file `source` to `target`, which is replaced; `fd` stays its descriptor.

    Where an open file cannot be renamed, it is closed and opened again.

    Raises:
        OSError: The file could not be renamed, or another process has replaced it.
    """
    if HAS_FLOCK:
        source.replace(target)
        return
    before = os.fstat(fd)
    # The descriptor must not become free: another thread could get it.
    _reopen(Path(os.devnull), fd)
    try:
        source.replace(target)
    except OSError:
        _reopen(source, fd)
        raise
    _reopen(target, fd)
    if not os.path.samestat(before, os.fstat(fd)):
        raise OSError(errno.EBUSY, "another process has replaced the file")


def remove_open(fd: int, path: Path) -> None:
    """Remove the name of an open file, and close the file; raise `OSError` if one of both failed.

    The name goes first where that is possible, because closing releases the lock.
    """
    if HAS_FLOCK:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
    else:
        os.close(fd)
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file of mode 0600 that replaces `path` when the block ends without an error.

    Something other than a regular file, such as ``/dev/stdout``, is written to directly.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    path = path.resolve()  # keeps a symbolic link, and replaces its target
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    fd, name = tempfile.mkstemp(prefix=".adepoll-", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reopen(path: Path, fd: int) -> None:
    """Open another file under a descriptor; the file that it named until now is closed."""
    opened = os.open(path, os.O_RDWR | PLAIN)
    try:
        os.dup2(opened, fd, inheritable=False)
    finally:
        os.close(opened)
