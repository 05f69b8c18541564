"""The service of the laboratory, and a source for it with a request budget.

The service is simpler than the emulator, whose JSON would take most of the CPU time.
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
from adepoll.errors import JobNotFoundError, ServerError
from adepoll.throttling.request_sender import RequestSender


@frozen(kw_only=True)
class JobListing:
    """The errors of the list.

    Attributes:
        lag: Seconds until a change of a job appears in the list.
        foreign: Number of active jobs of other programs.
        keeps_settled: Share of the settled jobs that stay in the list of active jobs forever.
        missing: Share of the active jobs that the list never shows.
        failing: Share of the requests that fail for a moment (503).
        hanging: Number of consecutive requests, after the first four, that are never answered.
        page_time: Additional seconds that each request takes.
    """

    lag: float = 0.0
    foreign: int = 0
    keeps_settled: float = 0.0
    missing: float = 0.0
    failing: float = 0.0
    hanging: int = 0
    page_time: float = 0.0


_ANSWERED = 4  # pages before the requests that are never answered
_GOLDEN = 0.618  # spreads the jobs that stay in the list over all jobs


@define(kw_only=True, eq=False)
class LabService:
    """Answers requests for the jobs of a row, and counts them.

    Attributes:
        jobs: The jobs by id.
        start: Loop time of the start, from which the times of the jobs are counted.
        listing: The errors of the list.
        received_at: Seconds that are added to each `received_at`; None if jobs have no such time.
        clock_ahead: Seconds by which the clock of the service is later than the true time.
        rng: Random numbers for the latencies.
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
    # A heap with the next change of each job: time, number of the job, id, and status until then.
    _changes: list[tuple[float, int, str, JobStatus | None]] = field(init=False)
    # Number and id of the listed jobs, by status, the newest job last.
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
        """Poll one job; the answer has the status in the middle of the request."""
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
        """Return one page of the list in the middle of the request, the newest job first."""
        latency = self.rng.uniform(*LATENCY) + self.listing.page_time
        self.pages += 1
        await asyncio.sleep(latency / 2)
        if _ANSWERED < self.pages <= _ANSWERED + self.listing.hanging:
            await asyncio.get_running_loop().create_future()
        if self.listing.failing and self.rng.random() < self.listing.failing:
            raise ServerError(status=503, detail="Service Unavailable", job_id=None)
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
            kept = number * _GOLDEN % 1.0 < self.listing.keeps_settled
            if kept and status not in self._listed:
                status = JobStatus.PROCESSING
            if status not in self._listed:
                heappop(self._changes)
                continue
            insort(self._listed[status], (number, job_id))
            if status is JobStatus.PENDING:
                heapreplace(self._changes, (job.started_at, number, job_id, status))
            elif kept:
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
    """A source for a watcher; requests wait for a request budget like that of a client."""

    service: LabService
    sender: RequestSender
    slot: AbstractAsyncContextManager[object] = field(factory=nullcontext)

    def for_polling(self, slot: AbstractAsyncContextManager[object]) -> "LabSource":
        """Do what `AdeClient.for_polling` does."""
        return evolve(self, slot=slot)

    def service_time(self) -> float:
        """Do what `AdeClient.service_time` does."""
        service = self.service
        return EPOCH + service.start + service.now() + service.clock_ahead

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll a job without retries, like the source that `AdeClient.for_polling` returns."""
        return await self.sender.call_once(
            lambda _at: self.service.get_job(job_id), semaphore=self.slot
        )

    async def list_jobs(self, **query: object) -> JobPage:
        """Read a page of the list without retries."""
        return await self.sender.call_once(
            lambda _at: self.service.list_jobs(**query), semaphore=self.slot
        )
