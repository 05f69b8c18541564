"""Storing each outcome: nothing is lost, marked wrongly or stored twice, at any shutdown."""

import asyncio
import itertools
import math

import pytest
from watching import now

from adepoll import (
    AdePollError,
    AuthenticationError,
    JobRef,
    JobWatcher,
    PaymentRequiredError,
    UnresolvedJob,
    repeat_query,
    store_outcomes,
)
from adepoll.errors import ClosedError, JobIdsCancelledError
from adepoll.scheduling.schedules import Fixed

JOBS = [f"job{number}" for number in range(50)]


class Table:
    """A table of jobs; its outcomes survive a restart, and nothing else does."""

    def __init__(self, job_ids, *, failing=0):
        self.outcomes = dict.fromkeys(job_ids)
        self.stored = []
        self.failing = failing  # calls of `store` that will fail
        self.storing = 0
        self.most = 0

    async def open_ids(self):
        return [job_id for job_id, outcome in self.outcomes.items() if outcome is None]

    async def store(self, outcome):
        self.storing += 1
        self.most = max(self.most, self.storing)
        try:
            await asyncio.sleep(0.05)
            if self.failing:
                self.failing -= 1
                raise ConnectionError("the database restarts")
        finally:
            self.storing -= 1
        self.stored.append(outcome.job_id)
        self.outcomes[outcome.job_id] = (
            outcome.error if isinstance(outcome, UnresolvedJob) else outcome.status.value
        )


def test_all_outcomes_of_a_finite_source_are_stored_once(replay, scripted):
    async def script():
        table = Table(JOBS)
        async with JobWatcher(scripted()) as watcher:
            await store_outcomes(watcher, JOBS, table.store, concurrency=3)
        assert sorted(table.stored) == sorted(JOBS)
        assert table.most == 3

    replay(script)


def test_a_job_that_is_given_up_is_stored_with_its_cause(replay, scripted):
    async def script():
        source = scripted({"bad": [AdePollError("impossible")]})
        table = Table(["bad", "good"])
        async with JobWatcher(source) as watcher:
            await store_outcomes(watcher, ["bad", "good"], table.store)
        assert str(table.outcomes["bad"]) == "impossible"
        assert table.outcomes["good"] == "completed"

    replay(script)


def test_a_database_that_restarts_loses_nothing(replay, scripted):
    async def script():
        table = Table(JOBS, failing=30)
        async with JobWatcher(scripted()) as watcher:
            await store_outcomes(watcher, JOBS, table.store)
        assert sorted(table.stored) == sorted(JOBS)

    replay(script)


def test_an_outcome_that_cannot_be_stored_does_not_stop_the_others(replay, scripted):
    async def script():
        table = Table(JOBS)

        async def store(outcome):
            if outcome.job_id == "job0":
                raise ValueError("a text that the database does not accept")
            await table.store(outcome)

        async with JobWatcher(scripted()) as watcher:
            storing = asyncio.create_task(store_outcomes(watcher, JOBS, store, concurrency=1))
            await asyncio.sleep(600)
            assert sorted(table.stored) == sorted(JOBS[1:])
        await storing  # it returns, because the watcher is closed
        assert table.outcomes["job0"] is None

    replay(script)


@pytest.mark.parametrize(
    "error", [AuthenticationError(status=401), PaymentRequiredError(status=402)]
)
def test_an_error_of_the_account_marks_no_job_and_is_waited_out(replay, scripted, error):
    async def script():
        broken = {job_id: [error, error, error, "processing", "completed"] for job_id in JOBS}
        table = Table(JOBS)
        async with JobWatcher(scripted(broken)) as watcher:
            await store_outcomes(watcher, JOBS, table.store)
        assert set(table.outcomes.values()) == {"completed"}
        assert sorted(table.stored) == sorted(JOBS)

    replay(script)


def test_the_waits_after_errors_of_the_account_grow_until_an_outcome_arrives(
    replay, scripted, caplog
):
    error = PaymentRequiredError(status=402)

    async def script():
        source = scripted({"a": [*[error] * 7, "completed"], "b": [error, "completed"]}, latency=0)
        async with JobWatcher(source) as watcher:
            await store_outcomes(watcher, ["a"], Table(["a"]).store)
            await store_outcomes(watcher, ["b"], Table(["b"]).store)
        return [
            later - earlier
            for job_id in "ab"
            for earlier, later in itertools.pairwise(source.times(job_id))
        ]

    waits = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert replay(script) == pytest.approx([*waits, 1.0])
    said = [text for text in caplog.messages if text.startswith("no job can be polled")]
    assert [text.split(";")[1].split()[3] for text in said] == [f"{wait:g}" for wait in [*waits, 1]]


