"""Journal: the asyncio interface of a journal, for one event loop and one thread.

Writes that arrive while a transaction runs share the next one.
"""

import asyncio
import copy
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Final, Self, TypeVar, TypeVarTuple, Unpack

from attrs import define

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.common.closing import AsyncCloseable
from adepoll.common.threads import wait_until_done
from adepoll.errors import ClosedError, ConfigurationError, JournalError
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
    """A call of `write` that is not written yet."""

    changes: tuple[Change, ...]
    durable: bool
    done: asyncio.Future[None]


class Journal(AsyncCloseable):
    """The journal of a batch: every job and its outcome, in one SQLite file.

    Open it with ``async with await Journal.open(...) as journal``, or close it with `aclose`. It
    belongs to the event loop in which it was opened, and has its own thread. While it is open, it
    cannot be opened again, by this process or another; `JournalReader` can read it all the same.
    It contains neither the API key nor the query of a presigned URL.

    Attributes:
        path: Absolute path of the file, with symbolic links resolved; None in memory.
        endpoints: Base URLs of the API that has the jobs.
        keeps_data: True if the journal keeps inline results, that is, if it is a file.
    """

    def __init__(
        self, database: Database, thread: ThreadPoolExecutor, *, endpoints: Endpoints
    ) -> None:
        """Use `open` or `in_memory`; `thread` is the one that opened the database."""
        self.path: Final = database.path
        self.endpoints: Final = endpoints
        self.keeps_data: Final = self.path is not None
        self._database = database
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._calls: list[_Call] = []
        self._idle = asyncio.Event()
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
            v2_endpoint: Base URL of the API that has the v2 jobs; None for that of the same region,
                or for `endpoint` if that is not a region.
            must_exist: If True, a missing file is an error.

        Raises:
            ConfigurationError: An endpoint is not a URL.
            JournalNotFoundError: The file does not exist, and `must_exist` is true.
            JournalBusyError: The journal is open already, in this process or another.
            JournalEndpointError: The jobs of the journal are at another service.
            JournalFormatError: A newer version of adepoll wrote the journal.
            NotAJournalError: The file is not a journal.
            JournalDamagedError: The journal is damaged. The file is not changed.
            JournalAccessError: The file or its folder cannot be read or written.
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
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adepoll-journal")
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(thread, opener)
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
        """Raise if the jobs of the journal are not at this service; the arguments as for `open`.

        Raises:
            ConfigurationError: An endpoint is not a URL.
            JournalEndpointError: The jobs are at another service.
        """
        self.endpoints.check(Endpoints.of(endpoint, v2_endpoint), self.path)

    async def aclose(self) -> None:
        """Finish the writes that have begun, and close the file; may be called again."""
        if self._closing is None:
            self._check_open()
            self._closing = self._loop.create_task(self._close())
        await wait_until_done(self._closing)
        self._closing.result()

    @property
    def is_busy(self) -> bool:
        """True while other calls than `add` wait for the journal, or are running."""
        return self._reads > 0 or not self._idle.is_set()

    async def add(
        self,
        jobs: Sequence[JobToAdd],
        *,
        kind: JobKind = JobKind.V1_EXTRACT,
        at: float | None = None,
    ) -> int:
        """Add waiting jobs; jobs that the journal has already are ignored.

        When this returns, all jobs are durable. They are written in transactions of 250,000: after
        an error or a cancellation, the first of them may have been added. Pass millions of ids in
        portions of that size, too: ids are random, so that every transaction writes to all pages of
        their index.

        Args:
            jobs: The jobs: ids, `JobRef` with a kind and a label, or `BatchJob`.
            kind: Kind of an id whose form does not say its kind.
            at: Time of adding, in Unix seconds; None for now, by the clock of this machine.

        Returns:
            The number of jobs that were new.

        Raises:
            InvalidJobIdError: Not a job id. None of its transaction was added.
            JournalWriteError: The disk is full or failed.
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
        """Write changes in this order, either all of them or none.

        Calls that arrive while a transaction runs are written together by the next one. If a call
        is cancelled, its changes may or may not be written, again all of them or none.

        Args:
            changes: The changes.
            durable: If True, return only when the changes survive a power cut. If False, they
                survive the end of this process, also by a crash or a kill.

        Raises:
            JournalWriteError: The disk is full or failed. None of the changes was written; later
                writes can succeed.
            JournalError: A change is impossible, for example because its job is unknown.
        """
        self._check_open()
        if not changes:
            return
        call = _Call(changes=changes, durable=durable, done=self._loop.create_future())
        self._calls.append(call)
        if self._idle.is_set():
            self._idle.clear()
            # One transaction contains all calls of this loop iteration.
            self._loop.call_soon(self._write_next, context=Context())
        await call.done

    async def has_columns(self) -> bool:
        """Return whether any job has columns, which `BatchJob` adds."""
        return await self._run(self._database.has_columns)

    async def columns(self, jobs: Collection[JobRef]) -> Mapping[JobRef, Mapping[str, str]]:
        """Return the columns of those jobs that have some; each job must have a kind."""
        return await self._run(self._database.columns, jobs)

    async def shared_label_keys(self, keys: Collection[str]) -> set[str]:
        """Return which of the keys (`stored_jobs.label_key`) several jobs of the journal have."""
        return await self._run(self._database.shared_label_keys, keys)

    async def waiting(self, *, after: int, limit: int) -> list[tuple[int, JobRef]]:
        """Return number and name of waiting jobs, the lowest numbers first.

        Args:
            after: Only jobs with a higher number are returned.
            limit: Maximum number of jobs.
        """
        return await self._run(self._database.waiting, after, limit)

    async def records(
        self, which: RecordFilter, *, after: int = 0, limit: int = 200, data: bool = True
    ) -> list[Record]:
        """Return records, the lowest numbers first; an empty list after the last one.

        Args:
            which: The jobs whose records are returned.
            after: Only jobs with a higher number are returned.
            limit: Maximum number of records. With about 4 MB of results, there are fewer.
            data: If True, the snapshots contain their inline results.

        Raises:
            JournalDamagedError: A record cannot be read.
        """
        return await self._run(self._database.records, which, after, limit, data)

    async def counts(self) -> Counts:
        """Count the jobs; takes milliseconds, and seconds with millions of jobs."""
        return await self._run(self._database.counts)

    async def note(self, key: str) -> str | None:
        """Return the value of a note; None if the note does not exist."""
        return await self._run(self._database.note, key)

    async def set_note(self, key: str, value: str) -> None:
        """Add or replace a note. The caller must keep secrets out of it.

        Raises:
            ConfigurationError: The key is that of an endpoint, whose value never changes.
            JournalWriteError: The disk is full or failed.
        """
        if key in ENDPOINT_NOTES:
            raise ConfigurationError(
                f"the note {key!r} is the journal's own and cannot be changed; use another key"
            )
        await self._run(self._database.set_note, key, value)

    async def reopen(self, *, kinds: Collection[str] = ()) -> int:
        """Reopen given-up jobs whose error is not lasting; return their number.

        They become waiting again, or fetching if they are settled.

        Args:
            kinds: Names of error classes; jobs with these errors are reopened, lasting or not,
                because another attempt can succeed now.
        """
        return await self._run(self._database.reopen, kinds)

    async def reopen_without_file(self) -> int:
        """Reopen completed jobs whose result is not in a file; return their number.

        They become fetching again, so that a run that wants files writes them.
        """
        return await self._run(self._database.reopen_without_file)

    async def _run(self, function: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        self._check_open()
        self._reads += 1
        try:
            # A cancelled call still runs to its end in the thread, before all later ones.
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
        """Start to write all waiting calls; `_written` calls this again afterwards."""
        calls = [call for call in self._calls if not call.done.done()]  # without cancelled ones
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
        failed = writing.exception()
        errors = [failed] * len(calls) if failed is not None else writing.result()
        for call, error in zip(calls, errors, strict=True):
            if call.done.done():
                continue
            if error is None:
                call.done.set_result(None)
            else:
                # A copy for each call: a shared error would collect the tracebacks of all callers.
                call.done.set_exception(copy.copy(error))
        self._write_next()

    async def _close(self) -> None:
        await self._idle.wait()
        try:
            await self._loop.run_in_executor(self._thread, self._database.close)
        finally:
            self._thread.shutdown()
