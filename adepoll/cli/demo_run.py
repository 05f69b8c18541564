"""The run of ``adepoll demo``: watch and download all jobs, then compare with the emulator."""

import asyncio
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import define, field
from rich.table import Table

from adepoll import (
    AdeClient,
    JobRef,
    JobSnapshot,
    JobStatus,
    JobWatcher,
    Json,
    ResultError,
    ResultFetcher,
    UnresolvedJobsError,
    Watch,
)
from adepoll.cli.batch_state import state_of_watch
from adepoll.cli.demo_emulator import emulator_process
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say
from adepoll.cli.progress import progress_view
from adepoll.cli.run import run
from adepoll.cli.wide_tables import print_table
from adepoll.common.threads import start_in_thread

_MAX_DOWNLOADS: Final = 8  # downloads at the same time
_STATUS_OF_OUTCOME: Final = {
    "completed": JobStatus.COMPLETED,
    "partial": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
    "cancelled": JobStatus.CANCELLED,
}


def demo(*, jobs: int, median: float, seed: int) -> None:
    """Run ``adepoll demo``; `commands.demo` describes the options."""
    run(lambda: run_demo(jobs=jobs, median=median, seed=seed))


async def run_demo(*, jobs: int, median: float, seed: int) -> ExitCode:
    """Run the demo; print a table of results, and each difference from the emulator's records.

    Return FAILED_OR_CANCELLED if there is a difference or a problem. `median` is in seconds.
    """
    async with emulator_process(seed=seed, median=median) as emulator:
        say(f"adepoll: submitting {jobs} jobs to the emulator at {emulator.base_url}")
        submitted = await emulator.submit(jobs)
        with tempfile.TemporaryDirectory(prefix="adepoll-demo-") as folder:
            async with AdeClient(
                emulator.api_key,
                base_url=emulator.base_url,
                v2_base_url=emulator.base_url,
                result_dir=folder,
            ) as client:
                observations = await _watch(client, submitted, Path(folder))
        say("adepoll: comparing with the emulator's records")
        truth = await emulator.truth()
    findings = compare([job.job_id for job in submitted], observations, truth)
    print_table(summary_table(observations, truth, findings))
    for finding in findings:
        say(f"adepoll: WRONG: {finding}")
    return ExitCode.FAILED_OR_CANCELLED if findings else ExitCode.COMPLETED


@define
class Observations:
    """What the demo observed of its jobs and downloads. The keys of all mappings are job ids.

    Attributes:
        settled_at: Unix time at which the watch yielded each job.
        statuses: Status of each yielded job.
        repeats: Number of times that the watch yielded a job which it had yielded before.
        digests: SHA-256 of each result, in hexadecimal.
        large: Number of results that were too large to be kept in memory, and were stored in files.
        problems: Texts of errors: of jobs that were given up, and of failed downloads.
        bytes_fetched: Bytes of the large results.
        requests: Number of requests that the client sent.
        seconds: Duration of the watch and the downloads.
    """

    settled_at: dict[str, float] = field(factory=dict)
    statuses: dict[str, JobStatus] = field(factory=dict)
    repeats: int = 0
    digests: dict[str, str] = field(factory=dict)
    large: int = 0
    problems: list[str] = field(factory=list)
    bytes_fetched: int = 0
    requests: int = 0
    seconds: float = 0.0

    def add(self, job: JobSnapshot) -> None:
        """Record a job that the watch yielded."""
        self.repeats += job.job_id in self.statuses
        self.settled_at[job.job_id] = time.time()
        self.statuses[job.job_id] = job.status


class DownloadCounter:
    """Counts downloads in progress and their bytes.

    Attributes:
        in_progress: Number of downloads that have started and not finished.
        bytes: Bytes received by all downloads.
    """

    def __init__(self) -> None:
        """Create counters that are 0."""
        self.in_progress = 0
        self.bytes = 0

    @contextmanager
    def count_one(self) -> Iterator[Callable[[int, int | None], None]]:
        """Count one download, which runs in the ``with`` block.

        Yield the function for the argument `progress` of `ResultFetcher.download`.
        """
        last: int | None = None

        def progress(received: int, _size: int | None) -> None:
            nonlocal last
            # The first value adds nothing, because it may include bytes of an earlier attempt. A
            # value smaller than the previous one adds nothing: the download has restarted.
            self.bytes += max(received - last, 0) if last is not None else 0
            last = received

        self.in_progress += 1
        try:
            yield progress
        finally:
            self.in_progress -= 1


async def _watch(client: AdeClient, jobs: Sequence[JobRef], folder: Path) -> Observations:
    """Watch all jobs, download large results to `folder`, and return what was observed."""
    observations = Observations()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with (
        JobWatcher(client) as watcher,
        ResultFetcher(client) as fetcher,
        watcher.watch(jobs) as watch,
        asyncio.TaskGroup() as downloads,
    ):
        counter = DownloadCounter()
        with progress_view(
            lambda: state_of_watch(
                watch,
                client,
                watcher,
                fetching=counter.in_progress,
                bytes_fetched=counter.bytes,
            )
        ):
            await _observe(
                watch,
                observations=observations,
                fetcher=fetcher,
                folder=folder,
                downloads=downloads,
                counter=counter,
            )
    observations.seconds = loop.time() - began
    observations.requests = client.stats.requests
    return observations


