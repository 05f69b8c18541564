"""``adepoll status``: what it says about journals in all states."""

import json

import pytest
from click.testing import CliRunner
from journalling import ENDPOINT, snapshot

from adepoll import JobKind, JobRef, Journal
from adepoll.api.config import REGIONS
from adepoll.cli import cli
from adepoll.cli.batch_options import IDS_MAY_BE_MISSING, IDS_NOTE, READ, READING
from adepoll.errors import JobNotFoundError, JobTimeoutError
from adepoll.journal import Acknowledged, Fetched, GivenUp, Settled
from adepoll.journal.outcomes import ResultFile
from adepoll.journal.schema import OUT_DIR

T0 = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
META = {"filename": "a.pdf", "credit_usage": 1234.5678, "job_id": "a"}


def gone(job_id):
    return GivenUp(job_id, JobNotFoundError(status=404, job_id=job_id), lasting=True, at=T0)


def late(job_id):
    error = JobTimeoutError(job_id=job_id, timeout=5.0, last_status=None)
    return GivenUp(job_id, error, lasting=False, at=T0 + 60)


@pytest.fixture
def write(path):
    """Write a journal of these jobs, changes and notes."""

    async def write_journal(jobs, *changes, endpoint=ENDPOINT, **notes):
        async with await Journal.open(path, endpoint=endpoint) as journal:
            await journal.add(jobs, at=T0)
            for change in changes:
                await journal.write(change)
            for name, value in notes.items():
                await journal.set_note({"out": OUT_DIR, "ids": IDS_NOTE}.get(name, name), value)

    return write_journal


def status(path, *options):
    done = CliRunner().invoke(cli, ["status", str(path), *options])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def found(path):
    return json.loads(status(path, "--json"))


async def test_a_new_journal_lacks_its_ids(write, path):
    await write([])
    assert status(path).splitlines() == [
        f"service       {ENDPOINT}",
        "jobs          0",
        "settled       0",
        "acknowledged  0",
        "running       no",
        "",
        IDS_MAY_BE_MISSING.capitalize(),
    ]
    assert found(path) == {
        "journal": str(path),
        "endpoint": ENDPOINT,
        "v2_endpoint": ENDPOINT,
        "out_dir": None,
        "process": None,
        "jobs": 0,
        "open": 0,
        "by_stage": {"waiting": 0, "fetching": 0, "done": 0, "given_up": 0},
        "by_kind": {},
        "by_status": {},
        "acknowledged": 0,
        "unacknowledged": 0,
        "partial": 0,
        "credits": 0.0,
        "bytes": 0,
        "without_file": 0,
        "began_at": None,
        "last_outcome_at": None,
        "failures": [],
        "ids_may_be_missing": True,
        "resume_command": None,
        "fetch_command": None,
    }


@pytest.mark.parametrize(
    ("note", "jobs", "missing"),
    [
        (None, [], True),
        (None, ["a"], False),
        (READING, ["a"], True),
        (READ, ["a"], False),
        (READ, [], False),
    ],
)
async def test_ids_may_be_missing_until_the_run_has_read_them(write, path, note, jobs, missing):
    await write(jobs, **({} if note is None else {"ids": note}))
    assert found(path)["ids_may_be_missing"] is missing


