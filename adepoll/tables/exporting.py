"""export: writes the jobs of a journal and their results as tables."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol, get_args

from attrs import field, frozen

from adepoll.common.extras import how_to_install
from adepoll.common.html_tables import HtmlTable
from adepoll.common.redaction import showable
from adepoll.common.replacing import replacing
from adepoll.errors import ConfigurationError
from adepoll.journal.reader import JournalReader, check_is_kept
from adepoll.tables.column_types import Column
from adepoll.tables.inference import TypeConflict
from adepoll.tables.job_rows import RowReader
from adepoll.tables.key_paths import KeyPath, format_path, parse_path
from adepoll.tables.result_tables import JobTable, ListTable, Table
from adepoll.tables.spool import Spool, in_blocks
from adepoll.tables.text_writers import CsvWriter, JsonLinesWriter

Format = Literal["parquet", "csv", "jsonl", "arrow"]
_FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_SUFFIXES: Final[dict[str, Format]] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_ROWS_PER_WRITE: Final = 1_000
_LIST_NAME_BYTES: Final = 80  # maximum length of the name of a list in a file name


class Writer(Protocol):
    """Writes the rows of one table."""

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """Write rows; `values` contains one sequence of values for each column."""

    def close(self) -> None:
        """Write all remaining data; do not close the file."""


@frozen(kw_only=True)
class ExportReport(HtmlTable):
    """What `export` has written.

    Attributes:
        files: The files: the table of jobs, then one for each path of `explode`.
        rows: Number of rows in each of these files.
        columns: Names of the columns of the table of jobs.
        results: Number of results in the tables.
        missing: Number of completed jobs whose result is neither in a file nor in the journal,
            without jobs whose result must still be fetched.
        unreadable: Number of results that could not be read; their rows have no extracted values.
        problems: For the first 100 unreadable results, the reason by job id.
        conflicts: Paths whose values do not fit into one column unchanged.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    columns: tuple[str, ...] = field(repr=lambda names: f"<{len(names)} names>")
    results: int
    missing: int
    unreadable: int
    problems: dict[str, str] = field(repr=lambda found: f"<{len(found)} problems>")
    conflicts: tuple[TypeConflict, ...]


