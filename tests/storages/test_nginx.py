"""Results are fetched from nginx, with real ranges, ETags, throttling and replaced files."""

import asyncio
import contextlib
import gzip
import os

import pytest
from files import names, sha256
from streams import collect_of

from adepoll.api.kinds import v1_extract
from adepoll.errors import (
    ResultChangedError,
    ResultMalformedError,
    ResultRangeError,
    ResultRefusedError,
    ResultServerError,
    ResultTransferError,
    ResultUrlError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.segments import FIRST_SEGMENT

MIB = 2**20
SLOW = "location / { limit_rate 8m; }"  # bytes per second; too slow for a single connection


@pytest.fixture
async def fetch(answering, stored):
    """Return a fetcher, and the snapshot of a job whose result is at a URL."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(url, *, attempts=3, **options):
            job = stored(url)
            fetcher = ResultFetcher(answering(job, attempts=attempts), patience=0, **options)
            return await stack.enter_async_context(fetcher), job

        yield make


def replace(folder, body, *, name="r.json"):
    """Replace the file by one of another second: nginx makes ETags of second and size."""
    new = folder / "new"
    new.write_bytes(body)
    os.utime(new, (1_700_000_000, 1_700_000_000))
    new.replace(folder / name)


async def check_download(fetcher, job, out, body):
    """Download, check the file and that nothing else is left; return the `Download`."""
    reported = []
    report = await fetcher.download(
        job, out / "r.json", progress=lambda *seen: reported.append(seen)
    )
    assert (out / "r.json").read_bytes() == body
    assert (report.bytes, report.sha256) == (len(body), sha256(body))
    assert names(out) == ["r.json"]
    assert reported[-1][0] == len(body)
    return report


def spans(requests):
    """Return the requested and sent ranges, each as (start, bytes), in order."""
    starts = [int(seen["range"].removeprefix("bytes=").partition("-")[0]) for seen in requests]
    return sorted(zip(starts, [seen["sent"] for seen in requests], strict=True))


# --- Whole results ------------------------------------------------------------------------------


async def test_result_download_and_stream_return_the_same_bytes(serve, fetch, out, result_body):
    body = result_body(3 * MIB)
    nginx = serve({"r.json": body})
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert await fetcher.result(job) == v1_extract.decode_result(body)
    async with fetcher.stream(job) as chunks:
        assert (chunks.size, chunks.etag[0], chunks.etag[-1]) == (len(body), '"', '"')
        assert b"".join([chunk async for chunk in chunks]) == body
        etag = chunks.etag
    report = await check_download(fetcher, job, out, body)
    assert (report.etag, report.resumed) == (etag, 0)
    seen = nginx.requests()
    assert [(one["status"], one["sent"]) for one in seen] == [
        (200, len(body)),
        (200, len(body)),
        (206, len(body)),
    ]


@pytest.mark.parametrize("server", ["", "max_ranges 0;", "etag off;", "gzip on; gzip_types *;"])
@pytest.mark.parametrize(("start", "stop"), [(0, 9), (5, 70_000), (MIB, None), (-9, None)])
async def test_a_range_is_the_slice(serve, fetch, make_json, server, start, stop):
    body = make_json(2 * MIB)
    nginx = serve({"r.json": body}, server=server)
    fetcher, job = await fetch(nginx.url("/r.json"))
    async with fetcher.stream(job, start=start, stop=stop) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == body[start:stop]
        assert chunks.size == len(body)
    with pytest.raises(ResultRangeError) as caught:
        await fetcher.stream(job, start=len(body)).__aenter__()
    assert caught.value.size == len(body)
    *first, last = [one["status"] for one in nginx.requests()]
    assert (set(first), last) == (({200}, 200) if "max_ranges" in server else ({206}, 416))


async def test_no_secret_is_sent(serve, fetch, out, make_json):
    nginx = serve(
        {"r.json": make_json(MIB)},
        server="""
            location = /begin.json {
                add_header Set-Cookie session=1 always;
                return 307 http://localhost:$server_port/r.json;
            }
            add_header Set-Cookie session=2;""",
    )
    fetcher, job = await fetch(nginx.url("/begin.json"))
    await collect_of(fetcher, job)
    await fetcher.download(job, out / "r.json")
    seen = nginx.requests()
    assert [one["status"] for one in seen] == [307, 200, 307, 206]
    assert {(one["authorization"], one["cookie"]) for one in seen} == {("", "")}


@pytest.mark.parametrize("size", [20, FIRST_SEGMENT - 1, FIRST_SEGMENT, FIRST_SEGMENT + 1])
async def test_a_result_may_have_any_length(serve, fetch, out, make_json, size):
    body = make_json(size)
    nginx = serve({"r.json": body})
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)
    assert sum(one["sent"] for one in nginx.requests()) == 2 * size, "a byte came twice"


@pytest.mark.parametrize("body", [b"", b"{", b" ", b"[]"])
async def test_a_tiny_file_that_is_not_an_object_is_refused(serve, fetch, out, body):
    nginx = serve({"r.json": body})
    fetcher, job = await fetch(nginx.url("/r.json"))
    error = ResultMalformedError if body == b"[]" else ResultTransferError
    with pytest.raises(error):
        await collect_of(fetcher, job)
    with pytest.raises(error):
        await fetcher.download(job, out / "r.json")
    assert names(out) == []


async def test_a_tiny_result_is_accepted_and_an_empty_object_is_none(serve, fetch, out):
    body = b'{"extraction":{}}'
    nginx = serve({"r.json": body, "empty.json": b"{} "})
    fetcher, job = await fetch(nginx.url("/r.json"))
    await check_download(fetcher, job, out, body)
    fetcher, job = await fetch(nginx.url("/empty.json"))
    with pytest.raises(ResultMalformedError):
        await collect_of(fetcher, job)
    with pytest.raises(ResultMalformedError):
        await fetcher.download(job, out / "empty.json")


# --- Several connections ------------------------------------------------------------------------


async def test_a_slow_connection_is_joined_by_others_and_no_byte_is_sent_twice(
    serve, fetch, out, make_json
):
    body = make_json(13 * MIB + 7)
    nginx = serve({"r.json": body}, server=SLOW)
    fetcher, job = await fetch(nginx.url("/r.json"))
    report = await check_download(fetcher, job, out, body)
    assert report.resumed == 0
    seen = nginx.requests()
    assert len({one["connection"] for one in seen}) > 1
    at = 0
    for start, sent in spans(seen):
        assert start == at
        at += sent
    assert at == len(body)
    assert {one["status"] for one in seen} == {206}
    assert {one["if_match"] for one in seen if one["range"][6] != "0"} == {report.etag}


async def test_one_allowed_connection_stays_single(serve, fetch, out, make_json):
    body = make_json(9 * MIB)
    nginx = serve({"r.json": body}, server="location / { limit_rate 40m; }")
    fetcher, job = await fetch(nginx.url("/r.json"), connections=1)
    await check_download(fetcher, job, out, body)
    assert len({one["connection"] for one in nginx.requests()}) == 1


async def test_a_server_that_allows_one_connection_serves_one(serve, fetch, out, make_json):
    body = make_json(12 * MIB)
    nginx = serve(
        {"r.json": body},
        server="limit_conn each 1;" + SLOW,
        http="limit_conn_zone $binary_remote_addr zone=each:1m;",
    )
    fetcher, job = await fetch(nginx.url("/r.json"))
    await check_download(fetcher, job, out, body)


@pytest.mark.parametrize("line", ["keepalive_requests 1;", "keepalive_timeout 0;"])
async def test_a_connection_may_be_closed_after_each_response(serve, fetch, out, make_json, line):
    body = make_json(11 * MIB)
    nginx = serve({"r.json": body}, server=line + SLOW)
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert (await check_download(fetcher, job, out, body)).resumed == 0
    seen = nginx.requests()
    assert len({one["connection"] for one in seen}) == len(seen) > 2


@pytest.mark.parametrize("line", ["max_ranges 0;", "etag off; max_ranges 0;"])
async def test_a_server_without_ranges_sends_the_whole(serve, fetch, out, make_json, line):
    body = make_json(9 * MIB)
    nginx = serve({"r.json": body}, server=line)
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)
    assert [(one["status"], one["sent"]) for one in nginx.requests()] == [(200, len(body))] * 2


async def test_without_an_etag_segments_are_not_joined(serve, fetch, out, make_json):
    body = make_json(9 * MIB)
    nginx = serve({"r.json": body}, server="etag off;")
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert (await check_download(fetcher, job, out, body)).etag is None
    assert [one["status"] for one in nginx.requests()] == [206, 200]


# --- Broken connections -------------------------------------------------------------------------


async def test_a_stream_resumes_where_it_was_cut(serve, fetch, make_json, cutter):
    body = make_json(3 * MIB)
    nginx = serve({"r.json": body})
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [MIB, 700_000]
        fetcher, job = await fetch(proxy.url("/r.json"))
        async with fetcher.stream(job) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == body
            assert (chunks.resumed, chunks.received) == (2, len(body))
            etag = chunks.etag
    seen = nginx.requests()
    first, second = sorted(one["range"] for one in seen if one["range"])
    assert MIB - 1_000 < int(first[6:-1]) < MIB
    assert MIB + 699_000 < int(second[6:-1]) < MIB + 700_000
    assert {one["if_match"] for one in seen if one["range"]} == {etag}


async def test_a_download_resumes_with_the_bytes_it_has(serve, fetch, out, make_json, cutter):
    body = make_json(20 * MIB)
    nginx = serve({"r.json": body}, server=SLOW)
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [3 * MIB, MIB, 100, 2 * MIB, None, MIB, 0]
        fetcher, job = await fetch(proxy.url("/r.json"), attempts=20)
        report = await check_download(fetcher, job, out, body)
        assert report.resumed >= 2
        assert proxy.connections >= 5


async def test_a_download_survives_a_restart_of_the_server(serve, fetch, out, make_json):
    body = make_json(12 * MIB)
    nginx = serve({"r.json": body}, server=SLOW)
    fetcher, job = await fetch(nginx.url("/r.json"))
    restarted = False

    def restart(there, _size):
        nonlocal restarted
        if there >= 2 * MIB and not restarted:
            restarted = True
            nginx.stop(abort=True)
            assert nginx.start()

    report = await fetcher.download(job, out / "r.json", progress=restart)
    assert report.sha256 == sha256(body)
    assert report.resumed >= 1
    assert names(out) == ["r.json"]


async def test_bytes_of_a_failed_download_are_not_fetched_again(
    serve, fetch, out, make_json, cutter
):
    body = make_json(12 * MIB)
    nginx = serve({"r.json": body})
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [5 * MIB, *[0] * 40]
        fetcher, job = await fetch(proxy.url("/r.json"))
        with pytest.raises(ResultTransferError):
            await fetcher.download(job, out / "r.json")
        assert len(names(out)) == 2, "part and note"
        proxy.cuts, proxy.passed = [], 0
        report = await check_download(fetcher, job, out, body)
        assert report.resumed >= 1
        assert len(body) - 5 * MIB < proxy.passed < len(body) - 4 * MIB


# --- Replaced files -----------------------------------------------------------------------------


async def test_a_stream_of_a_replaced_file_raises(serve, fetch, make_json, cutter):
    old, new = make_json(3 * MIB), make_json(3 * MIB, seed=1)
    nginx = serve({"r.json": old})
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [MIB]
        proxy.before_cut = lambda: replace(nginx.folder, new)
        fetcher, job = await fetch(proxy.url("/r.json"))
        received = []

        async def read():
            async with fetcher.stream(job) as chunks:
                async for chunk in chunks:
                    received.append(chunk)  # noqa: PERF401 - the chunks before the error are checked

        with pytest.raises(ResultChangedError) as caught:
            await read()
        assert old.startswith(b"".join(received))
        assert caught.value.received == len(b"".join(received))
    assert [one["status"] for one in nginx.requests()] == [200, 412]


async def test_an_uncut_stream_returns_the_file_as_it_was_opened(serve, fetch, make_json):
    old, new = make_json(3 * MIB), make_json(3 * MIB, seed=1)
    nginx = serve({"r.json": old}, server="location / { limit_rate 20m; }")
    fetcher, job = await fetch(nginx.url("/r.json"))
    received = []
    async with fetcher.stream(job) as chunks:
        async for chunk in chunks:
            if not received:
                replace(nginx.folder, new)
            received.append(chunk)
    assert b"".join(received) == old


async def test_a_download_of_a_replaced_file_is_complete(serve, fetch, out, make_json, cutter):
    old, new = make_json(12 * MIB), make_json(11 * MIB, seed=1)
    nginx = serve({"r.json": old}, server=SLOW)
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [5 * MIB]
        proxy.before_cut = lambda: replace(nginx.folder, new)
        fetcher, job = await fetch(proxy.url("/r.json"), attempts=20)
        await check_download(fetcher, job, out, new)
    assert 412 in [one["status"] for one in nginx.requests()]


async def test_a_replaced_file_is_read_into_memory_completely(serve, fetch, result_body, cutter):
    old, new = result_body(3 * MIB), result_body(2 * MIB)
    nginx = serve({"r.json": old})
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [MIB]
        proxy.before_cut = lambda: replace(nginx.folder, new)
        fetcher, job = await fetch(proxy.url("/r.json"))
        assert await fetcher.result(job) == v1_extract.decode_result(new)
    assert [one["status"] for one in nginx.requests()] == [200, 412, 200]


async def test_a_part_file_of_an_older_version_is_not_used(serve, fetch, out, make_json, cutter):
    old, new = make_json(12 * MIB), make_json(12 * MIB, seed=1)
    nginx = serve({"r.json": old})
    async with cutter(nginx.port) as proxy:
        proxy.cuts = [5 * MIB, *[0] * 40]
        fetcher, job = await fetch(proxy.url("/r.json"))
        with pytest.raises(ResultTransferError):
            await fetcher.download(job, out / "r.json")
        proxy.cuts = []
        replace(nginx.folder, new)
        await check_download(fetcher, job, out, new)


# --- Compression --------------------------------------------------------------------------------


async def test_compression_is_refused_in_the_request(serve, fetch, out, result_body):
    body = result_body(2 * MIB)
    nginx = serve(
        {"r.json": body}, server="gzip on; gzip_types application/json; gzip_proxied any;"
    )
    fetcher, job = await fetch(nginx.url("/r.json"))
    async with fetcher.stream(job) as chunks:
        assert chunks.size == len(body)
        assert b"".join([chunk async for chunk in chunks]) == body
    await check_download(fetcher, job, out, body)
    assert {one["sent"] for one in nginx.requests()} == {len(body)}


@pytest.mark.parametrize(
    "line", ["gzip_static always;", "location / { add_header Content-Encoding gzip; }"]
)
async def test_a_compressed_response_is_decoded(serve, fetch, out, result_body, line):
    body = result_body(2 * MIB)
    packed = gzip.compress(body, 1)
    nginx = serve({"r.json": packed, "r.json.gz": packed}, server=line)
    fetcher, job = await fetch(nginx.url("/r.json"))
    assert await fetcher.result(job) == v1_extract.decode_result(body)
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)


# --- Error statuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "error", "requests"),
    [
        # The second and the third call know that the origin is down, and send one request each.
        ("return 502;", ResultServerError, 3 + 1 + 1),
        ("return 503;", ResultServerError, 3 + 1 + 1),
        # A download also tries a request without a range.
        ("return 404;", ResultRefusedError, 1 + 1 + 2),
        ("return 410;", ResultRefusedError, 1 + 1 + 2),
        ("default_type text/html; return 200 '<html>Sorry</html>';", ResultMalformedError, 3 * 3),
        ("default_type text/html; return 200 '';", ResultTransferError, 3 * 3),
        ("return 301 /r.json;", ResultUrlError, 3 * 6),
    ],
)
async def test_a_page_is_not_a_result(serve, fetch, out, line, error, requests):
    nginx = serve(server=f"location / {{ {line} }}")
    fetcher, job = await fetch(nginx.url("/r.json"))
    for go in (
        fetcher.result(job),
        collect_of(fetcher, job),
        fetcher.download(job, out / "r.json"),
    ):
        with pytest.raises(error) as caught:
            await go
        assert caught.value.job_id == job.job_id
    assert names(out) == []
    assert len(nginx.requests()) == requests


async def test_a_page_in_the_middle_is_retried(serve, fetch, out, make_json, cutter):
    body = make_json(12 * MIB)
    nginx = serve(
        {"r.json": body},
        server=SLOW + "location = /busy { return 503; } error_page 404 =200 /sorry;"
        " location = /sorry { default_type text/html; return 200 '<html>Sorry</html>'; }",
    )
    file, away = nginx.folder / "r.json", nginx.folder / "away"
    async with cutter(nginx.port) as proxy:
        gone = asyncio.Event()
        proxy.cuts = [5 * MIB]
        proxy.before_cut = lambda: (file.rename(away), gone.set())
        fetcher, job = await fetch(proxy.url("/r.json"), attempts=10_000)
        async with asyncio.TaskGroup() as group:
            download = group.create_task(check_download(fetcher, job, out, body))
            await gone.wait()
            await asyncio.sleep(0.05)  # in which it receives the page; otherwise nothing is lost
            away.rename(file)
        assert download.result().resumed >= 1
