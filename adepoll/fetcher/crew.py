"""The connections that fetch the parts of one result: one, and more where that pays.

Imports landing, spans, transfer, width and below.
"""

import asyncio
from functools import partial
from typing import Final

from adepoll.errors import ResultError, ResultServerError
from adepoll.fetcher.answers import Answer, NoRangeError, Range, Version
from adepoll.fetcher.landing import Landing, Writer
from adepoll.fetcher.spans import Claim, Spans
from adepoll.fetcher.threads import stop
from adepoll.fetcher.transfer import Persistence, StoredResult
from adepoll.fetcher.width import Width

_MOST_NO_PIECES: Final = 3


class NotInPartsError(Exception):
    """The storage gives the whole where a part is asked for."""


class Crew:
    """Fetches what is missing, each connection the first bytes that no other one fetches.

    So the bytes arrive nearly in order, and their digest can follow.

    Attributes:
        resumed: How often a request took over from one that had failed.
    """

    def __init__(
        self,
        stored: StoredResult,
        persistence: Persistence,
        landing: Landing,
        *,
        version: Version,
        spans: Spans,
        most: int,
    ) -> None:
        """Fetch nothing yet; at most `most` connections are used."""
        self.resumed = 0
        self._stored = stored
        self._persistence = persistence
        self._landing = landing
        self._version = version
        self._spans = spans
        self._group = asyncio.TaskGroup()
        self._hired = 0
        self._no_pieces = 0
        self._time = asyncio.get_running_loop().time
        self._width = Width(most, self._time())

    async def run(self, first: Answer | None) -> None:
        """Fetch all that is missing; `first` is an answer with the first bytes of it.

        Raises:
            ChangedError: The storage has another version now.
            NotInPartsError: It gives no parts any more.
            ResultError: It could not be had, or written.
            RequestError: The service could not be asked for a fresh URL.
        """
        # In a task of its own: before Python 3.13, a group that fails swallows its task's
        # cancellation, or leaves one behind that nobody asked for.
        working = asyncio.create_task(self._work_together(first))
        try:
            await asyncio.wait([working])
        finally:
            await stop(working)
        try:
            await working
        except BaseExceptionGroup as group:
            error = group.exceptions[0]  # the others were cancelled, or failed of the same
        else:
            return
        raise error

    async def _work_together(self, first: Answer | None) -> None:
        async with self._group:
            self._hire(first)

    def _hire(self, answer: Answer | None = None) -> None:
        if claim := self._claim():
            self._hired += 1
            self._group.create_task(self._work(claim, answer))

    def _claim(self) -> Claim | None:
        return self._spans.claim(self._width.stretch(self._spans.missing, self._time()))

    async def _work(self, claim: Claim | None, answer: Answer | None) -> None:
        while claim is not None:
            await self._fetch(claim, answer)
            answer = None
            claim = self._claim() if self._hired <= self._width.wanted else None
        self._hired -= 1

    async def _fetch(self, claim: Claim, answer: Answer | None) -> None:
        began = self._time()
        start = claim.start
        try:
            if answer is not None:
                await self._fill(claim, answer)
                return
            asked = Range(claim.start, claim.stop)
            async with self._stored.open(asked=asked, version=self._version) as opened:
                if not opened.is_piece:
                    raise NotInPartsError
                await self._fill(claim, opened)
                return
        except NoRangeError as error:
            self._no_pieces += 1
            if self._no_pieces >= _MOST_NO_PIECES:
                raise NotInPartsError from None
            failure: ResultError = error.as_public()
        except ResultError as error:
            failure = error
        finally:
            self._spans.release(claim)
        if isinstance(failure, ResultServerError) and self._hired > 1:
            # Perhaps it serves no more than the others: then they are enough.
            self._width.narrow(self._hired - 1)
            return
        await self._persistence.endure(
            failure, began=began, gained=claim.start - start, size=self._spans.size
        )
        self.resumed += 1

    async def _fill(self, claim: Claim, answer: Answer) -> None:
        failure = None
        if is_fast := self._width.is_fast(self._time()):
            answer.hurry()
        wrote = partial(self._wrote, claim)
        async with Writer(self._landing, claim.start, wrote, in_bulk=is_fast) as writer:
            while True:
                try:
                    chunk = await answer.read_bulk()
                except ResultError as error:
                    failure = error  # what came before it is good
                    break
                if not chunk:
                    break
                self._width.count(len(chunk))
                await writer.put(chunk)
            await writer.flush()
        if failure is not None:
            raise failure

    def _wrote(self, claim: Claim, count: int) -> None:
        spans = self._spans
        spans.advance(claim, count)
        self._landing.wrote(count, spans.frontier)
        for _ in range(self._hired, self._width.judge(self._time())):
            self._hire()
