"""Which JSON fields an attrs class has, and how the value of a field is read.

To add a field, start in `models`: its docstring lists all steps.

A field without a default is required. All other fields are optional: if the value of an optional
field cannot be read, no error is raised, and its JSON is kept in the attribute `extra` of the
object. Many functions here return `metadata` for the attrs function `field`, which says how the
attribute is read.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Final, NoReturn, get_args, get_origin

import attrs

from adepoll.api.error_text import error_text
from adepoll.api.json_text import Json, kind_of, loads_number
from adepoll.common.safe_repr import SafeRepr

# Keys in the metadata of an attrs field (private names), and whole metadata (public names).
_NAME: Final = "adepoll.json_name"
_REPEATS: Final = "adepoll.repeats"
_OF_TEXT: Final = "adepoll.of_text"
_MOST: Final = "adepoll.at_most"
_TEXT: Final = "adepoll.message_text"
_MESSAGES: Final = "adepoll.messages"
_UNWRITTEN: Final = "adepoll.unwritten"
NOT_WRITTEN_IF_NONE: Final[Mapping[str, object]] = {_UNWRITTEN: True}
"""Metadata of a field that is not written if it is None, since only some kinds of jobs have it."""
_IF_ODD: Final = "adepoll.if_odd"
_OWN: Final = "adepoll.own_data"
OWN_DATA: Final[Mapping[str, object]] = {_OWN: True}
"""Metadata of a field with the customer's own data. Its text is not redacted."""
NOT_IN_JSON: Final[Mapping[str, object]] = {_NAME: None}
"""Metadata of a field that is not part of the JSON object."""
MESSAGE_TEXT: Final[Mapping[str, object]] = {_TEXT: True}
"""Metadata of a text for people. Its JSON can also be an object or array with the text inside."""
MESSAGES: Final[Mapping[str, object]] = {_MESSAGES: True}
"""Metadata of an array of messages. Instead of a declared object, an item can be a text alone."""


class Model(SafeRepr):
    """Base of the frozen attrs classes that are read from JSON.

    `json_reader` creates objects faster if the slots of their class are exactly its attributes. So
    ``__weakref__``, which attrs would add to the slots of each class, is a slot of this base class.
    """

    __slots__ = ("__weakref__",)


def json_name(name: str) -> Mapping[str, object]:
    """Declare the JSON name of an attribute; by default, it is the name of the attribute."""
    return {_NAME: name}


def repeats(name: str) -> Mapping[str, object]:
    """Declare that the JSON of a field is usually a copy of JSON in an earlier field.

    For example, the metadata of a job are repeated in its result. If both copies are equal, only
    one of them is read.

    Args:
        name: Name of the earlier field.
    """
    return {_REPEATS: name}


def of_text(name: str, make: Callable[[bytes, tuple[str, ...]], object]) -> Mapping[str, object]:
    """Declare an attribute that is made from the JSON text of another attribute.

    For example, `JobSnapshot.received_result` keeps the bytes from which `data` was read. The value
    is None if the JSON text is not known, or if the other attribute is None.

    Args:
        name: Name of the other attribute, such as ``data``.
        make: Creates the value. Its arguments are the JSON text of the whole object, and the names
            that the other attribute can have in JSON, the most usual name first.
    """
    return {_NAME: None, _OF_TEXT: (name, make)}


def at_most(items: int) -> Mapping[str, object]:
    """Declare that only the first items of an array are read, at most `items`."""
    return {_MOST: items}


def if_odd(value: object) -> Mapping[str, object]:
    """Declare the value that a required field gets if its JSON has the wrong type."""
    return {_IF_ODD: value}


class ShapeError(ValueError):
    """A value does not have the declared type. The text of the error never contains the value."""


def expect(what: str, value: Json) -> NoReturn:
    """Raise `ShapeError`, because `value` is not `what`, such as "a string"."""
    raise ShapeError(f"expected {what}, got {kind_of(value)}")


def read_str(value: Json) -> str:
    """Return the value if it is a string; raise `ShapeError` if not."""
    return value if isinstance(value, str) else expect("a string", value)


def read_message(value: Json) -> str:
    """Return the value if it is a string.

    From an error object such as ``{"code": ..., "message": ...}``, return the message with its
    code. Raise `ShapeError` for a value without a message.
    """
    text = value if isinstance(value, str) else error_text(value)
    return expect("a string", value) if text is None else text


def read_bool(value: Json) -> bool:
    """Return a boolean. The JSON can also be 0, 1, "true" or "false"."""
    known = _BOOLEANS.get(value) if isinstance(value, int | str) else None
    return expect("a boolean", value) if known is None else known


def read_float(value: Json) -> float:
    """Return a number as a finite float. The JSON can also be a text, such as "12.5"."""
    if isinstance(value, str):
        value = loads_number(value)
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
    """Return a whole number. The JSON can also be a text, or have a fraction, which is rounded."""
    number = read_float(value)
    return value if type(value) is int else round(number)


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_timestamp(seconds: float) -> datetime:
    """Return the aware UTC time of a Unix timestamp in seconds."""
    return EPOCH + timedelta(0, seconds)


def read_time(value: Json) -> datetime | None:
    """Return the time of a Unix timestamp or an ISO 8601 text; None for 0 and an empty text.

    A Unix timestamp can have a fraction, can be written as text, and can be in milliseconds,
    microseconds or nanoseconds. A text without a time zone is UTC.
    """
    if isinstance(value, str):
        number = loads_number(value)
        if number is None:
            return _read_iso(value)
        value = number
    number = read_float(value)
    if number == 0:
        return None
    for seconds in (number, number / 1e3, number / 1e6, number / 1e9):
        if 0 < seconds < LATEST_SECONDS:
            return from_timestamp(seconds)
    raise ShapeError("expected a Unix timestamp, got one out of range")


