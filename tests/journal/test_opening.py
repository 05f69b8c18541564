"""Which files are opened as a journal and which are refused; refused files are not changed."""

import errno
import hashlib
import os
import random
import shutil
import socket
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from amounts import more
from internals import on_connection

from adepoll import Journal
from adepoll.api.models import JobSnapshot
from adepoll.common import file_system
from adepoll.errors import (
    ConfigurationError,
    JournalAccessError,
    JournalBusyError,
    JournalDamagedError,
    JournalEndpointError,
    JournalError,
    JournalFormatError,
    JournalNotFoundError,
    NotAJournalError,
)
from adepoll.journal import JournalReader, RecordFilter, Settled, file_lock
from adepoll.journal.lock import holder_of, take_lock
from adepoll.journal.schema import APPLICATION_ID, FORMAT

ENDPOINT = "https://api.example"
PAGE = 4096


def open_(path, endpoint=ENDPOINT, **options):
    return Journal.open(path, endpoint=endpoint, **options)


def settled(number):
    job = (
        f'{{"job_id":"j{number}","status":"failed","received_at":0,"progress":1,'
        f'"failure_reason":"{"reason " * (number % 900)}"}}'
    )
    return Settled(JobSnapshot.from_json(job), float(number), fetching=False)


@pytest.fixture
async def written(path):
    """The bytes of a closed journal with several hundred pages."""
    async with await open_(path) as journal:
        await journal.add([f"j{n}" for n in range(3_000)])
        await journal.write(*map(settled, range(0, 3_000, 10)))
    return path.read_bytes()


def digests(folder):
    return {
        found.name: hashlib.sha256(found.read_bytes()).hexdigest() for found in folder.iterdir()
    }


# --- new journals -------------------------------------------------------------------------------


async def test_an_empty_file_becomes_a_private_journal(path):
    path.touch(0o644)
    async with await open_(path) as journal:
        assert await journal.add(["a"]) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_journal_that_must_exist_is_not_created(path, tmp_path):
    with pytest.raises(JournalNotFoundError) as caught:
        await open_(path, must_exist=True)
    assert str(path) in str(caught.value)
    assert [*tmp_path.iterdir()] == []


async def test_a_missing_folder_is_named_and_not_created(tmp_path):
    with pytest.raises(JournalAccessError, match=r"there is no folder .*missing") as caught:
        await open_(tmp_path / "missing" / "batch.db")
    assert caught.value.errno == 2
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
async def test_an_impossible_file_name_is_refused(tmp_path, name):
    with pytest.raises(JournalAccessError) as caught:
        await open_(tmp_path / name)
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a b.db", "a?b#c%41.db", "ünï.db", "-x", "a'b\"c", os.fsdecode(b"\xff.db"), ":memory:"]
)
async def test_any_other_name_is_taken_literally(tmp_path, name):
    async with await open_(tmp_path / name) as journal:
        await journal.add(["a"])
    assert [found.name for found in tmp_path.iterdir()] == [name]
    with JournalReader(tmp_path / name) as reader:
        assert reader.counts().jobs == 1


async def test_a_relative_path_stays_the_same_file_when_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with await open_("batch.db") as journal:
        monkeypatch.chdir("/")
        await journal.add(["a"])
        assert journal.path == tmp_path / "batch.db"
    assert (tmp_path / "batch.db").stat().st_size


async def test_an_old_sqlite_is_refused(monkeypatch, path):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(ConfigurationError, match=r"3\.37"):
        await open_(path)
    with pytest.raises(ConfigurationError, match=r"3\.37"):
        await Journal.in_memory(endpoint=ENDPOINT)


