"""IdIntake adds ids to a journal without blocking its other writes."""

import asyncio
import contextlib

import pytest

from adepoll.api.job_kind import JobKind
from adepoll.batch.id_intake import IdIntake
from adepoll.batch.progress import RunCounters
from adepoll.emulator import run
from adepoll.errors import JobIdsCancelledError

CHUNKS = 3
CHUNK = 100_000
TAKES = 2.0  # seconds


class SlowJournal:
    """A journal that takes `TAKES` seconds for each full chunk, and keeps the times."""

    def __init__(self, *, is_busy=False, takes=TAKES):
        self.added = []
        self.is_busy = is_busy
        self.takes = takes

    async def add(self, job_ids, *, kind):
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(self.takes)
        self.added.append((began, began + self.takes, len(job_ids)))
        return len(job_ids)


async def many():
    for number in range(CHUNKS * CHUNK):
        yield f"job-{number}"


async def refuse(error, _job):
    raise AssertionError(error)


@pytest.mark.parametrize("is_busy", [True, False])
def test_adding_ids_leaves_the_journal_most_of_its_time_while_other_calls_wait(is_busy):
    async def main():
        journal, counters = SlowJournal(is_busy=is_busy), RunCounters()
        await IdIntake(journal, many(), counters, refuse, kind=JobKind.V1_EXTRACT).add_all()
        assert sum(count for _, _, count in journal.added) == CHUNKS * CHUNK == counters.known
        return [
            later[0] - earlier[1]
            for earlier, later in zip(journal.added, journal.added[1:], strict=False)
        ]

    pauses = run(main())
    assert len(pauses) >= CHUNKS - 1
    assert pauses == pytest.approx([4 * TAKES if is_busy else 0.0] * len(pauses))


def test_a_chunk_that_takes_long_makes_later_chunks_smaller():
    class Journal(SlowJournal):
        async def add(self, job_ids, *, kind):
            self.takes = len(job_ids) / 20_000
            return await super().add(job_ids, kind=kind)

    async def main():
        journal = Journal()
        await IdIntake(journal, many(), RunCounters(), refuse, kind=JobKind.V1_EXTRACT).add_all()
        return journal.added

    added = run(main())
    assert max(count for _, _, count in added[10:]) <= 10_000
    assert sum(end - start > 0.5 for start, end, _ in added) == 1


def test_chunks_are_as_small_as_a_busy_machine_needs_and_grow_again():
    busy_until = 100.0

    class Journal(SlowJournal):
        async def add(self, job_ids, *, kind):
            is_busy = asyncio.get_running_loop().time() < busy_until
            self.takes = len(job_ids) / (1_000 if is_busy else 500_000)
            return await super().add(job_ids, kind=kind)

    async def main():
        journal = Journal()
        await IdIntake(journal, many(), RunCounters(), refuse, kind=JobKind.V1_EXTRACT).add_all()
        return journal.added

    added = run(main())
    busy = [count for start, _, count in added if start < busy_until]
    assert len(busy) > 50
    assert max(busy[5:]) == 1_000
    later = [count for start, _, count in added if start >= busy_until]
    assert later[:7] == [1_000 * 2**number for number in range(7)]
    assert max(later) > CHUNK / 2


def test_the_first_ids_are_added_before_the_others_are_read():
    async def main():
        journal = SlowJournal(takes=0.5)
        await IdIntake(journal, many(), RunCounters(), refuse, kind=JobKind.V1_EXTRACT).add_all()
        return [count for _, _, count in journal.added]

    counts = run(main())
    assert counts[0] == 1_000
    assert all(count <= max(1_000, sum(counts[:index])) for index, count in enumerate(counts))
    assert max(counts) == CHUNK


def test_an_iterable_whose_awaitable_is_cancelled_ends_the_intake_with_a_typed_error():
    async def main():
        gone = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, gone.cancel)

        async def ids():
            yield "job-1"
            yield await gone

        async with asyncio.timeout(60):
            with pytest.raises(ExceptionGroup) as caught:
                await IdIntake(
                    SlowJournal(), ids(), RunCounters(), refuse, kind=JobKind.V1_EXTRACT
                ).add_all()
        assert caught.group_contains(JobIdsCancelledError)

    run(main())


