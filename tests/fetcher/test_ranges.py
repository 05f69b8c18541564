"""A range of a result is the slice of its bytes, whatever the storage sends, or how it fails."""

from random import Random

import pytest
from rawstorage import LONG

from adepoll.api.kinds import v1_extract
from adepoll.errors import (
    ClosedError,
    ResultChangedError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultRangeError,
    ResultTransferError,
)

SIZE = 5_000


@pytest.fixture
def body(bucket, result_body):
    bucket.body = result_body(SIZE)
    return bucket.body


async def read(fetcher, job, **span):
    """Return the bytes of a range and its stream; check the offsets that the stream states."""
    async with fetcher.stream(job, **span) as stream:
        got = b"".join([chunk async for chunk in stream])
    assert stream.received == len(got)
    assert (stream.stop - stream.start) == len(got)
    return got, stream


# --- The bytes of a range -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop", "requested"),
    [
        (0, 100, [(0, 100)]),
        (100, 200, [(100, 200)]),
        (100, None, [(100, None)]),
        (100, 10**9, [(100, 10**9)]),
        (0, SIZE, [(0, SIZE)]),
        (SIZE - 1, None, [(SIZE - 1, None)]),
        (-1, None, [(0, 1), (SIZE - 1, None)]),
        (-100, None, [(0, 1), (SIZE - 100, None)]),
        (-(10**9), None, [(0, 1), (0, None)]),
        (0, None, [None]),
    ],
)
async def test_only_the_range_is_requested(bucket, body, fetch, stored, start, stop, requested):
    got, stream = await read(fetch(), stored(bucket.url()), start=start, stop=stop)
    assert got == body[start:stop]
    assert (stream.size, stream.etag) == (SIZE, '"one"')
    assert body[stream.start : stream.stop] == got
    assert [span if span != (0, None) else None for span in bucket.ranges] == [
        span if span != (0, None) else None for span in requested
    ]


@pytest.mark.parametrize("start", [-7, 0, 1, 700])
async def test_without_ranges_the_bytes_before_are_skipped(bucket, body, fetch, stored, start):
    bucket.gives_ranges = False
    stop = None if start < 0 else 900
    got, stream = await read(fetch(attempts=1), stored(bucket.url()), start=start, stop=stop)
    assert got == body[start:stop]
    assert stream.size == SIZE


async def test_a_range_states_its_offsets_before_the_first_byte(bucket, body, fetch, stored):
    async with fetch().stream(stored(bucket.url()), start=-10) as stream:
        stated = (stream.start, stream.stop, stream.size, stream.etag, stream.received)
    assert stated == (SIZE - 10, SIZE, SIZE, '"one"', 0)


async def test_a_whole_stream_is_the_range_of_all_bytes(bucket, body, fetch, stored):
    async with fetch().stream(stored(bucket.url())) as stream:
        assert (stream.start, stream.stop, stream.size) == (0, SIZE, SIZE)


@pytest.mark.parametrize("blank", ["before", "behind"])
async def test_a_range_of_whitespace_is_returned(bucket, body, fetch, stored, blank):
    bucket.body = b"   " + body if blank == "before" else body + b"   "
    span = {"start": 0, "stop": 2} if blank == "before" else {"start": -2}
    for gives_ranges in (True, False):
        bucket.gives_ranges = gives_ranges
        assert (await read(fetch(attempts=1), stored(bucket.url()), **span))[0] == b"  "


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (5, None), (-5, None), (3, 10**9)])
async def test_a_range_of_an_inline_result_is_a_slice(fetch, stored, result_body, start, stop):
    job = stored(data=v1_extract.decode_result(result_body(2_000)))
    whole, _ = await read(fetch(), job)
    got, stream = await read(fetch(), job, start=start, stop=stop)
    assert got == whole[start:stop]
    assert (stream.size, whole[stream.start : stream.stop]) == (len(whole), got)
    with pytest.raises(ResultRangeError) as caught:
        await read(fetch(), job, start=len(whole))
    assert (caught.value.size, caught.value.job_id) == (len(whole), "job-1")


