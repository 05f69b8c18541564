"""Parses the header Retry-After of the service and of storages.

These modules wait until the time has passed: `throttling.rate_limiter` for requests to the service,
`watching.list_sweeper` before it repeats a request for a page of the job list, and
`fetcher.patience` for downloads. A Retry-After of the service above 300 s is reduced to 300 s. For
storages, `fetcher.responses` chooses another maximum. The emulator has a parser of its own
(`emulator.world_source`). So a mistake in one of the two parsers cannot hide in the other.
"""

import math
import re
from datetime import datetime
from typing import Final, Protocol

from adepoll.api.service_clock import parse_http_date

MAX_RETRY_AFTER: Final = 300.0
"""Longest Retry-After of the service, in seconds. A longer one is reduced to this value."""

_SECONDS: Final = re.compile(r"\d+(\.\d*)?", re.ASCII)


class Headers(Protocol):
    """The headers of a response: a case-insensitive mapping."""

    def get(self, name: str, /) -> str | None:
        """Return the value of a header, None if it is absent."""


def parse_retry_after(
    headers: Headers, *, now: datetime | None = None, longest: float = MAX_RETRY_AFTER
) -> float | None:
    """Return the Retry-After in seconds (RFC 9110, section 10.2.3); None if absent or unreadable.

    The result is between 0 and `longest`. Of several numbers, the largest counts: a proxy or an
    HTTP library can merge two headers into ``5, 9`` (RFC 9110, section 5.3). If Retry-After is a
    date, the result is the time from the Date header of the same response to this date. The local
    clock is not used, because it can differ from the clock of the server.

    Args:
        headers: Headers of the response.
        now: The local time, which replaces a missing Date header; None if it is not known.
        longest: Maximum of the result, in seconds.
    """
    value = (headers.get("Retry-After") or "").strip()
    numbers = [number.strip() for number in value.split(",")]
    if all(map(_SECONDS.fullmatch, numbers)):
        return min(max(map(float, numbers)), longest)
    until = parse_http_date(value)
    since = parse_http_date(headers.get("Date") or "") or now
    if until is None or since is None:
        return None
    seconds = (until - since).total_seconds()
    return min(max(seconds, 0.0), longest) if math.isfinite(seconds) else None
