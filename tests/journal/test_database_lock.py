"""DatabaseLock, the lock of journals where there is no flock(2)."""

import errno
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from adepoll import Journal
from adepoll.common import file_system
from adepoll.errors import JournalAccessError, JournalBusyError
from adepoll.journal import lock
from adepoll.journal.database_lock import DatabaseLock, holder_of

HOLDER = """
import os, sys, time
from pathlib import Path
from adepoll.journal.database_lock import DatabaseLock
lock = DatabaseLock.take(Path(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "batch.db"


def test_one_holder_at_a_time_and_no_file_stays(journal, tmp_path):
    first = DatabaseLock.take(journal)
    with pytest.raises(JournalBusyError):
        DatabaseLock.take(journal)
    first.release()
    first.release()
    assert holder_of(journal) is None
    assert [*tmp_path.iterdir()] == []
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(DatabaseLock.take, journal).result()
    second.release()
    assert [*tmp_path.iterdir()] == []


def test_the_lock_ends_with_its_process_and_names_it_before(journal):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(journal)], stdout=subprocess.PIPE
    ) as process:
        pid = int(process.stdout.readline())
        assert holder_of(journal) == pid
        with pytest.raises(JournalBusyError) as caught:
            DatabaseLock.take(journal)
        assert caught.value.pid == pid
        process.kill()
    assert holder_of(journal) is None
    DatabaseLock.take(journal).release()


def test_a_lock_that_another_program_has_locked_is_busy(journal, tmp_path):
    """Not taken by another file: nobody can read what the file is."""
    with closing(sqlite3.connect(tmp_path / "batch.db.lock", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalBusyError):
            DatabaseLock.take(journal)


@pytest.mark.posix  # removes an open file
def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(journal, tmp_path, monkeypatch):
    """The last holder removed the file between our opening it and our lock."""
    real, left = sqlite3.connect, [1]

    def connect(path, **options):
        connection = real(path, **options)
        if left and options["timeout"]:
            left.pop()
            connection.execute("PRAGMA user_version = 1")  # opens the file
            (tmp_path / "batch.db.lock").unlink()
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    lock = DatabaseLock.take(journal)
    with pytest.raises(JournalBusyError):
        DatabaseLock.take(journal)
    lock.release()


@pytest.mark.parametrize("kind", ["text", "database", "damaged", "link"])
def test_another_file_is_not_taken_for_the_lock(journal, tmp_path, kind):
    path = tmp_path / "batch.db.lock"
    if kind == "text":
        path.write_text("precious")
    elif kind in {"database", "damaged"}:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE precious (x)")
        if kind == "damaged":  # SQLite's message about it cannot be decoded
            path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"\xff\xfe\xfdATE TABLE"))
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = path.read_bytes() if kind != "link" else None
    with pytest.raises(JournalAccessError, match="taken by another file"):
        DatabaseLock.take(journal)
    assert holder_of(journal) is None
    assert (path.read_bytes() if kind != "link" else None) == before
    assert not (tmp_path / "elsewhere").exists()


async def test_a_journal_has_one_writer_where_there_is_no_flock(journal, monkeypatch):
    monkeypatch.setattr(file_system, "HAS_FLOCK", False)
    for _ in range(2):
        async with await Journal.open(journal, endpoint="https://api.example"):
            with pytest.raises(JournalBusyError):
                await Journal.open(journal, endpoint="https://api.example")
            assert lock.holder_of(journal) == os.getpid()
        assert lock.holder_of(journal) is None


def test_a_lock_that_cannot_be_created_says_why(tmp_path):
    journal = tmp_path / "missing" / "batch.db"
    with pytest.raises(JournalAccessError, match=r"batch\.db\.lock cannot be created: unable to"):
        DatabaseLock.take(journal)
    assert holder_of(journal) is None


def test_a_lock_file_that_cannot_be_removed_while_it_is_open_is_removed_later(
    journal, tmp_path, monkeypatch
):
    """As on Windows."""
    taken, unlink, tries = DatabaseLock.take(journal), Path.unlink, []

    def unlink_if_closed(path):
        tries.append(path)
        if len(tries) == 1:
            assert holder_of(journal) == os.getpid()
            raise PermissionError(errno.EACCES, "the file is open")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink_if_closed)
    taken.release()
    assert len(tries) == 2
    assert [*tmp_path.iterdir()] == []
