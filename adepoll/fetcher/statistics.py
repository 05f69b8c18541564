"""The statistics of a fetcher.

Other modules count: `fetcher` and `result_stream` count transfers, `patience` counts resumptions,
`storage_client` counts bytes, and `stored_result` counts renewed URLs.

For the metrics of all packages, see `contrib.prometheus`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import asdict, define, field, frozen

from adepoll.common.html_tables import HtmlTable
from adepoll.errors import AdePollError, ClosedError


@frozen(kw_only=True)
class FetcherStats(HtmlTable):
    """What a fetcher has done so far. A transfer is one call that fetches one result.

    Attributes:
        in_flight: Number of transfers in progress.
        finished: Number of transfers that have fetched the whole result, or the whole range.
        failed: Number of transfers that ended with an error of adepoll.
        abandoned: Number of transfers that the caller cancelled, or left before the end.
        bytes_received: Number of bytes received of results, from storages and from the API. Bytes
            that were requested again count again.
        resumed: Number of requests that were repeated after a failure.
        renewed_urls: Number of requests to the API for a new URL, because the current URL had
            expired.
    """

    in_flight: int
    finished: int
    failed: int
    abandoned: int
    bytes_received: int
    resumed: int
    renewed_urls: int


@define
class Transfer:
    """Counts how one transfer ended. Only the first call of any of its methods has an effect."""

    _counters: "Counters"
    _has_ended: bool = field(default=False, init=False)

    def finish(self) -> None:
        """Count the transfer as finished."""
        self._counters.finished += self._end()

    def fail(self) -> None:
        """Count the transfer as failed."""
        self._counters.failed += self._end()

    def abandon(self) -> None:
        """Count the transfer as abandoned."""
        self._counters.abandoned += self._end()

    def _end(self) -> bool:
        """Record that the transfer has ended; return False if it had ended already."""
        if self._has_ended:
            return False
        self._has_ended = True
        self._counters.in_flight -= 1
        return True


@define
class Counters:
    """The counters of one fetcher; `FetcherStats` documents the attributes."""

    in_flight: int = 0
    finished: int = 0
    failed: int = 0
    abandoned: int = 0
    resumed: int = 0
    renewed_urls: int = 0

    @contextmanager
    def transfer(self) -> Iterator[Transfer]:
        """Count the code in the ``with`` block as one transfer.

        If the block raises nothing, the transfer counts as finished. After an error of adepoll, it
        counts as failed, after any other error as abandoned. If the block calls a method of the
        yielded `Transfer`, only this call counts.
        """
        self.in_flight += 1
        transfer = Transfer(self)
        try:
            yield transfer
        except (AdePollError, ClosedError):
            transfer.fail()
            raise
        except BaseException:
            transfer.abandon()
            raise
        transfer.finish()

    def stats(self, *, bytes_received: int) -> FetcherStats:
        """Return a copy of the counters, and of `bytes_received`, which is counted elsewhere."""
        return FetcherStats(bytes_received=bytes_received, **asdict(self))
