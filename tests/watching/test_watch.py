"""Watches over streams of ids, in virtual time: each job once, errors as they happen, no growth."""

import asyncio
import gc
import math
import tracemalloc
from random import Random

import pytest
from internals import entries_of, errors_of, jobs_of

from adepoll.api.models import JobPage
from adepoll.errors import (
    ClosedError,
    InvalidJobIdError,
    JobIdsCancelledError,
    JobNotFoundError,
    JobTimeoutError,
    PaymentRequiredError,
    UnprocessableError,
)
from adepoll.scheduling.schedules import Fixed
from adepoll.watching import subscriptions
from adepoll.watching.watch import UnresolvedJob
from adepoll.watching.watcher import JobWatcher


def watcher_of(source, **options):
    return JobWatcher(
        source,
        **{"schedule": Fixed(interval=10, jitter=0), "discovery": "get", "rng": Random(0)}
        | options,
    )


async def generate(job_ids):
    for job_id in job_ids:
        yield job_id


async def gather(watch):
    """Return what became of each job: the status text, or the error."""
    found = {}
    async for item in watch:
        assert item.job_id not in found
        found[item.job_id] = item.error if isinstance(item, UnresolvedJob) else item.status_text
    return found


def test_each_job_is_yielded_once_settled_or_unresolved(replay, scripted):
    async def script():
        unknown = JobNotFoundError(status=404, job_id="unknown")
        source = scripted(
            {
                "slow": ["pending", "processing", "completed"],
                "failing": ["failed"],
                "unknown": [unknown],
            }
        )
        job_ids = ["slow", "unknown", "failing", "in valid", *(f"job{n}" for n in range(300))]
        async with watcher_of(source) as watcher:
            return await gather(watcher.watch(generate(job_ids), window=1_000, errors="yield"))

    found = replay(script)
    assert len(found) == 304
    assert found["slow"] == "completed"
    assert found["failing"] == "failed"
    assert isinstance(found["unknown"], JobNotFoundError)
    assert isinstance(found["in valid"], InvalidJobIdError)


def test_the_window_bounds_the_jobs_watched_at_the_same_time(replay, scripted):
    async def script():
        most = 0
        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(
                generate(f"job{n}" for n in range(500)), window=20, errors="yield"
            )
            count = 0
            async for _ in watch:
                count += 1
                most = max(most, watcher.stats.watched)
            return count, most

    count, most = replay(script)
    assert count == 500
    assert most <= 20


def test_a_job_that_is_given_up_makes_room_in_the_window(replay, scripted):
    async def script():
        unknown = {"gone": [JobNotFoundError(status=404, job_id="gone")]}
        async with watcher_of(scripted(unknown), not_found_grace=30.0) as watcher:
            watch = watcher.watch(generate(["gone", "next"]), window=1, errors="yield")
            return await gather(watch)

    assert [*replay(script)] == ["gone", "next"]