def export(
    journal: str | os.PathLike[str],
    out: str | os.PathLike[str] | BinaryIO,
    *,
    to: Format | None = None,
    explode: Collection[str] = (),
    references: bool = False,
    dates: bool = False,
    results: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write a table with one row for each job of a journal. Blocks; the batch may still be running.

    The first columns describe the job, as docs/tables.md explains. Then follows one column for each
    path of the extracted data. Memory does not grow with the number of jobs, because the data of
    all results is kept in a temporary file. This file needs room in the folder of `out` or, if
    `out` is an open file, in the system's temporary folder.

    Args:
        journal: Path of the journal.
        out: Path of the file, or an open binary file. An existing file is replaced when the new
            file is complete. Only its owner can read the new file.
        to: The format; None for the format that the extension of `out` names. "parquet" and "arrow"
            need the extra "table".
        explode: Paths of lists, such as ``line_items``. The elements of each list become the rows
            of a separate table, in a file beside `out`: ``invoices-line_items.parquet``.
        references: If True, the chunk references of each value are columns of the first table, too.
        dates: If True, texts that are all ISO 8601 dates, or times with an offset, become dates and
            times. If False, they stay texts.
        results: Folder to which the result files were moved; None if they were not moved.
        progress: Called with the number of jobs that were read, and the number of all jobs.

    Raises:
        JournalError: The journal cannot be read.
        ConfigurationError: The format is unknown, the extra "table" is missing, `out` is a file of
            the journal, or no result has a path of `explode`.
        OSError: A file cannot be written.
        TypeError: `explode` is one path, not a collection of paths.
    """
    if isinstance(explode, str):
        raise TypeError("explode must be a collection of paths, not one path; use [path]")
    target = None if not isinstance(out, str | os.PathLike) else Path(out)
    kind = _format_of(to, target)
    make_writer = _writer_of(kind)
    paths = [parse_path(path) for path in dict.fromkeys(explode)]
    if paths and target is None:
        raise ConfigurationError("tables of lists need a file: pass a path as out")
    files = [] if target is None else [target, *_names_of_lists(target, paths)]
    with JournalReader(journal) as journal_reader, Spool(_folder_of_spool(target)) as spool:
        for file in files:
            check_is_kept(journal_reader, file)
        row_reader = RowReader(
            journal=journal_reader,
            folder=None if results is None else Path(results),
            references=references,
            parts=[path[0] for path in paths],
        )
        jobs = JobTable(paths, dates=dates, references=references)
        tables: list[Table] = [jobs, *(ListTable(path, dates=dates) for path in paths)]
        total = journal_reader.counts().jobs if progress is not None else 0
        number = 0
        for block in in_blocks(row_reader.rows()):
            for table in tables:
                table.observe(block)
            spool.append(block)
            number += len(block)
            if progress is not None:
                progress(number, max(number, total))
        _check_paths(jobs, paths)
        row_counts = _write(tables, files or [out], spool, make_writer)
    return ExportReport(
        files=tuple(files),
        rows=tuple(row_counts),
        columns=tuple(column.name for column in jobs.columns),
        results=row_reader.results,
        missing=row_reader.missing,
        unreadable=row_reader.unreadable,
        problems=row_reader.problems,
        conflicts=tuple(conflict for table in tables for conflict in table.conflicts),
    )


def _folder_of_spool(target: Path | None) -> Path:
    """Return the folder for the temporary file with the data of all results.

    It is the folder of the target, which has room for the tables. If the target is not a file, such
    as ``/dev/stdout``, it is the temporary folder of the system.
    """
    if target is not None and (target.is_file() or not target.exists()):
        return Path(os.path.realpath(target)).parent
    return Path(tempfile.gettempdir())


def _write(
    tables: Sequence[Table],
    targets: Sequence[Any],
    spool: Spool,
    make_writer: Callable[[BinaryIO, Sequence[Column]], Writer],
) -> list[int]:
    """Write all tables; return the number of rows of each.

    `targets` are the paths of the files, one for each table; the first can also be an open file.
    """
    counts = [0] * len(tables)
    with ExitStack() as stack:
        files = [
            stack.enter_context(replacing(target)) if isinstance(target, Path) else target
            for target in targets
        ]
        outputs = []
        for table, file in zip(tables, files, strict=True):
            table.decide()
            writer = stack.enter_context(_closing(make_writer(file, table.columns)))
            outputs.append((table, writer))
        for block in spool.blocks():
            for index, (table, writer) in enumerate(outputs):
                rows = table.rows(block)
                counts[index] += len(rows)
                # One result can have a very long list, whose elements have many different keys.
                for start in range(0, len(rows), _ROWS_PER_WRITE):
                    part = rows[start : start + _ROWS_PER_WRITE]
                    writer.write([_values(column, part) for column in table.columns])
    return counts


@contextmanager
def _closing(writer: Writer) -> Iterator[Writer]:
    """Close a writer at the end of the block.

    The writer is closed before its file, because otherwise pyarrow would report an error.
    """
    try:
        yield writer
    except BaseException:
        # The error of the block is raised instead. If pyarrow could not write before, it raises a
        # ValueError now.
        with suppress(OSError, ValueError):
            writer.close()
        raise
    writer.close()


def _values(column: Column, rows: Sequence[Any]) -> Sequence[Any]:
    """Return the values of a column in all rows."""
    found = column.get(rows)
    if (convert := column.convert) is None:
        return found
    return [None if value is None else convert(value) for value in found]


def _format_of(to: str | None, target: Path | None) -> Format:
    """Return the format `to`, or the format that the extension of the target names."""
    known = ", ".join(_FORMATS)
    if to is None:
        if target is not None and (found := _SUFFIXES.get(target.suffix.lower())):
            return found
        raise ConfigurationError(
            f"the name of the file ends with no known format; pass to=, one of {known}"
        )
    for name in _FORMATS:
        if to == name:
            return name
    raise ConfigurationError(f"unknown format {showable(str(to), 40)!r}; known are {known}")


def _writer_of(kind: Format) -> Callable[[BinaryIO, Sequence[Column]], Writer]:
    """Return the class that writes this format; raise if pyarrow is needed and missing."""
    if kind == "csv":
        return CsvWriter
    if kind == "jsonl":
        return JsonLinesWriter
    try:
        from adepoll.tables.arrow_writers import ArrowWriter, ParquetWriter  # noqa: PLC0415 - pyarrow is an extra
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ConfigurationError(
            f"the formats parquet and arrow need pyarrow; {how_to_install('table')}"
        ) from None
    return ParquetWriter if kind == "parquet" else ArrowWriter


def _check_paths(table: JobTable, paths: Collection[KeyPath]) -> None:
    """Raise ConfigurationError if no result has one of these paths."""
    for path in paths:
        if not table.values.has_seen(path):
            lists = ", ".join(showable(name) for name in table.values.lists()[:20])
            raise ConfigurationError(
                f"no result has the path {showable(format_path(path))!r}; "
                + (f"paths of lists are: {lists}" if lists else "the results have no lists")
            )


def _names_of_lists(target: Path, paths: Collection[KeyPath]) -> list[Path]:
    """Return the path of the file for each list, such as ``invoices-line_items.parquet``.

    Args:
        target: Path of the table of jobs, such as ``invoices.parquet``.
        paths: Path of each list in the extracted data, such as ``line_items``.
    """
    names: list[str] = []
    for path in paths:
        text = "".join(
            character if character.isalnum() or character in "._-" else "_"
            for character in format_path(path)
        )
        short = text.encode()[:_LIST_NAME_BYTES].decode("utf-8", "ignore")
        stem = f"{target.stem}-{short}"
        # Two paths can give the same file name. Some file systems also ignore the case of letters.
        stems = chain([stem], (f"{stem}-{number}" for number in count(2)))
        taken = {name.casefold() for name in names}
        names.append(next(name for name in stems if name.casefold() not in taken))
    return [target.with_name(name + target.suffix) for name in names]
