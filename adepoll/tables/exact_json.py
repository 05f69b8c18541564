"""Reads JSON without changing any number, and writes the same numbers as JSON text.

A number with a point or an exponent is read as a float if a double can hold it exactly as it is
written, and otherwise as a `Decimal`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from adepoll.api.json_text import MAX_NESTING, Json, as_text, is_too_deep, loads

_EXACT_LENGTH: Final = 16  # characters: a point and 15 digits, which a double can always hold
_NO_MARKS: Final = bytes(sorted({*range(256)} - {*b'[]{}"'}))
_BRACKETS: Final = bytes.maketrans(b"[{]}", b"(())")
_FIRST_KEY: Final = re.compile(r'\s*\{\s*"([a-z_]*)"\s*:\s*')
_MAX_EXPONENT: Final = 400  # a power of ten that is larger than every double


class UnreadableError(Exception):
    """A result cannot be read; the message says why, without quoting the result."""


def load(text: bytes | str) -> Json:
    """Read JSON, and keep the exact value of every number.

    NaN and Infinity become None. A number that Python cannot represent becomes its text. A lone
    surrogate (U+D800 to U+DFFF), which UTF-8 cannot encode, becomes U+FFFD.

    Raises:
        MalformedAnswerError: The text is not JSON.
        UnreadableError: Arrays and objects are nested in more than 100 levels.
    """
    with suppress(ValueError, RecursionError):
        return _checked(_parse(text), text)
    with suppress(ValueError, RecursionError):  # not UTF-8, or with surrogates
        escaped = as_text(text)
        return _checked(_parse(escaped), escaped)
    return _checked(loads(text), text)  # its error says what is wrong


def load_first_member(text: bytes | str, name: str) -> tuple[Json, int] | None:
    """Read the first member of an object as `load` does; do not read the other members.

    Return the value and the length of its text. Return None if the first member has another name,
    or if Python cannot represent a number in the value. In this case, call `load` instead.

    Raises:
        UnreadableError: Arrays and objects are nested in more than 100 levels.
    """
    with suppress(ValueError, RecursionError):
        content = text if isinstance(text, str) else text.decode("utf-8")
        if (found := _FIRST_KEY.match(content)) and found[1] == name:
            value, end = _decoder.raw_decode(content, found.end())
            value_text = content[found.end() : end]
            return _checked(value, value_text), len(value_text)
    return None


def dump(value: Json) -> str:
    """Return a value as JSON on one line; each number is equal to the number that `load` read."""
    try:
        return _encoder.encode(value)
    except TypeError:  # the value contains a Decimal, which the encoder cannot write as a number
        return "".join(_pieces(value))


def without_surrogates(value: Json) -> Any:
    """Return a value in which each lone surrogate (U+D800 to U+DFFF) is replaced by U+FFFD.

    UTF-8 cannot encode a lone surrogate, so it cannot be written to a file.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(v) for key, v in value.items()}
    return value


def _checked(value: Json, text: bytes | str) -> Json:
    """Return `value`, the parsed `text`, with each lone surrogate replaced by U+FFFD.

    Raises:
        UnreadableError: Arrays and objects are nested in more than 100 levels.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # `_is_deep` is exact for UTF-8. `is_too_deep` is exact for all encodings, but slow.
    if _is_deep(content) and is_too_deep([value]):
        raise UnreadableError(f"it has more than {MAX_NESTING} levels")
    if b"\\ud" in content or b"\\uD" in content:  # an escaped half of a surrogate pair
        return without_surrogates(value)
    return value


def _is_deep(text: bytes) -> bool:
    """Return True if the brackets outside of strings are nested in more than 100 levels."""
    if b"\\" in text:  # without escapes, each quotation mark begins or ends a string
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = text.translate(_BRACKETS, _NO_MARKS)
    brackets = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    for _ in range(MAX_NESTING):
        if not brackets:
            return False
        brackets = brackets.replace(b"()", b"")  # removes the innermost level
    return bool(brackets)


def _parse(text: bytes | str) -> Json:
    """Return the value of a JSON text in UTF-8; raise ValueError if it is not JSON.

    NaN and Infinity become None. A number becomes its text if its exponent is above 400 or below
    -400, or if it is an integer with over 4,300 digits.

    Raises:
        MalformedAnswerError: The text is not JSON.
    """
    content = text if isinstance(text, str) else text.decode("utf-8")
    try:
        return _decoder.decode(content)
    except ValueError:
        return _tolerant_decoder.decode(content)


def _exact(text: str) -> float | Decimal:
    """Return the number in a text: a float if a float can be equal to it, else a `Decimal`."""
    number = float(text)
    if len(text) <= _EXACT_LENGTH and "e" not in text and "E" not in text:
        return number
    try:
        exact = Decimal(text)
    except InvalidOperation:  # its exponent has more than 18 digits
        raise ValueError("a number is out of range") from None
    if abs(exact.adjusted()) > _MAX_EXPONENT:
        if exact:
            raise ValueError("a number is out of range")  # `_exact_or_text` catches this error
        return number
    return number if Decimal(repr(number)) == exact else exact


def _exact_or_text(text: str) -> float | Decimal | str:
    """Return the number in `text` exactly; return `text` itself if the number is out of range."""
    try:
        return _exact(text)
    except ValueError:
        return text


def _int_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts, 4,300 by default
        return text


def _no_number(_name: str) -> None:
    """Read NaN and Infinity, which are not JSON, as None."""


def _pieces(value: Json) -> Iterator[str]:
    """Yield the JSON text of a value in pieces."""
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


_decoder: Final = json.JSONDecoder(parse_float=_exact, parse_constant=_no_number)
_tolerant_decoder: Final = json.JSONDecoder(
    parse_float=_exact_or_text, parse_int=_int_or_text, parse_constant=_no_number
)
_encoder: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
