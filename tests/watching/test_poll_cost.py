"""How many function calls a poll takes; tests/benchmarks/throughput.py measures its CPU time."""

import asyncio
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

    def __init__(self, job_id, log):
        self.log = log
        self.headers = {"Content-Type": "application/json"}
        self.content = self
        self.body = json.dumps({"job_id": job_id, **FINISHED}).encode()
        self.total_bytes = len(self.body)

    def read_nowait(self):
        self.log.append("read")
        return self.body


class Session:
    """Answers each GET in the next step of the event loop: the job has finished."""

    closed = False

    def __init__(self):
        self.log = []

    async def get(self, url, **_options):
        self.log.append("sent")
        await asyncio.sleep(0)
        return Response(url.path.rpartition("/")[2], self.log)


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
    """About 275, with those of this session and of learning how long the first jobs take."""

    async def main():
        await calls_of(10)  # generates the readers
        assert (await calls_of(160) - await calls_of(80)) / 80 < 290

    run(main())


def test_responses_that_arrive_together_are_read_before_the_next_requests_are_sent():
    """A system call slows down the code that follows it, so reading them in a row is faster."""

    async def main():
        session, ids = Session(), [f"j-{number}" for number in range(9)]
        async with client_of(session) as client, JobWatcher(client, concurrency=3) as watcher:
            async for _ in watcher.watch(ids):
                pass
        assert session.log == 3 * (3 * ["sent"] + 3 * ["read"])

        session.log.clear()
        left = iter(ids)

        async def poll():
            for job_id in left:
                await client.get_job(job_id)

        async with client_of(session) as client:
            await asyncio.gather(poll(), poll(), poll())
        assert session.log == 3 * (3 * ["sent"] + 3 * ["read"])

    run(main())
