"""The client closes itself when its loop ends, and not earlier."""

import asyncio

import pytest
from internals import sessions

from adepoll import ClosedError, JobWatcher
from adepoll.contrib.testing import SelfClosingClient
from adepoll.emulator import JobPlan


@pytest.fixture
def client(ade):
    return SelfClosingClient(ade.api_key, base_url=ade.base_url)


def poll(client, ade):
    return client.get_job(ade.submit(JobPlan()))


def test_the_end_of_its_loop_closes_the_client(ade, client):
    before = sessions()

    async def main():
        await poll(client, ade)
        return len(sessions()) - len(before)

    assert asyncio.run(main()) == 1
    assert sessions() == before
    with pytest.raises(ClosedError):
        asyncio.run(poll(client, ade))


async def test_the_client_stays_open_while_its_loop_runs(ade, client):
    await poll(client, ade)
    async with JobWatcher(client) as watcher:
        assert (await watcher.wait(ade.submit(JobPlan()))).is_terminal
    client.finish()  # without effect while the loop runs
    assert (await poll(client, ade)).is_terminal


def test_it_can_be_closed_from_outside_where_the_loop_lives_on(ade, client):
    before = sessions()
    with asyncio.Runner() as runner:
        runner.run(poll(client, ade))
        assert len(sessions()) == len(before) + 1
        client.finish()
        assert sessions() == before
        with pytest.raises(ClosedError):
            runner.run(poll(client, ade))


def test_finish_accepts_a_client_that_was_never_used(client):
    client.finish()


def test_the_client_can_also_be_closed_explicitly(ade, client):
    async def main():
        async with client:
            await poll(client, ade)
        with pytest.raises(ClosedError):
            await poll(client, ade)

    asyncio.run(main())
    client.finish()
