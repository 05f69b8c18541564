"""watch --journal, resume and status: interruptions, options, exit codes and messages."""

import json
import os
import pty
import shlex
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from shlex import quote

import pytest
from commandline import KEY, NEVER, SOON, adepoll, ids_of, sha256_of, started
from internals import end_now
from terminals import read_all
from waiting import until

from adepoll import AdePollError, JobKind, Journal
from adepoll.cli.batch_options import IDS_NOTE, READ
from adepoll.emulator import Emulator, JobPlan, Outcome
from adepoll.journal import GivenUp, JournalReader
from adepoll.journal.schema import OUT_DIR

FAILED = JobPlan(outcome=Outcome.FAILED, failure_reason="bad scan")
NO_KIND = (
    "it contains '/', but 'bad' is not a kind of jobs; "
    "the kinds are v1-extract, v1-parse, v2-parse, v2-extract, v2-workflow"
)
LARGE = JobPlan(processing_time=0.05, result_bytes=1_500_000)
READS = "2"  # seconds of a timeout within which a slow machine, too, reads the ids of a batch


@pytest.fixture
async def ade():
    async with Emulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "batch.db"


async def until_all_ids_are_read(journal):
    with JournalReader(journal) as reader:
        await until(lambda: reader.notes().get(IDS_NOTE) == READ)


async def stopped_after_one_line(ade, journal, *ids, options=(), number=signal.SIGINT):
    """Start a batch, and stop it after one line; return its exit code and output.

    The journal then says that all ids have been read.
    """
    async with started(ade, "watch", *ids, "--journal", journal, *options) as process:
        line = await process.stdout.readline()
        await until_all_ids_are_read(journal)
        process.send_signal(number)
        out, err = await process.communicate()
    return process.returncode, (line + out).decode(), err.decode()


# --- watch and resume ----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_batch_prints_the_resume_command(ade, journal, number, code):
    ids = [ade.submit(SOON), ade.submit(NEVER)]
    found, out, err = await stopped_after_one_line(ade, journal, *ids, number=number)
    assert found == code
    assert ids_of(out) == ids[:1]
    assert err.splitlines()[-1] == f"adepoll: continue with: adepoll resume {quote(str(journal))}"


async def test_a_batch_whose_journal_is_gone_does_not_say_that_it_can_continue(ade, journal):
    ids = [ade.submit(SOON), ade.submit(NEVER)]
    async with started(ade, "watch", *ids, "--journal", journal) as process:
        await process.stdout.readline()
        journal.unlink()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 143
    last = err.decode().splitlines()[-1]
    assert last.endswith("was moved or deleted during the run; move it back to continue")


async def test_a_complete_batch_says_that_its_journal_is_gone(ade, journal):
    async with started(ade, "watch", "--journal", journal) as process:
        process.stdin.write(f"{ade.submit(SOON)}\n".encode())
        await process.stdin.drain()
        await process.stdout.readline()
        journal.unlink()
        process.stdin.close()
        _, err = await process.communicate()
    assert process.returncode == 74
    *_, error, last = err.decode().splitlines()
    assert "somebody has removed or renamed" in error
    assert "was moved or deleted during the run" in last
    assert b"adepoll resume" not in err


async def test_resume_prints_the_remaining_jobs_and_repeats_none(ade, journal, tmp_path):
    ids = [ade.submit(SOON) for _ in range(3)]
    ids += [ade.submit(JobPlan(processing_time=2.0, result_bytes=1_500_000)) for _ in range(3)]
    out_dir = str(tmp_path / "r")
    _, first, _ = await stopped_after_one_line(ade, journal, *ids, options=["--out", out_dir])
    code, _, err = await adepoll(ade, "resume", journal)
    assert (code, f"confirm it with --out {quote(out_dir)}" in err) == (2, True)
    code, rest, err = await adepoll(ade, "resume", journal, "--out", out_dir, real=True)
    assert code == 0
    assert Counter(ids_of(first + rest)) == Counter(ids)
    for line in map(json.loads, (first + rest).splitlines()):
        assert sha256_of(line["result"]["path"]) == line["result"]["sha256"]
        assert line["result"]["path"].startswith(out_dir)
    assert "6 of 6 jobs settled (6 completed)" in err
    code, again, _ = await adepoll(ade, "resume", journal, "--out", out_dir)
    assert (code, again) == (0, "")


