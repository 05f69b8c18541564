"""A response that does not match the request raises before any of its bytes is used."""

import asyncio
import gzip
import zlib

import pytest
from rawstorage import LONG
from streams import fetch_by

from adepoll.api import body_decoding
from adepoll.errors import (
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultRefusedError,
    ResultTooLargeError,
    ResultTransferError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.responses import ObjectChangedError, UnusableRangeError
from adepoll.fetcher.storage_rules import ObjectVersion, Range

MIB = 2**20
BODY = b'{"extraction":"' + bytes(range(48, 91)) * 20 + b'"}'
SIZE = len(BODY)


async def body_of(response):
    chunks = []
    while chunk := await response.read():
        chunks.append(chunk)
    return b"".join(chunks)


async def fetch_body(storage_client, url, **options):
    async with storage_client.open("job-1", url, **options) as response:
        return response, await body_of(response)


def range_response(storage, start, stop, total, *, body=None, **options):
    """Return a 206 response that states this range."""
    body = BODY[start:stop] if body is None else body
    headers = [f"Content-Range: bytes {start}-{stop - 1}/{total}", 'ETag: "one"']
    headers += options.pop("headers", [])
    return storage.reply(body, status="206 Partial Content", headers=headers, **options)


# --- Versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etag", "is_strong"),
    [('"one"', True), ("one", True), ('W/"one"', False), ("", False), (None, False)],
)
def test_only_a_strong_etag_joins_bytes_of_two_responses(etag, is_strong):
    assert ObjectVersion(9, etag).is_strong is is_strong


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (ObjectVersion(9, '"a"'), ObjectVersion(9, '"a"'), False),
        (ObjectVersion(9, '"a"'), ObjectVersion(9, '"b"'), True),
        (ObjectVersion(9, '"a"'), ObjectVersion(8, '"a"'), True),
        (ObjectVersion(9, '"a"'), ObjectVersion(None, '"a"'), False),
        (ObjectVersion(9, '"a"'), ObjectVersion(9, None), False),
        (ObjectVersion(), ObjectVersion(9, '"a"'), False),
        (ObjectVersion(9, 'W/"a"'), ObjectVersion(9, '"a"'), True),
    ],
)
def test_versions_differ_if_a_known_size_or_etag_differs(one, other, differs):
    assert one.differs(other) is other.differs(one) is differs


@pytest.mark.parametrize(
    ("requested", "header"),
    [(Range(0, 1), "bytes=0-0"), (Range(5, 9), "bytes=5-8"), (Range(5), "bytes=5-")],
)
def test_a_range_header_includes_the_last_byte(requested, header):
    assert str(requested) == header


# --- Ranges -------------------------------------------------------------------------------------


async def test_a_range_is_requested_with_offsets_and_etag(bucket, storage_client):
    bucket.body = BODY
    response, body = await fetch_body(
        storage_client, bucket.url(), requested=Range(10, 20), version=ObjectVersion(SIZE, '"one"')
    )
    assert body == BODY[10:20]
    assert (response.start, response.stop, response.is_partial) == (10, 20, True)
    assert response.version == ObjectVersion(SIZE, '"one"')
    (sent,) = bucket.requests
    assert (sent["range"], sent["if-match"], sent["if-range"]) == ("bytes=10-19", '"one"', '"one"')


async def test_a_range_beyond_the_end_is_shortened(bucket, storage_client):
    bucket.body = BODY
    response, body = await fetch_body(storage_client, bucket.url(), requested=Range(0, 8 * MIB))
    assert (body, response.stop, response.is_partial) == (BODY, SIZE, True)
    assert "if-match" not in bucket.requests[0]


async def test_the_whole_instead_of_a_range_starts_at_0(bucket, storage_client):
    bucket.body, bucket.gives_ranges = BODY, False
    response, body = await fetch_body(storage_client, bucket.url(), requested=Range(10, 20))
    assert (body, response.start, response.is_partial) == (BODY, 0, False)


