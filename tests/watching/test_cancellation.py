"""Cancelled, closed or left in the middle of anything, a watcher leaves a consistent state.

Every script here runs under `replay`, which fails a test for a task or a timer that is left over,
and for anything the loop complains of, such as an exception that was never retrieved.
"""

import asyncio
import contextlib
import gc
import sys
from random import Random

import pytest
from internals import timers
from watching import now

from adepoll.emulator import VirtualTimeLoop, run
from adepoll.errors import (
    ClosedError,
    JobTimeoutError,
    PaymentRequiredError,
    UnresolvedJobsError,
)
from adepoll.scheduling.schedules import Fixed
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.watcher import JobWatcher

JOBS = [f"job{number}" for number in range(200)]


def watcher_of(source, **options):
    options = {"schedule": Fixed(interval=10, jitter=0), "rng": Random(0)} | options
    return JobWatcher(source, **options)


def endless(scripted):
    """A source of jobs that never end."""
    return scripted({job_id: ["pending"] for job_id in JOBS})


def tasks_besides():
    return asyncio.all_tasks() - {asyncio.current_task()}


def assert_idle(watcher, *, subscribers=0):
    stats = watcher.stats
    assert (stats.watched, stats.in_flight) == (0, 0)
    assert stats.subscribers == subscribers
    assert not watcher._owner.tasks
    assert not watcher._owner.default_polling.pollers._pollers


async def assert_quiet(watcher, source):
    """Nothing runs for the watcher, nothing comes later, and it can be used again."""
    assert_idle(watcher)
    assert source.in_flight.total() == 0
    polls = source.count()
    await asyncio.sleep(100)
    assert source.count() == polls
    assert (await watcher.wait("fresh")).job_id == "fresh"
    settled = [job.job_id async for job in watcher.watch(["fresh", "too"])]
    assert sorted(settled) == ["fresh", "too"]


async def soon():
    for _ in range(3):
        await asyncio.sleep(0)


# Moments: during the first polls, between polls and sweeps, and during the second polls.
moments = pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 4.9, 10.15])


# --- the end of a watch -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(6))
def test_the_error_at_the_end_is_raised_after_a_cancelled_request(replay, scripted, steps):
    """As by the heartbeat of an event stream, which limits the time of each request."""

    async def script():
        async with (
            watcher_of(endless(scripted)) as watcher,
            watcher.watch(JOBS[:1], timeout=1) as watch,
        ):
            request = asyncio.create_task(anext(watch))
            await asyncio.sleep(1)
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            errors = await asyncio.gather(request, return_exceptions=True)
            while isinstance(errors[-1], asyncio.CancelledError):
                errors += await asyncio.gather(anext(watch), return_exceptions=True)
            assert isinstance(errors[-1], UnresolvedJobsError)
            assert [job async for job in watch] == []

    replay(script)


# --- leaving a watch ----------------------------------------------------------------------------


@moments
def test_leaving_the_block_of_a_watch_ends_it(replay, scripted, moment):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            async with watcher.watch(JOBS) as watch:
                await asyncio.sleep(moment)
            assert not tasks_besides()
            assert set(watch.unresolved) == set(JOBS) or moment == 0
            assert set(watch.unresolved.values()) <= {None}
            assert [job async for job in watch] == []
            await assert_quiet(watcher, source)

    replay(script)


def test_breaking_out_of_a_loop_ends_the_watch(replay, scripted):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            async for job in watcher.watch(["a", *JOBS, "b"]):
                assert job.job_id == "a"
                assert tasks_besides()
                break
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


def test_breaking_out_of_a_loop_while_ids_are_read_ends_the_watch(replay, scripted):
    async def script():
        closed = []

        async def slowly():
            try:
                for job_id in ["a", *JOBS]:
                    yield job_id
                    await asyncio.sleep(1)
            finally:
                await asyncio.sleep(3)
                closed.append(now())

        source = endless(scripted)
        async with watcher_of(source) as watcher:
            async for _ in watcher.watch(slowly()):
                break
            await asyncio.sleep(3.5)
            assert closed == [pytest.approx(3.1)]
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


