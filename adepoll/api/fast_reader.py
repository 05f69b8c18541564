"""Generates a fast reader for an attrs class, as attrs generates its __init__.

Imports json_fields only.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from types import MemberDescriptorType
from typing import Any, Final

import attrs

from adepoll.api.json_fields import (
    EPOCH,
    Field,
    Json,
    ShapeError,
    fields_of,
    json_key,
    keys_of,
    members_of,
    read_float,
    read_int,
    read_time,
)


@cache
def fast_reader(cls: type) -> Callable[[Json], Any]:
    """Generate a function that reads the class; it raises on anything but the declared fields."""
    fields = fields_of(cls)
    names: dict[str, object] = {
        "cls": cls,
        "keys": keys_of(cls),
        "missing": object(),
        "epoch": EPOCH,
        "timedelta": timedelta,
        "large": 2**53,  # smaller whole numbers fit a float
        "ShapeError": ShapeError,
        "read_float": read_float,
        "read_int": read_int,
        "read_time": read_time,
    }
    lines = ["def read(raw):", " if type(raw) is not dict: raise ShapeError"]
    for field in fields:
        lines += [f" {line}" for line in _lines_of(field, names)]
    all_present = all(field.required for field in fields)
    known = f"len(raw) == {len(keys_of(cls))}" if all_present else "raw.keys() <= keys"
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


def _lines_of(field: Field, names: dict[str, object]) -> Iterator[str]:
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
        names[f"members{v}"] = members_of(field.type)
        names[f"unknown{v}"] = field.type["UNKNOWN"]
        yield f" if type({v}) is not str: raise ShapeError"
        yield f" {v} = members{v}.get({v}, unknown{v})"
    elif field.many:
        names[f"read{v}"] = fast_reader(field.type)
        yield f" if type({v}) is not list: raise ShapeError"
        yield f" {v} = tuple([read{v}(item) for item in {v}])"
    else:
        names[f"read{v}"] = fast_reader(field.type)
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
        is_read = field.name == "extra" or json_key(field) is not None
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