def test_a_yielded_job_is_forgotten(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(
                generate(f"job{n}" for n in range(300)), window=50, errors="yield"
            )
            async for _ in watch:
                assert len(jobs_of(watch)) <= 50 + 128  # the window and the buffer
            assert not jobs_of(watch)
            assert not errors_of(watch)

    replay(script)


def test_the_last_statuses_of_active_jobs_are_known(replay, scripted):
    async def script():
        source = scripted({"job": ["pending", "pending", "processing", "completed"]})
        async with (
            watcher_of(source) as watcher,
            watcher.watch(generate(["job"]), window=1, errors="yield") as watch,
        ):
            seen = []
            for _ in range(4):
                seen.append(watch.last_statuses())
                await asyncio.sleep(9.9)
            ends = [end.status_text async for end in watch]
            return seen, watch.last_statuses(), ends

    seen = [{}, {"job": "pending"}, {"job": "pending"}, {"job": "processing"}]
    assert replay(script) == (seen, {}, ["completed"])


def test_open_jobs_are_yielded_as_unresolved_when_the_timeout_is_over(replay, scripted):
    async def script():
        source = scripted({"slow": ["processing"], "waiting": ["processing"]})
        async with watcher_of(source) as watcher:
            watch = watcher.watch(
                generate(["slow", "waiting"]), window=1, timeout=25.0, errors="yield"
            )
            return await gather(watch), asyncio.get_running_loop().time()

    found, at = replay(script)
    assert [*found] == ["slow"]  # the other id was not read
    assert isinstance(found["slow"], JobTimeoutError)
    assert at == 25.0


@pytest.mark.parametrize("make", [iter, generate])
def test_no_id_that_was_read_is_lost_when_the_timeout_is_over(replay, scripted, make):
    read = []

    def ids():
        for job_id in ("slow", "waiting"):
            read.append(job_id)
            yield job_id

    async def script():
        source = scripted({"slow": ["processing"], "waiting": ["processing"]})
        async with watcher_of(source) as watcher:
            watch = watcher.watch(make(ids()), window=1, timeout=25.0, errors="yield")
            return [*await gather(watch)]

    assert replay(script) == read == ["slow"]


def test_polls_pause_while_the_buffer_is_full(replay, scripted):
    async def script():
        source = scripted()
        async with (
            watcher_of(source, buffer=10) as watcher,
            watcher.watch(
                generate(f"job{n}" for n in range(100)), window=100, errors="yield"
            ) as watch,
        ):
            await asyncio.sleep(100)
            held = source.count()
            return held, len(await gather(watch))

    assert replay(script) == (10, 100)


@pytest.mark.parametrize("how", ["close", "break", "fatal"])
def test_a_watch_that_ends_early_leaves_nothing_behind(replay, scripted, how):
    async def script():
        refused = PaymentRequiredError(status=402)
        source = scripted({"slow": ["processing"], "fatal": [refused]})
        job_ids = ["slow", "other", *(["fatal"] if how == "fatal" else [])]
        async with watcher_of(source) as watcher:
            watch = watcher.watch(generate(job_ids), window=5, errors="yield")
            if how == "fatal":
                with pytest.raises(PaymentRequiredError):
                    await gather(watch)
            elif how == "close":
                await anext(watch)
                await watch.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(watch)
            else:
                async for _ in watch:
                    break
                del watch
                gc.collect()
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert watcher.stats.watched == 0

    replay(script)


def test_leaving_a_watch_that_has_not_begun_does_nothing(replay, scripted):
    async def script():
        async with watcher_of(scripted({"a": ["completed"]})) as watcher:
            watch = watcher.watch(["a"])
            watch.leave()
            assert await gather(watch) == {"a": "completed"}

    replay(script)


def test_closing_the_watcher_ends_the_watch_with_an_error(replay, scripted):
    async def script():
        async with watcher_of(scripted({"slow": ["processing"]})) as watcher:
            watch = watcher.watch(generate(["slow"]), window=5, errors="yield")
            asyncio.get_running_loop().call_later(5, asyncio.ensure_future, watcher.aclose())
            with pytest.raises(ClosedError):
                await gather(watch)
            with pytest.raises(ClosedError):
                watcher.watch(generate([]), window=1, errors="yield")

    replay(script)


def test_errors_that_are_not_taken_count_in_the_window(replay, scripted):
    async def script():
        source = scripted({f"job{n}": [JobNotFoundError(status=404, job_id="")] for n in range(99)})
        async with (
            watcher_of(source, not_found_grace=0.0, patience=0.0) as watcher,
            watcher.watch(
                generate(f"job{n}" for n in range(99)), window=10, errors="yield"
            ) as watch,
        ):
            await asyncio.sleep(1_000)
            return source.count(), len(await gather(watch))

    assert replay(script) == (10, 99)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be positive, got 0"),
        ({"window": math.nan}, "window must be positive, got nan"),
        ({"errors": "log"}, "errors must be 'raise' or 'yield', got 'log'"),
    ],
)
def test_an_impossible_option_is_refused(replay, scripted, options, message):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(ValueError, match=message):
                watcher.watch(generate([]), **options)
            assert await gather(watcher.watch(["a"], window=1, errors="yield"))

    replay(script)


