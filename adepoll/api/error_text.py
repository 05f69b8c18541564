"""Finds the message for people in the JSON of an error.

The service, and gateways in front of it, write errors as ``{"message": ...}``, ``{"error": ...}``,
``{"detail": ...}``, ``{"code": ..., "message": ...}``, ``{"errors": [...]}``, and as a FastAPI list
of problems.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from adepoll.api.json_text import Json

_KEYS: Final = (
    "message",
    "Message",  # a gateway of AWS
    "msg",
    "error_description",  # OAuth 2.0 (RFC 6749, section 5.2); its `error` is only a code
    "error",
    "errors",
    "detail",
    "failure_reason",
    "description",
    "title",
)
_MAX_DEPTH: Final = 4  # levels that are searched: {"error": {"detail": [{"msg": ...}]}} has four
_MAX_PROBLEMS: Final = 5  # texts that are taken from one array
_MAX_LOCATION: Final = 20  # names and indexes that are shown of the place of a problem


def error_text(raw: Json) -> str | None:
    """Return the message in the JSON of an error; None if it contains no message.

    From an array, at most five messages are returned, separated by semicolons. The code of an error
    follows its message in parentheses, unless the message contains the code.
    """
    return "; ".join(_texts(raw, _MAX_DEPTH)) or None


def _texts(raw: Json, depth: int) -> Iterator[str]:
    """Yield the messages in a JSON value.

    A text is a message. In an array, each item is searched. In an object, the value of the first
    key in `_KEYS` with a message is searched.

    Args:
        raw: The value.
        depth: Number of levels of arrays and objects that are searched.
    """
    if isinstance(raw, str):
        if raw:
            yield raw
    elif depth and isinstance(raw, list):
        of_items = (text for item in raw[:_MAX_PROBLEMS] for text in _texts(item, depth - 1))
        yield from islice(of_items, _MAX_PROBLEMS)
    elif depth and isinstance(raw, dict):
        for key in _KEYS:
            texts = [*_texts(raw.get(key), depth - 1)]
            if texts:
                yield texts[0] + _suffix(raw, texts[0])
                yield from texts[1:]
                return


def _suffix(raw: dict[str, Json], text: str) -> str:
    """Return the text to add to a message: the code of the error, and where the problem is.

    Return "" if the object contains neither.

    Args:
        raw: The object that contains the message.
        text: The message. A code that it contains is not added.
    """
    code, location = raw.get("code"), raw.get("loc")
    suffix = ""
    if isinstance(code, str) and code and code not in text:
        suffix = f" ({code})"
    if isinstance(location, list) and location:
        parts = [str(part) for part in location[:_MAX_LOCATION] if isinstance(part, str | int)]
        suffix += f" @ {'.'.join(parts)}"
    return suffix
