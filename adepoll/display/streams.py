"""progress: iterates over a watch or the run of a batch, and shows how far it has come.

A stream is any async iterable with the property `progress`, such as `Watch`.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from adepoll.display.views import State, View, make_view

T_co = TypeVar("T_co", covariant=True)
_T = TypeVar("_T")

_INTERVAL: Final = 0.25  # seconds between two drawings


class Stream(Protocol[T_co]):
    """An async iterable with the property `progress`: `Watch` or `BatchRun`."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return an iterator."""

    @property
    def progress(self) -> Any:
        """A `WatchProgress` or a `BatchProgress`."""


def progress(stream: Stream[T_co], *, name: str = "settled") -> AsyncIterable[T_co]:
    """Iterate over a watch or the run of a batch, and show how far it has come.

    ``async for job in progress(watcher.watch(job_ids)): ...`` yields the jobs of the watch, raises
    its errors, and ends the watch when the loop is left. In Jupyter and VS Code, a bar appears
    below the cell. In a terminal, a bar appears on stderr if rich is installed (extra "cli").
    Elsewhere, as in a log file or a server, nothing is shown.

    In a program without asyncio, pass ``show_progress=True`` to a function of `adepoll.sync`.

    Args:
        stream: What `JobWatcher.watch`, `JobWatcher.updates` or `Batch.run` returns.
        name: The word in front of the numbers.

    Raises:
        TypeError: The stream is not an async iterable. An example is a generator of `adepoll.sync`.
    """
    if not isinstance(stream, AsyncIterable):
        raise TypeError(
            f"progress takes a watch or the run of a batch, got {type(stream).__name__}; "
            "with adepoll.sync, pass show_progress=True to watch or run instead"
        )
    return _Shown(stream, name)


class _Shown(AsyncIterable[T_co], Generic[T_co]):
    def __init__(self, stream: Stream[T_co], name: str) -> None:
        self._stream = stream
        self._name = name

    def __aiter__(self) -> AsyncIterator[T_co]:
        iterator, view = aiter(self._stream), make_view()
        return iterator if view is None else _Loop(iterator, _Bar(self._stream, self._name, view))


class _Loop(AsyncIterator[T_co], Generic[T_co]):
    """The iterator of one loop over a stream.

    When the loop ends in any way, Python deletes this object and the iterator of the stream, which
    ends the stream. This only works if nothing else refers to this object. So its methods are not
    coroutine functions: after an interrupted cell, a notebook keeps the frame of a coroutine, and
    the frame would refer to this object.
    """

    def __init__(self, iterator: AsyncIterator[T_co], bar: "_Bar") -> None:
        self._iterator = iterator
        self._bar = bar

    def __anext__(self) -> Coroutine[Any, Any, T_co]:
        return self._bar.next_item(anext(self._iterator))

    def __del__(self) -> None:
        self._bar.end()


class _Bar:
    """Shows how far a stream has come, until `end` is called."""

    _timer: asyncio.TimerHandle | None = None
    _yielded = 0

    def __init__(self, stream: Stream[Any], name: str, view: View) -> None:
        self._stream = stream
        self._name = name
        self._view: View | None = view

    async def next_item(self, item: Awaitable[_T]) -> _T:
        """Return the next item of the stream when it arrives, and show the bar meanwhile."""
        if self._timer is None:
            self._draw()
        found = await item
        self._yielded += 1
        return found

    def end(self) -> None:
        """Show the last state, and stop."""
        view, self._view = self._view, None
        if self._timer is not None:
            self._timer.cancel()
        if view is not None:
            if self._timer is not None:
                view.show(self._state(ended=True))
            view.close()

    def _draw(self) -> None:
        """Show the current state now, and again at regular intervals."""
        if self._view is not None:
            self._view.show(self._state(ended=False))
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._draw)

    def _state(self, *, ended: bool) -> State:
        return _state_of(self._stream.progress, self._name, self._yielded, ended=ended)


def _state_of(found: Any, name: str, yielded: int, *, ended: bool) -> State:
    """Return what to show about `found`, the progress object of a watch or run.

    `yielded` is the number of items so far, and `ended` is True after the last one.
    """
    settled: Mapping[Any, int] = found.settled
    done = sum(settled.values()) + found.unresolved
    details = [f"{count:,} {status.value}" for status, count in settled.items() if count]
    details += _counted(found.unresolved, "unresolved")
    details += _counted(_number(found, "missed"), "not fetched")
    details += _counted(_number(found, "partial"), "partial")
    if found.open and not ended:
        details.append(f"{found.open:,} open")
    before = _number(found, "before")
    if ended and before and not yielded:
        details.append(
            f"{before:,} acknowledged in earlier runs; run(replay=True) yields them again"
        )
    total = found.known if found.complete or ended else None
    return State(name=name, done=done, total=total, details=details)


def _number(found: object, name: str) -> int:
    """Return the attribute `name` of a progress object; 0 if it has none of this name."""
    number: int = getattr(found, name, 0)
    return number


def _counted(number: int, what: str) -> list[str]:
    return [f"{number:,} {what}"] if number else []
