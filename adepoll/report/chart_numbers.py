"""Numbers for charts: quantiles, round steps, and bins that a long tail does not squash.

Imports nothing of adepoll. All values are plain floats; what they measure is the caller's.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from attrs import frozen

# More bins show noise, fewer hide a second hump.
_BINS: Final = 24
_LEAST: Final = 1e-3  # a log scale has to begin somewhere

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86400.0
# What people count time in, from 15 s up; below and above, 1, 2 and 5 do.
_TIME_STEPS: Final = (
    *(10.0, 15.0, 20.0, 30.0),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 20, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 4, 6, 8, 12)),
    *(days * _DAY for days in (1, 2, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200, 365)),
)
# Marks of an axis of ratios: one or two a decade, and as many as there is a round number for.
_TENS: Final = (
    *(10.0**power for power in range(-3, 2)),
    *(tens * unit for unit in (_MINUTE, _HOUR, _DAY) for tens in (1, 10)),
    *(_DAY * 10.0**power for power in range(2, 12)),
)
_THIRDS: Final = (*_TENS, *(3 * ten for ten in _TENS))
_MARKS: Final = sorted(
    {
        *_THIRDS,
        *(factor * 10.0**power for power in range(-3, 1) for factor in (2, 5)),
        *_TIME_STEPS[2:],
    }
)


@frozen(kw_only=True)
class Spread:
    """How values spread.

    Attributes:
        count: How many there are.
        least: The smallest.
        median: Half are at most this.
        p95: 95 of 100 are at most this.
        most: The largest.
    """

    count: int
    least: float
    median: float
    p95: float
    most: float


@frozen(kw_only=True)
class Bins:
    """Values counted in bins of one width, or of one ratio.

    Attributes:
        edges: One more than there are bins, rising; a bin holds its lower edge, the last both.
        counts: How many values each bin holds.
        below: How many are smaller than the first edge.
        above: How many are larger than the last edge.
        log: Whether the bins are of one ratio.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0
    log: bool = False

    def position(self, value: float) -> float:
        """Tell where a value stands, in bins from the first edge; -0.5 and n + 0.5 for beyond."""
        edges = self.edges
        if value < edges[0]:
            return -0.5
        if value > edges[-1]:
            return len(self.counts) + 0.5
        index = min(bisect_right(edges, value), len(edges) - 1) - 1
        low, high = edges[index], edges[index + 1]
        if self.log:
            return index + math.log(value / low) / math.log(high / low)
        return index + (value - low) / (high - low)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Give the quantile of values in rising order, by linear interpolation."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(ordered: Sequence[float]) -> Spread | None:
    """Sum up values in rising order; None where there are none."""
    if not ordered:
        return None
    return Spread(
        count=len(ordered),
        least=ordered[0],
        median=quantile(ordered, 0.5),
        p95=quantile(ordered, 0.95),
        most=ordered[-1],
    )


def bins(ordered: Sequence[float]) -> Bins | None:
    """Count values, none of them negative and in rising order; None where there are none.

    Most values get most of the room. Where the slow ones are many times slower than the middle,
    bins are of one ratio; else of one width, and what lies far out is counted as `Bins.above`.
    """
    if not ordered:
        return None
    low, middle, high = (quantile(ordered, share) for share in (0.01, 0.5, 0.99))
    log = high > max(8 * middle, 10 * _LEAST)
    edges = _log_edges(low, middle, ordered[-1]) if log else _even_edges(low, high, ordered[-1])
    places = [bisect_left(ordered, edge) for edge in edges[:-1]]
    places.append(bisect_right(ordered, edges[-1]))
    return Bins(
        edges=edges,
        counts=tuple(after - before for before, after in pairwise(places)),
        below=places[0],
        above=len(ordered) - places[-1],
        log=log,
    )


def _even_edges(low: float, high: float, most: float) -> tuple[float, ...]:
    # 99 of 100 are seen at full size; the last one joins them if that costs little room.
    top = most if most <= 1.5 * high else high
    bottom = low if 0.6 * top < low < top else 0.0  # zero is worth seeing, if it is not too far
    step = time_step((top - bottom) / _BINS or top / _BINS or 1 / _BINS)
    first = math.floor(bottom / step)
    last = max(math.ceil(top / step), first + 1)
    edges = [index * step for index in range(first, last + 1)]
    edges[-1] = max(edges[-1], top)  # against rounding
    return tuple(edges)


def _log_edges(low: float, middle: float, most: float) -> tuple[float, ...]:
    bottom = max(low, middle / 100, most / 1e9, _LEAST)
    decades = math.log10(most / bottom)
    per_decade = max(1, round(_BINS / decades))
    first = math.floor(math.log10(bottom) * per_decade)
    last = math.ceil(math.log10(most) * per_decade)
    edges = [10 ** (index / per_decade) for index in range(first, last + 1)]
    edges[-1] = max(edges[-1], most)  # against rounding
    return tuple(edges)


def round_step(least: float) -> float:
    """Give the smallest of 1, 2, 5, 10, 20, 50 and so on that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 5):
        if factor * power >= least * (1 - 1e-9):
            return factor * power
    return 10 * power


def time_step(least: float) -> float:
    """Give a step of at least so many seconds that people count in, such as 15 s or 2 h."""
    if least <= _TIME_STEPS[0]:
        return round_step(least)
    return next((step for step in _TIME_STEPS if step >= least * (1 - 1e-9)), round_step(least))


def time_ticks(low: float, high: float, most: int) -> list[float]:
    """Give at most so many round times from one to the other, both in seconds."""
    step = time_step((high - low) / most) if high > low else 1.0
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return ticks if len(ticks) <= most else ticks[::2]


def log_time_ticks(low: float, high: float, most: int) -> list[float]:
    """Give at most so many round times from one to the other, for an axis of ratios."""
    inside = [mark for mark in _MARKS if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    ticks = inside
    for scale in (_THIRDS, _TENS):
        if len(ticks) > most:
            ticks = [mark for mark in inside if mark in scale]
    return ticks[:: math.ceil(len(ticks) / most) or 1]


def count_ticks(most: int, wanted: int) -> list[int]:
    """Give whole numbers from 0 up to at least `most`, in about so many round steps."""
    most = max(most, 1)
    step = max(1, int(round_step(most / wanted)))
    return [*range(0, most + step, step)]
