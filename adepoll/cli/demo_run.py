"""``adepoll demo``: the main job, end to end, against an emulator in a process of its own."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import click
from attrs import define, field
from rich.console import Console
from rich.table import Table

from adepoll.api.client import AdeClient
from adepoll.api.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from adepoll.api.models import JobSnapshot, JobStatus, Json
from adepoll.cli.progress import show, watch_standing
from adepoll.cli.running import ExitCode, median_option, run, say
from adepoll.cli.standing import Downloads
from adepoll.errors import AdePollError, ResultError, UnresolvedJobsError
from adepoll.fetcher import ResultFetcher
from adepoll.watching.subscriptions import Watch
from adepoll.watching.watcher import JobWatcher

_SUBMISSIONS_AT_ONCE: Final = 32
_DOWNLOADS_AT_ONCE: Final = 8
_SCHEMA: Final = (
    '{"type": "object", "properties": {"invoice_number": {"type": "string"}, '
    '"total": {"type": "number"}, "lines": {"type": "array", "items": {"type": "object", '
    '"properties": {"text": {"type": "string"}, "amount": {"type": "number"}}}}}}'
)


@click.command()
@click.option(
    "--jobs",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How many jobs.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Other jobs, sizes and failures.")
def demo(*, jobs: int, median: float, seed: int) -> None:
    """Watch 2,000 jobs settle on this machine, without a key.

    Starts an emulator of the service in a process of its own, submits the jobs to it over HTTP
    (log-normal times, median 8 s; 3% fail, 1% are cancelled, 5% have results of 2 to 20 MB),
    watches them, downloads the large results, and checks all of it against what really happened.
    Exits with 1 if anything was lost or wrong.
    """

    async def main() -> ExitCode:
        async with _emulator(seed, median) as (base_url, api_key):
            service = _Service(base_url, api_key)
            async with AdeClient(api_key, base_url=base_url) as client:
                say(f"adepoll: submitting {jobs} jobs to the emulator at {base_url}")
                job_ids = await service.submit(jobs)
                sighting = await _watch(client, job_ids)
            say("adepoll: comparing with what really happened")
            truth = await service.truth()
        findings = judge(job_ids, sighting, truth)
        Console().print(_table(sighting, truth, findings))
        for finding in findings:
            say(f"adepoll: WRONG: {finding}")
        return ExitCode.ENDED_BADLY if findings else ExitCode.COMPLETED

    run(main)


@define
class Sighting:
    """What the demo saw: its watch and its downloads.

    Attributes:
        settled_at: Unix seconds at which each job was yielded.
        statuses: Status by job, as yielded.
        repeats: How often a job was yielded that had been yielded before.
        digests: sha256 by job, of what was downloaded.
        problems: Jobs that were given up and results that could not be fetched.
        bytes_fetched: Size of all downloads.
        requests: Requests of the client.
        seconds: From the first look to the last result.
    """

    settled_at: dict[str, float] = field(factory=dict)
    statuses: dict[str, JobStatus] = field(factory=dict)
    repeats: int = 0
    digests: dict[str, str] = field(factory=dict)
    problems: list[str] = field(factory=list)
    bytes_fetched: int = 0
    requests: int = 0
    seconds: float = 0.0

    def note(self, job: JobSnapshot) -> None:
        """Take up a job that the watch yielded."""
        self.repeats += job.job_id in self.statuses
        self.settled_at[job.job_id] = time.time()
        self.statuses[job.job_id] = job.status


async def _watch(client: AdeClient, job_ids: Sequence[str]) -> Sighting:
    """The main job: watch all, download what did not come inline."""
    sighting = Sighting()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with tempfile.TemporaryDirectory(prefix="adepoll-demo-") as folder:
        async with (
            JobWatcher(client) as watcher,
            ResultFetcher(client) as fetcher,
            watcher.watch(job_ids) as watch,
            asyncio.TaskGroup() as downloads,
        ):
            slots = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
            counted = Downloads()
            with show(
                lambda: watch_standing(
                    watch,
                    client,
                    watcher,
                    fetching=counted.under_way,
                    bytes_fetched=counted.bytes,
                )
            ):
                await _settle(
                    watch,
                    sighting=sighting,
                    fetcher=fetcher,
                    folder=Path(folder),
                    downloads=downloads,
                    slots=slots,
                    counted=counted,
                )
                for _ in range(_DOWNLOADS_AT_ONCE):  # all slots are free again: all have ended
                    await slots.acquire()
    sighting.seconds = loop.time() - began
    sighting.requests = client.stats.requests
    return sighting


async def _settle(
    watch: Watch,
    *,
    sighting: Sighting,
    fetcher: ResultFetcher,
    folder: Path,
    downloads: asyncio.TaskGroup,
    slots: asyncio.Semaphore,
    counted: Downloads,
) -> None:
    async def fetch(job: JobSnapshot) -> None:
        path = folder / f"{job.job_id}.json"
        try:
            with counted.one() as progress:
                done = await fetcher.download(job, path, progress=progress)
        except ResultError as error:
            sighting.problems.append(str(error))
        else:
            sighting.digests[job.job_id] = done.sha256
            sighting.bytes_fetched += done.bytes
            await asyncio.to_thread(path.unlink)  # some gigabyte in all, of no further use
        finally:
            slots.release()

    try:
        async for job in watch:
            sighting.note(job)
            if job.output_url is not None:
                await slots.acquire()
                downloads.create_task(fetch(job))
    except UnresolvedJobsError as error:
        sighting.problems += [str(cause) for cause in error.causes.values()]


def judge(job_ids: Sequence[str], sighting: Sighting, truth: Json) -> list[str]:
    """Compare what was seen with what really happened; give what was lost or wrong."""
    findings = list(sighting.problems)
    truths = {job["job_id"]: job for job in truth["jobs"]}
    if len(truths) != len(set(job_ids)):
        findings.append(f"{len(job_ids)} jobs submitted, {len(truths)} known to the emulator")
    if sighting.repeats:
        findings.append(f"{sighting.repeats} jobs were yielded more than once")
    for job_id in job_ids:
        true = truths[job_id]
        seen = sighting.statuses.get(job_id)
        if seen is None:
            findings.append(f"job {job_id} was lost")
        elif seen is not _STATUS_OF_OUTCOME[true["outcome"]]:
            findings.append(f"job {job_id} was told as {seen.value}, was {true['outcome']}")
        elif sighting.settled_at[job_id] < true["finished_at"]:
            findings.append(f"job {job_id} was settled before it had ended")
        if _is_large(true) and sighting.digests.get(job_id) != true["result_sha256"]:
            findings.append(f"the result of job {job_id} is not what the emulator sent")
    if truth["leaks"]:
        findings.append(f"{truth['leaks']} requests for results carried a key or a cookie")
    return findings


_INLINE_LIMIT: Final = 1_000_000
_STATUS_OF_OUTCOME: Final = {
    "completed": JobStatus.COMPLETED,
    "nonconformant": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
    "cancelled": JobStatus.CANCELLED,
}


def _is_large(true: Json) -> bool:
    completed = _STATUS_OF_OUTCOME[true["outcome"]] is JobStatus.COMPLETED
    return completed and true["result_bytes"] > _INLINE_LIMIT


def _table(sighting: Sighting, truth: Json, findings: Sequence[str]) -> Table:
    finished = {job["job_id"]: job["finished_at"] for job in truth["jobs"]}
    detection_lag = sorted(at - finished[job_id] for job_id, at in sighting.settled_at.items())
    count = max(len(detection_lag), 1)
    statuses = Counter(status.value for status in sighting.statuses.values())
    nonconformant = sum(job["outcome"] == "nonconformant" for job in truth["jobs"])
    by_status = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("settled", f"{len(detection_lag)} jobs: {by_status}")
    table.add_row("", f"{nonconformant} of the completed do not conform to their schema (206)")
    table.add_row("requests per job", f"{sighting.requests / count:.2f}")
    table.add_row(
        "detection lag",
        f"p50 {_quantile(detection_lag, 0.5):.2f} s, p95 {_quantile(detection_lag, 0.95):.2f} s",
    )
    table.add_row("jobs per second", f"{len(detection_lag) / sighting.seconds:.1f}")
    table.add_row("took", f"{sighting.seconds:.1f} s")
    table.add_row(
        "results fetched", f"{len(sighting.digests)}, {sighting.bytes_fetched / 1e6:.1f} MB"
    )
    table.add_row(
        "check",
        f"[red]{len(findings)} findings[/]"
        if findings
        else "[green]nothing lost, nothing doubled, every result byte for byte[/]",
    )
    return table


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


class _Service:
    """The other side of the API, for submitting and for the truth; adepoll itself does neither."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}"}

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=self._headers, raise_for_status=True)

    async def submit(self, count: int) -> list[str]:
        """Create so many jobs, and give their ids."""
        slots = asyncio.Semaphore(_SUBMISSIONS_AT_ONCE)

        async def create(session: aiohttp.ClientSession, number: int) -> str:
            form = aiohttp.FormData()
            form.add_field("schema", _SCHEMA)
            form.add_field(
                "markdown",
                f"# Invoice {number}",
                filename=f"invoice-{number}.md",
                content_type="text/markdown",
            )
            url = f"{self._base_url}/v1/ade/extract/jobs"
            async with slots, session.post(url, data=form) as response:
                job_id: str = (await response.json())["job_id"]
                return job_id

        async with self._session() as session:
            return await asyncio.gather(*(create(session, number) for number in range(count)))

    async def truth(self) -> Json:
        """Give what the emulator knows to have happened."""
        url = f"{self._base_url}/_emulator/truth"
        async with self._session() as session, session.get(url, params={"digests": "1"}) as answer:
            return await answer.json()


@contextlib.asynccontextmanager
async def _emulator(seed: int, median: float) -> AsyncIterator[tuple[str, str]]:
    """Run the emulator in a process of its own; give its address and key.

    The process ends with its standard input, so that it cannot outlive this one.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "adepoll", "emulate", "--port", "0", "--until-eof"),
        *("--seed", str(seed), "--median", str(median)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; we end it ourselves
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield await _announced(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def _announced(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Read the two lines ``export NAME=VALUE`` with which the emulator begins."""
    found: dict[str, str] = {}
    while not found.keys() >= {BASE_URL_VARIABLE, API_KEY_VARIABLE}:
        line = (await process.stdout.readline()).decode() if process.stdout else ""
        if not line:
            raise AdePollError('the emulator did not start; try "adepoll emulate" to see why')
        name, _, value = line.strip().removeprefix("export ").partition("=")
        found[name] = value
    return found[BASE_URL_VARIABLE], found[API_KEY_VARIABLE]
