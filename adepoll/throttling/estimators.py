"""Learns how many requests the service accepts: at the same time, and per second.

Does no I/O. Times are seconds of one monotonic clock; the caller passes them in. After a 429, "the
gate is closed": no request is sent until Retry-After has passed. Imports nothing of adepoll.
"""

import math
from typing import Final


class Window:
    """Limits the number of concurrent requests, and raises the limit while requests succeed.

    The size is the present limit. It starts at 4 and grows by one with every second success. So if
    the window is always full, it grows by half in each round trip, up to `limit` (slow start, RFC
    5681, 2009, section 3.1).

    A 429 restarts the window with size 1; so does an outage. Then the size grows by one with each
    success. Requests that were sent before the restart belong to an earlier *epoch*: they do not
    count against the size any more, and their success does not change it.

    A new epoch without a restart (`begin_epoch`) keeps the size. The requests that are in flight
    then do not count against the size any more, but their success can still change it.

    The probes of an outage count only against `limit`. So a probe without an answer does not delay
    requests to other hosts.

    Attributes:
        limit: Largest possible size.
        size: Largest number of concurrent requests of this epoch.
        epoch: Number of epochs that have ended.
        restarted: Value of `epoch` at the last restart; 0 before the first one.
        in_flight: Number of concurrent requests of all epochs.
        full: True if a response must arrive before the next request may be sent.
    """

    __slots__ = (
        "_grown",
        "_growth",
        "_in_flight_of_epoch",
        "epoch",
        "full",
        "in_flight",
        "limit",
        "restarted",
        "size",
    )

    def __init__(self, limit: int) -> None:
        """Create a window without requests. Its size is 4, or `limit` if that is less."""
        self.limit = limit
        self.size = min(_FIRST_WINDOW, limit)
        self.epoch = self.restarted = self.in_flight = 0
        self._in_flight_of_epoch = 0
        self._growth = 0  # number of successes that may still increase the size
        self._grown = 0.0  # growth so far that is less than one request
        self.full = False

    @property
    def room(self) -> int:
        """Number of requests that may be sent now, before the next response arrives."""
        return min(self.size - self._in_flight_of_epoch, self.limit - self.in_flight)

    @property
    def is_at_limit(self) -> bool:
        """True if `limit` requests are in flight. Then even the probe of an outage must wait."""
        return self.in_flight >= self.limit

    def sent(self, *, is_probe: bool = False) -> None:
        """Count a request as in flight.

        A probe, which tests whether a host that is down works again, counts only against `limit`.
        """
        self.in_flight += 1
        self._in_flight_of_epoch += not is_probe
        # The size may grow only while at least half of it is used (RFC 7661, 2015, section 4).
        if 2 * self._in_flight_of_epoch >= self.size:
            self._growth = self._in_flight_of_epoch
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit

    def ended(self, epoch: int, *, succeeded: bool = False, is_probe: bool = False) -> None:
        """Count a request as ended. A success can increase the size of the window.

        Args:
            epoch: The value that the attribute `epoch` had when the request was sent. If the window
                has been restarted since then, the success does not change the size.
            succeeded: True if the request succeeded.
            is_probe: The value that was passed to `sent`.
        """
        self.in_flight -= 1
        if epoch == self.epoch and not is_probe:
            self._in_flight_of_epoch -= 1
        if succeeded and self._growth and epoch >= self.restarted and self.size < self.limit:
            self._growth -= 1
            self._grown += 1.0 if self.restarted else _FIRST_GROWTH
            if self._grown >= 1:
                self._grown -= 1
                self.size += 1
        if self.full:
            self._update_full()

    def restart(self) -> None:
        """Set the size to one. Requests that are in flight now do not count against it any more."""
        self.size = 1
        self._growth = 0
        self.begin_epoch()
        self.restarted = self.epoch

    def begin_epoch(self) -> None:
        """Begin a new epoch: requests that are in flight now no longer count against `size`."""
        self._in_flight_of_epoch = 0
        self.epoch += 1
        self._update_full()

    def _update_full(self) -> None:
        """Update `full`, which is True if no request may be sent before a response arrives."""
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit


class Rate:
    """Estimates the service's rate limit, in requests per second. No estimate before the first 429.

    Each 429 lowers the rate a little. While no 429 comes, the rate grows: slowly at first, then
    faster and faster (with the fourth power of the time; CUBIC, RFC 9438, 2023, section 4.2,
    searches for capacity in a similar way). So few requests are throttled, free capacity is used
    within seconds, and a limit that no longer exists is forgotten.

    Several processes can share a limit without knowing each other. A process with a higher rate
    gets more 429s, and each rate grows in proportion to its value. So the rates of the processes
    become equal (Bansal & Balakrishnan, Binomial Congestion Control Algorithms, 2001, section 3).

    After a 429, the new rate is the recent average of the rate, made lower:

    - By up to 40%, if the 429 came soon after the gate had opened. While the gate was closed, the
      service may have saved capacity (token bucket), so that the average is too high.
    - By 1% to 6% after any other 429. 1% is enough if the last estimates were equal. If they
      differ, other processes probably use a changing share of the limit.

    The rate grows more slowly if the last estimates were equal, if the rate before the last 429
    lasted long, if the last 429 closed the gate for more than a second, or if few requests are
    sent. So the search for a higher limit costs only a small share of the time.

    Attributes:
        value: Requests per second; None if no limit is known.
        interval: Seconds between two requests at this rate; 0.0 if no limit is known.
        granted: Number of requests that were sent since the last 429 and succeeded. The caller
            counts them.
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
        """Create an object without an estimate: `value` is None."""
        self.value: float | None = None
        self.interval = 0.0
        self.granted = 0
        self._last_sent = math.inf  # time of the last request; infinity before the first one
        self._throttled_at = -math.inf  # time of the last 429
        self._open_for = 0.0  # seconds since the last 429 in which requests were sent
        self._closed_for = 0.0  # seconds for which the last 429 closed the gate
        self._opened_early = False  # True if no request succeeded between the last two 429s
        self._lasted = 0.0  # seconds for which requests succeeded before the last 429
        # The rate grows from `_base` to twice `_base` in `_rise` seconds of growth.
        self._base = self._rise = 1.0
        self._grown = 0.0  # seconds since the last 429 in which the rate has grown
        self._average = 0.0  # recent average of the rate
        self._estimate = 0.0  # average of the rate before the last 429
        self._deviation = _FIRST_DEVIATION  # mean relative difference between the last estimates
        self._decrease = _DECREASES[1]  # share by which the last 429 lowered the rate
        # While no request succeeds, 429s do not lower the rate below this value.
        self._lowest = SLOWEST

    def sent(self, now: float, *, held_back: bool) -> bool:
        """Record that a request was sent; return True if the rate has changed.

        Args:
            now: Time at which the request was sent.
            held_back: True if the request had to wait because of the rate. Only such a request can
                raise the rate. If requests need not wait, there are fewer than the rate allows, and
                they do not show that the service accepts more (RFC 7661, 2015, section 4).
        """
        passed = now - self._last_sent
        self._last_sent = now
        if passed <= 0:
            return False
        # Time without requests does not count: at most two intervals count.
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
            now: Time at which the 429 arrived.
            sent_at: Time at which the request that got the 429 was sent. It must be later than the
                previous 429.
            gate_opens_at: Time until which the 429 stops all requests.
        """
        if self.value is None:
            rate = self._first_rate(now, closed_for=max(0.0, gate_opens_at - now))
        elif not self.granted:
            # No request has succeeded since the previous 429: the gate was opened too early. If
            # this happens once, it says little about the rate.
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
        """Record the time until which the last 429 stops all requests.

        Call this method again if that time becomes later, because a request that was sent before
        the last 429 gets a 429, too.
        """
        self._closed_for = max(0.0, opens_at - self._throttled_at)
        # While the gate is closed, a limit such as a token bucket saves capacity for about a
        # second. The capacity of the other seconds is lost, so 429s should then be rare.
        lost = max(0.0, self._closed_for - _SAVED)
        rise = max(_RISE + _RISE_PER_LOST * lost, _RISE_IN_REQUESTS / self._base)
        rise *= _DECREASES[1] / self._decrease
        longest = max(_RISE_PER_LASTED * self._lasted, _MIN_LONGEST_RISE)
        self._rise = min(rise, _LONGEST_RISE, longest)
        self._last_sent = max(self._last_sent, opens_at)

    def _first_rate(self, now: float, *, closed_for: float) -> float:
        """Return the rate after the first 429, in requests per second.

        It is estimated from the number of requests that succeeded before the 429.

        Args:
            now: Time at which the 429 arrived.
            closed_for: Seconds for which the 429 stops all requests. The longer this is, the lower
                the rate.
        """
        lasted = self._open_for + max(now - self._last_sent, _MIN_ROUND_TRIP)
        share = (lasted / (lasted + closed_for)) ** _FIRST_EXPONENT
        self._estimate = max(self.granted, 1) / lasted * share
        self._lasted = 0.0
        self._deviation, self._decrease = _FIRST_DEVIATION, _DECREASES[1]
        return self._estimate

    def _next_rate(self) -> float:
        """Return the rate after the second or a later 429, in requests per second.

        This method also updates the estimate of the limit, and how much the last estimates differ.
        """
        difference = abs(math.log(self._average / self._estimate))
        self._deviation = (self._deviation + difference) / 2
        self._estimate = self._average
        self._decrease = min(max(self._deviation, _DECREASES[0]), _DECREASES[1])
        closed_for = self._closed_for * min(1.0, _QUICK / self._lasted)
        share = math.sqrt(self._lasted / (self._lasted + closed_for))
        return self._average * min(1 - self._decrease, max(share, _LOWEST_SHARE_OF_QUICK))


