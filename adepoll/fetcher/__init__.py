"""Brings results home: storage.py opens them, partfile.py writes them, fetcher.py does it all."""

from adepoll.fetcher.fetcher import Download, ResultFetcher
from adepoll.fetcher.storage import ResultStream, Storage

__all__ = ["Download", "ResultFetcher", "ResultStream", "Storage"]
