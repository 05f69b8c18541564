"""The journal stays correct when processes are killed, start twice or run out of disk."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import sys
from contextlib import nullcontext
from pathlib import Path

import forkserver
import pytest
from amounts import counts
from files import small_file_system

from adepoll import Journal
from adepoll.errors import JournalBusyError, JournalError
from adepoll.journal import JournalReader, RecordFilter

WRITER = Path(__file__).parents[1] / "support" / "journalling.py"
ENDPOINT = "https://api.example"


async def start(path, first, count, *, start=forkserver.create_subprocess_exec, **options):
    return await start(
        sys.executable, "-W", "error", WRITER, path, str(first), str(count),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, **options,
    )  # fmt: skip


def is_sound(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.mark.posix
@pytest.mark.parametrize("kills", counts("ADEPOLL_KILLS", default=3, most=12))
async def test_acknowledged_writes_survive_a_kill(path, kills):
    rng = random.Random(6)
    acknowledged, added = set(), 0
    for life in range(kills):
        process = await start(path, life * 2_000, 2_000)
        patience = rng.randrange(0, 400)  # lines
        seen = []
        while len(seen) < patience and (line := await process.stdout.readline()):
            seen.append(line)
        process.kill()
        out, err = await process.communicate()
        assert process.returncode in {-signal.SIGKILL, 0}, err  # 0: it has ended before the kill
        # The last line may be incomplete: that write was acknowledged, but its id is not known.
        lines = [line.decode() for line in (*seen, *out.splitlines(keepends=True))]
        lines = [line.strip() for line in lines if line.endswith("\n")]
        added += 2_000 * ("added" in lines)
        acknowledged.update(set(lines) - {"open", "added", "closed"})
        with (
            JournalReader(path)
            if path.exists() and path.stat().st_size
            else nullcontext() as reader
        ):
            assert reader is None or reader.holder is None
    assert acknowledged
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        counts = await journal.counts()
        assert counts.jobs >= added
        there, after = set(), 0
        while page := await journal.records(RecordFilter.WITH_OUTCOME, after=after, limit=1_000):
            there.update(record.job_id for record in page)
            after = page[-1].number
        assert acknowledged <= there
        assert len(there) - len(acknowledged) <= 8 * kills  # one for each writer of each life
    assert is_sound(path)


@pytest.mark.posix
@pytest.mark.parametrize("moment", range(6))
async def test_a_kill_during_creation_leaves_a_usable_file_or_no_file(path, moment):
    """The process is killed after `moment` of the statements that create the file."""
    code = f"""
import os, signal, sqlite3, adepoll.journal.opening as opening
calls = 0
connect = sqlite3.connect
def traced(*args, **kwargs):
    connection = connect(*args, **kwargs)
    connection.set_trace_callback(step)
    return connection
def step(statement):
    global calls
    if statement.lstrip().startswith(("BEGIN", "CREATE TABLE", "COMMIT", "PRAGMA journal_mode")):
        calls += 1
        if calls > {moment}:
            os.kill(os.getpid(), signal.SIGKILL)
opening.sqlite3.connect = traced
opening.open_file({str(path)!r}, opening.Endpoints.of({ENDPOINT!r}), must_exist=False)
"""
    process = await forkserver.create_subprocess_exec(sys.executable, "-W", "error", "-c", code)
    assert await process.wait() == -signal.SIGKILL
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        assert await journal.add(["a"]) == 1
    assert [found.name for found in path.parent.iterdir()] == ["batch.db"]
    assert is_sound(path)


@pytest.mark.posix
async def test_a_second_process_gets_the_pid_of_the_first_which_continues(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
        second = await start(path, 0, 10)
        out, err = await second.communicate()
        assert second.returncode == 1
        assert out == b""
        assert f"is in use by process {os.getpid()}".encode() in err
        assert await journal.add(["b"]) == 1
    assert is_sound(path)


@pytest.mark.posix
async def test_the_error_names_the_process_that_has_the_journal(path):
    first = await start(path, 0, 20_000)
    try:
        assert await first.stdout.readline() == b"open\n"
        with pytest.raises(JournalBusyError) as caught:
            await Journal.open(path, endpoint=ENDPOINT)
        assert caught.value.pid == first.pid
        with JournalReader(path) as reader:
            assert reader.holder == first.pid
    finally:
        first.kill()
        await first.communicate()
    # The lock file of the killed process does not lock.
    async with await Journal.open(path, endpoint=ENDPOINT):
        pass
    assert [found.name for found in path.parent.iterdir()] == ["batch.db"]


async def test_only_one_of_several_processes_has_the_journal(path):
    """Many times, because the lock file is created and removed each time."""
    code = f"""
