"""``adepoll status``: where a batch stands, read from its journal."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
from attrs import asdict, evolve, frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adepoll.api.config import REGIONS
from adepoll.batch.batch import OUT_DIR
from adepoll.cli.choices import IDS_NOTE, IDS_UNSURE, OPTIONS_NOTE, READING, Choices
from adepoll.cli.running import ExitCode, run_plain, shown, write_line
from adepoll.cli.standing import in_bytes
from adepoll.journal import Failure, JournalReader
from adepoll.journal.outcomes import Counts, Stage
from adepoll.report.formats import iso_time, show_time

_GROUPS: Final = 10  # of failures
_NAME_WIDTH: Final = len("last outcome")
_STAGES: Final = {
    Stage.WAITING: "waiting",
    Stage.FETCHING: "to be fetched",
    Stage.DONE: "done",
    Stage.GIVEN_UP: "given up",
}


@click.command()
@click.argument("journal", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(journal: Path, *, as_json: bool) -> None:
    """Say where the batch of a journal stands, and what went wrong.

    JOURNAL is the file given to "adepoll watch --journal". It is only read: a batch may be running
    on it. No key is needed.
    """

    def main() -> ExitCode:
        with JournalReader(journal) as reader:
            found = read_status(reader, journal)
        if as_json:
            write_line(json.dumps(found.for_programs()))
        else:
            show_status(found)
        return ExitCode.COMPLETED

    run_plain(main)


@frozen(kw_only=True)
class Status:
    """Where a batch stands.

    Attributes:
        journal: The file.
        endpoint: The address of the API.
        out_dir: Where results go; None where they do not.
        process: Which has it open; None where none has.
        counts: How many jobs there are, and how far they have come.
        began_at: When the first job was added, Unix seconds.
        last_outcome_at: When the last outcome was written down, Unix seconds.
        failures: What went wrong, the most frequent first.
        ids_unsure: Whether the last run may have ended before all ids had been read.
        go_on: The command that goes on; None where there is nothing to do, or a process does it.
    """

    journal: str
    endpoint: str
    out_dir: str | None
    process: int | None
    counts: Counts
    began_at: float | None
    last_outcome_at: float | None
    failures: Sequence[Failure]
    ids_unsure: bool
    go_on: str | None

    @property
    def untold(self) -> int:
        """Jobs with an outcome that nobody has taken."""
        return self.counts.jobs - self.counts.open - self.counts.delivered

    def for_programs(self) -> Mapping[str, object]:
        """Give it as the JSON object that is printed."""
        return {
            "journal": self.journal,
            "endpoint": self.endpoint,
            "out_dir": self.out_dir,
            "process": self.process,
            "jobs": self.counts.jobs,
            "open": self.counts.open,
            "by_stage": {stage.value: self.counts.by_stage.get(stage, 0) for stage in Stage},
            "by_status": dict(self.counts.by_status),
            "delivered": self.counts.delivered,
            "undelivered": self.untold,
            "bytes": self.counts.bytes,
            "began_at": None if self.began_at is None else iso_time(self.began_at),
            "last_outcome_at": (
                None if self.last_outcome_at is None else iso_time(self.last_outcome_at)
            ),
            "failures": [asdict(failure) for failure in self.failures[:_GROUPS]],
            "ids_unsure": self.ids_unsure,
            "go_on": self.go_on,
        }


def read_status(reader: JournalReader, given: Path) -> Status:
    """Read where the batch stands; `given` is the journal as the caller named it."""
    notes, counts, failures = reader.notes(), reader.counts(), reader.failures()
    began_at, last_outcome_at = reader.span()
    process = reader.holder
    found = Status(
        journal=str(reader.path),
        endpoint=reader.endpoint,
        out_dir=notes.get(OUT_DIR),
        process=process,
        counts=counts,
        began_at=began_at,
        last_outcome_at=last_outcome_at,
        failures=failures,
        ids_unsure=process is None and notes.get(IDS_NOTE) == READING,
        go_on=None,
    )
    to_do = counts.open or found.untold or any(not failure.lasting for failure in failures)
    if process is not None or not to_do:
        return found
    command = Choices().resume_command(
        given, endpoint=reader.endpoint, note=notes.get(OPTIONS_NOTE)
    )
    return evolve(found, go_on=command)


def show_status(found: Status) -> None:
    """Print it for a person."""
    for name, text in _facts(found):
        write_line(f"{name:<{_NAME_WIDTH}}  {text}")
    if found.failures:
        write_line("")
        Console().print(_failures(found.failures[:_GROUPS]))
        if (more := len(found.failures) - _GROUPS) > 0:
            write_line(f'... and {more} more kinds: "adepoll report" shows them')
    if found.ids_unsure:
        write_line(f"\n{IDS_UNSURE.capitalize()}")
    if found.go_on is not None:
        write_line(f"\nGoes on with: {found.go_on}")


def _facts(found: Status) -> Iterator[tuple[str, str]]:
    counts = found.counts
    region = {url: f" ({region})" for region, url in REGIONS.items()}.get(found.endpoint, "")
    yield "service", shown(found.endpoint) + region
    if found.out_dir is not None:
        yield "results in", shown(found.out_dir)
    by_stage = {_STAGES[stage]: counts.by_stage.get(stage, 0) for stage in Stage}
    yield "jobs", _total(counts.jobs, by_stage)
    yield "ended", _total(sum(counts.by_status.values()), counts.by_status)
    yield (
        "delivered",
        f"{counts.delivered:,}" + (f"; {found.untold:,} not yet" if found.untold else ""),
    )
    if counts.bytes:
        yield "results", f"{in_bytes(counts.bytes)} in files"
    if found.began_at is not None:
        yield "began", f"{show_time(found.began_at)} UTC"
    if found.last_outcome_at is not None:
        yield "last outcome", f"{show_time(found.last_outcome_at)} UTC"
    yield "running", "no" if found.process is None else f"in process {found.process}"


def _total(total: int, parts: Mapping[str, int]) -> str:
    told = ", ".join(f"{count:,} {shown(name)}" for name, count in parts.items() if count)
    return f"{total:,}" + (f": {told}" if told else "")


def _failures(failures: Sequence[Failure]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("jobs", justify="right")
    table.add_column("what went wrong", overflow="fold")
    table.add_column("for example", overflow="fold")
    table.add_column("tried again", no_wrap=True)
    for failure in failures:
        reason = failure.reason or "no reason was given"
        table.add_row(
            f"{failure.jobs:,}",
            Text(shown(f"{failure.kind}: {reason}")),
            Text(shown(failure.example)),
            "no" if failure.lasting else "yes",
        )
    return table
