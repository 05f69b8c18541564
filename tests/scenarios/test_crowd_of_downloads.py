"""200 simultaneous downloads: a fifth of their requests fails, with every fault of the emulator."""

import pytest
from amounts import more
from crowd import FAULTS, download_together


@pytest.mark.parametrize("seed", more([0], [1]))
async def test_each_of_200_downloads_is_correct_or_a_typed_error(tmp_path, seed):
    tally = await download_together(tmp_path, count=200, share=0.2, seed=seed)
    assert tally.wrong == []
    assert tally.identical > 150
    assert tally.identical + tally.errors.total() == 200
    assert tally.later == tally.errors.total()
    assert set(tally.faults) == set(FAULTS)


@pytest.mark.thorough
async def test_each_of_200_downloads_survives_an_outage(tmp_path):
    tally = await download_together(tmp_path, count=200, share=0.2, seed=2, outage=5.0)
    assert tally.wrong == []
    assert tally.errors == {}
    assert tally.identical == 200
    assert len(tally.faults) > 1
