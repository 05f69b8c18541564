"""Stores the outcome of every job, for months, in a database or elsewhere.

The caller's program must keep one thing across restarts: the ids of the jobs whose outcome was not
stored yet. This module writes no file.
"""

import asyncio
import logging
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import suppress
from typing import Final, TypeAlias

from adepoll.api.job_kind import JobRef, job_key
from adepoll.api.models import JobSnapshot
from adepoll.common.tasks import first_error, is_cancelled
from adepoll.errors import ClosedError, JobIdsCancelledError, RequestError
from adepoll.watching.subscriptions import JobIds, check_ids
from adepoll.watching.watch import UnresolvedJob
from adepoll.watching.watcher import JobWatcher

Store: TypeAlias = Callable[[JobSnapshot | UnresolvedJob], Awaitable[None]]
Query: TypeAlias = Callable[[], Awaitable[Iterable[str | JobRef]]]

_FIRST_DELAY: Final = 1.0  # seconds before a failed call is repeated; doubles with each failure
_LONGEST_DELAY: Final = 30.0  # maximum seconds before a failed call is repeated
_CHECK_EVERY: Final = 0.5  # seconds between two checks whether the watcher is closed
_READ_AHEAD: Final = 100  # ids that are read before their jobs are watched
_IDS_PER_STEP: Final = 100  # ids read in one step of the loop, also if all of them are ignored

_log = logging.getLogger(__name__)


async def store_outcomes(
    watcher: JobWatcher,
    job_ids: JobIds,
    store: Store,
    *,
    concurrency: int = 8,
    unstored: int = 100,
) -> None:
    """Watch jobs until each has an outcome, and store each outcome.

    The outcome of a job is stored when `store` has returned. If `store` raises an error, it is
    called again with the same outcome after 1 to 30 seconds, until it returns; the other jobs
    continue in this time. An error that concerns all jobs, such as a refused key or no credits, is
    logged and not stored. The jobs are then watched again after 1 to 30 seconds, until an operator
    has removed the cause.

    The function returns when all ids were read and all outcomes are stored. It also returns soon
    after the watcher was closed, for example when a server shuts down. Then it completes the calls
    of `store` in progress. The outcomes of the other jobs are not stored: pass the ids of these
    jobs again after the restart.

    If the process is killed while `store` runs, the outcome may be stored again after the restart.
    So storing an outcome twice should have the same effect as storing it once.

    Args:
        watcher: Watches the jobs.
        job_ids: Any number of ids. They may be endless, such as those of `repeat_query`. An id is
            ignored while its job is watched or its outcome is being stored.
        store: Stores an outcome: a `JobSnapshot` of a settled job, or an `UnresolvedJob` whose
            `error` says why the job was given up. If `error.transient` is True, the job may still
            settle: do not mark the job as stored if it should be watched again.
        concurrency: Maximum number of calls of `store` at the same time.
        unstored: Maximum number of outcomes that wait for `store` or are being stored, each up to
            1 MB of JSON. When this number is reached, the `buffer` of the watcher fills, and then
            polls pause.

    Raises:
        ValueError: `concurrency` or `unstored` is not positive.
        TypeError: `job_ids` is a single string, or not iterable.
        JobIdsCancelledError: The iterable of job ids was cancelled. Other errors of the iterable
            are raised unchanged.
    """
    for name, value in (("concurrency", concurrency), ("unstored", unstored)):
        if not value >= 1:
            raise ValueError(f"{name} must be positive, got {value}")
    check_ids(job_ids)
    await _Storing(watcher, store, concurrency=concurrency, unstored=unstored).run(job_ids)


def repeat_query(query: Query, *, every: float = 2.0) -> "QueriedIds":
    """Return an endless iterator over the ids that a query returns, each time it is repeated.

    An error of the query is logged, and the query is repeated after 1 to 30 seconds. So the
    iterator continues after a restart of the database.

    Args:
        query: Returns the ids of some or all of the jobs whose outcome is not stored yet.
        every: Minimum seconds from the end of a query to the start of the next query, which starts
            when all ids of the previous one were taken.

    Raises:
        ValueError: `every` is not a positive number.
    """
    if not (math.isfinite(every) and every > 0):
        raise ValueError(f"every must be a positive number, got {every}")
    return QueriedIds(query, every)


class QueriedIds(AsyncIterator[str | JobRef]):
    """An endless async iterator over the ids that a repeated query returns.

    Attributes:
        began_at: Time of the event loop at which the last successful query began. The query may
            have returned a job although the outcome of the job was stored after this time.
    """

    def __init__(self, query: Query, every: float) -> None:
        """Internal: call `repeat_query` instead."""
        self.began_at = -math.inf
        self._query = query
        self._every = every
        self._ids: Iterator[str | JobRef] = iter(())
        self._next_at = -math.inf
        self._delay = _FIRST_DELAY

    async def __anext__(self) -> str | JobRef:
        """Return the next id, after further queries if necessary."""
        loop = asyncio.get_running_loop()
        while True:
            for job in self._ids:
                return job
            if (wait := self._next_at - loop.time()) > 0:
                await asyncio.sleep(wait)
            began_at = loop.time()
            try:
                # Copied, because a collection that belongs to the caller can change later.
                self._ids = iter([*await self._query()])
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                name = type(error).__name__
                _log.warning("the query of open jobs failed: %s", name, exc_info=error)
                self._next_at = loop.time() + self._delay
                self._delay = min(2 * self._delay, _LONGEST_DELAY)
                continue
            self._delay = _FIRST_DELAY
            self.began_at = began_at
            self._next_at = loop.time() + self._every