async def test_a_range_with_status_200_is_a_range(storage, storage_client):
    """ModelScope sends one (modelscope_hub issue 50), and the file would begin with its bytes."""
    headers = [f"Content-Range: bytes 10-19/{SIZE}", 'ETag: "one"']
    storage.answers = [storage.reply(BODY[10:20], headers=headers)]
    response, body = await fetch_body(storage_client, storage.url(), requested=Range(10, 20))
    assert (body, response.start, response.is_partial) == (BODY[10:20], 10, True)
    with pytest.raises(UnusableRangeError, match="another byte range"):
        await fetch_body(storage_client, storage.url(), requested=Range(9, 20))


@pytest.mark.parametrize("unit", ["bytes ", "BYTES ", "Bytes  "])
async def test_the_unit_of_a_range_has_no_case(storage, storage_client, unit):
    headers = [f"Content-Range: {unit}10-19/{SIZE}", 'ETag: "one"']
    storage.answers = [storage.reply(BODY[10:20], status="206 Partial Content", headers=headers)]
    response, body = await fetch_body(storage_client, storage.url(), requested=Range(10, 20))
    assert (body, response.start, response.version.size) == (BODY[10:20], 10, SIZE)


@pytest.mark.parametrize("requested", [None, Range(10, 20)], ids=["whole", "range"])
async def test_203_of_a_proxy_is_the_whole(storage, storage_client, requested):
    """A proxy that changes headers or bodies replaces the status 200 by 203."""
    status = "203 Non-Authoritative Information"
    storage.answers = [storage.reply(BODY, status=status)]
    response, body = await fetch_body(storage_client, storage.url(), requested=requested)
    assert (body, response.start, response.is_partial) == (BODY, 0, False)


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-9/{SIZE}",
        f"bytes 9-18/{SIZE}",
        f"bytes 11-20/{SIZE}",
        f"bytes 10-18/{SIZE}",
        f"bytes 10-20/{SIZE}",
        f"bytes 10-{SIZE - 1}/{SIZE}",
        "bytes 10-19/*",
        "bytes 10-19/15",
        f"bytes */{SIZE}",
        f"bytes 19-10/{SIZE}",
        f"bytes 10-19/-{SIZE}",
        f"bytes 10-19,30-39/{SIZE}",
        f"items 10-19/{SIZE}",
        f"bytes=10-19/{SIZE}",
        "bytes 10-19/99999999999999999999999",
        f"bytes \u0661\u0660-19/{SIZE}".encode().decode("latin-1"),
        "",
        "garbage",
        None,
    ],
)
async def test_another_range_than_the_requested_one_is_unusable(
    storage, storage_client, content_range
):
    headers = ['ETag: "one"']
    if content_range is not None:
        headers.append(f"Content-Range: {content_range}")
    storage.answers = [storage.reply(BODY[10:20], status="206 Partial Content", headers=headers)]
    with pytest.raises(UnusableRangeError, match="another byte range"):
        await fetch_body(storage_client, storage.url(), requested=Range(10, 20))


async def test_several_ranges_in_one_body_are_unusable(storage, storage_client):
    headers = ["Content-Type: multipart/byteranges; boundary=x"]
    body = b"--x\r\nContent-Range: bytes 10-19/900\r\n\r\n" + BODY[10:20] + b"\r\n--x--\r\n"
    storage.answers = [storage.reply(body, status="206 Partial Content", headers=headers)]
    with pytest.raises(UnusableRangeError):
        await fetch_body(storage_client, storage.url(), requested=Range(10, 20))


@pytest.mark.parametrize("length", [9, 11, SIZE])
async def test_a_range_with_another_content_length_is_unusable(storage, storage_client, length):
    storage.answers = [range_response(storage, 10, 20, SIZE, body=BODY[10 : 10 + length])]
    with pytest.raises(UnusableRangeError):
        await fetch_body(storage_client, storage.url(), requested=Range(10, 20))


