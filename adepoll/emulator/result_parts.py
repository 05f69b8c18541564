"""Makes a result of an exact size from parts. Does no I/O.

The rules of a kind write the documented fields and one row. Filler rows (copies of the row with
rising numbers) and filler text give the result the requested size. They have no meaning.
"""

import json
from typing import Final, Self

from attrs import evolve, frozen

from adepoll.api.models import Json
from adepoll.emulator.results import FIRST_ROW, ROW_BYTES, ResultBody

_PROSE: Final = "the quick amber lantern crossed the harbour ledger while copper signals rang "


@frozen(kw_only=True)
class ResultParts:
    """The parts of a result, as compact JSON.

    A result is `head`, any number of copies of `row`, `middle`, filler text, and `tail`.

    Attributes:
        head: Everything before the rows.
        row: A filler row as two texts: the text before its number, and the text after it.
            `make_row` returns them.
        middle: Text after the last row. It ends within a JSON string; the filler text follows.
        tail: Text after the filler text. It begins with the closing quote of that string.
    """

    head: str
    row: tuple[str, str]
    middle: str
    tail: str

    def within(self, before: str, after: str) -> Self:
        """Return these parts with a text before the head and one after the tail."""
        return evolve(self, head=before + self.head, tail=self.tail + after)

    def fit(self, size: int, *, modified: float) -> ResultBody:
        """Return a result of `size` bytes; the smallest possible result if `size` is too small.

        Args:
            size: Requested length, in bytes.
            modified: Time of the last change, in Unix seconds.
        """
        head, middle, tail = (part.encode() for part in (self.head, self.middle, self.tail))
        rows, padding = divmod(max(size - len(head) - len(middle) - len(tail), 0), ROW_BYTES)
        return ResultBody(
            modified=modified,
            head=head,
            row=(self.row[0].encode(), self.row[1].encode()),
            rows=rows,
            foot=middle + prose(padding).encode() + tail,
        )


def make_row(before: str, after: str, close: str) -> tuple[str, str]:
    """Return one filler row of `ROW_BYTES` bytes, as two texts: before and after its number.

    The second text consists of `after`, some filler text, and `close`.

    Args:
        before: Text before the number of the row.
        after: Text after the number. It ends within a JSON string, which the filler text continues.
        close: End of this string and of the row.
    """
    padding = ROW_BYTES - len(before) - len(str(FIRST_ROW)) - len(after) - len(close)
    return before, after + prose(padding) + close


def prose(length: int) -> str:
    """Return a filler text of `length` letters and spaces, which need no escapes in JSON."""
    return (_PROSE * (length // len(_PROSE) + 1))[:length]


def dump(value: Json) -> str:
    """Return the compact JSON of a value."""
    return json.dumps(value, separators=(",", ":"))


def open_object(value: dict[str, Json]) -> str:
    """Return the JSON of a non-empty object without the closing brace."""
    return dump(value)[:-1]
