"""Reads a journal, and writes its report to a file."""

import os
import time
from pathlib import Path

from adepoll.common.replacing import replacing
from adepoll.journal.reader import JournalReader, check_is_kept
from adepoll.report.collector import collect
from adepoll.report.facts import ReportFacts
from adepoll.report.page import render_facts


def write_report(journal_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Write the report of a journal. The batch may still be running.

    Args:
        journal_path: Path of the journal.
        out_path: Path of the report. An existing file is replaced when the new one is complete.
            Only the owner can read it (mode 0600), because it contains file names and job ids.

    Raises:
        JournalError: The journal cannot be read.
        ConfigurationError: `out_path` is one of the files of the journal.
        OSError: The report cannot be written.
    """
    out = Path(out_path)
    with JournalReader(journal_path) as journal:
        check_is_kept(journal, out)
        made_at = time.time()
        facts = collect(journal.records())
        page = render_journal(journal, facts, name=os.fspath(journal_path), made_at=made_at)
    write_atomically(out, page)


def render_journal(journal: JournalReader, facts: ReportFacts, *, name: str, made_at: float) -> str:
    """Return the page for the facts of an open journal.

    Args:
        journal: The journal.
        facts: The facts of its records.
        name: Path of the journal, for the title and for the command that the page shows.
        made_at: Unix time at which the records were read.
    """
    return render_facts(
        facts,
        name=name,
        endpoint=journal.endpoints.shown,
        notes=journal.notes(),
        made_at=made_at,
        running=journal.holder is not None,
    )


def write_atomically(path: Path, text: str) -> None:
    """Write a file of mode 0600; replace an existing file only when all data is on disk.

    Something other than a regular file, such as ``/dev/stderr``, is written to directly.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    with replacing(path) as file:
        file.write(text.encode())
