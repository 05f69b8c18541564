"""A download resumes with the bytes it has, over one or more connections, and mixes no objects."""

import asyncio
import errno
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading

import forkserver
import pytest
from files import names, sha256
from openfiles import open_files_in
from streams import collect_of
from waiting import supervised

from adepoll.errors import (
    ResultError,
    ResultMalformedError,
    ResultServerError,
    ResultTransferError,
    StorageError,
    TargetExistsError,
)
from adepoll.fetcher import download, segments
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.storage_rules import ObjectVersion

MIB = 2**20
PART = 8 * MIB


@pytest.fixture
def body(bucket, result_body):
    """The object in the bucket: two and a half segments."""
    bucket.body = result_body(20 * MIB)
    return bucket.body


@pytest.fixture
def slow(monkeypatch):
    """Make every connection count as slow, so that all allowed ones are used."""
    monkeypatch.setattr(segments, "_FAST", float("inf"))
    monkeypatch.setattr(segments, "_MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(segments, "_SPEEDUP_NEEDED", 0.0)


def other_of(body):
    """Return another result of the same length, with the same braces, quotes and first key."""
    key = b'{"extraction":'
    other = body.removeprefix(key).translate(bytes.maketrans(b"aeinorst0123", b"eaniosrt1032"))
    return key + other


async def fails(fetcher, job, target, error=ResultError, **options):
    with pytest.raises(error) as caught:
        await fetcher.download(job, target, **options)
    return caught.value


async def leave_part_file(bucket, fetch, stored, target, *, most=6 * MIB):
    """Let a download fail when about this many bytes are written; return their number."""
    seen = [0]
    before = bucket.answers
    bucket.answers = [bucket.give(most, then="close")]
    if most > PART:
        bucket.answers = [bucket.give(), bucket.give(most - PART, then="close")]
    await fails(
        fetch(attempts=1, connections=1),
        stored(bucket.url()),
        target,
        progress=lambda written, _: seen.append(written),
    )
    bucket.answers = before
    bucket.heads.clear()
    assert len([name for name in names(target.parent) if ".part" in name]) == 2
    return seen[-1]


# --- Requests -----------------------------------------------------------------------------------


async def test_a_small_result_takes_one_range_request(bucket, fetch, stored, result_body, tmp_path):
    bucket.body = result_body(5 * MIB)
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body
    assert (report.bytes, report.etag, report.resumed) == (5 * MIB, '"one"', 0)
    assert bucket.ranges == [(0, PART)]
    assert "if-match" not in bucket.requests[0]


@pytest.mark.parametrize("size", [4_999, 5_000])
async def test_a_missing_brace_is_noticed_in_a_result_of_one_response(
    bucket, fetch, stored, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(download, "FIRST_SEGMENT", 5_000)
    bucket.body = b'{"extraction":{"a":"'.ljust(size - 2, b"x") + b'"}'
    await fails(fetch(attempts=1), stored(bucket.url()), tmp_path / "out", ResultTransferError)


async def test_later_segments_are_requested_once_and_with_the_etag(
    bucket, body, fetch, stored, tmp_path
):
    report = await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert (tmp_path / "out").read_bytes() == body
    assert report.resumed == 0
    assert bucket.ranges[0] == (0, PART)
    assert joined(bucket.ranges) == [(0, len(body))]
    assert all(sent["if-match"] == sent["if-range"] == '"one"' for sent in bucket.requests[1:])


def joined(ranges):
    """Join ranges that touch; overlapping ranges stay separate."""
    whole = []
    for start, stop in sorted(ranges):
        if whole and whole[-1][1] == start:
            whole[-1] = (whole[-1][0], stop)
        else:
            whole.append((start, stop))
    return whole


async def test_several_connections_fetch_each_byte_once(
    bucket, body, fetch, stored, tmp_path, slow
):
    report = await fetch(connections=5).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert bucket.connections > 2
    assert joined(bucket.ranges) == [(0, len(body))]
    assert names(tmp_path) == ["out"]


async def test_no_more_connections_than_allowed_are_used(
    bucket, body, fetch, stored, tmp_path, slow
):
    busy = most = 0
    give = bucket.give()

    async def count(reader, writer):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        try:
            return await give(reader, writer)
        finally:
            busy -= 1

    bucket.answers = [count]
    await fetch(connections=3).download(stored(bucket.url()), tmp_path / "out")
    assert most <= 3
    assert bucket.connections <= 3


async def test_broken_segments_resume_where_they_broke(bucket, body, fetch, stored, tmp_path, slow):
    cut = bucket.give(MIB + 5, then="close")
    bucket.answers = [cut, cut, bucket.give(), cut, bucket.give(), cut, bucket.give()]
    report = await fetch(attempts=9, connections=3).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert 1 <= report.resumed <= 4


@pytest.mark.parametrize("etag", [None, 'W/"one"', "", '"\x01"', '"\x7f"'])
async def test_without_a_strong_etag_one_response_brings_everything(
    bucket, body, fetch, stored, tmp_path, etag
):
    bucket.etag = etag
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert bucket.ranges == [(0, PART), None]


@pytest.mark.parametrize("etag", [None, 'W/"one"', "", '"\x01"', '"\x7f"'])
async def test_without_a_strong_etag_bytes_of_two_objects_are_never_joined(
    bucket, fetch, stored, result_body, tmp_path, etag
):
    """Even though the size is the same and the range would fit."""
    first = result_body(3 * MIB)
    second = other_of(first)

    def change(_number):
        bucket.body = second

    bucket.body, bucket.etag = first, etag
    bucket.answers = [bucket.give(2 * MIB, then="close"), bucket.give(before=change)]
    await fetch(attempts=9).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() in {first, second}


async def test_a_storage_without_ranges_is_read_in_order(bucket, body, fetch, stored, tmp_path):
    bucket.gives_ranges = False
    bucket.answers = [bucket.give(9 * MIB, then="close"), bucket.give()]
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert report.resumed == 1


async def test_a_storage_that_stops_serving_ranges_is_read_in_order(
    bucket, body, fetch, stored, tmp_path
):
    def no_more(_number):
        bucket.gives_ranges = False

    bucket.answers = [bucket.give(), bucket.give(before=no_more)]
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert None in bucket.ranges


@pytest.mark.parametrize(
    "content_range", ["bytes 0-8/9", "bytes 1-8388608/20971520", "bytes 0-8388607/*", "", None]
)
async def test_an_unusable_first_range_makes_it_request_the_whole(
    bucket, body, fetch, stored, tmp_path, content_range
):
    headers = ['ETag: "one"']
    if content_range is not None:
        headers.append(f"Content-Range: {content_range}")
    nonsense = bucket.reply(body[:PART], status="206 Partial Content", headers=headers)
    bucket.answers = [nonsense, bucket.give()]
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert bucket.ranges == [(0, PART), None]


def refusing(bucket, header, status, *, but_first=0):
    """Refuse requests with this header, except the first ones."""
    give = bucket.give()
    body, length = (b"", None) if status[:3] in {"204", "304"} else (b"<Error/>", True)
    refuse = bucket.keeping(bucket.reply(body, status=status, length=length))

    async def answer(reader, writer):
        has_it = header.lower() in bucket.heads[-1].decode("latin-1").lower()
        is_refused = has_it and len(bucket.heads) > but_first
        return await (refuse if is_refused else give)(reader, writer)

    return answer


REFUSALS = [
    "401 Unauthorized",
    "422 Unprocessable",
    "400 Bad",
    "403 Forbidden",
    "405 Not Allowed",
    "404 Not Found",
    "416 Range",
    "501 Not Implemented",
    "304 Not Modified",
    "204 No Content",
]


@pytest.mark.parametrize("status", REFUSALS)
async def test_where_the_first_range_is_refused_the_whole_is_requested(
    bucket, fetch, stored, result_body, tmp_path, status
):
    bucket.body = result_body(5_000)
    bucket.answers = [refusing(bucket, "\r\nRange:", status)]
    await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body
    assert bucket.ranges == [(0, PART), None]


@pytest.mark.parametrize("status", ["429 Too Many", "500 Oops", "502 Bad Gateway", None])
async def test_where_a_range_looks_like_an_outage_the_whole_is_requested(
    bucket, fetch, stored, result_body, tmp_path, status
):
    bucket.body = result_body(5_000)
    if status is not None:
        bucket.answers = [refusing(bucket, "\r\nRange:", status)]
    else:
        give = bucket.give()

        async def hang_up_on_ranges(reader, writer):
            return False if bucket.ranges[-1] else await give(reader, writer)

        bucket.answers = [hang_up_on_ranges]
    await fetch(patience=60).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body
    # aiohttp repeats a GET if the connection was closed. When the whole was served, one more range
    # is requested, because the outage may be over.
    part = (0, PART)
    assert [asked for asked, _ in itertools.groupby(bucket.ranges)] == [part, None, part, None]


@pytest.mark.parametrize("page", [b"<html>Blocked</html>", b""])
async def test_where_later_ranges_are_answered_with_a_page_the_whole_is_requested(
    bucket, body, fetch, stored, tmp_path, page
):
    answer = bucket.keeping(bucket.reply(page, headers=['ETag: "one"']))
    bucket.answers = [bucket.give(), answer, answer, bucket.give()]
    fetcher = fetch(attempts=2, connections=1)
    report = await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert bucket.ranges[-1] is None


def only_first_range(bucket, respond):
    """Serve the first range and whole objects, and respond to later ranges with `respond`."""
    give = bucket.give()

    async def answer(reader, writer):
        is_later = bucket.ranges[-1] is not None and len(bucket.heads) > 1
        return await (respond if is_later else give)(reader, writer)

    return [answer]


def with_surplus(bucket):
    """Respond with more bytes than the requested range has."""

    async def send(_reader, writer):
        start, stop = bucket.ranges[-1]
        part = bucket.body[start:stop] + b"surplus"
        span = f"Content-Range: bytes {start}-{start + len(part) - 8}/{len(bucket.body)}"
        headers = ['ETag: "one"', span, "Transfer-Encoding: chunked"]
        head = bucket.reply(status="206 Partial Content", length=None, headers=headers)
        writer.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part))
        await writer.drain()
        return True

    return send


