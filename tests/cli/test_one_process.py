"""``get``, ``list``, ``fetch`` and ``report`` in the process of the test, and what they print."""

import asyncio
import errno
import json
import re

import pytest
from click.testing import CliRunner
from journalling import ENDPOINT, snapshot
from tabling import write_journal

from adepoll.api.file_names import result_name
from adepoll.cli import cli, report
from adepoll.emulator import JobPlan, Outcome
from adepoll.fetcher.part_names import PartNames
from adepoll.fetcher.resume_state import STATE_END


@pytest.fixture
def run(ade, monkeypatch, tmp_path):
    """Run the command in an empty folder; return code, stdout and stderr."""
    monkeypatch.setenv("LANDINGAI_ADE_BASE_URL", ade.base_url)
    monkeypatch.setenv("VISION_AGENT_API_KEY", ade.api_key)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def invoke(*arguments, is_terminal=False):
        with monkeypatch.context() as patch:
            name = "click.testing._NamedTextIOWrapper.isatty"
            patch.setattr(name, lambda stream: is_terminal and stream.name == "<stdout>")
            done = CliRunner().invoke(cli, [*map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    return invoke


def test_get_prints_one_line_or_indented_json_on_a_terminal(run, ade):
    job_id = ade.submit(JobPlan())
    code, out, err = run("get", job_id)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert json.loads(out)["job_id"] == job_id
    _, shown, _ = run("get", job_id, is_terminal=True)
    assert json.loads(shown) == json.loads(out)
    assert shown.splitlines()[1].startswith('  "')


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.COMPLETED, 0), (Outcome.PARTIAL, 0), (Outcome.FAILED, 1), (Outcome.CANCELLED, 1)],
)
def test_get_ends_with_the_code_of_the_job(run, ade, outcome, code):
    assert run("get", ade.submit(JobPlan(outcome=outcome)))[0] == code
    assert run("get", ade.submit(JobPlan(processing_time=1e9)))[0] == 0


def test_list_has_a_table_on_a_terminal_and_json_lines_elsewhere(run, ade):
    reason = "[b]bad" + " word" * 40
    failed = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason=reason))
    done = ade.submit(JobPlan())
    _, out, _ = run("list")
    lines = {line["job_id"]: line for line in map(json.loads, out.splitlines())}
    assert lines.keys() == {failed, done}
    assert (lines[failed]["status"], lines[failed]["failure_reason"]) == ("failed", reason)
    assert (lines[done]["kind"], lines[done]["failure_reason"]) == ("v1-extract", None)
    assert run("list", "--json", is_terminal=True)[1] == out
    for limit in (1, 2, 3):
        assert len(run("list", "--limit", limit)[1].splitlines()) == min(limit, 2)
    _, table, _ = run("list", is_terminal=True)
    header, *rows = re.sub("\x1b[^m]*m", "", table).splitlines()
    assert header.split() == ["job", "status", "received", "(UTC)", "failure"]
    assert any(row.startswith(failed) and "[b]bad" in row for row in rows)
    # The terminal has 80 columns, but only the last column can be shortened, to 12.
    assert max(map(len, rows)) == len(f"{failed}  completed  2026-11-30 12:29:53  ") + 12
    assert run("list", "--status", "cancelled")[1] == ""


@pytest.mark.parametrize("out", [None, "x.json", "-"])
def test_fetch_writes_to_a_file_or_to_stdout(run, ade, tmp_path, out):
    job_id = ade.submit(JobPlan(result_bytes=5_000))
    result = ade.world.result(job_id).read().decode()
    code, printed, err = run("fetch", job_id, *([] if out is None else ["--out", out]))
    assert code == 0
    if out == "-":
        assert (printed, err) == (result, "")
        assert [*(tmp_path / "here").iterdir()] == []
        return
    name = out or result_name(job_id)
    assert (tmp_path / "here" / name).read_text() == result
    assert printed == ""
    sha256 = ade.truth(job_id).result_sha256
    assert err.splitlines()[-1] == f"{name}: 5000 bytes, sha256 {sha256}"


def test_fetch_that_fails_says_nothing_of_a_kept_download(run, ade, tmp_path):
    code, out, err = run("fetch", "unknown")
    assert (code, out) == (3, "")
    assert "is kept" not in err
    assert run("fetch", "unknown", "--out", "-")[0] == 3
    for target, job_id in (("unknown.json", "another"), ("unknown.json.bak", "unknown")):
        part = PartNames(tmp_path / "here" / target, job_id).shared
        part.with_name(f"{part.name}{STATE_END}").touch()  # not of this job and target
    code, out, err = run("fetch", "unknown")
    assert (code, "is kept" in err) == (3, False)
    job_id = ade.submit(JobPlan(result_bytes=5_000))
    (tmp_path / "here" / result_name(job_id)).write_text("mine")
    code, _, err = run("fetch", job_id)
    assert (code, err.count("\n")) == (2, 1)
    assert run("fetch", job_id, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("jobs", "text"), [(1, "1 job, 0"), (2, "2 jobs, 1"), (1_201, "1,201 jobs, 1,200")]
)
def test_report_counts_the_jobs(tmp_path, jobs, text):
    results = [snapshot("j0"), *[None] * (jobs - 1)]
    asyncio.run(write_journal(tmp_path / "b.db", results))
    out = tmp_path / "b-report.html"
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "b.db")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{out}: report about {text} still open\n"
    assert ENDPOINT in out.read_text()
    out.unlink()
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "b.db"), "--out", "-"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert not out.exists()


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_link_that_leads_to_itself_is_replaced(tmp_path, command):
    asyncio.run(write_journal(tmp_path / "b.db", [None]))
    out = tmp_path / "out.csv"
    out.symlink_to("out.csv")
    done = CliRunner().invoke(cli, [command, str(tmp_path / "b.db"), "--out", str(out)])
    assert done.exit_code == 0
    assert not out.is_symlink()
    assert out.stat().st_size


@pytest.mark.parametrize("command", ["report", "status"])
@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_without_a_name_is_not_a_journal(command, folder):
    done = CliRunner().invoke(cli, [command, folder])
    assert done.exit_code == 2
    assert "it is a folder" in done.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(errno.ENOSPC, "the disk is full"), "the disk is full"), (OSError(), "OSError")],
)
def test_a_report_that_cannot_be_written_says_why(tmp_path, monkeypatch, error, reason):
    asyncio.run(write_journal(tmp_path / "b.db", [None]))

    def fail(*_args):
        raise error

    monkeypatch.setattr(report, "write_atomically", fail)
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "b.db"), "--out", "x.html"])
    assert done.exit_code == 74
    assert done.stderr == f"adepoll: cannot write x.html: {reason}; see --out\n"
