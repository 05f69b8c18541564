"""A stream resumes at the first unread byte, or raises; it never mixes objects."""

import asyncio
import hashlib

import pytest
from fuzzing import counted_calls
from rawstorage import LONG, pass_time
from streams import collect

from adepoll.errors import (
    ResultChangedError,
    ResultMalformedError,
    ResultRefusedError,
    ResultServerError,
    ResultTransferError,
)

MIB = 2**20
SIZE = 5_000


@pytest.fixture
def body(bucket, result_body):
    bucket.body = result_body(SIZE)
    return bucket.body


def other_of(body):
    """Return another result of the same length."""
    return body.replace(b"invoice", b"receipt").replace(b"e", b"a")


async def read_all(fetcher, job):
    """Return the bytes, the number of resumptions, and the error at the end or None."""
    got, stream = b"", None
    try:
        async with fetcher.stream(job) as stream:
            async for chunk in stream:
                got += chunk
    except Exception as error:  # noqa: BLE001 - returned to the test
        assert stream is None or stream.received == len(got)
        return got, 0 if stream is None else stream.resumed, error
    return got, stream.resumed, None


async def test_many_members_of_a_result_take_little_work(bucket, fetch, stored):
    """The bytes are scanned in the event loop, so reading each member would block it."""
    members = 50_000
    bucket.body = b'{"extraction":[1]%b}' % (b',"a":[1]' * members)
    with counted_calls() as count:
        got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert (got, error) == (bucket.body, None)
    assert count() < members


# --- With a strong ETag -------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("cut", [1, 1_000, SIZE - 1])
async def test_a_stream_resumes_at_the_first_unread_byte(bucket, body, fetch, stored, cut, then):
    bucket.answers = [bucket.give(cut, then=then), bucket.give()]
    got, resumed, error = await read_all(fetch(), stored(bucket.url()))
    assert (got, error) == (body, None)
    assert resumed <= 1
    reached = bucket.ranges[1]
    if then == "close":
        assert reached == (cut, None)
    if reached is not None:
        assert bucket.requests[1]["if-match"] == bucket.requests[1]["if-range"] == '"one"'
    assert len(bucket.heads) == 2


async def test_each_request_may_break_while_attempts_are_left(bucket, body, fetch, stored):
    bucket.answers = [bucket.give(1_000, then="close"), *[bucket.give(700, then="close")] * 6]
    got, resumed, error = await read_all(fetch(attempts=99), stored(bucket.url()))
    assert (got, resumed, error) == (body, 6, None)
    assert bucket.ranges == [None, *[(1_000 + 700 * n, None) for n in range(6)]]


async def test_a_replaced_object_ends_the_stream_immediately(bucket, body, fetch, stored):
    def change(_number):
        bucket.etag, bucket.body = '"two"', other_of(body)

    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(before=change)]
    got, _, error = await read_all(fetch(attempts=9), stored(bucket.url()))
    assert isinstance(error, ResultChangedError)
    assert (error.received, got) == (1_000, body[:1_000])
    assert "read the result again" in str(error)
    assert error.__cause__ is None
    assert not error.transient
    assert len(bucket.heads) == 2


@pytest.mark.parametrize("how", ["412", "200", "206", "size"])
async def test_a_replaced_object_is_recognised_in_any_response(bucket, body, fetch, stored, how):
    """Some storages support If-Match, some only If-Range, and some neither."""
    other = {
        "412": bucket.reply(status="412 Precondition Failed"),
        "200": bucket.reply(other_of(body), headers=['ETag: "two"']),
        "206": bucket.reply(
            other_of(body)[1_000:],
            status="206 Partial Content",
            headers=['ETag: "two"', f"Content-Range: bytes 1000-{SIZE - 1}/{SIZE}"],
        ),
        "size": bucket.reply(
            other_of(body)[1_000:-1],
            status="206 Partial Content",
            headers=['ETag: "one"', f"Content-Range: bytes 1000-{SIZE - 2}/{SIZE - 1}"],
        ),
    }[how]
    assert len(body) == SIZE
    bucket.answers = [bucket.give(1_000, then="close"), other]
    got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert isinstance(error, ResultChangedError)
    assert got == body[:1_000]


