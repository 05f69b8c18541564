"""Reads the top level of a JSON object of any size, while its bytes arrive.

The answer to a poll of a v2 job contains the whole result. `ObjectScanner` reads the other members
of this answer (the envelope), and passes the bytes of the result on. It never holds all of the
result in memory. Does no I/O.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from adepoll.api.value_scanner import ValueScanner
from adepoll.errors import MalformedAnswerError

_State: TypeAlias = Callable[[bytes, int], int]
"""Reads one part of the object, from an offset in a chunk; returns the offset after that part."""

_MEMBERS: Final = 256  # members that a scanner without a `limit` reads
_MAX_KEY: Final = 2**12  # bytes; a member with a longer name is skipped

_KEYS: Final = json.JSONDecoder(strict=False)
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
# Whitespace and the byte order mark, which is U+FEFF in UTF-8.
_SPACE_OR_MARK: Final = re.compile(rb"[\xef\xbb\xbf \t\r\n]*+")
_SCALAR: Final = re.compile(rb"[-+.0-9A-Za-z]*+")


class MemberLimit:
    """Limits the number of members that one `ObjectScanner`, or several together, may read.

    To read a member takes up to 15 microseconds.

    Attributes:
        left: Number of members that may still be read.
    """

    def __init__(self, left: int) -> None:
        """Create a limit of `left` members."""
        self.left = left


class ObjectScanner:
    """Reads the members of one JSON object while its bytes arrive in chunks of any size.

    The time is in proportion to the number of bytes. Only short values are kept in memory. The
    scanner finds the end of a nested value, but does not check that the value is valid JSON.

    Attributes:
        members: JSON text of each complete value of at most `max_value` bytes, by name. If a name
            occurs twice, the last value counts.
        long_members: Names of the complete members with longer values.
        is_complete: True if the object has ended.
    """

    def __init__(
        self,
        *,
        streamed: str | None = None,
        streamed_scanner: "ObjectScanner | None" = None,
        scanner_of: "Callable[[str], ObjectScanner | None] | None" = None,
        max_value: int = 2**16,
        max_total: int = 2**20,
        limit: MemberLimit | None = None,
    ) -> None:
        """Create a scanner that has not read anything yet.

        Args:
            streamed: Name of the member whose value `feed` returns, piece by piece, instead of
                keeping it. None if there is no such member.
            streamed_scanner: A new scanner that also reads the value of the member `streamed`. An
                array or a text as this value is then refused. None for no scanner.
            scanner_of: Called with the name of each other member whose value is an object. It
                returns a new scanner that also reads this value, or None.
            max_value: Size in bytes of the longest value to keep.
            max_total: Size in bytes of all names and values to keep. Later members are ignored,
                except `streamed`.
            limit: Number of members to read; None for 256. Later members are skipped quickly. If
                `streamed` is not among the first members, `feed` raises `MalformedAnswerError`.
        """
        self.members: dict[str, bytes] = {}
        self.long_members: set[str] = set()
        self.is_complete = False
        self._streamed = streamed
        self._streamed_scanner = streamed_scanner
        self._scanner_of = scanner_of
        self._max_value = max_value
        self._left = max_total  # bytes of names and values that can still be kept
        self._member_limit = MemberLimit(_MEMBERS) if limit is None else limit
        self._read: _State = self._begin
        self._offset = 0  # number of bytes before the current chunk
        self._name: str | None = None  # name of the current member; None if the name is too long
        self._has_streamed = False  # True after the member `streamed` has begun
        self._is_streaming = False  # True while its value is read
        self._pieces: list[memoryview] = []
        # The beginning of the current key or value. If the whole has more than `_limit` bytes, this
        # has `_limit + 1` bytes.
        self._kept = bytearray()
        self._limit = 0
        self._value_scanner = ValueScanner()  # finds the end of the current key or value

    def feed(self, chunk: bytes | memoryview) -> list[memoryview]:
        """Read the next bytes of the object. Return those that belong to the value of one member.

        The constructor's argument `streamed` is the name of this member.

        Raises:
            MalformedAnswerError: The text is not a JSON object, or has that member twice. Or the
                object has more members than `limit` allows, and that member is not one of the
                first.
                Or the value of that member must be an object, but is a text or an array.
        """
        text = chunk if isinstance(chunk, bytes) else bytes(chunk)
        position = 0
        while position < len(text):
            position = self._read(text, position)
        self._offset += len(text)
        pieces, self._pieces = self._pieces, []
        return pieces

    def has(self, name: str) -> bool:
        """Return whether the object has a member `name`. Its value may still be incomplete."""
        is_streamed = self._has_streamed and name == self._streamed
        is_kept = name in self.members or name in self.long_members
        return is_streamed or name == self._name or is_kept

    def short_members(self) -> bytes:
        """Return the JSON text of an object that has only the members with short values."""
        return b"{%b}" % b",".join(
            [b"%b:%b" % (json.dumps(name).encode(), text) for name, text in self.members.items()]
        )

    # The states. Each of these methods reads one part of an object, and has the type `_State`.

    def _begin(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {b"{": self._first_key}, space=_SPACE_OR_MARK)

    def _first_key(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {b'"': self._key, b"}": self._end})

    def _next_key(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {b'"': self._key})

    def _key(self, text: bytes, position: int) -> int:
        """Begin to read the name of a member; return the offset after the bytes that were read.

        After the last member that `limit` allows, begin to skip the rest of the object.
        """
        if not self._member_limit.left:
            if self._streamed is not None and not self._has_streamed:
                raise MalformedAnswerError(["too many members @ $"])
            self._start(is_string=True, limit=0, depth=1)
            self._read = self._rest_of_members
            return position
        self._member_limit.left -= 1
        self._start(is_string=True, limit=_MAX_KEY)
        self._read = self._rest_of_key
        return self._rest_of_key(text, position)

    def _rest_of_key(self, text: bytes, position: int) -> int:
        """Read the next part of a member's name; return the offset after this part."""
        stop = self._value_scanner.read(text, position)
        self._keep(text, position, stop)
        if not self._value_scanner.is_open:
            self._name = self._decoded_key(stop)
            self._read = self._colon
        return stop

    def _colon(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {b":": self._value})

    def _value(self, text: bytes, position: int) -> int:
        """Skip whitespace before a value. Its first byte decides which method reads the value.

        Return the offset after the bytes that were read.
        """
        start = _skip(_SPACE, text, position)
        if start == len(text):
            return start
        first = text[start : start + 1]
        if first not in b'"[{' and _skip(_SCALAR, text, start) == start:
            raise self._error("a value", start)
        self._is_streaming = self._name is not None and self._name == self._streamed
        if self._is_streaming:
            if self._has_streamed:
                raise self._error("no second value of the same name", start)
            self._has_streamed = True
        limit = 0 if self._is_streaming else self._max_value
        self._start(is_string=first == b'"', limit=limit, depth=int(first in b"[{"))
        if first not in b'"[{':
            self._read = self._rest_of_scalar
            return start
        if (scanner := self._nested_scanner(first)) is not None:
            if first != b"{":
                raise self._error("an object", start)
            self._read = partial(self._rest_of_object, scanner)
            return start
        self._keep(text, start, start + 1)
        self._read = self._rest_of_value
        return start + 1

    def _nested_scanner(self, first: bytes) -> "ObjectScanner | None":
        """Return the scanner that also reads the value with this first byte, or None."""
        if self._is_streaming:
            return self._streamed_scanner
        if self._scanner_of is None or self._name is None or first != b"{":
            return None
        return self._scanner_of(self._name)

    def _rest_of_value(self, text: bytes, position: int) -> int:
        """Read the next part of a value: a text, object or array. Return the offset after it."""
        stop = self._value_scanner.read(text, position)
        self._keep(text, position, stop)
        if not self._value_scanner.is_open:
            self._finish_value()
        return stop

    def _rest_of_members(self, text: bytes, position: int) -> int:
        """Skip the rest of an object with too many members; return the offset after these bytes."""
        stop = self._value_scanner.read(text, position)
        if not self._value_scanner.is_open:
            self._read = self._end
            self.is_complete = True
        return stop

    def _rest_of_object(self, inner: "ObjectScanner", text: bytes, position: int) -> int:
        """Pass the next bytes of a nested object to `inner`, the scanner that reads it.

        Return the offset after these bytes: they end with the object or with the chunk.
        """
        # Its errors then name the byte of the whole text.
        inner._offset = self._offset  # noqa: SLF001 - of the same class
        stop = position
        while stop < len(text) and not inner.is_complete:
            stop = inner._read(text, stop)  # noqa: SLF001 - of the same class
        self._keep(text, position, stop)
        if inner.is_complete:
            self._finish_value()
        return stop

    def _rest_of_scalar(self, text: bytes, position: int) -> int:
        """Read the next part of a number, a boolean or null; return the offset after this part.

        The value is complete only when the byte after it has arrived.
        """
        stop = _skip(_SCALAR, text, position)
        self._keep(text, position, stop)
        if stop < len(text):
            self._finish_value()
        return stop

    def _after_value(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {b",": self._next_key, b"}": self._end})

    def _end(self, text: bytes, position: int) -> int:
        return self._expect(text, position, {})

    def _expect(
        self,
        text: bytes,
        position: int,
        states: Mapping[bytes, _State],
        *,
        space: re.Pattern[bytes] = _SPACE,
    ) -> int:
        """Skip whitespace, and read one byte, such as a colon. Return the offset after this byte.

        The byte selects the next state: the method that reads the text after it. If the rest of the
        chunk is whitespace, return the length of the chunk, and keep the current state.

        Args:
            text: The chunk.
            position: Offset in the chunk at which to begin.
            states: The next state for each allowed byte. With the state `_end`, the object is
                complete.
            space: Pattern of the whitespace to skip.

        Raises:
            MalformedAnswerError: `states` does not contain the byte.
        """
        position = _skip(space, text, position)
        if position == len(text):
            return position
        state = states.get(text[position : position + 1])
        if state is None:
            expected = " or ".join(character.decode() for character in states)
            raise self._error(expected or "nothing more", position)
        self._read = state
        self.is_complete = state == self._end
        return position + 1

    # The next methods keep the current key or value.

    def _start(self, *, is_string: bool, limit: int, depth: int = 0) -> None:
        """Begin to read the name or the value of a member.

        Args:
            is_string: True if this is a name or a text: it ends at a quotation mark.
            limit: Maximum number of bytes to keep. Of a longer name or value, one more byte is
                kept, which shows that it is too long.
            depth: Number of open brackets: 1 if this is an object or array, 0 if not.
        """
        self._kept = bytearray()
        self._limit = limit
        self._value_scanner.begin(is_string=is_string, depth=depth)

    def _keep(self, text: bytes, start: int, stop: int) -> None:
        """Keep a part of the name or value that is being read.

        At most `limit + 1` bytes of a name or value are kept (argument `limit` of `_start`). All
        bytes of the value of `streamed` are kept, until `feed` returns them.

        Args:
            text: The chunk.
            start: Offset of the first byte to keep.
            stop: Offset after the last byte to keep.
        """
        if self._is_streaming:
            self._pieces.append(memoryview(text)[start:stop])
        else:
            stop = min(stop, start + self._limit + 1 - len(self._kept))
            self._kept += text[start:stop]

    def _finish_value(self) -> None:
        """Store the complete value of a member in `members`, if it is short enough.

        The name of a member with a longer value is stored in `long_members`. Nothing is stored for
        `streamed`, for a name that is too long, or after `max_total` bytes of names and values.
        """
        self._read = self._after_value
        name = self._name
        if self._is_streaming or name is None:
            self._is_streaming = False
            return
        self.members.pop(name, None)
        self.long_members.discard(name)
        is_long = len(self._kept) > self._limit
        self._left -= len(name) + (0 if is_long else len(self._kept))
        if self._left < 0:
            return
        if is_long:
            self.long_members.add(name)
        else:
            self.members[name] = bytes(self._kept)

    def _decoded_key(self, position: int) -> str | None:
        """Return the member's name that was read; None if it is longer than 4 KiB.

        Args:
            position: Offset in the chunk after the name, for the error if the name is not JSON.
        """
        if len(self._kept) > self._limit:
            return None
        text = self._kept.decode("utf-8", "replace")
        try:
            return str(_KEYS.decode(f'"{text}'))
        except ValueError:
            pass  # the error that follows must not contain this one, which quotes the document
        raise self._error("a key", position)

    def _error(self, expected: str, position: int) -> MalformedAnswerError:
        problem = f"not JSON: expected {expected} @ byte {self._offset + position}"
        return MalformedAnswerError([problem])


def _skip(pattern: re.Pattern[bytes], text: bytes, position: int) -> int:
    """Return the offset after the match of the pattern at `position`; `position` if none."""
    found = pattern.match(text, position)
    return position if found is None else found.end()
