"""Writes and hashes a download in threads, while the event loop receives the next bytes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from functools import cache
from typing import Final, TypeAlias

from adepoll.common.threads import run_in_thread, start_in_thread, wait_until_done
from adepoll.errors import ResultError
from adepoll.fetcher.body_decoding import Chunk, ReadChunk
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.resume_state import ResumeState
from adepoll.fetcher.storage_rules import ObjectVersion

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes written so far, and the size of the result in bytes or None."""

_BATCH: Final = 2**20  # bytes that one call in a thread writes
_BATCH_OF_BLOCKS: Final = 2**21  # bytes that one call writes if bytes arrive fast, in blocks
_MAX_UNHASHED: Final = 2**22  # bytes that are kept in memory until they are hashed
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
        written: Bytes written so far.
        part: The part file.
    """

    def __init__(
        self, part: PartFile, progress: Progress | None, *, result_keys: Collection[str] = ()
    ) -> None:
        """Create a writer; `result_keys` are the top-level keys that a result must have."""
        self.size: int | None = None
        self.written = 0
        self.part = part
        self._progress = progress
        self._result_keys = result_keys
        self._prefix = 0  # bytes at the start of the file that are written without a gap
        self._unhashed: list[Chunk] = []  # chunks in memory that are hashed next
        self._unhashed_bytes = 0  # bytes of `_unhashed`, and of the chunks being hashed now
        self._hash_end = 0  # offset after the last byte that was passed to the hash
        self._work_added = asyncio.Event()
        self._work_done = asyncio.Event()
        self._is_complete = False
        self._hashing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ResumeState | None, None]:
        """Open the part file, and yield the resume state that an earlier download left.

        Yield None if there is no resume state.
        """
        try:
            yield await run_in_thread(self.part.open, self._result_keys)
        finally:
            try:
                await self._stop_hashing()
            finally:
                if self.part.is_open:
                    await run_in_thread(self.part.close)

    async def begin(
        self,
        version: ObjectVersion,
        *,
        multipart: bool,
        resumable: bool = False,
        resume: ResumeState | None = None,
    ) -> None:
        """Start to write an empty file, or a file that contains the bytes that `resume` names.

        Args:
            version: Size and ETag of the object that will be written, as far as they are known.
            multipart: True if several responses will make up the file; ignored with `resume`.
            resumable: True if the storage serves ranges; ignored with `resume`.
            resume: The resume state that `open` yielded, to keep its bytes; None to begin with an
                empty file.
        """
        await self._stop_hashing()
        _keep_freed_memory()
        if resume is None:
            options = {"multipart": multipart, "resumable": resumable}
            await run_in_thread(lambda: self.part.begin(version, **options))
        self.size = version.size
        present = resume.present if resume else []
        self.written = sum([stop - start for start, stop in present])
        self._prefix = present[0][1] if present and present[0][0] == 0 else 0
        self._is_complete = False
        self._unhashed = []
        self._unhashed_bytes = 0
        self._hash_end = self.part.hashed
        self._hashing = asyncio.create_task(self._hash())
        self._report_progress()

    def write(self, offset: int, chunks: list[Chunk], size: int) -> asyncio.Future[None]:
        """Start writing chunks in a thread; return a future that is done when they are written.

        If all earlier bytes of the file were passed to the hash, the chunks are passed to it, too.
        Otherwise, they are read from the file later, and hashed then.

        Args:
            offset: Offset of the first chunk in the file.
            chunks: The chunks.
            size: Total size of the chunks in bytes.
        """
        if offset == self._hash_end:
            self._hash_end += size
            self._unhashed += chunks
            self._unhashed_bytes += size
            self._work_added.set()
        return start_in_thread(self.part.write, offset, chunks)

    async def wait_for_hash(self) -> None:
        """Wait while more than 4 MiB in memory are not hashed yet."""
        while self._unhashed_bytes > _MAX_UNHASHED and self._hashing and not self._hashing.done():
            self._work_done.clear()
            await self._work_done.wait()

    def record(self, count: int, prefix: int) -> None:
        """Record that `count` more bytes, and all of the first `prefix` bytes, are written."""
        self.written += count
        self._prefix = prefix
        self._work_added.set()
        self._report_progress()

    async def publish(self) -> str:
        """Finish the hash, and publish the completely written file; return its SHA-256 in hex."""
        if self._hashing is not None:
            self._is_complete = True
            self._work_added.set()
            await self._hashing
            self._hashing = None
        return await run_in_thread(self.part.publish)

    async def _stop_hashing(self) -> None:
        hashing, self._hashing = self._hashing, None
        if hashing is not None:
            # An error of this task needs no handling here: `publish` has raised it, or the download
            # has failed with another error.
            await stop_task(hashing)

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(self.written, self.size)

    async def _hash(self) -> None:
        """Hash all bytes in order, from memory if they are still in memory, or from the file.

        Also sync the file after each 64 MiB, because a single sync at the end takes long.
        """
        part = self.part
        synced = 0
        syncing: asyncio.Future[None] | None = None
        try:
            while not (self._is_complete and part.hashed >= self._prefix):
                if self._unhashed:
                    size = self._hash_end - part.hashed
                    chunks, self._unhashed = self._unhashed, []
                    await run_in_thread(part.hash, chunks)
                    del chunks
                    self._unhashed_bytes -= size
                    self._work_done.set()
                elif part.hashed < self._prefix:
                    self._hash_end = min(self._prefix, part.hashed + _HASHED_FROM_FILE)
                    await run_in_thread(part.hash_to, self._hash_end)
                else:
                    self._work_added.clear()
                    await self._work_added.wait()
                if part.hashed - synced >= _SYNC_EVERY and (syncing is None or syncing.done()):
                    if syncing is not None:
                        syncing.result()
                    synced = part.hashed
                    syncing = start_in_thread(part.sync)
            if syncing is not None:
                await wait_until_done(syncing)
                syncing.result()
        finally:
            self._work_done.set()
            if syncing is not None:
                await wait_until_done(syncing)


@cache
def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next chunks; do nothing after the first call.

    By default, glibc returns memory to the kernel when some hundred kilobytes are free. The kernel
    then maps and zeroes memory for the next chunks, which takes half of the time of a fast
    download. When a large block is freed, glibc raises its limits for the rest of the process
    (mallopt(3), "dynamic mmap threshold"). Other allocators are not affected.
    """
    bytes(_LARGE_ALLOCATION)  # allocated and freed immediately; its pages are never used


