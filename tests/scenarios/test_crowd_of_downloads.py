"""Simultaneous downloads: a fifth of their requests fails, with every fault of the emulator.

`nox -s thorough` has 200 downloads.
"""

import pytest
from amounts import more
from crowd import FAULTS, download_together

pytestmark = pytest.mark.usefixtures("thousand_files")


@pytest.mark.parametrize(("count", "seed"), more([(80, 0)], [(200, 0), (200, 1)]))
async def test_each_of_many_downloads_is_correct_or_a_typed_error(tmp_path, count, seed):
    tally = await download_together(tmp_path, count=count, share=0.2, seed=seed)
    assert tally.wrong == []
    # One job meets each fault in every request. On a busy machine the loop that all of them share
    # is silent for longer than the read timeout, and a few more fail.
    assert tally.identical > count - 2 * len(FAULTS) - count // 10
    assert tally.identical + tally.errors.total() == count
    assert tally.later == tally.errors.total()
    assert set(tally.faults) == set(FAULTS)


@pytest.mark.thorough
async def test_each_of_200_downloads_survives_an_outage(tmp_path):
    tally = await download_together(tmp_path, count=200, share=0.2, seed=2, outage=5.0)
    assert tally.wrong == []
    assert tally.errors == {}
    assert tally.identical == 200
    assert len(tally.faults) > 1
