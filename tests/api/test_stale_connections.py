"""Connections that the server closes when they are used again, over real sockets."""

import asyncio
import json
import socket
import struct
from random import Random

import aiohttp
import pytest
from loopback import LoopbackServer

from adepoll import AdeClient, JobWatcher, RetryPolicy, TransportError
from adepoll.api.job_kind import JobRef
from adepoll.watching.turns import Semaphore

ONCE = RetryPolicy(attempts=1)  # no retry hides a failure
JOB = {"job_id": "j-1", "status": "completed", "received_at": 1_780_000_000, "progress": 1}
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def closed(writer):
    writer.close()


def reset(writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def closed_in_a_response(writer):
    writer.write(b"HTTP/1.1 200")
    writer.close()


class ClosingServer(LoopbackServer):
    """Answers some requests on each connection, and ends the connection when the next one arrives.

    Attributes:
        answers: Number of answers on each connection.
        end: Ends a connection.
        copies: Number of times that each answer is sent.
        together: Number of requests that must have arrived before the first answers.
        requests: The connection of each request, as a number counted from 0.
    """

    def __init__(self, *, answers=1, end=closed, copies=1, together=1):
        super().__init__()
        self.answers = answers
        self.end = end
        self.copies = copies
        self.requests = []
        self._together = asyncio.Barrier(together)

    def client(self, **options):
        return AdeClient("key", base_url=self.origin, retry=ONCE, rng=Random(1), **options)

    async def serve(self, reader, writer):
        number = self.connections - 1
        for _ in range(self.answers):
            await self._answer(await reader.readuntil(b"\r\n\r\n"), number, writer)
        await reader.readuntil(b"\r\n\r\n")
        self.requests.append(number)
        self.end(writer)

    async def _answer(self, request, number, writer):
        self.requests.append(number)
        if len(self.requests) <= self._together.parties:
            await self._together.wait()
        target = request.split(b" ", 2)[1].decode()
        job_id = target.rpartition("/")[2]
        body = {"jobs": [], "has_more": False} if "?" in target else {**JOB, "job_id": job_id}
        content = json.dumps(body).encode()
        for _ in range(self.copies):
            writer.write(REPLY % len(content) + content)
            await read_everything()


async def read_everything(rounds=50):
    """Let the loop read all bytes that have been sent on its connections."""
    for _ in range(rounds):
        await asyncio.sleep(0.001)


async def get_job(client):
    assert (await client.get_job("j-1")).job_id == "j-1"


async def list_page(client):
    assert (await client.list_jobs()).jobs == ()


async def open_answer(client):
    async with client.open_answer(JobRef("j-1"), {}) as response:
        assert response.status == 200
        await response.read()


async def poll(client):
    assert (await client.for_polling(Semaphore(1)).get_job("j-1")).job_id == "j-1"


async def request_page_of_a_sweep(client):
    assert (await client.for_polling(Semaphore(1)).list_jobs()).jobs == ()


@pytest.mark.parametrize("end", [closed, reset])
@pytest.mark.parametrize("call", [get_job, list_page, open_answer, poll, request_page_of_a_sweep])
async def test_a_request_is_sent_once_more_on_a_new_connection(call, end):
    async with ClosingServer(answers=2, end=end) as server, server.client() as client:
        for _ in range(6):
            await call(client)
        stats = client.stats
    # A connection for a repeated request is not used again.
    assert server.requests == [0, 0, 0, 1, 2, 2, 2, 3]
    assert (stats.requests, stats.retries, stats.failures) == (8, 2, 2)
    assert (stats.failures_in_a_row, stats.last_failure) == (0, None)


async def test_the_request_is_not_sent_again_on_another_idle_connection():
    """All idle connections can be stale, for example after a restart of a load balancer."""
    async with ClosingServer(together=4) as server, server.client() as client:
        await asyncio.gather(*[get_job(client) for _ in range(4)])
        assert sorted(server.requests) == [0, 1, 2, 3]
        for _ in range(4):
            await get_job(client)
        assert client.stats.requests == len(server.requests) == 4 + 2 * 4


async def test_in_a_session_of_the_caller_aiohttp_repeats_the_request():
    async with (
        ClosingServer() as server,
        aiohttp.ClientSession() as session,
        server.client(session=session) as client,
    ):
        for _ in range(2):
            await get_job(client)
        assert server.requests == [0, 0, 1]
        assert (client.stats.requests, client.stats.failures) == (2, 0)


async def test_a_watch_does_not_poll_a_job_later_because_of_stale_connections():
    ids = [f"j-{number}" for number in range(8)]
    async with ClosingServer() as server, server.client() as client:
        async with JobWatcher(client, concurrency=1, discovery="get") as watcher:
            assert sorted([job.job_id async for job in watcher.watch(ids)]) == ids
            assert watcher.stats.polls == len(ids)
        assert client.stats.failures == 4


async def test_a_response_that_breaks_off_on_a_used_connection_is_a_failure():
    async with ClosingServer(end=closed_in_a_response) as server, server.client() as client:
        await get_job(client)
        with pytest.raises(TransportError):
            await get_job(client)
        assert server.requests == [0, 0]
        assert client.stats.failures_in_a_row == 1


async def test_a_server_that_closes_new_connections_too_is_a_failure():
    """Each call sends at most two requests, and the outage is noticed."""
    async with ClosingServer() as server, server.client() as client:
        await get_job(client)
        server.answers = 0
        with pytest.raises(TransportError):
            await get_job(client)
        assert server.requests == [0, 0, 1]
        for number in range(9):
            with pytest.raises(TransportError):
                await client.get_job(f"job-{number}")
        assert client.stats.requests == len(server.requests) == 3 + 9
        assert client.stats.is_outage


async def test_an_answer_to_no_request_is_not_the_answer_to_the_next_one():
    """A server or load balancer can answer one request twice (RFC 9112, section 9.2)."""
    async with ClosingServer(answers=3, copies=2) as server, server.client() as client:
        for job_id in ("j-1", "j-2", "j-3"):
            assert (await client.get_job(job_id)).job_id == job_id
            await read_everything(200)  # longer than the server waits before the second answer
        assert server.requests == [0, 1, 2]
        assert client.stats.failures == 0
