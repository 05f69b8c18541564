"""A result is passed on as HTTP has it: the whole, a range or 416, and one version of it alone."""

import asyncio

import pytest

from adepoll.api.kinds import v1_extract
from adepoll.errors import ResultChangedError, ResultForbiddenError, ResultNotReadyError
from adepoll.server.result_responses import reply_with_result

SIZE = 5_000
ETAG = '"one"'


@pytest.fixture
def body(bucket, result_body):
    bucket.body = result_body(SIZE)
    return bucket.body


async def ask(fetcher, job, range_header=None, *, if_range=None, method="GET"):
    """Give status, headers and body of the answer; and see that they agree."""
    async with reply_with_result(
        fetcher, job, method=method, range_header=range_header, if_range=if_range
    ) as reply:
        got = b"".join([chunk async for chunk in reply.chunks])
        assert b"".join([chunk async for chunk in reply.chunks]) == b""
    if method == "GET" and "Content-Length" in reply.headers:
        assert int(reply.headers["Content-Length"]) == len(got)
    assert reply.headers["Content-Type"] == "application/json"
    return reply.status, reply.headers, got


async def test_the_whole_is_passed_on_with_its_size_and_tag(bucket, body, fetch, stored):
    status, headers, got = await ask(fetch(), stored(bucket.url()))
    assert (status, got) == (200, body)
    assert headers["ETag"] == ETAG
    assert headers["Accept-Ranges"] == "bytes"
    assert len(bucket.heads) == 1


@pytest.mark.parametrize(
    ("header", "start", "stop", "requests"),
    [
        ("bytes=0-", 0, SIZE, 1),
        ("bytes=100-199", 100, 200, 1),
        ("bytes=4000-99999", 4_000, SIZE, 1),
        ("bytes=-100", SIZE - 100, SIZE, 2),  # the size must be known first
        ("bytes=-99999", 0, SIZE, 2),
    ],
)
@pytest.mark.parametrize("if_range", [None, ETAG])
async def test_a_range_is_passed_on_as_a_range(
    bucket, body, fetch, stored, header, start, stop, requests, if_range
):
    status, headers, got = await ask(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (206, body[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert len(bucket.heads) == requests


async def test_a_storage_without_ranges_has_them_all_the_same(bucket, body, fetch, stored):
    bucket.gives_ranges = False
    status, headers, got = await ask(fetch(), stored(bucket.url()), "bytes=100-199")
    assert (status, got) == (206, body[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{SIZE}"


@pytest.mark.parametrize("header", ["bytes=0-0,5-6", "bytes=9-1", "lines=1-2", "nonsense"])
async def test_what_is_no_single_range_gets_the_whole(bucket, body, fetch, stored, header):
    assert (await ask(fetch(), stored(bucket.url()), header))[::2] == (200, body)
    assert bucket.ranges == [None]


@pytest.mark.parametrize("if_range", ['"old"', 'W/"one"', "Sat, 29 Oct 1994 19:43:31 GMT"])
@pytest.mark.parametrize("header", ["bytes=100-199", "bytes=0-", "bytes=-5", "bytes=9999-"])
async def test_a_range_of_another_version_gets_the_whole(
    bucket, body, fetch, stored, header, if_range
):
    status, headers, got = await ask(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (200, body)
    assert "Content-Range" not in headers


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=99999-", "bytes=-0"])
@pytest.mark.parametrize("if_range", [None, ETAG])
async def test_what_is_not_there_is_416_with_the_size(
    bucket, body, fetch, stored, header, if_range
):
    status, headers, got = await ask(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{SIZE}"


async def test_head_is_told_the_size_for_one_byte(bucket, body, fetch, stored):
    status, headers, got = await ask(fetch(), stored(bucket.url()), "bytes=5-9", method="HEAD")
    assert (status, got) == (200, b"")
    assert (headers["Content-Length"], headers["ETag"]) == (str(SIZE), ETAG)
    assert bucket.ranges == [(0, 1)]


@pytest.mark.parametrize("header", [None, "bytes=100-199", "bytes=-100"])
async def test_of_a_size_that_nobody_tells_the_whole_is_passed_on(
    bucket, body, fetch, stored, header
):
    bucket.answers = [bucket.reply(body, length=None)]
    status, headers, got = await ask(fetch(), stored(bucket.url()), header)
    if header == "bytes=-100":  # it was counted
        assert (status, got) == (206, body[-100:])
    else:
        assert (status, got) == (200, body)
        assert "Content-Length" not in headers


async def test_a_result_that_came_inline_has_ranges_too(fetch, stored, result_body):
    job = stored(data=v1_extract.decode_result(result_body(2_000)))
    _, _, whole = await ask(fetch(), job)
    assert (await ask(fetch(), job, "bytes=5-9"))[::2] == (206, whole[5:10])
    assert (await ask(fetch(), job, f"bytes={len(whole)}-"))[0] == 416
    # It has no tag, so that nobody can say that two of them are the same.
    assert (await ask(fetch(), job, "bytes=5-9", if_range=ETAG))[::2] == (200, whole)


async def test_what_keeps_a_result_away_is_raised_before_there_is_a_status(bucket, fetch, stored):
    bucket.answers = [bucket.reply(status="403 Forbidden")]
    with pytest.raises(ResultForbiddenError):
        await ask(fetch(), stored(bucket.url()))
    with pytest.raises(ResultNotReadyError):
        await ask(fetch(), stored(status="processing"))


async def test_the_headers_are_those_of_the_object_that_is_sent(bucket, body, fetch, stored):
    """It was replaced before its first byte came."""

    def change(_number):
        bucket.etag, bucket.body = '"two"', body + b" "

    bucket.answers = [bucket.give(0, then="close"), bucket.give(before=change)]
    status, headers, got = await ask(fetch(), stored(bucket.url()))
    assert (status, headers["ETag"], got) == (200, '"two"', bucket.body)


async def test_no_bytes_of_another_object_are_sent_under_those_headers(bucket, body, fetch, stored):
    def change(_number):
        bucket.etag = '"two"'

    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(before=change)]
    async with reply_with_result(fetch(), stored(bucket.url())) as reply:
        got = await anext(reply.chunks)
        with pytest.raises(ResultChangedError):
            [chunk async for chunk in reply.chunks]
    assert body.startswith(got)


async def test_who_leaves_leaves_no_connection_behind(bucket, fetch, stored, result_body):
    bucket.body = result_body(4 * 2**20)
    before = asyncio.all_tasks()
    async with reply_with_result(fetch(), stored(bucket.url()), range_header="bytes=5-") as reply:
        await anext(reply.chunks)
    await bucket.left_alone()
    assert asyncio.all_tasks() == before


async def test_a_reply_does_not_show_what_it_sends(bucket, body, fetch, stored):
    async with reply_with_result(fetch(), stored(bucket.url() + "?sig=CaNaRy")) as reply:
        assert "CaNaRy" not in repr(reply)
        assert "Content-Length" in repr(reply)
