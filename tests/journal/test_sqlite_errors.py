"""Errors of SQLite become errors that say what to do."""

import errno
import os
import resource
import sqlite3

import pytest

from adepoll.errors import (
    JournalAccessError,
    JournalBusyError,
    JournalDamagedError,
    JournalWriteError,
)
from adepoll.journal.sqlite_errors import reading_error, writing_error

ROOM = 65_536  # bytes; a disk with less room counts as full
MEMORY = "out of memory; free some memory"
FULL = "the disk is full; free some space"


def caused(code, text="a text of SQLite"):
    """Return an error with this result code; without a code, the error is one of Python."""
    error = sqlite3.OperationalError(text)
    if code is not None:
        error.sqlite_errorcode = code
        error.sqlite_errorname = f"NAME_{code}"
    return error


@pytest.mark.parametrize(
    ("code", "kind", "text", "number"),
    [
        (sqlite3.SQLITE_CORRUPT, JournalDamagedError, "is damaged: a text of SQLite", None),
        (sqlite3.SQLITE_NOTADB, JournalDamagedError, "is damaged: a text of SQLite", None),
        (sqlite3.SQLITE_FORMAT, JournalDamagedError, "is damaged: a text of SQLite", None),
        (sqlite3.SQLITE_ERROR, JournalDamagedError, "is damaged: a text of SQLite", None),
        (sqlite3.SQLITE_INTERRUPT, JournalDamagedError, "damaged: a query did not end", None),
        (None, JournalDamagedError, "is damaged: a text is not valid UTF-8", None),
        (sqlite3.SQLITE_TOOBIG, JournalDamagedError, "is damaged: a value is too large", None),
        (sqlite3.SQLITE_BUSY, JournalBusyError, "in use by another program", None),
        (sqlite3.SQLITE_LOCKED, JournalBusyError, "in use by another program", None),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, JournalBusyError, "in use by another program", None),
        (sqlite3.SQLITE_FULL, JournalAccessError, FULL, errno.ENOSPC),
        (
            sqlite3.SQLITE_IOERR_READ,
            JournalAccessError,
            "its disk cannot be read (a text",
            errno.EIO,
        ),
        (sqlite3.SQLITE_READONLY, JournalAccessError, "make both writable", errno.EROFS),
        (sqlite3.SQLITE_CANTOPEN, JournalAccessError, "-wal and -shm files", errno.EACCES),
        (sqlite3.SQLITE_PERM, JournalAccessError, ": a text of SQLite", errno.EACCES),
        (sqlite3.SQLITE_NOMEM, JournalAccessError, MEMORY, errno.ENOMEM),
        (sqlite3.SQLITE_AUTH, JournalAccessError, ": a text of SQLite", None),
    ],
)
def test_an_error_of_reading_says_what_to_do(code, kind, text, number, tmp_path):
    error = reading_error(caused(code), tmp_path / "a.db")
    assert type(error) is kind
    assert text in str(error)
    assert (error.path, getattr(error, "errno", None)) == (str(tmp_path / "a.db"), number)


@pytest.mark.parametrize(
    ("code", "text", "number"),
    [
        (sqlite3.SQLITE_FULL, FULL, errno.ENOSPC),
        (
            sqlite3.SQLITE_IOERR_WRITE,
            "the disk failed (a text of SQLite); check the disk",
            errno.EIO,
        ),
        (sqlite3.SQLITE_READONLY, "make it and its folder writable", errno.EROFS),
        (sqlite3.SQLITE_NOMEM, MEMORY, errno.ENOMEM),
        (sqlite3.SQLITE_BUSY, "has locked it; end that program", None),
        (sqlite3.SQLITE_CANTOPEN, "a text of SQLite; solve this problem", errno.EACCES),
        (sqlite3.SQLITE_TOOBIG, "a text of SQLite; solve this problem", None),
        (None, "a text of SQLite; solve this problem", None),
    ],
)
def test_an_error_of_writing_says_what_to_do(code, text, number, tmp_path):
    error = writing_error(caused(code), tmp_path / "a.db")
    assert type(error) is JournalWriteError
    assert text in str(error)
    assert (error.path, error.errno) == (str(tmp_path / "a.db"), number)
    assert error.code == ("SQLITE_MISUSE" if code is None else f"NAME_{code}")


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR,
    ],
)  # fmt: skip
def test_a_write_to_a_damaged_journal_says_so(code, tmp_path):
    error = writing_error(caused(code, "file is not a database"), tmp_path / "a.db")
    assert type(error) is JournalDamagedError
    assert error.problems == ("file is not a database",)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY])
