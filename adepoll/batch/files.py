"""Result files on disk: are they still what was written? Plain blocking code. Imports outcome."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from adepoll.journal.outcomes import Record


def modified_ns(path: Path) -> int:
    """Give when a file was written, in nanoseconds, as the file system tells it.

    Of a file that somebody has taken away already it is 0.
    """
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def existing(paths: Iterable[Path]) -> set[Path]:
    """Give those of the paths where something is."""
    return {path for path in paths if os.path.lexists(path)}


def lost(records: Sequence[Record]) -> list[Record]:
    """Give the records whose file is not there any more, or is not what was written.

    A file of the size and modification time that were written down is believed; of another the
    sha256 is taken. One that cannot be read counts as lost.
    """
    return [record for record in records if not _is_there(record)]


def _is_there(record: Record) -> bool:
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
