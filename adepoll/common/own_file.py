"""OwnFile: a temporary file that no other process writes to.

A process locks its temporary files (flock(2)), so a lock shows that a file is in use. These locks
do not always work: on some network file systems, locking always succeeds, or other machines do not
see the lock; Windows has no flock(2). So no process writes to a file that it did not create: it
copies the bytes of an earlier process to a new file. Blocking code; call it from threads.
"""

import contextlib
import os
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from adepoll.common import file_system

_COPY_SIZE: Final = 2**20  # bytes that are copied in one step


@frozen
class OwnFile:
    """A file that this process has created, open for reading and writing.

    Attributes:
        fd: Descriptor of the file, which is locked if the file system has locks.
        path: The path that this process gave to the file. Where locks do not work, another process
            can have removed the file, or replaced it by another file.
    """

    fd: int
    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create and lock a file with mode 0600; raise `OSError` if that fails or `path` exists."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | file_system.PLAIN, 0o600)
        # Where locks do not work, another process can conclude that the process of this file has
        # ended. It then copies or removes the file, but does not write to it.
        with contextlib.suppress(OSError):
            file_system.lock(fd)
        return cls(fd, path)

    def moved_to_copy(self, path: Path) -> Self:
        """Create a file with the same bytes at `path`, synced to the disk, and close this file."""
        new = self.create(path)
        try:
            copy(self.fd, new.fd, 0, os.fstat(self.fd).st_size)
            os.fsync(new.fd)
        except OSError:
            new.remove()
            raise
        self.close()
        return new

    def has_name(self) -> bool:
        """Return whether the file at `path` is still this file."""
        return file_system.is_at(self.fd, self.path)

    def remove(self) -> None:
        """Close the file, and remove it, unless another file is at `path` now."""
        if not self.has_name():
            self.close()
            return
        with contextlib.suppress(OSError):
            file_system.remove_open(self.fd, self.path)

    def close(self) -> None:
        """Close the file without removing it."""
        with contextlib.suppress(OSError):
            os.close(self.fd)


def open_unused(path: Path) -> int | None:
    """Open and lock a regular file that belongs to this user; return its descriptor.

    Return None if the file cannot be opened, belongs to another user, or is locked.
    """
    try:
        fd = file_system.open_without_following(path, os.O_RDWR)
    except OSError:
        return None
    try:
        # If other users can write to the folder, one of them may have created the file.
        found = os.fstat(fd)
        if file_system.is_own_file(found):
            file_system.lock(fd)
            if os.path.samestat(found, os.lstat(path)):
                return fd
    except OSError:
        pass  # a running process has locked the file, or has just published or removed it
    os.close(fd)
    return None


def remove_unused(path: Path) -> None:
    """Remove a file that an ended process of this user has left.

    Do nothing if a running process has locked the file, or it belongs to another user.
    """
    fd = open_unused(path)
    if fd is not None:
        os.close(fd)
        # Windows does not remove a file that another process has open.
        with contextlib.suppress(OSError):
            path.unlink()


def copy(source: int, target: int, start: int, stop: int) -> None:
    """Copy the bytes from offset `start` to `stop` of a file to the same offsets of another file.

    Raises:
        OSError: The copy failed.
        EOFError: The source has fewer bytes.
    """
    while start < stop:
        chunk = memoryview(file_system.read_at(source, min(_COPY_SIZE, stop - start), start))
        if not chunk:
            raise EOFError
        while chunk:
            count = file_system.write_at(target, chunk, start)
            start += count
            chunk = chunk[count:]
