"""Divides a download into segments, and fetches them over one or several connections.

`Segments` records which bytes are present, and `ConnectionPlan` decides how many connections there
are, and how large the segments are. Both do no I/O. `DownloadConnections` sends the requests.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable
from functools import partial
from typing import Final

from attrs import define, field

from adepoll.api.body_decoding import ReadChunk
from adepoll.common.tasks import first_error
from adepoll.errors import ResultError, ResultRefusedError, ResultServerError
from adepoll.fetcher.buffered_body import BLOCK_BYTES, BlockPool
from adepoll.fetcher.disk_writer import DiskWriter, stop_task
from adepoll.fetcher.patience import is_outage
from adepoll.fetcher.range_fallback import is_served_whole
from adepoll.fetcher.response_body import ResponseBody, SegmentWriter
from adepoll.fetcher.responses import RemoteResult, UnusableRangeError
from adepoll.fetcher.resume_state import merged
from adepoll.fetcher.storage_rules import ObjectVersion, Range, may_succeed_without_range

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

# After this number of responses that are not the requested range, the whole result is requested.
_MAX_UNUSABLE_RANGES: Final = 3


class NoRangesError(Exception):
    """The result cannot be downloaded in ranges, so the caller must request it as a whole."""


@define(eq=False)
class Segment:
    """A range of bytes that one connection is fetching.

    Attributes:
        start: Offset of the next byte to fetch; it grows while bytes arrive.
        stop: Offset after the last byte of the segment.
    """

    start: int
    stop: int


@define(eq=False)
class Segments:
    """Records which bytes of a file are present, and which bytes are being fetched.

    Attributes:
        size: Size of the complete file in bytes.
        present: Ranges (start, stop) of present bytes, sorted and disjoint.
    """

    size: int
    present: list[tuple[int, int]] = field(factory=list, converter=merged)
    _claimed: list[Segment] = field(factory=list, init=False)

    @property
    def missing(self) -> int:
        """Number of bytes of the file that are not present."""
        return self.size - sum([stop - start for start, stop in self.present])

    @property
    def present_prefix(self) -> int:
        """Number of bytes at the start of the file that are present without a gap."""
        return self.present[0][1] if self.present and self.present[0][0] == 0 else 0

    def claim(self, max_bytes: int) -> Segment | None:
        """Claim the first bytes that are neither present nor claimed, at most `max_bytes`.

        Return None if every byte is present or claimed.
        """
        claimed = [(segment.start, segment.stop) for segment in self._claimed]
        position = 0
        for start, stop in [*sorted(self.present + claimed), (self.size, self.size)]:
            if position < start:
                segment = Segment(position, min(start, position + max_bytes))
                self._claimed.append(segment)
                return segment
            position = max(position, stop)
        return None

    def advance(self, segment: Segment, count: int) -> None:
        """Record that the next bytes of a segment have been written to the file: `count`, not 0."""
        start = segment.start
        stop = segment.start = start + count
        index = bisect_left(self.present, (start, stop))
        end = index
        if end < len(self.present) and self.present[end][0] == stop:
            stop = self.present[end][1]
            end += 1
        if index and self.present[index - 1][1] == start:
            index -= 1
            start = self.present[index][0]
        self.present[index:end] = [(start, stop)]

    def release(self, segment: Segment) -> None:
        """End a segment, so that other connections may claim its bytes that are still missing."""
        self._claimed.remove(segment)


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


class DownloadConnections:
    """The connections of one download. Each connection fetches one segment after another.

    A connection always claims the first bytes that no other connection fetches. So bytes arrive
    nearly in order, and can be hashed while they arrive.

    Attributes:
        resumed: Number of times that the download was resumed after a failed request.
    """

    def __init__(
        self,
        stored: RemoteResult,
        disk: DiskWriter,
        *,
        version: ObjectVersion,
        segments: Segments,
        allowed: int,
    ) -> None:
        """Create an object that has sent no request.

        Args:
            stored: The result.
            disk: Writes the received bytes.
            version: Version of the object; every response must be of this version.
            segments: Records which bytes are present.
            allowed: Maximum number of connections.
        """
        self.resumed = 0
        self._stored = stored
        self._disk = disk
        self._version = version
        self._segments = segments
        self._group = asyncio.TaskGroup()
        self._open_connections = 0
        self._unusable_ranges = 0  # number of responses that were not the requested range
        self._unreported = 0  # bytes received since the last failed request
        self._empty_failures = 0  # requests that failed before their first byte
        # Time at which the whole result was served, after ranges had failed for the whole patience
        self._served_whole_at: float | None = None
        self._blocks: BlockPool | None = None  # None before bytes arrive fast
        self._time = asyncio.get_running_loop().time
        self._plan = ConnectionPlan(allowed, self._time())

    async def run(self, first: ResponseBody | None) -> None:
        """Fetch all missing bytes, and write them to the file.

        Args:
            first: A response that has already arrived, and begins with the first missing byte; None
                to send a request.

        Raises:
            ObjectChangedError: The object in storage has another version now.
            NoRangesError: The storage has stopped serving ranges.
            ResultError: The result could not be downloaded or written.
            RequestError: The API failed when a new URL was requested.
        """
        # The task group runs in a task of its own. Before Python 3.13, a task group that fails can
        # swallow a cancellation of its task, or cancel its task although nobody requested that.
        running = asyncio.create_task(self._run_group(first))
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            await stop_task(running)
            raise
        try:
            await running
        except BaseExceptionGroup as group:
            # The first error cancelled the other connections, or they failed for the same reason.
            error = first_error(group)
        else:
            return
        raise error

    async def _run_group(self, first: ResponseBody | None) -> None:
        async with self._group:
            self._add_connection(first)

    def _add_connection(self, body: ResponseBody | None = None) -> None:
        if segment := self._claim():
            self._open_connections += 1
            self._group.create_task(self._run_connection(segment, body))

    def _claim(self) -> Segment | None:
        return self._segments.claim(self._plan.segment_size(self._segments.missing, self._time()))

    async def _run_connection(self, segment: Segment | None, body: ResponseBody | None) -> None:
        """Download one segment after another over one connection, as long as it is needed.

        `segment` is the first one; None if nothing is left to download. `body` is a response that
        has already arrived for it; None to send a request.
        """
        while segment is not None:
            started, start = self._time(), segment.start
            if (failure := await self._fetch(segment, body)) is not None:
                await self._wait_or_raise(failure, started, is_empty=segment.start == start)
            body = None  # only the first response of a download can have arrived already
            is_needed = self._open_connections <= self._plan.wanted
            segment = self._claim() if is_needed else None
        self._open_connections -= 1

    async def _fetch(self, segment: Segment, body: ResponseBody | None) -> ResultError | None:
        """Fetch the bytes of a segment with one request, write them, and release the segment.

        If `body` is not None, it is the response, and no request is sent. If the request fails,
        return the error.

        Raises:
            NoRangesError: The whole result must be requested instead.
        """
        try:
            if body is not None:
                await self._write(segment, body)
                return None
            requested = Range(segment.start, segment.stop)
            async with self._stored.open(requested=requested, version=self._version) as opened:
                if not opened.is_partial:
                    raise NoRangesError
                await self._write(segment, opened)
                return None
        except UnusableRangeError as error:
            self._unusable_ranges += 1
            if self._unusable_ranges >= _MAX_UNUSABLE_RANGES:
                raise NoRangesError from None
            return error.as_public()
        except ResultRefusedError as error:
            if may_succeed_without_range(error):
                raise NoRangesError from None
            return error
        except ResultError as error:
            return error
        finally:
            self._segments.release(segment)

    async def _wait_or_raise(self, failure: ResultError, started: float, *, is_empty: bool) -> None:
        """After a failed request, wait until the next one may be sent, or raise the error.

        If several connections are open, and the failure is a `ResultServerError`, do not wait: this
        connection ends.

        Args:
            failure: The error of the request.
            started: Time at which the request began.
            is_empty: True if the request failed before its first byte.

        Raises:
            NoRangesError: The storage sends the whole result, but no ranges.
            ResultError: The download must be given up; the error is `failure`.
        """
        if isinstance(failure, ResultServerError) and self._open_connections > 1:
            # Perhaps the storage limits the number of connections. So end this connection, and
            # from now on use at most as many as are still open.
            self._plan.limit(self._open_connections - 1)
            return
        self._empty_failures += is_empty
        received, self._unreported = self._unreported, 0
        try:
            await self._stored.retries.wait_or_raise(failure, started=started, received=received)
        except ResultError as error:
            await self._raise_unless_served_whole(error, started, is_empty=is_empty)
        self.resumed += 1

    async def _raise_unless_served_whole(
        self, error: ResultError, started: float, *, is_empty: bool
    ) -> None:
        """Request the whole result, to find out whether only ranges fail; raise if not.

        If the storage sends the whole result, return the first time, so that a range is requested
        once more, because an outage may have ended. The second time, raise `NoRangesError`.

        Args:
            error: The error of the last request of a range.
            started: Time at which the failed request began.
            is_empty: True if the request failed before its first byte.

        Raises:
            NoRangesError: The storage sends the whole result, but no ranges.
            ResultError: `error`, because the storage does not send the whole result either.
        """
        is_repeated = is_empty and self._empty_failures > 1
        must_wait = self._stored.retries.asks_for_too_long_a_wait(error)
        if must_wait or not (is_repeated and error.transient and is_outage(error)):
            raise error
        if self._served_whole_at is None:
            if not await is_served_whole(self._stored):
                raise error
            self._served_whole_at = self._time()
        elif started >= self._served_whole_at:
            raise NoRangesError

    def _write(self, segment: Segment, body: ResponseBody) -> Awaitable[None]:
        """Return an awaitable that writes the body of a segment to the disk."""
        read: ReadChunk = body.read
        if is_fast := self._plan.is_fast(self._time()):
            self._blocks = self._blocks or BlockPool()
            read = body.read_in_blocks(self._blocks)
        record = partial(self._record, segment)
        full_chunk = BLOCK_BYTES if is_fast else 0
        return SegmentWriter(self._disk, segment.start, record, full_chunk=full_chunk).copy(read)

    def _record(self, segment: Segment, count: int) -> int:
        """Record `count` new bytes of a segment; open more connections if `ConnectionPlan` says so.

        Return the number of bytes at the start of the file that are present without a gap.
        """
        self._unreported += count
        self._plan.received += count
        self._segments.advance(segment, count)
        for _ in range(self._open_connections, self._plan.update(self._time())):
            self._add_connection()
        return self._segments.present_prefix
