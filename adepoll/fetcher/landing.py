"""Where bytes land: written and digested behind their reader, in threads, both at once.

The event loop does nothing but hand them over. Imports partfile and below.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from types import TracebackType
from typing import Final, Self, TypeAlias

from adepoll.errors import StorageError
from adepoll.fetcher.answers import Version
from adepoll.fetcher.bulk import BLOCK_BYTES
from adepoll.fetcher.partfile import PartFile
from adepoll.fetcher.reading import Chunk
from adepoll.fetcher.sidecar import Kept
from adepoll.fetcher.threads import begin, finish, in_thread, settle, stop

Progress: TypeAlias = Callable[[int, int | None], None]
"""Is told how many bytes are there, and how many there will be; None where that is not known."""

_BATCH: Final = 2**20  # of bytes that go to a thread together
_BATCH_IN_BULK: Final = 2**22
_MOST_BEHIND: Final = 2**23  # bytes that wait for their digest in memory
_DIGEST_AT_ONCE: Final = 2**24
_SYNC_EVERY: Final = 2**26
_LARGE: Final = 2**24  # bytes, as memory goes


class Landing:
    """The disk's side of one download.

    Attributes:
        size: Bytes of the whole; None where it is not known.
        there: Bytes that are written.
        part: The file.
    """

    def __init__(self, part: PartFile, progress: Progress | None) -> None:
        """Touch nothing yet."""
        self.size: int | None = None
        self.there = 0
        self.part = part
        self._progress = progress
        self._frontier = 0  # up to where all is written
        self._fresh: list[Chunk] = []  # to be digested next, in memory still
        self._behind = 0  # bytes of those, and of those that are being digested
        self._digestible = 0  # up to where what was given to be digested goes
        self._moved = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._complete = False
        self._digesting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Kept | None, None]:
        """Open the file for a block; give what an earlier download has left of it."""
        try:
            yield await in_thread(self.part.open)
        finally:
            try:
                await self._stop()
            finally:
                if self.part.is_open:
                    await in_thread(self.part.leave)

    async def begin(
        self,
        version: Version,
        *,
        joined: bool,
        resumable: bool = False,
        kept: Kept | None = None,
    ) -> None:
        """Begin with an empty file, or with what was kept; the others as for `PartFile.begin`."""
        await self._stop()
        _keep_memory()
        if kept is None:
            how = {"joined": joined, "resumable": resumable}
            await in_thread(lambda: self.part.begin(version, **how))
        self.size = version.size
        done = kept.done if kept else []
        self.there = sum(stop - start for start, stop in done)
        self._frontier = done[0][1] if done and done[0][0] == 0 else 0
        self._complete = False
        self._fresh = []
        self._behind = 0
        self._digestible = self.part.hashed
        self._digesting = asyncio.create_task(self._digest())
        self._tell()

    def write(self, at: int, chunks: list[Chunk], size: int) -> asyncio.Future[None]:
        """Begin to write these bytes; and digest them meanwhile, if it is their turn."""
        if at == self._digestible:
            self._digestible += size
            self._fresh += chunks
            self._behind += size
            self._moved.set()
        return begin(self.part.write, at, chunks)

    async def catch_up(self) -> None:
        """Wait while too much that is in memory is not digested yet."""
        while self._behind > _MOST_BEHIND and self._digesting and not self._digesting.done():
            self._caught_up.clear()
            await self._caught_up.wait()

    def wrote(self, count: int, frontier: int) -> None:
        """Take in that so many more bytes are written, and that none is missing up to there."""
        self.there += count
        self._frontier = frontier
        self._moved.set()
        self._tell()

    async def publish(self) -> str:
        """Say that all is written; publish the file, and give its digest in hex."""
        if self._digesting is not None:
            self._complete = True
            self._moved.set()
            await self._digesting
        return await in_thread(self.part.publish)

    async def _stop(self) -> None:
        digesting, self._digesting = self._digesting, None
        if digesting is not None:
            # What it failed with was told by `publish`, or the download failed before.
            await stop(digesting)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.there, self.size)

    async def _digest(self) -> None:
        """Digest all in order: from memory, or the file what came out of order or was there.

        And have the disk write early, or the last sync would take long; nobody waits for that.
        """
        part = self.part
        synced = 0
        syncing: asyncio.Future[None] | None = None
        try:
            while not (self._complete and part.hashed >= self._frontier):
                if self._fresh:
                    size = self._digestible - part.hashed
                    chunks, self._fresh = self._fresh, []
                    await in_thread(part.digest, chunks)
                    del chunks
                    self._behind -= size
                    self._caught_up.set()
                elif part.hashed < self._frontier:
                    self._digestible = min(self._frontier, part.hashed + _DIGEST_AT_ONCE)
                    await in_thread(part.hash_to, self._digestible)
                else:
                    self._moved.clear()
                    await self._moved.wait()
                if part.hashed - synced >= _SYNC_EVERY and (syncing is None or syncing.done()):
                    if syncing is not None:
                        syncing.result()
                    synced = part.hashed
                    syncing = begin(part.sync)
            if syncing is not None:
                await finish(syncing)
        finally:
            self._caught_up.set()
            if syncing is not None:
                await settle(syncing)


@cache
def _keep_memory() -> None:
    """Have the allocator keep what we free for what we read next.

    glibc gives memory back when a few hundred kilobytes lie free, and has it mapped and zeroed
    anew for the next chunks: half the time of a fast download. That a larger block was freed
    raises both of its bounds for good (mallopt(3), "dynamic mmap threshold"). Once is enough: the
    next such block would come from what is kept, and be zeroed. Elsewhere it does nothing.
    """
    bytes(_LARGE)  # of which not a page is touched


class Writer:
    """Writes batches of chunks while the next are read; an async context manager."""

    def __init__(
        self,
        landing: Landing,
        at: int,
        wrote: Callable[[int], None],
        *,
        in_bulk: bool = False,
    ) -> None:
        """Begin to write at that offset.

        Args:
            landing: Where to.
            at: The offset.
            wrote: Is told of each batch, by its bytes.
            in_bulk: Whether batches are larger: bytes come so fast that it is the handing over
                that takes time.
        """
        self._batch = _BATCH_IN_BULK if in_bulk else _BATCH
        self._whole = BLOCK_BYTES if in_bulk else 0  # bytes of a chunk that others follow at once
        self._landing = landing
        self._at = at
        self._wrote = wrote
        self._chunks: list[Chunk] = []
        self._held = 0
        self._begun: asyncio.Future[None] | None = None
        self._writing = 0

    async def __aenter__(self) -> Self:
        """Give the writer itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stay until the thread is done."""
        if self._begun is not None:
            with suppress(StorageError):  # that one is not why we leave
                await finish(self._begun)

    async def put(self, chunk: Chunk) -> None:
        """Take a chunk; waits while two batches are full and those before are not written yet.

        One that is not whole came slowly, and perhaps nothing will for long: more is not waited
        for then.
        """
        self._chunks.append(chunk)
        self._held += len(chunk)
        enough = self._held >= self._batch or len(chunk) < self._whole
        if enough and (self._is_idle or self._held >= 2 * self._batch):
            await self._hand_over()

    async def flush(self) -> None:
        """Write all that was taken."""
        await self._hand_over()
        await self._settle()

    @property
    def _is_idle(self) -> bool:
        return self._begun is None or self._begun.done()

    async def _hand_over(self) -> None:
        await self._settle()
        if self._held:
            self._begun = self._landing.write(self._at, self._chunks, self._held)
            self._writing = self._held
            self._at += self._held
            self._chunks = []
            self._held = 0
            await self._landing.catch_up()

    async def _settle(self) -> None:
        if self._begun is not None:
            try:
                await finish(self._begun)
            finally:
                self._begun = None
            self._wrote(self._writing)
