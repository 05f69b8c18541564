"""However many jobs a watcher has, each step of the event loop handles a limited number of them."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from watching import watcher_of

from adepoll.errors import UnresolvedJobsError

MANY = [f"job{number}" for number in range(5_000)]
MOST = 600  # jobs in one step


@asynccontextmanager
async def changes(figure):
    """Record by how much a figure changes in each step of the loop."""
    found = []

    async def observe():
        before = figure()
        while True:
            await asyncio.sleep(0)
            after = figure()
            found.append(abs(after - before))
            before = after

    observer = asyncio.create_task(observe())
    try:
        yield found
    finally:
        observer.cancel()
        await asyncio.wait([observer])


async def watch_all(watcher, **options):
    """Return a watch that has read all ids."""
    watch = watcher.watch(MANY, **options)
    await watch.__aenter__()
    while not watch.progress.complete:  # noqa: ASYNC110 - each of its steps counts
        await asyncio.sleep(0)
    return watch


def long_jobs(scripted):
    return scripted({job_id: ["pending"] for job_id in MANY})


def test_ids_are_read_in_steps(replay, scripted):
    async def script():
        async with (
            watcher_of(long_jobs(scripted)) as watcher,
            changes(lambda: watcher.stats.watched) as found,
        ):
            watch = await watch_all(watcher)
            assert watcher.stats.watched == len(MANY)
            assert max(found) <= MOST
            await watch.aclose()

    replay(script)


def test_a_watch_is_closed_in_steps(replay, scripted):
    async def script():
        async with watcher_of(long_jobs(scripted)) as watcher:
            watch = await watch_all(watcher)
            async with changes(lambda: watcher.stats.watched) as found:
                await watch.aclose()
                assert watcher.stats.watched == 0
                assert max(found) <= MOST

    replay(script)


@pytest.mark.parametrize("count", [436, 437, 499, 500, 501, 563, 564, 565])
def test_a_closed_watch_leaves_no_job_however_many_polls_are_in_flight(replay, scripted, count):
    async def script():
        ids = [f"job{number}" for number in range(count)]
        others = [f"other{number}" for number in range(40)]
        source = scripted({job_id: ["pending"] for job_id in [*others, *ids]}, latency=100.0)
        async with watcher_of(source, concurrency=64) as watcher, watcher.watch(others):
            async with watcher.watch(ids):
                await asyncio.sleep(1)
                assert source.in_flight.total() == 64
            assert watcher.stats.watched == len(others)
            assert source.in_flight.total() == 64 - source.cancelled == len(others)

    replay(script)


def test_a_watch_that_ends_is_not_polled_for_in_the_meantime(replay, scripted):
    async def script():
        source = long_jobs(scripted)
        async with watcher_of(source) as watcher:
            watch = await watch_all(watcher)
            await asyncio.sleep(0.05)
            polls = source.count()
            await watch.aclose()
            assert source.count() == polls

    replay(script)


def test_a_loop_that_is_left_ends_in_steps(replay, scripted):
    async def script():
        source = long_jobs(scripted)
        source.scripts["job0"] = ["completed"]
        async with watcher_of(source) as watcher:
            watch = watcher.watch(MANY)
            async for _ in watch:
                break
            async with changes(lambda: watcher.stats.watched) as found:
                while watcher.stats.watched:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0)
                assert max(found) <= MOST

    replay(script)


@pytest.mark.parametrize("window", [None, 2_000])
def test_a_timeout_gives_jobs_up_in_steps(replay, scripted, window):
    async def script():
        async with (
            watcher_of(long_jobs(scripted)) as watcher,
            watcher.watch(MANY, timeout=5.0, window=window) as watch,
        ):
            await asyncio.sleep(5.0)
            async with changes(lambda: watch.progress.unresolved) as found:
                with pytest.raises(UnresolvedJobsError) as caught:
                    await anext(watch)
            assert len(caught.value.causes) == len(MANY)
            assert 0 < max(found) <= MOST

    replay(script)


def test_items_that_are_ready_do_not_keep_the_loop_from_others(replay, scripted):
    async def script():
        taken = 0
        async with (
            watcher_of(long_jobs(scripted)) as watcher,
            watcher.watch(MANY, timeout=5.0, errors="yield") as watch,
        ):
            await asyncio.sleep(10)
            async with changes(lambda: taken) as found:
                async for _ in watch:
                    taken += 1
            assert taken == len(MANY)
            assert max(found) <= MOST

    replay(script)
