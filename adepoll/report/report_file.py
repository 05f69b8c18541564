"""From a journal to a file: reads the one, writes the other whole or not at all.

Imports journal and its neighbours.
"""

import os
import tempfile
import time
from pathlib import Path

from adepoll.journal import JournalReader
from adepoll.report.collecting import collect
from adepoll.report.facts import Facts
from adepoll.report.page import render_facts


def write_report(journal_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Write the report of a journal, also while a batch is running on it.

    Args:
        journal_path: The journal.
        out_path: Where the report goes. A report that is there is replaced once the new one is
            whole. Only its owner may read it, as the journal, since it names files.

    Raises:
        JournalError: The journal cannot be read.
        OSError: The report cannot be written.
    """
    with JournalReader(journal_path) as journal:
        made_at = time.time()
        facts = collect(journal.records())
        page = page_of(journal, facts, name=os.fspath(journal_path), made_at=made_at)
    write_whole(Path(out_path), page)


def page_of(journal: JournalReader, facts: Facts, *, name: str, made_at: float) -> str:
    """Give the page with the facts of an open journal.

    Args:
        journal: The journal.
        facts: What its records came to.
        name: How the journal was named, as a command would.
        made_at: When the facts were read, Unix seconds.
    """
    return render_facts(
        facts,
        name=name,
        endpoint=journal.endpoint,
        notes=journal.notes(),
        made_at=made_at,
        running=journal.holder is not None,
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file of mode 0600; until all of it is on the disk, the old one stays.

    What is no file, such as ``/dev/stderr``, is written to and not replaced.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    path = path.resolve()  # through a link: that stays one
    content = text.encode()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    fd, name = tempfile.mkstemp(prefix=".adepoll-report-", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