@pytest.mark.parametrize("count", [0, 9, 11])
async def test_a_range_body_of_another_length_raises(storage, storage_client, count):
    storage.answers = [
        range_response(storage, 10, 20, SIZE, body=BODY[10 : 10 + count], length=None)
    ]
    problem = "more bytes" if count > 10 else "fewer bytes"
    with pytest.raises(ResultTransferError, match=problem) as caught:
        await fetch_body(storage_client, storage.url(), requested=Range(10, 20))
    assert caught.value.is_object_at_fault == (count > 10)


async def test_the_whole_object_may_have_a_content_range(storage, storage_client):
    headers = [f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}"]
    storage.answers = [storage.reply(BODY, headers=headers)]
    assert (await fetch_body(storage_client, storage.url()))[-1] == BODY


async def test_an_unrequested_range_of_all_bytes_is_the_whole(storage, storage_client):
    storage.answers = [range_response(storage, 0, SIZE, SIZE)]
    assert (await fetch_body(storage_client, storage.url()))[-1] == BODY


@pytest.mark.parametrize(("start", "stop"), [(0, SIZE - 1), (1, SIZE)])
async def test_an_unrequested_range_is_unusable(storage, storage_client, start, stop):
    storage.answers = [range_response(storage, start, stop, SIZE)]
    with pytest.raises(UnusableRangeError, match="instead of the whole result"):
        await fetch_body(storage_client, storage.url())


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "aws-chunked, gzip"])
async def test_an_encoded_range_is_unusable(storage, storage_client, coding):
    headers = [f"Content-Encoding: {coding}"]
    storage.answers = [range_response(storage, 10, 20, SIZE, headers=headers)]
    with pytest.raises(UnusableRangeError, match="encoded"):
        await fetch_body(storage_client, storage.url(), requested=Range(10, 20))


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_an_unrequested_206_is_not_a_result(storage, answering, stored, tmp_path, use):
    storage.answers = [storage.reply(BODY, status="206 Partial Content")]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        with pytest.raises(ResultMalformedError):
            await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


# --- Another version ----------------------------------------------------------------------------


@pytest.mark.parametrize("requested", [Range(10, 20), Range(10), None])
async def test_another_etag_is_another_version(bucket, storage_client, requested):
    bucket.body, bucket.etag = BODY, '"two"'
    with pytest.raises(ObjectChangedError):
        await fetch_body(
            storage_client, bucket.url(), requested=requested, version=ObjectVersion(SIZE, '"one"')
        )


@pytest.mark.parametrize("etag", ['"one"', None])
async def test_another_size_is_another_version_even_with_the_same_etag(
    bucket, storage_client, etag
):
    bucket.body, bucket.etag = BODY, etag
    with pytest.raises(ObjectChangedError):
        await fetch_body(
            storage_client, bucket.url(), requested=Range(10), version=ObjectVersion(SIZE + 1, etag)
        )


async def test_an_error_page_is_not_another_version(storage, storage_client):
    storage.answers = [storage.reply(b"<html>Sign in</html>", headers=['ETag: "page"'])]
    with pytest.raises(ResultMalformedError):
        await fetch_body(
            storage_client, storage.url(), requested=Range(10), version=ObjectVersion(SIZE, '"one"')
        )


async def test_412_without_a_condition_is_refused(storage, storage_client):
    storage.answers = [storage.reply(status="412 Precondition Failed")]
    with pytest.raises(ResultRefusedError, match="412"):
        await fetch_body(storage_client, storage.url())


# --- 416 ----------------------------------------------------------------------------------------


def out_of_range(storage, content_range, etag='"one"'):
    headers = [f"ETag: {etag}"] if etag else []
    if content_range is not None:
        headers.append(f"Content-Range: {content_range}")
    return storage.reply(b"<Error/>", status="416 Range Not Satisfiable", headers=headers)


