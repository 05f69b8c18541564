"""A GET and its redirects: each hop is checked, and receives no more than the first."""

import asyncio
import gc
import time
import weakref
from types import SimpleNamespace

import aiohttp
import pytest
from internals import responses_read
from yarl import URL

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.errors import (
    ResultExpiredError,
    ResultForbiddenError,
    ResultRefusedError,
    ResultTransferError,
    ResultUrlError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.ssrf_guard import SsrfGuard
from adepoll.fetcher.statistics import Counters
from adepoll.fetcher.storage_client import StorageClient, redirect_url
from adepoll.fetcher.storage_rules import ObjectVersion, Range
from adepoll.fetcher.stored_result import PresignedUrl
from adepoll.throttling.waiting_times import RetryPolicy

KEY = "canary-key-0123456789abcdef"
TOKEN = "canarytoken0123456789abcdef"
BODY = b'{"extraction":"' + bytes(range(48, 91)) * 20 + b'"}'
STATUSES = pytest.mark.parametrize("status", [301, 302, 303, 307, 308])


@pytest.fixture
async def fetcher():
    """A fetcher whose client has the canary key, and one attempt."""
    retry = RetryPolicy(attempts=1, base=0.001, max_wait=0.001)
    async with (
        AdeClient(KEY, base_url="http://127.0.0.1:9", retry=retry) as client,
        ResultFetcher(client, patience=0) as running,
    ):
        yield running


async def test_the_service_is_asked_once_for_a_url_that_it_does_not_renew(answering, stored):
    job = stored("https://h/a")
    client = answering(job)
    url = PresignedUrl(client, JobRef("job-1"), job, None, Counters())
    expired = ResultExpiredError(job_id="job-1", status=403, detail="", url=await url.current())
    for _ in range(2):
        with pytest.raises(ResultExpiredError):
            await url.renew(expired.url, expired)
    assert client.asked == ["job-1"]


async def test_a_second_response_to_one_request_is_not_the_next_result(fetcher, stored, storage):
    """A server or load balancer can answer one request twice (RFC 9112, section 9.2)."""

    async def send_twice(_reader, writer):
        for _ in range(2):
            writer.write(storage.reply(BODY))
            for _ in range(50):  # the client reads the response, and is idle before the second one
                await asyncio.sleep(0.001)
        return True

    other = BODY.replace(b"0", b"1")
    storage.answers = [send_twice, storage.reply(other)]
    for body in (BODY, other):
        async with fetcher.stream(stored(storage.url())) as stream:
            assert b"".join([chunk async for chunk in stream]) == body
        for _ in range(200):  # longer than the storage waits
            await asyncio.sleep(0.001)
    assert storage.connections == 2


def moved(storage, location, *, status=302, headers=(), body=b""):
    return storage.reply(
        body, status=f"{status} Moved", headers=[f"Location: {location}", *headers]
    )


async def read(storage_client, url, **options):
    async with storage_client.open("job-1", url, **options) as response:
        chunks = []
        while chunk := await response.read():
            chunks.append(chunk)
        return b"".join(chunks)


def fields(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)}


# --- Locations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other?x=%2F&y=+", "/other?x=%2F&y=+"),
        ("other", "/a/other"),
        ("../other", "/other"),
        ("?only=query", "/a/b?only=query"),
        ("/a%2Fb//c/", "/a%2Fb//c/"),
        ("/p?x=1#fragment", "/p?x=1"),
        ("/c d?e=f g", "/c%20d?e=f%20g"),  # RFC 9110 allows neither a space nor a character
        ("\xe9%C3%A9", "/a/%C3%A9%C3%A9"),  # beyond ASCII, but curl follows
    ],
)
async def test_a_relative_location_is_relative_to_the_redirecting_url(
    storage, storage_client, location, target
):
    storage.answers = [moved(storage, location), storage.reply(BODY)]
    assert await read(storage_client, storage.url("/a/b?q=1")) == BODY
    assert storage.targets == ["/a/b?q=1", target]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("d", "/a%2Fb/d"),
        ("../d", "/d"),
        ("./d%2F..%2Fe?x=%2F", "/a%2Fb/d%2F..%2Fe?x=%2F"),
        ("?x=%2f", "/a%2Fb/c%2Fc?x=%2f"),
        ("d//e", "/a%2Fb/d//e"),
    ],
)
async def test_a_location_relative_to_a_path_with_encoded_slashes_goes_where_curl_goes(
    storage, storage_client, location, target
):
    storage.answers = [moved(storage, location), storage.reply(BODY)]
    assert await read(storage_client, storage.url("/a%2Fb/c%2Fc?q=1")) == BODY
    assert storage.targets == ["/a%2Fb/c%2Fc?q=1", target]