def test_leaving_a_watch_waits_until_the_iterable_is_closed(replay, scripted):
    """Even where it was not waiting for anything, so that the cancelling did not reach it."""

    async def script():
        closed = []

        async def hurry():
            try:
                number = 0
                while True:
                    yield f"hurry{number % 5}"
                    number += 1
            finally:
                await asyncio.sleep(3)
                closed.append(now())

        source = scripted()
        async with watcher_of(source) as watcher:
            async with watcher.watch(hurry()):
                await asyncio.sleep(0)
            assert closed == [3]
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


@pytest.mark.parametrize("end", ["leave", "timeout", "close", "bad key"])
def test_ids_of_an_iterable_that_ignores_its_cancellation_are_ignored(replay, scripted, end):
    async def script():
        source = endless(scripted)
        source.scripts["bad"] = ["pending", PaymentRequiredError(status=402)]

        taken = []

        async def deaf():
            yield "bad" if end == "bad key" else "job0"
            for job_id in JOBS[1:10]:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3)
                taken.append(job_id)
                yield job_id

        async with watcher_of(source) as watcher:
            async with watcher.watch(deaf(), timeout=5 if end == "timeout" else None) as watch:
                await asyncio.sleep(5)
                if end != "leave":
                    await (watcher.aclose() if end == "close" else asyncio.sleep(11))
                    known = watch.progress.known
                    await asyncio.sleep(100)
                    assert watch.progress.known == known <= 4
                    with pytest.raises((UnresolvedJobsError, ClosedError, PaymentRequiredError)):
                        await anext(watch)
            assert len(taken) <= 4, "no id is read after the first one that is ignored"
            assert not tasks_besides()
            assert_idle(watcher)
            if end != "close":
                await assert_quiet(watcher, source)

    replay(script)


def test_an_error_in_the_body_of_a_loop_ends_the_watch(replay, scripted):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            with contextlib.suppress(LookupError):
                async for job in watcher.watch(["a", *JOBS]):
                    raise LookupError(job.job_id)
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


@pytest.mark.parametrize("inner", [True, False])
def test_an_error_in_a_body_closes_all_blocks(replay, scripted, inner):
    async def script():
        source = endless(scripted)
        watcher = watcher_of(source)

        async def serve():
            block = watcher.watch(["a", *JOBS]) if inner else contextlib.nullcontext()
            async with watcher, block:
                async for job in watcher.watch(["a", *JOBS]):
                    raise LookupError(job.job_id)

        with pytest.raises(LookupError):
            await serve()
        assert not tasks_besides()
        assert_idle(watcher)
        assert source.in_flight.total() == 0

    replay(script)


def test_a_watch_in_a_reference_cycle_ends_when_it_is_collected(replay, scripted):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            cycle = [watcher.watch(JOBS)]
            cycle.append(cycle)
            waiting = asyncio.create_task(anext(cycle[0]))
            await asyncio.sleep(5)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert watcher.stats.watched == len(JOBS)
            del cycle, waiting
            gc.collect()
            await soon()
            await assert_quiet(watcher, source)

    replay(script)


def test_a_watch_can_be_collected_after_its_loop_was_closed(scripted):
    kept = []

    async def script():
        watcher = watcher_of(endless(scripted))
        watch = watcher.watch(["a", *JOBS])
        kept.append(watch)
        await anext(watch)
        await watcher.aclose()

    asyncio.run(script())
    kept.clear()
    gc.collect()


def test_leaving_a_watch_cancels_no_poll_that_another_watch_needs(replay, scripted):
    async def script():
        source = scripted({"shared": ["pending", "completed"], "own": ["pending"]})
        async with watcher_of(source) as watcher:
            other = asyncio.create_task(anext(watcher.watch(["shared"])))
            async with watcher.watch(["shared", "own"]):
                await asyncio.sleep(0.05)
            assert source.cancelled == 1
            assert source.in_flight["shared"] == 1
            assert (await other).job_id == "shared"
            assert source.count("shared") == 2

    replay(script)


def test_a_job_can_be_watched_again_while_its_cancelled_poll_ends(replay, scripted):
    async def script():
        class Slow:
            """Takes two seconds to end a cancelled poll."""

            def __init__(self):
                self.inner = scripted({"a": ["pending", "completed"]}, latency=1)

            async def get_job(self, job_id):
                try:
                    return await self.inner.get_job(job_id)
                except asyncio.CancelledError:
                    await asyncio.sleep(2)
                    raise

        source = Slow()
        async with watcher_of(source) as watcher:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await watcher.wait("a")
            assert (await watcher.wait("a")).job_id == "a"
            assert source.inner.count() == 2
            assert now() == 1.5
            await asyncio.sleep(2)
            await assert_quiet(watcher, source.inner)

    replay(script)


