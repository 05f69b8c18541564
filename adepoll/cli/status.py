"""``adepoll status``: print the state of a batch, read from its journal."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from attrs import asdict, evolve, frozen
from rich.table import Table
from rich.text import Text

from adepoll.cli.batch_options import (
    ANY_FOLDER,
    IDS_MAY_BE_MISSING,
    IDS_NOTE,
    OPTIONS_NOTE,
    BatchOptions,
    ids_may_be_missing,
)
from adepoll.cli.batch_state import format_bytes
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import shown
from adepoll.cli.run import run_sync
from adepoll.cli.stdout_writer import write_line
from adepoll.cli.wide_tables import add_whole_column, print_table
from adepoll.journal import Failure, JournalReader
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.foreign_file import recorded_folder
from adepoll.journal.outcomes import Counts, Stage
from adepoll.journal.schema import OUT_DIR

_FAILURES_SHOWN: Final = 10  # maximum number of kinds of errors that are shown
_LEAST_WIDTH: Final = 20  # minimum width of a column with sentences, in characters
_NAME_WIDTH: Final = len("last outcome")
_ISO_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_TEXT_FORMAT: Final = "%Y-%m-%d %H:%M:%S UTC"
_STAGES: Final = {
    Stage.WAITING: "waiting",
    Stage.FETCHING: "fetching",
    Stage.DONE: "done",
    Stage.GIVEN_UP: "given up",
}


def status(journal: Path, *, as_json: bool) -> None:
    """Print the state of the batch in `journal`; see `commands.status`."""

    def main() -> ExitCode:
        with JournalReader(journal) as reader:
            found = read_status(reader, journal)
        if as_json:
            write_line(json.dumps(found.to_dict()))
        else:
            show_status(found)
        return ExitCode.COMPLETED

    run_sync(main)


@frozen(kw_only=True)
class Status:
    """State of a batch.

    Attributes:
        journal: Path of the journal.
        endpoints: URLs of the API.
        out_dir: Folder for results; None if results are not downloaded.
        process: Id of the process that has the journal open; None if no process has.
        counts: Numbers of jobs by stage and status.
        kinds: Numbers of jobs by kind.
        began_at: Unix time at which the first job was added; None if there is no job.
        last_outcome_at: Unix time at which the last outcome was recorded; None without outcomes.
        failures: The different errors of jobs with the number of jobs, the most frequent first.
        ids_may_be_missing: True if the last run may have ended before it had read all ids. False
            while a process has the journal open.
        resume_command: Command that continues the batch. None if nothing is left to do, or if a
            process has the journal open.
        fetch_command: Command that downloads the missing result files of completed jobs. None if no
            file is missing, or if a process has the journal open.
    """

    journal: str
    endpoints: Endpoints
    out_dir: str | None
    process: int | None
    counts: Counts
    kinds: Mapping[str, int]
    began_at: float | None
    last_outcome_at: float | None
    failures: Sequence[Failure]
    ids_may_be_missing: bool
    resume_command: str | None
    fetch_command: str | None

    @property
    def unacknowledged(self) -> int:
        """Number of jobs with a recorded outcome that ``adepoll resume`` would print first."""
        return self.counts.jobs - self.counts.open - self.counts.acknowledged

    def to_dict(self) -> Mapping[str, object]:
        """Return the JSON object that ``--json`` prints."""
        return {
            "journal": self.journal,
            "endpoint": self.endpoints.v1,
            "v2_endpoint": self.endpoints.v2,
            "out_dir": self.out_dir,
            "process": self.process,
            "jobs": self.counts.jobs,
            "open": self.counts.open,
            "by_stage": {stage.value: self.counts.by_stage.get(stage, 0) for stage in Stage},
            "by_kind": dict(self.kinds),
            "by_status": dict(self.counts.by_status),
            "acknowledged": self.counts.acknowledged,
            "unacknowledged": self.unacknowledged,
            "partial": self.counts.partial,
            "credits": self.counts.credits,
            "bytes": self.counts.bytes,
            "without_file": self.counts.without_file,
            "began_at": _utc_time(self.began_at, _ISO_FORMAT),
            "last_outcome_at": _utc_time(self.last_outcome_at, _ISO_FORMAT),
            "failures": [_failure_json(failure) for failure in self.failures[:_FAILURES_SHOWN]],
            "ids_may_be_missing": self.ids_may_be_missing,
            "resume_command": self.resume_command,
            "fetch_command": self.fetch_command,
        }


def read_status(reader: JournalReader, path: Path) -> Status:
    """Return the state of a batch; `path` is the path of the journal as the user wrote it."""
    notes, counts, failures = reader.notes(), reader.counts(), reader.failures()
    began_at, last_outcome_at = reader.span()
    process = reader.holder
    noted = notes.get(OUT_DIR)
    out = None if noted is None else recorded_folder(noted, reader.path)
    found = Status(
        journal=str(reader.path),
        endpoints=reader.endpoints,
        out_dir=None if out is None else str(out),
        process=process,
        counts=counts,
        kinds=reader.kinds(),
        began_at=began_at,
        last_outcome_at=last_outcome_at,
        failures=failures,
        ids_may_be_missing=process is None and ids_may_be_missing(notes.get(IDS_NOTE), counts.jobs),
        resume_command=None,
        fetch_command=None,
    )
    if process is not None:
        return found
    command = partial(
        BatchOptions().resume_command,
        path,
        endpoints=reader.endpoints,
        note=notes.get(OPTIONS_NOTE),
    )
    to_do = counts.open or found.unacknowledged or reader.has_retryable()
    return evolve(
        found,
        resume_command=command(out=out) if to_do else None,
        fetch_command=command(out=out or ANY_FOLDER) if counts.without_file else None,
    )


def show_status(found: Status) -> None:
    """Print the state of a batch as text."""
    for name, text in _rows(found):
        write_line(f"{name:<{_NAME_WIDTH}}  {text}")
    if found.failures:
        write_line("")
        table = _failure_table(found.failures[:_FAILURES_SHOWN])
        print_table(table)
        if (more := len(found.failures) - _FAILURES_SHOWN) > 0:
            write_line(f'... and {more} more kinds of errors; "adepoll report" lists them')
    if found.ids_may_be_missing:
        write_line(f"\n{IDS_MAY_BE_MISSING.capitalize()}")
    if found.resume_command is not None:
        write_line(f"\nContinue with: {found.resume_command}")
    if found.fetch_command is not None:
        write_line(f"\nDownload the missing result files with: {found.fetch_command}")


def _rows(found: Status) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each line that ``adepoll status`` prints."""
    counts = found.counts
    region = found.endpoints.region
    yield "service", shown(found.endpoints.shown) + ("" if region is None else f" ({region})")
    if found.out_dir is not None:
        yield "new files in", shown(found.out_dir)
    by_stage = {_STAGES[stage]: counts.by_stage.get(stage, 0) for stage in Stage}
    yield "jobs", _total(counts.jobs, by_stage)
    if len(found.kinds) > 1:
        yield "kinds", ", ".join(f"{jobs:,} {shown(kind)}" for kind, jobs in found.kinds.items())
    yield "settled", _total(sum(counts.by_status.values()), counts.by_status)
    not_yet = f"; {found.unacknowledged:,} not yet" if found.unacknowledged else ""
    yield "acknowledged", f"{counts.acknowledged:,}{not_yet}"
    if counts.partial:
        yield "partial", f"{counts.partial:,} of the completed jobs"
    if counts.credits:
        yield "credits", f"{counts.credits:,.6g}"
    if counts.bytes:
        yield "results", f"{format_bytes(counts.bytes)} in files"
    if counts.without_file:
        yield "without file", f"{counts.without_file:,} of the completed jobs"
    if (began := _utc_time(found.began_at, _TEXT_FORMAT)) is not None:
        yield "began", began
    if (last := _utc_time(found.last_outcome_at, _TEXT_FORMAT)) is not None:
        yield "last outcome", last
    yield "running", "no" if found.process is None else f"in process {found.process}"


