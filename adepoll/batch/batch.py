"""Batch: watcher, fetcher and journal for any number of jobs."""

import asyncio
import operator
import os
from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self, get_args

from adepoll.api.client import AdeClient
from adepoll.api.file_names import check_is_local
from adepoll.api.result_folder import remove_unused
from adepoll.batch.id_intake import JobIds
from adepoll.batch.learnt_durations import read_durations
from adepoll.batch.progress import BatchProgress
from adepoll.batch.resources import BatchResources
from adepoll.batch.result_files import NameBy, ProtectedFiles
from adepoll.batch.run import BatchRun
from adepoll.batch.run_tasks import RunTasks
from adepoll.common.closing import AsyncCloseable
from adepoll.common.file_system import check_owners_of_folders, plain_path
from adepoll.common.redaction import showable
from adepoll.common.system_errors import reason_of
from adepoll.common.threads import start_in_thread
from adepoll.errors import ClosedError, ConfigurationError, ResultUnavailableError
from adepoll.fetcher import ResolveUrl, ResultFetcher
from adepoll.journal import Journal
from adepoll.journal.foreign_file import recorded_folder
from adepoll.journal.schema import OUT_DIR, files_of
from adepoll.scheduling.schedules import Schedule
from adepoll.watching.listing import Discovery
from adepoll.watching.statistics import WatcherStats
from adepoll.watching.subscriptions import check_ids, check_timeout
from adepoll.watching.watcher import JobWatcher