async def test_any_range_is_the_slice_wherever_connections_break(
    bucket, fetch, stored, result_body
):
    rng = Random(7)
    fetcher = fetch(attempts=99)
    for number in range(120):
        bucket.body = result_body(rng.choice([300, 2_000, 70_000]))
        size = len(bucket.body)
        bucket.etag = rng.choice(['"one"', 'W/"one"', None, ""])
        bucket.gives_ranges = rng.random() < 0.7
        start = rng.choice([0, rng.randrange(size), -rng.randrange(1, 2 * size)])
        stop = rng.choice([None, rng.randrange(max(start, 0) + 1, 2 * size)])
        if start < 0:
            stop = None
        cuts = [
            bucket.give(rng.randrange(size), then=rng.choice(["close", "reset"])) for _ in range(3)
        ]
        bucket.answers = [*cuts, bucket.give()]
        got, stream = await read(
            fetcher, stored(bucket.url(f"/{number}.json")), start=start, stop=stop
        )
        assert got == bucket.body[start:stop], (number, start, stop)
        assert stream.size == size


# --- Failures -----------------------------------------------------------------------------------


async def test_a_range_resumes_at_the_first_unread_byte(bucket, body, fetch, stored):
    bucket.answers = [bucket.give(100, then="close"), bucket.give()]
    got, stream = await read(fetch(), stored(bucket.url()), start=1_000, stop=2_000)
    assert (got, stream.resumed) == (body[1_000:2_000], 1)
    assert bucket.ranges == [(1_000, 2_000), (1_100, 2_000)]
    assert bucket.requests[1]["if-match"] == '"one"'


@pytest.mark.parametrize("etag", [None, 'W/"one"', '"\x0b"'])
async def test_without_a_strong_etag_the_range_is_read_again_and_compared(
    bucket, body, fetch, stored, etag
):
    bucket.etag = etag
    bucket.answers = [bucket.give(100, then="close"), bucket.give()]
    got, _ = await read(fetch(), stored(bucket.url()), start=1_000, stop=2_000)
    assert got == body[1_000:2_000]
    assert bucket.ranges == [(1_000, 2_000)] * 2
    assert "if-match" not in bucket.requests[1]  # which never matches a weak ETag


@pytest.mark.parametrize("etag", [None, '"one"'])
async def test_an_object_replaced_meanwhile_ends_a_range(bucket, body, fetch, stored, etag):
    def change(_number):
        bucket.etag = etag and '"two"'
        bucket.body = body.replace(b"e", b"a")

    bucket.etag = etag
    bucket.answers = [bucket.give(100, then="close"), bucket.give(before=change)]
    with pytest.raises(ResultChangedError):
        await read(fetch(attempts=9), stored(bucket.url()), start=1_000, stop=2_000)


async def test_the_stated_size_and_etag_stay_true(bucket, body, fetch, stored):
    """A server has already sent the size to its own client by then."""

    def change(_number):
        bucket.etag, bucket.body = '"two"', body + b" "

    bucket.answers = [bucket.give(0, then="close"), bucket.give(before=change)]
    async with fetch().stream(stored(bucket.url()), start=1_000) as stream:
        stated = (stream.size, stream.etag)
        with pytest.raises(ResultChangedError):
            await anext(stream)
        assert (stream.size, stream.etag) == stated


async def test_the_end_of_a_range_within_the_result_may_be_any_byte(bucket, body, fetch, stored):
    bucket.body = body[:-2]  # cut, and sent as the whole
    got, _ = await read(fetch(), stored(bucket.url()), start=100, stop=4_000)
    assert got == body[100:4_000]
    for stop in (None, SIZE - 2, SIZE + 10):
        with pytest.raises(ResultTransferError, match="ended within") as caught:
            await read(fetch(), stored(bucket.url()), start=100, stop=stop)
        assert caught.value.is_object_at_fault


