"""A batch whose command is killed many times delivers every outcome exactly once.

`nox -s thorough` kills six runs, or as many as `ADEPOLL_KILLS` says, of a larger batch.
"""

from random import Random

import pytest
from amounts import counts
from batch_kills import COMMAND, Place, Service, kill_again_and_again, undisturbed, write_ids

PROFILE = {
    "median": 0.5, "failed": 0.05, "cancelled": 0.05, "partial": 0.05,
    "large": 0.05, "large_bytes": [1_000_001, 3_000_000], "small_bytes": [2_000, 20_000],
}  # fmt: skip


@pytest.mark.parametrize("kills", counts("ADEPOLL_KILLS", default=2, most=6))
async def test_a_batch_killed_many_times_ends_like_one_without_kills(tmp_path, kills):
    with Service(tmp_path, jobs=25 * kills, seed=1, **PROFILE) as service:
        path, ids = write_ids(tmp_path, service, unknown=0)
        place = Place(folder=tmp_path / "killed", command=COMMAND, ids=path)
        killed = await kill_again_and_again(place, service, ids, kills=kills, rng=Random(1))
        whole_place = Place(folder=tmp_path / "whole", command=COMMAND, ids=path)
        whole = await undisturbed(whole_place, service)
        truth = service.truth(digests=True)
    assert killed.kills.total() >= kills
    assert killed.wrong == []
    assert killed.doubled <= killed.kills.total()
    assert killed.outcomes == whole.outcomes
    assert killed.last_lines() == whole.last_lines()
    assert killed.final.status == whole.final.status == 1  # some jobs have failed
    assert place.left_over() == whole_place.left_over() == []
    recorded, files = whole.outcomes
    with_result = {
        job_id: job["result_sha256"] for job_id, job in truth["jobs"].items() if job["result_bytes"]
    }
    assert set(recorded) == set(ids)
    assert files == {f"{job_id}.json": digest for job_id, digest in with_result.items()}
