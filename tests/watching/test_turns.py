"""Polls that wait for the request budget: few are chosen before they can be sent."""

import asyncio
import contextlib
import math
from random import Random

import pytest
from attrs import evolve, frozen
from stale import StaleRequest

from adepoll.emulator import JobPlan, World, WorldSource, loop_clock
from adepoll.errors import JobTimeoutError
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.pollers import PollTurns
from adepoll.watching.turns import PageTurns, Semaphore
from adepoll.watching.watcher import JobWatcher


@frozen
class PacedService:
    """An emulated service behind a request budget, as behind a client."""

    source: WorldSource
    sender: RequestSender
    semaphore: object = None

    def for_polling(self, semaphore):
        return evolve(self, semaphore=semaphore)

    def service_time(self):
        return self.source.service_time()

    async def get_job(self, job_id):
        return await self.sender.call_once(
            lambda _: self.source.get_job(job_id), semaphore=self.semaphore
        )

    async def list_jobs(self, **query):
        return await self.sender.call_once(
            lambda _: self.source.list_jobs(**query), semaphore=self.semaphore
        )

    def submit(self, count, *, processing_time, age=0.0):
        world, plan = self.source.world, JobPlan(processing_time=processing_time)
        return [world.submit(plan, received_at=world.now() - age) for _ in range(count)]

    def lag(self, job):
        world = self.source.world
        return world.now() - world.truth(job.job_id).finished_at


def paced(rate):
    """Return a service that allows `rate` requests per second."""
    limiter = RateLimiter(max_rate=rate, rng=Random(0))
    source = WorldSource(world=World(clock=loop_clock()), latency=(0.1, 0.1))
    return PacedService(source, RequestSender(limiter, rng=Random(0)))


def test_short_jobs_do_not_wait_for_many_long_ones_while_the_budget_is_short(replay):
    """A loop that sweeps, and polls what is missing, has a mean lag of about 8 s here."""

    async def script():
        service = paced(1.0)
        long_ids = service.submit(200, processing_time=5_000.0)

        async def come():
            for job_id in long_ids:
                yield job_id
            for _ in range(60):
                await asyncio.sleep(2)
                for job_id in service.submit(1, processing_time=20.0):
                    yield job_id

        async with JobWatcher(service, rng=Random(0)) as watcher, watcher.watch(come()) as watch:
            lags = [service.lag(await anext(watch)) for _ in range(60)]
        assert sum(lags) / len(lags) < 12
        assert max(lags) < 30

    replay(script)


