"""Parses JSON text in bounded time, and writes JSON of any depth. Imports `errors` only."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, compress
from operator import is_
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from adepoll.errors import MalformedAnswerError

Json: TypeAlias = Any
"""Parsed JSON of unknown shape, such as data that conforms to a schema of the caller."""

MAX_NESTING: Final = 100
"""Largest number of levels in the value of an unknown field. A deeper value is kept as text."""

_KINDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def kind_of(value: Json) -> str:
    """Return the JSON type of a value as words, such as "an array"."""
    return _KINDS.get(type(value), type(value).__name__)


# --- reading ------------------------------------------------------------------------------------


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    # For 1e999, `number` is infinite, and JSON cannot contain infinity. Infinity minus infinity is
    # not 0; this check is faster than math.isfinite.
    return number if number - number == 0 else text


def _int_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # the number has more digits than Python converts (4,300 by default)
        return text


def _null(_name: str) -> None:
    return None


_MAX_DIGITS: Final = 20
NEVER_COSTLY: Final = 4096
"""Size in bytes up to which a text is always parsed in less than a millisecond."""
# Size in bytes from which a text is costly. It takes some milliseconds if it has huge numbers.
_LARGE: Final = 128 * 1024
# Number of objects and arrays above which a text is costly. To parse this number of them, and to
# create their Python objects, takes at most a millisecond.
_MANY: Final = 250
# Number of objects and arrays from which `_switching_decoder` is used. The scanner in C takes 5
# milliseconds for them.
_VERY_MANY: Final = 10_000
_NUMBER: Final = re.compile(r"\s*-?[0-9]{1,20}(?:\.[0-9]{1,20})?\s*", re.ASCII)


def loads_number(text: str) -> float | None:
    """Return the number of a text such as "12.5"; None if the text is not a number."""
    if len(text) > 3 * _MAX_DIGITS or _NUMBER.fullmatch(text) is None:
        return None
    return float(text) if "." in text else int(text)


# These decoders never fail because of a number, since an error would cost the whole result of a
# completed job: NaN and Infinity become null, and a number that no float can represent stays text.
_decoder: Final = json.JSONDecoder(parse_constant=_null, parse_float=_finite_or_text)
# For text with very many values, or with an int that Python does not convert. The scanner is
# written in C. During a call of the Python functions below, Python can switch to another thread.
# Without them, all threads would wait for the scanner.
_switching_decoder: Final = json.JSONDecoder(
    parse_constant=_null,
    parse_float=_finite_or_text,
    parse_int=_int_or_text,
    object_hook=lambda members: members,
)


def is_costly(body: bytes) -> bool:
    """Return whether JSON text should be parsed in a thread, because it could take milliseconds."""
    if len(body) <= NEVER_COSTLY:
        return False
    return len(body) >= _LARGE or _weight(body) > _MANY


def _weight(text: bytes | str) -> int:
    """Estimate how long it takes to parse a JSON text. The unit is the time for one object."""
    objects, arrays, commas = _counts(text)
    return objects + arrays + commas // 2


def _counts(text: bytes | str) -> tuple[int, int, int]:
    """Return how many opening braces, opening brackets and commas a JSON text contains."""
    if isinstance(text, str):
        return text.count("{"), text.count("["), text.count(",")
    return text.count(b"{"), text.count(b"["), text.count(b",")


def loads(body: bytes | str, limits: "Limits | None" = None) -> Json:
    """Parse JSON as defined in RFC 8259; integers stay exact.

    NaN and Infinity are read as null. A number that Python cannot represent, such as 1e999, is read
    as its text.

    Raises:
        MalformedAnswerError: The text is not JSON, or exceeds a limit. Neither the error nor its
            cause contains the text, which may be a customer's document.
    """
    if limits is not None and len(body) > limits.short:
        limits.check(body)
    try:
        # The body is nearly always UTF-8. Any other body is read by `_loads_slowly` below.
        text = body if isinstance(body, str) else body.decode()
        if text is body and not text.isascii():
            text.encode()  # raises if the text contains surrogates
        has_very_many = len(text) > _VERY_MANY and _weight(text) > _VERY_MANY
        decoder = _switching_decoder if has_very_many else _decoder
        value, end = decoder.raw_decode(text)
        if end == len(text) or not (rest := text[end:].lstrip(_WHITE_SPACE)):
            return value
        problem = _problem_of(json.JSONDecodeError("Extra data", text, len(text) - len(rest)))
        stop = end
    except json.JSONDecodeError as exc:
        problem = _problem_of(exc)
        stop = exc.pos
    except RecursionError:
        problem = _TOO_DEEP
        stop = len(body)
    except ValueError:  # it is not UTF-8, has surrogates, or an int that Python does not convert
        stop = 0
    if stop <= 1:  # the text may also have another encoding, or white space at its start
        return _loads_slowly(body)
    raise MalformedAnswerError([problem])


def _loads_slowly(body: bytes | str) -> Json:
    """Parse JSON of any encoding and with numbers of any length; raises `MalformedAnswerError`."""
    try:
        return _switching_decoder.decode(as_text(body))
    except json.JSONDecodeError as exc:
        problem = _problem_of(exc)
    except RecursionError:
        problem = _TOO_DEEP
    except UnicodeDecodeError as exc:
        problem = f"not JSON: not {exc.encoding} @ byte {exc.start}"
    raise MalformedAnswerError([problem])


_WHITE_SPACE: Final = " \t\n\r"
_TOO_DEEP: Final = "not usable JSON: nested too deeply @ $"


def _problem_of(exc: json.JSONDecodeError) -> str:
    return f"not JSON: {exc.msg} @ line {exc.lineno} column {exc.colno}"


def as_text(body: bytes | str) -> str:
    r"""Decode JSON text in UTF-8, UTF-16 or UTF-32. Surrogates become escapes such as ``\ud83d``.

    Raises:
        UnicodeDecodeError: `body` has none of these encodings.
    """
    if isinstance(body, str):
        return _with_escaped_surrogates(body)
    return _with_escaped_surrogates(body.decode(json.detect_encoding(body), "surrogatepass"))


# A surrogate after a backslash, which is not JSON.
_ESCAPED_SURROGATE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\[\ud800-\udfff]")


def _with_escaped_surrogates(text: str) -> str:
    r"""Return JSON text in which surrogates are written as escapes, such as ``\ud83d``.

    Some programs encode a character beyond U+FFFF as two surrogates of three bytes each (CESU-8).
    Python reads a pair of escapes as the one character that is meant. Without escapes, it would
    read two characters, which become one when the text is written and read again.
    """
    if text.isascii() or _ESCAPED_SURROGATE.search(text):
        return text
    return text.encode("utf-8", "backslashreplace").decode()


@frozen(kw_only=True)
class Limits:
    """Limits of the JSON text that is parsed. A larger text could take seconds and much memory.

    Attributes:
        containers: Maximum number of opening braces and brackets: of objects and arrays.
        values: Maximum number of commas; not less than `containers`.
        short: Length of the longest text that need not be checked: it is too short to exceed a
            limit.
    """

    containers: int
    values: int
    short: int = field(init=False)

    @short.default
    def _find_short(self) -> int:
        return min(self.containers, _NESTED)

    def check(self, text: bytes | str) -> None:
        """Raise `MalformedAnswerError` if the text exceeds a limit. The text is not parsed.

        Arrays that begin with an array, such as ``[[1], 2]``, have a limit of their own: 10,000 of
        them, or one for each 16 bytes of the text if that is more. The reason: parsing and deleting
        nested arrays is slow, and no other thread can run meanwhile.
        """
        objects, arrays, commas = _counts(text)
        if objects + arrays > self.containers:
            raise MalformedAnswerError([f"more than {self.containers} objects and arrays @ $"])
        if commas > self.values:
            raise MalformedAnswerError([f"more than {self.values} values @ $"])
        most = max(_NESTED, len(text) // _BYTES_OF_NESTED)
        if arrays > most and _count_nested(text) > most:
            raise MalformedAnswerError([f"more than {most} arrays within arrays @ $"])


def _count_nested(text: bytes | str) -> int:
    """Return how many pairs of opening brackets such as ``[[`` or ``[ [`` the text contains.

    A bracket belongs to one pair only: ``[[[[`` contains two pairs.
    """
    if isinstance(text, str):
        return len(re.findall(r"\[\s*\[", text))
    return len(re.findall(rb"\[\s*\[", text))


# Number of arrays that begin with an array. A text of any length may have this number of them.
_NESTED: Final = 10_000
# A longer text may have one such array for each of this number of bytes.
_BYTES_OF_NESTED: Final = 16


def load_object(body: bytes | str, limits: Limits | None = None) -> dict[str, Json]:
    """Parse a JSON object.

    Raises:
        MalformedAnswerError: The text is not JSON or not an object, or exceeds a limit.
    """
    raw = loads(body, limits)
    if not isinstance(raw, dict):
        raise MalformedAnswerError([f"expected an object, got {kind_of(raw)} @ $"])
    return raw


# --- writing ------------------------------------------------------------------------------------


def dumps(raw: Json, *, indent: int | None = None) -> str:
    """Return the JSON text of a value of any depth.

    Args:
        raw: The value.
        indent: Spaces of indentation at each level; None to write all on one line.
    """
    if indent is None:
        with suppress(RecursionError):
            return _encoder.encode(raw)
    return "".join(_pieces(raw, indent))


_encoder: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def _pieces(raw: Json, indent: int | None) -> Iterator[str]:
    """Yield the parts of the JSON text of a value of any depth; for `indent`, see `dumps`."""
    colon = ":" if indent is None else ": "
    # For each object or array around the current one: its remaining values, and whether it is an
    # object.
    parents: list[tuple[Iterator[Any], bool]] = []
    values, is_object = iter([raw]), False
    comma = ""
    while True:
        line = "" if indent is None or not parents else f"\n{' ' * (indent * len(parents))}"
        for item in values:
            yield f"{comma}{line}"
            key, value = item if is_object else (None, item)
            if key is not None:
                yield f"{_encoder.encode(key)}{colon}"
            comma = ","
            if value and isinstance(value, dict | list):
                parents.append((values, is_object))
                is_object = isinstance(value, dict)
                values = iter(value.items() if isinstance(value, dict) else value)
                yield "{" if is_object else "["
                comma = ""
                break
            yield _encoder.encode(value)
        else:
            if not parents:
                return
            end = "}" if is_object else "]"
            values, is_object = parents.pop()
            yield end if indent is None else f"\n{' ' * (indent * len(parents))}{end}"


def bounded(value: Json) -> Json:
    """Return the value unchanged; if it has more than `MAX_NESTING` levels, return its JSON text.

    A deeper value would raise RecursionError when it is compared, copied, pickled or printed.
    """
    return dumps(value) if is_too_deep([value]) else value


def with_bounded_values(members: dict[str, Json]) -> dict[str, Json]:
    """Return an object in which each value with more than `MAX_NESTING` levels is JSON text.

    If there is no such value, return `members` itself.
    """
    if not is_too_deep(members.values()):  # one check of all values is faster than one for each
        return members
    return {name: bounded(value) for name, value in members.items()}


def is_too_deep(values: Iterable[Json]) -> bool:
    """Return whether at least one of the values has more than `MAX_NESTING` levels.

    To be fast, this function calls only functions written in C for each value.
    """
    for _ in range(MAX_NESTING + 1):
        filled = [*filter(None, values)]
        types = [*map(type, filled)]
        if CONTAINERS.isdisjoint(types):
            return False
        objects = compress(filled, map(partial(is_, dict), types))
        arrays = compress(filled, map(partial(is_, list), types))
        values = chain.from_iterable(chain(map(dict.values, objects), arrays))
    return True


CONTAINERS: Final = frozenset({dict, list})
"""Types of JSON values that contain other values."""
