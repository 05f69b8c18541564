"""adepoll in a server: 2,000 waiters, 1,000 listeners of events, a large result for a slow client.

Server, emulator and clients are a process each. Printed are the requests that the service got,
beside those of as many jobs with one waiter each, for how long the server's event loop was blocked
at most, and by how much its memory grew.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import uvicorn
from aiohttp import web

sys.path.append(str(Path(__file__).parents[1] / "support"))

import server_apps
from observing import (
    LoopBlocking,
    allocated_blocks,
    resident_bytes,
    tune_garbage_collector,
)

from adepoll import AdeClient
from adepoll.emulator import Emulator, JobPlan

KEY = "bench"
WAITERS = 2_000
JOBS = 200
LISTENERS = 1_000
LISTENED = 5  # jobs for each
ARRIVAL = 2.5  # seconds
MOST_BLOCKED = 0.05  # seconds
MOST_GROWTH = 32 * 2**20  # bytes, for a large result


def serve(kind: str, loop: str, base_url: str, pipe: Connection) -> None:
    """Serve; tell the port, and then what is asked for: blocking, and memory."""
    options = {"client": partial(AdeClient, KEY, base_url=base_url), "grace": 1.0}
    make_app = server_apps.aiohttp_app if kind == "aiohttp" else server_apps.fastapi_app
    app = make_app(**options)
    config = uvicorn.Config(app, loop=loop, host="127.0.0.1", port=0, log_level="warning")

    async def run() -> None:
        blocked = LoopBlocking()

        def answer() -> None:
            while pipe.poll():
                thorough = pipe.recv()
                longest = blocked.take()
                pipe.send((longest, resident_bytes(), allocated_blocks() if thorough else 0))
                blocked.take()  # the collecting was ours

        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        tune_garbage_collector()  # or the longest blocks are its own
        blocked.start()
        if kind == "aiohttp":
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            pipe.send(runner.addresses[0][1])
            await asyncio.Event().wait()
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        pipe.send(server.servers[0].sockets[0].getsockname()[1])
        await serving

    asyncio.Runner(loop_factory=config.get_loop_factory()).run(run())


def emulate(pipe: Connection) -> None:
    """Emulate the service: take plans, give ids; tell the requests so far where None is sent."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with Emulator(api_key=KEY) as ade:
            pipe.send(ade.base_url)

            def answer() -> None:
                while pipe.poll():
                    plans = pipe.recv()
                    traffic = ade.truth.requests
                    asked = traffic.get + traffic.list
                    pipe.send(asked if plans is None else [ade.submit(plan) for plan in plans])

            loop.add_reader(pipe.fileno(), answer)
            await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def process(target: object, *arguments: object) -> Iterator[Connection]:
    """Run a function in a process; it is given a pipe, whose other end this gives."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    running = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    running.start()
    try:
        yield ours
    finally:
        running.terminate()
        running.join()


class Place:
    """An emulator and a server before it."""

    def __init__(self, emulator: Connection, server: Connection) -> None:
        """Take the pipes."""
        self._emulator, self._server = emulator, server
        self.url = f"http://127.0.0.1:{server.recv()}"

    def submit(self, plans: list[JobPlan]) -> list[str]:
        """Submit jobs."""
        self._emulator.send(plans)
        return self._emulator.recv()

    def requests(self) -> int:
        """Give how many looks and lists the emulator was asked for."""
        self._emulator.send(None)
        return self._emulator.recv()

    def look(self) -> tuple[tuple[float, float], int]:
        """Give the longest block since the last look, in seconds, and the memory, in bytes."""
        self._server.send(False)
        longest, memory, _ = self._server.recv()
        return longest, memory

    def in_use(self) -> int:
        """Give how many blocks of memory are in use, when what nobody can reach is gone."""
        self._server.send(True)
        return self._server.recv()[2]


def plans(count: int) -> list[JobPlan]:
    """Give jobs that end over a few seconds."""
    rng = random.Random(7)
    return [JobPlan(processing_time=rng.uniform(4.0, 12.0)) for _ in range(count)]


def session() -> aiohttp.ClientSession:
    """Give a session that opens as many connections as are asked for."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(),
    )


async def wait_all(
    place: Place, waiters: int, jobs: int
) -> tuple[int, tuple[float, float], int, float]:
    """Wait for jobs; give requests, longest block, bytes grown, seconds.

    The waiters come over `ARRIVAL` seconds: how many connections a server takes at a time when all
    of them come at once is no matter of adepoll's.
    """
    job_ids = place.submit(plans(jobs))
    _, before = place.look()
    asked = place.requests()
    most = before

    async with session() as http:

        async def wait(number: int) -> None:
            job_id = job_ids[number % jobs]
            await asyncio.sleep(ARRIVAL * number / waiters)
            async with http.get(f"{place.url}/wait/{job_id}") as response:
                assert response.status == 200, await response.text()

        began = time.perf_counter()
        tasks = [asyncio.create_task(wait(number)) for number in range(waiters)]
        await asyncio.sleep(3)
        most = (await asyncio.to_thread(place.look))[1]
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - began
    place_blocked = place.look()[0]
    return place.requests() - asked, place_blocked, most - before, seconds


