"""Fixtures for the tests of the fetcher's parts."""

import asyncio

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


@pytest.fixture
async def leap(monkeypatch):
    """Move the time of the running loop forward by some seconds."""
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0

    def move(seconds):
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    return move
