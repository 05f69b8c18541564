"""How far the estimated time left is from the truth, with a short budget and without one."""

import asyncio
from collections.abc import Sequence

from _lab import Setting
from _lab_rows import ROWS

from adepoll.emulator import run
from adepoll.scheduling.durations import Durations

ESTIMATED = (
    "auto: 2,000, log-normal 60 s, budget 30/s",
    "auto: 300, log-normal 60 s, budget 2/s",
    "auto: 300, log-normal 60 s",
)
"""Rows of the laboratory whose time left is estimated on the way."""

AT = (0.25, 0.5, 0.75)
"""Shares of the whole time at which the estimate is read."""


def play_time_left(name: str, seed: int) -> Sequence[tuple[float, float | None, float]]:
    """Return, for some times of a row, the time, the estimate and the truth, in seconds."""
    row = ROWS[name]
    jobs = row.make_jobs(seed)

    async def main() -> list[tuple[float, float | None]]:
        setting = Setting.make(row, jobs, seed)
        estimates: list[tuple[float, float | None]] = []
        async with setting.watcher(row, Durations(), seed) as watcher:

            async def follow() -> None:
                async for _ in watcher.watch(setting.hand_over()):
                    pass

            following = asyncio.create_task(follow())
            while not following.done():
                estimates.append((setting.now(), watcher.time_left()))
                await asyncio.sleep(1.0)
        return estimates

    estimates = run(main())
    whole = estimates[-1][0]
    read = [estimates[int(share * len(estimates))] for share in AT]
    return [(at, estimate, whole - at) for at, estimate in read]
