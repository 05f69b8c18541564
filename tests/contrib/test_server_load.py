"""Thousands of clients of a server process: their cost, and that nothing remains of them.

Only `nox -s thorough` runs these tests, with up to 2,000 clients, or as many as `ADEPOLL_CROWD`
says. tests/contrib/test_servers.py has smaller crowds within one process.
"""

import asyncio
import json
import os
import random
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import forkserver
import pytest
from clocks import LeapingClock
from observing import LoopBlocking
from openfiles import many_files
from waiting import supervised

from adepoll.emulator import JobPlan

SERVED_APP = Path(__file__).parent.parent / "support" / "served_app.py"
MOST_FILES = 12_000
CROWD = int(os.environ.get("ADEPOLL_CROWD", "0"))
# New connections in a second: how many a server takes at the same time is no matter of adepoll's.
ARRIVALS = 500
JOBS = 20  # the server polls each of them five times a second, which must not be most of its work
LEAPING = LeapingClock()

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def enough_files():
    """Raise the limit of open files, for thousands of sockets."""
    with many_files(MOST_FILES):
        yield


@attrs.define
class Server:
    """A server process that reports its tasks and its memory."""

    url: str
    process: asyncio.subprocess.Process

    async def report(self):
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def subscribers(self):
        async with many_connections() as http, http.get(f"{self.url}/ready") as response:
            return (await response.json())["watcher"]["subscribers"]


@asynccontextmanager
async def served(kind, loop):
    process = await forkserver.create_subprocess_exec(
        sys.executable,
        SERVED_APP,
        kind,
        loop,
        "observed",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preload=("fastapi", "uvicorn"),
    )
    async with supervised(process):
        port = int(await process.stdout.readline())
        server = Server(f"http://127.0.0.1:{port}", process)
        async with many_connections() as http, http.get(f"{server.url}/ready") as response:
            assert response.status == 200
        yield server
        process.terminate()
        await process.communicate()


def many_connections():
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout()
    )


@pytest.mark.thorough
@pytest.mark.ade(clock=LEAPING)
@pytest.mark.parametrize("waiters", [CROWD or 2_000])
@pytest.mark.parametrize(
    ("kind", "loop"), [("fastapi", "uvloop"), ("aiohttp", "asyncio"), ("fastapi", "asyncio")]
)
async def test_many_waiters_cost_as_many_polls_as_their_jobs_need(kind, loop, waiters, ade_env):
    """A hundred clients wait for each job. Its end costs one poll, and at most one in flight."""
    job_ids = [ade_env.submit(JobPlan(processing_time=3_600.0)) for _ in range(JOBS)]
    async with served(kind, loop) as server, many_connections() as http:

        async def wait(number):
            await asyncio.sleep(number / ARRIVALS)
            url = f"{server.url}/wait/{job_ids[number % len(job_ids)]}"
            async with http.get(url) as response:
                return await response.json()

        waits = [asyncio.create_task(wait(number)) for number in range(waiters)]
        async with asyncio.timeout(120):
            while await server.subscribers() < waiters:  # noqa: ASYNC110 - another process has them
                await asyncio.sleep(0.1)
        before = [ade_env.truth(job_id).polls for job_id in job_ids]
        LEAPING.ahead += 7_200.0
        answers = await asyncio.gather(*waits)
    after = [ade_env.truth(job_id).polls for job_id in job_ids]
    assert answers == [{"status": "completed"}] * waiters
    # A busy machine can poll a job some times more, but never once for each of its waiters.
    assert max(now - then for now, then in zip(after, before, strict=True)) < 10


async def listen_to_jobs(server, ade, listeners):
    """Let many clients read events; half of them disconnect at random moments."""
    rng = random.Random(3)
    arriving = listeners / ARRIVALS
    plans = [JobPlan(processing_time=rng.uniform(arriving, 3 * arriving)) for _ in range(JOBS)]
    job_ids = [ade.submit(plan) for plan in plans]
    async with many_connections() as http:

        async def read(number):
            query = "&".join(f"id={job_id}" for job_id in rng.sample(job_ids, 5))
            await asyncio.sleep(number / ARRIVALS)
            async with http.get(f"{server.url}/events?{query}") as response:
                if number % 2:
                    await asyncio.sleep(rng.uniform(0, 2 * arriving))
                    response.close()
                    return None
                return await response.read()

        streams = await asyncio.gather(*map(read, range(listeners)))
    stayed = streams[::2]
    assert all(stream.endswith(b"event: end\ndata: {}\n\n") for stream in stayed)


async def when_idle(server, before):
    """Wait until all connections and their tasks are gone; return the server's report."""
    async with asyncio.timeout(20):
        while True:
            report = await server.report()
            if not report["connections"] and report["tasks"] <= before["tasks"]:
                return report
            await asyncio.sleep(0.1)  # another process, which sends no notification


async def leave_waits(server, ade, waiters):
    """Let many clients wait for jobs that do not end; half time out, half disconnect."""
    rng = random.Random(3)
    job_ids = [ade.submit(JobPlan(processing_time=float("inf"))) for _ in range(JOBS)]
    latest = waiters / ARRIVALS + 1.0

    async def wait(number):
        await asyncio.sleep(number / ARRIVALS)
        url = f"{server.url}/wait/{rng.choice(job_ids)}"
        if number % 2:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.1, latest)), http.get(url):
                    raise AssertionError("the job cannot have ended")
            return None
        async with http.get(url, params={"timeout": rng.uniform(0.1, latest)}) as response:
            return response.status

    async with many_connections() as http:
        statuses = await asyncio.gather(*map(wait, range(waiters)))
    assert set(statuses[::2]) == {504}


LISTENERS, WAITERS = CROWD or 1_000, CROWD or 2_000


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "crowd", "clients"),
    [
        ("fastapi", listen_to_jobs, LISTENERS),
        ("aiohttp", listen_to_jobs, LISTENERS),
        ("fastapi", leave_waits, WAITERS),
        ("aiohttp", leave_waits, WAITERS),
    ],
)
async def test_nothing_remains_of_many_clients_that_leave(kind, crowd, clients, ade_env):
    async with served(kind, "asyncio") as server:
        before = await server.report()
        await crowd(server, ade_env, clients)
        after = await when_idle(server, before)
        await crowd(server, ade_env, clients)
        later = await when_idle(server, before)
        async with many_connections() as http, http.get(f"{server.url}/ready") as response:
            watcher = (await response.json())["watcher"]
    assert (watcher["subscribers"], watcher["watched"], watcher["in_flight"]) == (0, 0, 0)
    # As many blocks are allocated as before. The resident memory says less: the allocator keeps
    # what was freed, in pieces that differ from round to round.
    assert after["blocks"] <= 1.1 * before["blocks"]
    assert later["blocks"] <= 1.1 * before["blocks"]
    if crowd is leave_waits:  # the first round has filled all caches
        assert later["blocks"] - after["blocks"] <= 2 * clients


def test_the_benchmark_measures_the_cpu_time_of_the_loop_once(monkeypatch, replay):
    spent = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: spent)

    async def script():
        nonlocal spent
        blocked = LoopBlocking()
        blocked.start()
        await asyncio.sleep(0.01)
        spent += 0.06
        await asyncio.sleep(0.01)
        _, cpu = blocked.take()
        assert cpu == pytest.approx(0.06)
        await asyncio.sleep(0.01)
        _, cpu = blocked.take()
        assert cpu == 0.0
        blocked.stop()

    replay(script)
