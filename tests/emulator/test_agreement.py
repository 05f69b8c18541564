"""In virtual time, a fault leads to the same error as with adepoll's client over a socket."""

import asyncio

import attrs
import pytest

from adepoll import AdeClient, JobKind, RetryPolicy
from adepoll.emulator import (
    EPOCH,
    FAULT_NAMES,
    Emulator,
    Endpoint,
    JobPlan,
    RefusalKind,
    World,
    WorldSource,
    loop_clock,
    make_fault,
    run,
)
from adepoll.errors import AdePollError

# These take real time here; test_world_source_faults has them in virtual time.
SLOW = {"silent", "stalled", "rate-limit"}
OPTIONS = {
    "latency": {"median": 0.001, "sigma": 0.0},
    "slow-body": {"rate": 1e9},
}


def cases(endpoint):
    for name in FAULT_NAMES:
        if name not in SLOW and endpoint in make_fault(name).effect.endpoints:
            yield name


def facts(answer):
    """The part of an answer that must be the same in both."""
    if isinstance(answer, AdePollError):
        fields = vars(answer)
        shared = fields.keys() & {"job_id", "status", "limit"}
        return type(answer), {key: fields[key] for key in shared}
    return answer


async def read(source, endpoint):
    try:
        if endpoint is Endpoint.GET:
            return await source.get_job("one")
        return await source.list_jobs()
    except AdePollError as error:
        return error


def fill(world, fault):
    for job_id in ("one", "two", "three"):
        world.submit(JobPlan(result_bytes=3_000), job_id=job_id, received_at=EPOCH - 10)
    world.faults.add(fault)


async def over_a_socket(fault, endpoint):
    async with Emulator(clock=lambda: EPOCH, seed=2) as ade:
        fill(ade.world, fault)
        client = AdeClient(ade.api_key, base_url=ade.base_url, retry=RetryPolicy(attempts=1))
        async with client:
            return await read(client, endpoint)


def in_virtual_time(fault, endpoint):
    async def main():
        world = World(clock=loop_clock(), seed=2)
        fill(world, fault)
        source = WorldSource(world=world, latency=(0.0, 0.0))
        return await read(source, endpoint)

    return run(main())


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint in (Endpoint.GET, Endpoint.LIST) for name in cases(endpoint)],
    ids=lambda value: value if isinstance(value, str) else value.value,
)
def test_a_fault_leads_to_the_same_answer_or_error_in_both(endpoint, name):
    fault = make_fault(name, **OPTIONS.get(name, {}))
    real = asyncio.run(over_a_socket(fault, endpoint))
    virtual = in_virtual_time(fault, endpoint)
    assert facts(real) == facts(virtual)


# They take long, or make the client slower, and do not depend on the kind.
EXCLUDED = {
    "overlong",
    "never-ending",
    "deep-nesting",
    "latency",
    *(kind.value for kind in RefusalKind),
}


async def answers_about(kind, world, source):
    """Return the answers for each fault of a job, of a large job and of a list of a kind."""
    for job_id in ("one", "two"):
        world.submit(JobPlan(result_bytes=3_000), kind=kind, job_id=job_id, received_at=EPOCH - 10)
    answers = [await read(source, endpoint) for endpoint in READ]
    for endpoint in READ:
        for name in cases(endpoint):
            if name not in EXCLUDED:
                fault = world.faults.add(name, endpoints=[endpoint], **OPTIONS.get(name, {}))
                answers.append(await read(source, endpoint))
                world.faults.remove(fault)
    large = JobPlan(result_bytes=2_000_000)
    world.submit(large, kind=kind, job_id="large", received_at=EPOCH - 10)
    job = await source.get_job("large")
    return [*map(facts, answers), attrs.evolve(job, output_url=None)]


READ = (Endpoint.GET, Endpoint.LIST)


@attrs.frozen
class NewConnections:
    """Sends each request on a new connection. A failure on a used one can cause a second request.

    Then the next random numbers of the emulator would not be those of virtual time.
    """

    ade: Emulator
    kind: JobKind

    async def get_job(self, job_id):
        async with self.client() as client:
            return await client.for_kind(self.kind).get_job(job_id)

    async def list_jobs(self):
        async with self.client() as client:
            return await client.for_kind(self.kind).list_jobs()

    def client(self):
        retry = RetryPolicy(attempts=1)
        return AdeClient(self.ade.api_key, base_url=self.ade.base_url, retry=retry)


@pytest.mark.parametrize(
    "kind",
    [
        *("v1-parse", "v2-parse"),
        pytest.param("v2-extract", marks=pytest.mark.thorough),
        pytest.param("v2-workflow", marks=pytest.mark.thorough),
    ],
)
def test_jobs_of_other_kinds_lead_to_the_same_answers_in_both(kind):
    async def over_a_socket():
        async with Emulator(clock=lambda: EPOCH, seed=2) as ade:
            return await answers_about(kind, ade.world, NewConnections(ade, JobKind.named(kind)))

    async def in_virtual_time():
        world = World(clock=lambda: EPOCH, seed=2)
        source = WorldSource(world=world, latency=(0.0, 0.0), kind=JobKind.named(kind))
        return await answers_about(kind, world, source)

    real, virtual = asyncio.run(over_a_socket()), run(in_virtual_time())
    assert len(real) > 35
    for one, other in zip(real, virtual, strict=True):
        assert one == other
