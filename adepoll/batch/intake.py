"""Intake: takes ids into the journal as they come, and gives those that wait. Imports journal."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from typing import Final, TypeAlias

from adepoll.api.job_ids import check_job_id
from adepoll.batch.progress import Tally
from adepoll.errors import InvalidJobIdError
from adepoll.journal import Journal

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]

_LOT: Final = 100_000  # ids written at once, at most
_FIRST_LOT: Final = 1_000  # so that looks begin soon; the next ones are as large as all before
_AT_ONCE: Final = 1_000
_PAGE: Final = 1_000


class Intake:
    """Where the jobs of a run come from: the journal, and the ids that are added to it meanwhile.

    An id that comes late, out of a pipe say, waits for no other.
    """

    def __init__(
        self,
        journal: Journal,
        job_ids: JobIds,
        tally: Tally,
        refuse: Callable[[InvalidJobIdError], Awaitable[None]],
    ) -> None:
        """Take nothing yet.

        Args:
            journal: Where ids are added.
            job_ids: What is added.
            tally: Counts them.
            refuse: Is told of those that cannot be ids, which are not added.
        """
        self._journal = journal
        self._job_ids = job_ids
        self._tally = tally
        self._refuse = refuse
        self._lot: list[str] = []
        self._come = asyncio.Event()  # something stands in the lot, or nothing will any more
        self._taken = asyncio.Event()  # the lot has been taken away
        self._grown = asyncio.Event()  # the journal has, or never will again
        self._ended = False

    @property
    def at_hand(self) -> bool:
        """Whether all ids are there already, and none is waited for."""
        return isinstance(self._job_ids, Collection)

    async def take(self) -> None:
        """Add all ids to the journal."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._write())
        self._tally.complete = True
        self._grown.set()

    async def due(self) -> AsyncGenerator[str, None]:
        """Give the ids that wait, in the journal's order, until no more will come."""
        after = 0
        while True:
            self._grown.clear()
            complete = self._tally.complete
            page = await self._journal.waiting(after=after, limit=_PAGE)
            for number, job_id in page:
                after = number
                yield job_id
            if not page:
                if complete:
                    return
                await self._grown.wait()

    async def _read(self) -> None:
        if isinstance(self._job_ids, AsyncIterable):
            try:
                async for job_id in self._job_ids:
                    await self._put(job_id)
            finally:
                if isinstance(self._job_ids, AsyncGenerator):
                    await self._job_ids.aclose()  # else the collector would, in a task of its own
        else:
            for count, job_id in enumerate(self._job_ids, 1):
                await self._put(job_id)
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._ended = True
        self._come.set()

    async def _put(self, job_id: str) -> None:
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            await self._refuse(error)
            return
        while len(self._lot) >= _LOT:
            self._taken.clear()
            await self._taken.wait()
        self._lot.append(job_id)
        self._come.set()

    async def _write(self) -> None:
        clock, taken = asyncio.get_running_loop().time, 0
        while self._lot or not self._ended:
            self._come.clear()
            if not self._lot:
                await self._come.wait()
            size = max(taken, _FIRST_LOT)
            lot, self._lot = self._lot[:size], self._lot[size:]
            taken += len(lot)
            self._taken.set()
            began, ended = clock(), self._tally.ended
            if new := await self._journal.add(lot):
                self._tally.known += new
                self._tally.open += new
                self._grown.set()
                await asyncio.sleep(0)  # whoever waits for these asks for them before the next lot
            if self._lot and self._tally.ended != ended:
                # Millions of ids would keep the journal busy: what has ended has its share of it.
                await asyncio.sleep(clock() - began)
