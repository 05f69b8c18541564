"""ChangeWriter: writes changes of jobs (`journal.changes`) to the tables of a journal.

`database` begins and ends the transactions.
"""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.models import JobStatus
from adepoll.common.file_system import plain_path
from adepoll.common.redaction import showable
from adepoll.errors import AdePollError, JournalError
from adepoll.journal.changes import (
    Acknowledged,
    Change,
    Fetched,
    FileLost,
    GivenUp,
    Settled,
    StatusChanged,
)
from adepoll.journal.outcomes import LONGEST_ERROR, LONGEST_NAME, credits_of, error_class_of
from adepoll.journal.sqlite_errors import BAD_CHANGE
from adepoll.journal.stored_jobs import result_json, snapshot_json, stored_job

_LONGEST_STATUS: Final = 100  # characters of a recorded status

_STATUS_CHANGED: Final = (
    "UPDATE jobs SET status = ? WHERE job_id = ? AND kind = ? AND stage = 'waiting'"
)
_SETTLED: Final = """
    UPDATE jobs SET stage = ?, status = ?, snapshot = ?, partial = ?, credits = ?, settled_at = ?,
        done_at = ?,
        delivered_at = NULL, error_kind = NULL, error = NULL, lasting = NULL, result_path = NULL,
        result_bytes = NULL, result_sha256 = NULL, result_modified_ns = NULL
    WHERE job_id = ? AND kind = ?
"""
_KEEP_DATA: Final = """
    INSERT OR REPLACE INTO data (number, json)
    SELECT number, ? FROM jobs WHERE job_id = ? AND kind = ?
"""
_DROP_DATA: Final = (
    "DELETE FROM data WHERE number = (SELECT number FROM jobs WHERE job_id = ? AND kind = ?)"
)
_FETCHED: Final = """
    UPDATE jobs SET stage = 'done', result_path = ?, result_bytes = ?, result_sha256 = ?,
        result_modified_ns = ?, done_at = ?, delivered_at = NULL, error_kind = NULL, error = NULL,
        lasting = NULL
    WHERE job_id = ? AND kind = ?
"""
_GIVEN_UP: Final = """
    UPDATE jobs SET stage = 'given_up', error_kind = ?, error = ?, lasting = ?, done_at = ?,
        delivered_at = NULL, result_path = NULL, result_bytes = NULL, result_sha256 = NULL,
        result_modified_ns = NULL
    WHERE job_id = ? AND kind = ?
"""
_ACKNOWLEDGED: Final = "UPDATE jobs SET delivered_at = ? WHERE job_id = ? AND kind = ?"
_FILE_LOST: Final = """
    UPDATE jobs SET stage = 'fetching', result_path = NULL, result_bytes = NULL,
        result_sha256 = NULL, result_modified_ns = NULL, done_at = NULL, delivered_at = NULL
    WHERE job_id = ? AND kind = ?
"""


class ChangeWriter:
    """Writes changes to the tables of one database. The caller begins and ends the transactions."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        """Store the arguments. `path` is the path of the journal; None if it is in memory."""
        self._connection = connection
        self._path = path
        self._shown_path = None if path is None else str(path)

    def apply(self, changes: Sequence[Change]) -> JournalError | None:
        """Write all changes of one call of `Journal.write`; return None.

        If one of the changes is impossible, undo all of them, and return the error.
        """
        execute = self._connection.execute
        execute("SAVEPOINT call")
        try:
            for change in changes:
                self._apply(change)
        except JournalError as exc:
            error = exc
        except BAD_CHANGE as exc:
            # The text of these errors contains no value of the change, so it may be shown.
            error = JournalError(f"cannot store a change: {exc}", path=self._shown_path)
        else:
            execute("RELEASE call")
            return None
        execute("ROLLBACK TO call")
        execute("RELEASE call")
        return error

    def _apply(self, change: Change) -> None:
        """Write one change to the tables."""
        match change:
            case StatusChanged(job, status_text):
                values = (_shown_status(status_text), *_name(job))
                self._connection.execute(_STATUS_CHANGED, values)
            case Settled():
                self._settle(change)
            case Fetched(job, file, modified_ns, at):
                path = _path_value(file.path)
                self._update(_FETCHED, job, path, file.bytes, file.sha256.lower(), modified_ns, at)
                self._connection.execute(_DROP_DATA, _name(job))  # the result is in the file now
            case GivenUp(job, error):
                kind, text = _shown_error(error)
                self._update(_GIVEN_UP, job, kind, text, int(change.lasting), change.at)
            case Acknowledged(job, at):
                self._update(_ACKNOWLEDGED, job, at)
            case FileLost(job):
                self._update(_FILE_LOST, job)

    def _settle(self, change: Settled) -> None:
        """Write a settled job; keep its inline result if the journal is a file."""
        snapshot, at = change.snapshot, change.at
        job = JobRef(snapshot.job_id, kind=snapshot.kind)
        stage, done_at = ("fetching", None) if change.fetching else ("done", at)
        status, text = snapshot.status.value, snapshot_json(snapshot)
        cost = credits_of(snapshot)
        partial = int(snapshot.partial)
        self._update(_SETTLED, job, stage, status, text, partial, cost, at, done_at)
        if self._path is None:
            return
        if snapshot.data is None:
            self._connection.execute(_DROP_DATA, _name(job))
        else:
            data = result_json(self._connection, snapshot)
            self._connection.execute(_KEEP_DATA, (data, *_name(job)))

    def _update(
        self, statement: str, job: str | JobRef, *values: str | bytes | float | None
    ) -> None:
        """Run an SQL statement that changes one job.

        The parameters of the statement are `values`, then the id and the kind of the job. Raise
        `JournalError` if the journal does not contain the job.
        """
        if not self._connection.execute(statement, (*values, *_name(job))).rowcount:
            raise JournalError(f"has no job {str(job)!r}; add it first", path=self._shown_path)


def _name(job: str | JobRef) -> tuple[str, str]:
    """Return the id of a job, and the name of its kind."""
    job_id, kind, *_ = stored_job(job, JobKind.V1_EXTRACT)
    return job_id, kind


def _shown_status(status_text: str) -> str:
    """Return a status that adepoll knows in lower case.

    Return any other status as the service wrote it, without unprintable characters and secrets.
    """
    status = JobStatus.parse(status_text)
    return showable(status_text, _LONGEST_STATUS) if status is JobStatus.UNKNOWN else status.value


def _shown_error(error: AdePollError) -> tuple[str, str]:
    """Return class name and message of an error, without unprintable characters and secrets."""
    return showable(error_class_of(error), LONGEST_NAME), showable(str(error), LONGEST_ERROR)


def _path_value(path: Path) -> str | bytes:
    """Return the absolute form of a path: as text, or as bytes if the path is not valid UTF-8."""
    absolute = str(plain_path(path))
    try:
        absolute.encode()
    except UnicodeEncodeError:
        return os.fsencode(absolute)
    return absolute
