"""The report about a batch: one HTML file without external content (extra "cli", for jinja2).

`write_report` writes the report of a journal, `render` returns the page for any records.
"""

from collections.abc import Iterable, Mapping

from adepoll.journal.outcomes import Record
from adepoll.report.collector import Collector, collect
from adepoll.report.facts import ReportFacts
from adepoll.report.page import render_facts
from adepoll.report.report_file import render_journal, write_atomically, write_report

__all__ = [
    "Collector",
    "ReportFacts",
    "collect",
    "render",
    "render_facts",
    "render_journal",
    "write_atomically",
    "write_report",
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
    """Return the page for the records of a batch. Reads the records once, and keeps none.

    Args:
        records: All records, in any order.
        name: Path of the journal, for the title and for the command that the page shows.
        endpoint: URL of the API, or a text with both URLs.
        notes: The table `notes` of the journal, as a mapping from key to value.
        made_at: Unix time at which the records were read.
        running: True if a process has the journal open.
    """
    return render_facts(
        collect(records),
        name=name,
        endpoint=endpoint,
        notes=notes,
        made_at=made_at,
        running=running,
    )
