"""Compares the estimated time left with the true time, with and without a short budget."""

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
"""Rows of the laboratory for which the time left is estimated."""

AT = (0.25, 0.5, 0.75)
"""Times of the estimates, as shares of the whole time of a row."""


def play_time_left(name: str, seed: int) -> Sequence[tuple[float, float | None, float]]:
    """Return for each time in `AT`: the time, the estimate, and the true time left, in seconds."""
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