async def test_a_folder_above_the_current_one_can_be_resumed(ade, journal, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    job_id = ade.submit(SOON)
    words = ["--journal", journal, "--out", "../r", "--timeout", "60"]
    code, out, err = await adepoll(ade, "watch", job_id, *words, cwd=here)
    assert code == 0
    assert json.loads(out)["result"]["path"] == str(tmp_path / "r" / f"{job_id}.json")
    for folder, cwd in (("../r", here), (tmp_path / "r", None)):
        code, out, err = await adepoll(ade, "resume", journal, "--out", folder, cwd=cwd)
        assert (code, out) == (0, "")
        assert "earlier runs" not in err


async def test_all_prints_everything_again_without_requests_to_the_service(ade, journal):
    ids = [ade.submit(SOON) for _ in range(3)]
    await adepoll(ade, "watch", *ids, "--journal", journal)
    code, out, err = await adepoll(ade, "resume", journal, "--all")
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)
    assert all(json.loads(line)["data"] for line in out.splitlines())
    assert "; 0 requests" in err


async def test_a_killed_batch_can_be_resumed(ade, journal):
    ids = [ade.submit(SOON) for _ in range(5)] + [ade.submit(JobPlan(processing_time=2.0))]
    _, first, _ = await stopped_after_one_line(ade, journal, *ids, number=signal.SIGKILL)
    code, rest, _ = await adepoll(ade, "resume", journal)
    assert code == 0
    printed = Counter(ids_of(first + rest))
    assert set(printed) == set(ids)
    assert printed.total() <= len(ids) + 1  # a line that the kill left unacknowledged


async def test_the_exit_code_is_that_of_the_whole_batch_not_of_its_last_run(ade, journal):
    failed = ade.submit(JobPlan(outcome=Outcome.FAILED))
    code, _, _ = await adepoll(ade, "watch", failed, "--journal", journal)
    assert code == 1
    code, out, _ = await adepoll(ade, "resume", journal)
    assert (code, out) == (1, "")


async def test_the_resume_command_is_printed_if_another_run_may_resolve_jobs(ade, journal):
    never = ade.submit(NEVER)
    code, out, err = await adepoll(ade, "watch", never, "--journal", journal, "--timeout", READS)
    assert code == 3
    assert json.loads(out)["error_kind"] == "JobTimeoutError"
    assert f"continue with: adepoll resume {quote(str(journal))}" in err
    code, _, err = await adepoll(ade, "watch", "bad/id", "--journal", f"{journal}2")
    assert code == 3
    assert "continue with" not in err


async def test_all_prints_permanent_errors_again_and_no_resume_command(ade, journal):
    async with await Journal.open(journal, endpoint=ade.base_url) as made:
        await made.add(["gone"])
        await made.write(GivenUp("gone", AdePollError("no such job"), lasting=True, at=1.0))
    code, out, err = await adepoll(ade, "resume", journal, "--all")
    assert code == 3
    assert json.loads(out) == {
        "job_id": "gone",
        "kind": "v1-extract",
        "error": "no such job",
        "error_kind": "AdePollError",
    }
    assert "unresolved: gone: no such job" in err
    assert "continue with" not in err


async def test_options_are_saved_for_resume_and_can_be_overridden(ade, journal):
    never = ade.submit(NEVER)
    await adepoll(
        ade, "watch", never, "--journal", journal, "--timeout", READS, "--concurrency", "7"
    )
    with closing(sqlite3.connect(journal)) as connection:
        (note,) = connection.execute("SELECT value FROM notes WHERE key = 'options'").fetchone()
    assert json.loads(note) == {"concurrency": 7, "timeout": float(READS)}
    code, out, _ = await adepoll(ade, "resume", journal)
    assert code == 3
    assert f"did not settle in {READS} s" in json.loads(out)["error"]
    code, out, err = await adepoll(ade, "resume", journal, "--timeout", "0.3", "--allow-private")
    assert "did not settle in 0.3 s" in json.loads(out)["error"]
    assert err.endswith(f"adepoll resume {quote(str(journal))} --timeout 0.3 --allow-private\n")


async def test_after_a_kill_while_reading_ids_resume_requests_the_ids_again(ade, journal):
    async with started(ade, "watch", "--journal", journal) as process:
        process.stdin.write(f"{ade.submit(SOON)}\n".encode())
        await process.stdin.drain()
        await process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        await process.wait()
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    assert json.loads(out)["ids_may_be_missing"]
    code, out, err = await adepoll(ade, "resume", journal)
    assert code == 3
    assert "the last run may have ended before it had read all ids: pass them again" in err
    later = ade.submit(SOON)
    code, out, err = await adepoll(ade, "watch", later, "--journal", journal)
    assert (code, ids_of(out)) == (0, [later])
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    assert not json.loads(out)["ids_may_be_missing"]


