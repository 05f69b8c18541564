"""A file that appears whole or not at all: same-folder temporary, fsync, rename; and what is kept.

Plain blocking code, called from threads: `write` by several at once for different bytes, the
others by one at a time. Imports errors, sidecar, spans and answers.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final

from adepoll.errors import ResultTransferError, StorageError, TargetExistsError
from adepoll.fetcher.answers import Version
from adepoll.fetcher.reading import Chunk
from adepoll.fetcher.sidecar import Kept, ResumeState
from adepoll.fetcher.spans import merged

# What link(2) says where the file system knows no hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
# What is said of a folder that can be written, but not synced: by its file system, or by us, who
# may not read it.
_NO_FOLDER_SYNC: Final = frozenset({errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_WORTH_KEEPING: Final = 2**20
_PIECE: Final = 2**20
_MOST_CHUNKS: Final = 1024  # IOV_MAX of Linux and the BSDs (pwritev(2))
# Linux keeps what is written in pieces of memory that are as large as the call, up to 2 MiB. Such
# large ones can be slow to get: in a virtual machine that had given them back to its host, they
# took 2 to 4 s for a gigabyte, where half a mebibyte at a time took 0.3 to 0.6 s (ext4, 6.18).
_AT_ONCE: Final = 2**19  # bytes


class PartFile:
    """Writes one result to disk, as often as it takes; only `publish` makes it visible.

    What was written can outlast a failure and the process itself, beside a note of which bytes of
    which version it is (`ResumeState`), brought up to date with each write. That of a target
    and job has always the same name, and is locked (flock(2)) while it is written; who finds it
    locked, or not his own, takes a temporary of another name, which nobody goes on with.
    """

    def __init__(self, target: Path, *, job_id: str, overwrite: bool) -> None:
        """Make the writer of `target`; nothing is touched before `check`."""
        self._target = target
        self._job_id = job_id
        self._overwrite = overwrite
        self._fd: int | None = None
        whose = f"{target.name}\0{job_id}".encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(whose, digest_size=6)
        # A name has 255 bytes at most, a character up to four, and more is put behind it.
        self._stem = f".{target.name[:40]}."
        self._own_part = Path(target.parent, f"{self._stem}{key.hexdigest()}.part")
        self._part = self._own_part
        self._sidecar: ResumeState | None = None
        self._version = Version()
        self._done: list[tuple[int, int]] = []
        self._resumable = False
        self._not_noted = 0  # bytes
        self._is_noted = False
        self._noting = Lock()
        self._hash = hashlib.sha256()
        self._counting = False
        self._depth = 0  # braces opened and not closed, those within strings counted too
        self.hashed = 0

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
            self._tidy()
            raise self._exists()

    def open(self) -> Kept | None:
        """Open the temporary file; give what an earlier download has left in it."""
        self._part = self._own_part
        try:
            self._fd = _open_own(self._part)
            if self._fd is None:
                self._fd, name = tempfile.mkstemp(
                    prefix=self._stem, suffix=".part", dir=self._target.parent
                )
                self._part = Path(name)
                return None
            self._sidecar = ResumeState(self._part)
            kept = self._sidecar.read(self._job_id, os.fstat(self._fd).st_size)
        except OSError as exc:
            raise self._failed(exc) from exc
        if kept is not None:
            self._version = kept.version
            self._done = kept.done
            self._resumable = self._is_noted = True
        return kept

    @property
    def is_open(self) -> bool:
        """Whether there is a temporary that was neither published nor left."""
        return self._fd is not None

    def begin(self, version: Version, *, joined: bool, resumable: bool = False) -> None:
        """Begin from nothing.

        Args:
            version: What is going to be written, as far as it is known.
            joined: Whether several answers that agree on its size and name make it up. If not,
                the size may be a lie, and braces are counted to find out.
            resumable: Whether parts of it can be asked for, so that it is of use to keep some.
        """
        self._version = version
        self._counting = not joined
        self._resumable = resumable and Kept(version, []).is_sure
        self._done = []
        self._not_noted = 0
        self._is_noted = False
        self.rewind()
        try:
            if self._sidecar is not None:
                self._sidecar.remove()
            os.ftruncate(self._open_fd(), 0)
        except OSError as exc:
            raise self._failed(exc) from exc

    def rewind(self) -> None:
        """Take the digest from the beginning again."""
        self._hash = hashlib.sha256()
        self._depth = self.hashed = 0

    def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write bytes at their place, and note that they are there."""
        fd = self._open_fd()
        start = offset
        # One call for many chunks: each one gives the interpreter's lock away and has to get it
        # again, which costs as much as the writing where the event loop is busy.
        left = deque([memoryview(chunk) for chunk in chunks])
        try:
            while left:
                count = os.pwritev(fd, _first(left, _AT_ONCE), offset)
                offset += count
                while left and count >= len(left[0]):
                    count -= len(left.popleft())
                if count:
                    left[0] = left[0][count:]
            if self._resumable:
                self._note(start, offset)
        except OSError as exc:
            raise self._failed(exc) from exc

    def digest(self, chunks: Sequence[Chunk]) -> None:
        """Take the digest of the next bytes; they have been written, or are being written."""
        for chunk in chunks:
            self._take_in(chunk)

    def hash_to(self, stop: int) -> None:
        """Take the digest up to there, of bytes that have been written."""
        fd = self._open_fd()
        buffer = bytearray(_PIECE)
        view = memoryview(buffer)
        try:
            while self.hashed < stop:
                count = os.preadv(fd, [view[: stop - self.hashed]], self.hashed)
                if not count:
                    break
                self._take_in(view[:count])
        except OSError as exc:
            raise self._failed(exc) from exc
        if self.hashed < stop:
            raise self._failed(_cut_by_others())

    def sync(self) -> None:
        """Have what was written so far on the disk."""
        try:
            os.fdatasync(self._open_fd())
        except OSError as exc:
            raise self._failed(exc) from exc

    def publish(self) -> str:
        """Sync the bytes, give them their name, sync the folder; give the digest, in hex.

        The digest must have been taken up to the end.

        Raises:
            ResultTransferError: The end of the text is not that of a result, whatever length was
                announced for it.
            TargetExistsError: A file has come there meanwhile.
            StorageError: It cannot be written.
        """
        fd = self._open_fd()
        try:
            if os.fstat(fd).st_size != self.hashed:
                raise self._failed(_cut_by_others())
            # The quick count is off where strings hold braces, and the file is read again. A cut
            # that such braces make up for to a hair goes unseen.
            if not _ends_well(fd, self.hashed) or (self._depth and _is_cut(self._part)):
                self._done = []  # or the next one would go on with it
                raise ResultTransferError(
                    "the bytes ended within the result",
                    job_id=self._job_id,
                    received=self.hashed,
                    expected=None,
                )
            os.fsync(fd)
            self._rename(self._part)
            self._done = []  # whatever fails from here on, there is nothing to go on with
            if self._sidecar is not None:
                self._sidecar.remove()
            self._close()
            _sync_folder(self._target.parent)
        except OSError as exc:
            if isinstance(exc, TargetExistsError):
                self._done = []  # nobody will go on with it
                raise
            raise self._failed(exc) from exc
        return self._hash.hexdigest()

    def leave(self) -> None:
        """Close the temporary, if it was not published; keep it where somebody can go on with it.

        That is where its version has a size and a strong name, and a mebibyte or more is there.
        """
        if self._fd is None:
            return
        # What fails here was told by the write, or is of no interest: what is kept is a favour.
        with contextlib.suppress(OSError):
            there = sum(stop - start for start, stop in self._done)
            kept = Kept(self._version, self._done)
            if self._sidecar is not None and kept.is_sure and there >= _WORTH_KEEPING:
                with contextlib.suppress(OSError):  # a full disk: the note before it stands
                    self._sidecar.write(self._fd, self._job_id, kept)
            else:
                if self._sidecar is not None:
                    self._sidecar.remove()
                self._part.unlink()
        self._close()

    def _note(self, start: int, stop: int) -> None:
        with self._noting:
            self._done = merged([*self._done, (start, stop)])
            self._not_noted += stop - start
            if self._sidecar is None:
                return
            worth = self._sidecar.worth if self._is_noted else _WORTH_KEEPING
            if self._not_noted >= worth:
                self._not_noted = 0
                self._is_noted = True
                kept = Kept(self._version, self._done)
                self._sidecar.write(self._open_fd(), self._job_id, kept)

    def _take_in(self, piece: Chunk) -> None:
        self._hash.update(piece)
        if self._counting:
            text = bytes(piece)
            self._depth += text.count(b"{") - text.count(b"}")
        self.hashed += len(piece)

    def _close(self) -> None:
        if self._sidecar is not None:
            self._sidecar.close()
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _open_fd(self) -> int:
        if self._fd is None:
            raise self._failed(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
        return self._fd

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
            part.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Take away what is left of a download that was killed just when it had been published."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self._own_part), os.lstat(self._target)):
                self._own_part.unlink()
                ResumeState(self._own_part).remove()

    def _exists(self) -> TargetExistsError:
        return TargetExistsError(job_id=self._job_id, path=str(self._target))

    def _failed(self, exc: OSError | ValueError) -> StorageError:
        cause = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
        return StorageError(job_id=self._job_id, path=str(self._target), cause=cause)


def _first(chunks: Iterable[memoryview], size: int) -> list[memoryview]:
    """Give the first of them, so many bytes at most."""
    first: list[memoryview] = []
    for chunk in islice(chunks, _MOST_CHUNKS):
        first.append(chunk[:size])
        size -= len(chunk)
        if size <= 0:
            break
    return first


def _cut_by_others() -> OSError:
    return OSError(errno.EIO, "the temporary file was cut by somebody else")


def _open_own(path: Path) -> int | None:
    """Open and lock the file, made where there is none; None where it is not for us."""
    for _ in range(3):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
            # In a folder that others may write to, they could have put it there.
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                os.close(fd)
                return None
            if os.path.lexists(path) and os.path.samestat(found, os.lstat(path)):
                if found.st_nlink == 1:
                    os.fchmod(fd, 0o600)
                    return fd
                path.unlink()  # it was published, and its writer died before it was done
        except OSError:
            os.close(fd)
            return None
        os.close(fd)  # published or removed by who had it locked: look again
    return None


def _ends_well(fd: int, size: int) -> bool:
    """Tell whether the last byte that is no blank closes an object."""
    for stop in range(size, 0, -(2**16)):
        start = max(0, stop - 2**16)
        if piece := os.pread(fd, stop - start, start).rstrip():
            return piece.endswith(b"}")
    return False


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
