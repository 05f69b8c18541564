"""ServiceClock: the time of the service, from the Date headers of its responses.

Imports nothing of adepoll.
"""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

_RESOLUTION: Final = 1.0  # seconds; a Date header has no fractions
_PAUSE: Final = 0.01  # seconds between two recorded Date headers; a hundred per second are enough
_DRIFT: Final = 50e-6  # seconds per second by which two quartz clocks can diverge
# Unix time. A clock that shows an earlier or later time was never set, so its time is not used.
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


@lru_cache(maxsize=64)  # all responses of one second have the same text
def parse_http_date(text: str) -> datetime | None:
    """Return the time in an HTTP date (RFC 9110, section 5.6.7); None if the text is not a date."""
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


@lru_cache(maxsize=64)
def _unix_time(text: str) -> float | None:
    """Return the Unix time of an HTTP date; None if it is not a date in the years 2000 to 2199."""
    date = parse_http_date(text)
    seconds = math.nan if date is None else date.timestamp()
    return seconds if _EARLIEST <= seconds < _LATEST else None


class ServiceClock:
    """Estimates the Unix time of the service from the Date headers of its responses.

    The *offset* is the service's Unix time minus the time of the event loop. The clock keeps a
    lower and an upper bound of the offset.

    A response was created between `sent_at` and `received_at`, and its Date header has no fraction.
    So ``date - received_at <= offset < date + 1 - sent_at`` (F. Cristian, Probabilistic clock
    synchronization, 1989). The clock keeps the range in which the bounds of all responses overlap
    (K. Marzullo, 1984). The range grows with time, because clocks drift. If a new response does not
    fit, somebody has set a clock, or several servers answer. Then its bounds replace the earlier
    ones.

    Attributes:
        enough_until: Time of the event loop until which the estimate is precise enough. Responses
            to requests that are sent before this time need not be recorded.
    """

    def __init__(self) -> None:
        """Create a clock that does not know the time yet."""
        self._lower = -math.inf
        self._upper = math.inf
        self._updated_at = -math.inf
        self.enough_until = -math.inf

    def record(self, date: str | None, sent_at: float, received_at: float) -> None:
        """Record the Date header of a response. An unreadable or implausible date is ignored.

        Args:
            date: The header; None if the response had none.
            sent_at: Loop time before the request was sent.
            received_at: Loop time after the response had arrived.
        """
        seconds = None if date is None else _unix_time(date)
        if seconds is None:
            return
        drift = _DRIFT * max(received_at - self._updated_at, 0.0)
        lower = max(self._lower - drift, seconds - received_at)
        upper = min(self._upper + drift, seconds + _RESOLUTION - sent_at)
        if lower > upper:
            lower, upper = seconds - received_at, seconds + _RESOLUTION - sent_at
        self._lower, self._upper, self._updated_at = lower, upper, received_at
        self.enough_until = max(self.enough_until, sent_at + _PAUSE)

    def unix_time(self, now: float) -> float | None:
        """Return the service's Unix time at loop time `now`; None before a response had a Date."""
        return None if self._updated_at == -math.inf else now + (self._lower + self._upper) / 2
