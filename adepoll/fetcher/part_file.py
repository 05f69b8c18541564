"""A file that appears complete or not at all: a temporary part file, which is synced and renamed.

Blocking code, called from threads: `write` by several at the same time for different bytes, the
other methods by one at a time.
"""

import contextlib
import errno
import hashlib
import os
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final

from adepoll.common import file_system
from adepoll.errors import (
    ResultMalformedError,
    ResultTransferError,
    StorageError,
    TargetExistsError,
)
from adepoll.fetcher.body_decoding import Chunk
from adepoll.fetcher.part_names import OwnFile, PartNames, copy
from adepoll.fetcher.result_check import ResultCheck
from adepoll.fetcher.resume_state import ResumeState, ResumeStateFile, merged
from adepoll.fetcher.storage_rules import ObjectVersion
from adepoll.fetcher.target_file import check_replaceable, set_mode_and_owner

# Errors of link(2) on file systems without hard links.
_NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # EINVAL: Windows
)
_MIN_RESUMABLE: Final = 2**20  # bytes; fewer are downloaded again
_READ_SIZE: Final = 2**18
_MAX_TRIES: Final = 3  # to get the shared name
_MAX_CHUNKS_PER_CALL: Final = 1024  # IOV_MAX of Linux and the BSDs (pwritev(2))
# Linux caches written data in memory blocks as large as the call, up to 2 MiB. Large blocks can be
# slow to allocate: in a virtual machine that had returned its memory to the host, a gigabyte took
# 2 to 4 s, and 0.3 to 0.6 s in calls of half a mebibyte (ext4, Linux 6.18).
_MAX_BYTES_PER_CALL: Final = 2**19