async def test_before_the_first_byte_another_object_is_accepted(bucket, body, fetch, stored):
    def change(_number):
        bucket.etag, bucket.body = '"two"', body + b" "

    bucket.answers = [bucket.give(0, then="close"), bucket.give(before=change)]
    async with fetch().stream(stored(bucket.url())) as stream:
        assert (stream.size, stream.etag) == (SIZE + 1, '"two"')
        assert await collect(stream) == bucket.body
        assert stream.resumed == 0  # reading again is not a resumption
    assert bucket.ranges == [None, None]


async def test_a_result_for_memory_is_read_again_when_it_was_replaced(
    bucket, body, fetch, stored, result_body
):
    """The caller has no byte yet."""

    def change(_number):
        bucket.etag, bucket.body = '"two"', result_body(2 * SIZE)

    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(before=change), bucket.give()]
    assert (await fetch().result(stored(bucket.url()))).metadata.job_id == "job-1"
    assert bucket.ranges == [None, (1_000, None), None]


async def test_a_result_for_memory_that_always_changes_is_given_up(bucket, body, fetch, stored):
    def change(number):
        bucket.etag = f'"{number}"'

    bucket.answers = [bucket.give(1_000, then="close", before=change)]
    with pytest.raises(ResultTransferError, match="changed") as caught:
        await fetch(attempts=4).result(stored(bucket.url()))
    assert caught.value.is_object_at_fault
    assert len(bucket.heads) < 12


async def test_the_whole_instead_of_a_range_is_skipped_to_the_first_byte(
    bucket, body, fetch, stored
):
    bucket.gives_ranges = False
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(700, then="close")]
    bucket.answers += [bucket.give(3_000, then="close"), bucket.give()]
    got, resumed, error = await read_all(fetch(attempts=9), stored(bucket.url()))
    assert (got, error) == (body, None)
    assert resumed == 2  # the request that broke before that byte did not resume
    assert bucket.ranges == [None, (1_000, None), (1_000, None), (3_000, None)]


async def test_unusable_ranges_make_the_stream_request_the_whole(bucket, body, fetch, stored):
    nonsense = bucket.reply(
        body[:9], status="206 Partial Content", headers=[f"Content-Range: bytes 0-8/{SIZE}"]
    )
    bucket.answers = [bucket.give(1_000, then="close"), nonsense, bucket.give()]
    got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert (got, error) == (body, None)
    assert bucket.ranges == [None, (1_000, None), None]


async def test_a_later_response_without_an_etag_is_not_the_same_object(bucket, body, fetch, stored):
    bucket.answers = [bucket.give(1_000, then="close"), bucket.reply(body)]
    got, _, error = await read_all(fetch(attempts=9), stored(bucket.url()))
    assert isinstance(error, ResultChangedError)
    assert got == body[:1_000]


async def test_a_range_with_status_200_continues_the_stream(bucket, body, fetch, stored):
    rest = bucket.reply(body[1_000:], headers=[f"Content-Range: bytes 1000-{SIZE - 1}/{SIZE}"])
    bucket.answers = [bucket.give(1_000, then="close"), rest]
    got, resumed, error = await read_all(fetch(), stored(bucket.url()))
    assert (got, resumed, error) == (body, 1, None)
    assert bucket.ranges == [None, (1_000, None)]


async def test_an_unstated_size_is_confirmed_by_416_at_the_end(bucket, body, fetch, stored):
    """The connection broke after the last byte, and no chunk was marked as the last one."""
    headers = ["Transfer-Encoding: chunked", 'ETag: "one"']
    endless = b"%x\r\n%b\r\n" % (len(body), body)
    bucket.answers = [bucket.reply(length=None, headers=headers) + endless, bucket.give()]
    async with fetch().stream(stored(bucket.url())) as stream:
        assert stream.size is None
        assert await collect(stream) == body
    assert bucket.ranges == [None, (SIZE, None)]


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [("bytes */4000", ResultChangedError), ("bytes */6000", ResultRefusedError)],
)
async def test_416_elsewhere_is_not_the_end(bucket, body, fetch, stored, content_range, expected):
    headers = ["Transfer-Encoding: chunked", 'ETag: "one"']
    endless = b"%x\r\n%b\r\n" % (len(body), body)
    refused = bucket.reply(status="416 No", headers=[f"Content-Range: {content_range}"])
    bucket.answers = [bucket.reply(length=None, headers=headers) + endless, refused]
    got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert got == body
    assert type(error) is expected
    assert bucket.ranges == [None, (len(body), None), *[None] * (expected is ResultRefusedError)]


