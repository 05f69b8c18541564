"""Measures several processes that share one rate limit, which none of them knows.

The figures are the time until all jobs are polled, and the share of 429s. The processes are
simulated in virtual time: each of them is a watcher with its own request budget, and all poll one
emulated world. All jobs have settled at the start. Therefore the shortest possible time, the floor,
is the number of jobs beyond the burst, divided by the rate limit. ``--real`` runs real processes
and an emulator on a port, in real time.
"""

import argparse
import asyncio
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from random import Random

from _workloads import PacedSource, mean
from attrs import frozen

from adepoll import AdeClient, JobWatcher
from adepoll.emulator import Emulator, JobPlan, World, WorldSource, loop_clock, make_fault, run
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender

LATENCY = (0.02, 0.2)  # seconds
ENDED = JobPlan(processing_time=0.0, result_bytes=200)
# Goals for the time, relative to the floor, by the number of processes.
GOALS = {1: 1.05, 4: 1.12, 8: 1.2}
MOST_429S = 0.05  # goal: share of requests that get a 429
# The limits that have goals. The second limit has a goal only for one process.
WITH_GOALS = ("40/s", "50/s")


@frozen(kw_only=True)
class Limit:
    """The rate limit of the service, and the number of jobs.

    Attributes:
        rate: Requests per second.
        burst: Number of requests that the service accepts at the same time after a pause.
        jobs: Number of jobs of all processes together.
        wait: Minimum and maximum of the seconds in a ``Retry-After``.
        retry_after: Form of ``Retry-After``.
    """

    rate: float
    burst: float
    jobs: int
    wait: tuple[float, float] = (1.0, 1.0)
    retry_after: str = "seconds"

    @property
    def floor(self) -> float:
        """The shortest possible time in seconds."""
        return (self.jobs - self.burst) / self.rate

    @property
    def fault(self) -> dict[str, object]:
        """The options of the fault ``rate-limit``."""
        return {
            "rate": self.rate,
            "burst": self.burst,
            "retry_after": self.retry_after,
            "wait_min": self.wait[0],
            "wait_max": self.wait[1],
        }


LIMITS = {
    "40/s": Limit(rate=40, burst=40, jobs=2_000),
    "50/s": Limit(rate=50, burst=50, jobs=3_000),
    "5/s": Limit(rate=5, burst=5, jobs=300),
    "20/s": Limit(rate=20, burst=20, jobs=1_200),
    "200/s": Limit(rate=200, burst=200, jobs=10_000),
    "40/s, no Retry-After": Limit(rate=40, burst=40, jobs=2_000, retry_after="absent"),
    "40/s, HTTP date": Limit(rate=40, burst=40, jobs=2_000, retry_after="date"),
    "40/s, 5 s": Limit(rate=40, burst=40, jobs=2_000, wait=(5.0, 5.0)),
    "40/s, 30 s": Limit(rate=40, burst=40, jobs=4_000, wait=(30.0, 30.0)),
    "10/s, 1 to 5 s": Limit(rate=10, burst=10, jobs=1_000, wait=(1.0, 5.0)),
    "40/s, burst 400": Limit(rate=40, burst=400, jobs=2_400),
}


@frozen(kw_only=True)
class Outcome:
    """The figures: time relative to the floor, and share of requests that got a 429."""

    time: float
    throttled: float


def play(name: str, processes: int, seed: int) -> Outcome:
    """Simulate the processes in virtual time."""
    limit = LIMITS[name]

    async def main() -> Outcome:
        world = World(clock=loop_clock(), seed=seed)
        ids = [world.submit(ENDED) for _ in range(limit.jobs)]
        await asyncio.sleep(1)
        world.faults.add(make_fault("rate-limit", **limit.fault))
        start = world.now()

        async def process(number: int) -> None:
            rng = Random(f"{seed}/{number}")
            source = WorldSource(world=world, latency=LATENCY, rng=rng)
            paced = PacedSource(source, RequestSender(RateLimiter(rng=rng), rng=rng))
            async with JobWatcher(paced, discovery="get", rng=rng) as watcher:
                async for _ in watcher.watch(ids[number::processes]):
                    pass

        await asyncio.gather(*(process(number) for number in range(processes)))
        requests = world.traffic.get + world.traffic.list
        return Outcome(
            time=(world.now() - start) / limit.floor,
            throttled=world.request_log.statuses[429] / requests,
        )

    return run(main())


async def watch_share(base_url: str, key: str) -> None:
    """Watch the ids from stdin; the main function of one real process."""
    ids = sys.stdin.read().split()
    async with (
        AdeClient(key, base_url=base_url) as client,
        JobWatcher(client, discovery="get") as watcher,
    ):
        async for _ in watcher.watch(ids):
            pass


async def play_for_real(name: str, processes: int) -> Outcome:
    """Run real processes against an emulator on a port."""
    limit = LIMITS[name]
    loop = asyncio.get_running_loop()
    async with Emulator() as ade:
        ids = [ade.submit(ENDED) for _ in range(limit.jobs)]
        await asyncio.sleep(1)
        ade.faults.add("rate-limit", **limit.fault)
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--share-of", ade.base_url, ade.api_key), stdin=-1
            )
            for _ in range(processes)
        ]
        start = loop.time()
        shares = ["\n".join(ids[number::processes]).encode() for number in range(processes)]
        await asyncio.gather(
            *(child.communicate(share) for child, share in zip(children, shares, strict=True))
        )
        took = loop.time() - start
        log = ade.world.request_log
        requests = ade.world.traffic.get + ade.world.traffic.list
        return Outcome(time=took / limit.floor, throttled=log.statuses[429] / requests)


def row(name: str, processes: int, outcomes: list[Outcome]) -> str:
    """Return one line of the table."""
    times = [outcome.time for outcome in outcomes]
    throttled = mean([outcome.throttled for outcome in outcomes])
    has_goal = name in WITH_GOALS and (name == WITH_GOALS[0] or processes == 1)
    goal = GOALS[processes] if has_goal and processes in GOALS else None
    missed = goal is not None and (mean(times) > goal or throttled > MOST_429S)
    return (
        f"{name:22} {processes:4}   {mean(times):6.2f} {max(times):6.2f}   {throttled:6.1%}"
        f"   {'' if goal is None else f'{goal:.2f}':>5}{'  missed' if missed else ''}"
    )


def main() -> None:
    """Measure all limits, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=LIMITS, action="append", help="one limit; repeatable")
    parser.add_argument("--processes", type=int, nargs="*", default=[*GOALS])
    parser.add_argument("--real", action="store_true", help="real processes")
    parser.add_argument("--share-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.share_of:
        asyncio.run(watch_share(*options.share_of))
        return
    names = options.only or [*LIMITS]
    print("                                 time/floor                   goal")
    print("limit               processes    mean    max     429s   (429s: 5%)")
    if options.real:
        for name in names:
            for processes in options.processes:
                print(row(name, processes, [asyncio.run(play_for_real(name, processes))]))
        return
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        rows = [
            (name, processes, [pool.submit(play, name, processes, n) for n in range(options.seeds)])
            for name in names
            for processes in options.processes
        ]
        for name, processes, futures in rows:
            print(row(name, processes, [future.result() for future in futures]), flush=True)


if __name__ == "__main__":
    main()
