"""What a file must be to be opened as a journal, and how it is made. Imports the lock and below.

Nobody but SQLite opens a journal that exists: closing it would drop SQLite's locks on it, of
every connection of this process (sqlite.org/howtocorrupt.html, section 2.2).
"""

import errno
import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes, urlsplit

from attrs import frozen

from adepoll.errors import (
    ConfigurationError,
    JournalAccessError,
    JournalDamagedError,
    JournalEndpointError,
    JournalFormatError,
    JournalNotFoundError,
    NotAJournalError,
)
from adepoll.journal.failing import not_opened, primary_code
from adepoll.journal.lock import JournalLock
from adepoll.journal.schema import APPLICATION_ID, FORMAT, RULES, STATEMENTS
from adepoll.redaction import redact_url, showable

_OLDEST_SQLITE: Final = (3, 37)  # which brought STRICT tables, November 2021
_SMALLEST: Final = 512  # bytes; of a page, of which an SQLite file has one at least
_BUSY_TIMEOUT: Final = 10.0  # seconds; for a sqlite3 shell that writes
_SMALL: Final = 64 * 2**20  # bytes that are checked through and through in a second or so
_MEDIUM: Final = 4 * 2**30  # up to here, each page is still looked at
# Damage within a value shows in no page's structure: but mostly in an index, or as no JSON.
_RULES: Final = (
    "SELECT 'job number ' || number || ' makes no sense' FROM jobs WHERE NOT ("  # noqa: S608 - of constants
    f"{' AND '.join(f'({rule})' for rule in RULES.values())}) LIMIT 10"
)
_THOROUGH: Final = [
    "PRAGMA integrity_check(10)",
    _RULES,
    "SELECT 'no JSON in data of number ' || number FROM data WHERE NOT json_valid(json) LIMIT 10",
]
_QUICK: Final = ["PRAGMA quick_check(10)", _RULES]
_PARTIAL: Final = ["PRAGMA quick_check(jobs)", "PRAGMA quick_check(notes)", _RULES]
_EFFECTIVE: Final = os.access in os.supports_effective_ids
_PORTS: Final = {"https": 443, "http": 80}


@frozen
class Opened:
    """A journal that may be used.

    Attributes:
        connection: To it, and of the thread that opened it.
        path: The file, absolute, links followed; None in memory.
        lock: That it is ours; None in memory.
    """

    connection: sqlite3.Connection
    path: Path | None
    lock: JournalLock | None

    def close(self) -> None:
        """Close it, and let others have it."""
        try:
            self.connection.close()
        finally:
            if self.lock is not None:
                self.lock.release()


