"""The watcher from outside, in virtual time: what goes in, what comes out, and when."""

import asyncio
import gc
import itertools
import math
import weakref
from datetime import UTC, datetime
from random import Random

import pytest
from attrs import evolve
from internals import timers
from scripted import snapshot
from subscribing import subscription_of
from two_hosts import V1, V2, TwoHosts
from watching import free_slots, now, watcher_of

from adepoll.api.models import JobStatus
from adepoll.emulator import VirtualTimeLoop
from adepoll.errors import (
    AnswerTimeoutError,
    AuthenticationError,
    ClosedError,
    InvalidJobIdError,
    JobIdsCancelledError,
    JobNotFoundError,
    JobTimeoutError,
    MalformedAnswerError,
    PaymentRequiredError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnprocessableError,
    UnresolvedJobsError,
    WrongJobError,
)
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Adaptive, Fixed
from adepoll.watching.failure_handling import FailureRules
from adepoll.watching.kind_polling import PollingOptions, SubscriptionOwner
from adepoll.watching.watched_jobs import WatchedJobs
from adepoll.watching.watcher import JobWatcher


async def collect(watch, kind=UnresolvedJobsError):
    """Return the ids that a watch yields, and the error at its end, if any."""
    job_ids = []
    try:
        async for job in watch:
            job_ids.append(job.job_id)  # noqa: PERF401 - those before the error are wanted too
    except kind as error:
        return job_ids, error
    return job_ids, None


def statuses(count, *, end="completed"):
    return ["pending"] * count + [end]


async def generate(job_ids, *, every=0.0, log=None):
    for job_id in job_ids:
        await asyncio.sleep(every)
        yield job_id
    if log is not None:
        log.append(now())


# --- every id ends once -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, set, dict.fromkeys, iter, generate])
def test_ids_come_in_any_iterable(replay, scripted, kind):
    async def script():
        job_ids = [f"job{number}" for number in range(1_200)]
        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(kind(job_ids))
            settled, error = await collect(watch)
        assert error is None
        assert sorted(settled) == sorted(job_ids)
        assert not watch.unresolved
        assert watch.progress.settled == {JobStatus.COMPLETED: 1_200}
        assert watch.progress.complete
        assert watch.progress.open == watch.progress.buffered == 0

    replay(script)


@pytest.mark.parametrize("kind", [list, generate])
def test_a_watch_without_ids_ends_immediately(replay, scripted, kind):
    async def script():
        source = scripted()
        async with watcher_of(source) as watcher:
            assert await collect(watcher.watch(kind([]))) == ([], None)
            assert await collect(watcher.updates(kind([]))) == ([], None)
        assert not source.polls
        assert now() == 0

    replay(script)


def test_jobs_are_yielded_as_they_settle_whatever_their_status(replay, scripted):
    async def script():
        source = scripted(
            {"slow": statuses(2), "failed": ["failed"], "lost": statuses(1, end="cancelled")}
        )
        async with watcher_of(source) as watcher:
            return [
                (job.job_id, job.status_text, round(now(), 6))
                async for job in watcher.watch(["slow", "failed", "lost"])
            ]

    assert replay(script) == [
        ("failed", "failed", 0.1),
        ("lost", "cancelled", 10.1),
        ("slow", "completed", 20.1),
    ]


def test_an_id_given_twice_is_watched_once(replay, scripted):
    async def script():
        source = scripted({"a": statuses(2), "gone": [UnprocessableError(status=422)]})
        job_ids = ["a", "gone", "a", "b", "b", "gone", "a/b", "a/b", None, None]
        async with watcher_of(source) as watcher:
            watch = watcher.watch(job_ids)
            settled, error = await collect(watch)
        assert sorted(settled) == ["a", "b"]
        assert sorted(error.causes) == ["NoneType None", "a/b", "gone"]
        assert (source.count("a"), source.count("b"), source.count("gone")) == (3, 1, 1)
        assert watch.progress.known == 5

    replay(script)


def test_an_id_that_comes_again_from_an_iterator_after_it_was_yielded_is_watched_anew(
    replay, scripted
):
    async def script():
        source = scripted()
        async with watcher_of(source) as watcher:
            assert await collect(watcher.watch(generate(["a", "a", "b", "a"], every=60))) == (
                ["a", "a", "b", "a"],
                None,
            )
        assert source.count("a") == 3

    replay(script)


def test_invalid_ids_are_unresolved_without_a_request(replay, scripted):
    async def script():
        source = scripted()
        bad = ["", "a/b", "..", "a b", "x" * 257, "a\n", None, 7, b"bytes", ["list"], 1.5, object]
        async with watcher_of(source) as watcher:
            watch = watcher.watch([*bad, "good"])
            settled, error = await collect(watch)
        assert settled == ["good"]
        assert len(error.causes) == len(bad)
        assert {type(cause) for cause in error.causes.values()} == {InvalidJobIdError}
        assert all(cause.job_id == job_id for job_id, cause in error.causes.items())
        assert "int 7" in error.causes
        assert watch.unresolved == error.causes
        assert source.count() == 1

    replay(script)


