"""The command of a batch is killed, again and again: everything is there exactly once all the same.

`nox -s thorough` kills six runs, or as many as `ADEPOLL_KILLS` says, of a larger batch.
"""

from random import Random

import pytest
from amounts import counts
from batch_kills import COMMAND, Place, Service, kill_again_and_again, undisturbed, write_ids

PROFILE = {
    "median": 0.5, "failed": 0.05, "cancelled": 0.05, "nonconformant": 0.05,
    "large": 0.05, "large_bytes": [1_000_001, 3_000_000], "small_bytes": [2_000, 20_000],
}  # fmt: skip


@pytest.mark.parametrize("kills", counts("ADEPOLL_KILLS", default=2, most=6))
async def test_a_killed_batch_goes_on_and_ends_as_if_nothing_had_been(tmp_path, kills):
    with Service(tmp_path, jobs=25 * kills, seed=1, **PROFILE) as service:
        path, ids = write_ids(tmp_path, service, unknown=0)
        place = Place(folder=tmp_path / "killed", command=COMMAND, ids=path)
        killed = await kill_again_and_again(place, service, ids, kills=kills, rng=Random(1))
        beside = Place(folder=tmp_path / "whole", command=COMMAND, ids=path)
        whole = await undisturbed(beside, service)
        truth = service.truth(digests=True)
    assert killed.kills.total() >= kills
    assert killed.wrong == []
    assert killed.doubled <= killed.kills.total()
    assert killed.outcomes == whole.outcomes
    assert killed.told() == whole.told()
    assert killed.final.status == whole.final.status == 1  # some jobs have failed
    assert place.left_over() == beside.left_over() == []
    told, files = whole.outcomes
    with_result = {
        job_id: job["result_sha256"] for job_id, job in truth["jobs"].items() if job["result_bytes"]
    }
    assert set(told) == set(ids)
    assert files == {f"{job_id}.json": digest for job_id, digest in with_result.items()}