async def test_an_error_page_is_not_a_result_of_another_size(bucket, body, fetch, stored):
    page = bucket.reply(b"<html>wait</html>")
    for span in ({"start": 1_000}, {"stop": 10}, {"start": -9}):
        bucket.answers = [page, page, bucket.give()]
        got, stream = await read(fetch(), stored(bucket.url()), **span)
        assert got == body[slice(span.get("start"), span.get("stop"))]
        assert stream.size == SIZE
    bucket.answers = [page]
    with pytest.raises(ResultMalformedError):
        await read(fetch(), stored(bucket.url()), start=1_000)


async def test_unusable_ranges_make_it_request_the_whole(bucket, body, fetch, stored):
    nonsense = bucket.reply(
        body[:9], status="206 Partial Content", headers=[f"Content-Range: bytes 0-8/{SIZE}"]
    )
    bucket.answers = [nonsense, bucket.give()]
    got, _ = await read(fetch(), stored(bucket.url()), start=1_000, stop=1_100)
    assert got == body[1_000:1_100]
    assert bucket.ranges == [(1_000, 1_100), None]


def only_whole(bucket, respond):
    """Respond to requests of a range with `respond(reader, writer)`, to others with the object."""
    give = bucket.give()

    async def answer(reader, writer):
        return await (respond if bucket.ranges[-1] else give)(reader, writer)

    return [answer]


def reply(bucket, *arguments, **options):
    return bucket.keeping(bucket.reply(*arguments, **options))


REJECTIONS = {
    "416": lambda bucket: reply(bucket, status="416 No"),
    "416 of an empty object": lambda bucket: reply(
        bucket, status="416 No", headers=["Content-Range: bytes */0"]
    ),
    "416 of a larger object": lambda bucket: reply(
        bucket, status="416 No", headers=[f"Content-Range: bytes */{SIZE}"]
    ),
    "204": lambda bucket: reply(bucket, status="204 No Content", length=None),
    "304": lambda bucket: reply(bucket, status="304 Not Modified", length=None),
    "400": lambda bucket: reply(bucket, status="400 Bad Request"),
    "403": lambda bucket: reply(bucket, status="403 Forbidden"),
    "404": lambda bucket: reply(bucket, status="404 Not Found"),
    "405": lambda bucket: reply(bucket, status="405 Method Not Allowed"),
    "412": lambda bucket: reply(bucket, status="412 Precondition Failed"),
    "501": lambda bucket: reply(bucket, status="501 Not Implemented"),
    "206 without Content-Range": lambda bucket: reply(
        bucket, bucket.body[700:900], status="206 Partial Content"
    ),
    "multipart": lambda bucket: reply(
        bucket,
        b"--a\r\nContent-Range: bytes 700-899/5000\r\n\r\n{}\r\n--a--",
        status="206 Partial Content",
        headers=["Content-Type: multipart/byteranges; boundary=a"],
    ),
    "gzip": lambda bucket: reply(
        bucket,
        bucket.body[700:900],
        status="206 Partial Content",
        headers=["Content-Encoding: gzip", f"Content-Range: bytes 700-899/{SIZE}"],
    ),
}


@pytest.mark.parametrize("name", REJECTIONS)
async def test_where_a_range_is_rejected_the_whole_is_requested_immediately(
    bucket, body, fetch, stored, name
):
    bucket.answers = only_whole(bucket, REJECTIONS[name](bucket))
    got, stream = await read(fetch(attempts=1), stored(bucket.url()), start=700, stop=900)
    assert (got, stream.size) == (body[700:900], SIZE)
    assert bucket.ranges == [(700, 900), None]


def silent(bucket, leap):
    """Send nothing, for longer than any timeout."""

    async def hang(reader, _writer):
        await bucket.hang(reader, leap)

    return hang


async def close(_reader, _writer):
    return False


FAILURES = {
    "500": lambda bucket, _leap: reply(bucket, status="500 Oops"),
    "503": lambda bucket, _leap: reply(bucket, status="503 Slow Down"),
    "not HTTP": lambda bucket, _leap: reply(bucket, status="200\r\n: no name\r\n"),
    "closed": lambda _bucket, _leap: close,
    "silence": silent,
    "only headers": lambda bucket, leap: bucket.give(0, then="hang", leap=leap),
    "error page": lambda bucket, _leap: reply(bucket, b"<html>no</html>"),
}


