"""A download whose process is killed, again and again: the file comes out whole all the same.

`ADEPOLL_KILLS=50` kills so often instead of 12 times.
"""

import os
from itertools import accumulate
from random import Random

import pytest
from kills import download_and_kill

from adepoll.fetcher.width import PART_BYTES

KILLS = int(os.environ.get("ADEPOLL_KILLS", "12"))
EACH = 5 * 2**20  # of the object, for each kill


@pytest.mark.parametrize("seed", [1])
async def test_a_killed_download_goes_on_and_fetches_little_again(tmp_path, seed):
    rng = Random(seed)
    body = b'{"text":"' + rng.randbytes(KILLS * EACH // 2).hex().encode() + b'"}'
    tally = await download_and_kill(body, tmp_path, kills=KILLS, rng=rng)
    assert tally.kills >= KILLS
    assert tally.most_open > 1
    # Summed up: what one kill has lost may be fetched again only after the next.
    fetched_again = accumulate(again for again, _ in tally.again)
    allowed = accumulate(open_then * PART_BYTES for _, open_then in tally.again)
    assert all(count <= most for count, most in zip(fetched_again, allowed, strict=True))
