"""Opens a journal file: locks it, checks it, and creates it if it does not exist.

Only SQLite opens the file of an existing journal. If this module opened and closed the file itself,
the system would release the locks of SQLite on the file (sqlite.org/howtocorrupt.html, section
2.2).
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

from adepoll.api.codec import load_writer
from adepoll.common import file_system
from adepoll.errors import (
    ConfigurationError,
    JournalDamagedError,
    JournalFormatError,
    JournalNotFoundError,
    NotAJournalError,
)
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.file_checks import (
    absolute_path,
    access_error,
    check_access,
    check_companions,
    check_owner,
    file_status,
)
from adepoll.journal.foreign_file import damaged, limit_instructions, remove_limit, schema_problem
from adepoll.journal.lock import JournalLock, take_lock
from adepoll.journal.schema import (
    APPLICATION_ID,
    FORMAT,
    ROLLBACK_END,
    RULES,
    STATEMENTS,
    WAL_END,
    companion,
)
from adepoll.journal.sqlite_errors import READING_ERRORS, primary_code, reading_error

_OLDEST_SQLITE: Final = (3, 37)  # the first version with STRICT tables, of November 2021
_BUSY_TIMEOUT: Final = 10.0  # seconds to wait for another program that writes, such as a shell
_SMALL: Final = 64 * 2**20  # bytes; up to this size, all is checked, which takes about a second
_MEDIUM: Final = 4 * 2**30  # bytes; up to this size, the structure of every page is checked
# A check of the structure of pages does not find damage within a value. Most of that damage breaks
# an index, or one of the rules that this query checks. A number below 1 also counts as broken,
# because no query of adepoll would return such a job.
_BROKEN_RULES: Final = (
    "SELECT 'job number ' || number || ' breaks a rule' FROM jobs WHERE number < 1 OR NOT ("  # noqa: S608 - built from constants
    f"{' AND '.join(f'({rule})' for rule in RULES.values())}) LIMIT 10"
)
_FULL_CHECK: Final = [
    "PRAGMA integrity_check(10)",
    _BROKEN_RULES,
    "SELECT 'no JSON in data of number ' || number FROM data WHERE NOT json_valid(json) LIMIT 10",
]
_QUICK_CHECK: Final = ["PRAGMA quick_check(10)", _BROKEN_RULES]
_PARTIAL_CHECK: Final = ["PRAGMA quick_check(jobs)", "PRAGMA quick_check(notes)", _BROKEN_RULES]


def open_in_memory(endpoints: Endpoints) -> sqlite3.Connection:
    """Create a journal in memory, which exists until its connection is closed."""
    _check_sqlite_version()
    _load_code(None)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _create_tables(connection, endpoints)
    return connection


def open_file(
    given_path: str | os.PathLike[str], endpoints: Endpoints, *, must_exist: bool
) -> tuple[sqlite3.Connection, Path, JournalLock]:
    """Open a journal for this process alone; create it if it does not exist.

    Returns:
        A connection for the calling thread, the absolute path, and the lock. The caller must close
        the connection, then release the lock.

    Raises:
        JournalError: The journal cannot be opened, for a reason that the subclass names. An
            existing file stays unchanged.
    """
    _check_sqlite_version()
    path = absolute_path(given_path)
    _load_code(path)
    status = file_status(path)
    if status is None and must_exist:
        raise JournalNotFoundError(path=str(path))
    lock = take_lock(path)
    try:
        # The status is read again: another process may have changed the file before it was locked.
        status = file_status(path)
        if status is not None:
            check_owner(path, status)
        if status is None:
            _create_file(path)
        elif not status.st_size:
            _make_private(path)
        else:
            check_access(path)
            # The connection for the check is read-only, so that a refused file stays unchanged.
            # Otherwise, SQLite would copy the WAL into the file when the connection is closed. But
            # if a process was killed while it created the tables, SQLite must undo that first, and
            # needs a connection that can write.
            must_undo = companion(path, ROLLBACK_END).exists()
            connection = _connect_uri(path, "mode=rw") if must_undo else connect_read_only(path)
            with closing(connection):
                _check_contents(connection, path, endpoints)
        return _connect(path, endpoints), path, lock
    except READING_ERRORS as exc:
        lock.release()
        raise reading_error(exc, path) from exc
    except BaseException:
        lock.release()
        raise


def size_of(path: Path) -> int:
    """Return the size of a journal in bytes, including its WAL."""
    size = 0
    for file in (path, companion(path, WAL_END)):
        with suppress(OSError):
            size += file.stat().st_size
    return size


def has_wal(path: Path) -> bool:
    """Return whether the newest writes are still in a separate file, the write-ahead log (WAL)."""
    try:
        return companion(path, WAL_END).stat().st_size > 0
    except OSError:
        return False


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write; raise one of `READING_ERRORS` if that fails.

    If there is no write-ahead log (WAL), no process is writing. Then SQLite opens the journal
    without locks and without a -shm file, and writes nothing into the folder.
    """
    mode = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    return _connect_uri(path, mode)


