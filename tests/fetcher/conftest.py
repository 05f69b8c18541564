"""Fixtures for the tests of the fetcher's parts."""

import pytest

from adepoll.fetcher.ssrf_guard import SsrfGuard
from adepoll.fetcher.storage_client import StorageClient


@pytest.fixture
async def storage_client():
    """A `StorageClient`, which sends one request at a time."""
    running = StorageClient(
        guard=SsrfGuard(api_url="http://127.0.0.1:9", allow_private=True),
        connect_timeout=10,
        read_timeout=10,
        min_rate=0,
    )
    yield running
    await running.aclose()
