"""A batch returns exactly one outcome for each job, whatever it is and however ids arrive."""

import asyncio
import os
import stat
from functools import partial

import pytest
from batching import LARGE, NEVER, gather, gather_until, make_client
from internals import at_risk, watcher_of
from waiting import until

from adepoll import Batch, JobKind, JobRef, JobWatcher, Journal, ResultFetcher
from adepoll.api.models import JobStatus
from adepoll.batch import BatchProgress
from adepoll.batch.progress import OutcomeRate
from adepoll.emulator import JobPlan
from adepoll.emulator import Outcome as Ends
from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    InvalidJobIdError,
    JobNotFoundError,
    JobTimeoutError,
    JournalEndpointError,
    PaymentRequiredError,
    ResultUnavailableError,
)
from adepoll.journal import JournalReader
from adepoll.journal.outcomes import Stage

# --- one outcome for each job --------------------------------------------------------------------


@pytest.mark.parametrize("with_journal", [True, False])
@pytest.mark.parametrize("with_folder", [True, False])
async def test_each_job_has_one_outcome_of_every_kind(scene, with_journal, with_folder):
    scene.grace = 0.0
    job_ids = {
        "inline": scene.submit(),
        "large": scene.submit(result_bytes=LARGE),
        "nonconformant": scene.submit(outcome=Ends.PARTIAL),
        "failed": scene.submit(outcome=Ends.FAILED, failure_reason="no such page"),
        "cancelled": scene.submit(outcome=Ends.CANCELLED),
        "not kept": scene.submit(zero_data_retention=True),
        "unknown": "nobody-knows-it",
        "invalid": "in valid",
    }
    options = {} if with_journal else {"journal": None}
    options |= {} if with_folder else {"out_dir": None}
    found = await scene.run(job_ids.values(), **options)
    assert set(found) == set(job_ids.values())
    outcomes = {name: found[job_id] for name, job_id in job_ids.items()}

    for name in ("inline", "large", "nonconformant"):
        assert outcomes[name].snapshot.status is JobStatus.COMPLETED
        assert outcomes[name].error is None
        assert (outcomes[name].file is not None) is with_folder
    assert (outcomes["inline"].snapshot.data is None) is with_folder
    assert not outcomes["nonconformant"].snapshot.conforms
    for name, status in (("failed", JobStatus.FAILED), ("cancelled", JobStatus.CANCELLED)):
        assert outcomes[name].snapshot.status is status
        assert outcomes[name].error is None
        assert outcomes[name].file is None
    assert outcomes["failed"].snapshot.failure_reason == "no such page"
    assert outcomes["not kept"].snapshot.status is JobStatus.COMPLETED
    unavailable = ResultUnavailableError if with_folder else type(None)
    assert type(outcomes["not kept"].error) is unavailable
    for name, error in (("unknown", JobNotFoundError), ("invalid", InvalidJobIdError)):
        assert type(outcomes[name].error) is error
        assert outcomes[name].snapshot is None
        assert outcomes[name].file is None


async def test_without_a_folder_an_inline_result_is_in_the_snapshot_and_delivered_again(scene):
    job_id = scene.submit()
    async with scene.batch(out_dir=None) as batch:
        first = await anext(aiter(batch.run([job_id])))
    again = await scene.run(out_dir=None)
    assert first.snapshot.data is not None
    assert again[job_id].snapshot == first.snapshot.redacted()


async def test_duplicate_ids_and_ids_in_the_journal_are_ignored(scene):
    first, second = scene.submit(), scene.submit()
    assert set(await scene.run([first, first])) == {first}
    before = scene.requests
    assert set(await scene.run([first, second, first, second])) == {second}
    assert scene.ade.truth(first).polls == 1
    assert scene.requests > before


async def test_invalid_ids_have_an_outcome_and_are_not_recorded(scene):
    job_id = scene.submit()
    job_ids = ["a b", job_id, "", "x/y", 7, "\udc80", "\x1b[31m", "..", "x" * 257]
    found = await scene.run(job_ids)
    assert len(found) == len(job_ids)
    assert [isinstance(o.error, InvalidJobIdError) for o in found.values()].count(True) == 8
    assert set(scene.records()) == {job_id}
    assert await scene.run() == {}


