"""Decoders of whole HTTP responses, from the socket on, in addition to those of `decoders`."""

import asyncio

from decoders import check_error, entry
from loopback import LoopbackServer

from adepoll import AdeClient, ResultFetcher, RetryPolicy
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.errors import AdePollError, RequestError

ONCE = RetryPolicy(attempts=1, base=0.001, max_wait=0.001)


class Answering(LoopbackServer):
    """A server that answers every request with the same bytes, and closes the connection."""

    def __init__(self, body):
        super().__init__()
        self._body = body

    async def serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._body)
        await writer.drain()


async def answered(body, call):
    """Call a function with the origin of a server that sends these bytes."""
    async with Answering(body) as server:
        return await call(server.origin)


@entry("http-response", RequestError, calls=20_000)
def check_http_response(body):
    async def poll(origin):
        async with AdeClient("canary-key", base_url=origin, retry=ONCE, timeout=5) as client:
            return await client.get_job("j")

    try:
        job = asyncio.run(answered(body, poll))
    except RequestError as error:
        check_error(error, "canary")
        raise
    assert job.job_id == "j"


@entry("http-result", AdePollError, calls=20_000)
def check_http_result(body):
    async def fetch(origin):
        job = JobSnapshot(
            job_id="j",
            status=JobStatus.COMPLETED,
            status_text="completed",
            output_url=f"{origin}/result?sig=canary-signature",
        )
        async with (
            AdeClient("key", base_url=origin, retry=ONCE, timeout=5) as client,
            ResultFetcher(client, allow_private=True, patience=0) as fetcher,
            fetcher.stream(job) as chunks,
        ):
            async for chunk in chunks:
                assert chunk

    try:
        asyncio.run(answered(body, fetch))
    except AdePollError as error:
        check_error(error, "canary-signature")
        raise