def read_endpoint(endpoint: str) -> str:
    """Give the address of an API in the one form in which addresses are compared.

    Raises:
        ConfigurationError: It is none, or has a part that could be a secret.
    """
    try:
        parts = urlsplit(endpoint)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or "@" in parts.netloc or "?" in endpoint or "#" in endpoint:
        shown = showable(redact_url(endpoint), 120)
        raise ConfigurationError(f"endpoint must be an address like https://host, not {shown}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    told = "" if port == _PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{host}{told}{parts.path.rstrip('/')}"


def open_in_memory(endpoint: str) -> Opened:
    """Make a journal that ends with its connection."""
    _check_sqlite()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _create(connection, endpoint)
    return Opened(connection, None, None)


def open_file(given: str | os.PathLike[str], endpoint: str, *, must_exist: bool) -> Opened:
    """Open a journal, made where there is none, for this process alone.

    Raises:
        JournalError: One of its subclasses says why it cannot be.
    """
    _check_sqlite()
    path = resolve(given)
    found = examine(path)
    if found is None and must_exist:
        raise JournalNotFoundError(path=str(path))
    lock = JournalLock.take(path)
    try:
        # Looked at once more, now that nobody can make or fill it meanwhile.
        found = examine(path)
        if found is None:
            _make(path)
        elif not found.st_size:
            _make_private(path)
        else:
            _check_access(path)
        if found is not None and found.st_size and not _is_half_made(path):
            # What is refused stays as it is: who may write would move the WAL into it at the end.
            with closing(connect_to_read(path)) as connection:
                _check(connection, path, endpoint)
        return Opened(_connect(path, endpoint), path, lock)
    except sqlite3.Error as exc:
        lock.release()
        raise not_opened(exc, path) from exc
    except BaseException:
        lock.release()
        raise


def resolve(given: str | os.PathLike[str]) -> Path:
    """Give the absolute path, links followed: whoever goes by another name gets the same lock.

    Raises:
        JournalAccessError: No file can have that name.
    """
    try:
        return Path(os.path.realpath(given))
    except ValueError as exc:
        raise JournalAccessError(str(exc), path=os.fspath(given), errno=errno.EINVAL) from exc


def examine(path: Path) -> os.stat_result | None:
    """Tell what is there; None where nothing is, and a journal could be.

    Raises:
        NotAJournalError: Something that is no file.
        JournalAccessError: There is no such folder, or it cannot be looked into.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.parent.is_dir():
            return None
        raise JournalAccessError(
            f"there is no folder {showable(str(path.parent))}; make it first",
            path=str(path),
            errno=errno.ENOENT,
        ) from None
    except (OSError, ValueError) as exc:
        raise _no_access(path, exc) from exc
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise NotAJournalError(path=str(path), reason=f"it is {what}")
    if 0 < found.st_size < _SMALLEST:  # which SQLite takes for empty, and would write over
        raise NotAJournalError(
            path=str(path), reason=f"it has {found.st_size} bytes (or is a journal that was cut)"
        )
    return found


def wal_of(path: Path) -> Path:
    """Name the file that holds what was written last, and belongs to the journal."""
    return path.with_name(f"{path.name}-wal")


def has_wal(path: Path) -> bool:
    """Tell whether something written stands beside the journal, or is about to."""
    try:
        return wal_of(path).stat().st_size > 0
    except OSError:
        return False


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect without writing into the folder, as far as that can be; raises `sqlite3.Error`.

    Where no WAL stands beside it, nobody writes, and SQLite needs neither lock nor -shm.
    """
    mode = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    return _connect_uri(path, mode)


def check_kind(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell a journal, true, from a file that is about to become one, false.

    Raises:
        NotAJournalError: It is neither.
        JournalFormatError: It is of a newer version.
    """
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (things,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as exc:
        if primary_code(exc) != sqlite3.SQLITE_NOTADB:
            raise
        raise NotAJournalError(
            path=str(path),
            reason="it is no SQLite file (or a journal whose beginning was overwritten)",
        ) from exc
    if not application and not version and not things:
        return False
    if application != APPLICATION_ID:
        raise NotAJournalError(path=str(path), reason="it is the SQLite file of another program")
    if version > FORMAT:
        raise JournalFormatError(path=str(path), found=version, known=FORMAT)
    return True


def _check_sqlite() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        oldest = ".".join(map(str, _OLDEST_SQLITE))
        raise ConfigurationError(
            f"journals need SQLite {oldest} or newer, and this Python has {sqlite3.sqlite_version}"
        )


def _no_access(path: Path, exc: OSError | ValueError) -> JournalAccessError:
    if isinstance(exc, OSError):
        return JournalAccessError(exc.strerror or str(exc), path=str(path), errno=exc.errno)
    return JournalAccessError(str(exc), path=str(path), errno=errno.EINVAL)


def _make(path: Path) -> None:
    """Make the file with its mode: SQLite goes by the umask, and gives -wal and -shm the same."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
        # Without this, its name can be lost in a power cut though its pages are not (fsync(2)).
        with suppress(PermissionError):  # a folder may be written to and not read
            fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as exc:
        raise _no_access(path, exc) from exc


def _make_private(path: Path) -> None:
    try:
        path.chmod(0o600)
    except OSError as exc:
        raise _no_access(path, exc) from exc


def _check_access(path: Path) -> None:
    """Refuse what SQLite would open to be read, leaving a -wal behind."""
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
        raise JournalAccessError(
            "it may only be read, or not even that; make it readable and writable",
            path=str(path),
            errno=errno.EACCES,
        )


def _is_half_made(path: Path) -> bool:
    """Tell whether its maker was killed; SQLite must be allowed to write to take that back."""
    return path.with_name(f"{path.name}-journal").exists()


def _connect_uri(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote_from_bytes(os.fsencode(path))}?{mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT)


def _connect(path: Path, endpoint: str) -> sqlite3.Connection:
    connection = _connect_uri(path, "mode=rw")
    try:
        if not check_kind(connection, path):
            _create(connection, endpoint)
        connection.execute("PRAGMA journal_mode = WAL")
        # A batch writes what it has just written or read; a larger cache would only fill up.
        connection.execute("PRAGMA cache_size = -8000")  # KB
        connection.execute("PRAGMA journal_size_limit = 67108864")  # of a WAL after a large `add`
        # A file that may only be read is opened all the same, and would be refused much later; even
        # a transaction can be begun in it.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("ROLLBACK")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection, endpoint: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO notes (key, value) VALUES ('endpoint', ?)", (endpoint,))
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path, endpoint: str) -> None:
    """Refuse what is no journal, is damaged, or of another service; a new one is nothing of these.

    The larger the file, the less it is searched for damage, so that this takes seconds at most.
    """
    connection.execute("PRAGMA cell_size_check = ON")
    if not check_kind(connection, path):
        return
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    size = pages * page_size
    statements = _PARTIAL if size > _MEDIUM else _QUICK if size > _SMALL else _THOROUGH
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
    _check_endpoint(connection, path, endpoint)


def _check_endpoint(connection: sqlite3.Connection, path: Path, endpoint: str) -> None:
    row = connection.execute("SELECT value FROM notes WHERE key = 'endpoint'").fetchone()
    if row is None:
        raise JournalDamagedError(["it does not say of which service it is"], path=str(path))
    if row[0] != endpoint:
        raise JournalEndpointError(path=str(path), theirs=row[0], ours=endpoint)