@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_memory_does_not_grow_with_the_ids_of_an_endless_stream(replay, scripted, errors):
    """Neither entries of the watch and the watcher, nor bytes, per id that was yielded."""

    async def script():
        class Source:
            async def get_job(self, job_id):
                await asyncio.sleep(0.01)
                return scripted.snapshot(job_id)

        largest, held = 0, []
        async with watcher_of(Source(), buffer=20) as watcher:
            watch = watcher.watch(
                generate(f"job{n}" for n in range(2_501)), window=20, errors=errors
            )
            tracemalloc.start()
            count = 0
            async for _ in watch:
                count += 1
                largest = max(largest, entries_of(watch, watcher))
                if count in {500, 2_500}:
                    gc.collect()
                    held.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
            assert count == watch.progress.known == 2_501
            assert not watch.unresolved
        assert largest < 200
        assert held[1] - held[0] < 2_000 * 20, "bytes"

    replay(script)


def test_an_id_that_comes_again_from_an_iterator_is_watched_anew_once_it_was_yielded(
    replay, scripted
):
    async def script():
        source = scripted({"slow": ["pending", "completed"]})

        async def repeat():
            for job_id in ("slow", "slow", "quick", "quick"):
                yield job_id
            await asyncio.sleep(60)  # both have settled, and were yielded
            yield "quick"
            yield "slow"

        async with watcher_of(source) as watcher:
            watch = watcher.watch(repeat())
            yielded = [job.job_id async for job in watch]
        assert yielded == ["quick", "slow", "quick", "slow"]
        assert source.count("quick") == 2
        assert watch.progress.known == 4

    replay(script)


@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_an_id_that_waits_to_be_yielded_is_a_duplicate(replay, scripted, errors):
    async def script():
        source = scripted({"gone": [JobNotFoundError(status=404, job_id="gone")]})

        async def repeat():
            for job_id in ("a", "gone", "in valid"):
                yield job_id
            await asyncio.sleep(60)
            for job_id in ("a", "gone", "in valid"):
                yield job_id

        async with (
            watcher_of(source, not_found_grace=0.0) as watcher,
            watcher.watch(repeat(), errors=errors) as watch,
        ):
            await asyncio.sleep(100)
            assert (source.count("a"), source.count("gone"), watch.progress.known) == (1, 1, 3)
            assert [*watch.unresolved] == ["a", "gone", "in valid"]

    replay(script)


@pytest.mark.parametrize("size", [10, 2_000])
def test_an_id_of_a_collection_counts_once_even_after_it_was_yielded(replay, scripted, size):
    async def script():
        job_ids = [f"job{n % (size // 2)}" for n in range(size)]
        async with watcher_of(scripted(latency=0.0)) as watcher:
            watch = watcher.watch(job_ids)
            yielded = [job.job_id async for job in watch]
        assert sorted(yielded) == sorted(set(job_ids))

    replay(script)


def test_errors_are_yielded_while_other_jobs_are_open(replay, scripted):
    async def script():
        source = scripted(
            {"slow": ["pending"] * 9 + ["completed"], "bad": [UnprocessableError(status=422)]}
        )
        async with watcher_of(source) as watcher:
            return [
                (item.job_id, round(asyncio.get_running_loop().time(), 6))
                async for item in watcher.watch(["slow", "bad", "in valid"], errors="yield")
            ]

    assert replay(script) == [("in valid", 0.0), ("bad", 0.1), ("slow", 90.1)]


def test_ready_items_are_taken_without_waiting(replay, scripted):
    async def script():
        source = scripted({"slow": ["pending"], "bad": [UnprocessableError(status=422)]})
        async with (
            watcher_of(source) as watcher,
            watcher.watch(["a", "bad", "slow", "b"], errors="yield") as watch,
        ):
            assert watch.take_ready() == []
            await asyncio.sleep(1)
            assert [item.job_id for item in watch.take_ready()] == ["bad", "a", "b"]
            assert watch.take_ready() == []

    replay(script)


def test_at_most_500_ready_items_are_taken(replay, scripted):
    async def script():
        ids = [f"in valid {number}" for number in range(1_001)]
        async with (
            watcher_of(scripted()) as watcher,
            watcher.watch(ids, errors="yield") as watch,
        ):
            await asyncio.sleep(1)
            assert [len(watch.take_ready()) for _ in range(4)] == [500, 500, 1, 0]

    replay(script)


