"""The statistics of a watcher (`JobWatcher.stats`), and how fast it can poll.

Where each number comes from: `watched_jobs` counts watched, settled and given-up jobs, polls and
detection lags. `pollers` counts the polls in flight. `list_sweeper` counts sweeps and list
requests. `listing` has `sweeping`, `wasted_polls` and `pending_confirmation`. `JobWatcher.stats`
counts the subscribers. `KindPolling.stats` collects the numbers of one kind of jobs, and `total`
adds up all kinds.

The numbers of requests and downloads are in `throttling.statistics` and `fetcher.statistics`.
`contrib.prometheus` lists the metrics of all packages. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from attrs import define, field, fields_dict, frozen

from adepoll.common.html_tables import HtmlTable

BOUNDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of a `LagHistogram`, in seconds."""
# The text of a histogram names a bound that this share of the lags does not exceed.
_MOST: Final = 0.95


@frozen(kw_only=True)
class LagHistogram(HtmlTable):
    """Histogram of detection lags: time from a job's end to the poll that observes it.

    The service reports when a v2 job ended, but not when a v1 job ended. So for v1 jobs, the
    counted lag is an upper bound: it begins when the job was last known to be active, or when the
    watcher got the job. If the job is polled often, the real lag is about half as long.

    Attributes:
        bounds: Upper bounds of the buckets, in seconds, inclusive; the last bucket has no bound.
        counts: Number of lags in each bucket; there is one more bucket than bounds.
        sum: Sum of all lags, in seconds.
    """

    bounds: tuple[float, ...] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0

    def __str__(self) -> str:
        """Return a text such as "mean 1.2 s, 95% within 5 s".

        The second number is the smallest of the `bounds` that at least 95% of the lags do not
        exceed. It is left out if all bounds are too small.
        """
        lags = sum(self.counts)
        if not lags:
            return "no lag yet"
        text = f"mean {self.sum / lags:.1f} s"
        for up_to, bound in zip(accumulate(self.counts), self.bounds, strict=False):
            if up_to >= _MOST * lags:
                return f"{text}, {_MOST:.0%} within {bound:g} s"
        return text


@frozen(kw_only=True)
class WatcherStats(HtmlTable):
    """The statistics of a watcher: what it does now, and what it has done so far.

    Attributes:
        watched: Number of watched jobs.
        in_flight: Number of polls in flight.
        subscribers: Number of open watches and waits.
        polls: Number of finished polls, successful or failed.
        settled: Number of jobs that polls have found completed, failed or cancelled.
        given_up: Number of jobs that were given up because their polls failed.
        sweeping: True while the job list, not the schedule, decides when jobs are polled.
        sweeps: Number of finished list sweeps.
        list_requests: Number of requests for a page of the job list.
        wasted_polls: Number of polls of jobs that were missing from the list but still active.
        pending_confirmation: Number of jobs whose next poll is due now, whatever the list says. In
            most cases, the reason is that the list does not show the job.
        detection_lag: Histogram of the detection lags of settled jobs.
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
    """Return the sums of the statistics of several kinds of jobs.

    Args:
        parts: Statistics of each kind. The result's `sweeping` is True if it is True for any kind.
        subscribers: Number of subscribers of all kinds together.
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
    """Counts the polls and jobs of one kind; `WatcherStats` describes the numbers."""

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
        """Return a histogram of the lags so far, as a copy."""
        return LagHistogram(counts=tuple(self._lag_counts), sum=self._lag_sum)


@define(eq=False)
class Throughput:
    """Measures how many polls per second are possible while the request budget is short.

    A poll is late if it ends more than two seconds after its job was due. Then other jobs, the
    client's request budget or a slow service have delayed the poll. While most polls are late,
    polls are sent as fast as possible, so their rate is the highest possible rate. In all counts,
    older polls count less.
    """

    _started: float = math.nan  # due time of the first poll
    _updated: float = math.nan  # time of the last call of `_fade`
    _polls: float = 0.0  # number of polls
    _late: float = 0.0  # number of late polls
    _settled: float = 0.0  # number of late polls that found a job settled

    def record(self, due: float, now: float, *, settled: bool) -> None:
        """Record that a poll has ended now; `due` is the time at which the job was due."""
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
        """True if most polls are late."""
        return self._late >= max(_MOST_LATE * self._polls, _MIN_LATE)

    def rate(self, now: float) -> float | None:
        """Return how many polls per second are possible; None unless most polls are late."""
        if now > self._updated + _FADE_EVERY:
            self._fade(now)  # perhaps no poll has ended for hours
        if not self.is_short:
            return None
        passed = max(now - self._started, _LATE)
        return self._polls / (_MEMORY * -math.expm1(-passed / _MEMORY))

    @property
    def settled_share(self) -> float:
        """Share of the late polls, 0 to 1, that found a settled job; 0 if no poll was late.

        A poll is late if it ended more than two seconds after its job was due.
        """
        return self._settled / self._late if self._late else 0.0

    def _fade(self, now: float) -> None:
        """Reduce the counts, so that older polls count less."""
        fading = math.exp(-(now - self._updated) / _MEMORY)
        self._updated = now
        self._polls *= fading
        self._late *= fading
        self._settled *= fading


_LATE: Final = 2.0  # seconds; a poll that does not wait for others takes less
_MOST_LATE: Final = 0.5  # share of the polls; if more are late, the request budget is short
_MIN_LATE: Final = 3.0  # late polls; with fewer, the request budget is not short
_MEMORY: Final = 20.0  # seconds after which a poll counts only 1/e, or 37%
_FADE_EVERY: Final = 0.1  # seconds between two calls of `_fade`, which is too slow for every poll
