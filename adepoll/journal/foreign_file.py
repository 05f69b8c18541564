"""Checks a journal file that somebody else may have written, and limits the work of its queries.

An attacker can have written the file. So each value that is read from a journal is checked like
an answer from the network (sqlite.org/security.html, "Untrusted SQLite Database Files").
"""

import functools
import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from adepoll.api.job_ids import is_job_id
from adepoll.common.redaction import showable
from adepoll.errors import JournalDamagedError
from adepoll.journal.schema import STATEMENTS

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KIND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
_LATEST: Final = 253_402_300_799.0  # Unix time of the last second of the year 9999
# SQLite executes a query as instructions of a virtual machine. The limit is the first number for
# each byte of the file, plus the second number. A query of a correct journal takes fewer: less than
# 100 instructions for each row of a table or an index, and each row has more than 10 bytes. In a
# crafted file, pages can refer to each other in a circle, so that a query would never end.
_INSTRUCTIONS_PER_BYTE: Final = 10
_INSTRUCTIONS: Final = 20_000_000
_STEP: Final = 100_000  # instructions after which SQLite calls the progress handler each time


class _Object(NamedTuple):
    """A row of the table `sqlite_schema`.

    Attributes:
        type: "table", "index", "view" or "trigger".
        name: Name of the table, index, view or trigger.
        table: Name of the table to which the row belongs.
        sql: The SQL statement that creates the table, index, view or trigger; None for an index
            that SQLite creates itself.
    """

    type: str
    name: str
    table: str
    sql: str | None


# The SQL statement ANALYZE creates these tables. Users may run it in a journal.
_OF_ANALYZE: Final = frozenset(
    _Object("table", name, name, f"CREATE TABLE {name}({columns})")
    for name, columns in (
        ("sqlite_stat1", "tbl,idx,stat"),
        ("sqlite_stat4", "tbl,idx,neq,nlt,ndlt,sample"),
    )
)


def damaged(problem: str, path: Path | None) -> JournalDamagedError:
    """Return the error for a damaged journal; `path` is None for a journal in memory."""
    return JournalDamagedError([problem], path=None if path is None else str(path))


def limit_instructions(connection: sqlite3.Connection, size: int) -> None:
    """Limit the work of all further queries of a connection together.

    The work is the number of instructions that SQLite's virtual machine executes. SQLite interrupts
    the query that exceeds the limit, with the error `SQLITE_INTERRUPT`. Without a limit, a query of
    a crafted file could run forever.

    Args:
        connection: The connection.
        size: Size of the file in bytes; the limit grows with it.
    """
    steps = (_INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * size) // _STEP

    def count() -> bool:
        nonlocal steps
        steps -= 1
        return steps < 0

    connection.set_progress_handler(count, _STEP)


def remove_limit(connection: sqlite3.Connection) -> None:
    """Remove the limit that `limit_instructions` has set for the queries of a connection."""
    connection.set_progress_handler(None, 0)


def schema_problem(connection: sqlite3.Connection) -> str | None:
    """Return how the schema of a file differs from that of a journal, as a text for an error.

    Return None if the schemas are equal. A view, a trigger or a changed constraint would run SQL
    that the author of the file wrote. So a file with any difference is refused. Switching off
    `PRAGMA trusted_schema` would also help, but old versions of SQLite would then refuse
    `json_valid`.
    """
    found = _objects(connection)
    for entry in _schema():
        if entry in found:
            found.remove(entry)
        elif any(other.name == entry.name for other in found):
            return f"{entry.name} has another definition"
        else:
            return f"{entry.name} is missing"
    extra = [entry.name for entry in found if entry not in _OF_ANALYZE]
    return f"{showable(extra[0], 80)} does not belong to a journal" if extra else None


def row_problem(row: tuple[Any, ...]) -> str | None:  # noqa: PLR0911 - one return for each rule
    """Describe the first impossible value in a row; return None if all values are possible.

    The row has the columns `queries.RECORD_COLUMNS`.
    """
    (number, job_id, kind, label, columns, _, status, added_at, settled_at, done_at, delivered_at,
     file_path, size, sha256, modified_ns, error_kind, error, lasting, snapshot) = row  # fmt: skip
    if type(number) is not int or number < 1:
        return "its number is not positive"
    if (problem := problem_of_job(job_id, kind, label, columns)) is not None:
        return problem
    texts = (status, error_kind, error, snapshot)
    if not all(text is None or isinstance(text, str) for text in texts):
        return "a text has another type"
    times = (added_at, settled_at, done_at, delivered_at)
    if added_at is None or not all(time is None or is_time(time) for time in times):
        return "a time is not a number"
    if lasting not in {None, 0, 1} or (error_kind is None) != (error is None):
        return "its error is incomplete"
    if file_path is None:
        return None
    if not (type(size) is int and size >= 0 and type(modified_ns) is int):
        return "its file has no size"
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return "its file has no SHA-256"
    if not isinstance(file_path, str | bytes) or not _is_plain_path(os.fsdecode(file_path)):
        return "the path of its file is not absolute"
    return None


def problem_of_job(
    job_id: object, kind: object, label: object, columns: object = None
) -> str | None:
    """Describe the first invalid value of a job; return None if all values are valid.

    Args:
        job_id: Value in the column of the id.
        kind: Value in the column of the kind.
        label: Value in the column of the label, which may be None.
        columns: JSON text of the `BatchJob.columns`, or None.
    """
    if not isinstance(job_id, str) or not is_job_id(job_id):
        return "its id is not a job id"
    if not is_kind(kind):
        return "its kind is not a kind of jobs"
    if not isinstance(label, str | None):
        return "its label is not a text"
    return None if columns is None or are_columns(columns) else "its columns are not texts"


def is_kind(value: object) -> bool:
    """Return whether a value has the form of a job kind's name, such as "v1-extract"."""
    return isinstance(value, str) and _KIND.fullmatch(value) is not None


def are_columns(text: object) -> bool:
    """Return whether `text` is JSON text of an object whose values are all strings."""
    try:
        columns = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(columns, dict) and all(isinstance(cell, str) for cell in columns.values())


def is_time(value: object) -> bool:
    """Return whether a value is a Unix time between the years 1970 and 9999."""
    return isinstance(value, int | float) and 0 <= value <= _LATEST


def recorded_folder(text: str, journal: Path | None) -> Path:
    """Check the path of the folder for results in a journal, and return it.

    Args:
        text: The path in the journal.
        journal: Path of the journal, for errors; None if the journal is in memory.

    Raises:
        JournalDamagedError: The text is not an absolute path, or has parts such as ``..``.
    """
    if not _is_plain_path(text):
        raise damaged("its folder for results is not an absolute path", journal)
    return Path(text)


def _is_plain_path(text: str) -> bool:
    """Return whether a text is an absolute path without ".." and without a null character."""
    path = Path(text)
    return path.is_absolute() and "\0" not in text and ".." not in path.parts


@functools.cache
def _schema() -> list[_Object]:
    """Return the rows of `sqlite_schema` in a journal that adepoll creates."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
        return _objects(connection)


def _objects(connection: sqlite3.Connection) -> list[_Object]:
    """Return all rows of `sqlite_schema`.

    The result is a list, not a dict by name, because the author of a file can edit this table. For
    example, a trigger can have the name of an index, or a name that SQLite reserves for itself.
    """
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    return [
        _Object(str(kind), str(name), str(table), None if sql is None else str(sql))
        for kind, name, table, sql in rows
    ]
