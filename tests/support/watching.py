"""Watchers over a scripted source whose polls come at exact times."""

import asyncio
from random import Random

from adepoll.scheduling.schedules import Fixed
from adepoll.watching.watcher import JobWatcher

EVERY_TEN = Fixed(interval=10, jitter=0)


def now():
    """Return the seconds on the clock of the running loop."""
    return asyncio.get_running_loop().time()


def watcher_of(source, **options):
    """Return a watcher that polls every job each 10 seconds and never lists jobs."""
    given = {"schedule": EVERY_TEN, "discovery": "get", "rng": Random(0)}
    return JobWatcher(source, **(given | options))


async def free_slots(semaphore):
    """Return the number of free places of a semaphore."""
    count = 0
    while not semaphore.locked():
        await semaphore.acquire()
        count += 1
    for _ in range(count):
        semaphore.release()
    return count