# --- ids -----------------------------------------------------------------------------------------


async def _generate(items):
    for item in items:
        yield item


@pytest.mark.parametrize("shape", [list, set, iter, dict.fromkeys, _generate])
async def test_ids_can_be_any_iterable(scene, shape):
    job_ids = scene.many(5)
    assert set(await scene.run(shape(job_ids))) == set(job_ids)


async def test_a_late_id_does_not_delay_others(scene):
    early, late = scene.submit(), scene.submit()
    go_on = asyncio.Event()

    async def ids():
        yield early
        await go_on.wait()
        yield late

    async with scene.batch() as batch:
        run = batch.run(ids())
        assert (await anext(run)).job_id == early
        assert not batch.progress.complete
        go_on.set()
        assert (await anext(run)).job_id == late
        assert await anext(run, None) is None
        assert batch.progress.complete


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_iterable_that_raises_ends_the_run_with_its_error(scene, asynchronous):
    job_ids = scene.many(3)

    def raising():
        yield from job_ids
        raise ZeroDivisionError("of the iterable")

    async def raising_later():
        yield job_ids[0]
        yield job_ids[1]
        raise ZeroDivisionError("of the iterable")

    async with scene.batch() as batch:
        run = batch.run(raising_later() if asynchronous else raising())
        with pytest.raises(ZeroDivisionError, match="of the iterable"):
            await gather(run)
        with pytest.raises(StopAsyncIteration):
            await anext(run)
        await gather(batch.run(job_ids))
        assert batch.progress.known == 3


async def test_an_async_generator_of_ids_is_closed_with_the_run(scene):
    closed = []

    async def ids():
        try:
            for number in range(1_000):
                yield f"in valid {number}"
        finally:
            closed.append(True)

    async with scene.batch() as batch:
        run = batch.run(ids())
        await anext(run)
        await run.aclose()
        assert closed


@pytest.mark.parametrize("one", ["job-1", b"job-1"])
async def test_a_single_id_is_refused(scene, one):
    async with scene.batch() as batch:
        with pytest.raises(TypeError, match="not one id"):
            batch.run(one)


@pytest.mark.parametrize("what", [7, None])
async def test_ids_that_are_not_iterable_are_refused_immediately(scene, what):
    async with scene.batch() as batch:
        with pytest.raises(TypeError, match="iterable of ids"):
            batch.run(what)


async def test_a_window_smaller_than_the_number_of_jobs_settles_all_jobs(scene):
    job_ids = scene.many(30)
    most = 0
    async with scene.batch(window=4) as batch:
        count = 0
        async for _ in batch.run(job_ids):
            count += 1
            most = max(most, batch.watching.watched)
    assert count == 30
    assert most <= 4


# --- timeouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 100])
async def test_after_the_timeout_every_remaining_job_has_an_outcome(scene, window):
    quick = scene.many(2)
    slow = scene.many(5, processing_time=NEVER)
    for timeout in (0.5, 5.0, 50.0):  # a slow machine may need longer for the quick jobs
        found = await scene.run(
            [*quick, *slow], timeout=timeout, window=window, journal=None, out_dir=None
        )
        assert set(found) == {*quick, *slow}
        for job_id in slow:
            assert type(found[job_id].error) is JobTimeoutError
            assert found[job_id].error.timeout == timeout
        if not any(found[job_id].error for job_id in quick):
            break
    for job_id in quick:
        assert found[job_id].error is None


async def test_the_next_run_watches_jobs_that_timed_out_again(scene):
    slow = scene.many(3, processing_time=NEVER)
    assert len(await scene.run(slow, timeout=0.0, window=1)) == 3
    for job_id in slow:
        scene.end(job_id)
    found = await scene.run()
    assert {job_id: outcome.error for job_id, outcome in found.items()} == dict.fromkeys(slow)


