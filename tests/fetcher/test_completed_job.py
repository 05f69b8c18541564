"""A job that is known to have completed, but of which a server of the service is out of date."""

from itertools import count
from random import Random

import pytest
from scripted import snapshot
from watching import now

from adepoll import JobRef
from adepoll.errors import JobFailedError, JobNotFoundError, ResultNotReadyError
from adepoll.fetcher.completed_job import request_completed
from adepoll.throttling.waiting_times import RetryPolicy


class Waits(RetryPolicy):
    """Waits of 1, 2, 3 ... seconds."""

    def waits(self, rng):
        return map(float, count(1))


class Client:
    """A client whose answers have these statuses; the last one repeats. None means 404."""

    def __init__(self, *statuses, attempts=3):
        self.statuses, self.retry, self.rng = [*statuses], Waits(attempts=attempts), Random(0)
        self.asked = []

    async def get_job(self, ref):
        self.asked.append(now())
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            raise JobNotFoundError(status=404, job_id=ref.job_id)
        return snapshot(ref.job_id, status)


@pytest.mark.parametrize(
    ("statuses", "asked"),
    [
        (["completed"], [0.0]),
        (["processing", "completed"], [0.0, 1.0]),
        (["pending", "processing", "completed"], [0.0, 1.0, 3.0]),
        ([None, None, "completed"], [0.0, 1.0, 3.0]),
        (["processing", None, "completed"], [0.0, 1.0, 3.0]),
    ],
)
def test_the_job_is_requested_until_it_has_settled(replay, statuses, asked):
    async def script():
        start, client = now(), Client(*statuses)
        assert (await request_completed(client, JobRef("a"))).job_id == "a"
        assert [at - start for at in client.asked] == asked

    replay(script)


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize(
    ("status", "error"), [("processing", ResultNotReadyError), (None, JobNotFoundError)]
)
def test_the_job_is_requested_as_often_as_the_policy_allows(replay, attempts, status, error):
    async def script():
        client = Client(status, attempts=attempts)
        with pytest.raises(error):
            await request_completed(client, JobRef("a"))
        assert len(client.asked) == attempts

    replay(script)


def test_a_failed_job_is_requested_once(replay):
    async def script():
        client = Client("failed")
        with pytest.raises(JobFailedError):
            await request_completed(client, JobRef("a"))
        assert len(client.asked) == 1

    replay(script)
