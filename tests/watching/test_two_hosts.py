"""A watcher of jobs at two hosts, in virtual time: one host hangs, the other must not suffer."""

import asyncio
import math
from random import Random

import pytest
from two_hosts import V1, V2, TwoHosts
from watching import now

from adepoll import JobRef, JobWatcher, UnresolvedJob
from adepoll.emulator import run
from adepoll.throttling.rate_limiter import RateLimiter

PREFIX = {V1: "v1", V2: "parse"}


@pytest.mark.parametrize(("way", "bad"), [("failing", 60), ("hanging", 20)])
@pytest.mark.parametrize("seed", range(3))
def test_bad_jobs_at_the_start_of_a_watch_hardly_delay_others(seed, way, bad):
    """Four polls in a row fail at first, or the window is full of polls without an answer."""

    async def main():
        good = 100
        jobs = jobs_of(V1, bad + good, seconds=0.0, mean=20.0)
        names = [job_id for _, job_id in jobs]
        limiter = RateLimiter(rng=Random(seed))
        service = TwoHosts(jobs, limiter=limiter, **{way: set(names[:bad])})
        found = []
        async with JobWatcher(service, discovery="get", rng=Random(seed)) as watcher:
            async for job in watcher.watch(names, errors="yield"):
                found.append(now() - jobs[V1, job.job_id][1])
                if len(found) == good:
                    break
        assert sum(found) / good <= 3.0
        assert max(found) <= 8.0

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_good_jobs_among_many_bad_ones_do_not_wait_for_one_outage_after_the_other(seed):
    """The polls of 270 jobs always fail, so ten failures in a row are nothing unusual."""

    async def main():
        jobs = jobs_of(V1, 300, seconds=0.0, mean=100.0)
        names = [job_id for _, job_id in jobs]
        bad = {name for number, name in enumerate(names) if number % 10}
        service = TwoHosts(jobs, limiter=RateLimiter(rng=Random(seed)), failing=bad)
        lags = []
        async with JobWatcher(service, discovery="get", rng=Random(seed)) as watcher:
            async for job in watcher.watch(names, errors="yield"):
                lags.append(now() - jobs[V1, job.job_id][1])
                if len(lags) == 30:
                    break
        assert max(lags) < 120.0

    run(main())


def jobs_of(kind, count, *, seconds=30.0, mean=8.0):
    """Return jobs that begin within `seconds`, as for `TwoHosts`."""
    rng = Random(count)
    return {
        (kind, f"{PREFIX[kind]}-{number:026}"): (begins, begins + rng.uniform(0.5, 1.5) * mean)
        for number in range(count)
        for begins in [seconds * number / count]
    }


async def lags(service, kind, watchers):
    """Return the detection lags of the jobs of a kind; the first watcher has the other jobs."""

    async def ids(kinds):
        for (of, job_id), (begins, _) in sorted(service.jobs.items(), key=lambda job: job[1][0]):
            if of in kinds:
                await asyncio.sleep(max(0.0, begins - now()))
                yield JobRef(job_id, kind=of)

    async def watch(watcher, kinds):
        async for job in watcher.watch(ids(kinds), errors="yield"):
            if not isinstance(job, UnresolvedJob) and job.kind is kind:
                found.append(now() - service.jobs[kind, job.job_id][1])
                if len(found) == expected:
                    complete.set()

    found, complete = [], asyncio.Event()
    expected = sum(of is kind for of, _ in service.jobs)
    other = V1 if kind is V2 else V2
    parts = [{other}, {kind}] if len(watchers) == 2 else [{V1, V2}]
    watches = [
        asyncio.create_task(watch(watcher, kinds))
        for watcher, kinds in zip(watchers, parts, strict=True)
    ]
    async with asyncio.timeout(1_000):
        await complete.wait()
    for task in watches:
        task.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    return found


@pytest.mark.parametrize(
    ("concurrency", "count", "mean", "longest", "discovery"),
    [(1, 6, 5.0, 14.0, "get"), (2, 15, 3.0, 7.0, "get"), (8, 40, 2.5, 7.0, "auto")],
)
@pytest.mark.parametrize(("hanging", "since"), [(V2, 0.0), (V2, 10.0), (V1, 10.0)])
def test_a_host_that_hangs_hardly_delays_jobs_at_the_other(
    hanging, since, concurrency, count, mean, longest, discovery
):
    async def main():
        service = TwoHosts(jobs_of(V1, count) | jobs_of(V2, count))
        service.hangs[hanging] = (since, math.inf)
        async with JobWatcher(
            service, concurrency=concurrency, discovery=discovery, rng=Random(1)
        ) as watcher:
            found = await lags(service, V1 if hanging is V2 else V2, [watcher])
        assert sum(found) / count <= mean
        assert max(found) <= longest
        assert service.most[0] <= concurrency

    run(main())


def test_watchers_of_one_client_share_the_places_of_a_semaphore():
    async def main():
        service = TwoHosts(jobs_of(V1, 30) | jobs_of(V2, 30))
        service.hangs[V2] = (10.0, math.inf)
        semaphore = asyncio.Semaphore(4)
        async with (
            JobWatcher(service, concurrency=semaphore, rng=Random(1)) as one,
            JobWatcher(service, concurrency=semaphore, rng=Random(2)) as other,
        ):
            found = await lags(service, V1, [one, other])
        assert max(found) <= 7.0
        assert service.most[0] <= 4

    run(main())


def test_a_wait_beside_a_watch_is_not_delayed_by_the_other_host():
    async def main():
        service = TwoHosts(jobs_of(V1, 3) | jobs_of(V2, 30))
        service.hangs[V2] = (0.0, math.inf)
        async with JobWatcher(service, concurrency=4, discovery="get", rng=Random(1)) as watcher:

            async def watch():
                async for _ in watcher.watch([ref for ref in service.refs if ref.kind is V2]):
                    raise AssertionError("the host hangs")

            watching = asyncio.create_task(watch())
            await asyncio.sleep(1)
            for ref in [ref for ref in service.refs if ref.kind is V1]:
                ends = service.jobs[V1, ref.job_id][1]
                await watcher.wait(ref)
                assert now() - max(1.0, ends) <= 5.0
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    run(main())


def test_a_slow_host_keeps_its_share_and_gives_up_no_job():
    """Each answer takes 12 s. All jobs are noticed, those of the other host without delay."""

    async def main():
        service = TwoHosts(jobs_of(V1, 20) | jobs_of(V2, 8))
        service.latency[V2] = 12.0
        async with JobWatcher(service, concurrency=4, discovery="get", rng=Random(1)) as watcher:
            found = [
                now() - service.jobs[V1, job.job_id][1]
                async for job in watcher.watch(service.refs)
                if job.kind is V1
            ]
        assert max(found) <= 7.0
        assert now() <= 300

    run(main())


def test_jobs_due_at_one_host_do_not_delay_the_reading_of_ids_of_the_other():
    async def main():
        service = TwoHosts(jobs_of(V2, 1_500, seconds=1.0) | jobs_of(V1, 5, seconds=1.0))
        service.hangs[V2] = (0.0, math.inf)
        async with JobWatcher(service, discovery="get", rng=Random(1)) as watcher:
            first, *rest = [ref for ref in service.refs if ref.kind is V1]
            await watcher.wait(first)
            refs = [ref for ref in service.refs if ref.kind is V2] + rest
            began = now()
            async with asyncio.timeout(30):
                found = 0
                async for _ in watcher.watch(iter(refs)):
                    found += 1
                    if found == len(rest):
                        break
            assert now() - began <= 10.0

    run(main())
