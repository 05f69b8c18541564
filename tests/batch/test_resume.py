"""The next run with a journal continues: outcomes are durable, ordered and delivered once."""

import asyncio
import contextlib
import sqlite3

import pytest
from batching import LARGE, NEVER, gather, gather_until
from internals import watcher_of
from waiting import until

from adepoll import Batch, Journal
from adepoll.api.models import JobStatus
from adepoll.batch import run_tasks
from adepoll.emulator import Outcome as Ends
from adepoll.errors import (
    ClosedError,
    JobNotFoundError,
    JournalWriteError,
    ResultUnavailableError,
)
from adepoll.journal import Acknowledged, JournalReader, Settled
from adepoll.journal.outcomes import RecordedError, Stage


async def take(run, count):
    """Return the first outcomes of a run; the last of them is not acknowledged."""
    return {outcome.job_id: outcome for outcome in [await anext(run) for _ in range(count)]}


# --- durability and acknowledgement --------------------------------------------------------------


async def test_an_outcome_is_in_the_journal_when_it_is_delivered(scene):
    scene.grace = 0.0
    large = scene.many(2, result_bytes=LARGE)
    job_ids = [*large, *scene.many(3), scene.submit(outcome=Ends.FAILED), "unknown"]
    async with scene.batch() as batch:
        async for outcome in batch.run(job_ids):
            known = scene.records()[outcome.job_id]
            assert known.file == outcome.file
            assert known.snapshot == outcome.snapshot
            if outcome.error is None:
                assert known.stage is Stage.DONE
            else:
                assert known.stage is Stage.GIVEN_UP
                assert str(known.error) == str(outcome.error)
                assert known.error.error_class == type(outcome.error).__name__


async def test_requesting_the_next_outcome_acknowledges_the_previous_one(scene):
    async with scene.batch() as batch:
        run = batch.run(scene.many(3))
        outcomes = [await anext(run)]
        assert _delivered(scene) == set()
        outcomes.append(await anext(run))
        assert _delivered(scene) == {outcomes[0].job_id}
        outcomes.append(await anext(run))
        assert await anext(run, None) is None
        assert _delivered(scene) == {outcome.job_id for outcome in outcomes}


def _delivered(scene):
    return {record.job_id for record in scene.records().values() if record.delivered_at}


async def test_a_consumer_cancelled_in_an_acknowledgement_does_not_get_the_outcome_again(
    scene, monkeypatch
):
    """The next request writes the acknowledgement."""
    reached = asyncio.Event()
    write = Journal.write

    async def slow(journal, *changes, durable=True):
        if isinstance(changes[0], Acknowledged) and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        await write(journal, *changes, durable=durable)

    monkeypatch.setattr(Journal, "write", slow)
    job_ids = scene.many(2)
    async with scene.batch() as batch:
        run = batch.run(job_ids)
        first = await anext(run)
        requesting = asyncio.ensure_future(anext(run))
        await reached.wait()
        requesting.cancel()
        await asyncio.wait([requesting])
        second = await anext(run)
        assert _delivered(scene) == {first.job_id}
        assert {first.job_id, second.job_id} == set(job_ids)


# --- order ---------------------------------------------------------------------------------------


async def test_the_next_run_starts_with_untaken_outcomes_and_needs_no_request(scene):
    settled, later = [*scene.many(4), *scene.many(2, result_bytes=LARGE)], scene.many(3)
    async with scene.batch() as batch:
        run = batch.run(settled)
        first = await take(run, 3)
        await until(lambda: not batch.progress.open)
    taken = _delivered(scene)
    assert len(taken) == 2
    before = scene.requests
    async with scene.batch() as batch:
        run = batch.run(later)
        again = await take(run, 4)
        requests = scene.requests
        rest = await gather(run)
    assert set(again) == set(settled) - taken
    assert set(first) - taken <= set(again)
    assert set(rest) == set(later)
    # New jobs may have been polled already, but no settled job.
    assert requests - before <= len(later)
    for job_id in settled:
        assert scene.ade.truth(job_id).polls == 1