def _read_iso(text: str) -> datetime | None:
    """Return the time of an ISO 8601 text, UTC if no offset is given; None for an empty text."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text.strip().upper())  # "t" and "z" are valid (RFC 3339)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ShapeError("expected a time, got another text") from None


LATEST_SECONDS: Final = 10**11
"""A timestamp of this size or larger is not in seconds: that would be the year 5138."""

_BOOLEANS: Final[Mapping[int | str, bool]] = {0: False, 1: True, "false": False, "true": True}

_SCALARS: Final[Mapping[type, Callable[[Json], Any]]] = {
    str: read_str,
    bool: read_bool,
    int: read_int,
    float: read_float,
    datetime: read_time,
}


@attrs.frozen(kw_only=True, eq=False)
class Shape:
    """How the JSON of a class differs from its declaration, for one kind of job.

    Each mapping contains only the attributes that differ, by their names.

    Attributes:
        names: The name in JSON. If the JSON object lacks it, the declared name is read.
        types: The class of the value.
        defaults: The default. It makes a required field optional.
    """

    names: Mapping[str, str] = attrs.field(factory=dict)
    types: Mapping[str, type] = attrs.field(factory=dict)
    defaults: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Field:
    """One field of an attrs class, as it is read from JSON.

    Attributes:
        name: Name of the attribute.
        key: Name in the JSON object.
        other_key: The name in JSON that a `Shape` declares in addition; the same as `key` if there
            is none.
        type: Declared type without None; for a tuple, the type of its items.
        many: True if the value is a tuple of items.
        default: Value if the JSON object lacks the key; `attrs.NOTHING` if the key is required.
        if_odd: Value of a required field if its JSON cannot be read; `attrs.NOTHING` if unreadable
            JSON is an error.
        most: Maximum number of items that are read from an array.
        is_message: True if the value, or each item of an array, is a text for people.
        optional: True if the field is left out of written JSON when it is None.
        repeats: Name of the earlier field whose JSON usually contains a copy of this field; None if
            there is no such field.
    """

    name: str
    key: str
    other_key: str
    type: Any
    many: bool
    default: Any
    if_odd: Any
    most: int
    is_message: bool
    optional: bool
    repeats: str | None

    @property
    def required(self) -> bool:
        """True if the field has no default, so that the JSON object must contain it."""
        return self.default is attrs.NOTHING

    @property
    def read_scalar(self) -> Callable[[Json], Any]:
        """Function that reads a value; only for a field whose type is not an attrs class."""
        if self.is_message:
            return read_message
        return _SCALARS[str if issubclass(self.type, Enum) else self.type]


@cache
def fields_of(cls: type, shape: Shape | None = None) -> tuple[Field, ...]:
    """Return the fields of an attrs class that are read from JSON, with the changes in `shape`."""
    declared = [_declared(field) for field in attrs.fields(cls) if json_key(field) is not None]
    return tuple(declared if shape is None else [_shaped(field, shape) for field in declared])


def _shaped(field: Field, shape: Shape) -> Field:
    """Return a copy of the field with the name, type and default that `shape` declares for it."""
    return attrs.evolve(
        field,
        other_key=shape.names.get(field.name, field.key),
        type=shape.types.get(field.name, field.type),
        default=shape.defaults.get(field.name, field.default),
    )


def json_key(field: "attrs.Attribute[Any]") -> str | None:
    """Return the JSON name of a field of an attrs class; None if the field is not in JSON.

    The field `extra` is not in JSON.
    """
    key: str | None = field.metadata.get(_NAME, field.name)
    return None if field.name == "extra" else key


def _declared(field: "attrs.Attribute[Any]") -> Field:
    """Return the `Field` for an attribute of an attrs class."""
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        raise TypeError(f"{field.name} needs a constant default, since readers share it")
    alternatives = get_args(field.type)
    many = bool(alternatives) and get_origin(field.type) is tuple
    nullable = not many and type(None) in alternatives
    return Field(
        name=field.name,
        key=field.metadata.get(_NAME, field.name),
        other_key=field.metadata.get(_NAME, field.name),
        type=alternatives[0] if many or nullable else field.type,
        many=many,
        default=field.default,
        if_odd=field.metadata.get(_IF_ODD, attrs.NOTHING),
        most=field.metadata.get(_MOST, 1_000),
        is_message=_TEXT in field.metadata or _MESSAGES in field.metadata,
        optional=_UNWRITTEN in field.metadata,
        repeats=field.metadata.get(_REPEATS),
    )


def made_of_text(
    field: "attrs.Attribute[Any]",
) -> tuple[str, Callable[[bytes, tuple[str, ...]], object]] | None:
    """Return the arguments `name` and `make` with which `of_text` has declared this attribute.

    Return None if the attribute is not declared with `of_text`.
    """
    found: tuple[str, Callable[[bytes, tuple[str, ...]], object]] | None
    found = field.metadata.get(_OF_TEXT)
    return found


def is_own_data(field: "attrs.Attribute[Any]") -> bool:
    """Return whether a field contains the customer's own data, whose text is not redacted."""
    return _OWN in field.metadata


@cache
def keys_of(cls: type, shape: Shape | None = None) -> frozenset[str]:
    """Return all names that the fields can have in JSON: declared names, and names in `shape`."""
    return frozenset(key for f in fields_of(cls, shape) for key in (f.key, f.other_key))


@cache
def members_of(enum: type[Enum]) -> Mapping[str, Enum]:
    """Return the members of an enum by their value, without the member UNKNOWN."""
    return {member.value: member for member in enum if member.name != "UNKNOWN"}
