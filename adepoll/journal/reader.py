"""JournalReader: reads a journal, also while a batch writes the journal.

It does not take the lock of the journal. Where possible, it writes nothing into the journal's
folder.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from adepoll.common.closing import Closeable
from adepoll.common.file_system import is_same_file
from adepoll.common.redaction import showable
from adepoll.errors import (
    ClosedError,
    ConfigurationError,
    JournalNotFoundError,
    NotAJournalError,
)
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.file_checks import absolute_path, file_status
from adepoll.journal.foreign_file import damaged, limit_instructions
from adepoll.journal.lock import holder_of
from adepoll.journal.opening import (
    connect_read_only,
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
    has_retryable,
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
        """Open the journal. Unlike `Journal.open`, this does not check the whole file for damage.

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
        """Close the file. A second call does nothing."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def holder(self) -> int | None:
        """Pid of the process that has the journal open for writing; None if no process has."""
        return holder_of(self.path)

    def counts(self) -> Counts:
        """Count the jobs by stage and by status."""
        return self._read(partial(count_jobs, self.path))

    def kinds(self) -> Mapping[str, int]:
        """Return the number of jobs of each kind, the most frequent kind first."""
        return self._read(partial(count_kinds, self.path))

    def notes(self) -> Mapping[str, str]:
        """Return the table `notes` as a mapping from key to value.

        It contains the endpoints, the folder for results and other values that the next run of the
        batch needs; docs/journal.md lists the keys.
        """
        return self._read(lambda connection: read_notes(connection, self.path))

    def records(self) -> Iterator[Record]:
        """Yield the records of all jobs in the order of their numbers, without inline results.

        At most 200 records are in memory at the same time, and fewer if they have long texts.

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
        """Return the JSON of the inline results of jobs, by `Record.number` in rising order.

        Jobs without an inline result are left out. When the results together reach 4 Mi
        characters, the jobs with higher numbers are left out.

        Args:
            first: The lowest number of a job.
            last: The highest number of a job.
        """
        return self._read(partial(_data_between, first, min(last, _LAST_NUMBER)))

    def span(self) -> tuple[float | None, float | None]:
        """Return when the first job was added, and when the last outcome was recorded.

        Both times are Unix seconds. The first is None if there is no job, the second if no job has
        an outcome.
        """
        return self._read(partial(time_span, self.path))

    def failures(self, *, most: int = 100) -> list[Failure]:
        """Group failed and given-up jobs by the reason; return at most `most` groups.

        The largest groups come first.
        """
        return self._read(partial(group_failures, self.path, most))

    def has_retryable(self) -> bool:
        """Return whether the next run would try a given-up job again."""
        return self._read(has_retryable)

    def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a query, and return its result.

        Another process can change the file at any time, because the reader takes no lock. With a
        write-ahead log (WAL), SQLite hides changes from a running query. Without a WAL, SQLite
        does not notice changes: if the file has changed meanwhile, run the query again.
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
        """Return a connection to the journal.

        Open a new connection if there is none, or if the present one may return old data: if it was
        opened when `_state()` had another value than `state`, the present value.
        """
        if self._connection is not None and state == self._connected_state:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connected_state = None  # if the file is refused, the next call checks it again
        self._connection = connect_read_only(self.path)
        if not has_tables(self._connection, self.path):
            raise NotAJournalError(path=str(self.path), reason="it is empty")
        self._connected_state = state
        return self._connection

    def _state(self) -> object:
        """Return a value that changes if an open connection may return old data from now on.

        With a write-ahead log (WAL), SQLite notices all changes of the file, and the value is True.
        Without a WAL, SQLite does not notice changes: then the value consists of inode number, size
        and modification time of the file.
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
    """Run all statements of a query in one transaction, and return the result of the query.

    So all statements see the same rows. Without the transaction, a job that settles between two
    statements could be counted twice.
    """
    connection.execute("BEGIN")
    try:
        return query(connection)
    finally:
        connection.rollback()


def check_is_kept(journal: JournalReader, path: Path) -> None:
    """Raise if writing a file to `path` would overwrite the journal.

    Raises:
        ConfigurationError: The path leads to the journal or to one of its other files: -wal, -shm,
            -journal or .lock.
    """
    files = files_of(journal.path)
    # Two real paths can lead to one file, for example in upper and lower case, or on two mounts.
    if Path(os.path.realpath(path)) in files or any(is_same_file(path, file) for file in files):
        shown = showable(str(path))
        raise ConfigurationError(f"this would overwrite the journal: {shown}; choose another file")


def _data_between(first: int, last: int, connection: sqlite3.Connection) -> dict[int, str]:
    """Return the JSON of the inline results of the jobs with the numbers `first` to `last`.

    When the results together reach 4 Mi characters, the jobs with higher numbers are left out.
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
    """Return the rows of the jobs with higher numbers, in order: at most 200.

    When their texts together reach 4 Mi characters, the jobs with higher numbers are left out. In a
    crafted file, all rows can share the pages of one long text.
    """
    found: list[tuple[Any, ...]] = []
    size = 0
    rows = connection.execute(_RECORDS, (number, _PAGE))
    for row in rows:
        found.append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if size >= _PAGE_BYTES:
            rows.close()
            break
    return found