@pytest.mark.parametrize("etag", ['"one"', None])
async def test_416_at_the_end_of_the_object_is_an_empty_body(storage, storage_client, etag):
    storage.answers = [out_of_range(storage, f"bytes */{SIZE}", etag)]
    response, body = await fetch_body(
        storage_client, storage.url(), requested=Range(SIZE), version=ObjectVersion(None, '"one"')
    )
    assert (body, response.start, response.stop) == (b"", SIZE, SIZE)
    assert response.is_partial


async def test_416_at_the_end_of_another_version_is_another_version(storage, storage_client):
    storage.answers = [out_of_range(storage, f"bytes */{SIZE}", '"two"')]
    with pytest.raises(ObjectChangedError):
        await fetch_body(
            storage_client,
            storage.url(),
            requested=Range(SIZE),
            version=ObjectVersion(None, '"one"'),
        )


@pytest.mark.parametrize("size", [1, SIZE - 1])
async def test_416_of_an_object_that_is_shorter_now_is_another_version(
    storage, storage_client, size
):
    storage.answers = [out_of_range(storage, f"bytes */{size}")]
    with pytest.raises(ObjectChangedError):
        await fetch_body(
            storage_client,
            storage.url(),
            requested=Range(SIZE),
            version=ObjectVersion(None, '"one"'),
        )


@pytest.mark.parametrize("content_range", [f"bytes */{SIZE + 1}", "bytes */*", "", None, "*/9"])
async def test_416_without_a_usable_size_is_refused(storage, storage_client, content_range):
    storage.answers = [out_of_range(storage, content_range)]
    with pytest.raises(ResultRefusedError, match="416"):
        await fetch_body(
            storage_client,
            storage.url(),
            requested=Range(SIZE),
            version=ObjectVersion(None, '"one"'),
        )


async def test_416_without_a_range_is_refused(storage, storage_client):
    storage.answers = [out_of_range(storage, "bytes */0")]
    with pytest.raises(ResultRefusedError, match="416"):
        await fetch_body(storage_client, storage.url())


# --- Encoded responses --------------------------------------------------------------------------


def deflated(body):
    return zlib.compress(body)


def in_members(body):
    return b"".join(gzip.compress(body[at : at + 100]) for at in range(0, len(body), 100))


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", in_members),
        ("deflate", deflated),
    ],
    ids=["gzip", "in capitals", "x-gzip", "several members", "deflate"],
)
@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("chunk_size", [1, 10_000])
async def test_an_encoded_whole_is_decoded(
    storage, answering, stored, result_body, tmp_path, coding, encode, use, chunk_size
):
    body = result_body()
    encoded = encode(body)
    response = storage.reply(
        encoded, headers=[f"Content-Encoding: {coding}", 'ETag: "of-the-encoded"']
    )
    head = len(response) - len(encoded)

    async def piecemeal(_reader, writer):
        writer.write(response[:head])
        for start in range(head, len(response), chunk_size):
            writer.write(response[start : start + chunk_size])
            await writer.drain()

    storage.answers = [piecemeal]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        got = await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    if use == "stream":
        assert got == body
    if use == "download":
        assert (tmp_path / "out").read_bytes() == body
        assert (got.bytes, got.etag, got.resumed) == (len(body), None, 0)
    assert len(storage.heads) == 1


@pytest.mark.parametrize("use", ["result", "download", "stream", "items"])
async def test_a_byte_order_mark_before_the_result_is_no_error(
    storage, answering, stored, tmp_path, use
):
    body = b"\xef\xbb\xbf" + b'{"extraction": [7], "metadata": {}}'
    storage.answers = [storage.reply(body)]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        if use == "items":
            async with fetcher.items(stored(storage.url()), "extraction.item") as items:
                got = [item async for item in items]
        else:
            got = await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    if use == "download":
        assert (tmp_path / "out").read_bytes() == body  # the bytes are never changed
    else:
        assert got == body if use == "stream" else getattr(got, "extraction", got) == [7]


