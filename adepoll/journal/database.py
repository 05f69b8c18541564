"""Database: all reads and writes of a journal, as blocking calls for one thread.

Each writing method is one transaction. If it fails, the journal stays unchanged.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobStatus
from adepoll.errors import JournalError, JournalMovedError
from adepoll.journal.change_writing import ChangeWriter
from adepoll.journal.changes import Change
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.lock import JournalLock
from adepoll.journal.open_files import OpenFiles
from adepoll.journal.opening import open_file, open_in_memory, read_notes
from adepoll.journal.outcomes import Counts, Record
from adepoll.journal.queries import (
    RECORD_COLUMNS,
    RecordFilter,
    columns_of,
    count_jobs,
    record_from_row,
    shared_names,
    similar_ids,
    waiting_jobs,
)
from adepoll.journal.sqlite_errors import BAD_CHANGE, READING_ERRORS, reading_error, writing_error
from adepoll.journal.stored_jobs import JobToAdd, stored_job

_log = logging.getLogger(__name__)

_PAGE_BYTES: Final = 4 * 2**20
# Pages of 4 KiB. When the WAL has this number of pages, SQLite copies them into the file.
_CHECKPOINT: Final = 4_000
_LATE_CHECKPOINT: Final = 64_000

_ADD: Final = """
    INSERT INTO jobs (job_id, kind, id_key, label, label_key, columns, number, added_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id, kind) DO NOTHING
"""
_REOPEN_WITHOUT_FILE: Final = """
    UPDATE jobs INDEXED BY jobs_counted SET stage = 'fetching', done_at = NULL, delivered_at = NULL
    WHERE stage = 'done' AND stage <> 'waiting' AND status = ? AND result_bytes IS NULL
"""
_REOPEN: Final = """
    UPDATE jobs SET stage = iif(snapshot IS NULL, 'waiting', 'fetching'), error_kind = NULL,
        error = NULL, lasting = NULL, done_at = NULL, delivered_at = NULL
    WHERE stage = 'given_up'
        AND (lasting = 0 OR error_kind IN (SELECT value FROM json_each(?)))