async def test_every_fact_of_a_batch_is_a_line(write, path, tmp_path):
    file = ResultFile(path=tmp_path / "r" / "a.json", bytes=2_400_000, sha256="0" * 64)
    partial = META | {"schema_violation_error": "total is missing"}
    await write(
        ["a", "b", "c", "d", JobRef("e", kind=JobKind.V1_PARSE), "f"],
        Settled(snapshot("a", metadata=partial), T0 + 30, fetching=True),
        Fetched("a", file, 1, T0 + 31.0),
        Acknowledged("a", T0 + 32.0),
        Settled(snapshot("b", metadata=META | {"job_id": "b"}), T0 + 40, fetching=False),
        Settled(snapshot("c", "failed", failure_reason="[b]blur"), T0 + 50, fetching=False),
        late("d"),
        gone("f"),
        endpoint=REGIONS["eu"],
        out=str(tmp_path / "r"),
    )
    lines = status(path).splitlines()
    assert lines[:12] == [
        f"service       {REGIONS['eu']} (eu)",
        f"new files in  {tmp_path / 'r'}",
        "jobs          6: 1 waiting, 3 done, 2 given up",
        "kinds         5 v1-extract, 1 v1-parse",
        "settled       3: 2 completed, 1 failed",
        "acknowledged  1; 4 not yet",
        "partial       1 of the completed jobs",
        "credits       2,469.14",
        "results       2 MB in files",
        "without file  1 of the completed jobs",
        "began         2023-11-14 22:13:20 UTC",
        "last outcome  2023-11-14 22:14:20 UTC",
    ]
    assert lines[12] == "running       no"
    assert lines[14].split() == ["jobs", "error", "example", "retried"]
    rows = [" ".join(line.split()) for line in lines[15:18]]
    assert rows[0] == "1 JobFailedError: [b]blur c no"
    assert rows[1].endswith(" d yes")
    assert rows[2].endswith(" f no")
    out = f"--out {tmp_path / 'r'}"
    command = f"adepoll resume {path} {out}"
    assert lines[-3:] == [
        f"Continue with: {command}",
        "",
        f"Download the missing result files with: {command}",
    ]
    facts = found(path)
    assert (facts["resume_command"], facts["fetch_command"]) == (command, command)
    assert (facts["acknowledged"], facts["unacknowledged"], facts["open"]) == (1, 4, 1)
    assert facts["by_kind"] == {"v1-extract": 5, "v1-parse": 1}
    assert (facts["began_at"], facts["last_outcome_at"]) == (
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:14:20Z",
    )
    assert facts["failures"][0] == {
        "error_kind": "JobFailedError",
        "reason": "[b]blur",
        "lasting": True,
        "jobs": 1,
        "example": "c",
    }


@pytest.mark.parametrize(
    ("change", "acknowledged", "resumable"),
    [
        (None, False, True),
        (Settled(snapshot("a", "failed"), T0, fetching=False), False, True),
        (Settled(snapshot("a", "failed"), T0, fetching=False), True, False),
        (gone("a"), True, False),
        (late("a"), True, True),
    ],
)
async def test_a_batch_can_be_continued_while_there_is_something_to_do(
    write, path, change, acknowledged, resumable
):
    changes = [] if change is None else [change]
    if acknowledged:
        changes.append(Acknowledged("a", T0 + 70))
    await write(["a"], *changes, ids=READ)
    command = f"adepoll resume {path} --base-url {ENDPOINT}"
    assert found(path)["resume_command"] == (command if resumable else None)
    assert ("Continue with: " in status(path)) is resumable
    assert found(path)["fetch_command"] is None


async def test_a_batch_with_one_retryable_job_among_many_errors_can_be_continued(write, path):
    """Only the 100 most frequent errors are read, and each lasting error occurs twice."""
    lasting = [f"{number}-{half}" for number in range(100) for half in "ab"]
    changes = [
        GivenUp(
            job_id,
            JobNotFoundError(status=404, job_id=job_id, detail=job_id.partition("-")[0]),
            lasting=True,
            at=T0,
        )
        for job_id in lasting
    ]
    acknowledged = [Acknowledged(job_id, T0) for job_id in [*lasting, "late"]]
    await write([*lasting, "late"], *changes, late("late"), *acknowledged, ids=READ)
    assert found(path)["resume_command"] == f"adepoll resume {path} --base-url {ENDPOINT}"


async def test_results_without_a_file_can_be_fetched_to_any_folder(write, path):
    await write(
        ["a"],
        Settled(snapshot("a"), T0, fetching=False),
        Acknowledged("a", T0),
        ids=READ,
    )
    facts = found(path)
    assert facts["fetch_command"] == f"adepoll resume {path} --base-url {ENDPOINT} --out DIR"
    assert facts["resume_command"] is None
    assert status(path).splitlines()[-1].endswith("--out DIR")


async def test_a_running_batch_has_no_command(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a", "b"], at=T0)
        await journal.write(Settled(snapshot("a"), T0, fetching=False))
        facts = found(path)
        assert facts["process"]
        assert (facts["resume_command"], facts["fetch_command"]) == (None, None)
        assert f"running       in process {facts['process']}" in status(path).splitlines()
        assert "with:" not in status(path)
    assert found(path)["resume_command"]


async def test_ten_kinds_of_errors_are_shown(write, path):
    ids = [f"j{number:02}" for number in range(12)]
    changes = [
        Settled(snapshot(job_id, "failed", failure_reason=f"reason {job_id}"), T0, fetching=False)
        for job_id in ids
    ]
    await write(ids, *changes[:10])
    assert len(found(path)["failures"]) == 10
    assert "more kinds of errors" not in status(path)
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.write(*changes[10:])
    assert len(found(path)["failures"]) == 10
    shown = status(path)
    assert '... and 2 more kinds of errors; "adepoll report" lists them' in shown.splitlines()
    assert shown.count("JobFailedError: reason") == 10
