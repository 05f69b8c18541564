"""The defaults that users rely on: a change of one must be deliberate, and is for the changelog."""

import inspect
from enum import Enum
from math import inf

import pytest
from attrs import NOTHING

from adepoll import (
    Adaptive,
    AdeClient,
    Batch,
    Exponential,
    Fixed,
    JobEventStream,
    JobKind,
    JobWatcher,
    Journal,
    RateLimiter,
    ResultFetcher,
    RetryPolicy,
    TransportOptions,
    WebhookVerifier,
    download_progress,
    export,
    job_ids_in,
    progress,
    repeat_query,
    reply_with_result,
    report,
    store_outcomes,
    sync,
)
from adepoll.api.retry_after import parse_retry_after
from adepoll.contrib import aiohttp, fastapi, otel
from adepoll.contrib.testing import AdeWorld
from adepoll.emulator import Emulator, JobPlan, ListOrder
from adepoll.emulator import Outcome as PlannedOutcome
from adepoll.journal import JournalReader
from adepoll.server.resources import create_resources

MORE = "client_certificate=None, max_header_bytes=65536, max_headers=1000"


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (
            AdeClient,
            {
                "kind": JobKind.V1_EXTRACT,
                "kinds": (),
                "timeout": 30.0,
                "outage_wait": 60.0,
                "max_body_bytes": 8 * 2**20,
                "inline_limit": 2**20,
            },
        ),
        (AdeClient.list_jobs, {"page": 0, "page_size": 100}),
        (
            JobWatcher,
            {
                "concurrency": 64,
                "discovery": "auto",
                "not_found_grace": 15.0,
                "patience": 300.0,
            },
        ),
        (JobWatcher.watch, {"errors": "raise"}),
        (JobWatcher.wait, {}),
        (RateLimiter, {"max_connections": 256}),
        (RateLimiter.wait_for_turn, {"give_up_at": inf}),
        (store_outcomes, {"concurrency": 8, "unstored": 100}),
        (repeat_query, {"every": 2.0}),
        (
            ResultFetcher,
            {
                "max_result_bytes": 64 * 2**20,
                "connections": 4,
                "connect_timeout": 30.0,
                "read_timeout": 60.0,
                "min_rate": 1024.0,
                "patience": 120.0,
                "allow_private": False,
            },
        ),
        (ResultFetcher.download, {"overwrite": False}),
        (ResultFetcher.stream, {"start": 0}),
        (
            Batch,
            {
                "name_by": "job_id",
                "concurrency": 64,
                "downloads": 8,
                "connections": 4,
                "window": 20_000,
                "discovery": "auto",
                "not_found_grace": 15.0,
                "patience": 300.0,
                "download_patience": 120.0,
                "allow_private": False,
                "overwrite": False,
                "protected": (),
                "verify": True,
            },
        ),
        (Batch.run, {"job_ids": (), "replay": False}),
        (Journal.open, {"must_exist": False}),
        (Journal.add, {"kind": JobKind.V1_EXTRACT}),
        (Journal.write, {"durable": True}),
        (Journal.records, {"after": 0, "limit": 200, "data": True}),
        (Journal.reopen, {"error_classes": ()}),
        (JournalReader.failures, {"most": 100}),
        (export, {"explode": (), "references": False, "dates": False}),
        (report.render, {"running": False}),
        (progress, {"name": "settled"}),
        (download_progress, {"name": "received"}),
        (JobEventStream, {"heartbeat": 15.0}),
        (job_ids_in, {"max_bytes": 2**20, "max_ids": 1000}),
        (reply_with_result, {"method": "GET"}),
        (WebhookVerifier, {"tolerance": 300.0}),
        (create_resources, {"grace": 3.0, "probe_every": 10.0}),
        (aiohttp.TenantPool, {"limit": 100, "idle_after": 300.0}),
        (aiohttp.Tenants, {"name": "tenants"}),
        (aiohttp.send_status, {"timeout": 20.0}),
        (aiohttp.events, {"heartbeat": 15.0}),
        (aiohttp.webhook, {"max_bytes": 65_536}),
        (fastapi.Tenants, {"name": "tenants"}),
        (fastapi.send_status, {"timeout": 20.0}),
        (fastapi.events, {"heartbeat": 15.0}),
        (fastapi.webhook, {"max_bytes": 65_536}),
        (otel.TracedFetcher, {"with_ids": False}),
        (otel.TracedSource, {"with_ids": False}),
        (sync.wait, {}),
        (sync.watch, {"errors": "raise", "show_progress": False}),
        (sync.download, {"overwrite": False}),
        (sync.Session.watch, {"errors": "raise", "show_progress": False}),
        (sync.Session.download, {"overwrite": False}),
        (sync.Batch.run, {"job_ids": (), "replay": False, "show_progress": False}),
        (AdeWorld.run, {"timeout": 6 * 3600.0}),
        (AdeWorld.submit, {"kind": "v1-extract", "filename": "document.md"}),
        (
            Emulator,
            {
                "api_key": "emulator-key",
                "seed": 0,
                "host": "127.0.0.1",
                "port": 0,
                "results_port": 0,
                "list_order": ListOrder.NEWEST,
                "list_lag": 0.0,
                "more_keys": (),
                "faults": (),
            },
        ),
        (
            JobPlan,
            {
                "queue_time": 0.0,
                "processing_time": 0.0,
                "outcome": PlannedOutcome.COMPLETED,
                "result_bytes": 4_000,
                "pages": 3,
                "failed_pages": (),
                "error_code": "internal_error",
                "zero_data_retention": False,
                "retention": inf,
                "odd_values": frozenset(),
            },
        ),
    ],
)
def test_the_defaults_of_arguments_stay_the_same(function, defaults):
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.default for p in parameters if p.default not in (p.empty, NOTHING)}
    plain = (str, int, float, tuple, frozenset, Enum, JobKind)
    assert {name: value for name, value in given.items() if isinstance(value, plain)} == defaults


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (Fixed(), "Fixed(interval=5.0, jitter=0.1)"),
        (Exponential(), "Exponential(initial=1.0, factor=1.5, maximum=10.0, jitter=0.1)"),
        (Adaptive(), "Adaptive(target_lag=2.0, minimum=0.25, maximum=60.0, jitter=0.1)"),
        (
            RetryPolicy(),
            "RetryPolicy(attempts=5, base=0.5, factor=2.0, max_wait=30.0, budget=50.0, refill=0.2)",
        ),
        (
            TransportOptions(),
            f"TransportOptions(proxy=None, trust_env=True, ca_file=None, {MORE})",
        ),
    ],
)
def test_the_defaults_of_options_stay_the_same(options, shown):
    assert repr(options) == shown


@pytest.mark.parametrize(
    ("value", "seconds"), [("299.5", 299.5), ("300", 300.0), ("1e9", None), ("9" * 30, 300.0)]
)
def test_the_longest_retry_after_is_five_minutes(value, seconds):
    assert parse_retry_after({"Retry-After": value}) == seconds
