"""Generates readers: functions that create objects of attrs classes from parsed JSON.

The attributes of a class declare its JSON fields. Unknown fields, and optional fields that cannot
be read, are kept in the attribute `extra`. A reader does not recurse into JSON of unknown shape.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Final

import attrs

from adepoll.api.error_text import error_text
from adepoll.api.json_fields import (
    EPOCH,
    LATEST_SECONDS,
    Field,
    Shape,
    ShapeError,
    fields_of,
    keys_of,
    made_of_text,
    members_of,
    read_float,
)
from adepoll.api.json_text import CONTAINERS, Json, bounded, with_bounded_values

UNREADABLE: Final = (KeyError, ShapeError)
"""Exceptions of a reader: a required field is missing (KeyError) or has another type."""

_LARGE: Final = 2**53  # every smaller whole number is exact as a float
# After this number of unreadable items, the rest of an array is not read. A page of the job list
# has at most 100 jobs, so every job of a page is read.
_MAX_UNREADABLE: Final = 100


@cache
def reader_of(cls: type, shape: Shape | None = None) -> Callable[..., Any]:
    """Generate and return a function that creates an object of the class from parsed JSON.

    Call the function as `reader(raw, text)`: `text` is the JSON text from which `raw` was parsed.
    It raises one of the exceptions in `UNREADABLE` if `raw` cannot be read.

    Args:
        cls: The class.
        shape: How the JSON differs from the declaration of the class; None if it is the same.
    """
    names: dict[str, object] = {
        "cls": cls,
        "keys": keys_of(cls, shape),
        "epoch": EPOCH,
        "timedelta": timedelta,
        "iso": datetime.fromisoformat,
        "latest": LATEST_SECONDS,
        "large": _LARGE,
        "ShapeError": ShapeError,
        "UNREADABLE": UNREADABLE,
        "with_bounded_values": with_bounded_values,
        "containers": CONTAINERS,
        "set_aside": set_aside,
        "is_same": _is_same,
    }
    lines = [
        "def read(raw, text=None):",
        " if type(raw) is not dict: raise ShapeError",
        " if raw.keys() <= keys: extra = {}",
        " else:",
        "  extra = raw.copy()",  # faster than a comprehension if there are many unknown fields
        "  for key in filter(raw.__contains__, keys): del extra[key]",
        "  if not containers.isdisjoint(map(type, extra.values())):",
        "   extra = with_bounded_values(extra)",
    ]
    fields = fields_of(cls, shape)
    repeated = {field.repeats for field in fields}
    for field in fields:
        lines += [f" {line}" for line in _lines_of(field, names, keep=field.name in repeated)]
    lines += _lines_that_make(cls, names, fields)
    lines += _lines_that_construct(cls, names, {} if shape is None else shape.defaults)
    code = compile("\n".join(lines), f"<reader of {cls.__name__}>", "exec")
    exec(code, names)  # noqa: S102 - made from the declared fields only, as attrs makes __init__
    reader: Callable[..., Any] = names["read"]  # type: ignore[assignment]  # exec has set it
    return reader


def set_aside(extra: dict[str, Json], key: str, value: Json) -> None:
    """Store the JSON of a field in `extra`, because not all of it could be read."""
    kept = bounded(value)
    # JSON that is nested too deeply is kept as text, and under another key. Under the same key, the
    # text would become the value of the field when the object is written and read again.
    extra[key if kept is value else f"{key}_json"] = kept


def _is_same(value: Json, other: Json) -> bool:
    """Return whether two JSON values are the same; False if they are nested too deeply to say."""
    try:
        return value == other and repr(value) == repr(other)  # for ``==``, true is equal to 1
    except RecursionError:
        return False


# Conditions, by type, under which the value of the variable `{v}` needs no further check.
_USUAL: Final[Mapping[type, str]] = {
    str: "type({v}) is str",
    bool: "type({v}) is bool",
    int: "type({v}) is int and -large < {v} < large",
    float: "type({v}) is float",
}


def _lines_of(field: Field, names: dict[str, object], *, keep: bool) -> Iterator[str]:
    """Yield the lines of generated code that read one field into a variable.

    Args:
        field: The field.
        names: Global variables of the generated code. This function adds those that the lines use.
        keep: True if the JSON of a later field can be a copy of a part of this field's JSON. Then
            the code also stores the JSON of this field in a variable, for the comparison.
    """
    v = f"_{field.name}"
    default = "None" if field.required or field.default is None else f"default{v}"
    names[f"default{v}"] = field.default
    key, other = field.key, field.other_key
    yield f"{v} = raw[{key!r}]" if field.required else f"{v} = raw.get({other!r})"
    if other != key:
        yield f"if {v} is None: {v} = raw.get({key!r})"
    if keep:
        yield f"raw{v} = {v}"
    if not field.required and field.default is not None:
        yield f"if {v} is None: {v} = {default}"
        yield "else:"
    else:
        yield "if True:" if field.required else f"if {v} is not None:"
    if field.type is Json:
        yield " pass"
    elif field.many:
        names[f"read{v}"] = _array_reader(field)
        yield f" {v} = read{v}({v}, extra) if {v} or type({v}) is not list else ()"
    elif issubclass(field.type, Enum):
        names[f"members{v}"] = members_of(field.type)
        names[f"parse{v}"] = field.type.parse
        yield f" if type({v}) is not str: raise ShapeError"
        yield f" {v} = members{v}.get({v}) or parse{v}({v})"
    elif attrs.has(field.type):
        names[f"read{v}"] = reader_of(field.type)
        yield from _lines_of_object(field, v, default)
    else:
        names[f"repair{v}"] = _repairer(field)
        if field.type is datetime:
            yield f" if type({v}) is int and 0 < {v} < latest: {v} = epoch + timedelta(0, {v})"
            yield f" elif type({v}) is str and {v}[-1:] == 'Z':"
            yield f"  try: {v} = iso({v})"
            yield f"  except ValueError: {v} = repair{v}({v}, extra)"
        else:
            yield f" if {_USUAL[field.type].format(v=v)}: pass"
        yield f" else: {v} = repair{v}({v}, extra)"


def _lines_of_object(field: Field, v: str, default: str) -> Iterator[str]:
    """Yield the lines of generated code that read a field whose type is an attrs class.

    For example, the lines for the optional field `page` are::

        if True:
         try: _page = read_page(_page)
         except UNREADABLE:
          set_aside(extra, 'page', _page)
          _page = None

    Args:
        field: The field.
        v: Name of the variable in the generated code, such as ``_page``. It contains the JSON of
            the field, and then the object.
        default: Code of the value for unreadable JSON, such as ``None``.
    """
    read = f"{v} = read{v}({v})"
    if field.required:
        yield f" {read}"
        return
    if field.repeats:
        other = field.repeats
        of_other = f"raw_{other}.get({field.key!r})"
        yield f" same = _{other} is not None and is_same({of_other}, {v})"
        yield f" if same: {v} = _{other}.{field.name}"
        yield " else:"
    else:
        yield " if True:"
    yield f"  try: {read}"
    yield "  except UNREADABLE:"
    yield f"   set_aside(extra, {field.key!r}, {v})"
    yield f"   {v} = {default}"


def _repairer(field: Field) -> Callable[[Json, dict[str, Json]], Any]:
    """Return a function that reads a value of an unexpected JSON type, such as "12" for a number.

    If the value cannot be read, the function stores it in `extra` and returns the default of the
    field. If the field has no default, the function raises `ShapeError`.
    """
    read, key, is_whole = field.read_scalar, field.key, field.type is int
    default = field.if_odd if field.required else field.default

    def repair(value: Json, extra: dict[str, Json]) -> Any:
        try:
            read_value = read(value)
        except ShapeError:
            if default is attrs.NOTHING:
                raise
            set_aside(extra, key, value)
            return default
        if type(value) in {dict, list} or (is_whole and read_float(value) != read_value):
            # `read_value` has only a part of the JSON, which is an object or array, or a fraction.
            set_aside(extra, key, value)
        return read_value

    return repair


def _array_reader(field: Field) -> Callable[[Json, dict[str, Json]], tuple[Any, ...]]:
    """Return a function that reads an array, without the items that cannot be read.

    If the function leaves an item out, it stores the JSON of the whole array in `extra`. If the
    field is required, it raises `ShapeError` for a value that is not an array, or that has only
    unreadable items.
    """
    read = reader_of(field.type) if attrs.has(field.type) else field.read_scalar
    read_leniently = _message_reader(field.type) if field.is_message else read
    key, most, is_message = field.key, field.most, field.is_message
    read_each = _reader_of_each(read, are_numbers=field.type is int)

    def read_array(value: Json, extra: dict[str, Json]) -> tuple[Any, ...]:
        if type(value) is not list:
            if field.required:
                raise ShapeError
            set_aside(extra, key, value)
            return field.default  # type: ignore[no-any-return]  # a tuple
        if len(value) <= most:
            # Usually, all items can be read, so one fast call reads them.
            try:
                items = read_each(value)
            except UNREADABLE:
                pass
            else:
                if not is_message or not any(item.extra for item in items):
                    return items
        items = tuple(_readable(read_leniently, value[:most]))
        if field.required and not items:
            raise ShapeError
        if len(items) < len(value):
            set_aside(extra, key, value)
        return items

    return read_array


def _readable(read: Callable[[Json], Any], items: Iterable[Json]) -> Iterator[Any]:
    """Yield the items that can be read; stop after 100 items that cannot be read."""
    left = _MAX_UNREADABLE
    for item in items:
        try:
            yield read(item)
        except UNREADABLE:
            left -= 1
            if not left:
                return


def _reader_of_each(
    read: Callable[[Json], Any], *, are_numbers: bool
) -> Callable[[Sequence[Json]], tuple[Any, ...]]:
    """Return a function that reads all items of an array with `read`.

    Args:
        read: Reads one item.
        are_numbers: True if the items are whole numbers. Then the function first tries to check all
            items with a few fast calls, instead of one call for each item.
    """
    if not are_numbers:
        return lambda items: tuple([read(item) for item in items])

    def read_numbers(items: Sequence[Json]) -> tuple[Any, ...]:
        if {*map(type, items)} == {int} and min(items) > -_LARGE and max(items) < _LARGE:
            return tuple(items)
        return tuple([read(item) for item in items])

    return read_numbers


def _message_reader(cls: type) -> Callable[[Json], Any]:
    """Return a reader of a class of messages, such as `ExtractWarning`.

    The reader also accepts a text in place of the JSON object. If the object has no text under the
    declared name, the reader takes a text from its unknown fields.
    """
    [text] = [field for field in fields_of(cls) if field.is_message]
    read, key, name = reader_of(cls), text.key, text.name

    def read_message(value: Json) -> Any:
        message = read({key: value} if type(value) is str else value)
        if getattr(message, name) is None:
            found = error_text(message.extra)
            return message if found is None else attrs.evolve(message, **{name: found})
        return message

    return read_message


def _lines_that_make(cls: type, names: dict[str, object], fields: Iterable[Field]) -> Iterator[str]:
    """Yield the lines of generated code that set attributes made from the JSON text (`of_text`).

    Args:
        cls: Class with the attributes.
        names: Global variables of the generated code. The variables that the lines use are added.
        fields: All fields of the class.
    """
    by_name = {field.name: field for field in fields}
    for attribute in attrs.fields(cls):
        if (found := made_of_text(attribute)) is not None:
            source, names[f"make_{attribute.name}"] = found
            keys = tuple(dict.fromkeys((by_name[source].other_key, by_name[source].key)))
            yield f" if _{source} is None or type(text) is not bytes: _{attribute.name} = None"
            yield f" else: _{attribute.name} = make_{attribute.name}(text, {keys!r})"


def _lines_that_construct(
    cls: type, names: dict[str, object], defaults: Mapping[str, object]
) -> Iterator[str]:
    """Yield the lines of generated code that create and return the object.

    Args:
        cls: Class of the object.
        names: Global variables of the generated code. The variables that the lines use are added.
        defaults: Values of attributes that are not read from JSON, by name. Other attributes have
            their declared default.
    """
    values = {}
    for field in attrs.fields(cls):
        values[field.name] = field.name if field.name == "extra" else f"_{field.name}"
        # If the attribute is read from JSON, a local variable hides this global one.
        names[f"_{field.name}"] = defaults.get(field.name, field.default)
    if (unfrozen := _unfrozen(cls)) is None:
        yield f" return cls({', '.join(f'{name}={value}' for name, value in values.items())})"
    else:
        names["new"] = unfrozen
        yield " self = new()"
        for name, value in values.items():
            yield f" self.{name} = {value}"
        yield " self.__class__ = cls"
        yield " return self"


def _unfrozen(cls: type) -> type | None:
    """Return a copy of the frozen class `cls` that is not frozen, to create objects faster.

    The generated code creates an object of the returned class, sets its attributes, and then
    assigns `cls` to its ``__class__``. This is several times as fast as setting attributes of a
    frozen object. Python can change the class of an object if both classes have the same bases and
    slots (Python Language Reference, section 3.3.2.4.1).

    Return None if this is not possible: the slots of `cls` are not exactly its attributes, or `cls`
    has a validator, a converter or ``__attrs_post_init__``.
    """
    fields = attrs.fields(cls)
    if any(field.validator or field.converter for field in fields):
        return None
    own = {"__slots__": getattr(cls, "__slots__", ())}
    if hasattr(cls, "__attrs_post_init__") or set(own["__slots__"]) != {f.name for f in fields}:
        return None
    return type(cls.__name__, cls.__bases__, own)
