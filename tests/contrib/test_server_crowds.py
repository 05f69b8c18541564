"""Crowds before a server in a process of its own: what they cost, and that they leave nothing.

`nox -s thorough` sends 2,000 clients, or as many as `ADEPOLL_CROWD` says.
"""

import asyncio
import json
import random
import resource
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import pytest
from amounts import counts
from clocks import LeapingClock
from observing import Blocked
from waiting import supervised

from adepoll.emulator import JobPlan

SERVED_APP = Path(__file__).parent.parent / "support" / "served_app.py"
MOST_FILES = 4_000
# New connections in a second: how many a server takes at the same time is no matter of adepoll's.
ARRIVALS = 500
LEAPING = LeapingClock()

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def enough_files():
    """Room for a crowd of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"no more than {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@attrs.define
class Server:
    """A server that tells what it holds."""

    url: str
    process: asyncio.subprocess.Process

    async def look(self):
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def subscribers(self):
        async with crowd() as http, http.get(f"{self.url}/ready") as response:
            return (await response.json())["watcher"]["followers"]


@asynccontextmanager
async def served(kind, loop):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        SERVED_APP,
        kind,
        loop,
        "observed",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with supervised(process):
        port = int(await process.stdout.readline())
        server = Server(f"http://127.0.0.1:{port}", process)
        async with crowd() as http, http.get(f"{server.url}/ready") as response:
            assert response.status == 200
        yield server
        process.terminate()
        await process.communicate()


def crowd():
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout()
    )


@pytest.mark.ade(clock=LEAPING)
@pytest.mark.parametrize("waiters", counts("ADEPOLL_CROWD", default=400, most=2_000))
@pytest.mark.parametrize(
    ("kind", "loop"), [("fastapi", "asyncio"), ("fastapi", "uvloop"), ("aiohttp", "asyncio")]
)
async def test_a_crowd_of_waiters_costs_what_its_jobs_do(kind, loop, waiters, ade_env):
    """Ten wait for each job, whose end costs one poll, and perhaps one that was on its way."""
    job_ids = [ade_env.submit(JobPlan(processing_time=3_600.0)) for _ in range(waiters // 10)]
    async with served(kind, loop) as server, crowd() as http:

        async def wait(number):
            await asyncio.sleep(number / ARRIVALS)
            url = f"{server.url}/wait/{job_ids[number % len(job_ids)]}"
            async with http.get(url) as response:
                return await response.json()

        waits = [asyncio.create_task(wait(number)) for number in range(waiters)]
        async with asyncio.timeout(120):
            while await server.subscribers() < waiters:  # noqa: ASYNC110 - another process has them
                await asyncio.sleep(0.1)
        before = [ade_env.truth(job_id).gets for job_id in job_ids]
        LEAPING.ahead += 7_200.0
        answers = await asyncio.gather(*waits)
    after = [ade_env.truth(job_id).gets for job_id in job_ids]
    assert answers == [{"status": "completed"}] * waiters
    assert max(now - then for now, then in zip(after, before, strict=True)) <= 2


async def listen_to_jobs(server, ade, listeners):
    """Have a crowd listen to events, half of which leaves at random."""
    rng = random.Random(3)
    arriving = listeners / ARRIVALS
    plans = [JobPlan(processing_time=rng.uniform(arriving, 3 * arriving)) for _ in range(200)]
    job_ids = [ade.submit(plan) for plan in plans]
    async with crowd() as http:

        async def listen(number):
            query = "&".join(f"id={job_id}" for job_id in rng.sample(job_ids, 5))
            await asyncio.sleep(number / ARRIVALS)
            async with http.get(f"{server.url}/events?{query}") as response:
                if number % 2:
                    await asyncio.sleep(rng.uniform(0, 2 * arriving))
                    response.close()
                    return None
                return await response.read()

        told = await asyncio.gather(*map(listen, range(listeners)))
    stayed = told[::2]
    assert all(stream.endswith(b"event: end\ndata: {}\n\n") for stream in stayed)


async def at_rest(server, before):
    """Wait until those who have left are gone; give what the server holds then."""
    async with asyncio.timeout(20):
        while True:
            told = await server.look()
            if not told["connected"] and told["tasks"] <= before["tasks"]:
                return told
            await asyncio.sleep(0.1)  # it is a process of its own, which tells nobody


@pytest.mark.parametrize("listeners", counts("ADEPOLL_CROWD", default=200, most=1_000))
@pytest.mark.parametrize("kind", ["fastapi", "aiohttp"])
async def test_a_crowd_of_listeners_half_of_which_leaves_at_random_leaves_nothing(
    kind, listeners, ade_env
):
    async with served(kind, "asyncio") as server:
        before = await server.look()
        await listen_to_jobs(server, ade_env, listeners)
        after = await at_rest(server, before)
        await listen_to_jobs(server, ade_env, listeners)
        later = await at_rest(server, before)
        async with crowd() as http, http.get(f"{server.url}/ready") as response:
            watcher = (await response.json())["watcher"]
    assert (watcher["followers"], watcher["watched"], watcher["in_flight"]) == (0, 0, 0)
    # What is in use is as much as before. The allocator keeps the room of a crowd for the next
    # one, which then takes no more.
    assert after["blocks"] <= 1.1 * before["blocks"]
    assert later["blocks"] <= 1.1 * before["blocks"]
    assert later["resident"] <= 1.1 * after["resident"]


def test_the_benchmark_measures_the_cpu_time_of_the_loop_once(monkeypatch, replay):
    spent = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: spent)

    async def script():
        nonlocal spent
        blocked = Blocked()
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
