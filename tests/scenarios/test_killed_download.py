"""Downloads whose processes are killed repeatedly still produce the complete file.

`nox -s thorough` kills 12 times, or as often as `ADEPOLL_KILLS` says.
"""

from itertools import accumulate
from random import Random

import pytest
from amounts import counts
from kills import download_and_kill, kill_two_writers

from adepoll.fetcher.segments import FIRST_SEGMENT

EACH = 5 * 2**20  # of the object, for each kill


@pytest.mark.parametrize("kills", counts("ADEPOLL_KILLS", default=4, most=12))
async def test_a_killed_download_resumes_and_fetches_little_again(tmp_path, kills):
    rng = Random(1)
    body = b'{"extraction":"' + rng.randbytes(kills * EACH // 2).hex().encode() + b'"}'
    tally = await download_and_kill(body, tmp_path, kills=kills, rng=rng)
    assert tally.kills >= kills
    assert tally.most_open > 1
    # Summed up, because bytes lost by one kill may be fetched again only after the next.
    fetched_again = accumulate(again for again, _ in tally.again)
    allowed = accumulate(open_then * FIRST_SEGMENT for _, open_then in tally.again)
    assert all(count <= most for count, most in zip(fetched_again, allowed, strict=True))


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("kills", counts("ADEPOLL_KILLS", default=2, most=12))
async def test_two_killed_processes_leave_one_complete_result_at_their_target(
    tmp_path, kills, locks
):
    bodies = [b'{"extraction":"' + letter * (3 * 2**20) + b'"}' for letter in (b"a", b"b")]
    contest = await kill_two_writers(bodies, tmp_path, kills=kills, rng=Random(2), locks=locks)
    assert contest.kills >= kills
    assert contest.published >= 2
    assert contest.wrong == []
    if locks:  # without locks, nobody knows which files are in use
        assert contest.left == []