def test_a_watch_of_invalid_ids_alone_ends(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            settled, error = await collect(watcher.watch(["a/b"]))
        assert (settled, list(error.causes)) == ([], ["a/b"])

    replay(script)


def test_one_bad_job_does_not_stop_thousands_of_others(replay, scripted):
    async def script():
        good = [f"job{number}" for number in range(3_000)]
        source = scripted({job_id: statuses(1) for job_id in good[::3]})
        source.scripts["bad"] = [UnprocessableError(status=422)]
        source.scripts["gone"] = [JobNotFoundError(status=404)]
        async with watcher_of(source) as watcher:
            settled, error = await collect(watcher.watch([*good[:5], "bad", "gone", *good[5:]]))
        assert sorted(settled) == sorted(good)
        assert {job_id: type(cause) for job_id, cause in error.causes.items()} == {
            "bad": UnprocessableError,
            "gone": JobNotFoundError,
        }
        assert list(error.causes) == ["bad", "gone"]  # in the order in which they were given up

    replay(script)


def test_unresolved_jobs_are_raised_once_after_everything_else(replay, scripted):
    async def script():
        source = scripted({"bad": [UnprocessableError(status=422)], "slow": statuses(5)})
        async with watcher_of(source) as watcher:
            watch = watcher.watch(["bad", "slow"])
            settled, error = await collect(watch)
            assert settled == ["slow"]
            assert [job async for job in watch] == []
        assert error.causes["bad"].status == 422
        assert watch.unresolved == error.causes
        assert now() > 50

    replay(script)


@pytest.mark.parametrize("one_id", ["job-1", b"job-1"])
@pytest.mark.parametrize("method", ["watch", "updates"])
def test_a_single_id_raises_type_error(replay, scripted, method, one_id):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(TypeError, match="iterable of ids, not one id"):
                getattr(watcher, method)(one_id)
            with pytest.raises(TypeError, match="got int"):
                getattr(watcher, method)(7)

    replay(script)


def test_the_first_poll_does_not_wait_for_the_last_id(replay, scripted):
    async def script():
        source, log = scripted(), []
        async with watcher_of(source) as watcher:
            job_ids = generate([f"job{number}" for number in range(10)], every=60, log=log)
            times = [now() async for _ in watcher.watch(job_ids)]
        assert times == pytest.approx([60.1 + 60 * number for number in range(10)])
        assert source.polls[0][0] == 60
        assert log == [600]

    replay(script)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_poll_does_not_wait_until_a_huge_iterable_is_read(replay, scripted, asynchronous):
    async def script():
        source, seen = scripted(), []

        def count():
            for number in range(5_000):
                seen.append(source.count())
                yield f"job{number}"

        async def count_slowly():  # though it never really waits
            for job_id in count():
                yield job_id

        async with watcher_of(source) as watcher:
            watch = watcher.watch(count_slowly() if asynchronous else count())
            async for _ in watch:
                break
            assert watch.progress.known <= 2_200  # the rest is read as jobs are polled and taken
            await watch.aclose()
        assert seen.index(64) <= 1_000

    replay(script)


def test_an_error_of_the_iterable_is_raised_after_buffered_snapshots(replay, scripted):
    async def script():
        async def fail():
            yield "a"
            yield "b"
            await asyncio.sleep(5)
            raise LookupError("no more ids")

        source = scripted({"b": ["pending"]})
        async with watcher_of(source) as watcher:
            watch = watcher.watch(fail())
            async with watch:
                await asyncio.sleep(6)  # by now a is buffered, and the iterable has failed
                settled, error = await collect(watch, LookupError)
                assert settled == ["a"]
                assert str(error) == "no more ids"
                assert watcher.stats.watched == watcher.stats.in_flight == 0
                assert watcher.stats.subscribers == 0
                assert watch.unresolved == {"b": None}
                assert await collect(watch) == ([], None)

    replay(script)


def test_an_error_of_a_plain_iterable_is_raised_too(replay, scripted):
    async def script():
        def fail():
            yield "a"
            raise LookupError("no more ids")

        async with watcher_of(scripted({"a": ["pending"]})) as watcher:
            with pytest.raises(LookupError):
                await collect(watcher.watch(fail()))
            assert watcher.stats.watched == 0

    replay(script)


def test_a_cancelled_iterable_is_not_complete(replay, scripted):
    async def script():
        async def break_off():
            yield "a"
            await asyncio.sleep(1)
            raise asyncio.CancelledError  # as what it waited for was cancelled

        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(break_off())
            assert (await anext(watch)).job_id == "a"
            with pytest.raises(JobIdsCancelledError):
                await anext(watch)

    replay(script)


# --- a bad key ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [PaymentRequiredError(status=402), ClosedError("closed")],
)
def test_an_error_of_the_account_stops_everything_and_is_raised_once_by_each_consumer(
    replay, scripted, error
):
    async def script():
        source = scripted({f"job{number}": ["pending"] for number in range(500)})
        source.scripts["bad"] = [error]
        async with watcher_of(source) as watcher:
            watches = [watcher.watch([f"job{n}" for n in range(i, 500, 2)]) for i in range(2)]
            waits = [watcher.wait(f"job{number}") for number in range(3)]
            tasks = [asyncio.create_task(work) for work in (*map(collect, watches), *waits)]
            await asyncio.sleep(3)
            tasks.append(asyncio.create_task(watcher.wait("bad")))
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ended] == [type(error)] * 6
            assert len({id(end) for end in ended}) == 6  # an instance for each
            assert now() == pytest.approx(3.1)
            assert watcher.stats.watched == watcher.stats.in_flight == 0
            assert watcher.stats.subscribers == 0
            for watch in watches:
                with pytest.raises(StopAsyncIteration):
                    await anext(watch)
                # A shutdown says nothing about a job.
                cause = type(None) if isinstance(error, ClosedError) else type(error)
                assert {type(found) for found in watch.unresolved.values()} == {cause}
            polls = source.count()
            await asyncio.sleep(100)
            assert source.count() == polls

    replay(script)


def test_polls_in_flight_are_cancelled_with_a_bad_key(replay, scripted):
    async def script():
        source = scripted({"bad": [AuthenticationError(status=401)]})
        source.scripts["hangs"] = [asyncio.get_running_loop().create_future()]
        async with watcher_of(source) as watcher:
            with pytest.raises(AuthenticationError):
                await collect(watcher.watch(["hangs", "bad"]))
            assert source.cancelled == 1

    replay(script)


def test_settled_jobs_come_before_the_error_of_a_bad_key(replay, scripted):
    async def script():
        source = scripted({"bad": ["pending", PaymentRequiredError(status=402)]})
        async with watcher_of(source) as watcher, watcher.watch(["a", "bad", "b"]) as watch:
            await asyncio.sleep(60)
            settled, error = await collect(watch, PaymentRequiredError)
        assert sorted(settled) == ["a", "b"]
        assert error.status == 402

    replay(script)


def test_the_watcher_can_be_used_again_after_a_bad_key(replay, scripted):
    async def script():
        source = scripted({"a": [PaymentRequiredError(status=402), "pending", "completed"]})
        async with watcher_of(source) as watcher:
            failed = watcher.watch(["a", "b"])
            async with failed:
                await asyncio.sleep(1)
                # The first watch has not raised its error yet.
                assert (await watcher.wait("a")).job_id == "a"
                assert sorted((await collect(watcher.watch(["a", "b"])))[0]) == ["a", "b"]
                with pytest.raises(PaymentRequiredError):
                    await anext(failed)
            assert sorted((await collect(watcher.watch(["a", "b"])))[0]) == ["a", "b"]

    replay(script)


def test_a_hundred_simultaneous_key_errors_are_raised_once(replay, scripted):
    async def script():
        job_ids = [f"job{number}" for number in range(100)]
        source = scripted({job_id: [AuthenticationError(status=401)] for job_id in job_ids})
        async with watcher_of(source, concurrency=100) as watcher:
            watch = watcher.watch(job_ids)
            with pytest.raises(AuthenticationError):
                await anext(watch)
            with pytest.raises(StopAsyncIteration):
                await anext(watch)
            assert source.count() == 100
            source.scripts.clear()
            # None of the others that were under way may hit the next watch.
            assert sorted((await collect(watcher.watch(job_ids)))[0]) == sorted(job_ids)

    replay(script)


# --- concurrency --------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [2.5, "8", None])
def test_a_concurrency_that_is_not_a_whole_number_raises_type_error(scripted, concurrency):
    with pytest.raises(TypeError):
        JobWatcher(scripted(), concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 7, 64])
def test_polls_in_flight_reach_the_concurrency_and_never_exceed_it(replay, scripted, concurrency):
    async def script():
        source = scripted({f"job{number}": statuses(1) for number in range(1_000)})
        async with watcher_of(source, concurrency=concurrency) as watcher:
            settled, _ = await collect(watcher.watch([f"job{number}" for number in range(1_000)]))
        assert len(settled) == 1_000
        assert source.most_in_flight == concurrency

    replay(script)


def test_no_job_is_polled_twice_at_the_same_time(replay, scripted):
    async def script():
        source = scripted({f"job{number}": statuses(3) for number in range(50)}, latency=3)
        twice = []

        class Source:
            async def get_job(self, job_id):
                twice.append(source.in_flight[job_id])
                return await source.get_job(job_id)

        job_ids = [f"job{number}" for number in range(50)]
        async with watcher_of(Source(), concurrency=200) as watcher:
            tasks = [asyncio.create_task(collect(watcher.watch(job_ids))) for _ in range(5)]
            for step in range(200):
                watcher.poll_now(job_ids[step % 50])
                await asyncio.sleep(0.1)
            await asyncio.gather(*tasks)
        assert set(twice) == {0}

    replay(script)


