"""Fetches results: into memory, to a file, or as a stream. This module exports the public names.

`fetcher` contains `ResultFetcher`. `storage_rules` contains the rules for the vendors of storages.
"""

from adepoll.fetcher.disk_writer import Progress
from adepoll.fetcher.fetcher import Download, ResultFetcher
from adepoll.fetcher.result_items import ResultItems
from adepoll.fetcher.result_sources import Job
from adepoll.fetcher.result_stream import ResultStream
from adepoll.fetcher.statistics import FetcherStats
from adepoll.fetcher.stored_result import ResolveUrl

__all__ = [
    "Download",
    "FetcherStats",
    "Job",
    "Progress",
    "ResolveUrl",
    "ResultFetcher",
    "ResultItems",
    "ResultStream",
]
