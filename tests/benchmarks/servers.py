"""Measures a server with 2,000 waiters, 1,000 event streams, and a large result for a slow client.

Server, emulator and clients are separate processes. The output shows the number of requests to the
service (also with one waiter for each job), the longest time for which the server's event loop was
blocked, and the growth of its memory.
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
STREAMS = 1_000
JOBS_PER_STREAM = 5
ARRIVAL = 2.5  # seconds in which all clients connect
MAX_BLOCKED = 0.05  # goal: seconds for which the event loop is blocked
MAX_GROWTH = 32 * 2**20  # goal: growth of the memory in bytes during a large result


def serve(kind: str, loop: str, base_url: str, pipe: Connection) -> None:
    """Run the server; send its port and, on request, its longest blocking and its memory."""
    options = {"client": partial(AdeClient, KEY, base_url=base_url), "grace": 1.0}
    make_app = server_apps.aiohttp_app if kind == "aiohttp" else server_apps.fastapi_app
    app = make_app(**options)
    config = uvicorn.Config(app, loop=loop, host="127.0.0.1", port=0, log_level="warning")

    async def run() -> None:
        blocked = LoopBlocking()

        def answer() -> None:
            while pipe.poll():
                with_blocks = pipe.recv()
                longest = blocked.take()
                pipe.send((longest, resident_bytes(), allocated_blocks() if with_blocks else 0))
                blocked.take()  # this report itself may have blocked the loop

        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        tune_garbage_collector()  # otherwise garbage collection would block the loop longest
        blocked.start()
        if kind == "aiohttp":
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            pipe.send(runner.addresses[0][1])
            await asyncio.Event().wait()
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn sends no notification
            await asyncio.sleep(0.01)
        pipe.send(server.servers[0].sockets[0].getsockname()[1])
        await serving

    asyncio.Runner(loop_factory=config.get_loop_factory()).run(run())


def emulate(pipe: Connection) -> None:
    """Run the emulator: for a list of plans, send job ids; for None, the number of requests."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with Emulator(api_key=KEY) as ade:
            pipe.send(ade.base_url)

            def answer() -> None:
                while pipe.poll():
                    plans = pipe.recv()
                    traffic = ade.truth.requests
                    requests = traffic.get + traffic.list
                    pipe.send(requests if plans is None else [ade.submit(plan) for plan in plans])

            loop.add_reader(pipe.fileno(), answer)
            await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def process(target: object, *arguments: object) -> Iterator[Connection]:
    """Run a function in a separate process; yield one end of a pipe. It gets the other end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    running = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    running.start()
    try:
        yield ours
    finally:
        running.terminate()
        running.join()


class Setup:
    """An emulator, and a server that uses it."""

    def __init__(self, emulator: Connection, server: Connection) -> None:
        """Store the pipes."""
        self._emulator, self._server = emulator, server
        self.url = f"http://127.0.0.1:{server.recv()}"

    def submit(self, plans: list[JobPlan]) -> list[str]:
        """Submit jobs."""
        self._emulator.send(plans)
        return self._emulator.recv()

    def requests(self) -> int:
        """Return the number of requests that the emulator received."""
        self._emulator.send(None)
        return self._emulator.recv()

    def report(self) -> tuple[tuple[float, float], int]:
        """Return the longest blocking since the last report in seconds, and the memory in bytes."""
        self._server.send(False)
        longest, memory, _ = self._server.recv()
        return longest, memory

    def allocated_blocks(self) -> int:
        """Return the number of allocated memory blocks after a garbage collection."""
        self._server.send(True)
        return self._server.recv()[2]


def plans(count: int) -> list[JobPlan]:
    """Return plans of jobs that end after 4 to 12 seconds."""
    rng = random.Random(7)
    return [JobPlan(processing_time=rng.uniform(4.0, 12.0)) for _ in range(count)]


def session() -> aiohttp.ClientSession:
    """Return a session without a limit of connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(),
    )


async def wait_for_jobs(
    setup: Setup, waiters: int, jobs: int
) -> tuple[int, tuple[float, float], int, float]:
    """Wait for jobs; return requests, longest blocking, growth in bytes, and seconds.

    The waiters arrive within `ARRIVAL` seconds, because the number of connections that a server
    accepts per second does not depend on adepoll.
    """
    job_ids = setup.submit(plans(jobs))
    _, before = setup.report()
    requests = setup.requests()
    peak = before

    async with session() as http:

        async def wait(number: int) -> None:
            job_id = job_ids[number % jobs]
            await asyncio.sleep(ARRIVAL * number / waiters)
            async with http.get(f"{setup.url}/wait/{job_id}") as response:
                assert response.status == 200, await response.text()

        started = time.perf_counter()
        tasks = [asyncio.create_task(wait(number)) for number in range(waiters)]
        await asyncio.sleep(3)
        peak = (await asyncio.to_thread(setup.report))[1]
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - started
    blocked = setup.report()[0]
    return setup.requests() - requests, blocked, peak - before, seconds


