"""Downloads one result to its file: in segments, or in order if the storage serves no ranges."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from attrs import evolve, frozen

from adepoll.errors import (
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultTransferError,
)
from adepoll.fetcher.body_decoding import ReadChunk
from adepoll.fetcher.disk_writer import DiskWriter, SegmentWriter
from adepoll.fetcher.patience import is_outage
from adepoll.fetcher.polled_result import PolledReader, PolledResult
from adepoll.fetcher.responses import (
    MAX_ERROR_PAGE,
    ObjectChangedError,
    ResponseBody,
    UnusableRangeError,
)
from adepoll.fetcher.result_stream import ByteSource
from adepoll.fetcher.resume_state import ResumeState
from adepoll.fetcher.segments import FIRST_SEGMENT, DownloadConnections, NoRangesError, Segments
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.storage_client import StoredResult
from adepoll.fetcher.storage_rules import ObjectVersion, Range, may_refuse_range

_ASK_FOR_WHOLE: Final = frozenset({2, 4, 8, 16, 32, 64})
"""Numbers of failed first ranges after which the whole is requested: perhaps only ranges fail."""


@frozen
class PublishedFile:
    """A complete file at its target.

    Attributes:
        size: Size in bytes.
        sha256: SHA-256 of its bytes, in hex.
        etag: ETag of the object in storage.
        resumed: Number of resumptions by another connection or process after a failure.
    """

    size: int
    sha256: str
    etag: str | None
    resumed: int


class ResultDownload:
    """Downloads one result to its file, from a storage or from the API."""

    def __init__(
        self,
        stored: StoredResult | PolledResult,
        disk: DiskWriter,
        *,
        connections: int,
    ) -> None:
        """Use at most `connections`; `PartFile.check` must have been called."""
        self._stored = stored
        self._disk = disk
        self._connections = connections
        self._resumed = 0

    async def run(self) -> PublishedFile:
        """Download the result, and publish its file.

        Raises:
            ResultError: The result could not be downloaded or written.
            RequestError: The API failed when a new URL was requested.
        """
        in_segments = isinstance(self._stored, StoredResult)
        async with self._disk.open() as found:
            resume = found
            self._resumed += resume is not None
            while True:
                try:
                    if in_segments:
                        version = await self._in_segments(resume)
                    else:
                        version = await self._in_order()
                except NoRangesError:
                    in_segments, resume = False, None
                    continue
                except (ObjectChangedError, ResultChangedError):
                    if resume is not None:
                        resume = None  # the bytes were of an earlier download: not a failure
                        self._resumed = 0
                        continue
                    # Its replicas may have different ETags, or it may misunderstand If-Match.
                    in_segments = False
                    error: ResultError = self._changed_error()
                else:
                    published = await self._publish(version, is_resumed=resume is not None)
                    if isinstance(published, PublishedFile):
                        return published
                    error = published
                    in_segments = False  # the storage may answer ranges wrongly
                await self._wait_or_raise(error)
                resume = None

    async def _publish(
        self, version: ObjectVersion, *, is_resumed: bool
    ) -> PublishedFile | ResultError:
        """Publish the file; return the error if another attempt can help."""
        try:
            digest = await self._disk.publish()
        except ResultTransferError as cut:
            return cut
        except ResultMalformedError as no_result:
            if not is_resumed and self._disk.written > MAX_ERROR_PAGE:
                raise
            return no_result
        return PublishedFile(self._disk.written, digest, version.etag, self._resumed)

    async def _in_segments(self, resume: ResumeState | None) -> ObjectVersion:
        """Request ranges; the first response may contain the whole result."""
        async with AsyncExitStack() as stack:
            if resume is None:
                first = await self._first_segment(stack)
                version = first.version
                # Without a strong ETag, the segments could be of different versions.
                if first.is_partial and not version.is_strong and first.stop != version.size:
                    raise NoRangesError
                if not first.is_partial or not version.is_strong:
                    reader = SequentialReader(self._stored)
                    reader.adopt(first, stack.pop_all())
                    return await self._in_order(reader)
                segments = Segments(version.size or 0)
            else:
                first = None
                version = resume.version
                segments = Segments(version.size or 0, resume.present)
                if not segments.missing:  # request one byte, to see whether the object is the same
                    resume = evolve(resume, present=[(0, segments.size - 1)])
                    segments = Segments(segments.size, resume.present)
            multipart = segments.size > FIRST_SEGMENT
            await self._disk.begin(version, multipart=multipart, resumable=True, resume=resume)
            connections = DownloadConnections(
                self._stored,
                self._disk,
                version=version,
                segments=segments,
                allowed=self._connections,
            )
            try:
                await connections.run(first)
            except (ResultMalformedError, ResultTransferError) as error:
                if is_outage(error):
                    raise
                raise NoRangesError from None  # it may answer later ranges with a page
            finally:
                self._resumed += connections.resumed
            return version

    async def _first_segment(self, stack: AsyncExitStack) -> ResponseBody:
        """Request the first range; raise `NoRangesError` if only a range is refused."""
        failures = 0
        is_served_whole = False
        while True:
            opening = self._stored.open(requested=Range(0, FIRST_SEGMENT))
            try:
                return await stack.enter_async_context(opening)
            except UnusableRangeError:
                break
            except ResultError as error:
                if is_served_whole or may_refuse_range(error):
                    break
                failures += 1
                # It looks like an outage, but may also be the answer to any range.
                is_served_whole = failures in _ASK_FOR_WHOLE and await self._is_served_whole()
                if not is_served_whole:
                    await self._wait_or_raise(error)
        raise NoRangesError

    async def _is_served_whole(self) -> bool:
        """Return whether the storage answers a request without a range."""
        try:
            async with self._stored.open() as body:
                await body.begin()
        except ResultError:
            return False
        return True

    async def _in_order(
        self, reader: SequentialReader | PolledReader | None = None
    ) -> ObjectVersion:
        """Download without segments, from the first byte to the last.

        `reader` reads a response that has already arrived.
        """
        disk = self._disk
        reader = reader or await self._stored.reader()
        try:
            await reader.begin()
            await disk.begin(reader.version, multipart=False)
            await _copy_in_order(disk, reader.read)
        finally:
            self._resumed += reader.resumed
            await reader.aclose()
        return reader.version

    async def _wait_or_raise(self, error: ResultError) -> None:
        # The attempt contains failures of its connections, and counts in addition to them.
        now = asyncio.get_running_loop().time()
        await self._stored.retries.wait_or_raise(error, started=now, received=0)

    def _changed_error(self) -> ResultTransferError:
        return ResultTransferError(
            "the object in storage changed",
            job_id=self._stored.job_id,
            received=self._disk.written,
            expected=self._disk.size,
            is_object_at_fault=True,
        )


async def write_local(disk: DiskWriter, source: ByteSource) -> PublishedFile:
    """Write a result that a poll has received to its file."""
    async with disk.open():
        await disk.begin(ObjectVersion(source.version.size), multipart=False)
        await _copy_in_order(disk, source.read)
        digest = await disk.publish()
    return PublishedFile(disk.written, digest, None, 0)


async def _copy_in_order(disk: DiskWriter, read: ReadChunk) -> None:
    await SegmentWriter(disk, 0, lambda count: disk.written + count).copy(read)
