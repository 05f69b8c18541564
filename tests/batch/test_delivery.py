"""An outcome is not delivered again after the next one was requested, however the run ends."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from waiting import until

from adepoll import AdeClient, Batch, JobKind, JobRef, JobSnapshot, JobStatus, JobWatcher, Journal
from adepoll.batch.resources import BatchResources
from adepoll.batch.result_files import ProtectedFiles
from adepoll.batch.run_tasks import RunTasks
from adepoll.emulator import Emulator, JobPlan
from adepoll.errors import JobNotFoundError, JournalError
from adepoll.journal.outcomes import Stage

SOON = JobPlan(processing_time=0.0)
NEVER = JobPlan(processing_time=float("inf"))


async def test_an_acknowledged_outcome_is_not_delivered_again_after_a_cancellation(tmp_path):
    async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
        done, never = ade.submit(SOON), ade.submit(NEVER)
        endpoint = client.base_url
        async with await Journal.open(tmp_path / "batch.db", endpoint=endpoint) as journal:
            async with Batch(client, journal=journal) as batch:
                outcomes = batch.run([done, never])
                assert (await anext(outcomes)).job_id == done
                requesting = asyncio.ensure_future(anext(outcomes))
                await asyncio.sleep(0)  # the acknowledgement is not written yet
                requesting.cancel()
                await asyncio.wait([requesting])
                assert requesting.cancelled()
            assert (await journal.counts()).acknowledged == 1


async def test_what_was_polled_is_recorded_while_the_consumer_is_slow(scene):
    """With zero data retention, a `kill -9` must not lose a result that only waits its turn."""
    jobs = scene.many(80, result_reads=1)
    async with scene.batch(concurrency=4, out_dir=None) as batch:
        run = batch.run(jobs)
        await anext(run)  # and then never again

        def results_read():
            return sum(truth.result_polls for truth in scene.ade.world.truths())

        def results_recorded():
            return sum(record.snapshot is not None for record in scene.records().values())

        # One outcome was taken, 32 are ready, and 8 snapshots can wait: then polls stop.
        await until(lambda: results_read() >= 40, pause=0.05)
        await until(lambda: results_recorded() == results_read(), pause=0.05)
        await run.aclose()


class SettledJobs:
    """A `JobSource` whose jobs have settled; it does not know the ids that begin with "unknown"."""

    def __init__(self):
        self.polled = 0  # settled jobs

    async def get_job(self, job_id):
        await asyncio.sleep(0)
        if job_id.startswith("unknown"):
            raise JobNotFoundError(status=404, job_id=job_id)
        self.polled += 1
        return JobSnapshot(job_id=job_id, status=JobStatus.FAILED, status_text="failed")

    async def list_jobs(self, **_options):
        raise AssertionError("polls alone are enough")


@asynccontextmanager
async def run_without_service(job_ids, *, concurrency=4, window=20_000):
    """Start a run of a batch whose jobs need no service; return source, journal and run."""
    source = SettledJobs()
    watcher = JobWatcher(source, concurrency=concurrency, discovery="get", not_found_grace=0.0)
    async with await Journal.in_memory(endpoint="https://api.example") as journal, watcher:
        resources = BatchResources(
            journal=journal,
            watcher=watcher,
            fetcher=None,
            kind=JobKind.V1_EXTRACT,
            out_dir=None,
            name_by="job_id",
            downloads=1,
            window=window,
            protected=ProtectedFiles(()),
            overwrite=False,
            verify=False,
            curable=(),
            service_time=lambda: None,
        )
        run = RunTasks(resources, job_ids, timeout=None, replay=False)
        run.start()
        yield source, journal, run
        await run.stop()


async def settled_in(journal):
    return (await journal.counts()).by_status.get("failed", 0)


async def given_up_in(journal):
    return (await journal.counts()).by_stage.get(Stage.GIVEN_UP, 0)


async def until_all_are_recorded(source, journal, *, least):
    """Wait until at least `least` jobs were polled, and the journal has all of them as settled."""
    async with asyncio.timeout(60):
        while source.polled < least or await settled_in(journal) < source.polled:  # noqa: ASYNC110 - the journal has no event
            await asyncio.sleep(0.01)


async def test_what_was_polled_is_recorded_at_any_concurrency():
    jobs = [f"job-{number}" for number in range(2_100)]
    async with run_without_service(jobs, concurrency=1_000) as (source, journal, run):
        await run.next()
        # One outcome was taken, 32 are ready, one waits for room, and the buffer has 2,000 places.
        await until_all_are_recorded(source, journal, least=2_033)


async def test_jobs_that_were_given_up_do_not_delay_the_recording_of_results():
    async def job_ids():
        for number in range(1_200):
            yield f"unknown-{number}"
        while await given_up_in(journal) < 1_200:  # noqa: ASYNC110 - the journal has no event
            await asyncio.sleep(0.01)
        for number in range(80):
            yield f"job-{number}"

    async with run_without_service(job_ids()) as (source, journal, run):
        await run.next()
        await until_all_are_recorded(source, journal, least=8)


class SlowJournal:
    """Patches `Journal.write`: while the journal is slow, it writes only after the run is left."""

    def __init__(self, monkeypatch, *, is_full):
        self.is_slow = False
        self._is_left = asyncio.Event()
        self._write = Journal.write
        self._writing = 0
        self._is_full = is_full

        async def write(journal, *changes, **options):
            await self._write_slowly(journal, *changes, **options)

        monkeypatch.setattr(Journal, "write", write)

    async def _write_slowly(self, journal, *changes, **options):
        if self.is_slow:
            await self._is_left.wait()
            if self._is_full:
                raise JournalError("is full", path=None)
        self._writing += 1
        await self._write(journal, *changes, **options)
        self._writing -= 1

    async def leave(self, source, journal, run):
        """Leave the run when more jobs were polled than recorded; return the recorded number."""
        async with asyncio.timeout(60):
            while self._writing:  # noqa: ASYNC110 - a write that began before sets no event
                await asyncio.sleep(0)
            recorded = await settled_in(journal)
            while source.polled <= recorded + 100:  # noqa: ASYNC110 - polls of this source set no event
                await asyncio.sleep(0)
        assert await settled_in(journal) == recorded
        self._is_left.set()
        async with asyncio.timeout(30):
            await run.stop()
        return recorded


@pytest.mark.parametrize("is_full", [False, True])
async def test_what_was_polled_is_recorded_when_the_run_is_left(monkeypatch, caplog, is_full):
    """Results that arrive while others are recorded are not lost.

    If they cannot be recorded, this error does not replace the cancellation that ends the run.
    """
    slow = SlowJournal(monkeypatch, is_full=is_full)
    jobs = [f"job-{number}" for number in range(2_000)]
    async with run_without_service(jobs, concurrency=100) as (source, journal, run):
        await run.next()
        slow.is_slow = True
        recorded = await slow.leave(source, journal, run)
        in_the_journal = await settled_in(journal)
    if is_full:
        assert in_the_journal == recorded
        assert "polled jobs are not recorded: the journal is full" in caplog.text
    else:
        assert in_the_journal == source.polled > recorded
        assert "not recorded" not in caplog.text


async def test_jobs_that_were_given_up_have_places_in_the_window_until_they_are_taken():
    jobs = [f"unknown-{number}" for number in range(200)]
    async with run_without_service(jobs, window=20) as (_, journal, run):
        await run.next()
        recorded = -1
        while recorded != (recorded := await given_up_in(journal)):  # noqa: ASYNC110 - the journal has no event
            await asyncio.sleep(0.3)
        # One outcome was taken, and 32 are ready. The window has 20 places; one of its jobs waits
        # for room among the ready outcomes.
        assert recorded <= 1 + 32 + 20
        for _ in range(199):
            await run.next()


async def test_after_the_timeout_each_job_that_was_never_watched_has_an_outcome(scene):
    jobs = scene.many(500, processing_time=float("inf"))
    async with scene.batch(concurrency=4, window=20) as batch:
        assert len([outcome async for outcome in batch.run(jobs, timeout=0.1)]) == 500


async def test_a_job_that_was_never_watched_has_the_kind_of_its_reference(scene):
    plan = JobPlan(processing_time=float("inf"))
    job_ids = [scene.ade.submit(plan, kind="v1-parse") for _ in range(3)]
    refs = [JobRef(job_id, kind=JobKind.V1_PARSE) for job_id in job_ids]
    async with scene.batch(window=1) as batch:
        outcomes = [outcome async for outcome in batch.run(refs, timeout=0.0)]
    assert [outcome.kind for outcome in outcomes] == [JobKind.V1_PARSE] * 3
