"""A stream of a whole result begins only when its bytes are known to be a result."""

import pytest
from streams import collect

from adepoll.errors import ResultMalformedError

MIB = 2**20
PAGE = b'{"message": "Internal server error"}'


async def read(fetcher, job, **limits):
    async with fetcher.stream(job, **limits) as stream:
        return await collect(stream)


async def take(stream, chunks):
    async for chunk in stream:
        chunks.append(chunk)


async def test_the_page_of_a_gateway_is_requested_again(storage, fetch, stored, result_body):
    body = result_body(5_000)
    storage.answers = [storage.reply(PAGE), storage.reply(body)]
    assert await read(fetch(), stored(storage.url())) == body
    assert len(storage.heads) == 2


async def test_items_are_not_read_from_the_page_of_a_gateway(storage, fetch, stored):
    storage.answers = [storage.reply(PAGE), storage.reply(b'{"extraction": [1, 2]}')]
    async with fetch().items(stored(storage.url()), "extraction.item") as items:
        assert [item async for item in items] == [1, 2]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (PAGE, "required field missing @ $.extraction"),
        (b'{"metadata": {"extraction": 1}}', "required field missing @ $.extraction"),
        (b'{"message" "extraction": {}}', "not JSON: expected : @ byte 11"),
    ],
)
async def test_bytes_that_are_never_a_result_raise_on_entering(
    storage, fetch, stored, body, problem
):
    storage.answers = [storage.reply(body)]
    with pytest.raises(ResultMalformedError) as caught:
        async with fetch(attempts=3).stream(stored(storage.url())):
            pytest.fail("the stream has begun")
    assert caught.value.problems == (problem,)
    assert len(storage.heads) == 3


@pytest.mark.parametrize("before", [10, MIB // 2, 3 * MIB])
async def test_the_key_of_a_result_may_be_anywhere(bucket, fetch, stored, before):
    bucket.body = b'{"extraction_metadata": "' + b"a" * before + b'", "extraction": {}}'
    async with fetch().stream(stored(bucket.url())) as stream:
        assert (stream.start, stream.stop, stream.size) == (0, len(bucket.body), len(bucket.body))
        assert (stream.received, stream.etag) == (0, '"one"')
        assert await collect(stream) == bucket.body
        assert stream.received == len(bucket.body)
    assert len(bucket.heads) == 1


async def test_an_object_too_large_for_a_page_raises_at_its_end(bucket, fetch, stored):
    bucket.body = b'{"text": "' + b"a" * 3 * MIB + b'"}'
    chunks = []
    async with fetch().stream(stored(bucket.url())) as stream:
        with pytest.raises(ResultMalformedError, match=r"required field missing @ \$\.extraction"):
            await take(stream, chunks)
    assert b"".join(chunks) == bucket.body
    assert len(bucket.heads) == 1


async def test_a_stream_continues_if_the_connection_breaks_before_the_key(bucket, fetch, stored):
    bucket.body = b'{"extraction_metadata": "' + b"a" * 5_000 + b'", "extraction": {}}'
    bucket.answers = [bucket.give(1_000, then="close"), bucket.give()]
    async with fetch().stream(stored(bucket.url())) as stream:
        assert await collect(stream) == bucket.body
        assert stream.resumed == 1
    assert bucket.ranges == [None, (1_000, None)]


async def test_a_range_is_not_checked(bucket, fetch, stored):
    bucket.body = PAGE
    assert await read(fetch(), stored(bucket.url()), stop=10) == PAGE[:10]
