"""Writes and hashes a download in threads, while the event loop receives the next bytes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from functools import cache, partial
from threading import Lock
from typing import Final, TypeAlias

from adepoll.api.body_decoding import Chunk
from adepoll.common.threads import run_in_thread, start_in_thread, wait_until_done
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.resume_state import ResumeState
from adepoll.fetcher.storage_rules import ObjectVersion

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes written so far, and the size of the result in bytes or None."""

_HASHED_FROM_FILE: Final = 2**24  # bytes that one call in a thread reads from the file and hashes
_SYNC_EVERY: Final = 2**26  # bytes between two syncs of the file
_LARGE_ALLOCATION: Final = 2**24  # bytes of the block in `_keep_freed_memory`


async def stop_task(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await wait_until_done(task)


class DiskWriter:
    """Writes one download to its part file and hashes it, in threads.

    Attributes:
        size: Size of the result in bytes; None if not known.
        written: Number of bytes in the file so far, including those of an earlier download that is
            continued.
        part: The part file.
    """

    def __init__(
        self, part: PartFile, progress: Progress | None, *, result_keys: Collection[str] = ()
    ) -> None:
        """Create a writer for the file `part`.

        `progress` is called after each write. `result_keys` are the top-level keys that a result
        must have.
        """
        self.size: int | None = None
        self.written = 0
        self.part = part
        self._progress = progress
        self._result_keys = result_keys
        self._prefix = 0  # bytes at the start of the file that are written without a gap
        self._hash_lock = Lock()  # acquired by the thread that hashes
        self._hashing: asyncio.Task[None] | None = None  # hashes the bytes of an earlier process
        self._syncing: asyncio.Future[None] | None = None
        self._synced = 0  # value of `written` when the last sync began
        self._is_published = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ResumeState | None, None]:
        """Open the part file, and yield the resume state that an earlier download left.

        Yield None if there is no resume state. Close the part file at the end of the block.
        """
        try:
            yield await run_in_thread(self.part.open, self._result_keys)
        finally:
            if not self._is_published:
                try:
                    await self._stop_background_work()
                finally:
                    await run_in_thread(self.part.close)

    async def begin(
        self,
        version: ObjectVersion,
        *,
        multipart: bool,
        resumable: bool = False,
        resume: ResumeState | None = None,
    ) -> None:
        """Start to write: an empty file, or with `resume` the file of an earlier download.

        Args:
            version: Size and ETag of the object that will be written, as far as they are known.
            multipart: True if several responses will make up the file; ignored with `resume`.
            resumable: True if the storage serves ranges; ignored with `resume`.
            resume: The resume state that `open` yielded, to keep the bytes that the file already
                contains; None to begin with an empty file.
        """
        await self._stop_background_work()
        _keep_freed_memory()
        self.size = version.size
        self.written = self._synced = self._prefix = 0
        if resume is None:
            begin = partial(self.part.begin, version, multipart=multipart, resumable=resumable)
            await run_in_thread(begin)
        else:
            self.written = sum([stop - start for start, stop in resume.present])
            self._prefix = next((stop for start, stop in resume.present if start == 0), 0)
            self._hashing = asyncio.create_task(self._finish_hash())
        self._report_progress()

    def write(self, offset: int, chunks: list[Chunk]) -> asyncio.Future[None]:
        """Start to write and hash chunks in a thread; return a future that completes at the end.

        `offset` is the offset of the first chunk in the file.
        """
        return start_in_thread(self._write, offset, chunks)

    def record(self, count: int, prefix: int) -> None:
        """Record that bytes were written; after each 64 MiB, start to sync the file to the disk.

        A single sync at the end would take long. If the previous sync has failed, raise its error.

        Args:
            count: Number of newly written bytes.
            prefix: Number of bytes at the start of the file that are written without a gap.
        """
        self.written += count
        self._prefix = prefix
        self._report_progress()
        if self.written - self._synced >= _SYNC_EVERY:
            if self._syncing is not None and not self._syncing.done():
                return
            if self._syncing is not None:
                self._syncing.result()
            self._synced = self.written
            self._syncing = start_in_thread(self.part.sync)

    async def publish(self) -> str:
        """Hash the rest, and rename the complete part file to its target; return the SHA-256."""
        await self._finish_hash()
        if self._syncing is not None:
            await wait_until_done(self._syncing)
            self._syncing.result()
        digest = await run_in_thread(self.part.publish)
        self._is_published = True
        return digest

    def _write(self, offset: int, chunks: list[Chunk]) -> None:
        """Write chunks, and hash them if all earlier bytes of the file are hashed.

        Otherwise, a later call reads these bytes from the file, and hashes them.
        """
        self.part.write(offset, chunks)
        if self._hash_lock.acquire(blocking=False):
            try:
                self._hash_from_file()
                if offset == self.part.hashed:
                    self.part.hash(chunks)
            finally:
                self._hash_lock.release()

    def _hash_from_file(self) -> None:
        """Read the next bytes that are not hashed yet from the file, at most 16 MiB; hash them."""
        stop = min(self._prefix, self.part.hashed + _HASHED_FROM_FILE)
        if stop > self.part.hashed:
            self.part.hash_to(stop)

    async def _finish_hash(self) -> None:
        """Hash all bytes before the first gap in the file."""

        def hash_some() -> None:
            with self._hash_lock:
                self._hash_from_file()

        while self.part.hashed < self._prefix:
            await run_in_thread(hash_some)

    async def _stop_background_work(self) -> None:
        """Wait until no thread hashes or syncs the file in the background.

        Ignore the errors of these threads, because the download has ended or begins again.
        """
        hashing, self._hashing = self._hashing, None
        syncing, self._syncing = self._syncing, None
        try:
            if hashing is not None:
                await stop_task(hashing)
        finally:
            if syncing is not None:
                await wait_until_done(syncing)

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(self.written, self.size)


@cache
def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next chunks; do nothing after the first call.

    By default, glibc returns memory to the kernel when some hundred kilobytes are free. The kernel
    then maps and zeroes memory for the next chunks, which takes half of the time of a fast
    download. So this function frees a large block once: then glibc raises its limits for the rest
    of the process (mallopt(3), "dynamic mmap threshold"). Other allocators are not affected.
    """
    bytes(_LARGE_ALLOCATION)  # allocated and freed immediately; its pages are never used
