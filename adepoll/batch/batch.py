"""Batch: watcher, fetcher and journal, end to end. Imports all of them."""

import asyncio
import operator
import os
from collections.abc import AsyncIterable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adepoll.api.client import AdeClient
from adepoll.batch.equipment import Equipment
from adepoll.batch.intake import JobIds
from adepoll.batch.progress import BatchProgress
from adepoll.batch.run import BatchRun
from adepoll.batch.work import DURATIONS, Work
from adepoll.errors import ClosedError, ConfigurationError, ResultUnavailableError
from adepoll.fetcher import ResolveUrl, ResultFetcher
from adepoll.journal import Journal
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.policies import Schedule
from adepoll.watching.list_sweeps import Discovery
from adepoll.watching.watcher import JobWatcher, WatcherStats, check_timeout

OUT_DIR: Final = "out_dir"  # the note of it


class Batch:
    """Settles any number of jobs: watches them, brings results home, and writes it all down.

    ``async with Batch(client, journal="batch.db", out_dir="results") as batch: async for outcome
    in batch.run(job_ids): ...``. With a journal it survives whatever ends it: the next run on the
    same journal tells what nobody has taken yet, and goes on with the rest. Without one it is as
    good as its process. Memory does not grow with the number of jobs.
    """

    def __init__(
        self,
        client: AdeClient,
        *,
        journal: Journal | str | os.PathLike[str] | None = None,
        out_dir: str | os.PathLike[str] | None = None,
        concurrency: int = 64,
        downloads: int = 8,
        connections: int = 4,
        window: int = 20_000,
        schedule: Schedule | None = None,
        discovery: Discovery = "auto",
        not_found_grace: float = 15.0,
        patience: float = 300.0,
        allow_private: bool = False,
        resolve_url: ResolveUrl | None = None,
        overwrite: bool = False,
        verify: bool = True,
    ) -> None:
        """Make a batch; nothing is opened before ``async with``.

        Args:
            client: Who is asked. It stays open.
            journal: Where all is written down: a file, made where there is none, or an open
                `Journal`, which stays open. None for memory.
            out_dir: The folder into which each result is written as ``JOB_ID.json``, made where
                there is none. None for that of the journal's earlier runs; where there was none,
                results stay where they are: inline in the snapshots, or behind their URLs.
            concurrency: Most looks on the wire at once.
            downloads: Most results fetched at once.
            connections: Most connections for one of them; see `ResultFetcher`.
            window: Most jobs watched at once. The others have their turn as these end, so that
                memory does not grow with them.
            schedule: When to look at a job again; None for `Adaptive()`.
            discovery: How it is found out that a job may have ended; see `JobWatcher`.
            not_found_grace: Seconds for which the service may not know a job; see `JobWatcher`.
            patience: Seconds for which looks at a job may fail for passing reasons; see there.
            allow_private: Whether results may come from private addresses; see `ResultFetcher`.
            resolve_url: Gives URLs that can be read; see `ResultFetcher`.
            overwrite: Whether to replace files that are where results should go.
            verify: Whether to see after the files of earlier runs, and to fetch those again that
                are gone or were changed: their size and time of modification are looked at, and
                where these differ from what was written, the sha256 of the bytes. Turn it off
                where you move results away.

        Raises:
            ValueError: A number is out of range.
            TypeError: A number is not a whole one.
        """
        for name, value in (
            ("concurrency", concurrency),
            ("downloads", downloads),
            ("connections", connections),
            ("window", window),
        ):
            if operator.index(value) < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self._client = client
        self._given_journal = journal
        self._out_dir = None if out_dir is None else Path(out_dir).absolute()
        self._concurrency = concurrency
        self._downloads = downloads
        self._connections = connections
        self._window = window
        self._schedule = schedule
        self._discovery: Discovery = discovery
        self._not_found_grace = not_found_grace
        self._patience = patience
        self._allow_private = allow_private
        self._resolve_url = resolve_url
        self._overwrite = overwrite
        self._verify = verify
        self._equipment: Equipment | None = None
        self._open = AsyncExitStack()
        self._work: Work | None = None

    async def __aenter__(self) -> Self:
        """Open the journal.

        Raises:
            JournalError: It cannot be used; the subclasses say why.
            ConfigurationError: `out_dir` cannot be made, or has a name that is no Unicode.
        """
        async with AsyncExitStack() as stack:
            journal = await self._open_journal(stack)
            noted = await journal.note(OUT_DIR)
            out_dir = await self._open_out_dir(journal, noted)
            # What leaves first is what works with the others.
            watcher = await stack.enter_async_context(
                JobWatcher(
                    self._client,
                    concurrency=self._concurrency,
                    buffer=self._concurrency,
                    schedule=self._schedule,
                    discovery=self._discovery,
                    not_found_grace=self._not_found_grace,
                    patience=self._patience,
                    durations=await _learnt(journal),
                )
            )
            fetcher = await stack.enter_async_context(
                ResultFetcher(
                    self._client,
                    connections=self._connections,
                    allow_private=self._allow_private,
                    resolve_url=self._resolve_url,
                )
            )
            self._open = stack.pop_all()
        self._equipment = Equipment(
            journal=journal,
            watcher=watcher,
            fetcher=fetcher,
            out_dir=out_dir,
            moved=noted is not None and noted != str(out_dir),
            downloads=self._downloads,
            window=self._window,
            overwrite=self._overwrite,
            verify=self._verify,
            curable=() if self._resolve_url is None else (ResultUnavailableError.__name__,),
            service_time=self._client.service_time,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the batch."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what runs, and close the journal that was opened here."""
        self._equipment = None
        try:
            if self._work is not None:
                await self._work.stop()
        finally:
            await self._open.aclose()

    def run(
        self, job_ids: JobIds = (), *, timeout: float | None = None, replay: bool = False
    ) -> BatchRun:
        """Settle the jobs of the journal, and those given, which are added to it.

        First comes what earlier runs have settled, and nobody has taken: it needs no request. Then
        comes the rest, as it settles. What earlier runs gave up is tried again, unless that is of
        no use: a job that the service does not know, or a result that it does not keep, where no
        `resolve_url` was given.

        Args:
            job_ids: An iterable or async iterable of any size, taken as it comes. Ids that the
                journal has are passed over.
            timeout: Seconds, counted from the first look, after which jobs that were not seen to
                end are given up, for this run, and no more ids are taken from an iterator; None
                for no bound.
            replay: Whether to begin with all outcomes, those that were taken included.

        Returns:
            An async iterator of one `Outcome` for each job. It is durable when it comes, and
            counts as taken when the next one is asked for: who is killed in between is told of
            that one again. Ids that cannot be any come as outcomes, too, but are not written down.

        Raises:
            TypeError: `job_ids` is a single string, or cannot be iterated.
            ValueError: `timeout` is no number of 0 or more.
            ClosedError: The batch is not open, or, from the iteration, has another run under way.
        """
        if isinstance(job_ids, str | bytes):
            raise TypeError("job_ids must be an iterable of ids, not one id; use [job_id]")
        if not isinstance(job_ids, Iterable | AsyncIterable):
            raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")
        check_timeout(timeout)
        if self._equipment is None:
            raise ClosedError("the batch is not open; use it as `async with Batch(...) as batch`")
        work = Work(self._equipment, job_ids, timeout=timeout, replay=replay)
        return BatchRun(work, self._begin)

    @property
    def progress(self) -> BatchProgress:
        """How far the last run has come."""
        return BatchProgress() if self._work is None else self._work.tally.progress()

    @property
    def watching(self) -> WatcherStats | None:
        """What the watcher of the batch is doing; None where the batch is not open."""
        return None if self._equipment is None else self._equipment.watcher.stats

    def time_left(self) -> float | None:
        """Guess the seconds until the last of the jobs being watched has ended.

        See `JobWatcher.time_left`.
        """
        return None if self._equipment is None else self._equipment.watcher.time_left()

    async def _begin(self, work: Work) -> None:
        while self._work is not None and self._work.under_way:
            if not self._work.abandoned:
                raise ClosedError("another run of this batch is under way; close it before")
            await self._work.stop()
        if self._equipment is None:
            raise ClosedError("the batch is closed")
        self._work = work
        work.start()

    async def _open_journal(self, stack: AsyncExitStack) -> Journal:
        if isinstance(self._given_journal, Journal):
            self._given_journal.check_endpoint(self._client.base_url)
            return self._given_journal
        if self._given_journal is None:
            opening = Journal.in_memory(endpoint=self._client.base_url)
        else:
            opening = Journal.open(self._given_journal, endpoint=self._client.base_url)
        return await stack.enter_async_context(await opening)

    async def _open_out_dir(self, journal: Journal, noted: str | None) -> Path | None:
        if self._out_dir is None:
            return None if noted is None else Path(noted)
        try:
            str(self._out_dir).encode()  # or it could not be written down for the next run
        except UnicodeEncodeError:
            raise ConfigurationError(f"out_dir {str(self._out_dir)!r}: it is no Unicode") from None
        try:
            await asyncio.to_thread(self._out_dir.mkdir, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"out_dir {self._out_dir}: {exc.strerror}") from exc
        if str(self._out_dir) != noted:
            await journal.set_note(OUT_DIR, str(self._out_dir))
        return self._out_dir


async def _learnt(journal: Journal) -> Durations | None:
    """Give what earlier runs have learnt of how long jobs take."""
    noted = await journal.note(DURATIONS)
    try:
        return None if noted is None else Durations.from_json(noted)
    except ConfigurationError:  # of another version, and soon learnt anew
        return None
