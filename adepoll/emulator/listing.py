"""The jobs by status, newest first, so that a page costs the same among ten and 100,000 jobs."""

import math
from bisect import bisect_left, insort
from heapq import heappop, heappush
from typing import TypeAlias

from attrs import Factory, define

from adepoll.emulator.jobs import Job
from adepoll.models import JobStatus

# Received at, number, job. The number is unique, so that jobs themselves are never compared.
_Entry: TypeAlias = tuple[float, int, Job]


@define
class Listing:
    """Which jobs stand where, as of the latest `catch_up`.

    A change is made when the listing is next looked at, however long after it was due; so the
    clock behind `now` must not go back.
    """

    _all: list[_Entry] = Factory(list)
    _shelves: dict[JobStatus, list[_Entry]] = Factory(lambda: {status: [] for status in JobStatus})
    # Next change of each job that has one, the job's number, the job, the shelf it stands on.
    _due: list[tuple[float, int, Job, JobStatus | None]] = Factory(list)

    def add(self, job: Job) -> None:
        """Take a job in; it shows up once it has arrived."""
        heappush(self._due, (job.received_at, job.number, job, None))

    def catch_up(self, now: float) -> None:
        """Move every job to where it stands at `now`, in Unix seconds."""
        while self._due and self._due[0][0] <= now:
            _, number, job, before = heappop(self._due)
            entry = (job.received_at, number, job)
            if before is None:
                insort(self._all, entry)
            else:
                shelf = self._shelves[before]
                del shelf[bisect_left(shelf, entry)]
            after = job.status_at(now)
            if after is None:
                raise AssertionError("a job that was due has arrived")
            insort(self._shelves[after], entry)
            if (change := job.next_change(now)) < math.inf:
                heappush(self._due, (change, number, job, after))

    def newest(self, *, skip: int, count: int, status: JobStatus | None) -> tuple[list[Job], bool]:
        """Give jobs newest first, and whether more follow.

        Args:
            skip: How many of the newest to leave out.
            count: How many to give after these.
            status: Only jobs that stand there; None for all.
        """
        shelf = self._all if status is None else self._shelves[status]
        end = len(shelf) - skip
        if end <= 0:
            return [], False
        start = max(end - count, 0)
        return [job for _, _, job in reversed(shelf[start:end])], start > 0
