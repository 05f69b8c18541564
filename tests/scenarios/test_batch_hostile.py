"""A batch under difficult conditions: a second process, a full disk, a torn file, many ids."""

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
from amounts import more
from waiting import supervised

from adepoll import Journal
from adepoll.api.config import REGIONS
from adepoll.cli.batch_options import IDS_NOTE, READ
from adepoll.emulator import Emulator, JobPlan, Outcome
from adepoll.journal import JournalReader

KEY = "canary-key-51c09"
NEVER = JobPlan(processing_time=float("inf"))
MOST_RESIDENT = 300_000  # kB


@pytest.fixture
async def ade():
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


@asynccontextmanager
async def started(ade, *arguments, real=False, **options):
    """Start the command against the emulator; kill it if the test does not end it."""
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
    """Return exit code, printed ids and stderr, which must contain no secret."""
    out, err = await process.communicate()
    stderr = err.decode()
    for text in (out.decode(), stderr):
        assert KEY not in text
        assert "X-Amz-Signature" not in text
    assert "Traceback" not in stderr
    assert "bug in adepoll" not in stderr
    return process.returncode, [json.loads(line)["job_id"] for line in out.splitlines()], stderr


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
    """Mount a file system in memory or change its options; return True if that succeeded."""
    command = shutil.which("mount")
    if command is None or os.geteuid():
        return False
    arguments = ["-t", kind, "-o", options, "tmpfs", folder]
    return not subprocess.run([command, *arguments], capture_output=True, check=False).returncode


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB whose size can be increased."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mount(folder, "size=600k"):
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run([shutil.which("umount"), "-l", folder], check=True)


@contextmanager
def read_only(folder):
    """Make a folder read-only, for root too."""
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


async def test_a_second_run_gets_the_pid_of_the_first_which_continues(ade, tmp_path):
    now, later = ([ade.submit(JobPlan()) for _ in range(3)] for _ in range(2))
    journal = tmp_path / "batch.db"
    async with started(ade, "watch", "-f", "-", "--journal", journal, stdin=-1) as first:
        first.stdin.write("".join(f"{job_id}\n" for job_id in now).encode())
        printed = [json.loads(await first.stdout.readline())["job_id"] for _ in now]
        for command in (("watch", *later, "--journal", journal), ("resume", journal)):
            status, printed_there, stderr = await adepoll(ade, *command)
            assert status == 2
            assert printed_there == []
            assert f"process {first.pid}" in stderr
            assert len(stderr.splitlines()) == 1
        assert ade.truth.requests.get == len(now)
        first.stdin.write("".join(f"{job_id}\n" for job_id in later).encode())
        first.stdin.close()
        status, rest, _ = await end_of(first)
    assert status == 0
    assert sorted(printed) == sorted(now)
    assert sorted(rest) == sorted(later)


@pytest.mark.parametrize("command", ["watch", "resume"])
async def test_a_journal_of_the_eu_cannot_be_used_in_the_us(tmp_path, command):
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
    status, printed, stderr = await adepoll(None, *arguments[command])
    assert status == 2
    assert printed == []
    assert REGIONS["eu"] in stderr
    assert REGIONS["us"] in stderr
    assert len(stderr.splitlines()) == 1
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["watch", "resume", "status"])
async def test_a_journal_with_a_torn_last_page_is_refused_and_not_changed(ade, tmp_path, command):
    job_ids = [ade.submit(JobPlan()) for _ in range(50)]
    folder, path = tmp_path / "folder", ids_file(tmp_path, job_ids)
    folder.mkdir()
    journal = folder / "batch.db"
    watching = ("watch", "-f", path, "--journal", journal)
    assert (await adepoll(ade, *watching))[0] == 0
    os.truncate(journal, journal.stat().st_size - 1_000)
    before, gets = contents(folder), ade.truth.requests.get
    if command == "status":  # reads what is readable, and never writes
        async with started(ade, "status", journal) as process:
            _, stderr = await process.communicate()
        assert b"Traceback" not in stderr
    else:
        arguments = watching if command == "watch" else ("resume", journal)
        status, printed, stderr = await adepoll(ade, *arguments)
        assert status == 74
        assert printed == []
        assert "damaged" in stderr
        assert ".recover" in stderr
        assert len(stderr.splitlines()) == 1
    assert contents(folder) == before
    assert ade.truth.requests.get == gets


