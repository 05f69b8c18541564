"""The emulated service in virtual time: its clock is its loop's, and runs are reproducible."""

import asyncio
import math
from random import Random

import pytest

from adepoll import JobNotFoundError, JobStatus, JobWatcher
from adepoll.contrib.testing import AdeWorld
from adepoll.emulator import EPOCH, JobPlan, make_fault

TWO_HOURS = 7_200.0


@pytest.fixture
def world():
    with AdeWorld() as world:
        yield world


async def settle(source, job_ids):
    async with JobWatcher(source, rng=Random(0)) as watcher:
        return [job async for job in watcher.watch(job_ids)]


def replay(**options):
    """Run a batch; return the elapsed time, the snapshots and the truth."""
    faults = [make_fault("server-error", chance=0.2), make_fault("latency", chance=0.5)]
    with AdeWorld(faults=faults, **options) as world:
        job_ids = [world.submit() for _ in range(30)]
        settled = world.run(settle(world.source, job_ids))
        return world.elapsed, settled, world.truth.as_json(digests=True)


def test_hours_pass_for_the_real_watcher(world):
    job_id = world.submit(JobPlan(processing_time=TWO_HOURS))
    (job,) = world.run(settle(world.source, [job_id]))
    assert job.status is JobStatus.COMPLETED
    assert TWO_HOURS <= world.elapsed < TWO_HOURS + 60
    assert world.truth(job_id).polls == world.truth.requests.get > 1


def test_the_same_seed_gives_the_same_run():
    assert replay(seed=3) == replay(seed=3)


def test_another_seed_gives_another_run():
    assert replay(seed=3)[0] != replay(seed=4)[0]


def test_time_passes_only_during_runs(world):
    assert world.elapsed == 0.0
    world.run(asyncio.sleep(100))
    job_id = world.submit(JobPlan(processing_time=50))
    assert world.truth(job_id).received_at == EPOCH + 100
    world.run(asyncio.sleep(49))
    assert not world.run(world.source.get_job(job_id)).is_terminal
    world.run(asyncio.sleep(2))
    assert world.run(world.source.get_job(job_id)).is_terminal
    assert 151 < world.elapsed < 153


def test_faults_can_be_switched_between_runs(world):
    job_id = world.submit(JobPlan())
    fault = world.faults.add("not-found")
    with pytest.raises(JobNotFoundError):
        world.run(world.source.get_job(job_id))
    world.faults.remove(fault)
    assert world.run(world.source.get_job(job_id)).is_terminal


def test_a_job_that_never_ends_ends_the_run(world):
    job_id = world.submit(JobPlan(processing_time=math.inf))
    with pytest.raises(TimeoutError, match="after 3600 virtual seconds"):
        world.run(settle(world.source, [job_id]), timeout=3600)
    assert world.elapsed == 3600


def test_a_run_ends_after_six_hours_by_default(world):
    with pytest.raises(TimeoutError, match="after 21600 virtual seconds"):
        world.run(asyncio.Event().wait())


def test_a_timeout_of_the_code_itself_is_unchanged(world):
    async def main():
        async with asyncio.timeout(1):
            await asyncio.sleep(2)

    with pytest.raises(TimeoutError) as caught:
        world.run(main())
    assert not str(caught.value)


async def test_run_within_a_running_loop_raises_and_says_what_to_do(world):
    with pytest.raises(RuntimeError, match="plain `def test_"):
        world.run(asyncio.sleep(1))


def test_closing_cancels_the_remaining_tasks():
    ended = []

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main():
        task = asyncio.create_task(linger())
        await asyncio.sleep(1)
        return task

    with AdeWorld() as world:
        task = world.run(main())
        assert not task.done()
    assert task.cancelled()
    assert ended == [True]


@pytest.mark.parametrize(
    ("options", "error"), [({"sed": 3}, TypeError), ({"faults": ["blub"]}, ValueError)]
)
def test_invalid_options_are_refused(options, error):
    with pytest.raises(error):
        AdeWorld(**options)
