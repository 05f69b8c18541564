"""The demo finds every difference between what it observed and what the emulator did."""

import asyncio
import contextlib
import io
import sys

import aiohttp
import pytest
from rich.console import Console
from scripted import snapshot

from adepoll import AdeClient, JobRef
from adepoll.api.models import JobStatus
from adepoll.cli import demo_run
from adepoll.cli.demo_emulator import EmulatorProcess, emulator_process
from adepoll.cli.demo_run import Observations, compare, run_demo, summary_table
from adepoll.cli.exit_codes import ExitCode
from adepoll.emulator import Emulator, JobPlan, Outcome, Profile
from adepoll.errors import AdePollError


def observed(**changes):
    """Return what the demo observes of one completed job with a small result."""
    values = {
        "settled_at": {"job-1": 30.0},
        "statuses": {"job-1": JobStatus.COMPLETED},
        "digests": {"job-1": "ab"},
    }
    return Observations(**values | changes)


TRUTH = {
    "jobs": [
        {
            "job_id": "job-1",
            "outcome": "completed",
            "finished_at": 20.0,
            "result_bytes": 12,
            "result_sha256": "ab",
        }
    ],
    "leaks": 0,
}


def test_equal_observations_have_no_findings():
    assert compare(["job-1"], observed(), TRUTH) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"digests": {"job-1": "cd"}}, "the result of job job-1 differs from the emulator's"),
        ({"digests": {}}, "the result of job job-1 differs from the emulator's"),
        (
            {"statuses": {"job-1": JobStatus.FAILED}},
            "job job-1 was reported failed, but completed",
        ),
        ({"settled_at": {"job-1": 10.0}}, "job job-1 was reported before it had settled"),
        ({"repeats": 2}, "2 jobs were yielded more than once"),
    ],
)
def test_a_difference_is_found(changes, finding):
    assert compare(["job-1"], observed(**changes), TRUTH) == [finding]


def test_a_job_may_be_reported_at_the_moment_of_its_end():
    assert compare(["job-1"], observed(settled_at={"job-1": 20.0}), TRUTH) == []


def test_problems_lost_jobs_and_leaks_are_findings():
    failed = {"job_id": "job-2", "outcome": "failed", "finished_at": 20.0, "result_sha256": None}
    truth = {"jobs": [*TRUTH["jobs"], failed], "leaks": 3}
    assert compare(["job-1", "job-2"], observed(problems=["a problem"]), truth) == [
        "a problem",
        "job job-2 was lost",
        "3 requests for results contained a key or a cookie",
    ]
    assert compare(["job-1"], observed(), truth | {"leaks": 0}) == [
        "1 jobs submitted, 2 known to the emulator"
    ]
    both = {"job-1": JobStatus.COMPLETED, "job-2": JobStatus.FAILED}
    times = {"job-1": 30.0, "job-2": 30.0}
    truth["leaks"] = 0
    assert compare(["job-1", "job-2"], observed(statuses=both, settled_at=times), truth) == []


def table_of(observations, truth, findings=()):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(summary_table(observations, truth, findings))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_shows_jobs_requests_times_and_results():
    job_ids = [f"job-{number}" for number in range(20)]
    outcomes = ["failed", "partial", "partial", *["completed"] * 17]
    truth = {
        "jobs": [
            {"job_id": job_id, "outcome": outcome, "finished_at": 20.0}
            for job_id, outcome in zip(job_ids, outcomes, strict=True)
        ]
    }
    statuses = [JobStatus.FAILED, *[JobStatus.COMPLETED] * 19]
    observations = Observations(
        settled_at={job_id: 21.0 + number for number, job_id in enumerate(job_ids)},
        statuses=dict(zip(job_ids, statuses, strict=True)),
        digests=dict.fromkeys(job_ids[1:], "ab"),
        large=3,
        bytes_fetched=12_345_678,
        requests=45,
        seconds=8.0,
    )
    assert table_of(observations, truth) == [
        "settled           20 jobs: 19 completed, 1 failed",
        "partial results   2",
        "requests per job  2.25",
        "detection lag     p50 11.00 s, p95 20.00 s",
        "jobs per second   2.5",
        "duration          8.0 s",
        "results           19, of them 3 large (12.3 MB)",
        "check             no job lost or duplicated, every result identical",
    ]