SLOWEST: Final = 0.1
"""Lowest rate after 429s, in requests per second. The gate can lead to longer pauses."""

_FIRST_WINDOW: Final = 4  # size of a new window, in requests
_FIRST_GROWTH: Final = 0.5  # growth of a new window with each success, in requests

# The following values were chosen by simulation of `Rate` with 1 to 8 processes: token buckets of
# 5 to 200 requests per second and bursts of 1 to 400, windows of a minute, limits of concurrent
# requests, and all forms of Retry-After (`tests/benchmarks/fleet.py`). Times are seconds.
_MIN_ROUND_TRIP: Final = 0.01
# The estimate at the first 429 is multiplied by the share of time with an open gate, to this power.
_FIRST_EXPONENT: Final = 0.6
_FIRST_DEVIATION: Final = 0.5
_RECENT: Final = 2.0  # time constant of the average
_RECENT_SHARE: Final = 0.4  # largest time constant, as a share of the time of growth
_QUICK: Final = 3.0  # seconds; if the rate lasted longer, the time with a closed gate counts less
_LOWEST_SHARE_OF_QUICK: Final = 0.6  # lowest new rate, as a share of the average
_DECREASES: Final = (0.01, 0.06)  # smallest and largest share by which a 429 lowers the rate
_DECREASE_UNGRANTED: Final = 0.65  # factor of the rate, if no request succeeded between two 429s
_LOWEST_SHARE: Final = 0.25  # `_lowest`, as a share of the last rate at which a request succeeded
_POWER: Final = 4  # exponent of the time in the growth of the rate
_RISE: Final = 11.0  # usual value of `_rise`
_RISE_IN_REQUESTS: Final = 12.0  # lowest number of requests in `_rise` seconds
_RISE_PER_LASTED: Final = 8.0  # maximum of `_rise`, as a multiple of `_lasted`
_RISE_PER_LOST: Final = 40.0  # seconds added to `_rise` for each closed second beyond `_SAVED`
_MIN_LONGEST_RISE: Final = 4.0  # lowest value of the maximum that `_RISE_PER_LASTED` sets
_LONGEST_RISE: Final = 200.0  # highest value of `_rise`
# Seconds. If the gate is closed for longer, capacity is lost; see `gate_closed_until`.
_SAVED: Final = 1.1
# The limit is forgotten when the rate has reached this multiple of the rate after the last 429:
# `_DISPROVED` if requests were sent for `_FORGET_AFTER` seconds, otherwise `_DISPROVED_EARLY`.
_DISPROVED: Final = 8.0
_DISPROVED_EARLY: Final = 64.0
_FORGET_AFTER: Final = 60.0