def test_fifty_deploys_lose_no_job_and_mark_none_wrongly(replay, scripted):
    async def script():
        scripts = {
            job_id: ["processing"] * (number % 7) + ["completed"]
            for number, job_id in enumerate(JOBS)
        }
        source, table = scripted(scripts), Table(JOBS, failing=20)
        for deploy in range(50):
            async with JobWatcher(source) as watcher:
                ids = repeat_query(table.open_ids, every=0.5)
                storing = asyncio.create_task(store_outcomes(watcher, ids, table.store))
                await asyncio.sleep(0.03 * deploy)
            await storing  # the watcher was closed
        assert set(table.outcomes.values()) == {"completed"}
        assert sorted(table.stored) == sorted(JOBS)

    replay(script)


def test_new_rows_of_a_table_are_watched(replay, scripted):
    async def script():
        table = Table(JOBS[:1])
        async with JobWatcher(scripted()) as watcher:
            ids = repeat_query(table.open_ids, every=1)
            storing = asyncio.create_task(store_outcomes(watcher, ids, table.store))
            for job_id in JOBS[1:]:
                await asyncio.sleep(1)
                table.outcomes[job_id] = None
            await asyncio.sleep(10)
            assert table.stored == JOBS
            storing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await storing

    replay(script)


def test_a_job_is_polled_once_although_every_query_returns_it(replay, scripted):
    async def script():
        async def query():
            return ["a"]

        async def store(_outcome):
            await asyncio.sleep(100)  # the query returns the job meanwhile
            storing.cancel()

        source = scripted()
        async with JobWatcher(source) as watcher:
            storing = asyncio.create_task(
                store_outcomes(watcher, repeat_query(query, every=1), store)
            )
            with pytest.raises(asyncio.CancelledError):
                await storing
        assert source.count("a") == 1

    replay(script)


def test_an_outcome_that_is_stored_during_a_query_is_not_stored_again(replay, scripted):
    async def script():
        table = Table(JOBS)

        async def slow_query():  # its answer is old when it arrives
            open_ids = await table.open_ids()
            await asyncio.sleep(5)
            return open_ids

        async with JobWatcher(scripted()) as watcher:
            ids = repeat_query(slow_query, every=0.1)
            storing = asyncio.create_task(store_outcomes(watcher, ids, table.store, concurrency=1))
            await asyncio.sleep(60)
        await storing
        assert sorted(table.stored) == sorted(JOBS)

    replay(script)


def test_an_outcome_that_is_stored_when_a_query_begins_is_not_stored_again(replay, scripted):
    """One that was stored earlier is forgotten, and its job is watched again if it is returned."""

    async def script():
        stored, answers = [], [["early", "late"], ["early", "late"]]

        async def query():
            ids = answers.pop(0) if answers else []
            await asyncio.sleep(0.5)  # so the second query begins at 10.5
            return ids

        async def store(outcome):
            await asyncio.sleep(2 if outcome.job_id == "early" else 9.75)
            stored.append((outcome.job_id, now() - start))

        async with JobWatcher(scripted(latency=0.25)) as watcher:
            start = now()
            ids = repeat_query(query, every=10)
            storing = asyncio.create_task(store_outcomes(watcher, ids, store))
            await asyncio.sleep(60)
        await storing
        assert stored == [("early", 2.75), ("late", 10.5), ("early", 13.25)]

    replay(script)


def test_a_query_may_return_a_view_that_changes(replay, scripted):
    async def script():
        open_jobs = dict.fromkeys(f"job{number}" for number in range(500))

        async def query():
            return open_jobs.keys()

        async def store(outcome):
            del open_jobs[outcome.job_id]

        async with JobWatcher(scripted(latency=0.0)) as watcher:
            storing = asyncio.create_task(store_outcomes(watcher, repeat_query(query), store))
            await asyncio.sleep(10)
        await storing
        assert not open_jobs

    replay(script)


