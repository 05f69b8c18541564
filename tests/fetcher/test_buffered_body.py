"""The rest of a long body is read in blocks, on each event loop, with and without TLS."""

import asyncio
import contextlib
import datetime as dt
import gc
import ipaddress
import random
import ssl
import weakref

import aiohttp
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rawstorage import LONG
from waiting import until

from adepoll.errors import ClosedError, ResultTransferError
from adepoll.fetcher import buffered_body, responses, segments

MIB = 2**20
BODY = b'{"text":"' + random.Random(1).randbytes(10 * MIB).hex().encode() + b'"}'
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def read_all(body, chunks):
    while chunk := await body.read():
        chunks.append(chunk)


@pytest.fixture(params=LOOPS)
def run(request):
    """Return a function that runs a coroutine on one kind of loop; no task may be left."""

    def to_end(coroutine):
        async def main():
            await coroutine
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return to_end


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Create a certificate for loopback; return the file with it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "loopback.pem"
    encoding = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding, form, plain) + made.public_bytes(encoding))
    return path


class Served:
    """A server that sends the response headers, and then calls `then` with the writer."""

    def __init__(self, then, certificate=None):
        self._then = then
        self._certificate = certificate
        self.ended = 0

    async def __aenter__(self):
        context = None
        if self._certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._certificate)
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        await until(lambda: self.ended, pause=0)

    async def _answer(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        try:
            await self._then(writer)
            if not writer.transport.is_closing():
                await reader.read()  # until the client disconnects
        finally:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()
                await writer.wait_closed()
            self.ended += 1


@contextlib.asynccontextmanager
async def taken_over(then, *, certificate=None, silence=10.0):
    """Request the body and take it over; yield the received chunks, and the rest of the body."""
    trust = certificate and ssl.create_default_context(cafile=certificate)
    scheme = "http" if certificate is None else "https"
    async with (
        Served(then, certificate) as server,
        aiohttp.ClientSession() as session,
        session.get(f"{scheme}://127.0.0.1:{server.port}/", ssl=trust or True) as response,
    ):
        received, body = buffered_body.take_over(response, silence=silence)
        yield received, body
        assert response.content.total_bytes <= len(BODY)


async def all_of(writer):
    writer.write(BODY)
    await writer.drain()


@pytest.mark.parametrize("tls", [False, True])
def test_the_rest_of_a_body_arrives_unchanged(run, tls, request):
    certificate = request.getfixturevalue("certificate") if tls else None

    async def main():
        async with taken_over(all_of, certificate=certificate) as (received, body):
            chunks = [*received]
            await read_all(body, chunks)
            assert b"".join(chunks) == BODY
            assert len(chunks) - len(received) <= len(BODY) // MIB + 8
            assert await body.read() == b""

    run(main())


def test_bytes_buffered_by_aiohttp_are_not_lost(run):
    async def main():
        async with Served(all_of) as server, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{server.port}/"
            async with session.get(url, read_bufsize=2**12) as response:
                first = await response.content.readexactly(100_000)
                await until(lambda: response.content.total_bytes > 100_000, pause=0)
                received, body = buffered_body.take_over(response, silence=10)
                chunks = [first, *received]
                await read_all(body, chunks)
                assert b"".join(chunks) == BODY

    run(main())


def test_reading_from_the_socket_pauses_until_blocks_are_read(run):
    async def main():
        async with taken_over(all_of) as (received, body):
            await until(lambda: body._paused, pause=0)
            ahead = body._response.content.total_bytes - sum(map(len, received))
            assert ahead <= buffered_body._MAX_FULL_BLOCKS * buffered_body.BLOCK_BYTES + MIB
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert body._response.content.total_bytes - sum(map(len, received)) == ahead

    run(main())


def test_full_blocks_are_read_although_the_connection_was_closed_meanwhile(run):
    async def read_all(body):
        while await body.read():
            pass

    async def main():
        async with taken_over(all_of) as (_, body):
            await until(lambda: body._paused, pause=0)
            body._transport.close()
            await until(lambda: body._transport is None, pause=0)
            assert await body.read()
            with pytest.raises(aiohttp.ClientPayloadError):
                await read_all(body)

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_bytes_before_a_broken_connection_are_read_before_the_error(run, how):
    async def breaking(writer):
        writer.write(BODY[: 3 * MIB + 5])
        await writer.drain()
        if how == "abort":
            writer.transport.abort()
        else:
            writer.close()

    async def main():
        async with taken_over(breaking) as (received, body):
            chunks = [*received]
            with pytest.raises(aiohttp.ClientPayloadError):
                await read_all(body, chunks)
            got = b"".join(chunks)
            assert BODY.startswith(got)
            assert how == "abort" or len(got) == 3 * MIB + 5

    run(main())


def test_slow_bytes_are_read_and_silence_raises(run):
    async def trickling(writer):
        writer.write(BODY[:1_000])
        await writer.drain()

    async def main():
        async with taken_over(trickling, silence=0.2) as (received, body):
            chunks = [*received]
            with pytest.raises(TimeoutError):
                await read_all(body, chunks)
            assert b"".join(chunks) == BODY[:1_000]

    run(main())


def test_full_blocks_and_the_last_bytes_are_read_immediately(run, monkeypatch):
    monkeypatch.setattr(buffered_body, "_MAX_FILL_TIME", 3_600.0)

    async def main():
        async with taken_over(all_of, silence=3_600.0) as (received, body):
            chunks = [*received]
            async with asyncio.timeout(60):
                await read_all(body, chunks)
            assert b"".join(chunks) == BODY

    run(main())


def test_a_partly_filled_block_is_read_before_the_timeout(run):
    more = asyncio.Event()

    async def in_two(writer):
        writer.write(BODY[:1_000])
        await writer.drain()
        await more.wait()
        writer.write(BODY[1_000:2_000])
        await writer.drain()

    async def main():
        async with taken_over(in_two, silence=3_600.0) as (received, body):
            count = sum(map(len, received))
            more.set()
            async with asyncio.timeout(60):
                while count < 2_000:
                    count += len(await body.read())

    run(main())


def test_a_cancelled_reader_leaves_nothing_behind(run):
    async def nothing(writer):
        await writer.drain()

    async def main():
        async with taken_over(nothing) as (_, body):
            reading = asyncio.create_task(body.read())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert body._waiter is None

    run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_leaving_in_the_middle_closes_the_connection(run, tls, request):
    certificate = request.getfixturevalue("certificate") if tls else None

    async def main():
        async with taken_over(all_of, certificate=certificate) as (_, body):
            await until(lambda: body._paused, pause=0)
        await until(lambda: body._transport is None, pause=0)

    run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_closing_the_response_wakes_its_reader_immediately(run, tls, request):
    certificate = request.getfixturevalue("certificate") if tls else None

    async def nothing(writer):
        await writer.drain()

    async def main():
        async with taken_over(nothing, certificate=certificate, silence=600) as (_, body):
            reading = asyncio.create_task(body.read())
            await asyncio.sleep(0)
            body._response.close()
            await until(reading.done, pause=0)
            with pytest.raises(aiohttp.ClientPayloadError):
                await reading

    run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_memory_is_freed_without_the_garbage_collector(run, tls, request):
    certificate = request.getfixturevalue("certificate") if tls else None

    async def main():
        async with taken_over(all_of, certificate=certificate) as (_, body):
            await read_all(body, [])
            blocks = weakref.ref(body._pool)
            del body
        await until(lambda: blocks() is None, pause=0)

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


async def test_a_broken_body_stays_with_aiohttp(bucket, result_body):
    bucket.body = result_body(32 * MIB)
    bucket.answers = [bucket.give(2**17, then="close")]
    async with aiohttp.ClientSession() as session, session.get(bucket.url()) as response:
        await until(lambda: response.content.exception() is not None, pause=0)
        assert buffered_body.take_over(response, silence=1) == ([], None)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_short_body_stays_with_aiohttp(storage):
    storage.answers = [storage.reply(b"x" * 1_000)]
    async with aiohttp.ClientSession() as session, session.get(storage.url()) as response:
        assert buffered_body.take_over(response, silence=1) == ([], None)
        assert await response.read() == b"x" * 1_000


async def test_a_body_of_unknown_length_stays_with_aiohttp(storage):
    storage.answers = [storage.reply(b"x" * 1_000, length=None)]
    async with aiohttp.ClientSession() as session, session.get(storage.url()) as response:
        assert buffered_body.take_over(response, silence=1) == ([], None)
        assert await response.read() == b"x" * 1_000


def test_a_block_is_reused_only_when_nothing_refers_to_it():
    blocks = buffered_body.BlockPool()
    first, second = blocks.take(), blocks.take()
    assert first.obj is not second.obj
    held = id(first.obj)
    del first
    third = blocks.take()
    assert id(third.obj) == held
    fourth = blocks.take()
    assert fourth.obj is not second.obj
    assert fourth.obj is not third.obj


# --- In a download ------------------------------------------------------------------------------


@pytest.fixture
def taken(monkeypatch):
    """Make every connection count as very fast; return the list of bodies read in blocks."""
    bodies = []
    monkeypatch.setattr(segments, "_FAST", 0.0)
    monkeypatch.setattr(segments, "_SECONDS_PER_SEGMENT", 1e9)

    def spy(response, **options):
        received, body = buffered_body.take_over(response, **options)
        if body is not None:
            bodies.append(body)
        return received, body

    monkeypatch.setattr(responses, "take_over", spy)
    return bodies


@pytest.fixture
def large(bucket, result_body):
    """The object in the bucket: the first segment, and one more that is read in blocks."""
    bucket.body = result_body(60 * MIB)
    return bucket.body


async def test_a_fast_download_takes_over_its_connections(
    bucket, large, fetch, stored, tmp_path, taken
):
    fetcher = fetch(connections=1)
    report = await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == large
    assert report.bytes == len(large) == fetcher.stats.bytes_received
    assert report.resumed == 0
    assert taken


async def test_all_responses_of_a_download_share_their_memory(
    bucket, large, fetch, stored, tmp_path, taken, monkeypatch
):
    pools, real = [], responses.take_over

    def spy(response, **options):
        pools.append(options["blocks"])
        return real(response, **options)

    monkeypatch.setattr(responses, "take_over", spy)
    bucket.answers = [bucket.give(), bucket.give(20 * MIB, then="close"), bucket.give()]
    await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert len(pools) >= 2
    assert all(pool is pools[0] for pool in pools)


async def test_a_download_resumes_where_a_body_read_in_blocks_broke(
    bucket, large, fetch, stored, tmp_path, taken
):
    bucket.answers = [bucket.give(), bucket.give(20 * MIB + 7, then="close"), bucket.give()]
    report = await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == large
    assert report.resumed == 1
    assert bucket.ranges[2][0] == 28 * MIB + 7


async def test_closing_the_fetcher_ends_a_download_read_in_blocks(
    bucket, large, fetch, stored, tmp_path, taken
):
    bucket.answers = [bucket.give(), bucket.give(18 * MIB, then="hang")]
    fetcher = fetch(connections=1)
    download = asyncio.create_task(fetcher.download(stored(bucket.url()), tmp_path / "out"))
    await until(lambda: taken, pause=0)
    await fetcher.aclose()
    with pytest.raises(ClosedError):
        await download


async def test_silence_of_a_body_read_in_blocks_is_an_error(
    bucket, large, fetch, stored, tmp_path, taken, leap
):
    bucket.answers = [bucket.give(), bucket.give(MIB, then="hang", leap=leap)]
    fetcher = fetch(connections=1, attempts=1, read_timeout=LONG)
    with pytest.raises(ResultTransferError, match="stopped sending"):
        await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert taken
