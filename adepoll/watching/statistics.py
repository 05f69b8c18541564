"""What a watcher counts, and the figures that it shows. Imports html_tables.

Polls are counted in `watched_jobs`, sweeps in `list_sweeper`, wasted polls in `listing`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from attrs import define, field, fields_dict, frozen

from adepoll.common.html_tables import HtmlTable

BOUNDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram's buckets, in seconds."""
_MOST: Final = 0.95  # of the lags


@frozen(kw_only=True)
class LagHistogram(HtmlTable):
    """Histogram of detection lags: time from a job's end to the poll that observes it.

    The service does not report when a job ended. A lag is therefore an upper bound, counted from
    the last moment at which the job was known to be active, or from when the watcher got the job.
    The real lag is about half as long if polls are close to each other.

    Attributes:
        bounds: Upper bounds of the buckets, in seconds, inclusive; the last bucket has none.
        counts: Number of lags per bucket; one bucket more than bounds.
        sum: Sum of all lags, in seconds.
    """

    bounds: tuple[float, ...] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0

    def __str__(self) -> str:
        """Return the mean, and the bound of the bucket up to which 95% of the lags are."""
        lags = sum(self.counts)
        if not lags:
            return "no lag yet"
        text = f"mean {self.sum / lags:.1f} s"
        for up_to, bound in zip(accumulate(self.counts), self.bounds, strict=False):
            if up_to >= _MOST * lags:
                return f"{text}, 95% within {bound:g} s"
        return text


@frozen(kw_only=True)
class WatcherStats(HtmlTable):
    """What a watcher does now, and what it has done so far.

    Attributes:
        watched: Jobs being watched.
        in_flight: Polls in flight.
        subscribers: Open watches and waits.
        polls: Finished polls, successful or failed.
        settled: Jobs that a poll found completed, failed or cancelled.
        given_up: Jobs given up.
        sweeping: True while the job list, not the schedule, decides when jobs are polled.
        sweeps: Finished list sweeps.
        list_requests: Requests for a page of the job list.
        wasted_polls: Polls of jobs missing from the list that were still active.
        pending_confirmation: Jobs that wait to be polled immediately, most of them because they
            are missing from the list.
        detection_lag: Upper bounds of the detection lags of settled jobs.
    """

    watched: int
    in_flight: int
    subscribers: int
    polls: int
    settled: int
    given_up: int
    sweeping: bool
    sweeps: int
    list_requests: int
    wasted_polls: int
    pending_confirmation: int
    detection_lag: LagHistogram


def total(parts: Sequence[WatcherStats], *, subscribers: int) -> WatcherStats:
    """Add up the figures of several kinds, which share the same subscribers.

    `sweeping` is True if it is True for any kind.
    """
    histograms = [part.detection_lag for part in parts]
    lags = LagHistogram(
        counts=tuple(map(sum, zip(*[lag.counts for lag in histograms], strict=True))),
        sum=sum(lag.sum for lag in histograms),
    )
    names = [name for name in fields_dict(WatcherStats) if name not in _NOT_ADDED]
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    sweeping = any(part.sweeping for part in parts)
    return WatcherStats(**sums, subscribers=subscribers, sweeping=sweeping, detection_lag=lags)


_NOT_ADDED: Final = {"subscribers", "sweeping", "detection_lag"}


@define(eq=False)
class PollCounts:
    """Counts of the polls of one watcher; see `WatcherStats`."""

    polls: int = 0
    settled: int = 0
    given_up: int = 0
    _lag_counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)
    _lag_sum: float = field(default=0.0, init=False)

    def record_settled(self, lag: float) -> None:
        """Count a settled job, and its detection lag in seconds."""
        self.settled += 1
        self._lag_counts[bisect_left(BOUNDS, lag)] += 1
        self._lag_sum += lag

    def detection_lag(self) -> LagHistogram:
        """Return a copy of the lags counted so far."""
        return LagHistogram(counts=tuple(self._lag_counts), sum=self._lag_sum)