class PartFile:
    """Writes one result to disk, in any number of attempts; only `publish` makes it visible.

    Written bytes survive a failure, and the end of the process, together with a resume state that
    is updated with each write. The part file of one target and job always has the same name. If a
    running process or another user has that name, a part file with a random name is used instead,
    which is never resumed.

    Only the process that has created a part file writes to it, and none truncates it: the others
    may be reading. It is published under a random name, so that no other file can be published in
    its place.
    """

    def __init__(self, target: Path, *, job_id: str, overwrite: bool) -> None:
        """No file is created before `check`."""
        self._target = target
        self._job_id = job_id
        self._overwrite = overwrite
        self._names = PartNames(target, job_id)
        self._own: OwnFile | None = None
        self._state_file: ResumeStateFile | None = None
        self._version = ObjectVersion()
        self._present: list[tuple[int, int]] = []
        self._resumable = False
        self._unrecorded = 0  # bytes written since the last update of the resume state
        self._has_state = False
        self._recording = Lock()
        self._hash = hashlib.sha256()
        self._keys: Collection[str] = ()
        self._check: ResultCheck  # of the bytes that are written; set by `open`
        self.hashed = 0

    def check(self) -> None:
        """Raise if the target cannot be written, before anything is requested.

        Raises:
            TargetExistsError: The file exists, and must not be replaced.
            StorageError: Its folder does not exist; or the target is a folder, a device, a pipe or
                a socket or, with `overwrite`, a symbolic link.
        """
        found = self._check_target()
        if found is None:
            return
        if not self._overwrite:
            if found.st_nlink > 1:
                self._names.remove_names_of(found)
            raise self._exists_error()

    def open(self, result_keys: Collection[str] = ()) -> ResumeState | None:
        """Create the part file; return the state that an earlier download has left.

        Only a result that contains all these top-level keys will be published.
        """
        self._keys = result_keys
        self._check = ResultCheck(result_keys, counts_braces=False)
        try:
            for _ in range(_MAX_TRIES):
                self._own = self._names.create_shared()
                if self._own is not None:
                    self._state_file = ResumeStateFile(self._names.shared)
                    return None
                with self._names.leftover() as leftover:
                    copied = None if leftover is None else self._copy_of(leftover)
                if copied is not None:
                    return self._take_over(*copied)
                if os.path.lexists(self._names.shared):
                    break
            self._own = self._names.create_private()
        except OSError as exc:
            raise self._storage_error(exc) from exc
        return None

    def _copy_of(self, leftover: int) -> tuple[OwnFile, ResumeState | None]:
        """Copy what an earlier process has left to a new file; return it with its state."""
        self._names.remove_unused()
        found = os.fstat(leftover)
        state_file = ResumeStateFile(self._names.shared)
        state = state_file.read(self._job_id, found.st_size, found.st_ino)
        own = self._names.create_private()
        if state is not None:
            try:
                for start, stop in state.present:
                    copy(leftover, own.fd, start, stop)
            except (OSError, EOFError):  # on a full disk, the old file must make room
                own.remove()
                own = self._names.create_private()
                state = None
        return own, state

    def _take_over(self, own: OwnFile, state: ResumeState | None) -> ResumeState | None:
        """Give a copy the shared name; return its state."""
        self._own = own
        self._own = self._names.move_to_shared(own)
        if self._own.path == self._names.shared:
            self._state_file = ResumeStateFile(self._names.shared)
        if state is not None:
            if self._state_file is not None:
                self._state_file.write(own.fd, self._job_id, state)
            self._version = state.version
            self._present = state.present
            self._resumable = self._has_state = True
        return state

    @property
    def is_open(self) -> bool:
        """True from `open` until `publish` or `close` is called."""
        return self._own is not None

    def begin(self, version: ObjectVersion, *, multipart: bool, resumable: bool = False) -> None:
        """Begin with an empty file.

        Args:
            version: What will be written, as far as known.
            multipart: True if several responses, which agree on size and ETag, will make up the
                file. A single response may state a wrong size, so braces are counted to detect a
                cut.
            resumable: True if the storage serves ranges, so that a part is worth keeping.
        """
        self._version = version
        self._resumable = resumable and ResumeState(version, []).is_resumable
        self._present = []
        self._unrecorded = 0
        self._has_state = False
        self._hash = hashlib.sha256()
        self._check = ResultCheck(self._keys, counts_braces=not multipart)
        self.hashed = 0
        try:
            if self._state_file is not None:
                self._state_file.remove()
            if os.fstat(self._open_fd()).st_size:
                self._replace_own()
        except OSError as exc:
            raise self._storage_error(exc) from exc

    def write(self, offset: int, chunks: Sequence[Chunk]) -> None:
        """Write chunks at an offset, and record them in the resume state."""
        fd = self._open_fd()
        start = offset
        # One call for many chunks: each call releases the interpreter lock and must acquire it
        # again, which takes as long as the writing if the event loop is busy.
        left = deque([memoryview(chunk) for chunk in chunks])
        try:
            while left:
                count = file_system.write_chunks_at(fd, _first(left, _MAX_BYTES_PER_CALL), offset)
                offset += count
                while left and count >= len(left[0]):
                    count -= len(left.popleft())
                if count:
                    left[0] = left[0][count:]
            if self._resumable:
                self._record(start, offset)
        except OSError as exc:
            raise self._storage_error(exc) from exc

    def hash(self, chunks: Sequence[Chunk]) -> None:
        """Hash the next bytes, which may not be written yet."""
        for chunk in chunks:
            self._hash_chunk(chunk)

    def hash_to(self, stop: int) -> None:
        """Hash written bytes up to this offset."""
        fd = self._open_fd()
        buffer = bytearray(_READ_SIZE)
        view = memoryview(buffer)
        try:
            while self.hashed < stop:
                count = file_system.read_into(fd, view[: stop - self.hashed], self.hashed)
                if not count:
                    break
                self._hash_chunk(view[:count])
        except OSError as exc:
            raise self._storage_error(exc) from exc
        if self.hashed < stop:
            raise self._storage_error(_truncated_error())

    def sync(self) -> None:
        """Sync the bytes written so far to the disk."""
        try:
            file_system.sync_data(self._open_fd())
        except OSError as exc:
            raise self._storage_error(exc) from exc

    def publish(self) -> str:
        """Sync the file, rename it to the target, and sync the folder; return its SHA-256 in hex.

        All bytes must have been hashed.

        Raises:
            ResultTransferError: The text is not complete JSON, whatever length was announced.
            ResultMalformedError: It is not a result.
            TargetExistsError: A file has been created at the target meanwhile.
            StorageError: The file cannot be written.
        """
        fd = self._open_fd()
        try:
            if os.fstat(fd).st_size != self.hashed:
                raise self._storage_error(_truncated_error())
            present, self._present = self._present, []  # what is no result must not be resumed
            if self._check.is_cut(fd, self.hashed):
                raise ResultTransferError(
                    "the bytes ended within the result",
                    job_id=self._job_id,
                    received=self.hashed,
                    expected=None,
                    is_object_at_fault=True,
                )
            if problems := self._check.problems:
                raise ResultMalformedError(problems, job_id=self._job_id)
            self._present = present
            os.fsync(fd)
            replaced = self._check_target() if self._overwrite else None
            self._give_name_of_target(replaced)
            self._present = []  # whatever fails from here on, there is no part file to resume
            if self._state_file is not None:
                self._state_file.remove()
            self._close_files()
            file_system.sync_folder(self._target.parent)
        except OSError as exc:
            if isinstance(exc, TargetExistsError):
                self._present = []  # it will not be resumed
                raise
            raise self._storage_error(exc) from exc
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the part file unless it is published; remove it unless it can be resumed.

        It can be resumed if its version has a size and a strong ETag, and 1 MiB or more is there.
        """
        own = self._own
        if own is None:
            return
        size = sum(stop - start for start, stop in self._present)
        state = ResumeState(self._version, self._present)
        # Errors here are ignored: the write has raised its own, and resuming is only a bonus.
        if self._state_file is not None and state.is_resumable and size >= _MIN_RESUMABLE:
            with contextlib.suppress(OSError):  # on a full disk, the last state stays valid
                self._state_file.write(own.fd, self._job_id, state)
        else:
            if self._state_file is not None:
                with contextlib.suppress(OSError):
                    self._state_file.remove()
            own.remove()
            self._own = None
        self._close_files()

    def _record(self, start: int, stop: int) -> None:
        with self._recording:
            self._present = merged([*self._present, (start, stop)])
            self._unrecorded += stop - start
            if self._state_file is None:
                return
            enough = self._state_file.update_bytes if self._has_state else _MIN_RESUMABLE
            if self._unrecorded >= enough:
                self._unrecorded = 0
                self._has_state = True
                state = ResumeState(self._version, self._present)
                self._state_file.write(self._open_fd(), self._job_id, state)

    def _hash_chunk(self, chunk: Chunk) -> None:
        self._hash.update(chunk)
        self._check.add(chunk)
        self.hashed += len(chunk)

    def _close_files(self) -> None:
        if self._state_file is not None:
            self._state_file.close()
        if self._own is not None:
            self._own.close()
            self._own = None

    def _open_file(self) -> OwnFile:
        if self._own is None:
            raise self._storage_error(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
        return self._own

    def _open_fd(self) -> int:
        return self._open_file().fd

    def _replace_own(self) -> None:
        """Replace the part file with an empty one; another process may be copying the old one."""
        old = self._open_file()
        self._own = new = self._names.create_private()
        if old.path == self._names.shared:
            old.close()
            self._own = self._names.move_to_shared(new)
            if self._own.path != self._names.shared:
                self._state_file = None
        else:
            old.remove()

    def _check_target(self) -> os.stat_result | None:
        try:
            return check_replaceable(self._target, overwrite=self._overwrite)
        except (OSError, ValueError) as exc:
            raise self._storage_error(exc) from exc

    def _give_name_of_target(self, replaced: os.stat_result | None) -> None:
        """Rename the part file to the target, with the mode of the file that is replaced."""
        for left in reversed(range(_MAX_TRIES)):
            try:
                self._own = self._names.make_private(self._open_file())
                set_mode_and_owner(self._own.fd, replaced, self._names.random_path())
                self._rename(self._own)
            except FileNotFoundError:
                # Where locks do not work, another process took the file for a leftover.
                if not left:
                    raise
            else:
                return

    def _rename(self, own: OwnFile) -> None:
        if self._overwrite:
            file_system.rename_open(own.fd, own.path, self._target)
            return
        try:
            os.link(own.path, self._target)  # rename(2) would replace a file created meanwhile
        except FileExistsError:
            raise self._exists_error() from None
        except OSError as exc:
            if exc.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(self._target):
                raise self._exists_error() from None
            file_system.rename_open(own.fd, own.path, self._target)
        else:
            self._own = None
            file_system.remove_open(own.fd, own.path)

    def _exists_error(self) -> TargetExistsError:
        return TargetExistsError(job_id=self._job_id, path=str(self._target))

    def _storage_error(self, exc: OSError | ValueError) -> StorageError:
        cause = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
        return StorageError(job_id=self._job_id, path=str(self._target), cause=cause)


def _first(chunks: Iterable[memoryview], size: int) -> list[memoryview]:
    """Return the first chunks, with at most `size` bytes in total."""
    first: list[memoryview] = []
    for chunk in islice(chunks, _MAX_CHUNKS_PER_CALL):
        first.append(chunk[:size])
        size -= len(chunk)
        if size <= 0:
            break
    return first


def _truncated_error() -> OSError:
    return OSError(errno.EIO, "another process has truncated the part file")
