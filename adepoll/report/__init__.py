"""The report of a batch: one HTML file that opens anywhere (extra "cli", for jinja2).

`render` makes the page of records, `write_report` that of a journal's, as a file.
"""

from collections.abc import Iterable, Mapping

from adepoll.journal.outcomes import Record
from adepoll.report.collecting import Collector, collect
from adepoll.report.facts import Facts
from adepoll.report.page import render_facts
from adepoll.report.writing import page_of, write_report, write_whole

__all__ = [
    "Collector",
    "Facts",
    "collect",
    "page_of",
    "render",
    "render_facts",
    "write_report",
    "write_whole",
]


def render(
    records: Iterable[Record],
    *,
    name: str,
    endpoint: str,
    notes: Mapping[str, str],
    made_at: float,
    running: bool = False,
) -> str:
    """Give the page of a batch. The records are read once, and none of them is kept.

    Args:
        records: All of them, in any order.
        name: Of the journal, as a command would name it: its path.
        endpoint: The API that the jobs are of.
        notes: The journal's notes.
        made_at: When the records were read, Unix seconds.
        running: Whether a run has the journal open.
    """
    return render_facts(
        collect(records),
        name=name,
        endpoint=endpoint,
        notes=notes,
        made_at=made_at,
        running=running,
    )
