"""Compares the cost of a poll with a bare aiohttp loop, and with both backends of the official SDK.

The server is a separate process that sends prepared bytes, much faster than any client. On a
machine with several cores, server and client have one core each. The main figure is the number of
requests per second of the client's CPU time, which is the rate that the client reaches on one busy
core. The compared clients take short turns, because the speed of a machine changes over time. The
figure of a client is the median of its rounds. A ratio is the median of the ratios in each round.
"""

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from email.utils import formatdate
from multiprocessing.connection import Connection
from operator import truediv
from random import Random

import aiohttp
import uvloop
from attrs import evolve, frozen
from emulator import pin
from landingai_ade import AsyncLandingAIADE, DefaultAioHttpClient

from adepoll import AdeClient, Fixed, JobWatcher

KEY = "bench-key"
CONCURRENCY = 64
POLLS_PER_JOB = 8  # number of polls of each active job in a round
ROUNDS = 24
JOBS = "/v1/ade/extract/jobs"
SEED = 20

Ask = Callable[[str], Awaitable[object]]
Work = Callable[[int], Awaitable[int]]  # sends about that many requests; returns the exact number
Peer = Callable[[str, list[str]], AbstractAsyncContextManager[Work]]


# --- the server ---------------------------------------------------------------------------------

METADATA = {
    "filename": "invoice-0042.pdf",
    "org_id": "org-7f3a",
    "duration_ms": 8_412,
    "credit_usage": 3.0,
    "version": "extract-20260314",
}
EXTRACTION = {"number": "2026-0042", "total": 1_204.5, "currency": "EUR", "paid": False}


def processing(job_id: str) -> dict[str, object]:
    """Return the answer about an active job."""
    return {
        "job_id": job_id,
        "status": "processing",
        "received_at": 1_772_000_000,
        "progress": 0.0,
        "created_at": 1_772_000_000,
        "org_id": "org-7f3a",
        "version": None,
        "data": None,
        "output_url": None,
        "metadata": None,
        "failure_reason": None,
    }


def completed(job_id: str) -> dict[str, object]:
    """Return the answer about a completed job; the whole answer has about 1 kB."""
    metadata = {**METADATA, "job_id": job_id}
    chunks = {name: {"chunk_references": [str(uuid.UUID(int=7))]} for name in EXTRACTION}
    data = {"extraction": EXTRACTION, "extraction_metadata": chunks, "metadata": metadata}
    ended = {"status": "completed", "progress": 1.0, "version": METADATA["version"]}
    return {**processing(job_id), **ended, "data": data, "metadata": metadata}


def completed_small(job_id: str) -> dict[str, object]:
    """Return the answer about a completed job; the whole answer has about 600 bytes."""
    job = completed(job_id)
    data = {"extraction": {"total": 1_204.5}, "metadata": job["metadata"]}
    return {**job, "data": data}


ANSWERS = {
    "processing": processing,
    "completed, 600 B": completed_small,
    "completed, 1 kB": completed,
}


class Answers(asyncio.Protocol):
    """One connection: inserts the job id of each request into a prepared answer, and sends it."""

    def __init__(self, make: Callable[[str], dict[str, object]]) -> None:
        mark = "f" * 36
        self._body = json.dumps(make(mark), separators=(",", ":")).encode()
        self._parts = self._body.split(mark.encode())
        self._made_at = -math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        # Each call has one whole request: no client sends a request before the previous answer.
        job_id = data[data.index(JOBS.encode()) + len(JOBS) + 1 :][:36]
        now = time.time()
        if now - self._made_at >= 1:
            self._made_at = math.floor(now)
            self._head = (
                f"HTTP/1.1 200 OK\r\nDate: {formatdate(now, usegmt=True)}\r\nServer: uvicorn\r\n"
                f"Content-Length: {len(self._body)}\r\nContent-Type: application/json\r\n\r\n"
            ).encode()
        self._write(self._head + job_id.join(self._parts))


def run_server(make: Callable[[str], dict[str, object]], control: Connection) -> None:
    """Run the server; the main function of its process."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answers(make), "127.0.0.1", 0)
        control.send(server.sockets[0].getsockname()[1])
        await loop.run_in_executor(None, control.recv)

    pin(0)
    uvloop.run(serve())


@contextmanager
def served(make: Callable[[str], dict[str, object]]) -> Iterator[str]:
    """Run a server in a separate process; yield its base URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_server, args=(make, theirs))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        ours.send("end")
        process.join()


# --- the peers ----------------------------------------------------------------------------------


def in_tasks(ask: Ask, job_ids: list[str]) -> Work:
    """Return a function that polls the jobs in `CONCURRENCY` tasks, each job once."""

    async def work(requests: int) -> int:
        ids = iter(job_ids[:requests])

        async def one() -> None:
            for job_id in ids:
                await ask(job_id)

        await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
        return requests

    return work


