"""What a batch meets on Friday evening: a second one, a full disk, a torn file, very many ids."""

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from shlex import quote

import forkserver
import pytest
from waiting import supervised

from adepoll import Journal
from adepoll.api.config import REGIONS
from adepoll.cli.choices import IDS_NOTE, READ
from adepoll.emulator import Emulator, JobPlan, Outcome
from adepoll.journal import JournalReader

KEY = "canary-key-51c09"
NEVER = JobPlan(processing_time=float("inf"))
MANY = 300_000
MOST_RESIDENT = 300_000  # kB


@pytest.fixture
async def ade():
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


@asynccontextmanager
async def started(ade, *arguments, real=False, **options):
    """Start the command against the emulator; kill it if the test leaves it running."""
    start = asyncio.create_subprocess_exec if real else forkserver.create_subprocess_exec
    env = {name: value for name, value in os.environ.items() if "ADE" not in name}
    env["VISION_AGENT_API_KEY"] = KEY
    if ade is not None:
        env["LANDINGAI_ADE_BASE_URL"] = ade.base_url
    process = await start(
        *(sys.executable, "-W", "error", "-m", "adepoll", *arguments),
        env=env,
        limit=2**24,
        **{"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1} | options,
    )
    async with supervised(process):
        yield process


async def end_of(process):
    """Give the exit code, the ids that were told, and what was said; no secret may be in it."""
    out, err = await process.communicate()
    said = err.decode()
    for text in (out.decode(), said):
        assert KEY not in text
        assert "X-Amz-Signature" not in text
    assert "Traceback" not in said
    assert "bug in adepoll" not in said
    return process.returncode, [json.loads(line)["job_id"] for line in out.splitlines()], said


async def adepoll(ade, *arguments, **options):
    """Run the command to its end."""
    async with started(ade, *arguments, **options) as process:
        return await end_of(process)


def ids_file(folder, job_ids):
    path = folder / "ids.txt"
    path.write_text("".join(f"{job_id}\n" for job_id in job_ids))
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def mount(folder, options, kind="tmpfs"):
    """Mount a file system in memory, or change one; tell whether that could be."""
    command = shutil.which("mount")
    if command is None or os.geteuid():
        return False
    arguments = ["-t", kind, "-o", options, "tmpfs", folder]
    return not subprocess.run([command, *arguments], capture_output=True, check=False).returncode


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB, which can be made larger."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mount(folder, "size=600k"):
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run([shutil.which("umount"), "-l", folder], check=True)


@contextmanager
def read_only(folder):
    """Let nobody write into a folder."""
    if os.geteuid():
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("root may write everywhere, and cannot mount here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_second_run_on_a_journal_is_told_who_has_it_and_the_first_goes_on(ade, tmp_path):
    now, later = ([ade.submit(JobPlan()) for _ in range(3)] for _ in range(2))
    journal = tmp_path / "batch.db"
    async with started(ade, "watch", "-f", "-", "--journal", journal, stdin=-1) as first:
        first.stdin.write("".join(f"{job_id}\n" for job_id in now).encode())
        told = [json.loads(await first.stdout.readline())["job_id"] for _ in now]
        for command in (("watch", *later, "--journal", journal), ("resume", journal)):
            status, told_there, said = await adepoll(ade, *command)
            assert status == 2
            assert told_there == []
            assert f"process {first.pid}" in said
            assert len(said.splitlines()) == 1
        assert ade.truth.requests.get == len(now)
        first.stdin.write("".join(f"{job_id}\n" for job_id in later).encode())
        first.stdin.close()
        status, rest, _ = await end_of(first)
    assert status == 0
    assert sorted(told) == sorted(now)
    assert sorted(rest) == sorted(later)


@pytest.mark.parametrize("command", ["watch", "resume"])
async def test_a_journal_of_the_eu_is_not_used_in_the_us(tmp_path, command):
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = folder / "batch.db"
    async with await Journal.open(journal, endpoint=REGIONS["eu"]) as made:
        await made.add(["a"])
    before = contents(folder)
    arguments = {
        "watch": ("watch", "b", "--journal", journal, "--region", "us"),
        "resume": ("resume", journal, "--region", "us"),
    }
    status, told, said = await adepoll(None, *arguments[command])
    assert status == 2
    assert told == []
    assert REGIONS["eu"] in said
    assert REGIONS["us"] in said
    assert len(said.splitlines()) == 1
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["watch", "resume", "status"])
async def test_a_journal_with_its_last_page_torn_is_told_and_left_as_it_is(ade, tmp_path, command):
    job_ids = [ade.submit(JobPlan()) for _ in range(50)]
    folder, path = tmp_path / "folder", ids_file(tmp_path, job_ids)
    folder.mkdir()
    journal = folder / "batch.db"
    watching = ("watch", "-f", path, "--journal", journal)
    assert (await adepoll(ade, *watching))[0] == 0
    os.truncate(journal, journal.stat().st_size - 1_000)
    before, asked = contents(folder), ade.truth.requests.get
    if command == "status":  # which reads what can be read, and never writes
        async with started(ade, "status", journal) as process:
            _, said = await process.communicate()
        assert b"Traceback" not in said
    else:
        arguments = watching if command == "watch" else ("resume", journal)
        status, told, said = await adepoll(ade, *arguments)
        assert status == 74
        assert told == []
        assert "damaged" in said
        assert ".recover" in said
        assert len(said.splitlines()) == 1
    assert contents(folder) == before
    assert ade.truth.requests.get == asked


async def test_a_full_disk_under_the_results_stops_in_order_and_room_lets_it_go_on(
    ade, tmp_path, small_disk
):
    job_ids = [ade.submit(JobPlan(result_bytes=90_000)) for _ in range(20)]
    journal, path = tmp_path / "batch.db", ids_file(tmp_path, job_ids)
    out = small_disk / "results"
    status, told, said = await adepoll(ade, "watch", "-f", path, "--journal", journal, "--out", out)
    assert status == 74
    assert "No space left" in said
    assert f"adepoll resume {quote(str(journal))}" in said
    assert mount(small_disk, "remount,size=10m")
    status, rest, said = await adepoll(ade, "resume", journal)
    assert status == 0, said
    assert sorted(told + rest) == sorted(job_ids)
    files = {path.name for path in out.iterdir()}
    assert files == {f"{job_id}.json" for job_id in job_ids}
    with JournalReader(journal) as reader:
        assert {record.file.path.name for record in reader.records()} == files


async def test_a_full_disk_under_the_journal_stops_in_order_and_room_lets_it_go_on(
    ade, tmp_path, small_disk
):
    job_ids = [ade.submit(JobPlan(result_bytes=4_000)) for _ in range(300)]
    journal, path = small_disk / "batch.db", ids_file(tmp_path, job_ids)
    status, told, said = await adepoll(ade, "watch", "-f", path, "--journal", journal)
    assert status == 74
    assert 0 < len(told) < len(job_ids)
    assert "is full" in said
    assert str(journal) in said
    assert mount(small_disk, "remount,size=20m")
    asked = Counter({job.job_id: job.gets for job in ade.truth.jobs()})
    with JournalReader(journal) as reader:
        settled = {record.job_id for record in reader.records() if record.done_at is not None}
    status, rest, said = await adepoll(ade, "resume", journal)
    assert status == 0, said
    assert set(told + rest) == set(job_ids)
    assert set(told) & set(rest) <= {told[-1]}  # whose mark found no room
    assert all(ade.truth(job_id).gets == asked[job_id] for job_id in settled)


async def test_a_folder_that_may_only_be_read_is_named_before_anything_is_asked(ade, tmp_path):
    job_id = ade.submit(JobPlan())
    folder = tmp_path / "folder"
    folder.mkdir()
    with read_only(folder):
        for expected, *where in (
            (74, "--journal", folder / "batch.db"),
            (2, "--journal", tmp_path / "batch.db", "--out", folder / "results"),
        ):
            status, told, said = await adepoll(ade, "watch", job_id, *where)
            assert status == expected, said
            assert told == []
            assert str(folder) in said
    assert not any(folder.iterdir())
    assert not ade.truth.requests.get


async def test_results_that_may_not_be_written_into_their_folder_stop_the_batch(ade, tmp_path):
    job_ids = [ade.submit(JobPlan()) for _ in range(3)]
    journal, out = tmp_path / "batch.db", tmp_path / "results"
    out.mkdir()
    with read_only(out):
        status, told, said = await adepoll(
            ade, "watch", *job_ids, "--journal", journal, "--out", out
        )
    assert status == 74
    assert told == []
    assert f"adepoll resume {quote(str(journal))}" in said
    status, told, _ = await adepoll(ade, "resume", journal)
    assert status == 0
    assert sorted(told) == sorted(job_ids)


async def test_control_characters_reach_a_terminal_escaped_only(ade, tmp_path):
    plan = JobPlan(outcome=Outcome.FAILED, failure_reason="\x1b]0;owned\x07 no \x9b31m page")
    job_id = ade.submit(plan)
    path = ids_file(tmp_path, [job_id, "evil\x1b[31m\x07id", "\x9b2Jid"])
    screen, terminal = pty.openpty()
    shown = b""

    async def read():
        nonlocal shown
        while True:
            try:
                shown += await asyncio.to_thread(os.read, screen, 2**16)
            except OSError:
                return

    async with started(
        ade, "watch", "-f", path, "--journal", tmp_path / "b.db", stdout=terminal, stderr=terminal
    ) as process:
        reading = asyncio.create_task(read())
        await process.wait()
        os.close(terminal)
        await reading
    os.close(screen)
    for raw in (b"\x1b]0;", b"evil\x1b", b"\x07", b"\xc2\x9b"):
        assert raw not in shown
    assert rb"evil\x1b[31m\x07id" in shown
    assert b"owned" in shown
    async with started(ade, "status", tmp_path / "b.db") as process:
        out, _ = await process.communicate()
    assert b"owned" in out
    assert b"\x1b" not in out


async def test_a_file_of_very_many_ids_is_taken_in_while_the_first_are_told(ade, tmp_path):
    known = [ade.submit(JobPlan()) for _ in range(5)]
    job_ids = [*known, *(str(uuid.UUID(int=n, version=4)) for n in range(MANY - len(known)))]
    journal, path = tmp_path / "batch.db", ids_file(tmp_path, job_ids)
    command = ["watch", "-f", path, "--journal", journal]
    async with started(ade, *command, real=True) as process:  # its memory is measured
        told = [json.loads(await process.stdout.readline())["job_id"] for _ in known]
        assert sorted(told) == sorted(known)
        while process.returncode is None:
            with JournalReader(journal) as reader:
                if reader.notes().get(IDS_NOTE) == READ:
                    assert reader.counts().jobs == MANY
                    break
            await asyncio.sleep(0.2)
        resident = _most_resident(process.pid)
        process.send_signal(signal.SIGTERM)
        status, _, said = await end_of(process)
    assert status == 143
    assert resident <= MOST_RESIDENT
    assert f"adepoll resume {quote(str(journal))}" in said


def _most_resident(pid):
    """Give the most memory that a process has had, in kB; 0 where that is not told."""
    try:
        with Path(f"/proc/{pid}/status").open() as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except OSError:
        return 0