@pytest.mark.parametrize("how", ["503", "closed", "surplus"])
@pytest.mark.parametrize("connections", [1, 4])
async def test_where_only_later_ranges_fail_the_whole_is_requested_before_giving_up(
    bucket, body, fetch, stored, tmp_path, slow, how, connections
):
    responses = {
        "503": bucket.keeping(bucket.reply(status="503 Slow Down")),
        "closed": bucket.resetting(b""),
        "surplus": with_surplus(bucket),
    }
    bucket.answers = only_first_range(bucket, responses[how])
    fetcher = fetch(connections=connections)
    report = await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert bucket.ranges[-1] is None


async def test_after_giving_up_one_more_range_is_requested_if_the_whole_is_served(
    bucket, body, fetch, stored, tmp_path
):
    """The outage may be over, and then the bytes that have arrived are kept."""
    down = bucket.keeping(bucket.reply(status="503 Slow Down"))
    bucket.answers = [bucket.give(), down, down, down, bucket.give()]
    fetcher = fetch(connections=1)
    report = await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    later = bucket.ranges[1]
    assert bucket.ranges[:6] == [(0, PART), later, later, later, None, later]


async def test_bytes_of_complete_segments_restore_the_attempts(
    bucket, body, fetch, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr(segments, "_MAX_SEGMENT_IF_FAST", MIB)
    monkeypatch.setattr(segments, "_MAX_SEGMENT", MIB)
    down = bucket.keeping(bucket.reply(status="503 Slow Down"))
    bucket.answers = [bucket.give(), *[down, bucket.give()] * 9, bucket.give()]
    report = await fetch(attempts=2, connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert report.resumed == 9


async def test_after_an_outage_ranges_are_used_again(bucket, body, fetch, stored, tmp_path):
    down = bucket.keeping(bucket.reply(status="503 Slow Down"))
    bucket.answers = [down, down, bucket.give()]
    report = await fetch(patience=60).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert bucket.ranges[:4] == [(0, PART), (0, PART), None, (0, PART)]
    assert None not in bucket.ranges[4:]


@pytest.mark.parametrize("use", ["download", "stream", "result"])
@pytest.mark.parametrize("asked", ["3600", "31.5", "Fri, 31 Dec 2027 13:00:00 GMT"])
async def test_a_retry_after_beyond_the_patience_fails_the_transfer_after_one_request(
    bucket, fetch, stored, tmp_path, use, asked
):
    headers = [f"Retry-After: {asked}", "Date: Fri, 31 Dec 2027 12:00:00 GMT"]
    bucket.answers = [bucket.reply(status="503 Slow Down", headers=headers)]
    fetcher, job = fetch(patience=30), stored(bucket.url())
    uses = {
        "download": lambda: fetcher.download(job, tmp_path / "out"),
        "stream": lambda: collect_of(fetcher, job),
        "result": lambda: fetcher.result(job),
    }
    with pytest.raises(ResultServerError) as caught:
        await uses[use]()
    assert caught.value.retry_after == (31.5 if asked == "31.5" else 3_600.0)
    assert len(bucket.heads) == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("use", ["download", "stream"])
async def test_a_retry_after_beyond_the_patience_is_not_tested_with_another_request(
    bucket, fetch, stored, tmp_path, use
):
    """After a second failure of a range, the whole would be requested."""
    busy = bucket.reply(status="503 Slow Down")
    asking = bucket.reply(status="503 Slow Down", headers=["Retry-After: 3600"])
    bucket.answers = [bucket.keeping(busy), bucket.keeping(asking)]
    fetcher, job = fetch(patience=30), stored(bucket.url())
    with pytest.raises(ResultServerError):  # noqa: PT012 - one of two methods
        if use == "download":
            await fetcher.download(job, tmp_path / "out")
        else:
            async with fetcher.stream(job, start=1_000):
                pass
    assert len(bucket.heads) == 2


async def test_an_absurd_retry_after_is_ignored(bucket, body, fetch, stored, tmp_path):
    headers = ["Retry-After: Fri, 31 Dec 2999 23:59:59 GMT"]
    bucket.answers = [bucket.reply(status="503 Slow Down", headers=headers), bucket.give()]
    report = await fetch(patience=30).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)


async def test_where_ranges_have_a_wrong_size_the_whole_is_requested(
    bucket, body, fetch, stored, tmp_path
):
    """The answer to a range states that the object ends there."""
    headers = ['ETag: "one"', f"Content-Range: bytes 0-{PART - 1}/{PART}"]
    wrong = bucket.reply(body[:PART], status="206 Partial Content", headers=headers)
    bucket.answers = [bucket.keeping(wrong), bucket.give()]
    report = await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert bucket.ranges == [(0, PART), None]


@pytest.mark.parametrize(("but_first", "status"), [(1, "416 Range"), (2, "501 Not Implemented")])
async def test_where_later_ranges_are_refused_the_whole_is_requested(
    bucket, body, fetch, stored, tmp_path, status, but_first
):
    bucket.answers = [refusing(bucket, "\r\nRange:", status, but_first=but_first)]
    report = await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())


