"""What a watcher counts, the figures that it shows, and how fast it can poll. Imports html_tables.

Polls, settled and given-up jobs are counted in `watched_jobs`, sweeps and list requests in
`list_sweeper`, wasted polls in `listing`, and detection lags in `learning`. Times are seconds of
one monotonic clock, passed in as `now`.
"""

import math
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


@define(eq=False)
class Throughput:
    """Polls per second, as far as the budget and not the schedule decides when jobs are polled.

    A poll that ends long after its job was due was held up: by other jobs, by the client's request
    budget, or by a slow service. While most polls are held up, their rate is the highest possible
    rate. All counts fade with time.
    """

    _started: float = math.nan  # time of the first poll
    _updated: float = math.nan
    _polls: float = 0.0
    _late: float = 0.0
    _settled: float = 0.0  # late polls that found a job settled

    def record(self, due: float, now: float, *, settled: bool) -> None:
        """Record the end of a poll of a job that was due at a time."""
        if not self._polls:
            self._started = self._updated = due
        if now > self._updated + _FADE_EVERY:
            self._fade(now)
        self._polls += 1
        if now - due > _LATE:
            self._late += 1
            self._settled += settled

    @property
    def is_short(self) -> bool:
        """True if most polls are held up."""
        return self._late >= max(_MOST_LATE * self._polls, _MIN_LATE)

    def rate(self, now: float) -> float | None:
        """Return the highest possible number of polls per second; None while it is not known."""
        if not self.is_short:
            return None
        passed = max(now - self._started, _LATE)
        counted = self._polls * math.exp(-(now - self._updated) / _MEMORY)
        return counted / (_MEMORY * -math.expm1(-passed / _MEMORY))

    @property
    def settled_share(self) -> float:
        """Share of the late polls that find a settled job; high in a backlog of settled jobs."""
        return self._settled / self._late if self._late else 0.0

    def _fade(self, now: float) -> None:
        fading = math.exp(-(now - self._updated) / _MEMORY)
        self._updated = now
        self._polls *= fading
        self._late *= fading
        self._settled *= fading


_LATE: Final = 2.0  # seconds; a poll without a queue takes less
_MOST_LATE: Final = 0.5
_MIN_LATE: Final = 3.0  # polls
_MEMORY: Final = 20.0  # seconds
_FADE_EVERY: Final = 0.1  # seconds; fading at every poll would be too expensive
