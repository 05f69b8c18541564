"""Writes a result to a temporary part file, which is synced and renamed when it is complete.

The methods block, and run in threads. Several threads may call `write` at the same time, for
different bytes; only one thread at a time may call each of the other methods.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from adepoll.api.body_decoding import Chunk
from adepoll.common import file_system
from adepoll.common.own_file import OwnFile, copy
from adepoll.errors import (
    ResultMalformedError,
    ResultTransferError,
    StorageError,
    TargetExistsError,
)
from adepoll.fetcher.part_names import PartNames
from adepoll.fetcher.result_check import ResultCheck
from adepoll.fetcher.resume_state import ResumeState, ResumeStateFile, merged
from adepoll.fetcher.storage_rules import ObjectVersion
from adepoll.fetcher.target_file import check_replaceable, link_to_new, set_mode_and_owner

_MIN_RESUMABLE: Final = 2**20  # bytes; a smaller part file is not kept
_READ_SIZE: Final = 2**18  # bytes that are hashed in one step
_MAX_TRIES: Final = 3  # attempts to create or rename the part file while other processes interfere


class PartFile:
    """Writes one result to a temporary file; `publish` renames it to the target.

    The written bytes and a resume state survive a failure and the end of the process, so that a
    later download can continue.

    The name of the part file follows from its target and job, so that a later process finds it.
    This is the shared name (`PartNames`). If a running process or another user has a file with that
    name, the part file gets a random name, and is never resumed.

    Only the process that created a part file writes to it. No process truncates a part file,
    because another process may be reading it. `publish` first gives the part file a random name,
    because another process can replace a file with the shared name.
    """

    def __init__(self, target: Path, *, job_id: str, overwrite: bool) -> None:
        """Store the arguments. No file is created before `open` is called.

        Raises:
            StorageError: The target is relative, and the current folder has been deleted.
        """
        self._target = target
        self._job_id = job_id
        self._overwrite = overwrite
        try:
            self._target = target.absolute()  # the program may change its current folder meanwhile
        except OSError as exc:
            raise self._storage_error(exc) from exc
        self._names = PartNames(self._target, job_id)
        self._own: OwnFile | None = None
        self._state_file: ResumeStateFile | None = None
        self._version = ObjectVersion()
        # Ranges (start, stop) of bytes worth keeping. If it is empty, `close` removes the file.
        self._present: list[tuple[int, int]] = []
        self._resumable = False  # True if a later download can resume the file
        self._unrecorded = 0  # bytes written since the last update of the resume state
        self._has_state = False  # True after the resume state was written
        self._recording = Lock()
        self._hash = hashlib.sha256()
        self._keys: Collection[str] = ()
        self._check: ResultCheck  # checks the hashed bytes; created by `open` and `begin`
        self.hashed = 0  # bytes hashed so far

    def check(self) -> None:
        """Raise if the target cannot be written. Call this before anything is requested.

        Raises:
            TargetExistsError: The target exists, and `overwrite` is False.
            StorageError: The folder of the target does not exist; or the target is a folder, a
                device, a pipe or a socket; or `overwrite` is True, and the target is a symbolic
                link.
        """
        if self._check_target() is not None and not self._overwrite:
            raise self._exists_error()

    def open(self, result_keys: Collection[str] = ()) -> ResumeState | None:
        """Create the part file; return the resume state that an earlier download left, or None.

        With a resume state, the new part file already contains the bytes of the earlier download.
        `result_keys` are the top-level keys without which the bytes are not a result.
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
        """Copy the part file that an earlier process left; return the copy and its resume state.

        `leftover` is the descriptor of that part file. If its bytes cannot be used or copied, the
        copy is empty, and the state is None.
        """
        found = os.fstat(leftover)
        state_file = ResumeStateFile(self._names.shared)
        state = state_file.read(self._job_id, found.st_size, found.st_ino)
        own = self._names.create_private()
        if state is not None:
            try:
                for start, stop in state.present:
                    copy(leftover, own.fd, start, stop)
            except (OSError, EOFError):  # for example on a full disk: begin with an empty file
                own.remove()
                own = self._names.create_private()
                state = None
        return own, state

    def _take_over(self, own: OwnFile, state: ResumeState | None) -> ResumeState | None:
        """Use `own` as part file: a copy of the part file that an earlier download left.

        If possible, give the copy the shared name, under which later processes find it. Return
        `state`, the resume state of the copy; it is None if the copy is empty.
        """
        self._own = own  # for `close`, if the next line raises
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
        """True from `open` until `close`, or until `publish` has succeeded."""
        return self._own is not None

    def begin(self, version: ObjectVersion, *, multipart: bool, resumable: bool = False) -> None:
        """Start to write an empty file.

        Args:
            version: Size and ETag of the object that will be written, as far as they are known.
            multipart: True if the file will consist of several responses with the same size and
                ETag. If False, one response will fill the file, and its stated size does not prove
                that the text is complete. So braces are counted, to detect a missing end.
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
        """Write chunks one after another, from an offset on; record them in the resume state."""
        try:
            stop = file_system.write_all_at(self._open_fd(), chunks, offset)
            self._record(offset, stop)
        except OSError as exc:
            raise self._storage_error(exc) from exc

    def hash(self, chunks: Sequence[Chunk]) -> None:
        """Add the next bytes of the result to the SHA-256, and check them; do not write them."""
        for chunk in chunks:
            self._hash_chunk(chunk)

    def hash_to(self, stop: int) -> None:
        """Read the bytes that are not hashed yet, up to offset `stop`; hash and check them."""
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
            self._sync(file_system.sync_data)
        except OSError as exc:
            raise self._storage_error(exc) from exc

    def publish(self) -> str:
        """Check and sync the file, and rename it to the target; return its SHA-256 in hex.

        All bytes must have been hashed before.

        Raises:
            ResultTransferError: The bytes end before the JSON of the result ends.
            ResultMalformedError: The bytes are not a result.
            TargetExistsError: Another program created the target after `check`.
            StorageError: The file cannot be written.
        """
        fd = self._open_fd()
        try:
            if os.fstat(fd).st_size != self.hashed:
                raise self._storage_error(_truncated_error())
            present, self._present = self._present, []  # until the checks have succeeded
            if self._check.is_truncated(fd, self.hashed):
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
            self._sync(os.fsync)
            replaced = self._check_target() if self._overwrite else None
            self._give_name_of_target(replaced)
            self._present = []  # the part file has become the target: nothing is left to resume
            self._close_files()
            file_system.sync_folder(self._target.parent)
        except TargetExistsError:  # a subclass of OSError
            self._present = []  # nobody needs the part file: `close` removes it
            raise
        except OSError as exc:
            raise self._storage_error(exc) from exc
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the part file, and remove it if a later download cannot resume it.

        Do nothing after `publish` has succeeded. A later download can resume a file of at least
        1 MiB with the name `PartNames.shared` and a resume state, if the object has a known size
        and a strong ETag.
        """
        own = self._own
        if own is None:
            return
        size = sum(stop - start for start, stop in self._present)
        state = ResumeState(self._version, self._present)
        is_kept = False
        if self._state_file is not None and size >= _MIN_RESUMABLE:
            own = self._names.restore_shared(own)  # if `publish` has renamed it, and then failed
            if own.path == self._names.shared:
                with contextlib.suppress(OSError):  # an earlier resume state is enough
                    self._state_file.write(own.fd, self._job_id, state)
                is_kept = self._state_file.exists
        if not is_kept:
            own.remove()
            self._own = None
            # If another process has a file with the shared name, that file needs the resume state.
            if self._state_file is not None and not os.path.lexists(self._names.shared):
                with contextlib.suppress(OSError):
                    self._state_file.remove()
        self._close_files()

    def _sync(self, sync: Callable[[int], None]) -> None:
        """Sync the file to the disk with the function `sync`, such as `os.fsync`.

        If the sync fails, raise the `OSError`, and remove the resume state, so that no later
        download resumes the file. The reason: after a failed sync, Linux treats the bytes as
        written, although they are only in its cache, and can lose them at any time.
        """
        try:
            sync(self._open_fd())
        except OSError:
            with self._recording:
                self._resumable = False
                self._present = []
                if self._state_file is not None:
                    with contextlib.suppress(OSError):
                        self._state_file.remove()
            raise

    def _record(self, start: int, stop: int) -> None:
        """Record that the bytes from `start` to `stop` are in the file.

        When enough bytes are new, write the resume state (see `ResumeStateFile.update_bytes`).
        """
        with self._recording:
            if not self._resumable:
                return
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
        """Replace the part file with a new, empty file.

        The old file is not truncated, because another process may be copying its bytes.
        """
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
        """Rename the part file to the target.

        The part file gets mode and owner of the file that it replaces. `replaced` is the status of
        that file; None if there is no such file.
        """
        for left in reversed(range(_MAX_TRIES)):
            try:
                self._own = self._names.make_private(self._open_file())
                probe = self._names.random_path()
                set_mode_and_owner(self._own.fd, self._target, replaced, probe)
                # The private name has no resume state. If this process is killed after the
                # renaming, nobody removes the old one.
                if self._state_file is not None:
                    self._state_file.remove()
                self._rename(self._own)
            except FileNotFoundError:
                # Locks do not work here, and another process has removed or renamed the file.
                if not left:
                    raise
            else:
                return

    def _rename(self, own: OwnFile) -> None:
        """Rename the finished file to the target. Without `overwrite`, raise if that exists."""
        try:
            is_linked = not self._overwrite and link_to_new(own.path, self._target)
        except FileExistsError:
            raise self._exists_error() from None
        if is_linked:
            self._own = None
            own.remove()
        else:
            file_system.rename_open(own.fd, own.path, self._target)

    def _exists_error(self) -> TargetExistsError:
        return TargetExistsError(job_id=self._job_id, path=str(self._target))

    def _storage_error(self, exc: OSError | ValueError) -> StorageError:
        cause = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
        return StorageError(job_id=self._job_id, path=str(self._target), cause=cause)


def _truncated_error() -> OSError:
    return OSError(errno.EIO, "another process has truncated the part file")