"""


class Database:
    """The SQLite database of one journal, in a file or in memory.

    Attributes:
        path: Absolute path of the file; None if the journal is in memory.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        path: Path | None = None,
        lock: JournalLock | None = None,
    ) -> None:
        """Store the arguments; the thread that opened the connection must make all calls."""
        self.path: Final = path
        self._connection = connection
        self._changes = ChangeWriter(connection, path)
        self._lock = lock
        self._files = None if path is None else OpenFiles.of(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], endpoints: Endpoints, *, must_exist: bool) -> Self:
        """Open a journal file; `opening.open_file` documents the arguments and errors."""
        connection, absolute, lock = open_file(path, endpoints, must_exist=must_exist)
        return cls(connection, path=absolute, lock=lock)

    @classmethod
    def in_memory(cls, endpoints: Endpoints) -> Self:
        """Create a database in memory. Its contents are lost when it is closed."""
        return cls(open_in_memory(endpoints))

    def close(self) -> None:
        """Close the database, and release its lock.

        SQLite copies the contents of the write-ahead log (WAL) into the file.

        If the file was removed, renamed or replaced, only log this. The error of an earlier call or
        a cancellation may be the reason for closing, and it must reach the caller.
        """
        try:
            if (moved := self._moved()) is not None:
                _log.warning("%s", moved)
                # SQLite itself copies nothing into a file that has another name now. A -wal file
                # that is left is empty then, so that SQLite cannot apply it to another journal.
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with self._reading():
                self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def write(self, calls: Sequence[Sequence[Change]], durable: bool) -> list[JournalError | None]:  # noqa: FBT001 - passed through an executor, which takes no keywords
        """Write the changes of several calls of `Journal.write` in one transaction.

        Args:
            calls: For each call, its changes.
            durable: True if the changes must survive a power cut; see `_transaction`.

        Returns:
            For each call, None if its changes were written. Otherwise the error; then none of the
            changes of this call was written.

        Raises:
            JournalError: The transaction failed, so no change of any call was written. Or a file
                of the journal was removed, so changes may be lost (`JournalMovedError`).
        """
        with self._transaction(durable=durable):
            return [self._changes.apply(changes) for changes in calls]

    def add(self, jobs: Sequence[JobToAdd], default: JobKind, at: float, durable: bool) -> int:  # noqa: FBT001 - as in `write`
        """Add the jobs that the journal does not contain yet; return their number.

        `default` is the kind to assume for an id that does not contain its kind. `at` is the time
        in Unix seconds. If `durable` is True, the jobs survive a power cut.

        Raises:
            InvalidJobIdError: A text is not a job id. No job was added.
            JournalError: The transaction failed. No job was added.
        """
        stored = [stored_job(job, default) for job in jobs]
        connection = self._connection
        try:
            # Sort the rows by id, because the index of ids can be larger than the cache. Then each
            # page of the index is changed only once, and a late checkpoint copies it only once.
            # Rows with the same id keep their order, so that the first of two equal jobs is added.
            order = sorted(range(len(stored)), key=[row[0] for row in stored].__getitem__)
            pages = _CHECKPOINT if durable else _LATE_CHECKPOINT
            with self._transaction(durable=durable):
                connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()
                before = connection.total_changes
                rows = ((*stored[index], last + 1 + index, at) for index in order)
                connection.executemany(_ADD, rows)
                return connection.total_changes - before
        except BAD_CHANGE as exc:
            raise JournalError(f"cannot store an id: {exc}", path=self._shown_path) from exc

    def reopen(self, error_classes: Collection[str]) -> int:
        """Reopen given-up jobs, so that a run tries them again; return their number.

        `Journal.reopen` says which jobs are reopened.
        """
        with self._transaction(durable=True):
            return self._connection.execute(_REOPEN, (json.dumps([*error_classes]),)).rowcount

    def reopen_without_file(self) -> int:
        """Reopen completed jobs without a result file, so that a run writes the files.

        Return the number of these jobs.
        """
        statuses = [
            text for text in self.counts().by_status if JobStatus.parse(text) is JobStatus.COMPLETED
        ]
        with self._transaction(durable=True):
            return sum(
                self._connection.execute(_REOPEN_WITHOUT_FILE, (text,)).rowcount
                for text in statuses
            )

    def set_note(self, key: str, value: str) -> None:
        """Set the value of a key in the table `notes`."""
        try:
            with self._transaction(durable=True):
                self._connection.execute(
                    "INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, value)
                )
        except BAD_CHANGE as exc:
            reason = type(exc).__name__  # the text of the error may quote the value
        else:
            return
        raise JournalError(f"cannot store the note {key!r}: {reason}", path=self._shown_path)

    def note(self, key: str) -> str | None:
        """Return the value of a key in the table `notes`; None if the table has no such key."""
        with self._reading():
            return read_notes(self._connection, self.path).get(key)

    def has_columns(self) -> bool:
        """Return whether any job has `BatchJob.columns`."""
        with self._reading():
            return (
                self._connection.execute(
                    "SELECT 1 FROM jobs INDEXED BY jobs_with_columns"
                    " WHERE columns IS NOT NULL LIMIT 1"
                ).fetchone()
                is not None
            )

    def columns(self, jobs: Collection[JobRef]) -> dict[JobRef, Mapping[str, str]]:
        """Return the `BatchJob.columns` of jobs; jobs without columns are left out."""
        with self._reading():
            return columns_of(self.path, jobs, self._connection)

    def shared_names(self, names: Collection[str]) -> set[str]:
        """Return the names in `names` that two or more jobs have; see `Journal.shared_names`."""
        with self._reading():
            return shared_names(names, self._connection)

    def similar_ids(self, job_ids: Collection[str]) -> set[str]:
        """Return the ids for which there is a similar id; see `Journal.similar_ids`."""
        with self._reading():
            return similar_ids(job_ids, self._connection)

    def waiting(self, after: int, limit: int) -> list[tuple[int, JobRef]]:
        """Return jobs that must be watched, as pairs (number, job), the lowest numbers first.

        Only jobs whose number is above `after` are returned, at most `limit` of them.
        """
        with self._reading():
            return waiting_jobs(self.path, after, limit, self._connection)

    def records(self, which: RecordFilter, after: int, limit: int, data: bool) -> list[Record]:  # noqa: FBT001 - as in `write`
        """Return records in the order of their numbers; see `Journal.records`."""
        text = "(SELECT json FROM data WHERE data.number = jobs.number)" if data else "NULL"
        records: list[Record] = []
        size = 0
        with self._reading():
            rows = self._connection.execute(
                f"SELECT {RECORD_COLUMNS}, {text} FROM jobs {which.value} AND number > ?"  # noqa: S608 - built from constants
                " ORDER BY number LIMIT ?",
                (after, limit),
            )
            for *row, result in rows:
                records.append(record_from_row(tuple(row), result, self.path))
                size += len(row[-1] or "") + len(result or "")
                if size >= _PAGE_BYTES:
                    rows.close()
                    break
        return records

    def counts(self) -> Counts:
        """Count the jobs by stage and by status."""
        with self._reading():
            return count_jobs(self.path, self._connection)

    def check_files(self) -> None:
        """Raise `JournalMovedError` if a file of the journal was removed, renamed or replaced."""
        if (moved := self._moved()) is not None:
            raise moved

    def _moved(self) -> JournalMovedError | None:
        """Return an error if a file of the journal was removed, renamed or replaced."""
        return None if self._files is None else self._files.problem()

    @property
    def _shown_path(self) -> str | None:
        return None if self.path is None else str(self.path)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except READING_ERRORS as exc:
            raise reading_error(exc, self.path) from exc

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        """Commit all statements of the ``with`` block; roll them back if the block raises.

        If `durable` is True, SQLite syncs the write-ahead log (WAL) to the disk at the commit
        (sqlite.org/pragma.html#pragma_synchronous, FULL). If `durable` is False, the kernel writes
        the WAL to the disk later, or the next durable commit syncs it.
        """
        connection = self._connection
        try:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
            self.check_files()
        except BAD_CHANGE:
            raise
        except sqlite3.Error as exc:
            raise writing_error(exc, self.path) from exc
        finally:
            # `in_transaction` is False after a commit, or if SQLite has rolled back on a full disk.
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # the earlier error matters more
                    connection.execute("ROLLBACK")
