"""Compares the requests per second of the emulator on one core with a minimal aiohttp server.

Server and client are separate processes. On a machine with several cores, each has its own core.
The main figure is requests per second of the server's CPU time. It does not depend on the client.
"""

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from aiohttp import web

from adepoll.emulator import Emulator, JobPlan

JOBS = 20_000
REQUESTS = 20_000
CONNECTIONS = 32
ROUNDS = 3
KEY = "bench-key"

Serve = Callable[[Connection], Awaitable[None]]


async def serve_hello(control: Connection) -> None:
    """Run a minimal aiohttp server, which answers each request with "hello"."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/{anything:.*}", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await tell_cpu(control, runner.addresses[0][1], ["hello"])
    await runner.cleanup()


async def serve_emulator(control: Connection) -> None:
    """Run an emulator: 20,000 of its jobs are active, 1,000 have completed with a small result."""
    async with Emulator(api_key=KEY) as ade:
        live = [ade.submit(JobPlan(processing_time=3600)) for _ in range(JOBS)]
        done = [ade.submit(JobPlan(result_bytes=4_000)) for _ in range(1_000)]
        port = int(ade.base_url.rpartition(":")[2])
        await tell_cpu(control, port, live, done)


async def tell_cpu(control: Connection, port: int, *ids: list[str]) -> None:
    """Send the port and the job ids, then the CPU time of this process for each request "cpu"."""
    control.send((port, ids))
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def answer() -> None:
        if control.recv() == "cpu":
            control.send(time.process_time())
        elif not over.done():
            over.set_result(None)

    loop.add_reader(control.fileno(), answer)
    await over
    loop.remove_reader(control.fileno())


def pin(core: int) -> None:
    """Keep this process on one core, if the machine has several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def run_server(serve: Serve, control: Connection) -> None:
    """Run the server; the main function of its process."""
    pin(0)
    asyncio.run(serve(control))


@contextmanager
def served(serve: Serve) -> Iterator[tuple[int, list[list[str]], Callable[[], float]]]:
    """Run a server in a separate process; yield port, job ids, and a function for CPU seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_server, args=(serve, theirs))
    process.start()

    def cpu() -> float:
        ours.send("cpu")
        return float(ours.recv())

    try:
        port, ids = ours.recv()
        yield port, ids, cpu
    finally:
        ours.send("end")
        process.join()


class Asker(asyncio.Protocol):
    """One connection that sends one request after the other, with little work in Python."""

    def __init__(self, paths: Iterator[str], done: asyncio.Future[None]) -> None:
        self._paths = paths
        self._done = done
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        path = next(self._paths, None)
        if path is None:
            self._transport.close()
            self._done.set_result(None)
            return
        head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        self._transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        if not self._left:
            head, _, body = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left = int(length) - len(body)
        else:
            self._left -= len(data)
        if not self._left:
            self._ask()


async def ask(port: int, paths: list[str]) -> float:
    """Request all paths over `CONNECTIONS` connections; return the seconds that this took."""
    loop = asyncio.get_running_loop()
    queue = iter(paths)
    ended = [loop.create_future() for _ in range(CONNECTIONS)]
    began = loop.time()
    for done in ended:
        await loop.create_connection(lambda done=done: Asker(queue, done), "127.0.0.1", port)
    await asyncio.gather(*ended)
    return loop.time() - began


def measure(port: int, cpu: Callable[[], float], paths: list[str]) -> tuple[float, float]:
    """Return requests per CPU second of the server, and per second; the best of `ROUNDS`."""
    best = (0.0, 0.0)
    for _ in range(ROUNDS):
        before = cpu()
        seconds = asyncio.run(ask(port, paths))
        best = max(best, (len(paths) / (cpu() - before), len(paths) / seconds))
    return best


def main() -> None:
    """Print the table."""
    pin(1)
    jobs = "/v1/ade/extract/jobs"
    rows = []
    with served(serve_hello) as (port, _, cpu):
        rows.append(("aiohttp, hello", *measure(port, cpu, ["/hello"] * REQUESTS)))
    with served(serve_emulator) as (port, (live, done), cpu):
        rows.append(
            ("GET, processing", *measure(port, cpu, [f"{jobs}/{i}" for i in live[:REQUESTS]]))
        )
        rows.append(
            ("GET, completed, 4 kB", *measure(port, cpu, [f"{jobs}/{i}" for i in done] * 10))
        )
        pages = [f"{jobs}?page={page % 200}&pageSize=100&status=processing" for page in range(2000)]
        rows.append(("list, 100 of 20,000", *measure(port, cpu, pages)))
    hello = rows[0][1]
    print(f"{'request':<22}{'per CPU second':>16}{'per second':>14}{'/ hello':>10}")
    for name, per_cpu, per_second in rows:
        print(f"{name:<22}{per_cpu:>16,.0f}{per_second:>14,.0f}{per_cpu / hello:>10.2f}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