async def test_a_journal_without_jobs_is_not_a_complete_batch(ade, journal):
    """A run that is killed after it has created the journal leaves such a journal."""
    async with await Journal.open(journal, endpoint=ade.base_url):
        pass
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    assert json.loads(out)["ids_may_be_missing"]
    code, out, err = await adepoll(ade, "resume", journal)
    assert (code, out) == (3, "")
    assert "the last run may have ended before it had read all ids" in err


async def test_after_sigterm_while_reading_ids_the_message_requests_the_ids_again(ade, journal):
    async with started(ade, "watch", "--journal", journal) as process:
        process.stdin.write(f"{ade.submit(SOON)}\n".encode())
        await process.stdin.drain()
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        await process.wait()
        err = await process.stderr.read()
    assert b"not all ids had been read: pass them again with the same --journal" in err
    assert b"adepoll resume" not in err


async def test_quiet_prints_only_errors(ade):
    large = ade.submit(JobPlan(result_bytes=1_500_000))  # stored, so it is not printed
    code, _, err = await adepoll(ade, "watch", large, "--quiet")
    assert (code, err) == (0, "")
    code, _, err = await adepoll(ade, "watch", "bad/id", "--quiet")
    assert (code, err) == (3, f"unresolved: invalid job id 'bad/id': {NO_KIND}\n")


async def test_quiet_prints_no_advice(ade, journal, tmp_path):
    job_ids = ade.submit(JobPlan()), ade.submit(NEVER)
    options = ["--timeout", "0.2", "--quiet", "-j", journal]
    for folder in ("old", "new"):
        code, _, err = await adepoll(ade, "watch", *job_ids, *options, "--out", tmp_path / folder)
        assert code == 3
        assert not any(advice in err for advice in ("continue", "earlier runs"))


async def test_the_first_20_errors_are_printed_and_the_others_counted(ade):
    code, out, err = await adepoll(ade, "watch", *(f"bad/{n}" for n in range(25)))
    assert code == 3
    assert len(ids_of(out)) == 25
    assert f"unresolved: invalid job id 'JOB_ID': {NO_KIND} (25 jobs)\n  bad/" in err
    assert err.count("\n  bad/") == 20
    assert "  ... and 5 more\n" in err


async def test_the_first_20_different_errors_are_printed_and_the_others_counted(ade, tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(f"bad/{n}" for n in range(25)))
    code, _, err = await adepoll(ade, "watch", "--file", tmp_path / "ids.txt")
    assert code == 3
    for n in range(20):
        assert f"'bad/{n}': {NO_KIND} ({tmp_path}/ids.txt, line {n + 1})\n" in err
    assert "... and 5 more: unresolved: InvalidJobIdError" in err


async def test_wrong_usage_is_the_last_line(ade, tmp_path):
    (tmp_path / "ids.csv").write_text("name,job_id\na,b\n")
    code, out, err = await adepoll(ade, "watch", "--file", tmp_path / "ids.csv")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "name the column of the ids with --field" in line
    done = ade.submit(SOON)
    (tmp_path / "ids.jsonl").write_text(f'{{"id": "{done}"}}\n{{"id": 1.5}}\n')
    words = ["watch", "--file", tmp_path / "ids.jsonl", "--field", "id", "-j", tmp_path / "b.db"]
    code, out, err = await adepoll(ade, *words)
    assert code == 2
    assert "not all ids had been read" in err
    assert "is not a string" in err.splitlines()[-1]


async def test_a_table_in_a_pipe_has_one_line_for_each_row(ade, tmp_path, journal):
    reason = "the document has no text at all, " * 6
    job_id = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason=reason))
    await adepoll(ade, "watch", job_id, "--journal", journal)
    _, out, _ = await adepoll(ade, "status", journal)
    (row,) = [line for line in out.splitlines() if job_id in line]
    assert row.split()[0] == "1"
    assert row.split()[-1] == "no"


async def test_a_message_of_several_jobs_is_printed_once_with_these_jobs(ade):
    job_ids = [ade.submit(FAILED) for _ in range(3)]
    code, _, err = await adepoll(ade, "watch", *job_ids)
    assert code == 1
    first, *rest = err.splitlines()
    assert first == "failed: bad scan (3 jobs)"
    assert sorted(rest[:3]) == sorted(f"  {job_id}" for job_id in job_ids)