class SegmentWriter:
    """Writes consecutive bytes in batches: one is written in a thread while the next arrives."""

    def __init__(
        self,
        disk: DiskWriter,
        offset: int,
        record: Callable[[int], int],
        *,
        full_chunk: int = 0,
    ) -> None:
        """Create a writer that begins at an offset of the file.

        Args:
            disk: Writes the file.
            offset: Offset of the first byte in the file.
            record: Called after each batch with the number of its bytes. Returns the number of
                bytes at the start of the file that are written without a gap.
            full_chunk: Size in bytes of the chunks that arrive while bytes arrive fast. A smaller
                chunk is written without waiting for a full batch. 0 if chunks have any size.
        """
        self._batch = _BATCH_OF_BLOCKS if full_chunk else _BATCH
        self._full_chunk = full_chunk
        self._disk = disk
        self._offset = offset
        self._record = record
        self._chunks: list[Chunk] = []  # the next batch
        self._held_bytes = 0  # bytes of `_chunks`
        self._writing: asyncio.Future[None] | None = None  # done when the last batch is written
        self._writing_bytes = 0  # bytes of the batch that is being written

    async def copy(self, read: ReadChunk) -> None:
        """Write all bytes that `read` returns, even if `read` raises an error after them.

        `read` is not called while the chunks in memory fill two batches and an earlier batch is
        still being written.

        Raises:
            ResultError: `read` raised this error, or the bytes cannot be written.
        """
        failure: ResultError | None = None
        try:
            while True:
                try:
                    chunk = await read()
                except ResultError as error:
                    failure = error
                    break
                if not chunk:
                    break
                self._chunks.append(chunk)
                self._held_bytes += len(chunk)
                # A chunk smaller than `full_chunk` means that bytes arrive slowly. The next chunk
                # may take long, so the batch is written without waiting for it.
                if self._held_bytes >= self._batch or len(chunk) < self._full_chunk:
                    is_idle = self._writing is None or self._writing.done()
                    if is_idle or self._held_bytes >= 2 * self._batch:
                        await self._start_writing()
            await self._start_writing()
            await self._finish_writing()
        finally:
            if self._writing is not None:  # only after an error, which is raised after this wait
                await wait_until_done(self._writing)
        if failure is not None:
            raise failure

    async def _start_writing(self) -> None:
        """Start to write the collected bytes in a thread, after the previous batch."""
        await self._finish_writing()
        if self._held_bytes:
            self._writing = self._disk.write(self._offset, self._chunks, self._held_bytes)
            self._writing_bytes = self._held_bytes
            self._offset += self._held_bytes
            self._chunks = []
            self._held_bytes = 0
            await self._disk.wait_for_hash()

    async def _finish_writing(self) -> None:
        """Wait until the last batch is written, and record its bytes."""
        if self._writing is not None:
            writing = self._writing
            try:
                await wait_until_done(writing)
            finally:
                self._writing = None
            writing.result()
            prefix = self._record(self._writing_bytes)
            self._disk.record(self._writing_bytes, prefix)
