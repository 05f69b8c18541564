"""JSON to attrs classes and back: a field is declared in its class only. Imports json_text.

A fast reader is generated from each class. JSON that it does not accept is read again by a slow
reader, which collects all problems. Unknown fields are kept in the attribute `extra`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from types import MemberDescriptorType
from typing import Any, Final, NoReturn, TypeVar, get_args

import attrs

from adepoll.api.json_text import Json, dumps, loads
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")

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


def load_object(body: bytes | str) -> dict[str, Json]:
    """Parse a JSON object; raises `MalformedAnswerError`."""
    raw = loads(body)
    if not isinstance(raw, dict):
        raise MalformedAnswerError([f"expected an object, got {_kind(raw)} @ $"])
    return raw


def decode(cls: type[_T], body: bytes | str) -> _T:
    """Read an instance of an attrs class from JSON text.

    Raises:
        MalformedAnswerError: The text is not JSON, or not an object of the declared fields.
    """
    return read(cls, load_object(body))


def encode(model: object) -> str:
    """Write an instance of an attrs class as one line of JSON."""
    return dumps(flatten(model))


# --- values of one type -------------------------------------------------------------------------


class _ShapeError(ValueError):
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


def _kind(value: Json) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _expect(what: str, value: Json) -> NoReturn:
    raise _ShapeError(f"expected {what}, got {_kind(value)}")


def _read_str(value: Json) -> str:
    return value if isinstance(value, str) else _expect("a string", value)


def _read_bool(value: Json) -> bool:
    return value if isinstance(value, bool) else _expect("a boolean", value)


def _read_float(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _expect("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _ShapeError("expected a number, got one out of range")
    return number


def _read_int(value: Json) -> int:
    number = _read_float(value)
    if not number.is_integer():
        raise _ShapeError("expected a whole number")
    return value if isinstance(value, int) else int(number)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_timestamp(seconds: float) -> datetime:
    """Return the aware UTC time of a Unix timestamp in seconds."""
    return _EPOCH + timedelta(0, seconds)


def _read_time(value: Json) -> datetime:
    # Documented as whole seconds; fractions are accepted.
    seconds = _read_float(value)
    try:
        return from_timestamp(seconds)
    except OverflowError:
        raise _ShapeError("expected a Unix timestamp, got one out of range") from None


_SCALARS: Final[Mapping[type, Callable[[Json], Any]]] = {
    str: _read_str,
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    datetime: _read_time,
}


# --- fields -------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Field:
    """One field of an attrs class, as it is read from JSON."""

    name: str
    key: str
    type: Any  # without None, and of an item if there are many
    nullable: bool
    many: bool
    default: Any
    side: bool
    repeats: str | None  # name of an earlier field whose object usually holds the same JSON

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING

    @property
    def zero_is_null(self) -> bool:
        return self.nullable and self.type is datetime  # the service writes 0 for "not known"


@cache
def _fields(cls: type) -> tuple[_Field, ...]:
    return tuple(_declared(field) for field in attrs.fields(cls) if _key(field) is not None)


def _key(field: "attrs.Attribute[Any]") -> str | None:
    key: str | None = field.metadata.get(_NAME, field.name)
    return None if field.name == "extra" else key


def _declared(field: "attrs.Attribute[Any]") -> _Field:
    alternatives = get_args(field.type)
    many = bool(alternatives) and getattr(field.type, "__origin__", None) is tuple
    nullable = not many and type(None) in alternatives
    return _Field(
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
def _keys(cls: type) -> frozenset[str]:
    return frozenset(field.key for field in _fields(cls))


@cache
def _members(enum: type[Enum]) -> Mapping[str, Enum]:
    return {member.value: member for member in enum if member.name != "UNKNOWN"}


# --- reading ------------------------------------------------------------------------------------


def read(cls: type[_T], raw: Json) -> _T:
    """Read an instance of an attrs class from parsed JSON; raises `MalformedAnswerError`."""
    model: type = cls  # mypy does not take a type[_T] for a hashable object
    try:
        instance: _T = _fast_reader(model)(raw)
    except (KeyError, ValueError, OverflowError, RecursionError):
        pass  # not read here, or the error of this reader would be the context of the next one
    else:
        return instance
    return read_slowly(cls, raw)


@cache
def _fast_reader(cls: type) -> Callable[[Json], Any]:
    """Generate a function that reads the class; it raises on anything but the declared fields."""
    fields = _fields(cls)
    names: dict[str, object] = {
        "cls": cls,
        "keys": _keys(cls),
        "missing": object(),
        "epoch": _EPOCH,
        "timedelta": timedelta,
        "large": 2**53,  # smaller whole numbers fit a float
        "ShapeError": _ShapeError,
        "read_float": _read_float,
        "read_int": _read_int,
        "read_time": _read_time,
    }
    lines = ["def read(raw):", " if type(raw) is not dict: raise ShapeError"]
    for field in fields:
        lines += [f" {line}" for line in _lines_of(field, names)]
    all_present = all(field.required for field in fields)
    known = f"len(raw) == {len(_keys(cls))}" if all_present else "raw.keys() <= keys"
    lines.append(f" extra = {{}} if {known} else {{k: raw[k] for k in raw if k not in keys}}")
    lines += _lines_that_construct(cls, names)
    code = compile("\n".join(lines), f"<reader of {cls.__name__}>", "exec")
    exec(code, names)  # noqa: S102 - made from the declared fields only, as attrs makes __init__
    reader: Callable[[Json], Any] = names["read"]  # type: ignore[assignment]  # exec has set it
    return reader


_CHECKS: Final[Mapping[type, str]] = {
    str: "if type({v}) is not str: raise ShapeError",
    bool: "if type({v}) is not bool: raise ShapeError",
    int: "if type({v}) is not int or not -large < {v} < large: {v} = read_int({v})",
    float: "if type({v}) is not float: {v} = read_float({v})",
    datetime: "{v} = epoch + timedelta(0, {v}) if type({v}) is int else read_time({v})",
}


def _lines_of(field: _Field, names: dict[str, object]) -> Iterator[str]:
    """Yield the lines that read one field into a variable, and define the names they use."""
    v = f"_{field.name}"
    optional = not field.required and field.default is not None
    if field.required:
        yield f"{v} = raw[{field.key!r}]"
    else:
        yield f"{v} = raw.get({field.key!r}{', missing' if optional else ''})"
    if field.type is Json:
        return
    if optional:
        names[f"default{v}"] = field.default
        yield f"if {v} is missing: {v} = default{v}"
        yield "else:"
    elif field.zero_is_null:
        yield f"if not {v}: {v} = None"
        yield "else:"
    else:
        yield f"if {v} is not None:" if field.nullable else "if True:"
    if field.type in _CHECKS:
        yield f" {_CHECKS[field.type].format(v=v)}"
    elif issubclass(field.type, Enum):
        names[f"members{v}"] = _members(field.type)
        names[f"unknown{v}"] = field.type["UNKNOWN"]
        yield f" if type({v}) is not str: raise ShapeError"
        yield f" {v} = members{v}.get({v}, unknown{v})"
    elif field.many:
        names[f"read{v}"] = _fast_reader(field.type)
        yield f" if type({v}) is not list: raise ShapeError"
        yield f" {v} = tuple([read{v}(item) for item in {v}])"
    else:
        names[f"read{v}"] = _fast_reader(field.type)
        if field.repeats:
            other = field.repeats
            same = f"raw[{other!r}].get({field.key!r}) == {v}"
            yield f" if _{other} is not None and {same}: {v} = _{other}.{field.name}"
            yield f" else: {v} = read{v}({v})"
        else:
            yield f" {v} = read{v}({v})"


def _lines_that_construct(cls: type, names: dict[str, object]) -> Iterator[str]:
    """Yield the lines that return the instance."""
    values = {}
    for field in attrs.fields(cls):
        is_read = field.name == "extra" or _key(field) is not None
        values[field.name] = field.name if field.name == "extra" else f"_{field.name}"
        if not is_read:
            names[f"_{field.name}"] = field.default
    hooks = any(field.validator or field.converter for field in attrs.fields(cls))
    slots = all(isinstance(getattr(cls, name, None), MemberDescriptorType) for name in values)
    if hooks or hasattr(cls, "__attrs_post_init__") or not slots:
        yield f" return cls({', '.join(f'{name}={value}' for name, value in values.items())})"
        return
    # What the __init__ of a frozen attrs class with slots does, in half of the time.
    names["new"] = object.__new__
    yield " self = new(cls)"
    for name, value in values.items():
        names[f"set_{name}"] = getattr(cls, name).__set__
        yield f" set_{name}(self, {value})"
    yield " return self"


def read_slowly(cls: type[_T], raw: Json) -> _T:
    """Do what `read` does, and find all problems; the error lists each as "problem @ path"."""
    problems: list[str] = []
    instance = _collect(cls, raw, "$", problems)
    if problems:
        raise MalformedAnswerError([*dict.fromkeys(problems)])  # two fields can share a key
    return instance  # type: ignore[no-any-return]  # of `cls`, since there is no problem


def _collect(cls: type, raw: Json, path: str, problems: list[str]) -> Any:
    """Return the instance, or add problems."""
    if not isinstance(raw, dict):
        problems.append(f"expected an object, got {_kind(raw)} @ {path}")
        return None
    values: dict[str, Any] = {}
    extra = {key: raw[key] for key in raw if key not in _keys(cls)}
    before = len(problems)
    for field in _fields(cls):
        value, where = raw.get(field.key), f"{path}.{field.key}"
        if field.required and field.key not in raw:
            problems.append(f"required field missing @ {where}")
        elif field.required or (value is not None if field.default is None else field.key in raw):
            found: list[str] = []
            values[field.name] = _collect_value(field, value, where, found)
            if found and field.side:
                del values[field.name]
                extra[field.key] = value
            else:
                problems += found
    return cls(**values, extra=extra) if len(problems) == before else None


def _collect_value(field: _Field, value: Json, path: str, problems: list[str]) -> Any:
    try:
        if field.type is Json or (value is None and field.nullable):
            return value
        if field.type in _SCALARS:
            return None if field.zero_is_null and not value else _SCALARS[field.type](value)
        if issubclass(field.type, Enum):
            return _members(field.type).get(_read_str(value), field.type["UNKNOWN"])
        if not field.many:
            return _collect(field.type, value, path, problems)
        if not isinstance(value, list) and value not in ("", {}):
            _expect("an array", value)
        return tuple(
            _collect(field.type, item, f"{path}[{index}]", problems)
            for index, item in enumerate(value)
        )
    except _ShapeError as exc:
        problems.append(f"{exc} @ {path}")


# --- writing ------------------------------------------------------------------------------------


def flatten(model: Any) -> dict[str, Json]:
    """Return the JSON object that `read` reads as this model."""
    raw: dict[str, Json] = {}
    cls: type = type(model)
    for field in _fields(cls):
        value = _plain(getattr(model, field.name))
        raw[field.key] = 0 if value is None and field.zero_is_null else value
    # A side field that could not be read is in `extra`, too.
    raw.update({key: value for key, value in model.extra.items() if not raw.get(key)})
    return raw


def _plain(value: Any) -> Json:
    if isinstance(value, datetime):
        seconds = value.timestamp()
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, Enum):
        return value.value
    if attrs.has(type(value)):
        return flatten(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
