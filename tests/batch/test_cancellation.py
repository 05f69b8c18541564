"""After a run is left, its tasks have ended, nothing is lost, and the next run can start."""

import asyncio
import gc
import sys
import threading

import pytest
from batching import LARGE, NEVER, gather
from internals import watcher_of
from waiting import until

from adepoll import Batch, Journal
from adepoll.emulator import Outcome as Ends
from adepoll.errors import ClosedError
from adepoll.journal import JournalReader


@pytest.fixture
async def nothing_left(scene):
    """Check that a test leaves no task and no journal thread, and that the loop logs nothing."""
    loop = asyncio.get_running_loop()
    complaints = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    gc.collect()
    left = {_module(task): task for task in asyncio.all_tasks() - before}
    assert not {
        module: task
        for module, task in left.items()
        if module.startswith("adepoll.") and not module.startswith("adepoll.emulator.")
    }
    assert not [t for t in threading.enumerate() if t.name.startswith("adepoll-journal")]
    assert not complaints


def _module(task):
    """Return the name of the module whose function the task runs; "" if unknown."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return "" if frame is None else frame.f_globals["__name__"]


def tasks_of_batches():
    return {task for task in asyncio.all_tasks() if _module(task).startswith("adepoll.batch.")}


async def slow_and_quick(scene):
    quick = [*scene.many(5), *scene.many(2, result_bytes=LARGE), scene.submit(outcome=Ends.FAILED)]
    return [*quick, *scene.many(3, processing_time=NEVER)], quick


async def leave_by_break(batch, job_ids):
    async for outcome in batch.run(job_ids):  # noqa: B007 - the function returns it
        break
    return outcome


async def leave_by_closing(batch, job_ids):
    run = batch.run(job_ids)
    outcome = await anext(run)
    await run.aclose()
    assert await anext(run, None) is None
    return outcome


async def leave_the_block(batch, job_ids):
    async with batch.run(job_ids) as run:
        return await anext(run)


async def leave_by_an_error(batch, job_ids):
    try:
        async for outcome in batch.run(job_ids):  # noqa: B007 - as above
            raise ZeroDivisionError  # noqa: TRY301 - the consumer raises it in the loop
    except ZeroDivisionError:
        pass
    return outcome


async def leave_cancelled(batch, job_ids):
    delivered = []

    async def consume():
        async for outcome in batch.run(job_ids):
            delivered.append(outcome)
            await asyncio.Event().wait()

    consumer = asyncio.create_task(consume())
    await until(lambda: delivered)
    consumer.cancel()
    await asyncio.wait([consumer])
    assert consumer.cancelled()
    del consumer
    return delivered[0]


LEAVE = pytest.mark.parametrize(
    "leave",
    [leave_by_break, leave_by_closing, leave_the_block, leave_by_an_error, leave_cancelled],
)


@LEAVE
async def test_the_next_run_can_start_after_a_run_is_left(scene, nothing_left, leave):
    job_ids, quick = await slow_and_quick(scene)
    async with scene.batch() as batch:
        first = await leave(batch, job_ids)
        gc.collect()
        for job_id in set(job_ids) - set(quick):
            scene.end(job_id)
        found = await gather(batch.run())
    assert first.job_id in found  # it was not acknowledged
    assert set(found) == set(job_ids)
    for job_id, outcome in found.items():
        assert outcome.error is None
        if outcome.file is not None:
            assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


@LEAVE
async def test_no_task_of_a_run_continues_after_it_is_left(scene, nothing_left, leave):
    job_ids, _ = await slow_and_quick(scene)
    async with scene.batch() as batch:
        await leave(batch, job_ids)
        gc.collect()
        await until(lambda: not tasks_of_batches())
        requests = scene.requests
        await asyncio.sleep(0.05)
        assert scene.requests == requests


async def test_leaving_the_loop_over_a_run_with_a_name_ends_it(scene, nothing_left):
    job_ids, _ = await slow_and_quick(scene)
    async with scene.batch() as batch:
        run = batch.run(job_ids)
        async for _ in run:
            break
        await until(lambda: not tasks_of_batches())
        requests = scene.requests
        await asyncio.sleep(0.05)
        assert scene.requests == requests
        with pytest.raises(ClosedError, match="start another one"):
            await anext(run)


async def test_closing_a_run_waits_until_its_tasks_have_ended(scene, nothing_left):
    job_ids, _ = await slow_and_quick(scene)
    async with scene.batch() as batch:
        run = batch.run(job_ids)
        await anext(run)
        before = tasks_of_batches()
        await run.aclose()
        assert before
        assert not tasks_of_batches()
        await run.aclose()


async def test_leaving_a_batch_stops_its_run(scene, nothing_left):
    job_ids, _ = await slow_and_quick(scene)
    async with scene.batch() as batch:
        run = batch.run(job_ids)
        await anext(run)
    assert not tasks_of_batches()
    assert len(scene.records()) == len(job_ids)
    with pytest.raises(ClosedError):
        await anext(run)
    with pytest.raises(StopAsyncIteration):
        await anext(run)


@pytest.mark.parametrize("own_journal", [True, False])
async def test_a_waiting_consumer_gets_an_error_when_the_batch_is_closed(
    scene, nothing_left, own_journal
):
    slow = scene.submit(processing_time=NEVER)
    async with await Journal.in_memory(endpoint=scene.client.base_url) as journal:
        batch = scene.batch(**({} if own_journal else {"journal": journal}))
        await batch.__aenter__()
        run = batch.run([slow])
        waiting = asyncio.ensure_future(anext(run))
        await until(lambda: batch.progress.known)
        await batch.aclose()
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(run)


async def test_a_waiting_consumer_gets_an_error_when_another_task_closes_the_run(
    scene, nothing_left
):
    async with scene.batch() as batch:
        run = batch.run([scene.submit(processing_time=NEVER)])
        waiting = asyncio.ensure_future(anext(run))
        await until(lambda: batch.progress.known)
        await run.aclose()
        with pytest.raises(ClosedError):
            await waiting


async def test_a_second_run_at_the_same_time_is_refused(scene, nothing_left):
    first, second = scene.submit(processing_time=NEVER), scene.submit()
    async with scene.batch() as batch:
        async with batch.run([first]):
            other = batch.run([second])
            with pytest.raises(ClosedError, match="another run"):
                await anext(other)
        assert (await anext(other)).job_id == second


async def test_a_cancelled_consumer_can_request_the_outcome_again(scene, nothing_left):
    job_id = scene.submit(processing_time=NEVER)
    async with scene.batch() as batch:
        run = batch.run([job_id])
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(run), 0.01)
        scene.end(job_id)
        watcher_of(batch).poll_now(job_id)
        assert (await anext(run)).job_id == job_id


async def test_an_error_that_is_never_retrieved_is_not_logged(scene, nothing_left):
    left = asyncio.Event()

    async def ids():
        yield scene.submit()
        await left.wait()
        raise ZeroDivisionError

    async with scene.batch() as batch:
        run = batch.run(ids())
        await anext(run)
        left.set()
        await until(lambda: not tasks_of_batches())
        del run
        assert len(await gather(batch.run())) == 1
        gc.collect()  # asyncio would log the error now


async def test_a_cancelled_close_of_a_batch_still_closes(scene, nothing_left):
    batch = scene.batch()
    await batch.__aenter__()
    run = batch.run([scene.submit(processing_time=NEVER)])
    waiting = asyncio.ensure_future(anext(run))
    await until(lambda: batch.progress.known)
    closing = asyncio.create_task(batch.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing, waiting])
    assert isinstance(waiting.exception(), ClosedError)
    await scene.run(timeout=0)  # the journal was closed


async def test_a_batch_can_be_opened_again(scene, nothing_left):
    first, second = scene.many(2)
    batch = scene.batch()
    async with batch:
        assert set(await gather(batch.run([first]))) == {first}
    async with batch:
        assert set(await gather(batch.run([first, second]))) == {second}


# --- slow consumers ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_folder", [True, False])
async def test_a_slow_consumer_slows_the_batch_down(scene, nothing_left, with_folder):
    job_ids = scene.many(150)
    options = {} if with_folder else {"out_dir": None}
    async with scene.batch(concurrency=4, downloads=2, **options) as batch:
        run = batch.run(job_ids)
        await anext(run)
        ahead = -1
        while ahead != (ahead := scene.ade.world.traffic.get):  # noqa: ASYNC110 - until the number no longer grows
            await asyncio.sleep(0.3)
        assert ahead < 60
        taken = 1 + len(await gather(run))
    assert taken == 150


@pytest.mark.parametrize("activity", ["replayed", "verified"])
async def test_a_run_left_while_it_delivers_earlier_outcomes_leaves_nothing(
    scene, nothing_left, activity
):
    job_ids = scene.many(60, outcome=Ends.FAILED) + scene.many(20)
    await scene.run(job_ids)
    if activity == "verified":
        for path in scene.out_dir.iterdir():
            path.unlink()
    collected = []  # generators that were not closed
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(hooks.firstiter, lambda left: collected.append(left.__qualname__))
    async with scene.batch(downloads=1) as batch:
        run = batch.run(replay=activity == "replayed")
        await anext(run)
        await asyncio.sleep(0.05)
        await run.aclose()
        assert not tasks_of_batches()
    del run, batch
    gc.collect()
    sys.set_asyncgen_hooks(*hooks)
    assert not collected


async def test_a_run_works_without_a_journal(scene, nothing_left):
    job_ids, quick = await slow_and_quick(scene)
    async with Batch(scene.client) as batch, batch.run(job_ids, timeout=0.5) as run:
        found = await gather(run)
    assert set(found) == set(job_ids)
    # On a busy machine, a quick job can also need longer than the timeout.
    assert {job_id for job_id, outcome in found.items() if outcome.error is None} <= set(quick)


async def test_a_run_that_is_left_and_then_closed_saves_what_it_has_learnt(scene, monkeypatch):
    note, is_saving, may_save = Journal.note, asyncio.Event(), asyncio.Event()

    async def note_slowly(journal, key):
        is_saving.set()
        await may_save.wait()
        return await note(journal, key)

    job_ids = [scene.submit(), scene.submit(processing_time=NEVER)]
    async with scene.batch() as batch:
        monkeypatch.setattr(Journal, "note", note_slowly)
        await leave_by_break(batch, job_ids)
        await is_saving.wait()
        closing = asyncio.ensure_future(batch.aclose())
        await until(lambda: batch._tasks._main.cancelling() == 2)
        may_save.set()
        await closing
    with JournalReader(scene.journal) as reader:
        assert "durations" in reader.notes()