def _total(total: int, parts: Mapping[str, int]) -> str:
    text = ", ".join(f"{count:,} {shown(name)}" for name, count in parts.items() if count)
    return f"{total:,}" + (f": {text}" if text else "")


def _utc_time(seconds: float | None, pattern: str) -> str | None:
    """Return a Unix time as text in UTC, in the form `pattern` of `strftime`.

    Return None if the time is None or, in a damaged journal, invalid.
    """
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(pattern)
    except (ValueError, OverflowError, OSError):
        return None


def _failure_json(failure: Failure) -> dict[str, object]:
    """Return a group of failed jobs as JSON.

    The key ``error_kind`` has the same values as in the lines of ``adepoll watch``.
    """
    fields = asdict(failure)
    return {"error_kind": fields.pop("error_class"), **fields}


def _failure_table(failures: Sequence[Failure]) -> Table:
    """Return the table of the reasons why jobs failed or were given up."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("jobs", justify="right")
    table.add_column("error", overflow="fold", min_width=_LEAST_WIDTH)
    add_whole_column(table, "example", (shown(failure.example) for failure in failures))
    add_whole_column(table, "retried", ())
    for failure in failures:
        reason = failure.reason or "no reason given"
        table.add_row(
            f"{failure.jobs:,}",
            Text(shown(f"{failure.error_class}: {reason}")),
            Text(shown(failure.example)),
            "no" if failure.lasting else "yes",
        )
    return table
