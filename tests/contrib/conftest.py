"""Fixtures of the tests of adepoll's integrations."""

import pytest

from adepoll.contrib.testing import serve_in_thread
from adepoll.emulator import Emulator


@pytest.fixture
def other_ade():
    """A second service beside `ade`, with another API key and other jobs."""
    with serve_in_thread(Emulator(api_key="other-key", seed=2)) as ade:
        yield ade
