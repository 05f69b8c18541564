"""BatchResources: the open objects and the settings that all runs of a batch use."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from attrs import frozen

from adepoll.api.job_kind import JobKind
from adepoll.batch.result_files import NameBy, ProtectedFiles
from adepoll.fetcher import ResultFetcher
from adepoll.journal import Journal
from adepoll.watching.watcher import JobWatcher


@frozen(kw_only=True)
class BatchResources:
    """The open objects and the settings that all runs of a batch use.

    Attributes:
        journal: Journal that records jobs and outcomes.
        watcher: Watcher that polls the jobs.
        fetcher: Fetcher that downloads the results.
        kind: Kind to assume for an id that does not contain its kind.
        out_dir: Folder for the results; None if results are not written to files.
        name_by: "job_id" or "label": what gives a result file its name.
        downloads: Maximum number of results fetched at the same time.
        window: Maximum number of jobs watched at the same time.
        protected: Files that are never replaced, not even with `overwrite`.
        overwrite: True if existing files are replaced.
        verify: True if the result files of earlier runs are checked.
        curable: Names of error classes. Jobs that earlier runs gave up with these errors are tried
            again, although the errors are lasting: a setting of this batch can remove their cause.
        service_time: Function that returns the Unix time by the service's clock, or None if
            adepoll does not know that clock.
    """

    journal: Journal
    watcher: JobWatcher
    fetcher: ResultFetcher
    kind: JobKind
    out_dir: Path | None
    name_by: NameBy
    downloads: int
    window: int
    protected: ProtectedFiles
    overwrite: bool
    verify: bool
    curable: Collection[str]
    service_time: Callable[[], float | None]

    def now(self) -> float:
        """Return the Unix time, by the service's clock if it is known."""
        time_of_service = self.service_time()
        return time.time() if time_of_service is None else time_of_service
