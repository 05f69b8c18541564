"""The command as a process: its output and its exit code."""

import asyncio
import errno
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import select
import signal
import sys
import termios
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from amounts import more
from commandline import (
    KEY,
    NEVER,
    SOON,
    adepoll,
    adepoll_into,
    ids_of,
    sha256_of,
    started,
)
from proxies import Proxy
from rich.table import Table
from tabling import result_text, write_journal
from terminals import read_all
from waiting import supervised, until

from adepoll import JobSnapshot
from adepoll.cli import main
from adepoll.cli.wide_tables import print_table
from adepoll.emulator import Emulator, JobPlan, Outcome


@pytest.fixture
async def ade():
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


# --- watch ---------------------------------------------------------------------------------------


async def test_watch_prints_one_json_line_for_each_job_that_settles(ade):
    ids = [ade.submit(SOON) for _ in range(20)]
    code, out, err = await adepoll(ade, "watch", *ids, ids[0])
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)
    jobs = [JobSnapshot.from_json(line) for line in out.splitlines()]
    assert all(job.status.value == "completed" and job.data is not None for job in jobs)
    assert "20 of 20 jobs settled (20 completed)" in err


async def test_watch_exits_with_1_if_a_job_failed(ade):
    failed = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="unreadable"))
    code, out, _ = await adepoll(ade, "watch", ade.submit(SOON), failed)
    assert code == 1
    reasons = [json.loads(line)["failure_reason"] for line in out.splitlines()]
    assert sorted(reasons, key=str) == [None, "unreadable"]


async def test_watch_exits_with_1_if_a_job_was_cancelled(ade):
    code, _, _ = await adepoll(ade, "watch", ade.submit(JobPlan(outcome=Outcome.CANCELLED)))
    assert code == 1


async def test_watch_exits_with_3_and_names_the_job_if_one_is_unresolved(ade):
    good = ade.submit(SOON)
    code, out, err = await adepoll(ade, "watch", good, "bad/id")
    assert code == 3
    lines = {line["job_id"]: line for line in map(json.loads, out.splitlines())}
    assert lines[good]["status"] == "completed"
    reason = (
        "it contains '/', but 'bad' is not a kind of jobs; "
        "the kinds are v1-extract, v1-parse, v2-parse, v2-extract, v2-workflow"
    )
    assert lines["bad/id"] == {
        "job_id": "bad/id",
        "kind": "v1-extract",
        "error": f"invalid job id 'bad/id': {reason}",
        "error_kind": "InvalidJobIdError",
    }
    assert f"unresolved: invalid job id 'bad/id': {reason}" in err
    assert "1 of 2 jobs settled (1 completed); 1 unresolved" in err


async def test_watch_gives_up_after_its_timeout(ade):
    never = ade.submit(NEVER)
    for seconds in ("1.5", "15", "60"):  # within 1.5 s, a slow machine may get no answer
        code, out, err = await adepoll(ade, "watch", never, "--timeout", seconds)
        assert (code, ids_of(out)) == (3, [never])
        assert json.loads(out)["error_kind"] == "JobTimeoutError"
        if "last seen" in err:
            break
    assert f"did not settle in {seconds} s (last seen processing; " in err


async def test_watch_exits_with_4_and_one_line_if_the_key_is_refused(ade):
    code, out, err = await adepoll(ade, "watch", ade.submit(SOON), key="wrong-key")
    assert (code, out) == (4, "")
    assert "check VISION_AGENT_API_KEY" in err
    assert "wrong-key" not in err


async def test_watch_exits_with_4_and_one_line_if_credits_are_missing(ade):
    ade.faults.add("payment-required", endpoints=["get"])
    code, out, err = await adepoll(ade, "watch", ade.submit(SOON), ade.submit(SOON))
    assert (code, out) == (4, "")
    assert err.count("no credits left; add credits, then try again") == 1


@pytest.mark.parametrize("arguments", [["watch", "a"], ["get", "a"], ["list"], ["fetch", "a"]])
async def test_a_missing_key_is_wrong_usage_and_names_the_variable(ade, arguments):
    code, out, err = await adepoll(ade, *arguments, key="")
    assert (code, out) == (2, "")
    assert "VISION_AGENT_API_KEY" in err


