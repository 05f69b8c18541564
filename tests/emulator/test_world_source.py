"""A world as a JobSource: virtual time, and the real codec."""

import asyncio
import random

import pytest

from adepoll import AdeClient, JobKind
from adepoll.api.models import JobStatus, from_timestamp
from adepoll.api.source import is_newest_first
from adepoll.emulator import (
    EPOCH,
    KINDS,
    JobPlan,
    Outcome,
    Profile,
    World,
    WorldSource,
    loop_clock,
    run,
)
from adepoll.errors import ConfigurationError, JobNotFoundError, TransportError


def replay(script, *, latency=(0.0, 0.0), failures=None):
    async def main():
        world = World(clock=loop_clock())
        source = WorldSource(world=world, latency=latency, rng=random.Random(1), failures=failures)
        return await script(world, source)

    return run(main())


def now():
    return loop_clock(0.0)()


def test_a_poll_returns_the_snapshot_of_the_real_codec():
    async def script(world, source):
        return await source.get_job(world.submit(JobPlan(result_bytes=4_000), job_id="one"))

    job = replay(script)
    assert job.job_id == "one"
    assert job.status is JobStatus.COMPLETED
    assert job.received_at == from_timestamp(EPOCH)
    assert job.data.extraction["document_type"] == "invoice"
    assert job.conforms
    assert not job.extra


def test_a_206_gives_a_snapshot_that_does_not_conform():
    async def script(world, source):
        return await source.get_job(world.submit(JobPlan(outcome=Outcome.PARTIAL)))

    job = replay(script)
    assert job.status is JobStatus.COMPLETED
    assert not job.conforms
    assert job.schema_violation


def test_the_world_follows_the_time_of_the_loop():
    async def script(world, source):
        job_id = world.submit(JobPlan(queue_time=3_600, processing_time=3_600))
        seen = []
        while not (job := await source.get_job(job_id)).is_terminal:
            seen.append(job.status_text)
        return seen, now()

    seen, finished = replay(script, latency=(600, 600))
    assert seen == ["pending"] * 6 + ["processing"] * 6
    assert finished == 13 * 600


def test_a_poll_reads_the_world_in_the_middle_of_its_latency():
    async def script(world, source):
        early = world.submit(JobPlan(processing_time=0.9))
        late = world.submit(JobPlan(processing_time=3.1))
        first = await source.get_job(early)
        between = now()
        second = await source.get_job(late)
        return first.status, between, second.status, now()

    assert replay(script, latency=(2, 2)) == (
        JobStatus.COMPLETED,
        2.0,
        JobStatus.PROCESSING,
        4.0,
    )


def test_a_page_of_the_list_reads_the_world_in_the_middle_of_its_latency():
    async def script(world, source):
        world.submit(JobPlan(processing_time=0.9))
        first = await source.list_jobs(status=JobStatus.COMPLETED)
        between = now()
        world.submit(JobPlan(processing_time=1.1))
        second = await source.list_jobs(status=JobStatus.PROCESSING)
        return len(first.jobs), between, len(second.jobs), now()

    assert replay(script, latency=(2, 2)) == (1, 2.0, 1, 4.0)


def test_latencies_are_within_the_range_and_repeat_with_the_seed():
    async def script(world, source):
        job_id = world.submit(JobPlan())
        moments = []
        for _ in range(50):
            await source.get_job(job_id)
            moments.append(now())
        return moments

    moments = replay(script, latency=(0.1, 0.5))
    gaps = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
    assert all(0.1 - 1e-9 <= gap <= 0.5 + 1e-9 for gap in gaps)
    assert len(set(gaps)) > 40
    assert moments == replay(script, latency=(0.1, 0.5))


def test_an_unknown_job_raises_the_error_of_the_client():
    async def script(world, source):
        await source.get_job("nobody")

    with pytest.raises(JobNotFoundError) as caught:
        replay(script)
    assert caught.value.job_id == "nobody"
    assert caught.value.status == 404


def test_lists_are_paged_and_filtered():
    async def script(world, source):
        for n in range(5):
            world.submit(JobPlan(processing_time=n % 2), job_id=str(n))
        first = await source.list_jobs(page_size=2)
        active = await source.list_jobs(status=JobStatus.PROCESSING)
        return first, active

    first, active = replay(script)
    assert [job.job_id for job in first.jobs] == ["4", "3"]
    assert first.has_more
    assert [job.job_id for job in active.jobs] == ["3", "1"]
    assert not active.has_more


@pytest.mark.parametrize(
    "options", [{"page": -1}, {"page_size": 0}, {"page_size": 101}, {"status": JobStatus.UNKNOWN}]
)
def test_arguments_that_the_service_refuses_raise_an_error(options):
    async def script(world, source):
        await source.list_jobs(**options)

    with pytest.raises(ValueError, match="no such page"):
        replay(script)


@pytest.mark.parametrize("size", [1, 100])
def test_the_smallest_and_the_largest_page_size_work(size):
    async def script(world, source):
        world.submit(JobPlan())
        world.submit(JobPlan())
        return await source.list_jobs(page_size=size)

    assert len(replay(script).jobs) == min(size, 2)


def test_a_failure_is_raised_instead_of_the_answer():
    requests = []

    def failures(job_id):
        requests.append(job_id)
        return TransportError("gone", job_id=job_id) if len(requests) % 2 else None

    async def script(world, source):
        job_id = world.submit(JobPlan(), job_id="one")
        with pytest.raises(TransportError):
            await source.get_job(job_id)
        assert (await source.get_job(job_id)).is_terminal
        with pytest.raises(TransportError):
            await source.list_jobs()

    replay(script, failures=failures)
    assert requests == ["one", "one", None]


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_of_every_kind_are_polled_and_listed(kind):
    async def main():
        world = World(clock=loop_clock(), profile=Profile(failed=0, cancelled=0))
        source = WorldSource(world=world).for_kind(JobKind.named(kind))
        job_ids = [world.submit(JobPlan(processing_time=90), kind=kind) for _ in range(3)]
        page = await source.list_jobs()
        assert {job.job_id for job in page.jobs} == {*job_ids}
        await asyncio.sleep(100)
        for job_id in job_ids:
            job = await source.get_job(job_id)
            assert job.status is JobStatus.COMPLETED
            assert job.kind == source.kind
            assert job.data is not None
        with pytest.raises(JobNotFoundError):
            await source.get_job("nobody")

    run(main())


@pytest.mark.parametrize("kind", ["v2-parse", "v2-extract", "v2-workflow"])
def test_a_large_v2_result_is_left_out(kind):
    async def main():
        world = World(clock=loop_clock())
        source = WorldSource(world=world, kind=JobKind.named(kind))
        job_id = world.submit(JobPlan(result_bytes=9_000_000), kind=kind)
        job = await source.get_job(job_id)
        assert job.data_omitted
        assert job.data is None
        assert job.credits

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_watcher_learns_the_order_of_the_list_as_from_a_client(kind):
    client = AdeClient("emulator-key").for_kind(JobKind.named(kind))
    source = WorldSource(world=World(clock=lambda: 0.0)).for_kind(JobKind.named(kind))
    assert is_newest_first(source) is is_newest_first(client)


def test_a_kind_of_your_own_is_unknown():
    world = World(clock=lambda: 0.0)
    with pytest.raises(ConfigurationError, match="no jobs of the kind mine"):
        WorldSource(world=world).for_kind(JobKind("mine"))
