"""JournalReader: reads a journal, also while a batch writes the journal.

It does not take the lock of the journal, and avoids writing into its folder.
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

_PAGE: Final = 200  # maximum number of rows that one query returns
_LAST_NUMBER: Final = 2**63 - 1  # the largest integer of SQLite
_RECORDS: Final = f"SELECT {RECORD_COLUMNS} FROM jobs WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - built from constants

_DATA: Final = "SELECT number, json FROM data WHERE number BETWEEN ? AND ? ORDER BY number"
_PAGE_BYTES: Final = 4 * 2**20


class JournalReader(Closeable):
    """Reads a journal, even while a batch writes the journal, or if its folder is read-only.

    Use it as ``with JournalReader(path) as journal``, in one thread. Each call returns what the
    journal contains at that time.

    Attributes:
        path: Absolute path of the file, with symbolic links resolved.
        endpoints: Base URLs of the API that has the jobs.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the journal. Unlike `Journal.open`, this does not check all of it for damage.

        Raises:
            JournalNotFoundError: The file does not exist.
            NotAJournalError: The file is not a journal.
            JournalFormatError: A newer version of adepoll wrote the journal.
            JournalDamagedError: The header, the schema or the table `notes` is damaged.
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
        """Return the table `notes` as a mapping from key to value.

        It has the endpoints and what a batch needs in its next run; docs/journal.md lists the keys.
        """
        return self._read(lambda connection: read_notes(connection, self.path))

    def records(self) -> Iterator[Record]:
        """Yield the records of all jobs in the order of their numbers, without inline results.

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

        Jobs without an inline result are left out. At most about 4 MiB are returned: when the
        results reach this size, those with higher numbers are left out.

        Args:
            first: The lowest number.
            last: The highest number.
        """
        return self._read(partial(_data_between, first, min(last, _LAST_NUMBER)))

    def span(self) -> tuple[float | None, float | None]:
        """Return when the first job was added, and when the last outcome was recorded.

        Both times are Unix seconds. The first is None if there is no job, the second if no job has
        an outcome.
        """
        return self._read(partial(time_span, self.path))

    def failures(self, *, most: int = 100) -> list[Failure]:
        """Group failed and given-up jobs by reason; return the `most` largest groups."""
        return self._read(partial(group_failures, self.path, most))

    def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return the result of a query. Repeat the query if the file changed while it ran.

        Another process can change the file at any time, because the reader takes no lock.
        """
        if self._closed:
            raise ClosedError("the journal's reader is closed")
        while True:
            try:
                before = self._state()
                connection = self._connected(before)
                limit_instructions(connection, size_of(self.path))
                result = _in_one_snapshot(query, connection)
            except READING_ERRORS as exc:
                if self._state() == before:
                    raise reading_error(exc, self.path) from exc
            else:
                if before == self._state():
                    return result

    def _connected(self, state: object) -> sqlite3.Connection:
        """Return a connection to the journal; open a new one if the present one is out of date.

        `state` is the present value of `_state()`. A connection is out of date if it was opened at
        another value.
        """
        if self._connection is not None and state == self._connected_state:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connection, self._connected_state = connect_read_only(self.path), state
        if not has_tables(self._connection, self.path):
            raise NotAJournalError(path=str(self.path), reason="it is empty")
        return self._connection

    def _state(self) -> object:
        """Return a value that changes when the present connection may return old data.

        With a WAL, SQLite notices all changes of the file, and the value is True. Without a WAL,
        SQLite does not notice them: then the value is inode number, size and modification time of
        the file.
        """
        if has_wal(self.path):
            return True
        status = file_status(self.path)
        if status is None:
            raise JournalNotFoundError(path=str(self.path))
        return status.st_ino, status.st_size, status.st_mtime_ns


def _in_one_snapshot(
    query: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection
) -> _T:
    """Return the result of a query whose statements all see the same state of the journal.

    Otherwise, a job that settles between two statements could be counted twice.
    """
    connection.execute("BEGIN")
    try:
        return query(connection)
    finally:
        connection.rollback()


def check_is_kept(journal: JournalReader, path: Path) -> None:
    """Raise if writing a file to `path` would overwrite the journal.

    Raises:
        ConfigurationError: The path is that of the journal or of one of its other files: -wal,
            -shm, -journal or .lock.
    """
    if path.resolve() in files_of(journal.path):
        shown = showable(str(path))
        raise ConfigurationError(f"this would overwrite the journal: {shown}; choose another file")


def _data_between(first: int, last: int, connection: sqlite3.Connection) -> dict[int, str]:
    """Return the JSON of inline results, by number of the job, from `first` to `last`.

    If the results reach `_PAGE_BYTES`, those with higher numbers are left out.
    """
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
