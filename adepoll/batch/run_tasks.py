"""RunTasks: the tasks of one run of a batch, from job ids to outcomes."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, NoReturn

from attrs import evolve

from adepoll.api.job_kind import JobRef, kind_and_id
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.batch.id_intake import IdIntake, JobIds
from adepoll.batch.learnt_durations import write_durations
from adepoll.batch.progress import RunCounters
from adepoll.batch.resources import BatchResources
from adepoll.batch.result_fetching import (
    ResultFetching,
    given_up,
    outcome_of,
)
from adepoll.common.tasks import finish, first_error
from adepoll.common.threads import wait_until_done
from adepoll.errors import (
    AdePollError,
    ClosedError,
    InvalidJobIdError,
    JobTimeoutError,
    JournalError,
)
from adepoll.fetcher.result_sources import ref_of
from adepoll.journal import (
    Acknowledged,
    Change,
    RecordFilter,
    Settled,
    StatusChanged,
)
from adepoll.journal.journal import record_pages
from adepoll.journal.outcomes import BatchJob, Outcome
from adepoll.journal.stored_jobs import JobToAdd
from adepoll.watching.watch import UnresolvedJob, Watch

_log = logging.getLogger(__name__)

_OUTCOMES_BUFFERED: Final = 32
_PAGE: Final = 200  # waiting jobs read from the journal at the same time
_SAVE_EVERY: Final = 30.0  # seconds between two saves of statuses and durations


class RunTasks:
    """The tasks of one run, and a buffer of its outcomes.

    The journal records each outcome before it is buffered, except those of invalid ids.

    Attributes:
        counters: Numbers of the run.
        exhausted: True after `next` has raised, because the run has ended.
        stopped: True after `stop` was called.
        abandoned: True after `abandon` was called, because the consumer has left the run without
            closing it.
    """

    def __init__(
        self, resources: BatchResources, job_ids: JobIds, *, timeout: float | None, replay: bool
    ) -> None:
        """Create a run that has not started; `Batch.run` describes the arguments."""
        self.counters: Final = RunCounters()
        self._resources = resources
        self._journal = resources.journal
        self._timeout = timeout
        self._replay = replay
        self._ids = IdIntake(
            resources.journal, job_ids, self.counters, self._refuse_id, kind=resources.kind
        )
        self._results = ResultFetching(
            resources,
            self.counters,
            self._deliver,
            # A replay has already checked the files of all outcomes.
            verify_acknowledged=resources.verify and not replay,
        )
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue(_OUTCOMES_BUFFERED)
        # Items that the journal has recorded: an outcome to deliver, or a settled job and the file
        # for its result. The last item is None. The queue itself has no limit, because a full queue
        # would delay the recording of the next results; `_record_all` says what limits the items.
        self._recorded: asyncio.Queue[Outcome | tuple[JobSnapshot, Path] | None] = asyncio.Queue()
        self._changed = asyncio.Event()  # set when an outcome is buffered, and when the run ends
        self._watch: Watch[JobSnapshot | UnresolvedJob] | None = None
        # The last recorded status of each active job, by the text of the job's reference.
        self._recorded_statuses: Mapping[str, str] = {}
        self._has_columns = False  # True if a job of an earlier run has columns
        self._main: asyncio.Task[None] | None = None
        self._unacknowledged: JobRef | None = None  # a job whose outcome is being acknowledged
        self.exhausted = False
        self.stopped = False
        self.abandoned = False

    @property
    def running(self) -> bool:
        """True from `start` until the tasks of the run have ended."""
        return self._main is not None and not self._main.done()

    def start(self) -> None:
        """Start the tasks of the run."""
        self._main = asyncio.get_running_loop().create_task(self._run())
        self._main.add_done_callback(self._on_end)

    async def next(self) -> Outcome:
        """Return the next outcome; after the last one, raise `StopAsyncIteration`.

        If an error has ended the run, raise this error instead. Raise `ClosedError` after `stop`.
        """
        while self.stopped or self._outcomes.empty():
            if self.stopped or not self.running:
                self.exhausted = True
                self._raise_end()
            self._changed.clear()
            await self._changed.wait()
        return self._outcomes.get_nowait()

    async def acknowledge(self, job: JobRef) -> None:
        """Record in the journal that the program has acknowledged the outcome of a job."""
        self._results.note_acknowledged(job)
        self._unacknowledged = job
        await self._journal.write(Acknowledged(job, self._resources.now()), durable=False)
        self._unacknowledged = None

    def abandon(self) -> None:
        """Cancel the tasks of the run without waiting for them; may be called in any thread."""
        self.abandoned = True
        if not self.running or self._main is None:
            return
        loop = self._main.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._main.cancel)

    async def stop(self) -> None:
        """Cancel the tasks of the run, and wait until they have ended."""
        self.stopped = True
        self._changed.set()
        if self._main is not None:
            await finish({self._main})
        # The program requested the next outcome, but was cancelled before this was recorded.
        if self._unacknowledged is not None:
            # If the acknowledgement cannot be recorded, the next run yields the outcome again.
            with contextlib.suppress(JournalError, ClosedError):
                await self.acknowledge(self._unacknowledged)

    def _on_end(self, main: asyncio.Task[None]) -> None:
        """Wake a consumer that waits in `next`; called when the main task of the run has ended."""
        if not main.cancelled():
            # Mark the error as seen. Otherwise asyncio logs the error if nobody calls `next` again.
            main.exception()
        self._changed.set()

    def _raise_end(self) -> NoReturn:
        """Raise the error that ended the run, or `StopAsyncIteration` if the run is complete.

        Raise `ClosedError` after `stop`, and CancelledError if the run was cancelled otherwise.
        """
        if self.stopped:
            raise ClosedError("the run was closed; start another one with Batch.run")
        if self._main is None or self._main.cancelled():
            raise asyncio.CancelledError  # for example, `asyncio.run` has cancelled all tasks
        error = self._main.exception()
        if error is None:
            raise StopAsyncIteration
        raise first_error(error)  # the error that ended a task group is wrapped

    async def _deliver(self, *outcomes: Outcome) -> None:
        """Add the `BatchJob.columns` of each job to its outcome; buffer the outcomes."""
        columns: Mapping[JobRef, Mapping[str, str]] = {}
        if self._has_columns or self._ids.has_columns:
            columns = await self._journal.columns([outcome.ref for outcome in outcomes])
        for outcome in outcomes:
            found = columns.get(outcome.ref)
            await self._put(outcome if found is None else evolve(outcome, columns=found))

    async def _put(self, outcome: Outcome) -> None:
        await self._outcomes.put(outcome)
        self._changed.set()

    async def _refuse_id(self, error: InvalidJobIdError, job: JobToAdd) -> None:
        """Buffer an outcome with the error for an invalid id, which is not added to the journal."""
        self.counters.unresolved += 1
        self.counters.known += 1
        batch_job = job if isinstance(job, BatchJob) else BatchJob(JobRef(error.job_id))
        ref = job if isinstance(job, JobRef) else batch_job.ref
        await self._put(
            Outcome(
                job_id=error.job_id,
                kind=ref.kind_or(self._resources.kind),
                label=ref.label,
                columns=batch_job.columns,
                error=error,
            )
        )

    async def _run(self) -> None:
        """Do the whole run: yield earlier outcomes, read ids, watch jobs and fetch results."""
        results = self._results
        try:
            await self._journal.reopen(error_classes=self._resources.curable)
            if self._resources.out_dir is not None:
                await self._journal.reopen_without_file()
            self._has_columns = await self._journal.has_columns()
            self.counters.begin(await self._journal.counts())
            await self._deliver_earlier()
            await results.find_unfinished()
            async with asyncio.TaskGroup() as saving:
                saver = saving.create_task(self._save_regularly())
                async with asyncio.TaskGroup() as results.tasks:
                    async with asyncio.TaskGroup() as sources:
                        intake = sources.create_task(self._ids.add_all())
                        sources.create_task(self._settle(intake))
                        sources.create_task(results.fetch_unfinished())
                        sources.create_task(results.verify_acknowledged())
                    await results.close()
                saver.cancel()
            await self._journal.check_files()
        finally:
            # `stop` cancels this task a second time if `abandon` has cancelled it before.
            last_save = asyncio.create_task(self._save())
            await wait_until_done(last_save)
            last_save.result()

    async def _deliver_earlier(self) -> None:
        """Buffer the outcomes of earlier runs that were not acknowledged.

        If `replay` is True, buffer all outcomes of earlier runs.
        """
        which = RecordFilter.WITH_OUTCOME if self._replay else RecordFilter.UNACKNOWLEDGED
        async with aclosing(record_pages(self._journal, which, data=True)) as pages:
            async for page in pages:
                for record in await self._results.keep_unchanged(page):
                    await self._put(record.outcome())

    async def _settle(self, intake: asyncio.Task[None]) -> None:
        """Watch all jobs that have not settled, record how they end, and deliver their outcomes.

        `intake` is the task that adds the ids of the run to the journal.
        """
        error: AdePollError | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pass_on())
            try:
                await self._record_all(intake)
            except AdePollError as exc:  # raised after the ends that were recorded before
                error = exc
            self._recorded.put_nowait(None)
        if error is not None:
            raise error

    async def _record_all(self, intake: asyncio.Task[None]) -> None:
        """Watch all jobs that have not settled, and record how they end.

        Each end is recorded immediately, even while the consumer or the downloads are slow, because
        the service may have deleted the result after the poll. Memory is limited nevertheless:
        until `_pass_on` has handled an ended job, the job still counts as buffered by the watch.
        While this buffer is full, the watch pauses polls and the reading of ids.
        """
        watcher, window = self._resources.watcher, self._resources.window
        waiting = self._ids.waiting()
        async with watcher.watch(
            waiting, window=window, timeout=self._timeout, errors="yield"
        ) as watch:
            self._watch = watch
            watch.hold()
            try:
                async for end in watch:
                    await self._record_ends((end, *watch.take_ready()))
            except asyncio.CancelledError:
                try:
                    while ends := watch.take_ready():  # they arrived while others were recorded
                        await self._record_ends(ends)
                except AdePollError as exc:  # must not replace the cancellation
                    _log.warning("the last %d polled jobs are not recorded: %s", len(ends), exc)
                raise
        if self._timeout is not None:
            if not self._ids.is_collection:
                self._ids.stop_reading()
            await asyncio.wait([intake])
            await self._give_up_waiting(self._timeout)

    async def _pass_on(self) -> None:
        """Deliver recorded outcomes, and queue the results that must be fetched.

        Wait while the consumer or the downloads are slow.
        """
        while (item := await self._recorded.get()) is not None:
            if isinstance(item, tuple):
                await self._results.put(*item)
            else:
                await self._deliver(item)
            self._recorded.task_done()
            if self._watch is not None:
                self._watch.release(given_up=isinstance(item, Outcome) and item.snapshot is None)

    async def _give_up_waiting(self, timeout: float) -> None:  # noqa: ASYNC109 - the timeout has already passed
        """Give up the jobs that this run has not begun to watch before the timeout."""
        after = 0
        while page := await self._journal.waiting(after=after, limit=_PAGE):
            after = page[-1][0]
            # The watch does not count these jobs, so its limits do not apply to them.
            await self._recorded.join()
            await self._record_ends(
                UnresolvedJob(
                    job.job_id,
                    JobTimeoutError(job_id=job.job_id, timeout=timeout, last_status=None),
                    kind=job.kind_or(self._resources.kind),
                    label=job.label,
                )
                for _, job in page
            )

    async def _record_ends(self, ends: Iterable[JobSnapshot | UnresolvedJob]) -> None:
        """Record how jobs have ended, then queue their outcomes and results for `_pass_on`.

        If the task is cancelled, it first finishes recording and counting the jobs. So no result is
        lost, and the counters agree with the journal.
        """
        recording = asyncio.create_task(self._record(tuple(ends)))
        await wait_until_done(recording)
        recording.result()

    async def _record(self, ends: Sequence[JobSnapshot | UnresolvedJob]) -> None:
        targets = await self._results.targets(
            ref_of(end)
            for end in ends
            if isinstance(end, JobSnapshot) and end.status is JobStatus.COMPLETED
        )
        now = self._resources.now()
        changes: list[Change] = []
        recorded: list[Outcome | tuple[JobSnapshot, Path]] = []
        for end in ends:
            job = JobRef(end.job_id, kind=end.kind, label=end.label)
            if isinstance(end, UnresolvedJob):
                changes.append(given_up(job, end.error, now))
                recorded.append(
                    Outcome(job_id=end.job_id, kind=end.kind, label=end.label, error=end.error)
                )
                continue
            changes.append(Settled(end, now, fetching=job in targets))
            recorded.append((end, targets[job]) if job in targets else outcome_of(end))
        await self._journal.write(*changes)
        await self._results.keep([item[0] for item in recorded if isinstance(item, tuple)])
        self.counters.record_ends(ends)
        closed = sum(isinstance(item, Outcome) for item in recorded)
        if closed:
            self.counters.record_outcomes(closed, asyncio.get_running_loop().time())
        for item in recorded:
            self._recorded.put_nowait(item)

    async def _save_regularly(self) -> None:
        """Save statuses and durations every 30 seconds, because a killed run cannot save them.

        Raises:
            JournalMovedError: The file of the journal was removed, renamed or replaced.
        """
        while True:
            await asyncio.sleep(_SAVE_EVERY)
            await self._save()
            await self._journal.check_files()

    async def _save(self) -> None:
        await self._save_statuses()
        await self._save_durations()

    async def _save_statuses(self) -> None:
        """Record in the journal the job statuses that have changed since the last call."""
        if self._watch is None:
            return
        before, self._recorded_statuses = self._recorded_statuses, self._watch.last_statuses()
        changed = self._recorded_statuses.items() - before.items()
        if changed:
            kinds = self._resources.watcher.durations_by_kind
            changes = []
            for key, text in changed:
                kind, job_id = kind_and_id(key, self._resources.kind, kinds)
                changes.append(StatusChanged(JobRef(job_id, kind=kind), text))
            with contextlib.suppress(JournalError):  # a lost status does not stop the run
                await self._journal.write(*changes, durable=False)

    async def _save_durations(self) -> None:
        with contextlib.suppress(JournalError):  # lost durations do not stop the run
            await write_durations(self._journal, self._resources.watcher.durations_by_kind)
