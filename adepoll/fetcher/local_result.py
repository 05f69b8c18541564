"""Reads results that a poll has already received, from the snapshot or from a file.

`InlineResult` and `FileResult` can be the `ByteSource` of a `ResultStream`.
"""

import os
from typing import Final

from adepoll.api.received_result import KeptResult
from adepoll.common import file_system
from adepoll.common.system_errors import reason_of
from adepoll.common.threads import run_in_thread
from adepoll.errors import ResultRangeError, ResultTransferError
from adepoll.fetcher.storage_rules import ObjectVersion

_READ_SIZE: Final = 2**18  # bytes of one chunk


class LocalResult:
    """Base class of the readers of a result that a poll has already received.

    Attributes:
        version: An `ObjectVersion` with the size of the whole result, and without an ETag.
        start: Offset of the first byte to read.
        stop: Offset after the last byte to read.
        received: Number of bytes that `read` has returned so far.
        resumed: Always 0, because no connection can fail.
    """

    def __init__(self, size: int, *, job_id: str, start: int, stop: int | None) -> None:
        """Compute the offsets of the range to read.

        Args:
            size: Size of the whole result in bytes.
            job_id: The job, for errors.
            start: Offset of the first byte. A negative number counts from the end of the result.
            stop: Offset after the last byte; None for the end of the result.

        Raises:
            ResultRangeError: The result ends before the range begins.
        """
        self.version = ObjectVersion(size=size)
        self.start = max(0, size + start) if start < 0 else start
        self.stop = size if stop is None else min(stop, size)
        self.received = 0
        self.resumed = 0
        if 0 < size <= self.start:
            raise ResultRangeError(job_id=job_id, start=self.start, size=size)

    async def begin(self) -> None:
        """Do nothing, because the result has already arrived."""

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the file, if there is one."""


class InlineResult(LocalResult):
    """Reads a result that is part of a snapshot."""

    def __init__(
        self, body: bytes, *, job_id: str = "", start: int = 0, stop: int | None = None
    ) -> None:
        """Create a reader of a range of `body`, which is the JSON of the whole result."""
        super().__init__(len(body), job_id=job_id, start=start, stop=stop)
        self._body = body[self.start : self.stop]

    async def read(self) -> bytes:
        """Return all bytes at the first call, then empty bytes."""
        body, self._body = self._body, b""
        self.received += len(body)
        return body


class FileResult(LocalResult):
    """Reads a result that a poll has written to a file."""

    def __init__(
        self, kept: KeptResult, *, job_id: str, start: int = 0, stop: int | None = None
    ) -> None:
        """Open the file; raise `ResultTransferError` if it cannot be opened."""
        super().__init__(kept.size, job_id=job_id, start=start, stop=stop)
        self._job_id = job_id
        self._kept = kept  # when nothing refers to this object any more, its file is deleted
        try:
            self._fd = os.open(kept.path, os.O_RDONLY | file_system.PLAIN)
        except OSError as exc:  # for example, too many files are open
            raise self._read_error(reason_of(exc)) from exc

    async def read(self) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            ResultTransferError: The file cannot be read, or has become shorter.
        """
        position = self.start + self.received
        size = min(_READ_SIZE, self.stop - position)
        try:
            chunk = await run_in_thread(file_system.read_at, self._fd, size, position)
        except OSError as exc:
            raise self._read_error(reason_of(exc)) from exc
        if size > 0 and not chunk:
            raise self._read_error("it has become shorter")
        self.received += len(chunk)
        return chunk

    def _read_error(self, reason: str) -> ResultTransferError:
        """Return the error for a file that cannot be read."""
        return ResultTransferError(
            f"the file with the received result cannot be read: {reason}",
            job_id=self._job_id,
            received=self.received,
            expected=self.stop - self.start,
        )

    async def aclose(self) -> None:
        """Close the file."""
        os.close(self._fd)
