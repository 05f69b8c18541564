"""``adepoll watch`` and ``adepoll resume``: a batch from a shell, told line by line."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import click
from attrs import define, field

from adepoll.api.client import AdeClient
from adepoll.api.models import JobStatus
from adepoll.batch import Batch, BatchProgress
from adepoll.batch.batch import OUT_DIR
from adepoll.batch.result_fetching import LASTING_ERRORS
from adepoll.cli.choices import (
    GIVE_AGAIN,
    IDS_NOTE,
    IDS_UNSURE,
    OPTIONS_NOTE,
    READ,
    READING,
    Choices,
    batch_options,
)
from adepoll.cli.ids import check_sources, ids_options, read_ids
from adepoll.cli.lines import error_line, json_line, text_line
from adepoll.cli.progress import batch_standing, show
from adepoll.cli.running import ExitCode, run, say, shown
from adepoll.cli.standing import in_bytes
from adepoll.errors import JournalError
from adepoll.journal import Journal, JournalReader
from adepoll.journal.outcomes import Outcome, RecordedError

_MOST_ERRORS: Final = 20  # that are told at the end
_LOOK_EVERY: Final = 0.05  # seconds
_CONCURRENCY: Final = 64
_DOWNLOADS: Final = 8


@click.command()
@ids_options
@click.option(
    "-j",
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Write all down in FILE, made where there is none: "adepoll resume FILE" goes on with it.',
)
@batch_options
def watch(
    job_ids: tuple[str, ...],
    *,
    files: tuple[str, ...],
    field: str | None,
    journal: Path | None,
    choices: Choices,
) -> None:
    """Wait until jobs have ended, and tell each as it does.

    Prints a line on stdout for each job: JSON, or a few words on a terminal. Ids come from
    arguments, files or standard input. Progress goes to stderr. The JSON lines hold the results
    that came inline, unless they go to files. Presigned URLs are secrets, and are printed without
    their query.

    With --journal, nothing is lost or done twice, whatever ends the command.
    """
    sources = check_sources(job_ids, files, field)
    Going(choices=choices, journal=journal, job_ids=lambda: read_ids(job_ids, sources, field)).run()


@click.command()
@click.argument("journal", type=click.Path(dir_okay=False, path_type=Path))
@batch_options
def resume(journal: Path, *, choices: Choices) -> None:
    """Go on with the batch of a journal.

    Tells what nobody was told of yet, without asking the service, and then does the rest.

    JOURNAL is the file given to "adepoll watch --journal". Region, folder and options are those of
    then; what is given now comes first. An address that is no region of LandingAI's is not taken
    from the journal: give --base-url.
    """
    Going(choices=choices, journal=journal).run()


@define(kw_only=True)
class Going:
    """One run of a batch from a shell.

    Attributes:
        choices: The options.
        journal: Where all is written down; None for nowhere.
        job_ids: Gives the ids to add; None to go on with those of a journal that must be there, and
            says where the jobs are.
    """

    choices: Choices
    journal: Path | None
    job_ids: Callable[[], AsyncIterator[str]] | None = None
    _endpoint: str | None = field(default=None, init=False)  # once the batch has begun
    _noted: str | None = field(default=None, init=False)
    _out: Path | None = field(default=None, init=False)
    _progress: BatchProgress = field(factory=BatchProgress, init=False)
    _errors: list[str] = field(factory=list, init=False)
    _error_count: int = field(default=0, init=False)
    _worth_another_try: int = field(default=0, init=False)

    def run(self) -> NoReturn:
        """Run it, and exit with its code."""
        run(self._main, on_stop=self._tell_how_to_go_on, on_error=self._tell_how_to_go_on)

    async def _main(self) -> ExitCode:
        if self.job_ids is None and self.journal is not None:
            with JournalReader(self.journal) as reader:
                notes = reader.notes()
                choices = self.choices.of_journal(reader.endpoint, self.journal)
            choices = choices.with_noted(notes.get(OPTIONS_NOTE))
        else:
            choices = self.choices
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(choices.connect())
            journal = await self._open_journal(stack, client)
            batch = await stack.enter_async_context(
                Batch(
                    client,
                    journal=journal,
                    out_dir=choices.out,
                    concurrency=choices.concurrency or _CONCURRENCY,
                    downloads=choices.downloads or _DOWNLOADS,
                    discovery=choices.discovery or "auto",
                    allow_private=choices.allow_private,
                    overwrite=choices.overwrite,
                    verify=choices.verify,
                )
            )
            self._endpoint = client.base_url if journal is None else journal.endpoint
            self._out = await _out_of(journal) or choices.out
            view = stack.enter_context(
                show(lambda: batch_standing(batch, client), quiet=choices.quiet)
            )
            job_ids = () if self.job_ids is None else self.job_ids()
            outcomes = batch.run(job_ids, timeout=choices.timeout, replay=choices.replay)
            if journal is not None and self.job_ids is not None:
                await stack.enter_async_context(_ids_noted(batch, journal))
            try:
                async for outcome in outcomes:
                    # It counts as told when the next one is asked for: it must be out by then.
                    await view.line(self._line(outcome))
                    self._take(outcome)
            finally:
                view.stop()
                self._progress = batch.progress
                if not isinstance(sys.exception(), BrokenPipeError):
                    self._sum_up(client)
        return self._exit_code()

    async def _open_journal(self, stack: AsyncExitStack, client: AdeClient) -> Journal | None:
        if self.journal is None:
            return None
        goes_on = self.job_ids is None
        journal = await stack.enter_async_context(
            await Journal.open(self.journal, endpoint=client.base_url, must_exist=goes_on)
        )
        self._noted = await journal.note(OPTIONS_NOTE)
        if goes_on:
            if await journal.note(IDS_NOTE) == READING:
                say(f"adepoll: {IDS_UNSURE}")
        else:
            self._noted = self.choices.note()
            await journal.set_note(OPTIONS_NOTE, self._noted)
            await journal.set_note(IDS_NOTE, READING)
        return journal

    def _line(self, outcome: Outcome) -> str:
        for_programs = self.choices.as_json or not sys.stdout.isatty()
        return json_line(outcome) if for_programs else text_line(outcome)

    def _take(self, outcome: Outcome) -> None:
        if outcome.error is None:
            return
        self._error_count += 1
        # One of an earlier run comes again only where another try is of no use.
        self._worth_another_try += not isinstance(outcome.error, (*LASTING_ERRORS, RecordedError))
        if len(self._errors) < _MOST_ERRORS:
            self._errors.append(error_line(outcome))

    def _exit_code(self) -> ExitCode:
        progress = self._progress
        if progress.unresolved or progress.missed:
            if self._worth_another_try:
                self._tell_how_to_go_on()
            return ExitCode.UNRESOLVED
        badly = (JobStatus.FAILED, JobStatus.CANCELLED)
        if any(progress.settled.get(status) for status in badly):
            return ExitCode.ENDED_BADLY
        return ExitCode.COMPLETED

    def _sum_up(self, client: AdeClient) -> None:
        for told in self._errors:
            say(told)
        if more := self._error_count - len(self._errors):
            say(f"... and {more:,} more of these")
        if self.choices.quiet:
            return
        progress = self._progress
        settled = sum(progress.settled.values())
        by_status = ", ".join(
            f"{progress.settled[status]:,} {status.value}"
            for status in JobStatus
            if status in progress.settled
        )
        parts = [f"{settled:,} of {progress.known:,} jobs settled"]
        parts[0] += f" ({by_status})" if by_status else ""
        if progress.unresolved:
            parts.append(f"{progress.unresolved:,} unresolved")
        if self._out is not None and progress.bytes_fetched:
            parts.append(
                f"{in_bytes(progress.bytes_fetched)} of results in {shown(str(self._out))}"
            )
        if progress.missed:
            parts.append(f"{progress.missed:,} results not fetched")
        requests = client.stats.requests
        parts.append(f"{requests:,} request{'s' * (requests != 1)}")
        say("adepoll: " + "; ".join(parts))

    def _tell_how_to_go_on(self) -> None:
        if self._endpoint is None:
            return  # nothing has begun
        if self.journal is None:
            say("adepoll: nothing of this was kept; with --journal FILE it would go on from here")
            return
        if self.job_ids is not None and not self._progress.complete:
            say(f"adepoll: not all ids had been read: {GIVE_AGAIN}")
            return
        command = self.choices.resume_command(
            self.journal, endpoint=self._endpoint, note=self._noted
        )
        say(f"adepoll: goes on with: {command}")


@asynccontextmanager
async def _ids_noted(batch: Batch, journal: Journal) -> AsyncGenerator[None, None]:
    """Note when all ids have been read: of a run that is killed, nothing else tells."""

    async def note() -> None:
        with suppress(JournalError):  # the batch meets that, too
            await journal.set_note(IDS_NOTE, READ)

    async def note_when_read() -> None:
        while not batch.progress.complete:  # noqa: ASYNC110 - which tells nobody
            await asyncio.sleep(_LOOK_EVERY)
        await note()

    looking = asyncio.create_task(note_when_read())
    try:
        yield
    finally:
        looking.cancel()
        if batch.progress.complete:
            await note()


async def _out_of(journal: Journal | None) -> Path | None:
    out = None if journal is None else await journal.note(OUT_DIR)
    return None if out is None else Path(out)
