"""Journal: the asyncio interface of a journal. It belongs to one event loop, and has one thread.

Calls of `write` that arrive while a transaction runs are written together by the next transaction.
"""

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Final, Self, TypeVar, TypeVarTuple, Unpack

from attrs import define

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.common.closing import AsyncCloseable
from adepoll.common.threads import NO_THREAD, is_thread_limit, wait_until_done
from adepoll.errors import ClosedError, ConfigurationError, JournalAccessError, JournalError
from adepoll.errors.frames import copy_of
from adepoll.journal.changes import Change
from adepoll.journal.database import Database
from adepoll.journal.endpoints import ENDPOINT_NOTES, Endpoints
from adepoll.journal.outcomes import Counts, Record
from adepoll.journal.queries import RecordFilter
from adepoll.journal.stored_jobs import JobToAdd

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_CHUNK: Final = 250_000  # ids per transaction


@define(eq=False, kw_only=True)
class _Call:
    """A call of `Journal.write` that waits until its changes are written.

    Attributes:
        changes: The changes.
        durable: True if the changes must survive a power cut.
        done: Completes when the changes are written, or fails with the error of the call.
    """

    changes: tuple[Change, ...]
    durable: bool
    done: asyncio.Future[None]


class Journal(AsyncCloseable):
    """The journal of a batch: every job and its outcome, in one SQLite file.

    Open it with ``async with await Journal.open(...) as journal``, or close it with `aclose`. A
    journal belongs to the event loop in which it was opened, and has its own thread. While it is
    open, no other `Journal` can open the file, but `JournalReader` can read it. The file contains
    neither the API key nor the query of a presigned URL.

    Attributes:
        path: Absolute path of the file, with symbolic links resolved; None if the journal is in
            memory. Only a file keeps inline results.
        endpoints: Base URLs of the API that has the jobs.
    """

    def __init__(
        self, database: Database, thread: ThreadPoolExecutor, *, endpoints: Endpoints
    ) -> None:
        """Store the arguments; callers use `open` or `in_memory` instead.

        Args:
            database: The open database.
            thread: Executor with the only thread that may use the database.
            endpoints: The endpoints that the journal records.
        """
        self.path: Final = database.path
        self.endpoints: Final = endpoints
        self._database = database
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._calls: list[_Call] = []  # calls of `write` for the next transaction
        self._idle = asyncio.Event()  # set while no call of `write` waits or runs
        self._idle.set()
        self._reads = 0  # calls of `_run` that have not ended
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        endpoint: str,
        v2_endpoint: str | None = None,
        must_exist: bool = False,
    ) -> Self:
        """Open a journal; create it with mode 0600 if the file does not exist or is empty.

        Args:
            path: The file; its folder must exist. While the journal is open, the folder also has
                files with the same name and ``-wal``, ``-shm`` and ``.lock``.
            endpoint: Base URL of the API that has the v1 jobs.
            v2_endpoint: Base URL of the API that has the v2 jobs. If None, it follows from
                `endpoint`: the v2 endpoint of the same region, or `endpoint` itself if it is not
                the endpoint of a region.
            must_exist: True to raise `JournalNotFoundError` if the file does not exist.

        Raises:
            ConfigurationError: An endpoint is not a URL.
            JournalNotFoundError: The file does not exist, and `must_exist` is true.
            JournalBusyError: The journal is open already, in this process or another.
            JournalEndpointError: The journal records other endpoints.
            JournalFormatError: A newer version of adepoll wrote the journal.
            NotAJournalError: The file is not a journal.
            JournalDamagedError: The journal is damaged. The file is not changed.
            JournalAccessError: The file or its folder cannot be read or written, or the system
                cannot start another thread.
        """
        endpoints = Endpoints.of(endpoint, v2_endpoint)
        opener = partial(Database.open, path, endpoints, must_exist=must_exist)
        return await cls._open(opener, endpoints)

    @classmethod
    async def in_memory(cls, *, endpoint: str, v2_endpoint: str | None = None) -> Self:
        """Create a journal that is lost when it is closed, and that keeps no inline results.

        The arguments and errors are those of `open`.
        """
        endpoints = Endpoints.of(endpoint, v2_endpoint)
        return await cls._open(partial(Database.in_memory, endpoints), endpoints)

    @classmethod
    async def _open(cls, opener: Callable[[], Database], endpoints: Endpoints) -> Self:
        """Open the journal in its own thread; close it again if the caller is cancelled.

        `opener` is called in the thread, and returns the open database.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adepoll-journal")
        loop = asyncio.get_running_loop()
        try:
            opening = loop.run_in_executor(thread, opener)
        except RuntimeError as exc:
            if not is_thread_limit(exc):
                raise
            raise JournalAccessError(NO_THREAD, path=None, errno=errno.EAGAIN) from None
        try:
            await wait_until_done(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                await wait_until_done(loop.run_in_executor(thread, opening.result().close))
            thread.shutdown()
            raise
        if opening.exception() is not None:
            thread.shutdown()
        return cls(opening.result(), thread, endpoints=endpoints)

    def check_endpoint(self, endpoint: str, v2_endpoint: str | None = None) -> None:
        """Raise if the journal records other endpoints; the arguments are those of `open`.

        Raises:
            ConfigurationError: An endpoint is not a URL.
            JournalEndpointError: The journal records other endpoints.
        """
        self.endpoints.check(Endpoints.of(endpoint, v2_endpoint), self.path)

    async def aclose(self) -> None:
        """Wait for the calls of `write` in progress, and close the file.

        If the method is called again, the second call also waits until the file is closed.
        """
        if self._closing is None:
            self._check_open()
            self._closing = self._loop.create_task(self._close())
        await wait_until_done(self._closing)
        self._closing.result()

    @property
    def is_busy(self) -> bool:
        """True while a call of a method other than `add` waits for the thread or runs."""
        return self._reads > 0 or not self._idle.is_set()

    async def add(
        self,
        jobs: Sequence[JobToAdd],
        *,
        kind: JobKind = JobKind.V1_EXTRACT,
        at: float | None = None,
    ) -> int:
        """Add jobs that must be watched; ignore those that the journal already contains.

        When this method returns, all jobs survive a power cut. They are written in transactions of
        250,000 jobs each. After an error or a cancellation, the jobs of the first transactions may
        have been added. To add millions of ids in several calls, pass 250,000 in each call. Smaller
        calls take longer in total: ids are random, so every transaction writes to all pages of the
        index of ids.

        Args:
            jobs: The jobs, each as an id, a `JobRef` or a `BatchJob`.
            kind: Kind to assume for an id that does not contain its kind.
            at: Time at which the jobs are added, in Unix seconds; None for the present time of the
                clock of this machine.

        Returns:
            The number of jobs that were new.

        Raises:
            InvalidJobIdError: A text is not a job id. No job of its transaction was added.
            JournalWriteError: The file cannot be written, for example because the disk is full.
        """
        at = time.time() if at is None else at
        new = 0
        for start in range(0, len(jobs), _CHUNK):
            chunk = jobs[start : start + _CHUNK]
            is_last = start + _CHUNK >= len(jobs)
            self._check_open()
            new += await self._loop.run_in_executor(
                self._thread, self._database.add, chunk, kind, at, is_last
            )
        return new

    async def write(self, *changes: Change, durable: bool = True) -> None:
        """Write changes in the order of `changes`, either all of them or none.

        Calls that arrive while a transaction runs are written together by the next transaction. If
        a call is cancelled, either all its changes are written or none.

        Args:
            changes: The changes.
            durable: True to return only when the changes survive a power cut. If False, they
                survive the end of this process, even if it crashes or is killed.

        Raises:
            JournalWriteError: The file cannot be written, for example because the disk is full.
                None of the changes was written. The caller can try again later.
            JournalMovedError: The file was removed, renamed or replaced while it was open.
            JournalError: A change is impossible, for example because the journal does not contain
                its job.
        """
        self._check_open()
        if not changes:
            return
        call = _Call(changes=changes, durable=durable, done=self._loop.create_future())
        self._calls.append(call)
        if self._idle.is_set():
            self._idle.clear()
            # All calls that the tasks make in this step of the event loop go into one
            # transaction.
            self._loop.call_soon(self._write_next, context=Context())
        await call.done

    async def has_columns(self) -> bool:
        """Return whether any job has `BatchJob.columns`."""
        return await self._run(self._database.has_columns)

    async def columns(self, jobs: Collection[JobRef]) -> Mapping[JobRef, Mapping[str, str]]:
        """Return the `BatchJob.columns` of jobs; jobs without columns are left out.

        A job without a kind counts as a v1 extract job.
        """
        return await self._run(self._database.columns, jobs)

    async def shared_names(self, names: Collection[str]) -> set[str]:
        """Return the names in `names` that two or more jobs have.

        The name of a job with a label is the `file_names.label_stem` of the label. The name of any
        other job is its id. Two names with the same `file_names.name_key` count as the same name.
        """
        return await self._run(self._database.shared_names, names)

    async def similar_ids(self, job_ids: Collection[str]) -> set[str]:
        """Return the ids in `job_ids` that are equal or similar to the id of another job.

        The ids of two jobs of different kinds can be equal. Two ids are similar if they have the
        same `file_names.name_key`.
        """
        return await self._run(self._database.similar_ids, job_ids)

    async def waiting(self, *, after: int, limit: int) -> list[tuple[int, JobRef]]:
        """Return jobs that must still be watched, with their numbers, the lowest numbers first.

        Args:
            after: Only jobs with a higher number are returned.
            limit: Maximum number of jobs.
        """
        return await self._run(self._database.waiting, after, limit)

    async def records(
        self, which: RecordFilter, *, after: int = 0, limit: int = 200, data: bool = True
    ) -> list[Record]:
        """Return records, the lowest numbers first; an empty list if there are no further records.

        Args:
            which: The jobs whose records are returned.
            after: Only jobs with a higher number are returned.
            limit: Maximum number of records. Fewer are returned if their size reaches 4 MiB.
            data: If True, the snapshots contain their inline results.

        Raises:
            JournalDamagedError: A record cannot be read.
        """
        return await self._run(self._database.records, which, after, limit, data)

    async def counts(self) -> Counts:
        """Count the jobs by stage and by status.

        This takes milliseconds, or seconds with millions of jobs.
        """
        return await self._run(self._database.counts)

    async def check_files(self) -> None:
        """Check that the files of the journal are still at their paths, as each write does.

        Raises:
            JournalMovedError: The file was removed, renamed or replaced while it was open.
        """
        await self._run(self._database.check_files)

    async def note(self, key: str) -> str | None:
        """Return the value of a key in the table `notes`; None if the table has no such key.

        docs/journal.md lists the keys.
        """
        return await self._run(self._database.note, key)

    async def set_note(self, key: str, value: str) -> None:
        """Set the value of a key in the table `notes`. The value must not contain secrets.

        Raises:
            ConfigurationError: The key is that of an endpoint, which cannot be changed.
            JournalWriteError: The file cannot be written, for example because the disk is full.
        """
        if key in ENDPOINT_NOTES:
            raise ConfigurationError(
                f"the note {key!r} is the journal's own and cannot be changed; use another key"
            )
        await self._run(self._database.set_note, key, value)

    async def reopen(self, *, error_classes: Collection[str] = ()) -> int:
        """Reopen given-up jobs whose `Record.lasting` is False; return the number of these jobs.

        A run of the batch tries a reopened job again. The job gets the stage `FETCHING` if it has
        settled, otherwise `WAITING`.

        Args:
            error_classes: Names of error classes. Jobs with these errors are reopened even if their
                `Record.lasting` is True.
        """
        return await self._run(self._database.reopen, error_classes)

    async def reopen_without_file(self) -> int:
        """Reopen completed jobs without a result file; return the number of these jobs.

        The jobs get the stage `FETCHING`, so that a run of the batch writes their results to files.
        """
        return await self._run(self._database.reopen_without_file)

    async def _run(self, function: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Run a function in the thread of the journal, and return its value."""
        self._check_open()
        self._reads += 1
        try:
            # If this task is cancelled, the thread still finishes the call before the next one.
            return await self._loop.run_in_executor(self._thread, function, *args)
        finally:
            self._reads -= 1

    def _check_open(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ClosedError(
                "the journal belongs to another event loop; use and close it in that loop"
            )
        if self._closing is not None:
            raise ClosedError("the journal is closed; open it again")

    def _write_next(self) -> None:
        """Start a transaction that writes the changes of all waiting calls.

        If no call waits, the journal is idle. Otherwise, `_written` calls this method again at the
        end of the transaction.
        """
        calls = [call for call in self._calls if not call.done.done()]  # omits cancelled calls
        self._calls.clear()
        if not calls:
            self._idle.set()
            return
        changes = [call.changes for call in calls]
        durable = any(call.durable for call in calls)
        writing = self._loop.run_in_executor(self._thread, self._database.write, changes, durable)
        writing.add_done_callback(partial(self._written, calls))

    def _written(
        self, calls: Sequence[_Call], writing: asyncio.Future[list[JournalError | None]]
    ) -> None:
        """Complete the calls of a transaction that has ended; then start the next transaction.

        The result of `writing` has one entry for each call: an error, or None if the changes of the
        call were written. If `writing` failed, all calls get its error.
        """
        failed = writing.exception()
        errors = [failed] * len(calls) if failed is not None else writing.result()
        for call, error in zip(calls, errors, strict=True):
            if call.done.done():
                continue
            if error is None:
                call.done.set_result(None)
            else:
                call.done.set_exception(copy_of(error))
        self._write_next()

    async def _close(self) -> None:
        await self._idle.wait()
        try:
            await self._loop.run_in_executor(self._thread, self._database.close)
        finally:
            self._thread.shutdown()


async def record_pages(
    journal: Journal, which: RecordFilter, *, data: bool = False
) -> AsyncGenerator[Sequence[Record], None]:
    """Yield the records that `which` selects, in lists of at most 200.

    If `data` is True, the snapshots contain the inline results that the journal has.
    """
    after = 0
    while page := await journal.records(which, after=after, data=data):
        after = page[-1].number
        yield page
