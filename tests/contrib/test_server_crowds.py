"""Crowds before a server in a process of its own: what they cost, and that they leave nothing."""

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
from observing import Blocked

from adepoll.emulator import JobPlan

SERVED_APP = Path(__file__).parent.parent / "support" / "served_app.py"
WAITERS = 2_000
LISTENERS = 1_000
JOBS = 200
CROWDS = 3
# Seconds in which a crowd comes: how many connections a server takes at once is no matter of
# adepoll's, and on a busy machine they pile up before it.
WAITERS_COME = 4.0
LISTENERS_COME = 1.5
MOST_BLOCKED = 0.05  # seconds of the loop's own time; a machine that is busy elsewhere adds none

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def enough_files():
    """Room for a crowd of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * WAITERS
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
    try:
        port = int(await process.stdout.readline())
        server = Server(f"http://127.0.0.1:{port}", process)
        async with crowd() as http, http.get(f"{server.url}/ready") as response:
            assert response.status == 200
        yield server
        process.terminate()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def crowd():
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout()
    )


def submit(ade, least):
    rng = random.Random(7)
    plans = [JobPlan(processing_time=rng.uniform(least, 2 * least)) for _ in range(JOBS)]
    return [ade.submit(plan) for plan in plans]


async def wait_for_jobs(server, ade, waiters):
    """Have so many wait for as many jobs as there are; give how often the service was asked."""
    job_ids = submit(ade, WAITERS_COME + 1)
    before = ade.truth.requests.get + ade.truth.requests.list
    async with crowd() as http:

        async def wait(number):
            await asyncio.sleep(WAITERS_COME * number / WAITERS)
            async with http.get(f"{server.url}/wait/{job_ids[number % JOBS]}") as response:
                return await response.json()

        answers = await asyncio.gather(*map(wait, range(waiters)))
    assert answers == [{"status": "completed"}] * waiters
    return ade.truth.requests.get + ade.truth.requests.list - before


@pytest.mark.parametrize(
    ("kind", "loop"), [("fastapi", "asyncio"), ("fastapi", "uvloop"), ("aiohttp", "asyncio")]
)
async def test_two_thousand_waiters_cost_what_their_jobs_do_and_never_block_the_loop(
    kind, loop, ade_env
):
    async with served(kind, loop) as server:
        alone = await wait_for_jobs(server, ade_env, JOBS)
        blocked = []
        # What the server itself does to its loop comes with every crowd; a busy machine's does not.
        while len(blocked) < CROWDS and min(blocked, default=1.0) > MOST_BLOCKED:
            await server.look()
            together = await wait_for_jobs(server, ade_env, WAITERS)
            blocked.append((await server.look())["blocked"])
            assert together <= 1.3 * alone
    assert min(blocked) <= MOST_BLOCKED


async def listen_to_jobs(server, ade):
    """Have a thousand listen to events, of whom half leave at random."""
    job_ids = submit(ade, 1.5)
    rng = random.Random(3)
    async with crowd() as http:

        async def listen(number):
            query = "&".join(f"id={job_id}" for job_id in rng.sample(job_ids, 5))
            await asyncio.sleep(LISTENERS_COME * number / LISTENERS)
            async with http.get(f"{server.url}/events?{query}") as response:
                if number % 2:
                    await asyncio.sleep(rng.uniform(0, 3))
                    response.close()
                    return None
                return await response.read()

        told = await asyncio.gather(*map(listen, range(LISTENERS)))
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


@pytest.mark.parametrize("kind", ["fastapi", "aiohttp"])
async def test_a_thousand_listeners_of_which_half_leave_at_random_leave_nothing(kind, ade_env):
    async with served(kind, "asyncio") as server:
        before = await server.look()
        await listen_to_jobs(server, ade_env)
        after = await at_rest(server, before)
        await listen_to_jobs(server, ade_env)
        later = await at_rest(server, before)
        async with crowd() as http, http.get(f"{server.url}/ready") as response:
            watcher = (await response.json())["watcher"]
    assert (watcher["followers"], watcher["watched"], watcher["in_flight"]) == (0, 0, 0)
    # What is in use is as much as before. The allocator keeps the room of a crowd for the next
    # one, which then takes no more.
    assert after["blocks"] <= 1.1 * before["blocks"]
    assert later["blocks"] <= 1.1 * before["blocks"]
    assert later["resident"] <= 1.1 * after["resident"]


async def test_what_is_measured_is_the_time_of_the_loop_itself():
    blocked = Blocked()
    blocked.start()
    await asyncio.sleep(0.01)
    blocked.take()
    time.sleep(0.06)  # noqa: ASYNC251 - to block the loop is the point
    await asyncio.sleep(0.01)
    clock, cpu = blocked.take()
    assert clock > 0.05 > cpu
    until = time.thread_time() + 0.06
    while time.thread_time() < until:
        pass
    _, cpu = blocked.take()
    assert cpu > MOST_BLOCKED
    await asyncio.sleep(0.01)
    _, cpu = blocked.take()  # what was told before is not told again
    assert cpu < MOST_BLOCKED
    blocked.stop()