async def test_a_location_without_scheme_keeps_the_scheme(storage, other_storage, storage_client):
    storage.answers = [moved(storage, other_storage.url("/p?x=%2F").removeprefix("http:"))]
    other_storage.answers = [other_storage.reply(BODY)]
    assert await read(storage_client, storage.url()) == BODY
    assert other_storage.targets == ["/p?x=%2F"]


async def test_an_absolute_location_is_sent_byte_for_byte(storage, other_storage, storage_client):
    target = "/a/../b/%2e/c%2Fd//?X-Amz-Signature=%2f%2F&empty=&bare&q=a+b?c"
    storage.answers = [moved(storage, other_storage.url(target))]
    other_storage.answers = [other_storage.reply(BODY)]
    assert await read(storage_client, storage.url()) == BODY
    assert other_storage.targets == [target]


@STATUSES
async def test_every_kind_of_redirect_is_followed_as_a_get(storage, storage_client, status):
    storage.answers = [moved(storage, "/p", status=status, body=b"<html>moved</html>")]
    storage.answers.append(storage.reply(BODY))
    assert await read(storage_client, storage.url()) == BODY
    assert all(head.startswith(b"GET ") for head in storage.heads)


async def test_the_body_of_a_redirect_is_not_read(storage, storage_client):
    async def endless(_reader, writer):
        writer.write(storage.reply(status="302 Found", length=None, headers=["Location: /p"]))
        while True:  # until the client disconnects
            writer.write(b"x" * 10_000)
            await writer.drain()

    storage.answers = [endless, storage.reply(BODY)]
    assert await read(storage_client, storage.url()) == BODY


async def test_five_redirects_are_followed(storage, storage_client):
    storage.answers = [moved(storage, f"/{hop}") for hop in range(1, 6)] + [storage.reply(BODY)]
    assert await read(storage_client, storage.url("/0")) == BODY
    assert storage.targets == [f"/{hop}" for hop in range(6)]


async def test_a_sixth_redirect_raises_without_a_retry(storage, answering, stored):
    storage.answers = [moved(storage, f"/{hop}?{TOKEN}") for hop in range(1, 9)]
    async with ResultFetcher(answering(attempts=3), patience=0) as fetcher:
        with pytest.raises(ResultUrlError, match="more than 5 times") as caught:
            await fetcher.result(stored(storage.url("/0")))
    assert storage.targets == ["/0", *(f"/{hop}?{TOKEN}" for hop in range(1, 6))]
    assert TOKEN not in str(caught.value)


async def test_a_redirect_loop_raises(storage, storage_client):
    storage.answers = [moved(storage, storage.url("/round"))]
    with pytest.raises(ResultUrlError):
        await read(storage_client, storage.url("/round"))
    assert len(storage.heads) == 6


async def test_another_thread_may_count_bytes_while_responses_end(storage_client):
    """The event loop can change the set of responses between two steps of the other thread."""

    class Response:
        @property
        def content(self):
            storage_client.reading.discard(self)
            return SimpleNamespace(total_bytes=3)

    storage_client.reading.update(Response() for _ in range(3))
    assert storage_client.bytes_received == 9
    assert not storage_client.reading


CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1,\r\n'


async def test_bytes_within_a_body_that_are_not_http_are_reported_immediately(
    storage, storage_client
):
    """aiohttp closes the connection, but does not wake who waits for the rest of the body."""
    is_read = asyncio.Event()

    async def answer(reader, writer):
        writer.write(CHUNKED)
        await is_read.wait()
        writer.write(b"zz\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n")
        await storage.hang(reader)

    storage.answers = [answer]
    async with storage_client.open("job-1", storage.url()) as body:
        assert await body.read() == b'{"a": 1,'
        is_read.set()
        with pytest.raises(ResultTransferError, match="not valid HTTP: Invalid character in chunk"):
            await body.read()


async def test_a_connection_that_stays_open_keeps_no_response_in_memory(storage, storage_client):
    is_read = asyncio.Event()

    async def answer(_reader, writer):
        writer.write(CHUNKED)
        await is_read.wait()
        is_read.clear()
        writer.write(b'7\r\n"b": 2}\r\n0\r\n\r\n')
        return True

    storage.answers = [answer]
    responses = []
    for _ in range(3):
        async with storage_client.open("job-1", storage.url()) as body:
            responses += map(weakref.ref, storage_client.reading)
            while await body.read():
                is_read.set()
    del body
    gc.collect()
    assert storage.connections == 1
    assert [response() for response in responses] == [None] * 3


async def test_a_cancelled_close_closes_the_resolver_too(storage_client, monkeypatch):
    began, resolver = asyncio.Event(), aiohttp.ThreadedResolver()
    is_closed = asyncio.Event()

    async def never_closed():
        began.set()
        await asyncio.Event().wait()

    async def close():
        is_closed.set()

    monkeypatch.setattr(resolver, "close", close)
    monkeypatch.setattr(storage_client._guard, "_resolver", resolver)
    session = storage_client.open_session()
    with monkeypatch.context() as patch:
        patch.setattr(session, "close", never_closed)
        closing = asyncio.ensure_future(storage_client.aclose())
        await began.wait()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert is_closed.is_set()


# --- Checks of each hop -------------------------------------------------------------------------


class Lenient(SsrfGuard):
    """Allows one URL without a check, as if it were at a public storage."""

    def __init__(self, first, **options):
        super().__init__(**options)
        self.first = first

    async def check(self, job_id, url):
        if url == self.first:
            return await SsrfGuard(api_url=url, allow_private=True).check(job_id, url)
        return await super().check(job_id, url)


@pytest.fixture
async def from_outside(storage):
    """A storage client whose first request counts as one to a public host over https."""
    guard = Lenient(storage.url(), api_url="https://93.184.216.34", allow_private=False)
    running = StorageClient(guard=guard, connect_timeout=10, read_timeout=10, min_rate=0)
    yield running
    await running.aclose()


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://storage.example/p?" + TOKEN, "https"),
        ("ftp://storage.example/p?" + TOKEN, "https"),
        ("file:///etc/passwd?" + TOKEN, "https"),
        ("//storage.example/p?" + TOKEN, "https"),  # http, the scheme of the redirecting URL
        ("https://127.0.0.1/p?" + TOKEN, "private network"),
        ("https://169.254.169.254/latest/meta-data?" + TOKEN, "private network"),
        ("https://[::1]/p?" + TOKEN, "private network"),
        ("https://[::ffff:10.0.0.1]/p?" + TOKEN, "private network"),
        ("https://localhost/p?" + TOKEN, "private network"),
        ("https://user:" + TOKEN + "@storage.example/p", "user or password"),
        ("https://storage.example:99999/p?" + TOKEN, "is malformed"),
        ("https:///p?" + TOKEN, "https|is malformed"),
        ("https://[::1/p?" + TOKEN, "REDACTED|is malformed"),
        ("https://storage .example/?" + TOKEN, "character"),
        ("https://storag\u00e9.example/?" + TOKEN, "character"),
    ],
)
async def test_a_redirect_to_a_forbidden_url_is_refused(
    storage, from_outside, location, why, all_text_of
):
    storage.answers = [moved(storage, location.encode().decode("latin-1"))]
    with pytest.raises(ResultUrlError, match=why) as caught:
        await read(from_outside, storage.url())
    assert TOKEN not in all_text_of(caught.value)
    assert len(storage.heads) == 1


