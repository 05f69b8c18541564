"""What a client learns about the service: its capacity, its rate limit, and whether it is down.

Plain state without I/O. Times are arguments, in seconds of any monotonic clock. Imports nothing of
adepoll.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final


class Window:
    """The largest number of concurrent requests: slow start (RFC 5681, 2009, section 3.1).

    It starts small and grows by one with each success, so that it doubles with every round trip in
    which it is used fully, up to `limit`. `restart` reduces it to one and starts a new epoch:
    requests of earlier epochs do not count against the window, and do not change its size.

    Attributes:
        limit: Largest size.
        size: Largest number of concurrent requests of this epoch.
        epoch: Number of restarts.
        in_flight: Concurrent requests, of all epochs.
        full: Whether a response must arrive before the next request may be sent.
    """

    __slots__ = ("_growth", "_in_flight_of_epoch", "epoch", "full", "in_flight", "limit", "size")

    def __init__(self, limit: int) -> None:
        """Create an empty window."""
        self.limit = limit
        self.size = min(_FIRST_WINDOW, limit)
        self.epoch = self.in_flight = 0
        self._in_flight_of_epoch = 0
        self._growth = 0  # successes that may still increase the size
        self.full = False

    @property
    def room(self) -> int:
        """Requests that may be sent before a response arrives."""
        return min(self.size - self._in_flight_of_epoch, self.limit - self.in_flight)

    def sent(self) -> None:
        """Count a request."""
        self.in_flight += 1
        self._in_flight_of_epoch += 1
        # Only a window that is used shows that it could be larger (RFC 7661, 2015, section 4).
        if 2 * self._in_flight_of_epoch >= self.size:
            self._growth = self._in_flight_of_epoch
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit

    def ended(self, epoch: int, *, succeeded: bool = False) -> None:
        """Record the end of a request that was sent in `epoch`."""
        self.in_flight -= 1
        if epoch == self.epoch:
            self._in_flight_of_epoch -= 1
            if succeeded and self._growth and self.size < self.limit:
                self._growth -= 1
                self.size += 1
        if self.full:
            self._update_full()

    def restart(self) -> None:
        """Reduce the size to one, in a new epoch."""
        self.size = 1
        self._in_flight_of_epoch = self._growth = 0
        self.epoch += 1
        self._update_full()

    def _update_full(self) -> None:
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit


class Outage:
    """Whether the service is down, and when it may be probed again.

    `OUTAGE` failures in a row, of at least three jobs, are an outage. During an outage, single
    requests probe the service after increasing waits, until one succeeds. A job that has failed
    lately while other requests succeeded does not count: its failures must not slow others down.

    Attributes:
        failures: Failures that count, since the last success.
        probe_at: When the next probe may be sent; minus infinity without an outage.
    """

    __slots__ = ("_failing", "_known", "_new_waits", "_unnamed", "_waits", "failures", "probe_at")

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Start without an outage.

        Args:
            waits: Returns a new endless series of waits, in seconds.
        """
        self._new_waits = waits
        self._waits: Iterator[float] | None = None
        self._failing: dict[str, float] = {}  # jobs that failed since the last success; when
        self._unnamed = 0  # failures of requests without a job since then
        self._known: dict[str, float] = {}  # jobs that failed before a success; when; oldest first
        self.failures = 0
        self.probe_at = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether there is an outage now."""
        return self._waits is not None

    def failed(self, now: float, *, is_new: bool, job_id: str | None = None) -> bool:
        """Record a failure; return whether an outage starts with it.

        Args:
            now: When the request failed.
            is_new: Whether the request was sent after the last restart of the window. Only such
                a failure moves the next probe.
            job_id: The job that the request was about; None for none. Each request without a job
                counts as another one.
        """
        if job_id is None:
            self.failures += 1
            self._unnamed += 1
        elif now - self._known.get(job_id, -math.inf) > _KNOWN_FOR:
            self.failures += 1
            self._failing[job_id] = now
        jobs = len(self._failing) + self._unnamed
        starts = self._waits is None and self.failures >= OUTAGE and jobs >= _FEWEST_JOBS
        if starts:
            self._waits = self._new_waits()
        if self._waits is not None and (starts or is_new):
            self.probe_at = now + min(next(self._waits), _MAX_PROBE_WAIT)
        return starts

    def succeeded(self) -> bool:
        """Record a success; return whether an outage ends with it."""
        ends = self._waits is not None
        self._waits = None
        for job_id, failed_at in self._failing.items():
            self._known.pop(job_id, None)  # moves it to the end
            self._known[job_id] = failed_at
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._failing.clear()
        self._unnamed = self.failures = 0
        self.probe_at = -math.inf
        return ends


class Rate:
    """An estimate of the service's rate limit. There is none before the first 429.

    Each 429 lowers the rate. Then it grows as in CUBIC (RFC 9438, 2023, section 4.2): steeply at
    first, hardly at all near the last estimate (the plateau), then faster and faster in search of
    a higher limit. So few requests are throttled, and a limit that is gone is forgotten.

    A new estimate lies between the rate at the 429 and the average rate before it. A token bucket
    that was full grants more than its rate for some time, so the average is the better guess
    then: each 429 that comes before the search has begun lowers the weight of the former.

    If 429s follow each other quickly, the requests between them were paid by tokens of the whole
    time, the closed gate included. The limit then lies between requests per open second and
    requests per second, and the estimate is their geometric mean.

    The plateau is longer if the last one lasted longer, and if a 429 closes the gate for longer,
    so that the search costs only a small share of the time.

    Attributes:
        value: Requests per second; None while no limit is known.
        interval: Seconds between two requests at this rate; 0.0 while no limit is known.
        granted: Requests sent since the last 429 that succeeded. The caller increases it.
    """

    __slots__ = (
        "_average",
        "_ceiling",
        "_closed_for",
        "_depth",
        "_grown",
        "_last_sent",
        "_lasted",
        "_open_for",
        "_peak_weight",
        "_plateau",
        "_rise",
        "_throttled_at",
        "granted",
        "interval",
        "value",
    )

    def __init__(self) -> None:
        """Start without an estimate."""
        self.value: float | None = None
        self.interval = 0.0
        self._last_sent = math.inf
        self._open_for = 0.0  # seconds since the last 429 in which requests were sent
        self.granted = 0
        self._lasted = 0.0  # seconds for which the rate before the last 429 was granted
        self._throttled_at = -math.inf
        self._closed_for = 0.0  # seconds for which the last 429 closed the gate
        # The curve: it starts at a share `_depth` below the ceiling, reaches the ceiling after
        # `_plateau` seconds of growth, and doubles within another `_rise` seconds.
        self._ceiling = self._depth = self._plateau = self._rise = 0.0
        self._grown = 0.0  # seconds of growth
        self._average = 0.0  # recent average of the rate
        self._peak_weight = 0.5  # weight of the rate at the 429 in an estimate

    def sent(self, now: float, *, held_back: bool) -> bool:
        """Record a request; return whether the rate has changed.

        Args:
            now: When it was sent.
            held_back: Whether it had to wait for the rate. The rate grows only then: a limit that
                is not reached is not tested (RFC 7661, 2015, section 4).
        """
        passed = now - self._last_sent
        self._last_sent = now
        if passed <= 0:
            return False
        # Time without requests does not count.
        longest = 1.0 if self.value is None else 2.0 / self.value
        passed = min(passed, longest)
        self._open_for += passed
        if self.value is None or not held_back:
            return False
        self._grown += passed
        recent = min(self._grown / 3, _RECENT)
        self._average += (self.value - self._average) * min(1.0, passed / recent)
        self.value = self._curve()
        self.interval = 1.0 / self.value
        if self.value > _DISPROVED * self._ceiling and self._open_for > _FORGET_AFTER:
            self.value, self.interval = None, 0.0
        return True

    def throttled(self, now: float, *, sent_at: float) -> None:
        """Lower the rate after a 429.

        Args:
            now: When the 429 arrived.
            sent_at: When its request was sent; must be after the last 429.
        """
        if self.value is None:
            lasted = self._open_for + max(now - self._last_sent, _MIN_ROUND_TRIP)
            self._ceiling = max(self.granted, 1) / lasted
            value, self._lasted = self._ceiling / 2, 0.0
        elif not self.granted:
            # The gate was opened too early, which says little about the rate.
            value = max(self.value / 2, min(self.value, self._ceiling / 8))
            self._lasted /= 2
        else:
            value = self._estimate(self.value, now - sent_at)
        self.value = self._average = max(value, SLOWEST)
        self.interval = 1.0 / self.value
        self._ceiling = max(self._ceiling, self.value)
        self._depth = 1 - self.value / self._ceiling
        self._grown = self._open_for = 0.0
        self.granted = 0
        self._throttled_at = now

    def gate_closed_until(self, opens_at: float) -> None:
        """Record for how long the last 429 keeps the gate closed."""
        self._closed_for = max(0.0, opens_at - self._throttled_at)
        longest = min(
            max(_PLATEAU_PER_CLOSED * self._closed_for, _LONG_PLATEAUS[0]), _LONG_PLATEAUS[1]
        )
        shortest = max(_MIN_PLATEAU, 2 * self._closed_for)
        self._plateau = min(max(_PLATEAU_PER_LASTED * self._lasted, shortest), longest)
        self._rise = min(max(self._plateau / 2, _RISES[0]), _RISES[1])
        self._last_sent = max(self._last_sent, opens_at)

    def _estimate(self, peak: float, ago: float) -> float:
        """Set the ceiling from the rate at the 429; return the rate to start again with."""
        lasted = max(self._open_for - ago, self.granted / peak)
        searching = self._grown > self._plateau
        self._peak_weight = (
            min(1.0, self._peak_weight + 0.1) if searching else self._peak_weight / 2
        )
        estimate = self._average + self._peak_weight * (peak - self._average)
        self._ceiling = estimate * (_MARGIN if searching else _LARGER_MARGIN)
        value = self._ceiling * (1 - _DECREASE)
        if lasted < _QUICK:
            value = min(value, estimate * math.sqrt(lasted / (lasted + self._closed_for)))
            self._ceiling = math.sqrt(self._ceiling * value)
        self._lasted = lasted
        return value

    def _curve(self) -> float:
        beyond = self._grown - self._plateau
        if beyond < 0:
            return self._ceiling * (1 + self._depth * (beyond / self._plateau) ** 3)
        return self._ceiling * (1 + (beyond / self._rise) ** 3)


OUTAGE: Final = 10
"""Failures in a row that are an outage, if they are of several jobs."""

SLOWEST: Final = 0.1
"""Lowest rate after 429s, requests per second. The gate can make longer pauses."""

_FIRST_WINDOW: Final = 8
_MAX_PROBE_WAIT: Final = 30.0  # seconds
_FEWEST_JOBS: Final = 3  # whose failures are an outage
_KNOWN_FOR: Final = 120.0  # seconds
_MOST_KNOWN: Final = 1_000  # jobs

# The following values were chosen by simulation: `Rate` against token buckets of 0.5 to 200
# requests per second, bursts of 1 to 100, and all forms of Retry-After. Times are seconds.
_MIN_ROUND_TRIP: Final = 0.01
_RECENT: Final = 15.0  # time constant of the average
_QUICK: Final = 6.0  # between 429s that follow each other quickly
_DECREASE: Final = 0.03
_MARGIN: Final = 0.995
_LARGER_MARGIN: Final = 0.98
_PLATEAU_PER_LASTED: Final = 8.0  # seconds of plateau for each second that the last rate lasted
_PLATEAU_PER_CLOSED: Final = 40.0  # largest plateau for each second of a closed gate
_LONG_PLATEAUS: Final = (40.0, 180.0)  # bounds of that
_MIN_PLATEAU: Final = 3.0
_RISES: Final = (5.0, 60.0)
_DISPROVED: Final = 8.0  # times the ceiling
_FORGET_AFTER: Final = 60.0  # without a 429
