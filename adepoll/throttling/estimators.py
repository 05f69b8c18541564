"""What is learnt of a service by using it: how many at once, how fast, and whether it is there.

Plain state without I/O or a clock of its own: times come in as arguments, in seconds of any clock
that does not go back. Imports nothing of the library.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final


class Window:
    """How many requests may be on the wire at once: slow start (RFC 5681, 2009, section 3.1).

    It starts small and grows by one with each success, so that it doubles in every round trip
    that it is made full use of, up to `most`. `shut` makes it one again, and begins an epoch:
    those sent before are not waited for, and what becomes of them moves it no more.

    Attributes:
        most: Largest size.
        size: Most requests of this epoch on the wire at once.
        epoch: How often it was shut.
        on_wire: Requests on the wire, of all epochs.
        full: Whether an answer must come before the next request may be sent.
    """

    __slots__ = ("_credit", "_fresh", "epoch", "full", "most", "on_wire", "size")

    def __init__(self, most: int) -> None:
        """Start with nothing on the wire."""
        self.most = most
        self.size = min(_FIRST_WINDOW, most)
        self.epoch = self.on_wire = 0
        self._fresh = 0  # those of this epoch
        self._credit = 0  # successes that may still make it grow
        self.full = False

    @property
    def room(self) -> int:
        """How many more requests may be sent before an answer comes."""
        return min(self.size - self._fresh, self.most - self.on_wire)

    def sent(self) -> None:
        """Count a request."""
        self.on_wire += 1
        self._fresh += 1
        # Only a window that is used shows that it could be larger (RFC 7661, 2015, section 4).
        if 2 * self._fresh >= self.size:
            self._credit = self._fresh
        self.full = self._fresh >= self.size or self.on_wire >= self.most

    def ended(self, epoch: int, *, well: bool = False) -> None:
        """Count one of that epoch as over, answered well or not."""
        self.on_wire -= 1
        if epoch == self.epoch:
            self._fresh -= 1
            if well and self._credit and self.size < self.most:
                self._credit -= 1
                self.size += 1
        if self.full:
            self._see_if_full()

    def shut(self) -> None:
        """Go back to one at a time."""
        self.size = 1
        self._fresh = self._credit = 0
        self.epoch += 1
        self._see_if_full()

    def _see_if_full(self) -> None:
        self.full = self._fresh >= self.size or self.on_wire >= self.most


class Outage:
    """Whether the service is there at all, and when to see if it is again.

    Many failures in a row are an outage. Then one request at a time sees how it stands, after
    waits that grow, until one succeeds.

    Attributes:
        failures: How many there were since the last success.
        probe_at: When the next request may see how it stands; in the past without an outage.
    """

    __slots__ = ("_draw", "_waits", "failures", "probe_at")

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Begin without an outage.

        Args:
            waits: Begins a series of waits, in seconds, that has no end.
        """
        self._draw = waits
        self._waits: Iterator[float] | None = None
        self.failures = 0
        self.probe_at = -math.inf

    @property
    def on(self) -> bool:
        """Whether there is one."""
        return self._waits is not None

    def failed(self, now: float, *, fresh: bool) -> bool:
        """Count a failure; give whether an outage begins with it.

        Args:
            now: When it came.
            fresh: Whether the request was sent as a probe, and not before the outage was noticed.
        """
        self.failures += 1
        begins = self._waits is None and self.failures >= OUTAGE
        if begins:
            self._waits = self._draw()
        if self._waits is not None and (begins or fresh):
            self.probe_at = now + min(next(self._waits), _LONGEST_PROBE_WAIT)
        return begins

    def succeeded(self) -> bool:
        """Count a success; give whether an outage ends with it."""
        ends = self._waits is not None
        self._waits = None
        self.failures = 0
        self.probe_at = -math.inf
        return ends


