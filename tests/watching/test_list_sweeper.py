"""The list sweeper by itself, in virtual time."""

import asyncio
from contextlib import nullcontext
from random import Random

import pytest
from scripted import summary
from subscribing import subscription_of

from adepoll.api.models import JobPage, JobStatus, JobSummary
from adepoll.errors import JobNotFoundError, RateLimitedError, ServerError
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


class FailingOnce:
    """A source whose first sweep shows a job and then fails; later sweeps show no job."""

    failures = 0

    async def list_jobs(self, *, status, **_):
        if self.failures == 3:
            return JobPage(jobs=(), has_more=False)
        if status is JobStatus.PENDING:
            await asyncio.sleep(1)
            self.failures += 1
            raise JobNotFoundError(status=404)
        return JobPage(jobs=(summary("job-2"),), has_more=False)


def make_sweeper(source, *, semaphore=None, fatal=None, rules=None):
    """Make a list sweeper for one watched job."""
    watched_jobs = WatchedJobs(
        schedule_calls=ScheduleCalls(
            schedule=Fixed(interval=10), rng=Random(0), learning=Learning()
        ),
        failure_rules=rules or FailureRules(not_found_grace=15.0, patience=60.0),
    )
    subscription = subscription_of("job-1")
    watched_jobs.subscribe("job-1", "job-1", subscription, 0.0)
    return ListSweeper(
        watched_jobs,
        source,
        SweepPolicy(discovery="list", target_lag=None),
        semaphore=semaphore or nullcontext(),
        on_due=lambda: None,
        on_fatal=(fatal if fatal is not None else []).append,
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


def test_a_sweep_that_fails_does_not_hide_that_the_list_drops_a_job(replay):
    async def script():
        list_sweeper = make_sweeper(FailingOnce())
        accuracy = list_sweeper._watched_jobs.list_checks.accuracy
        accuracy.limit = 60.0
        accuracy.record_settled("job-2", 0.0, active_at=0.0)
        list_sweeper.pump()
        await asyncio.sleep(10)
        await asyncio.wait(list_sweeper.close())
        assert list_sweeper.sweeps == 1
        assert accuracy.ends.in_time == 1

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


# --- requests that fail -------------------------------------------------------------------------


class FailingList(Unlisted):
    """A source whose list fails with the given errors, one after the other, and then is empty."""

    def __init__(self, errors):
        super().__init__()
        self.errors = [*errors]
        self.times = []

    async def list_jobs(self, **_query):
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return JobPage(jobs=(), has_more=False)


def throttled(retry_after=None):
    return RateLimitedError(status=429, retry_after=retry_after)


def broken():
    return ServerError(status=503, job_id=None)


def play(replay, errors, seconds):
    """Sweep for some seconds; return the times of the requests, and the number of sweeps."""

    async def script():
        source, fatal = FailingList(errors), []
        sweeper = make_sweeper(source, fatal=fatal)
        sweeper.pump()
        await asyncio.sleep(seconds)
        tasks = sweeper.close()
        if tasks:
            await asyncio.wait(tasks)
        assert sweeper.requests == len(source.times)
        assert fatal == []
        return source.times, sweeper.sweeps

    return replay(script)


@pytest.mark.parametrize(
    ("errors", "times", "sweeps"),
    [
        ([], [0.0, 0.0], 1),
        ([broken()], [0.0, 0.0, 0.25], 1),
        ([broken(), broken()], [0.0, 0.0, 0.25, 0.25], 1),  # one for each of two pages
        ([throttled()], [0.0, 0.0, 1.0], 1),
        ([throttled(2.0)], [0.0, 0.0, 2.0], 1),
        ([throttled(0.0)], [0.0, 0.0, 1.0], 1),
    ],
)
def test_a_page_is_requested_again_after_a_temporary_error(replay, errors, times, sweeps):
    assert play(replay, errors, 2.5) == (times, sweeps)


@pytest.mark.parametrize(("failures", "sweeps"), [(2, 1), (3, 0)])
def test_a_sweep_fails_after_the_third_temporary_error_of_a_page(replay, failures, sweeps):
    async def script():
        source = FailingPage([broken() for _ in range(failures)])
        sweeper = make_sweeper(source)
        sweeper.pump()
        await asyncio.sleep(3.0)
        assert sweeper.sweeps == sweeps
        assert source.times[: failures + 1] == [0.0, 0.25, 0.5, 0.75][: min(failures + 1, 3)]
        await close(sweeper)

    replay(script)


@pytest.mark.parametrize("source", [lambda: FailingList([broken()] * 100), Unlisted])
def test_failed_requests_for_pages_show_that_the_host_is_silent(replay, source):
    async def script():
        rules = FailureRules(not_found_grace=15.0, patience=60.0)
        sweeper = make_sweeper(source(), rules=rules)
        sweeper.pump()
        await asyncio.sleep(12)
        assert rules.host.silent_for > 0
        assert rules.host.failed == 0
        await close(sweeper)

    replay(script)


@pytest.mark.parametrize(("failures", "sweeps"), [(19, 1), (20, 0)])
def test_a_sweep_fails_after_the_twentieth_429_of_a_page(replay, failures, sweeps):
    async def script():
        source = FailingPage([throttled(0.5) for _ in range(failures)])
        sweeper = make_sweeper(source)
        sweeper.pump()
        await asyncio.sleep(10.5)
        assert sweeper.sweeps == sweeps
        assert len(source.times) == 20
        await close(sweeper)

    replay(script)


def test_a_page_is_requested_only_twice_if_the_list_can_probably_not_be_read(replay):
    refused = [JobNotFoundError(status=404, job_id=None) for _ in range(9)]
    assert play(replay, refused, 1.0) == ([0.0, 0.0, 0.25, 0.25], 0)


class FailingPage(Unlisted):
    """A source whose list of processing jobs fails with the given errors."""

    def __init__(self, errors):
        super().__init__()
        self.errors = [*errors]
        self.times = []

    async def list_jobs(self, *, status, **_query):
        if status is JobStatus.PROCESSING:
            self.times.append(asyncio.get_running_loop().time())
            if self.errors:
                raise self.errors.pop(0)
        return JobPage(jobs=(), has_more=False)


async def close(sweeper):
    if tasks := sweeper.close():
        await asyncio.wait(tasks)


def test_a_bug_of_the_list_is_fatal_without_the_groups_around_it(replay):
    async def script():
        fatal = []
        sweeper = make_sweeper(FailingList([ZeroDivisionError("bug")]), fatal=fatal)
        sweeper.pump()
        await asyncio.sleep(0.1)
        assert [type(error) for error in fatal] == [ZeroDivisionError]
        await close(sweeper)

    replay(script)