async def test_watch_reads_ids_from_files_with_any_line_ends_comments_and_blanks(ade, tmp_path):
    ids = [ade.submit(SOON) for _ in range(3)]
    listed = tmp_path / "ids.txt"
    listed.write_bytes(f"\ufeff{ids[0]}\r\n\r\n# a comment\r\n  {ids[1]}  \r\n{ids[2]}".encode())
    code, out, _ = await adepoll(ade, "watch", "--file", str(listed))
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)


async def test_a_line_with_invalid_utf8_is_one_bad_id_and_the_rest_is_read(ade, tmp_path):
    good = ade.submit(SOON)
    listed = tmp_path / "ids.txt"
    listed.write_bytes(b"\xc3\xffbad\n" + good.encode() + b"\n")
    code, out, _ = await adepoll(ade, "watch", "-f", str(listed))
    assert code == 3
    assert good in ids_of(out)
    assert len(ids_of(out)) == 2


async def test_watch_reads_ids_from_a_csv_column_and_from_its_own_output(ade):
    ids = [ade.submit(SOON) for _ in range(3)]
    table = "name;job_id\r\n" + "".join(f'"a;b";{job_id}\r\n' for job_id in ids)
    code, out, _ = await adepoll(ade, "watch", "--field", "job_id", stdin=table.encode())
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)
    code, again, _ = await adepoll(ade, "watch", "--field", "job_id", stdin=out.encode())
    assert code == 0
    assert sorted(ids_of(again)) == sorted(ids)


async def test_a_missing_column_is_wrong_usage_and_reported_in_one_line(ade):
    code, out, err = await adepoll(ade, "watch", "--field", "job_id", stdin=b"name,id\na,b\n")
    assert (code, out) == (2, "")
    line = "adepoll: standard input, line 1: no column 'job_id'; available: name, id"
    assert line in err.splitlines()


async def test_a_control_character_in_an_id_is_never_printed(ade):
    good = ade.submit(SOON)
    code, out, err = await adepoll(ade, "watch", stdin=f"b\x1b[31mad\n{good}\n".encode())
    assert code == 3
    assert sorted(ids_of(out)) == sorted([good, "b\x1b[31mad"])
    assert "it contains an unprintable character" in err
    assert "\x1b" not in out + err


async def test_watch_reads_ids_from_stdin_as_they_arrive(ade):
    first, second = ade.submit(SOON), ade.submit(SOON)
    async with started(ade, "watch") as process:
        process.stdin.write(f"{first}\n".encode())
        await process.stdin.drain()
        line = await process.stdout.readline()  # printed while stdin is still open
        assert ids_of(line.decode()) == [first]
        out, _ = await process.communicate(f"{second}\n".encode())
    assert ids_of(out.decode()) == [second]
    assert process.returncode == 0


async def test_a_timeout_before_all_ids_were_read_is_reported(ade):
    async with started(ade, "watch", "--timeout", "0", "--quiet") as process:
        err = await process.stderr.read()  # stdin is still open
        assert await process.wait() == 3
    assert err == b"adepoll: the time of --timeout was over before all ids had been read\n"


async def test_watch_of_a_missing_file_is_wrong_usage(ade):
    code, _, err = await adepoll(ade, "watch", "-f", "no-such-file")
    assert code == 2
    assert "no-such-file: No such file or directory" in err


async def test_watch_with_out_writes_each_result_and_names_the_file(ade, tmp_path):
    large = ade.submit(JobPlan(processing_time=0.05, result_bytes=3_000_000))
    small = ade.submit(SOON)
    failed = ade.submit(JobPlan(outcome=Outcome.FAILED))
    code, out, err = await adepoll(ade, "watch", large, small, failed, "--out", str(tmp_path / "r"))
    assert code == 1
    lines = {line["job_id"]: line for line in map(json.loads, out.splitlines())}
    assert sha256_of(lines[large]["result"]["path"]) == ade.truth(large).result_sha256
    assert lines[large]["result"]["sha256"] == ade.truth(large).result_sha256
    assert json.loads((tmp_path / "r" / f"{small}.json").read_bytes())["extraction"]
    assert "data" not in lines[small]
    assert "result" not in lines[failed]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(
        [f"{large}.json", f"{small}.json"]
    )
    assert "MB of results written to" in err