# --- cancelling the consumer --------------------------------------------------------------------


@moments
@pytest.mark.parametrize("block", [True, False])
def test_cancelling_the_consumer_ends_the_watch(replay, scripted, moment, block):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:

            async def consume():
                if block:
                    async with watcher.watch(JOBS) as watch:
                        async for _ in watch:
                            pytest.fail("none of them ends")
                else:
                    async for _ in watcher.watch(JOBS):
                        pytest.fail("none of them ends")

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(moment)
            consumer.cancel("enough")
            await asyncio.wait([consumer])
            assert consumer.cancelled()
            del consumer
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


@moments
def test_a_timeout_around_the_loop_ends_the_watch(replay, scripted, moment):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:

            async def consume():
                async with asyncio.timeout(moment), watcher.watch(JOBS) as watch:
                    await anext(watch)

            with pytest.raises(TimeoutError) as caught:
                await consume()
            assert type(caught.value) is TimeoutError
            assert now() == moment
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


def test_a_timeout_around_each_step_loses_nothing(replay, scripted):
    async def script():
        source = scripted({job_id: ["pending", "completed"] for job_id in JOBS}, latency=0.3)
        seen, timeouts = [], 0
        async with watcher_of(source, concurrency=7, buffer=3) as watcher:
            watch = watcher.watch(JOBS)
            while True:
                try:
                    async with asyncio.timeout(0.05):
                        seen.append((await anext(watch)).job_id)
                except TimeoutError:
                    timeouts += 1
                except StopAsyncIteration:
                    break
        assert sorted(seen) == sorted(JOBS)
        assert timeouts > 100

    replay(script)


def test_cancelling_while_the_watch_is_being_closed_still_closes_it(replay, scripted):
    async def script():
        closed = []

        class Slow:
            async def get_job(self, job_id):
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(2)
                    closed.append(now())

        async with watcher_of(Slow()) as watcher:

            async def consume():
                async with watcher.watch(["a", "b"]):
                    await asyncio.sleep(1)

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(1.5)
            consumer.cancel()
            await asyncio.sleep(0.1)
            consumer.cancel()
            await asyncio.wait([consumer])
            assert consumer.cancelled()  # it was not swallowed
            assert closed == [3, 3]  # and nothing was left running
            assert not tasks_besides()

    replay(script)


@moments
def test_cancelling_the_task_that_owns_the_watcher_closes_it(replay, scripted, moment):
    async def script():
        source = endless(scripted)
        watchers = []

        async def serve():
            async with watcher_of(source) as watcher, asyncio.TaskGroup() as group:
                watchers.append(watcher)
                group.create_task(watcher.wait("job1"))
                group.create_task(watcher.wait("job2", timeout=600))
                async with watcher.watch(JOBS, timeout=600) as watch:
                    async for _ in watch:
                        pytest.fail("none of them ends")

        server = asyncio.create_task(serve())
        await asyncio.sleep(moment)
        server.cancel()
        await asyncio.wait([server])
        assert server.cancelled()
        assert not tasks_besides()
        assert source.in_flight.total() == 0
        if watchers:
            assert_idle(watchers[0])

    replay(script)


# --- cancelling a wait --------------------------------------------------------------------------


@moments
def test_cancelling_a_wait_leaves_nothing_behind(replay, scripted, moment):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            wait = asyncio.create_task(watcher.wait("job1", timeout=600))
            await asyncio.sleep(moment)
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


@pytest.mark.parametrize("answer", ["completed", PaymentRequiredError(status=402), RuntimeError()])
def test_cancelling_a_wait_in_the_step_of_its_answer_leaves_nothing_behind(
    replay, scripted, answer
):
    async def script():
        source = scripted({"a": [answer]})
        async with watcher_of(source) as watcher:
            wait = asyncio.create_task(watcher.wait("a"))
            for step in range(50):
                await asyncio.sleep(0 if step > 1 else 0.05)
                if next(iter(watcher._waiters)).future.done():
                    break
            else:
                pytest.fail("no answer came")
            assert not wait.done()
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
            await soon()
            await assert_quiet(watcher, source)

    replay(script)