@pytest.mark.parametrize("slotted", [False, True])
def test_a_semaphore_shared_by_two_watchers_is_held_during_requests_only(replay, scripted, slotted):
    async def script():
        semaphore = asyncio.Semaphore(5)
        inner = scripted({f"job{number}": statuses(3) for number in range(100)})
        waiting = []

        class Slotted:
            """Waits long before each request, as for a rate limit, without the semaphore."""

            def __init__(self, slot=None):
                self.slot = slot

            def for_polling(self, slot):
                return Slotted(slot)

            async def get_job(self, job_id):
                waiting.append(job_id)
                await asyncio.sleep(2)
                waiting.remove(job_id)
                async with self.slot:
                    return await inner.get_job(job_id)

        source = Slotted() if slotted else inner
        async with (
            watcher_of(source, concurrency=semaphore) as one,
            watcher_of(source, concurrency=semaphore) as two,
        ):
            watches = [
                asyncio.create_task(collect(watcher.watch([f"job{n}" for n in numbers])))
                for watcher, numbers in ((one, range(50)), (two, range(50, 100)))
            ]
            if slotted:
                await asyncio.sleep(1)
                assert len(waiting) == 8  # four polls of each watcher may wait
            else:
                await asyncio.sleep(9)  # between polls
                assert inner.in_flight.total() == 0
            assert await free_slots(semaphore) == 5
            await asyncio.gather(*watches)
        assert inner.most_in_flight == 5
        assert await free_slots(semaphore) == 5

    replay(script)


def test_the_number_of_tasks_is_that_of_requests_not_of_jobs(replay, scripted):
    async def script():
        job_ids = [f"job{number}" for number in range(1_000)]
        source = scripted({job_id: statuses(3) for job_id in job_ids})
        most = 0

        class Source:
            async def get_job(self, job_id):
                nonlocal most
                most = max(most, len(asyncio.all_tasks()))
                return await source.get_job(job_id)

        async with watcher_of(Source(), concurrency=20) as watcher:
            watch = watcher.watch(job_ids)
            async for _ in watch:
                most = max(most, len(asyncio.all_tasks()))
        # The polls, the reader of the ids, and this script.
        assert most <= 20 + 2
        assert source.count() == 4 * 1_000

    replay(script)


def test_no_task_runs_between_polls(replay, scripted):
    async def script():
        source = scripted({f"job{number}": ["pending"] for number in range(100)})
        async with watcher_of(source) as watcher, watcher.watch(source.scripts) as watch:
            await asyncio.sleep(5)
            assert len(asyncio.all_tasks()) == 1
            assert watcher.stats.watched == 100
            assert watch.progress.open == 100

    replay(script)


def test_a_source_that_never_waits_works(replay, scripted):
    async def script():
        class Instant:
            async def get_job(self, job_id):
                return scripted.snapshot(job_id)

        job_ids = [f"job{number}" for number in range(2_000)]
        async with watcher_of(Instant(), concurrency=3) as watcher:
            assert (await watcher.wait("a")).job_id == "a"
            assert sorted((await collect(watcher.watch(job_ids)))[0]) == sorted(job_ids)

    replay(script)


class Immediate:
    """A source whose jobs never end, and whose polls never wait, as if it had a cache."""

    polls = 0

    async def get_job(self, job_id):
        self.polls += 1
        assert self.polls < 1_000, "no other task runs between polls"
        return snapshot(job_id, "pending")


def test_polls_that_never_wait_let_other_tasks_run(replay):
    async def script():
        class Without:
            def delay(self, _job, _rng):
                return 0.0

        source = Immediate()
        async with watcher_of(source, schedule=Without()) as watcher:
            wait = asyncio.create_task(watcher.wait("a"))
            for _ in range(9):
                await asyncio.sleep(0)
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
            assert source.polls > 50

    replay(script)


# --- backpressure -------------------------------------------------------------------------------


def test_polls_pause_while_the_consumer_is_slow(replay, scripted):
    async def script():
        source = scripted()
        job_ids = [f"job{number}" for number in range(300)]
        async with watcher_of(source, concurrency=8, buffer=10) as watcher:
            taken, most_buffered = 0, 0
            async with watcher.watch(job_ids) as watch:
                await asyncio.sleep(1_000)
                assert source.count() == 10
                async for _ in watch:
                    taken += 1
                    await asyncio.sleep(1)
                    assert source.count() <= taken + 10
                    most_buffered = max(most_buffered, watch.progress.buffered)
        assert taken == source.count() == 300  # and none was polled twice for it
        assert most_buffered == 10

    replay(script)


@pytest.mark.parametrize("buffer", [1, 2, 50])
def test_the_buffer_never_exceeds_its_limit(replay, scripted, buffer):
    """Not either where another watch of the same jobs has room, or wants every change."""

    async def script():
        job_ids = [f"job{number}" for number in range(60)]
        source = scripted({job_id: statuses(n % 3) for n, job_id in enumerate(job_ids)})
        async with watcher_of(source, concurrency=16, buffer=buffer) as watcher:
            slow, quick = watcher.watch(job_ids), watcher.updates(job_ids)
            buffered = []

            async def consume_slowly():
                async for _ in slow:
                    await asyncio.sleep(2.5)
                    buffered.append(slow.progress.buffered)
                    buffered.append(quick.progress.buffered)

            other = asyncio.create_task(consume_slowly())
            ended = [job.job_id async for job in quick if job.is_terminal]
            await other
        assert sorted(ended) == sorted(job_ids)
        assert slow.progress.settled == {JobStatus.COMPLETED: 60}
        assert max(buffered) <= buffer

    replay(script)


def test_all_jobs_are_polled_in_turn_with_a_small_buffer(replay, scripted):
    """A poll that delivers nothing must make room for the next one."""

    async def script():
        job_ids = [f"job{number}" for number in range(40)]
        source = scripted({job_id: ["pending"] for job_id in job_ids})
        async with watcher_of(source, buffer=1) as watcher, watcher.watch([*job_ids, "done"]) as w:
            await asyncio.sleep(9)
            assert {job_id for _, job_id in source.polls} == {*job_ids, "done"}
            assert (await anext(w)).job_id == "done"

    replay(script)


