"""Polls that wait for the request budget: few are chosen before they can be sent."""

import asyncio
from random import Random

from attrs import evolve, frozen

from adepoll.emulator import JobPlan, World, WorldSource, loop_clock
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.pollers import Turns
from adepoll.watching.watcher import JobWatcher


@frozen
class PacedService:
    """An emulated service behind a request budget, as behind a client."""

    source: WorldSource
    sender: RequestSender
    semaphore: object = None

    def for_polling(self, semaphore):
        return evolve(self, semaphore=semaphore)

    def service_time(self):
        return self.source.service_time()

    async def get_job(self, job_id):
        return await self.sender.call_once(
            lambda _: self.source.get_job(job_id), semaphore=self.semaphore
        )

    async def list_jobs(self, **query):
        return await self.sender.call_once(
            lambda _: self.source.list_jobs(**query), semaphore=self.semaphore
        )

    def submit(self, count, *, processing_time, age=0.0):
        world, plan = self.source.world, JobPlan(processing_time=processing_time)
        return [world.submit(plan, received_at=world.now() - age) for _ in range(count)]

    def lag(self, job):
        world = self.source.world
        return world.now() - world.truth(job.job_id).finished_at


def paced(rate):
    """Return a service that allows `rate` requests per second."""
    limiter = RateLimiter(max_rate=rate, rng=Random(0))
    source = WorldSource(world=World(clock=loop_clock()), latency=(0.1, 0.1))
    return PacedService(source, RequestSender(limiter, rng=Random(0)))


def test_short_jobs_do_not_wait_for_many_long_ones_while_the_budget_is_short(replay):
    """A loop that sweeps, and polls what is missing, has a mean lag of about 8 s here."""

    async def script():
        service = paced(1.0)
        long_ids = service.submit(200, processing_time=5_000.0)

        async def come():
            for job_id in long_ids:
                yield job_id
            for _ in range(60):
                await asyncio.sleep(2)
                for job_id in service.submit(1, processing_time=20.0):
                    yield job_id

        async with JobWatcher(service, rng=Random(0)) as watcher, watcher.watch(come()) as watch:
            lags = [service.lag(await anext(watch)) for _ in range(60)]
        assert sum(lags) / len(lags) < 12
        assert max(lags) < 30

    replay(script)


def test_a_wait_is_short_although_many_jobs_are_due_and_the_budget_is_short(replay):
    async def script():
        service = paced(2.0)
        job_ids = service.submit(500, processing_time=1_000.0)
        finished = service.submit(1, processing_time=0.0, age=50)[0]
        async with (
            JobWatcher(service, discovery="get", rng=Random(0)) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            task = asyncio.create_task(anext(watch))
            await asyncio.sleep(60)
            begun = asyncio.get_running_loop().time()
            await watcher.wait(finished)
            assert asyncio.get_running_loop().time() < begun + 4
            task.cancel()

    replay(script)


def test_without_a_short_budget_all_polls_may_wait_at_the_same_time(replay):
    async def script():
        turns = Turns(asyncio.Semaphore(2), on_turn=list)
        tasks = [asyncio.create_task(turns.__aenter__()) for _ in range(5)]
        turns.waiting = dict.fromkeys(tasks, 0.0)
        assert not turns.hold_back(0.1)
        await asyncio.sleep(0)
        assert len(turns.waiting) == 3
        assert not turns.hold_back(1.0)  # few wait
        turns.waiting |= dict.fromkeys(range(3), 0.9)
        assert turns.hold_back(1.0)  # the oldest has waited long
        for task in tasks:
            task.cancel()

    replay(script)
