"""Journal: what a batch has seen and done, in one file that survives whatever ends the process.

The asyncio shell of Database: one event loop, one thread, and writes that share their commits.
"""

import asyncio
import copy
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, TypeVarTuple, Unpack

from attrs import define

from adepoll.errors import ClosedError, ConfigurationError, JournalEndpointError, JournalError
from adepoll.journal.changes import Change, Which
from adepoll.journal.database import Database
from adepoll.journal.opening import Opened, open_file, open_in_memory, read_endpoint
from adepoll.journal.outcomes import Counts, Record

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_CHUNK: Final = 250_000  # ids of one transaction


@define(eq=False, kw_only=True)
class _Call:
    """One call of `write` that waits."""

    changes: tuple[Change, ...]
    durable: bool
    done: asyncio.Future[None]


class Journal:
    """What is known of the jobs of a batch, in one SQLite file.

    Open it with ``async with await Journal.open(...) as journal``, or close it with `aclose`. It
    belongs to the event loop in which it was opened, and has one thread of its own. While it is
    open, no other process can open it, and this one not once more; `JournalReader` reads it
    beside. It holds no key and no presigned URL.

    Attributes:
        path: The file, absolute, links followed; None where it is only in memory.
        endpoint: The address of the API whose jobs these are.
        keeps_data: Whether results that came inline are kept.
    """

    def __init__(
        self, database: Database, thread: ThreadPoolExecutor, *, path: Path | None, endpoint: str
    ) -> None:
        """Take over an open database and the thread it belongs to; see `open`."""
        self.path: Final = path
        self.endpoint: Final = endpoint
        self.keeps_data: Final = path is not None
        self._database = database
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._calls: list[_Call] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, endpoint: str, must_exist: bool = False
    ) -> Self:
        """Open a journal; make it, with mode 0600, where there is none or an empty file.

        Args:
            path: The file; its folder must exist. Beside it stand, while it is open, files that
                end in ``-wal``, ``-shm`` and ``.lock``.
            endpoint: The address of the API whose jobs these are.
            must_exist: Whether to refuse to make one.

        Raises:
            ConfigurationError: `endpoint` is no address.
            JournalNotFoundError: There is none, and `must_exist`.
            JournalBusyError: It is open already, in this process or another.
            JournalEndpointError: It is of jobs of another service.
            JournalFormatError: A newer version wrote it.
            NotAJournalError: The file is something else.
            JournalDamagedError: It is damaged. It is left as it is.
            JournalAccessError: File or folder cannot be read and written.
        """
        ours = read_endpoint(endpoint)
        return await cls._begin(partial(open_file, path, ours, must_exist=must_exist), ours)

    @classmethod
    async def in_memory(cls, *, endpoint: str) -> Self:
        """Make one that ends when it is closed, and keeps no inline results.

        Raises:
            ConfigurationError: `endpoint` is no address.
        """
        ours = read_endpoint(endpoint)
        return await cls._begin(partial(open_in_memory, ours), ours)

    @classmethod
    async def _begin(cls, open_: Callable[[], Opened], endpoint: str) -> Self:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adepoll-journal")
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(thread, open_)
        try:
            await _settle(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                await _settle(loop.run_in_executor(thread, opening.result().close))
            thread.shutdown()
            raise
        if opening.exception() is not None:
            thread.shutdown()
        opened = opening.result()
        database = Database(opened, keeps_data=opened.path is not None)
        return cls(database, thread, path=opened.path, endpoint=endpoint)

    async def __aenter__(self) -> Self:
        """Give the journal, which is open."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()

    def check_endpoint(self, endpoint: str) -> None:
        """See that the journal is of jobs of that service.

        Raises:
            ConfigurationError: `endpoint` is no address.
            JournalEndpointError: It is of jobs of another one.
        """
        ours = read_endpoint(endpoint)
        if ours != self.endpoint:
            shown = ":memory:" if self.path is None else str(self.path)
            raise JournalEndpointError(path=shown, theirs=self.endpoint, ours=ours)

    async def aclose(self) -> None:
        """Write what was given to be written, and close the file; may be repeated."""
        if self._closing is None:
            self._check_loop()
            self._closing = self._loop.create_task(self._close())
        await _settle(self._closing)
        self._closing.result()

    async def add(self, job_ids: Sequence[str], *, at: float | None = None) -> int:
        """Add jobs, which wait from now on; those that are known are passed over.

        All are durable when this returns. They are written 250,000 at a time: when it fails or is
        cancelled, the first ones can have been added. Millions are best given in portions of that
        size, too: random ids lie all over their index, and each portion is one visit to all of it.

        Args:
            job_ids: The jobs.
            at: When they are added, Unix seconds; None for now, by this machine's clock.

        Returns:
            How many are new.

        Raises:
            InvalidJobIdError: One cannot be written down.
            JournalWriteError: The disk is full, or fails.
        """
        at = time.time() if at is None else at
        new = 0
        for start in range(0, len(job_ids), _CHUNK):
            chunk = job_ids[start : start + _CHUNK]
            is_last = start + _CHUNK >= len(job_ids)
            new += await self._do(self._database.add, chunk, at, is_last)
        return new

    async def write(self, *changes: Change, durable: bool = True) -> None:
        """Write changes, in order and all or none.

        What is given while a transaction runs is written by the next one, together. Whoever is
        cancelled here does not know whether his changes were written; all or none were.

        Args:
            changes: What to write.
            durable: Whether to return only when it would survive a power cut. If not, it survives
                the end of this process, however it comes.

        Raises:
            JournalWriteError: The disk is full, or fails. Nothing of this was written; later
                writes can succeed.
            JournalError: A change makes no sense: it is of an unknown job, for example.
        """
        self._check_loop()
        if not changes:
            return
        call = _Call(changes=changes, durable=durable, done=self._loop.create_future())
        self._calls.append(call)
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._write_next)  # with what is given until then
        await call.done

    async def waiting(self, *, after: int, limit: int) -> list[tuple[int, str]]:
        """Give number and id of jobs that are not known to have ended.

        Args:
            after: Only those with a higher number.
            limit: At most so many, the lowest numbers first.
        """
        return await self._do(self._database.waiting, after, limit)

    async def records(
        self, which: Which, *, after: int = 0, limit: int = 200, data: bool = True
    ) -> list[Record]:
        """Give records, the lowest numbers first; an empty list where there are no more.

        Args:
            which: Of which jobs.
            after: Only those with a higher number.
            limit: At most so many; a page ends early at some 4 MB of results.
            data: Whether snapshots are given with the results that came inline.

        Raises:
            JournalDamagedError: One cannot be read.
        """
        return await self._do(self._database.records, which, after, limit, data)

    async def counts(self) -> Counts:
        """Count the jobs: a few milliseconds, some seconds with millions."""
        return await self._do(self._database.counts)

    async def note(self, key: str) -> str | None:
        """Give the note of that name; None where there is none."""
        return await self._do(self._database.note, key)

    async def set_note(self, key: str, value: str) -> None:
        """Replace a note. The caller sees that it holds no secret.

        Raises:
            ConfigurationError: It is the endpoint, which never changes.
            JournalWriteError: The disk is full, or fails.
        """
        if key == "endpoint":
            raise ConfigurationError("the note 'endpoint' says of which service a journal is")
        await self._do(self._database.set_note, key, value)

    async def reopen(self, *, kinds: Collection[str] = (), but: Collection[str] = ()) -> int:
        """Have given-up jobs tried again, but those where that is of no use; give how many.

        They wait again, or are to be fetched again if they were seen to have ended.

        Args:
            kinds: Names of error classes; who met one of these is tried again in any case, as
                what was of no use then has become of use.
            but: Jobs that stay as they are.
        """
        return await self._do(self._database.reopen, kinds, but)

    # --- within ---------------------------------------------------------------------------------

    async def _do(self, work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        self._check_loop()
        # Cancelled, it is left to the thread, which `aclose` waits for: it does one after another.
        return await self._loop.run_in_executor(self._thread, work, *args)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ClosedError("the journal belongs to another event loop; close it there")
        if self._closing is not None:
            raise ClosedError("the journal is closed")

    def _write_next(self) -> None:
        """Write all that waits; called again when it is written."""
        calls = [call for call in self._calls if not call.done.done()]  # or cancelled
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
                # An instance for each: a shared one would collect all their tracebacks.
                call.done.set_exception(copy.copy(error))
        self._write_next()

    async def _close(self) -> None:
        await self._idle.wait()
        try:
            await self._loop.run_in_executor(self._thread, self._database.close)
        finally:
            self._thread.shutdown()


async def _settle(begun: asyncio.Future[_T]) -> None:
    """Wait until it is done, even when cancelled meanwhile: a thread cannot be stopped."""
    cancelled: asyncio.CancelledError | None = None
    while not begun.done():
        try:
            await asyncio.wait([begun])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