@pytest.mark.parametrize("start", [700, -SIZE + 700])
@pytest.mark.parametrize("name", FAILURES)
async def test_where_only_ranges_fail_the_whole_is_requested(
    bucket, body, fetch, stored, leap, name, start
):
    bucket.answers = only_whole(bucket, FAILURES[name](bucket, leap))
    fetcher = fetch(patience=1_000, read_timeout=LONG / 2, connect_timeout=LONG / 2)
    got, stream = await read(fetcher, stored(bucket.url()), start=start)
    assert (got, stream.size) == (body[700:], SIZE)
    assert bucket.ranges[-1] is None


async def test_a_stream_whose_later_ranges_stall_is_continued_from_the_whole(
    bucket, body, fetch, stored, leap
):
    only_later = only_whole(bucket, silent(bucket, leap))
    bucket.answers = [bucket.give(1_000, then="close"), *only_later]
    fetcher = fetch(patience=1_000, read_timeout=LONG / 2, connect_timeout=LONG / 2)
    got, _ = await read(fetcher, stored(bucket.url()))
    assert got == body
    assert {*bucket.ranges[1:]} == {(1_000, None), None}


async def test_an_outage_is_waited_for_and_then_the_range_is_requested(bucket, body, fetch, stored):
    down = bucket.keeping(bucket.reply(status="503 Slow Down"))
    bucket.answers = [down, down, down, bucket.give()]
    got, _ = await read(fetch(patience=60), stored(bucket.url()), start=700, stop=900)
    assert got == body[700:900]
    assert bucket.ranges == [(700, 900), (700, 900), None, (700, 900)]


async def test_a_range_without_a_stated_size_is_counted(bucket, body, fetch, stored):
    bucket.answers = [bucket.reply(body, length=None)]
    async with fetch().stream(stored(bucket.url()), start=100, stop=300) as stream:
        assert (stream.size, stream.stop) == (None, None)
        assert b"".join([chunk async for chunk in stream]) == body[100:300]
    got, stream = await read(fetch(), stored(bucket.url()), start=-100)
    assert (got, stream.size) == (body[-100:], SIZE)


@pytest.mark.parametrize("how", ["ETags differ", "no condition is met", "no size"])
async def test_the_last_bytes_are_read_from_the_whole_if_a_condition_fails(
    bucket, body, fetch, stored, how
):
    """The request for the size and the next one may reach replicas with different ETags."""
    if how == "no condition is met":
        bucket.answers = [bucket.give(), bucket.reply(status="412 No"), bucket.give()]
    elif how == "no size":
        bucket.answers = [
            *[bucket.reply(body, length=None, headers=['ETag: "one"'])] * 2,
            bucket.reply(status="412 No"),
            bucket.reply(body, length=None, headers=['ETag: "two"']),
        ]
    else:
        bucket.answers = [bucket.give(before=lambda number: setattr(bucket, "etag", f'"{number}"'))]
    got, stream = await read(fetch(), stored(bucket.url()), start=-100)
    assert (got, stream.size) == (body[-100:], SIZE)
    assert bucket.ranges[-1] is None


async def test_the_last_bytes_of_a_result_of_another_size_are_not_read(
    bucket, body, result_body, fetch, stored
):
    def replace(_number):
        bucket.body, bucket.etag = result_body(SIZE + 1), '"two"'

    bucket.answers = [bucket.give(), bucket.give(before=replace)]
    with pytest.raises(ResultChangedError):
        await read(fetch(), stored(bucket.url()), start=-100)
    assert bucket.ranges == [(0, 1), (SIZE - 100, None), None]


# --- Out of bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [SIZE, SIZE + 1, 10**9])
@pytest.mark.parametrize("kind", ["ranges", "whole", "no size", "416 without a size"])
async def test_a_range_after_the_end_raises_with_the_size(bucket, body, fetch, stored, start, kind):
    bucket.gives_ranges = kind == "ranges"
    if kind == "no size":
        bucket.answers = [bucket.reply(body, length=None)]
    if kind == "416 without a size":
        bucket.answers = [bucket.reply(status="416 No"), bucket.give()]
    with pytest.raises(ResultRangeError) as caught:
        await read(fetch(attempts=1), stored(bucket.url()), start=start)
    error = caught.value
    assert (error.job_id, error.start, error.size) == ("job-1", start, SIZE)
    assert not error.transient


