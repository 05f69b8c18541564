"""ResultFetching: writes the results of settled jobs to files, and checks files of earlier runs.

An existing file is replaced only with `overwrite`. Without `overwrite`, the file is compared with
the result. If all bytes are equal, the file counts as the result. Otherwise the file is kept, and
the job is given up.

Size, modification time and SHA-256 in the journal only show which files of earlier runs are
unchanged (`result_files.lost`). They never allow a file to be replaced, because somebody else may
have written the journal.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from adepoll.api.file_names import id_with_hash, label_stem, name_with_id, result_name
from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.batch import kept_results, result_files
from adepoll.batch.progress import RunCounters
from adepoll.batch.resources import BatchResources
from adepoll.common.threads import start_in_thread
from adepoll.errors import (
    AdePollError,
    BatchStoppedError,
    ConfigurationError,
    StorageError,
    TargetExistsError,
)
from adepoll.fetcher.result_sources import ref_of
from adepoll.journal import Change, Fetched, FileLost, GivenUp, RecordFilter
from adepoll.journal.changes import LASTING_ERRORS
from adepoll.journal.journal import record_pages
from adepoll.journal.outcomes import Outcome, Record, ResultFile

# Error numbers that concern the name of one file. Any other error of the disk concerns all files,
# and stops the run.
_ERRNOS_OF_ONE_FILE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL, errno.ELOOP}
)


@frozen(kw_only=True)
class _ResultFetch:
    """A result that must be written to a file.

    Attributes:
        snapshot: Snapshot of the completed job.
        path: Path of the result file.
    """

    snapshot: JobSnapshot
    path: Path


class ResultFetching:
    """Fetches the results of one run, and checks the result files of earlier runs.

    Use it in this order:

    1. `keep_unchanged` for the outcomes of earlier runs, then `find_unfinished`
    2. set `tasks`
    3. `put`, `fetch_unfinished` and `verify_acknowledged`, in any order and at the same time
    4. `close`

    Attributes:
        tasks: Group for the tasks that fetch results. `put` creates a task only if no other task is
            idle, and at most `BatchResources.downloads` tasks.
    """

    tasks: asyncio.TaskGroup

    def __init__(
        self,
        resources: BatchResources,
        counters: RunCounters,
        deliver: Callable[[Outcome], Awaitable[None]],
        *,
        verify_acknowledged: bool,
    ) -> None:
        """Create an object that has fetched nothing yet.

        Args:
            resources: Resources of the batch.
            counters: Counters of the run.
            deliver: Coroutine function that is called with each outcome. It waits while the
                consumer is slow.
            verify_acknowledged: If False, the method `verify_acknowledged` does nothing.
        """
        self._resources = resources
        self._journal = resources.journal
        self._counters = counters
        self._deliver = deliver
        self._queue: asyncio.Queue[_ResultFetch | None] = asyncio.Queue(resources.downloads)
        self._created = 0  # tasks that fetch results
        self._idle = 0  # tasks that wait for a result
        self._ended = False  # whether one of these tasks has ended
        # Jobs that an earlier run has settled, and whose results were not fetched.
        self._unfinished: set[JobRef] = set()
        # Jobs whose outcomes were acknowledged in this run. They are not verified, because the
        # program may have moved their files. None: no job is verified.
        self._acknowledged: set[JobRef] | None = set() if verify_acknowledged else None

    async def keep_unchanged(self, page: Sequence[Record]) -> Sequence[Record]:
        """Return the records whose result files are unchanged, and those without a result file.

        For every other job, record in the journal that the result must be fetched again. If
        `BatchResources.verify` is False, return all records without a check.
        """
        # A run that was killed while it recorded a result file has not removed the kept file.
        written = [record.snapshot for record in page if record.file and record.snapshot]
        large = [snapshot for snapshot in written if snapshot.data_omitted]
        folder = self._resources.out_dir
        if large and folder is not None:
            await start_in_thread(kept_results.remove, folder, large)
        if not self._resources.verify:
            return page
        lost = {record.ref for record in await self._record_lost(page)}
        return [record for record in page if record.ref not in lost]

    async def find_unfinished(self) -> None:
        """Find the settled jobs whose results earlier runs have not fetched.

        `fetch_unfinished` queues these results.

        Raises:
            ConfigurationError: There are such jobs, but no folder for their results.
        """
        self._unfinished = await self._refs_of(RecordFilter.FETCHING)
        if not self._unfinished:
            return
        if self._resources.out_dir is None:
            raise _no_folder(len(self._unfinished))

    async def targets(self, jobs: Iterable[JobRef]) -> dict[JobRef, Path]:
        """Return the path of each job's result file; empty if results are not written to files.

        No two jobs of the journal get names that a file system can take for the same name
        (`file_names.name_key`). So if ids are similar (`Journal.similar_ids`), a hash is added to
        each of them. If labels give the same name (`Journal.shared_names`), the id is added.
        """
        folder = self._resources.out_dir
        if folder is None:
            return {}
        jobs = tuple(jobs)
        similar = await self._journal.similar_ids({job.job_id for job in jobs})
        names = ids = {
            job: id_with_hash(job.job_id, str(job)) if job.job_id in similar else job.job_id
            for job in jobs
        }
        if self._resources.name_by == "label":
            bare = {
                job: job_id if job.label is None else label_stem(job.label)
                for job, job_id in ids.items()
            }
            shared = await self._journal.shared_names(set(bare.values()))
            names = {
                job: name_with_id(name, ids[job]) if name in shared else name
                for job, name in bare.items()
            }
        return {job: folder / result_name(name) for job, name in names.items()}

    async def keep(self, snapshots: Sequence[JobSnapshot]) -> None:
        """Keep the temporary files of large results until the results are in their result files.

        So another run can use the temporary files if this process is killed.
        """
        folder = self._resources.out_dir
        if folder is not None and any(job.kept_result is not None for job in snapshots):
            await start_in_thread(kept_results.keep, folder, snapshots)

    async def put(self, snapshot: JobSnapshot, path: Path) -> None:
        """Queue the result of a job; wait while the queue is full.

        A task in the task group `tasks` fetches the result. If an error concerns all jobs, such as
        a full disk, that task fails with `BatchStoppedError` or another `AdePollError`, and so does
        the task group.
        """
        has_idle = self._idle > self._queue.qsize()
        if not (has_idle or self._ended or self._created == self._resources.downloads):
            self._created += 1
            self._idle += 1
            self.tasks.create_task(self._fetch_queued())
        await self._queue.put(_ResultFetch(snapshot=snapshot, path=path))

    async def _fetch_queued(self) -> None:
        """Fetch queued results one after the other, until `close` is called."""
        try:
            while (fetch := await self._queue.get()) is not None:
                self._idle -= 1
                outcome, change = await self._fetch(fetch)
                await self._journal.write(change)
                kept = fetch.snapshot.kept_result
                if kept is not None and outcome.file is not None:
                    await start_in_thread(kept.delete)
                self._counters.record_outcomes(1, asyncio.get_running_loop().time())
                await self._deliver(outcome)
                self._idle += 1
        finally:
            # After an error, the group cancels its tasks; it would not cancel a new one.
            self._ended = True

    async def fetch_unfinished(self) -> None:
        """Queue the results that earlier runs have not fetched, as `find_unfinished` has found."""
        if not self._unfinished:
            return
        async with aclosing(record_pages(self._journal, RecordFilter.FETCHING, data=True)) as pages:
            async for page in pages:
                for record in page:
                    if record.ref in self._unfinished:  # this run has queued all other results
                        await self._put_again(record)

    async def close(self) -> None:
        """Make each task that fetches results end as soon as the queue is empty."""
        for _ in range(self._created):
            await self._queue.put(None)

    async def _put_again(self, record: Record) -> None:
        """Queue the result of a job that settled in an earlier run, to write it to a file."""
        snapshot, folder = record.snapshot, self._resources.out_dir
        if snapshot is None:
            return
        if folder is None:
            # The path of a lost file is not enough: somebody else may have written the journal, and
            # then the batch would write to a folder that the user has not chosen.
            raise _no_folder(1)
        path = (await self.targets([record.ref]))[record.ref]
        if record.file is not None:
            path = _path_of_lost(record, record.file.path, path)
        if snapshot.data_omitted:
            snapshot = await start_in_thread(kept_results.with_kept_result, folder, snapshot)
        await self.put(snapshot, path)

    async def _fetch(self, fetch: _ResultFetch) -> tuple[Outcome, Change]:
        """Write a result to its file; return the outcome, and the journal change that records it.

        If the result cannot be fetched, the outcome has the error. Raise an error that concerns all
        jobs.
        """
        snapshot, counters = fetch.snapshot, self._counters
        job = ref_of(snapshot)
        counters.bytes_partial[job] = 0
        try:
            file = await self._write(fetch, job)
            modified_ns = await start_in_thread(result_files.modified_ns, file.path)
        except StorageError as exc:
            if exc.errno not in _ERRNOS_OF_ONE_FILE:
                raise BatchStoppedError(exc) from exc
            error: AdePollError = exc
        except AdePollError as exc:
            if exc.fatal:
                raise
            error = exc
        else:
            outcome = evolve(outcome_of(without_data(snapshot)), file=file)
            return outcome, Fetched(job, file, modified_ns, self._resources.now())
        finally:
            del counters.bytes_partial[job]
        counters.missed += 1
        outcome = evolve(outcome_of(without_data(snapshot)), error=error)
        return outcome, given_up(job, error, self._resources.now())

    async def _write(self, fetch: _ResultFetch, job: JobRef) -> ResultFile:
        """Write a result to its file, unless the file already contains exactly this result."""
        snapshot, counters, fetcher = fetch.snapshot, self._counters, self._resources.fetcher

        def progress(received: int, _size: int | None) -> None:
            counters.bytes_partial[job] = received

        overwrite = self._resources.overwrite
        if overwrite and fetch.path in self._resources.protected:
            raise TargetExistsError(job_id=snapshot.job_id, path=str(fetch.path), protected=True)
        try:
            download = await fetcher.download(
                snapshot, fetch.path, progress=progress, overwrite=overwrite
            )
        except TargetExistsError:
            async with fetcher.stream(snapshot) as stream:
                file = await result_files.same_content(fetch.path, stream)
            if file is None:
                raise
            counters.adopted += 1
            return file
        counters.bytes_partial[job] = 0
        counters.bytes_complete += download.bytes
        return ResultFile(path=download.path, bytes=download.bytes, sha256=download.sha256)

    def note_acknowledged(self, job: JobRef) -> None:
        """Exclude a job from `verify_acknowledged`, because this run has acknowledged its outcome.

        The program may have moved the result file after that.
        """
        if self._acknowledged is not None:
            self._acknowledged.add(job)

    async def verify_acknowledged(self) -> None:
        """Check the result files of outcomes that were acknowledged in earlier runs.

        If a file is missing or changed, queue its result again.
        """
        if self._acknowledged is None:
            return
        async with aclosing(record_pages(self._journal, RecordFilter.ACKNOWLEDGED)) as pages:
            async for page in pages:
                earlier = [record for record in page if record.ref not in self._acknowledged]
                for record in await self._record_lost(earlier):
                    await self._put_again(record)
        self._acknowledged = None

    async def _record_lost(self, page: Sequence[Record]) -> Sequence[Record]:
        """Return the records whose files are missing or changed.

        For each of these jobs, record in the journal that the result must be fetched again.
        """
        if not any(record.file for record in page):
            return ()
        lost = await start_in_thread(result_files.lost, page)
        await self._journal.write(*(FileLost(record.ref) for record in lost))
        self._counters.open += len(lost)
        return lost

    async def _refs_of(self, which: RecordFilter) -> set[JobRef]:
        async with aclosing(record_pages(self._journal, which)) as pages:
            return {record.ref async for page in pages for record in page}


def _no_folder(count: int) -> ConfigurationError:
    """Return the error for `count` results that must be fetched, but have no folder."""
    results = "a result" if count == 1 else f"{count} results"
    return ConfigurationError(
        f"the journal has {results} that must still be fetched; pass the out_dir of the earlier run"
    )


def _path_of_lost(record: Record, earlier: Path, new: Path) -> Path:
    """Return the path at which a result is written again, because its file is missing or changed.

    Args:
        record: Record of the job.
        earlier: Path of the missing or changed file, as the journal records it.
        new: Path that a run would choose for the file now.
    """
    # Somebody else may have written the journal. So a recorded name is used only if a run gives
    # such names.
    has_our_name = earlier.name in result_files.names_of(record.ref)
    # The file keeps its earlier name, even if a new job with the same label would change the name.
    return earlier if has_our_name and earlier.parent == new.parent else new


def outcome_of(snapshot: JobSnapshot) -> Outcome:
    """Return the `Outcome` of a settled job, in which `file` and `error` are None."""
    return Outcome(
        job_id=snapshot.job_id, kind=snapshot.kind, label=snapshot.label, snapshot=snapshot
    )


def given_up(job: JobRef, error: AdePollError, now: float) -> GivenUp:
    """Return the journal change that records that a job was given up at the Unix time `now`."""
    return GivenUp(job, error, lasting=isinstance(error, LASTING_ERRORS), at=now)


def without_data(snapshot: JobSnapshot) -> JobSnapshot:
    """Return a snapshot without its result and without secrets.

    Used for a job whose result is in a file, or could not be fetched.
    """
    return evolve(snapshot.without_data(), data_omitted=False).redacted()