async def test_after_the_timeout_no_more_ids_are_awaited(scene):
    slow = scene.submit(processing_time=NEVER)

    async def ids():
        yield slow
        await asyncio.Event().wait()

    assert set(await scene.run(ids(), timeout=0.2)) == {slow}


async def test_ids_that_were_read_have_an_outcome_although_the_journal_adds_them_too_late(
    scene, monkeypatch
):
    slow, read, add = scene.many(3, processing_time=NEVER), [], Journal.add

    async def add_late(journal, jobs, **options):
        await asyncio.sleep(0.3)
        return await add(journal, jobs, **options)

    async def ids():
        for job_id in slow:
            read.append(job_id)
            yield job_id
        await asyncio.Event().wait()

    monkeypatch.setattr("adepoll.batch.id_intake._FIRST_CHUNK", 1)
    monkeypatch.setattr(Journal, "add", add_late)
    async with scene.batch() as batch:
        run = batch.run(ids(), timeout=0.1)
        assert set(await gather(run)) == {*read}
        assert (run.progress.known, run.progress.open) == (len(read), 0)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_an_invalid_timeout_is_refused(scene, seconds):
    async with scene.batch() as batch:
        with pytest.raises(ValueError, match="timeout"):
            batch.run([], timeout=seconds)


# --- progress ------------------------------------------------------------------------------------


def _check(progress):
    ended = sum(progress.settled.values())
    assert 0 <= progress.open <= progress.known
    assert (
        ended + progress.unresolved
        <= progress.known
        <= ended + progress.unresolved + (progress.open)
    )
    assert 0 <= progress.missed <= ended
    assert 0 <= progress.before <= ended


async def test_progress_is_consistent_at_every_outcome(scene):
    scene.grace = 0.0
    job_ids = [
        *scene.many(10),
        *scene.many(3, result_bytes=LARGE),
        *scene.many(2, outcome=Ends.FAILED),
        *scene.many(2, zero_data_retention=True),
        "unknown",
        "in valid",
    ]
    async with scene.batch() as batch:
        assert batch.progress == BatchProgress()
        delivered = 0
        async for _ in batch.run(job_ids):
            delivered += 1
            _check(batch.progress)
            assert batch.progress.known - batch.progress.open >= delivered
        last = batch.progress
    assert last == BatchProgress(
        known=19,
        settled={JobStatus.COMPLETED: 15, JobStatus.FAILED: 2},
        unresolved=2,
        missed=2,
        bytes_fetched=sum(path.stat().st_size for path in scene.out_dir.iterdir()),
        credits=last.credits,
        complete=True,
    )
    assert last.credits > 0
    assert batch.progress == last  # also when it is closed


async def test_bytes_are_never_counted_twice(scene):
    job_ids = scene.many(4, result_bytes=LARGE)
    seen = []

    async with scene.batch(downloads=1) as batch:
        run = batch.run(job_ids)
        watching = asyncio.create_task(_sample(batch, seen))
        await gather(run)
        watching.cancel()
        last = batch.progress.bytes_fetched
    assert last == 4 * scene.path(job_ids[0]).stat().st_size
    assert max(seen) <= last
    assert seen == sorted(seen)


async def test_a_high_number_of_downloads_creates_no_tasks_without_results(scene):
    before = len(asyncio.all_tasks())
    async with scene.batch(downloads=1_000_000) as batch:
        run = batch.run(scene.many(2))
        await anext(run)
        assert len(asyncio.all_tasks()) - before < 100
        assert len(await gather(run)) == 1


async def _sample(batch, seen):
    while True:
        seen.append(batch.progress.bytes_fetched)
        await asyncio.sleep(0)


async def test_the_second_run_counts_what_had_settled_before(scene):
    scene.grace = 0.0
    first = [*scene.many(4), scene.submit(zero_data_retention=True), "unknown"]
    await scene.run(first)
    async with scene.batch() as batch:
        async for _ in batch.run(scene.many(3)):
            _check(batch.progress)
            assert batch.progress.before == 5
        progress = batch.progress
    assert (progress.known, progress.open) == (9, 0)
    assert progress.settled == {JobStatus.COMPLETED: 8}
    assert (progress.missed, progress.unresolved) == (1, 1)


