"""Text to job ids: one a line, or one column of a CSV, or one key of JSON lines. Does no I/O.

Ids are handed on in batches, each as soon as its lines are there: nothing waits for a later line.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from adepoll.api.models import Json
from adepoll.errors import ConfigurationError
from adepoll.redaction import showable

LONGEST_LINE: Final = 2**23
"""Characters; a job with its data inline, as `adepoll watch` prints it, has some million."""

_DELIMITERS: Final = ",;\t|"
_SEPARATOR_LINE: Final = re.compile(
    r'"?sep=([,;\t|])"?'
)  # a first line that Excel writes and reads
_BYTE_ORDER_MARK: Final = "\ufeff"
_NAMES_TOLD: Final = 20
_LINES_OF_HEADER: Final = 100

Emit = Callable[[list[str]], None]


class IdsError(ConfigurationError):
    """Ids could not be taken from a file.

    Attributes:
        source: The file, or "standard input".
        line: The number of the line, from 1; None where it is about the whole.
        columns: The columns, or keys, that are there; empty where it is not about them.
    """

    def __init__(
        self, problem: str, *, source: str, line: int | None = None, columns: Sequence[str] = ()
    ) -> None:
        where = showable(source) + ("" if line is None else f", line {line}")
        told = ", ".join(showable(name, 40) for name in columns[:_NAMES_TOLD])
        more = len(columns) - _NAMES_TOLD
        if told:
            told = f"; there are: {told}" + (f" and {more} more" if more > 0 else "")
        super().__init__(f"{where}: {problem}{told}")
        self.source = source
        self.line = line
        self.columns = tuple(columns)


def read_text(pieces: Iterable[str], *, source: str, field: str | None, emit: Emit) -> None:
    r"""Hand on the ids of a text, in batches that are never empty.

    Blank lines, lines that begin with ``#``, and rows whose cell or key is empty or null are
    passed over.

    Args:
        pieces: The text as it comes, cut anywhere; its lines end with ``\n``.
        source: What the text is called in an error.
        field: The column or key, dots leading into objects; None where each line is an id.
        emit: Takes a batch. It is called before the next piece is asked for.

    Raises:
        IdsError: The text is not what `field` says, or a line of it is broken or too long.
    """
    batches = _lines(pieces, source)
    before = 0  # lines at the top that are passed over
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
        for lines in batches:
            if found := _plain_ids(lines):
                emit(found)
    elif first.startswith("{"):
        _read_json(batches, before, source, field, emit)
    elif first:
        _read_csv(batches, before, source, field, emit)


def _lines(pieces: Iterable[str], source: str) -> Iterator[list[str]]:
    """Give the lines that are complete, whenever there are some."""
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
    """Give what stands in a line; nothing, if it is to be passed over."""
    # The mark stands at the top of a file, and further down where files were put together.
    text = line.strip().lstrip(_BYTE_ORDER_MARK)
    return "" if text.startswith("#") else text


def _plain_ids(lines: list[str]) -> list[str]:
    stripped = [text for line in lines if (text := line.strip()) and text[0] not in "#\ufeff"]
    if len(stripped) == len(lines):
        return stripped
    return [text for line in lines if (text := _content(line))]


def _refuse_table(first: str, source: str, line: int) -> None:
    """Say so at once where `--field` was forgotten: else each line would end as a bad id."""
    if first.startswith(("{", "[")):
        try:
            keys = list(json.loads(first)) if first.startswith("{") else []
        except (ValueError, RecursionError):
            keys = []
        raise IdsError(
            "this is JSON, not an id: put one object on a line, and say with --field NAME which "
            "key holds the ids",
            source=source,
            line=line,
            columns=keys,
        )
    columns = max((_split(first, delimiter) for delimiter in _DELIMITERS), key=len)
    if len(columns) > 1:
        raise IdsError(
            "this is a table, not an id: say with --field NAME which column holds the ids",
            source=source,
            line=line,
            columns=columns,
        )


# --- JSON lines ----------------------------------------------------------------------------------


def _read_json(
    batches: Iterable[list[str]], number: int, source: str, field: str, emit: Emit
) -> None:
    for lines in batches:
        found = []
        for line in lines:
            number += 1
            text = _content(line)
            if not text:
                continue
            try:
                value = json.loads(text)
            except json.JSONDecodeError as exc:
                problem = f"broken JSON ({exc.msg}, character {exc.pos + 1}); is it one a line?"
                raise IdsError(problem, source=source, line=number) from None
            except (ValueError, RecursionError) as exc:  # an endless number, an endless nesting
                problem = f"JSON that cannot be read ({type(exc).__name__})"
                raise IdsError(problem, source=source, line=number) from None
            if job_id := _value_at(value, field, source, number):
                found.append(job_id)
        if found:
            emit(found)


def _value_at(value: Json, field: str, source: str, line: int) -> str:
    """Give the id at a key, or at a path of keys; nothing where it is null or empty."""
    steps = [field] if isinstance(value, dict) and field in value else field.split(".")
    for depth, step in enumerate(steps):
        path = ".".join(steps[:depth])
        if value is None and depth:
            return ""
        if not isinstance(value, dict):
            problem = f"{showable(path, 80)!r} is no JSON object" if path else "no JSON object"
            raise IdsError(problem, source=source, line=line)
        if step not in value:
            problem = f"no key {showable(field, 80)!r}"
            there = [f"{path}.{key}" if path else key for key in value]
            raise IdsError(problem, source=source, line=line, columns=there)
        value = value[step]
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = f"the value of {showable(field, 80)!r} is no string"
        raise IdsError(problem, source=source, line=line)
    return value.strip()


# --- CSV -----------------------------------------------------------------------------------------


def _read_csv(
    batches: Iterable[list[str]], before: int, source: str, field: str, emit: Emit
) -> None:
    # Of the whole process, which is the command's: the text beside an id may well be long.
    csv.field_size_limit(LONGEST_LINE)
    found: list[str] = []

    def feed() -> Iterator[str]:
        for lines in batches:
            yield from [f"{line}\n" for line in lines]
            if found:  # the reader wants a line that may come late
                emit(found.copy())
                found.clear()

    lines = feed()
    header, delimiter = _read_header(lines)
    before += len(header)
    columns, delimiter = _columns("".join(header), delimiter, field)
    index = _index_of(field, columns, source, before)
    # Strict: else a quote that is never closed would swallow all ids that follow.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    began = 1
    try:
        for row in reader:
            if len(row) > index:
                if job_id := row[index].strip():
                    found.append(job_id)
            elif any(cell.strip() for cell in row):
                # Not passed over: all would be, where the header has another delimiter.
                problem = f"{len(row)} of {len(columns)} columns, and not {showable(field, 80)!r}"
                raise IdsError(problem, source=source, line=before + began)
            began = reader.line_num + 1
    except csv.Error as exc:
        problem = f"the row that begins here cannot be read: {showable(str(exc))}"
        raise IdsError(problem, source=source, line=before + began) from None
    if found:
        emit(found)


def _index_of(field: str, columns: Sequence[str], source: str, line: int) -> int:
    if columns.count(field) == 1:
        return columns.index(field)
    if columns and columns[0].startswith("["):
        problem = "this is a JSON array: put one object on a line"
        raise IdsError(problem, source=source, line=line)
    problem = f"no column {showable(field, 80)!r}"
    if field in columns:
        problem = f"{columns.count(field)} columns are called {showable(field, 80)!r}"
    raise IdsError(problem, source=source, line=line, columns=columns)


def _read_header(lines: Iterator[str]) -> tuple[list[str], str | None]:
    """Take the lines of the header, and the delimiter, where the line before it says which."""
    header = [next(lines).lstrip(_BYTE_ORDER_MARK)]
    delimiter = None
    if told := _SEPARATOR_LINE.fullmatch(header[0].rstrip("\n")):
        delimiter = told[1]
        header = ["", next(lines, "")]
    while "".join(header).count('"') % 2 and len(header) < _LINES_OF_HEADER:
        if not (line := next(lines, "")):
            break
        header.append(line)
    return header, delimiter


def _columns(text: str, delimiter: str | None, field: str) -> tuple[list[str], str]:
    """Give the columns, and the delimiter that finds `field` among them, or else the most."""
    found = [(_split(text, choice), choice) for choice in delimiter or _DELIMITERS]
    return max(found, key=lambda pair: (field in pair[0], len(pair[0])))


def _split(text: str, delimiter: str) -> list[str]:
    try:
        row = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        row = [text]
    return [column.strip() for column in row]