@pytest.mark.parametrize("seed", range(20))
def test_waits_that_start_and_end_in_any_order_leave_nothing_behind(replay, scripted, seed):
    async def script():
        rng = Random(seed)
        source = scripted({f"job{n}": ["pending"] * n + ["completed"] for n in range(5)})
        async with watcher_of(source, schedule=Fixed(interval=0.4), concurrency=3) as watcher:

            async def come_and_go():
                await asyncio.sleep(rng.uniform(0, 3))
                with contextlib.suppress(JobTimeoutError):
                    timeout = rng.choice([None, 0, rng.uniform(0, 1)])
                    await watcher.wait(f"job{rng.randrange(5)}", timeout=timeout)

            tasks = [asyncio.create_task(come_and_go()) for _ in range(60)]
            while pending := [task for task in tasks if not task.done()]:
                if rng.random() < 0.2:
                    rng.choice(pending).cancel()
                await asyncio.sleep(rng.uniform(0, 0.1))
            assert not [task for task in tasks if not task.cancelled() and task.exception()]
            await asyncio.sleep(0.2)  # a poll goes on if the timeout of its wait is over
            await assert_quiet(watcher, source)

    replay(script)


# --- closing the watcher ------------------------------------------------------------------------


@moments
def test_closing_the_watcher_ends_open_watches_and_waits(replay, scripted, moment):
    async def script():
        source = endless(scripted)
        watcher = watcher_of(source)

        async def consume(watch):
            return [job.job_id async for job in watch]

        tasks = [
            asyncio.create_task(work)
            for work in (
                consume(watcher.watch(JOBS)),
                consume(watcher.watch(JOBS, timeout=600)),
                consume(watcher.updates(["never"] if moment > 1 else JOBS)),
                watcher.wait("job1"),
                watcher.wait("job2", timeout=600),
            )
        ]
        source.scripts["never"] = [asyncio.get_running_loop().create_future()]
        await asyncio.sleep(0)
        await asyncio.sleep(moment)
        await watcher.aclose()
        assert source.in_flight.total() == 0
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {ClosedError}
        assert len({id(end) for end in ends}) == 5
        assert not tasks_besides()
        assert_idle(watcher)
        polls = source.count()
        await asyncio.sleep(100)
        assert source.count() == polls

    replay(script)


def test_buffered_snapshots_are_yielded_after_the_watcher_was_closed(replay, scripted):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            watch = watcher.watch(["a", "b", *JOBS], timeout=600)
            first = await anext(watch)
        assert not timers()
        second = await anext(watch)
        assert {first.job_id, second.job_id} == {"a", "b"}
        with pytest.raises(ClosedError):
            await anext(watch)
        assert watch.unresolved["job1"] is None  # a shutdown says nothing about a job
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    replay(script)


def test_the_watcher_can_be_closed_twice_and_at_the_same_time(replay, scripted):
    async def script():
        watcher = watcher_of(endless(scripted))
        watch = watcher.watch(["a", *JOBS])
        await anext(watch)
        await asyncio.gather(watcher.aclose(), watcher.aclose(), watch.aclose())
        await watcher.aclose()
        await watch.aclose()
        assert not tasks_besides()
        assert_idle(watcher)

    replay(script)


def test_the_iterable_of_ids_can_close_the_watcher(replay, scripted):
    async def script():
        source = endless(scripted)
        watcher = watcher_of(source)

        async def close_it():
            yield "job1"
            await asyncio.sleep(1)
            await watcher.aclose()
            yield "job2"

        with pytest.raises(ClosedError):
            await anext(watcher.watch(close_it()))
        await soon()
        assert not tasks_besides()
        assert_idle(watcher)

    replay(script)