async def test_progress_is_consistent_when_files_are_lost(scene):
    job_ids = scene.many(5)
    await scene.run(job_ids[:3])
    async with scene.batch() as batch:
        await anext(batch.run(job_ids[3:]))
    for job_id in (job_ids[0], job_ids[4]):
        scene.path(job_id).unlink(missing_ok=True)
    async with scene.batch() as batch:
        async for _ in batch.run():
            _check(batch.progress)
        progress = batch.progress
    assert (progress.known, progress.open, progress.missed) == (5, 0, 0)
    assert progress.settled == {JobStatus.COMPLETED: 5}


async def test_watcher_statistics_are_available_while_the_batch_is_open(scene):
    batch = scene.batch()
    assert (batch.watching, batch.time_left()) == (None, None)
    async with batch:
        await gather(batch.run(scene.many(3)))
        assert batch.watching.settled == 3
    assert (batch.watching, batch.time_left()) == (None, None)


async def test_jobs_that_wait_for_their_downloads_count_in_the_time_left(scene, monkeypatch):
    real, begun = ResultFetcher.download, 0

    async def download(*args, **options):
        nonlocal begun
        begun += 1
        if begun > 20:
            await asyncio.Event().wait()
        return await real(*args, **options)

    monkeypatch.setattr(ResultFetcher, "download", download)
    async with scene.batch() as batch, batch.run(scene.many(40)) as run:
        for _ in range(20):
            await anext(run)
        await until(lambda: batch.watching.settled == 40)
        for rate, by_watcher, seconds in (
            (4.0, None, 5.0),
            (4.0, 3.5, 5.0),
            (4.0, 7.5, 7.5),
            (None, 7.5, None),
            (0.0, 7.5, None),
        ):
            estimate(monkeypatch, rate=rate, by_watcher=by_watcher)
            assert batch.time_left() == seconds


async def test_the_time_left_of_watched_jobs_is_that_of_the_watcher(scene, monkeypatch):
    async with scene.batch() as batch, batch.run(scene.many(2, processing_time=NEVER)):
        await until(lambda: batch.watching.watched == 2)
        for by_watcher in (7.5, None):
            estimate(monkeypatch, rate=4.0, by_watcher=by_watcher)
            assert batch.time_left() == by_watcher