async def test_errors_of_one_kind_leave_room_for_the_others(ade, tmp_path):
    job_ids = [ade.submit(SOON) for _ in range(25)]
    failed = ade.submit(FAILED)
    for job_id in job_ids:
        (tmp_path / f"{job_id}.json").write_text("{}")
    code, _, err = await adepoll(ade, "watch", *job_ids, failed, "--out", tmp_path)
    assert code == 3
    assert f"failed: {failed}: bad scan" in err
    message = f"result not fetched: {tmp_path}/JOB_ID.json exists already; use --overwrite"
    assert err.count("result not fetched: ") == 1
    assert f"{message} to replace it (25 jobs)\n  " in err
    assert sum(f"  {job_id}\n" in err for job_id in job_ids) == 19
    assert "  ... and 6 more\n" in err
    assert "; 25 results not fetched; " in err
    assert "overwrite=True" not in err
    assert "a later run can continue" not in err  # it would meet the same files


async def test_another_folder_is_only_for_new_files(ade, tmp_path, journal):
    job_id, later = ade.submit(SOON), ade.submit(SOON)
    first, second = tmp_path / "first", tmp_path / "second"
    await adepoll(ade, "watch", job_id, "--journal", journal, "--out", first)
    code, _, err = await adepoll(ade, "watch", later, "--journal", journal, "--out", second)
    assert code == 0
    assert f"adepoll: files of earlier runs stay in {first}\n" in err
    assert (first / f"{job_id}.json").exists()
    assert [path.stem for path in second.iterdir()] == [later]
    _, out, _ = await adepoll(ade, "status", journal)
    assert f"new files in  {second}\n" in out
    for same in (second, first / ".." / "second"):
        _, _, err = await adepoll(ade, "resume", journal, "--out", same)
        assert "earlier runs" not in err
    _, _, err = await adepoll(ade, "resume", journal, "--out", tmp_path / "third")
    assert f"adepoll: files of earlier runs stay in {first}, {second}\n" in err


@pytest.mark.parametrize("folder", ["first", "x" * 300])
async def test_no_file_is_said_to_stay_in_a_folder_if_no_file_is_found(
    ade, tmp_path, journal, folder
):
    """The status of a file in the second folder cannot be read: the name of the folder is long."""
    job_id = ade.submit(SOON)
    await adepoll(ade, "watch", job_id, "--journal", journal, "--out", tmp_path / "first")
    (tmp_path / "first" / f"{job_id}.json").unlink()
    with closing(sqlite3.connect(journal)) as db:
        path = tmp_path / folder / f"{job_id}.json"
        db.execute("UPDATE jobs SET result_path = ?", (str(path),))
        db.commit()
    code, out, err = await adepoll(ade, "resume", journal, "--out", tmp_path / "second")
    assert (code, ids_of(out)) == (0, [job_id])
    assert "earlier runs" not in err


async def test_the_summary_of_an_interrupted_batch_agrees_with_its_journal(ade, journal):
    ids = [ade.submit(SOON) for _ in range(300)]
    _, _, err = await stopped_after_one_line(ade, journal, *ids)
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    settled = sum(json.loads(out)["by_status"].values())
    assert f"adepoll: {settled:,} of 300 jobs settled (" in err


async def test_results_that_are_not_included_are_counted(ade, tmp_path, journal):
    job_ids = [ade.submit(LARGE), ade.submit(SOON), ade.submit(LARGE)]
    code, out, err = await adepoll(ade, "watch", *job_ids, "--journal", journal)
    assert code == 0
    with_folder = f"adepoll resume {quote(str(journal))} --out DIR"
    assert f"2 large results not printed; to fetch: {with_folder}" in err.splitlines()[-2]
    _, _, err = await adepoll(ade, "watch", job_ids[0])
    assert "1 large result not printed; use --out DIR" in err
    code, out, err = await adepoll(ade, "resume", journal, "--out", tmp_path / "r")
    assert code == 0
    assert sorted(ids_of(out)) == sorted(job_ids)
    assert "not printed" not in err
    assert "without a result" not in err
    assert {path.stem for path in (tmp_path / "r").iterdir()} == {*job_ids}


@pytest.mark.parametrize(("count", "jobs"), [(1, "1 completed job"), (2, "2 completed jobs")])
async def test_completed_jobs_whose_results_are_not_kept_are_counted(ade, count, jobs):
    job_ids = [ade.submit(JobPlan(zero_data_retention=True)) for _ in range(count)]
    code, _, err = await adepoll(ade, "watch", *job_ids)
    assert code == 0
    assert f"adepoll: {jobs} without a result: the service keeps none" in err


