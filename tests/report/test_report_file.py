"""Reports of journals, also of running batches, are written completely or not at all."""

import asyncio
import html
import os
import shlex
import stat
import sys

import forkserver
import pytest
from files import become
from reporting import record
from waiting import supervised

from adepoll.errors import JournalError, JournalNotFoundError
from adepoll.journal import Acknowledged, Journal, Settled
from adepoll.report import write_atomically, write_report

ENDPOINT = "https://api.test"


@pytest.fixture
async def journal(tmp_path):
    path = tmp_path / "batch.db"
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["job-1", "job-2", "job-3"])
        one = record(1)
        await journal.write(Settled(one.snapshot, one.settled_at, fetching=False))
        await journal.write(Acknowledged("job-1", one.settled_at))
        await journal.set_note("options", "--out results")
        yield journal


async def closed(journal):
    await journal.aclose()
    return journal.path


async def command(*arguments, **options):
    process = await forkserver.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "adepoll", "report", *map(str, arguments)),
        **{"stdout": -1, "stderr": -1} | options,
    )
    async with supervised(process):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()


async def test_a_report_shows_the_contents_of_the_journal(journal, tmp_path):
    path = await closed(journal)
    write_report(path, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "1 of 3 jobs has an outcome; 2 are still open." in page
    assert ENDPOINT in page
    assert "--out results" in page


async def test_the_report_of_a_running_batch_says_so(journal, tmp_path):
    await asyncio.to_thread(write_report, journal.path, tmp_path / "r.html")
    assert "The batch is running." in (tmp_path / "r.html").read_text("utf-8")
    assert await journal.add(["job-4"]) == 1  # the report has not disturbed the run


async def test_only_the_owner_can_read_the_report(journal, tmp_path):
    before = os.umask(0)
    try:
        write_report(await closed(journal), tmp_path / "r.html")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.html").stat().st_mode) == 0o600


async def test_an_older_report_is_kept_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    write_atomically(path, "old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, "new")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_symbolic_link_is_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "r.html").symlink_to(tmp_path / "real" / "r.html")
    write_atomically(tmp_path / "r.html", "page")
    assert (tmp_path / "r.html").is_symlink()
    assert (tmp_path / "real" / "r.html").read_text() == "page"


@pytest.mark.posix  # Windows has no users with numbers
@pytest.mark.parametrize("is_link", [True, False])
def test_a_link_or_pipe_of_another_user_is_not_used(tmp_path, monkeypatch, is_link):
    """It stays as it is, and so does the file that the link points to."""
    planted, precious = tmp_path / "r.html", tmp_path / "precious"
    precious.write_text("old")
    if is_link:
        planted.symlink_to(precious)
    else:
        os.mkfifo(planted)
    if os.geteuid() == 0:
        os.chown(planted, 65534, 65534, follow_symlinks=False)
    else:
        become(os.geteuid() + 1, monkeypatch)
    with pytest.raises(PermissionError, match="of another user"):
        write_atomically(planted, "page")
    assert precious.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "precious"}


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(fifo, "page")
        assert os.read(reader, 100) == b"page"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_without_a_journal_no_report_is_written(tmp_path):
    with pytest.raises(JournalNotFoundError):
        write_report(tmp_path / "none.db", tmp_path / "r.html")
    (tmp_path / "odd.db").write_text("no journal")
    with pytest.raises(JournalError):
        write_report(tmp_path / "odd.db", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


# --- the command --------------------------------------------------------------------------------


async def test_the_command_writes_the_report_next_to_the_journal_and_prints_its_path(
    journal, tmp_path
):
    code, out, err = await command(await closed(journal), cwd="/")
    assert (code, out) == (0, "")
    path = tmp_path / "batch-report.html"
    assert err == f"{path}: report about 3 jobs, 2 still open\n"
    resume = shlex.join(["adepoll", "resume", str(journal.path)])
    assert resume in html.unescape(path.read_text("utf-8"))


@pytest.mark.posix  # the process of the command locks with flock(2), this one without
async def test_the_command_works_while_the_batch_is_running(journal, tmp_path):
    code, _, _ = await command(journal.path, "-o", tmp_path / "r.html")
    assert code == 0
    assert "The batch is running." in (tmp_path / "r.html").read_text("utf-8")


async def test_the_command_writes_to_stdout(journal, tmp_path):
    code, out, err = await command(await closed(journal), "-o", "-")
    assert (code, err) == (0, "")
    assert out.startswith("<!DOCTYPE html>")
    assert out.endswith("</html>")
    assert [*tmp_path.iterdir()] == [tmp_path / "batch.db"]


async def test_the_command_never_overwrites_the_journal(journal):
    path = await closed(journal)
    before = path.read_bytes()
    for end in ("", "-wal", "-shm", "-journal", ".lock"):
        code, _, err = await command(path, "-o", f"{path}{end}")
        assert code == 2
        assert "would overwrite the journal" in err
        assert err.count("\n") == 1
    assert path.read_bytes() == before


async def test_the_command_reports_an_error_in_one_line(journal, tmp_path):
    path = await closed(journal)
    code, _, err = await command(path, "-o", tmp_path / "none" / "r.html")
    assert code == 74
    assert (
        err
        == f"adepoll: cannot write {tmp_path}/none/r.html: No such file or directory; see --out\n"
    )
    code, _, err = await command(tmp_path / "none.db")
    assert code not in {0, 1}
    assert err.startswith("adepoll: ")
    assert err.count("\n") == 1
    assert "none.db" in err
