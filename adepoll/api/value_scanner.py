"""ValueScanner: finds where a JSON text, object or array ends. Imports nothing of adepoll."""

import re
from typing import Final

# Sizes in bytes. A value is scanned in windows, each at most twice as long as the previous one. If
# all windows were long, a chunk with many short values would take quadratic time.
_FIRST_WINDOW: Final = 2**8
_MAX_WINDOW: Final = 2**18

_BRACKET: Final = re.compile(rb"[\[\]{}]")
_NO_MARKS: Final = bytes(sorted({*range(256)} - {*b'[]{}"'}))
_STEPS: Final = bytes.maketrans(b"[{]}", b"(())")
# Groups of matching brackets. `bytes.replace` removes such groups quickly.
_PAIRS: Final = [b"(" * levels + b")" * levels for levels in (1, 4, 16)]
_RUNS: Final = re.compile(rb"(\(*)(\)*)")
_LONG_RUN: Final = 32  # if groups have this number of brackets on average, counting them is fast
_MAX_ROUNDS: Final = 64  # largest number of times that matching brackets are removed


class ValueScanner:
    """Finds the end of one value, a text, object or array, while its bytes arrive in chunks.

    It does not check that the value is valid JSON. The time is in proportion to the number of
    bytes.
    """

    def __init__(self) -> None:
        """Create a scanner without a value; `begin` begins one."""
        self._depth = 0  # number of open brackets
        self._in_string = False
        self._is_escaped = False  # the text so far ends with the backslash of an escape
        self._window = _FIRST_WINDOW

    @property
    def is_open(self) -> bool:
        """True if the end of the value was not read yet."""
        return self._in_string or self._depth > 0

    def begin(self, *, is_string: bool, depth: int) -> None:
        """Begin a value, after its first byte.

        Args:
            is_string: True for a text: it ends at a quotation mark.
            depth: Number of open brackets: 1 for an object or array, 0 for a text.
        """
        self._depth = depth
        self._in_string = is_string
        self._is_escaped = False
        self._window = _FIRST_WINDOW

    def read(self, text: bytes, position: int) -> int:
        """Read the next part of the value; return the offset after this part.

        The part has at most `_window` bytes. It is shorter if the value ends in it. `_window`
        doubles with each call, up to 256 KiB.

        The search for the end of an object or array is slow, so it is done in a part of at most 256
        bytes. If the end is in a longer part, read nothing, halve `_window`, and return `position`.
        """
        window = text[position : position + self._window]
        stop = position + len(window)
        self._window = min(2 * self._window, _MAX_WINDOW)
        is_escaped = False  # whether the window ends with the backslash of an escape
        if self._is_escaped and window.startswith((b'"', b"\\")):
            window = b" " + window[1:]
        if self._in_string and b'"' not in window:
            self._is_escaped = (len(window) - len(window.rstrip(b"\\"))) % 2 == 1
            return stop
        if b"\\" in window:
            # Without escapes, each quotation mark begins or ends a string.
            window = window.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
            is_escaped = window.endswith(b"\\")
        if not self._depth:
            end = window.find(b'"')
            self._in_string = end < 0
            self._is_escaped = is_escaped
            return stop if self._in_string else position + end + 1
        closing, opening, ends_in_string = _unmatched(window, in_string=self._in_string)
        if closing >= self._depth:
            if len(window) > _FIRST_WINDOW:
                self._window = len(window) // 2
                return position
            end = self._end_of_value(window)
            self._depth = 0
            self._in_string = self._is_escaped = False
            return position + end
        self._depth += opening - closing
        self._in_string = ends_in_string
        self._is_escaped = is_escaped
        return stop

    def _end_of_value(self, window: bytes) -> int:
        """Return the offset in `window` after the bracket that closes the current value."""
        depth, is_string = self._depth, self._in_string
        offset = 0
        for part in window.split(b'"'):
            if not is_string:
                for bracket in _BRACKET.finditer(part):
                    depth += 1 if bracket[0] in b"[{" else -1
                    if not depth:
                        return offset + bracket.end()
            is_string = not is_string
            offset += len(part) + 1
        return offset


def _unmatched(window: bytes, *, in_string: bool) -> tuple[int, int, bool]:
    """Count the brackets in a part of JSON text that do not match another bracket in this part.

    For example, ``}{[]`` has one unmatched closing and one unmatched opening bracket. Brackets
    within strings do not count.

    Args:
        window: The part of the text. It must contain no escapes.
        in_string: True if the part begins within a string.

    Returns:
        The number of unmatched closing brackets, the number of unmatched opening brackets, and True
        if the part ends within a string.
    """
    marks = window.translate(None, _NO_MARKS)
    if in_string:
        marks = b'"' + marks
    ends_in_string = marks.count(b'"') % 2 == 1
    parts = marks.replace(b'""', b"").split(b'"')
    brackets = b"".join(parts[::2]).translate(_STEPS)
    # Remove matching brackets with fast calls, until only few groups of brackets remain. The loop
    # below is slow for each group.
    for _ in range(_MAX_ROUNDS):
        if brackets.count(b"()") * _LONG_RUN <= len(brackets):
            break
        for pair in _PAIRS:
            brackets = brackets.replace(pair, b"")
    lowest = depth = 0
    for opening, closing in _RUNS.findall(brackets):
        depth += len(opening) - len(closing)
        lowest = min(lowest, depth)
    return -lowest, depth - lowest, ends_in_string
