"""Postponed first polls of jobs that were always new: what they save, and what if jobs are old.

In virtual time, by GETs alone, over the emulator's world.
"""

import asyncio
from random import Random

import attrs
import pytest
from amounts import more

from adepoll.emulator import JobPlan, World, WorldSource, loop_clock
from adepoll.emulator import run as run_virtually
from adepoll.errors import JobTimeoutError
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Adaptive, Exponential
from adepoll.watching.watcher import JobWatcher

JOBS = 200
EVERY = 0.1  # seconds between two jobs, if they are not added at the same time
PROMPT = 0.5  # seconds of a poll, with hundreds of others at the same time


@attrs.frozen
class Given:
    """A job: when the watcher gets it, how old it is then, and how long it takes."""

    at: float
    age: float
    takes: float


@attrs.frozen
class Seen:
    """Outcome of a job: when it was found settled, with which lag, after how many polls.

    And for how long it had waited for the first of them.
    """

    at: float
    lag: float
    polls: int
    first: float


class Counting:
    """A world that counts the polls of each job."""

    def __init__(self, world, seed):
        self.source = WorldSource(world=world, latency=(0.01, 0.03), rng=Random(seed))
        self.service_time = self.source.service_time
        self.polls = {}
        self.firsts = {}

    async def get_job(self, job_id):
        self.firsts.setdefault(job_id, asyncio.get_running_loop().time())
        self.polls[job_id] = self.polls.get(job_id, 0) + 1
        return await self.source.get_job(job_id)

    async def list_jobs(self, **query):
        return await self.source.list_jobs(**query)


def play(jobs, durations, *, seed=1, schedule=None):
    """Watch jobs in their order; return the outcome of each."""

    async def main():
        world = World(clock=loop_clock(), seed=seed)
        await asyncio.sleep(10_000)  # so that there is a past
        start = asyncio.get_running_loop().time()
        given = {}
        for job in jobs:
            received_at = world.now() + job.at - job.age
            plan = JobPlan(processing_time=job.takes, result_bytes=200)
            given[world.submit(plan, received_at=received_at)] = job

        async def as_given():
            loop = asyncio.get_running_loop()
            for job_id, job in given.items():
                if start + job.at > loop.time():
                    await asyncio.sleep(start + job.at - loop.time())
                yield job_id

        source = Counting(world, seed)
        seen = {}
        async with JobWatcher(
            source, discovery="get", durations=durations, rng=Random(seed), schedule=schedule
        ) as watcher:
            async for snapshot in watcher.watch(as_given()):
                now, job = asyncio.get_running_loop().time() - start, given[snapshot.job_id]
                known = max(job.at, job.at - job.age + job.takes)
                seen[snapshot.job_id] = Seen(
                    at=now,
                    lag=now - known,
                    polls=source.polls[snapshot.job_id],
                    first=source.firsts[snapshot.job_id] - start - job.at,
                )
        return [seen[job_id] for job_id in given]

    return run_virtually(main())


def new_jobs(count=JOBS, *, mean=60.0, deviation=5.0, every=EVERY, seed=1):
    rng = Random(seed)
    return [Given(number * every, 0.0, rng.gauss(mean, deviation)) for number in range(count)]


def old_jobs(count=JOBS, *, every=0.0, start=0.0, takes=60.0):
    return [Given(start + number * every, 500.0 + number, takes) for number in range(count)]


@pytest.fixture(scope="module")
def kept():
    """What a batch of new jobs taught, as JSON."""
    durations = Durations()
    play(new_jobs(200, every=0.4), durations)
    return durations.to_json()


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("every", more([0.0], [EVERY]))
def test_new_jobs_save_almost_one_poll_each_at_the_same_lag(kept, every):
    jobs = new_jobs(every=every, seed=2)
    naive = Durations.from_json(kept)
    naive.arrivals.old += 1e6  # so that no job is expected to be new
    plain, spared = play(jobs, naive), play(jobs, Durations.from_json(kept))
    polls = [mean([seen.polls for seen in batch]) for batch in (plain, spared)]
    assert polls[1] < polls[0] - 0.65  # 12 of the 200 jobs are polled early in any case
    assert mean([s.lag for s in spared]) < 1.1 * mean([s.lag for s in plain])


def test_a_few_new_jobs_are_always_polled_earlier(kept):
    waits = [seen.first for seen in play(new_jobs(600, seed=3), Durations.from_json(kept))]
    assert max(waits[:8]) < PROMPT  # the first jobs of a watch are polled immediately in any case
    # Most jobs wait for the lag bound, twice the target lag of 2 s; some are polled at any time.
    early = [wait for wait in waits[8:] if wait < 3.0]
    assert 0.02 * 600 < len(early) < 0.08 * 600
    assert min(early) < 1.0
    assert max(early) > 2.0
    assert max(waits) < 5.0