async def test_a_stream_of_an_encoded_body_has_no_size(storage, answering, stored, result_body):
    encoded = gzip.compress(result_body())
    headers = ["Content-Encoding: gzip", 'ETag: "one"']
    storage.answers = [storage.reply(encoded, headers=headers)]
    async with (
        ResultFetcher(answering(), patience=0) as fetcher,
        fetcher.stream(stored(storage.url())) as stream,
    ):
        assert (stream.size, stream.etag) == (None, None)


async def test_a_broken_encoded_body_is_read_again_and_resumes(
    storage, answering, stored, result_body
):
    body = result_body(200_000)
    encoded = gzip.compress(body, 1)
    headers = ["Content-Encoding: gzip", 'ETag: "one"']
    half = storage.reply(encoded[: len(encoded) // 2], length=len(encoded), headers=headers)
    storage.answers = [half, half, storage.reply(encoded, headers=headers)]
    async with (
        ResultFetcher(answering(), patience=0) as fetcher,
        fetcher.stream(stored(storage.url())) as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == body
        assert stream.resumed == 2
    assert len(storage.heads) == 3


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("cut", [0, 1, 12, 100, -1, -8])
async def test_a_cut_encoded_body_is_never_complete(
    storage, answering, stored, result_body, tmp_path, cut, use
):
    encoded = gzip.compress(result_body())[:cut]
    storage.answers = [storage.reply(encoded, headers=["Content-Encoding: gzip"])]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        with pytest.raises(ResultTransferError, match="ended within") as caught:
            await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    assert caught.value.is_object_at_fault
    assert len(storage.heads) == 3
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("at", [0, 1, 30, -6, -1])
async def test_a_corrupted_encoded_body_is_malformed(storage, answering, stored, at):
    encoded = bytearray(gzip.compress(BODY))
    encoded[at] ^= 0xFF
    storage.answers = [storage.reply(bytes(encoded), headers=["Content-Encoding: gzip"])]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        with pytest.raises((ResultMalformedError, ResultTransferError)) as caught:
            await fetcher.result(stored(storage.url()))
    assert "encoding" in str(caught.value)


@pytest.mark.parametrize("use", ["download", "stream"])
async def test_a_decompression_bomb_raises_early(
    storage, answering, stored, tmp_path, monkeypatch, use
):
    monkeypatch.setattr(body_decoding, "_MAX_DECODED", 16 * MIB)
    bomb = gzip.compress(b'{"a":"' + b"0" * (64 * MIB))
    storage.answers = [storage.reply(bomb, headers=["Content-Encoding: gzip"])]
    most = 0

    def progress(count, _size):
        nonlocal most
        most = max(most, count)

    async with ResultFetcher(answering(attempts=1), patience=0) as fetcher:
        with pytest.raises(ResultMalformedError, match="decodes to more than"):  # noqa: PT012 - download or stream
            if use == "download":
                await fetcher.download(stored(storage.url()), tmp_path / "out", progress=progress)
            else:
                async with fetcher.stream(stored(storage.url())) as stream:
                    async for _ in stream:
                        most = stream.received
    assert most <= 16 * MIB
    assert [*tmp_path.iterdir()] == []


async def test_a_bomb_does_not_bypass_the_memory_limit(storage, answering, stored):
    bomb = gzip.compress(b'{"a":"' + b"0" * (8 * MIB))
    storage.answers = [storage.reply(bomb, headers=["Content-Encoding: gzip"])]
    async with ResultFetcher(answering(), patience=0, max_result_bytes=MIB) as fetcher:
        with pytest.raises(ResultTooLargeError):
            await fetcher.result(stored(storage.url()))
    assert len(storage.heads) == 1


async def test_an_encoded_page_is_not_a_result(storage, answering, stored):
    page = gzip.compress(b"<html>Sign in</html>")
    storage.answers = [storage.reply(page, headers=["Content-Encoding: gzip"])]
    async with ResultFetcher(answering(), patience=0) as fetcher:
        with pytest.raises(ResultMalformedError, match="expected an object"):
            await fetcher.result(stored(storage.url()))


# --- Whitespace and error pages -----------------------------------------------------------------


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("where", ["before", "after"])
async def test_endless_whitespace_is_not_a_result(storage, answering, stored, tmp_path, use, where):
    async def endless(_reader, writer):
        writer.write(storage.reply(b"" if where == "before" else BODY, length=None))
        while True:  # until the client disconnects
            writer.write(b" " * 10_000)
            await writer.drain()

    storage.answers = [endless]
    async with ResultFetcher(answering(attempts=1), patience=0) as fetcher:
        with pytest.raises(ResultMalformedError, match="endless whitespace"):
            await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


async def test_a_slow_error_page_is_not_waited_for(storage, answering, stored, leap):
    page = storage.reply(b"<Message>header", status="403 Forbidden", length=4_000)
    storage.answers = [endless(page, b".", leap)]
    async with ResultFetcher(answering(attempts=1), patience=0, read_timeout=LONG) as fetcher:
        with pytest.raises(ResultForbiddenError):
            await fetcher.result(stored(storage.url()))
    await storage.left_alone()


@pytest.mark.parametrize("cut", [None, -8], ids=["whole", "cut"])
async def test_the_error_in_a_compressed_page_is_read(storage, answering, stored, cut):
    page = gzip.compress(b"<Error><Code>ExpiredToken</Code><Message>it is old</Message></Error>")
    headers = ["Content-Encoding: gzip"]
    storage.answers = [storage.reply(page[:cut], status="400 Bad Request", headers=headers)]
    client = answering(stored(storage.url()), attempts=1)  # the URL is the same, so it has expired
    async with ResultFetcher(client, patience=0) as fetcher:
        with pytest.raises(ResultExpiredError, match="it is old"):
            await fetcher.result(stored(storage.url()))


@pytest.mark.parametrize("page", [b"\x1f\x8b", b"\x1f\x8b<Message>no gzip</Message>"])
async def test_a_page_that_only_seems_to_be_compressed_is_no_problem(
    storage, answering, stored, page
):
    storage.answers = [storage.reply(page, status="404 Not Found")]
    async with ResultFetcher(answering(attempts=1), patience=0) as fetcher:
        with pytest.raises(ResultRefusedError, match="404"):
            await fetcher.result(stored(storage.url()))


# --- Responses without end ------------------------------------------------------------------------


def endless(begin, part, leap):
    """Send `begin`, then `part` again and again, a tenth of every timeout apart."""

    async def send(_reader, writer):
        writer.write(begin)
        while True:  # until the client disconnects
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)  # in which the client, in the same loop, receives it
            leap(LONG / 10)

    return send


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize(
    ("begin", "part", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", "does not respond"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "does not respond"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 50, "does not respond"),
        (CHUNKED + b"1;x=", b"x", "stopped sending"),
        (CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: ", b"x", "stopped sending"),
    ],
    ids=["headers", "100", "103", "chunk extension", "trailer"],
)
async def test_a_response_whose_next_byte_never_comes_is_given_up(
    storage, answering, stored, leap, tmp_path, use, begin, part, message
):
    storage.answers = [endless(begin, part, leap)]
    client = answering(attempts=2)
    timeouts = {"connect_timeout": LONG, "read_timeout": LONG}
    options = timeouts | {"min_rate": 0, "patience": 0}
    async with ResultFetcher(client, **options) as fetcher:
        with pytest.raises(ResultTransferError, match=message):
            await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    asks_for_whole = use == "download" and message == "does not respond"
    assert len(storage.heads) == 2 + asks_for_whole
    assert [*tmp_path.iterdir()] == []
