"""Pollers by themselves, in virtual time: which tasks run, and which timers are set."""

import asyncio
from random import Random

import pytest
from internals import timers
from scripted import ScriptedSource
from subscribing import add_id, subscription_of
from watching import now

from adepoll.common.tasks import join
from adepoll.scheduling.schedules import Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.pollers import Pollers
from adepoll.watching.schedule_calls import ScheduleCalls
from adepoll.watching.turns import Semaphore
from adepoll.watching.watched_jobs import WatchedJobs

INTERVAL = 10.0


def make_pollers(source, *, max_polls=10, places=10, bugs=None):
    schedule_calls = ScheduleCalls(schedule=Fixed(interval=INTERVAL, jitter=0), rng=Random(0))
    rules = FailureRules(not_found_grace=15.0, patience=60.0)
    return Pollers(
        WatchedJobs(schedule_calls, rules),
        source,
        max_polls=max_polls,
        semaphore=Semaphore(places),
        on_fatal=(bugs if bugs is not None else []).append,
    )


def watch(pollers, *job_ids):
    subscription = subscription_of(limit=10_000)
    for job_id in job_ids:
        add_id(subscription, job_id)
        pollers.watched_jobs.subscribe(job_id, job_id, subscription, now())
    return subscription


def test_jobs_are_polled_when_they_are_due_by_one_timer(replay):
    async def script():
        source = ScriptedSource({"a": ["pending"]}, latency=0.0)
        pollers = make_pollers(source)
        watch(pollers, "a")
        pollers.pump()
        pollers.pump()
        await asyncio.sleep(25.0)
        assert source.times("a") == [0.0, 10.0, 20.0]
        assert [timer.when() for timer in timers()] == [30.0]
        pollers.watched_jobs.poll_queue.put(pollers.watched_jobs.get("a"), 27.0)
        pollers.pump()
        assert [timer.when() for timer in timers()] == [27.0]
        await join(pollers.close())
        assert not timers()

    replay(script)


def test_no_poll_begins_after_the_end(replay):
    async def script():
        source = ScriptedSource({"a": ["pending"]})
        pollers = make_pollers(source)
        watch(pollers, "a")
        pollers.pump()
        assert (pollers.in_flight, pollers.keys_in_flight()) == (1, ["a"])
        await join(pollers.close())
        assert (pollers.in_flight, pollers.keys_in_flight()) == (0, [])
        watch(pollers, "a")
        pollers.pump()
        assert pollers.in_flight == 0
        assert not timers()

    replay(script)


@pytest.mark.parametrize("max_polls", [1, 2, 5])
def test_no_more_jobs_are_polled_at_the_same_time_than_allowed(replay, max_polls):
    async def script():
        source = ScriptedSource(latency=1.0)
        pollers = make_pollers(source, max_polls=max_polls)
        watch(pollers, *"abcdefgh")
        pollers.pump()
        assert pollers.in_flight == min(max_polls, 4)  # at first, four polls may wait for a turn
        await asyncio.sleep(20.0)
        assert source.most_in_flight == max_polls
        assert len(pollers.watched_jobs) == 0
        await join(pollers.close())

    replay(script)


def test_a_poll_that_takes_long_delays_no_other_job(replay):
    async def script():
        answer = asyncio.get_running_loop().create_future()
        source = ScriptedSource({"slow": [answer], "a": ["pending"]}, latency=0.0)
        pollers = make_pollers(source)
        watch(pollers, "slow", "a")
        pollers.pump()
        await asyncio.sleep(35.0)
        assert source.times("a") == [0.0, 10.0, 20.0, 30.0]
        answer.cancel()
        await join(pollers.close())

    replay(script)


def test_many_jobs_are_forgotten_in_no_time(replay):
    async def script():
        pollers = make_pollers(ScriptedSource({}, latency=0.0))
        watch(pollers, *[f"job-{number}" for number in range(1_200)])
        for _ in range(1_200):
            state = pollers.watched_jobs.pop_due(now())
            state.first_active_age = 0.0
            pollers.watched_jobs.learning.durations.begin()
        pollers.cancel_all()
        began = now()
        await join(pollers.close())
        assert now() == began
        assert len(pollers.watched_jobs) == 0

    replay(script)


def test_a_bug_of_a_poll_is_reported_and_others_go_on(replay):
    async def script():
        bugs = []
        source = ScriptedSource({"a": [ZeroDivisionError("bug")], "b": ["pending"]}, latency=0.0)
        pollers = make_pollers(source, max_polls=1, bugs=bugs)
        watch(pollers, "a", "b")
        pollers.pump()
        await asyncio.sleep(1.0)
        assert [type(bug) for bug in bugs] == [ZeroDivisionError]
        assert source.times("b") == [0.0]
        await join(pollers.close())

    replay(script)


def test_a_poll_that_nobody_needs_is_cancelled_and_another_job_is_polled(replay):
    async def script():
        source = ScriptedSource({"a": ["pending"], "b": ["pending"]}, latency=5.0)
        pollers = make_pollers(source, max_polls=1)
        subscription = watch(pollers, "a", "b")
        pollers.pump()
        await asyncio.sleep(1.0)
        (task,) = pollers.unsubscribe("a", subscription)
        assert pollers.unsubscribe("a", subscription) == []
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.sleep(0.1)
        assert source.times("b") == [1.0]
        idle = []
        pollers.on_idle = lambda: idle.append(1) or []
        (task,) = pollers.unsubscribe("b", subscription)
        assert idle == [1]
        await asyncio.wait([task])
        await join(pollers.close())

    replay(script)


def test_a_poll_that_was_cancelled_before_its_first_step_is_repeated(replay):
    async def script():
        source = ScriptedSource({"a": ["pending"]}, latency=0.0)
        pollers = make_pollers(source)
        watch(pollers, "a")
        pollers.pump()
        state = pollers.watched_jobs.get("a")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert source.polls == []
        await asyncio.sleep(0.1)
        assert (state.in_flight, pollers.in_flight) == (False, 0)
        assert not pollers.turns.waiting
        await asyncio.sleep(11.0)
        assert source.times("a") == [0.0, 10.0]
        await join(pollers.close())

    replay(script)


def test_sweeps_end_a_second_after_the_last_waiter_has_left_each_time(replay):
    async def script():
        pollers, idle = make_pollers(ScriptedSource({"a": ["pending"]}, latency=0.0)), []
        pollers.on_idle = lambda: idle.append(now()) or []
        for _ in range(2):
            subscription = watch(pollers, "a")
            pollers.unsubscribe("a", subscription, keep_from=now())
            await asyncio.sleep(0.9)
            subscription = watch(pollers, "a")
            pollers.unsubscribe("a", subscription, keep_from=now())
            await asyncio.sleep(2.1)
        assert idle == [1.0, 4.0]
        await join(pollers.close())

    replay(script)
