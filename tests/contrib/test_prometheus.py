"""The metrics, as a scrape reads them."""

import asyncio
import re
from contextlib import asynccontextmanager

import pytest
from attrs import fields
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from adepoll import (
    AdeClient,
    AuthenticationError,
    ClientStats,
    FetcherStats,
    Fixed,
    JobWatcher,
    ResultFetcher,
    WatcherStats,
)
from adepoll.contrib.prometheus import AdepollCollector
from adepoll.emulator import JobPlan


@pytest.fixture
def collector():
    return AdepollCollector()


@pytest.fixture
def scrape(ade, collector):
    """Give the samples of a scrape: value by name and labels."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)

    def scrape():
        # OpenMetrics are parsed strictly: names, types, buckets, and no series twice.
        text = generate_openmetrics(registry).decode()
        assert ade.api_key not in text + repr(collector)
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in parse(text)
            for sample in family.samples
        }

    return scrape


@asynccontextmanager
async def tenant(ade):
    """A client, a watcher and a fetcher of an emulator, as options of the collector."""
    async with (
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        JobWatcher(client, schedule=Fixed(interval=0.05, jitter=0)) as watcher,
        ResultFetcher(client) as fetcher,
    ):
        yield {"client": client, "watcher": watcher, "fetcher": fetcher}


async def work(watcher, fetcher, ade, **_):
    """Wait for a job and fetch its result, 1 MB or more."""
    plan = JobPlan(processing_time=0.2, result_bytes=1_500_000)
    await fetcher.result(await watcher.wait(ade.submit(plan)))


async def test_a_scrape_tells_what_client_watcher_and_fetcher_have_done(ade, collector, scrape):
    async with tenant(ade) as parts:
        collector.add(**parts)
        assert scrape()["adepoll_jobs_settled_total",] == 0
        waiting = asyncio.create_task(parts["watcher"].wait(ade.submit(JobPlan(processing_time=9))))
        await work(**parts, ade=ade)
        told = scrape()
        stats = parts["client"].stats
        assert told["adepoll_requests_total",] == stats.requests > 1
        assert told["adepoll_received_bytes_total",] == stats.bytes_received
        assert told["adepoll_request_window",] == stats.window
        assert told["adepoll_jobs_watched",] == told["adepoll_followers",] == 1
        assert told["adepoll_jobs_settled_total",] == 1
        assert told["adepoll_looks_total",] == parts["watcher"].stats.polls
        assert told["adepoll_results_total", ("outcome", "finished")] == 1
        assert told["adepoll_results_total", ("outcome", "failed")] == 0
        assert told["adepoll_result_bytes_total",] >= 1_500_000
        assert told["adepoll_detection_lag_seconds_count",] == 1
        assert told["adepoll_detection_lag_seconds_bucket", ("le", "+Inf")] == 1
        assert (
            told["adepoll_detection_lag_seconds_sum",]
            == parts["watcher"].stats.detection_lag.sum
            > 0
        )
        assert ("adepoll_rate_limit",) not in told
        waiting.cancel()


async def test_throttles_show_in_a_scrape_from_another_thread(ade, collector, scrape):
    ade.faults.add("rate-limit", rate=0.001, burst=1)
    async with tenant(ade) as parts:
        collector.add(**parts)
        waiting = asyncio.create_task(work(**parts, ade=ade))
        async with asyncio.timeout(10):
            while not parts["client"].stats.throttled:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        told = await asyncio.to_thread(scrape)  # as where a thread of its own serves them
        assert told["adepoll_throttled_total",] >= 1
        assert told["adepoll_gate_closed_seconds",] > 0
        assert told["adepoll_rate_limit",] > 0
        assert told["adepoll_key_refused",] == told["adepoll_outage",] == 0
        waiting.cancel()


async def test_a_key_that_is_refused_shows(ade, collector, scrape):
    async with AdeClient("another-key", base_url=ade.base_url) as client:
        collector.add(client=client)
        with pytest.raises(AuthenticationError):
            await client.get_job("job-1")
        told = scrape()
    assert told["adepoll_key_refused",] == told["adepoll_failures_total",] == 1


async def test_tenants_are_told_apart_by_their_labels(ade, collector, scrape):
    async with tenant(ade) as eu, tenant(ade) as us:
        collector.add(**eu, labels={"tenant": "eu"})
        collector.add(**us, labels={"tenant": "us"})
        await work(**us, ade=ade)
        told = scrape()
        assert told["adepoll_jobs_settled_total", ("tenant", "eu")] == 0
        assert told["adepoll_jobs_settled_total", ("tenant", "us")] == 1
        assert told["adepoll_results_total", ("outcome", "finished"), ("tenant", "us")] == 1
        collector.remove({"tenant": "eu"})
        assert all(("tenant", "us") in series for series in scrape())


async def test_no_label_grows_with_the_number_of_jobs(ade, collector, scrape):
    async with tenant(ade) as parts:
        collector.add(**parts, labels={"tenant": "a"})
        before = scrape().keys()
        job_ids = [ade.submit(JobPlan(processing_time=0.1)) for _ in range(30)]
        async for _ in parts["watcher"].watch(job_ids):
            pass
        assert scrape().keys() == before


async def test_what_is_not_given_is_not_told(ade, collector, scrape):
    async with tenant(ade) as parts:
        collector.add(watcher=parts["watcher"])
        assert {name for name, *_ in scrape()} >= {"adepoll_jobs_watched"}
        assert not any(
            name.startswith(("adepoll_requests", "adepoll_res")) for name, *_ in scrape()
        )


async def test_stats_are_read_after_all_was_closed(ade, collector, scrape):
    async with tenant(ade) as parts:
        collector.add(**parts)
        await work(**parts, ade=ade)
    assert scrape()["adepoll_jobs_settled_total",] == 1


def test_names_that_are_taken_are_refused_by_the_registry_even_before_anything_is_told(collector):
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    assert generate_latest(registry) == b""
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(AdepollCollector())
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("adepoll_requests", "Mine.", registry=registry)
    registry.unregister(collector)
    registry.register(AdepollCollector())


@pytest.mark.parametrize("name", ["le", "outcome", "__mine", "with-dash", "", "0th", "a\n"])
def test_a_name_that_is_none_for_a_label_is_refused(collector, name):
    with pytest.raises(ValueError, match="cannot be the name"):
        collector.add(labels={name: "x"})


def test_labels_must_fit_those_of_the_others(collector):
    collector.add(labels={"tenant": "eu"})
    with pytest.raises(ValueError, match="the same labels"):
        collector.add(labels={"region": "us"})
    with pytest.raises(ValueError, match="the same labels"):
        collector.add(labels={"tenant": "eu"})
    collector.remove({"tenant": "us"})
    collector.remove({"tenant": "eu"})
    collector.add(labels={"region": "us"})


def test_every_number_of_the_stats_is_told():
    """One that is added to the stats belongs into the metrics, too."""
    counts = [len(fields(stats)) for stats in (ClientStats, WatcherStats, FetcherStats)]
    metrics = list(AdepollCollector().describe())
    # `is_outage` is a metric besides; `finished`, `failed` and `abandoned` are one.
    assert len(metrics) == sum(counts) + 1 - 2
    for metric in metrics:
        assert re.fullmatch(r"adepoll_[a-z_]+", metric.name)
        assert metric.documentation.endswith(".")