async def _observe(
    watch: Watch[JobSnapshot],
    *,
    observations: Observations,
    fetcher: ResultFetcher,
    folder: Path,
    downloads: asyncio.TaskGroup,
    counter: DownloadCounter,
) -> None:
    """Record the jobs that a watch yields, and download their large results."""
    slots = asyncio.Semaphore(_MAX_DOWNLOADS)

    async def fetch(job: JobSnapshot) -> None:
        path = folder / f"{job.job_id}.json"
        try:
            with counter.count_one() as progress:
                done = await fetcher.download(job, path, progress=progress)
        except ResultError as error:
            observations.problems.append(str(error))
        else:
            observations.digests[job.job_id] = done.sha256
            observations.large += 1
            observations.bytes_fetched += done.bytes
            # The file is deleted now, because all results together can be gigabytes.
            await start_in_thread(path.unlink)
        finally:
            slots.release()

    async def add_digest(job: JobSnapshot) -> None:
        observations.digests[job.job_id] = await _digest(fetcher, job)

    try:
        async for job in watch:
            observations.add(job)
            if job.status is not JobStatus.COMPLETED:
                continue
            if job.data is None:
                await slots.acquire()
                downloads.create_task(fetch(job))
            else:
                # The digest is computed in a task. If this loop waited for it, the watch would
                # pause, and the measured lag would be wrong.
                downloads.create_task(add_digest(job))
    except UnresolvedJobsError as error:
        observations.problems += [str(cause) for cause in error.causes.values()]
    for _ in range(_MAX_DOWNLOADS):  # all slots are free when all downloads have ended
        await slots.acquire()


async def _digest(fetcher: ResultFetcher, job: JobSnapshot) -> str:
    """Return the SHA-256 (in hexadecimal) of a small result, which was part of a poll's answer."""
    digest = hashlib.sha256()
    async with fetcher.stream(job) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
    return digest.hexdigest()


def compare(job_ids: Sequence[str], observations: Observations, truth: Json) -> list[str]:
    """Compare observations with the emulator's records.

    Return the problems as lines: the observed ones, and one for each job that was lost or differs.
    All repeated jobs have one line, and so have all requests that contained a key or a cookie.
    """
    findings = list(observations.problems)
    truths = {job["job_id"]: job for job in truth["jobs"]}
    if len(truths) != len(set(job_ids)):
        findings.append(f"{len(job_ids)} jobs submitted, {len(truths)} known to the emulator")
    if observations.repeats:
        findings.append(f"{observations.repeats} jobs were yielded more than once")
    for job_id in job_ids:
        true = truths[job_id]
        status = observations.statuses.get(job_id)
        if status is None:
            findings.append(f"job {job_id} was lost")
        elif status is not _STATUS_OF_OUTCOME[true["outcome"]]:
            findings.append(f"job {job_id} was reported {status.value}, but {true['outcome']}")
        elif observations.settled_at[job_id] < true["finished_at"]:
            findings.append(f"job {job_id} was reported before it had settled")
        completed = _STATUS_OF_OUTCOME[true["outcome"]] is JobStatus.COMPLETED
        if completed and observations.digests.get(job_id) != true["result_sha256"]:
            findings.append(f"the result of job {job_id} differs from the emulator's")
    if truth["leaks"]:
        findings.append(f"{truth['leaks']} requests for results contained a key or a cookie")
    return findings


def summary_table(observations: Observations, truth: Json, findings: Sequence[str]) -> Table:
    """Return the table that the demo prints: jobs, requests and times, and whether all is right.

    `findings` are the lines that `compare` has returned.
    """
    finished = {job["job_id"]: job["finished_at"] for job in truth["jobs"]}
    lags = sorted(at - finished[job_id] for job_id, at in observations.settled_at.items())
    count = max(len(lags), 1)
    statuses = Counter(status.value for status in observations.statuses.values())
    partial = sum(job["outcome"] == "partial" for job in truth["jobs"])
    by_status = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("settled", f"{len(lags)} jobs: {by_status}")
    table.add_row("partial results", f"{partial}")
    table.add_row("requests per job", f"{observations.requests / count:.2f}")
    table.add_row(
        "detection lag", f"p50 {_quantile(lags, 0.5):.2f} s, p95 {_quantile(lags, 0.95):.2f} s"
    )
    table.add_row("jobs per second", f"{len(lags) / observations.seconds:.1f}")
    table.add_row("duration", f"{observations.seconds:.1f} s")
    table.add_row(
        "results",
        f"{len(observations.digests)}, of them {observations.large} large "
        f"({observations.bytes_fetched / 1e6:.1f} MB)",
    )
    table.add_row(
        "check",
        f"[red]{len(findings)} differences[/]"
        if findings
        else "[green]no job lost or duplicated, every result identical[/]",
    )
    return table


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * len(ordered))] if ordered else float("nan")