async def test_watch_replaces_an_existing_result_only_with_overwrite(ade, tmp_path):
    job_id = ade.submit(SOON)
    target = tmp_path / f"{job_id}.json"
    target.write_text("mine")
    code, out, err = await adepoll(ade, "watch", job_id, "--out", str(tmp_path))
    assert code == 3
    assert "; 1 result not fetched; " in err
    assert "exists already" in json.loads(out)["error"]
    assert json.loads(out)["status"] == "completed"
    assert target.read_text() == "mine"
    code, _, _ = await adepoll(ade, "watch", job_id, "--out", str(tmp_path), "--overwrite")
    assert code == 0
    assert target.read_text() != "mine"
    code, _, err = await adepoll(ade, "watch", job_id, "--out", str(tmp_path))
    assert code == 0
    assert f"; 1 result was in {tmp_path} already; " in err


async def test_ctrl_c_exits_with_130_and_prints_a_summary(ade):
    done, never = ade.submit(SOON), ade.submit(NEVER)
    async with started(ade, "watch", done, never, real=True) as process:
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    summary, hint = err.decode().splitlines()
    assert summary.startswith("adepoll: 1 of 2 jobs settled (1 completed); ")
    assert hint == (
        "adepoll: progress was not saved; with --journal FILE, a later run can continue"
    )


async def test_files_are_said_to_be_kept_only_if_there_are_any(ade, tmp_path):
    options = ("--timeout", "2", "--out", tmp_path / "r")  # a slow machine reads the id in time
    code, _, err = await adepoll(ade, "watch", ade.submit(NEVER), *options)
    assert code == 3
    assert "progress was not saved; with" in err
    done = ade.submit(SOON)
    assert (await adepoll(ade, "watch", done, *options))[0] == 0
    code, _, err = await adepoll(ade, "watch", done, ade.submit(NEVER), *options)
    assert code == 3
    assert f"progress was not saved except for the files in {tmp_path / 'r'}; with" in err


async def test_sigterm_exits_with_143_and_prints_a_summary(ade, tmp_path):
    done, never = ade.submit(SOON), ade.submit(NEVER)
    async with started(ade, "watch", done, never, "--out", str(tmp_path)) as process:
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 143
    summary, hint = err.decode().splitlines()
    assert "1 of 2 jobs settled" in summary
    assert f"progress was not saved except for the files in {tmp_path}; with" in hint


async def test_ctrl_c_works_while_stdin_is_silent(ade):
    async with started(ade, "watch") as process:
        process.stdin.write(f"{ade.submit(SOON)}\n".encode())
        await process.stdin.drain()
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert process.returncode == 130


async def test_a_closed_stdout_prints_no_error_message(ade):
    ids = [ade.submit(SOON) for _ in range(50)]
    read_end, write_end = os.pipe()
    async with started(ade, "watch", *ids, stdout=write_end) as process:
        os.close(write_end)
        os.close(read_end)
        _, err = await process.communicate()
    assert "Traceback" not in err.decode()
    assert "Broken pipe" not in err.decode()
    assert process.returncode == 141


async def test_ids_from_a_named_pipe_are_read_as_they_arrive_and_do_not_delay_signals(
    ade, tmp_path
):
    first, fifo = ade.submit(SOON), str(tmp_path / "fifo")
    os.mkfifo(fifo)
    async with started(ade, "watch", "-f", fifo) as process:
        writer = await asyncio.to_thread(open, fifo, "w", buffering=1)
        with writer:
            writer.write(f"{first}\n")
            assert ids_of((await process.stdout.readline()).decode()) == [first]
            process.send_signal(signal.SIGTERM)
            await process.wait()
    assert process.returncode == 143