async def listen_all(
    place: Place, listeners: int, jobs: int
) -> tuple[tuple[float, float], int, dict[str, object]]:
    """Listen to events, half of the listeners leaving at random; give what is left."""
    job_ids = place.submit(plans(jobs))
    rng = random.Random(3)
    ended = 0

    async with session() as http:

        async def listen(number: int) -> None:
            nonlocal ended
            query = "&".join(f"id={job_id}" for job_id in rng.sample(job_ids, LISTENED))
            await asyncio.sleep(ARRIVAL * number / listeners)
            async with http.get(f"{place.url}/events?{query}") as response:
                if number % 2:
                    await asyncio.sleep(rng.uniform(0, 6))
                    response.close()
                    return
                told = await response.read()
                ended += told.endswith(b"event: end\ndata: {}\n\n")

        await asyncio.gather(*(listen(number) for number in range(listeners)))
        await asyncio.sleep(1)
        async with http.get(f"{place.url}/ready") as response:
            told = await response.json()
    assert ended == listeners // 2
    return *place.look(), told["watcher"]


async def stream_slowly(place: Place, size: int, rate: float) -> tuple[int, float]:
    """Take a large result slowly; give by how much the server grew, and the bytes a second."""
    [job_id] = place.submit([JobPlan(result_bytes=size)])
    async with session() as http:
        async with http.get(f"{place.url}/result/{job_id}", headers={"Range": "bytes=0-9"}) as one:
            await one.read()
        _, before = place.look()
        most = before
        began = time.perf_counter()
        received = 0
        async with http.get(f"{place.url}/result/{job_id}") as response:
            async for chunk in response.content.iter_chunked(2**20):
                received += len(chunk)
                ahead = received / rate - (time.perf_counter() - began)
                if ahead > 0.05:
                    await asyncio.sleep(ahead)
                    most = max(most, place.look()[1])
        assert received == int(response.headers["Content-Length"])
    return most - before, received / (time.perf_counter() - began)


def show(blocked: tuple[float, float]) -> str:
    """Say how long the event loop was blocked."""
    clock, cpu = blocked
    verdict = "" if cpu <= MOST_BLOCKED else " TOO LONG"
    return f"blocked for {clock * 1000:.0f} ms, {cpu * 1000:.0f} of them its own{verdict}"


async def measure(place: Place, options: argparse.Namespace) -> None:
    """Print the figures of one server."""
    _, fresh = place.look()
    alone = await wait_all(place, options.jobs, options.jobs)
    for name, figures in (
        (f"{options.jobs} waiters", alone),
        (f"{options.waiters} waiters", await wait_all(place, options.waiters, options.jobs)),
    ):
        requests, blocked, grown, seconds = figures
        print(
            f"  {name:<16}{requests:>8} requests, {show(blocked)}"
            f"{grown / 2**20:>8.1f} MiB grown{seconds:>8.1f} s"
        )
    _, before = place.look()
    used = place.in_use()
    await listen_all(place, options.listeners, options.jobs)
    _, warm = place.look()
    left = place.in_use() / used - 1
    blocked, after, watcher = await listen_all(place, options.listeners, options.jobs)
    print(
        f"  {options.listeners} listeners   {before / 2**20:.1f} MiB before, {warm / 2**20:.1f} "
        f"after, {after / 2**20:.1f} after as many again (fresh: {fresh / 2**20:.1f}); in use "
        f"{left:+.1%}; left: {watcher['subscribers']} subscribers, {watcher['watched']} jobs; "
        f"{show(blocked)}"
    )
    grown, rate = await stream_slowly(place, options.bytes, options.rate)
    verdict = "" if grown < MOST_GROWTH else "  TOO MUCH"
    print(
        f"  {options.bytes / 1e9:.2f} GB at {rate / 1e6:.0f} MB/s: {grown / 2**20:.1f} MiB grown"
        f"{verdict}; {show(place.look()[0])}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["aiohttp", "fastapi"], action="append")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], action="append")
    parser.add_argument("--waiters", type=int, default=WAITERS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--listeners", type=int, default=LISTENERS)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--rate", type=float, default=100e6, help="bytes a second of the client")
    options = parser.parse_args()
    for kind in options.kind or ["fastapi", "aiohttp"]:
        for loop in options.loop or ["asyncio", "uvloop"]:
            print(f"{kind} on {loop}")
            with process(emulate) as emulator:
                base_url = emulator.recv()
                with process(serve, kind, loop, base_url) as server:
                    asyncio.run(measure(Place(emulator, server), options))


if __name__ == "__main__":
    main()
