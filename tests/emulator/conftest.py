"""Fixtures of the emulator's tests: an emulator whose time stands still, and its two ports."""

import aiohttp
import pytest

from adepoll.emulator import Emulator


@pytest.fixture
async def ade(clock):
    """An emulator in the test's loop whose time is `clock`."""
    async with Emulator(clock=clock) as ade:
        yield ade


@pytest.fixture
async def api(ade):
    """A session that sends requests to the API of `ade`, with its key."""
    headers = {"Authorization": f"Bearer {ade.api_key}"}
    async with aiohttp.ClientSession(ade.base_url, headers=headers) as session:
        yield session


@pytest.fixture
async def storage():
    """A session for the storage of `ade`: it has no key to send."""
    async with aiohttp.ClientSession() as session:
        yield session
