"""Database: all that is read from and written to a journal, as plain blocking calls of one thread.

Imports opening and below. Each call is one transaction; what fails leaves nothing behind.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from adepoll.api.kinds import v1_extract
from adepoll.errors import InvalidJobIdError, JournalError
from adepoll.journal.changes import (
    Change,
    Delivered,
    Fetched,
    GivenUp,
    Lost,
    Seen,
    Settled,
    Which,
)
from adepoll.journal.failing import not_opened, not_written
from adepoll.journal.opening import Opened
from adepoll.journal.outcomes import Counts, Record
from adepoll.journal.rows import (
    RECORD_COLUMNS,
    count,
    error_to_keep,
    path_to_keep,
    record_of,
    snapshot_to_keep,
    status_to_keep,
)

_PAGE_BYTES: Final = 4 * 2**20
_CHECKPOINT: Final = 4_000  # pages in the WAL, 16 MB, before they are copied into the file
_LATE_CHECKPOINT: Final = 64_000

# What is wrong with a change rather than with the journal: a value that SQLite or JSON cannot
# hold, or a change that makes no sense at its job's stage.
_BAD_CHANGE: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)

_WHICH: Final = {
    Which.FETCHING: "INDEXED BY jobs_fetching WHERE stage = 'fetching'",
    Which.UNDELIVERED: (
        "INDEXED BY jobs_undelivered WHERE done_at IS NOT NULL AND delivered_at IS NULL"
    ),
    Which.DELIVERED: "NOT INDEXED WHERE delivered_at IS NOT NULL",
    Which.ENDED: "NOT INDEXED WHERE done_at IS NOT NULL",
    Which.UNFETCHED: "NOT INDEXED WHERE stage = 'given_up' AND settled_at IS NOT NULL",
}

_ADD: Final = """
    INSERT INTO jobs (job_id, number, added_at) VALUES (?, ?, ?) ON CONFLICT (job_id) DO NOTHING
"""
_SEEN: Final = "UPDATE jobs SET status = ? WHERE job_id = ? AND stage = 'waiting'"
_SETTLED: Final = """
    UPDATE jobs SET stage = ?, status = ?, snapshot = ?, settled_at = ?, done_at = ?,
        delivered_at = NULL, error_kind = NULL, error = NULL, lasting = NULL, result_path = NULL,
        result_bytes = NULL, result_sha256 = NULL, result_modified_ns = NULL
    WHERE job_id = ?
"""
_KEEP_DATA: Final = """
    INSERT OR REPLACE INTO data (number, json) SELECT number, ? FROM jobs WHERE job_id = ?
"""
_DROP_DATA: Final = "DELETE FROM data WHERE number = (SELECT number FROM jobs WHERE job_id = ?)"
_FETCHED: Final = """
    UPDATE jobs SET stage = 'done', result_path = ?, result_bytes = ?, result_sha256 = ?,
        result_modified_ns = ?, done_at = ?, delivered_at = NULL, error_kind = NULL, error = NULL,
        lasting = NULL
    WHERE job_id = ?
"""
_GIVEN_UP: Final = """
    UPDATE jobs SET stage = 'given_up', error_kind = ?, error = ?, lasting = ?, done_at = ?,
        delivered_at = NULL, result_path = NULL, result_bytes = NULL, result_sha256 = NULL,
        result_modified_ns = NULL
    WHERE job_id = ?
"""
_DELIVERED: Final = "UPDATE jobs SET delivered_at = ? WHERE job_id = ?"
_LOST: Final = """
    UPDATE jobs SET stage = 'fetching', result_path = NULL, result_bytes = NULL,
        result_sha256 = NULL, result_modified_ns = NULL, done_at = NULL, delivered_at = NULL
    WHERE job_id = ?
"""
_REOPEN: Final = """
    UPDATE jobs SET stage = iif(snapshot IS NULL, 'waiting', 'fetching'), error_kind = NULL,
        error = NULL, lasting = NULL, done_at = NULL, delivered_at = NULL
    WHERE stage = 'given_up'
        AND (lasting = 0 OR error_kind IN (SELECT value FROM json_each(?)))
        AND job_id NOT IN (SELECT value FROM json_each(?))
