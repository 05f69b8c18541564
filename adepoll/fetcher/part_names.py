"""The names of part files: which one a process creates, and what earlier processes have left.

Locks (flock(2)) show which part files are in use. On some network file systems, they always
succeed, or are unknown to other machines; Windows has none. So no process writes to a file that it
did not create: it copies the bytes that an earlier one has left. Blocking code, called from
threads.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

from attrs import frozen

from adepoll.common import file_system
from adepoll.fetcher.resume_state import ResumeStateFile

_COPY_SIZE: Final = 2**20
_PRIVATE: Final = re.compile(r"\..*\.[0-9a-f]{12}\.[0-9a-f]{16}\.part", re.DOTALL)


@frozen
class OwnFile:
    """A file that this process has created, open for reading and writing.

    Attributes:
        fd: Its descriptor, which has a lock.
        path: Its name when it was created; another process may have given that name to its own
            file if locks do not work.
    """

    fd: int
    path: Path

    def has_name(self) -> bool:
        """Return whether `path` is still the name of this file."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.lstat(self.path), os.fstat(self.fd))
        return False

    def remove(self) -> None:
        """Remove the name, if it is still that of this file, and close the file."""
        if not self.has_name():
            self.close()
            return
        with contextlib.suppress(OSError):
            file_system.remove_open(self.fd, self.path)

    def close(self) -> None:
        """Close the file; it stays."""
        with contextlib.suppress(OSError):
            os.close(self.fd)


class PartNames:
    """The names for the part files of one target and job.

    Attributes:
        shared: The name that a later process finds. One process at a time can have it.
    """

    def __init__(self, target: Path, job_id: str) -> None:
        """Compute the names; no file is created yet."""
        key = f"{target.name}\0{job_id}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(key, digest_size=6).hexdigest()
        # A name has at most 255 bytes, a character up to four, and suffixes follow.
        self._stem = f".{target.name[:40]}.{digest}"
        self.shared = Path(target.parent, f"{self._stem}.part")

    def create_shared(self) -> OwnFile | None:
        """Create a file with the shared name, or return None if that name exists."""
        try:
            own = _create(self.shared)
        except FileExistsError:
            return None
        if own.has_name():
            return own
        own.close()  # another process found it before it was locked, and took it for a leftover
        return None

    def create_private(self) -> OwnFile:
        """Create a file with a random name, which no other process uses."""
        return _create(self.random_path())

    @contextlib.contextmanager
    def leftover(self) -> Generator[int | None, None, None]:
        """Yield the file with the shared name, if it seems to be left by an ended process.

        Yield None if that process still runs, or belongs to another user. The caller may only read
        from the file.
        """
        fd = _open_unused(self.shared)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def move_to_shared(self, own: OwnFile) -> OwnFile:
        """Give the shared name to a private file, and replace the file that has it now.

        Return the file as it is if another process has it open (Windows), or has removed its name
        because locks do not work.
        """
        try:
            file_system.rename_open(own.fd, own.path, self.shared)
        except (PermissionError, FileNotFoundError):
            return own
        return OwnFile(own.fd, self.shared)

    def make_private(self, own: OwnFile) -> OwnFile:
        """Give a file a random name, or copy it if another file has its name now."""
        if own.path != self.shared and own.has_name():
            return own
        if own.has_name():
            moved = OwnFile(own.fd, self.random_path())
            file_system.rename_open(own.fd, own.path, moved.path)
            if moved.has_name():
                return moved
            # Another process has taken the shared name in this moment: give it back.
            moved.path.replace(own.path)
        private = self.create_private()
        try:
            copy(own.fd, private.fd, 0, os.fstat(own.fd).st_size)
            os.fsync(private.fd)
        except OSError:
            private.remove()
            raise
        own.close()
        return private

    def remove_unused(self, names: Iterable[str] | None = None) -> None:
        """Remove the private files that ended processes have left.

        Args:
            names: The `private_names` of the folder; None to list it.
        """
        for path in self._private_paths(names):
            fd = _open_unused(path)
            if fd is not None:
                os.close(fd)
                with contextlib.suppress(PermissionError):  # Windows: a running process has it open
                    path.unlink(missing_ok=True)

    def remove_names_of(self, published: os.stat_result) -> None:
        """Remove the private names of the published file.

        They exist if its process was killed before it removed them. The resume state is removed,
        too, unless it belongs to another part file.
        """
        for path in self._private_paths():
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), published):
                    path.unlink()
                    if not os.path.lexists(self.shared):
                        ResumeStateFile(self.shared).remove()

    def random_path(self) -> Path:
        """Return a path beside the target that no other process uses."""
        return self.shared.with_name(f"{self._stem}.{secrets.token_hex(8)}.part")

    def _private_paths(self, names: Iterable[str] | None = None) -> list[Path]:
        folder = self.shared.parent
        names = private_names(folder) if names is None else names
        return [folder / name for name in names if name.startswith(f"{self._stem}.")]


def private_names(folder: Path) -> list[str]:
    """Return the names in a folder that are those of private part files."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _PRIVATE.fullmatch(entry.name)]
    except OSError:  # a folder can be writable but not readable
        return []


def copy(source: int, target: int, start: int, stop: int) -> None:
    """Copy the bytes between two offsets of a file to the same offsets of another one.

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


def _create(path: Path) -> OwnFile:
    """Create and lock a file of mode 0600; raise `OSError`, also if the name exists."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | file_system.PLAIN, 0o600)
    with contextlib.suppress(OSError):  # without locks, other processes copy this file
        file_system.lock(fd)
    return OwnFile(fd, path)


def _open_unused(path: Path) -> int | None:
    """Open and lock a regular file of this user; return None if it is another file or locked."""
    try:
        fd = file_system.open_without_following(path, os.O_RDWR)
    except OSError:
        return None
    try:
        # In a folder that other users can write to, one of them may have created it.
        found = os.fstat(fd)
        if file_system.is_own_file(found):
            file_system.lock(fd)
            if os.path.samestat(found, os.lstat(path)):
                return fd
    except OSError:
        pass  # a living process has it, or has just published or removed it
    os.close(fd)
    return None
