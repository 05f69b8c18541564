"""Downloads one result to its file: in segments, or in order if segments are not possible."""

from contextlib import AsyncExitStack

from attrs import evolve, frozen

from adepoll.api.body_decoding import ReadChunk
from adepoll.errors import (
    ResultChangedError,
    ResultError,
    ResultMalformedError,
    ResultTransferError,
)
from adepoll.fetcher.disk_writer import DiskWriter
from adepoll.fetcher.patience import is_outage
from adepoll.fetcher.polled_result import PolledReader, PolledResult, changed_error
from adepoll.fetcher.range_fallback import NextRequest, RangeFallback
from adepoll.fetcher.response_body import ResponseBody, SegmentWriter
from adepoll.fetcher.responses import MAX_ERROR_PAGE, ObjectChangedError, UnusableRangeError
from adepoll.fetcher.result_stream import ByteSource
from adepoll.fetcher.resume_state import ResumeState
from adepoll.fetcher.segments import FIRST_SEGMENT, DownloadConnections, NoRangesError, Segments
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.storage_rules import ObjectVersion, Range
from adepoll.fetcher.stored_result import StoredResult


@frozen
class PublishedFile:
    """A complete result file.

    Attributes:
        size: Size of the file in bytes.
        sha256: SHA-256 of the file, in hex.
        etag: ETag of the object in storage; None if the storage sends no ETag.
        resumed: How often the download was resumed after a failure, by the same or a later process.
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
        """Create a download that has sent no request.

        Args:
            stored: The result.
            disk: Writes the file. The caller has called `PartFile.check`.
            connections: Maximum number of connections.
        """
        self._stored = stored
        self._disk = disk
        self._connections = connections
        self._resumed = 0

    async def run(self) -> PublishedFile:
        """Download the result to the part file, and rename this file to its target.

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
                        # The object has changed after an earlier download: begin again. This does
                        # not count as a failure.
                        resume = None
                        self._resumed = 0
                        continue
                    # The object need not have changed: replicas in a storage can have different
                    # ETags, or the storage can misunderstand If-Match. Both only concern segments.
                    in_segments = False
                    error: ResultError = changed_error(
                        self._stored.job_id, received=self._disk.written, expected=self._disk.size
                    )
                else:
                    published = await self._publish(version, is_resumed=resume is not None)
                    if isinstance(published, PublishedFile):
                        return published
                    error = published
                    in_segments = False  # the storage may have sent wrong bytes for a range
                await self._wait_or_raise(error)
                resume = None

    async def _publish(
        self, version: ObjectVersion, *, is_resumed: bool
    ) -> PublishedFile | ResultError:
        """Check the complete part file, and rename it to its target.

        If the bytes are wrong, but another download can succeed, return the error. Raise all other
        errors.

        Args:
            version: Version of the object in storage.
            is_resumed: True if the file contains bytes of an earlier process.
        """
        try:
            digest = await self._disk.publish()
        except ResultTransferError as truncated:
            return truncated
        except ResultMalformedError as malformed:
            if not is_resumed and self._disk.written > MAX_ERROR_PAGE:
                raise
            return malformed
        return PublishedFile(self._disk.written, digest, version.etag, self._resumed)

    async def _in_segments(self, resume: ResumeState | None) -> ObjectVersion:
        """Download in segments, or in order if the first response contains the whole result.

        Return the version of the object in storage. `resume` says which bytes the part file already
        contains from an earlier download; None if it is empty.

        Raises:
            NoRangesError: The storage does not serve ranges, so the caller must call `_in_order`.
            ObjectChangedError, AdePollError: As for `DownloadConnections.run`.
        """
        async with AsyncExitStack() as stack:
            if resume is None:
                first = await self._first_segment(stack)
                version = first.version
                # Without a strong ETag, two segments could be of different versions.
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
                if not segments.missing:
                    # Download the last byte again: the response shows whether the object has
                    # changed.
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
                # The storage may answer some ranges with an error page, but a request for the whole
                # result correctly.
                raise NoRangesError from None
            finally:
                self._resumed += connections.resumed
            return version

    async def _first_segment(self, stack: AsyncExitStack) -> ResponseBody:
        """Request the first bytes of the result, and return the body of the response.

        `stack` closes the response. Raise `NoRangesError` if the storage refuses a range: then the
        whole result must be requested.
        """
        fallback: RangeFallback | None = None
        while True:
            opening = self._stored.open(requested=Range(0, FIRST_SEGMENT))
            try:
                return await stack.enter_async_context(opening)
            except UnusableRangeError:
                raise NoRangesError from None
            except ResultError as error:
                fallback = fallback or RangeFallback(self._stored)
                next_request = await fallback.after(error)
                if next_request is NextRequest.WHOLE:
                    raise NoRangesError from None
                if next_request is NextRequest.RANGE_LATER:
                    await self._wait_or_raise(error)

    async def _in_order(
        self, reader: SequentialReader | PolledReader | None = None
    ) -> ObjectVersion:
        """Download the result over one connection, from the first byte to the last.

        Return the version of the object in storage. If a response has already arrived, `reader`
        reads it. If `reader` is None, a request is sent.
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
        # `retries` has already counted the failures of single requests. The failure of the whole
        # attempt counts in addition: without `started`, it is not one of these failures.
        await self._stored.retries.wait_or_raise(error)


async def write_local(disk: DiskWriter, source: ByteSource) -> PublishedFile:
    """Write a result that a poll has already received; return size and SHA-256 of the file.

    `source` reads the result from the snapshot. A client with a `result_dir` keeps large results in
    files there; then `source` reads such a file.
    """
    async with disk.open():
        await disk.begin(ObjectVersion(source.version.size), multipart=False)
        await _copy_in_order(disk, source.read)
        digest = await disk.publish()
    return PublishedFile(disk.written, digest, None, 0)


async def _copy_in_order(disk: DiskWriter, read: ReadChunk) -> None:
    await SegmentWriter(disk, 0, lambda count: disk.written + count).copy(read)
