"""Names part files, and finds and removes part files that an earlier process has left.

`common/own_file.py` says which process may write to a part file. The functions block, and run in
threads.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Final

from adepoll.common import file_system
from adepoll.common.own_file import OwnFile, open_unused, remove_unused
from adepoll.fetcher.resume_state import STATE_END

# A random name, as `PartNames.random_path` makes it.
_PRIVATE: Final = re.compile(r"\..*\.[0-9a-f]{12}\.[0-9a-f]{16}\.part", re.DOTALL)
_MAX_CLEANED: Final = 1000  # folders that `LeftoverRemoval` remembers


def has_resume_state(target: Path, job_id: str) -> bool:
    """Return whether an interrupted download of a job to `target` has left a resume state."""
    part = PartNames(target, job_id).shared
    return os.path.lexists(part.with_name(f"{part.name}{STATE_END}"))


class PartNames:
    """The names of the part files for one target and job: one shared name, and random names.

    A part file with a random name is called private, because no other process resumes it.

    Attributes:
        shared: Path that every process computes for this target and job, so that it finds the part
            file of an earlier process.
    """

    def __init__(self, target: Path, job_id: str) -> None:
        """Compute the name that all processes use for this target and job; create no file."""
        name = target.name.encode("utf-8", "surrogatepass")
        key = b"%b\0%b" % (name, job_id.encode("utf-8", "surrogatepass"))
        digest = hashlib.blake2b(key, digest_size=6).hexdigest()
        # Suffixes of up to 36 bytes follow, and eCryptfs allows names of 143 bytes.
        self._stem = f".{name[:80].decode('utf-8', 'ignore')}.{digest}"
        self.shared = Path(target.parent, f"{self._stem}.part")

    def create_shared(self) -> OwnFile | None:
        """Create a file with the shared name; return None if a file with that name exists."""
        try:
            own = OwnFile.create(self.shared)
        except FileExistsError:
            return None
        if own.has_name():
            return own
        # Another process removed the file between its creation and its lock.
        own.close()
        return None

    def create_private(self) -> OwnFile:
        """Create a part file with a random name."""
        return OwnFile.create(self.random_path())

    @contextlib.contextmanager
    def leftover(self) -> Generator[int | None, None, None]:
        """Yield a descriptor of the file with the shared name, if an ended process left that file.

        Yield None if there is no such file, a running process has locked it, or it belongs to
        another user. The caller may only read from the file.
        """
        fd = open_unused(self.shared)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def move_to_shared(self, own: OwnFile) -> OwnFile:
        """Rename the private file `own` to the shared name; return it with its new path.

        Replace a file that has the shared name now. If `own` cannot be renamed, return it
        unchanged: on Windows, a process has one of the two files open; or another process has
        removed `own`, because locks do not work.
        """
        try:
            file_system.rename_open(own.fd, own.path, self.shared)
        except (PermissionError, FileNotFoundError):
            return own
        return OwnFile(own.fd, self.shared)

    def restore_shared(self, own: OwnFile) -> OwnFile:
        """Rename a private file to the shared name, unless another file has that name now.

        Return the file with its new path, or with its old path if it was not renamed.
        """
        if own.path == self.shared or os.path.lexists(self.shared):
            return own
        with contextlib.suppress(OSError):
            return self.move_to_shared(own)
        return own

    def make_private(self, own: OwnFile) -> OwnFile:
        """Return the part file with a random name: rename it if it has the shared name.

        If another process has removed the file or given its name to another file, return a copy.
        """
        if own.path != self.shared and own.has_name():
            return own
        if own.has_name():
            moved = OwnFile(own.fd, self.random_path())
            file_system.rename_open(own.fd, own.path, moved.path)
            if moved.has_name():
                return moved
            # Between the check and the renaming, another process gave the shared name to its own
            # file. That file was renamed, so rename it back.
            moved.path.replace(own.path)
        return own.moved_to_copy(self.random_path())

    def random_path(self) -> Path:
        """Return a new random path for a part file, in the folder of the target."""
        return self.shared.with_name(f"{self._stem}.{secrets.token_hex(8)}.part")


class LeftoverRemoval:
    """Removes the private part files that killed processes have left, once for each folder.

    To list a folder takes long if it has many files. So an object lists each folder only once.
    """

    def __init__(self) -> None:
        """Create an object that has removed nothing."""
        self._cleaned: set[Path] = set()

    def clean(self, folder: Path) -> None:
        """Remove the private part files of ended processes from a folder, for any target file.

        Do nothing if the folder cannot be listed, or if an earlier call has cleaned it.
        """
        if folder in self._cleaned:
            return
        if len(self._cleaned) >= _MAX_CLEANED:
            self._cleaned.clear()
        self._cleaned.add(folder)
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if _PRIVATE.fullmatch(entry.name)]
        except OSError:  # the user may write to a folder without being allowed to list it
            return
        for name in names:
            remove_unused(folder / name)