async def test_the_command_uses_the_proxy_of_its_options_or_of_the_environment(ade, tmp_path):
    job_id = ade.submit(JobPlan(processing_time=0.0, result_bytes=2_000_000))
    async with Proxy() as proxy:
        out = tmp_path / "a.json"
        options = ("--proxy", proxy.url, "--allow-private", "-o", out)
        assert (await adepoll(ade, "fetch", job_id, *options))[0] == 0
        assert {ade.base_url in target for target in proxy.targets} == {True, False}
        proxy.refusal = "403 Forbidden"
        code, _, err = await adepoll(ade, "get", job_id, variables={"HTTP_PROXY": proxy.url})
    assert code != 0
    assert "403" in err


async def test_a_full_disk_under_stdout_is_reported_in_one_line(ade):
    full = os.open("/dev/full", os.O_WRONLY)
    for words in (["watch", ade.submit(SOON)], ["--help"]):
        code, _, err = await adepoll_into(full, ade, *words)
        assert code == 74
        assert "adepoll: cannot read or write stdout: No space left on device" in err.splitlines()
    os.close(full)


@pytest.mark.parametrize("form", ["arrow", "csv", "jsonl", "parquet"])
async def test_a_full_disk_under_an_exported_table_is_reported(ade, tmp_path, form):
    await write_journal(tmp_path / "b.db", [result_text({"a": 1})], folder=tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    words = ("export", tmp_path / "b.db", "--to", form, "--out", "-")
    code, _, err = await adepoll_into(full, ade, *words)
    os.close(full)
    error = "adepoll: cannot read or write stdout: No space left on device"
    assert (code, err.splitlines()) == (74, [error])


def test_an_error_while_a_table_is_printed_names_stdout(monkeypatch):
    with Path("/dev/full").open("w") as full, suppress(OSError):
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left") as caught:
            print_table(Table("x" * 10_000))
        assert caught.value.filename == "stdout"


def test_an_error_of_stdout_is_reported_although_the_next_write_succeeds(monkeypatch, capsys):
    class Interrupted(io.StringIO):
        def write(self, _text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "argv", ["adepoll", "--help"])
    monkeypatch.setattr(sys, "stdout", Interrupted())
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 74
    assert "cannot read or write stdout: Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["watch", "--no-such-option"], ["watch", "a", "-j", "/"], []])
async def test_a_full_disk_under_stderr_does_not_change_the_code_of_a_usage_error(ade, words):
    full = os.open("/dev/full", os.O_WRONLY)
    async with started(ade, *words, stderr=full) as process:
        out, _ = await process.communicate()
    os.close(full)
    assert (process.returncode, out) == (2, b"")


async def test_the_status_is_in_lower_case_however_the_service_writes_it(ade):
    job_id = ade.submit(JobPlan(processing_time=0.0, odd_values=["upper-case-status"]))
    for words in (["watch", job_id], ["get", job_id], ["list"]):
        _, out, _ = await adepoll(ade, *words)
        assert json.loads(out)["status"] == "completed"


@pytest.mark.parametrize("closed", more([">&- 2>&-"], [">&-", "2>&-", "<&-"]))
async def test_a_closed_standard_stream_does_not_crash_the_command(ade, closed):
    job_id = ade.submit(SOON)
    command = f'exec "$0" -W error -m adepoll watch {job_id} {closed}'
    env = {**os.environ, "LANDINGAI_ADE_BASE_URL": ade.base_url, "VISION_AGENT_API_KEY": KEY}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, sys.executable, env=env, stdout=-1, stderr=-1
    )
    async with supervised(process):
        _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


async def test_progress_is_shown_if_stderr_is_a_terminal(ade):
    ours, theirs = pty.openpty()
    async with started(ade, "watch", ade.submit(NEVER), stderr=theirs) as process:
        os.close(theirs)
        shown = ""
        while "0/1" not in shown:
            shown += (await asyncio.to_thread(os.read, ours, 65536)).decode()
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    os.close(ours)
    assert "settled" in shown
    assert out == b""