async def test_partial_results_and_credits_are_reported(ade, journal):
    job_ids = [ade.submit(SOON), ade.submit(JobPlan(outcome=Outcome.PARTIAL))]
    code, _, err = await adepoll(ade, "watch", *job_ids, "--journal", journal)
    assert code == 0
    assert "(2 completed, 1 of them partial)" in err
    assert " credits; " in err
    code, _, _ = await adepoll(ade, "resume", journal, "--strict")
    assert code == 5
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    status = json.loads(out)
    assert status["partial"] == 1
    assert status["credits"] > 0
    _, out, _ = await adepoll(ade, "status", journal)
    assert "partial       1 of the completed jobs" in out


async def test_a_table_of_jobs_of_several_kinds_with_labels_and_columns(ade, tmp_path, journal):
    extract = ade.submit(SOON)
    parse = ade.submit(JobPlan(processing_time=0.05, outcome=Outcome.FAILED), kind="v1-parse")
    table = tmp_path / "jobs.csv"
    table.write_text(
        f"document,id,kind,customer\nq1/a.pdf,{extract},,Smith\nq1/b.pdf,{parse},v1-parse,Jones\n"
    )
    words = ["--file", table, "--field", "id", "--label-field", "document", "--name", "label"]
    code, out, err = await adepoll(
        ade, "watch", *words, "--journal", journal, "--out", tmp_path / "r"
    )
    assert code == 1
    lines = {line["label"]: line for line in map(json.loads, out.splitlines())}
    assert lines["q1/a.pdf"]["kind"] == "v1-extract"
    assert lines["q1/b.pdf"]["kind"] == "v1-parse"
    assert lines["q1/a.pdf"]["columns"] == {"customer": "Smith"}
    assert lines["q1/b.pdf"]["columns"] == {"customer": "Jones"}
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["q1_a.pdf.json"]
    assert f"failed: v1-parse/{parse} (q1/b.pdf): " in err
    _, state, _ = await adepoll(ade, "status", journal)
    assert "\nkinds         1 v1-extract, 1 v1-parse\n" in state
    _, again, _ = await adepoll(ade, "resume", journal, "--all", "--out", tmp_path / "r")
    assert sorted(again.splitlines()) == sorted(out.splitlines())


