"""The defaults that users rely on: a change of one must be deliberate, and is for the changelog."""

import inspect

import pytest

from adepoll import (
    Adaptive,
    AdeClient,
    Exponential,
    Fixed,
    JobKind,
    JobWatcher,
    RateLimiter,
    RetryPolicy,
    TransportOptions,
    repeat_query,
    store_outcomes,
)
from adepoll.api.retry_after import parse_retry_after

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
        (store_outcomes, {"concurrency": 8, "unstored": 100}),
        (repeat_query, {"every": 2.0}),
    ],
)
def test_the_defaults_of_arguments_stay_the_same(function, defaults):
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert {name: value for name, value in given.items() if value is not None} == defaults


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
