"""IdIntake: adds the ids of a run to the journal as they arrive, and yields the jobs to watch."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from typing import Final, TypeAlias

from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.batch.progress import RunCounters
from adepoll.common.tasks import is_cancelled
from adepoll.common.threads import wait_until_done
from adepoll.errors import InvalidJobIdError, JobIdsCancelledError
from adepoll.journal import Journal
from adepoll.journal.outcomes import BatchJob
from adepoll.journal.stored_jobs import JobToAdd, check_job

JobIds: TypeAlias = Iterable[JobToAdd] | AsyncIterable[JobToAdd]

_MOST_BUFFERED: Final = 100_000  # ids that were read but not yet added to the journal
# Number of ids in the first chunk that is added to the journal. It is small, so that polls begin
# soon. Each later chunk doubles the total, up to a limit.
_FIRST_CHUNK: Final = 1_000
_YIELD_EVERY: Final = 1_000  # ids taken from an iterable before other tasks may run
# Seconds that adding one chunk should take at most, because other calls of the journal wait for it.
_LONGEST_ADD: Final = 0.5
# While other calls wait, the pause after a chunk is longer than adding the chunk by this factor.
# Adding an id can take as long as recording an outcome, and the watcher needs few of the ids soon.
_PAUSE_FACTOR: Final = 4
_SMALLEST_LIMIT: Final = 1_000  # ids; the limit of a chunk is never smaller
_PAGE: Final = 1_000  # waiting jobs read from the journal at the same time


class IdIntake:
    """Adds the ids of a run to the journal, and yields the jobs that must still be watched.

    An id that arrives late, for example from a pipe, does not delay other jobs.

    Attributes:
        has_columns: True after a job with `BatchJob.columns` was read.
    """

    def __init__(
        self,
        journal: Journal,
        job_ids: JobIds,
        counters: RunCounters,
        refuse: Callable[[InvalidJobIdError, JobToAdd], Awaitable[None]],
        *,
        kind: JobKind,
    ) -> None:
        """Create an intake that has read no ids; `add_all` reads them.

        Args:
            journal: Journal to which the ids are added.
            job_ids: The ids.
            counters: Counters of the run, in which new jobs are counted.
            refuse: Called for each invalid id, which is not added. The arguments are the error, and
                the job as the caller passed it.
            kind: Kind to assume for an id that does not contain its kind.
        """
        self._journal = journal
        self._job_ids = job_ids
        self._counters = counters
        self._refuse = refuse
        self._kind = kind
        self.has_columns = False
        self._buffer: list[JobToAdd] = []
        self._readable = asyncio.Event()  # set when the buffer has ids or all ids were read
        self._writable = asyncio.Event()  # set when the buffer has room
        self._added = asyncio.Event()  # set when the journal has new jobs or all ids
        self._reader: asyncio.Task[None] | None = None  # reads the iterable of the caller
        self._holds_id = False  # True while an id was read and is not buffered or refused yet
        self._is_stopped = False  # True if `stop_reading` was called before all ids were read
        self._ids_ended = False  # True if no further id will be buffered

    @property
    def is_collection(self) -> bool:
        """True if all ids are in memory, as in a list, so that no id arrives late."""
        return isinstance(self._job_ids, Collection)

    async def add_all(self) -> None:
        """Read all ids of the run, and add them to the journal as they arrive."""
        async with asyncio.TaskGroup() as tasks:
            self._reader = tasks.create_task(self._read())
            tasks.create_task(self._write())
        self._counters.complete = not self._is_stopped
        self._added.set()

    def stop_reading(self) -> None:
        """Read no further ids; `add_all` still adds those that were read.

        If an id was read and waits for room, it is not lost either.
        """
        if self._ids_ended:
            return
        self._is_stopped = True
        if not self._holds_id:
            self._end_of_ids()
            if self._reader is not None:
                self._reader.cancel()

    async def waiting(self) -> AsyncGenerator[JobRef, None]:
        """Yield all jobs of the journal that must still be watched, as soon as they are added.

        End when all ids of the run were added.
        """
        after = 0
        while True:
            self._added.clear()
            is_last = self._counters.complete  # read before the page, which then has all jobs
            page = await self._journal.waiting(after=after, limit=_PAGE)
            for number, job in page:
                after = number
                yield job
            if not page:
                if is_last:
                    return
                await self._added.wait()

    async def _read(self) -> None:
        """Read all ids from the iterable of the caller into a buffer, from which `_write` reads."""
        if self._is_stopped:
            return
        if isinstance(self._job_ids, AsyncIterable):
            await self._read_arriving(self._job_ids)
        else:
            try:
                await self._read_present(self._job_ids)
            except StopAsyncIteration as exc:  # a loop over the run would end as if all were done
                raise RuntimeError("the iterable of job ids raised StopAsyncIteration") from exc
        self._end_of_ids()

    async def _read_arriving(self, job_ids: AsyncIterable[JobToAdd]) -> None:
        try:
            async for job_id in job_ids:
                if is_cancelled():
                    break  # the iterable has suppressed the CancelledError of this task
                await self._put(job_id)
                if self._is_stopped:
                    break
        except asyncio.CancelledError as cancelled:
            if is_cancelled():
                raise
            raise JobIdsCancelledError from cancelled
        finally:
            if isinstance(job_ids, AsyncGenerator):
                # Otherwise, the garbage collector would close the generator in another task.
                await job_ids.aclose()

    async def _read_present(self, job_ids: Iterable[JobToAdd]) -> None:
        for count, job_id in enumerate(job_ids, 1):
            await self._put(job_id)
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if self._is_stopped:
                break

    def _end_of_ids(self) -> None:
        self._ids_ended = True
        self._readable.set()

    async def _put(self, job: JobToAdd) -> None:
        """Check a job and buffer it, or refuse it. Wait while the buffer is full."""
        if not is_plain(job):  # nearly all jobs are plain ids, which need no check
            try:
                check_job(job)
            except InvalidJobIdError as error:
                self._holds_id = True
                await self._refuse(error, job)
                self._holds_id = False
                return
            self.has_columns = self.has_columns or (isinstance(job, BatchJob) and bool(job.columns))
        while len(self._buffer) >= _MOST_BUFFERED:
            self._holds_id = True
            self._writable.clear()
            await self._writable.wait()
        self._holds_id = False
        self._buffer.append(job)
        self._readable.set()

    async def _write(self) -> None:
        """Add the buffered ids to the journal in chunks, until no further ids follow."""
        clock, total, most = asyncio.get_running_loop().time, 0, _MOST_BUFFERED
        while self._buffer or not self._ids_ended:
            self._readable.clear()
            if not self._buffer:
                await self._readable.wait()
            size = min(max(total, _FIRST_CHUNK), most)
            chunk, self._buffer = self._buffer[:size], self._buffer[size:]
            total += len(chunk)
            self._writable.set()
            began = clock()
            new = await self._add(chunk)
            took, others_wait = clock() - began, self._journal.is_busy
            # With a large journal or a busy machine, adding a chunk can block other calls too long.
            # Then chunks become smaller; if adding becomes faster, they grow again.
            if took > _LONGEST_ADD:
                most = max(_SMALLEST_LIMIT, int(len(chunk) * _LONGEST_ADD / took))
            elif took < _LONGEST_ADD / 2 and len(chunk) == most:
                most = min(2 * most, _MOST_BUFFERED)
            if new:
                self._added.set()
                await asyncio.sleep(0)  # so that `waiting` yields these jobs before the next chunk
            if self._buffer and others_wait:
                # Other calls of the journal, such as recording an outcome, have waited. Without a
                # pause, millions of ids would block those calls.
                await asyncio.sleep(_PAUSE_FACTOR * took)

    async def _add(self, chunk: Sequence[JobToAdd]) -> int:
        """Add ids to the journal, and count those that are new; return their number.

        If the task is cancelled meanwhile, it first adds and counts all of these ids, so that the
        counters agree with the journal.
        """
        adding = asyncio.create_task(self._add_and_count(chunk))
        await wait_until_done(adding)
        return adding.result()

    async def _add_and_count(self, chunk: Sequence[JobToAdd]) -> int:
        new = await self._journal.add(chunk, kind=self._kind)
        self._counters.known += new
        self._counters.open += new
        return new
