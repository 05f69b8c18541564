"""Jobs that nobody waits for any more, and what is still known when somebody waits again."""

import asyncio
import math
from random import Random

import pytest
from internals import at_risk
from scripted import snapshot
from subscribing import add_id, subscription_of

from adepoll import JobWatcher
from adepoll.api.models import JobPage, JobStatus, JobSummary, from_timestamp
from adepoll.emulator import JobPlan, World, WorldSource, loop_clock, run
from adepoll.errors import (
    AuthenticationError,
    JobNotFoundError,
    JobTimeoutError,
    PaymentRequiredError,
    TransportError,
)
from adepoll.scheduling.schedules import Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.job_state import PollFailures
from adepoll.watching.learning import Learning
from adepoll.watching.left_jobs import FailureMemory
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.waiter import Waiter
from adepoll.watching.watched_jobs import WatchedJobs


@pytest.fixture
def loop():
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def jobs():
    schedule = ScheduleCalls(
        schedule=Fixed(interval=10.0, jitter=0), rng=Random(0), learning=Learning()
    )
    return WatchedJobs(schedule, FailureRules(not_found_grace=15.0, patience=60.0))


@pytest.fixture
def wait(jobs, loop):
    """Begin to wait for a job; return a function that ends the wait."""

    def begin(job_id, now):
        waiter = Waiter(loop.create_future())
        jobs.subscribe(job_id, job_id, waiter, now)
        return lambda at: jobs.unsubscribe(job_id, waiter, keep_from=at)

    return begin


def poll(jobs, now, *, status="processing"):
    """Poll the next due job; return its id."""
    state = jobs.pop_due(now)
    if state is None:
        return None
    jobs.succeeded(state, snapshot(state.job_id, status), now)
    return state.job_id


def show(jobs, job_id, now):
    """Let a page of the list, requested at the time `now`, show only this job."""
    status = JobStatus.PROCESSING
    job = JobSummary(
        job_id=job_id,
        status=status,
        status_text=status.value,
        received_at=from_timestamp(0),
        progress=0.0,
    )
    jobs.list_hints.page_listed(status, 0, JobPage(jobs=(job,), has_more=False), now, now)


def end_sweep(jobs, started):
    for _ in jobs.list_hints.sweep_ended(started, started):
        pass


def test_a_job_keeps_its_place_in_the_queue(jobs, wait):
    leave = wait("a", 0.0)
    wait("b", 0.5)
    leave(1.0)
    wait("c", 1.0)
    wait("a", 1.25)  # it was overdue for longer than the other jobs
    assert [poll(jobs, 2.0) for _ in range(4)] == ["a", "b", "c", None]


def test_a_poll_that_was_cancelled_comes_first_again(jobs, wait):
    leave = wait("a", 0.0)
    wait("b", 0.5)
    cancelled = jobs.pop_due(0.0)
    jobs.poll_now("a", 0.5)
    leave(1.0)
    wait("a", 1.0)
    assert not jobs.get("a").in_flight
    jobs.succeeded(cancelled, snapshot("a", "completed"), 1.0)
    jobs.cancelled(cancelled, 1.0, was_sent=True)
    assert [poll(jobs, 2.0) for _ in range(3)] == ["a", "b", None]


