"""``adepoll report``: write an HTML report about a batch."""

import asyncio
import time
from pathlib import Path
from typing import Final

from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say, shown
from adepoll.cli.run import run
from adepoll.cli.stdout_writer import write_bytes_async
from adepoll.common.system_errors import reason_of
from adepoll.journal.reader import JournalReader, check_is_kept
from adepoll.report import Collector, render_journal, write_atomically

_RECORDS_PER_STEP: Final = 500  # records that are processed before Ctrl-C can cancel


def report(journal: Path, *, out: str | None) -> None:
    """Write an HTML report about the batch in `journal`; see `commands.report`."""

    async def main() -> ExitCode:
        collector = Collector()
        with JournalReader(journal) as reader:
            # The reader has refused a folder such as ".", which has no name to replace.
            path = journal.with_name(f"{journal.stem}-report.html") if out is None else Path(out)
            check_is_kept(reader, path)
            made_at = time.time()
            for number, record in enumerate(reader.records(), 1):
                collector.add(record)
                if number % _RECORDS_PER_STEP == 0:
                    await asyncio.sleep(0)  # the point at which Ctrl-C cancels
            facts = collector.facts()
            page = render_journal(reader, facts, name=str(journal), made_at=made_at)
        if out == "-":
            await write_bytes_async(page.encode())
            return ExitCode.COMPLETED
        try:
            write_atomically(path, page)
        except OSError as error:
            reason = reason_of(error)
            say(f"adepoll: cannot write {shown(str(path))}: {reason}; see --out")
            return ExitCode.IO_ERROR
        jobs = "job" if facts.jobs == 1 else "jobs"
        say(f"{shown(str(path))}: report about {facts.jobs:,} {jobs}, {facts.open:,} still open")
        return ExitCode.COMPLETED

    run(main)
