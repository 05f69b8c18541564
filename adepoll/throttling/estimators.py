"""What a client learns about the service: its capacity, its rate limit, and whether it is down.

Plain state without I/O. Times are arguments, in seconds of any monotonic clock. Imports nothing of
adepoll.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final


class Window:
    """The largest number of concurrent requests: slow start (RFC 5681, 2009, section 3.1).

    It starts small and grows by one with every second success, so that it grows by half with every
    round trip in which it is used fully, up to `limit`. `restart` reduces it to one and starts a
    new epoch: requests of earlier epochs do not count against the window, and do not change its
    size. Then it grows by one with each success, since a rate or an outage limits requests, too.

    Attributes:
        limit: Largest size.
        size: Largest number of concurrent requests of this epoch.
        epoch: Number of restarts.
        in_flight: Concurrent requests, of all epochs.
        full: Whether a response must arrive before the next request may be sent.
    """

    __slots__ = (
        "_grown",
        "_growth",
        "_in_flight_of_epoch",
        "epoch",
        "full",
        "in_flight",
        "limit",
        "size",
    )

    def __init__(self, limit: int) -> None:
        """Create an empty window."""
        self.limit = limit
        self.size = min(_FIRST_WINDOW, limit)
        self.epoch = self.in_flight = 0
        self._in_flight_of_epoch = 0
        self._growth = 0  # successes that may still increase the size
        self._grown = 0.0  # growth that is not yet a whole request
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
                self._grown += 1.0 if self.epoch else _FIRST_GROWTH
                if self._grown >= 1:
                    self._grown -= 1
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
        self._failing: dict[str, float] = {}  # by job: when it failed, since the last success
        self._unnamed = 0  # failures of requests without a job since then
        self._known: dict[str, float] = {}  # by job: when it failed, before a success; oldest first
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
                counts as a job of its own.
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

    Each 429 lowers the rate a little. Then it grows with the fourth power of the time, similar to
    CUBIC in search of capacity (RFC 9438, 2023, section 4.2): slowly at first, then faster, if no
    429 comes. Therefore, few requests are throttled, free capacity is used within seconds, and a
    limit that no longer exists is forgotten.

    Several processes can share a limit without knowing of each other. Faster ones are throttled
    more often, and growth is in proportion to the rate, so that their rates become equal (Bansal &
    Balakrishnan, Binomial Congestion Control Algorithms, 2001, section 3).

    The new rate is the recent average. It is lowered by up to 40% if the 429 came soon after the
    gate had opened: then the requests between two 429s were paid by tokens of the whole time, the
    closed gate included. It is lowered by 1% if the last estimates were equal, and by up to 6% if
    they differ, because then other processes use a share that changes.

    The growth is slower if the estimates were equal, if the last rate lasted longer, if a 429
    closes the gate for longer than a second, and if few requests are sent. So the search for a
    higher limit costs only a small share of the time.

    Attributes:
        value: Requests per second; None while no limit is known.
        interval: Seconds between two requests at this rate; 0.0 while no limit is known.
        granted: Requests sent since the last 429 that succeeded. The caller increases it.
    """

    __slots__ = (
        "_average",
        "_base",
        "_closed_for",
        "_decrease",
        "_deviation",
        "_estimate",
        "_grown",
        "_last_sent",
        "_lasted",
        "_lowest",
        "_open_for",
        "_opened_early",
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
        self.granted = 0
        self._last_sent = math.inf
        self._throttled_at = -math.inf
        self._open_for = 0.0  # seconds since the last 429 in which requests were sent
        self._closed_for = 0.0  # seconds for which the last 429 closed the gate
        self._opened_early = False  # no request was granted between the last two 429s
        self._lasted = 0.0  # seconds for which the rate before the last 429 was granted
        # The curve: it starts at `_base` and doubles within `_rise` seconds of growth.
        self._base = self._rise = 1.0
        self._grown = 0.0  # seconds of growth
        self._average = 0.0  # recent average of the rate
        self._estimate = 0.0  # average before the last 429
        self._deviation = _FIRST_DEVIATION  # mean relative difference of the last estimates
        self._decrease = _DECREASES[1]
        self._lowest = SLOWEST  # rate that 429s alone do not lower

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
        recent = min(_RECENT_SHARE * self._grown, _RECENT)
        self._average += (self.value - self._average) * min(1.0, passed / recent)
        self.value = self._base * (1 + (self._grown / self._rise) ** _POWER)
        self.interval = 1.0 / self.value
        disproved = _DISPROVED if self._open_for > _FORGET_AFTER else _DISPROVED_EARLY
        if self.value > disproved * self._base:
            self.value, self.interval = None, 0.0
        return True

    def throttled(self, now: float, *, sent_at: float, gate_opens_at: float) -> None:
        """Lower the rate after a 429.

        Args:
            now: When the 429 arrived.
            sent_at: When its request was sent; must be after the last 429.
            gate_opens_at: When the next request may be sent.
        """
        if self.value is None:
            rate = self._first_rate(now, closed_for=max(0.0, gate_opens_at - now))
        elif not self.granted:
            # The gate was opened too early, which says little about the rate if it happens once.
            rate = self.value
            if self._opened_early:
                rate = max(_DECREASE_UNGRANTED * rate, min(rate, self._lowest))
                self._lasted /= 2
        else:
            self._lasted = max(self._open_for - (now - sent_at), self.granted / self.value)
            rate = self._next_rate()
        self._base = self._average = self.value = max(rate, SLOWEST)
        self.interval = 1.0 / self.value
        self._opened_early = not self.granted
        if self.granted:
            self._lowest = max(SLOWEST, _LOWEST_SHARE * self.value)
        self._grown = self._open_for = 0.0
        self.granted = 0
        self._throttled_at = now
        self.gate_closed_until(gate_opens_at)

    def gate_closed_until(self, opens_at: float) -> None:
        """Record how long the last 429, and others before the next request, close the gate."""
        self._closed_for = max(0.0, opens_at - self._throttled_at)
        # While the gate is closed, a bucket saves tokens for about a second; the rest is lost.
        lost = max(0.0, self._closed_for - _SAVED)
        longest = max(_RISE + _RISE_PER_LOST * lost, _RISE_IN_REQUESTS / self._base)
        longest *= _DECREASES[1] / self._decrease
        shortest = max(_RISE_PER_LASTED * self._lasted, _SHORTEST_RISE)
        self._rise = min(longest, _LONGEST_RISE, shortest)
        self._last_sent = max(self._last_sent, opens_at)

    def _first_rate(self, now: float, *, closed_for: float) -> float:
        lasted = self._open_for + max(now - self._last_sent, _MIN_ROUND_TRIP)
        share = (lasted / (lasted + closed_for)) ** _FIRST_EXPONENT
        self._estimate = max(self.granted, 1) / lasted * share
        self._lasted = 0.0
        self._deviation, self._decrease = _FIRST_DEVIATION, _DECREASES[1]
        return self._estimate

    def _next_rate(self) -> float:
        difference = abs(math.log(self._average / self._estimate))
        self._deviation = (self._deviation + difference) / 2
        self._estimate = self._average
        self._decrease = min(max(self._deviation, _DECREASES[0]), _DECREASES[1])
        closed_for = self._closed_for * min(1.0, _QUICK / self._lasted)
        share = math.sqrt(self._lasted / (self._lasted + closed_for))
        return self._average * min(1 - self._decrease, max(share, _LOWEST_SHARE_OF_QUICK))


OUTAGE: Final = 10
"""Failures in a row that are an outage, if they are of several jobs."""

SLOWEST: Final = 0.1
"""Lowest rate after 429s, requests per second. The gate can make longer pauses."""

_FIRST_WINDOW: Final = 4
_FIRST_GROWTH: Final = 0.5
_MAX_PROBE_WAIT: Final = 30.0  # seconds
_FEWEST_JOBS: Final = 3  # whose failures are an outage
_KNOWN_FOR: Final = 120.0  # seconds
_MOST_KNOWN: Final = 1_000  # jobs

# The following values were chosen by simulation of `Rate` with 1 to 8 processes: token buckets of
# 5 to 200 requests per second and bursts of 1 to 400, windows of a minute, limits of concurrent
# requests, and all forms of Retry-After (`tests/benchmarks/fleet.py`). Times are seconds.
_MIN_ROUND_TRIP: Final = 0.01
_FIRST_EXPONENT: Final = 0.6  # of the share of time in which the gate was open, for the first 429
_FIRST_DEVIATION: Final = 0.5
_RECENT: Final = 2.0  # time constant of the average
_RECENT_SHARE: Final = 0.4  # largest time constant, as a share of the time of growth
_QUICK: Final = 3.0  # a 429 within this time after the last is a quick one
_LOWEST_SHARE_OF_QUICK: Final = 0.6
_DECREASES: Final = (0.01, 0.06)
_DECREASE_UNGRANTED: Final = 0.65
_LOWEST_SHARE: Final = 0.25  # of the last rate at which a request was granted
_POWER: Final = 4
_RISE: Final = 11.0
_RISE_IN_REQUESTS: Final = 12.0
_RISE_PER_LASTED: Final = 8.0
_RISE_PER_LOST: Final = 40.0
_SHORTEST_RISE: Final = 4.0
_LONGEST_RISE: Final = 200.0
_SAVED: Final = 1.1
_DISPROVED: Final = 8.0  # times the rate after the last 429, if it is older than
_FORGET_AFTER: Final = 60.0
_DISPROVED_EARLY: Final = 64.0  # times that rate, at any time