@pytest.mark.parametrize(
    ("header", "status"), [("If-Match", "412 Precondition Failed"), ("If-Range", "400 Bad")]
)
async def test_where_conditions_are_refused_the_whole_is_requested(
    bucket, body, fetch, stored, tmp_path, header, status
):
    bucket.answers = [refusing(bucket, f"\r\n{header}:", status)]
    report = await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())


async def test_replicas_with_different_etags_are_read_from_one_of_them(
    bucket, body, fetch, stored, tmp_path
):
    give = bucket.give()

    async def answer(reader, writer):
        bucket.etag = f'"{len(bucket.heads) % 2}"'
        return await give(reader, writer)

    bucket.answers = [answer]
    report = await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_broken_stream_is_read_again_where_ranges_are_refused(
    bucket, fetch, stored, result_body, status
):
    body = bucket.body = result_body(5_000)
    cut = bucket.give(3_000, then="close")
    bucket.answers = [cut, refusing(bucket, "\r\nRange:", status)]
    async with fetch(attempts=2).stream(stored(bucket.url())) as stream:
        assert b"".join([chunk async for chunk in stream]) == body


@pytest.mark.parametrize("how", ["tag", "size"])
async def test_a_segment_of_another_object_is_never_joined_even_if_the_storage_ignores_conditions(
    bucket, body, fetch, stored, tmp_path, how
):
    """Its status is 206: only the ETag or the size in the response shows the change."""
    tag, total = ('"two"', len(body)) if how == "tag" else ('"one"', len(body) + 1)
    second = other_of(body) + b" " * (how == "size")

    async def part_of_other(reader, writer):
        bucket.body, bucket.etag = second, tag
        start, stop = bucket.ranges[-1]
        stop = min(stop, total)
        headers = [f"ETag: {tag}", f"Content-Range: bytes {start}-{stop - 1}/{total}"]
        answer = bucket.reply(second[start:stop], status="206 Partial Content", headers=headers)
        return await bucket.keeping(answer)(reader, writer)

    bucket.answers = [bucket.give(), part_of_other, bucket.give()]
    report = await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(second) == sha256((tmp_path / "out").read_bytes())
    assert report.etag == tag


