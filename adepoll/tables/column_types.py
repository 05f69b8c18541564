"""The types of columns, and the functions that convert a JSON value to a type.

A value of a column is None, bool, int, float, Decimal, str, date or datetime, or a list or dict of
such values.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import frozen

from adepoll.api.json_text import Json
from adepoll.tables.exact_json import dump

MAX_DIGITS: Final = 38
"""Maximum number of digits of an exact decimal number. pandas, polars and DuckDB read 38 digits."""


_FINER_THAN_MICROSECONDS: Final = re.compile(r"[.,]\d{6}0*[1-9]")


class Scalar(Enum):
    """A column type without parameters."""

    BOOLEAN = "boolean"
    INTEGER = "integer"  # 64 bits
    DOUBLE = "double"
    TEXT = "text"
    MIXED = "text of scalars"  # numbers and booleans become their JSON text
    JSON = "JSON text"
    DATE = "date"
    TIME = "time"  # in UTC, to the microsecond


@frozen
class DecimalType:
    """Exact decimal numbers.

    Attributes:
        digits: Number of digits, at most 38.
        scale: Number of digits after the decimal point.
    """

    digits: int
    scale: int


@frozen
class ListType:
    """The type of lists whose items all have one type."""

    item: "ColumnType"


@frozen
class StructType:
    """The type of objects with known keys, which occur within lists.

    Attributes:
        fields: The type of the value at each key.
        left_out: Keys that are not written.
    """

    fields: Mapping[str, "ColumnType"]
    left_out: frozenset[str] = frozenset()


ColumnType: TypeAlias = Scalar | DecimalType | ListType | StructType
Convert: TypeAlias = Callable[[Json], Any]


@frozen(kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        name: Name of the column in the file.
        type: Type of the column.
        get: Takes a list of rows, which are objects such as `job_rows.Row`. Returns one value for
            each row; None if the row has no value.
        convert: Function that converts a JSON value to `type`. None if no value needs a conversion.
    """

    name: str
    type: ColumnType
    get: Callable[[Sequence[Any]], Sequence[Any]]
    convert: Convert | None = None


def converter(kind: ColumnType) -> Convert | None:
    """Return the function that converts JSON values to a type; None if they need no conversion.

    The function must not be called with None.
    """
    match kind:
        case Scalar():
            return _SCALARS.get(kind)
        case DecimalType():
            return _to_decimal
        case ListType(item):
            return _list_converter(converter(item))
        case StructType(fields, left_out):
            converters = {name: converter(field) for name, field in fields.items()}
            return _struct_converter(converters, left_out)


def name_of(kind: ColumnType) -> str:
    """Return the name of a type, for messages."""
    match kind:
        case Scalar():
            return Scalar.TEXT.value if kind is Scalar.MIXED else kind.value
        case DecimalType(digits, scale):
            return f"decimal({digits}, {scale})"
        case ListType(item):
            return f"list of {name_of(item)}"
        case StructType():
            return "object"


def parse_time(text: str) -> datetime | None:
    """Return the UTC time of an ISO 8601 text with an offset; None for any other text.

    Also None for a text with a fraction of a microsecond, which a `datetime` cannot hold.
    """
    if _FINER_THAN_MICROSECONDS.search(text):
        return None
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_date(text: str) -> date | None:
    """Return the date of a text such as ``2026-02-28``; None for any other text."""
    if text[7:8] != "-":  # `fromisoformat` also accepts texts such as 20260228 and 2026-W09-6
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _to_text(value: Json) -> str:
    return value if isinstance(value, str) else dump(value)


def _to_decimal(value: Json) -> Decimal:
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _list_converter(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda value: [None if item is None else convert(item) for item in value]


def _struct_converter(
    converters: Mapping[str, Convert | None], left_out: frozenset[str]
) -> Convert | None:
    """Return a function that converts the values of an object; None if no object needs it.

    Args:
        converters: The converter of the value at each key; None for a value that needs none.
        left_out: Keys that the function removes from the object.
    """
    needed = {name: convert for name, convert in converters.items() if convert is not None}
    if not needed and not left_out:
        return None

    def convert(value: Json) -> Any:
        # The objects of a list can have many different keys, and each of them only a few.
        found = {}
        for name, item in value.items():
            if name not in left_out:
                convert_field = None if item is None else needed.get(name)
                found[name] = item if convert_field is None else convert_field(item)
        return found

    return convert


_SCALARS: Final[Mapping[Scalar, Convert]] = {
    Scalar.MIXED: _to_text,
    Scalar.JSON: dump,
    Scalar.DATE: parse_date,
    Scalar.TIME: parse_time,
}
