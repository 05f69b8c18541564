"""Runs a batch for ``adepoll watch`` and ``resume``; prints outcomes, errors and a summary."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from attrs import define, evolve, field

from adepoll import (
    AdeClient,
    Batch,
    BatchProgress,
    BatchRun,
    InvalidJobIdError,
    JobSnapshot,
    JobStatus,
    Journal,
    JournalError,
    Outcome,
    RecordedError,
    TargetExistsError,
)
from adepoll.cli.batch_options import (
    ANY_FOLDER,
    GIVE_IDS_AGAIN,
    IDS_MAY_BE_MISSING,
    IDS_NOTE,
    OPTIONS_NOTE,
    READ,
    READING,
    BatchOptions,
    ids_may_be_missing,
)
from adepoll.cli.batch_state import counted, format_bytes, state_of_batch
from adepoll.cli.exit_codes import ExitCode, exit_code_of_batch
from adepoll.cli.ids import InvalidIdPlaces
from adepoll.cli.messages import say, shown
from adepoll.cli.output_lines import json_line, text_line
from adepoll.cli.problem_list import ProblemList
from adepoll.cli.progress import progress_view
from adepoll.cli.run import run
from adepoll.common.file_system import plain_path
from adepoll.common.threads import start_in_thread
from adepoll.journal import JournalReader, RecordFilter
from adepoll.journal.changes import LASTING_ERRORS
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.journal import record_pages
from adepoll.journal.outcomes import Record
from adepoll.journal.schema import OUT_DIR
from adepoll.journal.stored_jobs import JobToAdd

_CHECK_INTERVAL: Final = 0.05  # seconds between two checks whether all ids have been read
_CONCURRENCY: Final = 64
_DOWNLOADS: Final = 8


@define(kw_only=True)
class BatchRunner:
    """One run of a batch from the command line.

    Attributes:
        options: The options of the user.
        journal: Path of the journal; None for no journal.
        job_ids: Function that returns the jobs to add to the batch. None to resume `journal`, which
            must then exist.
        id_files: Files with job ids; no result may replace such a file.
        places: File and line of each invalid id.
    """

    options: BatchOptions
    journal: Path | None
    job_ids: Callable[[], AsyncIterator[JobToAdd]] | None = None
    id_files: Collection[str] = ()
    places: InvalidIdPlaces = field(factory=InvalidIdPlaces)
    _endpoints: Endpoints | None = field(default=None, init=False)  # set when the batch has started
    _saved_options: str | None = field(default=None, init=False)
    _out: Path | None = field(default=None, init=False)
    # True if a resumed batch may lack ids, because an earlier run ended while it read them.
    _ids_may_be_missing: bool = field(default=False, init=False)
    _progress: BatchProgress = field(factory=BatchProgress, init=False)
    _problems: ProblemList = field(factory=ProblemList, init=False)
    # Completed jobs whose result is not in the output, but at a URL.
    _not_included: int = field(default=0, init=False)
    # Completed jobs whose result the service does not keep.
    _not_kept: int = field(default=0, init=False)
    # Jobs with an error that another run may resolve.
    _retryable: int = field(default=0, init=False)

    def run(self) -> NoReturn:
        """Run the batch, and exit with its code."""
        run(self._main, on_stop=self._say_how_to_continue, on_error=self._say_how_to_continue)

    async def _main(self) -> ExitCode:
        """Run the batch, print each outcome, and return the exit code."""
        options = self._effective_options()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(options.connect())
            journal = await self._open_journal(stack, client)
            batch = await stack.enter_async_context(self._make_batch(client, journal, options))
            self._endpoints = Endpoints.of(client.base_url, client.v2_base_url)
            self._out = None if options.out is None else plain_path(options.out)
            job_ids = () if self.job_ids is None else self.job_ids()
            run_of_batch = batch.run(job_ids, timeout=options.timeout, replay=options.replay)
            if journal is not None and self.job_ids is not None:
                await stack.enter_async_context(_updating_ids_note(batch, journal))
            await self._print_outcomes(run_of_batch, batch, client)
        self._say_what_is_left()
        if self._ids_may_be_missing:
            return ExitCode.UNRESOLVED
        return exit_code_of_batch(self._progress, strict=self.options.strict)

    def _make_batch(
        self, client: AdeClient, journal: Journal | None, options: BatchOptions
    ) -> Batch:
        return Batch(
            client,
            journal=journal,
            out_dir=options.out,
            name_by=options.name_by,
            concurrency=options.concurrency or _CONCURRENCY,
            downloads=options.downloads or _DOWNLOADS,
            discovery=options.discovery or "auto",
            allow_private=options.allow_private,
            overwrite=options.overwrite,
            protected=self.id_files,
            verify=options.verify,
        )

    async def _print_outcomes(
        self, run_of_batch: BatchRun, batch: Batch, client: AdeClient
    ) -> None:
        """Print each outcome as soon as it is known, and a summary at the end."""
        source = partial(state_of_batch, batch, client)
        try:
            with progress_view(source, quiet=self.options.quiet) as view:
                async for found in run_of_batch:
                    outcome = self._with_place(found)
                    # The line is written first, because requesting the next outcome acknowledges
                    # this one.
                    await view.line(self._line(outcome))
                    self._count(outcome)
        finally:
            # Otherwise, the tasks of the run could record more jobs in the journal than the summary
            # counts.
            await run_of_batch.aclose()
            self._progress = batch.progress
            error = sys.exception()
            failed_before_any_job = error is not None and not self._progress.known
            if not (failed_before_any_job or isinstance(error, BrokenPipeError)):
                self._summarize(client)

    def _say_what_is_left(self) -> None:
        """Print on stderr what a later run can do."""
        if self.journal is None and not self._progress.complete:
            say("adepoll: the time of --timeout was over before all ids had been read")
        if self._retryable or not self._progress.complete:
            self._say_how_to_continue()

    def _effective_options(self) -> BatchOptions:
        """Return the user's options; ``resume`` adds those that the journal saves."""
        if self.job_ids is not None or self.journal is None:
            return self.options
        with JournalReader(self.journal) as reader:
            options = self.options.with_endpoints_of(reader.endpoints, self.journal)
            return options.with_note(reader.notes().get(OPTIONS_NOTE))

    async def _open_journal(self, stack: AsyncExitStack, client: AdeClient) -> Journal | None:
        """Open and return the journal; None if the user has named none.

        ``watch`` also saves its options in the journal.
        """
        if self.journal is None:
            return None
        resumes = self.job_ids is None
        journal = await stack.enter_async_context(
            await Journal.open(
                self.journal,
                endpoint=client.base_url,
                v2_endpoint=client.v2_base_url,
                must_exist=resumes,
            )
        )
        recorded = await journal.note(OUT_DIR)
        self.options.check_folder(recorded, self.journal)
        out = self.options.out
        if out is not None and recorded is not None and not _is_same_folder(out, Path(recorded)):
            folders = await _folders_of_files(journal)
            names = [shown(str(path)) for path in folders if not _is_same_folder(out, path)]
            if names:
                self._advise(f"adepoll: files of earlier runs stay in {', '.join(names)}")
        self._saved_options = await journal.note(OPTIONS_NOTE)
        if resumes:
            jobs = (await journal.counts()).jobs
            self._ids_may_be_missing = ids_may_be_missing(await journal.note(IDS_NOTE), jobs)
            if self._ids_may_be_missing:
                say(f"adepoll: {IDS_MAY_BE_MISSING}")
        else:
            self._saved_options = self.options.to_note()
            await journal.set_note(OPTIONS_NOTE, self._saved_options)
            await journal.set_note(IDS_NOTE, READING)
        return journal

    def _with_place(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome.error, InvalidJobIdError):
            return outcome
        return evolve(outcome, error=self.places.with_place(outcome.error))

    def _line(self, outcome: Outcome) -> str:
        as_json = self.options.as_json or not sys.stdout.isatty()
        return json_line(outcome) if as_json else text_line(outcome)

    def _count(self, outcome: Outcome) -> None:
        """Count an outcome for the summary at the end and for the exit code."""
        if outcome.error is None:
            if outcome.snapshot is not None:
                self._count_settled(outcome, outcome.snapshot)
            return
        self._problems.add(outcome)
        # A `RecordedError` is the error of an earlier run. It is lasting, because this run has
        # tried again all jobs that had another error.
        if not isinstance(outcome.error, (*LASTING_ERRORS, RecordedError, TargetExistsError)):
            self._retryable += 1

    def _count_settled(self, outcome: Outcome, job: JobSnapshot) -> None:
        """Count a settled job, whose outcome has no error."""
        if job.status is not JobStatus.COMPLETED:
            self._problems.add(outcome)
        elif outcome.file is None and job.data is None:
            if job.output_url is None:
                self._not_kept += 1
            else:
                self._not_included += 1

    def _summarize(self, client: AdeClient) -> None:
        """Print the problems and the numbers of the run on stderr."""
        for line in self._problems.lines():
            say(line)
        if self.options.quiet:
            return
        if self._not_included:
            command = self._command(ANY_FOLDER)
            remedy = "use --out DIR" if command is None else f"to fetch: {command}"
            say(f"adepoll: {counted(self._not_included, 'large result')} not printed; {remedy}")
        if self._not_kept:
            jobs = counted(self._not_kept, "completed job")
            say(f"adepoll: {jobs} without a result: the service keeps none")
        progress = self._progress
        parts = [self._settled_shown()]
        if progress.unresolved:
            parts.append(f"{progress.unresolved:,} unresolved")
        if self._out is not None and progress.bytes_fetched:
            parts.append(
                f"{format_bytes(progress.bytes_fetched)} of results written to {self._out_shown}"
            )
        if self._out is not None and progress.adopted:
            were = "was" if progress.adopted == 1 else "were"
            parts.append(
                f"{counted(progress.adopted, 'result')} {were} in {self._out_shown} already"
            )
        if progress.missed:
            parts.append(f"{counted(progress.missed, 'result')} not fetched")
        if progress.credits:
            parts.append(f"{progress.credits:,.6g} credit{'s' * (progress.credits != 1)}")
        parts.append(counted(client.stats.requests, "request"))
        say("adepoll: " + "; ".join(parts))

    def _settled_shown(self) -> str:
        """Return the number of settled jobs as text, in total and by status."""
        progress, by_status = self._progress, []
        for status in JobStatus:
            if count := progress.settled.get(status):
                by_status.append(f"{count:,} {status.value}")
                if progress.partial and status is JobStatus.COMPLETED:
                    by_status.append(f"{progress.partial:,} of them partial")
        text = f"{sum(progress.settled.values()):,} of {progress.known:,} jobs settled"
        return f"{text} ({', '.join(by_status)})" if by_status else text

    @property
    def _out_shown(self) -> str:
        return shown(str(self._out))

    def _say_how_to_continue(self) -> None:
        """Print on stderr how a later run can continue, if anything is left to do."""
        if self._endpoints is None:
            return  # the batch has not started, so there is nothing to continue
        command = self._command(self._out)
        if command is None:
            if self._progress.known:
                has_files = bool(self._progress.bytes_fetched or self._progress.adopted)
                kept = f" except for the files in {self._out_shown}" if has_files else ""
                self._advise(
                    f"adepoll: progress was not saved{kept}; with --journal FILE, a later run can "
                    "continue"
                )
            return
        if self.journal is not None and not self.journal.exists():
            journal = shown(str(self.journal))
            say(f"adepoll: {journal} was moved or deleted during the run; move it back to continue")
            return
        if self.job_ids is not None and not self._progress.complete:
            say(f"adepoll: not all ids had been read: {GIVE_IDS_AGAIN}")
            return
        self._advise(f"adepoll: continue with: {command}")

    def _command(self, out: Path | None) -> str | None:
        """Return the command that continues the batch; None if the batch has no journal.

        `out` is the folder for results; None if results are not written to files.
        """
        if self.journal is None or self._endpoints is None:
            return None
        return self.options.resume_command(
            self.journal, endpoints=self._endpoints, note=self._saved_options, out=out
        )

    def _advise(self, text: str) -> None:
        """Print a line on stderr, unless ``--quiet`` allows only errors."""
        if not self.options.quiet:
            say(text)


