"""Metrics as a scrape reads them."""

import asyncio
import re
from contextlib import asynccontextmanager

import pytest
from attrs import fields
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from waiting import until

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
    """Return the samples of a scrape: values by name and labels."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)

    def scrape():
        # The OpenMetrics parser is strict: names, types, buckets, and no duplicate series.
        text = generate_openmetrics(registry).decode()
        assert ade.api_key not in text + repr(collector)
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in parse(text)
            for sample in family.samples
        }

    return scrape


@asynccontextmanager
async def resources_of(ade):
    """Yield a client, a watcher and a fetcher of an emulator, as options of the collector."""
    async with (
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        JobWatcher(client, schedule=Fixed(interval=0.05, jitter=0)) as watcher,
        ResultFetcher(client, patience=0) as fetcher,
    ):
        yield {"client": client, "watcher": watcher, "fetcher": fetcher}


async def work(watcher, fetcher, ade, **_):
    """Wait for a job and fetch its result of 1.5 MB."""
    plan = JobPlan(processing_time=0.2, result_bytes=1_500_000)
    await fetcher.result(await watcher.wait(ade.submit(plan)))


async def test_a_scrape_has_the_metrics_of_client_watcher_and_fetcher(ade, collector, scrape):
    async with resources_of(ade) as parts:
        collector.add(**parts)
        assert scrape()["adepoll_jobs_settled_total",] == 0
        waiting = asyncio.create_task(parts["watcher"].wait(ade.submit(JobPlan(processing_time=9))))
        await work(**parts, ade=ade)
        samples = scrape()
        stats = parts["client"].stats
        assert samples["adepoll_requests_total",] == stats.requests > 1
        assert samples["adepoll_received_bytes_total",] == stats.bytes_received
        assert samples["adepoll_request_window",] == stats.window
        assert samples["adepoll_jobs_watched",] == samples["adepoll_subscribers",] == 1
        assert samples["adepoll_jobs_settled_total",] == 1
        assert samples["adepoll_polls_total",] == parts["watcher"].stats.polls
        assert samples["adepoll_results_total", ("outcome", "finished")] == 1
        assert samples["adepoll_results_total", ("outcome", "failed")] == 0
        assert samples["adepoll_result_bytes_total",] >= 1_500_000
        assert samples["adepoll_detection_lag_seconds_count",] == 1
        assert samples["adepoll_detection_lag_seconds_bucket", ("le", "+Inf")] == 1
        assert (
            samples["adepoll_detection_lag_seconds_sum",]
            == parts["watcher"].stats.detection_lag.sum
            > 0
        )
        assert ("adepoll_rate_limit",) not in samples
        waiting.cancel()


async def test_throttling_appears_in_a_scrape_from_another_thread(ade, collector, scrape):
    ade.faults.add("rate-limit", rate=0.001, burst=1)
    async with resources_of(ade) as parts:
        collector.add(**parts)
        waiting = asyncio.create_task(work(**parts, ade=ade))
        await until(lambda: parts["client"].stats.throttled)
        samples = await asyncio.to_thread(scrape)  # as a metrics server in its own thread does
        assert samples["adepoll_throttled_total",] >= 1
        assert samples["adepoll_gate_closed_seconds",] > 0
        assert samples["adepoll_rate_limit",] > 0
        assert samples["adepoll_key_refused",] == samples["adepoll_outage",] == 0
        waiting.cancel()


async def test_a_refused_key_appears(ade, collector, scrape):
    async with AdeClient("another-key", base_url=ade.base_url) as client:
        collector.add(client=client)
        with pytest.raises(AuthenticationError):
            await client.get_job("job-1")
        samples = scrape()
    assert samples["adepoll_key_refused",] == samples["adepoll_failures_total",] == 1


async def test_labels_distinguish_several_clients(ade, collector, scrape):
    async with resources_of(ade) as eu, resources_of(ade) as us:
        collector.add(**eu, labels={"region": "eu"})
        collector.add(**us, labels={"region": "us"})
        await work(**us, ade=ade)
        samples = scrape()
        assert samples["adepoll_jobs_settled_total", ("region", "eu")] == 0
        assert samples["adepoll_jobs_settled_total", ("region", "us")] == 1
        assert samples["adepoll_results_total", ("outcome", "finished"), ("region", "us")] == 1
        collector.remove({"region": "eu"})
        assert all(("region", "us") in series for series in scrape())


async def test_no_label_grows_with_the_number_of_jobs(ade, collector, scrape):
    async with resources_of(ade) as parts:
        collector.add(**parts, labels={"region": "a"})
        before = scrape().keys()
        job_ids = [ade.submit(JobPlan(processing_time=0.1)) for _ in range(30)]
        async for _ in parts["watcher"].watch(job_ids):
            pass
        assert scrape().keys() == before


async def test_only_the_added_objects_have_metrics(ade, collector, scrape):
    async with resources_of(ade) as parts:
        collector.add(watcher=parts["watcher"])
        assert {name for name, *_ in scrape()} >= {"adepoll_jobs_watched"}
        assert not any(
            name.startswith(("adepoll_requests", "adepoll_res")) for name, *_ in scrape()
        )


async def test_a_collector_can_be_created_with_what_it_observes(ade):
    async with resources_of(ade) as parts:
        for name in (*parts, None):
            registry = CollectorRegistry()
            given = {} if name is None else {name: parts[name], "labels": {"region": "eu"}}
            registry.register(AdepollCollector(**given))
            assert ('region="eu"' in generate_latest(registry).decode()) is bool(given)


async def test_metrics_can_be_read_after_everything_was_closed(ade, collector, scrape):
    async with resources_of(ade) as parts:
        collector.add(**parts)
        await work(**parts, ade=ade)
    assert scrape()["adepoll_jobs_settled_total",] == 1


def test_the_registry_refuses_duplicate_names_even_without_values(collector):
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
def test_an_invalid_label_name_is_refused(collector, name):
    with pytest.raises(ValueError, match="is not a valid label name"):
        collector.add(labels={name: "x"})


def test_all_labels_must_have_the_same_names_and_different_values(collector):
    collector.add(labels={"region": "eu"})
    with pytest.raises(ValueError, match="label names differ"):
        collector.add(labels={"account": "one"})
    with pytest.raises(ValueError, match="exist already"):
        collector.add(labels={"region": "eu"})
    collector.remove({"account": "one"})
    collector.remove({"region": "eu"})
    collector.add(labels={"account": "one"})


def test_every_statistic_has_a_metric():
    """A statistic that is added must also be added to the metrics."""
    counts = [len(fields(stats)) for stats in (ClientStats, WatcherStats, FetcherStats)]
    metrics = list(AdepollCollector().describe())
    # `last_failure` is a text; `finished`, `failed` and `abandoned` share one metric.
    assert len(metrics) == sum(counts) - 1 - 2
    for metric in metrics:
        assert re.fullmatch(r"adepoll_[a-z_]+", metric.name)
        assert metric.documentation.endswith(".")
