"""Work: what a run of a batch does, from ids to outcomes, in tasks that end with it.

Imports journal, watcher, fetcher and below.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final, NoReturn

from adepoll.api.job_ids import result_name
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.batch import files
from adepoll.batch.equipment import Equipment
from adepoll.batch.errands import (
    Errand,
    bare,
    blocked_of,
    bring_home,
    given_up,
    is_at_its_place,
)
from adepoll.batch.intake import Intake, JobIds
from adepoll.batch.progress import Tally
from adepoll.errors import (
    ClosedError,
    ConfigurationError,
    InvalidJobIdError,
    JobTimeoutError,
    JournalError,
)
from adepoll.journal import (
    Change,
    Delivered,
    FileLost,
    RecordFilter,
    Settled,
    StatusChanged,
)
from adepoll.journal.outcomes import Outcome, Record
from adepoll.watching.harvest import End, Harvest, Unresolved
from adepoll.watching.pollers import finish

_OUTCOMES_HELD: Final = 32
_PAGE: Final = 200  # records
_KEEP_EVERY: Final = 30.0  # seconds
DURATIONS: Final = "durations"  # the note in which they are kept
_OURS: Final = "ours"  # that of jobs given up whose file, all the same, an earlier run wrote


class Work:
    """What is done for one run; its outcomes are durable when they are given.

    Attributes:
        tally: What it counts.
        over: Whether its end has been told.
        stopped: Whether somebody has stopped it.
        abandoned: Whether who wanted the outcomes has gone.
    """

    def __init__(
        self, equipment: Equipment, job_ids: JobIds, *, timeout: float | None, replay: bool
    ) -> None:
        """Do nothing yet; see `Batch.run`."""
        self.tally: Final = Tally()
        self._equipment = equipment
        self._journal = equipment.journal
        self._timeout = timeout
        self._replay_all = replay
        self._intake = Intake(equipment.journal, job_ids, self.tally, self._refuse)
        self._to_fetch: asyncio.Queue[Errand | None] = asyncio.Queue(equipment.downloads)
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue(_OUTCOMES_HELD)
        self._news = asyncio.Event()
        self._harvest: Harvest | None = None
        self._main: asyncio.Task[None] | None = None
        self._ours: set[str] = set()  # jobs to be fetched whose files earlier runs wrote
        self._taken: set[str] | None = None  # jobs delivered while files are seen after
        self._unmarked: str | None = None  # a job whose outcome was taken, and is not marked so
        self.over = False
        self.stopped = False
        self.abandoned = False

    @property
    def under_way(self) -> bool:
        """Whether something runs for it."""
        return self._main is not None and not self._main.done()

    def start(self) -> None:
        """Begin to work."""
        self._main = asyncio.get_running_loop().create_task(self._run())
        self._main.add_done_callback(self._ended)

    async def next(self) -> Outcome:
        """Give the next outcome, or raise what the work has ended with."""
        while self.stopped or self._outcomes.empty():
            if self.stopped or not self.under_way:
                self.over = True
                self._raise_end()
            self._news.clear()
            await self._news.wait()
        return self._outcomes.get_nowait()

    async def delivered(self, job_id: str) -> None:
        """Write down that the consumer has taken an outcome."""
        if self._taken is not None:
            self._taken.add(job_id)
        self._unmarked = job_id
        await self._journal.write(Delivered(job_id, self._equipment.now()), durable=False)
        self._unmarked = None

    def abandon(self) -> None:
        """Stop soon: nobody wants the outcomes any more. May be called in any thread."""
        self.abandoned = True
        if not self.under_way or self._main is None:
            return
        loop = self._main.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._main.cancel)

    async def stop(self) -> None:
        """Stop, and wait until nothing runs."""
        self.stopped = True
        self._news.set()
        if self._main is not None:
            await finish({self._main})
        # Who was cancelled as he asked for the next outcome has taken this one. Where that cannot
        # be written down, it is told once more; that the journal fails was told already.
        if self._unmarked is not None:
            with contextlib.suppress(JournalError, ClosedError):
                await self.delivered(self._unmarked)

    def _ended(self, main: asyncio.Task[None]) -> None:
        if not main.cancelled():
            main.exception()  # seen, also where nobody asks for the next outcome
        self._news.set()

    def _raise_end(self) -> NoReturn:
        if self.stopped:
            raise ClosedError("the run was closed")
        if self._main is None or self._main.cancelled():
            raise asyncio.CancelledError  # by who cancels all tasks there are
        error = self._main.exception()
        if error is None:
            raise StopAsyncIteration
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]  # the group is the tasks' wrapping; the first one is why
        raise error

    async def _tell(self, outcome: Outcome) -> None:
        await self._outcomes.put(outcome)
        self._news.set()

    async def _refuse(self, error: InvalidJobIdError) -> None:
        self.tally.unresolved += 1
        self.tally.known += 1
        await self._tell(Outcome(job_id=error.job_id, error=error))

    # --- the work ----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            # Where a job is at FETCHING, there was no file of others when it came to be, so that
            # what lies there was published by a run that ended before it could say so.
            ours: set[str] = set()
            if not self._equipment.moved:
                ours = await self._ids_of(RecordFilter.FETCHING) | await self._noted_ours()
            if self._equipment.verify:
                self._taken = set()
            refused = await self._refuse_again(ours)
            await self._journal.reopen(kinds=self._equipment.curable, but=refused)
            self.tally.begin(await self._journal.counts())
            ours |= await self._replay()
            to_resume = await self._ids_of(RecordFilter.FETCHING)
            self._ours = ours & to_resume
            if to_resume and self._equipment.out_dir is None:
                raise ConfigurationError(
                    f"the journal has {len(to_resume)} results still to be fetched: give out_dir "
                    "(--out), as the run before did"
                )
            async with asyncio.TaskGroup() as keeping:
                keeper = keeping.create_task(self._keep())
                async with asyncio.TaskGroup() as fetching:
                    for _ in range(self._equipment.downloads):
                        fetching.create_task(self._fetch())
                    async with asyncio.TaskGroup() as sources:
                        intake = sources.create_task(self._intake.take())
                        sources.create_task(self._settle(intake))
                        sources.create_task(self._resume(to_resume))
                        if self._equipment.verify and not self._replay_all:  # which saw them all
                            sources.create_task(self._verify())
                    for _ in range(self._equipment.downloads):
                        await self._to_fetch.put(None)
                keeper.cancel()
        finally:
            await self._keep_seen()
            await self._keep_durations()

    async def _ids_of(self, which: RecordFilter) -> set[str]:
        async with aclosing(self._pages(which)) as pages:
            return {record.job_id async for page in pages for record in page}

    async def _pages(
        self, which: RecordFilter, *, data: bool = False
    ) -> AsyncGenerator[Sequence[Record], None]:
        after = 0
        while page := await self._journal.records(which, after=after, limit=_PAGE, data=data):
            after = page[-1].number
            yield page

    async def _replay(self) -> set[str]:
        """Tell what earlier runs have settled, and nobody has taken; it needs no request.

        Those whose files are lost cannot be told of yet. Gives those of them whose next file takes
        the place of the lost one.
        """
        ours: set[str] = set()
        which = RecordFilter.WITH_OUTCOME if self._replay_all else RecordFilter.UNDELIVERED
        async with aclosing(self._pages(which, data=True)) as pages:
            async for page in pages:
                again: Sequence[Record] = ()
                lost: set[str] = set()
                if self._equipment.verify:
                    again, lost = await self._write_off(page)
                ours.update(r.job_id for r in again if is_at_its_place(self._equipment, r))
                for record in page:
                    if record.job_id not in lost:
                        await self._tell(record.outcome())
        return ours

    async def _write_off(self, page: Sequence[Record]) -> tuple[Sequence[Record], set[str]]:
        """Note which files are lost.

        Gives the records of those to be fetched again, and the jobs of all. Where this run writes
        to another folder, and a file of others is there, it is told at once.
        """
        if not any(record.file for record in page):
            return (), set()
        lost = await asyncio.to_thread(files.lost, page)
        elsewhere = [r.job_id for r in lost if not is_at_its_place(self._equipment, r)]
        blocked = await blocked_of(self._equipment, elsewhere)
        now = self._equipment.now()
        await self._journal.write(
            *(FileLost(record.job_id) for record in lost),
            *(given_up(job_id, error, now) for job_id, error in blocked.items()),
        )
        self.tally.open += len(lost) - len(blocked)
        self.tally.missed += len(blocked)
        for record in lost:
            if error := blocked.get(record.job_id):
                outcome = Outcome(job_id=record.job_id, snapshot=record.snapshot, error=error)
                await self._tell(outcome)
        again = [record for record in lost if record.job_id not in blocked]
        return again, {record.job_id for record in lost}

    # --- jobs that end -----------------------------------------------------------------------

    async def _settle(self, intake: asyncio.Task[None]) -> None:
        """Watch all jobs that wait, and write down how they ended."""
        watcher, window = self._equipment.watcher, self._equipment.window
        waiting = self._intake.due()
        async with watcher.harvest(waiting, window=window, timeout=self._timeout) as harvest:
            self._harvest = harvest
            async for ends in harvest:
                await self._note_ends(ends)
        if self._timeout is not None:
            if not self._intake.at_hand:
                intake.cancel()
            await asyncio.wait([intake])
            await self._give_up_the_rest(self._timeout)

    async def _give_up_the_rest(self, timeout: float) -> None:  # noqa: ASYNC109 - it is over
        """Write off those for which there was no place before the time was over."""
        after = 0
        while page := await self._journal.waiting(after=after, limit=_PAGE):
            after = page[-1][0]
            await self._note_ends(
                Unresolved(
                    job_id, JobTimeoutError(job_id=job_id, timeout=timeout, last_status=None)
                )
                for _, job_id in page
            )

    async def _note_ends(self, ends: Iterable[End]) -> None:
        """Write down how jobs ended; then tell, or send for the results."""
        ends = tuple(ends)
        targets = {
            end.job_id: self._equipment.out_dir / result_name(end.job_id)
            for end in ends
            if self._equipment.out_dir is not None
            and isinstance(end, JobSnapshot)
            and end.status is JobStatus.COMPLETED
        }
        blocked = await blocked_of(self._equipment, targets)
        now = self._equipment.now()
        changes: list[Change] = []
        outcomes: list[Outcome] = []
        errands: list[Errand] = []
        for end in ends:
            target = targets.get(end.job_id)
            if isinstance(end, Unresolved):
                changes.append(given_up(end.job_id, end.error, now))
                outcomes.append(Outcome(job_id=end.job_id, error=end.error))
                self.tally.unresolved += 1
                continue
            self.tally.settled[end.status] += 1
            changes.append(Settled(end, now, fetching=target is not None))
            if target is None:
                outcomes.append(Outcome(job_id=end.job_id, snapshot=end))
            elif error := blocked.get(end.job_id):
                # Told in the same breath: a run that is killed here must not take it for its own.
                changes.append(given_up(end.job_id, error, now))
                outcomes.append(Outcome(job_id=end.job_id, snapshot=bare(end), error=error))
                self.tally.missed += 1
            else:
                overwrite = self._equipment.overwrite
                errands.append(Errand(snapshot=end, path=target, overwrite=overwrite))
        await self._journal.write(*changes)
        self.tally.open -= len(outcomes)
        for outcome in outcomes:
            await self._tell(outcome)
        for errand in errands:
            await self._to_fetch.put(errand)

    # --- results that come home --------------------------------------------------------------

    async def _resume(self, job_ids: set[str]) -> None:
        """Send for the results of these jobs, which earlier runs did not bring home."""
        if not job_ids:
            return
        async with aclosing(self._pages(RecordFilter.FETCHING, data=True)) as pages:
            async for page in pages:
                for record in page:
                    if record.job_id in job_ids:  # else it is of this run, and under way
                        await self._send_for(record, overwrite=record.job_id in self._ours)

    async def _verify(self) -> None:
        """Send again for results that earlier runs delivered, and whose files are lost."""
        async with aclosing(self._pages(RecordFilter.DELIVERED)) as pages:
            async for page in pages:
                # What was taken from this run may have been moved by who took it.
                earlier = [r for r in page if self._taken is None or r.job_id not in self._taken]
                again, _ = await self._write_off(earlier)
                for record in again:
                    await self._send_for(record, overwrite=is_at_its_place(self._equipment, record))
        self._taken = None

    async def _send_for(self, record: Record, *, overwrite: bool) -> None:
        folder = self._equipment.out_dir
        if folder is None and record.file is not None:
            folder = record.file.path.parent
        if folder is None or record.snapshot is None:
            return
        await self._to_fetch.put(
            Errand(
                snapshot=record.snapshot,
                path=folder / result_name(record.job_id),
                overwrite=overwrite or self._equipment.overwrite,
            )
        )

    async def _fetch(self) -> None:
        """Run one errand after another."""
        while (errand := await self._to_fetch.get()) is not None:
            outcome, change = await bring_home(errand, self._equipment, self.tally)
            if errand.overwrite and outcome.error is not None:
                await self._note_ours(errand)
            await self._journal.write(change)
            self.tally.open -= 1
            await self._tell(outcome)

    # --- whose a file is --------------------------------------------------------------------------

    async def _refuse_again(self, ours: set[str]) -> set[str]:
        """Give up anew the results that were, and have a file of others in their place.

        So they can be told from those that a run had begun to fetch. Where this run writes to
        another folder, that may be so of these, too.
        """
        curable = self._equipment.curable
        refused: set[str] = set()
        for which in (RecordFilter.FETCH_GIVEN_UP, RecordFilter.FETCHING):
            async with aclosing(self._pages(which)) as pages:
                async for page in pages:
                    job_ids = [
                        record.job_id
                        for record in page
                        if record.job_id not in ours
                        and not (
                            record.lasting and record.error and record.error.kind not in curable
                        )
                    ]
                    again = await blocked_of(self._equipment, job_ids)
                    now = self._equipment.now()
                    changes = (given_up(job_id, error, now) for job_id, error in again.items())
                    await self._journal.write(*changes)
                    refused.update(again)
        return refused

    async def _noted_ours(self) -> set[str]:
        return set(json.loads(await self._journal.note(_OURS) or "[]"))

    async def _note_ours(self, errand: Errand) -> None:
        """Note that the file in the place of a result is ours, though that is given up now."""
        if self._equipment.overwrite or not await asyncio.to_thread(files.existing, [errand.path]):
            return
        self._ours.add(errand.snapshot.job_id)
        await self._journal.set_note(_OURS, json.dumps(sorted(self._ours)))

    # --- what is kept for the next run -------------------------------------------------------

    async def _keep(self) -> None:
        """Write down now and then what would be missed, but not much."""
        while True:
            await asyncio.sleep(_KEEP_EVERY)
            await self._keep_seen()
            await self._keep_durations()

    async def _keep_seen(self) -> None:
        if self._harvest is not None and (seen := self._harvest.pop_seen()):
            changes = (StatusChanged(job_id, text) for job_id, text in seen.items())
            with contextlib.suppress(JournalError):  # as below
                await self._journal.write(*changes, durable=False)

    async def _keep_durations(self) -> None:
        durations = self._equipment.watcher.durations
        if durations.ended:
            with contextlib.suppress(JournalError):  # it is of no weight, and soon learnt anew
                await self._journal.set_note(DURATIONS, durations.to_json())
