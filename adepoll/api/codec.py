"""Reads objects of attrs classes from JSON, and writes them as JSON.

If a required field is missing or has another type, `problems_of` returns the reasons.
"""

from functools import cache
from types import ModuleType
from typing import Final, TypeVar

import attrs

from adepoll.api.json_fields import Field, Shape, ShapeError, fields_of
from adepoll.api.json_reader import UNREADABLE, reader_of
from adepoll.api.json_text import Json, Limits, dumps, kind_of, loads
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")

_MAX_PROBLEMS: Final = 20


def decode(
    cls: type[_T],
    body: bytes | str,
    limits: Limits | None = None,
    *,
    shape: Shape | None = None,
) -> _T:
    """Read an object of an attrs class from JSON text.

    Args:
        cls: The class.
        body: The JSON text.
        limits: Limits of the text; None for no limits.
        shape: How the JSON differs from the declaration of the class; None if it is the same.

    Raises:
        MalformedAnswerError: The text is not JSON or exceeds a limit, or a required field is
            missing or has another type.
    """
    return read(cls, loads(body, limits), shape=shape, text=body)


def read(
    cls: type[_T], raw: Json, *, shape: Shape | None = None, text: bytes | str | None = None
) -> _T:
    """Read an object of an attrs class from parsed JSON.

    Args:
        cls: The class.
        raw: The parsed JSON.
        shape: How the JSON differs from the declaration of the class; None if it is the same.
        text: The JSON text from which `raw` was parsed; None if it is not known. Attributes that
            keep bytes of the text, such as `JobSnapshot.received_result`, need it.

    Raises:
        MalformedAnswerError: A required field is missing or has another type.
    """
    model: type = cls  # `reader_of` needs a hashable argument, and mypy refuses a type[_T]
    try:
        instance: _T = reader_of(model, shape)(raw, text)
    except UNREADABLE:
        pass  # an error raised here would have the reader's error as its context
    else:
        return instance
    raise MalformedAnswerError(problems_of(cls, raw, shape=shape))


def encode(model: object) -> str:
    """Return one line of JSON text for an object of an attrs class, or for parsed JSON."""
    is_json = isinstance(model, dict | list | str | int | float | None)
    return dumps(model if is_json else flatten(model))


def flatten(model: object) -> dict[str, Json]:
    """Return an object of an attrs class as a JSON object. `read` can read it again."""
    raw: dict[str, Json] = load_writer().flatten(model)
    return raw


@cache
def load_writer() -> ModuleType:
    """Return the module `writer`; import it at the first call, because the import is slow."""
    from adepoll.api import writer  # noqa: PLC0415 - slow to import, and polls only read

    return writer


def problems_of(cls: type, raw: Json, path: str = "$", *, shape: Shape | None = None) -> list[str]:
    """Return why `read` cannot read some JSON: a list of texts, each "problem @ path".

    An array is checked only until about 20 problems are known.

    Args:
        cls: The class of the object.
        raw: The JSON.
        path: Path of `raw` in the whole JSON, such as ``$.data``.
        shape: How the JSON differs from the declaration of the class; None if it is the same.
    """
    if not isinstance(raw, dict):
        return [f"expected an object, got {kind_of(raw)} @ {path}"]
    problems: list[str] = []
    for field in fields_of(cls, shape):
        if field.required:
            problems += _problems_of_field(field, raw, f"{path}.{field.key}")
    return [*dict.fromkeys(problems)]  # two fields can have the same key, and the same problem


def _problems_of_field(field: Field, raw: dict[str, Json], path: str) -> list[str]:
    """Return why a required field, at `path` of the JSON, cannot be read; [] if it can."""
    if field.key not in raw:
        return [f"required field missing @ {path}"]
    value = raw[field.key]
    if field.type is Json or field.if_odd is not attrs.NOTHING:
        return []
    if field.many:
        return _problems_of_array(field, value, path)
    if attrs.has(field.type):
        return problems_of(field.type, value, path)
    try:
        field.read_scalar(value)
    except ShapeError as exc:
        return [f"{exc} @ {path}"]
    return []


def _problems_of_array(field: Field, value: Json, path: str) -> list[str]:
    """Return why an array, at `path` of the JSON, cannot be read; [] if it can."""
    if not isinstance(value, list):
        return [f"expected an array, got {kind_of(value)} @ {path}"]
    problems: list[str] = []
    for index, item in enumerate(value[: field.most]):
        problems += problems_of(field.type, item, f"{path}[{index}]")
        if len(problems) >= _MAX_PROBLEMS and (rest := len(value) - index - 1):
            return [*problems, f"{rest} more items were not checked @ {path}"]
    return problems