async def test_an_object_that_changes_in_each_attempt_is_given_up(
    bucket, body, fetch, stored, tmp_path
):
    def change(number):
        bucket.etag = f'"{number}"'

    bucket.answers = [bucket.give(9 * MIB, then="close", before=change)]
    error = await fails(
        fetch(attempts=4), stored(bucket.url()), tmp_path / "out", ResultTransferError
    )
    assert "changed" in str(error)
    assert error.is_object_at_fault
    assert len(bucket.heads) < 20


async def test_an_empty_object_is_not_a_result(bucket, fetch, stored, tmp_path):
    error = await fails(fetch(), stored(bucket.url()), tmp_path / "out", ResultTransferError)
    assert "ended within the result" in str(error)
    assert error.is_object_at_fault
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", [b'{"a": {"b": 1}', b'{"a": 1}}'])
async def test_a_cut_object_of_the_announced_length_is_not_a_result(
    bucket, fetch, stored, tmp_path, text
):
    bucket.answers = [bucket.reply(text)] * 9
    error = await fails(fetch(), stored(bucket.url()), tmp_path / "out", ResultTransferError)
    assert "ended within the result" in str(error)
    assert error.is_object_at_fault
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"message": "Internal server error"}', "required field missing @ $.extraction"),
        (b'{"metadata": {"extraction": 1}}', "required field missing @ $.extraction"),
        (b'{"message" "extraction": {}}', "not JSON: expected : @ byte 11"),
    ],
)
async def test_an_object_that_is_not_a_result_is_requested_again(
    bucket, fetch, stored, result_body, tmp_path, text, problem
):
    """A gateway can answer an error with status 200 and an object of its own."""
    bucket.answers = [bucket.reply(text)]
    error = await fails(
        fetch(attempts=2), stored(bucket.url()), tmp_path / "out", ResultMalformedError
    )
    assert error.problems == (problem,)
    assert len(bucket.heads) == 2
    assert names(tmp_path) == []

    bucket.body = result_body()
    bucket.answers = [bucket.reply(text), bucket.give()]
    await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body


async def test_an_object_that_answers_a_range_is_followed_by_a_plain_request(
    bucket, fetch, stored, result_body, tmp_path
):
    bucket.body = result_body()
    bucket.answers = [bucket.reply(b'{"error": "no ranges"}'), bucket.give()]
    await fetch(attempts=2).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body
    assert [asked is None for asked in bucket.ranges] == [False, True]


async def test_a_large_object_that_is_not_a_result_is_requested_once(
    bucket, body, fetch, stored, tmp_path
):
    bucket.body = body.replace(b'"extraction"', b'"extractor"', 1)
    await fails(fetch(), stored(bucket.url()), tmp_path / "out", ResultMalformedError)
    assert joined(bucket.ranges) == [(0, len(bucket.body))]
    assert names(tmp_path) == []


async def test_the_keys_of_a_result_may_have_any_order(bucket, fetch, stored, tmp_path):
    bucket.body = b'{"metadata": {"a": "' + b"x" * MIB + b'"}, "\\u0065xtraction": null}'
    await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bucket.body


