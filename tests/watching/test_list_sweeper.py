"""The list sweeper by itself, in virtual time."""

import asyncio
from contextlib import nullcontext
from random import Random

from subscribing import subscription_of

from adepoll.scheduling.schedules import Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.learning import Learning
from adepoll.watching.list_sweeper import ListSweeper
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.sweep_policy import SweepPolicy
from adepoll.watching.watched_jobs import WatchedJobs


class Unlisted:
    """A source that counts the requests for its list and answers none of them."""

    def __init__(self):
        self.requests = 0

    async def list_jobs(self, **_):
        self.requests += 1
        await asyncio.get_running_loop().create_future()


def make_sweeper(source):
    """Make a list sweeper for one watched job."""
    watched_jobs = WatchedJobs(
        timing=ScheduleCalls(schedule=Fixed(interval=10), rng=Random(0), learning=Learning()),
        failure_rules=FailureRules(not_found_grace=15.0, patience=60.0),
    )
    subscription = subscription_of("job-1")
    watched_jobs.subscribe("job-1", "job-1", subscription, 0.0)
    return ListSweeper(
        watched_jobs,
        source,
        SweepPolicy(discovery="list", target_lag=None),
        semaphore=nullcontext(),
        on_due=lambda: None,
        on_fatal=lambda _: None,
    )


def test_it_sweeps_until_it_is_closed(replay):
    async def script():
        source = Unlisted()
        list_sweeper = make_sweeper(source)
        list_sweeper.pump()
        await asyncio.sleep(1)
        assert source.requests > 0
        await asyncio.wait(list_sweeper.close())

    replay(script)


def test_it_starts_no_sweep_after_it_was_closed(replay):
    async def script():
        source = Unlisted()
        list_sweeper = make_sweeper(source)
        assert list_sweeper.close() == set()
        list_sweeper.pump()
        await asyncio.sleep(1)
        assert source.requests == 0

    replay(script)
