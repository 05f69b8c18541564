"""Brings results home: fetcher.py is its face; the others, from bottom to top, in the layers below.

addresses, reading, stats: what may be asked, and how bytes come; answers, storage: one request;
transfer: many; reader, stream: in order; spans, width, sidecar, partfile, landing, crew, download:
to disk.
"""

from adepoll.fetcher.fetcher import Download, ResultFetcher
from adepoll.fetcher.items import ResultItems
from adepoll.fetcher.landing import Progress
from adepoll.fetcher.stats import FetcherStats
from adepoll.fetcher.stream import ResultStream
from adepoll.fetcher.transfer import ResolveUrl

__all__ = [
    "Download",
    "FetcherStats",
    "Progress",
    "ResolveUrl",
    "ResultFetcher",
    "ResultItems",
    "ResultStream",
]
