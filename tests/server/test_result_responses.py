"""A result is sent as HTTP requires: as a whole, a range, 304 or 416, and in one version."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll import AdeClient, JobKind, JobRef, ResultFetcher
from adepoll.api.kinds import v1_extract
from adepoll.emulator import JobPlan
from adepoll.errors import ResultChangedError, ResultForbiddenError, ResultNotReadyError
from adepoll.server.result_responses import _matches, attachment, reply_with_result

SIZE = 5_000
ETAG = '"one"'


@pytest.fixture
def body(bucket, result_body):
    bucket.body = result_body(SIZE)
    return bucket.body


async def request(fetcher, job, range_header=None, *, if_range=None, method="GET"):
    """Return status, headers and body of the response, after checks that they agree."""
    async with reply_with_result(
        fetcher, job, method=method, range_header=range_header, if_range=if_range
    ) as reply:
        got = b"".join([chunk async for chunk in reply.chunks])
        assert reply.has_body == bool(got)
        assert b"".join([chunk async for chunk in reply.chunks]) == b""
    if method == "GET" and "Content-Length" in reply.headers:
        assert int(reply.headers["Content-Length"]) == len(got)
    assert reply.headers["Content-Type"] == "application/json"
    return reply.status, reply.headers, got


async def test_the_whole_result_is_sent_with_its_size_and_etag(bucket, body, fetch, stored):
    status, headers, got = await request(fetch(), stored(bucket.url()))
    assert (status, got) == (200, body)
    assert headers["ETag"] == ETAG
    assert headers["Accept-Ranges"] == "bytes"
    assert len(bucket.heads) == 1


async def test_a_reference_keeps_its_kind(ade):
    job_id = ade.submit(JobPlan(processing_time=0.0))
    async with (
        AdeClient(ade.api_key, base_url=ade.base_url, kind=JobKind.V1_PARSE) as client,
        ResultFetcher(client) as fetcher,
    ):
        status, _, got = await request(fetcher, JobRef(job_id, kind=JobKind.V1_EXTRACT))
    assert (status, got) == (200, ade.world.result(job_id).read())


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
async def test_a_range_is_sent_with_status_206(
    bucket, body, fetch, stored, header, start, stop, requests, if_range
):
    status, headers, got = await request(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (206, body[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert len(bucket.heads) == requests


async def test_ranges_work_with_a_storage_that_ignores_them(bucket, body, fetch, stored):
    bucket.gives_ranges = False
    status, headers, got = await request(fetch(), stored(bucket.url()), "bytes=100-199")
    assert (status, got) == (206, body[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{SIZE}"


@pytest.mark.parametrize("header", ["bytes=0-0,5-6", "bytes=9-1", "lines=1-2", "nonsense"])
async def test_several_ranges_or_an_invalid_range_get_the_whole_result(
    bucket, body, fetch, stored, header
):
    assert (await request(fetch(), stored(bucket.url()), header))[::2] == (200, body)
    assert bucket.ranges == [None]


@pytest.mark.parametrize("if_range", ['"old"', 'W/"one"', "Sat, 29 Oct 1994 19:43:31 GMT"])
@pytest.mark.parametrize("header", ["bytes=100-199", "bytes=0-", "bytes=-5", "bytes=9999-"])
async def test_a_range_of_another_version_gets_the_whole_result(
    bucket, body, fetch, stored, header, if_range
):
    status, headers, got = await request(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (200, body)
    assert "Content-Range" not in headers


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=99999-", "bytes=-0"])
@pytest.mark.parametrize("if_range", [None, ETAG])
async def test_an_unsatisfiable_range_gets_416_with_the_size(
    bucket, body, fetch, stored, header, if_range
):
    status, headers, got = await request(fetch(), stored(bucket.url()), header, if_range=if_range)
    assert (status, got) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{SIZE}"


async def test_head_requests_one_byte_to_learn_the_size(bucket, body, fetch, stored):
    status, headers, got = await request(fetch(), stored(bucket.url()), "bytes=5-9", method="HEAD")
    assert (status, got) == (200, b"")
    assert (headers["Content-Length"], headers["ETag"]) == (str(SIZE), ETAG)
    assert bucket.ranges == [(0, 1)]


@pytest.mark.parametrize("header", [None, "bytes=100-199", "bytes=-100"])
async def test_a_result_of_unknown_size_is_sent_whole(bucket, body, fetch, stored, header):
    bucket.answers = [bucket.reply(body, length=None)]
    status, headers, got = await request(fetch(), stored(bucket.url()), header)
    if header == "bytes=-100":  # the bytes were counted
        assert (status, got) == (206, body[-100:])
    else:
        assert (status, got) == (200, body)
        assert "Content-Length" not in headers


async def test_an_inline_result_supports_ranges(fetch, stored, result_body):
    job = stored(data=v1_extract.decode_result(result_body(2_000)))
    _, _, whole = await request(fetch(), job)
    assert (await request(fetch(), job, "bytes=5-9"))[::2] == (206, whole[5:10])
    assert (await request(fetch(), job, f"bytes={len(whole)}-"))[0] == 416
    # An inline result has no ETag, so If-Range cannot match.
    assert (await request(fetch(), job, "bytes=5-9", if_range=ETAG))[::2] == (200, whole)


async def test_an_error_of_the_result_is_raised_before_a_status_is_sent(bucket, fetch, stored):
    bucket.answers = [bucket.reply(status="403 Forbidden")]
    with pytest.raises(ResultForbiddenError):
        await request(fetch(), stored(bucket.url()))
    with pytest.raises(ResultNotReadyError):
        await request(fetch(), stored(status="processing"))


async def test_the_headers_belong_to_an_object_replaced_before_its_first_byte(
    bucket, body, fetch, stored
):

    def change(_number):
        bucket.etag, bucket.body = '"two"', body + b" "

    bucket.answers = [bucket.give(0, then="close"), bucket.give(before=change)]
    status, headers, got = await request(fetch(), stored(bucket.url()))
    assert (status, headers["ETag"], got) == (200, '"two"', bucket.body)


async def test_an_object_replaced_after_its_first_byte_raises_and_is_not_mixed(
    bucket, body, fetch, stored
):
    def change(_number):
        bucket.etag = '"two"'

    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(before=change)]
    async with reply_with_result(fetch(), stored(bucket.url())) as reply:
        got = await anext(reply.chunks)
        with pytest.raises(ResultChangedError):
            [chunk async for chunk in reply.chunks]
    assert body.startswith(got)


async def test_leaving_the_reply_early_closes_the_connection_to_the_storage(
    bucket, fetch, stored, result_body
):
    bucket.body = result_body(4 * 2**20)
    before = asyncio.all_tasks()
    async with reply_with_result(fetch(), stored(bucket.url()), range_header="bytes=5-") as reply:
        await anext(reply.chunks)
    await bucket.left_alone()
    assert asyncio.all_tasks() == before


async def test_the_repr_of_a_reply_shows_no_url(bucket, body, fetch, stored):
    async with reply_with_result(fetch(), stored(bucket.url() + "?sig=CaNaRy")) as reply:
        assert "CaNaRy" not in repr(reply)
        assert "Content-Length" in repr(reply)


@given(st.text(max_size=400))
def test_any_file_name_makes_a_header_of_one_line(name):
    header = attachment(name)
    assert re.fullmatch(r'attachment; filename="[\w.-]*"(; filename\*=UTF-8\'\'[\w.%~-]*)?', header)
    assert header.isascii()


@pytest.mark.parametrize(
    ("header", "etag", "matches"),
    [
        ('"a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"b", "a"', 'W/"a"', True),
        ("*", '"a"', True),
        ('"b", "a,c"', '"a,c"', True),
        ('"a,c"', '"c"', False),
        ('"b"', '"a"', False),
        ("*", None, False),
        (None, '"a"', False),
    ],
)
def test_if_none_match_also_matches_weak_etags(header, etag, matches):
    assert _matches(header, etag) == matches


@pytest.mark.parametrize("header", [None, "bytes=0-9"])
async def test_a_version_that_the_client_has_gets_304_without_a_body(
    bucket, body, fetch, stored, header
):
    opening = reply_with_result(
        fetch(), stored(bucket.url()), range_header=header, if_none_match=ETAG
    )
    async with opening as reply:
        assert (reply.status, reply.has_body) == (304, False)
        assert [chunk async for chunk in reply.chunks] == []
        assert reply.headers["ETag"] == ETAG
        assert reply.headers.keys().isdisjoint({"Content-Length", "Content-Range"})


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_head_gets_the_headers_and_no_body(bucket, body, fetch, stored, method, has_body):
    async with reply_with_result(fetch(), stored(bucket.url()), method=method) as reply:
        assert reply.status == 200
        assert int(reply.headers["Content-Length"]) == SIZE
        assert reply.headers["Content-Disposition"] == 'attachment; filename="job-1.json"'
        assert reply.headers["Cache-Control"] == "private, no-cache"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.has_body == has_body