def _is_same_folder(out: Path, recorded: Path) -> bool:
    """Return whether two paths lead to the same folder; `recorded` is an absolute path."""
    try:
        return out.samefile(recorded)
    except (OSError, ValueError):  # a folder does not exist, or a path has a NUL character
        return plain_path(out) == recorded


async def _folders_of_files(journal: Journal) -> list[Path]:
    """Return the folders that still contain result files of earlier runs."""
    folders: dict[Path, None] = {}  # in the order of the jobs

    def add_folders(page: Sequence[Record]) -> None:
        for path in (record.file.path for record in page if record.file is not None):
            with suppress(OSError):  # this user must not search the folder
                if path.parent not in folders and path.is_file():
                    folders[path.parent] = None

    async with aclosing(record_pages(journal, RecordFilter.WITH_OUTCOME)) as pages:
        async for page in pages:
            await start_in_thread(add_folders, page)
    return list(folders)


@asynccontextmanager
async def _updating_ids_note(batch: Batch, journal: Journal) -> AsyncGenerator[None, None]:
    """While the block runs, wait until all ids have been read, and note this in the journal.

    Without this note, `status` and `resume` warn that ids may be missing. The note is written as
    early as possible, because the run may be killed at any time.
    """

    async def set_note() -> None:
        with suppress(JournalError):  # the batch meets the same error, and raises it
            await journal.set_note(IDS_NOTE, READ)

    async def set_note_when_read() -> None:
        while not batch.progress.complete:  # noqa: ASYNC110 - the batch has no event for it
            await asyncio.sleep(_CHECK_INTERVAL)
        await set_note()

    task = asyncio.create_task(set_note_when_read())
    try:
        yield
    finally:
        task.cancel()
        if batch.progress.complete:
            await set_note()