async def test_a_run_with_only_settled_jobs_sends_no_request(scene):
    job_ids = [
        *scene.many(3),
        *scene.many(2, result_bytes=LARGE),
        scene.submit(outcome=Ends.FAILED),
    ]
    async with scene.batch() as batch:
        async for _ in batch.run(job_ids):
            await until(lambda: not batch.progress.open)
            break
    before = scene.requests
    assert set(await scene.run(job_ids)) == set(job_ids)
    assert await scene.run(job_ids) == {}
    assert scene.requests == before


async def test_a_replayed_outcome_equals_the_first_one(scene):
    scene.grace = 0.0
    job_ids = [
        scene.submit(),
        scene.submit(result_bytes=LARGE),
        scene.submit(outcome=Ends.PARTIAL),
        scene.submit(outcome=Ends.CANCELLED),
        scene.submit(zero_data_retention=True),
        "unknown",
    ]
    first = await scene.run(job_ids)
    before = scene.requests
    again = await scene.run(replay=True)
    assert scene.requests == before
    assert set(again) == set(job_ids)
    for job_id, outcome in again.items():
        assert outcome.file == first[job_id].file
        assert outcome.snapshot == first[job_id].snapshot
        assert str(outcome.error) == str(first[job_id].error)
        assert outcome.error is None or isinstance(outcome.error, RecordedError)
    assert await scene.run() == {}  # the replayed outcomes are acknowledged again


async def test_the_next_run_watches_active_jobs(scene):
    slow = scene.many(3, processing_time=NEVER)
    quick = scene.submit()
    async with scene.batch() as batch:
        run = batch.run([*slow, quick])
        assert set(await take(run, 1)) == {quick}
    for job_id in slow:
        scene.end(job_id)
    assert set(await scene.run()) == {quick, *slow}


async def test_the_last_status_of_active_jobs_is_recorded_when_a_run_is_closed(scene):
    slow, quick = scene.submit(processing_time=NEVER), scene.submit()
    async with scene.batch() as batch:
        run = batch.run([slow, quick])
        await anext(run)
        await until(lambda: batch.watching.polls >= 2)
        await run.aclose()
        assert scene.records()[slow].status_text == "processing"


async def test_what_a_run_has_learnt_is_saved_while_it_runs(scene, monkeypatch):
    """A run that is killed cannot save it."""
    monkeypatch.setattr(run_tasks, "_SAVE_EVERY", 0.01)
    slow, quick = scene.submit(processing_time=NEVER), scene.submit()
    async with scene.batch() as batch, batch.run([slow, quick]) as run:
        await anext(run)
        await until(lambda: scene.records()[slow].status_text == "processing")
        scene.end(slow)
        watcher_of(batch).poll_now(slow)
        await anext(run)
        with JournalReader(scene.journal) as reader:
            await until(lambda: "durations" in reader.notes())


# --- given-up jobs -------------------------------------------------------------------------------


async def test_lasting_errors_are_not_tried_again(scene):
    scene.grace = 0.0
    found = await scene.run(["unknown", scene.submit(zero_data_retention=True)])
    kinds = {type(outcome.error) for outcome in found.values()}
    assert kinds == {JobNotFoundError, ResultUnavailableError}
    before = scene.requests
    assert await scene.run(found) == {}
    assert scene.requests == before


async def test_other_errors_are_tried_again_until_they_are_gone(scene):
    scene.grace = 0.0
    unseen, unfetched = scene.submit(), scene.submit(result_bytes=LARGE)
    broken = [
        scene.ade.faults.add("server-error", endpoints=["get"], jobs=[unseen]),
        scene.ade.faults.add("server-error", endpoints=["result"], jobs=[unfetched]),
    ]
    first = await scene.run([unseen, unfetched])
    assert all(outcome.error for outcome in first.values())
    assert first[unseen].snapshot is None
    assert first[unfetched].snapshot.status is JobStatus.COMPLETED
    second = await scene.run()
    assert set(second) == {unseen, unfetched}
    assert all(outcome.error for outcome in second.values())
    for fault in broken:
        scene.ade.faults.remove(fault)
    third = await scene.run()
    assert set(third) == {unseen, unfetched}
    assert not any(outcome.error for outcome in third.values())
    assert await scene.run() == {}


