"""RangeFallback: when a whole result is requested, because the storage fails for its ranges.

Some storages, and some proxies before them, serve a result well, but not a range of it.
"""

from enum import Enum
from typing import Final

from adepoll.errors import ResultError
from adepoll.fetcher.responses import RemoteResult
from adepoll.fetcher.storage_rules import may_succeed_without_range

_ASK_FOR_WHOLE: Final = frozenset({2, 4, 8, 16, 32, 64})
"""After these numbers of failed requests of a range, one request asks for the whole result.

It shows whether the storage is down, or only fails to serve ranges.
"""


class NextRequest(Enum):
    """The request to send after a failed request of a range."""

    RANGE = 1
    """The range again, immediately."""

    RANGE_LATER = 2
    """The range again, after the usual wait, or no request if the transfer must be given up."""

    WHOLE = 3
    """The whole result, immediately."""


class RangeFallback:
    """Counts the failed requests for ranges of one result, until a byte arrives."""

    def __init__(self, stored: RemoteResult) -> None:
        """Create an object that has counted no failure."""
        self._stored = stored
        self._failures = 0
        self._was_served_whole = False

    async def after(self, error: ResultError) -> NextRequest:
        """Return what to request after a request of a range failed before its first byte.

        If the storage seems to be down, this function may request the whole result. If that
        succeeds, one more range is requested, because the outage may be over. If this range fails,
        too, only ranges fail.
        """
        if may_succeed_without_range(error):
            return NextRequest.WHOLE
        if not error.transient or self._stored.retries.asks_for_too_long_a_wait(error):
            return NextRequest.RANGE_LATER  # the wait raises the error
        if self._was_served_whole:
            return NextRequest.WHOLE
        self._failures += 1
        if self._failures in _ASK_FOR_WHOLE:
            self._was_served_whole = await is_served_whole(self._stored)
        return NextRequest.RANGE if self._was_served_whole else NextRequest.RANGE_LATER

    def reset(self) -> None:
        """Forget all failures, because bytes of a range have arrived."""
        self._failures = 0
        self._was_served_whole = False


async def is_served_whole(stored: RemoteResult) -> bool:
    """Return whether the storage serves a result if no range is requested."""
    try:
        async with stored.open() as body:
            await body.begin()
    except ResultError:
        return False
    return True
