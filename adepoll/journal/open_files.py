"""OpenFiles: notices that a file of an open journal was removed, renamed or replaced.

SQLite does not notice this. It writes to the files that it has open, and these writes are lost when
the files are closed.
"""

from pathlib import Path
from typing import Self

from attrs import frozen

from adepoll.errors import JournalMovedError
from adepoll.journal.schema import WAL_END, companion


@frozen
class OpenFiles:
    """The files of an open journal that contain its records.

    Attributes:
        journal: Path of the journal.
        found: The identity (device and inode) of each file, by path.
    """

    journal: Path
    found: dict[Path, tuple[int, int]]

    @classmethod
    def of(cls, journal: Path) -> Self:
        """Find the files that SQLite has just opened: the journal, and its -wal file if it exists.

        On a file system where SQLite cannot use a write-ahead log (WAL), there is no -wal file.
        """
        paths = (journal, companion(journal, WAL_END))
        found = {path: _identity(path) for path in paths}
        return cls(journal, {path: known for path, known in found.items() if known is not None})

    def problem(self) -> JournalMovedError | None:
        """Return an error if a file is not at its path any more, or another file is there."""
        for path, known in self.found.items():
            try:
                now = _identity(path)
            except OSError:  # for example, the folder cannot be read any more
                continue
            if now != known:
                return JournalMovedError(
                    path=str(self.journal), file=str(path), replaced=now is not None
                )
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if the path does not exist."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