def estimate(monkeypatch, *, rate, by_watcher):
    """Replace the measured rate of outcomes, and the watcher's estimate of the time left."""
    monkeypatch.setattr(OutcomeRate, "per_second", lambda _rate, _now: rate)
    monkeypatch.setattr(JobWatcher, "time_left", lambda _watcher: by_watcher)


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["concurrency", "downloads", "connections", "window"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
async def test_numbers_out_of_range_are_refused(scene, name, value, error):
    with pytest.raises(error):
        scene.batch(**{name: value})


@pytest.mark.parametrize(
    "name", ["not_found_grace", "patience", "outage_patience", "download_patience", "discovery"]
)
async def test_options_of_watcher_and_fetcher_are_refused_when_a_batch_is_made(scene, name):
    value = "sometimes" if name == "discovery" else -1.0
    with pytest.raises(ValueError, match=rf"{name.removeprefix('download_')} must be .*{value}"):
        scene.batch(**{name: value})
    assert not scene.journal.exists()


async def test_a_batch_that_is_not_open_raises(scene):
    batch = scene.batch()
    with pytest.raises(ClosedError, match="async with"):
        batch.run([])
    async with batch:
        run = batch.run([])
    with pytest.raises(ClosedError, match="the batch is closed; open it again"):
        await anext(run)
    with pytest.raises(ClosedError, match="async with"):
        batch.run([])


async def test_an_open_journal_passed_to_a_batch_stays_open(scene):
    async with await Journal.open(scene.journal, endpoint=scene.client.base_url) as journal:
        first, second = scene.many(2)
        assert set(await scene.run([first], journal=journal)) == {first}
        assert set(await scene.run([second], journal=journal)) == {second}
        assert (await journal.counts()).jobs == 2


async def test_a_journal_of_another_service_is_refused(scene):
    other = "https://api.elsewhere.example"
    async with await Journal.open(scene.journal, endpoint=other) as journal:
        with pytest.raises(JournalEndpointError, match="elsewhere"):
            await scene.run([scene.submit()], journal=journal)
    with pytest.raises(JournalEndpointError, match="elsewhere"):
        await scene.run([scene.submit()])
    assert scene.requests == 0


async def test_a_journal_with_another_service_for_v2_jobs_is_refused(scene):
    v1, other = scene.client.base_url, "https://api.elsewhere.example"
    async with await Journal.open(scene.journal, endpoint=v1, v2_endpoint=other) as journal:
        with pytest.raises(JournalEndpointError, match="elsewhere") as caught:
            await scene.run([scene.submit()], journal=journal)
    assert (caught.value.theirs, caught.value.ours, caught.value.api) == (other, v1, "v2")
    with pytest.raises(JournalEndpointError, match="elsewhere"):
        await scene.run([scene.submit()])
    assert scene.requests == 0


async def test_a_folder_that_cannot_be_created_is_an_error(scene, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="out_dir"):
        await scene.run([], out_dir=tmp_path / "file" / "results")
    with pytest.raises(ConfigurationError, match="out_dir"):
        await scene.run([], out_dir=tmp_path / "file")
    with pytest.raises(ConfigurationError, match="out_dir"):
        await scene.run([], out_dir=os.fsdecode(bytes(tmp_path) + b"/\xff"))
    await scene.run([scene.submit()])  # the journal was closed


async def test_the_folder_is_created_and_remembered(scene, tmp_path):
    first, second = scene.many(2)
    folder = tmp_path / "a" / "b"
    await scene.run([first], out_dir=folder)
    found = await scene.run([second], out_dir=None)
    assert found[second].file.path == folder / f"{second}.json"
    assert sorted(p.name for p in folder.iterdir()) == sorted([f"{first}.json", f"{second}.json"])


# --- errors that stop a run ----------------------------------------------------------------------


async def test_a_refused_key_stops_the_run_after_recorded_outcomes(scene):
    done, rest = scene.many(3), scene.many(3)
    async with scene.batch() as batch:
        async for _ in batch.run(done):
            break
    async with (
        make_client(scene.ade, api_key="revoked") as client,
        Batch(client, journal=scene.journal) as batch,
    ):
        delivered, _ = await gather_until(batch.run(rest), AuthenticationError)
    assert delivered
    assert delivered.keys() <= set(done)
    found = await scene.run()
    assert {*delivered, *found} == {*done, *rest}
    assert not delivered.keys() & found.keys()


async def test_missing_credits_stop_the_run_once_and_the_next_run_continues(scene):
    job_ids = scene.many(20)
    scene.ade.faults.add("payment-required", endpoints=["get"])
    async with scene.batch() as batch:
        delivered, error = await gather_until(batch.run(job_ids), PaymentRequiredError)
    assert not delivered
    assert "credits" in str(error)
    assert {record.stage for record in scene.records().values()} == {Stage.WAITING}
    scene.ade.faults.clear()
    found = await scene.run()
    assert found.keys() == {*job_ids}
    assert all(outcome.error is None for outcome in found.values())


async def test_a_refused_key_during_downloads_does_not_give_up_results(scene):
    job_id = scene.submit(result_bytes=LARGE)
    scene.ade.faults.add("stalled", endpoints=["result"])
    async with scene.batch() as batch, batch.run([job_id]):
        await until(lambda: batch.progress.fetching)
    scene.ade.faults.clear()
    async with (
        make_client(scene.ade, api_key="revoked") as client,
        Batch(client, journal=scene.journal) as batch,
    ):
        delivered, _ = await gather_until(batch.run(), AuthenticationError)
    assert not delivered
    assert scene.records()[job_id].stage is Stage.FETCHING
    assert (await scene.run())[job_id].error is None


async def test_a_closed_client_stops_the_run(scene):
    async with make_client(scene.ade) as client:
        batch = Batch(client, journal=scene.journal)
        async with batch:
            job_id = scene.submit(processing_time=NEVER)
            run = batch.run([job_id])
            first = asyncio.ensure_future(anext(run))
            await asyncio.sleep(0.05)
            await client.aclose()
            watcher_of(batch).poll_now(job_id)
            with pytest.raises(ClosedError):
                await first


# --- what the journal keeps ----------------------------------------------------------------------


async def _run_seen_active(scene, refs):
    """Run a batch of endless jobs, and end each one after a poll has found it active.

    The duration of a job that is first seen at its end is learnt only if the job was new then.
    """
    async with scene.batch() as batch:
        run, watcher = asyncio.create_task(gather(batch.run(refs))), watcher_of(batch)
        await until(lambda: sum(map(active, watcher.durations_by_kind.values())) == len(refs))
        for ref in refs:
            scene.end(ref.job_id)
            watcher.poll_now(ref)
        await run


def active(durations):
    return at_risk(durations)[0]


async def test_the_next_run_has_the_learnt_durations(scene):
    await _run_seen_active(scene, [JobRef(job) for job in scene.many(5, processing_time=NEVER)])
    with JournalReader(scene.journal) as reader:
        assert "durations" in reader.notes()
    async with scene.batch() as batch:
        assert watcher_of(batch).durations.ended == 5


async def test_durations_are_learnt_for_each_kind_and_kept_beside_each_other(scene):
    def jobs(kind, count):
        submit = partial(scene.ade.submit, JobPlan(processing_time=NEVER), kind=kind.name)
        return [JobRef(submit(), kind=kind) for _ in range(count)]

    parse, workflow = JobKind.V1_PARSE, JobKind.V2_WORKFLOW
    for refs in ([*jobs(parse, 2), *jobs(workflow, 3)], jobs(parse, 1)):
        await _run_seen_active(scene, refs)
    async with make_client(scene.ade, kind=parse) as scene.client, scene.batch() as batch:
        assert watcher_of(batch).durations.ended == 3
    async with make_client(scene.ade, kind=workflow) as scene.client:
        await _run_seen_active(scene, jobs(workflow, 1))
        async with scene.batch() as batch:
            assert watcher_of(batch).durations.ended == 4


@pytest.mark.parametrize("note", ["other", "[]", '{"v1-extract": 7}', '{"a": "b"}', "[" * 100_000])
async def test_unreadable_durations_are_ignored(scene, note):
    async with await Journal.open(scene.journal, endpoint=scene.client.base_url) as journal:
        await journal.set_note("durations", note)
    assert len(await scene.run(scene.many(2))) == 2


async def test_the_journal_holds_neither_key_nor_presigned_query(scene):
    scene.grace = 0.0
    job_ids = [*scene.many(3, result_bytes=LARGE), *scene.many(2), "unknown"]
    job_ids.append(scene.submit(outcome=Ends.FAILED, failure_reason=SECRET_URL))
    polled_at = []
    async with scene.batch(out_dir=None) as batch:
        async for outcome in batch.run(job_ids):
            if outcome.snapshot is not None and outcome.snapshot.output_url is not None:
                polled_at.append(outcome.snapshot.output_url)
            _assert_no_secrets(scene, polled_at)
    assert len(polled_at) == 3
    await scene.run(replay=True)
    _assert_no_secrets(scene, polled_at)


SECRET_URL = "PUT https://b.example/o?X-Amz-Signature=cafe0123canary&X-Amz-Security-Token=canary"


def _assert_no_secrets(scene, urls):
    files = [path for path in scene.journal.parent.iterdir() if path.is_file()]
    assert scene.journal in files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    for path in files:
        held = path.read_bytes()
        assert b"canary" not in held
        assert scene.ade.api_key.encode() not in held
        for url in urls:
            assert url.partition("?")[2].encode() not in held