"""


class Database:
    """The open file, or memory, of one journal."""

    def __init__(self, opened: Opened, *, keeps_data: bool) -> None:
        """Take over what was opened; used and closed by the thread that opened it."""
        self._opened = opened
        self._path = opened.path
        self._keeps_data = keeps_data
        self._connection = opened.connection

    def close(self) -> None:
        """Close it; what was written so far is moved from the WAL into the file."""
        with self._reading():
            self._opened.close()

    def write(self, calls: Sequence[Sequence[Change]], durable: bool) -> list[JournalError | None]:  # noqa: FBT001 - passed through an executor, which takes no keywords
        """Write all changes of several calls in one transaction.

        Gives, for each call, None, or why it makes no sense: then nothing of that one is written.

        Raises:
            JournalError: Nothing of any could be written.
        """
        with self._transaction(durable=durable):
            return [self._apply(changes) for changes in calls]

    def add(self, job_ids: Sequence[str], at: float, durable: bool) -> int:  # noqa: FBT001 - as in `write`
        """Add those ids that are not known; give how many.

        Raises:
            InvalidJobIdError: One cannot be written down; none was.
        """
        connection = self._connection
        try:
            # Ids are random, and their index is larger than any cache. In their order, each of its
            # pages is visited once; and it is not copied into the file until the last of many.
            ordered = sorted(zip(job_ids, range(len(job_ids)), strict=True))
            pages = _CHECKPOINT if durable else _LATE_CHECKPOINT
            with self._transaction(durable=durable):
                connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()
                before = connection.total_changes
                rows = ((job_id, last + 1 + place, at) for job_id, place in ordered)
                connection.executemany(_ADD, rows)
                return connection.total_changes - before
        except _BAD_CHANGE as exc:
            for job_id in job_ids:
                if not isinstance(job_id, str):
                    told = f"{type(job_id).__name__} {job_id!r}"
                    raise InvalidJobIdError(job_id=told, reason="it is no string") from None
                try:
                    job_id.encode()
                except UnicodeEncodeError:
                    raise InvalidJobIdError(job_id=job_id, reason="it is no Unicode") from None
            raise JournalError(f"refuses an id: {exc}", path=self._shown) from exc

    def reopen(self, kinds: Collection[str], but: Collection[str]) -> int:
        """Have given-up jobs tried again, unless that is of no use; give how many.

        Those whose errors are of these kinds are tried again in any case, and some jobs in none.
        """
        lists = (json.dumps([*kinds]), json.dumps([*but]))
        with self._transaction(durable=True):
            return self._connection.execute(_REOPEN, lists).rowcount

    def set_note(self, key: str, value: str) -> None:
        """Replace a note."""
        try:
            with self._transaction(durable=True):
                self._connection.execute(
                    "INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, value)
                )
        except _BAD_CHANGE as exc:
            reason = type(exc).__name__
        else:
            return
        raise JournalError(f"refuses the note {key!r}: {reason}", path=self._shown)

    def note(self, key: str) -> str | None:
        """Give a note."""
        with self._reading():
            row = self._connection.execute(
                "SELECT value FROM notes WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else str(row[0])

    def waiting(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Give number and id of jobs that are not known to have ended, by number."""
        with self._reading():
            return self._connection.execute(
                "SELECT number, job_id FROM jobs INDEXED BY jobs_waiting"
                " WHERE stage = 'waiting' AND number > ? ORDER BY number LIMIT ?",
                (after, limit),
            ).fetchall()

    def records(self, which: Which, after: int, limit: int, data: bool) -> list[Record]:  # noqa: FBT001 - as in `write`
        """Give records by number; fewer than `limit` where their data is large."""
        text = "(SELECT json FROM data WHERE data.number = jobs.number)" if data else "NULL"
        records: list[Record] = []
        size = 0
        with self._reading():
            rows = self._connection.execute(
                f"SELECT {RECORD_COLUMNS}, {text} FROM jobs {_WHICH[which]} AND number > ?"  # noqa: S608 - of constants
                " ORDER BY number LIMIT ?",
                (after, limit),
            )
            for *row, result in rows:
                records.append(record_of(tuple(row), result, self._path))
                size += len(row[-1] or "") + len(result or "")
                if size >= _PAGE_BYTES:
                    rows.close()
                    break
        return records

    def counts(self) -> Counts:
        """Count the jobs."""
        with self._reading():
            return count(self._connection)

    @property
    def _shown(self) -> str | None:
        return None if self._path is None else str(self._path)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise not_opened(exc, self._path) from exc

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        """Commit what is done within, or nothing of it (sqlite.org/pragma.html#pragma_synchronous).

        FULL syncs the WAL at each commit. NORMAL leaves that to the kernel, and to the next FULL.
        """
        connection = self._connection
        try:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except _BAD_CHANGE:
            raise
        except sqlite3.Error as exc:
            raise not_written(exc, self._path) from exc
        finally:
            if connection.in_transaction:  # SQLite itself takes back what met a full disk
                with suppress(sqlite3.Error):  # what went wrong before is told
                    connection.execute("ROLLBACK")

    def _apply(self, changes: Sequence[Change]) -> JournalError | None:
        execute = self._connection.execute
        execute("SAVEPOINT call")
        try:
            for change in changes:
                self._apply_one(change)
        except JournalError as exc:
            error = exc
        except _BAD_CHANGE as exc:
            # Its text is SQLite's, or that of the codec, and holds no value.
            error = JournalError(f"refuses a change: {exc}", path=self._shown)
        else:
            execute("RELEASE call")
            return None
        execute("ROLLBACK TO call")
        execute("RELEASE call")
        return error

    def _apply_one(self, change: Change) -> None:
        match change:
            case Seen(job_id, status_text):
                self._connection.execute(_SEEN, (status_to_keep(status_text), job_id))
            case Settled():
                self._settle(change)
            case Fetched(job_id, file, modified_ns, at):
                where = path_to_keep(file.path)
                self._update(
                    _FETCHED, job_id, where, file.bytes, file.sha256.lower(), modified_ns, at
                )
                self._connection.execute(_DROP_DATA, (job_id,))  # it is in the file
            case GivenUp(job_id, error):
                kind, text = error_to_keep(error)
                self._update(_GIVEN_UP, job_id, kind, text, int(change.lasting), change.at)
            case Delivered(job_id, at):
                self._update(_DELIVERED, job_id, at)
            case Lost(job_id):
                self._update(_LOST, job_id)

    def _settle(self, change: Settled) -> None:
        snapshot, at = change.snapshot, change.at
        stage, done_at = ("fetching", None) if change.fetching else ("done", at)
        status, text = status_to_keep(snapshot.status_text), snapshot_to_keep(snapshot)
        self._update(_SETTLED, snapshot.job_id, stage, status, text, at, done_at)
        if not self._keeps_data:
            return
        if snapshot.data is None:
            self._connection.execute(_DROP_DATA, (snapshot.job_id,))
        else:
            data = v1_extract.encode_result(snapshot.data).decode()
            self._connection.execute(_KEEP_DATA, (data, snapshot.job_id))

    def _update(self, statement: str, job_id: str, *values: str | bytes | float | None) -> None:
        if not self._connection.execute(statement, (*values, job_id)).rowcount:
            raise JournalError(f"does not know job {job_id!r}; add it first", path=self._shown)