async def test_kind_sets_the_kind_of_ids_that_do_not_say_it(ade):
    plan = JobPlan(processing_time=0.05)
    parse = ade.submit(plan, kind="v1-parse")
    v2 = ade.submit(plan, kind="v2-extract")
    code, out, _ = await adepoll(ade, "watch", parse, v2, "--kind", "v1-parse")
    assert code == 0
    kinds = {line["job_id"]: line["kind"] for line in map(json.loads, out.splitlines())}
    assert kinds == {parse: "v1-parse", v2: "v2-extract"}
    code, out, _ = await adepoll(ade, "get", f"v1-parse/{parse}")
    assert (code, json.loads(out)["kind"]) == (0, "v1-parse")
    code, out, _ = await adepoll(ade, "list", "--kind", "v1-parse")
    assert [(line["job_id"], line["kind"]) for line in map(json.loads, out.splitlines())] == [
        (parse, "v1-parse")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["watch", "--bogus"], "adepoll watch: No such option '--bogus'"),
        (["watch", "a", "--overwrite"], "adepoll watch: --overwrite has no effect here: it needs"),
        (["watch", "a", "--name", "label"], "it needs --out DIR or --journal FILE; see"),
        (["watch", "a", "--label-field", "x"], "--label-field need --field NAME; see"),
        (["watch", "a", "--all"], "--all has no effect here: it needs --journal FILE; see"),
        (["watch", "a", "--out", "r", "--no-verify"], "it needs --journal FILE; see adepoll watch"),
        (["watch", "a", "--kind"], "adepoll watch: Option '--kind' requires an argument; see"),
        (["watch", "a", "--discovery", "x"], "adepoll watch: Invalid value for '--discovery'"),
        (["watch", "a", "--out", "s3://bucket/prefix"], "must be a local path, not a URL"),
        (["watch", "a", "--journal", "gs://bucket/b.db"], "begins with gs://; see"),
        (["fetch", "a", "--out", "https://a.example/b.json"], "begins with https://"),
        (["report", "b.db", "--out", "s3://bucket/b.html"], "must be a local path"),
        (["watch", "a", "--out", ""], "'-o' / '--out': the path is empty"),
        (["watch", "--file", ""], "'-f' / '--file': the path is empty"),
        (["watch", "--file", "a\x1b]0;b\u202e"], r"a\x1b]0;b\u202e: No such file or directory"),
        (["watch", "a", "--cacert", ""], "'--cacert': the path is empty"),
        (["status", ""], "the path is empty"),
        (["export", "b.db", "--out", ""], "the path is empty"),
        (
            ["fetch", "a", "--out", "absent/"],
            "'absent/' is the path of a folder, not",
        ),
        (["watch", "a", "--journal", "absent/"], "'absent/' is the path of a folder, not"),
        (["emulate", "--api-key", ""], "use printable ASCII characters, without spaces"),
        (["emulate", "--api-key", "a b"], "use printable ASCII characters, without spaces"),
        (["emulate", "--fault", "a\x9b:x"], r"as in a\x9b:0.1"),
        (["emulate", "--fault", "silent:x"], "'x' is not a chance from 0 to 1, as in silent:0.1"),
        (["export", "b.db", "--out", "/"], "'-o' / '--out': File '/' is a directory; see"),
        (["report", "b.db", "--out", "/"], "'-o' / '--out': File '/' is a directory; see"),
        (["watch", "a", "--timeout", "5m"], "'--timeout': '5m' is not a valid number; see"),
        (["watch", "a", "--timeout", "nan"], "'--timeout': not a finite number; see"),
        (["emulate", "--median", "inf"], "'--median': not a finite number; see"),
        (["list", "--limit", "2.5"], "'--limit': '2.5' is not a valid whole number; see"),
        (["get"], "adepoll get: Missing argument 'JOB_ID'; see adepoll get --help"),
        (["frob"], "adepoll: No such command 'frob'; see adepoll --help"),
    ],
)
async def test_a_usage_error_is_one_line(ade, words, said):
    code, out, err = await adepoll(ade, *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert said in line
    assert line.isprintable()


async def test_a_terminal_gets_text_and_json_only_on_request(ade, tmp_path):
    for options in ([], ["--json"]):
        job_id = ade.submit(
            JobPlan(outcome=Outcome.FAILED, failure_reason="\x1b[31mbad [b]scan[/]")
        )
        ours, theirs = pty.openpty()
        async with started(ade, "watch", job_id, *options, stdout=theirs) as process:
            os.close(theirs)
            await process.communicate()
        shown = read_all(ours).decode()
        os.close(ours)
        assert "\x1b" not in shown
        if options:
            assert json.loads(shown)["failure_reason"] == "\x1b[31mbad [b]scan[/]"
        else:
            assert shown.split() == ["failed", job_id, r"\x1b[31mbad", "[b]scan[/]"]


@pytest.mark.parametrize("command", ["watch", "resume"])
async def test_nothing_is_written_to_a_folder_that_only_the_journal_names(
    ade, journal, tmp_path, command
):
    out_dir = tmp_path / "results"
    async with await Journal.open(journal, endpoint=ade.base_url) as made:
        await made.set_note(OUT_DIR, str(out_dir))
        await made.add([ade.submit(SOON)])
    more = [ade.submit(SOON), "--journal"] if command == "watch" else []
    code, out, err = await adepoll(ade, command, *more, journal)
    assert (code, out) == (2, "")
    assert f"confirm it with --out {quote(str(out_dir))}" in err
    assert not out_dir.exists()
    assert ade.truth.requests.get == 0
    code, out, _ = await adepoll(ade, command, *more, journal, "--out", out_dir)
    assert code == 0
    assert len(list(out_dir.iterdir())) == len(ids_of(out)) == 1 + bool(more)


# --- the endpoint --------------------------------------------------------------------------------


async def test_the_key_is_not_sent_to_an_endpoint_that_only_the_journal_names(ade, journal):
    await adepoll(ade, "watch", ade.submit(SOON), "--journal", journal)
    polls = ade.truth.requests.get
    elsewhere = {"LANDINGAI_ADE_BASE_URL": ""}
    code, out, err = await adepoll(ade, "resume", journal, variables=elsewhere)
    assert (code, out) == (2, "")
    assert f"confirm it with --base-url {ade.base_url} or LANDINGAI_ADE_BASE_URL" in err
    code, _, err = await adepoll(
        ade, "resume", journal, "--base-url", ade.base_url, variables=elsewhere
    )
    assert code == 0
    assert ade.truth.requests.get == polls


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["--region", "eu"], {}),
        ([], {"LANDINGAI_ADE_BASE_URL": "", "LANDINGAI_ADE_ENVIRONMENT": "eu"}),
    ],
)
async def test_a_journal_of_another_service_is_refused_with_both_endpoints(
    ade, journal, options, variables
):
    await adepoll(ade, "watch", ade.submit(SOON), "--journal", journal)
    code, out, err = await adepoll(ade, "resume", journal, *options, variables=variables)
    assert (code, out) == (2, "")
    assert f"has jobs of {ade.base_url}, but the base URL is https://api.va.eu-west-1" in err