def test_a_query_that_fails_is_repeated(replay):
    async def script():
        calls = []

        async def query():
            calls.append(asyncio.get_running_loop().time())
            if len(calls) < 3:
                raise ConnectionError
            return ["a"]

        ids = repeat_query(query)
        assert await anext(ids) == "a"
        assert calls == [0, 1, 3]

    replay(script)


def test_an_invalid_id_is_stored_once_although_jobs_are_watched_again(replay, scripted):
    async def script():
        refused = [AuthenticationError(status=401)] * 3
        table = Table([])
        ids = ["good", "v1-parse/?", JobRef("%", label="a.pdf")]
        async with JobWatcher(scripted({"good": [*refused, "completed"]})) as watcher:
            await store_outcomes(watcher, ids, table.store)
        assert sorted(table.stored) == ["%", "?", "good"]

    replay(script)


def test_an_error_of_the_ids_is_raised_with_its_cause(replay, scripted):
    async def script():
        cause = OSError("no route to host")

        async def ids():
            yield "a"
            raise LookupError("queue") from cause

        table = Table(["a"])
        async with JobWatcher(scripted()) as watcher:
            with pytest.raises(LookupError) as caught:
                await store_outcomes(watcher, ids(), table.store)
        assert caught.value.__cause__ is cause
        assert not isinstance(caught.value.__context__, ExceptionGroup)

    replay(script)


def test_what_waits_for_something_that_was_cancelled_has_failed(replay, scripted):
    """Such as a query of a pool that another task closes."""

    def cancelled_once():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return [future]

    async def script():
        table = Table(JOBS)
        stores, queries = cancelled_once(), cancelled_once()

        async def store(outcome):
            if stores:
                await stores.pop()
            await table.store(outcome)

        async def query():
            if queries:
                await queries.pop()
            return await table.open_ids()

        async with JobWatcher(scripted()) as watcher:
            storing = asyncio.create_task(store_outcomes(watcher, repeat_query(query), store))
            await asyncio.sleep(60)
        await storing
        assert sorted(table.stored) == sorted(JOBS)

    replay(script)


def test_a_generator_of_ids_is_closed_at_the_end(replay, scripted):
    async def script():
        read, closed = [], []

        async def ids():
            try:
                for number in range(10_000):
                    read.append(number)
                    yield f"job-{number}"
            finally:
                closed.append(True)

        async def store(_outcome):
            await asyncio.sleep(1_000)

        async with JobWatcher(scripted()) as watcher:
            storing = asyncio.create_task(store_outcomes(watcher, ids(), store, unstored=1))
            await asyncio.sleep(10)
            assert len(read) < 5_000  # it waits for room
            storing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await storing
            assert closed

    replay(script)


def test_ids_that_are_known_do_not_block_the_loop(replay, scripted):
    async def script():
        steps = []

        async def ids():
            yield "a"
            for _ in range(20_000):
                yield "a"
            storing.cancel()
            yield "a"

        async def count_steps():
            while True:
                steps.append(1)
                await asyncio.sleep(0)

        async with JobWatcher(scripted({"a": ["processing"]})) as watcher:
            counting = asyncio.create_task(count_steps())
            storing = asyncio.create_task(store_outcomes(watcher, ids(), Table(["a"]).store))
            with pytest.raises(asyncio.CancelledError):
                await storing
            counting.cancel()
        assert len(steps) >= 200

    replay(script)


def test_ids_that_wait_for_something_that_was_cancelled_are_an_error(replay, scripted):
    async def script():
        async def ids():
            yield "a"
            raise asyncio.CancelledError

        async with JobWatcher(scripted()) as watcher:
            with pytest.raises(JobIdsCancelledError):
                await store_outcomes(watcher, ids(), Table(["a"]).store)

    replay(script)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"unstored": 0}, {"unstored": math.nan}])
def test_a_number_out_of_range_is_refused(replay, scripted, options):
    async def script():
        async with JobWatcher(scripted()) as watcher:
            with pytest.raises(ValueError, match=next(iter(options))):
                await store_outcomes(watcher, [], Table([]).store, **options)
            with pytest.raises(TypeError, match="one id"):
                await store_outcomes(watcher, "a", Table([]).store)

    replay(script)


