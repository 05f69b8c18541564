"""Measures the memory per watched id, and how soon a watch of many ids sends its first request.

Each figure is measured in a separate process. Memory is measured in two ways: as the allocations of
Python (tracemalloc), and as the growth of the resident memory of the process (RSS). The list with
the ids exists before the measurement, so it is not included.
"""

import argparse
import asyncio
import gc
import multiprocessing
import time
import tracemalloc
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import uvloop
from emulator import pin
from throughput import KEY, Answers, processing

from adepoll import AdeClient, JobPage, JobSnapshot, JobStatus, JobWatcher

WATCHED = 1_000_000
STARTED = 100_000
MOST_BYTES = 600
MOST_MS = 100
ROUNDS = 5
SEED = 20


class Silent:
    """A source that never answers."""

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Wait forever."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError(job_id)

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """Wait forever."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError(page, page_size, status)


def make_ids(count: int) -> list[str]:
    """Return `count` ids in the form of the service."""
    rng = Random(SEED)
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def allocated() -> int:
    """Return the bytes that Python has allocated since the start of tracemalloc."""
    return tracemalloc.get_traced_memory()[0]


async def grow(job_ids: list[str], size: Callable[[], int]) -> float:
    """Watch until the watch has read all ids; return the growth of `size()` in bytes per id."""
    gc.collect()
    before = size()
    async with JobWatcher(Silent()) as watcher, watcher.watch(job_ids) as watch:
        while not watch.progress.complete:  # noqa: ASYNC110 - the watch has no event for it
            await asyncio.sleep(0.1)
        gc.collect()
        return (size() - before) / watch.progress.open


def count_resident(tell: Connection, count: int) -> None:
    """Send the bytes per id, measured by the size of the process. Runs in a separate process."""
    tell.send(asyncio.run(grow(make_ids(count), resident)))


def count_allocated(tell: Connection, count: int) -> None:
    """Send the bytes per id, measured by Python's allocations. Runs in a separate process."""
    ids = make_ids(count)
    tracemalloc.start()
    tell.send(asyncio.run(grow(ids, allocated)))


class Stamp(Answers):
    """A connection of the server; records the time of the first request of all connections."""

    first: "asyncio.Future[float]"

    def data_received(self, data: bytes) -> None:
        if not self.first.done():
            self.first.set_result(time.monotonic())
        super().data_received(data)


def stamp_first(tell: Connection) -> None:
    """Run a server; send its port, then the time of the first request, in a separate process."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        Stamp.first = loop.create_future()
        server = await loop.create_server(lambda: Stamp(processing), "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        tell.send(await Stamp.first)
        await loop.run_in_executor(None, tell.recv)

    pin(0)
    uvloop.run(serve())


async def start(port: int, job_ids: list[str], first_request: Connection) -> float:
    """Watch the ids; return the seconds until the server got the first request."""
    async with (
        AdeClient(KEY, base_url=f"http://127.0.0.1:{port}") as client,
        JobWatcher(client) as watcher,
    ):
        began = time.monotonic()
        async with watcher.watch(job_ids):
            while not first_request.poll():  # noqa: ASYNC110 - a pipe has no event
                await asyncio.sleep(0.001)
            return float(first_request.recv()) - began


def in_process(work: Callable[..., None], *arguments: object) -> float:
    """Run a function in a separate process; return the number that it sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments))
    process.start()
    number = float(ours.recv())
    process.join()
    return number


def measure_start(job_ids: list[str]) -> float:
    """Return the seconds until a new server gets the first request of a new client."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=stamp_first, args=(theirs,))
    process.start()
    try:
        return asyncio.run(start(ours.recv(), job_ids, ours))
    finally:
        ours.send("end")
        process.join()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=WATCHED, help="ids for the memory figures")
    count = parser.parse_args().ids
    print(f"{'figure':<52}{'measured':>12}{'goal':>12}")
    for name, work in (("tracemalloc", count_allocated), ("RSS", count_resident)):
        each = in_process(work, count)
        what = f"bytes per id without its string, {count:,} ids, {name}"
        print(f"{what:<52}{each:>12.0f}{f'<= {MOST_BYTES}':>12}")
    pin(1)
    ids = make_ids(STARTED)
    times = sorted(measure_start(ids) * 1e3 for _ in range(ROUNDS))
    what = f"ms to the first request, {STARTED:,} ids, {ROUNDS} runs:"
    print(f"{what + ' best':<52}{times[0]:>12.1f}{f'<= {MOST_MS}':>12}")
    print(f"{what + ' worst':<52}{times[-1]:>12.1f}{f'<= {MOST_MS}':>12}")


if __name__ == "__main__":
    main()
