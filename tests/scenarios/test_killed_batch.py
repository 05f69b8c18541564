"""The command of a batch is killed, again and again: everything is there exactly once all the same.

`ADEPOLL_KILLS=50` kills more often, in a batch that is larger by as much.
"""

import os
from random import Random

import pytest
from batch_kills import COMMAND, Place, Service, kill_again_and_again, undisturbed, write_ids

KILLS = int(os.environ.get("ADEPOLL_KILLS", "6"))
JOBS = 25 * KILLS
PROFILE = {
    "median": 0.5, "failed": 0.05, "cancelled": 0.05, "nonconformant": 0.05,
    "large": 0.05, "large_bytes": [1_000_001, 3_000_000], "small_bytes": [2_000, 20_000],
}  # fmt: skip


@pytest.mark.parametrize("seed", [1])
async def test_a_killed_batch_goes_on_and_ends_as_if_nothing_had_been(tmp_path, seed):
    with Service(tmp_path, jobs=JOBS, seed=seed, **PROFILE) as service:
        path, ids = write_ids(tmp_path, service, unknown=0)
        place = Place(folder=tmp_path / "killed", command=COMMAND, ids=path)
        killed = await kill_again_and_again(place, service, ids, kills=KILLS, rng=Random(seed))
        beside = Place(folder=tmp_path / "whole", command=COMMAND, ids=path)
        whole = await undisturbed(beside, service)
        truth = service.truth(digests=True)
    assert killed.kills.total() >= KILLS
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
