"""Jobs at two hosts behind one request budget, in virtual time. A host can hang."""

import asyncio
import math
from random import Random

from attrs import Factory, define, evolve

from adepoll import JobKind, JobPage, JobRef, JobSnapshot, JobStatus, JobSummary
from adepoll.errors import AnswerTimeoutError, ServerError
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender

V1, V2 = JobKind.V1_EXTRACT, JobKind.V2_PARSE
TIMEOUT = 30.0
"""Seconds after which a request without an answer fails."""


@define
class TwoHosts:
    """A source with v1 jobs at one host and v2 jobs at another.

    Attributes:
        jobs: Time at which each job begins, and at which it ends, by kind and id.
        kind: Kind of the jobs that `get_job` and `list_jobs` mean.
        latency: Seconds that each host needs for an answer.
        hangs: Start and end of the time in which requests to a host get no answer, by kind.
        hanging: Ids of jobs whose polls never get an answer.
        failing: Ids of jobs whose polls always get a 503.
        semaphore: Held during each request; None for no semaphore.
        in_flight: Requests that wait for an answer now, by kind.
        most: A list with the largest number of requests that waited for an answer at the same time.
    """

    jobs: dict[tuple[JobKind, str], tuple[float, float]]
    kind: JobKind = V1
    latency: dict[JobKind, float] = Factory(lambda: {V1: 0.1, V2: 0.1})
    hangs: dict[JobKind, tuple[float, float]] = Factory(dict)
    hanging: set[str] = Factory(set)
    failing: set[str] = Factory(set)
    semaphore: object = None
    limiter: RateLimiter = Factory(lambda: RateLimiter(rng=Random(1)))
    sender: RequestSender = Factory(
        lambda self: RequestSender(self.limiter, rng=Random(1)), takes_self=True
    )
    in_flight: dict[JobKind, int] = Factory(lambda: {V1: 0, V2: 0})
    most: list[int] = Factory(lambda: [0])

    @property
    def origin(self):
        return f"https://{self.kind.name}.test"

    @property
    def refs(self):
        return [JobRef(job_id, kind=kind) for kind, job_id in self.jobs]

    def for_kind(self, kind):
        return evolve(self, kind=kind)

    def for_polling(self, semaphore):
        return evolve(self, semaphore=semaphore)

    async def get_job(self, job_id):
        return await self._request(lambda: self._snapshot(job_id), job_id)

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        return await self._request(lambda: self._page(page, page_size, status))

    async def _request(self, answer, job_id=None):
        async def send(_at):
            loop = asyncio.get_running_loop()
            self.in_flight[self.kind] += 1
            self.most[0] = max(self.most[0], sum(self.in_flight.values()))
            begins, ends = self.hangs.get(self.kind, (math.inf, math.inf))
            try:
                await asyncio.sleep(self.latency[self.kind] / 2)
                if begins <= loop.time() < ends or job_id in self.hanging:
                    await asyncio.sleep(TIMEOUT - self.latency[self.kind] / 2)
                    raise AnswerTimeoutError(timeout=TIMEOUT, job_id=job_id)
                result = answer()
                if job_id in self.failing:
                    raise ServerError(status=503, job_id=job_id)
                await asyncio.sleep(self.latency[self.kind] / 2)
                return result
            finally:
                self.in_flight[self.kind] -= 1

        host = self.limiter.hosts.get(self.origin)
        return await self.sender.call_once(send, host, self.semaphore, job_id=job_id)

    def _status(self, key):
        _, ends = self.jobs[key]
        now = asyncio.get_running_loop().time()
        return JobStatus.COMPLETED if now >= ends else JobStatus.PROCESSING

    def _snapshot(self, job_id):
        status = self._status((self.kind, job_id))
        return JobSnapshot(
            job_id=job_id,
            status=status,
            status_text=status.value,
            received_at=0,
            progress=1.0 if status is JobStatus.COMPLETED else 0.0,
        )

    def _page(self, page, size, status):
        now = asyncio.get_running_loop().time()
        found = [
            JobSummary(
                job_id=job_id,
                status=JobStatus.PROCESSING,
                status_text="processing",
                received_at=0,
                progress=0.0,
            )
            for (kind, job_id), (begins, ends) in self.jobs.items()
            if kind == self.kind and begins <= now < ends and status is JobStatus.PROCESSING
        ]
        part = found[page * size : (page + 1) * size]
        return JobPage(jobs=tuple(part), has_more=len(found) > (page + 1) * size)
