"""A client closes itself with its loop, whoever ends that, and never before."""

import asyncio

import pytest
from internals import sessions

from adepoll import ClosedError, JobWatcher
from adepoll.contrib.testing import SelfClosingClient
from adepoll.emulator import JobPlan


@pytest.fixture
def client(ade):
    return SelfClosingClient(ade.api_key, base_url=ade.base_url)


def look(client, ade):
    return client.get_job(ade.submit(JobPlan()))


def test_the_end_of_its_loop_closes_it(ade, client):
    before = sessions()

    async def main():
        await look(client, ade)
        return len(sessions()) - len(before)

    assert asyncio.run(main()) == 1
    assert sessions() == before
    with pytest.raises(ClosedError):
        asyncio.run(look(client, ade))


async def test_it_stays_open_as_long_as_its_loop(ade, client):
    await look(client, ade)
    async with JobWatcher(client) as watcher:
        assert (await watcher.wait(ade.submit(JobPlan()))).is_terminal
    client.finish()  # in vain, while the loop runs
    assert (await look(client, ade)).is_terminal


def test_it_can_be_closed_from_outside_where_the_loop_lives_on(ade, client):
    before = sessions()
    with asyncio.Runner() as runner:
        runner.run(look(client, ade))
        assert len(sessions()) == len(before) + 1
        client.finish()
        assert sessions() == before
        with pytest.raises(ClosedError):
            runner.run(look(client, ade))


def test_one_that_was_never_used_needs_no_closing(client):
    client.finish()


def test_closing_it_by_hand_is_as_good(ade, client):
    async def main():
        async with client:
            await look(client, ade)
        with pytest.raises(ClosedError):
            await look(client, ade)

    asyncio.run(main())
    client.finish()
