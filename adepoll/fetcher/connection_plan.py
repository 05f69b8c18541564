"""ConnectionPlan: how many connections a download uses, and how large its segments are. No I/O."""

from typing import Final

from attrs import define, field

FIRST_SEGMENT: Final = 2**23
"""Bytes of the first requested range."""

_MIN_SEGMENT: Final = 2**20  # bytes of the smallest segment
_MAX_SEGMENT: Final = 2**26  # bytes of the largest segment
# Bytes of the largest segment if bytes arrive fast. A fast response is read in blocks, and then its
# connection cannot be used again. So fewer and larger segments save time.
_MAX_SEGMENT_IF_FAST: Final = 2**27
_SECONDS_PER_SEGMENT: Final = 2.0  # a segment has the bytes that arrive in this time

_FAST: Final = 1e8  # bytes per second at which one connection suffices
# A single connection is measured for at least this number of bytes and this time, because every
# connection is slow at its beginning.
_MEASURED_BYTES: Final = 2**20
_MEASURED_SECONDS: Final = 0.2
_COMPARED_SECONDS: Final = 2.0  # seconds for which several connections are measured
# Several connections are kept only if they are this many times as fast as a single connection.
_SPEEDUP_NEEDED: Final = 1.25


@define(eq=False)
class ConnectionPlan:
    """Decides how many connections a download uses. This depends on the rate of arriving bytes.

    A download begins with one connection. If this connection is slow, `allowed` connections are
    used. After two seconds, the rate of all connections together is compared with the rate of the
    single one. If the new rate is not at least 25% higher, the network is the limit. Then one
    connection remains, because other programs use the network, too.

    Attributes:
        allowed: Maximum number of connections.
        since: Time in seconds at which the current measurement of the rate began.
        wanted: Number of connections that should be in use.
        received: Number of bytes received in the current measurement. The caller increases it.
    """

    allowed: int
    since: float
    wanted: int = field(default=1, init=False)
    received: int = field(default=0, init=False)
    # Bytes per second of a single slow connection; None before that was measured.
    _single_rate: float | None = field(default=None, init=False)
    _is_decided: bool = field(default=False, init=False)  # True after the comparison
    # Bytes per second in the previous measurement; 0 if the number of connections has changed.
    _last_rate: float = field(default=0.0, init=False)

    def update(self, now: float) -> int:
        """Compare the rates, and return how many connections should be in use from now on.

        `now` is the present time, in seconds.
        """
        elapsed = now - self.since
        if self._is_decided or self.allowed == 1 or elapsed <= 0:
            return self.wanted
        rate = self.received / elapsed
        if self._single_rate is None:
            if self.received < _MEASURED_BYTES or elapsed < _MEASURED_SECONDS:
                return self.wanted
            if rate < _FAST:
                self._single_rate = rate
                self._restart(self.allowed, now)
            elif elapsed >= _COMPARED_SECONDS:
                # Measure again: in one long average, fast seconds at the beginning would hide that
                # the connection is slow now.
                self._restart(1, now)
                self._last_rate = rate
        elif elapsed >= _COMPARED_SECONDS:
            self._is_decided = True
            if rate < _SPEEDUP_NEEDED * self._single_rate:
                self._restart(1, now)
        return self.wanted

    def is_fast(self, now: float) -> bool:
        """Return True if there is only one connection, and it receives at least 100 MB per second.

        More connections would not help then. `now` is the present time, in seconds.
        """
        return self.wanted == 1 and self._rate(now) >= _FAST

    def limit(self, connections: int) -> None:
        """From now on, use at most `connections`, because the storage has refused a request."""
        self.allowed = min(self.allowed, connections)
        self.wanted = min(self.wanted, connections)

    def segment_size(self, missing: int, now: float) -> int:
        """Return the number of bytes that the next request should cover.

        The size is large at first, because time is lost between two requests. It becomes smaller
        near the end, so that all connections finish at about the same time.

        Args:
            missing: Number of bytes of the file that are not present.
            now: Present time, in seconds.
        """
        rate = self._rate(now)
        if not rate:
            return FIRST_SEGMENT if self.wanted == 1 else _MIN_SEGMENT
        if self.wanted > 1:
            limit = min(missing // (2 * self.wanted), _MAX_SEGMENT)
        elif rate >= _FAST:
            limit = _MAX_SEGMENT_IF_FAST
        elif self._single_rate is None and self.allowed > 1:
            return FIRST_SEGMENT  # other connections may be added, and need bytes to fetch
        else:
            limit = _MAX_SEGMENT
        size = int(_SECONDS_PER_SEGMENT * rate / self.wanted)
        return max(_MIN_SEGMENT, min(limit, size))

    def _rate(self, now: float) -> float:
        """Return the bytes per second of all connections together; 0 if that is not known yet."""
        elapsed = now - self.since
        if self.received >= FIRST_SEGMENT and elapsed > 0:
            return self.received / elapsed
        return self._last_rate

    def _restart(self, wanted: int, now: float) -> None:
        """Use `wanted` connections, and begin to measure their rate."""
        self.wanted = wanted
        self._last_rate = 0.0
        self.since = now
        self.received = 0
