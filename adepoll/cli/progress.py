"""What is shown while a batch runs: a live display on a terminal, plain lines elsewhere."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adepoll.api.client import AdeClient
from adepoll.api.models import JobStatus
from adepoll.batch import Batch
from adepoll.cli.output import put_line
from adepoll.cli.running import drop, say
from adepoll.cli.standing import Speed, Standing, in_words, paces, troubles
from adepoll.redaction import showable
from adepoll.watching.subscriptions import Watch
from adepoll.watching.watcher import JobWatcher

_REFRESHES_PER_SECOND: Final = 4
_LIVE_WINDOW: Final = 15.0  # seconds over which a speed is told
_PLAIN_EVERY: Final = 10.0
_AT_FIRST: Final = 60.0  # in this time each of them is told
_LATER_EVERY: Final = 60.0
_AT_REST_EVERY: Final = 600.0  # nothing has happened since the last line
_WIDEST: Final = 100
_WIDEST_BAR: Final = 40
_NARROWEST_BAR: Final = 8
_GAP: Final = "  "


def show(source: Callable[[], Standing], *, quiet: bool = False) -> "View":
    """Give the view that suits stderr: live on a terminal, plain lines elsewhere, none if `quiet`.

    Args:
        source: Says how it stands; called within the event loop, some times a second.
        quiet: Whether nothing is to be shown.
    """
    if quiet:
        return View(source)
    if sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal:
        return ProgressView(source)
    return PlainView(source)


def watch_standing(
    watched: Watch,
    client: AdeClient,
    watcher: JobWatcher,
    *,
    missed: int = 0,
    fetching: int = 0,
    bytes_fetched: int = 0,
) -> Standing:
    """Give how a watch stands, and the downloads beside it."""
    progress, stats = watched.progress, client.stats
    return Standing(
        known=progress.known,
        complete=progress.complete,
        settled=progress.settled,
        unresolved=progress.unresolved,
        missed=missed,
        fetching=fetching,
        bytes_fetched=bytes_fetched,
        requests=stats.requests,
        throttled_for=stats.gate_closed_for,
        time_left=watcher.time_left() if progress.complete else None,
    )


def batch_standing(batch: Batch, client: AdeClient) -> Standing:
    """Give how a batch stands."""
    progress, stats = batch.progress, client.stats
    return Standing(
        known=progress.known,
        complete=progress.complete,
        settled=progress.settled,
        before=progress.before,
        unresolved=progress.unresolved,
        missed=progress.missed,
        fetching=progress.fetching,
        bytes_fetched=progress.bytes_fetched,
        requests=stats.requests,
        throttled_for=stats.gate_closed_for,
        time_left=batch.time_left() if progress.complete else None,
    )


class View:
    """Shows nothing; those that show something stand on it. A context manager, within a loop.

    What is shown is drawn from a timer, so that the jobs themselves cost no drawing.
    """

    _every = 0.0  # seconds; 0.0 for never

    def __init__(self, source: Callable[[], Standing]) -> None:
        """`source` says how it stands."""
        self._source = source
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._every:
            self._begin()
            self._set_timer()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop showing."""
        self.stop()

    def stop(self) -> None:
        """Show no more, and take away what should not stay. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._end()

    async def line(self, text: str) -> None:
        """Print a line on stdout; when this returns, the next program or person can read it."""
        await put_line(text)

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._tick)

    def _tick(self) -> None:
        self._draw()
        self._set_timer()

    def _begin(self) -> None:
        """Show the beginning."""

    def _draw(self) -> None:
        """Show how it stands now."""

    def _end(self) -> None:
        """Show no more."""


class PlainView(View):
    """Tells on stderr how it stands: every 10 s in the first minute, then every 60 s.

    As soon as something begins to go wrong it is told within 10 s; while nothing happens at all,
    every 10 minutes will do.
    """

    _every = _PLAIN_EVERY

    def _begin(self) -> None:
        self._speed = Speed(_LATER_EVERY)
        self._began = self._told_at = asyncio.get_running_loop().time()
        self._told: Standing | None = None
        self._speed.take(self._began, self._source())

    def _draw(self) -> None:
        now = asyncio.get_running_loop().time()
        standing = self._source()
        self._speed.take(now, standing)
        if now - self._began <= _AT_FIRST or now - self._told_at >= self._patience(standing):
            say(f"adepoll: {in_words(standing, self._speed)}")
            self._told_at, self._told = now, standing

    def _patience(self, standing: Standing) -> float:
        told = self._told
        if told is None or _goes_wrong(standing) - _goes_wrong(told):
            return 0.0
        return _AT_REST_EVERY if _moved(standing) == _moved(told) else _LATER_EVERY


def _goes_wrong(standing: Standing) -> set[str]:
    """Give what goes wrong, by kind."""
    kinds = {
        "unresolved": standing.unresolved,
        "missed": standing.missed,
        "throttled": standing.throttled_for >= 1,
    }
    return {kind for kind, is_so in kinds.items() if is_so}


def _moved(standing: Standing) -> tuple[object, ...]:
    return (
        standing.known,
        standing.ended,
        standing.unresolved,
        standing.missed,
        standing.bytes_fetched,
    )


class ProgressView(View):
    """Shows on a terminal how it stands, and keeps it up to date; lines go above it."""

    _every = 1 / _REFRESHES_PER_SECOND

    def _begin(self) -> None:
        self._speed = Speed(_LIVE_WINDOW)
        self._began = asyncio.get_running_loop().time()
        self._live = Live(
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # see `line`
        )
        with _unless_gone():
            self._live.start()
            self._draw()

    async def line(self, text: str) -> None:
        """Print a line on stdout: above what is shown, where both go to a screen."""
        if sys.stdout.isatty() and self._live.is_started:
            # No wrapping: words that a person copies must not be broken in two.
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            await put_line(text)

    def _draw(self) -> None:
        now = asyncio.get_running_loop().time()
        standing = self._source()
        self._speed.take(now, standing)
        with _unless_gone():
            display = Display(standing, self._speed, now - self._began)
            self._live.update(display, refresh=True)

    def _end(self) -> None:
        with _unless_gone():
            self._live.stop()


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Go on without the terminal, where it was closed."""
    try:
        yield
    except OSError:
        drop(sys.__stderr__)