def test_a_journal_in_memory_has_neither_a_disk_nor_other_users(code):
    for error in reading_error(caused(code), None), writing_error(caused(code), None):
        assert type(error) in {JournalAccessError, JournalWriteError}
        assert error.path is None


NO_ROOM = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "your disk quota is exceeded; free some space",
    errno.EROFS: "the file system is read-only now; make it writable",
}


@pytest.mark.parametrize("error_of", [reading_error, writing_error])
@pytest.mark.parametrize("number", NO_ROOM)
def test_an_io_error_has_the_cause_that_the_next_write_reports(
    error_of, number, monkeypatch, tmp_path
):
    def errno_of(code):
        return getattr(error_of(caused(code), tmp_path / "a.db"), "errno", None)

    def fail(_fd):
        raise OSError(number, os.strerror(number))

    assert errno_of(sqlite3.SQLITE_IOERR) == errno.EIO
    monkeypatch.setattr(os, "fsync", fail)
    assert NO_ROOM[number] in str(error_of(caused(sqlite3.SQLITE_IOERR), tmp_path / "a.db"))
    assert errno_of(sqlite3.SQLITE_IOERR) == number
    assert errno_of(sqlite3.SQLITE_IOERR_SHMSIZE) == number
    for code in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ):
        assert errno_of(code) == errno.EIO, "reading needs no space"
    assert errno_of(sqlite3.SQLITE_READONLY) == errno.EROFS
    assert errno_of(sqlite3.SQLITE_CORRUPT) is None
    assert not [*tmp_path.iterdir()]


def test_only_a_file_that_cannot_be_opened_can_be_one_file_too_many(monkeypatch, tmp_path):
    limit = OSError(errno.EMFILE, "too many open files")
    monkeypatch.setattr("adepoll.journal.sqlite_errors.too_few_files_left", lambda: limit)
    numbers = [
        reading_error(caused(code), tmp_path / "a.db").errno
        for code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    ]
    assert numbers == [errno.EMFILE, errno.EROFS]


@pytest.mark.parametrize("error_of", [reading_error, writing_error])
def test_an_io_error_of_a_disk_that_is_gone_stays_one(error_of, tmp_path):
    error = error_of(caused(sqlite3.SQLITE_IOERR), tmp_path / "gone" / "a.db")
    assert error.errno == errno.EIO


@pytest.mark.posix
@pytest.mark.parametrize("error_of", [reading_error, writing_error])
@pytest.mark.parametrize("name", ["a.db", "a.db-wal"])
def test_an_io_error_near_the_limit_of_the_size_of_files_names_the_limit(
    error_of, name, monkeypatch, tmp_path
):
    (tmp_path / name).write_bytes(bytes(1_000))

    def errno_of(code, limit):
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
        return getattr(error_of(caused(code), tmp_path / "a.db"), "errno", None)

    assert errno_of(sqlite3.SQLITE_IOERR, ROOM + 1_000) == errno.EIO
    assert errno_of(sqlite3.SQLITE_IOERR, ROOM + 999) == errno.EFBIG
    assert errno_of(sqlite3.SQLITE_READONLY, ROOM + 999) == errno.EROFS
    assert errno_of(sqlite3.SQLITE_IOERR, resource.RLIM_INFINITY) == errno.EIO
