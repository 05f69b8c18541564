"""Progress on stderr: a live display on a terminal, and plain lines otherwise."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from adepoll import JobStatus
from adepoll.cli.batch_state import (
    BatchState,
    Speed,
    describe,
    describe_problems,
    describe_speed,
)
from adepoll.cli.messages import discard, say
from adepoll.cli.stdout_writer import write_line_async
from adepoll.common.closing import Closeable
from adepoll.common.redaction import showable

_REFRESHES_PER_SECOND: Final = 4
_LIVE_SPEED_WINDOW: Final = 15.0  # seconds over which the live display averages the speed
_CHECK_INTERVAL: Final = 10.0  # seconds between two checks; in the first minute, each prints a line
_FIRST_MINUTE: Final = 60.0
_LINE_INTERVAL: Final = 60.0  # seconds between two lines after the first minute
_IDLE_LINE_INTERVAL: Final = 600.0  # seconds between two lines while nothing changes
_MAX_WIDTH: Final = 100
# Columns that stay free at the right: after Ctrl-C, a terminal shows "^C" at the cursor. If this
# text needed another line, the cursor would move down, and rich would not erase the whole display.
_ROOM_FOR_ECHO: Final = 3
_MAX_BAR_WIDTH: Final = 40
_MIN_BAR_WIDTH: Final = 8
_GAP: Final = "  "


def progress_view(source: Callable[[], BatchState], *, quiet: bool = False) -> "View":
    """Return the view for stderr: a live display on a terminal, otherwise plain lines.

    Args:
        source: Returns the current state; called in the event loop, up to four times per second.
        quiet: True for a view that shows nothing.
    """
    if quiet:
        return View(source)
    if sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal:
        return LiveView(source)
    return PlainView(source)


class View(Closeable):
    """Shows the progress of a batch while its ``with`` block runs. This base class shows nothing.

    A subclass draws the state on stderr, again each time `_interval` seconds have passed. So the
    time spent on drawing does not grow with the number of jobs.
    """

    _interval = 0.0  # seconds between two drawings; 0.0 for no drawing

    def __init__(self, source: Callable[[], BatchState]) -> None:
        """Create a view that draws nothing yet; `source` returns the current state of the batch."""
        self._source = source
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begin to show the state, and redraw it regularly; the base class does nothing."""
        if self._interval:
            self._begin()
            self._set_timer()
        return self

    def close(self) -> None:
        """Stop showing the state. Later calls do nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._end()

    async def line(self, text: str) -> None:
        """Print a line on stdout, and wait until it is written."""
        await write_line_async(text)

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._draw()
        self._set_timer()

    def _begin(self) -> None:
        """Prepare the drawing. Called once, before the first `_draw`."""

    def _draw(self) -> None:
        """Draw the current state of the batch on stderr; the base class does nothing."""

    def _end(self) -> None:
        """Erase the drawing from the terminal; the base class does nothing."""


class PlainView(View):
    """Prints lines on stderr: every 10 s in the first minute, then every 60 s.

    A new kind of problem is printed within 10 s. While no number changes, a line is printed every
    10 minutes.
    """

    _interval = _CHECK_INTERVAL

    def _begin(self) -> None:
        self._speed = Speed(_LINE_INTERVAL)
        self._began = self._printed_at = asyncio.get_running_loop().time()
        self._printed = self._source()
        self._speed.add(self._began, self._printed)

    def _draw(self) -> None:
        now = asyncio.get_running_loop().time()
        state = self._source()
        self._speed.add(now, state)
        in_first_minute = now - self._began <= _FIRST_MINUTE
        if in_first_minute or now - self._printed_at >= self._line_interval(state):
            say(f"adepoll: {describe(state, self._speed)}")
            self._printed_at, self._printed = now, state

    def _line_interval(self, state: BatchState) -> float:
        """Return the seconds from the previous line to the next one, after the first minute.

        0 if the batch has a new kind of problem. 600 if no number has changed since the previous
        line, otherwise 60.
        """
        printed = self._printed
        if _problems(state) - _problems(printed):
            return 0.0
        return _IDLE_LINE_INTERVAL if _counts(state) == _counts(printed) else _LINE_INTERVAL


def _problems(state: BatchState) -> set[str]:
    """Return names for the kinds of problems that the batch has now, such as "throttled"."""
    kinds = {
        "unresolved": state.unresolved,
        "not fetched": state.not_fetched,
        "failing": state.failure is not None,
        "throttled": state.throttled_for >= 1,
    }
    return {kind for kind, is_present in kinds.items() if is_present}


def _counts(state: BatchState) -> tuple[int, ...]:
    """Return the numbers that change whenever the batch makes progress."""
    return (
        state.known,
        state.settled_count,
        state.unresolved,
        state.not_fetched,
        state.bytes_fetched,
    )


class LiveView(View):
    """A live display on a terminal; lines of stdout are printed above it."""

    _interval = 1 / _REFRESHES_PER_SECOND

    def _begin(self) -> None:
        self._speed = Speed(_LIVE_SPEED_WINDOW)
        self._began = asyncio.get_running_loop().time()
        self._live = Live(
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # the method `line` prints on stdout
        )
        with _ignore_closed_terminal():
            self._live.start()
            self._draw()

    async def line(self, text: str) -> None:
        """Print a line on stdout, above the display if stdout is a terminal too."""
        if sys.stdout.isatty() and self._live.is_started:
            # No wrapping, so that ids and paths can be copied.
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            await write_line_async(text)

    def _draw(self) -> None:
        now = asyncio.get_running_loop().time()
        state = self._source()
        self._speed.add(now, state)
        with _ignore_closed_terminal():
            display = Display(state, self._speed, now - self._began)
            self._live.update(_Narrow(display), refresh=True)

    def _end(self) -> None:
        with _ignore_closed_terminal():
            self._live.stop()


@contextmanager
def _ignore_closed_terminal() -> Iterator[None]:
    """Continue without a display if the terminal was closed."""
    try:
        yield
    except OSError:
        discard(sys.__stderr__)


class _Narrow:
    """Content of the terminal, drawn with `_ROOM_FOR_ECHO` free columns at the right."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the content."""
        width = max(options.max_width - _ROOM_FOR_ECHO, 1)
        yield from console.render(self._content, options.update(max_width=width))


