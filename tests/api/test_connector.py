"""Requests without an aiohttp session, over real sockets."""

import asyncio
import json

import aiohttp
import pytest
from loopback import LoopbackServer
from rawstorage import RawStorage
from waiting import bounded
from yarl import URL

from adepoll import AdeClient, RetryPolicy, UnexpectedStatusError
from adepoll.api.connector import Connector, DirectRequests
from adepoll.api.transport_errors import BrokenError, StaleConnectionError

KEY = "canary-key"
JOB = json.dumps({"job_id": "j-1", "status": "completed", "received_at": 0, "progress": 1}).encode()
REPLY = RawStorage.reply(JOB)


class Service(LoopbackServer):
    """Sends the given bytes for each request, and keeps the connection open.

    Attributes:
        replies: The bytes for each request; the last is repeated. None: nothing is sent.
        heads: The requests.
    """

    def __init__(self, *replies):
        super().__init__()
        self.replies = list(replies)
        self.heads = []
        self.arrived = asyncio.Semaphore(0)  # released for each request
        self.ended = asyncio.Semaphore(0)  # released when the client closes a connection

    def client(self, **options):
        return AdeClient(KEY, base_url=self.origin, retry=RetryPolicy(attempts=1), **options)

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                self.arrived.release()
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if reply is not None:
                    writer.write(reply)
        except asyncio.IncompleteReadError:
            self.ended.release()


async def test_a_request_has_these_bytes_and_no_others():
    page = RawStorage.reply(b'{"jobs": [], "has_more": false}')
    async with Service(REPLY, page) as service, service.client() as client:
        await client.get_job("j-1")
        await client.list_jobs(page_size=10)
        host = service.origin.removeprefix("http://").encode()
    first, second = service.heads
    line, *headers = first.split(b"\r\n")
    assert line == b"GET /v1/ade/extract/jobs/j-1 HTTP/1.1"
    assert headers.pop() == headers.pop() == b""
    agent = next(header for header in headers if header.startswith(b"User-Agent: adepoll/"))
    assert sorted(headers) == sorted(
        [
            b"Host: " + host,
            b"Authorization: Bearer " + KEY.encode(),
            b"Accept: application/json",
            b"Accept-Encoding: gzip, deflate",
            agent,
        ]
    )
    list_line, *list_headers = second.split(b"\r\n")
    assert list_line == b"GET /v1/ade/extract/jobs?page=0&pageSize=10 HTTP/1.1"
    assert list_headers[:-2] == headers
    assert service.connections == 1


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_the_final_response_follows_informational_ones(status):
    early = b"HTTP/1.1 %b\r\nLink: </a>\r\n\r\n" % status
    async with Service(early + early + REPLY) as service, service.client() as client:
        for _ in range(2):
            assert (await client.get_job("j-1")).is_terminal
    assert service.connections == 1


async def test_a_connection_with_another_protocol_is_not_used_again():
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with Service(switch, REPLY) as service, service.client() as client:
        with pytest.raises(UnexpectedStatusError, match="101"):
            await client.get_job("j-1")
        assert (await client.get_job("j-1")).is_terminal
    assert service.connections == 2


async def test_the_connection_of_a_cancelled_poll_is_closed():
    """Otherwise, its late answer would be taken for the answer to another request."""
    async with Service(None, REPLY) as service, service.client() as client:
        poll = asyncio.create_task(client.get_job("j-2"))
        async with bounded("for the request", 30):
            await service.arrived.acquire()
        poll.cancel()
        await asyncio.wait([poll])
        async with bounded("for the end of the connection", 30):
            await service.ended.acquire()
        assert (await client.get_job("j-1")).job_id == "j-1"
    assert service.connections == 2


async def test_an_incomplete_body_ends_with_the_client():
    """The body of the first answer never ends."""
    cut = RawStorage.reply(JOB, length=len(JOB) + 1)
    async with Service(cut) as service, service.client() as client:
        poll = asyncio.create_task(client.get_job("j-1"))
        async with bounded("for the request", 30):
            await service.arrived.acquire()
        await asyncio.sleep(0.01)  # the headers and the beginning of the body arrive
        await client.aclose()
        async with bounded("for the end of the call", 30):
            (error,) = await asyncio.gather(poll, return_exceptions=True)
            await service.ended.acquire()
    assert type(error).__name__ == "ClosedError"


class ClosingConnector(Connector):
    """A connector whose connections are already closing when they are used; `is_new` is fixed."""

    def __init__(self, *, is_new):
        super().__init__(ssl=True, resolver=None, force_close=False)
        self.is_new = is_new

    async def acquire(self, *args):
        connection, _ = await super().acquire(*args)
        connection.protocol.transport.close()
        return connection, self.is_new


@pytest.mark.parametrize(("is_new", "cls"), [(True, BrokenError), (False, StaleConnectionError)])
async def test_nothing_is_sent_on_a_closing_connection(is_new, cls):
    async with Service(REPLY) as service, ClosingConnector(is_new=is_new) as connector:
        requests = DirectRequests(URL(service.origin), {}, max_header_bytes=100, max_headers=9)
        with pytest.raises(BrokenError) as caught:
            await requests.get(connector, "/")
        async with bounded("for the end of the connection", 30):
            await service.ended.acquire()
    assert type(caught.value) is cls
    assert service.heads == []


async def test_a_library_that_adds_traces_to_each_session_sees_the_polls(monkeypatch):
    """This is how OpenTelemetry and Sentry observe aiohttp."""
    seen = []

    async def record(_session, _context, params):
        seen.append(params.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(record)
    init = aiohttp.ClientSession.__init__
    monkeypatch.setattr(
        aiohttp.ClientSession,
        "__init__",
        lambda self, **options: init(self, **options, trace_configs=[trace]),
    )
    async with Service(REPLY) as service, service.client() as client:
        await client.get_job("j-1")
    assert seen == ["/v1/ade/extract/jobs/j-1"]


async def test_a_library_that_replaces_requests_of_sessions_sees_the_polls(monkeypatch):
    """This is how libraries for tests return their own answers."""
    seen = []
    send = aiohttp.ClientSession._request

    async def record(self, method, url, **options):
        seen.append((method, url.path))
        return await send(self, method, url, **options)

    async with Service(REPLY) as service, service.client() as client:
        await client.get_job("j-1")
        with monkeypatch.context() as patch:
            patch.setattr(aiohttp.ClientSession, "_request", record)
            await client.get_job("j-1")
        await client.get_job("j-1")
    assert seen == [("GET", "/v1/ade/extract/jobs/j-1")]
    assert len(service.heads) == 3
