"""Fixtures: an emulator with a fixed clock, and sessions for its two ports."""

import aiohttp
import pytest

from adepoll.emulator import Emulator


@pytest.fixture
async def ade(clock):
    """An emulator in the test's loop, with `clock` as its clock."""
    async with Emulator(clock=clock) as ade:
        yield ade


@pytest.fixture
async def api(ade):
    """A session for the API of `ade`, with its key."""
    headers = {"Authorization": f"Bearer {ade.api_key}"}
    async with aiohttp.ClientSession(ade.base_url, headers=headers) as session:
        yield session


@pytest.fixture
async def storage():
    """A session for the storage of `ade`, without a key."""
    async with aiohttp.ClientSession() as session:
        yield session
