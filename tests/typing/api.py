"""The public API as a user's type checker sees it. Checked by mypy and pyright, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import assert_type

import adepoll
from adepoll import (
    Adaptive,
    AdeClient,
    AdePollError,
    Batch,
    BatchProgress,
    BatchRun,
    ByteRange,
    Download,
    Durations,
    FetcherStats,
    Fixed,
    JobKind,
    JobPage,
    JobRef,
    JobResult,
    JobSnapshot,
    JobSource,
    JobStatus,
    JobSummary,
    JobWatcher,
    Journal,
    LagHistogram,
    Outcome,
    RateLimiter,
    ResultFetcher,
    ResultFile,
    ResultItems,
    ResultReply,
    RetryPolicy,
    UnresolvedJob,
    UnresolvedJobsError,
    Watch,
    WebhookVerifier,
    job_ids_in,
    parse_range,
    reply_with_result,
    sync,
)


class Cache:
    """A source of one's own needs two methods, and no base class."""

    async def get_job(self, job_id: str) -> JobSnapshot:
        raise NotImplementedError(job_id)

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        raise NotImplementedError(page, page_size, status)


async def ids() -> AsyncIterator[str]:
    yield "a"


def client_of(limiter: RateLimiter) -> AdeClient:
    assert_type(limiter.rate_limit, float | None)
    return AdeClient("key", rate_limiter=limiter)


async def main() -> None:
    source: JobSource = Cache()
    async with AdeClient("key", region="eu", max_rate=5, retry=RetryPolicy(attempts=2)) as client:
        source = client
        assert_type(await client.get_job("a"), JobSnapshot)
        assert_type(await client.list_jobs(status=JobStatus.PENDING), JobPage)
        async for summary in client.iter_jobs():
            assert_type(summary, JobSummary)

        async with JobWatcher(
            source, concurrency=asyncio.Semaphore(8), schedule=Fixed(interval=2)
        ) as watcher:
            watch = watcher.watch(["a"], timeout=3)
            assert_type(watch, Watch[JobSnapshot])
            try:
                async for job in watch:
                    assert_type(job, JobSnapshot)
                    assert_type(job.received_at, datetime | None)
            except UnresolvedJobsError as error:
                assert_type(error.causes, Mapping[str, AdePollError])
            async with watcher.updates(ids()) as updates:
                async for job in updates:
                    assert_type(job.status, JobStatus)
            job = await watcher.wait("a", timeout=1)
            assert_type(watcher.poll_now("a"), bool)
            assert_type(watcher.durations.quantile(0.9), float)

        learnt = Durations.from_json(watcher.durations.to_json())
        schedule = Adaptive(target_lag=5, maximum=30)
        async with JobWatcher(
            client, schedule=schedule, discovery="list", durations=learnt
        ) as watcher:
            assert_type(watcher.stats.sweeping, bool)
            assert_type(watcher.stats.detection_lag, LagHistogram)

        async with ResultFetcher(client) as fetcher:
            assert_type(await fetcher.result(job), JobResult)
            assert_type(await fetcher.download("a", Path("a.json"), overwrite=True), Download)
            async with fetcher.stream(job) as chunks:
                async for chunk in chunks:
                    assert_type(chunk, bytes)
            async with fetcher.items(job, "extraction.rows.item") as rows:
                assert_type(rows, ResultItems)

        async with await Journal.open(Path("b.db"), endpoint=client.base_url) as journal:
            assert_type(journal, Journal)
            assert_type(await journal.add(["a"]), int)

        def readable(job: JobSnapshot) -> str:
            return f"https://storage.example/{job.job_id}"

        fetcher = ResultFetcher(client, connections=8, resolve_url=readable, allow_private=True)
        await fetcher.download(job, "a.json", progress=lambda there, size: None)

        async with Batch(client, journal="batch.db", out_dir=Path("results")) as batch:
            run = batch.run(["a"], timeout=60, replay=True)
            assert_type(run, BatchRun)
            async for outcome in run:
                assert_type(outcome, Outcome)
                assert_type(outcome.snapshot, JobSnapshot | None)
                assert_type(outcome.file, ResultFile | None)
                assert_type(outcome.error, AdePollError | None)
            assert_type(batch.progress, BatchProgress)
            async with batch.run(ids()) as again:
                assert_type(await anext(again), Outcome)

        async with (
            JobWatcher(client) as watcher,
            watcher.watch(ids(), window=9, errors="yield") as endless,
        ):
            async for item in endless:
                assert_type(item, JobSnapshot | UnresolvedJob)
                assert_type(endless.take_ready(), list[JobSnapshot | UnresolvedJob])


async def serve(fetcher: ResultFetcher) -> None:
    assert_type(fetcher.can_resume("a", "a.json"), bool)
    async with fetcher.stream("a", start=-100) as chunks:
        assert_type(chunks.start, int)
        assert_type(chunks.stop, int | None)
    assert_type(fetcher.stats, FetcherStats)
    async with reply_with_result(fetcher, "a", range_header="bytes=0-9") as reply:
        assert_type(reply, ResultReply)
        async for chunk in reply.chunks:
            assert_type(chunk, bytes)
    part = parse_range("bytes=0-9", 100)
    if isinstance(part, ByteRange):
        assert_type(part.stop, int)


def on_webhook(headers: Mapping[str, str], body: bytes, now: float) -> tuple[str, ...]:
    WebhookVerifier(
        ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", b"0123456789" * 3], tolerance=60
    ).verify(headers, body, now=now)
    assert_type(job_ids_in(body, lambda event: ["a"]), tuple[str, ...])
    return job_ids_in(body)


def by_attribute() -> None:
    assert_type(adepoll.Fixed(interval=2), Fixed)
    assert_type(adepoll.__version__, str)
    adepoll.nothing  # type: ignore[attr-defined]  # noqa: B018 - unknown to a type checker, too


async def shows_progress(watcher: JobWatcher, batch: Batch, fetcher: ResultFetcher) -> None:
    async for job in adepoll.progress(watcher.watch(["job"])):
        assert_type(job, JobSnapshot)
    async for outcome in adepoll.progress(batch.run(["job"])):
        assert_type(outcome, Outcome)
    with adepoll.download_progress("job") as show:
        await fetcher.download("job", "job.json", progress=show)


def exports(journal: Path) -> None:
    report = adepoll.export(journal, "t.parquet", explode=["lines"], dates=True)
    assert_type(report, adepoll.ExportReport)
    assert_type(report.conflicts, tuple[adepoll.TypeConflict, ...])
    adepoll.export(journal, "t", to="xlsx")  # type: ignore[arg-type]


def without_asyncio() -> None:
    assert_type(sync.wait("job", timeout=5), JobSnapshot)
    for job in sync.watch(["job"]):
        assert_type(job, JobSnapshot)
    for either in sync.watch(["job"], errors="yield"):
        assert_type(either, JobSnapshot | UnresolvedJob)
    assert_type(sync.download("job", "job.json"), Download)
    assert_type(sync.download(JobRef("job", kind=JobKind.V1_PARSE), "job.json"), Download)
    with (
        sync.Session(lambda: AdeClient(region="eu")) as session,
        session.batch(journal="b.db") as batch,
    ):
        for outcome in batch.run(["job"], replay=True):
            assert_type(outcome, Outcome)
        assert_type(batch.progress, BatchProgress)
        session.batch(jornal="b.db")  # type: ignore[call-arg]
