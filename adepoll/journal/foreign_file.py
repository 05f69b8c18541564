"""Protection from a file that somebody has crafted: its schema, its queries and its values.

A journal may come from anyone, so each value that is read from it is checked like an answer from
the network (sqlite.org/security.html, "Untrusted SQLite Database Files").
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
# A query of a sound journal takes fewer virtual-machine instructions than this: the smallest row of
# a table or an index has more than 10 bytes, and a query spends less than 100 instructions on it.
# Pages that refer to each other could otherwise make a query go on for ever.
_INSTRUCTIONS_PER_BYTE: Final = 10
_INSTRUCTIONS: Final = 20_000_000
_STEP: Final = 100_000  # instructions between two calls of the progress handler


class _Object(NamedTuple):
    """A row of the schema: a table, an index, a view or a trigger."""

    type: str
    name: str
    table: str
    sql: str | None


# ANALYZE, which any program that reads SQLite may run, creates these.
_OF_ANALYZE: Final = frozenset(
    _Object("table", name, name, f"CREATE TABLE {name}({columns})")
    for name, columns in (
        ("sqlite_stat1", "tbl,idx,stat"),
        ("sqlite_stat4", "tbl,idx,neq,nlt,ndlt,sample"),
    )
)


def damaged(problem: str, path: Path | None) -> JournalDamagedError:
    """Return the error for a journal with one problem; its `path` is None in memory."""
    return JournalDamagedError([problem], path=None if path is None else str(path))


def limit_instructions(connection: sqlite3.Connection, size: int) -> None:
    """Limit the instructions of all queries from now on to what a file of `size` bytes can need.

    SQLite interrupts a query that exceeds the limit.
    """
    steps = (_INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * size) // _STEP

    def count() -> bool:
        nonlocal steps
        steps -= 1
        return steps < 0

    connection.set_progress_handler(count, _STEP)


def remove_limit(connection: sqlite3.Connection) -> None:
    """Remove the limit, so that queries may need any number of instructions."""
    connection.set_progress_handler(None, 0)


def schema_problem(connection: sqlite3.Connection) -> str | None:
    """Return how the schema differs from the one that adepoll creates; None if it does not.

    A view, a trigger or a changed constraint would run the SQL of whoever wrote the file. Such
    schemas are refused, whatever the names in them. So adepoll leaves `PRAGMA trusted_schema` on:
    if it is off, old versions of SQLite refuse `json_valid`.
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
    """Return what is impossible in a row of `RECORD_COLUMNS`; None if nothing is."""
    (number, job_id, kind, label, columns, _, status, added_at, settled_at, done_at, delivered_at,
     file_path, size, sha256, modified_ns, error_kind, error, lasting, snapshot) = row  # fmt: skip
    if type(number) is not int or number < 1:
        return "its number is not positive"
    if (problem := name_problem(job_id, kind, label, columns)) is not None:
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


def name_problem(job_id: object, kind: object, label: object, columns: object = None) -> str | None:
    """Return which of a job's values is invalid, as a text; None if all are valid."""
    if not isinstance(job_id, str) or not is_job_id(job_id):
        return "its id is not a job id"
    if not is_kind(kind):
        return "its kind is not a kind of jobs"
    if not isinstance(label, str | None):
        return "its label is not a text"
    return None if columns is None or are_columns(columns) else "its columns are not texts"


def is_kind(value: object) -> bool:
    """Return whether this can be the name of a kind of jobs."""
    return isinstance(value, str) and _KIND.fullmatch(value) is not None


def are_columns(text: object) -> bool:
    """Return whether this is JSON of an object whose values are texts."""
    try:
        columns = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(columns, dict) and all(isinstance(cell, str) for cell in columns.values())


def is_time(value: object) -> bool:
    """Return whether this is a Unix time between the years 1970 and 9999."""
    return isinstance(value, int | float) and 0 <= value <= _LATEST


def recorded_folder(text: str, journal: Path | None) -> Path:
    """Return the folder for results that a journal names.

    Raises:
        JournalDamagedError: adepoll cannot have recorded that text.
    """
    if not _is_plain_path(text):
        raise damaged("its folder for results is not an absolute path", journal)
    return Path(text)


def _is_plain_path(text: str) -> bool:
    path = Path(text)
    return path.is_absolute() and "\0" not in text and ".." not in path.parts


@functools.cache
def _schema() -> list[_Object]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
        return _objects(connection)


def _objects(connection: sqlite3.Connection) -> list[_Object]:
    """Return all rows of the schema.

    It is a table that can be edited: a trigger can have the name of an index, or one that SQLite
    reserves for itself.
    """
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
    return [
        _Object(str(kind), str(name), str(table), None if sql is None else str(sql))
        for kind, name, table, sql in rows
    ]
