"""JSON to attrs classes and back: a field is declared in its class only. Imports errors and below.

A fast reader is generated from each class. JSON that it does not accept is read again by a slow
reader, which collects all problems. Unknown fields are kept in the attribute `extra`.
"""

import json
from datetime import datetime
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar

import attrs

from adepoll.api.fast_reader import fast_reader
from adepoll.api.json_fields import (
    SCALARS,
    Field,
    Json,
    ShapeError,
    expect,
    fields_of,
    keys_of,
    kind_of,
    members_of,
    read_str,
)
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")


def decode(cls: type[_T], body: bytes | str) -> _T:
    """Read an instance of an attrs class from JSON text.

    Raises:
        MalformedAnswerError: The text is not JSON, or not an object of the declared fields.
    """
    return read(cls, load_object(body))


def encode(model: object) -> str:
    """Write an instance of an attrs class as one line of JSON."""
    return dumps(flatten(model))


# --- JSON text ----------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number == 0:  # faster than math.isfinite; infinity minus infinity is not 0
        return number
    raise ValueError("a number is out of range")  # 1e999 is neither a float nor can it be written


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def loads(body: bytes | str) -> Json:
    """Parse JSON as defined in RFC 8259: NaN and Infinity are errors, integers stay exact.

    Raises:
        MalformedAnswerError: The text is not JSON. Neither the error nor its cause contains the
            text, which may be a customer's document.
    """
    try:
        # Nearly always UTF-8. Other encodings and errors are left to json.loads below.
        text = body if isinstance(body, str) else body.decode()
        value, end = _decoder.raw_decode(text)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        problem = f"not JSON: {exc.msg} @ line {exc.lineno} column {exc.colno}"
    except RecursionError:
        problem = "not usable JSON: nested too deeply @ $"
    except UnicodeDecodeError as exc:
        problem = f"not JSON: not {exc.encoding} @ byte {exc.start}"
    except ValueError as exc:  # NaN, 1e999, or an integer of more than 4,300 digits
        problem = f"not usable JSON: {exc} @ $"
    raise MalformedAnswerError([problem])


def load_object(body: bytes | str) -> dict[str, Json]:
    """Parse a JSON object; raises `MalformedAnswerError`."""
    raw = loads(body)
    if not isinstance(raw, dict):
        raise MalformedAnswerError([f"expected an object, got {kind_of(raw)} @ $"])
    return raw


def dumps(raw: Json) -> str:
    """Write JSON on one line."""
    return json.dumps(raw, allow_nan=False, separators=(",", ":"))


# --- reading ------------------------------------------------------------------------------------


def read(cls: type[_T], raw: Json) -> _T:
    """Read an instance of an attrs class from parsed JSON; raises `MalformedAnswerError`."""
    model: type = cls  # mypy does not take a type[_T] for a hashable object
    try:
        instance: _T = fast_reader(model)(raw)
    except (KeyError, ValueError, OverflowError, RecursionError):
        pass  # not read here, or the error of this reader would be the context of the next one
    else:
        return instance
    return read_slowly(cls, raw)


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
        problems.append(f"expected an object, got {kind_of(raw)} @ {path}")
        return None
    values: dict[str, Any] = {}
    extra = {key: raw[key] for key in raw if key not in keys_of(cls)}
    before = len(problems)
    for field in fields_of(cls):
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


def _collect_value(field: Field, value: Json, path: str, problems: list[str]) -> Any:
    try:
        if field.type is Json or (value is None and field.nullable):
            return value
        if field.type in SCALARS:
            return None if field.zero_is_null and not value else SCALARS[field.type](value)
        if issubclass(field.type, Enum):
            return members_of(field.type).get(read_str(value), field.type["UNKNOWN"])
        if not field.many:
            return _collect(field.type, value, path, problems)
        if not isinstance(value, list) and value not in ("", {}):
            expect("an array", value)
        return tuple(
            _collect(field.type, item, f"{path}[{index}]", problems)
            for index, item in enumerate(value)
        )
    except ShapeError as exc:
        problems.append(f"{exc} @ {path}")


# --- writing ------------------------------------------------------------------------------------


def flatten(model: Any) -> dict[str, Json]:
    """Return the JSON object that `read` reads as this model."""
    raw: dict[str, Json] = {}
    cls: type = type(model)
    for field in fields_of(cls):
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
