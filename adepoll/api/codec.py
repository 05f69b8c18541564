"""JSON to attrs classes and back: a field is declared in its class only. Imports errors and below.

A fast reader is generated from each class. JSON that it does not accept is structured by cattrs,
which collects the problems. Unknown fields are kept in the attribute `extra`.
"""

import json
from functools import cache
from types import ModuleType
from typing import Final, NoReturn, TypeVar

from adepoll.api.fast_reader import fast_reader
from adepoll.api.json_fields import Json, kind_of
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
    """Do what `read` does, with cattrs; the error lists each problem as "problem @ path"."""
    instance, problems = _converter().structure(cls, raw)
    if problems:
        raise MalformedAnswerError(problems)
    return instance  # type: ignore[no-any-return]  # of `cls`, since there is no problem


# --- writing ------------------------------------------------------------------------------------


def flatten(model: object) -> dict[str, Json]:
    """Return the JSON object that `read` reads as this model."""
    raw: dict[str, Json] = _converter().unstructure(model)
    return raw


@cache
def _converter() -> ModuleType:
    from adepoll.api import converter  # noqa: PLC0415 - cattrs is slow to import; polls need none

    return converter