async def test_a_redirect_to_a_name_with_a_private_address_is_refused(
    storage, other_storage, from_outside, monkeypatch
):
    class Inside:
        async def resolve(self, host, port=0, family=0):
            return [
                {
                    "hostname": host,
                    "host": "127.0.0.1" if host == "storage.example" else host,
                    "port": port,
                    "family": 2,
                    "proto": 0,
                    "flags": 0,
                }
            ]

        async def close(self):
            pass

    monkeypatch.setattr("aiohttp.DefaultResolver", lambda *_: Inside())
    port = other_storage.origin.rpartition(":")[2]
    storage.answers = [moved(storage, f"https://storage.example:{port}/p?{TOKEN}")]
    with pytest.raises(ResultUrlError, match="private network"):
        await read(from_outside, storage.url())
    assert other_storage.connections == 0


def test_an_empty_location_leads_to_the_same_url():
    assert redirect_url(URL("http://h/a/b?c=d"), "") == "http://h/a/b?c=d"


@pytest.mark.parametrize(
    "location", ["", " ", "http://", "//", "http://:80/", "::", "[", "http://["]
)
async def test_a_malformed_location_raises_a_typed_error(storage, storage_client, location):
    storage.answers = [moved(storage, location)]
    with pytest.raises((ResultUrlError, ResultRefusedError)):
        await read(storage_client, storage.url())


async def test_a_malformed_location_after_several_redirects_is_named_as_such(
    storage, storage_client
):
    storage.answers = [moved(storage, f"/{hop}") for hop in range(5)] + [moved(storage, "http://[")]
    with pytest.raises(ResultUrlError, match="the URL of a redirect is malformed"):
        await read(storage_client, storage.url())


# --- Headers and errors of each hop -------------------------------------------------------------