def test_an_iterable_that_raises_stop_async_iteration_is_no_complete_intake():
    def ids():
        yield "job-1"
        raise StopAsyncIteration

    async def main():
        counters = RunCounters()
        with pytest.raises(ExceptionGroup) as caught:
            await IdIntake(
                SlowJournal(), ids(), counters, refuse, kind=JobKind.V1_EXTRACT
            ).add_all()
        assert caught.group_contains(RuntimeError, match="raised StopAsyncIteration")
        assert not counters.complete

    run(main())


def test_an_iterable_that_ignores_its_cancellation_is_not_read_further():
    async def main():
        taken = []

        async def ids():
            for number in range(10):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3)
                taken.append(number)
                yield f"job-{number}"

        intake = IdIntake(SlowJournal(), ids(), RunCounters(), refuse, kind=JobKind.V1_EXTRACT)
        task = asyncio.create_task(intake.add_all())
        await asyncio.sleep(4)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert taken == [0, 1]

    run(main())


@pytest.mark.parametrize("stop_at", [0.0, 0.1, 0.7, 2.0])
@pytest.mark.parametrize("is_async", [True, False])
def test_ids_that_were_read_are_added_although_no_others_are_read(monkeypatch, stop_at, is_async):
    monkeypatch.setattr("adepoll.batch.id_intake._MOST_BUFFERED", 1_500)

    async def main():
        taken = []

        def ids():
            for number in range(5_000):
                taken.append(number)
                yield f"job-{number}"
            if not is_async:
                return
            while True:
                yield None

        async def arriving():
            for job_id in ids():
                if job_id is None:
                    await asyncio.get_running_loop().create_future()
                yield job_id

        journal, counters = SlowJournal(takes=0.5), RunCounters()
        job_ids = arriving() if is_async else ids()
        intake = IdIntake(journal, job_ids, counters, refuse, kind=JobKind.V1_EXTRACT)
        task = asyncio.create_task(intake.add_all())
        await asyncio.sleep(stop_at)
        intake.stop_reading()
        await task
        assert sum(count for _, _, count in journal.added) == len(taken) == counters.known
        assert counters.open == counters.known
        assert counters.complete == (not is_async and len(taken) == 5_000)

    run(main())


@pytest.mark.parametrize("is_async", [True, False])
def test_an_id_that_waits_for_its_refusal_is_not_lost_if_no_others_are_read(is_async):
    async def main():
        refused = []

        async def refuse_slowly(_error, job):
            await asyncio.sleep(3)
            refused.append(job)

        async def bad_ids():
            for number in range(9):
                yield f"bad {number}"

        job_ids = bad_ids() if is_async else (f"bad {number}" for number in range(9))
        counters = RunCounters()
        intake = IdIntake(SlowJournal(), job_ids, counters, refuse_slowly, kind=JobKind.V1_EXTRACT)
        task = asyncio.create_task(intake.add_all())
        await asyncio.sleep(4)
        intake.stop_reading()
        await task
        assert refused == ["bad 0", "bad 1"]
        assert not counters.complete

    run(main())


def test_reading_that_is_stopped_before_it_begins_takes_no_id():
    async def main():
        journal, counters = SlowJournal(), RunCounters()
        intake = IdIntake(journal, many(), counters, refuse, kind=JobKind.V1_EXTRACT)
        intake.stop_reading()
        await intake.add_all()
        assert not counters.known
        assert not counters.complete

    run(main())


def test_a_cancelled_intake_counts_the_ids_that_the_journal_adds_meanwhile():
    async def main():
        journal, counters = SlowJournal(takes=0.5), RunCounters()
        intake = IdIntake(journal, many(), counters, refuse, kind=JobKind.V1_EXTRACT)
        task = asyncio.create_task(intake.add_all())
        await asyncio.sleep(0.7)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert [count for _, _, count in journal.added] == [1_000, 1_000]
        assert counters.known == counters.open == 2_000

    run(main())


@pytest.mark.parametrize(
    ("ids", "is_collection"),
    [(["a"], True), ({"a"}, True), (("a",), True), (iter(["a"]), False), (many(), False)],
)
def test_only_the_ids_of_a_collection_are_all_in_memory(ids, is_collection):
    intake = IdIntake(SlowJournal(), ids, RunCounters(), refuse, kind=JobKind.V1_EXTRACT)
    assert intake.is_collection is is_collection
