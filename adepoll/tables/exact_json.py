"""Reads JSON without changing a number, and writes such values as JSON text.

A number that a double holds as written is a float; any other number with a point or an exponent is
a `Decimal`. Imports api.json_text and errors.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

from adepoll.api.json_text import MAX_NESTING, Json, bounded, loads

_EXACT_LENGTH: Final = 16  # a point and 15 digits, which a double always holds
_BRACKETS: Final = MAX_NESTING  # a text with fewer of them needs no check of its depth
_MARKS: Final = ("[", "{", "\\ud", "\\uD")  # of arrays, objects, and halves of surrogate pairs
_MAX_EXPONENT: Final = 400  # beyond any double


class UnreadableError(Exception):
    """A text is not JSON, or cannot be a result; the message says why, without quoting it."""


def load(text: bytes | str) -> Json:
    """Read JSON exactly.

    NaN and Infinity are read as None, and numbers that Python cannot represent as their text.
    Halves of surrogate pairs, which no file can contain, become U+FFFD.

    Raises:
        MalformedAnswerError: The text is not JSON.
        UnreadableError: It has more than 100 levels.
    """
    value = _parse(text)
    marks = _MARKS if isinstance(text, str) else [mark.encode() for mark in _MARKS]
    arrays, objects, *escapes = (text.count(mark) for mark in marks)  # type: ignore[arg-type]  # both are of one type
    if arrays + objects > _BRACKETS and bounded(value) is not value:
        raise UnreadableError(f"it has more than {MAX_NESTING} levels")
    if any(escapes):
        return without_surrogates(value)
    return value


def dump(value: Json) -> str:
    """Return a value as JSON on one line, with each number as it was read."""
    try:
        return _encoder.encode(value)
    except TypeError:  # it contains a Decimal, which the encoder cannot write as a number
        return "".join(_pieces(value))


def without_surrogates(value: Json) -> Any:
    """Return a value in which halves of surrogate pairs, which no file can contain, are U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(v) for key, v in value.items()}
    return value


def _parse(text: bytes | str) -> Json:
    for decoder in (_decoder, _tolerant_decoder):
        with suppress(ValueError, RecursionError):
            return decoder.decode(text if isinstance(text, str) else text.decode("utf-8"))
    return loads(text)  # accepts other encodings, or says what is wrong


def _exact(text: str) -> float | Decimal:
    number = float(text)
    if len(text) <= _EXACT_LENGTH and number and "e" not in text and "E" not in text:
        return number
    exact = Decimal(text)
    if abs(exact.adjusted()) > _MAX_EXPONENT:
        if exact:
            raise ValueError("a number is out of range")  # kept as text
        return number
    return number if Decimal(repr(number)) == exact else exact


def _exact_or_text(text: str) -> float | Decimal | str:
    try:
        return _exact(text)
    except ValueError:
        return text


def _int_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts, 4,300 by default
        return text


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON; read as None


def _pieces(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else ''}{_encoder.encode(key)}:"
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            if number:
                yield ","
            yield from _pieces(item)
        yield "]"
    elif isinstance(value, Decimal):
        yield str(value)
    else:
        yield _encoder.encode(value)


_decoder: Final = json.JSONDecoder(parse_float=_exact, parse_constant=_refuse)
_tolerant_decoder: Final = json.JSONDecoder(
    parse_float=_exact_or_text, parse_int=_int_or_text, parse_constant=lambda _name: None
)
_encoder: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