@pytest.mark.parametrize("takes", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("every", more([0.0, 0.5], [5.0]))
def test_a_watch_soon_learns_that_jobs_are_short(takes, every):
    jobs = new_jobs(100, mean=takes, deviation=0.2 * takes, every=every)
    ours, official = (
        play(jobs, Durations(), schedule=schedule)
        for schedule in (Adaptive(), Exponential(jitter=0.0))  # the official SDK's policy
    )
    lags = [mean([job.lag for job in seen]) for seen in (ours, official)]
    polls = [mean([job.polls for job in seen]) for seen in (ours, official)]
    assert lags[0] < 1.05 * lags[1]
    assert lags[0] * polls[0] < 1.05 * lags[1] * polls[1]


def test_all_jobs_are_polled_immediately_before_jobs_were_found_to_be_new():
    waits = [seen.first for seen in play(new_jobs(40, every=0.0), Durations())]
    assert max(waits) < PROMPT


def test_the_first_answer_about_an_old_job_makes_all_postponed_jobs_due(kept):
    """However certain it seemed that they would be new."""
    for every in (0.0, EVERY):
        seen = play(old_jobs(every=every), Durations.from_json(kept))
        assert {job.polls for job in seen} == {1}
        assert max(job.lag for job in seen) < PROMPT


def test_a_batch_that_is_started_again_is_polled_immediately(kept):
    """Half of it settled while it was not watched; the rest is active."""
    rng = Random(4)
    jobs = [Given(0.0, rng.uniform(20.0, 50.0), rng.choice([5.0, 100.0])) for _ in range(JOBS)]
    seen = play(jobs, Durations.from_json(kept))
    assert max(job.first for job in seen) < PROMPT
    assert max(job.lag for job, given in zip(seen, jobs, strict=True) if given.takes < 20) < PROMPT


@pytest.mark.parametrize("seed", more([0], range(1, 5)))
def test_no_old_job_waits_after_one_was_found(kept, seed):
    """Earlier jobs wait until it is found by an immediate poll, one in twenty."""
    new = new_jobs(300, seed=seed)
    start = 300 * EVERY
    old = old_jobs(300, every=EVERY, start=start)
    seen = play(new + old, Durations.from_json(kept), seed=seed)[300:]
    found = min(job.at for job in seen)
    assert found - start < 100 * EVERY
    for job, given in zip(seen, old, strict=True):
        assert job.at <= max(found, given.at) + PROMPT
        assert job.polls == 1


def test_first_polls_are_postponed_again_after_a_run_of_new_jobs(kept):
    jobs = [*new_jobs(100), Given(10.0, 500.0, 60.0)]
    jobs += [attrs.evolve(job, at=job.at + 60.0) for job in new_jobs(250)]
    waits = [seen.first for seen in play(jobs, Durations.from_json(kept))]
    assert max(waits[101 : 101 + 32]) < PROMPT
    assert mean([wait > 3.0 for wait in waits[-100:]]) > 0.8


def test_first_polls_are_immediate_if_one_job_in_three_is_old(kept):
    rng, durations = Random(6), Durations.from_json(kept)
    durations.arrivals.new, durations.arrivals.old = 200.0, 100.0
    jobs = [rng.choice([new, new, Given(new.at, 500.0, 60.0)]) for new in new_jobs(seed=6)]
    seen = play(jobs, durations)
    assert mean([job.first < PROMPT for job in seen]) > 0.99


def test_waits_updates_and_watches_with_a_timeout_poll_immediately(kept):
    async def main():
        world = World(clock=loop_clock(), seed=1)
        source = Counting(world, 1)
        loop = asyncio.get_running_loop()
        durations = Durations.from_json(kept)
        async with JobWatcher(
            source, discovery="get", durations=durations, rng=Random(1)
        ) as watcher:

            def submit(takes=60.0):
                return world.submit(JobPlan(processing_time=takes, result_bytes=200))

            shared = [submit() for _ in range(100)]
            async with watcher.watch(shared):
                await asyncio.sleep(1.0)
                late = [job_id for job_id in shared if job_id not in source.firsts]
                assert len(late) > 80
                with pytest.raises(JobTimeoutError) as caught:
                    await watcher.wait(late[0], timeout=PROMPT)
                assert caught.value.last_status == "processing"
                assert watcher.poll_now(late[1])
                await asyncio.sleep(PROMPT)
                assert late[1] in source.firsts
                assert late[2] not in source.firsts
            for subscribe in (watcher.updates, lambda ids: watcher.watch(ids, timeout=99.0)):
                fresh = [submit() for _ in range(100)]
                began = loop.time()
                async with subscribe(fresh):
                    await asyncio.sleep(PROMPT)
                assert all(source.firsts[job_id] - began < PROMPT for job_id in fresh)

    run_virtually(main())
