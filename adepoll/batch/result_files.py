"""Result files on disk: do they exist, and are they unchanged? Blocking functions."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from adepoll.journal.outcomes import Record


def modified_ns(path: Path) -> int:
    """Return the modification time of a file in nanoseconds; 0 if it was removed already."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def existing(paths: Iterable[Path]) -> set[Path]:
    """Return the paths that exist, dangling links included."""
    return {path for path in paths if os.path.lexists(path)}


def lost(records: Sequence[Record]) -> list[Record]:
    """Return the records whose file is missing, unreadable or changed.

    A file with the recorded size and modification time counts as unchanged. If only its time is
    different, its SHA-256 decides.
    """
    return [record for record in records if not _is_unchanged(record)]


def _is_unchanged(record: Record) -> bool:
    if record.file is None:
        return True
    try:
        status = record.file.path.stat()
        if status.st_size != record.file.bytes:
            return False
        if status.st_mtime_ns == record.modified_ns:
            return True
        with record.file.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == record.file.sha256
    except OSError:
        return False