async def test_watch_without_ids_on_a_terminal_says_how_to_pass_them(ade):
    ours, theirs = pty.openpty()
    async with started(ade, "watch", stdin=theirs) as process:
        _, err = await process.communicate()
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 2
    assert "no job ids" in err.decode()


# --- get, list, fetch ----------------------------------------------------------------------------


async def test_get_prints_the_job_without_the_presigned_query(ade):
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    code, out, _ = await adepoll(ade, "get", job_id, real=True)
    assert code == 0
    job = JobSnapshot.from_json(out)
    assert job.job_id == job_id
    assert job.output_url.endswith("?REDACTED")


async def test_get_of_an_unknown_job_exits_with_3_and_says_so(ade):
    code, out, err = await adepoll(ade, "get", "unknown")
    assert (code, out) == (3, "")
    assert err.startswith("adepoll: job unknown: the service answered 404")


async def test_get_of_an_impossible_id_is_wrong_usage(ade):
    code, _, err = await adepoll(ade, "get", "a b")
    assert code == 2
    assert "white space" in err


async def test_an_unreachable_service_is_reported_in_one_line(ade):
    code, _, err = await adepoll(ade, "get", "a", "--base-url", "http://127.0.0.1:9")
    assert code == 3
    reason = "job a: cannot connect to 127.0.0.1:9: Connection refused"
    first, last = err.splitlines()
    text = "the service at http://127.0.0.1:9 does not respond, trying again"
    assert first.endswith(f"{text}: {reason}")
    assert last == f"adepoll: {reason}"


async def test_an_unknown_region_is_wrong_usage(ade):
    code, _, err = await adepoll(ade, "get", "a", "--region", "mars")
    assert code == 2
    assert "unknown region 'mars'; the regions are eu, production, us" in err


async def test_list_prints_json_lines_if_stdout_is_not_a_terminal(ade):
    ids = [ade.submit(SOON) for _ in range(150)]
    code, out, _ = await adepoll(ade, "list")
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)
    code, out, _ = await adepoll(ade, "list", "--limit", "3")
    assert len(out.splitlines()) == 3


async def test_list_prints_only_jobs_with_the_requested_status(ade):
    ade.submit(NEVER)
    failed = ade.submit(JobPlan(outcome=Outcome.FAILED))
    _, out, _ = await adepoll(ade, "list", "--status", "failed")
    assert ids_of(out) == [failed]


async def test_list_prints_a_whole_table_without_control_characters_on_a_narrow_terminal(ade):
    reason = "\x1b]0;owned\x07[bold]bad[/]"
    job_id = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason=reason))
    ours, theirs = pty.openpty()
    async with started(ade, "list", stdout=theirs, variables={"COLUMNS": "30"}) as process:
        os.close(theirs)
        await process.communicate()
    shown = read_all(ours).decode()
    os.close(ours)
    assert re.search(rf"{job_id} +(\x1b\S*)?failed\S* +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", shown)
    assert "\x1b]0;" not in shown
    assert "[bold]" in "".join(shown.split())


async def test_list_prints_json_lines_on_a_terminal_with_json(ade):
    job_id = ade.submit(SOON)
    ours, theirs = pty.openpty()
    async with started(ade, "list", "--json", stdout=theirs) as process:
        os.close(theirs)
        await process.communicate()
    shown = read_all(ours).decode()
    os.close(ours)
    assert ids_of(shown) == [job_id]


async def test_fetch_writes_the_result_to_a_file_named_after_the_job(ade, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=2_500_000))
    code, out, err = await adepoll(ade, "fetch", job_id, cwd=tmp_path, real=True)
    assert (code, out) == (0, "")
    digest = sha256_of(tmp_path / f"{job_id}.json")
    assert digest == ade.truth(job_id).result_sha256
    assert f"2500000 bytes, sha256 {digest}" in err
    code, _, err = await adepoll(ade, "fetch", job_id, cwd=tmp_path)
    assert code == 2
    assert "exists already" in err