async def test_a_journal_with_v2_jobs_of_another_service_is_refused(ade, journal):
    job_id = ade.submit(NEVER, kind=JobKind.V2_PARSE)
    await adepoll(ade, "watch", job_id, "--journal", journal, "--timeout", READS)
    requests = ade.truth.requests.get
    other = {"LANDINGAI_ADE_V2_BASE_URL": "https://api.ade.landing.ai"}
    code, out, err = await adepoll(ade, "resume", journal, variables=other)
    assert (code, out, ade.truth.requests.get) == (2, "", requests)
    assert f"has v2 jobs of {ade.base_url}, but the base URL for v2 jobs is https://api.ade" in err
    end_now(ade.world, job_id)
    # The journal contains a short timeout.
    confirmed = ("--base-url", ade.base_url, "--v2-base-url", ade.base_url, "--timeout", "60")
    code, _, err = await adepoll(ade, "resume", journal, *confirmed, variables=other)
    assert code == 0
    assert ade.truth.requests.get > requests


async def test_the_resume_command_contains_the_endpoint_if_necessary(ade, journal):
    elsewhere = {"LANDINGAI_ADE_BASE_URL": ""}
    never = ade.submit(NEVER)
    _, _, err = await adepoll(
        *(ade, "watch", never, "--journal", journal, "--timeout", READS),
        *("--base-url", ade.base_url), variables=elsewhere,
    )  # fmt: skip
    assert err.endswith(f"adepoll resume {quote(str(journal))} --base-url {ade.base_url}\n")


# --- unusable journals ---------------------------------------------------------------------------


async def test_a_second_process_on_a_journal_is_refused_with_the_pid_of_the_first(ade, journal):
    async with started(ade, "watch", ade.submit(SOON), ade.submit(NEVER), "-j", journal) as first:
        await first.stdout.readline()
        for command in (["resume", journal], ["watch", "a", "--journal", journal]):
            code, out, err = await adepoll(ade, *command)
            assert (code, out) == (2, "")
            assert f"is in use by process {first.pid}; wait until" in err
        code, out, _ = await adepoll(ade, "status", journal)
        assert code == 0
        assert f"in process {first.pid}" in out
        assert "Continue with" not in out


async def test_a_file_that_is_not_a_journal_is_reported_in_one_line_and_not_changed(ade, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("a text\n" * 200)
    for command in ("resume", "status", "report"):
        for path, code in ((other, 2), (tmp_path / "absent.db", 2)):
            found, out, err = await adepoll(ade, command, str(path))
            assert (found, out) == (code, "")
            assert len(err.splitlines()) == 1
            assert str(path) in err
    assert sorted(tmp_path.iterdir()) == [other]


async def test_a_damaged_journal_exits_with_74_and_says_how_to_recover_it(ade, journal):
    await adepoll(ade, "watch", ade.submit(SOON), "--journal", journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    code, out, err = await adepoll(ade, "resume", journal)
    assert (code, out) == (74, "")
    assert "is damaged" in err
    assert ".recover" in err


async def test_a_full_disk_stops_the_batch_with_74_and_the_resume_command(ade, journal):
    ids = [ade.submit(SOON) for _ in range(200)]
    limits = ["bash", "-c", 'ulimit -f 400; trap "" XFSZ; exec "$@"', "-"]
    code, out, err = await adepoll(ade, "watch", *ids, "--journal", journal, wrapper=limits)
    assert code == 74
    *_, error, hint = err.splitlines()
    assert "cannot be written" in error
    assert hint == f"adepoll: continue with: adepoll resume {quote(str(journal))}"
    code, rest, _ = await adepoll(ade, "resume", journal)
    assert code == 0
    assert set(ids_of(out + rest)) == set(ids)


async def test_resume_needs_an_existing_journal(ade, journal):
    code, _, err = await adepoll(ade, "resume", journal)
    assert code == 2
    assert "does not exist" in err
    assert not journal.exists()


# --- status --------------------------------------------------------------------------------------


async def test_status_shows_the_state_of_a_batch_without_a_key(ade, journal, tmp_path):
    ids = [ade.submit(LARGE), ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="[b]blur"))]
    out_dir = str(tmp_path / "r")
    await adepoll(ade, "watch", *ids, "-j", journal, "-o", out_dir)
    await adepoll(ade, "watch", "unknown", "-j", journal, "-o", out_dir, "--timeout", "1")
    code, out, err = await adepoll(ade, "status", journal, key="", real=True)
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=1) for line in out.splitlines() if line]
    assert ["jobs", "3: 2 done, 1 given up"] in rows
    assert ["settled", "2: 1 completed, 1 failed"] in rows
    assert ["running", "no"] in rows
    assert "JobFailedError: [b]blur" in out
    assert f"Continue with: adepoll resume {quote(str(journal))}" in out
    code, out, _ = await adepoll(ade, "status", journal, "--json", key="")
    found = json.loads(out)
    assert found["endpoint"] == ade.base_url
    assert found["out_dir"] == out_dir
    assert (found["jobs"], found["open"], found["acknowledged"]) == (3, 0, 3)
    assert found["by_stage"] == {"waiting": 0, "fetching": 0, "done": 2, "given_up": 1}
    assert found["bytes"] == 1_500_000
    assert {failure["error_kind"] for failure in found["failures"]} >= {"JobFailedError"}
    assert found["began_at"] <= found["last_outcome_at"]
    assert found["process"] is None


