"""Batches: jobs watched, results fetched, and all of it written down as it comes."""

from adepoll.batch.batch import Batch
from adepoll.batch.progress import BatchProgress
from adepoll.batch.run import BatchRun

__all__ = ["Batch", "BatchProgress", "BatchRun"]