async def test_fetch_to_stdout_streams_the_bytes(ade):
    job_id = ade.submit(JobPlan(result_bytes=2_500_000))
    code, out, _ = await adepoll(ade, "fetch", job_id, "-o", "-")
    assert code == 0
    assert hashlib.sha256(out.encode()).hexdigest() == ade.truth(job_id).result_sha256


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_command_that_is_stopped_and_continued_loses_no_output(ade, unbuffered):
    """The kernel then ends the write to a full pipe early."""
    job_id = ade.submit(JobPlan(result_bytes=2_500_000))
    read_end, write_end = os.pipe()
    size = fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ)
    variables = {"PYTHONUNBUFFERED": unbuffered}
    words = ["fetch", job_id, "-o", "-"]
    async with started(ade, *words, stdout=write_end, variables=variables) as process:
        os.close(write_end)
        await until(lambda: bytes_in(read_end) == size)
        process.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(process.pid))
        process.send_signal(signal.SIGCONT)
        pieces = []
        while piece := await asyncio.to_thread(os.read, read_end, 2**16):
            pieces.append(piece)
        await process.wait()
    os.close(read_end)
    assert process.returncode == 0
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == ade.truth(job_id).result_sha256


def bytes_in(pipe):
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].startswith("T")


async def test_fetch_of_an_active_job_says_so(ade, tmp_path):
    code, _, err = await adepoll(ade, "fetch", ade.submit(NEVER), cwd=tmp_path)
    assert code == 3
    assert "the job is still processing; wait for it" in err
    assert not list(tmp_path.iterdir())


async def test_ctrl_c_of_a_fetch_keeps_the_partial_download_and_the_same_command_continues_it(
    ade, tmp_path
):
    job_id = ade.submit(JobPlan(result_bytes=12_000_000))
    stalled = ade.faults.add("stalled", endpoints=["result"])
    async with started(ade, "fetch", job_id, cwd=tmp_path) as process:
        await until(lambda: any(part.stat().st_blocks > 4096 for part in tmp_path.glob(".*.part")))
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode() == (
        "adepoll: the partial download is kept; the same command continues it\n"
    )
    ade.faults.remove(stalled)
    code, _, _ = await adepoll(ade, "fetch", job_id, cwd=tmp_path)
    assert code == 0
    assert sha256_of(tmp_path / f"{job_id}.json") == ade.truth(job_id).result_sha256
    assert len(list(tmp_path.iterdir())) == 1


async def test_ctrl_c_of_a_fetch_without_data_prints_nothing(ade, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=12_000_000))
    ade.faults.add("silent", endpoints=["result"])
    async with started(ade, "fetch", job_id, cwd=tmp_path) as process:
        await until(lambda: ade.truth.requests.get)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode() == ""


# --- emulate, demo, the rest ---------------------------------------------------------------------


async def test_emulate_prints_variables_for_clients_and_stops_on_sigterm(ade):
    """They replace what the shell had before, so that no request goes to another service."""
    before = {
        "LANDINGAI_ADE_BASE_URL": "http://127.0.0.1:9",  # no server
        "LANDINGAI_ADE_V2_BASE_URL": "http://127.0.0.1:9",
        "LANDINGAI_ADE_ENVIRONMENT": "eu",
        "VISION_AGENT_API_KEY": "another",
    }
    options = ("--jobs", "3", "--kind", "v2-parse", "--api-key", "it's-mine")
    async with started(ade, "emulate", "--port", "0", *options, real=True) as process:
        lines = [(await process.stdout.readline()).decode() for _ in before]
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"{''.join(lines)} env -0"), env=os.environ | before, stdout=-1
        )
        printed, _ = await shell.communicate()
        env = dict(line.split("=", 1) for line in printed.decode().split("\0") if line)
        env = {name: env[name] for name in before}
        async with started(ade, "list", "--kind", "v2-parse", variables=env) as listing:
            out, _ = await listing.communicate()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert len(out.splitlines()) == 3
    assert env["LANDINGAI_ADE_ENVIRONMENT"] == ""  # the official SDK refuses one beside a URL
    assert process.returncode == 143
    assert err.decode().count("\n") == 1