async def test_a_cut_before_the_range_is_not_the_size(bucket, body, fetch, stored):
    bucket.answers = [bucket.reply(body[:300], length=None), bucket.give()]
    got, _ = await read(fetch(), stored(bucket.url()), start=1_000)
    assert got == body[1_000:]
    bucket.answers = [bucket.reply(body[:300], length=None)]
    with pytest.raises(ResultTransferError, match="ended within") as caught:
        await read(fetch(attempts=1), stored(bucket.url()), start=1_000)
    assert caught.value.received == 300


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (5, 4), (0, 0), (-5, 3), (-5, -1), (0, -1)])
async def test_an_invalid_range_raises_before_any_request(bucket, fetch, stored, start, stop):
    with pytest.raises(ValueError, match="not a range"):
        await read(fetch(), stored(bucket.url()), start=start, stop=stop)
    with pytest.raises(TypeError):
        await read(fetch(), stored(bucket.url()), start=1.5)
    assert bucket.heads == []


# --- Statistics ---------------------------------------------------------------------------------


async def test_transfers_are_counted_by_outcome(bucket, body, fetch, stored, tmp_path):
    fetcher, job = fetch(), stored(bucket.url())

    def counts():
        stats = fetcher.stats
        return stats.in_flight, stats.finished, stats.failed, stats.abandoned

    assert counts() == (0, 0, 0, 0)
    async with fetcher.stream(job) as stream:
        assert counts() == (1, 0, 0, 0)
        async for _ in stream:
            pass
    assert counts() == (0, 1, 0, 0)
    await fetcher.result(job)
    await fetcher.download(job, tmp_path / "a.json")
    assert counts() == (0, 3, 0, 0)
    async with fetcher.stream(job):
        pass
    with pytest.raises(RuntimeError):
        async with fetcher.stream(job):
            raise RuntimeError  # an error of the caller
    assert counts() == (0, 3, 0, 2)
    with pytest.raises(ResultRangeError):
        await read(fetcher, job, start=SIZE)
    bucket.answers = [bucket.give(100, then="close"), bucket.reply(status="403 Forbidden")]
    async with fetcher.stream(job) as stream:
        with pytest.raises(ResultForbiddenError):
            [chunk async for chunk in stream]
    assert counts() == (0, 3, 2, 2)
    await fetcher.aclose()
    with pytest.raises(ClosedError):
        await fetcher.result(job)
    assert counts() == (0, 3, 3, 2)


async def test_bytes_are_counted_as_they_arrive_including_repeated_ones(
    bucket, body, fetch, stored
):
    bucket.etag = None
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give()]
    fetcher = fetch()
    async with fetcher.stream(stored(bucket.url())) as stream:
        await anext(stream)
        assert 0 < fetcher.stats.bytes_received <= 1_000
        async for _ in stream:
            pass
        assert fetcher.stats.bytes_received == 1_000 + SIZE
    assert fetcher.stats.bytes_received == 1_000 + SIZE
    assert fetcher.stats.resumed == 1


async def test_a_response_without_a_body_counts_no_bytes(bucket, body, fetch, stored):
    bucket.answers = [bucket.reply(), bucket.give()]
    fetcher = fetch()
    await fetcher.result(stored(bucket.url()))
    assert fetcher.stats.bytes_received == SIZE


async def test_renewed_urls_are_counted(bucket, body, fetch, stored):
    expired = bucket.reply(b"<Message>Request has expired</Message>", status="403 Forbidden")
    bucket.answers = [expired, bucket.give()]
    fetcher = fetch(stored(bucket.url("/fresh.json")))
    await fetcher.result(stored(bucket.url()))
    assert (fetcher.stats.renewed_urls, fetcher.stats.resumed) == (1, 0)
