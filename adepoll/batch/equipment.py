"""Equipment: what the runs of a batch work with. Imports journal, watcher and fetcher."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from attrs import frozen

from adepoll.fetcher import ResultFetcher
from adepoll.journal import Journal
from adepoll.watching.watcher import JobWatcher


@frozen(kw_only=True)
class Equipment:
    """What a run works with.

    Attributes:
        journal: Where all is written down.
        watcher: Sees when jobs end.
        fetcher: Brings results home.
        out_dir: Where to; None where they stay with the service.
        downloads: Most results fetched at once.
        window: Most jobs watched at once.
        moved: Whether earlier runs wrote their results to another folder.
        overwrite: Whether to replace result files that are there.
        verify: Whether to see after the files of earlier runs.
        curable: Names of errors that were lasting, and are not with what this run was given.
        service_time: Gives the Unix time by the service's clock; None where that is not known.
    """

    journal: Journal
    watcher: JobWatcher
    fetcher: ResultFetcher
    out_dir: Path | None
    downloads: int
    window: int
    moved: bool
    overwrite: bool
    verify: bool
    curable: Collection[str]
    service_time: Callable[[], float | None]

    def now(self) -> float:
        """Give the Unix time, by the service's clock where it is known."""
        told = self.service_time()
        return time.time() if told is None else told
