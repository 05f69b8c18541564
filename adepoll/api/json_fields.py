"""The fields of an attrs class as JSON: their names, types and how a value of each type is read.

Imports nothing of adepoll.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Final, NoReturn, TypeAlias, get_args, get_origin

import attrs

Json: TypeAlias = Any
"""JSON of a shape that only the caller's own schema knows."""

# Metadata of an attrs field.
_NAME: Final = "adepoll.json_name"
_SIDE: Final = "adepoll.side_field"
_REPEATS: Final = "adepoll.repeats"
NOT_IN_JSON: Final[Mapping[str, object]] = {_NAME: None}
"""Metadata of a field that is not part of the JSON object."""
SIDE_FIELD: Final[Mapping[str, object]] = {_SIDE: True}
"""Metadata of an optional field: an unreadable value is moved to `extra` and is not an error."""


def json_name(name: str) -> Mapping[str, object]:
    """Return the metadata of a field that has another name in JSON."""
    return {_NAME: name}


def repeats(name: str) -> Mapping[str, object]:
    """Return the metadata of a field whose JSON is usually also within the earlier field `name`."""
    return {_REPEATS: name}


class ShapeError(ValueError):
    """A value does not have the declared type. The text never contains the value."""


_KINDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def kind_of(value: Json) -> str:
    """Return what a value is in JSON, such as "an array"."""
    return _KINDS.get(type(value), type(value).__name__)


def expect(what: str, value: Json) -> NoReturn:
    """Raise `ShapeError`, because the value is not `what`."""
    raise ShapeError(f"expected {what}, got {kind_of(value)}")


def read_str(value: Json) -> str:
    """Return the value if it is a string; raise `ShapeError` if not."""
    return value if isinstance(value, str) else expect("a string", value)


def read_bool(value: Json) -> bool:
    """Return the value if it is a boolean; raise `ShapeError` if not."""
    return value if isinstance(value, bool) else expect("a boolean", value)


def read_float(value: Json) -> float:
    """Return a number as a finite float; raise `ShapeError` if that is not possible."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        expect("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ShapeError("expected a number, got one out of range")
    return number


def read_int(value: Json) -> int:
    """Return a whole number, also one like 3.0, as an int; raise `ShapeError` if it is not."""
    number = read_float(value)
    if not number.is_integer():
        raise ShapeError("expected a whole number")
    return value if isinstance(value, int) else int(number)


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_timestamp(seconds: float) -> datetime:
    """Return the aware UTC time of a Unix timestamp in seconds."""
    return EPOCH + timedelta(0, seconds)


def read_time(value: Json) -> datetime:
    """Return the time of a Unix timestamp, which may have a fraction; or raise `ShapeError`."""
    seconds = read_float(value)
    try:
        return from_timestamp(seconds)
    except OverflowError:
        raise ShapeError("expected a Unix timestamp, got one out of range") from None


SCALARS: Final[Mapping[type, Callable[[Json], Any]]] = {
    str: read_str,
    bool: read_bool,
    int: read_int,
    float: read_float,
    datetime: read_time,
}


@attrs.frozen(kw_only=True)
class Field:
    """One field of an attrs class, as it is read from JSON.

    Attributes:
        name: Name of the attribute.
        key: Name in the JSON object.
        type: Declared type without None; for a tuple, the type of its items.
        nullable: Whether None is allowed.
        many: Whether the value is a tuple of items.
        default: Value if the JSON object lacks the key; `attrs.NOTHING` if the key is required.
        side: Whether an unreadable value is moved to `extra`.
        repeats: Earlier field that usually contains a copy of this field's JSON, or None.
    """

    name: str
    key: str
    type: Any
    nullable: bool
    many: bool
    default: Any
    side: bool
    repeats: str | None

    @property
    def required(self) -> bool:
        """Whether the JSON object must contain the key."""
        return self.default is attrs.NOTHING

    @property
    def zero_is_null(self) -> bool:
        """Whether 0 means None: the service writes 0 for a time that it does not know."""
        return self.nullable and self.type is datetime


@cache
def fields_of(cls: type) -> tuple[Field, ...]:
    """Return the fields of an attrs class that are read from JSON."""
    return tuple(_declared(field) for field in attrs.fields(cls) if json_key(field) is not None)


def json_key(field: "attrs.Attribute[Any]") -> str | None:
    """Return the name of a field in JSON; None for `extra` and for a field that is not in JSON."""
    key: str | None = field.metadata.get(_NAME, field.name)
    return None if field.name == "extra" else key


def _declared(field: "attrs.Attribute[Any]") -> Field:
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        raise TypeError(f"{field.name} needs a constant default, since readers share it")
    alternatives = get_args(field.type)
    many = bool(alternatives) and get_origin(field.type) is tuple
    nullable = not many and type(None) in alternatives
    return Field(
        name=field.name,
        key=field.metadata.get(_NAME, field.name),
        type=alternatives[0] if many or nullable else field.type,
        nullable=nullable,
        many=many,
        default=field.default,
        side=_SIDE in field.metadata,
        repeats=field.metadata.get(_REPEATS),
    )


@cache
def keys_of(cls: type) -> frozenset[str]:
    """Return the names in JSON of all fields."""
    return frozenset(field.key for field in fields_of(cls))


@cache
def members_of(enum: type[Enum]) -> Mapping[str, Enum]:
    """Return the members of an enum by text; all other texts are read as its member UNKNOWN."""
    return {member.value: member for member in enum if member.name != "UNKNOWN"}