async def read_event_streams(
    setup: Setup, streams: int, jobs: int
) -> tuple[tuple[float, float], int, dict[str, object]]:
    """Open event streams, and close half of them at random times; return what remains."""
    job_ids = setup.submit(plans(jobs))
    rng = random.Random(3)
    complete = 0

    async with session() as http:

        async def read(number: int) -> None:
            nonlocal complete
            query = "&".join(f"id={job_id}" for job_id in rng.sample(job_ids, JOBS_PER_STREAM))
            await asyncio.sleep(ARRIVAL * number / streams)
            async with http.get(f"{setup.url}/events?{query}") as response:
                if number % 2:
                    await asyncio.sleep(rng.uniform(0, 6))
                    response.close()
                    return
                body = await response.read()
                complete += body.endswith(b"event: end\ndata: {}\n\n")

        await asyncio.gather(*(read(number) for number in range(streams)))
        await asyncio.sleep(1)
        async with http.get(f"{setup.url}/ready") as response:
            health = await response.json()
    assert complete == streams // 2
    return *setup.report(), health["watcher"]


async def stream_slowly(setup: Setup, size: int, rate: float) -> tuple[int, float]:
    """Read a large result slowly; return the growth of the server and the bytes per second."""
    [job_id] = setup.submit([JobPlan(result_bytes=size)])
    async with session() as http:
        async with http.get(
            f"{setup.url}/result/{job_id}", headers={"Range": "bytes=0-9"}
        ) as response:
            await response.read()
        _, before = setup.report()
        peak = before
        started = time.perf_counter()
        received = 0
        async with http.get(f"{setup.url}/result/{job_id}") as response:
            async for chunk in response.content.iter_chunked(2**20):
                received += len(chunk)
                ahead = received / rate - (time.perf_counter() - started)
                if ahead > 0.05:
                    await asyncio.sleep(ahead)
                    peak = max(peak, setup.report()[1])
        assert received == int(response.headers["Content-Length"])
    return peak - before, received / (time.perf_counter() - started)


def show(blocked: tuple[float, float]) -> str:
    """Describe how long the event loop was blocked."""
    clock, cpu = blocked
    verdict = "" if cpu <= MAX_BLOCKED else " TOO LONG"
    return f"blocked for {clock * 1000:.0f} ms, {cpu * 1000:.0f} of them CPU time{verdict}"


async def measure(setup: Setup, options: argparse.Namespace) -> None:
    """Print the figures of one server."""
    _, fresh = setup.report()
    single = await wait_for_jobs(setup, options.jobs, options.jobs)
    for name, figures in (
        (f"{options.jobs} waiters", single),
        (f"{options.waiters} waiters", await wait_for_jobs(setup, options.waiters, options.jobs)),
    ):
        requests, blocked, growth, seconds = figures
        print(
            f"  {name:<16}{requests:>8} requests, {show(blocked)}"
            f"{growth / 2**20:>8.1f} MiB growth{seconds:>8.1f} s"
        )
    _, before = setup.report()
    used = setup.allocated_blocks()
    await read_event_streams(setup, options.streams, options.jobs)
    _, warm = setup.report()
    left = setup.allocated_blocks() / used - 1
    blocked, after, watcher = await read_event_streams(setup, options.streams, options.jobs)
    print(
        f"  {options.streams} streams   {before / 2**20:.1f} MiB before, {warm / 2**20:.1f} "
        f"after, {after / 2**20:.1f} after a second round (at start: {fresh / 2**20:.1f}); blocks "
        f"{left:+.1%}; remaining: {watcher['subscribers']} subscribers, {watcher['watched']} jobs; "
        f"{show(blocked)}"
    )
    growth, rate = await stream_slowly(setup, options.bytes, options.rate)
    verdict = "" if growth < MAX_GROWTH else "  TOO MUCH"
    print(
        f"  {options.bytes / 1e9:.2f} GB at {rate / 1e6:.0f} MB/s: {growth / 2**20:.1f} MiB growth"
        f"{verdict}; {show(setup.report()[0])}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["aiohttp", "fastapi"], action="append")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], action="append")
    parser.add_argument("--waiters", type=int, default=WAITERS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--rate", type=float, default=100e6, help="bytes per second of the client")
    options = parser.parse_args()
    for kind in options.kind or ["fastapi", "aiohttp"]:
        for loop in options.loop or ["asyncio", "uvloop"]:
            print(f"{kind} on {loop}")
            with process(emulate) as emulator:
                base_url = emulator.recv()
                with process(serve, kind, loop, base_url) as server:
                    asyncio.run(measure(Setup(emulator, server), options))


if __name__ == "__main__":
    main()