class Rate:
    """How many requests per second a service takes: not known until it has refused one as too many.

    From then on multiplicative decrease, and growth as in CUBIC (RFC 9438, 2023, section 4.2):
    steep at first, flat around what was found last, then ever steeper in search of more, so that
    a limit is held with few refusals, and one that has gone is forgotten.

    What was found lies between the rate that was refused and that which was granted on the way
    there. Where the limiter is a bucket that had saved up much, the latter is nearer: each
    refusal that comes before the search for more has begun shows that too much was believed.

    Refusals that follow quickly on each other tell more: all that was granted between them came
    from what the bucket was filled with meanwhile, the closed time included, so that the limit
    lies between what was granted by open and by all time. The rate goes to the geometric mean.

    The plateau is the longer, the longer the last one held, and the longer a refusal keeps the
    gate closed: a search costs a small share of the time only.

    Attributes:
        value: Requests per second; None while no limit is known.
        granted: Requests that were served of those sent since the last refusal; who hears of one
            counts it here.
    """

    __slots__ = (
        "_average",
        "_belief",
        "_ceiling",
        "_closed_for",
        "_depth",
        "_grown",
        "_last",
        "_lasted",
        "_open_for",
        "_plateau",
        "_refused_at",
        "_rise",
        "granted",
        "value",
    )

    def __init__(self) -> None:
        """Know nothing yet."""
        self.value: float | None = None
        self._last = math.inf  # when the last request was sent
        self._open_for = 0.0  # seconds since the last refusal in which something was asked for
        self.granted = 0  # requests since then
        self._lasted = 0.0  # seconds that the rate before the last refusal was granted
        self._refused_at = -math.inf
        self._closed_for = 0.0
        # The curve: it starts a share `_depth` below the ceiling, reaches it when it has grown
        # for `_plateau` seconds, and has doubled `_rise` seconds later.
        self._ceiling = self._depth = self._plateau = self._rise = 0.0
        self._grown = 0.0
        self._average = 0.0  # of the rate, of late
        self._belief = 0.5  # share of the refused rate in what is found

    def sent(self, now: float, *, held_back: bool) -> bool:
        """Count a request; give whether the rate has changed.

        Args:
            now: When it was sent.
            held_back: Whether it had to wait for the rate. It grows only then: a limit that is
                not reached is not tested (RFC 7661, 2015, section 4).
        """
        passed = now - self._last
        self._last = now
        if passed <= 0:
            return False
        # Time in which nobody asked for anything does not count.
        most = 1.0 if self.value is None else 2.0 / self.value
        passed = min(passed, most)
        self._open_for += passed
        if self.value is None or not held_back:
            return False
        self._grown += passed
        of_late = min(self._grown / 3, _OF_LATE)
        self._average += (self.value - self._average) * min(1.0, passed / of_late)
        self.value = self._curve()
        if self.value > _REFUTED * self._ceiling and self._open_for > _FORGET_AFTER:
            self.value = None
        return True

    def refused(self, now: float, *, sent_at: float) -> None:
        """Go down: a request was one too many.

        Args:
            now: When that was heard.
            sent_at: When the request was sent; after the last decrease, or it brings no news.
        """
        if self.value is None:
            lasted = self._open_for + max(now - self._last, _SHORTEST)
            self._ceiling = max(self.granted, 1) / lasted
            value, self._lasted = self._ceiling / 2, 0.0
        elif not self.granted:
            # The gate was opened too early, which tells little of the rate.
            value = max(self.value / 2, min(self.value, self._ceiling / 8))
            self._lasted /= 2
        else:
            value = self._find(self.value, now - sent_at)
        self.value = self._average = max(value, SLOWEST)
        self._ceiling = max(self._ceiling, self.value)
        self._depth = 1 - self.value / self._ceiling
        self._grown = self._open_for = 0.0
        self.granted = 0
        self._refused_at = now

    def closed_until(self, opens_at: float) -> None:
        """Learn how long the last refusal keeps all requests back."""
        self._closed_for = max(0.0, opens_at - self._refused_at)
        longest = min(max(_WORTH * self._closed_for, _LONG_PLATEAUS[0]), _LONG_PLATEAUS[1])
        least = max(_LEAST_PLATEAU, 2 * self._closed_for)
        self._plateau = min(max(_TRUST * self._lasted, least), longest)
        self._rise = min(max(self._plateau / 2, _RISES[0]), _RISES[1])
        self._last = max(self._last, opens_at)

    def _find(self, refused: float, ago: float) -> float:
        """Set the ceiling to what a refused rate tells of the limit; give where to start again."""
        lasted = max(self._open_for - ago, self.granted / refused)
        searching = self._grown > self._plateau
        self._belief = min(1.0, self._belief + 0.1) if searching else self._belief / 2
        found = self._average + self._belief * (refused - self._average)
        self._ceiling = found * (_CAREFUL if searching else _MORE_CAREFUL)
        value = self._ceiling * (1 - _DECREASE)
        if lasted < _QUICK:
            value = min(value, found * math.sqrt(lasted / (lasted + self._closed_for)))
            self._ceiling = math.sqrt(self._ceiling * value)
        self._lasted = lasted
        return value

    def _curve(self) -> float:
        beyond = self._grown - self._plateau
        if beyond < 0:
            return self._ceiling * (1 + self._depth * (beyond / self._plateau) ** 3)
        return self._ceiling * (1 + (beyond / self._rise) ** 3)


OUTAGE: Final = 10
"""Failures in a row that are an outage."""

SLOWEST: Final = 0.1
"""The lowest rate that refusals can bring about, requests per second; the gate waits longer."""

_FIRST_WINDOW: Final = 8
_LONGEST_PROBE_WAIT: Final = 30.0

# All that follow were chosen by playing token buckets of 0.5 to 200 requests per second, with
# bursts of 1 to 100 and with all kinds of Retry-After, against `Rate`. Times are seconds.
_SHORTEST: Final = 0.01  # that a round trip takes
_OF_LATE: Final = 15.0
_QUICK: Final = 6.0  # refusals that follow on each other
_DECREASE: Final = 0.03
_CAREFUL: Final = 0.995
_MORE_CAREFUL: Final = 0.98
_TRUST: Final = 8.0  # of plateau for each second that the last rate was granted
_WORTH: Final = 40.0  # of plateau, at most, for each second closed, within the bounds
_LONG_PLATEAUS: Final = (40.0, 180.0)
_LEAST_PLATEAU: Final = 3.0
_RISES: Final = (5.0, 60.0)
_REFUTED: Final = 8.0  # times the ceiling
_FORGET_AFTER: Final = 60.0  # without a refusal
