"""Prints tables whose ids can be copied: they are never cut, not even on a narrow terminal."""

import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table

from adepoll.cli.stdout_writer import naming_stdout

_UNLIMITED: Final = 10_000  # characters per line


def add_whole_column(table: Table, name: str, cells: Iterable[str]) -> None:
    """Add a column whose cells are never wrapped or cut. It will contain the texts `cells`."""
    table.add_column(name, no_wrap=True, min_width=max(map(len, (name, *cells))))


def print_table(table: Table) -> None:
    """Print a table on stdout.

    Columns that `add_whole_column` has added are never shortened. If they are wider than the
    terminal, the terminal breaks the lines. In a file or pipe, each row is one line.
    """
    console = Console(width=_UNLIMITED)
    if sys.stdout.isatty():
        console.width = max(Console().width, console.measure(table).minimum)
    with naming_stdout():
        console.print(table)