async def test_one_byte_per_connection_does_not_prolong_the_transfer(
    bucket, body, fetch, stored, tmp_path
):
    bucket.answers = [bucket.give(1, then="close")]
    error = await fails(fetch(attempts=4), stored(bucket.url()), tmp_path / "out")
    assert isinstance(error, ResultTransferError)
    assert len(bucket.heads) <= 4 + len(body) // (16 * MIB)
    assert names(tmp_path) == []


async def test_several_connections_share_one_renewed_url(
    bucket, body, fetch, stored, tmp_path, slow
):
    expired = b"<Error><Message>Request has expired</Message></Error>"
    refuse = bucket.keeping(bucket.reply(expired, status="403 Forbidden"))
    give = bucket.give()

    async def answer(reader, writer):
        stale = len(bucket.heads) > 1 and bucket.targets[-1] == "/stale"
        return await (refuse if stale else give)(reader, writer)

    bucket.answers = [answer]
    fetcher = fetch(stored(bucket.url("/fresh")), connections=4)
    report = await fetcher.download(stored(bucket.url("/stale")), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert fetch.asked == ["job-1"]


# --- Resuming an earlier download ---------------------------------------------------------------


@pytest.mark.parametrize("most", [2 * MIB, 6 * MIB, 11 * MIB])
async def test_arrived_bytes_are_kept_and_only_the_rest_is_requested(
    bucket, body, fetch, stored, tmp_path, most
):
    written = await leave_part_file(bucket, fetch, stored, tmp_path / "out", most=most)
    assert written > most - MIB
    seen = []
    report = await fetch(attempts=1).download(
        stored(bucket.url()), tmp_path / "out", progress=lambda *reports: seen.append(reports)
    )
    assert joined(bucket.ranges) == [(written, len(body))]
    assert all(sent["if-match"] == sent["if-range"] == '"one"' for sent in bucket.requests)
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert report.resumed == 1
    assert seen[0] == (written, len(body))
    assert names(tmp_path) == ["out"]


async def test_less_than_a_mebibyte_is_not_kept(bucket, fetch, stored, result_body, tmp_path):
    bucket.body = result_body(5 * MIB)
    bucket.answers = [bucket.give(MIB - 1, then="close")]
    await fails(fetch(attempts=1), stored(bucket.url()), tmp_path / "out")
    assert names(tmp_path) == []


async def test_another_job_does_not_resume_it(bucket, body, fetch, stored, tmp_path):
    await leave_part_file(bucket, fetch, stored, tmp_path / "out")
    other = stored(bucket.url(), job_id="job-2")
    assert not fetch().can_resume(other, tmp_path / "out")
    await fetch().download(other, tmp_path / "out")
    assert bucket.ranges[0] == (0, PART)


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("knows_conditions", [True, False])
async def test_a_part_file_of_another_object_is_discarded_and_costs_no_attempt(
    bucket, body, fetch, stored, tmp_path, attempts, knows_conditions
):
    await leave_part_file(bucket, fetch, stored, tmp_path / "out")
    bucket.body, bucket.etag = other_of(body), '"two"'
    bucket.gives_ranges = knows_conditions
    report = await fetch(attempts=attempts).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(bucket.body) == sha256((tmp_path / "out").read_bytes())
    assert report.resumed == 0
    assert names(tmp_path) == ["out"]


async def test_a_part_file_stays_while_the_storage_refuses_requests(
    bucket, body, fetch, stored, tmp_path
):
    written = await leave_part_file(bucket, fetch, stored, tmp_path / "out")
    bucket.answers = [bucket.reply(status="503 Slow Down")]
    bucket.heads.clear()
    await fails(fetch(attempts=2), stored(bucket.url()), tmp_path / "out", ResultServerError)
    assert bucket.ranges == [(written, bucket.ranges[0][1])] * 2 + [None]
    bucket.answers = [bucket.give()]
    bucket.heads.clear()
    await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert bucket.ranges[0][0] == written


async def test_a_resume_state_without_its_bytes_is_ignored(bucket, body, fetch, stored, tmp_path):
    await leave_part_file(bucket, fetch, stored, tmp_path / "out")
    (part,) = tmp_path.glob("*.part")
    part.unlink()
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert bucket.ranges[0] == (0, PART)


async def test_a_resumed_download_replaces_the_old_file_only_at_the_end(
    bucket, body, fetch, stored, tmp_path
):
    (tmp_path / "out").write_bytes(b"before")
    bucket.answers = [bucket.give(5 * MIB, then="close")]
    await fails(fetch(attempts=1), stored(bucket.url()), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"before"
    bucket.answers = [bucket.give()]
    report = await fetch().download(stored(bucket.url()), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_bytes() == body
    assert report.resumed == 1
    assert names(tmp_path) == ["out"]


def left_behind(target, body, done):
    """Create the part file of a process that was killed when these bytes were written."""
    part = PartFile(target, job_id="job-1", overwrite=False)
    part.open()
    part.begin(ObjectVersion(len(body), '"one"'), multipart=True, resumable=True)
    for start, stop in done:
        part.write(start, [body[start:stop]])
    part.close()


@pytest.mark.parametrize("connections", [1, 4])
async def test_only_the_gaps_left_by_several_connections_are_requested(
    bucket, body, fetch, stored, tmp_path, slow, connections
):
    left_behind(tmp_path / "out", body, [(0, 2 * MIB), (5 * MIB, 9 * MIB), (11 * MIB, 12 * MIB)])
    report = await fetch(connections=connections).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    gaps = [(2 * MIB, 5 * MIB), (9 * MIB, 11 * MIB), (12 * MIB, len(body))]
    assert joined(bucket.ranges) == gaps


@pytest.mark.parametrize("where", [64, MIB, 2 * MIB - 1])
async def test_bytes_changed_in_the_part_file_show_in_the_digest_only(
    bucket, body, fetch, stored, tmp_path, where
):
    """The digest is that of the file on the disk, not of the received bytes."""
    left_behind(tmp_path / "out", body, [(0, 2 * MIB)])
    (part,) = tmp_path.glob("*.part")
    with part.open("r+b") as file:
        file.seek(where)
        file.write(b"!")
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256((tmp_path / "out").read_bytes()) != sha256(body)


async def test_a_part_file_that_is_no_result_any_more_is_discarded(
    bucket, body, fetch, stored, tmp_path
):
    left_behind(tmp_path / "out", b"!" + body[1:], [(0, 2 * MIB)])
    await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body


@pytest.mark.parametrize("changed", [True, False])
async def test_a_complete_part_file_is_published_if_the_object_is_the_same(
    bucket, body, fetch, stored, tmp_path, changed
):
    left_behind(tmp_path / "out", body, [(0, len(body))])
    if changed:
        bucket.body, bucket.etag = other_of(body), '"two"'
    report = await fetch(attempts=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(bucket.body) == sha256((tmp_path / "out").read_bytes())
    assert bucket.ranges[0] == (len(body) - 1, len(body))
    assert len(bucket.heads) == 1 or changed
    assert names(tmp_path) == ["out"]


KILLED = """
import asyncio, sys
from adepoll.api.client import AdeClient
from adepoll.fetcher import ResultFetcher
from adepoll.api.models import JobSnapshot, JobStatus, from_timestamp

async def main():
    job = JobSnapshot(job_id="job-1", status=JobStatus.COMPLETED, status_text="completed",
                      received_at=from_timestamp(0), progress=1.0, output_url=sys.argv[1])
    tell = lambda written, size: print(written, flush=True)
    async with AdeClient("key", base_url="http://127.0.0.1:9") as client, \
            ResultFetcher(client, connections=1) as fetcher:
        await fetcher.download(job, sys.argv[2], progress=tell)

asyncio.run(main())
"""


@pytest.mark.posix
@pytest.mark.parametrize("exists", [True, False])
async def test_a_download_removes_what_killed_processes_have_left_in_its_folder(
    bucket, fetch, stored, result_body, tmp_path, exists
):
    bucket.body = result_body(5_000)
    target = tmp_path / "out"
    (tmp_path / ".another.0123456789ab.0123456789abcdef.part").touch()
    if exists:
        target.write_bytes(b"{}")
        await fails(fetch(), stored(bucket.url()), target, TargetExistsError)
    else:
        await fetch().download(stored(bucket.url()), target)
    assert names(tmp_path) == ["out"]


async def test_a_killed_download_loses_at_most_one_segment(bucket, body, fetch, stored, tmp_path):
    # The progress of bytes that are written while the connection hangs is reported at its end.
    bucket.answers = [bucket.give(), bucket.give(6 * MIB, then="hang")]
    process = await forkserver.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", KILLED, bucket.url(), str(tmp_path / "out")),
        stdout=subprocess.PIPE,
    )
    async with supervised(process):
        written = 0
        while written < 9 * MIB:
            line = await process.stdout.readline()
            assert line, "it ended by itself"
            written = int(line)
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    bucket.answers = [bucket.give()]
    bucket.heads.clear()
    report = await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body) == sha256((tmp_path / "out").read_bytes())
    assert report.resumed == 1
    assert written - PART < bucket.ranges[0][0] <= 14 * MIB
    assert names(tmp_path) == ["out"]


async def test_a_complete_part_file_of_cut_json_is_not_resumed(
    bucket, fetch, stored, result_body, tmp_path
):
    whole = result_body(9 * MIB)
    bucket.body = whole[:-2] + b"  "
    await fails(fetch(attempts=1), stored(bucket.url()), tmp_path / "out", ResultTransferError)
    assert names(tmp_path) == []
    bucket.body, bucket.etag = whole, '"two"'
    await fetch(attempts=1).download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == whole


# --- Several writers of one target --------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [True, False])
async def test_two_downloads_of_one_job_to_one_target_do_not_interfere(
    bucket, body, fetch, stored, tmp_path, overwrite
):
    fetcher = fetch()
    job = stored(bucket.url())
    reports = await asyncio.gather(
        *(fetcher.download(job, tmp_path / "out", overwrite=overwrite) for _ in range(2)),
        return_exceptions=True,
    )
    errors = [report for report in reports if isinstance(report, Exception)]
    assert [type(error) for error in errors] == ([] if overwrite else [TargetExistsError]), errors
    assert (tmp_path / "out").read_bytes() == body
    assert names(tmp_path) == ["out"]


async def test_a_part_file_of_another_user_is_neither_used_nor_changed(
    bucket, body, fetch, stored, tmp_path
):
    await leave_part_file(bucket, fetch, stored, tmp_path / "out")
    (part,) = tmp_path.glob("*.part")
    part.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * MIB)
    part.symlink_to(victim)
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert victim.read_bytes() == b"precious" * MIB
    assert not (tmp_path / "out").is_symlink()


# --- Disks --------------------------------------------------------------------------------------


@pytest.mark.posix  # replaces os.pwritev, which Windows does not have
async def test_a_full_disk_keeps_the_written_bytes(
    bucket, body, fetch, stored, tmp_path, monkeypatch
):
    real = os.pwritev

    def pwritev(fd, chunks, offset):
        if offset >= 6 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, chunks, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    error = await fails(fetch(connections=1), stored(bucket.url()), tmp_path / "out", StorageError)
    assert error.errno == errno.ENOSPC
    assert len(bucket.heads) == 1  # a full disk is not retried
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(os, "pwritev", real)
    bucket.heads.clear()
    report = await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)
    assert 4 * MIB <= bucket.ranges[0][0] <= 9 * MIB  # a batch that had started is continued