async def test_no_hop_gets_key_cookie_netrc_or_referer(
    storage, other_storage, fetcher, stored, monkeypatch, tmp_path
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    cookie = "Set-Cookie: session=canarycookie; Path=/; Domain=127.0.0.1"
    storage.answers = [
        moved(storage, other_storage.url("/1"), headers=[cookie]),
        moved(storage, other_storage.url("/2"), headers=[cookie]),
    ]
    result = b'{"extraction":{},"extraction_metadata":{},"metadata":{}}'
    other_storage.answers = [
        moved(storage, storage.url("/back"), headers=[cookie]),
        other_storage.reply(result),
    ]
    with_secret = stored(storage.url("/0?token=" + TOKEN))
    async with fetcher.stream(with_secret) as stream:
        assert [chunk async for chunk in stream] == [result]
    assert storage.targets == ["/0?token=" + TOKEN, "/back"]
    assert other_storage.targets == ["/1", "/2"]
    for head in [*storage.heads, *other_storage.heads]:
        assert set(fields(head)) - {""} == {"host", "accept", "accept-encoding", "user-agent"}
        assert KEY.encode() not in head
        assert b"canarycookie" not in head
        assert head is storage.heads[0] or TOKEN.encode() not in head


async def test_range_and_conditions_are_sent_to_every_hop(storage, bucket, storage_client):
    bucket.body = BODY
    storage.answers = [moved(storage, "/1"), moved(storage, bucket.url("/2"))]
    body = await read(
        storage_client,
        storage.url("/0"),
        requested=Range(10, 20),
        version=ObjectVersion(len(BODY), '"one"'),
    )
    assert body == BODY[10:20]
    for head in [*storage.heads, *bucket.heads]:
        sent = fields(head)
        assert (sent["range"], sent["if-match"], sent["if-range"]) == (
            "bytes=10-19",
            '"one"',
            '"one"',
        )
        assert sent["accept-encoding"] == "identity"


async def test_the_last_hop_decides_about_expiry_and_is_named(
    storage, other_storage, storage_client
):
    message = b"<Error><Message>Request has expired, " + TOKEN.encode() + b"</Message></Error>"
    storage.answers = [moved(storage, other_storage.url("/p?token=" + TOKEN))]
    other_storage.answers = [other_storage.reply(message, status="403 Forbidden")]
    with pytest.raises(ResultExpiredError) as caught:
        await read(storage_client, storage.url())
    assert caught.value.url == other_storage.url("/p?REDACTED")
    assert TOKEN not in str(caught.value)


async def test_an_error_behind_a_redirect_names_the_last_host(
    storage, other_storage, storage_client
):
    storage.answers = [moved(storage, other_storage.url("/p"))]
    other_storage.answers = [other_storage.reply(status="403 Forbidden")]
    with pytest.raises(ResultForbiddenError) as caught:
        await read(storage_client, storage.url())
    assert caught.value.url == other_storage.url("/p")


async def test_each_attempt_starts_at_the_first_url(storage, answering, stored, result_body):
    storage.answers = [
        moved(storage, "/1"),
        storage.reply(status="503 Slow Down"),
        moved(storage, "/2"),
        storage.reply(result_body()),
    ]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        assert await fetcher.result(stored(storage.url("/0")))
    assert storage.targets == ["/0", "/1", "/0", "/2"]


async def test_an_unreachable_hop_is_a_transfer_error(storage, other_storage, storage_client):
    gone = other_storage.url("/p?token=" + TOKEN)
    await other_storage.__aexit__()
    storage.answers = [moved(storage, gone)]
    with pytest.raises(ResultTransferError, match="cannot connect") as caught:
        await read(storage_client, storage.url())
    assert TOKEN not in str(caught.value)


# --- Connections --------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle", "connections"), [(4.0, 1), (6.0, 2)])
async def test_a_connection_idle_for_half_the_read_timeout_is_not_reused(
    storage_client, storage, monkeypatch, idle, connections
):
    storage.answers = [storage.keeping(storage.reply(BODY))]
    assert await read(storage_client, storage.url()) == BODY
    later = time.monotonic() + idle
    monkeypatch.setattr(aiohttp.connector, "monotonic", lambda: later)
    assert await read(storage_client, storage.url()) == BODY
    assert storage.connections == connections


async def test_a_request_on_a_stale_connection_is_repeated_on_a_new_one(storage, storage_client):
    """aiohttp would repeat it on the other idle connection, which can be stale, too."""
    both = asyncio.Barrier(2)

    async def together(_reader, writer):
        await both.wait()
        writer.write(storage.reply(BODY))
        return True

    storage.answers = [together, together, b"", storage.keeping(storage.reply(BODY))]
    await asyncio.gather(*[read(storage_client, storage.url()) for _ in range(2)])
    assert await read(storage_client, storage.url()) == BODY
    assert (len(storage.heads), storage.connections) == (4, 3)


async def test_a_new_connection_that_is_closed_is_not_repeated(storage, storage_client):
    storage.answers = [b""]
    with pytest.raises(ResultTransferError):
        await read(storage_client, storage.url())
    assert len(storage.heads) == 1


async def test_in_bulk_chunks_are_larger_and_the_next_response_is_not_affected(
    storage_client, storage
):
    body = b"{%s}" % bytes(2**23)
    storage.answers = [storage.keeping(storage.reply(body))]

    async def read_size(**options):
        async with storage_client.open("job-1", storage.url(), **options) as body:
            (response,) = responses_read(storage_client)
            size = response.connection.transport.max_size
            while await body.read():
                pass
        return size

    assert await read_size(in_bulk=True) > await read_size()
    assert storage.connections == 1