# --- Without a strong ETag ----------------------------------------------------------------------


@pytest.mark.parametrize("etag", [None, 'W/"one"', ""])
async def test_without_a_strong_etag_read_bytes_are_read_again_and_compared(
    bucket, body, fetch, stored, etag
):
    bucket.etag = etag
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(3_000, then="close")]
    bucket.answers.append(bucket.give())
    got, resumed, error = await read_all(fetch(), stored(bucket.url()))
    assert (got, resumed, error) == (body, 2, None)
    assert bucket.ranges == [None] * 3  # a range of a possibly different object is useless


@pytest.mark.parametrize("etag", [None, 'W/"one"', ""])
async def test_without_a_strong_etag_another_beginning_is_another_object(
    bucket, body, fetch, stored, etag
):
    def change(_number):
        bucket.body = other_of(body)

    assert other_of(body)[:1_000] != body[:1_000]
    bucket.etag = etag
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(before=change)]
    got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert isinstance(error, ResultChangedError)
    assert got == body[:1_000]


async def test_without_an_etag_a_shorter_object_is_another(bucket, body, fetch, stored):
    def change(_number):
        bucket.body = b"{}"

    bucket.etag = None
    bucket.answers = [
        bucket.reply(body[:1_000], length=None),
        bucket.give(before=change),
    ]
    got, _, error = await read_all(fetch(), stored(bucket.url()))
    assert isinstance(error, ResultChangedError)
    assert got == body[:1_000]


async def test_without_a_size_an_earlier_cut_is_not_another_object(bucket, body, fetch, stored):
    """A body without a stated size can be cut anywhere, and nothing in it shows that."""
    bucket.etag = None
    bucket.answers = [bucket.reply(body[:cut], length=None) for cut in (1_000, 900, 1, 1_001)]
    bucket.answers.append(bucket.give())
    got, _, error = await read_all(fetch(attempts=9), stored(bucket.url()))
    assert (got, error) == (body, None)
    bucket.answers = [bucket.reply(body[:cut], length=None) for cut in (1_000, 900)]
    _, _, error = await read_all(fetch(attempts=2), stored(bucket.url()))
    assert (error.received, error.is_object_at_fault) == (900, True)


async def test_a_large_beginning_is_compared_completely_in_constant_memory(
    bucket, fetch, stored, result_body
):
    bucket.etag, bucket.body = None, result_body(6 * MIB)
    bucket.answers = [bucket.give(4 * MIB, then="close"), bucket.give()]
    digest = hashlib.sha256()
    async with fetch().stream(stored(bucket.url())) as stream:
        async for chunk in stream:
            assert len(chunk) <= MIB
            digest.update(chunk)
    assert digest.hexdigest() == hashlib.sha256(bucket.body).hexdigest()


# --- Storages without progress ------------------------------------------------------------------


async def test_a_stream_resumes_after_silence(bucket, body, fetch, stored, leap):
    bucket.answers = [bucket.give(1_000, then="hang", leap=leap), bucket.give()]
    got, resumed, error = await read_all(fetch(read_timeout=LONG), stored(bucket.url()))
    assert (got, resumed, error) == (body, 1, None)
    assert bucket.ranges == [None, (1_000, None)]


def trickling(bucket, body, leap):
    """Return a response whose bytes are a tenth of a timeout apart."""

    async def trickle(_reader, writer):
        writer.write(bucket.reply(length=len(body), headers=['ETag: "one"']))
        for start in range(len(body)):  # until the client disconnects
            writer.write(body[start : start + 1])
            await writer.drain()
            await asyncio.sleep(0.005)  # in which the client, in the same loop, receives it
            leap(LONG / 10)

    return trickle


async def test_a_stream_below_the_minimum_rate_resumes(bucket, body, fetch, stored, leap):
    bucket.body = b'{"extraction":' + b" " * SIZE + b"{}}"
    bucket.answers = [trickling(bucket, bucket.body, leap), bucket.give()]
    fetcher = fetch(read_timeout=LONG, min_rate=1_000_000)
    got, resumed, error = await read_all(fetcher, stored(bucket.url()))
    assert (got, resumed, error) == (bucket.body, 1, None)


