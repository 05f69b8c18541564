"""Decides when to request a whole result, because the storage fails to send a range of it.

Some storages, and some proxies in front of them, can send a whole result, but not a byte range.
"""

from enum import Enum
from typing import Final

from adepoll.errors import RateLimitedError, ResultError, StatusError
from adepoll.fetcher.responses import RemoteResult
from adepoll.fetcher.storage_rules import may_succeed_without_range

_ASK_FOR_WHOLE: Final = frozenset({2, 4, 8, 16, 32, 64})
"""After these numbers of failed requests of a range, one request asks for the whole result.

It shows whether the storage is down, or only fails to serve ranges.
"""


class NextRequest(Enum):
    """The request to send after the request of a range has failed."""

    RANGE = 1
    """The range again, immediately."""

    RANGE_LATER = 2
    """The range again, after the usual wait, or no request if the transfer must be given up."""

    WHOLE = 3
    """The whole result, immediately."""


class RangeFallback:
    """Decides after failed requests of ranges whether to request the whole result instead.

    An object counts the failures of one result.
    """

    def __init__(self, stored: RemoteResult) -> None:
        """Create an object that has counted no failure; it can request the result `stored`."""
        self._stored = stored
        self._failures = 0
        self._was_served_whole = False

    async def after(self, error: ResultError) -> NextRequest:
        """Return what to request after the request of a range has failed before its first byte.

        If the storage seems to be down, this method requests the whole result after some of the
        failures, to find out whether only ranges fail. If the storage sends the whole result, the
        range is requested once more, because an outage may have ended. If this request fails, too,
        the method returns `NextRequest.WHOLE`.
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


def is_refused_range(error: StatusError) -> bool:
    """Return True if the API may send the whole answer, although it has refused a range of it.

    It can refuse a range with any error status, as a storage can. The client has already repeated
    the request. The result is False if the range is not the reason: the key or the account is
    refused, or the API asks to wait.
    """
    is_busy = isinstance(error, RateLimitedError) or error.retry_after is not None
    return not error.fatal and not is_busy


async def is_served_whole(stored: RemoteResult) -> bool:
    """Request a whole result; return whether the storage begins to send it."""
    try:
        async with stored.open() as body:
            await body.begin()
    except ResultError:
        return False
    return True