class Batch(AsyncCloseable):
    """Watches any number of jobs, fetches their results, and records everything in a journal.

    ``async with Batch(client, journal="batch.db", out_dir="results") as batch: async for outcome in
    batch.run(job_ids): ...``. With a journal file, a batch survives a crash, and memory does not
    grow with the number of jobs. The next run with the same journal first yields the outcomes that
    were not acknowledged, and then continues with the other jobs. An outcome is acknowledged when
    your program requests the next one. Without a journal file, all records of a batch are lost when
    the batch is closed.
    """

    def __init__(
        self,
        client: AdeClient,
        *,
        journal: Journal | str | os.PathLike[str] | None = None,
        out_dir: str | os.PathLike[str] | None = None,
        name_by: NameBy = "job_id",
        concurrency: int = 64,
        downloads: int = 8,
        connections: int = 4,
        window: int = 20_000,
        schedule: Schedule | None = None,
        discovery: Discovery = "auto",
        not_found_grace: float = 15.0,
        patience: float = 300.0,
        outage_patience: float | None = None,
        download_patience: float = 120.0,
        allow_private: bool = False,
        resolve_url: ResolveUrl | None = None,
        overwrite: bool = False,
        protected: Collection[str | os.PathLike[str]] = (),
        verify: bool = True,
    ) -> None:
        """Create a batch; ``async with`` opens it.

        Args:
            client: Client for all requests. The batch does not close it.
            journal: The journal: a file, which is created if it does not exist, or an open
                `Journal`, which the batch does not close. None for a journal in memory.
            out_dir: Folder for the results, each in a file ``JOB_ID.json``. A folder that does not
                exist is created, for this user only. None: the folder of an earlier run, which the
                journal names. If no run had a folder, results are not written to files: they stay
                in the snapshots or at their URLs. Pass a folder if you do not know who wrote the
                journal, because the journal could name any folder.
            name_by: With "label", the file of a job with a label is ``LABEL.json``. Characters that
                a file name cannot have become "_". If another job has the same label, or the label
                is the id of a job without a label, the file is ``LABEL~JOB_ID.json``.
            concurrency: Maximum number of requests (polls and pages of the job list) at the same
                time.
            downloads: Maximum number of results fetched at the same time.
            connections: Maximum number of connections for one result; see `ResultFetcher`.
            window: Maximum number of jobs watched at the same time. The other jobs wait in the
                journal until a watched job ends.
            schedule: When to poll a job again; None for `Adaptive()`.
            discovery: How the watcher finds jobs that may have settled; see `JobWatcher`.
            not_found_grace: Seconds for which polls may be answered with 404 or 403 if no poll has
                found the job yet; see `JobWatcher`.
            patience: Seconds for which polls of a job may fail while the service answers other
                requests; see `JobWatcher`.
            outage_patience: Seconds after which a job is given up if, in all of this time, its
                polls have failed or the service was down; see `JobWatcher`.
            download_patience: Seconds without progress after which a download is given up; see
                `ResultFetcher`.
            allow_private: If True, results may come from private addresses; see `ResultFetcher`.
            resolve_url: Function that returns a URL from which the result of a job can be read, if
                the service has none; see `ResultFetcher`.
            overwrite: If True, replace existing files. If False, an existing file with exactly the
                bytes of the result counts as the result; a file with other bytes is kept, and the
                outcome of the job has a `TargetExistsError`.
            protected: Files that no result replaces, not even with `overwrite`, such as the file
                with the job ids. The journal is protected anyway.
            verify: If True, check the files of earlier runs, and fetch a result again if its file
                is missing. A file with the recorded size and modification time counts as unchanged;
                if only the time is different, the SHA-256 of the file decides. A changed file is
                treated like any other existing file. Pass False if you move result files.

        Raises:
            ValueError: A number is out of range, or `discovery` or `name_by` has an unknown value.
            TypeError: A number is not an integer.
            ConfigurationError: `out_dir` is a URL.
        """
        for name, value in (("downloads", downloads), ("window", window)):
            if operator.index(value) < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self._new_watcher = partial(
            JobWatcher,
            client,
            concurrency=concurrency,
            schedule=schedule,
            discovery=discovery,
            not_found_grace=not_found_grace,
            patience=patience,
            outage_patience=outage_patience,
        )
        self._new_fetcher = partial(
            ResultFetcher,
            client,
            connections=connections,
            allow_private=allow_private,
            resolve_url=resolve_url,
            patience=download_patience,
        )
        # If an argument is wrong, the error comes now, not when the batch is opened.
        self._new_watcher()
        self._new_fetcher()
        if out_dir is not None:
            check_is_local(out_dir, "out_dir")
        self._client = client
        self._journal_argument = journal
        self._out_dir = None if out_dir is None else plain_path(Path(out_dir))
        if name_by not in get_args(NameBy):
            raise ValueError(f"name_by must be 'job_id' or 'label', got {name_by!r}")
        self._name_by: NameBy = name_by
        self._downloads = downloads
        self._window = window
        self._can_resolve = resolve_url is not None
        self._overwrite = overwrite
        # The program may change its current folder meanwhile.
        self._protected = [plain_path(Path(path)) for path in protected]
        self._verify = verify
        self._resources: BatchResources | None = None
        self._open = AsyncExitStack()
        self._tasks: RunTasks | None = None  # the tasks of the last run

    def __repr__(self) -> str:
        """Return a text with the journal, the folder for results, and the count of settled jobs."""
        journal = self._journal_argument
        path = journal.path if isinstance(journal, Journal) else journal
        where = "in memory" if path is None else repr(showable(os.fspath(path)))
        folder = "" if self._out_dir is None else f", results in {showable(str(self._out_dir))!r}"
        found = self.progress
        settled = sum(found.settled.values())
        state = "" if self._resources is not None else " not open,"
        return f"<Batch{state} journal {where}{folder}: {settled:,} of {found.known:,} settled>"

    async def __aenter__(self) -> Self:
        """Open the batch and its journal.

        Raises:
            JournalError: The journal cannot be used; the subclass says why.
            ConfigurationError: `out_dir` cannot be created, or its name is not valid Unicode; or
                `journal` is a URL.
            ClosedError: `journal` is a closed `Journal`.
        """
        async with AsyncExitStack() as stack:
            journal = await self._open_journal(stack)
            noted = await journal.note(OUT_DIR)
            out_dir = await self._open_out_dir(journal, noted)
            if out_dir is not None:
                # Otherwise, a large result in a poll would be discarded and downloaded again.
                stack.enter_context(self._client.keeping_results_in(out_dir))
                await start_in_thread(remove_unused, out_dir)
            watcher = await stack.enter_async_context(
                self._new_watcher(durations=await read_durations(journal))
            )
            fetcher = await stack.enter_async_context(self._new_fetcher())
            self._open = stack.pop_all()
        own_files = () if journal.path is None else files_of(journal.path)
        self._resources = BatchResources(
            journal=journal,
            watcher=watcher,
            fetcher=fetcher,
            kind=self._client.kind,
            out_dir=out_dir,
            name_by=self._name_by,
            protected=ProtectedFiles((*own_files, *self._protected)),
            downloads=self._downloads,
            window=self._window,
            overwrite=self._overwrite,
            verify=self._verify,
            curable=(ResultUnavailableError.__name__,) if self._can_resolve else (),
            service_time=self._client.service_time,
        )
        return self

    async def aclose(self) -> None:
        """Stop the run, and close the journal if this batch has opened it, but not the client."""
        self._resources = None
        try:
            if self._tasks is not None:
                await self._tasks.stop()
        finally:
            await self._open.aclose()

    def run(
        self, job_ids: JobIds = (), *, timeout: float | None = None, replay: bool = False
    ) -> BatchRun:
        """Return a run that adds `job_ids` to the journal, and works on all jobs of the journal.

        The run first returns the outcomes of earlier runs that were not acknowledged; this needs no
        request to the service. Then it returns the outcomes of the other jobs as they end. Jobs
        that earlier runs gave up are tried again, except after a lasting error: the service does
        not know the job, or it does not keep the result and there is no `resolve_url`.

        Args:
            job_ids: An iterable or async iterable of ids, `JobRef` or `BatchJob`. It can have any
                size and contain all kinds, and is read while the run goes on. A job that is already
                in the journal is not added again. An id has the kind that its form says, or else
                the client's kind.
            timeout: Seconds after which jobs that have not settled are given up for this run, and
                no further ids are read from an iterator. The time begins when the run has yielded
                the outcomes of earlier runs. None for no limit.
            replay: If True, start with all outcomes of earlier runs, acknowledged or not.

        Returns:
            An async iterator of one `Outcome` for each job. An outcome is recorded in the journal
            before it is returned. Requesting the next outcome acknowledges the previous one. If the
            process is killed before that, the next run returns the same outcome again. Invalid ids
            also have an outcome, but are not recorded.

        Raises:
            TypeError: `job_ids` is a single string, or is not iterable.
            ValueError: `timeout` is negative or not finite.
            ClosedError: The batch is not open. The iterator raises it if another run is running.

        The iterator also raises the errors that stop a run; docs/batches.md#errors-that-stop-a-run
        lists them.
        """
        check_ids(job_ids)
        check_timeout(timeout)
        if self._resources is None:
            raise ClosedError(
                "the batch is not open; open it with `async with`, or with `with` in adepoll.sync"
            )
        tasks = RunTasks(self._resources, job_ids, timeout=timeout, replay=replay)
        return BatchRun(tasks, self._start)

    @property
    def progress(self) -> BatchProgress:
        """Progress of the run that was started last; all zeros before the first run."""
        return BatchProgress() if self._tasks is None else self._tasks.counters.progress()

    @property
    def watching(self) -> WatcherStats | None:
        """Statistics of the watcher; None if the batch is not open."""
        return None if self._resources is None else self._resources.watcher.stats

    def time_left(self) -> float | None:
        """Return the estimated seconds until the last job of the run has an outcome.

        If all open jobs are being watched, this is the estimate of `JobWatcher.time_left`. If jobs
        also wait in the journal or for their downloads, the recent speed counts, too: with 1,000
        open jobs and 10 outcomes per second, the estimate is at least 100 s. None if the batch is
        not open, or there is no estimate yet.
        """
        if self._resources is None:
            return None
        watcher = self._resources.watcher
        by_watcher = watcher.time_left()
        counters = None if self._tasks is None else self._tasks.counters
        if counters is None or counters.open <= watcher.stats.watched:
            return by_watcher
        rate = counters.outcome_rate.per_second(asyncio.get_running_loop().time())
        if not rate:
            return None
        by_rate = counters.open / rate
        return by_rate if by_watcher is None else max(by_watcher, by_rate)

    async def _start(self, tasks: RunTasks) -> None:
        """Start the tasks of a run.

        Raise `ClosedError` if another run is running or the batch is closed.
        """
        while self._tasks is not None and self._tasks.running:
            if not self._tasks.abandoned:
                raise ClosedError("another run of this batch is running; close that run first")
            await self._tasks.stop()
        if self._resources is None:
            raise ClosedError(
                "the batch is closed; open it again with `async with`, or with `with` in "
                "adepoll.sync"
            )
        self._tasks = tasks
        tasks.start()

    async def _open_journal(self, stack: AsyncExitStack) -> Journal:
        """Return the journal of the batch; raise if its endpoints are not those of the client."""
        v1, v2 = self._client.base_url, self._client.v2_base_url
        if isinstance(self._journal_argument, Journal):
            self._journal_argument.check_endpoint(v1, v2)
            return self._journal_argument
        if self._journal_argument is None:
            opening = Journal.in_memory(endpoint=v1, v2_endpoint=v2)
        else:
            opening = Journal.open(self._journal_argument, endpoint=v1, v2_endpoint=v2)
        return await stack.enter_async_context(await opening)

    async def _open_out_dir(self, journal: Journal, noted: str | None) -> Path | None:
        """Create the folder for results, record it in the journal, and return its path.

        Args:
            journal: The open journal.
            noted: The folder that the journal records; None if it records none. If the batch has no
                `out_dir`, this folder is returned, and no folder is created.

        Raises:
            ConfigurationError: `out_dir` cannot be created, or its name is not valid Unicode.
            JournalDamagedError: The recorded folder is not an absolute path.
        """
        if self._out_dir is None:
            return None if noted is None else recorded_folder(noted, journal.path)
        try:
            str(self._out_dir).encode()  # the journal cannot store other names
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"out_dir {str(self._out_dir)!r} is not valid Unicode; use another folder"
            ) from None
        try:
            await start_in_thread(_make_folder, self._out_dir)
        except OSError as exc:
            raise ConfigurationError(
                f"out_dir {self._out_dir} cannot be created: {reason_of(exc)}"
            ) from exc
        if str(self._out_dir) != noted:
            await journal.set_note(OUT_DIR, str(self._out_dir))
        return self._out_dir


def _make_folder(path: Path) -> None:
    check_owners_of_folders(path / "result.json")
    path.mkdir(0o700, parents=True, exist_ok=True)
