"""How late it was seen that jobs had ended, as a histogram. Imports nothing of adepoll."""

from bisect import bisect_left
from typing import Final

from attrs import define, field, frozen

BOUNDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds."""


@frozen(kw_only=True)
class LagHistogram:
    """How long jobs had ended, at most, when a look saw it.

    The service does not tell when a job ended. A lag is therefore counted from when the job was
    last known to be active, and where it never was, from when the watcher was given it: the real
    one is shorter, about half as long where looks are close to each other.

    Attributes:
        bounds: Upper bounds of the lags, in seconds, those included; the last count has none.
        counts: How many lags lay up to each bound and beyond the one before; one more than bounds.
        sum: Of all lags, in seconds.
    """

    bounds: tuple[float, ...] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0


@define(eq=False)
class DetectionLag:
    """Counts lags as they are seen."""

    _counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)
    _sum: float = field(default=0.0, init=False)

    def add(self, lag: float) -> None:
        """Count one, in seconds."""
        self._counts[bisect_left(BOUNDS, lag)] += 1
        self._sum += lag

    def histogram(self) -> LagHistogram:
        """Give the counts so far; a copy that does not change."""
        return LagHistogram(counts=tuple(self._counts), sum=self._sum)
