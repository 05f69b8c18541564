"""A result on its way to disk: in parts, or in order where that cannot be.

Imports crew, reader, stream and below.
"""

import asyncio
from contextlib import AsyncExitStack

from attrs import evolve, frozen

from adepoll.errors import ResultChangedError, ResultError, ResultTransferError
from adepoll.fetcher.answers import Answer, ChangedError, NoRangeError, Range, Version
from adepoll.fetcher.crew import Crew, NotInPartsError
from adepoll.fetcher.landing import Landing, Writer
from adepoll.fetcher.reader import Reader
from adepoll.fetcher.sidecar import Kept
from adepoll.fetcher.spans import Spans
from adepoll.fetcher.stream import Inline
from adepoll.fetcher.transfer import Persistence, StoredResult
from adepoll.fetcher.width import PART_BYTES


@frozen
class Fetched:
    """What has been published.

    Attributes:
        size: Its bytes.
        sha256: Of them, in hex.
        etag: What the storage called it.
        resumed: How often another connection or process went on where one had broken.
    """

    size: int
    sha256: str
    etag: str | None
    resumed: int


class Carrier:
    """Carries one stored result to its file."""

    def __init__(
        self,
        stored: StoredResult,
        persistence: Persistence,
        landing: Landing,
        *,
        connections: int,
    ) -> None:
        """Over so many connections at most; the file has been checked."""
        self._stored = stored
        self._persistence = persistence
        self._landing = landing
        self._connections = connections
        self._resumed = 0

    async def run(self) -> Fetched:
        """Bring the result home, and publish its file.

        Raises:
            ResultError: It could not be had, or written.
            RequestError: The service could not be asked for a fresh URL.
        """
        in_parts = True
        async with self._landing.open() as found:
            kept = found
            self._resumed += kept is not None
            while True:
                began = asyncio.get_running_loop().time()
                try:
                    if in_parts:
                        version = await self._in_parts(kept)
                    else:
                        version = await self._in_order()
                except NotInPartsError:
                    in_parts, kept = False, None
                    continue
                except (ChangedError, ResultChangedError):
                    if kept is not None:
                        kept = None  # it was not ours that failed
                        self._resumed = 0
                        continue
                    error = self._error("the object in storage changed")
                else:
                    try:
                        digest = await self._landing.publish()
                    except ResultTransferError as cut:
                        error = cut
                    else:
                        return Fetched(self._landing.there, digest, version.etag, self._resumed)
                # No size: whoever has to begin anew has gained nothing by having come far.
                await self._persistence.endure(error, began=began, gained=0, size=None)
                kept = None

    async def _in_parts(self, kept: Kept | None) -> Version:
        """Ask for ranges. The first answer may be all there is, asked for as a part or not."""
        async with AsyncExitStack() as stack:
            if kept is None:
                first = await self._first(stack)
                version = first.version
                # Without a strong name, the parts of it could be of different versions.
                if first.is_piece and not version.is_strong and first.stop != version.size:
                    raise NotInPartsError
                if not first.is_piece or not version.is_strong:
                    return await self._in_order(first, stack.pop_all())
                spans = Spans(version.size or 0)
            else:
                first = None
                version = kept.version
                spans = Spans(version.size or 0, kept.done)
                if not spans.missing:  # ask for a byte all the same: is it still that object?
                    kept = evolve(kept, done=[(0, spans.size - 1)])
                    spans = Spans(spans.size, kept.done)
            joined = spans.size > PART_BYTES
            await self._landing.begin(version, joined=joined, resumable=True, kept=kept)
            crew = Crew(
                self._stored,
                self._persistence,
                self._landing,
                version=version,
                spans=spans,
                most=self._connections,
            )
            try:
                await crew.run(first)
            finally:
                self._resumed += crew.resumed
            return version

    async def _first(self, stack: AsyncExitStack) -> Answer:
        """Ask for the first part, until it is answered."""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await stack.enter_async_context(
                    self._stored.open(asked=Range(0, PART_BYTES))
                )
            except NoRangeError:
                break
            except ResultError as error:
                await self._persistence.endure(error, began=began, gained=0, size=None)
        raise NotInPartsError

    async def _in_order(
        self, first: Answer | None = None, stack: AsyncExitStack | None = None
    ) -> Version:
        """Read from the first byte to the last."""
        landing = self._landing
        reader = Reader(self._stored, self._persistence)

        def wrote(count: int) -> None:
            landing.wrote(count, landing.there + count)

        try:
            if first is not None and stack is not None:
                reader.adopt(first, stack)
            await reader.begin()
            await landing.begin(reader.version, joined=False)
            async with Writer(landing, 0, wrote) as writer:
                while chunk := await reader.read():
                    await writer.put(chunk)
                await writer.flush()
        finally:
            self._resumed += reader.resumed
            await reader.aclose()
        return reader.version

    def _error(self, reason: str) -> ResultTransferError:
        return ResultTransferError(
            reason,
            job_id=self._stored.job_id,
            received=self._landing.there,
            expected=self._landing.size,
        )


async def put(landing: Landing, source: Inline) -> Fetched:
    """Write what came inline to its file."""

    def wrote(count: int) -> None:
        landing.wrote(count, landing.there + count)

    async with landing.open():
        await landing.begin(Version(source.version.size), joined=False)
        async with Writer(landing, 0, wrote) as writer:
            await writer.put(await source.read())
            await writer.flush()
        digest = await landing.publish()
    return Fetched(landing.there, digest, None, 0)
