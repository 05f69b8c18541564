"""The jobs by status, in order, so that a page costs the same among ten and 100,000 jobs."""

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
    """In which order the list stands; that of the service is not documented.

    `SHUFFLED` has nothing to do with time and stays as it is, so that pages fit together;
    `RESHUFFLED` is another one at every request, so that items are missed and seen twice.
    """

    NEWEST = "newest"
    OLDEST = "oldest"
    SHUFFLED = "shuffled"
    RESHUFFLED = "reshuffled"


# Sort key, number, job. The number is unique, so that jobs themselves are never compared.
_Entry: TypeAlias = tuple[float, int, Job]


@define
class Listing:
    """Which jobs stand where, as of the latest `catch_up`.

    A change is made when the listing is next looked at, however long after it was due; so the
    clock behind `now` must not go back.

    Attributes:
        order: In which order jobs are given.
        seed: What shuffles them.
    """

    order: ListOrder = ListOrder.NEWEST
    seed: int = 0
    _all: list[_Entry] = Factory(list)
    _shelves: dict[JobStatus, list[_Entry]] = Factory(lambda: {status: [] for status in JobStatus})
    # Next change of each job that has one, the job's number, the job, the shelf it stands on.
    _due: list[tuple[float, int, Job, JobStatus | None]] = Factory(list)
    _rng: random.Random = field(init=False)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(f"{self.seed}/listing")  # noqa: S311 - reproducible, not secret

    def add(self, job: Job) -> None:
        """Take a job in; it shows up once it has arrived."""
        heappush(self._due, (job.received_at, job.number, job, None))

    def catch_up(self, now: float) -> None:
        """Move every job to where it stands at `now`, in Unix seconds."""
        while self._due and self._due[0][0] <= now:
            _, number, job, before = heappop(self._due)
            entry = (self._key(job), number, job)
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

    def page(self, *, skip: int, count: int, status: JobStatus | None) -> tuple[list[Job], bool]:
        """Give jobs in order, and whether more follow.

        Args:
            skip: How many of the first to leave out.
            count: How many to give after these.
            status: Only jobs that stand there; None for all.
        """
        shelf = self._all if status is None else self._shelves[status]
        has_more = skip + count < len(shelf)
        if self.order is ListOrder.RESHUFFLED:
            some = self._rng.sample(shelf, min(count, max(len(shelf) - skip, 0)))
            return [job for _, _, job in some], has_more
        if self.order is not ListOrder.NEWEST:
            return [job for _, _, job in shelf[skip : skip + count]], has_more
        end = max(len(shelf) - skip, 0)
        return [job for _, _, job in reversed(shelf[max(end - count, 0) : end])], has_more

    def counts(self) -> dict[JobStatus, int]:
        """Give how many jobs stand where."""
        return {status: len(shelf) for status, shelf in self._shelves.items() if shelf}

    def _key(self, job: Job) -> float:
        if self.order is not ListOrder.SHUFFLED:
            return job.received_at
        text = f"{self.seed}/{job.number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest())
