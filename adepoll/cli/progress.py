"""The live line on a terminal: how far a watch, or a download, has come."""

import asyncio
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from adepoll.client import AdeClient
from adepoll.feeds import Watch
from adepoll.models import JobStatus
from adepoll.redaction import showable
from adepoll.watcher import JobWatcher

_REFRESHES_PER_SECOND = 4


class ProgressView:
    """Shows a watch on stderr, where that is a terminal; nothing elsewhere.

    It is drawn from a timer, so that the jobs themselves cost no drawing.
    """

    def __init__(
        self,
        watched: Watch,
        client: AdeClient,
        watcher: JobWatcher,
        more: Callable[[], str] = lambda: "",
    ) -> None:
        """Make the view.

        Args:
            watched: What is shown.
            client: Whose requests are counted.
            watcher: Guesses how long it will take.
            more: Gives a few words to put behind, such as what has been downloaded.
        """
        self._watched = watched
        self._client = client
        self._watcher = watcher
        self._more = more
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
            transient=True,
            # Lines for the same screen go above the bar; those for a file or a pipe go there.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bar = self._progress.add_task("settled", total=None, told="")
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        if not self._progress.disable:
            self._tick()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self.stop()

    def stop(self) -> None:
        """Take the line away."""
        if self._timer is not None:
            self._timer.cancel()
        self._progress.stop()

    def _tick(self) -> None:
        progress = self._watched.progress
        settled = sum(progress.settled.values())
        told = [
            f"[{style}]{count} {status.value}[/]"
            for status, style in _STYLES.items()
            if (count := progress.settled.get(status))
        ]
        if progress.unresolved:
            told.append(f"[magenta]{progress.unresolved} unresolved[/]")
        stats = self._client.stats
        told.append(f"{stats.requests} requests")
        if stats.gate_closed_for > 1:
            told.append(f"[yellow]throttled for {stats.gate_closed_for:.0f} s[/]")
        if more := self._more():
            told.append(more)
        if progress.complete and (left := self._watcher.time_left()) is not None:
            told.append(f"about {_roughly(left)} left")
        total = progress.known if progress.complete else None
        self._progress.update(self._bar, completed=settled, total=total, told="  ".join(told))
        self._progress.refresh()
        self._timer = asyncio.get_running_loop().call_later(1 / _REFRESHES_PER_SECOND, self._tick)


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


def _roughly(seconds: float) -> str:
    """Give a duration in the unit that suits it; the guess is not better than that."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


_STYLES = {
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
}