def test_all_jobs_are_polled_again_after_a_pause(replay, scripted):
    """However many have come to wait for room, and though nothing ends any more."""

    async def script():
        job_ids = [f"job{number}" for number in range(2_000)]
        source = scripted({job_id: ["pending"] for job_id in job_ids[20:]})
        async with (
            watcher_of(source, concurrency=4, buffer=10) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            await asyncio.sleep(100)
            assert source.count() == 10
            for _ in range(20):
                await anext(watch)
            await asyncio.sleep(100)
            assert {job_id for _, job_id in source.polls} == set(job_ids)
            assert watch.progress.open == 1_980

    replay(script)


def test_a_slow_watch_delays_neither_another_watch_nor_a_wait(replay, scripted):
    async def script():
        source = scripted()
        shared = [f"shared{number}" for number in range(100)]
        other = [f"other{number}" for number in range(100)]
        async with (
            watcher_of(source, concurrency=4, buffer=8) as watcher,
            watcher.watch(shared) as slow,
        ):
            await asyncio.sleep(1)
            assert source.count() == 8
            settled, _ = await collect(watcher.watch(other))
            assert sorted(settled) == sorted(other)
            assert (await watcher.wait("shared99")).job_id == "shared99"
            assert (await watcher.wait("shared98", timeout=60)).job_id == "shared98"
            assert now() < 5
            # The quick watch gets all jobs of the slow one, which gets them later.
            settled, _ = await collect(watcher.watch(shared))
            assert sorted(settled) == sorted(shared)
            settled, _ = await collect(slow)
            assert sorted(settled) == sorted(shared)
        assert watcher.stats.watched == 0

    replay(script)


SMALL = [f"small{number}" for number in range(20)]
LARGE = [f"large{number}" for number in range(400)]


@pytest.mark.parametrize("options", [{}, {"timeout": 1e6}])
def test_a_small_watch_is_not_as_late_as_a_large_one(replay, scripted, options):
    """Two polls per second are possible; one of each job takes 210 s."""

    async def script():
        source = scripted(
            {job_id: ["pending"] for job_id in LARGE} | {job_id: statuses(1) for job_id in SMALL},
            latency=0.5,
        )
        async with watcher_of(source, concurrency=1) as watcher, watcher.watch(LARGE) as large:
            request = asyncio.create_task(anext(large))
            await asyncio.sleep(600)
            begun = now()
            assert (await collect(watcher.watch(SMALL, **options)))[1] is None
            assert now() - begun < 100
            polls = sum(begun < time and job_id in LARGE for time, job_id in source.polls)
            assert polls > now() - begun, "the large watch gets over half of the polls"
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    replay(script)


class OftenIfAwaited:
    """A schedule with long delays, unless somebody waits for the job."""

    def delay(self, job, rng):
        return 1_000.0 if job.awaited_for is None else 5.0


def test_the_last_eight_jobs_of_a_watch_are_polled_like_those_of_a_wait(replay, scripted):
    """At first nine jobs are open. When one has settled, somebody waits for the others."""

    async def script():
        first, *others = SMALL[:9]
        source = scripted({job_id: ["pending"] for job_id in SMALL})
        async with watcher_of(source, schedule=OftenIfAwaited()) as watcher:
            small = asyncio.create_task(collect(watcher.watch(SMALL[:9], timeout=1_000)))
            await asyncio.sleep(200)
            assert set(map(source.count, others)) == {1}
            source.scripts[first] = ["completed"]
            assert watcher.poll_now(first)
            await asyncio.sleep(12)
            assert set(map(source.count, others)) == {4}
            small.cancel()
            await asyncio.gather(small, return_exceptions=True)

    replay(script)


def test_many_waits_leave_polls_for_a_large_watch_while_the_budget_is_short(replay, scripted):
    """Two polls per second are possible; the waits alone want more."""

    async def script():
        source = scripted({job_id: ["pending"] for job_id in [*LARGE, *SMALL]}, latency=0.5)
        async with watcher_of(source, concurrency=1) as watcher, watcher.watch(LARGE) as large:
            request = asyncio.create_task(anext(large))
            await asyncio.sleep(600)
            begun = now()
            waits = [asyncio.create_task(watcher.wait(job_id)) for job_id in SMALL]
            await asyncio.sleep(12)
            # Only every tenth poll is of another job at first.
            assert min(map(source.count, SMALL)) == 1, "the first polls are urgent"
            await asyncio.sleep(600)
            polls = [job_id for time, job_id in source.polls if time > begun]
            of_small = sum(job_id in SMALL for job_id in polls)
            # The waits are 5% of the jobs, and get a quarter of the polls.
            assert len(polls) / 8 < of_small < len(polls) / 3
            for task in (request, *waits):
                task.cancel()
            await asyncio.gather(request, *waits, return_exceptions=True)

    replay(script)


def test_two_full_watches_get_a_shared_job_once_each_when_they_have_room(replay, scripted):
    async def script():
        source = scripted()
        async with (
            watcher_of(source, buffer=1) as watcher,
            watcher.watch(["a", "shared"]) as one,
            watcher.watch(["b", "shared"]) as two,
        ):
            await asyncio.sleep(10)
            assert sorted(job_id for _, job_id in source.polls) == ["a", "b"]
            assert (await anext(two)).job_id == "b"
            assert (await anext(two)).job_id == "shared"
            assert (await anext(one)).job_id == "a"
            assert (await anext(one)).job_id == "shared"
            assert await collect(one) == await collect(two) == ([], None)

    replay(script)


def test_a_job_that_waits_for_room_of_a_closed_watch_goes_to_the_other(replay, scripted):
    async def script():
        async def join_late():
            yield "b"
            await asyncio.sleep(5)  # until both are full, and the job waits for the first one
            yield "shared"

        async with watcher_of(scripted(), buffer=1) as watcher, watcher.watch(join_late()) as late:
            async with watcher.watch(["a", "shared"]):
                await asyncio.sleep(10)
            assert (await anext(late)).job_id == "b"
            async with asyncio.timeout(60):
                assert (await anext(late)).job_id == "shared"
            assert await collect(late) == ([], None)

    replay(script)


def test_a_hanging_poll_does_not_delay_later_polls(replay, scripted):
    """The same poller made both; others must poll the jobs that become due meanwhile."""

    async def script():
        source = scripted({"a": statuses(1)})
        source.scripts["hangs"] = [asyncio.get_running_loop().create_future()]
        async with watcher_of(source, buffer=1) as watcher, watcher.watch(["a", "hangs"]):
            await asyncio.sleep(0.05)  # "hangs" waits for the room that the poll of "a" reserves
            assert (await watcher.wait("a", timeout=60)).job_id == "a"
            assert source.count("hangs") == 1

    replay(script)


# --- wait ---------------------------------------------------------------------------------------


def test_a_thousand_waiters_share_polls(replay, scripted):
    async def script():
        source = scripted({"a": statuses(3)})
        async with watcher_of(source) as watcher:
            jobs = await asyncio.gather(*(watcher.wait("a") for _ in range(1_000)))
            assert {job.status for job in jobs} == {JobStatus.COMPLETED}
            assert source.times("a") == pytest.approx([0, 10, 20, 30])
            assert watcher.stats.watched == watcher.stats.subscribers == 0

    replay(script)


def test_a_timeout_of_a_wait_carries_the_last_status(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "processing"]})
        source.scripts["silent"] = [asyncio.get_running_loop().create_future()]
        async with watcher_of(source) as watcher:
            with pytest.raises(JobTimeoutError) as caught:
                await watcher.wait("a", timeout=15)
            assert now() == 15
            assert caught.value.job_id == "a"
            assert caught.value.timeout == 15
            assert caught.value.last_status == "processing"
            assert caught.value.__cause__ is caught.value.__context__ is None
            with pytest.raises(TimeoutError) as caught:
                await watcher.wait("silent", timeout=1)
            assert caught.value.last_status is None
            await asyncio.sleep(2.1)
            assert source.cancelled == 1
            assert watcher.stats.watched == 0

    replay(script)


def test_a_wait_with_a_timeout_of_zero_ends_immediately(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(JobTimeoutError):
                await watcher.wait("a", timeout=0)
            assert now() == 0

    replay(script)


@pytest.mark.parametrize("timeout", [None, 600, 1_000])
def test_a_job_given_up_after_answer_timeouts_is_not_a_timeout_of_the_wait(
    replay, scripted, timeout
):
    """Both are kinds of TimeoutError."""

    async def script():
        source = scripted({"a": [AnswerTimeoutError(timeout=30, job_id="a")]})
        async with watcher_of(source, patience=40) as watcher:
            with pytest.raises(TimeoutError) as caught:
                await watcher.wait("a", timeout=timeout)
            assert type(caught.value) is AnswerTimeoutError

    replay(script)


def test_waiters_with_different_timeouts_do_not_affect_each_other(replay, scripted):
    async def script():
        source = scripted({"a": statuses(4)})
        async with watcher_of(source) as watcher:
            short = asyncio.create_task(watcher.wait("a", timeout=5))
            gone = asyncio.create_task(watcher.wait("a"))
            long = asyncio.create_task(watcher.wait("a", timeout=600))
            await asyncio.sleep(10.05)  # during a poll
            gone.cancel()
            assert (await long).job_id == "a"
            assert isinstance(short.exception(), JobTimeoutError)
            assert gone.cancelled()
        assert source.count() == 5
        assert source.cancelled == 0

    replay(script)


def test_a_wait_for_an_invalid_id_sends_no_request(replay, scripted):
    async def script():
        source = scripted()
        async with watcher_of(source) as watcher:
            for job_id in ("a/b", None):
                with pytest.raises(InvalidJobIdError):
                    await watcher.wait(job_id)
            assert watcher.stats.subscribers == 0
        assert not source.polls

    replay(script)


def test_a_wait_raises_why_the_job_was_given_up(replay, scripted):
    async def script():
        source = scripted({"a": [JobNotFoundError(status=404, job_id="a")]})
        async with watcher_of(source) as watcher:
            ends = await asyncio.gather(
                *(watcher.wait("a") for _ in range(3)), return_exceptions=True
            )
        assert [type(end) for end in ends] == [JobNotFoundError] * 3
        assert len({id(end) for end in ends}) == 3

    replay(script)


def test_a_wait_shares_polls_with_a_watch_and_goes_on_after_it(replay, scripted):
    async def script():
        source = scripted({"a": statuses(3)})
        async with watcher_of(source) as watcher:
            async with watcher.watch(["a"]):
                await asyncio.sleep(1)
                wait = asyncio.create_task(watcher.wait("a"))
                await asyncio.sleep(1)
            assert (await wait).job_id == "a"
        assert source.count() == 4

    replay(script)


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf])
def test_a_timeout_must_be_a_number_of_seconds(replay, scripted, timeout):
    async def script():
        async with watcher_of(scripted()) as watcher:
            for method in (watcher.watch, watcher.updates):
                with pytest.raises(ValueError, match=r"^timeout must be a number of 0 or more"):
                    method(["a"], timeout=timeout)
            with pytest.raises(ValueError, match=r"^timeout must be a number of 0 or more"):
                await watcher.wait("a", timeout=timeout)

    replay(script)


