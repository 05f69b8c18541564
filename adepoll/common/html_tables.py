"""HtmlTable: shows an object as a table in notebooks."""

import html
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final

import attrs

from adepoll.common.redaction import showable
from adepoll.common.safe_repr import SafeRepr

_LONGEST: Final = 200  # characters that are shown of a value


class HtmlTable(SafeRepr):
    """Base of attrs classes that notebooks show as a table, with one row for each attribute.

    Attributes that are None or empty have no row.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._html_rows())

    def _html_rows(self) -> Iterable[tuple[str, object]]:
        """Return the name and value of each row."""
        cls: Any = type(self)  # an attrs class
        return [(field.name, getattr(self, field.name)) for field in attrs.fields(cls)]


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return HTML of a table with a title, and one row for each name and value in `rows`.

    Rows whose value is None or empty are left out.
    """
    lines = [
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(showable(_text_of(value), _LONGEST))}</td></tr>"
        for name, value in rows
        if value not in (None, "", (), [], {})
    ]
    heading = html.escape(showable(title, _LONGEST))
    return f"<table><caption><b>{heading}</b></caption><tbody>{''.join(lines)}</tbody></table>"


def _text_of(value: Any) -> str:
    for kind, text_of in _TEXTS:
        if isinstance(value, kind):
            return text_of(value)
    return str(value)


# How values are written, by type. The first type that fits is used.
_TEXTS: Final[tuple[tuple[Any, Callable[[Any], str]], ...]] = (
    (bool, lambda value: "yes" if value else "no"),
    (Enum, lambda value: str(value.value)),
    (int, lambda value: f"{value:,}"),
    (float, lambda value: f"{value:,.6g}"),
    (datetime, lambda value: f"{value:%Y-%m-%d %H:%M:%S} UTC"),
    (Mapping, lambda value: ", ".join(f"{_text_of(v)} {_text_of(k)}" for k, v in value.items())),
    (list | tuple, lambda value: ", ".join(map(_text_of, value))),
)
