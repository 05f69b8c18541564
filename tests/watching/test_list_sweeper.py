"""The list sweeper by itself, in virtual time."""

import asyncio
from contextlib import nullcontext
from random import Random

from subscribing import subscription_of

from adepoll.api.models import JobPage, JobStatus, JobSummary
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


class HangingList(Unlisted):
    """A source that never answers the first request for its list, and then shows no job."""

    async def list_jobs(self, **query):
        if not self.requests:
            await super().list_jobs()
        self.requests += 1
        return JobPage(jobs=(), has_more=False)


class LongList:
    """A source whose list has 40 pages of jobs that nobody watches; each page takes a second."""

    def __init__(self):
        self.in_flight = self.most_in_flight = 0

    async def list_jobs(self, *, page, page_size, status):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(1)
        self.in_flight -= 1
        jobs = tuple(
            JobSummary(
                job_id=f"{page}-{number}",
                status=status,
                status_text=status.value,
                received_at=None,
                progress=0.0,
            )
            for number in range(page_size)
        )
        return JobPage(jobs=jobs, has_more=status is JobStatus.PROCESSING and page < 39)


def make_sweeper(source, *, semaphore=None):
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
        semaphore=semaphore or nullcontext(),
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


def test_a_request_that_hangs_holds_its_place_for_few_seconds(replay):
    """With a single place, no job could be polled meanwhile."""

    async def script():
        source, semaphore = HangingList(), asyncio.Semaphore(1)
        list_sweeper = make_sweeper(source, semaphore=semaphore)
        list_sweeper.pump()
        await asyncio.sleep(1)
        assert semaphore.locked()
        async with asyncio.timeout(6), semaphore:
            pass
        await asyncio.sleep(1)
        assert list_sweeper.sweeps
        await asyncio.wait(list_sweeper.close())

    replay(script)


def test_a_list_whose_requests_all_hang_is_left_alone(replay):
    async def script():
        source = Unlisted()
        list_sweeper = make_sweeper(source)
        list_sweeper.pump()
        await asyncio.sleep(12)
        sent = source.requests
        await asyncio.sleep(3)
        assert source.requests == sent
        await asyncio.sleep(30)
        assert source.requests > sent
        await asyncio.wait(list_sweeper.close())

    replay(script)


def test_pages_of_a_list_of_unknown_length_are_requested_at_the_same_time(replay):
    """Otherwise the first sweep would take 40 s, and no listed job would be polled meanwhile."""

    async def script():
        source = LongList()
        list_sweeper = make_sweeper(source)
        list_sweeper.pump()
        await asyncio.sleep(10)
        assert list_sweeper.sweeps
        assert source.most_in_flight == 8
        await asyncio.wait(list_sweeper.close())

    replay(script)
