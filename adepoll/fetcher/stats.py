"""What a fetcher counts of its work, and what it tells of that. Imports errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field, frozen

from adepoll.errors import AdePollError


@frozen(kw_only=True)
class FetcherStats:
    """What a fetcher has done so far. A transfer is one result that one caller asked for.

    Attributes:
        under_way: Transfers that have begun and not ended.
        finished: Those that gave all that was asked for.
        failed: Those that ended with an error of adepoll's.
        abandoned: Those that their caller cancelled, or left before the end.
        bytes_received: Bytes that storages sent, those included that had to be sent again.
        resumed: How often a transfer went on after something had failed: a connection, mostly.
        fresh_urls: How often the service was asked for a URL since the one at hand had expired.
    """

    under_way: int
    finished: int
    failed: int
    abandoned: int
    bytes_received: int
    resumed: int
    fresh_urls: int


@define
class Transfer:
    """One of those that are counted; how it ends is decided once."""

    _tally: "Tally"
    _has_ended: bool = field(default=False, init=False)

    def finish(self) -> None:
        """Count it as finished, if it has not ended."""
        self._tally.finished += self._end()

    def fail(self) -> None:
        """Count it as failed, if it has not ended."""
        self._tally.failed += self._end()

    def abandon(self) -> None:
        """Count it as abandoned, if it has not ended."""
        self._tally.abandoned += self._end()

    def _end(self) -> bool:
        if self._has_ended:
            return False
        self._has_ended = True
        self._tally.under_way -= 1
        return True


@define
class Tally:
    """The numbers themselves; one for each fetcher."""

    under_way: int = 0
    finished: int = 0
    failed: int = 0
    abandoned: int = 0
    resumed: int = 0
    fresh_urls: int = 0

    @contextmanager
    def transfer(self) -> Iterator[Transfer]:
        """Count a block as a transfer, by how it ends if that is not decided within."""
        self.under_way += 1
        transfer = Transfer(self)
        try:
            yield transfer
        except AdePollError:
            transfer.fail()
            raise
        except BaseException:
            transfer.abandon()
            raise
        transfer.finish()

    def stats(self, *, bytes_received: int) -> FetcherStats:
        """Give the numbers; a copy that does not change."""
        return FetcherStats(
            under_way=self.under_way,
            finished=self.finished,
            failed=self.failed,
            abandoned=self.abandoned,
            bytes_received=bytes_received,
            resumed=self.resumed,
            fresh_urls=self.fresh_urls,
        )