class Fast:
    """A table whose rows are stored without any wait, and which can refuse them for a while."""

    def __init__(self, *, refuses_until=0.0):
        self.refuses_until = refuses_until
        self.times, self.stored = [], []
        self.at_the_same_time = self.most = 0

    async def store(self, outcome):
        self.times.append(now())
        if now() < self.refuses_until:
            raise ZeroDivisionError
        self.at_the_same_time += 1
        self.most = max(self.most, self.at_the_same_time)
        await asyncio.sleep(1.0)
        self.at_the_same_time -= 1
        self.stored.append(outcome.job_id)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_no_more_outcomes_are_stored_at_the_same_time_than_allowed(replay, scripted, concurrency):
    async def script():
        table = Fast()
        async with JobWatcher(scripted()) as watcher:
            await store_outcomes(watcher, [*"abcdefgh"], table.store, concurrency=concurrency)
        assert table.most == concurrency
        assert sorted(table.stored) == [*"abcdefgh"]

    replay(script)


def test_the_waits_between_attempts_to_store_grow_up_to_half_a_minute(replay, scripted):
    async def script():
        table = Fast(refuses_until=100.0)
        async with JobWatcher(scripted(latency=0.0)) as watcher:
            await store_outcomes(watcher, ["a"], table.store)
        waits = [later - earlier for earlier, later in itertools.pairwise(table.times)]
        assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
        assert table.stored == ["a"]

    replay(script)


def test_a_wait_before_the_next_attempt_ends_although_a_timer_fires_early(replay, scripted):
    """A loop runs timers that are due within a nanosecond; a wait for the rest would not end."""

    async def script():
        table = Table(["a"], failing=1)

        async def store(outcome):
            try:
                await table.store(outcome)
            except ConnectionError:
                asyncio.get_running_loop().call_later(1.0 - 5e-10, lambda: None)
                raise

        async with JobWatcher(scripted()) as watcher:
            await store_outcomes(watcher, ["a"], store)
        assert table.stored == ["a"]

    replay(script)


def test_a_wait_before_the_next_attempt_ends_when_the_client_is_closed(replay, scripted):
    async def script():
        source = scripted({"b": ["pending", ClosedError("the client is closed")]})
        table = Table(["a", "b"], failing=2)
        async with JobWatcher(source, schedule=Fixed(interval=1.0, jitter=0)) as watcher:
            await store_outcomes(watcher, ["a", "b"], table.store)
            # At 1.2 s; the wait would end at 1.15 + 1 s.
            assert now() < 1.5
            assert not watcher.is_closed
        assert not table.stored

    replay(script)


def test_a_wait_before_the_next_attempt_ends_when_the_watcher_is_closed(replay, scripted):
    async def script():
        table = Fast(refuses_until=1e6)
        watcher = JobWatcher(scripted(latency=0.0))
        storing = asyncio.create_task(store_outcomes(watcher, ["a"], table.store))
        await asyncio.sleep(20.0)  # within a wait of 16 s
        await watcher.aclose()
        await storing
        assert now() <= 20.0 + 1.0
        assert table.stored == []

    replay(script)


@pytest.mark.parametrize("every", [0.0, -1.0, float("inf"), float("nan")])
def test_the_time_between_two_queries_is_positive(every):
    with pytest.raises(ValueError, match="every must be a positive number"):
        repeat_query(None, every=every)


def test_a_query_is_repeated_at_the_given_times_and_after_growing_waits(replay):
    async def script():
        began, answers = [], [["a"], [], [], None, None, None, ["b"], None, ["c"]]

        async def query():
            began.append(now())
            await asyncio.sleep(1.0)
            if (answer := answers.pop(0)) is None:
                raise ZeroDivisionError
            return answer

        ids = repeat_query(query, every=5.0)
        assert ids.began_at == -math.inf
        assert await anext(ids) == "a"
        assert ids.began_at == 0.0
        assert await anext(ids) == "b"
        # Five seconds after the end of a query; after failures 1, 2 and 4 s.
        assert began == [0.0, 6.0, 12.0, 18.0, 20.0, 23.0, 28.0]
        assert ids.began_at == 28.0
        assert await anext(ids) == "c"
        assert began[7:] == [34.0, 36.0]

    replay(script)
