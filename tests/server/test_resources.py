"""Client, watcher and fetcher live and end together; the rest is seen in tests/contrib."""

import asyncio
from functools import partial

import pytest

from adepoll import AdeClient, ClosedError, JobWatcher
from adepoll.emulator import JobPlan
from adepoll.server.resources import Condition, open_household

ENDLESS = JobPlan(processing_time=float("inf"))


@pytest.fixture
def client(ade):
    return partial(AdeClient, ade.api_key, base_url=ade.base_url)


async def test_all_are_closed_at_the_end(ade, client):
    async with open_household(client=client) as resources:
        assert (await resources.health()).condition is Condition.OK
    assert resources.watcher.is_closed
    for call in (resources.client.get_job, resources.fetcher.result):
        with pytest.raises(ClosedError):
            await call("a")


async def test_what_was_made_is_closed_where_the_rest_cannot_be(client):
    made = []

    def watcher(client):
        made.append(client)
        return JobWatcher(client, concurrency=0)

    with pytest.raises(ValueError, match="concurrency"):
        async with open_household(client=client, watcher=watcher):
            pass
    with pytest.raises(ClosedError):
        await made[0].get_job("a")


async def test_to_stop_ends_waits_at_once_and_streams_after_the_grace_time(ade, client):
    async with open_household(client=client, grace=0.2) as resources:
        waiting = asyncio.create_task(resources.wait(ade.submit(ENDLESS)))
        await asyncio.sleep(0.05)

        async def stream():
            async with resources.streaming():
                await waiting_is_over.wait()  # so that a stream outlives the waits
                await asyncio.Event().wait()

        waiting_is_over = asyncio.Event()
        streaming = asyncio.create_task(stream())
        await asyncio.sleep(0)
        resources.stop()
        resources.stop()
        with pytest.raises(ClosedError):
            await waiting
        assert not streaming.done()
        waiting_is_over.set()
        with pytest.raises(ClosedError):
            await streaming
        assert (await resources.health()).condition is Condition.CLOSED


async def test_a_timeout_of_the_streams_own_stays_what_it_is(client):
    async with open_household(client=client) as resources:
        with pytest.raises(TimeoutError):
            async with resources.streaming():
                raise TimeoutError


async def test_health_tells_what_each_of_them_does(ade, client):
    async with open_household(client=client) as resources:
        body = (await resources.health()).body
        assert body["client"]["requests"] == 1  # it has asked whether the key is good
        assert body.keys() == {"status", "watcher", "client", "fetcher"}
        assert body["fetcher"]["under_way"] == 0