class _Storing:
    """One call of `store_outcomes`."""

    def __init__(
        self, watcher: JobWatcher, store: Store, *, concurrency: int, unstored: int
    ) -> None:
        """Prepare one call of `store_outcomes`. That function describes the arguments."""
        self._watcher = watcher
        self._store = store
        self._stores = asyncio.Semaphore(concurrency)
        self._room = asyncio.Semaphore(unstored)
        self._open: dict[str, str | JobRef] = {}  # jobs without an outcome, by key
        self._storing: set[str] = set()  # keys of jobs whose outcomes are being stored
        self._query: QueriedIds | None = None  # the ids, if they come from `repeat_query`
        # Times at which outcomes were stored, by key, if that was after the present query began.
        self._stored_at: dict[str, float] = {}
        # Ids that were read and are not watched yet. None marks the end of the ids.
        self._read: asyncio.Queue[str | JobRef | None] = asyncio.Queue(_READ_AHEAD)
        self._ids_read = 0
        self._all_read = False
        self._closed = asyncio.Event()  # set when the watcher was closed

    async def run(self, job_ids: JobIds) -> None:
        """Store the outcomes of all jobs; end early if the watcher is closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # The ids are read in a separate task. If a watch read them directly, an error that
                # ends the watch would also end a generator of ids.
                reading = tasks.create_task(self._read_ids(job_ids))
                await self._watch(tasks)
                reading.cancel()
        except BaseExceptionGroup as group:
            error = first_error(group)  # of the caller's iterable
        else:
            return
        raise error  # not above: `group` would become its context, and `from` would set its cause

    async def _read_ids(self, job_ids: JobIds) -> None:
        """Queue all jobs of `job_ids`, and None after the last one."""
        if isinstance(job_ids, QueriedIds):
            self._query = job_ids
        try:
            if isinstance(job_ids, AsyncIterable):
                async for job in job_ids:
                    await self._add(job)
            else:
                for job in job_ids:
                    await self._add(job)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise JobIdsCancelledError from None
        finally:
            if isinstance(job_ids, AsyncGenerator):
                await job_ids.aclose()  # otherwise asyncio closes it later, in a new task
        await self._read.put(None)

    async def _add(self, job: str | JobRef) -> None:
        """Queue a job to be watched, unless it is watched already or its outcome was stored."""
        self._ids_read += 1
        if self._ids_read % _IDS_PER_STEP == 0:
            await asyncio.sleep(0)
        key = self._key(job)
        if key not in self._open and key not in self._storing and not self._was_stored(key):
            self._open[key] = job
            await self._read.put(job)

    def _was_stored(self, key: str) -> bool:
        """Return True if the outcome of a job was stored after the start of the last query."""
        if self._query is None or not self._stored_at:
            return False
        began_at = self._query.began_at
        # Forget outcomes that were stored before the query began: it does not return their jobs.
        if next(iter(self._stored_at.values())) < began_at:  # the first value is the earliest
            self._stored_at = {k: at for k, at in self._stored_at.items() if at >= began_at}
        return key in self._stored_at

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        """Watch all jobs, and start a task that stores each outcome.

        End when each job has an outcome and no further id can come, or when the watcher was closed.
        """
        delay = _FIRST_DELAY
        while True:
            try:
                async with self._watcher.watch(self._unsettled(), errors="yield") as watch:
                    async for outcome in watch:
                        delay = _FIRST_DELAY
                        await self._room.acquire()
                        key = self._key(JobRef(outcome.job_id, kind=outcome.kind))
                        if key in self._storing:
                            self._room.release()
                            continue
                        self._open.pop(key, None)
                        self._storing.add(key)
                        tasks.create_task(self._store_one(key, outcome))
            except ClosedError:
                self._closed.set()
                return
            except RequestError as error:
                _log.error("no job can be polled; trying again in %g s: %s", delay, error)
                await self._pause(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            else:
                return

    async def _unsettled(self) -> AsyncGenerator[str | JobRef, None]:
        """Yield the jobs without an outcome: first those of an earlier watch, then new ones."""
        for job in list(self._open.values()):
            yield job
        while not self._all_read:
            job_or_end = await self._read.get()
            if job_or_end is None:
                self._all_read = True
            elif self._key(job_or_end) in self._open:
                yield job_or_end

    async def _store_one(self, key: str, outcome: JobSnapshot | UnresolvedJob) -> None:
        """Store an outcome; after an error, try again until this succeeds or the watcher closes."""
        delay = _FIRST_DELAY
        try:
            while True:
                try:
                    async with self._stores:
                        await self._store(outcome)
                except (Exception, asyncio.CancelledError) as error:
                    if is_cancelled():
                        raise
                    _log.warning(
                        "the outcome of job %s could not be stored: %s",
                        key,
                        type(error).__name__,
                        exc_info=error,
                        extra={"job_id": outcome.job_id},
                    )
                else:
                    if self._query is not None:
                        self._stored_at[key] = asyncio.get_running_loop().time()
                    return
                if self._closed.is_set():
                    return  # nothing was stored, so the caller passes the id again after a restart
                await self._pause(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
        finally:
            self._storing.discard(key)
            self._room.release()

    def _key(self, job: str | JobRef) -> str:
        """Return the text of the job's reference."""
        return job_key(job, self._watcher.kind)

    async def _pause(self, seconds: float) -> None:
        """Sleep for a number of seconds, or until the watcher is closed."""
        # The time is not compared with the end of the pause: a timer can fire 1 ns too early, and a
        # wait for the rest would never end in virtual time.
        for _ in range(round(seconds / _CHECK_EVERY)):
            if self._watcher.is_closed:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY):
                    await self._closed.wait()
        if self._watcher.is_closed:
            self._closed.set()
