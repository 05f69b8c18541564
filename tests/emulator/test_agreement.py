"""What a fault comes to in virtual time is what adepoll's own client makes of it on the wire."""

import asyncio

import pytest

from adepoll import AdeClient, RetryPolicy
from adepoll.emulator import (
    EPOCH,
    NAMES,
    Emulator,
    Endpoint,
    JobPlan,
    World,
    WorldSource,
    loop_clock,
    make_fault,
    run,
)
from adepoll.errors import AdePollError

# They are to be waited for; test_source_faults has them in virtual time.
WAITED_FOR = {"silent", "stalled", "rate-limit"}
OPTIONS = {
    "latency": {"median": 0.001, "sigma": 0.0},
    "throttled": {"rate": 1e9},
}


def cases(endpoint):
    for name in NAMES:
        if name not in WAITED_FOR and endpoint in make_fault(name).effect.endpoints:
            yield name


def facts(answer):
    """What the two must agree on."""
    if isinstance(answer, AdePollError):
        told = vars(answer)
        return type(answer), {key: told[key] for key in told.keys() & {"job_id", "status", "limit"}}
    return answer


async def looked(source, endpoint):
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


async def on_the_wire(fault, endpoint):
    async with Emulator(clock=lambda: EPOCH, seed=2) as ade:
        fill(ade.world, fault)
        client = AdeClient(ade.api_key, base_url=ade.base_url, retry=RetryPolicy(attempts=1))
        async with client:
            return await looked(client, endpoint)


def in_virtual_time(fault, endpoint):
    async def main():
        world = World(clock=loop_clock(), seed=2)
        fill(world, fault)
        source = WorldSource(world=world, latency=(0.0, 0.0))
        return await looked(source, endpoint)

    return run(main())


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint in (Endpoint.GET, Endpoint.LIST) for name in cases(endpoint)],
    ids=lambda value: value if isinstance(value, str) else value.value,
)
def test_both_meet_the_same_fault_in_the_same_way(endpoint, name):
    fault = make_fault(name, **OPTIONS.get(name, {}))
    real = asyncio.run(on_the_wire(fault, endpoint))
    virtual = in_virtual_time(fault, endpoint)
    assert facts(real) == facts(virtual)