# --- a watch that takes too long ----------------------------------------------------------------


def test_a_timeout_of_a_watch_gives_up_open_jobs_after_settled_ones_are_yielded(replay, scripted):
    async def script():
        source = scripted({"slow": ["pending", "processing"], "later": statuses(1)})
        source.scripts["hangs"] = [asyncio.get_running_loop().create_future()]
        source.scripts["bad"] = [UnprocessableError(status=422)]
        async with watcher_of(source) as watcher:
            async with watcher.watch(["slow", "hangs", "a", "later", "bad"], timeout=25) as watch:
                await asyncio.sleep(500)  # a consumer that comes late gets it all the same
                settled, error = await collect(watch)
            assert sorted(settled) == ["a", "later"]
            assert list(error.causes) == ["bad", "slow", "hangs"]
            assert error.causes["bad"].status == 422
            for job_id, last_status in (("slow", "processing"), ("hangs", None)):
                cause = error.causes[job_id]
                assert isinstance(cause, JobTimeoutError)
                assert (cause.job_id, cause.timeout) == (job_id, 25)
                assert cause.last_status == last_status
            assert watcher.stats.watched == watcher.stats.in_flight == 0
        assert source.polls[-1][0] < 25

    replay(script)


def test_the_timeout_of_a_watch_counts_from_its_first_iteration(replay, scripted):
    async def script():
        async with watcher_of(scripted({"a": ["pending"]})) as watcher:
            watch = watcher.watch(["a"], timeout=20)
            await asyncio.sleep(100)
            _, error = await collect(watch)
            assert list(error.causes) == ["a"]
            assert now() == 120

    replay(script)


def test_the_timeout_of_one_watch_does_not_affect_others(replay, scripted):
    async def script():
        source = scripted({"a": statuses(5)})
        async with watcher_of(source) as watcher:
            patient = asyncio.create_task(collect(watcher.watch(["a"])))
            _, error = await collect(watcher.watch(["a"], timeout=20))
            assert error.causes["a"].last_status == "pending"
            assert await patient == (["a"], None)
        assert source.count() == 6

    replay(script)


@pytest.mark.parametrize("kind", [list, set, tuple, dict.fromkeys])
def test_ids_of_a_collection_that_were_not_read_in_time_are_unresolved(replay, scripted, kind):
    async def script():
        source = scripted()
        job_ids = ["a/b", *(f"job{number}" for number in range(5_000))]
        async with watcher_of(source) as watcher:
            settled, error = await collect(watcher.watch(kind(job_ids), timeout=0))
        assert not settled
        assert set(error.causes) == set(job_ids)
        assert isinstance(error.causes["job4999"], JobTimeoutError)
        assert isinstance(error.causes["a/b"], InvalidJobIdError)

    replay(script)


@pytest.mark.parametrize("after", [0, 100])
def test_a_timeout_ends_an_endless_iterable(replay, scripted, after):
    async def script():
        closed = []

        async def endless():
            try:
                for number in range(1_000_000):
                    yield f"job{number}"
                    await asyncio.sleep(1)
            finally:
                closed.append(now())

        async with (
            watcher_of(scripted()) as watcher,
            watcher.watch(endless(), timeout=10.05) as watch,
        ):
            await asyncio.sleep(after)
            settled, error = await collect(watch)
        assert settled == [f"job{number}" for number in range(10)]
        assert list(error.causes) == ["job10"]
        assert closed == [10.05]

    replay(script)


def test_a_timeout_that_is_not_reached_leaves_no_timer(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            assert await collect(watcher.watch(["a"], timeout=3_600)) == (["a"], None)
            assert not timers()

    replay(script)


# --- updates ------------------------------------------------------------------------------------


def test_updates_yield_the_first_status_and_each_change_once(replay, scripted):
    async def script():
        source = scripted(
            {
                "a": ["pending", "pending", "processing", "pending", "processing", "completed"],
                "b": ["failed"],
                "c": ["simmering", "stewing", "stewing", "cancelled"],
            }
        )
        seen = {"a": [], "b": [], "c": []}
        async with watcher_of(source) as watcher:
            async for job in watcher.updates(["a", "b", "c"]):
                seen[job.job_id].append(job.status_text)
            assert watcher.stats.watched == 0
        return seen

    assert replay(script) == {
        "a": ["pending", "processing", "pending", "processing", "completed"],
        "b": ["failed"],
        "c": ["simmering", "stewing", "cancelled"],
    }


def test_updates_that_start_late_get_the_present_status(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "processing", "processing", "completed"]})
        async with watcher_of(source) as watcher:
            first = asyncio.create_task(collect(watcher.updates(["a"])))
            await asyncio.sleep(15)
            late = [job.status_text async for job in watcher.updates(["a"])]
            assert late == ["processing", "completed"]
            assert (await first)[0] == ["a"] * 3
        assert source.count() == 4

    replay(script)


def test_updates_raise_unresolved_jobs_at_the_end(replay, scripted):
    async def script():
        source = scripted({"a": ["pending"], "gone": [JobNotFoundError(status=404)]})
        async with watcher_of(source) as watcher:
            seen, error = await collect(watcher.updates(["a", "gone", "a/b"], timeout=60))
        assert seen == ["a"]
        assert list(error.causes) == ["a/b", "gone", "a"]

    replay(script)


def test_a_slow_consumer_of_updates_misses_statuses_but_never_the_final_one(replay, scripted):
    async def script():
        job_ids = [f"job{number}" for number in range(10)]
        source = scripted({job_id: ["pending", "processing", "completed"] for job_id in job_ids})
        ends = []
        async with watcher_of(source, buffer=2) as watcher:
            watch = watcher.updates(job_ids)
            async for job in watch:
                await asyncio.sleep(17)
                assert watch.progress.buffered <= 2
                if job.is_terminal:
                    ends.append(job.job_id)
        assert sorted(ends) == job_ids

    replay(script)


# --- poll_now -----------------------------------------------------------------------------------


def test_poll_now_polls_immediately(replay, scripted):
    async def script():
        source = scripted({"a": statuses(1)})
        async with watcher_of(source) as watcher:
            wait = asyncio.create_task(watcher.wait("a"))
            await asyncio.sleep(4)
            assert watcher.poll_now("a")
            await wait
            assert source.times("a") == [0, 4]
            assert now() == pytest.approx(4.1)

    replay(script)


