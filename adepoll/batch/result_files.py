"""Checks result files: do they exist, are they unchanged, do they have the bytes of a result?"""

import hashlib
import os
import stat
from collections.abc import AsyncIterable, Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Literal, TypeAlias

from adepoll.api.file_names import id_with_hash, label_stem, name_with_id, result_name
from adepoll.api.job_kind import JobRef
from adepoll.common import file_system
from adepoll.common.threads import start_in_thread
from adepoll.journal.outcomes import Record, ResultFile

NameBy: TypeAlias = Literal["job_id", "label"]
"""The property of a job after which its result file is named."""

# Flags to open a file for reading. O_NONBLOCK is set because a journal may name a FIFO, and opening
# it would otherwise block.
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | file_system.PLAIN


class ProtectedFiles:
    """Files that no result may replace: those of the journal, and files that the caller names.

    A file is recognised by every path that leads to it, also through links, and in upper or lower
    case if the file system ignores the case of names.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Protect the files at these paths. A file need not exist yet."""
        self._paths = tuple(paths)

    def __contains__(self, path: Path) -> bool:
        """Return True if the path leads to a protected file. Blocking code."""
        return any(file_system.is_same_file(path, protected) for protected in self._paths)


def names_of(job: JobRef) -> set[str]:
    """Return all names that a batch can give to the result file of a job."""
    ids = (job.job_id, id_with_hash(job.job_id, str(job)))
    stems = ids if job.label is None else (*ids, label_stem(job.label))
    with_id = [name_with_id(stem, job_id) for stem in stems for job_id in ids]
    return {result_name(name) for name in (*stems, *with_id)}


def modified_ns(path: Path) -> int:
    """Return the modification time of a file in nanoseconds since 1970; 0 if the file is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def lost(records: Sequence[Record]) -> list[Record]:
    """Return the records whose result file is missing, unreadable or changed.

    A file with the recorded size and modification time counts as unchanged. If only the time is
    different, the SHA-256 of the file decides.
    """
    return [record for record in records if not _is_unchanged(record)]


async def same_content(path: Path, chunks: AsyncIterable[bytes]) -> ResultFile | None:
    """Compare the file at `path` with a result, whose bytes are in `chunks`.

    Return size and SHA-256 of the file if it has the same bytes; otherwise, or if the file cannot
    be read, None.
    """
    # The file is not opened in a thread. After a cancellation, the thread would still open the
    # file, and nobody would close the file.
    file = _open_regular(path)
    if file is None:
        return None
    digest = hashlib.sha256()
    size = 0
    with file:
        async for chunk in chunks:
            if await start_in_thread(_read, file, len(chunk)) != chunk:
                return None
            digest.update(chunk)
            size += len(chunk)
        if await start_in_thread(_read, file, 1) != b"":
            return None
    return ResultFile(path=path, bytes=size, sha256=digest.hexdigest())


def _is_unchanged(record: Record) -> bool:
    """Return True if the result file has not changed, or if the record names no file."""
    if record.file is None:
        return True
    if record.file.path.name not in names_of(record.ref):
        return False  # no batch gives the file of this job such a name
    file = _open_regular(record.file.path)
    if file is None:
        return False
    with file:
        status = os.fstat(file.fileno())
        if status.st_size != record.file.bytes:
            return False
        return status.st_mtime_ns == record.modified_ns or _sha256(file) == record.file.sha256


def _sha256(file: BufferedReader) -> str | None:
    """Return the SHA-256 of an open file in hexadecimal; None if it cannot be read."""
    try:
        return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _read(file: BufferedReader, size: int) -> bytes | None:
    """Return the next bytes of an open file, at most `size`; None if they cannot be read."""
    try:
        return file.read(size)
    except OSError:
        return None


def _open_regular(path: Path) -> BufferedReader | None:
    """Open a file for reading; return None if it is not a regular file, or cannot be read."""
    try:
        if not path.is_file():  # such as a FIFO: opening it blocks on systems without O_NONBLOCK
            return None
        file = open(os.open(path, _READING), "rb")  # noqa: PTH123, SIM115 - it has a descriptor, not a path; the caller closes it
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None
