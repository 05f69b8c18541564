"""The service of the laboratory: it answers from the jobs of a row, behind a request budget.

It does without the emulator's world and its JSON, which would take most of the time.
"""

import asyncio
from bisect import insort
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from random import Random
from zlib import crc32

from _references import LATENCY, Job
from attrs import define, evolve, field, frozen

from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary, from_timestamp
from adepoll.emulator import EPOCH
from adepoll.errors import JobNotFoundError
from adepoll.throttling.request_sender import RequestSender


@frozen(kw_only=True)
class JobListing:
    """How the list behaves.

    Attributes:
        lag: Seconds by which it is behind.
        foreign: Active jobs of somebody else.
        keeps_settled: True if jobs stay in the list of active jobs for ever.
        missing: Share of the active jobs that the list never shows.
    """

    lag: float = 0.0
    foreign: int = 0
    keeps_settled: bool = False
    missing: float = 0.0


@define(kw_only=True, eq=False)
class LabService:
    """The jobs of a row, and what the requests for them bring.

    Attributes:
        jobs: The jobs by id.
        start: Loop time from which the times of the jobs count.
        listing: How the list behaves.
        received_at: Seconds to add to every `received_at`; None for 0, which means absent.
        clock_ahead: Seconds by which the service's clock is ahead of the truth.
        rng: Draws the latencies.
        gets: Number of GETs, by id.
        pages: Number of pages of the list that were read.
    """

    jobs: dict[str, Job]
    start: float
    listing: JobListing
    received_at: float | None
    clock_ahead: float
    rng: Random
    gets: dict[str, int] = field(factory=dict)
    pages: int = 0
    # Time of the next change, number, id, status; and the listed jobs by status, newest last.
    _changes: list[tuple[float, int, str, JobStatus | None]] = field(init=False)
    _listed: dict[JobStatus, list[tuple[int, str]]] = field(init=False)

    @_changes.default
    def _arrivals(self) -> list[tuple[float, int, str, JobStatus | None]]:
        changes = [
            (job.received_at, number, job_id, None)
            for number, (job_id, job) in enumerate(self.jobs.items())
            if not self.listing.missing or crc32(job_id.encode()) / 2**32 >= self.listing.missing
        ]
        heapify(changes)
        return changes

    @_listed.default
    def _foreign(self) -> dict[JobStatus, list[tuple[int, str]]]:
        others = [(-number, f"foreign-{number}") for number in range(self.listing.foreign, 0, -1)]
        return {JobStatus.PENDING: [], JobStatus.PROCESSING: others}

    def now(self) -> float:
        """Return the seconds since the start."""
        return asyncio.get_running_loop().time() - self.start

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll one job; the answer is from the middle of the request."""
        latency = self.rng.uniform(*LATENCY)
        self.gets[job_id] = self.gets.get(job_id, 0) + 1
        job = self.jobs[job_id]
        at = self.now() + latency / 2
        await asyncio.sleep(latency)
        if at < job.received_at:
            raise JobNotFoundError(status=404, detail="Job ID not found", job_id=job_id)
        status = _status_at(job, at)
        return JobSnapshot(
            job_id=job_id,
            status=status,
            status_text=status.value,
            received_at=self._received_at(job.received_at),
            progress=0.0,
        )

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """Return one page of the list, newest first, as of the middle of the request."""
        latency = self.rng.uniform(*LATENCY)
        self.pages += 1
        await asyncio.sleep(latency / 2)
        self._update(self.now() - self.listing.lag)
        listed = self._listed.get(status, [])
        end = max(len(listed) - page * page_size, 0)
        shown = [
            self._summary(job_id, status)
            for _, job_id in reversed(listed[max(end - page_size, 0) : end])
        ]
        has_more = end > page_size
        await asyncio.sleep(latency / 2)
        return JobPage(jobs=tuple(shown), has_more=has_more)

    def _update(self, seen: float) -> None:
        while self._changes and self._changes[0][0] <= seen:
            _, number, job_id, before = self._changes[0]
            job = self.jobs[job_id]
            if before is not None:
                self._listed[before].remove((number, job_id))
            status = _status_at(job, seen)
            if self.listing.keeps_settled and status not in self._listed:
                status = JobStatus.PROCESSING
            if status not in self._listed:
                heappop(self._changes)
                continue
            insort(self._listed[status], (number, job_id))
            if status is JobStatus.PENDING:
                heapreplace(self._changes, (job.started_at, number, job_id, status))
            elif self.listing.keeps_settled:
                heappop(self._changes)
            else:
                heapreplace(self._changes, (job.ended_at, number, job_id, status))

    def _summary(self, job_id: str, status: JobStatus) -> JobSummary:
        job = self.jobs.get(job_id)
        return JobSummary(
            job_id=job_id,
            status=status,
            status_text=status.value,
            received_at=self._received_at(-1.0 if job is None else job.received_at),
            progress=0.0,
        )

    def _received_at(self, seconds: float) -> datetime:
        if self.received_at is None:
            return from_timestamp(0)
        return from_timestamp(int(EPOCH + self.start + seconds + self.received_at))


def _status_at(job: Job, at: float) -> JobStatus:
    if at >= job.ended_at:
        return JobStatus.COMPLETED
    return JobStatus.PROCESSING if at >= job.started_at else JobStatus.PENDING


@frozen(kw_only=True)
class LabSource:
    """A service behind the request budget of a client."""

    service: LabService
    sender: RequestSender
    slot: AbstractAsyncContextManager[object] = field(factory=nullcontext)

    def for_polling(self, slot: AbstractAsyncContextManager[object]) -> "LabSource":
        """As `AdeClient.for_polling`."""
        return evolve(self, slot=slot)

    def service_time(self) -> float:
        """As `AdeClient.service_time`."""
        service = self.service
        return EPOCH + service.start + service.now() + service.clock_ahead

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As the view that `AdeClient.for_polling` gives: tried once."""
        return await self.sender.call_once(
            lambda _at: self.service.get_job(job_id), semaphore=self.slot
        )

    async def list_jobs(self, **query: object) -> JobPage:
        """As `get_job`."""
        return await self.sender.call_once(
            lambda _at: self.service.list_jobs(**query), semaphore=self.slot
        )
