"""ServiceClock: what time it is at the service, as the Date headers of its answers tell.

Imports nothing of adepoll.
"""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

_RESOLUTION: Final = 1.0  # of a Date header, seconds; the rest is cut off
_WHILE: Final = 0.01  # seconds; of thousands of answers a second, a hundred are enough
_DRIFT: Final = 50e-6  # seconds a second by which two quartz clocks may part
_LEAST: Final = datetime(2000, 1, 1, tzinfo=UTC).timestamp()  # before it, a clock was never set
_MOST: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


@lru_cache(maxsize=64)  # all answers of one second carry the same text
def parse_http_date(text: str) -> datetime | None:
    """Read a date as RFC 9110, section 5.6.7, has it; None for what is none."""
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


@lru_cache(maxsize=64)
def _unix_time(text: str) -> float | None:
    date = parse_http_date(text)
    seconds = math.nan if date is None else date.timestamp()
    return seconds if _LEAST <= seconds < _MOST else None


class ServiceClock:
    """The offset from our loop's time to the service's Unix time, between two bounds.

    An answer that was made between `sent_at` and `received_at` and dated `date` bounds it to
    ``date - received_at <= offset < date + 1 - sent_at`` (F. Cristian, Probabilistic clock
    synchronization, 1989). The bounds of all answers are intersected (K. Marzullo, 1984): those
    that came just before and just after the service's second changed make them as narrow as the
    answers were quick. They widen as quartz drifts, and are begun anew when an answer contradicts
    them: a clock was set, or there are several.

    Attributes:
        enough_until: Loop time; answers to what was sent before need not be heard. Of those to
            what was sent within a hundredth of a second, one is enough.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._least = -math.inf
        self._most = math.inf
        self._heard_at = -math.inf
        self.enough_until = -math.inf

    def heard(self, date: str | None, sent_at: float, received_at: float) -> None:
        """Take in the Date header of an answer; one that is none, or absurd, tells nothing.

        Args:
            date: The header's text; None where the answer had none.
            sent_at: Loop time before the request was sent.
            received_at: Loop time after its answer had come.
        """
        told = None if date is None else _unix_time(date)
        if told is None:
            return
        drifted = _DRIFT * max(received_at - self._heard_at, 0.0)
        least = max(self._least - drifted, told - received_at)
        most = min(self._most + drifted, told + _RESOLUTION - sent_at)
        if least > most:
            least, most = told - received_at, told + _RESOLUTION - sent_at
        self._least, self._most, self._heard_at = least, most, received_at
        self.enough_until = max(self.enough_until, sent_at + _WHILE)

    def unix_time(self, now: float) -> float | None:
        """Give the service's Unix time at loop time `now`; None before any Date was heard."""
        return None if self._heard_at == -math.inf else now + (self._least + self._most) / 2
