"""``adepoll report``: what a batch came to, as one HTML file."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

import click

from adepoll.cli.running import ExitCode, run, say, shown
from adepoll.errors import ConfigurationError
from adepoll.journal import JournalReader
from adepoll.report import Collector, page_of, write_whole

_BREATH: Final = 500  # records; some hundredths of a second


@click.command()
@click.argument("journal", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help='Where to write it; "-" for standard output. Default: JOURNAL-report.html beside it.',
)
def report(journal: Path, *, out: str | None) -> None:
    """Write the report of a batch: one HTML file that opens anywhere.

    It shows how jobs ended and why, how long they took, what they cost, and what is still open.
    JOURNAL is the file given to "adepoll watch --journal"; a batch may be running on it.
    """

    async def main() -> ExitCode:
        path = journal.with_name(f"{journal.stem}-report.html") if out is None else Path(out)
        _check_not_journal(path, journal)
        collector = Collector()
        with JournalReader(journal) as reader:
            made_at = time.time()
            for number, record in enumerate(reader.records(), 1):
                collector.add(record)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)  # Ctrl-C is heard here
            facts = collector.facts()
            page = page_of(reader, facts, name=str(journal), made_at=made_at)
        if out == "-":
            sys.stdout.buffer.write(page.encode())
            sys.stdout.buffer.flush()
            return ExitCode.COMPLETED
        try:
            write_whole(path, page)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            say(f"adepoll: cannot write {shown(str(path))}: {reason}; see --out")
            return ExitCode.OUTPUT
        jobs = "job" if facts.jobs == 1 else "jobs"
        say(f"{shown(str(path))}: report of {facts.jobs:,} {jobs}, {facts.open:,} still open")
        return ExitCode.COMPLETED

    run(main)


def _check_not_journal(path: Path, journal: Path) -> None:
    """Refuse to put the report in place of the journal, or of what SQLite keeps beside it."""
    target, own = path.resolve(), journal.resolve()
    if target in {own, *(own.with_name(own.name + end) for end in ("-wal", "-shm", ".lock"))}:
        raise ConfigurationError(
            f"the report would replace the journal {shown(str(path))}; give another --out"
        )
