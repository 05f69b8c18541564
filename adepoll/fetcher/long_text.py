"""Finds and decodes the long texts of a JSON document while its bytes arrive. Does no I/O."""

import json
import re
from typing import Final

from attrs import define, field

# An escape or a character that the end of the bytes cuts, after each ``\\`` and ``\"`` has become
# two spaces. The second half of a pair of escapes such as \ud83d\ude00 belongs to the first.
_CUT: Final = re.compile(
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?\Z"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\Z"
    rb"|(?:[\xc0-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xff][\x80-\xbf]{0,2})\Z"
)
_LONGEST_CUT: Final = 11  # bytes of a pair of escapes without its last digit
MAX_NUMBER: Final = 2**14
"""Most characters of a number. No other thread can run while Python converts a longer one."""

_NUMBER_BYTES: Final = b"0123456789+-.eE"
# An escape of a surrogate that is not half of a pair.
_UNPAIRED: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_decoder: Final = json.JSONDecoder()


@define
class TokenLengths:
    """The lengths of the text and the number that the end of the bytes cuts.

    Attributes:
        text: Bytes of the text so far, with its opening quotation mark; 0 if the bytes do not end
            within a text.
        number: Bytes of the number so far; 0 if the bytes do not end within a number.
    """

    text: int = field(default=0, init=False)
    number: int = field(default=0, init=False)

    def read(self, piece: bytes) -> int:
        """Read the next bytes, without an escape or character that their end cuts.

        Return the number of bytes that were read. The next call must begin with the others.

        Raises:
            ValueError: A number is too long.
        """
        if self.number:
            self.number += len(piece) - len(piece.lstrip(_NUMBER_BYTES))
            if self.number > MAX_NUMBER:
                raise ValueError(f"a number has more than {MAX_NUMBER} characters")
        plain = without_escapes(piece)
        if (self.text > 0) == (plain.count(b'"') % 2 == 1):
            self.text = 0
            rest = len(piece) - len(piece.rstrip(_NUMBER_BYTES))
            self.number = max(self.number, rest) if rest == len(piece) else rest
            return len(piece)
        whole = length_without_cut(plain)
        mark = plain.rfind(b'"')
        self.text = self.text + whole if mark < 0 else whole - mark
        self.number = 0
        return whole


class LongText:
    """Decodes one text in pieces, so that no piece takes long.

    Attributes:
        is_kept: False if the text is checked, but not needed.
        is_complete: True if its end was read.
    """

    def __init__(self, beginning: str, *, is_kept: bool) -> None:
        """Begin a text whose first characters are known."""
        self.is_kept = is_kept
        self.is_complete = False
        self._parts = [beginning] if is_kept else []

    def read(self, piece: bytes) -> int:
        """Read the next bytes; return how many of them belong to the text, with its last mark.

        Bytes of an escape or a character that is cut do not count: the next call must begin with
        them.

        Raises:
            ValueError: The bytes are not JSON.
        """
        plain = without_escapes(piece)
        end = plain.find(b'"')
        self.is_complete = end >= 0
        stop = end if self.is_complete else length_without_cut(plain)
        try:
            part = str(_decoder.decode(f'"{without_unpaired(piece[:stop]).decode()}"'))
        except ValueError:
            raise ValueError("expected JSON") from None
        if self.is_kept:
            self._parts.append(part)
        return stop + self.is_complete

    def text(self) -> str:
        """Return the text; empty if it is not kept."""
        return "".join(self._parts)


def without_escapes(piece: bytes) -> bytes:
    r"""Return bytes of the same length without the escapes ``\\`` and ``\"``."""
    if b"\\" not in piece:
        return piece
    return piece.replace(rb"\\", b"  ").replace(rb"\"", b"  ")


def without_unpaired(piece: bytes) -> bytes:
    """Return JSON text in which a question mark replaces each escape of an unpaired surrogate."""
    if b"\\ud" not in piece and b"\\uD" not in piece:
        return piece
    return _UNPAIRED.sub(b"?", piece.replace(rb"\\", rb"\u005c"))


def length_without_cut(plain: bytes) -> int:
    """Return the length of a part of a text without an escape or character that its end cuts."""
    cut = _CUT.search(plain, max(0, len(plain) - _LONGEST_CUT))
    return len(plain) if cut is None else cut.start()
