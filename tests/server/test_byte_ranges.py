"""Range requests are parsed and answered as RFC 9110 says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.server.byte_ranges import (
    ByteRange,
    RequestedRange,
    Unsatisfiable,
    content_range,
    if_range_matches,
    parse_range,
    plan_response,
    read_range,
)

SIZE = 1_000
ETAG = '"one"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        # The examples of section 14.1.2, where the body has 10,000 bytes.
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
def test_a_single_range_is_parsed(header, expected):
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
        "bytes=\u0661-\u0662",  # digits of another script
        "bytes=1-2\n",
        "bytes =0-1",
        "items=0-1",
        "=0-1",
        f"bytes={'9' * 5_000}-",
    ],
)
def test_several_ranges_or_an_invalid_range_request_the_whole_body(header):
    assert parse_range(header, SIZE) is None


def test_an_empty_body_satisfies_no_range():
    for header in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        assert parse_range(header, 0) == Unsatisfiable(0)


@given(
    st.text(max_size=40) | st.from_regex(r"bytes=[ ,0-9-]{0,20}", fullmatch=True), st.integers(0)
)
def test_any_header_is_parsed_to_a_range_within_the_size_or_is_unsatisfiable(header, size):
    part = parse_range(header, size)
    if isinstance(part, ByteRange):
        assert 0 <= part.start < part.stop <= size
        assert part.length == part.stop - part.start
    else:
        assert part in {None, Unsatisfiable(size)}


@given(st.data(), st.integers(1, 200))
def test_a_range_is_the_slice_that_its_header_describes(data, size):
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
def test_a_requested_range_resolves_to_the_same_bytes_as_a_slice(start, stop, size):
    if start < 0:
        stop = None
    found = RequestedRange(start, stop).resolve(size)
    expected = list(range(size))[start:stop]
    assert (list(range(found.start, found.stop)) if found else []) == expected


def test_a_range_can_be_parsed_before_the_size_is_known():
    assert read_range("bytes=5-9") == RequestedRange(5, 10)
    assert read_range("bytes=5-") == RequestedRange(5)
    assert read_range("bytes=-5") == RequestedRange(-5)
    assert read_range("bytes=-0").resolve(10**9) is None


def test_a_content_range_includes_its_last_byte():
    assert content_range(ByteRange(0, 500), 1_000) == "bytes 0-499/1000"
    assert content_range(Unsatisfiable(1_000), 1_000) == "bytes */1000"


@pytest.mark.parametrize(
    ("header", "etag", "matches"),
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
        ('"a" "b"', '"a" "b"', False),
        ("", "", False),
        ("Sat, 29 Oct 1994 19:43:31 GMT", ETAG, False),
        (f'{ETAG}, "two"', ETAG, False),
    ],
)
def test_if_range_matches_only_the_same_strong_etag(header, etag, matches):
    assert if_range_matches(header, etag) is matches


def plan(method="GET", size=SIZE, etag=ETAG, **options):
    return plan_response(method, size=size, etag=etag, **options)


def test_without_a_range_the_whole_body_is_sent():
    reply = plan()
    assert (reply.status, reply.start, reply.stop, reply.has_body) == (200, 0, None, True)
    assert reply.headers == {"ETag": ETAG, "Accept-Ranges": "bytes", "Content-Length": "1000"}


def test_a_range_is_sent_with_status_206():
    reply = plan(range_header="bytes=-10", if_range=ETAG)
    assert (reply.status, reply.start, reply.stop, reply.has_body) == (206, 990, 1_000, True)
    assert reply.headers == {
        "ETag": ETAG,
        "Accept-Ranges": "bytes",
        "Content-Length": "10",
        "Content-Range": "bytes 990-999/1000",
    }


def test_a_range_of_another_version_is_ignored():
    assert plan(range_header="bytes=-10", if_range='"old"') == plan()
    assert plan(range_header="bytes=5000-", if_range='"old"') == plan()


def test_an_unsatisfiable_range_is_answered_with_416_and_the_size():
    reply = plan(range_header="bytes=1000-")
    assert (reply.status, reply.has_body) == (416, False)
    assert reply.headers["Content-Range"] == "bytes */1000"
    assert reply.headers["Content-Length"] == "0"


def test_head_gets_the_headers_of_the_whole_and_no_body():
    reply = plan("HEAD", range_header="bytes=0-1")
    assert (reply.status, reply.has_body, reply.headers) == (200, False, plan().headers)


def test_ranges_are_ignored_if_the_size_is_unknown():
    reply = plan(range_header="bytes=0-1", size=None)
    assert (reply.status, reply.part, reply.headers) == (200, None, {"ETag": ETAG})


@pytest.mark.parametrize("etag", ["one", '"a\r\nSet-Cookie: b"', '"a" "b"', "", '"\u00e9"'])
def test_an_invalid_etag_is_left_out(etag):
    assert "ETag" not in plan(etag=etag).headers