def test_the_table_of_a_demo_without_settled_jobs_counts_the_differences():
    table = table_of(Observations(requests=3, seconds=1.0), {"jobs": []}, ["lost", "lost, too"])
    assert table[0] == "settled           0 jobs:"
    assert table[2:4] == ["requests per job  3.00", "detection lag     p50 nan s, p95 nan s"]
    assert table[-1] == "check             2 differences"


def test_a_job_that_is_yielded_twice_is_counted():
    observations = Observations()
    for _ in range(2):
        observations.add(snapshot("job-1"))
    assert observations.repeats == 1


async def test_jobs_requests_and_results_are_observed(tmp_path):
    plans = [JobPlan(result_bytes=3_000_000), JobPlan(), JobPlan(outcome=Outcome.FAILED)]
    loop = asyncio.get_running_loop()
    async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
        large, small, failed = [ade.submit(plan) for plan in plans]
        began = loop.time()
        jobs = [JobRef(job_id) for job_id in (large, small, failed)]
        found = await demo_run._watch(client, jobs, tmp_path)
        assert 0 < found.seconds <= loop.time() - began
        assert found.requests == client.stats.requests
        digests = {job_id: ade.truth(job_id).result_sha256 for job_id in (large, small)}
    assert found.statuses == {
        large: JobStatus.COMPLETED,
        small: JobStatus.COMPLETED,
        failed: JobStatus.FAILED,
    }
    assert found.digests == digests
    assert (found.large, found.bytes_fetched, found.repeats) == (1, 3_000_000, 0)
    assert found.problems == []
    assert list(tmp_path.iterdir()) == []


async def test_a_download_that_fails_is_a_problem(tmp_path):
    async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
        job_id = ade.submit(JobPlan(zero_data_retention=True))
        found = await demo_run._watch(client, [JobRef(job_id)], tmp_path)
    assert (found.large, found.digests) == (0, {})
    (problem,) = found.problems
    assert job_id in problem


@pytest.mark.parametrize("findings", [[], ["job job-1 was lost"]])
async def test_the_code_of_the_demo_says_whether_there_was_a_difference(
    monkeypatch, capsys, findings
):
    async with Emulator(profile=Profile.quick()) as ade:
        url = ade.base_url

        @contextlib.asynccontextmanager
        async def process(*, seed, median):
            assert (seed, median) == (7, 0.5)
            yield EmulatorProcess(url, ade.api_key)

        monkeypatch.setattr(demo_run, "emulator_process", process)
        if findings:
            monkeypatch.setattr(demo_run, "compare", lambda *_: findings)
        code = await run_demo(jobs=5, median=0.5, seed=7)
    assert code is (ExitCode.FAILED_OR_CANCELLED if findings else ExitCode.COMPLETED)
    out, err = capsys.readouterr()
    assert "5 jobs: 5 completed" in out
    assert [line for line in err.splitlines() if "settled" not in line] == [
        f"adepoll: submitting 5 jobs to the emulator at {url}",
        "adepoll: comparing with the emulator's records",
        *[f"adepoll: WRONG: {finding}" for finding in findings],
    ]


async def test_a_submission_that_is_refused_is_an_error():
    async with Emulator() as ade:
        assert len(await EmulatorProcess(ade.base_url, ade.api_key).submit(5)) == 5
        with pytest.raises(aiohttp.ClientResponseError, match="401"):
            await EmulatorProcess(ade.base_url, "another-key").submit(1)


async def test_an_emulator_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "true")
    with pytest.raises(AdePollError, match='"adepoll emulate" to see why'):
        async with emulator_process(seed=1, median=1.0):
            pass


async def test_the_emulator_of_the_demo_does_not_get_the_api_key(monkeypatch):
    seen = {}

    async def start(*command, env, **options):
        seen.update(env, command=command, **options)
        raise ProcessLookupError

    monkeypatch.setattr("asyncio.create_subprocess_exec", start)
    monkeypatch.setenv("VISION_AGENT_API_KEY", "canary")
    monkeypatch.setenv("OTHER", "stays")
    with pytest.raises(ProcessLookupError):
        async with emulator_process(seed=1, median=1.0):
            pass
    assert seen["OTHER"] == "stays"
    assert "canary" not in str(seen)
    assert seen["start_new_session"]
