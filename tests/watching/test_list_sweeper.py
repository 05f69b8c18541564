"""The patrol by itself, in virtual time."""

import asyncio
from random import Random

from adepoll.scheduling.policies import Fixed
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.list_sweeps import SweepPolicy
from adepoll.watching.subscriptions import Feed
from adepoll.watching.watched_jobs import WatchedJobs


class Unlisted:
    """A source that counts the requests for its list, and answers none."""

    def __init__(self):
        self.requests = 0

    async def list_jobs(self, **_):
        self.requests += 1
        await asyncio.get_running_loop().create_future()


def make_patrol(source):
    """Make a patrol over one watched job."""
    watched_jobs = WatchedJobs(
        schedule=Fixed(interval=10, jitter=0), rng=Random(0), not_found_grace=15.0, patience=60.0
    )
    feed = Feed(limit=10, every_change=False)
    feed.admit("job-1")
    watched_jobs.subscribe("job-1", feed, feed.alone, 0.0)
    return ListSweeper(
        watched_jobs,
        source,
        SweepPolicy(discovery="list", lag=None),
        on_news=lambda: None,
        on_end=lambda _: None,
    )


def test_a_patrol_sweeps_until_it_is_closed(replay):
    async def script():
        source = Unlisted()
        list_sweeper = make_patrol(source)
        list_sweeper.pump()
        await asyncio.sleep(1)
        assert source.requests > 0
        await asyncio.wait(list_sweeper.close())

    replay(script)


def test_a_closed_patrol_begins_no_sweep(replay):
    async def script():
        source = Unlisted()
        list_sweeper = make_patrol(source)
        assert list_sweeper.close() == set()
        list_sweeper.pump()
        await asyncio.sleep(1)
        assert source.requests == 0

    replay(script)