class Display:
    """Content of the live display: a bar, numbers of jobs, and speed. Fits any terminal width."""

    def __init__(self, state: BatchState, speed: Speed, elapsed: float) -> None:
        """Create the content for a state; `elapsed` is the number of seconds since the start."""
        self._state = state
        self._speed = speed
        self._elapsed = elapsed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the display."""
        width = min(options.max_width, _MAX_WIDTH)
        yield self._bar(width)
        state = self._state
        counts = [
            Text(f"{count:,} {status.value}", style=_STYLES.get(status, ""))
            for status, count in state.by_status()
        ]
        counts += [Text(phrase, style="magenta") for phrase in describe_problems(state)]
        yield from _packed(counts, width)
        yield from _packed(
            [
                Text(phrase, style="yellow" if phrase.startswith("throttled") else "")
                for phrase in describe_speed(state, self._speed)
            ],
            width,
        )

    def _bar(self, width: int) -> RenderableType:
        """Return the first line: bar, counts and time. On a narrow terminal, leave out the bar."""
        settled, total = self._state.settled_count, self._state.total
        minutes, seconds = divmod(int(self._elapsed), 60)
        clock = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        count = f"{settled:,}/{'?' if total is None else f'{total:,}'}"
        cells: list[RenderableType] = [Text("settled"), Text(count), Text(clock, style="cyan")]
        room = width - sum(len(text) + len(_GAP) for text in ("settled", count, clock))
        if room >= _MIN_BAR_WIDTH:
            bar = ProgressBar(
                total=total,
                completed=settled,
                width=min(room, _MAX_BAR_WIDTH),
                pulse=total is None,
            )
            cells.insert(1, bar)
        grid = Table.grid(padding=(0, len(_GAP), 0, 0))
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        return grid


def _packed(parts: Iterable[Text], width: int) -> list[Text]:
    """Return lines that contain these texts side by side; cut texts longer than `width`."""
    lines: list[Text] = []
    for part in parts:
        part.truncate(width, overflow="ellipsis")
        if lines and lines[-1].cell_len + len(_GAP) + part.cell_len <= width:
            lines[-1].append(_GAP).append_text(part)
        else:
            lines.append(Text().append_text(part))
    return lines


class _NameColumn(ProgressColumn):
    """The name of a bar. On a narrow terminal, it is cut, so that all numbers are visible."""

    def render(self, task: Task) -> Text:
        """Return the name."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _NarrowProgress(Progress):
    """A bar of rich, drawn as `_Narrow`."""

    def get_renderable(self) -> RenderableType:
        """Return the bar."""
        return _Narrow(super().get_renderable())


class BarView(Closeable):
    """A progress bar on stderr, which is erased at the end.

    Shows nothing if stderr is not a terminal.
    """

    def __init__(self, name: str, *columns: ProgressColumn) -> None:
        """Create a bar with the text `name` before it, and with `columns` after it."""
        console = Console(stderr=True)
        self._progress = _NarrowProgress(
            _NameColumn(),
            BarColumn(bar_width=24),
            *columns,
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            disable=not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task(showable(name, 200), total=None)

    def __enter__(self) -> Self:
        """Begin to show the bar."""
        self._progress.start()
        return self

    def close(self) -> None:
        """Erase the bar."""
        self._progress.stop()

    def update(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes or jobs are done; `total` is None if it is unknown."""
        self._progress.update(self._bar, completed=done, total=total)


class DownloadView(BarView):
    """Shows how many bytes of a file have been downloaded."""

    def __init__(self, name: str) -> None:
        """Create a view for the file `name`."""
        super().__init__(
            name,
            DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
            TransferSpeedColumn(table_column=Column(no_wrap=True)),
        )


class ExportView(BarView):
    """Shows how many jobs of a batch have been read for tables."""

    def __init__(self) -> None:
        """Create a view that shows no number yet."""
        super().__init__("jobs read", MofNCompleteColumn(table_column=Column(no_wrap=True)))


_STYLES = {
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
}
