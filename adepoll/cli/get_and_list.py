"""``adepoll get`` and ``adepoll list``: print jobs as they are now, without waiting."""

import json
import sys
from collections.abc import Callable
from typing import Final

from rich.table import Table
from rich.text import Text

import adepoll
from adepoll import JobKind, JobStatus, JobSummary
from adepoll.api import codec
from adepoll.cli.exit_codes import ExitCode, exit_code_of_job
from adepoll.cli.messages import shown
from adepoll.cli.output_lines import status_shown
from adepoll.cli.run import run
from adepoll.cli.stdout_writer import write_line_async
from adepoll.cli.wide_tables import add_whole_column, print_table


def get(job_id: str, *, connect: Callable[[], "adepoll.AdeClient"]) -> None:
    """Request the job `job_id`, and print it as JSON; see `commands.get`."""

    async def main() -> ExitCode:
        async with connect() as client:
            job = await client.get_job(job_id)
        await write_line_async(job.redacted().to_json(indent=2 if sys.stdout.isatty() else None))
        return exit_code_of_job(job)

    run(main)


def list_jobs(
    *,
    status: str | None,
    limit: int | None,
    as_json: bool,
    connect: Callable[[], "adepoll.AdeClient"],
) -> None:
    """Print the jobs of one kind that the API key can see; see `commands.list_jobs`."""
    as_table = sys.stdout.isatty() and not as_json

    async def main() -> ExitCode:
        jobs: list[JobSummary] = []
        count = 0
        async with connect() as client:
            async for job in client.iter_jobs(status=JobStatus(status) if status else None):
                count += 1
                if as_table:
                    jobs.append(job)
                else:
                    await write_line_async(_line(job.redacted(), client.kind))
                if count == limit:
                    break
        if as_table:
            print_table(_table(jobs))
        return ExitCode.COMPLETED

    run(main)


def _line(job: JobSummary, kind: JobKind) -> str:
    """Return a job as one line of JSON.

    The keys "status" and "failure_reason" have the same values as in the lines of ``adepoll
    watch``.
    """
    added = {"kind": kind.name, "failure_reason": job.failure_reason}
    if job.status is not JobStatus.UNKNOWN:
        added["status"] = job.status.value
    return json.dumps(json.loads(codec.encode(job)) | added, separators=(",", ":"))


def _table(jobs: list[JobSummary]) -> Table:
    """Return the table of a list of jobs."""
    table = Table(box=None, pad_edge=False)
    add_whole_column(table, "job", (shown(job.job_id) for job in jobs))
    add_whole_column(table, "status", map(status_shown, jobs))
    add_whole_column(table, "received (UTC)", map(_received, jobs))
    table.add_column("failure", overflow="fold", min_width=_LEAST_WIDTH)
    for job in jobs:
        # `Text`, because rich would interpret brackets in a `str` as markup.
        table.add_row(
            Text(shown(job.job_id)),
            Text(status_shown(job), style=_STYLES.get(job.status, "")),
            _received(job),
            Text(shown(job.failure_reason or "")),
        )
    return table


def _received(job: JobSummary) -> str:
    return "" if job.received_at is None else f"{job.received_at:%Y-%m-%d %H:%M:%S}"


_LEAST_WIDTH: Final = 12  # minimum width of a column with sentences, in characters
_STYLES = {
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.PROCESSING: "cyan",
}
