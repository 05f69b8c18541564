"""The parts of a result, and how it reaches an exact size. Does no I/O.

A kind of job writes a head and a foot with the documented fields, and one numbered row. Rows and
prose then fill the result up to the wanted size.
"""

import json
from typing import Final, Self

from attrs import evolve, frozen

from adepoll.api.models import Json
from adepoll.emulator.results import FIRST_ROW, ROW_BYTES, ResultBody

_PROSE: Final = "the quick amber lantern crossed the harbour ledger while copper signals rang "


@frozen(kw_only=True)
class ResultParts:
    """A result without its size. All texts are compact JSON; joined, they are one JSON value.

    Attributes:
        head: Everything before the rows.
        row: The text of a row before its number, and after it; see `make_row`.
        middle: What follows the rows. It ends within a JSON string.
        tail: Everything after that string's content; it begins with the string's closing quote.
    """

    head: str
    row: tuple[str, str]
    middle: str
    tail: str

    def within(self, before: str, after: str) -> Self:
        """Return these parts with a text before the head and one after the tail."""
        return evolve(self, head=before + self.head, tail=self.tail + after)

    def fit(self, size: int, *, modified: float) -> ResultBody:
        """Return the result with `size` bytes, or the smallest possible one if that is larger.

        Args:
            size: Length, in bytes.
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
    """Return a row that has the size of all rows: prose fills it between `after` and `close`.

    Args:
        before: Text before the number of the row.
        after: Text after the number; it ends within a JSON string.
        close: The end of that string and of the row.
    """
    padding = ROW_BYTES - len(before) - len(str(FIRST_ROW)) - len(after) - len(close)
    return before, after + prose(padding) + close


def prose(length: int) -> str:
    """Return a text of that many letters and blanks, which JSON needs not escape."""
    return (_PROSE * (length // len(_PROSE) + 1))[:length]


def dump(value: Json) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"))


def open_object(value: dict[str, Json]) -> str:
    """Return the JSON of a non-empty object without the closing brace."""
    return dump(value)[:-1]
