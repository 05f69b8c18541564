"""Writers of CSV and JSON lines."""

import csv
import io
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, BinaryIO, Final

from adepoll.tables.column_types import Column
from adepoll.tables.exact_json import dump

# Types of values that `csv` can write without a change. None becomes an empty cell.
_AS_THEY_ARE: Final = frozenset({type(None), str, int, float})
# Types of values that are, or can contain, dates and times.
_NOT_PLAIN: Final = frozenset({datetime, date, list, dict})
_CR_LF: Final = "\r\n"


class CsvWriter:
    """Writes CSV in UTF-8 with a header, as in RFC 4180; but each line ends with a line feed only.

    None becomes an empty cell, and a list becomes JSON text.
    """

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        """Write the header."""
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        self._csv = csv.writer(_LineFeeds(self._text), lineterminator=_CR_LF)
        self._csv.writerow([column.name for column in columns])

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """Write rows; `values` contains one sequence of values for each column."""
        cells = (
            column if _AS_THEY_ARE.issuperset(map(type, column)) else [*map(_cell, column)]
            for column in values
        )
        self._csv.writerows(zip(*cells, strict=True))

    def close(self) -> None:
        """Write all remaining data; do not close the file."""
        self._text.flush()
        self._text.detach()


class _LineFeeds:
    """Receives the rows of a `csv.writer`, and writes each to a file with a line feed at its end.

    The `csv.writer` must end each row with CR LF: otherwise it does not quote texts that contain a
    carriage return, and other programs would read this as the end of a row.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        """Create an object that writes to `text`."""
        self._write = text.write

    def write(self, row: str) -> None:
        """Write a row that ends with CR LF, but replace the CR LF by a line feed."""
        self._write(f"{row[: -len(_CR_LF)]}\n")


class JsonLinesWriter:
    """Writes one JSON object in each line. Its keys are the names of all columns, in order."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        """Create a writer for rows with these columns."""
        self._file = file
        self._names = [column.name for column in columns]

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """Write rows; `values` contains one sequence of values for each column."""
        plain = (
            column if _NOT_PLAIN.isdisjoint(map(type, column)) else [*map(_plain, column)]
            for column in values
        )
        for row in zip(*plain, strict=True):
            fields = dict(zip(self._names, row, strict=True))
            self._file.write(dump(fields).encode() + b"\n")

    def close(self) -> None:
        """Write all remaining data; do not close the file."""


def _cell(value: Any) -> Any:
    """Return the value to write into a cell of the CSV file."""
    if type(value) in _AS_THEY_ARE:
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return dump(_plain(value))
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a value in which dates and times are ISO 8601 texts."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
