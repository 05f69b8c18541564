"""Batches: watch jobs, fetch their results, and record everything in a journal."""

from adepoll.batch.batch import Batch
from adepoll.batch.progress import BatchProgress
from adepoll.batch.run import BatchRun

__all__ = ["Batch", "BatchProgress", "BatchRun"]