async def test_a_new_resolve_url_fetches_results_that_the_service_does_not_keep(
    scene, bucket, result_body
):
    bucket.body = result_body(3_000)
    job_id = scene.submit(zero_data_retention=True)
    first = await scene.run([job_id])
    assert type(first[job_id].error) is ResultUnavailableError
    found = await scene.run(resolve_url=lambda _snapshot: bucket.url())
    assert found[job_id].error is None
    assert scene.path(job_id).read_bytes() == bucket.body
    assert await scene.run() == {}


# --- the journal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settled_before", [0, 2])
async def test_a_journal_that_cannot_be_written_stops_the_run_without_loss(
    scene, monkeypatch, settled_before
):
    job_ids = [*scene.many(4), *scene.many(2, result_bytes=LARGE)]
    write = Journal.write
    count = 0

    async def full(journal, *changes, durable=True):
        nonlocal count
        if durable:
            count += 1
            if count > settled_before:
                raise JournalWriteError("full", path=None, code="SQLITE_FULL", errno=28)
        await write(journal, *changes, durable=durable)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", full)
        async with scene.batch() as batch:
            run = batch.run(job_ids)
            delivered, _ = await gather_until(run, JournalWriteError)
    found = await scene.run()
    assert {*delivered, *found} == set(job_ids)
    assert not delivered.keys() & found.keys()
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)


async def test_only_one_batch_at_a_time_has_the_journal(scene):
    async with scene.batch():
        with pytest.raises(Exception, match="is open already in this process"):
            await scene.run([])
        with JournalReader(scene.journal) as reader:
            assert reader.holder is not None


async def test_a_batch_can_have_several_runs_in_sequence(scene):
    first, second = scene.many(2), scene.many(2)
    async with Batch(scene.client) as batch:
        assert set(await gather(batch.run(first))) == set(first)
        assert set(await gather(batch.run([*first, *second]))) == set(second)
        assert set(await gather(batch.run(replay=True))) == {*first, *second}


async def test_an_inline_result_in_the_journal_of_a_killed_run_is_not_requested_again(scene):
    job_id = scene.submit()
    snapshot = await scene.client.get_job(job_id)
    async with await Journal.open(scene.journal, endpoint=scene.client.base_url) as journal:
        await journal.add([job_id])
        await journal.write(Settled(snapshot, 1_800_000_000.0, fetching=True))  # then a kill
    before = scene.requests
    [outcome] = (await scene.run()).values()
    assert outcome.file.path.read_bytes() == scene.truth(job_id)
    assert scene.requests == before
    with contextlib.closing(sqlite3.connect(scene.journal)) as kept:
        assert kept.execute("SELECT count(*) FROM data").fetchone() == (0,)  # it is in a file now


async def test_an_acknowledgement_that_cannot_be_recorded_ends_the_run_with_its_error(
    scene, monkeypatch
):
    real = Journal.write

    async def write(journal, *changes, **options):
        if any(isinstance(change, Acknowledged) for change in changes):
            raise JournalWriteError("full", path=None, code="SQLITE_FULL", errno=28)
        await real(journal, *changes, **options)

    async with scene.batch() as batch:
        assert batch.time_left() is None  # there is no run yet
        async with batch.run(scene.many(2)) as run:
            await anext(run)
            monkeypatch.setattr(Journal, "write", write)
            with pytest.raises(JournalWriteError):
                await anext(run)
            with pytest.raises((StopAsyncIteration, ClosedError)):
                await anext(run)
