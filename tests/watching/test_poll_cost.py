"""How many function calls a poll takes; tests/benchmarks/throughput.py measures its CPU time."""

import asyncio
import gc
import json
from random import Random

from fuzzing import counted_calls

from adepoll import AdeClient, JobWatcher
from adepoll.emulator import run

FINISHED = {
    "status": "completed",
    "received_at": 1_772_000_000,
    "progress": 1.0,
    "data": {"extraction": {"total": 1_204.5}, "metadata": {"filename": "a.pdf"}},
    "metadata": {"filename": "a.pdf"},
}


class Response:
    """A response whose body has arrived completely."""

    status, closed = 200, True

    def __init__(self, job_id):
        self.headers = {"Content-Type": "application/json"}
        self.content = self
        self.body = json.dumps({"job_id": job_id, **FINISHED}).encode()
        self.total_bytes = len(self.body)

    def read_nowait(self):
        return self.body


class Session:
    """Answers each GET in the next step of the event loop: the job has finished."""

    closed = False

    async def get(self, url, **_options):
        await asyncio.sleep(0)
        return Response(url.path.rpartition("/")[2])


def client_of(session):
    return AdeClient("key", base_url="https://h", session=session, rng=Random(1))


async def calls_of(jobs):
    async with (
        client_of(Session()) as client,
        JobWatcher(client, discovery="get", rng=Random(1)) as watcher,
    ):
        with counted_calls() as count:
            async for _ in watcher.watch([f"j-{number}" for number in range(jobs)]):
                pass
            return count()


def test_a_finished_job_takes_a_limited_number_of_calls_from_its_id_to_its_snapshot():
    """About 260, with those of this session and of learning how long the first jobs take."""

    async def main():
        await calls_of(10)  # generates the readers
        gc.collect()  # otherwise calls that delete the objects of earlier tests are counted
        assert (await calls_of(160) - await calls_of(80)) / 80 < 262

    run(main())