def test_a_wait_is_short_although_many_jobs_are_due_and_the_budget_is_short(replay):
    async def script():
        service = paced(2.0)
        job_ids = service.submit(500, processing_time=1_000.0)
        finished = service.submit(1, processing_time=0.0, age=50)[0]
        async with (
            JobWatcher(service, discovery="get", rng=Random(0)) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            task = asyncio.create_task(anext(watch))
            await asyncio.sleep(60)
            begun = asyncio.get_running_loop().time()
            await watcher.wait(finished)
            assert asyncio.get_running_loop().time() < begun + 4
            task.cancel()

    replay(script)


@pytest.mark.parametrize(("count", "limit"), [(1, 8), (10, 20)])
def test_waits_are_not_as_late_as_a_large_watch_while_the_budget_is_short(replay, count, limit):
    """If all jobs had the same number of polls, the mean lag would be over 100 s here."""

    async def script():
        service = paced(2.0)
        job_ids = service.submit(500, processing_time=5_000.0)
        async with (
            JobWatcher(service, discovery="get", rng=Random(0)) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            task = asyncio.create_task(anext(watch))
            await asyncio.sleep(300)
            rng = Random(0)
            ending = [
                service.submit(1, processing_time=rng.uniform(30, 90))[0] for _ in range(count)
            ]
            lags = []

            async def wait(job_id):
                lags.append(service.lag(await watcher.wait(job_id)))

            await asyncio.gather(*map(wait, ending))
            assert sum(lags) / count < limit
            task.cancel()

    replay(script)


def test_first_polls_of_new_jobs_delay_no_polls_of_older_jobs_while_the_budget_is_short(replay):
    """The SDK's waiter has a mean lag of 10.2 s here. If they come first, it is 12 s."""

    async def script():
        service, rng = paced(2.0), Random(0)
        lags = []

        async def wait(job_id):
            lags.append(service.lag(await watcher.wait(job_id)))

        async with (
            JobWatcher(service, discovery="get", rng=Random(0)) as watcher,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(300):
                seconds = rng.lognormvariate(math.log(60), 0.5)
                group.create_task(wait(service.submit(1, processing_time=seconds)[0]))
                await asyncio.sleep(2)
        assert sum(lags) / len(lags) < 10

    replay(script)


def test_a_wait_for_a_settled_job_is_short_although_jobs_were_always_new(replay):
    """The first poll of a job that is probably new is not urgent while the budget is short."""

    async def script():
        service = paced(2.0)
        job_ids = service.submit(300, processing_time=5_000.0)
        async with (
            JobWatcher(service, discovery="get", rng=Random(0)) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            task = asyncio.create_task(anext(watch))
            await asyncio.sleep(600)
            (old,) = service.submit(1, processing_time=1.0, age=3600.0)
            began = service.source.world.now()
            await watcher.wait(old)
            assert service.source.world.now() - began < 5
            task.cancel()

    replay(script)


def test_without_a_short_budget_all_polls_are_sent_at_the_same_time(replay):
    async def script():
        service = paced(None)
        job_ids = service.submit(64, processing_time=0.0, age=10.0)
        began = service.source.world.now()
        async with JobWatcher(service.source, discovery="get", rng=Random(0)) as watcher:
            await asyncio.gather(*map(watcher.wait, job_ids))
        assert service.source.world.now() - began == pytest.approx(0.1)

    replay(script)


def test_few_polls_are_chosen_before_it_is_known_how_long_they_wait(replay):
    async def script():
        turns = PollTurns(asyncio.Semaphore(2), on_turn=list)
        tasks = [asyncio.create_task(turns.__aenter__()) for _ in range(4)]
        turns.waiting = dict.fromkeys(tasks, 0.0)
        assert turns.hold_back(0.0)
        await asyncio.sleep(0)  # two of the tasks get their turn immediately
        assert len(turns.waiting) == 2
        turns.waiting |= dict.fromkeys(range(13), 0.0)
        assert not turns.hold_back(0.0)
        turns.waiting |= dict.fromkeys(range(14), 0.0)
        assert turns.hold_back(0.0)
        turns.waiting = dict.fromkeys(range(4), 0.0)
        assert turns.hold_back(0.3)  # the oldest has waited long
        for task in tasks:
            task.cancel()

    replay(script)


async def wait_for_all(watcher, service, job_ids):
    """Wait for each job separately; return the mean lag."""

    async def lag(job_id):
        return service.lag(await watcher.wait(job_id))

    return sum(await asyncio.gather(*map(lag, job_ids))) / len(job_ids)


def test_separate_waits_share_the_list_while_the_budget_is_short(replay):
    """A loop that sweeps, and polls what is missing, has a mean lag of about 3 s here."""

    async def script():
        service = paced(1.0)
        job_ids = [
            job_id
            for number in range(50)
            for job_id in service.submit(1, processing_time=30.0 + 2 * number)
        ]
        async with JobWatcher(service, rng=Random(0)) as watcher:
            assert await wait_for_all(watcher, service, job_ids) < 3.5

    replay(script)


@pytest.mark.parametrize(("timeout", "pause", "limit"), [(1, 0, 7), (1, 0.3, 15), (5, 0.3, 8)])
def test_repeated_short_waits_share_the_list_while_the_budget_is_short(
    replay, timeout, pause, limit
):
    """With one wait for each job, without a timeout, the mean lag is 5 to 6 s here."""

    async def script():
        service = paced(2.0)
        rng = Random(0)
        job_ids = [
            job_id
            for _ in range(50)
            for job_id in service.submit(1, processing_time=rng.gauss(60, 6))
        ]

        async def lag(job_id):
            await asyncio.sleep(rng.random() * pause)
            while True:
                with contextlib.suppress(JobTimeoutError):
                    return service.lag(await watcher.wait(job_id, timeout=timeout))
                await asyncio.sleep(pause)

        async with JobWatcher(service, rng=Random(0)) as watcher:
            lags = await asyncio.gather(*map(lag, job_ids))
        assert sum(lags) / len(lags) < limit

    replay(script)


def test_a_sweep_goes_on_if_all_jobs_are_left_for_a_moment(replay):
    """Otherwise, no sweep would end here, because it takes longer than each wait."""

    async def script():
        service = paced(4.0)
        job_ids = service.submit(400, processing_time=5_000.0)
        async with JobWatcher(service, rng=Random(0)) as watcher:
            for _ in range(15):
                waits = [watcher.wait(job_id, timeout=1.5) for job_id in job_ids]
                await asyncio.gather(*waits, return_exceptions=True)
                await asyncio.sleep(0.5)
            assert watcher.stats.sweeps > 5

    replay(script)


def test_a_sweep_ends_if_nobody_waits_again(replay):
    async def script():
        service = paced(1.0)
        job_ids = service.submit(1_000, processing_time=5_000.0)
        async with JobWatcher(service, rng=Random(0), discovery="list") as watcher:
            waits = [watcher.wait(job_id, timeout=2) for job_id in job_ids]
            await asyncio.gather(*waits, return_exceptions=True)
            pages = watcher.stats.list_requests
            assert pages
            await asyncio.sleep(0.9)
            assert watcher.stats.sweeping
            await asyncio.sleep(0.2)
            assert not watcher.stats.sweeping
            assert watcher.stats.list_requests <= pages + 1
            before = watcher.stats
            await asyncio.sleep(100)
            assert watcher.stats == before

    replay(script)


def test_while_sweeps_replace_polls_of_waits_they_use_the_free_budget(replay):
    """A loop that sweeps, and polls what is missing, has a mean lag of about 0.9 s here."""

    async def script():
        service = paced(4.0)
        job_ids = [
            job_id
            for number in range(90)
            for job_id in service.submit(1, processing_time=30.0 + number)
        ]
        async with JobWatcher(service, rng=Random(0)) as watcher:
            assert await wait_for_all(watcher, service, job_ids) < 1.2

    replay(script)


def test_first_polls_of_many_new_waits_do_not_delay_other_jobs(replay):
    async def script():
        service = paced(1.0)
        job_ids = service.submit(40, processing_time=5_000.0)
        [ending] = service.submit(1, processing_time=40.0)
        async with JobWatcher(service, rng=Random(0)) as watcher:
            waits = [asyncio.create_task(watcher.wait(job_id)) for job_id in job_ids]
            waits.append(ended := asyncio.create_task(watcher.wait(ending)))
            for _ in range(20):
                await asyncio.sleep(2)
                job_ids = service.submit(5, processing_time=5_000.0)
                waits += [asyncio.create_task(watcher.wait(job_id)) for job_id in job_ids]
            assert service.lag(await ended) < 12
            [settled] = service.submit(1, processing_time=10.0, age=60.0)
            began = service.source.world.now()
            await watcher.wait(settled)
            assert service.source.world.now() - began < 12
            for wait in waits:
                wait.cancel()

    replay(script)


def test_the_first_poll_of_a_wait_is_immediate_when_requests_no_longer_wait(replay):
    """Its job can have settled long ago, so it does not wait for the next sweep.

    It waits only if a page of the list waits at this moment.
    """

    async def script():
        service = paced(8.0)
        job_ids = service.submit(40, processing_time=5_000.0)
        async with JobWatcher(service, rng=Random(0)) as watcher:
            waits = [asyncio.create_task(watcher.wait(job_id)) for job_id in job_ids]
            delays = []
            for _ in range(8):
                await asyncio.sleep(3)
                [settled] = service.submit(1, processing_time=10.0, age=60.0)
                began = service.source.world.now()
                await watcher.wait(settled)
                delays.append(service.source.world.now() - began)
            assert sorted(delays)[5] < 0.15
            assert max(delays[1:]) < 0.5  # the first one comes in the burst of first polls
            for wait in waits:
                wait.cancel()

    replay(script)


def test_requests_are_busy_for_some_time_after_a_request_has_waited(replay):
    """A poll that can be left out would take the next turn from a request that comes later."""

    async def script():
        turns = PollTurns(asyncio.Semaphore(1), on_turn=lambda: None)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for wait, busy in ((0.05, False), (0.5, True)):
            turns.waiting[task] = loop.time()
            await asyncio.sleep(wait)
            async with turns:
                assert turns.is_busy(loop.time(), within=10) is busy
                assert not turns.is_busy(loop.time())
        await asyncio.sleep(5)
        assert turns.is_busy(loop.time(), within=10)
        await asyncio.sleep(6)
        assert not turns.is_busy(loop.time(), within=10)

    replay(script)


# --- requests that lose their turn while they wait for the semaphore ------------------------------


class SlowBudget:
    """A budget of one request every ten seconds, and a semaphore that is held for two seconds.

    After a second, another request takes the turn. So a request that began at 0 s is sent at 11 s.
    """

    def __init__(self):
        self.service = paced(0.1)
        self.semaphore = asyncio.Semaphore(1)

    async def __aenter__(self):
        self.other = asyncio.create_task(self._take_turn())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *raised):
        await self.other

    async def _take_turn(self):
        async with self.semaphore:
            await asyncio.sleep(1)
            await self.service.sender.call_once(lambda _: asyncio.sleep(0))
            await asyncio.sleep(1)


def test_a_poll_that_has_lost_its_turn_is_cancelled_with_its_wait(replay):
    """Its request was not sent, so it would be sent after the end of the wait."""

    async def script():
        budget = SlowBudget()
        [job_id] = budget.service.submit(1, processing_time=1_000.0)
        watcher = JobWatcher(budget.service, concurrency=budget.semaphore)
        async with budget, watcher:
            with pytest.raises(JobTimeoutError):
                await watcher.wait(job_id, timeout=10.5)
            await asyncio.sleep(10)
            assert watcher.stats.in_flight == 0
            assert budget.service.sender.stats().requests == 1  # that of the other

    replay(script)


def test_a_poll_that_has_lost_its_turn_has_waited_since_it_began(replay):
    async def script():
        budget, loop = SlowBudget(), asyncio.get_running_loop()
        turns = PollTurns(budget.semaphore, on_turn=lambda: None)

        async def poll():
            turns.waiting[asyncio.current_task()] = loop.time()
            await budget.service.sender.call_once(lambda _: asyncio.sleep(0), semaphore=turns)

        async with budget:
            polling = asyncio.create_task(poll())
            await asyncio.sleep(1.5)
            add_waiting(turns, 1, since=1.5)
            await asyncio.sleep(1.0)
            assert [*turns.waiting.values()] == [0.0, 1.5]
            await polling
            assert (turns.last_wait, loop.time()) == (11.0, 11.0)

    replay(script)


def test_the_time_limit_of_a_page_that_has_lost_its_turn_begins_with_its_next_turn(replay):
    async def script():
        budget = SlowBudget()
        turns = PageTurns(budget.semaphore)
        async with budget, asyncio.timeout(None) as timeout:
            with turns.request(timeout, 3.0):
                await budget.service.sender.call_once(lambda _: asyncio.sleep(2), semaphore=turns)
        assert (asyncio.get_running_loop().time(), turns.mean_duration) == (13.0, 2.0)

    replay(script)


# --- requests that are sent once more after a stale connection -----------------------------------


def test_a_poll_that_is_sent_once_more_waits_again(replay):
    """Otherwise more polls would wait for the budget than `hold_back` allows."""

    async def script():
        service, loop = paced(0.1), asyncio.get_running_loop()
        turns = PollTurns(asyncio.Semaphore(1), on_turn=lambda: None)

        async def poll():
            turns.waiting[asyncio.current_task()] = loop.time()
            await service.sender.call_once(StaleRequest(1.0), semaphore=turns)

        polling = asyncio.create_task(poll())
        await asyncio.sleep(0.5)
        assert [*turns.waiting.values()] == []
        await asyncio.sleep(1.0)
        assert [*turns.waiting.values()] == [1.0]
        await polling
        assert (turns.last_wait, loop.time()) == (9.0, 11.0)

    replay(script)


def test_the_time_limit_of_a_page_that_is_sent_once_more_excludes_its_wait(replay):
    async def script():
        turns, loop = PageTurns(asyncio.Semaphore(1)), asyncio.get_running_loop()
        async with asyncio.timeout(None) as timeout:
            with turns.request(timeout, 3.0):
                await paced(0.1).sender.call_once(StaleRequest(2.0), semaphore=turns)
        assert (loop.time(), turns.mean_duration) == (12.0, 4.0)

    replay(script)


# --- at the bounds ------------------------------------------------------------------------------


class Places:
    """A semaphore that lets each task continue after some seconds."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.released = 0

    async def __aenter__(self):
        await asyncio.sleep(self.seconds)

    async def __aexit__(self, *raised):
        self.released += 1


def add_waiting(turns, count, *, since):
    """Let requests wait for a turn that they never get; objects stand for their tasks."""
    turns.waiting |= dict.fromkeys([object() for _ in range(count)], since)


async def take_turn(turns, *, waited):
    """Let a task get its turn after this number of seconds."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    turns.waiting[task] = loop.time() - waited
    async with turns:
        assert task not in turns.waiting


@pytest.mark.parametrize(
    ("count", "waits", "held_back"),
    [
        (3, 9.0, False),
        (4, 0.0, True),  # at first, four polls may wait
        (4, 9.0, True),
        (5, 0.0, True),
        (0, 0.0, False),
    ],
)
def test_at_first_at_most_four_polls_may_wait(replay, count, waits, held_back):
    async def script():
        turns = PollTurns(Places(), on_turn=lambda: None)
        add_waiting(turns, count, since=100.0 - waits)
        assert turns.hold_back(100.0) is held_back
        assert turns.held_back is held_back

    replay(script)


@pytest.mark.parametrize(("waits", "allowed"), [(0.25, 16), (0.26, 4)])
def test_each_quick_turn_doubles_the_polls_that_may_wait(replay, waits, allowed):
    async def script():
        turns = PollTurns(Places(), on_turn=lambda: None)
        for _ in range(2):
            await asyncio.create_task(take_turn(turns, waited=0.0))
        add_waiting(turns, allowed - 1, since=100.0 - waits)
        assert not turns.hold_back(100.0) or allowed == 4
        add_waiting(turns, 1, since=100.0)
        assert turns.hold_back(100.0)
        turns.waiting.clear()
        assert not turns.hold_back(100.0)
        add_waiting(turns, 4, since=100.0)
        assert turns.hold_back(100.0), "when no poll waits, the number is four again"

    replay(script)


def test_a_long_wait_of_the_last_request_counts_like_that_of_a_waiting_one(replay):
    async def script():
        turns = PollTurns(Places(), on_turn=lambda: None)
        for _ in range(5):
            await asyncio.create_task(take_turn(turns, waited=0.3))
        add_waiting(turns, 5, since=100.0)
        assert turns.hold_back(100.0)
        assert turns.last_wait == pytest.approx(0.3)

    replay(script)


@pytest.mark.parametrize("held_back", [True, False])
def test_a_turn_starts_more_polls_only_if_polls_were_held_back(replay, held_back):
    async def script():
        started = []
        turns = PollTurns(Places(), on_turn=lambda: started.append(1))
        add_waiting(turns, 4 if held_back else 3, since=100.0)
        turns.hold_back(100.0)
        await asyncio.create_task(take_turn(turns, waited=0.0))
        assert started == [1] * held_back

    replay(script)


@pytest.mark.parametrize(
    ("last", "passed", "within", "waits", "busy"),
    [
        (0.0, 0.0, 0.0, None, False),
        (0.0, 0.0, 0.0, 0.1, False),
        (0.0, 0.0, 0.0, 0.11, True),
        (0.1, 1.0, 10.0, None, False),
        (0.11, 1.0, 10.0, None, True),
        (0.11, 10.0, 10.0, None, False),
        (0.11, 9.9, 10.0, None, True),
        (0.11, 1.0, 0.0, None, False),
        (0.11, 1.0, 0.0, 0.0, True),  # requests wait, and the last one had to wait
    ],
)
def test_requests_are_busy_by_waits_of_over_a_tenth_of_a_second(
    replay, last, passed, within, waits, busy
):
    async def script():
        turns = PollTurns(Places(), on_turn=lambda: None)
        await asyncio.sleep(64.0)  # so that the times are exact
        await asyncio.create_task(take_turn(turns, waited=last))
        turns.last_wait = last
        now = 64.0 + passed
        if waits is not None:
            turns.last_wait = last
            add_waiting(turns, 1, since=now - waits)
        if waits == 0.1:
            assert not turns.is_busy(now - 1e-6, within=within)
        else:
            assert turns.is_busy(now, within=within) is busy

    replay(script)


def test_the_mean_duration_of_polls_is_that_of_a_task_with_polls_in_a_row(replay):
    async def script():
        turns = PollTurns(asyncio.Semaphore(2), on_turn=lambda: None)
        loop = asyncio.get_running_loop()

        async def poll(*durations, began=0.0):
            await asyncio.sleep(began)
            for seconds in durations:
                turns.waiting[asyncio.current_task()] = loop.time()
                async with turns:
                    await asyncio.sleep(seconds)
            await asyncio.sleep(10)

        await asyncio.create_task(poll(3.0))
        assert turns.mean_duration == 0.0, "no poll has followed"
        await asyncio.gather(poll(1.0, 1.0, 1.0), poll(2.0, 2.0, began=0.1))
        assert turns.mean_duration == pytest.approx(1.0)
        await asyncio.create_task(poll(9.0, 1.0))
        assert turns.mean_duration == pytest.approx(2.0)

    replay(script)


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("make", [Semaphore, asyncio.Semaphore])
def test_pages_know_whether_the_semaphore_limits_them(replay, make, limited):
    async def script():
        turns = PageTurns(make(2 if limited else 3))
        assert not turns.takes_last_places

        async def request():
            async with asyncio.timeout(None) as timeout:
                with turns.request(timeout, 30.0):
                    async with turns:
                        await asyncio.sleep(1)

        await asyncio.gather(*[request() for _ in range(6 if limited else 2)])
        assert turns.takes_last_places is limited
        turns.restart()
        assert not turns.takes_last_places

    replay(script)


def test_the_mean_duration_of_pages_counts_from_their_turns(replay):
    async def script():
        turns = PageTurns(Places(seconds=5.0))
        assert turns.mean_duration == 0.0

        async def request(seconds):
            async with asyncio.timeout(7.0) as timeout:
                with turns.request(timeout, 3.0):
                    assert asyncio.current_task() in turns.waiting
                    async with turns:
                        now = asyncio.get_running_loop().time()
                        assert timeout.when() == now + 3.0, "it starts with the turn"
                        await asyncio.sleep(seconds)

        await asyncio.gather(request(1.0), request(2.0))
        assert turns.mean_duration == 1.5
        with pytest.raises(TimeoutError):
            await request(4.0)
        assert turns.mean_duration == 2.0
        turns.restart()
        assert turns.mean_duration == 0.0
        assert not turns.waiting

    replay(script)


def test_a_request_without_a_turn_has_no_duration(replay):
    async def script():
        turns = PageTurns(Places(seconds=100.0))

        async def request():
            async with asyncio.timeout(9.0) as timeout:
                with turns.request(timeout, 3.0):
                    async with turns:
                        pass

        with pytest.raises(TimeoutError):
            await request()
        assert (turns.mean_duration, turns.waiting) == (0.0, {})

    replay(script)
