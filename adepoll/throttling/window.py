"""Window: how many requests may be in flight at the same time. Imports nothing of adepoll."""

from typing import Final

PROBE: Final = -1
"""Epoch that `Window.ended` gets for a probe, so that its end does not change the size."""


class Window:
    """Limits the number of concurrent requests by slow start (RFC 5681, 2009, section 3.1).

    The size starts at 4 and grows up to `limit`. At first, it grows by one with every second
    successful request. So if the window is always full, the size grows by half in each round trip.
    `restart` sets the size to one, and begins a new epoch. Requests of earlier epochs do not count
    against the size, and do not change it. After a restart, the size grows by one with each
    successful request. It may grow faster then, because the rate or an outage limits the requests,
    too. The probes of an outage count only against `limit`: a probe that hangs must not keep
    requests to other hosts waiting.

    Attributes:
        limit: Largest possible size.
        size: Largest number of concurrent requests of this epoch.
        epoch: Number of restarts.
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
        "size",
    )

    def __init__(self, limit: int) -> None:
        """Create a window without requests."""
        self.limit = limit
        self.size = min(_FIRST_WINDOW, limit)
        self.epoch = self.in_flight = 0
        self._in_flight_of_epoch = 0
        self._growth = 0  # number of successes that may still increase the size
        self._grown = 0.0  # growth so far that is less than one request
        self.full = False

    @property
    def room(self) -> int:
        """Number of requests that may be sent before a response arrives."""
        return min(self.size - self._in_flight_of_epoch, self.limit - self.in_flight)

    @property
    def is_at_limit(self) -> bool:
        """True if a response must arrive before the next probe may be sent."""
        return self.in_flight >= self.limit

    def sent(self, *, is_probe: bool = False) -> None:
        """Count a request as sent; for a probe, `ended` later gets the epoch `PROBE`."""
        self.in_flight += 1
        self._in_flight_of_epoch += not is_probe
        # The size may grow only while at least half of it is used (RFC 7661, 2015, section 4).
        if 2 * self._in_flight_of_epoch >= self.size:
            self._growth = self._in_flight_of_epoch
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit

    def ended(self, epoch: int, *, succeeded: bool = False) -> None:
        """Record the end of a request that was sent in the epoch `epoch`."""
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
        """Set the size to one, and begin a new epoch."""
        self.size = 1
        self._in_flight_of_epoch = self._growth = 0
        self.epoch += 1
        self._update_full()

    def _update_full(self) -> None:
        self.full = self._in_flight_of_epoch >= self.size or self.in_flight >= self.limit


_FIRST_WINDOW: Final = 4  # size of a new window, in requests
_FIRST_GROWTH: Final = 0.5  # growth of a new window with each success, in requests
