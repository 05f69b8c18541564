"""The job list. It is kept sorted, so that a page takes the same time with ten or 100,000 jobs."""

import hashlib
import math
import random
from bisect import bisect_left, insort
from enum import Enum
from heapq import heappop, heappush
from typing import TypeAlias

from attrs import Factory, define, field

from adepoll.api.models import JobStatus
from adepoll.emulator.jobs import Job


class ListOrder(Enum):
    """The order of the job list. The real service does not document this order for v1 jobs.

    `SHUFFLED` is a random order that stays the same, so that the pages together contain each job
    once. `RESHUFFLED` is a new random order for every page, so that a reader of all pages misses
    some jobs and sees others twice.
    """

    NEWEST = "newest"
    OLDEST = "oldest"
    SHUFFLED = "shuffled"
    RESHUFFLED = "reshuffled"


# Sort key, number of the job, job. No two numbers are equal, so jobs are never compared.
_Entry: TypeAlias = tuple[float, int, Job]


@define
class JobList:
    """The list of the jobs of one kind, as it was at the time of the latest `update`.

    Attributes:
        order: Order of the jobs.
        seed: Determines a random order.
    """

    order: ListOrder = ListOrder.NEWEST
    seed: int = 0
    _all: list[_Entry] = Factory(list)
    _by_status: dict[JobStatus, list[_Entry]] = Factory(
        lambda: {status: [] for status in JobStatus}
    )
    # Time of the next status change, number of the job, job, and the status before that change
    # (None if the job has not arrived). A heap.
    _changes: list[tuple[float, int, Job, JobStatus | None]] = Factory(list)
    _updated_to: float = field(init=False, default=-math.inf)
    _rng: random.Random = field(init=False)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(f"{self.seed}/listing")  # noqa: S311 - reproducible, not secret

    def add(self, job: Job) -> None:
        """Add a job. It is in the list from the first `update` after its arrival."""
        heappush(self._changes, (job.received_at, job.number, job, None))

    def update(self, now: float) -> float:
        """Apply all status changes up to `now`, and return the time that the list shows.

        Times are Unix seconds. If an earlier call had a later `now`, the list stays as it is.
        """
        now = self._updated_to = max(self._updated_to, now)
        while self._changes and self._changes[0][0] <= now:
            _, number, job, before = heappop(self._changes)
            entry = (self._key(job), number, job)
            if before is None:
                insort(self._all, entry)
            else:
                jobs = self._by_status[before]
                del jobs[bisect_left(jobs, entry)]
            after = job.status_at(now)
            if after is None:
                raise AssertionError("a job whose status changes must have arrived")
            insort(self._by_status[after], entry)
            if (change := job.next_change(now)) < math.inf:
                heappush(self._changes, (change, number, job, after))
        return now

    def page(self, *, skip: int, count: int, status: JobStatus | None) -> tuple[list[Job], bool]:
        """Return the jobs of one page in order, and whether more jobs follow.

        Args:
            skip: Number of jobs to skip.
            count: Largest number of jobs to return.
            status: Only jobs with this status; None for all.
        """
        jobs = self._all if status is None else self._by_status[status]
        has_more = skip + count < len(jobs)
        if self.order is ListOrder.RESHUFFLED:
            sample = self._rng.sample(jobs, min(count, max(len(jobs) - skip, 0)))
            return [job for _, _, job in sample], has_more
        if self.order is not ListOrder.NEWEST:
            return [job for _, _, job in jobs[skip : skip + count]], has_more
        end = max(len(jobs) - skip, 0)
        return [job for _, _, job in reversed(jobs[max(end - count, 0) : end])], has_more

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs by status."""
        return {status: len(jobs) for status, jobs in self._by_status.items() if jobs}

    def _key(self, job: Job) -> float:
        """Return the number by which the list is sorted."""
        if self.order is not ListOrder.SHUFFLED:
            return job.received_at
        text = f"{self.seed}/{job.number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest())
