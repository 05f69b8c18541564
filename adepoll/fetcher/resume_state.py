"""The resume state: a file beside the part file that says which bytes of which version it holds.

The file is overwritten in place after each write of the part file, because a new file each time
would cost more than the bytes themselves. A checksum shows whether it is complete.

It survives a killed process, but not a crash of the machine, which loses unsynced writes in any
order. So it contains the kernel's boot id (Linux) and is ignored after a reboot. Where there is no
boot id, the bytes are synced before each update.
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

_FORMAT: Final = 3
_MAX_BYTES: Final = 2**20
_BYTES_PER_SYNC: Final = 2**23


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of spans (start, stop), sorted and disjoint."""
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
    """The contents of a part file.

    Attributes:
        version: Version of the object that the bytes belong to.
        present: Spans (start, stop) of the bytes in the file.
    """

    version: ObjectVersion
    present: list[tuple[int, int]]

    @property
    def is_resumable(self) -> bool:
        """True if the storage can be asked for further bytes of exactly this version."""
        return self.version.size is not None and self.version.is_strong


class ResumeStateFile:
    """The file with the resume state of one part file.

    Attributes:
        update_bytes: New bytes in the part file that justify another update.
    """

    def __init__(self, part: Path) -> None:
        """`part` is the part file; no file is touched yet."""
        self.update_bytes = 0 if _boot_id() else _BYTES_PER_SYNC
        self._path = part.with_name(f"{part.name}.json")
        self._new = part.with_name(f"{part.name}.json.new")
        self._fd: int | None = None
        self._last = b""  # contents of the file

    def read(self, job_id: str, length: int, inode: int) -> ResumeState | None:
        """Return the state of a part file of this job; None if it is not reliable.

        The length and inode number are those of the part file, since another part file with the
        same name may have left the state.
        """
        try:
            # Another user may have put a link or a pipe there: do not follow, do not wait.
            fd = file_system.open_without_following(self._path, os.O_RDONLY)
            try:
                document = _unseal(os.read(fd, _MAX_BYTES))
            finally:
                os.close(fd)
        except (OSError, ValueError, RecursionError):
            return None
        state = _validated(document, job_id, length, inode)
        return state if state is not None and state.is_resumable else None

    def write(self, part_fd: int, job_id: str, state: ResumeState) -> None:
        """Replace the state by that of the part file `part_fd`; raises `OSError`."""
        boot = _boot_id()
        if boot is None:
            os.fsync(part_fd)
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
                # On a full disk, part of the new state may be written; the last one has room.
                with suppress(OSError):
                    _write(self._fd, self._last)
                raise
        self._last = sealed

    def close(self) -> None:
        """Close the file; its contents stay."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    def remove(self) -> None:
        """Remove the file if it exists; raises `OSError`."""
        self.close()
        for path in (self._path, self._new):
            # A folder in its place is nobody's state, and stays.
            with suppress(FileNotFoundError, IsADirectoryError):
                path.unlink()

    def _create(self, sealed: bytes) -> None:
        """Write a new file, and rename it over whatever is there.

        Where locks do not work, another process can do the same at the same time. Then no file is
        created, and the next update tries again.
        """
        with suppress(FileNotFoundError):
            self._new.unlink()  # another user may have put a link or a pipe here, too
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN
        try:
            fd = os.open(self._new, flags, 0o600)
        except FileExistsError:
            return
        try:
            _write(fd, sealed)
            file_system.rename_open(fd, self._new, self._path)
        except FileNotFoundError:
            _close(fd)
            return
        except OSError:
            _close(fd)
            with suppress(OSError):
                self._new.unlink()
            raise
        self._fd = fd


def _close(fd: int) -> None:
    # `fd` is closed even if this fails (close(2)). A missing state only costs a new download, and
    # an incomplete one is detected.
    with suppress(OSError):
        os.close(fd)


def _write(fd: int, sealed: bytes) -> None:
    if file_system.write_at(fd, sealed, 0) < len(sealed):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _seal(text: str) -> bytes:
    """Return the text with a checksum before it, and a line break after it."""
    body = text.encode("ascii")
    return b"%08x %b\n" % (crc32(body), body)


def _unseal(sealed: bytes) -> Json:
    """Parse what `_seal` returned, whatever follows its line break; raises `ValueError`."""
    checksum, _, body = sealed.partition(b"\n")[0].partition(b" ")
    if checksum != b"%08x" % crc32(body):
        raise ValueError("the checksum does not match")
    return json.loads(body)


def _validated(document: Json, job_id: str, length: int, inode: int) -> ResumeState | None:
    """Return the state that the document contains; None if it is not usable.

    It is usable if it is plausible, and belongs to this job, this file and this run of the machine.
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
    match item:
        case [int(start), int(stop)]:
            return start, stop
    return 0, 0  # not a valid span


@cache
def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
