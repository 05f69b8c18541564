"""Checks whether the bytes of a file are a complete result, in constant memory. Blocking code."""

from collections.abc import Collection
from typing import Final

from adepoll.api.body_decoding import Chunk
from adepoll.api.json_envelope import MemberLimit, ObjectScanner
from adepoll.common import file_system
from adepoll.errors import MalformedAnswerError

_READ_SIZE: Final = 2**20
_FIRST_STEP: Final = 2**8  # bytes in which the required keys are looked for first
_MEMBERS: Final = 4096  # members of a result in which the required keys are looked for


class ResultCheck:
    """Checks the bytes of one result, which must be passed to `add` in order."""

    def __init__(self, keys: Collection[str], *, counts_braces: bool) -> None:
        """Create a check that has seen no byte.

        Args:
            keys: Top-level keys that a result must contain.
            counts_braces: True to compare the numbers of opening and closing braces. This detects a
                text that ends too early, even if its last character is a brace.
        """
        self._counts_braces = counts_braces
        self._depth = 0  # opening minus closing braces, including those within strings
        self._missing = {*keys}
        self._scanner = ObjectScanner(max_value=0, limit=MemberLimit(_MEMBERS))
        self._step = _FIRST_STEP
        self._malformed: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """The reasons why the bytes are not a result; empty if they are a result.

        A reason is a text such as "required field missing @ $.markdown". All bytes must have been
        passed to `add` before.
        """
        missing = [f"required field missing @ $.{key}" for key in sorted(self._missing)]
        return self._malformed or tuple(missing)

    def add(self, chunk: Chunk) -> None:
        """Check the next bytes."""
        if self._missing and not self._malformed:
            self._look_for_keys(chunk)
        if self._counts_braces:
            text = bytes(chunk)
            self._depth += text.count(b"{") - text.count(b"}")

    def is_truncated(self, fd: int, size: int) -> bool:
        """Return whether the text ends before its JSON object ends.

        All bytes must have been passed to `add` before. A complete text ends with a brace. With
        `counts_braces`, the numbers of opening and closing braces are compared, too. `add` has also
        counted braces within strings. So if the numbers differ, the file is read again, and only
        braces outside of strings are compared. If the numbers are equal by chance, a missing end is
        not found.

        Args:
            fd: Descriptor of the file that contains the text.
            size: Size of the file in bytes.
        """
        return not _ends_with_brace(fd, size) or bool(self._depth and _is_unbalanced(fd))

    def _look_for_keys(self, chunk: Chunk) -> None:
        """Look for the required top-level keys; usually, the first bytes contain all of them.

        The first step reads few bytes, because members after these keys need not be read.
        """
        start = 0
        try:
            while self._missing and start < len(chunk):
                self._scanner.feed(chunk[start : start + self._step])
                self._missing = {key for key in self._missing if not self._scanner.has(key)}
                start += self._step
                self._step *= 2
        except MalformedAnswerError as exc:
            self._malformed = exc.problems


def _ends_with_brace(fd: int, size: int) -> bool:
    """Return whether the last character of the file, except whitespace, is a closing brace."""
    for stop in range(size, 0, -(2**16)):
        start = max(0, stop - 2**16)
        if text := file_system.read_at(fd, stop - start, start).rstrip():
            return text.endswith(b"}")
    return False


def _is_unbalanced(fd: int) -> bool:
    """Return whether the brackets outside of strings do not match, or a string does not end."""
    scanner = ObjectScanner(max_value=0)
    position = 0
    try:
        while chunk := file_system.read_at(fd, _READ_SIZE, position):
            position += len(chunk)
            scanner.feed(chunk)
    except MalformedAnswerError:
        return True
    return not scanner.is_complete