def test_poll_now_during_a_poll_polls_again_right_after_it(replay, scripted):
    async def script():
        source = scripted({"a": statuses(1)})
        async with watcher_of(source) as watcher:
            wait = asyncio.create_task(watcher.wait("a"))
            await asyncio.sleep(0.05)
            assert watcher.poll_now("a")
            await wait
            assert source.times("a") == [0, 0.1]

    replay(script)


@pytest.mark.parametrize("by", ["poll_now", "wait"])
def test_an_overdue_check_of_a_failing_service_does_not_postpone_an_immediate_poll(
    replay, scripted, by
):
    """15 s after a failed poll, the watcher checks whether polls of other jobs have succeeded."""

    async def script():
        down, hanging = ServerError(status=503), asyncio.get_running_loop().create_future()
        source = scripted({"failing": [down], "hanging": [hanging, down]})
        options = {"concurrency": 1, "schedule": Fixed(interval=60, jitter=0)}
        async with (
            watcher_of(source, **options) as watcher,
            watcher.watch(["failing", "hanging"]),
        ):
            await asyncio.sleep(17)
            if by == "poll_now":
                assert watcher.poll_now("failing")
            else:
                wait = asyncio.create_task(watcher.wait("failing"))
            await asyncio.sleep(3)
            hanging.set_result(down)
            await asyncio.sleep(1)
            assert source.times("failing") == [0.0, 20.0]
            if by == "wait":
                wait.cancel()
                await asyncio.wait([wait])

    replay(script)


@pytest.mark.parametrize("by", ["poll_now", "wait"])
@pytest.mark.parametrize("number", [5, 150, 299])
def test_a_job_that_is_overdue_already_is_polled_before_other_overdue_jobs(
    replay, scripted, by, number
):
    """The semaphore allows one poll per second, and 300 jobs are due."""

    async def script():
        job_ids = [f"job{number}" for number in range(300)]
        source = scripted({job_id: ["pending"] for job_id in job_ids}, latency=1.0)
        options = {"concurrency": asyncio.Semaphore(1), "schedule": Fixed(interval=2.0)}
        async with watcher_of(source, **options) as watcher, watcher.watch(job_ids):
            await asyncio.sleep(400.5)
            if by == "poll_now":
                assert watcher.poll_now(job_ids[number])
            else:
                wait = asyncio.create_task(watcher.wait(job_ids[number]))
            await asyncio.sleep(8)  # four polls wait for the semaphore already
            assert max(source.times(job_ids[number])) > 400
            if by == "wait":
                wait.cancel()
                await asyncio.wait([wait])

    replay(script)


def test_poll_now_of_a_job_that_is_not_watched_does_nothing(replay, scripted):
    async def script():
        source = scripted()
        async with watcher_of(source) as watcher:
            assert not watcher.poll_now("a")
            assert not watcher.poll_now("a/b")
            await watcher.wait("a")
            assert not watcher.poll_now("a")
            assert source.count() == 1
        assert not watcher.poll_now("a")

    replay(script)


def test_many_calls_of_poll_now_cause_one_poll_after_the_other(replay, scripted):
    async def script():
        source = scripted({"a": ["pending"]})
        async with watcher_of(source) as watcher, watcher.watch(["a"]):
            await asyncio.sleep(1)
            for _ in range(1_000):
                for _ in range(10):
                    assert watcher.poll_now("a")
                await asyncio.sleep(0.001)
            assert source.most_in_flight == 1
            assert source.count() <= 12  # polls that take 0.1 s, for a second
            polls = source.count()
            await asyncio.sleep(9)
            assert source.count() == polls + 1

    replay(script)


def test_poll_now_settles_nothing_by_itself(replay, scripted):
    async def script():
        source = scripted({"a": statuses(3)})
        async with watcher_of(source) as watcher:
            wait = asyncio.create_task(watcher.wait("a"))
            for second in range(3):
                await asyncio.sleep(1)
                assert not wait.done(), second
                assert watcher.poll_now("a")
            await wait
            assert source.count() == 4

    replay(script)


# --- what an answer means -----------------------------------------------------------------------


def test_a_job_that_appears_within_the_grace_settles(replay, scripted):
    async def script():
        source = scripted({"a": [JobNotFoundError(status=404)] * 2 + statuses(1)})
        async with watcher_of(source) as watcher:
            assert await collect(watcher.watch(["a"])) == (["a"], None)

    replay(script)


def test_a_job_that_never_appears_is_given_up_after_the_grace(replay, scripted):
    async def script():
        source = scripted({"a": [JobNotFoundError(status=404, job_id="a")]})
        async with watcher_of(source, not_found_grace=15) as watcher:
            _, error = await collect(watcher.watch(["a"]))
            assert isinstance(error.causes["a"], JobNotFoundError)
            assert source.times("a") == pytest.approx([0, 3.1, 6.2, 9.3, 12.4, 15.5])

    replay(script)


def test_an_outage_shorter_than_the_patience_gives_no_job_up(replay, scripted):
    async def script():
        outage = [ServerError(status=503), TransportError("reset", job_id="a")] * 12
        source = scripted({"a": [*outage, "completed"], "b": [*outage, *outage, *outage]})
        async with watcher_of(source, patience=30, outage_patience=300) as watcher:
            settled, error = await collect(watcher.watch(["a", "b"]))
        assert settled == ["a"]
        assert isinstance(error.causes["b"], TransportError)
        # One answer, about "a", does not show that "b" is the reason: nothing is left to compare.
        assert 300 <= source.times("b")[-1] < 310

    replay(script)


def test_throttling_gives_no_job_up_however_long_it_takes(replay, scripted):
    async def script():
        limited = [RateLimitedError(status=429, retry_after=9.0)] * 500
        async with watcher_of(scripted({"a": [*limited, "completed"]})) as watcher:
            assert await collect(watcher.watch(["a"])) == (["a"], None)
            assert now() > 5_000

    replay(script)


def test_malformed_answers_end_with_their_own_error(replay, scripted):
    async def script():
        source = scripted({"a": [MalformedAnswerError(["no JSON @ $"])], "b": ["pending"]})
        source.scripts["b"] = [scripted.snapshot("a")]  # an answer about another job
        async with watcher_of(source) as watcher:
            settled, error = await collect(watcher.watch(["a", "b"]))
        assert not settled
        assert isinstance(error.causes["a"], MalformedAnswerError)
        assert isinstance(error.causes["b"], WrongJobError)
        assert (source.count("a"), source.count("b")) == (11, 11)  # for a minute

    replay(script)


def test_the_order_of_polls_repeats_with_the_seed(replay, scripted):
    def play():
        async def script():
            source = scripted({f"job{number}": statuses(5) for number in range(50)})
            async with JobWatcher(source, rng=Random(7), concurrency=5) as watcher:
                await collect(watcher.watch(source.scripts))
            return source.polls

        return replay(script)

    assert play() == play()


def test_timers_that_fire_early_lose_no_poll(scripted):
    """Loops may fire a timer up to a tick before its time: 16 ms on Windows, 0.5 ms in uvloop."""

    async def script():
        source = scripted({f"job{number}": statuses(3) for number in range(20)})
        async with JobWatcher(source, rng=Random(0)) as watcher, asyncio.timeout(600):
            return await collect(watcher.watch(source.scripts))

    class Coarse(VirtualTimeLoop):
        def __init__(self):
            super().__init__()
            self._clock_resolution = 0.02

        def time(self):
            # What asyncio calls a resolution: the clock stands still between its ticks.
            return math.floor(super().time() / 0.02 + 1e-9) * 0.02

    with asyncio.Runner(loop_factory=Coarse) as runner:
        settled, error = runner.run(script())
    assert len(settled) == 20
    assert error is None


