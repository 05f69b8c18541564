"""``adepoll watch``: wait for many jobs, tell each as it settles, bring the results home."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, get_args

import click
from attrs import define, evolve, field

from adepoll.cli.ids import check_sources, ids_options, read_ids
from adepoll.cli.progress import show, watch_standing
from adepoll.cli.running import (
    ExitCode,
    client_options,
    exit_code_of,
    run,
    say,
    shown,
    write_line,
)
from adepoll.cli.standing import Downloads
from adepoll.client import AdeClient
from adepoll.errors import AdePollError, UnresolvedJobsError
from adepoll.feeds import Watch
from adepoll.fetcher import ResultFetcher
from adepoll.jobids import result_name
from adepoll.models import JobSnapshot, JobStatus
from adepoll.sweep import Discovery
from adepoll.watcher import JobWatcher

_DOWNLOADS_AT_ONCE: Final = 8


@click.command()
@ids_options
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Download each result to DIR/JOB_ID.json; the lines then name the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace result files that are there already.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up jobs that have not ended by then.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most requests on the wire at once.",
)
@click.option(
    "--discovery",
    type=click.Choice(get_args(Discovery)),
    default="auto",
    show_default=True,
    help="How ends are found: by sweeps of the job list, by looks at each job, or what is cheaper.",
)
@client_options
def watch(
    job_ids: tuple[str, ...],
    *,
    files: tuple[str, ...],
    field: str | None,
    out: Path | None,
    overwrite: bool,
    timeout: float | None,
    concurrency: int,
    discovery: Discovery,
    connect: Callable[[], AdeClient],
) -> None:
    """Wait until jobs have ended; tell each as it does.

    Prints one JSON line on stdout for each job as it settles. Ids come from
    arguments, files or standard input. Progress goes to stderr, if that is a
    terminal; what could not be resolved is told there too. The lines hold the results that came
    inline, unless they go to a terminal. Presigned URLs are secrets, and are printed without
    their query.
    """
    files = check_sources(job_ids, files, field)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise click.BadParameter(f"{out}: {exc.strerror}", param_hint="'--out'") from exc

    async def main() -> ExitCode:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect())
            watcher = await stack.enter_async_context(
                JobWatcher(client, concurrency=concurrency, discovery=discovery)
            )
            fetcher = await stack.enter_async_context(ResultFetcher(client))
            watched = watcher.watch(read_ids(job_ids, files, field), timeout=timeout)
            settling = Settling(fetcher=fetcher, out=out, overwrite=overwrite)
            view = stack.enter_context(
                show(
                    lambda: watch_standing(
                        watched,
                        client,
                        watcher,
                        missed=settling.results_missed,
                        fetching=settling.downloads.under_way,
                        bytes_fetched=settling.downloads.bytes,
                    )
                )
            )
            try:
                await settling.settle(watched)
            finally:
                view.stop()
                _sum_up(watched, settling, client)
            return settling.exit_code

    run(main)


@define(kw_only=True)
class Settling:
    """What becomes of the jobs of one watch: lines on stdout, files, and an exit code."""

    fetcher: ResultFetcher
    out: Path | None
    overwrite: bool
    exit_code: ExitCode = ExitCode.COMPLETED
    downloads: Downloads = field(factory=Downloads)
    bytes_fetched: int = 0
    results_missed: int = 0
    unresolved: dict[str, AdePollError] = field(factory=dict)

    async def settle(self, watched: Watch) -> None:
        """Go through the watch until its end. At most so many downloads run beside it."""
        slots = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        try:
            async with watched, asyncio.TaskGroup() as downloads:
                async for job in _until_unresolved(watched, self.unresolved):
                    self._note(exit_code_of(job))
                    if self.out is None:
                        # A screen is for people, who would lose sight of all else in the data.
                        on_screen = sys.stdout.isatty()
                        write_line(_line(job) if on_screen else job.redacted().to_json())
                    elif job.status is not JobStatus.COMPLETED:
                        write_line(_line(job))
                    else:
                        # While all are busy, nothing more is taken, and looks pause.
                        await slots.acquire()
                        download = downloads.create_task(self._download(job, self.out))
                        download.add_done_callback(lambda _: slots.release())
        except BaseExceptionGroup as group:
            # The group is only the downloads' wrapping; what went wrong is in it.
            raise group.exceptions[0] from None
        if self.unresolved:
            self._note(ExitCode.UNRESOLVED)

    async def _download(self, job: JobSnapshot, out: Path) -> None:
        try:
            with self.downloads.one() as progress:
                done = await self.fetcher.download(
                    job,
                    out / result_name(job.job_id),
                    progress=progress,
                    overwrite=self.overwrite,
                )
        except AdePollError as error:
            if error.fatal:
                raise
            self.results_missed += 1
            self._note(ExitCode.UNRESOLVED)
            write_line(_line(job, result_error=str(error)))
            return
        self.bytes_fetched += done.bytes
        write_line(
            _line(job, result={"path": str(done.path), "bytes": done.bytes, "sha256": done.sha256})
        )

    def _note(self, code: ExitCode) -> None:
        self.exit_code = max(self.exit_code, code)


async def _until_unresolved(
    watched: Watch, unresolved: dict[str, AdePollError]
) -> AsyncIterator[JobSnapshot]:
    """Yield what the watch yields, and take up what it raises at the end."""
    try:
        async for job in watched:
            yield job
    except UnresolvedJobsError as error:
        unresolved.update(error.causes)


def _line(job: JobSnapshot, **more: object) -> str:
    """Give the line of a job without its data."""
    line = json.loads(evolve(job, data=None).redacted().to_json())
    del line["data"]
    return json.dumps(line | more, separators=(",", ":"))


def _sum_up(watched: Watch, settling: Settling, client: AdeClient) -> None:
    for job_id, error in settling.unresolved.items():
        say(
            f"unresolved: {error}"
            if shown(job_id) in str(error)
            else f"unresolved: {shown(job_id)}: {error}"
        )
    progress = watched.progress
    settled = sum(progress.settled.values())
    by_status = ", ".join(f"{count} {status.value}" for status, count in progress.settled.items())
    parts = [f"{settled} of {progress.known} jobs settled" + (f" ({by_status})" if settled else "")]
    if unresolved := progress.known - settled:
        parts.append(f"{unresolved} unresolved")
    if settling.out is not None:
        parts.append(f"{settling.bytes_fetched / 1e6:.1f} MB of results in {settling.out}")
    if settling.results_missed:
        parts.append(f"{settling.results_missed} results not fetched")
    parts.append(f"{client.stats.requests} requests")
    say("adepoll: " + "; ".join(parts))
