"""Measures how soon a watcher polls a settled job that is added between two list sweeps.

The watcher already watches 50 active jobs. Times are seconds, from the addition of the job to the
moment at which its first poll is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from _references import LATENCY
from attrs import field, frozen

from adepoll import JobWatcher
from adepoll.api.models import JobPage, JobSnapshot
from adepoll.emulator import JobPlan, World, WorldSource, loop_clock, run

ACTIVE = 50
PROBES = 20
IMMEDIATELY = 0.01  # seconds; a first poll within this time counts as immediate
WINDOW = 100


@frozen(kw_only=True)
class RecordingSource:
    """The source of a world; records the time of the first poll of each job."""

    source: WorldSource
    first_polls: dict[str, float] = field(factory=dict)

    def service_time(self) -> float:
        """Do what `AdeClient.service_time` does."""
        return self.source.service_time()

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Do what `AdeClient.get_job` does; record the time of the first poll."""
        self.first_polls.setdefault(job_id, self.source.world.now())
        return await self.source.get_job(job_id)

    async def list_jobs(self, **query: object) -> JobPage:
        """Do what `AdeClient.list_jobs` does."""
        return await self.source.list_jobs(**query)


async def _wait(watcher: JobWatcher, job_id: str) -> None:
    await watcher.wait(job_id)


async def _watch(watcher: JobWatcher, job_id: str) -> None:
    async for _ in watcher.watch([job_id], timeout=600.0):
        pass


async def _watch_without_timeout(watcher: JobWatcher, job_id: str) -> None:
    async for _ in watcher.watch([job_id]):
        pass


async def _updates(watcher: JobWatcher, job_id: str) -> None:
    async for _ in watcher.updates([job_id]):
        pass


async def _status_updates(watcher: JobWatcher, job_id: str) -> None:
    async for _ in watcher.status_updates([job_id]):
        pass


WAYS: dict[str, Callable[[JobWatcher, str], Awaitable[None]]] = {
    "wait": _wait,
    "watch(timeout=)": _watch,
    "watch": _watch_without_timeout,
    "updates": _updates,
    "status_updates": _status_updates,
}


@frozen(kw_only=True)
class FirstPolls:
    """Seconds until the first poll of each settled job. The jobs were added one by one."""

    delays: list[float]

    @property
    def mean(self) -> float:
        """Mean delay."""
        return sum(self.delays) / len(self.delays)

    @property
    def met(self) -> bool:
        """True if each poll was immediate."""
        return max(self.delays) <= IMMEDIATELY


def play_first_polls(way: str, discovery: str, seed: int) -> FirstPolls:
    """Add settled jobs at random times to a watcher with 50 active jobs; return the delays."""

    async def main() -> FirstPolls:
        world = World(clock=loop_clock(), seed=seed)
        rng = Random(seed)
        source = RecordingSource(source=WorldSource(world=world, latency=LATENCY, rng=rng))
        active = [world.submit(JobPlan(processing_time=7_200.0)) for _ in range(ACTIVE)]
        delays = []
        async with (
            JobWatcher(source, discovery=discovery, rng=Random(seed)) as watcher,
            asyncio.TaskGroup() as group,
        ):

            async def follow_active() -> None:
                async for _ in watcher.watch(active):
                    pass

            following = group.create_task(follow_active())
            for _ in range(PROBES):
                await asyncio.sleep(rng.uniform(20.0, 40.0))
                settled = world.submit(JobPlan(result_bytes=200), received_at=world.now() - 30.0)
                added_at = world.now()
                await WAYS[way](watcher, settled)
                delays.append(source.first_polls[settled] - added_at)
            following.cancel()
        return FirstPolls(delays=delays)

    return run(main())


def play_settled_window(seed: int, discovery: str) -> float:
    """Return the seconds in which 1,000 settled jobs pass through a window of 100."""

    async def main() -> float:
        world = World(clock=loop_clock(), seed=seed)
        source = WorldSource(world=world, latency=LATENCY, rng=Random(seed))
        received = world.now() - 60.0
        settled = [
            world.submit(JobPlan(result_bytes=200), received_at=received) for _ in range(1_000)
        ]
        started = world.now()
        async with JobWatcher(source, discovery=discovery, rng=Random(seed)) as watcher:
            async for _ in watcher.watch(iter(settled), window=WINDOW):
                pass
        return world.now() - started

    return run(main())