@asynccontextmanager
async def bare(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Poll with aiohttp alone, as a simple program does."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(job_id: str) -> object:
            async with session.get(f"{base_url}{JOBS}/{job_id}") as answer:
                return json.loads(await answer.read())

        yield in_tasks(ask, job_ids)


@asynccontextmanager
async def sdk_httpx(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Poll with the official SDK and its default backend, httpx."""
    async with AsyncLandingAIADE(apikey=KEY, base_url=base_url) as sdk:
        yield in_tasks(sdk.extract_jobs.get, job_ids)


@asynccontextmanager
async def sdk_aiohttp(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Poll with the official SDK and its backend aiohttp."""
    async with AsyncLandingAIADE(
        apikey=KEY, base_url=base_url, http_client=DefaultAioHttpClient()
    ) as sdk:
        yield in_tasks(sdk.extract_jobs.get, job_ids)


@asynccontextmanager
async def client(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Poll with `AdeClient.get_job`, without a watcher."""
    async with AdeClient(KEY, base_url=base_url) as ade:
        yield in_tasks(ade.get_job, job_ids)


@asynccontextmanager
async def watcher(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Poll with a watcher that always has due jobs.

    An active job is polled several times, and a settled job once.
    """
    async with (
        AdeClient(KEY, base_url=base_url) as ade,
        JobWatcher(ade, concurrency=CONCURRENCY, schedule=Fixed(interval=0.001)) as all_of,
    ):

        async def settle(requests: int) -> int:
            before = ade.stats.requests
            async for _ in all_of.watch(job_ids[:requests]):
                pass
            return ade.stats.requests - before

        async def keep_polling(requests: int) -> int:
            before = ade.stats.requests
            while ade.stats.requests < before + requests:  # noqa: ASYNC110 - the client has no event for it
                await asyncio.sleep(0.005)
            return ade.stats.requests - before

        if (await ade.get_job(job_ids[0])).is_terminal:
            yield settle
        else:
            async with all_of.watch(job_ids[: len(job_ids) // POLLS_PER_JOB]):
                yield keep_polling


@asynccontextmanager
async def watch(base_url: str, job_ids: list[str]) -> AsyncIterator[Work]:
    """Watch settled jobs with the default schedule, and without list sweeps."""
    async with (
        AdeClient(KEY, base_url=base_url) as ade,
        JobWatcher(ade, concurrency=CONCURRENCY, discovery="get") as all_of,
    ):

        async def settle(requests: int) -> int:
            return len([job.job_id async for job in all_of.watch(job_ids[:requests])])

        yield settle


PEERS: dict[str, Peer] = {
    "bare aiohttp": bare,
    "SDK, aiohttp": sdk_aiohttp,
    "SDK, httpx": sdk_httpx,
    "AdeClient alone": client,
    "whole JobWatcher": watcher,
}
FINISHED: dict[str, Peer] = {"bare aiohttp": bare, "JobWatcher.watch": watch}
FINISHED_JOBS = 12_000
# Minimum speed of adepoll relative to each client. 0.87 means at most 1.15 times the CPU time.
GOALS = {"bare aiohttp": 0.87, "SDK, aiohttp": 3.0, "SDK, httpx": 8.0}


# --- the table ----------------------------------------------------------------------------------


@frozen
class Options:
    """The options of the benchmark.

    Attributes:
        requests: Number of requests of a client in one round. The slow SDK sends a quarter of them.
        rounds: Number of rounds.
        only: Only clients whose names contain this text are measured.
    """

    requests: int
    rounds: int
    only: str


async def seconds_per_poll(peer: Peer, base_url: str, job_ids: list[str]) -> float:
    """Return the CPU seconds of one poll, without those for opening the connections."""
    async with peer(base_url, job_ids) as work:
        await work(2 * CONCURRENCY)
        gc.collect()  # so that this client does not pay for garbage of the previous one
        before = time.process_time()
        polls = await work(len(job_ids))
        return (time.process_time() - before) / polls


def measure(
    base_url: str,
    options: Options,
    run: Callable[..., float],
    peers: dict[str, Peer] = PEERS,
) -> dict[str, list[float]]:
    """Return the CPU seconds of one poll: for each client, one value per round."""
    rng = Random(SEED)
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(options.requests)]
    took: dict[str, list[float]] = {name: [] for name in peers if options.only in name}
    order = [*took]
    for _ in range(options.rounds):
        for name in order:
            share = ids[: len(ids) // (4 if name.startswith("SDK") else 1)]
            took[name].append(run(seconds_per_poll(peers[name], base_url, share)))
        order.reverse()  # so that no client always follows the same other client
    return took


def tell(answer: str, loop: str, took: dict[str, list[float]]) -> None:
    """Print the rows for one kind of answer and one kind of event loop."""
    for name, ours in took.items():
        seconds = statistics.median(ours)
        ratios = "".join(
            f"{statistics.median(map(truediv, took[peer], ours)):>16.2f}"
            if peer in took
            else f"{'-':>16}"
            for peer in GOALS
        )
        print(f"{answer:<17}{loop:<9}{name:<18}{1 / seconds:>10,.0f}{seconds * 1e6:>8.1f}{ratios}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="only clients with this text in their names")
    options = Options(**vars(parser.parse_args()))
    pin(1)
    peers = "".join(f"{'x ' + peer:>16}" for peer in GOALS)
    print(f"{'answer':<17}{'loop':<9}{'client':<18}{'req/CPU s':>10}{'us/poll':>8}{peers}")
    goals = "".join(f"{f'>= {goal}':>16}" for goal in GOALS.values())
    print(f"{'goal, asyncio':<62}{goals}")
    for answer, make in ANSWERS.items():
        with served(make) as base_url:
            for loop, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
                tell(answer, loop, measure(base_url, options, run))
    finished = evolve(options, requests=FINISHED_JOBS, rounds=max(options.rounds // 3, 1))
    with served(completed_small) as base_url:
        tell("12,000 of 600 B", "asyncio", measure(base_url, finished, asyncio.run, FINISHED))


if __name__ == "__main__":
    main()
