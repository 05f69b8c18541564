"""Range requests as RFC 9110 has them: what is asked for, and how to answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.server.byte_ranges import (
    AskedRange,
    ByteRange,
    Unsatisfiable,
    content_range,
    if_range_holds,
    parse_range,
    plan_reply,
    read_range,
)

SIZE = 1_000
ETAG = '"one"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        # The examples of section 14.1.2, of 10,000 bytes there.
        ("bytes=0-499", ByteRange(0, 500)),
        ("bytes=500-999", ByteRange(500, 1_000)),
        ("bytes=-500", ByteRange(500, 1_000)),
        ("bytes=900-", ByteRange(900, 1_000)),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=0-", ByteRange(0, 1_000)),
        ("bytes=0-99999", ByteRange(0, 1_000)),
        ("bytes=-99999", ByteRange(0, 1_000)),
        ("bytes=007-0008", ByteRange(7, 9)),
        ("Bytes=0-0", ByteRange(0, 1)),
        (" bytes=0-0\t", ByteRange(0, 1)),
        ("bytes=,0-0 ,", ByteRange(0, 1)),
        ("bytes=999-", ByteRange(999, 1_000)),
        ("bytes=1000-", Unsatisfiable(SIZE)),
        ("bytes=1000-2000", Unsatisfiable(SIZE)),
        ("bytes=-0", Unsatisfiable(SIZE)),
        (f"bytes={'9' * 900}-", Unsatisfiable(SIZE)),
        (f"bytes=5-{'9' * 900}", ByteRange(5, 1_000)),
        (f"bytes=-{'9' * 900}", ByteRange(0, 1_000)),
    ],
)
def test_a_single_range_is_read(header, expected):
    assert parse_range(header, SIZE) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=5-4",
        "bytes=0-1,5-6",
        "bytes=0-1,-1",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=1_0-20",
        "bytes=\u0661-\u0662",  # digits, of another script
        "bytes=1-2\n",
        "bytes =0-1",
        "items=0-1",
        "=0-1",
        f"bytes={'9' * 5_000}-",
    ],
)
def test_what_is_several_ranges_or_none_asks_for_the_whole(header):
    assert parse_range(header, SIZE) is None


def test_of_nothing_no_range_can_be_given():
    for header in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        assert parse_range(header, 0) == Unsatisfiable(0)


@given(
    st.text(max_size=40) | st.from_regex(r"bytes=[ ,0-9-]{0,20}", fullmatch=True), st.integers(0)
)
def test_any_header_gives_a_range_within_the_size_or_says_that_there_is_none(header, size):
    part = parse_range(header, size)
    if isinstance(part, ByteRange):
        assert 0 <= part.start < part.stop <= size
        assert part.length == part.stop - part.start
    else:
        assert part in {None, Unsatisfiable(size)}


@given(st.data(), st.integers(1, 200))
def test_a_range_is_the_slice_that_its_header_means(data, size):
    body = bytes(range(size))
    first = data.draw(st.integers(0, 250))
    last = data.draw(st.integers(first, 260))
    for header, expected in (
        (f"bytes={first}-{last}", body[first : last + 1]),
        (f"bytes={first}-", body[first:]),
        (f"bytes=-{last}", body[-last:] if last else b""),
    ):
        part = parse_range(header, size)
        got = body[part.start : part.stop] if isinstance(part, ByteRange) else b""
        assert got == expected


@given(st.integers(-300, 300), st.none() | st.integers(1, 300), st.integers(0, 200))
def test_what_is_asked_for_is_a_slice_too(start, stop, size):
    if start < 0:
        stop = None
    found = AskedRange(start, stop).within(size)
    expected = list(range(size))[start:stop]
    assert (list(range(found.start, found.stop)) if found else []) == expected


def test_what_is_asked_for_can_be_read_before_the_size_is_known():
    assert read_range("bytes=5-9") == AskedRange(5, 10)
    assert read_range("bytes=5-") == AskedRange(5)
    assert read_range("bytes=-5") == AskedRange(-5)
    assert read_range("bytes=-0").within(10**9) is None


def test_a_content_range_counts_its_last_byte_in():
    assert content_range(ByteRange(0, 500), 1_000) == "bytes 0-499/1000"
    assert content_range(Unsatisfiable(1_000), 1_000) == "bytes */1000"


@pytest.mark.parametrize(
    ("header", "etag", "holds"),
    [
        (None, ETAG, True),
        (None, None, True),
        (ETAG, ETAG, True),
        (f" {ETAG}", ETAG, True),
        ('"two"', ETAG, False),
        (ETAG, None, False),
        ('W/"one"', 'W/"one"', False),
        ('W/"one"', ETAG, False),
        (ETAG, 'W/"one"', False),
        ("one", "one", False),
        ("", "", False),
        ("Sat, 29 Oct 1994 19:43:31 GMT", ETAG, False),
        (f'{ETAG}, "two"', ETAG, False),
    ],
)
def test_a_range_counts_only_if_the_tag_is_strong_and_the_same(header, etag, holds):
    assert if_range_holds(header, etag) is holds


def plan(method="GET", size=SIZE, etag=ETAG, **options):
    return plan_reply(method, size=size, etag=etag, **options)


def test_the_whole_is_sent_if_no_range_is_asked_for():
    reply = plan()
    assert (reply.status, reply.start, reply.stop, reply.has_body) == (200, 0, None, True)
    assert reply.headers == {"ETag": ETAG, "Accept-Ranges": "bytes", "Content-Length": "1000"}


def test_a_range_is_sent_as_a_part():
    reply = plan(range_header="bytes=-10", if_range=ETAG)
    assert (reply.status, reply.start, reply.stop, reply.has_body) == (206, 990, 1_000, True)
    assert reply.headers == {
        "ETag": ETAG,
        "Accept-Ranges": "bytes",
        "Content-Length": "10",
        "Content-Range": "bytes 990-999/1000",
    }


def test_a_range_of_another_version_gets_the_whole():
    assert plan(range_header="bytes=-10", if_range='"old"') == plan()
    assert plan(range_header="bytes=5000-", if_range='"old"') == plan()


def test_what_is_not_there_is_416_with_the_size():
    reply = plan(range_header="bytes=1000-")
    assert (reply.status, reply.has_body) == (416, False)
    assert reply.headers["Content-Range"] == "bytes */1000"
    assert reply.headers["Content-Length"] == "0"


def test_head_is_told_the_whole_and_sent_nothing():
    reply = plan("HEAD", range_header="bytes=0-1")
    assert (reply.status, reply.has_body, reply.headers) == (200, False, plan().headers)


def test_of_an_unknown_size_no_range_is_given_and_no_length_told():
    reply = plan(range_header="bytes=0-1", size=None)
    assert (reply.status, reply.part, reply.headers) == (200, None, {"ETag": ETAG})


@pytest.mark.parametrize("etag", ["one", '"a\r\nSet-Cookie: b"', '"a" "b"', "", '"\u00e9"'])
def test_what_is_no_tag_is_not_passed_on(etag):
    assert "ETag" not in plan(etag=etag).headers
