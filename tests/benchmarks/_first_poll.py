"""How soon a settled job is polled that is added to a watcher which already sweeps the list.

Times are seconds. The watcher follows 50 active jobs; the poll is the request, not its answer.
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
IMMEDIATELY = 0.01  # seconds
WINDOW = 100


@frozen(kw_only=True)
class RecordingSource:
    """A world, and the time of the first poll of each job."""

    source: WorldSource
    first_polls: dict[str, float] = field(factory=dict)

    def service_time(self) -> float:
        """As `AdeClient.service_time`."""
        return self.source.service_time()

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As `AdeClient.get_job`."""
        self.first_polls.setdefault(job_id, self.source.world.now())
        return await self.source.get_job(job_id)

    async def list_jobs(self, **query: object) -> JobPage:
        """As `AdeClient.list_jobs`."""
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
    """Seconds until settled jobs were polled; they came one after the other."""

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
    """Add settled jobs, at any time between two sweeps, to a watcher with 50 active jobs."""

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