class Display:
    """What the live display shows: a bar, what was found, how fast; in any width."""

    def __init__(self, standing: Standing, speed: Speed, elapsed: float) -> None:
        """Show how it stands, `elapsed` seconds after the beginning."""
        self._standing = standing
        self._speed = speed
        self._elapsed = elapsed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        width = min(options.max_width, _WIDEST)
        yield self._bar(width)
        standing = self._standing
        found = [
            Text(f"{count:,} {status.value}", style=_STYLES.get(status, ""))
            for status, count in standing.by_status()
        ]
        found += [Text(told, style="magenta") for told in troubles(standing)]
        yield from _packed(found, width)
        yield from _packed(
            [
                Text(told, style="yellow" if told.startswith("throttled") else "")
                for told in paces(standing, self._speed)
            ],
            width,
        )

    def _bar(self, width: int) -> RenderableType:
        standing = self._standing
        ended, total = standing.ended, standing.total
        minutes, seconds = divmod(int(self._elapsed), 60)
        clock = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        of = f"{ended:,}/{'?' if total is None else f'{total:,}'}"
        cells: list[RenderableType] = [Text("settled"), Text(of), Text(clock, style="cyan")]
        room = width - sum(len(text) + len(_GAP) for text in ("settled", of, clock))
        if room >= _NARROWEST_BAR:
            bar = ProgressBar(
                total=total, completed=ended, width=min(room, _WIDEST_BAR), pulse=total is None
            )
            cells.insert(1, bar)
        grid = Table.grid(padding=(0, len(_GAP), 0, 0))
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        return grid


def _packed(parts: Iterable[Text], width: int) -> list[Text]:
    """Put parts on as few lines as they need; none is broken in two."""
    lines: list[Text] = []
    for part in parts:
        part.no_wrap, part.overflow = True, "ellipsis"
        if lines and lines[-1].cell_len + len(_GAP) + part.cell_len <= width:
            lines[-1].append(_GAP).append_text(part)
        else:
            lines.append(Text(no_wrap=True, overflow="ellipsis").append_text(part))
    return lines


class TransferView:
    """Shows a download on stderr, where that is a terminal; nothing elsewhere."""

    def __init__(self, name: str) -> None:
        """`name` is what is shown of the file."""
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            disable=not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task(showable(name, 40), total=None)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the line away."""
        self._progress.stop()

    def update(self, there: int, size: int | None) -> None:
        """Take in how many bytes are there, of how many."""
        self._progress.update(self._bar, completed=there, total=size)


_STYLES = {
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
}
