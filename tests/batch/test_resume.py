"""What one run has settled, the next one on the same journal knows: durable, in order, once."""

import asyncio
import contextlib
import sqlite3

import pytest
from batching import LARGE, NEVER, gather, gather_until
from waiting import until

from adepoll import Batch, Journal
from adepoll.api.models import JobStatus
from adepoll.emulator import Outcome as Ends
from adepoll.errors import JobNotFoundError, JournalWriteError, ResultUnavailableError
from adepoll.journal import Delivered, JournalReader, Settled
from adepoll.journal.outcomes import RecordedError, Stage


async def take(run, count):
    """Give the first outcomes of a run; the last of them stays untaken."""
    return {outcome.job_id: outcome for outcome in [await anext(run) for _ in range(count)]}


# --- what is durable, and when -------------------------------------------------------------------


async def test_an_outcome_is_in_the_journal_when_it_is_told(scene):
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
                assert known.error.kind == type(outcome.error).__name__


async def test_an_outcome_counts_as_taken_when_the_next_one_is_asked_for(scene):
    async with scene.batch() as batch:
        run = batch.run(scene.many(3))
        told = [await anext(run)]
        assert _delivered(scene) == set()
        told.append(await anext(run))
        assert _delivered(scene) == {told[0].job_id}
        told.append(await anext(run))
        assert await anext(run, None) is None
        assert _delivered(scene) == {outcome.job_id for outcome in told}


def _delivered(scene):
    return {record.job_id for record in scene.records().values() if record.delivered_at}


async def test_one_that_was_cancelled_while_it_asked_is_not_told_that_outcome_again(
    scene, monkeypatch
):
    """The mark is set later, by who asks next."""
    reached = asyncio.Event()
    write = Journal.write

    async def slow(journal, *changes, durable=True):
        if isinstance(changes[0], Delivered) and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        await write(journal, *changes, durable=durable)

    monkeypatch.setattr(Journal, "write", slow)
    job_ids = scene.many(2)
    async with scene.batch() as batch:
        run = batch.run(job_ids)
        first = await anext(run)
        asking = asyncio.ensure_future(anext(run))
        await reached.wait()
        asking.cancel()
        await asyncio.wait([asking])
        second = await anext(run)
        assert _delivered(scene) == {first.job_id}
        assert {first.job_id, second.job_id} == set(job_ids)


# --- what comes first ----------------------------------------------------------------------------


async def test_the_next_run_begins_with_what_nobody_took_and_needs_no_request(scene):
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
        asked = scene.requests
        rest = await gather(run)
    assert set(again) == set(settled) - taken
    assert set(first) - taken <= set(again)
    assert set(rest) == set(later)
    # Those that are new may have been looked at already; of those settled, none was.
    assert asked - before <= len(later)
    for job_id in settled:
        assert scene.ade.truth(job_id).gets == 1


async def test_a_run_that_has_only_to_tell_asks_nobody(scene):
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


async def test_what_is_told_again_is_what_was_told(scene):
    scene.grace = 0.0
    job_ids = [
        scene.submit(),
        scene.submit(result_bytes=LARGE),
        scene.submit(outcome=Ends.NONCONFORMANT),
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
    assert await scene.run() == {}  # and counts as taken once more


async def test_jobs_that_waited_are_watched_by_the_next_run(scene):
    slow = scene.many(3, processing_time=NEVER)
    quick = scene.submit()
    async with scene.batch() as batch:
        run = batch.run([*slow, quick])
        assert set(await take(run, 1)) == {quick}
    for job_id in slow:
        scene.end(job_id)
    assert set(await scene.run()) == {quick, *slow}


async def test_the_last_state_of_jobs_that_run_is_known_after_an_orderly_end(scene):
    slow, quick = scene.submit(processing_time=NEVER), scene.submit()
    async with scene.batch() as batch:
        run = batch.run([slow, quick])
        await anext(run)
        await until(lambda: batch.watching.polls >= 2)
        await run.aclose()
        assert scene.records()[slow].status_text == "processing"


# --- what is tried again -------------------------------------------------------------------------


async def test_what_will_not_change_is_not_tried_again(scene):
    scene.grace = 0.0
    found = await scene.run(["unknown", scene.submit(zero_data_retention=True)])
    kinds = {type(outcome.error) for outcome in found.values()}
    assert kinds == {JobNotFoundError, ResultUnavailableError}
    before = scene.requests
    assert await scene.run(found) == {}
    assert scene.requests == before


async def test_what_may_change_is_tried_again_until_it_works(scene):
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


async def test_who_learns_where_results_can_be_read_is_given_those_that_the_service_keeps_not(
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


# --- a journal that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("settled_before", [0, 2])
async def test_a_journal_that_cannot_be_written_stops_the_run_and_loses_nothing(
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
            told, _ = await gather_until(run, JournalWriteError)
    found = await scene.run()
    assert {*told, *found} == set(job_ids)
    assert not told.keys() & found.keys()
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)


async def test_one_process_at_a_time_has_the_journal(scene):
    async with scene.batch():
        with pytest.raises(Exception, match="is in use by process"):
            await scene.run([])
        with JournalReader(scene.journal) as reader:
            assert reader.holder is not None


async def test_two_runs_one_after_the_other_on_one_batch(scene):
    first, second = scene.many(2), scene.many(2)
    async with Batch(scene.client) as batch:
        assert set(await gather(batch.run(first))) == set(first)
        assert set(await gather(batch.run([*first, *second]))) == set(second)
        assert set(await gather(batch.run(replay=True))) == {*first, *second}


async def test_an_inline_result_in_hand_when_a_run_was_killed_is_not_asked_for_again(scene):
    job_id = scene.submit()
    snapshot = await scene.client.get_job(job_id)
    async with await Journal.open(scene.journal, endpoint=scene.client.base_url) as journal:
        await journal.add([job_id])
        await journal.write(Settled(snapshot, 1_800_000_000.0, fetching=True))  # and then the kill
    before = scene.requests
    [outcome] = (await scene.run()).values()
    assert outcome.file.path.read_bytes() == scene.truth(job_id)
    assert scene.requests == before
    with contextlib.closing(sqlite3.connect(scene.journal)) as kept:
        assert kept.execute("SELECT count(*) FROM data").fetchone() == (0,)  # the file has it
