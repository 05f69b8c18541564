"""Plays workloads in virtual time: the real watcher polls jobs of the emulator's world.

Durations are seconds. Lag is the time from the end of a job to the moment at which the consumer
gets its snapshot. The world counts the requests, both GETs of jobs and pages of the list.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from random import Random

from _references import official_waits
from attrs import evolve, field, frozen

from adepoll import JobWatcher
from adepoll.api.models import JobPage, JobSnapshot
from adepoll.emulator import JobPlan, World, WorldSource, loop_clock, make_fault, run
from adepoll.scheduling.durations import Durations
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender

N = 5_000
EVENLY = 600.0  # seconds over which jobs are submitted evenly
LATENCY = (0.01, 0.03)

Draw = Callable[[Random], float]
WORKLOADS: Mapping[str, tuple[str, Draw]] = {
    "A": ("log-normal, median 30, sigma 0.8", lambda rng: 30 * math.exp(rng.gauss(0, 0.8))),
    "B": ("normal 60 +- 5", lambda rng: max(0.0, rng.gauss(60, 5))),
    "C": (
        "70% normal 15 +- 3, 30% normal 240 +- 30",
        lambda rng: max(0.0, rng.gauss(15, 3) if rng.random() < 0.7 else rng.gauss(240, 30)),
    ),
    "D": ("exponential, mean 60", lambda rng: rng.expovariate(1 / 60)),
}


@frozen(kw_only=True)
class Batch:
    """Jobs to be watched.

    Attributes:
        workload: One of `WORKLOADS`.
        spread: Seconds over which the jobs are submitted, and their ids passed to the watcher.
        jobs: Number of jobs.
        foreign: Number of jobs of other programs, which are active all the time.
        list_lag: Seconds until a change of a job appears in the list.
        limit: Requests per second above which the service answers 429, with a Retry-After of 1 to
            5 s; None for no limit.
        seed: Seed of all random values.
    """

    workload: str
    spread: float = 0.0
    jobs: int = N
    foreign: int = 0
    list_lag: float = 0.0
    limit: float | None = None
    seed: int = 1


@frozen(kw_only=True)
class Outcome:
    """The figures of one play of a batch.

    Attributes:
        requests: Number of GETs of jobs and of pages of the list.
        pages: Number of pages of the list.
        throttled: Requests that were answered with 429.
        early: Requests that were sent before the time of a ``Retry-After`` was over.
        detection_lag: Lag of each job, in the order in which the consumer got the jobs.
        took: Seconds from the start until the consumer had all jobs.
        longest: Seconds from the start to the end of the last job.
    """

    requests: int
    pages: int
    throttled: int
    early: int
    detection_lag: list[float] = field(repr=False)
    took: float
    longest: float

    @property
    def each(self) -> float:
        """Requests per job."""
        return self.requests / len(self.detection_lag)

    @property
    def lag(self) -> float:
        """Mean lag."""
        return mean(self.detection_lag)


def mean(values: list[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


def play(batch: Batch, subscribe: "Policy") -> Outcome:
    """Play a batch in virtual time; `subscribe` yields the settled jobs."""

    async def main() -> Outcome:
        world = World(clock=loop_clock(), seed=batch.seed, list_lag=batch.list_lag)
        rng = Random(f"{batch.seed}/{batch.workload}")
        start = world.now() + max(batch.list_lag, 1.0)
        for number in range(batch.foreign):
            world.submit(JobPlan(processing_time=1e9), received_at=start - 1 - number / 100)
        await asyncio.sleep(start - world.now())
        due = [(batch.spread * n / batch.jobs, n) for n in range(batch.jobs)]
        ids = []
        draw = WORKLOADS[batch.workload][1]
        for offset, _ in due:
            plan = JobPlan(processing_time=draw(rng), result_bytes=200)
            ids.append((start + offset, world.submit(plan, received_at=start + offset)))
        ends = {truth.job_id: truth.finished_at for truth in world.truths()}
        source = WorldSource(world=world, latency=LATENCY, rng=Random(batch.seed))
        if batch.limit is not None:
            limit = make_fault("rate-limit", rate=batch.limit, wait_min=1.0, wait_max=5.0)
            world.faults.add(limit)
        jobs = subscribe(source, submitted(ids, world.now), Random(batch.seed))
        detection_lag = [world.now() - ends[job.job_id] async for job in jobs]
        assert len(detection_lag) == batch.jobs
        return Outcome(
            requests=world.traffic.get + world.traffic.list,
            pages=world.traffic.list,
            throttled=world.request_log.statuses[429],
            early=world.request_log.early,
            detection_lag=detection_lag,
            took=world.now() - start,
            longest=max(ends.values()) - start,
        )

    return run(main())


Ids = AsyncIterator[str]
Policy = Callable[[WorldSource, Ids, Random], AsyncIterator[JobSnapshot]]


async def submitted(ids: list[tuple[float, str]], now: Callable[[], float]) -> Ids:
    """Yield each id when its job has been submitted."""
    for at, job_id in ids:
        if at > now():
            await asyncio.sleep(at - now())
        yield job_id


@frozen
class PacedSource:
    """The source of a world; requests to it wait for a request budget like that of a client."""

    source: WorldSource
    sender: RequestSender
    slot: AbstractAsyncContextManager[object] = field(factory=nullcontext)

    def for_polling(self, slot: AbstractAsyncContextManager[object]) -> "PacedSource":
        """Do what `AdeClient.for_polling` does."""
        return evolve(self, slot=slot)

    def service_time(self) -> float:
        """Do what `AdeClient.service_time` does."""
        return self.source.service_time()

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll a job without retries, like the source that `AdeClient.for_polling` returns."""
        return await self.sender.call_once(
            lambda _at: self.source.get_job(job_id), semaphore=self.slot
        )

    async def list_jobs(self, **query: object) -> JobPage:
        """Read a page of the list without retries."""
        return await self.sender.call_once(
            lambda _at: self.source.list_jobs(**query), semaphore=self.slot
        )


def watched(durations: Durations, **options: object) -> Policy:
    """Return a policy that uses a `JobWatcher` with these durations and a request budget."""

    async def subscribe(world: WorldSource, ids: Ids, rng: Random) -> AsyncIterator[JobSnapshot]:
        source = PacedSource(world, RequestSender(RateLimiter(rng=rng), rng=rng))
        async with JobWatcher(source, durations=durations, rng=rng, **options) as watcher:
            async for job in watcher.watch(ids):
                yield job

    return subscribe


async def as_official(source: WorldSource, ids: Ids, _rng: Random) -> AsyncIterator[JobSnapshot]:
    """Wait for each job in its own loop, as the official SDK does."""
    settled: asyncio.Queue[JobSnapshot | None] = asyncio.Queue()

    async def wait(job_id: str) -> None:
        for pause in official_waits():
            job = await source.get_job(job_id)
            if job.is_terminal:
                settled.put_nowait(job)
                return
            await asyncio.sleep(pause)

    async def start_all() -> None:
        async with asyncio.TaskGroup() as group:
            async for job_id in ids:
                group.create_task(wait(job_id))
        settled.put_nowait(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(start_all())
        while (job := await settled.get()) is not None:
            yield job
