"""Tables whose ids can be copied: no line is cut, not even on a narrow terminal."""

import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table

_UNLIMITED: Final = 10_000  # columns


def add_whole_column(table: Table, name: str, cells: Iterable[str]) -> None:
    """Add a column that is neither wrapped nor cut; `cells` are its texts."""
    table.add_column(name, no_wrap=True, min_width=max(map(len, (name, *cells))))


def print_table(table: Table) -> None:
    """Print a table on stdout.

    On a terminal that is too narrow for its whole columns, the terminal breaks the lines. In a
    pipe, each row is one line.
    """
    console = Console(width=_UNLIMITED)
    if sys.stdout.isatty():
        console.width = max(Console().width, console.measure(table).minimum)
    console.print(table)
