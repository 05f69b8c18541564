"""download_progress: show how far a download has come."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from adepoll.display.views import State, make_view

_INTERVAL: Final = 0.1  # seconds between two drawings


@contextmanager
def download_progress(name: str = "received") -> Iterator[Callable[[int, int | None], None]]:
    """Show how far a download has come. Outside of terminals and notebooks, show nothing.

    ``with download_progress("job-1") as show: await fetcher.download("job-1", path,
    progress=show)``.

    Args:
        name: The word in front of the numbers.
    """
    view = make_view()
    drawn_at = 0.0
    state = State(name=name, done=0, total=None, is_size=True)

    def show(received: int, size: int | None) -> None:
        nonlocal drawn_at, state
        state = State(name=name, done=received, total=size, is_size=True)
        now = time.monotonic()
        if view is not None and now - drawn_at >= _INTERVAL:
            drawn_at = now
            view.show(state)

    try:
        yield show
    finally:
        if view is not None:
            view.show(state)
            view.close()