async def test_a_full_disk_for_results_stops_the_batch_until_space_is_free(
    ade, tmp_path, small_disk
):
    job_ids = [ade.submit(JobPlan(result_bytes=90_000)) for _ in range(20)]
    journal, path = tmp_path / "batch.db", ids_file(tmp_path, job_ids)
    out = small_disk / "results"
    status, printed, stderr = await adepoll(
        ade, "watch", "-f", path, "--journal", journal, "--out", out
    )
    assert status == 74
    assert "No space left" in stderr
    assert f"adepoll resume {quote(str(journal))}" in stderr
    assert mount(small_disk, "remount,size=10m")
    status, rest, stderr = await adepoll(ade, "resume", journal, "--out", out)
    assert status == 0, stderr
    assert sorted(printed + rest) == sorted(job_ids)
    files = {path.name for path in out.iterdir()}
    assert files == {f"{job_id}.json" for job_id in job_ids}
    with JournalReader(journal) as reader:
        assert {record.file.path.name for record in reader.records()} == files


async def test_a_full_disk_for_the_journal_stops_the_batch_until_space_is_free(
    ade, tmp_path, small_disk
):
    job_ids = [ade.submit(JobPlan(result_bytes=4_000)) for _ in range(300)]
    journal, path = small_disk / "batch.db", ids_file(tmp_path, job_ids)
    status, printed, stderr = await adepoll(ade, "watch", "-f", path, "--journal", journal)
    assert status == 74
    assert 0 < len(printed) < len(job_ids)
    assert "is full" in stderr
    assert str(journal) in stderr
    assert mount(small_disk, "remount,size=20m")
    gets = Counter({job.job_id: job.polls for job in ade.truth.jobs()})
    with JournalReader(journal) as reader:
        settled = {record.job_id for record in reader.records() if record.done_at is not None}
    status, rest, stderr = await adepoll(ade, "resume", journal)
    assert status == 0, stderr
    assert set(printed + rest) == set(job_ids)
    assert set(printed) & set(rest) <= {printed[-1]}  # no space to record its acknowledgement
    assert all(ade.truth(job_id).polls == gets[job_id] for job_id in settled)


async def test_a_read_only_folder_is_named_before_any_request(ade, tmp_path):
    job_id = ade.submit(JobPlan())
    folder = tmp_path / "folder"
    folder.mkdir()
    with read_only(folder):
        for expected, *where in (
            (74, "--journal", folder / "batch.db"),
            (74, "--journal", tmp_path / "batch.db", "--out", folder / "results"),
        ):
            status, printed, stderr = await adepoll(ade, "watch", job_id, *where)
            assert status == expected, stderr
            assert printed == []
            assert str(folder) in stderr
    assert not any(folder.iterdir())
    assert not ade.truth.requests.get


async def test_a_read_only_result_folder_stops_the_batch(ade, tmp_path):
    job_ids = [ade.submit(JobPlan()) for _ in range(3)]
    journal, out = tmp_path / "batch.db", tmp_path / "results"
    out.mkdir()
    with read_only(out):
        status, printed, stderr = await adepoll(
            ade, "watch", *job_ids, "--journal", journal, "--out", out
        )
    assert status == 74
    assert printed == []
    assert f"adepoll resume {quote(str(journal))} --out {quote(str(out))}" in stderr
    status, printed, _ = await adepoll(ade, "resume", journal, "--out", out)
    assert status == 0
    assert sorted(printed) == sorted(job_ids)


async def test_control_characters_are_escaped_on_a_terminal(ade, tmp_path):
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


@pytest.mark.parametrize("many", more([10_000], [300_000]))
async def test_many_ids_are_added_while_the_first_outcomes_are_printed(ade, tmp_path, many):
    known = [ade.submit(JobPlan()) for _ in range(5)]
    job_ids = [*known, *(str(uuid.UUID(int=n, version=4)) for n in range(many - len(known)))]
    journal, path = tmp_path / "batch.db", ids_file(tmp_path, job_ids)
    command = ["watch", "-f", path, "--journal", journal]
    if many > 10_000:
        command += ["--max-rate", "100"]  # polls of all these ids would take most of the time
    async with started(ade, *command, real=True) as process:  # its memory is measured
        printed = [json.loads(await process.stdout.readline())["job_id"] for _ in known]
        assert sorted(printed) == sorted(known)
        while process.returncode is None:
            with JournalReader(journal) as reader:
                if reader.notes().get(IDS_NOTE) == READ:
                    assert reader.counts().jobs == many
                    break
            await asyncio.sleep(0.2)
        resident = _most_resident(process.pid)
        process.send_signal(signal.SIGTERM)
        status, _, stderr = await end_of(process)
    assert status == 143
    assert resident <= MOST_RESIDENT
    assert f"adepoll resume {quote(str(journal))}" in stderr


def _most_resident(pid):
    """Return the peak memory of a process in kB; 0 on systems without /proc."""
    try:
        with Path(f"/proc/{pid}/status").open() as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except OSError:
        return 0
