"""JSON text as defined in RFC 8259. Imports errors only."""

import json
from typing import Any, Final, NoReturn, TypeAlias

from adepoll.errors import MalformedAnswerError

Json: TypeAlias = Any
"""JSON of a shape that only the caller's own schema knows."""


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


def dumps(raw: Json) -> str:
    """Write JSON on one line."""
    return json.dumps(raw, allow_nan=False, separators=(",", ":"))