# --- the service of a journal -------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    ["https://api.eu.example", "http://api.example", "https://api.example:8443", f"{ENDPOINT}/v2"],
)
async def test_a_journal_of_another_service_is_refused_with_both_named(path, other):
    async with await open_(path) as journal:
        await journal.add(["a"])
    before = digests(path.parent)
    with pytest.raises(JournalEndpointError) as caught:
        await open_(path, other)
    assert (caught.value.theirs, caught.value.ours) == (ENDPOINT, other)
    assert ENDPOINT in str(caught.value)
    assert other in str(caught.value)
    assert digests(path.parent) == before


@pytest.mark.parametrize("same", ["HTTPS://API.example/", "https://api.example:443"])
async def test_equivalent_urls_are_the_same_service(path, same):
    await (await open_(path)).aclose()
    async with await open_(path, same) as journal:
        assert journal.endpoints.v1 == ENDPOINT


@pytest.mark.parametrize("bad", ["", "api.example", "https://", "https://h:port", "https://[::"])
async def test_an_endpoint_that_is_not_a_url_is_refused(path, bad):
    with pytest.raises(ConfigurationError):
        await open_(path, bad)


# --- files that are not journals ----------------------------------------------------------------


async def test_a_newer_format_is_refused_and_not_changed(path, written):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = digests(path.parent)
    for opening in (open_, _read):
        with pytest.raises(JournalFormatError, match="upgrade adepoll"):
            await opening(path)
    assert digests(path.parent) == before


async def _read(path):
    JournalReader(path)


@pytest.mark.parametrize(
    "content", [b"x", b"job-1\njob-2\n" * 1_000, bytes(8192), b"SQLite format 3"], ids=range(4)
)
@pytest.mark.parametrize("opening", [open_, _read])
async def test_a_file_that_is_not_sqlite_is_refused_and_not_changed(path, content, opening):
    path.write_bytes(content)
    before = path.stat()
    with pytest.raises(NotAJournalError):
        await opening(path)
    assert path.read_bytes() == content
    assert path.stat().st_mode == before.st_mode
    assert [found.name for found in path.parent.iterdir()] == ["batch.db"]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_an_sqlite_file_of_another_program_is_refused_and_not_changed(path, mode):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE jobs (number, job_id)")
    connection.close()
    before = digests(path.parent)
    for opening in (open_, _read):
        with pytest.raises(NotAJournalError, match="another program"):
            await opening(path)
    assert digests(path.parent) == before