async def test_the_error_names_the_minimum_rate(bucket, body, fetch, stored, leap):
    bucket.answers = [trickling(bucket, b"{" * SIZE, leap)]
    fetcher = fetch(attempts=1, read_timeout=LONG, min_rate=1_000_000)
    with pytest.raises(ResultTransferError, match=r"less than 1e\+06 bytes a second"):
        await fetcher.result(stored(bucket.url()))


async def test_a_minimum_rate_of_zero_accepts_any_rate(bucket, fetch, stored, leap):
    body = b'{"extraction":' + b" " * 20 + b"{}}"
    bucket.answers = [trickling(bucket, body, leap)]
    fetcher = fetch(attempts=1, read_timeout=LONG, min_rate=0)
    assert (await read_all(fetcher, stored(bucket.url())))[0] == body


@pytest.mark.parametrize("etag", ['"one"', None])
async def test_one_byte_per_connection_does_not_prolong_the_transfer(
    bucket, body, fetch, stored, etag
):
    bucket.etag = etag

    async def one_more(reader, writer):
        number = len(bucket.heads) - 1
        more = 1 if bucket.ranges[number] else number + 100
        return await bucket.give(more, then="close")(reader, writer)

    bucket.answers = [one_more]
    got, resumed, error = await read_all(fetch(attempts=5), stored(bucket.url()))
    assert isinstance(error, ResultTransferError)
    assert (got, resumed) == (body[:104], 4)
    assert len(bucket.heads) == 5


async def test_bytes_of_earlier_requests_do_not_prolong_the_transfer(
    bucket, result_body, fetch, stored
):
    bucket.body = result_body(2 * MIB + 100)
    bucket.answers = [bucket.give(2 * MIB, then="close"), bucket.give(1, then="close")]
    got, resumed, error = await read_all(fetch(attempts=5), stored(bucket.url()))
    assert isinstance(error, ResultTransferError)
    assert (got, resumed) == (bucket.body[: 2 * MIB + 4], 4)


async def test_failures_of_all_kinds_share_one_limit(bucket, body, fetch, stored):
    page = bucket.reply(b"<html>wait</html>")
    busy = bucket.reply(status="503 Slow Down")
    bucket.answers = [bucket.give(9, then="close"), busy, bucket.give(99, then="close"), page, busy]
    got, _, error = await read_all(fetch(attempts=5), stored(bucket.url()))
    assert isinstance(error, ResultServerError)
    assert got == body[: 9 + 99]
    assert bucket.ranges == [None, (9, None), (9, None), (108, None), (108, None), None]


async def test_endless_whitespace_after_the_result_is_malformed(bucket, fetch, stored):
    bucket.body = b'{"extraction":{}}' + b" " * 300_000
    got, _, error = await read_all(fetch(attempts=1), stored(bucket.url()))
    assert isinstance(error, ResultMalformedError)
    assert len(got) < 300_000


async def test_whitespace_before_and_after_a_break_is_counted_together(bucket, fetch, stored):
    bucket.body = b'{"extraction":{}}' + b" " * 80_000
    bucket.answers = [bucket.give(40_000, then="close"), bucket.give()]
    _, _, error = await read_all(fetch(attempts=2), stored(bucket.url()))
    assert isinstance(error, ResultMalformedError)


# --- Pausing and leaving ------------------------------------------------------------------------


async def test_a_reader_that_pauses_longer_than_the_timeout_loses_nothing(
    bucket, fetch, stored, result_body, leap
):
    """The timeout applies to the storage, not to the reader."""
    bucket.body = result_body(4 * MIB)
    async with fetch(attempts=1, read_timeout=LONG).stream(stored(bucket.url())) as stream:
        got = await anext(stream)
        await pass_time(leap)
        got += await collect(stream)
    assert got == bucket.body
    assert len(bucket.heads) == 1


async def test_leaving_between_two_connections_leaves_nothing(bucket, body, fetch, stored):
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give(1, then="hang")]
    before = asyncio.all_tasks()
    async with fetch().stream(stored(bucket.url())) as stream:
        while stream.received <= 1_000:
            await anext(stream)
    await bucket.left_alone()
    assert asyncio.all_tasks() == before


async def test_rejected_whitespace_is_read_again(bucket, fetch, stored):
    bucket.body = b'{"extraction":' + b" " * 300_000 + b"{}}"
    got, _, error = await read_all(fetch(attempts=20), stored(bucket.url()))
    assert isinstance(error, ResultMalformedError)
    assert bucket.body.startswith(got)