async def test_emulate_on_a_used_port_says_so(ade):
    port = ade.base_url.rpartition(":")[2]
    code, _, err = await adepoll(ade, "emulate", "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: " in err


async def test_demo_watches_downloads_and_compares_everything(ade):
    code, out, err = await adepoll(ade, "demo", "--jobs", "60", "--median", "0.3")
    assert code == 0, err
    assert "60 jobs" in out
    large, size = re.search(r"of them (\d+) large \(([\d.]+) MB\)", out).groups()
    assert (int(large) > 0) is (float(size) > 0)
    assert "no job lost or duplicated, every result identical" in out


async def test_the_console_script_is_the_command():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    module, _, name = project["project"]["scripts"]["adepoll"].partition(":")
    code = f"import sys; from {module} import {name}; sys.exit({name}())"  # as pip writes it
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code, "--version"), stdout=-1
    )
    async with supervised(process):
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.startswith(b"adepoll, version ")


async def run_main_after(statements):
    """Run the command in a process that has run Python statements; return its code and stderr."""
    code = f"import sys\n{statements}\nfrom adepoll.__main__ import main; main()"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1, stderr=-1)
    async with supervised(process):
        _, err = await process.communicate()
    return process.returncode, err.decode()


async def test_without_the_cli_extra_the_command_says_how_to_install_it():
    code, err = await run_main_after("sys.modules['click'] = None")
    assert code == 2
    assert 'pip install ".[cli]"' in err


async def test_ctrl_c_while_modules_are_imported_prints_no_traceback():
    code, err = await run_main_after(
        "import signal\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'adepoll.cli': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())"
    )
    assert (code, err) == (130, "")


async def test_without_a_command_the_help_is_printed(ade):
    _, out, _ = await adepoll(ade, "--help")
    code, _, err = await adepoll(ade)
    assert (code, err) == (2, out)


async def test_the_help_of_every_command_fits_80_columns(ade):
    for command in (
        [],
        ["demo"],
        ["watch"],
        ["resume"],
        ["status"],
        ["report"],
        ["get"],
        ["list"],
        ["fetch"],
        ["emulate"],
        ["export"],
        ["completion"],
    ):
        code, out, _ = await adepoll(ade, *command, "--help")
        assert code == 0
        assert all(len(line) <= 80 for line in out.splitlines())


async def test_the_help_says_that_resume_also_reads_urls_from_the_journal(ade):
    _, out, _ = await adepoll(ade, "resume", "--help")
    assert " ".join(out.split()).count('[default: see "adepoll --help"]') == 3
    _, out, _ = await adepoll(ade, "--help")
    assert "resume as above, but with the URLs of the journal in place of region us" in " ".join(
        out.split()
    )


async def test_fetch_of_an_active_job_exits_with_3(ade, tmp_path):
    job_id = ade.submit(JobPlan(processing_time=3600))
    code, _, err = await adepoll(ade, "fetch", job_id, "-o", str(tmp_path / "r.json"))
    assert code == 3, err


async def test_fetch_and_get_of_a_failed_job_have_the_code_of_a_failed_job(ade, tmp_path):
    job_id = ade.submit(JobPlan(outcome=Outcome.FAILED))
    for words in (["get", job_id], ["fetch", job_id, "-o", str(tmp_path / "r.json")]):
        code, _, _ = await adepoll(ade, *words)
        assert code == 1, words
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("command", ["get", "list", "fetch", "report"])
async def test_a_signal_ends_a_command_although_nobody_reads_its_output(ade, tmp_path, command):
    job_id, *_ = [ade.submit(JobPlan(processing_time=0, result_bytes=50_000)) for _ in range(30)]
    await write_journal(tmp_path / "b.db", [None])
    arguments = {
        "get": [job_id],
        "list": [],
        "fetch": [job_id, "-o", "-"],
        "report": [tmp_path / "b.db", "-o", "-"],
    }
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4_096))
    os.set_blocking(writing, True)
    os.read(reading, 4_096)  # room for the beginning of the output only
    try:
        async with started(ade, command, *arguments[command], stdout=writing) as process:
            await until(lambda: not select.select([], [writing], [], 0)[1])
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
    finally:
        os.close(reading)
        os.close(writing)
    assert (process.returncode, err) == (143, b"")
