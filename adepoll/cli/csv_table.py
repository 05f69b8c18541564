"""Reads jobs from a CSV table with a header, as its lines arrive. Does no I/O."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Final

from adepoll.cli.found_jobs import Fields, FoundJobs, IdsError, check_encoding
from adepoll.common.redaction import showable

LONGEST_LINE: Final = 2**23
"""Maximum characters per line. A line with the inline result of a job can have millions."""
DELIMITERS: Final = ",;\t|"
BYTE_ORDER_MARK: Final = "\ufeff"
# Matches a first line such as ``sep=;``, which names the delimiter; Excel writes such lines.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t|])"?')
_MAX_HEADER_LINES: Final = 100


def read_csv(batches: Iterable[list[str]], before: int, fields: Fields, found: FoundJobs) -> None:
    """Find the jobs of a table with a header.

    Args:
        batches: The lines without line ends, in lists of any length.
        before: Number of lines of the file before the first batch.
        fields: Names of the columns that describe a job.
        found: Receives the jobs.

    Raises:
        IdsError: A column does not exist, a kind is unknown, or a row cannot be read or is not
            UTF-8.
    """
    source, field = found.source, fields.job_id or ""
    # Cells can hold long texts. This setting is global, which is acceptable in a command.
    csv.field_size_limit(LONGEST_LINE)

    def feed() -> Iterator[str]:
        for lines in batches:
            yield from [f"{line}\n" for line in lines]
            # The next line may arrive late. Therefore the jobs found so far are passed on now.
            found.flush()

    lines = feed()
    header, delimiter = _read_header(lines)
    before += len(header)
    columns, delimiter = _columns("".join(header), delimiter, field)
    check_encoding(columns, source, before)
    cells = _Cells(columns, fields, source, before)
    # Strict, because an unclosed quote would otherwise swallow all ids that follow.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row_start = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row[len(columns) :]):
                problem = (
                    f"the row has {len(row)} cells, but the table has {len(columns)} columns; "
                    "put quotes around a cell that contains the delimiter"
                )
                raise IdsError(problem, source=source, line=before + row_start)
            if len(row) > cells.job_id:
                cells.add(row, before + row_start, found)
            elif any(cell.strip() for cell in row):
                # Short rows are not skipped: with a wrong delimiter, every row would be skipped.
                problem = (
                    f"the row has {len(row)} of {len(columns)} columns; "
                    f"{showable(field, 80)!r} is missing"
                )
                raise IdsError(problem, source=source, line=before + row_start)
            row_start = reader.line_num + 1
    except csv.Error as exc:
        problem = f"the row that begins here cannot be read: {showable(str(exc))}"
        raise IdsError(problem, source=source, line=before + row_start) from None
    found.flush()


class _Cells:
    """Positions of the id, the kind, the label and the other columns in each row of a table."""

    def __init__(self, columns: Sequence[str], fields: Fields, source: str, line: int) -> None:
        self.job_id = _index_of(fields.job_id or "", columns, source, line)
        self._kind, self._label = (
            _index_of(name, columns, source, line)
            if given or (name and columns.count(name) == 1)
            else None
            for name, given in ((fields.kind_name, fields.kind), (fields.label_name, fields.label))
        )
        known = {self.job_id, self._kind, self._label}
        others = [index for index, name in enumerate(columns) if name and index not in known]
        # For each column, the name of the cell in `BatchJob.columns`; None if it is not there.
        self._names: list[str | None] = [None] * len(columns)
        for index, name in zip(others, _distinct([columns[i] for i in others]), strict=True):
            self._names[index] = name

    def add(self, row: Sequence[str], line: int, found: FoundJobs) -> None:
        """Add the job in a row to `found`; `line` is the number of the line in the file."""
        found.add(
            row[self.job_id].strip(),
            line,
            kind=self._cell(row, self._kind),
            label=self._cell(row, self._label),
            # A row can have fewer cells than the table has columns, or more cells, which are empty.
            columns={
                name: cell for name, cell in zip(self._names, row, strict=False) if name is not None
            },
        )

    @staticmethod
    def _cell(row: Sequence[str], index: int | None) -> str:
        return "" if index is None or index >= len(row) else row[index].strip()


def _index_of(field: str, columns: Sequence[str], source: str, line: int) -> int:
    """Return the position of the column `field`.

    Raise `IdsError` if no column or several columns have this name. For this error, `source` is the
    name of the file, and `line` the number of the header's line.
    """
    if columns.count(field) == 1:
        return columns.index(field)
    if columns and columns[0].startswith("["):
        problem = "this is a JSON array: write one object per line"
        raise IdsError(problem, source=source, line=line)
    problem = f"no column {showable(field, 80)!r}"
    if field in columns:
        problem = f"{columns.count(field)} columns are named {showable(field, 80)!r}"
    raise IdsError(problem, source=source, line=line, columns=columns)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of columns; a number follows a repeated name, as in ``note_2``."""
    taken = set(names)
    numbers: dict[str, Iterator[int]] = {}  # the next numbers for each name that was found
    found: list[str] = []
    for name in names:
        free = name
        if name in numbers:
            free = next(new for number in numbers[name] if (new := f"{name}_{number}") not in taken)
            taken.add(free)
        else:
            numbers[name] = count(2)
        found.append(free)
    return found


def _read_header(lines: Iterator[str]) -> tuple[list[str], str | None]:
    """Return the lines of the header, and the delimiter if a line such as ``sep=;`` names it.

    The header has several lines if a name in quotes contains a line break.
    """
    header = [next(lines).lstrip(BYTE_ORDER_MARK)]
    delimiter = None
    if separator := _SEPARATOR_LINE.fullmatch(header[0].rstrip("\n")):
        delimiter = separator[1]
        header = ["", next(lines, "")]
    while "".join(header).count('"') % 2 and len(header) < _MAX_HEADER_LINES:
        if not (line := next(lines, "")):
            break
        header.append(line)
    return header, delimiter


def _columns(text: str, delimiter: str | None, field: str) -> tuple[list[str], str]:
    """Return the names of the columns in the header `text`, and the delimiter of the table.

    If `delimiter` is None, choose a delimiter that gives a column with the name `field`. If several
    or none do, choose the one that gives the most columns.
    """
    splits = [(split_row(text, choice), choice) for choice in delimiter or DELIMITERS]
    return max(splits, key=lambda pair: (field in pair[0], len(pair[0])))


def split_row(text: str, delimiter: str) -> list[str]:
    """Return the stripped cells of a row. If the row is not valid CSV, it is a single cell."""
    try:
        row = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        row = [text]
    return [column.strip() for column in row]
