"""``adepoll export``: write the jobs and results of a batch as tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final

import click

from adepoll import AdePollError, ExportReport, export
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say, shown
from adepoll.cli.options import TableFormat
from adepoll.cli.progress import ExportView
from adepoll.cli.run import run_sync
from adepoll.cli.stdout_writer import naming_stdout, write_line
from adepoll.common.redaction import path_word, printable, shell_line, showable
from adepoll.common.system_errors import reason_of

_SHOWN: Final = 20  # maximum number of printed conflicts, and of printed unreadable results
_LONGEST_CONFLICT: Final = 2_000  # characters


def export_tables(
    journal: Path,
    *,
    to: TableFormat | None,
    out: str | None,
    explode: tuple[str, ...],
    references: bool,
    dates: bool,
    results: Path | None,
) -> None:
    """Write the jobs and results in `journal` as tables; see `commands.export`."""

    def main() -> ExitCode:
        if out == "-" and explode:
            raise click.UsageError("--explode needs files: name one with --out")
        named = None if out in {None, "-"} else Path(str(out))
        kind = to
        if kind is None and (named is None or not named.suffix):
            kind = "parquet"
        target = journal.with_suffix(f".{kind}") if out is None else named
        try:
            with (
                nullcontext(target) if target is not None else _stdout(kind) as destination,
                ExportView() as view,
            ):
                report = export(
                    journal,
                    destination,
                    to=kind,
                    explode=explode,
                    references=references,
                    dates=dates,
                    results=results,
                    progress=view.update,
                )
        except OSError as error:
            if target is None or isinstance(error, AdePollError):
                raise
            reason = reason_of(error)
            say(f"adepoll: cannot write {shown(str(target))}: {reason}; see --out")
            return ExitCode.IO_ERROR
        _say_report(report, journal)
        incomplete = report.missing or report.unreadable
        return ExitCode.UNRESOLVED if incomplete else ExitCode.COMPLETED

    run_sync(main)


@contextmanager
def _stdout(table_format: TableFormat | None) -> Iterator[BinaryIO]:
    """Yield a file whose content goes to stdout.

    On a terminal, control characters are escaped, and formats that are not text are refused.
    """
    if not sys.stdout.isatty():
        with naming_stdout():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    if table_format in {"parquet", "arrow"}:
        problem = f"{table_format} is not text: redirect it, or name a file with --out"
        raise click.UsageError(problem)
    with TemporaryFile() as file:
        yield file
        file.seek(0)
        for line in file:
            write_line(printable(line.decode().removesuffix("\n")))


def _say_report(report: ExportReport, journal: Path) -> None:
    """Print on stderr which files were written, and which problems the tables have."""
    names = [shown(str(file)) for file in report.files] or ["standard output"]
    for name, rows in zip(names, report.rows, strict=True):
        say(f"{name}: {rows:,} {'row' if rows == 1 else 'rows'}")
    for conflict in report.conflicts[:_SHOWN]:
        # Cut only after many characters, because the reader needs the whole ids and types.
        say(f"adepoll: {showable(str(conflict), _LONGEST_CONFLICT)}")
    if (more := len(report.conflicts) - _SHOWN) > 0:
        say(f"adepoll: {more:,} more paths with values of several types")
    for job_id, problem in list(report.problems.items())[:_SHOWN]:
        say(f"adepoll: the result of {shown(job_id)} is not in the table: {shown(problem)}")
    if (more := report.unreadable - min(len(report.problems), _SHOWN)) > 0:
        say(f"adepoll: {more:,} more results could not be read")
    if report.unreadable:
        say("adepoll: if you have moved the result files, pass their new folder with --results DIR")
    if report.missing:
        command = shell_line(["adepoll", "resume", path_word(str(journal)), "--out"])
        say(
            f"adepoll: {_jobs(report.missing)} no result in the table, because it "
            f"was not downloaded; download it with {command} DIR"
        )


def _jobs(number: int) -> str:
    return "1 completed job has" if number == 1 else f"{number:,} completed jobs have"