import asyncio, sys
from adepoll import Journal
from adepoll.errors import JournalBusyError
async def main():
    for _ in range(40):
        try:
            async with await Journal.open({str(path)!r}, endpoint={ENDPOINT!r}) as journal:
                count = int(await journal.note("count") or 0)
                await asyncio.sleep(0.002)
                await journal.set_note("count", str(count + 1))
                print("opened")
        except JournalBusyError:
            pass
asyncio.run(main())
"""
    processes = [
        await forkserver.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", code, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outs = [(await process.communicate())[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    opened = sum(out.count(b"opened") for out in outs)
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        assert int(await journal.note("count")) == opened >= 3


async def test_a_reader_sees_only_complete_jobs_during_writes(path):
    writer = await start(path, 0, 1_500)
    assert await writer.stdout.readline() == b"open\n"
    with JournalReader(path) as reader:
        while True:
            counts = reader.counts()
            records = [record for record in reader.records() if record.snapshot is not None]
            assert {record.snapshot.status_text for record in records} <= {"failed"}
            if counts.jobs and not counts.open:
                break
            assert writer.returncode is None or counts.jobs == 1_500
            await asyncio.sleep(0)
        _, err = await writer.communicate()
        assert writer.returncode == 0, err
        assert reader.counts().by_status == {"failed": 1_500}
    async with await Journal.open(path, endpoint=ENDPOINT, must_exist=True) as journal:
        assert (await journal.counts()).by_status == {"failed": 1_500}


# --- a full disk --------------------------------------------------------------------------------


async def check_after_full_disk(path, process):
    out, err = await process.communicate()
    assert process.returncode == 1
    assert b"JournalWriteError" in err
    assert b"run the batch again" in err
    lines = out.decode().split()
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        there, after = set(), 0
        while page := await journal.records(RecordFilter.WITH_OUTCOME, after=after, limit=1_000):
            there.update(record.job_id for record in page)
            after = page[-1].number
        assert set(lines) - {"open", "added"} <= there
        assert await journal.add(["one-more"]) == 1
    assert is_sound(path)
    return len(there)


async def test_a_file_size_limit_stops_the_writer_and_acknowledged_writes_remain(path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    real = asyncio.create_subprocess_exec
    process = await start(path, 0, 2_000, start=real, preexec_fn=limit)
    assert await check_after_full_disk(path, process) >= 8


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB."""
    with small_file_system(tmp_path / "small", "600k") as folder:
        yield folder


async def test_a_full_disk_stops_the_writer_until_space_is_free(small_disk):
    path = small_disk / "batch.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    process = await start(path, 0, 3_000)
    await process.wait()
    ballast.unlink()
    assert await check_after_full_disk(path, process) >= 8


async def test_a_journal_on_a_full_disk_cannot_be_created_and_is_named(small_disk):
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    with pytest.raises(JournalError) as caught:
        await Journal.open(small_disk / "batch.db", endpoint=ENDPOINT)
    assert str(small_disk / "batch.db") in str(caught.value)
    (small_disk / "ballast").unlink()
    async with await Journal.open(small_disk / "batch.db", endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
