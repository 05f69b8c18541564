"""Views that show progress in a terminal or a notebook. Imports rich and IPython when needed.

A terminal needs rich (extra "cli"); Jupyter and VS Code have IPython anyway.
"""

import html
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from attrs import frozen

_BAR_WIDTH: Final = 30  # characters


@frozen(kw_only=True)
class State:
    """The progress that a view shows.

    Attributes:
        name: The word in front of the numbers, such as "settled".
        done: Number of jobs or bytes that are done.
        total: Number of all jobs or bytes; None if that is unknown.
        details: Short texts, such as "3 failed".
        is_size: True if `done` and `total` are bytes.
    """

    name: str
    done: int
    total: int | None
    details: Sequence[str] = ()
    is_size: bool = False

    @property
    def text(self) -> str:
        """The progress as one line of text."""
        show: Callable[[int], str] = _format_bytes if self.is_size else _format_count
        total = "?" if self.total is None else show(self.total)
        return ", ".join([f"{self.name} {show(self.done)} of {total}", *self.details])


class View(Protocol):
    """Shows the progress of a watch, a batch or a download: the last `State` it was given."""

    def show(self, state: State) -> None:
        """Show a state in place of the previous one."""

    def close(self) -> None:
        """Release the terminal or notebook. The last state stays visible."""


def make_view() -> View | None:
    """Return a view for the notebook or terminal of this program; None if it has neither.

    Also None if a terminal cannot draw a bar, or rich is not installed.
    """
    display = _notebook_display()
    if display is not None:
        return NotebookView(display)
    if not (sys.stderr is not None and sys.stderr.isatty()):
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - rich is an extra, and slow to import
    except ModuleNotFoundError:
        return None
    console = Console(stderr=True)
    return None if console.is_dumb_terminal else TerminalView(console)


class NotebookView:
    """Shows the progress as HTML below the cell of a notebook."""

    def __init__(self, display: Callable[..., Any]) -> None:
        """Create a view that shows states with IPython's `display`."""
        self._display = display
        self._handle: Any = None

    def show(self, state: State) -> None:
        """Show a state in place of the previous one."""
        if self._handle is None:
            self._handle = self._display(HtmlBar(state), display_id=True)
        else:
            self._handle.update(HtmlBar(state))

    def close(self) -> None:
        """Do nothing. The last state stays visible."""


@frozen(repr=False)
class HtmlBar:
    """The progress as an object that IPython displays as HTML, or as text without HTML."""

    state: State

    def _repr_html_(self) -> str:
        value = ""
        if self.state.total is not None:
            value = f' value="{self.state.done}" max="{max(self.state.total, 1)}"'
        text = html.escape(self.state.text)
        return f'<div><progress style="width:20em"{value}></progress> {text}</div>'

    def __repr__(self) -> str:
        return self.state.text


class TerminalView:
    """Shows the progress as a bar of rich on stderr. Printed text appears above the bar."""

    def __init__(self, console: Any) -> None:
        """Create a bar on `console`, a `Console` of rich; `show` draws it."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - rich is an extra
        from rich.table import Column  # noqa: PLC0415 - rich is an extra

        self._progress = Progress(
            BarColumn(bar_width=_BAR_WIDTH),
            # A long text continues on a second line. By default, it would be cut.
            TextColumn("{task.description}", markup=False, table_column=Column()),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            # On a terminal, printed text appears above the bar. If stdout is a file or a pipe, the
            # text must go to this file or pipe, so it is not redirected.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._task: Any = None

    def show(self, state: State) -> None:
        """Show a state in place of the previous one."""
        if self._task is None:
            self._task = self._progress.add_task("", total=None)
            self._progress.start()
        self._progress.update(
            self._task,
            description=state.text,
            completed=state.done,
            total=state.total,
            refresh=True,
        )

    def close(self) -> None:
        """Stop drawing; the last state stays visible."""
        self._progress.stop()


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` if a kernel, as in a notebook, runs this program; else None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display  # noqa: PLC0415 - only a notebook has it

    found: Callable[..., Any] = display
    return found


def _format_count(number: int) -> str:
    return f"{number:,}"


def _format_bytes(number: int) -> str:
    if number < 1000:  # noqa: PLR2004 - 1 kB in bytes
        return f"{number} B"
    size = number / 1000
    for unit in ("kB", "MB"):
        if size < 999.95:  # noqa: PLR2004 - larger values round to 1000.0
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