def has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Return True for a journal with tables; False for an empty file, which can become a journal.

    Raises:
        NotAJournalError: The file is neither a journal nor empty.
        JournalFormatError: A newer version of adepoll wrote the journal.
        JournalDamagedError: The tables are not those that adepoll creates.
    """
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as exc:
        if primary_code(exc) != sqlite3.SQLITE_NOTADB:
            raise
        raise NotAJournalError(
            path=str(path),
            reason="it is not an SQLite file (or it is a journal with an overwritten header)",
        ) from exc
    if not application and not version and not tables:
        return False
    if application != APPLICATION_ID:
        raise NotAJournalError(path=str(path), reason="it is an SQLite file of another program")
    if version > FORMAT:
        raise JournalFormatError(path=str(path), found=version, known=FORMAT)
    if (problem := schema_problem(connection)) is not None:
        raise damaged(problem, path)
    return True


def read_notes(connection: sqlite3.Connection, path: Path | None) -> dict[str, str]:
    """Return the table `notes` as a dict from key to value; docs/journal.md lists the keys.

    Raises:
        JournalDamagedError: A key or value is not text.
    """
    notes = dict(connection.execute("SELECT key, value FROM notes").fetchall())
    if all(isinstance(text, str) for note in notes.items() for text in note):
        return notes
    raise damaged("a note is not text", path)


def _check_sqlite_version() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        oldest = ".".join(map(str, _OLDEST_SQLITE))
        raise ConfigurationError(
            f"journals need SQLite {oldest} or newer, but this Python has SQLite "
            f"{sqlite3.sqlite_version}; use another build of Python"
        )


def _load_code(path: Path | None) -> None:
    """Import the modules that write results as JSON.

    A later import could fail, because a running batch may have as many files open as the system
    allows.
    """
    try:
        load_writer()
    except OSError as exc:
        raise access_error(path, exc) from exc


def _create_file(path: Path) -> None:
    """Create an empty file with mode 0600; SQLite gives its -wal and -shm files the same mode."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | file_system.PLAIN, 0o600)
        try:
            file_system.make_private(fd, path)
        finally:
            os.close(fd)
        file_system.sync_folder(path.parent)
    except OSError as exc:
        raise access_error(path, exc) from exc


def _make_private(path: Path) -> None:
    try:
        path.chmod(0o600)
    except OSError as exc:
        raise access_error(path, exc) from exc


def _connect_uri(path: Path, mode: str) -> sqlite3.Connection:
    """Return a connection to a journal that somebody else may have written.

    The work of its queries is limited. `mode` is the query of the file's URI, such as "mode=ro".
    """
    # The URI on Windows is file:///C:/folder/file (sqlite.org/uri.html, section 3.1).
    prefix = "file:///" if path.drive else "file:"
    uri = f"{prefix}{quote_from_bytes(os.fsencode(path.as_posix()))}?{mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT)
    connection.execute("PRAGMA cell_size_check = ON")
    limit_instructions(connection, size_of(path))
    return connection


def _connect(path: Path, endpoints: Endpoints) -> sqlite3.Connection:
    """Return a connection for reading and writing; create the tables in an empty file."""
    connection = _connect_uri(path, "mode=rw")
    try:
        if not has_tables(connection, path):
            _create_tables(connection, endpoints)
        # The limit is for files that are not checked yet. A long batch would exceed it.
        remove_limit(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # Size of the cache: 8000 KiB. A batch mostly writes rows that it has just read or written,
        # so a larger cache would not make it faster.
        connection.execute("PRAGMA cache_size = -8000")
        # Size in bytes to which SQLite truncates the WAL. While many ids are added, the WAL can be
        # larger.
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # SQLite opens a read-only file, and even begins a transaction in it, without an error. So
        # write once now, to get the error before a batch starts.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("ROLLBACK")
        # Another user may have created one of these files after the first check.
        check_companions(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create_tables(connection: sqlite3.Connection, endpoints: Endpoints) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.executemany("INSERT INTO notes (key, value) VALUES (?, ?)", endpoints.notes.items())
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _check_contents(connection: sqlite3.Connection, path: Path, endpoints: Endpoints) -> None:
    """Raise if the file is not a journal, is damaged, or records other endpoints.

    A file of at most 64 MiB is checked completely, which takes about a second. A larger file is
    checked less thoroughly.
    """
    if not has_tables(connection, path):
        return
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    size = pages * page_size
    statements = (
        _PARTIAL_CHECK if size > _MEDIUM else _QUICK_CHECK if size > _SMALL else _FULL_CHECK
    )
    problems: list[str] = []
    if path.stat().st_size % page_size and not has_wal(path):
        problems.append("it ends within a page")
    try:
        for statement in statements:
            problems += [text for (text,) in connection.execute(statement) if text != "ok"]
    except sqlite3.DatabaseError as exc:
        if primary_code(exc) != sqlite3.SQLITE_CORRUPT:
            raise
        problems.append(str(exc))
    if problems:
        raise JournalDamagedError(problems, path=str(path))
    Endpoints.recorded(read_notes(connection, path), path).check(endpoints, path)
