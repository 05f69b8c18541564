"""Numbers for charts: quantiles, histogram bins, and axis ticks. Imports nothing of adepoll."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from attrs import frozen

# Number of bins of a histogram. More bins would show noise, and fewer could hide a second peak.
_BINS: Final = 24
_LOG_MINIMUM: Final = 1e-3  # lower end of a logarithmic scale
_NEARLY_EQUAL: Final = 1e-9  # largest difference of values that are shown as equal, as a share

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86400.0
# Steps of a time axis in seconds, from 10 s to 365 days. Smaller and larger steps are 1, 2 or 5
# times a power of 10.
_TIME_STEPS: Final = (
    *(10.0, 15.0, 20.0, 30.0),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 20, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 4, 6, 8, 12)),
    *(days * _DAY for days in (1, 2, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200, 365)),
)
# Three sets of ticks for a logarithmic axis: about one tick per decade, about two ticks per decade,
# and all round numbers.
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
class Summary:
    """Summary of a sample.

    Attributes:
        count: Number of values.
        least: Smallest value.
        median: Median of the values.
        p95: 95th percentile of the values.
        most: Largest value.
    """

    count: int
    least: float
    median: float
    p95: float
    most: float


@frozen(kw_only=True)
class Bins:
    """A histogram.

    Attributes:
        edges: Edges of the bins in rising order, one more than there are bins. A bin includes its
            lower edge; the last bin includes both.
        counts: Number of values per bin.
        below: Number of values smaller than the first edge.
        above: Number of values larger than the last edge.
        log: True if the bins have equal width on a logarithmic scale.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0
    log: bool = False

    def position(self, value: float) -> float:
        """Return where a value is in the chart: the distance from the first edge, in bins.

        For example, 1.5 is the middle of the second bin. A value below the first edge has the
        position -0.5. With 20 bins, a value above the last edge has the position 20.5.
        """
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
    """Return the quantile `share` (0 to 1) of values in rising order, by linear interpolation."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarize(ordered: Sequence[float]) -> Summary | None:
    """Return the summary of values, which must be in rising order; None for no values."""
    if not ordered:
        return None
    return Summary(
        count=len(ordered),
        least=ordered[0],
        median=quantile(ordered, 0.5),
        p95=quantile(ordered, 0.95),
        most=ordered[-1],
    )


def bins(ordered: Sequence[float]) -> Bins | None:
    """Return a histogram of non-negative values in rising order; None if there are no values.

    If the 99th percentile is more than 8 times the median, the scale is logarithmic. Otherwise the
    bins have equal width, and outliers are counted in `Bins.above`.
    """
    if not ordered:
        return None
    low, middle, high = (quantile(ordered, share) for share in (0.01, 0.5, 0.99))
    log = high > max(8 * middle, 10 * _LOG_MINIMUM)
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


def _even_edges(low: float, high: float, maximum: float) -> tuple[float, ...]:
    """Return the edges of bins of equal width.

    Args:
        low: The 1st percentile of the values.
        high: The 99th percentile of the values.
        maximum: The largest value.
    """
    # The bins end at the 99th percentile, or at the maximum if the maximum is at most 1.5 times as
    # large.
    top = maximum if maximum <= 1.5 * high else high
    # The bins begin at zero, unless nearly all values are far away from zero.
    bottom = low if 0.6 * top < low < top else 0.0
    # If all values are nearly equal, the bins cover one second, so that their edges differ.
    width = top - bottom if top - bottom > _NEARLY_EQUAL * max(top, 1.0) else 1.0
    step = time_step(width / _BINS)
    first = math.floor(bottom / step)
    last = max(math.ceil(top / step), first + 1)
    edges = [index * step for index in range(first, last + 1)]
    edges[-1] = max(edges[-1], top)  # rounding may have made the last edge too small
    return tuple(edges)


def _log_edges(low: float, middle: float, maximum: float) -> tuple[float, ...]:
    """Return the edges of bins on a logarithmic scale.

    Args:
        low: The 1st percentile of the values.
        middle: The median of the values.
        maximum: The largest value.
    """
    bottom = max(low, middle / 100, maximum / 1e9, _LOG_MINIMUM)
    decades = math.log10(maximum / bottom)
    per_decade = max(1, round(_BINS / decades))
    first = math.floor(math.log10(bottom) * per_decade)
    last = math.ceil(math.log10(maximum) * per_decade)
    edges = [10 ** (index / per_decade) for index in range(first, last + 1)]
    edges[-1] = max(edges[-1], maximum)  # rounding may have made the last edge too small
    return tuple(edges)


def round_step(least: float) -> float:
    """Return the smallest step that is at least `least`: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 5):
        if factor * power >= least * (1 - 1e-9):
            return factor * power
    return 10 * power


def time_step(least: float) -> float:
    """Return a usual time step of at least `least` seconds, such as 15 s or 2 h."""
    if least <= _TIME_STEPS[0]:
        return round_step(least)
    return next((step for step in _TIME_STEPS if step >= least * (1 - 1e-9)), round_step(least))


def time_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round times between `low` and `high`, in seconds."""
    step = time_step((high - low) / most) if high > low else 1.0
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return ticks if len(ticks) <= most else ticks[::2]


def log_time_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round times between `low` and `high`, for a logarithmic axis."""
    inside = [mark for mark in _MARKS if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    ticks = inside
    for scale in (_THIRDS, _TENS):
        if len(ticks) > most:
            ticks = [mark for mark in inside if mark in scale]
    return ticks[:: math.ceil(len(ticks) / most) or 1]


def count_ticks(most: int, wanted: int) -> list[int]:
    """Return the labels of an axis from 0 to at least `most`, in about `wanted` equal steps."""
    most = max(most, 1)
    step = max(1, int(round_step(most / wanted)))
    return [*range(0, most + step, step)]
