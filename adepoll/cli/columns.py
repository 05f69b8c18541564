"""Parses job ids from text: one per line, a column of a CSV, or a key of JSON lines. Does no I/O.

Each id is passed on as soon as its line is complete, without waiting for later lines.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from adepoll.api.job_ids import is_job_id, is_plain
from adepoll.api.models import Json
from adepoll.errors import ConfigurationError
from adepoll.redaction import showable

LONGEST_LINE: Final = 2**23
"""Maximum characters per line. A job with inline data can have several million."""

# The header of a table with one column, such as "Job ID" or "extract_job_ids".
_HEADER: Final = re.compile(r"(?:[a-z]+[ _-])*(?:job[ _-]?)?(?:ids?|uuids?)", re.IGNORECASE)
_QUOTES: Final = "\"'`"
_DELIMITERS: Final = ",;\t|"
# Excel writes and reads this as a first line.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t|])"?')
_BYTE_ORDER_MARK: Final = "\ufeff"
_COLUMNS_SHOWN: Final = 20
_MAX_HEADER_LINES: Final = 100

Emit = Callable[[list[str]], None]
NoteInvalid = Callable[[str, int], None]


def _ignore(_job_id: str, _line: int) -> None:
    """Take note of nothing."""


class _Found:
    """Collects ids until they are passed on."""

    def __init__(self, emit: Emit, note_invalid: NoteInvalid) -> None:
        self._emit = emit
        self._note_invalid = note_invalid
        self._ids: list[str] = []

    def add(self, job_id: str, line: int) -> None:
        """Add the id of a line; an empty text is skipped."""
        if job_id:
            self._ids.append(job_id)
            if not is_job_id(job_id):
                self._note_invalid(job_id, line)

    def add_plain(self, job_ids: list[str]) -> None:
        """Add valid ids."""
        self._ids += job_ids

    def flush(self) -> None:
        """Pass the ids on."""
        if self._ids:
            self._emit(self._ids)
            self._ids = []


class IdsError(ConfigurationError):
    """Job ids could not be read from a file.

    Attributes:
        source: The name of the file, or "standard input".
        line: The line number, counted from 1; None if the error concerns no single line.
        columns: The columns or keys that exist; empty if the error does not concern them.
    """

    def __init__(
        self, problem: str, *, source: str, line: int | None = None, columns: Sequence[str] = ()
    ) -> None:
        where = showable(source) + ("" if line is None else f", line {line}")
        names = ", ".join(showable(name, 40) for name in columns[:_COLUMNS_SHOWN])
        more = len(columns) - _COLUMNS_SHOWN
        if names:
            names = f"; available: {names}" + (f" and {more} more" if more > 0 else "")
        super().__init__(f"{where}: {problem}{names}")
        self.source = source
        self.line = line
        self.columns = tuple(columns)


def read_text(
    pieces: Iterable[str],
    *,
    source: str,
    field: str | None,
    emit: Emit,
    note_invalid: NoteInvalid = _ignore,
) -> None:
    r"""Parse the job ids of a text, and pass them to `emit` in batches that are never empty.

    Skips blank lines, lines that begin with ``#``, and rows whose cell or key is empty or null.

    Args:
        pieces: The text in pieces of any length; lines end with ``\n``.
        source: The name of the text in error messages.
        field: The column or key, with dots between the keys of nested objects; None if each line
            is an id.
        emit: Receives a batch, before the next piece is read.
        note_invalid: Called with each text that cannot be a job id, and its line number, before
            the text is passed to `emit`.

    Raises:
        IdsError: `field` does not exist, or a line is malformed or too long.
    """
    batches = _lines(pieces, source)
    found = _Found(emit, note_invalid)
    before = 0  # skipped lines at the top
    first = ""
    for lines in batches:
        at = next((at for at, line in enumerate(lines) if _content(line)), None)
        if at is not None:
            first = _content(lines[at])
            before += at
            batches = chain([lines[at:]], batches)
            break
        before += len(lines)
    if field is None:
        _refuse_table(first, source, before + 1)
        if _HEADER.fullmatch(_bare(first)):  # a CSV file with one column
            lines = next(batches)
            batches = chain([["", *lines[1:]]], batches)
        _read_plain(batches, before, found)
    elif first.startswith("{"):
        _read_json(batches, before, source, field, found)
    elif first:
        _read_csv(batches, before, source, field, found)


def _lines(pieces: Iterable[str], source: str) -> Iterator[list[str]]:
    """Yield complete lines, in batches."""
    held: list[str] = []
    size = number = 0
    for piece in pieces:
        head, newline, tail = piece.rpartition("\n")
        if newline:
            lines = "".join([*held, head]).split("\n")
            number += len(lines)
            yield lines
            held, size = [], 0
        if tail:
            held.append(tail)
            size += len(tail)
            if size > LONGEST_LINE:
                raise IdsError(
                    f"the line is longer than {LONGEST_LINE} characters; are these job ids?",
                    source=source,
                    line=number + 1,
                )
    if held:
        yield ["".join(held)]


def _content(line: str) -> str:
    """Return the stripped line; an empty string if the line is to be skipped."""
    # A byte order mark stands at the top of a file, and in the middle of concatenated files.
    text = line.strip().lstrip(_BYTE_ORDER_MARK)
    return "" if text.startswith("#") else text


def _read_plain(batches: Iterable[list[str]], number: int, found: _Found) -> None:
    for lines in batches:
        stripped = [line.strip() for line in lines]
        if all(map(is_plain, stripped)):  # nearly all files have no other lines
            found.add_plain(stripped)
        else:
            for offset, line in enumerate(lines, 1):
                found.add(_bare(_content(line)), number + offset)
        found.flush()
        number += len(lines)


def _bare(text: str) -> str:
    """Return an id without what surrounds the cells of a table or list: quotes, a delimiter."""
    bare = text.rstrip(",;|\t ")
    if len(bare) > len("''") and bare[0] in _QUOTES and bare[0] == bare[-1]:
        bare = bare[1:-1].strip()
    return bare or text


def _refuse_table(first: str, source: str, line: int) -> None:
    """Raise if `--field` is missing for a CSV or JSON: otherwise each line would be a bad id."""
    if first.startswith(("{", "[")):
        try:
            keys = list(json.loads(first)) if first.startswith("{") else []
        except (ValueError, RecursionError):
            keys = []
        raise IdsError(
            "this is JSON, not a job id: write one object per line, and name the key of the ids "
            "with --field NAME",
            source=source,
            line=line,
            columns=keys,
        )
    bare = _bare(first)
    columns = max((_split(bare, delimiter) for delimiter in _DELIMITERS), key=len)
    if len(columns) > 1:
        raise IdsError(
            "this is a table, not a job id: name the column of the ids with --field NAME",
            source=source,
            line=line,
            columns=columns,
        )


def _read_json(
    batches: Iterable[list[str]], number: int, source: str, field: str, found: _Found
) -> None:
    for lines in batches:
        for line in lines:
            number += 1
            text = _content(line)
            if not text:
                continue
            try:
                value = json.loads(text)
            except json.JSONDecodeError as exc:
                problem = (
                    f"malformed JSON ({exc.msg}, character {exc.pos + 1}); one object per line?"
                )
                raise IdsError(problem, source=source, line=number) from None
            except (ValueError, RecursionError) as exc:  # too many digits, or nested too deeply
                problem = f"JSON that cannot be read ({type(exc).__name__})"
                raise IdsError(problem, source=source, line=number) from None
            found.add(_value_at(value, field, source, number), number)
        found.flush()


def _value_at(value: Json, field: str, source: str, line: int) -> str:
    """Return the id at a key or path of keys; an empty string if it is null or empty."""
    steps = [field] if isinstance(value, dict) and field in value else field.split(".")
    for depth, step in enumerate(steps):
        path = ".".join(steps[:depth])
        if value is None and depth:
            return ""
        if not isinstance(value, dict):
            problem = f"{showable(path, 80)!r} is not" if path else "not"
            problem += " a JSON object"
            raise IdsError(problem, source=source, line=line)
        if step not in value:
            problem = f"no key {showable(field, 80)!r}"
            keys = [f"{path}.{key}" if path else key for key in value]
            raise IdsError(problem, source=source, line=line, columns=keys)
        value = value[step]
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = f"the value of {showable(field, 80)!r} is not a string"
        raise IdsError(problem, source=source, line=line)
    return value.strip()


def _read_csv(
    batches: Iterable[list[str]], before: int, source: str, field: str, found: _Found
) -> None:
    # A global setting, acceptable in the process of a command. Other cells can hold long texts.
    csv.field_size_limit(LONGEST_LINE)

    def feed() -> Iterator[str]:
        for lines in batches:
            yield from [f"{line}\n" for line in lines]
            found.flush()  # the csv reader needs another line, which may arrive late

    lines = feed()
    header, delimiter = _read_header(lines)
    before += len(header)
    columns, delimiter = _columns("".join(header), delimiter, field)
    index = _index_of(field, columns, source, before)
    # Strict, because an unclosed quote would otherwise swallow all ids that follow.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row_start = 1
    try:
        for row in reader:
            if len(row) > index:
                found.add(row[index].strip(), before + row_start)
            elif any(cell.strip() for cell in row):
                # Not skipped: if the header had another delimiter, every row would be skipped.
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


def _index_of(field: str, columns: Sequence[str], source: str, line: int) -> int:
    if columns.count(field) == 1:
        return columns.index(field)
    if columns and columns[0].startswith("["):
        problem = "this is a JSON array: write one object per line"
        raise IdsError(problem, source=source, line=line)
    problem = f"no column {showable(field, 80)!r}"
    if field in columns:
        problem = f"{columns.count(field)} columns are named {showable(field, 80)!r}"
    raise IdsError(problem, source=source, line=line, columns=columns)


def _read_header(lines: Iterator[str]) -> tuple[list[str], str | None]:
    """Return the lines of the header, and the delimiter if a separator line names it."""
    header = [next(lines).lstrip(_BYTE_ORDER_MARK)]
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
    """Return the columns and the delimiter that yields `field`, or else the most columns."""
    splits = [(_split(text, choice), choice) for choice in delimiter or _DELIMITERS]
    return max(splits, key=lambda pair: (field in pair[0], len(pair[0])))


def _split(text: str, delimiter: str) -> list[str]:
    try:
        row = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        row = [text]
    return [column.strip() for column in row]