@pytest.mark.parametrize(
    ("application", "version", "table", "error"),
    [
        (0, 0, False, None),
        (0, 1, False, NotAJournalError),
        (0, 0, True, NotAJournalError),
        (1, 0, False, NotAJournalError),
        (APPLICATION_ID, FORMAT, False, JournalDamagedError),
        (APPLICATION_ID, FORMAT + 1, False, JournalFormatError),
    ],
)
async def test_an_sqlite_file_without_anything_is_an_empty_file(
    path, application, version, table, error
):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute(f"PRAGMA user_version = {version}")
        if not table:
            connection.execute("DROP TABLE t")
        connection.commit()
    assert path.stat().st_size
    if error is None:
        async with await open_(path) as journal:
            assert await journal.add(["a"]) == 1
    else:
        with pytest.raises(error):
            await open_(path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket"])
async def test_a_path_that_is_not_a_regular_file_is_refused_immediately(path, kind, monkeypatch):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(path.name)
    for opening in (open_, _read):
        with pytest.raises(NotAJournalError):
            await opening(path)


async def test_a_missing_or_empty_journal_cannot_be_read(path):
    with pytest.raises(JournalNotFoundError):
        JournalReader(path)
    path.touch()
    with pytest.raises(NotAJournalError, match="empty"):
        JournalReader(path)


# --- damage -------------------------------------------------------------------------------------


def cut(data, rng):
    return data[: len(data) - rng.randrange(1, 2 * PAGE)]


def zero_last_page(data, _rng):
    return data[:-PAGE] + bytes(PAGE)


def tear_last_page(data, rng):
    """Only the first part of the page was written."""
    kept = rng.randrange(1, 7) * 512
    return data[: -PAGE + kept] + bytes(PAGE - kept)


def garble_last_page(data, rng):
    return data[:-PAGE] + rng.randbytes(PAGE)


def garble_any_page(data, rng):
    start = rng.randrange(1, len(data) // PAGE) * PAGE
    return data[:start] + rng.randbytes(PAGE) + data[start + PAGE :]


def zero_any_page(data, rng):
    start = rng.randrange(1, len(data) // PAGE) * PAGE
    return data[:start] + bytes(PAGE) + data[start + PAGE :]


@pytest.mark.parametrize("seed", more([0], [1, 2, 3]))
@pytest.mark.parametrize(
    "harm",
    [cut, zero_last_page, tear_last_page, garble_last_page, garble_any_page, zero_any_page],
    ids=lambda harm: harm.__name__,
)
async def test_a_damaged_journal_is_refused_and_not_changed(path, written, harm, seed):
    path.write_bytes(harm(written, random.Random(seed)))
    before = digests(path.parent)
    with pytest.raises(JournalDamagedError, match=r"\.recover") as caught:
        await open_(path)
    assert caught.value.problems
    assert digests(path.parent) == before


async def test_a_damaged_journal_with_a_wal_is_not_changed(path, tmp_path):
    """A connection that may write would move the WAL into the file when it is closed."""
    there = tmp_path / "copy"
    there.mkdir()
    async with await open_(path) as journal:
        await journal.add([f"j{n}" for n in range(3_000)])
        await journal.write(*map(settled, range(0, 3_000, 10)))
    async with await open_(path) as journal:
        await journal.write(settled(1))
        for name in ("batch.db", "batch.db-wal"):
            shutil.copy(path.with_name(name), there)
    copy = there / "batch.db"
    copy.write_bytes(garble_last_page(copy.read_bytes(), random.Random(1)))
    before = digests(there)
    with pytest.raises(JournalDamagedError):
        await open_(copy)
    after = digests(there)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() <= {"batch.db-shm"}


@pytest.mark.parametrize("table", ["notes", "data", "jobs"])
async def test_a_journal_without_one_of_its_tables_is_damaged(path, written, table):
    connection = sqlite3.connect(path)
    connection.execute(f"DROP TABLE {table}")
    connection.commit()
    connection.close()
    with pytest.raises(JournalDamagedError):
        async with await open_(path) as journal:
            await journal.records(RecordFilter.WITH_OUTCOME)


@pytest.mark.parametrize("key", ["endpoint", "v2_endpoint"])
async def test_a_journal_without_endpoint_is_damaged(path, written, key):
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM notes WHERE key = ?", (key,))
    connection.commit()
    connection.close()
    for opening in (open_, _read):
        with pytest.raises(JournalDamagedError, match="address of its service"):
            await opening(path)


async def test_an_unreadable_record_is_damage_and_is_named_by_its_number(path, written):
    async with await open_(path) as journal:
        connection = sqlite3.connect(path)
        connection.execute("UPDATE jobs SET snapshot = '{\"secret\": 1}' WHERE job_id = 'j10'")
        connection.commit()
        connection.close()
        with pytest.raises(JournalDamagedError, match="job number 11 cannot be read") as caught:
            await journal.records(RecordFilter.WITH_OUTCOME)
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None
        with JournalReader(path) as reader, pytest.raises(JournalDamagedError, match="number 11"):
            list(reader.records())


async def test_damage_to_an_open_journal_is_reported(path, written):
    async with await open_(path) as journal:
        with path.open("r+b") as file:
            file.seek(3 * PAGE)
            file.write(os.urandom(len(written) - 3 * PAGE))
        on_connection(journal, lambda connection: connection.execute("PRAGMA shrink_memory"))
        with pytest.raises(JournalDamagedError):
            await journal.records(RecordFilter.WITH_OUTCOME)
        with pytest.raises(JournalDamagedError):
            await journal.add(["another"])


@pytest.mark.parametrize("seed", range(6))
async def test_a_truncated_wal_contains_the_writes_before_the_cut(path, tmp_path, seed):
    async with await open_(path) as journal:
        await journal.add([f"j{n}" for n in range(100)])
        for number in range(100):
            await journal.write(settled(number))
        there = tmp_path / "copy"
        there.mkdir()
        shutil.copy(path, there)
        wal = path.with_name("batch.db-wal").read_bytes()
    kept = random.Random(seed).randrange(len(wal) // 2, len(wal))
    (there / "batch.db-wal").write_bytes(wal[:kept])
    async with await open_(there / "batch.db") as journal:
        ended = [record.job_id for record in await journal.records(RecordFilter.WITH_OUTCOME)]
    assert ended == [f"j{n}" for n in range(len(ended))]
    assert 0 < len(ended) < 100


async def test_an_error_of_a_check_other_than_corruption_has_its_own_text(
    path, written, monkeypatch
):
    check = ("SELECT zeroblob(3000000000)",)
    monkeypatch.setattr("adepoll.journal.opening._FULL_CHECK", check)
    with pytest.raises(JournalDamagedError) as caught:
        await open_(path)
    assert caught.value.problems == ("a value is too large",)


async def test_the_size_of_a_journal_decides_how_thoroughly_it_is_checked(
    path, written, monkeypatch
):
    opening = "adepoll.journal.opening"
    for name in ("full", "quick", "partial"):
        monkeypatch.setattr(f"{opening}._{name.upper()}_CHECK", (f"SELECT '{name}'",))
    size = path.stat().st_size
    for small, medium, check in (
        (size, size, "full"),
        (size - 1, size, "quick"),
        (size - 1, size - 1, "partial"),
    ):
        monkeypatch.setattr(f"{opening}._SMALL", small)
        monkeypatch.setattr(f"{opening}._MEDIUM", medium)
        with pytest.raises(JournalDamagedError) as caught:
            await open_(path)
        assert caught.value.problems == (check,)


@pytest.mark.parametrize("mark", ["_SMALL", "_MEDIUM"])
@pytest.mark.parametrize("harm", [cut, zero_last_page, garble_any_page])
async def test_a_large_damaged_journal_is_refused_after_a_shorter_check(
    path, written, harm, mark, monkeypatch
):
    monkeypatch.setattr("adepoll.journal.opening._SMALL", 0)
    monkeypatch.setattr(f"adepoll.journal.opening.{mark}", 0)
    await (await open_(path)).aclose()
    path.write_bytes(harm(path.read_bytes(), random.Random(1)))
    with pytest.raises(JournalDamagedError) as caught:
        await open_(path)
    assert ("it ends within a page" in caught.value.problems) == (harm is cut)


# --- missing permissions ------------------------------------------------------------------------


async def test_a_read_only_folder_is_refused_for_writing(folder_as_nobody, request):
    folder = folder_as_nobody / "folder"
    folder.mkdir()
    async with await open_(folder / "batch.db") as journal:
        await journal.add(["a"])
    folder.chmod(0o500)
    request.addfinalizer(lambda: folder.chmod(0o700))
    for name in ("batch.db", "new.db"):
        with pytest.raises(JournalAccessError) as caught:
            await open_(folder / name)
        assert caught.value.errno == 13
    with JournalReader(folder / "batch.db") as reader:
        assert reader.counts().jobs == 1
    assert [found.name for found in folder.iterdir()] == ["batch.db"]


async def test_a_read_only_file_is_refused_for_writing(folder_as_nobody):
    path = folder_as_nobody / "batch.db"
    async with await open_(path) as journal:
        await journal.add(["a"])
    path.chmod(0o400)
    with pytest.raises(JournalAccessError, match="read-only"):
        await open_(path)
    with JournalReader(path) as reader:
        assert reader.counts().jobs == 1
    assert [found.name for found in folder_as_nobody.iterdir()] == ["batch.db"]


async def test_an_unreadable_file_is_refused(folder_as_nobody):
    path = folder_as_nobody / "batch.db"
    await (await open_(path)).aclose()
    path.chmod(0)
    for opening in (open_, _read):
        with pytest.raises(JournalAccessError):
            await opening(path)


# --- the lock -----------------------------------------------------------------------------------


async def test_a_link_to_the_journal_is_the_same_journal(path, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with await open_(link) as journal:
        assert journal.path == path
        await journal.add(["a"])
        with pytest.raises(JournalBusyError):
            await open_(path)
        with JournalReader(link) as reader:
            assert (reader.path, reader.counts().jobs) == (path, 1)
    assert {found.name for found in tmp_path.iterdir()} == {"link.db", "batch.db"}


@pytest.mark.posix
async def test_the_lock_file_of_a_killed_process_does_not_lock(path):
    path.with_name("batch.db.lock").write_text("4711\n")
    async with await open_(path) as journal:
        await journal.add(["a"])
        assert holder_of(path) == os.getpid()
    assert not path.with_name("batch.db.lock").exists()


@pytest.mark.parametrize("what", ["link", "folder", pytest.param("pipe", marks=pytest.mark.posix)])
async def test_a_lock_path_that_is_not_a_file_is_refused(path, tmp_path, what):
    lock = path.with_name("batch.db.lock")
    if what == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    elif what == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(JournalAccessError, match=r"batch\.db\.lock") as caught:
        await open_(path)
    assert ("something that is not a file" in str(caught.value)) == (what == "pipe")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.posix
def test_a_process_that_looks_for_the_holder_is_not_the_holder(path):
    lock = path.with_name("batch.db.lock")
    lock.write_text("4711\n")  # left by a process that was killed
    with lock.open() as other:
        file_system.lock(other.fileno(), shared=True)  # as `holder_of` does
        assert holder_of(path) is None
        file_system.lock(other.fileno())
        assert holder_of(path) == 4711


@pytest.mark.posix
def test_a_lock_file_that_was_removed_or_replaced_is_not_locked(tmp_path):
    path = tmp_path / "batch.db.lock"
    with path.open("w") as file:
        path.unlink()
        assert not file_lock._try_lock(file.fileno(), path)
        path.touch()
        assert not file_lock._try_lock(file.fileno(), path)
    with path.open("w") as file:
        assert file_lock._try_lock(file.fileno(), path)


def test_a_lock_is_never_held_twice_when_it_is_often_released(path):
    held, counts = [], []

    def take():
        for _ in range(200):
            try:
                lock = take_lock(path)
            except JournalBusyError:
                continue
            held.append(1)
            counts.append(len(held))
            time.sleep(0)
            held.pop()
            lock.release()
            lock.release()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(counts) == {1}


@pytest.mark.posix
def test_a_release_does_not_remove_another_lock(path):
    ours = take_lock(path)
    path.with_name("batch.db.lock").unlink()  # as a user might do
    theirs = take_lock(path)
    ours.release()
    assert holder_of(path) == os.getpid()
    theirs.release()
    assert holder_of(path) is None


async def test_a_refused_opening_leaves_no_lock_file(path):
    path.write_text("no journal")
    for _ in range(2):
        with pytest.raises(JournalError):
            await open_(path)
    assert [found.name for found in path.parent.iterdir()] == ["batch.db"]


@pytest.mark.parametrize("exists", [True, False])
async def test_an_error_of_the_file_system_while_a_journal_is_created_is_told(
    path, monkeypatch, exists
):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    if exists:
        path.touch()
        monkeypatch.setattr(Path, "chmod", fail)
    else:
        monkeypatch.setattr(file_system, "sync_folder", fail)
    with pytest.raises(JournalAccessError, match="Input/output error"):
        await Journal.open(path, endpoint=ENDPOINT)