# --- options and life cycle ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be positive, got 0"),
        ({"concurrency": -1}, "concurrency must be positive, got -1"),
        ({"buffer": 0}, "buffer must be positive, got 0"),
        ({"buffer": math.nan}, "buffer must be positive, got nan"),
        ({"not_found_grace": -1}, "not_found_grace must be a number of 0 or more, got -1"),
        ({"not_found_grace": math.nan}, "not_found_grace must be a number"),
        ({"patience": math.inf}, "patience must be a number"),
        ({"outage_patience": -1}, "outage_patience must be a number of 0 or more, got -1"),
        ({"outage_patience": math.nan}, "outage_patience must be a number"),
        ({"discovery": "push"}, "discovery must be auto, list or get, got 'push'"),
    ],
)
def test_options_out_of_range_are_refused(scripted, options, message):
    with pytest.raises(ValueError, match=message):
        JobWatcher(scripted(), **options)


@pytest.mark.parametrize("schedule", [Adaptive, 5, "2.0"])
def test_an_object_that_is_no_schedule_is_refused_before_any_job_is_watched(scripted, schedule):
    with pytest.raises(TypeError, match=r"^schedule must be an object with a method delay"):
        JobWatcher(scripted(), schedule=schedule)


def test_a_watcher_can_be_made_without_a_loop(replay, scripted):
    watcher = watcher_of(scripted())

    async def script():
        async with watcher:
            return await watcher.wait("a")

    assert replay(script).job_id == "a"


def test_a_closed_watcher_raises_closed_error(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            never_begun = watcher.watch(["a"])
        with pytest.raises(ClosedError):
            watcher.watch(["a"])
        with pytest.raises(ClosedError):
            watcher.updates(["a"])
        with pytest.raises(ClosedError):
            await watcher.wait("a")
        with pytest.raises(ClosedError):
            await anext(never_begun)
        with pytest.raises(ClosedError):
            async with never_begun:
                pass
        await watcher.aclose()

    replay(script)


def test_stats_count_jobs_polls_and_subscribers(replay, scripted):
    async def script():
        source = scripted({"a": statuses(1), "gone": [UnprocessableError(status=422)]})
        async with watcher_of(source) as watcher:
            async with watcher.watch(["a", "b", "gone"]) as watch:
                wait = asyncio.create_task(watcher.wait("a"))
                await asyncio.sleep(0.05)
                stats = watcher.stats
                assert (stats.watched, stats.in_flight, stats.subscribers) == (3, 3, 2)
                await collect(watch)
                await wait
            assert (stats.watched, stats.polls) == (3, 0)  # a copy
            stats = watcher.stats
            assert (stats.watched, stats.in_flight, stats.subscribers) == (0, 0, 0)
            assert (stats.polls, stats.settled, stats.given_up) == (4, 2, 1)

    replay(script)


def test_stats_contain_upper_bounds_of_detection_lags(replay, scripted):
    async def script():
        source = scripted({"a": statuses(3)})
        async with watcher_of(source, schedule=Fixed(interval=7.0, jitter=0)) as watcher:
            before = watcher.stats
            await watcher.wait("a")
            await watcher.wait("b")
            detection_lag = watcher.stats.detection_lag
            assert detection_lag.counts == (1, 0, 0, 0, 1, 0, 0, 0, 0)
            # The 0.1 s are the time from the start of a poll to its answer.
            assert detection_lag.sum == pytest.approx(7.1 + 0.1)
            assert before.detection_lag.sum == 0.0  # a copy

    replay(script)


def test_an_abandoned_watcher_is_freed(replay, scripted):
    async def script():
        watcher = watcher_of(scripted())
        await watcher.wait("a")
        assert (await collect(watcher.watch(["b"])))[0] == ["b"]
        freed = weakref.ref(watcher)
        del watcher
        gc.collect()
        assert freed() is None

    replay(script)


# --- bugs ---------------------------------------------------------------------------------------


def test_a_bug_in_the_source_is_raised_by_all_consumers(replay, scripted):
    async def script():
        source = scripted({"a": ["pending"], "buggy": ["pending", RuntimeError("a bug")]})
        async with watcher_of(source) as watcher:
            watches = [watcher.watch(job_ids) for job_ids in (["a"], ["a", "buggy"])]
            tasks = [asyncio.create_task(collect(watch)) for watch in watches]
            tasks.append(asyncio.create_task(watcher.wait("a")))
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [str(end) for end in ends] == ["a bug"] * 3
            assert watcher.stats.watched == watcher.stats.in_flight == 0
            source.scripts.clear()
            assert (await watcher.wait("a")).job_id == "a"

    replay(script)


@pytest.mark.parametrize("where", ["get_job", "list_jobs", "job ids"])
def test_a_stop_async_iteration_does_not_look_like_the_end(replay, scripted, where):
    """`unittest.mock.AsyncMock` raises it when its `side_effect` is exhausted."""

    async def script():
        source = scripted({"a": ["pending"], "b": ["pending"]})

        async def fail(*_args, **_kwargs):
            await asyncio.sleep(1)
            raise StopAsyncIteration

        def job_ids():
            yield from ("a", "b")
            if where == "job ids":
                raise StopAsyncIteration

        if where != "job ids":
            setattr(source, where, fail)
        async with watcher_of(source, discovery="list") as watcher:
            tasks = [asyncio.create_task(collect(watcher.watch(job_ids())))]
            tasks.append(asyncio.create_task(collect(watcher.status_updates(job_ids()))))
            if where != "job ids":
                tasks.append(asyncio.create_task(watcher.wait("a")))
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [RuntimeError] * len(tasks)
            assert [type(end.__cause__) for end in ends] == [StopAsyncIteration] * len(tasks)

    replay(script)


NAIVE = datetime(1970, 1, 1)  # noqa: DTZ001 - what a source of the caller may return
AWARE = NAIVE.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        {"received_at": NAIVE, "completed_at": AWARE},
        {"received_at": AWARE, "completed_at": NAIVE},
        {"received_at": NAIVE, "created_at": NAIVE, "completed_at": NAIVE},
        {"received_at": None, "created_at": NAIVE, "completed_at": AWARE},
    ],
)
def test_naive_times_of_a_source_are_utc(replay, scripted, times):
    async def script():
        active = evolve(snapshot("a", "processing"), **{**times, "completed_at": None})
        source = scripted({"a": [active, evolve(snapshot("a"), **times)]})
        source.service_time = lambda: 0.0  # the age of a job is calculated with it
        async with watcher_of(source) as watcher:
            job = await watcher.wait("a")
        assert job.submitted_at == AWARE
        assert job.completed_at == AWARE
        assert watcher.durations.ended == 1

    replay(script)


def test_a_bug_in_the_schedule_is_raised_too(replay, scripted):
    async def script():
        class Buggy:
            def delay(self, job, rng):
                return math.nan

        async with watcher_of(scripted({"a": ["pending"]}), schedule=Buggy()) as watcher:
            with pytest.raises(ValueError, match="nan"):
                await watcher.wait("a")

    replay(script)


class BuggyAtFirst(Fixed):
    """A schedule that cannot choose when a new job is polled for the first time."""

    def first_delay(self, _job, _rng, **_more):
        raise ZeroDivisionError


def test_a_job_whose_first_poll_could_not_be_planned_can_be_waited_for(replay, scripted):
    async def script():
        durations = Durations()
        for _ in range(32):
            durations.arrivals.record(0.0, added_at=1.0, now=1.0)  # so the next one is new, too
        job_ids = [f"job{number}" for number in range(9)]
        async with (
            watcher_of(scripted(), schedule=BuggyAtFirst(), durations=durations) as watcher,
            watcher.watch(job_ids) as watch,
        ):
            await asyncio.sleep(1)  # the consumer does not ask yet whether the watch has ended
            assert (await watcher.wait(job_ids[8], timeout=60)).job_id == job_ids[8]
            settled, error = await collect(watch, ZeroDivisionError)
        assert (sorted(settled), type(error)) == (job_ids[:8], ZeroDivisionError)

    replay(script)