async def test_bytes_in_order_are_hashed_without_being_read_again(
    bucket, body, fetch, stored, tmp_path, monkeypatch
):
    def preadv(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    report = await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert report.sha256 == sha256(body)


async def test_unhashed_bytes_do_not_accumulate_in_memory(
    bucket, fetch, stored, result_body, tmp_path, pause_method
):
    bucket.body = result_body(32 * MIB)
    began, go_on = pause_method("hash")
    written = 0

    def progress(count, _size):
        nonlocal written
        written = count

    downloading = asyncio.create_task(
        fetch(connections=1).download(stored(bucket.url()), tmp_path / "out", progress=progress)
    )
    await began.wait()
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert written <= 8 * MIB
    go_on.set()
    assert (await downloading).sha256 == sha256(bucket.body)


@pytest.mark.posix
async def test_a_disk_that_cannot_be_read_raises_once(
    bucket, body, fetch, stored, tmp_path, monkeypatch
):
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def preadv(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("out", "other"):  # bytes already in the file must be read for the digest
        await leave_part_file(bucket, fetch, stored, tmp_path / name)
        (tmp_path / "aside").mkdir(exist_ok=True)
        for part in tmp_path.glob(".*"):
            part.rename(tmp_path / "aside" / part.name)
    for part in (tmp_path / "aside").iterdir():
        part.rename(tmp_path / part.name)
    monkeypatch.setattr(os, "preadv", preadv)
    error = await fails(fetch(), stored(bucket.url()), tmp_path / "out", StorageError)
    assert error.errno == errno.EIO
    # The storage fails, too, so the error of the hash may never be retrieved.
    bucket.answers = [bucket.give(MIB, then="close")]
    either = (ResultTransferError, StorageError)  # whichever is first
    await fails(fetch(attempts=1), stored(bucket.url()), tmp_path / "other", either)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


# --- Progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 4])
async def test_progress_grows_from_zero_to_the_size(
    bucket, body, fetch, stored, tmp_path, slow, connections
):
    reports = []
    await fetch(connections=connections).download(
        stored(bucket.url()), tmp_path / "out", progress=lambda *now: reports.append(now)
    )
    counts = [written for written, _ in reports]
    assert {size for _, size in reports} == {len(body)}
    assert (counts[0], counts[-1]) == (0, len(body))
    assert counts == sorted(set(counts))
    assert len(reports) > 10


async def test_progress_reports_no_size_if_the_storage_states_none(
    bucket, fetch, stored, result_body, tmp_path
):
    body = result_body(3 * MIB)
    bucket.answers = [bucket.reply(body, length=None)]
    reports = []
    await fetch().download(
        stored(bucket.url()), tmp_path / "out", progress=lambda *now: reports.append(now)
    )
    assert reports[0] == (0, None)
    assert reports[-1] == (len(body), None)


async def test_progress_restarts_with_the_download(bucket, body, fetch, stored, tmp_path):
    def change(_number):
        bucket.body, bucket.etag = other_of(body)[:-1] + b" }", '"two"'

    bucket.answers = [bucket.give(), bucket.give(before=change), bucket.give()]
    reports = []
    await fetch(connections=1).download(
        stored(bucket.url()), tmp_path / "out", progress=lambda *now: reports.append(now)
    )
    size = len(body)
    assert [now for now in reports if now[0] == 0] == [(0, size), (0, size + 1)]
    assert reports[-1] == (size + 1, size + 1)


async def test_an_error_of_progress_is_raised_and_the_bytes_are_kept(
    bucket, body, fetch, stored, tmp_path
):
    class OwnError(Exception):
        pass

    def progress(written, _size):
        if written > 5 * MIB:
            raise OwnError

    before = asyncio.all_tasks()
    fetcher = fetch()
    await fails(fetcher, stored(bucket.url()), tmp_path / "out", OwnError, progress=progress)
    await fetcher.aclose()
    await bucket.left_alone()
    assert asyncio.all_tasks() == before
    bucket.heads.clear()
    await fetch().download(stored(bucket.url()), tmp_path / "out")
    assert bucket.ranges[0][0] > 5 * MIB
    assert (tmp_path / "out").read_bytes() == body


# --- Cancellation -------------------------------------------------------------------------------


async def settled(task):
    """Wait for a cancelled task; return whether it raised CancelledError."""
    await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("connections", [1, 4])
async def test_a_cancelled_download_leaves_no_task_and_can_be_resumed(
    bucket, fetch, stored, result_body, tmp_path, slow, connections
):
    bucket.body = result_body(10 * MIB)
    target = tmp_path / "out"
    tasks = asyncio.all_tasks()
    cancelled = 0
    for turns in [*range(12), *range(12, 400, 37)]:
        fetcher = fetch(connections=connections)
        task = asyncio.create_task(fetcher.download(stored(bucket.url()), target, overwrite=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        cancelled += await settled(task)
        await fetcher.aclose()
        await bucket.left_alone()
        assert asyncio.all_tasks() == tasks
        left = [name for name in names(tmp_path) if name != "out"]
        assert len(left) in {0, 2}
        assert fetcher.can_resume(stored(bucket.url()), target) is bool(left)
        assert open_files_in(tmp_path) == []
        if target.exists():
            assert target.read_bytes() == bucket.body
            target.unlink()
    assert cancelled > 12
    await fetch().download(stored(bucket.url()), target)
    assert target.read_bytes() == bucket.body
    assert names(tmp_path) == ["out"]


@pytest.fixture
def pause_method(monkeypatch):
    """Make a method of PartFile wait in its thread; return the events (began, go_on)."""

    def patch(method, *, after=0):
        began, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        real = getattr(PartFile, method)
        calls = iter(range(10**6))

        def paused(self, *args, **options):
            if next(calls) >= after:
                loop.call_soon_threadsafe(began.set)
                assert go_on.wait(10)
            return real(self, *args, **options)

        monkeypatch.setattr(PartFile, method, paused)
        return began, go_on

    return patch


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "method",
    ["open", "begin", "write", "write while reading", "hash", "_record", "hash_to", "publish"],
)
async def test_a_download_cancelled_during_disk_work_waits_for_the_thread(
    bucket, body, fetch, stored, tmp_path, pause_method, method, times
):
    if method == "hash_to":  # bytes already in the file are hashed while the storage sends nothing
        await leave_part_file(bucket, fetch, stored, tmp_path / "out")
        bucket.answers = [bucket.give(MIB, then="hang")]
    if method == "write while reading":
        bucket.answers = [bucket.give(MIB + MIB // 2, then="hang")]
    began, go_on = pause_method(method.split()[0])
    tasks = asyncio.all_tasks()
    fetcher = fetch()
    task = asyncio.create_task(fetcher.download(stored(bucket.url()), tmp_path / "out"))
    await began.wait()
    for _ in range(times):  # repeated cancellation changes nothing
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not task.done()
    go_on.set()
    assert await settled(task)
    await fetcher.aclose()
    await bucket.left_alone()
    assert asyncio.all_tasks() == tasks
    assert open_files_in(tmp_path) == []
    assert len([name for name in names(tmp_path) if ".part" in name]) in {0, 2}


async def test_a_download_cancelled_while_a_connection_fails_ends(
    bucket, body, fetch, stored, tmp_path, pause_method, slow
):
    """One connection finds another object and restarts the download; one waits for its disk."""
    began, go_on = pause_method("write", after=1)
    give = bucket.give()

    async def change(reader, writer):
        await began.wait()
        bucket.etag = '"two"'
        return await give(reader, writer)

    bucket.answers = [give, change]
    fetcher = fetch(connections=3)
    task = asyncio.create_task(fetcher.download(stored(bucket.url()), tmp_path / "out"))
    await began.wait()
    for _ in range(50):  # until all others have noticed it
        await asyncio.sleep(0.001)
    assert bucket.etag == '"two"'
    asked = len(bucket.heads)
    task.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    assert await settled(task)
    assert len(bucket.heads) == asked
    assert open_files_in(tmp_path) == []


async def test_a_restarted_download_obeys_a_timeout_around_it(
    bucket, body, fetch, stored, tmp_path
):
    """Its internal cancellations must not count as the caller's."""

    def change(_number):
        bucket.etag = '"two"'

    def run_out(_number):
        limit.reschedule(0)

    hang = bucket.give(9, then="hang", before=run_out)
    bucket.answers = [bucket.give(), bucket.give(before=change), hang]
    task = asyncio.current_task()
    before = task.cancelling()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await fetch(connections=1).download(stored(bucket.url()), tmp_path / "out")
    assert task.cancelling() == before
    assert len(bucket.heads) == 3


async def test_unusable_later_ranges_make_it_read_in_order(bucket, body, fetch, stored, tmp_path):
    sensible = bucket.give()
    bucket.body = body

    async def encoded(reader, writer):
        if "bytes=0-" in bucket.requests[-1].get("range", "bytes=0-"):
            return await sensible(reader, writer)
        headers = ["Content-Encoding: gzip", "Content-Range: bytes 8388608-8388609/9000000"]
        writer.write(bucket.reply(b"xx", status="206 Partial Content", headers=headers))
        return True

    bucket.answers = [encoded]
    fetcher = fetch(attempts=9, connections=1)
    report = await fetcher.download(stored(bucket.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body
    assert report.bytes == len(body)
    later = bucket.ranges[1]
    assert bucket.ranges == [(0, PART), later, later, later, None]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