async def test_status_of_a_complete_batch_has_no_resume_command(ade, journal):
    await adepoll(ade, "watch", ade.submit(SOON), "--journal", journal)
    _, out, _ = await adepoll(ade, "status", journal)
    assert "Continue with" not in out
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    assert json.loads(out)["resume_command"] is None


async def test_status_counts_the_results_without_a_file_and_says_how_to_fetch_them(
    ade, journal, tmp_path
):
    ids = [ade.submit(LARGE), ade.submit(SOON), ade.submit(FAILED)]
    await adepoll(ade, "watch", *ids, "--journal", journal)
    _, out, _ = await adepoll(ade, "status", journal, "--json", real=True)
    found = json.loads(out)
    assert (found["without_file"], found["resume_command"]) == (2, None)
    _, out, _ = await adepoll(ade, "status", journal, real=True)
    assert "without file  2 of the completed jobs" in out.splitlines()
    assert out.splitlines()[-1].endswith(found["fetch_command"])
    fetch_command = found["fetch_command"].replace("DIR", quote(str(tmp_path / "r")))
    code, out, _ = await adepoll(ade, *shlex.split(fetch_command)[1:])
    assert (code, sorted(ids_of(out))) == (1, sorted(ids[:2]))
    _, out, _ = await adepoll(ade, "status", journal, "--json")
    found = json.loads(out)
    assert (found["without_file"], found["fetch_command"]) == (0, None)
    _, out, _ = await adepoll(ade, "status", journal)
    assert "without" not in out


async def test_a_closed_stdout_ends_the_batch_quietly_and_loses_no_outcome(ade, journal):
    ids = [ade.submit(SOON) for _ in range(20)]
    read_end, write_end = os.pipe()
    async with started(ade, "watch", *ids, "-j", journal, stdout=write_end) as process:
        os.close(write_end)
        os.close(read_end)
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    code, out, _ = await adepoll(ade, "resume", journal)
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)


@pytest.mark.parametrize("size", [4_000, 300_000])
async def test_a_stopped_reader_of_stdout_delays_neither_ctrl_c_nor_the_exit(ade, journal, size):
    ids = [ade.submit(JobPlan(processing_time=0.05, result_bytes=size)) for _ in range(40)]
    read_end, write_end = os.pipe()
    async with started(ade, "watch", *ids, "-j", journal, stdout=write_end) as process:
        os.close(write_end)
        await until(lambda: ade.truth.requests.get >= len(ids))
        await until_all_ids_are_read(journal)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    os.close(read_end)
    assert process.returncode == 130
    assert b"continue with" in err


async def test_lines_longer_than_the_pipe_buffer_are_complete(ade):
    ids = [ade.submit(JobPlan(processing_time=0.05, result_bytes=300_000)) for _ in range(8)]
    code, out, _ = await adepoll(ade, "watch", *ids)
    assert code == 0
    assert sorted(ids_of(out)) == sorted(ids)