def test_a_poll_that_the_source_itself_cancels_is_repeated(replay, scripted):
    """As when callers share a request, and the one that made it was cancelled."""

    async def script():
        broken_off = asyncio.CancelledError()
        source = scripted({"a": [broken_off, broken_off, "completed"], "b": [broken_off]})
        async with watcher_of(source, patience=60) as watcher:
            settled, error = await collect(watcher.watch(["a", "b"]))
        assert settled == ["a"]
        assert isinstance(error.causes["b"], TransportError)

    replay(script)


@pytest.mark.parametrize("leavers", [0, 1, 20, 29, 30])
def test_many_waiters_of_one_job_share_polls_and_can_be_cancelled(replay, scripted, leavers):
    async def script():
        source = scripted({"job": statuses(3)})
        async with watcher_of(source) as watcher:
            waits = [asyncio.ensure_future(watcher.wait("job")) for _ in range(30)]
            await asyncio.sleep(15)
            assert watcher.stats.subscribers == 30
            for wait in waits[::-1][:leavers]:
                wait.cancel()
            found = await asyncio.gather(*waits, return_exceptions=True)
            stayed = 30 - leavers
            assert [job.status_text for job in found[:stayed]] == ["completed"] * stayed
            assert all(isinstance(gone, asyncio.CancelledError) for gone in found[stayed:])
            assert watcher.stats.subscribers == watcher.stats.watched == 0
            assert source.count("job") == (4 if stayed else 2)

    replay(script)


def test_time_left_is_none_unless_it_is_known(replay, scripted):
    async def script():
        scripts = {f"job{n}": statuses(1 + n % 3) for n in range(60)}
        scripts["slow"] = statuses(30)
        async with watcher_of(scripted(scripts)) as watcher, watcher.watch(scripts) as watch:
            await asyncio.sleep(1)
            assert watcher.time_left() is None  # no job has settled yet
            while watch.progress.open > 1:
                await anext(watch)
            few = watcher.time_left()
            assert few is None or few < 60  # no job has taken longer than half a minute
            await asyncio.sleep(100)
            assert watcher.time_left() is None  # this job is older than all that have settled

    replay(script)


@pytest.mark.parametrize("settled", [True, False])
def test_time_left_is_at_least_what_one_more_poll_of_each_job_takes(replay, scripted, settled):
    """One poll per second, for a backlog of settled jobs or for jobs that take ten seconds."""

    async def script():
        source = scripted({f"job{n}": statuses(0 if settled else 1) for n in range(120)}, latency=1)
        async with (
            watcher_of(source, concurrency=1, schedule=Adaptive()) as watcher,
            watcher.watch(source.scripts) as watch,
        ):
            estimates = [(now(), watcher.time_left()) async for _ in watch]
        took = now()
        half = estimates[len(estimates) // 2 :]
        assert len(half) > 40
        for at, left in half[:-2]:
            assert left >= 0.65 * (took - at) - 5
            # How long the others take is hard to say, as they are polled so rarely.
            assert not settled or left <= 1.35 * (took - at) + 5

    replay(script)


def minute():
    """Return durations learnt from 300 jobs of about a minute."""
    rng, durations = Random(1), Durations()
    for _ in range(300):
        ended = rng.gauss(60, 3)
        durations.begin()
        durations.extend(0.0, ended - 1)
        durations.end(0.0, ended - 1, ended + 1)
    return durations


@pytest.mark.parametrize("how", ["wait", "updates", "watch with a timeout", "watch"])
@pytest.mark.parametrize("learnt", [Durations, minute])
def test_the_lag_bound_holds_whatever_was_learnt(replay, scripted, how, learnt):
    async def script():
        source = scripted({"a": statuses(25)}, latency=0.1)
        options = {"schedule": Adaptive(), "durations": learnt(), "rng": Random(2)}
        async with watcher_of(source, **options) as watcher:
            if how == "wait":
                await watcher.wait("a")
            elif how == "updates":
                assert [job.status_text async for job in watcher.updates(["a"])]
            else:
                timeout = None if how == "watch" else 3_600
                assert [job async for job in watcher.watch(["a"], timeout=timeout)]
        times = source.times("a")
        assert times[0] == 0
        for before, after in itertools.pairwise(times):
            age = before + 0.1
            bound = max(4.0, age / 2) if how == "watch" else min(max(1.0, 0.4 * age), 7.0)
            assert after - before <= bound + 1e-6
        assert len(times) == 26

    replay(script)


def test_a_failing_poll_does_not_keep_the_snapshot_of_an_earlier_one(replay):
    class Source:
        def __init__(self):
            self.sent = []

        async def get_job(self, job_id):
            await asyncio.sleep(0.1)
            if job_id == "bad":
                raise ServerError(status=502, job_id=job_id)
            job = snapshot(job_id, "completed")
            self.sent.append(weakref.ref(job))
            return job

    async def script():
        source = Source()
        async with watcher_of(source, concurrency=1) as watcher:
            ends = [
                end async for end in watcher.watch(["bad", "a", "b"], errors="yield", timeout=5)
            ]
            assert [end.job_id for end in ends] == ["a", "b", "bad"]
            del ends[:2]
            gc.collect()
            assert [job() for job in source.sent] == [None, None], "kept by the error of the poll"

    replay(script)


@pytest.mark.parametrize(
    ("times", "left"),
    [((30.0, 50.0), 50.0), ((50.0, 30.0), 50.0), ((30.0, None), None), ((None, None), None)],
)
def test_the_time_left_is_that_of_the_kind_that_takes_longest(replay, monkeypatch, times, left):
    async def script():
        by_kind = dict(zip((V1, V2), times, strict=True))
        monkeypatch.setattr(WatchedJobs, "time_left", lambda jobs, _now: by_kind[jobs.kind])
        source = TwoHosts({(V1, "a"): (0.0, 5.0), (V2, "pjb-b"): (0.0, 5.0)})
        async with JobWatcher(source) as watcher:
            assert watcher.time_left() is None
            async with watcher.watch(source.refs) as watch:
                await asyncio.sleep(1.0)
                assert watcher.time_left() == left
                async for _ in watch:
                    pass
            assert watcher.time_left() is None

    replay(script)


@pytest.mark.parametrize(
    ("due", "was_polled", "expected"),
    [
        ((7, 4), False, 4),
        ((3, 4), False, 3),
        ((7,), False, 7),
        ((7, 0), False, 7),  # there are no jobs at the other host
        ((7, 0), True, 0),
        ((), False, 0),
    ],
)
def test_the_host_with_fewer_due_jobs_decides_how_fast_ids_are_read(due, was_polled, expected):
    options = PollingOptions(
        semaphore=asyncio.Semaphore(1),
        max_polls=1,
        schedule=Fixed(),
        discovery="get",
        failure_rules=FailureRules(not_found_grace=15.0, patience=60.0),
        rng=Random(0),
        on_fatal=print,
    )
    owner = SubscriptionOwner(TwoHosts({}), options, {})
    for kind, number in zip((V1, V2), due, strict=False):
        jobs = (owner.by_kind.get(kind) or owner.add_kind(kind)).watched_jobs
        jobs.failure_rules.host.worked += was_polled
        for job in range(number):
            jobs.subscribe(f"job-{job}", f"job-{job}", subscription_of(), 0.0)
    assert owner.overdue() == expected