def test_a_poll_that_was_cancelled_is_repeated_although_the_list_shows_the_job(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    jobs.list_hints.start_sweeping()
    show(jobs, "a", 5.0)
    assert jobs.pop_due(10.0).job_id == "a"
    leave(11.0)
    jobs.list_hints.is_busy = lambda _now, _within: True
    wait("a", 11.0)
    assert poll(jobs, 11.0) == "a"
    assert poll(jobs, 1e6) is None, "the next one is postponed"


def test_a_poll_that_goes_on_need_not_be_repeated_if_the_list_shows_the_job(jobs, wait, loop):
    waiter = Waiter(loop.create_future())
    jobs.subscribe("a", "a", waiter, 0.0)
    assert poll(jobs, 0.0) == "a"
    jobs.list_hints.start_sweeping()
    show(jobs, "a", 5.0)
    polled = jobs.pop_due(10.0)
    jobs.unsubscribe("a", waiter, keep_from=11.0, keep_poll=True)
    jobs.list_hints.is_busy = lambda _now, _within: True
    wait("a", 11.0)
    assert jobs.get("a") is polled
    jobs.succeeded(polled, snapshot("a", "processing"), 12.0)
    assert poll(jobs, 1e6) is None, "the next one is postponed"


def test_nothing_is_polled_while_nobody_waits(jobs, wait):
    leave = wait("a", 0.0)
    leave(1.0)
    assert (len(jobs), jobs.get("a"), jobs.poll_queue.next_due()) == (0, None, None)
    assert not jobs.poll_now("a", 2.0)
    assert poll(jobs, 100.0) is None


@pytest.mark.parametrize("gap", [0.0, 9.9, 10.0])
def test_a_new_wait_is_polled_immediately(jobs, wait, gap):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    leave(1.0)
    wait("a", 1.0 + gap)
    assert poll(jobs, 1.0 + gap) == "a"
    assert jobs.get("a").added_at == (0.0 if gap < 10 else 1.0 + gap)
    assert poll(jobs, 10.9 + gap) is None  # the next poll follows 10 s later, by the schedule


def test_seconds_in_which_nobody_waits_do_not_make_polls_late(jobs, wait):
    """Otherwise, the request budget would seem to be short."""
    for now in range(0, 65, 13):
        leaves = [wait(job_id, now) for job_id in "abcde"]
        while poll(jobs, now):  # by the schedule, the next polls are due 10 s later
            pass
        for leave in leaves:
            leave(now + 8)
    assert not jobs.schedule_calls.throughput.is_short


def test_a_job_that_sweeps_did_not_show_is_still_urgent(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    jobs.list_hints.start_sweeping()
    end_sweep(jobs, 3.0)
    assert jobs.list_trust.pending_confirmation == 1
    leave(3.5)
    assert jobs.list_trust.pending_confirmation == 0
    jobs.list_hints.is_busy = lambda _now, _within: True
    wait("a", 3.6)
    assert jobs.list_trust.pending_confirmation == 1
    assert poll(jobs, 3.6) == "a"
    assert jobs.list_trust.pending_confirmation == 0


def test_a_sweep_that_takes_longer_than_each_wait_finds_missing_jobs(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    jobs.list_hints.start_sweeping()
    leave(2.0)
    wait("a", 2.0)
    end_sweep(jobs, 1.5)
    assert jobs.get("a").missing_at == 1.5


def test_a_page_that_shows_a_job_between_two_waits_counts(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    jobs.list_hints.start_sweeping()
    end_sweep(jobs, 1.0)
    assert jobs.get("a").missing_at == 1.0
    leave(2.0)
    show(jobs, "a", 2.5)
    wait("a", 3.0)
    end_sweep(jobs, 1.5)
    assert (jobs.get("a").missing_at, jobs.get("a").last_active_at) == (math.inf, 2.5)


def test_learning_counts_a_job_once_and_until_it_is_forgotten(jobs, wait):
    durations = jobs.learning.durations
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    for now in (1.0, 2.0):
        leave(now)
        leave = wait("a", now)
    assert at_risk(durations)[0] == 1
    assert not durations._gone
    leave(3.0)
    wait("b", 13.0)
    assert at_risk(durations)[0] == 0
    assert sum(durations._gone.values()) == 1


def test_a_watch_of_a_left_job_begins_anew(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    leave(1.0)
    subscription = subscription_of(limit=1)
    add_id(subscription, "a")
    state = jobs.subscribe("a", "a", subscription, 2.0)
    assert (state.polls, state.added_at) == (0, 2.0)
    assert at_risk(jobs.learning.durations)[0] == 0


def test_of_many_left_jobs_the_latest_thousand_are_kept(jobs, wait):
    leaves = [wait(f"job-{number}", 0.0) for number in range(1_001)]
    while poll(jobs, 0.0):
        pass
    for leave in leaves:
        leave(1.0)
    assert at_risk(jobs.learning.durations)[0] == 1_000
    wait("job-0", 1.0)
    wait("job-1", 1.0)
    assert (jobs.get("job-0").added_at, jobs.get("job-1").added_at) == (1.0, 0.0)


def test_failed_polls_are_remembered_for_longer(jobs, wait):
    leave = wait("a", 0.0)
    state = jobs.pop_due(0.0)
    jobs.failed(state, TransportError("reset", job_id="a"), 0.0)
    for gap in (1.0, 100.0):
        leave(1.0)
        leave = wait("a", 1.0 + gap)
        assert jobs.get("a").failures.polls == 1


def test_the_error_of_a_wait_names_no_status_of_an_earlier_wait(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    leave(1.0)
    wait("a", 1.0)
    error = jobs.failure_rules.timeout_error("a", jobs.get("a"), 0.5)
    assert (error.last_status, error.polls) == (None, 0)


def test_an_idle_watcher_forgets_the_job_in_time():
    """Until then, the job counts as active in what the watcher has learnt."""

    async def main():
        source = WorldSource(world=World(clock=loop_clock()))
        job_id = source.world.submit(JobPlan(processing_time=math.inf))
        async with JobWatcher(source) as watcher:
            with pytest.raises(JobTimeoutError):
                await watcher.wait(job_id, timeout=1.0)
            await asyncio.sleep(9.9)
            assert at_risk(watcher.durations)[0] == 1
            await asyncio.sleep(0.2)
            assert at_risk(watcher.durations)[0] == 0

    run(main())


def test_clearing_forgets_left_jobs(jobs, wait):
    leave = wait("a", 0.0)
    assert poll(jobs, 0.0) == "a"
    leave(1.0)
    for _ in jobs.clear():
        pass
    assert at_risk(jobs.learning.durations)[0] == 0
    wait("a", 1.5)
    assert jobs.get("a").added_at == 1.5


# --- polls that are in flight when a wait ends by its timeout ------------------------------------


async def expect_timeout(watcher, job_id, seconds):
    with pytest.raises(JobTimeoutError) as caught:
        await watcher.wait(job_id, timeout=seconds)
    return caught.value


def test_the_next_wait_gets_what_a_poll_has_found_since_the_timeout(replay, scripted):
    async def script():
        source = scripted({}, latency=3.0)
        async with JobWatcher(source) as watcher:
            error = await expect_timeout(watcher, "a", 1.5)
            assert (error.polls, watcher.stats.watched, watcher.stats.in_flight) == (0, 0, 1)
            await asyncio.sleep(1.75)
            assert (watcher.stats.in_flight, watcher.stats.settled) == (0, 1)
            assert (await watcher.wait("a")).job_id == "a"
            assert asyncio.get_running_loop().time() == 3.25
            assert source.times("a") == [0.0]
            await watcher.wait("a")
            assert source.times("a") == [0.0, 3.25], "the snapshot is for one wait"

    replay(script)


def test_waits_that_are_shorter_than_each_request_share_it(replay, scripted):
    async def script():
        source = scripted({}, latency=3.0)
        async with JobWatcher(source) as watcher:
            for _ in range(3):
                await expect_timeout(watcher, "a", 0.9)
                await asyncio.sleep(0.05)
            assert (await watcher.wait("a", timeout=0.9)).job_id == "a"
            assert source.times("a") == [0.0]

    replay(script)


@pytest.mark.parametrize("between", [1.5, 2.5])
def test_a_poll_that_hangs_is_cancelled_two_seconds_after_the_last_wait(replay, scripted, between):
    async def script():
        source = scripted({}, latency=1e6)
        async with JobWatcher(source) as watcher:
            await expect_timeout(watcher, "a", 1.0)
            await asyncio.sleep(between)
            await expect_timeout(watcher, "a", 1.0)
            assert source.cancelled == (between > 2)
            await asyncio.sleep(1.9)
            assert source.in_flight.total() == 1
            await asyncio.sleep(0.2)
            assert source.in_flight.total() == 0
            assert watcher.stats.in_flight == 0
            source.latency = 0.1
            assert (await watcher.wait("a")).job_id == "a"

    replay(script)


def test_a_poll_that_waits_for_its_turn_is_cancelled(replay, scripted):
    async def script():
        source, semaphore = scripted({}), asyncio.Semaphore(1)
        async with JobWatcher(source, concurrency=semaphore) as watcher, semaphore:
            await expect_timeout(watcher, "a", 1.0)
            await asyncio.sleep(0)
            assert (watcher.stats.in_flight, source.count()) == (0, 0)

    replay(script)


def test_closing_the_watcher_ends_the_poll(replay, scripted):
    async def script():
        source = scripted({}, latency=1e6)
        async with JobWatcher(source) as watcher:
            await expect_timeout(watcher, "a", 1.0)
        assert (source.in_flight.total(), source.cancelled) == (0, 1)

    replay(script)


def test_the_next_wait_continues_after_a_poll_that_found_the_job_active(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "completed"]}, latency=1.5)
        async with JobWatcher(source, schedule=Fixed(interval=100.0)) as watcher:
            await expect_timeout(watcher, "a", 1.0)
            await asyncio.sleep(1.0)
            assert (
                len(watcher._owner.default_polling.watched_jobs),
                at_risk(watcher.durations)[0],
            ) == (0, 1)
            assert (await watcher.wait("a")).is_terminal
            assert source.times("a") == [0.0, 2.0]

    replay(script)


@pytest.mark.parametrize(("first", "second"), [(0.9, 10.0), (1.1, 1.5)])
def test_the_next_wait_polls_again_if_the_poll_began_a_second_ago(replay, scripted, first, second):
    async def script():
        source = scripted({"a": ["pending", "completed"]}, latency=1.5)
        async with JobWatcher(source, schedule=Fixed(interval=10, jitter=0)) as watcher:
            await expect_timeout(watcher, "a", first)
            await watcher.wait("a")
            assert source.times("a") == [0.0, second]

    replay(script)


def test_a_failed_poll_counts_against_the_job(replay, scripted):
    async def script():
        lost = TransportError("reset", job_id="a")
        source = scripted({"a": [lost, "pending"]}, latency=1.5)
        async with JobWatcher(source, schedule=Fixed(interval=100.0)) as watcher:
            await expect_timeout(watcher, "a", 1.0)
            await asyncio.sleep(1.0)
            error = await expect_timeout(watcher, "a", 1.0)
            assert (error.polls, str(error.last_error)) == (1, str(lost))

    replay(script)


def not_found():
    return JobNotFoundError(status=404, job_id="a")


@pytest.mark.parametrize(
    ("make_error", "polls"),
    [
        (not_found, 6),
        (lambda: PaymentRequiredError(status=402, job_id="a"), 1),
        (lambda: AuthenticationError(status=401, job_id="a"), 2),
    ],
)
def test_the_next_wait_raises_the_error_of_a_poll_that_went_on(replay, scripted, make_error, polls):
    """Each poll fails while nobody waits."""

    async def script():
        source = scripted({"a": [make_error()]}, latency=1.5)
        async with JobWatcher(source, not_found_grace=10.0) as watcher:
            for _ in range(polls):
                await expect_timeout(watcher, "a", 1.0)
                await asyncio.sleep(2.5)
            with pytest.raises(type(make_error())):
                await watcher.wait("a", timeout=1.0)
            assert source.count("a") == polls
            assert watcher.stats.watched == watcher.stats.in_flight == 0
            assert watcher.stats.given_up == (make_error is not_found)
            source.scripts.clear()
            assert (await watcher.wait("a")).job_id == "a"

    replay(script)


def test_a_watch_gets_the_result_of_the_poll(replay, scripted):
    async def script():
        source = scripted({}, latency=1.5)
        async with JobWatcher(source) as watcher:
            await expect_timeout(watcher, "a", 1.0)
            assert [job.job_id async for job in watcher.watch(["a"])] == ["a"]
            assert source.times("a") == [0.0]

    replay(script)


@pytest.mark.parametrize("others", [0, 1_001])
def test_a_job_is_not_polled_twice_at_the_same_time_after_the_process_was_stopped(
    jobs, wait, loop, others
):
    waiter = Waiter(loop.create_future())
    jobs.subscribe("a", "a", waiter, 0.0)
    state = jobs.pop_due(0.0)
    jobs.unsubscribe("a", waiter, keep_from=1.0, keep_poll=True)
    for number in range(others):
        wait(f"job-{number}", 1.0)(1.0)
    assert 90.0 < jobs.left_jobs.forget_old(90.0) < math.inf
    wait("a", 90.0)
    assert jobs.get("a") is state
    assert poll(jobs, 90.0) is None


def test_of_the_settled_jobs_the_latest_64_are_kept(jobs, wait):
    waits = [(f"job-{number}", wait(f"job-{number}", 0.0)) for number in range(65)]
    polled = [jobs.pop_due(0.0) for _ in waits]
    for state in polled:
        jobs.unsubscribe(state.job_id, state.subscribers[0], keep_from=1.0, keep_poll=True)
    for state in polled:
        jobs.succeeded(state, snapshot(state.job_id), 2.0)
    assert (len(jobs.left_jobs.outcomes), len(jobs.left_jobs.states)) == (64, 0)
    assert jobs.left_jobs.forget_old(10.9) == 11.0
    assert jobs.left_jobs.forget_old(11.0) == math.inf
    assert not jobs.left_jobs.outcomes


def test_failures_are_remembered_for_a_bounded_time_and_number_of_jobs():
    memory, failures = FailureMemory(), PollFailures(last_at=0.0)
    memory.keep("a", failures)
    assert memory.recall("a", 600.0) is failures
    assert memory.recall("a", 600.0) is None
    memory.keep("a", failures)
    assert memory.recall("a", 601.0) is None
    for number in range(1_001):
        memory.keep(f"job-{number}", failures)
    assert memory.recall("job-0", 1.0) is None
    assert memory.recall("job-1", 1.0) is failures