def test_the_window_bounds_plain_iterables_too(replay, scripted):
    async def script():
        most = 0
        async with watcher_of(scripted()) as watcher:
            async for _ in watcher.watch((f"job{n}" for n in range(300)), window=7):
                most = max(most, watcher.stats.watched)
        return most

    assert replay(script) == 7


def test_an_iterable_whose_awaitable_is_cancelled_ends_the_watch_with_a_typed_error(
    replay, scripted
):
    async def script():
        gone = asyncio.get_running_loop().create_future()

        async def ids():
            yield "job"
            yield await gone

        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(ids())
            asyncio.get_running_loop().call_later(5, gone.cancel)
            assert (await anext(watch)).job_id == "job"
            with pytest.raises(JobIdsCancelledError, match="cancelled"):
                await anext(watch)
            assert not asyncio.current_task().cancelling()
            assert asyncio.get_running_loop().time() == 5

    replay(script)


class Unreliable(list):
    """A collection that can be iterated over once."""

    iterations = 0

    def __iter__(self):
        self.iterations += 1
        if self.iterations > 1:
            raise LookupError("read once only")
        return super().__iter__()


def test_a_collection_that_fails_when_the_timeout_is_over_does_not_stop_it(replay, scripted):
    async def script():
        source = scripted({"slow": ["processing"], "waiting": ["processing"]})
        async with watcher_of(source) as watcher:
            watch = watcher.watch(Unreliable(["slow", "waiting"]), window=1, timeout=25.0)
            with pytest.raises(LookupError, match="read once"):
                await anext(watch)
            assert asyncio.get_running_loop().time() == 25.0
            assert isinstance(watch.unresolved["slow"], JobTimeoutError)
            assert watcher.stats.watched == 0

    replay(script)


@pytest.mark.parametrize("kind", ["iterator", "async iterator"])
def test_ids_of_an_iterator_are_read_as_fast_as_jobs_are_polled_and_taken(replay, scripted, kind):
    async def script():
        read = 0

        def ids():
            nonlocal read
            for read in range(1, 50_001):
                yield f"job{read}"

        async with watcher_of(scripted()) as watcher:
            job_ids = ids() if kind == "iterator" else generate(ids())
            async with watcher.watch(job_ids) as watch:
                await anext(watch)
                await asyncio.sleep(30)
                first = read
                for _ in range(3_000):
                    await anext(watch)
                return first, read

    first, later = replay(script)
    assert first < 4_000
    assert 3_000 < later < 7_000


@pytest.mark.parametrize("call", ["watch", "status_updates"])
def test_without_a_window_an_iterator_has_a_default_one(replay, scripted, monkeypatch, call):
    monkeypatch.setattr(subscriptions, "ITERATOR_WINDOW", 300)

    class Source(scripted):
        async def list_jobs(self, *, page=0, page_size=100, status=None):
            await asyncio.sleep(10)
            return JobPage(jobs=(), has_more=False)

    async def script():
        read = 0

        def ids():
            nonlocal read
            for read in range(1, 501):
                yield f"job{read}"

        async with (
            watcher_of(Source(), discovery="list") as watcher,
            getattr(watcher, call)(ids()) as watch,
        ):
            await asyncio.sleep(100)
            assert read == (300 if call == "status_updates" else 428)  # with the full buffer
            return len({job.job_id async for job in watch})

    assert replay(script) == 500


class Counted(list):
    """Ids that know how often they were read."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


@pytest.mark.parametrize("begun", ["iterated", "entered", "closed"])
def test_entering_a_watch_that_has_begun_or_ended_reads_no_id_again(replay, scripted, begun):
    async def script():
        ids = Counted(["a", "b"])
        async with watcher_of(scripted()) as watcher:
            watch = watcher.watch(ids)
            reads = ids.reads
            if begun == "iterated":
                await anext(watch)
            elif begun == "entered":
                await watch.__aenter__()
            else:
                await watch.aclose()
            async with watch:
                await asyncio.sleep(1.0)
            assert ids.reads - reads == (0 if begun == "closed" else 1)

    replay(script)
