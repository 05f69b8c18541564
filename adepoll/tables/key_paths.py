"""Paths of values: the keys that lead to a value, and their text, such as ``invoice.total``."""

from collections.abc import Sequence
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str, ...]


def format_path(path: Sequence[str]) -> str:
    r"""Return the keys of a path as one text, joined by dots; a dot in a key becomes ``\.``."""
    return ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in path)


def parse_path(text: str) -> KeyPath:
    """Return the keys of a path; `text` is the path in the form that `format_path` returns."""
    keys: list[str] = []
    key: list[str] = []  # the characters of the present key
    is_escaped = False
    for character in text:
        if is_escaped or character not in "\\.":
            key.append(character)
            is_escaped = False
        elif character == "\\":
            is_escaped = True
        else:
            keys.append("".join(key))
            key.clear()
    return (*keys, "".join(key))
