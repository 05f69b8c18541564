"""JSON to attrs classes and back: a field is declared in its class only. Imports readers and below.

A reader is generated from each class. Unknown fields, and fields that cannot be read, are kept in
the attribute `extra`.
"""

from functools import cache
from types import ModuleType
from typing import TypeVar

from adepoll.api.json_fields import Shape
from adepoll.api.json_text import Json, Limits, dumps, load_object
from adepoll.api.readers import UNREADABLE, problems_of, reader_of
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")


def decode(
    cls: type[_T],
    body: bytes | str,
    limits: Limits | None = None,
    *,
    shape: Shape | None = None,
) -> _T:
    """Read an instance of an attrs class from JSON text.

    Raises:
        MalformedAnswerError: The text is not JSON, exceeds a limit, or a required field is missing
            or has another type.
    """
    return read(cls, load_object(body, limits), shape=shape)


def read(cls: type[_T], raw: Json, *, shape: Shape | None = None) -> _T:
    """Read an instance of an attrs class from parsed JSON; raises `MalformedAnswerError`."""
    model: type = cls  # mypy does not take a type[_T] for a hashable object
    try:
        instance: _T = reader_of(model, shape)(raw)
    except UNREADABLE:
        pass  # else the error of the reader would be the context of the next one
    else:
        return instance
    raise MalformedAnswerError(problems_of(cls, raw, shape=shape))


def encode(model: object) -> str:
    """Write an instance of an attrs class, or JSON that was parsed, as one line of JSON."""
    is_json = model is None or isinstance(model, dict | list | str | int | float)
    return dumps(model if is_json else flatten(model))


def flatten(model: object) -> dict[str, Json]:
    """Return the model as a JSON object, from which `read` can read it again."""
    raw: dict[str, Json] = _writer().flatten(model)
    return raw


@cache
def _writer() -> ModuleType:
    from adepoll.api import writer  # noqa: PLC0415 - cattrs is slow to import; polls need none

    return writer
