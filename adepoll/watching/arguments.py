"""Checks of what callers pass to a watcher. Imports nothing of adepoll."""

import math
from collections.abc import AsyncIterable, Iterable


def check_ids(job_ids: object) -> None:
    """Raise TypeError if `job_ids` is a single id, or anything else that is no iterable of ids."""
    if isinstance(job_ids, str | bytes):
        raise TypeError(
            "job_ids must be an iterable of ids, not one id; use [job_id], or JobWatcher.wait"
        )
    if not isinstance(job_ids, Iterable | AsyncIterable):
        raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError if `timeout` is neither a number of seconds, 0 or more, nor None."""
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise ValueError(f"timeout must be a number of 0 or more, or None, got {timeout}")