def test_the_watcher_is_closed_even_if_aclose_is_cancelled(replay, scripted):
    async def script():
        class Stubborn:
            async def get_job(self, job_id):
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(5)

        watcher = watcher_of(Stubborn())
        watch = watcher.watch(["a"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(watch)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await watcher.aclose()
        assert now() == 6
        assert not tasks_besides()
        assert_idle(watcher, subscribers=1)  # the watch, which has not been iterated since
        with pytest.raises(ClosedError):
            await anext(watch)
        assert_idle(watcher)

    replay(script)


# --- cancelled from outside ---------------------------------------------------------------------


@moments
def test_polls_cancelled_from_outside_are_repeated(replay, scripted, moment):
    """As by a server that cancels all tasks it does not know, and goes on."""

    async def script():
        source = scripted({job_id: ["pending", "completed"] for job_id in JOBS})
        async with watcher_of(source, concurrency=10) as watcher:

            async def consume():
                return [job.job_id async for job in watcher.watch(JOBS)]

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(0)
            await asyncio.sleep(moment)
            polls = [*watcher._owner.default_polling.pollers._in_flight.values()]
            for task in polls:
                task.cancel()
            if polls:
                await asyncio.wait(polls)
            assert all(task.cancelled() for task in polls)
            assert sorted(await consumer) == sorted(JOBS)
            assert_idle(watcher)

    replay(script)


def test_a_source_may_answer_although_it_was_cancelled(replay, scripted):
    async def script():
        class Deaf:
            async def get_job(self, job_id):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
                return scripted.snapshot(job_id)

        async with watcher_of(Deaf(), concurrency=2) as watcher:
            async with watcher.watch(JOBS):
                await asyncio.sleep(1)
            assert not tasks_besides()
            assert_idle(watcher)
            wait = asyncio.create_task(watcher.wait("fresh"))
            assert (await wait).job_id == "fresh"

    replay(script)


# --- bugs ---------------------------------------------------------------------------------------


def test_a_bug_cancels_and_awaits_what_runs(replay, scripted):
    async def script():
        source = endless(scripted)
        source.scripts["buggy"] = ["pending", ZeroDivisionError("a bug")]
        async with watcher_of(source) as watcher:
            watch = watcher.watch(["buggy", *JOBS])
            with pytest.raises(ZeroDivisionError):
                await anext(watch)
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)

    replay(script)


def test_a_bug_is_kept_for_a_consumer_that_comes_later(replay, scripted):
    async def script():
        async with (
            watcher_of(scripted({"buggy": [ZeroDivisionError("a bug")]})) as watcher,
            watcher.watch(["a", "buggy"]) as watch,
        ):
            await asyncio.sleep(100)
            assert not tasks_besides()
            assert (await anext(watch)).job_id == "a"
            with pytest.raises(ZeroDivisionError):
                await anext(watch)

    replay(script)


# --- at every step ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(40))
def test_cancellation_after_any_number_of_loop_steps_leaves_nothing_behind(replay, scripted, step):
    """In every step of the loop: during a start, a poll, an end and a close."""

    async def script():
        source = scripted(
            {"b": ["pending", "completed"], "bad": [PaymentRequiredError(status=402)]}
        )
        watchers = []

        async def ids():
            for job_id in ("a", "b", "c"):
                yield job_id
            await asyncio.sleep(0)
            yield "bad" if step % 2 else "d"

        async def work():
            async with watcher_of(source, concurrency=2, buffer=1) as watcher:
                watchers.append(watcher)
                async with watcher.watch(ids(), timeout=30) as watch:
                    async for _ in watch:
                        await asyncio.sleep(0)

        worker = asyncio.create_task(work())
        for _ in range(step):
            await asyncio.sleep(0 if step % 3 else 0.03)
        was_done = worker.done()
        worker.cancel()
        await asyncio.wait([worker])
        assert worker.cancelled() is not was_done
        if was_done:
            assert type(worker.exception()) is (PaymentRequiredError if step % 2 else type(None))
        assert not tasks_besides()
        assert source.in_flight.total() == 0
        for watcher in watchers:
            assert_idle(watcher)

    replay(script)


def test_a_watcher_used_in_another_event_loop_raises_closed_error(scripted):
    watcher = JobWatcher(scripted({"a": ["completed"]}))

    async def script():
        return (await watcher.wait("a")).job_id

    assert run(script()) == "a"
    with pytest.raises(ClosedError, match="belongs to another event loop"):
        run(script())
    run(watcher.aclose())  # the other loop is closed, so no task can be left


def test_a_watcher_is_not_closed_from_another_event_loop(scripted):
    """The tasks of the watcher run in its own loop: the other loop could wait forever."""
    watcher = JobWatcher(scripted({"a": ["pending"]}))

    async def begin():
        wait = asyncio.create_task(watcher.wait("a"))
        await asyncio.sleep(0.05)
        return wait

    async def end(wait):
        await watcher.aclose()
        with pytest.raises(ClosedError, match="the watcher was closed"):
            await wait

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        wait = runner.run(begin())
        with pytest.raises(ClosedError, match="belongs to another event loop"):
            run(watcher.aclose())
        assert not watcher.is_closed
        runner.run(end(wait))


@pytest.mark.parametrize("how", ["break", "return", "error", "cancel"])
@pytest.mark.parametrize("call", ["watch", "updates", "status_updates"])
def test_leaving_the_loop_over_a_watch_with_a_name_ends_it(replay, scripted, call, how):
    async def script():
        source = endless(scripted)
        async with watcher_of(source) as watcher:
            watch = getattr(watcher, call)(["a", *JOBS])

            async def consume():
                async for _ in watch:
                    if how == "break":
                        break
                    if how == "return":
                        return
                    if how == "error":
                        raise LookupError
                    await asyncio.sleep(100)

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(5)
            consumer.cancel()
            with contextlib.suppress(LookupError, asyncio.CancelledError):
                await consumer
            await soon()
            assert not tasks_besides()
            await assert_quiet(watcher, source)
            for _ in range(2):
                with pytest.raises(ClosedError, match="async with"):
                    await anext(watch)
            await watch.aclose()

    replay(script)


def test_a_loop_within_the_block_of_a_watch_can_be_left_and_continued(replay, scripted):
    async def script():
        async with (
            watcher_of(scripted()) as watcher,
            watcher.watch([f"job{n}" for n in range(5)]) as watch,
        ):
            found = []
            for _ in range(3):
                async for job in watch:
                    found.append(job.job_id)
                    if len(found) in {1, 3}:
                        break
            assert len(set(found)) == 5

    replay(script)


def test_a_watch_ends_when_the_last_of_its_loops_is_left(replay, scripted):
    async def script():
        source = endless(scripted)
        source.scripts["late"] = ["pending", "pending", "completed"]
        async with watcher_of(source) as watcher:
            watch = watcher.watch(["a", "late", *JOBS])

            found = []

            async def consume():
                async for job in watch:
                    found.append(job.job_id)
                    break

            await asyncio.gather(consume(), consume())
            assert found == ["a", "late"]
            await soon()
            await assert_quiet(watcher, source)

    replay(script)


def test_closing_a_watch_whose_loop_was_left_waits_until_nothing_runs(replay, scripted):
    async def script():
        async with watcher_of(endless(scripted)) as watcher:
            watch = watcher.watch(["a", *JOBS])
            async for _ in watch:
                break
            await watch.aclose()
            assert not tasks_besides()
            assert [job async for job in watch] == []

    replay(script)


# --- a closed event loop ------------------------------------------------------------------------


async def slowly(job_ids):
    for job_id in job_ids:
        yield job_id
        await asyncio.sleep(10)


async def wait_in_block(source):
    async with watcher_of(source) as watcher:
        await watcher.wait("job0", timeout=100)


async def watch_in_block(source):
    async with watcher_of(source) as watcher, watcher.watch(JOBS) as watch:
        await anext(watch)


async def watch_generator(source):
    async with watcher_of(source) as watcher:
        async for _ in watcher.watch(slowly(JOBS)):
            pass


async def send(source):
    limiter = RateLimiter()
    async with RequestSender(limiter).turn(limiter.hosts.get("")):
        await source.get_job("job0")
        await asyncio.sleep(100)


@pytest.mark.parametrize("consumer", [wait_in_block, watch_in_block, watch_generator, send])
def test_tasks_that_outlive_their_event_loop_raise_no_error(monkeypatch, scripted, consumer):
    """asyncio itself logs each of them: "Task was destroyed but it is pending!"."""
    errors, logged = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: errors.append(raised.exc_value))

    async def main():
        pending.append(asyncio.create_task(consumer(endless(scripted))))
        await asyncio.sleep(1)

    pending = []
    loop = VirtualTimeLoop()
    loop.set_exception_handler(lambda _loop, context: logged.append(context["message"]))
    loop.run_until_complete(main())
    assert not pending[0].done()
    loop.close()
    pending.clear()
    gc.collect()
    assert logged
    assert [error for error in errors if not isinstance(error, Warning)] == []
