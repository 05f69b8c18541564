"""A file that appears whole or not at all: same-folder temporary, fsync, rename.

Imports errors only. Plain blocking code: its methods are called from threads, one at a time.
"""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import IO, Final

from adepoll.errors import ResultTransferError, StorageError, TargetExistsError

# What link(2) says where the file system knows no hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
# What is said of a folder that can be written, but not synced: by its file system, or by us, who
# may not read it.
_NO_FOLDER_SYNC: Final = frozenset({errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


class PartFile:
    """Writes one result to disk, as often as it takes; only `publish` makes it visible."""

    def __init__(self, target: Path, *, job_id: str, overwrite: bool) -> None:
        """Make the writer of `target`; nothing is touched before `check`."""
        self._target = target
        self._job_id = job_id
        self._overwrite = overwrite
        # A cancelled task does not stop the thread that writes for it: they must not meet.
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._part: Path | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._depth = 0  # braces opened and not closed, those within strings counted too

    def check(self) -> None:
        """Refuse what cannot work, before anything is requested.

        Raises:
            TargetExistsError: There is a file, and it may not be replaced.
            StorageError: There is no such folder, or a folder is where the file should be.
        """
        try:
            if self._target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not self._target.parent.is_dir():
                raise NotADirectoryError(errno.ENOENT, "there is no such folder")
            # is_dir and lexists say no more than False of a name that no file can have.
            os.lstat(self._target)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            raise self._failed(exc) from exc
        if not self._overwrite:
            raise self._exists()

    def open(self) -> None:
        """Begin with an empty temporary file in the folder of the target."""
        with self._lock:
            self._hash = hashlib.sha256()
            self._size = self._depth = 0
            try:
                fd, name = tempfile.mkstemp(
                    prefix=f".{self._target.name[:60]}.", suffix=".part", dir=self._target.parent
                )
            except OSError as exc:
                raise self._failed(exc) from exc
            self._part = Path(name)
            self._file = os.fdopen(fd, "wb", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        with self._lock:
            if self._file is None:
                return  # discarded while this was on its way to the thread
            try:
                left = memoryview(chunk)
                while left:
                    left = left[self._file.write(left) :]
            except OSError as exc:
                raise self._failed(exc) from exc
            self._hash.update(chunk)
            self._size += len(chunk)
            self._depth += chunk.count(b"{") - chunk.count(b"}")

    def publish(self) -> tuple[int, str]:
        """Sync the bytes, give them their name, sync the folder; give size and sha256.

        Raises:
            ResultTransferError: A brace is missing: the bytes are not whole, whatever length was
                announced for them.
            TargetExistsError: A file has come there meanwhile.
            StorageError: It cannot be written.
        """
        with self._lock:
            if self._file is None or self._part is None:
                raise self._failed(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
            try:
                # The quick count is off where strings hold braces, and the file is read again. A
                # cut that such braces make up for to a hair goes unseen.
                if self._depth and _is_cut(self._part):
                    raise ResultTransferError(
                        "the bytes ended within the result",
                        job_id=self._job_id,
                        received=self._size,
                        expected=None,
                    )
                os.fsync(self._file.fileno())
                self._file.close()
                self._rename(self._part)
                _sync_folder(self._target.parent)
            except OSError as exc:
                if isinstance(exc, TargetExistsError):
                    raise
                raise self._failed(exc) from exc
            self._file = self._part = None
            return self._size, self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the temporary file, if it was not published."""
        with self._lock:
            # What fails here was told by the write, or is of no interest: the file is not wanted.
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None
            if self._part is not None:
                with contextlib.suppress(OSError):
                    self._part.unlink()
                self._part = None

    def _rename(self, part: Path) -> None:
        if self._overwrite:
            part.replace(self._target)
            return
        try:
            os.link(part, self._target)  # rename(2) would replace a file that came meanwhile
        except FileExistsError:
            raise self._exists() from None
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self._target):
                raise self._exists() from None
            part.replace(self._target)
        else:
            part.unlink()

    def _exists(self) -> TargetExistsError:
        return TargetExistsError(job_id=self._job_id, path=str(self._target))

    def _failed(self, exc: OSError | ValueError) -> StorageError:
        cause = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
        return StorageError(job_id=self._job_id, path=str(self._target), cause=cause)


# A JSON string (RFC 8259, section 7); possessive, so that a hostile one takes no longer.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def _is_cut(path: Path) -> bool:
    """Tell whether the braces outside of strings do not match, or a string does not end."""
    depth = 0
    begun = b""  # a string whose end has not been read yet
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            text, quote, rest = _STRING.sub(b"", begun + chunk).partition(b'"')
            begun = quote + rest
            depth += text.count(b"{") - text.count(b"}")
    return depth != 0 or bool(begun)


def _sync_folder(folder: Path) -> None:
    # Without this, the name can be lost in a power cut though the bytes are not (fsync(2)).
    try:
        fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
