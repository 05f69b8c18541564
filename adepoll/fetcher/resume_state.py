"""The resume state: a file that says which bytes of which object a part file contains.

A part file is an incomplete download. The resume state is in the same folder. Each update
overwrites the resume state, because creating a new file each time would take longer than writing
the bytes. A checksum shows whether the resume state is complete.

If a process is killed, everything that it has written is kept. If the machine crashes, writes that
were not synced can be lost. At worst, bytes of the part file are lost, and the resume state still
says that they are there. So on Linux, the resume state contains the boot id of the kernel, and is
ignored after a reboot. On systems without a boot id, the part file is synced before each update of
the resume state.
"""

import errno
import json
import os
from binascii import crc32
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

from adepoll.api.models import Json
from adepoll.common import file_system
from adepoll.fetcher.storage_rules import ObjectVersion

STATE_END: Final = ".json"
"""What the name of a resume state adds to that of its part file."""
_FORMAT: Final = 3  # a file with another number is ignored
_MAX_BYTES: Final = 2**20  # a longer state is ignored
_BYTES_PER_SYNC: Final = 2**23


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of ranges (start, stop), sorted and disjoint."""
    result: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if start >= stop:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


@frozen
class ResumeState:
    """Says which bytes of which version of an object a part file contains.

    Attributes:
        version: Version of the object that the bytes belong to.
        present: Ranges (start, stop) of the bytes that are in the part file.
    """

    version: ObjectVersion
    present: list[tuple[int, int]]

    @property
    def is_resumable(self) -> bool:
        """True if adepoll can request further bytes of exactly this version of the object."""
        return self.version.size is not None and self.version.is_strong


class ResumeStateFile:
    """The file with the resume state of one part file.

    Attributes:
        update_bytes: Number of new bytes in the part file after which this file is updated; 0 to
            update it after each write.
    """

    def __init__(self, part: Path) -> None:
        """Compute the path of the file from `part`, the path of the part file; open no file."""
        self.update_bytes = 0 if _boot_id() else _BYTES_PER_SYNC
        self._path = part.with_name(f"{part.name}{STATE_END}")
        self._new = part.with_name(f"{part.name}.json.new")
        self._fd: int | None = None  # None until the file is created
        self._last: bytes  # contents of the file, after the last complete write
        self._sync_error: OSError | None = None  # the error of a failed sync of the part file

    def read(self, job_id: str, length: int, inode: int) -> ResumeState | None:
        """Return the resume state; None if it is missing, damaged, or not usable.

        It is not usable if it may describe another part file, or if further bytes of the same
        version of the object cannot be requested.

        Args:
            job_id: The job.
            length: Size of the part file in bytes.
            inode: Inode number of the part file. The resume state contains it, too. If the numbers
                differ, the resume state is of an earlier part file with the same name.
        """
        try:
            # Do not follow a symbolic link, and do not wait for a pipe: another user may have put
            # one there, or a file.
            fd = file_system.open_without_following(self._path, os.O_RDONLY)
            try:
                if not file_system.is_own_file(os.fstat(fd)):
                    return None
                document = _unseal(os.read(fd, _MAX_BYTES))
            finally:
                os.close(fd)
        except (OSError, ValueError, RecursionError):
            return None
        state = _validated(document, job_id, length, inode)
        return state if state is not None and state.is_resumable else None

    def write(self, part_fd: int, job_id: str, state: ResumeState) -> None:
        """Write a new resume state.

        `part_fd` is the descriptor of the part file. All bytes that `state` names must have been
        written to the part file before. If the part file cannot be synced, or the disk is full,
        raise `OSError`, and keep the previous resume state.
        """
        boot = _boot_id()
        if boot is None:
            self._sync(part_fd)
        document = {
            "format": _FORMAT,
            "job_id": job_id,
            "size": state.version.size,
            "etag": state.version.etag,
            "boot": boot,
            "inode": os.fstat(part_fd).st_ino,
            "done": state.present,
        }
        sealed = _seal(json.dumps(document))
        if self._fd is None:
            self._create(sealed)
        else:
            try:
                _write(self._fd, sealed)
            except OSError:
                # The disk is full, and the new state may be incomplete. Write the old state again:
                # its size is allocated already.
                with suppress(OSError):
                    _write(self._fd, self._last)
                raise
        self._last = sealed

    @property
    def exists(self) -> bool:
        """True if `write` has written a resume state, and `remove` was not called after that."""
        return self._fd is not None

    def close(self) -> None:
        """Close the file without removing it."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    def remove(self) -> None:
        """Remove the resume state if it exists; raise `OSError` if that fails."""
        self.close()
        for path in (self._path, self._new):
            # A folder with this name is not a resume state, and is not removed.
            with suppress(FileNotFoundError, IsADirectoryError):
                path.unlink()

    def _sync(self, part_fd: int) -> None:
        """Sync the part file to the disk.

        After a failed sync, each later call raises the same error, because written bytes may be
        lost.
        """
        if self._sync_error is not None:
            raise self._sync_error  # another sync could succeed, although bytes are lost
        try:
            os.fsync(part_fd)
        except OSError as exc:
            self._sync_error = exc
            raise

    def _create(self, sealed: bytes) -> None:
        """Create the file: write a temporary file, and rename it.

        Do nothing if the temporary file cannot be created or renamed. For example, there is a
        folder with the same name, or another process creates it at the same time, because locks do
        not work. The next update tries again. Without the file, a later download only takes longer.

        Raises:
            OSError: The state cannot be written, for example because the disk is full.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN
        with suppress(FileNotFoundError, IsADirectoryError):
            self._new.unlink()  # left by an earlier process, or created by another user
        try:
            fd = os.open(self._new, flags, 0o600)
        except OSError:
            return
        try:
            _write(fd, sealed)
            with suppress(OSError):
                file_system.rename_open(fd, self._new, self._path)
                self._fd = fd
        finally:
            if self._fd is None:
                _close(fd)
                with suppress(OSError):
                    self._new.unlink()


def _close(fd: int) -> None:
    # The descriptor is closed even if close(2) returns an error. If the resume state is lost, the
    # next download only takes longer; an incomplete resume state is detected.
    with suppress(OSError):
        os.close(fd)


def _write(fd: int, sealed: bytes) -> None:
    if file_system.write_at(fd, sealed, 0) < len(sealed):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _seal(text: str) -> bytes:
    """Return an ASCII text as bytes, with a checksum before it and a line break after it."""
    body = text.encode("ascii")
    return b"%08x %b\n" % (crc32(body), body)


def _unseal(sealed: bytes) -> Json:
    """Return the JSON value of bytes that `_seal` has returned.

    Bytes after the line break are ignored: they are left from an earlier, longer state. Raise
    `ValueError` if the checksum or the JSON is wrong.
    """
    checksum, _, body = sealed.partition(b"\n")[0].partition(b" ")
    if checksum != b"%08x" % crc32(body):
        raise ValueError("the checksum does not match")
    return json.loads(body)


def _validated(document: Json, job_id: str, length: int, inode: int) -> ResumeState | None:
    """Return the resume state that a JSON document contains; None if it is not usable.

    The resume state must belong to this job and this part file, and must have been written after
    the last boot of the machine. Its ranges must be within the part file.
    """
    match document:
        case {
            "format": 3,
            "job_id": str(found_id),
            "size": int(size),
            "etag": str(etag),
            "boot": str() | None as boot,
            "inode": int(found_inode),
            "done": list(items),
        } if found_id == job_id and boot == _boot_id() and found_inode == inode:
            present = [_span(item) for item in items]
            if all(0 <= start < stop <= min(size, length) for start, stop in present):
                return ResumeState(ObjectVersion(size, etag), sorted(present))
    return None


def _span(item: Json) -> tuple[int, int]:
    """Return start and end of a range of bytes; (0, 0) if they are invalid."""
    match item:
        case [int(start), int(stop)]:
            return start, stop
    return 0, 0  # an empty range, which `_validated` rejects


@cache
def _boot_id() -> str | None:
    """Return the random id that Linux chooses at each boot; None on other systems."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
