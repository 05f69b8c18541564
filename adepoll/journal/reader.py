"""JournalReader: read a journal, also while a batch writes it.

It takes no lock and avoids writing into the folder.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from adepoll.common.closing import Closeable
from adepoll.common.redaction import showable
from adepoll.errors import (
    ClosedError,
    ConfigurationError,
    JournalNotFoundError,
    NotAJournalError,
)
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.foreign_file import damaged, limit_instructions
from adepoll.journal.lock import holder_of
from adepoll.journal.opening import (
    absolute_path,
    connect_read_only,
    file_status,
    has_tables,
    has_wal,
    read_notes,
    size_of,
)
from adepoll.journal.outcomes import Counts, Failure, Record
from adepoll.journal.queries import (
    RECORD_COLUMNS,
    count_jobs,
    count_kinds,
    group_failures,
    record_from_row,
    time_span,
)
from adepoll.journal.schema import files_of
from adepoll.journal.sqlite_errors import READING_ERRORS, reading_error

_T = TypeVar("_T")

_PAGE: Final = 200  # rows of one query
_RECORDS: Final = f"SELECT {RECORD_COLUMNS} FROM jobs WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - built from constants

_DATA: Final = "SELECT number, json FROM data WHERE number BETWEEN ? AND ? ORDER BY number"
_PAGE_BYTES: Final = 4 * 2**20


class JournalReader(Closeable):
    """Reads a journal, also while a batch writes it or in a folder without write access.

    Use it as ``with JournalReader(path) as journal``, in one thread. Each call returns the current
    contents of the journal.

    Attributes:
        path: Absolute path of the file, with symbolic links resolved.
        endpoints: Base URLs of the API that has the jobs.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the journal. It is not searched for damage.

        Raises:
            JournalNotFoundError: The file does not exist.
            NotAJournalError: The file is not a journal.
            JournalFormatError: A newer version of adepoll wrote the journal.
            JournalDamagedError: Its header or its notes are damaged.
            JournalAccessError: The file cannot be read.
            JournalBusyError: Another program has locked the file.
        """
        self.path: Final = absolute_path(path)
        if file_status(self.path) is None:
            raise JournalNotFoundError(path=str(self.path))
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._connected_state: object = None
        try:
            self.endpoints: Final = Endpoints.recorded(self.notes(), self.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; may be called again."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def holder(self) -> int | None:
        """Pid of the process that has the journal open for writing; None if no process has."""
        return holder_of(self.path)

    def counts(self) -> Counts:
        """Count the jobs."""
        return self._read(partial(count_jobs, self.path))

    def kinds(self) -> Mapping[str, int]:
        """Count the jobs of each kind, the most frequent kind first."""
        return self._read(partial(count_kinds, self.path))

    def notes(self) -> Mapping[str, str]:
        """Return all notes: the endpoints, and what a batch keeps for its next run."""
        return self._read(lambda connection: read_notes(connection, self.path))

    def records(self) -> Iterator[Record]:
        """Yield the records of all jobs by number, without inline results.

        At most 200 records are in memory at the same time.

        Raises:
            JournalDamagedError: A record cannot be read.
        """
        after = 0
        while True:
            rows = self._read(partial(_rows_after, after))
            if not rows:
                return
            for row in rows:
                record = record_from_row(row, None, self.path)
                if record.number <= after:
                    raise damaged("its jobs are not in order", self.path)
                after = record.number
                yield record

    def inline_results(self, first: int, last: int) -> dict[int, str]:
        """Return the JSON of inline results, by the numbers of their jobs in rising order.

        Args:
            first: The lowest number.
            last: The highest number. The result ends before this number when it has about 4 MB.
        """
        return self._read(partial(_data_between, first, last))

    def span(self) -> tuple[float | None, float | None]:
        """Return when the first job was added and when the last outcome was recorded.

        Both are Unix seconds; None without a job or without an outcome.
        """
        return self._read(partial(time_span, self.path))

    def failures(self, *, most: int = 100) -> list[Failure]:
        """Group failed and given-up jobs by reason; return the `most` largest groups."""
        return self._read(partial(group_failures, self.path, most))

    def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a query; repeat it if the file was changed meanwhile, because nothing locks it."""
        if self._closed:
            raise ClosedError("the journal's reader is closed")
        while True:
            try:
                before = self._state()
                connection = self._connected(before)
                limit_instructions(connection, size_of(self.path))
                result = query(connection)
            except READING_ERRORS as exc:
                if self._state() == before:
                    raise reading_error(exc, self.path) from exc
            else:
                if before == self._state():
                    return result

    def _connected(self, state: object) -> sqlite3.Connection:
        """Return a connection that was opened while the file was in this state."""
        if self._connection is not None and state == self._connected_state:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connection, self._connected_state = connect_read_only(self.path), state
        if not has_tables(self._connection, self.path):
            raise NotAJournalError(path=str(self.path), reason="it is empty")
        return self._connection

    def _state(self) -> object:
        """Return a value that changes when the file may have changed.

        It is True while the file has a WAL, whose changes SQLite detects. Otherwise it is the
        file's inode, size and modification time.
        """
        if has_wal(self.path):
            return True
        status = file_status(self.path)
        if status is None:
            raise JournalNotFoundError(path=str(self.path))
        return status.st_ino, status.st_size, status.st_mtime_ns


def check_is_kept(journal: JournalReader, path: Path) -> None:
    """Raise if a file that is about to be written is the journal, or a file that belongs to it.

    Raises:
        ConfigurationError: It is.
    """
    if path.resolve() in files_of(journal.path):
        shown = showable(str(path))
        raise ConfigurationError(f"this would overwrite the journal: {shown}; choose another file")


def _data_between(first: int, last: int, connection: sqlite3.Connection) -> dict[int, str]:
    found: dict[int, str] = {}
    size = 0
    rows = connection.execute(_DATA, (first, last))
    for number, text in rows:
        if not isinstance(text, str):
            continue
        found[number] = text
        size += len(text)
        if size >= _PAGE_BYTES:
            rows.close()
            break
    return found


def _rows_after(number: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(_RECORDS, (number, _PAGE)).fetchall()
