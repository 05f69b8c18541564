"""Results are fetched completely, inline or from storage, or a typed error says why not."""

import asyncio
import errno
import gc
import gzip
import hashlib
import json
import math
import os
import stat
import threading

import pytest
from attrs import evolve
from files import mode_of_new_files, names, sha256
from internals import sessions
from rawstorage import LONG
from streams import collect, fetch_by

from adepoll.api.client import AdeClient
from adepoll.api.kinds import v1_extract
from adepoll.api.models import JobSnapshot
from adepoll.emulator import Emulator, JobPlan, Outcome
from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultRefusedError,
    ResultServerError,
    ResultTooLargeError,
    ResultTransferError,
    ResultUnavailableError,
    StorageError,
    TargetExistsError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.part_file import PartFile
from adepoll.throttling.waiting_times import RetryPolicy

LARGE = 1_300_000
EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Request has expired</Message></Error>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
MISMATCH = (
    b"<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does "
    b"not match the signature you provided.</Message></Error>"
)


@pytest.fixture
async def ade(clock):
    async with Emulator(clock=clock) as running:
        yield running


@pytest.fixture
async def client(ade):
    retry = RetryPolicy(attempts=3, base=0.001, max_wait=0.001)
    async with AdeClient(ade.api_key, base_url=ade.base_url, retry=retry) as running:
        yield running


@pytest.fixture
async def fetcher(client):
    async with ResultFetcher(client, patience=0) as running:
        yield running


def chunked(*pieces, end=True):
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in pieces)
    return body + b"0\r\n\r\n" if end else body


# --- result(): into memory ----------------------------------------------------------------------


async def test_an_inline_result_needs_no_request(ade, client, fetcher):
    job = await client.get_job(ade.submit(JobPlan()))
    before = (ade.world.traffic.get, ade.world.traffic.result)
    assert await fetcher.result(job) is job.data
    assert (ade.world.traffic.get, ade.world.traffic.result) == before


@pytest.mark.parametrize("size", [3_000, LARGE])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.PARTIAL])
async def test_a_job_id_is_enough(ade, fetcher, size, outcome):
    job_id = ade.submit(JobPlan(result_bytes=size, outcome=outcome))
    result = await fetcher.result(job_id)
    assert result == v1_extract.decode_result(ade.world.result(job_id).read())
    assert ade.world.traffic.get == 1


async def test_a_large_result_is_downloaded_with_one_request(ade, client, fetcher):
    job = await client.get_job(ade.submit(JobPlan(result_bytes=LARGE)))
    assert job.data is None
    result = await fetcher.result(job)
    assert result == v1_extract.decode_result(ade.world.result(job.job_id).read())
    assert (ade.world.traffic.get, ade.world.traffic.result) == (1, 1)


async def test_a_redacted_snapshot_gets_a_new_url(ade, client, fetcher):
    job = (await client.get_job(ade.submit(JobPlan(result_bytes=LARGE)))).redacted()
    assert job.output_url.endswith("?REDACTED")
    assert (await fetcher.result(job)).metadata.job_id == job.job_id
    assert (ade.world.traffic.get, ade.world.traffic.result) == (2, 1)


async def test_a_snapshot_saved_without_its_url_gets_a_new_url(ade, client, fetcher):
    job = await client.get_job(ade.submit(JobPlan(result_bytes=LARGE)))
    saved = JobSnapshot.from_json(json.dumps(json.loads(job.to_json()) | {"output_url": None}))
    assert (await fetcher.result(saved)).metadata.job_id == job.job_id


async def test_a_url_without_a_query_is_used_unchanged(storage, fetch, stored, result_body):
    storage.answers = [storage.reply(result_body())]
    fetcher = fetch(AssertionError("the service was asked"))
    assert await fetcher.result(stored(storage.url("/own/bucket.json")).redacted())


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Outcome.FAILED, JobFailedError), (Outcome.CANCELLED, JobCancelledError)],
)
async def test_a_failed_or_cancelled_job_raises(
    ade, client, fetcher, tmp_path, outcome, error, use, by_id
):
    job = ade.submit(JobPlan(outcome=outcome))
    if not by_id:
        job = await client.get_job(job)
    with pytest.raises(error):
        await fetch_by(use, fetcher, job, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("status", ["pending", "processing", "mystifying"])
async def test_an_active_job_has_no_result_yet(fetch, stored, tmp_path, status, use):
    fetcher = fetch(stored(status=status))
    with pytest.raises(ResultNotReadyError, match=status) as caught:
        await fetch_by(use, fetcher, "job-1", tmp_path / "out")
    assert caught.value.status == status
    with pytest.raises(ResultNotReadyError):
        await fetch_by(use, fetcher, stored(status=status), tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_with_neither_data_nor_url_the_result_is_unavailable(fetch, stored, tmp_path, use):
    fetcher = fetch(stored())
    with pytest.raises(ResultUnavailableError, match="zero data retention"):
        await fetch_by(use, fetcher, "job-1", tmp_path / "out")
    assert names(tmp_path) == []


async def test_an_unknown_job_raises_the_error_of_the_client(fetcher, tmp_path):
    with pytest.raises(JobNotFoundError):
        await fetcher.download("missing", tmp_path / "out")
    assert names(tmp_path) == []


USES = pytest.mark.parametrize("use", ["result", "download", "stream"])


async def test_an_announced_size_over_the_limit_raises_before_the_body_is_read(
    storage, fetch, stored, result_body
):
    async def announce(_reader, writer):
        writer.write(storage.reply(length=5_001))  # and no byte of the body
        await writer.drain()
        await _reader.read()

    storage.answers = [announce]
    with pytest.raises(ResultTooLargeError, match="download") as caught:
        await fetch(max_result_bytes=5_000).result(stored(storage.url()))
    assert caught.value.limit == 5_000
    assert len(storage.heads) == 1


async def test_an_unannounced_size_over_the_limit_raises_while_reading(storage, fetch, stored):
    async def endless(_reader, writer):
        writer.write(storage.reply(length=None) + b'{"extraction":"')
        while True:  # until the client disconnects
            writer.write(b"x" * 10_000)
            await writer.drain()

    storage.answers = [endless]
    with pytest.raises(ResultTooLargeError):
        await fetch(max_result_bytes=5_000).result(stored(storage.url()))
    await storage.left_alone()
    assert len(storage.heads) == 1


@pytest.mark.parametrize("length", [True, None])
async def test_a_result_of_exactly_the_limit_is_returned(
    storage, fetch, stored, result_body, length
):
    body = result_body()
    storage.answers = [storage.reply(body, length=length)]
    assert await fetch(max_result_bytes=len(body)).result(stored(storage.url()))
    with pytest.raises(ResultTooLargeError):
        await fetch(max_result_bytes=len(body) - 1).result(stored(storage.url()))


async def test_the_limit_does_not_apply_to_download_and_stream(
    storage, fetch, stored, result_body, tmp_path
):
    body = result_body()
    storage.answers = [storage.reply(body)]
    fetcher = fetch(max_result_bytes=1)
    await fetcher.download(stored(storage.url()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body
    async with fetcher.stream(stored(storage.url())) as stream:
        assert await collect(stream) == body


@USES
@pytest.mark.parametrize(
    "body",
    [b"<html>Sign in</html>", b'<?xml version="1.0"?><Error/>', b"[]", b"null", b"\x1f\x8b\x08..."],
    ids=["html", "xml", "array", "null", "gzip"],
)
async def test_a_body_that_is_not_an_object_is_malformed(
    storage, fetch, stored, tmp_path, body, use
):
    storage.answers = [storage.reply(body)]
    with pytest.raises(ResultMalformedError, match="expected an object") as caught:
        await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    assert caught.value.job_id == "job-1"
    assert names(tmp_path) == []


@pytest.mark.parametrize("use", ["result", "download"])
async def test_a_page_of_a_gateway_is_retried(storage, fetch, stored, result_body, tmp_path, use):
    storage.answers = [storage.reply(b"<html>wait</html>"), storage.reply(result_body())]
    await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    assert len(storage.heads) == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"extraction":}', "not JSON"),
        (b'{"extraction":"\xff"}', "byte"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested"),
        (b'{"extraction_metadata":{},"metadata":{}}', "required field missing @ $.extraction"),
    ],
    ids=["cut short", "not UTF-8", "endless nesting", "missing field"],
)
async def test_a_malformed_result_names_the_path(storage, fetch, stored, body, problem):
    storage.answers = [storage.reply(body)]
    with pytest.raises(ResultMalformedError) as caught:
        await fetch().result(stored(storage.url()))
    assert any(problem in text for text in caught.value.problems)
    # Only a short answer can be the page of a gateway, and is requested again.
    assert (len(storage.heads) > 1) is (len(body) < 1_000)


async def test_reading_a_large_result_does_not_block_the_loop(
    storage, fetch, stored, result_body, monkeypatch
):
    threads = []

    def decode(body):
        threads.append(threading.current_thread())
        return v1_extract.decode_result(body)

    rules = evolve(v1_extract.V1_EXTRACT, decode_result=decode)
    monkeypatch.setattr(AdeClient, "rules_of", lambda _client, _kind: rules)
    storage.answers = [storage.reply(result_body())]
    await fetch().result(stored(storage.url()))
    assert threads
    assert threading.main_thread() not in threads


# --- download(): to disk ------------------------------------------------------------------------


async def test_a_download_has_exactly_the_bytes_of_the_result(ade, client, fetcher, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=5_000_000))
    target = tmp_path / "out.json"
    job, loop = await client.get_job(job_id), asyncio.get_running_loop()
    before = loop.time()
    report = await fetcher.download(job, target)
    assert 0 <= report.seconds <= loop.time() - before
    truth = ade.truth(job_id)
    assert sha256(target.read_bytes()) == truth.result_sha256 == report.sha256
    assert target.stat().st_size == truth.result_bytes == report.bytes
    assert stat.S_IMODE(target.stat().st_mode) == mode_of_new_files(tmp_path)
    assert report.etag == ade.world.result(job_id).etag
    assert (report.job_id, report.path) == (job_id, target)
    assert names(tmp_path) == ["out.json"]
    assert ade.world.traffic.leaks == 0


async def test_progress_of_an_inline_result_grows_from_zero_to_the_size(ade, fetcher, tmp_path):
    job_id, reports = ade.submit(JobPlan(result_bytes=3_000)), []
    report = await fetcher.download(
        job_id, tmp_path / "out", progress=lambda *now: reports.append(now)
    )
    assert reports[0] == (0, report.bytes)
    assert reports[-1] == (report.bytes, report.bytes)


async def test_an_inline_result_is_written_like_a_stored_one(ade, fetcher, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=3_000))
    report = await fetcher.download(job_id, str(tmp_path / "out.json"))
    written = (tmp_path / "out.json").read_bytes()
    assert json.loads(written) == json.loads(ade.world.result(job_id).read())
    assert (report.bytes, report.sha256) == (len(written), sha256(written))
    assert report.etag is None
    assert stat.S_IMODE(report.path.stat().st_mode) == mode_of_new_files(tmp_path)
    assert ade.world.traffic.result == 0


async def test_an_existing_target_raises_before_any_request(ade, fetcher, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=LARGE))
    target = tmp_path / "out"
    target.write_bytes(b"before")
    with pytest.raises(TargetExistsError):
        await fetcher.download(job_id, target)
    assert (ade.world.traffic.get, ade.world.traffic.result) == (0, 0)
    assert target.read_bytes() == b"before"


async def test_a_missing_folder_raises_before_any_request(ade, fetcher, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=LARGE))
    with pytest.raises(StorageError) as caught:
        await fetcher.download(job_id, tmp_path / "missing" / "out")
    assert caught.value.errno == errno.ENOENT
    assert (ade.world.traffic.get, ade.world.traffic.result) == (0, 0)


async def test_with_overwrite_the_old_file_is_replaced(ade, fetcher, tmp_path):
    job_id = ade.submit(JobPlan(result_bytes=LARGE))
    target = tmp_path / "out"
    target.write_bytes(b"before")
    report = await fetcher.download(job_id, target, overwrite=True)
    assert sha256(target.read_bytes()) == report.sha256 == ade.truth(job_id).result_sha256
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
async def test_while_bytes_arrive_there_is_no_target_or_the_old_one(
    storage, fetch, stored, result_body, tmp_path, overwrite
):
    body = result_body(12 * 2**20)
    target = tmp_path / "out"
    if overwrite:
        target.write_bytes(b"before")
    moved, written = asyncio.Event(), 0
    seen = []

    def progress(count, _size):
        nonlocal written
        written = count
        moved.set()
        seen.append([name for name in names(tmp_path) if ".part" not in name])
        if overwrite:
            assert target.read_bytes() == b"before"

    async def slowly(_reader, writer):
        writer.write(storage.reply(length=len(body)))
        for start in range(0, len(body), 2**20):
            writer.write(body[start : start + 2**20])
            while written < start - 5 * 2**20:  # two batches may be waiting for the disk
                moved.clear()
                await moved.wait()

    storage.answers = [slowly]
    await fetch().download(stored(storage.url()), target, overwrite=overwrite, progress=progress)
    assert len(seen) > 3
    assert seen == [["out"] if overwrite else []] * len(seen)
    assert target.read_bytes() == body


async def test_a_target_created_meanwhile_is_not_replaced(
    storage, fetch, stored, result_body, tmp_path
):
    target = tmp_path / "out"

    async def meanwhile(_reader, writer):
        target.write_bytes(b"theirs")
        writer.write(storage.reply(result_body()))

    storage.answers = [meanwhile]
    with pytest.raises(TargetExistsError):
        await fetch().download(stored(storage.url()), target)
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out"]
    assert len(storage.heads) == 1


async def test_of_two_downloads_to_one_target_one_wins_and_one_raises(
    ade, client, fetcher, tmp_path
):
    jobs = [ade.submit(JobPlan(result_bytes=LARGE)) for _ in range(2)]
    reports = await asyncio.gather(
        *(fetcher.download(job, tmp_path / "out") for job in jobs), return_exceptions=True
    )
    (report,) = [report for report in reports if not isinstance(report, Exception)]
    assert sum(isinstance(report, TargetExistsError) for report in reports) == 1
    assert sha256((tmp_path / "out").read_bytes()) == report.sha256
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_full_disk_raises_immediately_and_leaves_no_file(
    ade, fetcher, tmp_path, monkeypatch, inline
):
    def write(self, offset, chunks):
        raise self._storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(PartFile, "write", write)
    job_id = ade.submit(JobPlan(result_bytes=3_000 if inline else LARGE))
    with pytest.raises(StorageError, match="No space left") as caught:
        await fetcher.download(job_id, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert ade.world.traffic.result == (0 if inline else 1)  # a full disk is not retried
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("length", "wrap"),
    [
        pytest.param(True, None, id="Content-Length"),
        pytest.param(None, None, id="close-delimited"),
        pytest.param(None, chunked, id="chunked"),
    ],
)
@USES
async def test_a_body_may_be_delimited_in_any_form_of_http(
    storage, fetch, stored, result_body, tmp_path, length, wrap, use
):
    body = result_body()
    if wrap is None:
        answer = storage.reply(body, length=length)
    else:
        pieces = [body[:1], body[1:700], body[700:]]
        headers = ["Transfer-Encoding: chunked"]
        answer = storage.reply(length=None, headers=headers) + wrap(*pieces)
    storage.answers = [answer]
    got = await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    if use == "result":
        assert got == v1_extract.decode_result(body)
    elif use == "download":
        assert (tmp_path / "out").read_bytes() == body
        assert got.bytes == len(body)
    else:
        assert got == body


def cut_responses(storage, body):
    """Return, by name, responses that end within the body, and the size that they announce."""
    head, half = body[:1_000], len(body)
    at_brace = body[: body.index(b"}") + 1]  # as if it were complete
    assert len(at_brace) < half
    chunked_head = storage.reply(length=None, headers=["Transfer-Encoding: chunked"])
    return {
        "shorter than announced": (storage.reply(head, length=half), half),
        "chunked without its end": (chunked_head + chunked(head, end=False), None),
        "within a chunk": (chunked_head + b"7d0\r\n" + head, None),
        "chunked, whole, without its end": (chunked_head + chunked(body, end=False), None),
        "garbage between chunks": (chunked_head + chunked(head, end=False) + b"zz\r\n", None),
        "reset": (storage.resetting(storage.reply(head, length=half)), half),
        "reset, close-delimited": (storage.resetting(storage.reply(head, length=None)), None),
        "cut, close-delimited": (storage.reply(head, length=None), None),
        # The announced size of a cut body is not the size of the result.
        "cut, and announced so": (storage.reply(head), None),
        "cut after a brace": (storage.reply(at_brace, length=None), None),
        "cut after a brace, chunked": (chunked_head + chunked(at_brace), None),
        "cut after a brace, and announced so": (storage.reply(at_brace), None),
        "nothing of it": (storage.reply(length=half), half),
        "empty, and announced so": (storage.reply(), None),
        "empty, close-delimited": (storage.reply(length=None), None),
        "blank": (storage.reply(b" \r\n"), None),
    }


CUTS = pytest.mark.parametrize(
    "cut",
    [
        "shorter than announced",
        "chunked without its end",
        "within a chunk",
        "chunked, whole, without its end",
        "garbage between chunks",
        "reset",
        "reset, close-delimited",
        "cut, close-delimited",
        "cut, and announced so",
        "cut after a brace",
        "cut after a brace, chunked",
        "cut after a brace, and announced so",
        "nothing of it",
        "empty, and announced so",
        "empty, close-delimited",
        "blank",
    ],
)


@CUTS
@pytest.mark.parametrize("use", ["result", "download"])
async def test_an_incomplete_body_is_retried_and_never_returned(
    storage, fetch, stored, result_body, tmp_path, cut, use
):
    body = result_body()
    answer, expected = cut_responses(storage, body)[cut]
    storage.answers = [answer]
    with pytest.raises(ResultTransferError) as caught:
        await fetch_by(use, fetch(attempts=4), stored(storage.url()), tmp_path / "out")
    assert caught.value.expected == expected
    assert caught.value.received <= len(body)
    assert len(storage.heads) == 4
    assert names(tmp_path) == []


@CUTS
@pytest.mark.parametrize("use", ["result", "download"])
async def test_a_later_complete_attempt_succeeds(
    storage, fetch, stored, result_body, tmp_path, cut, use
):
    body = result_body()
    answer, _ = cut_responses(storage, body)[cut]
    storage.answers = [answer, answer, storage.reply(body)]
    got = await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    asks_for_whole = use == "download" and cut == "garbage between chunks"
    assert len(storage.heads) == 3 + asks_for_whole
    if use == "result":
        assert got == v1_extract.decode_result(body)
    else:
        assert (got.bytes, got.sha256) == (len(body), sha256(body))
        assert (tmp_path / "out").read_bytes() == body
        assert names(tmp_path) == ["out"]


@CUTS
async def test_a_stream_that_always_breaks_is_given_up_after_all_attempts(
    storage, fetch, stored, result_body, cut
):
    body = result_body()
    answer, expected = cut_responses(storage, body)[cut]
    storage.answers = [answer]
    got = b""
    with pytest.raises(ResultTransferError) as caught:  # noqa: PT012 - bytes arrive before the error
        async with fetch().stream(stored(storage.url())) as stream:
            async for chunk in stream:
                got += chunk
    assert caught.value.expected == expected
    assert body.startswith(got)
    assert len(storage.heads) == 3


@CUTS
async def test_a_broken_stream_resumes_and_returns_no_byte_twice(
    storage, fetch, stored, result_body, cut
):
    body = result_body()
    answer, _ = cut_responses(storage, body)[cut]
    storage.answers = [answer, answer, storage.reply(body)]
    async with fetch().stream(stored(storage.url())) as stream:
        assert await collect(stream) == body
        assert stream.received == len(body)
    assert len(storage.heads) == 3


async def test_a_stream_broken_in_its_first_bytes_is_complete(storage, fetch, stored, result_body):
    body = result_body()
    storage.answers = [storage.reply(b"", length=len(body)), storage.reply(body)]
    async with fetch().stream(stored(storage.url())) as stream:
        assert stream.received == 0  # bytes that were read ahead were not returned
        assert await collect(stream) == body
        assert stream.received == len(body)


async def test_the_error_has_the_bytes_of_the_last_attempt(
    storage, fetch, stored, result_body, tmp_path
):
    body = result_body()
    storage.answers = [storage.reply(body[:500], length=None), storage.reply(body[:900])]
    with pytest.raises(ResultTransferError, match="after 900 bytes") as caught:
        await fetch(attempts=2).download(stored(storage.url()), tmp_path / "out")
    assert (caught.value.received, caught.value.expected) == (900, None)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9\r\n", b"\x15\x03\x01\x00\x02\x02F", b"\0" * 99],
)
async def test_a_response_that_is_not_http_is_a_transfer_error(storage, fetch, stored, answer):
    storage.answers = [answer]
    with pytest.raises(ResultTransferError) as caught:
        await fetch(attempts=2).result(stored(storage.url()))
    assert (caught.value.received, caught.value.expected) == (0, None)
    assert len(storage.heads) >= 2


async def test_a_failed_connection_is_a_transfer_error(storage, fetch, stored):
    url = storage.url()
    await storage.__aexit__()
    with pytest.raises(ResultTransferError, match=r"cannot connect to 127\.0\.0\.1"):
        await fetch().result(stored(url))


@pytest.mark.parametrize("before_headers", [True, False])
async def test_a_storage_that_stops_sending_is_given_up(
    storage, fetch, stored, tmp_path, leap, before_headers
):
    async def fall_silent(reader, writer):
        if not before_headers:
            writer.write(storage.reply(b'{"extraction"', length=1_000))
        await storage.hang(reader, leap)

    storage.answers = [fall_silent]
    match = "does not respond" if before_headers else "stopped sending"
    with pytest.raises(ResultTransferError, match=match):
        await fetch(attempts=2, read_timeout=LONG).download(stored(storage.url()), tmp_path / "out")
    await storage.left_alone()
    assert len(storage.heads) == 2 + before_headers  # the last one without a range
    assert names(tmp_path) == []


# --- Error statuses -----------------------------------------------------------------------------


@USES
@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Bad Gateway", "503 Slow Down", "429 Too Many", "408 Timeout"]
)
async def test_a_server_error_of_the_storage_is_retried(
    storage, fetch, stored, result_body, tmp_path, status, use
):
    body = result_body()
    trouble = storage.reply(b"<Error><Message>Reduce your rate.</Message></Error>", status=status)
    storage.answers = [trouble, storage.reply(body)]
    assert await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    assert len(storage.heads) == 2
    storage.answers = [trouble]
    with pytest.raises(ResultServerError, match="Reduce your rate") as caught:
        await fetch_by(use, fetch(attempts=4), stored(storage.url()), tmp_path / "out2")
    assert caught.value.status == int(status[:3])
    assert len(storage.heads) == 2 + 4


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "204 None", "304 Same"])
async def test_any_other_status_is_retried_only_without_a_range(
    storage, fetch, stored, tmp_path, status
):
    storage.answers = [storage.reply(status=status)]
    with pytest.raises(ResultRefusedError) as caught:
        await fetch().download(stored(storage.url()), tmp_path / "out")
    assert caught.value.status == int(status[:3])
    assert [b"Range:" in head for head in storage.heads] == [True, False]
    assert names(tmp_path) == []


@USES
@pytest.mark.parametrize(
    "body", [DENIED, MISMATCH, b"", b"<html>Forbidden"], ids=["denied", "mismatch", "empty", "html"]
)
async def test_a_403_without_expiry_names_output_save_url_and_is_not_retried(
    storage, fetch, stored, tmp_path, body, use
):
    storage.answers = [storage.reply(body, status="403 Forbidden")]
    fetcher = fetch(AssertionError("the service was asked"))
    with pytest.raises(ResultForbiddenError, match="output_save_url") as caught:
        await fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    assert caught.value.status == 403
    assert len(storage.heads) == 1 + (use == "download")  # one without a range
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (DENIED, "Access Denied"),
        (
            MISMATCH,
            "The request signature we calculated does not match the signature you provided.",
        ),
        (b"<html>no message</html>", ""),
        (b"<Message>" + b"x" * 10_000, ""),
        (b"<Message>" + b"x" * 999 + b"</Message>", "x" * 200 + "..."),
        (b"<Message>a\x1b[31m\r\n\xff</Message>", "a\\x1b[31m\\r\\n\N{REPLACEMENT CHARACTER}"),
        (b"<Message>Tom &amp; &quot;Jerry&quot;</Message>", 'Tom & "Jerry"'),
    ],
    ids=["denied", "mismatch", "none", "endless", "long", "hostile", "escaped"],
)
async def test_the_detail_is_the_redacted_message_of_the_storage(
    storage, fetch, stored, body, detail
):
    storage.answers = [storage.reply(body, status="403 Forbidden")]
    with pytest.raises(ResultForbiddenError) as caught:
        await fetch().result(stored(storage.url()))
    assert caught.value.detail == detail
    assert detail in str(caught.value)


@pytest.mark.parametrize("length", [True, None])
async def test_an_error_page_in_several_chunks_is_read_completely(
    storage, fetch, stored, result_body, length
):
    async def piecemeal(_reader, writer):
        answer = storage.reply(EXPIRED, status="403 Forbidden", length=length)
        head, _, page = answer.partition(b"\r\n\r\n")
        for chunk in (head + b"\r\n\r\n", page[:30], page[30:80], page[80:]):
            writer.write(chunk)
            await writer.drain()
            for _ in range(20):  # let the client read the available bytes
                await asyncio.sleep(0)

    storage.answers = [piecemeal, storage.reply(result_body())]
    fetcher = fetch(stored(storage.url("/fresh")))
    assert await fetcher.result(stored(storage.url("/stale")))
    assert storage.targets == ["/stale", "/fresh"]


async def test_an_endless_error_page_is_read_up_to_a_limit(storage, fetch, stored):
    async def endless(_reader, writer):
        writer.write(storage.reply(status="403 Forbidden", length=None))
        while True:  # until the client disconnects
            writer.write(b"<Message>no</Message>" * 1_000)
            await writer.drain()

    storage.answers = [endless]
    with pytest.raises(ResultForbiddenError) as caught:
        await fetch().result(stored(storage.url()))
    assert caught.value.detail == "no"
    await storage.left_alone()


@pytest.mark.parametrize("status", ["403 Forbidden", "503 Slow Down"])
async def test_a_broken_error_page_still_raises_its_status(storage, fetch, stored, status):
    storage.answers = [storage.reply(b"<Message>message</Message>", status=status, length=900)]
    with pytest.raises(ResultRefusedError) as caught:
        await fetch(attempts=1).result(stored(storage.url()))
    assert caught.value.status == int(status[:3])


@USES
@pytest.mark.parametrize("coding", ["br", "zstd", "aws-chunked, BR"])
async def test_an_unsupported_content_encoding_is_malformed(
    storage, fetch, stored, result_body, tmp_path, coding, use
):
    headers = [f"Content-Encoding: {coding}"]
    storage.answers = [storage.reply(b"\x8b\x0f" + result_body(), headers=headers)]
    with pytest.raises(ResultMalformedError, match="unsupported content encoding"):
        await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    assert names(tmp_path) == []


NOT_ENCODING = ["", "identity", "Identity", "aws-chunked", "utf-8", "binary", "none", "json"]
NOT_ENCODING += ["base64", "8bit", "aws-chunked,identity", "aws-chunked, aws-chunked", "br", "gzip"]


@USES
@pytest.mark.parametrize("coding", NOT_ENCODING)
async def test_bytes_that_are_not_encoded_are_accepted_whatever_the_header_says(
    storage, fetch, stored, result_body, tmp_path, coding, use
):
    headers = [f"Content-Encoding: {coding}"]
    storage.answers = [storage.reply(result_body(), headers=headers)]
    await fetch_by(use, fetch(attempts=1), stored(storage.url()), tmp_path / "out")


@USES
@pytest.mark.parametrize("coding", ["gzip, aws-chunked", "aws-chunked,gzip", "gzip, gzip"])
async def test_lists_of_content_encodings_are_decoded(
    storage, fetch, stored, result_body, tmp_path, coding, use
):
    body = result_body()
    for _ in range(coding.count("gzip")):
        body = gzip.compress(body)
    storage.answers = [storage.reply(body, headers=[f"Content-Encoding: {coding}"])]
    await fetch_by(use, fetch(attempts=1), stored(storage.url()), tmp_path / "out")
    assert use != "download" or (tmp_path / "out").read_bytes() == result_body()


@USES
async def test_more_codings_than_curl_decodes_are_malformed(
    storage, fetch, stored, result_body, tmp_path, use
):
    codings = ", ".join(["gzip"] * 1_000)
    storage.answers = [storage.reply(result_body(), headers=[f"Content-Encoding: {codings}"])]
    with pytest.raises(ResultMalformedError, match="more than 5 content codings"):
        await fetch_by(use, fetch(attempts=1), stored(storage.url()), tmp_path / "out")


# --- Expiry -------------------------------------------------------------------------------------


@USES
async def test_an_hour_later_the_url_is_renewed(ade, client, fetcher, clock, tmp_path, use):
    job = await client.get_job(ade.submit(JobPlan(result_bytes=LARGE)))
    clock.now += 3_601
    got = await fetch_by(use, fetcher, job, tmp_path / "out")
    truth = ade.world.result(job.job_id).read()
    if use == "result":
        assert got == v1_extract.decode_result(truth)
    else:
        assert (got if use == "stream" else (tmp_path / "out").read_bytes()) == truth
    assert (ade.world.traffic.get, ade.world.traffic.result) == (2, 2)


async def test_within_the_hour_the_url_is_not_renewed(ade, client, fetcher, clock):
    job = await client.get_job(ade.submit(JobPlan(result_bytes=LARGE)))
    clock.now += 3_590
    assert await fetcher.result(job)
    assert (ade.world.traffic.get, ade.world.traffic.result) == (1, 1)


@USES
async def test_a_repeated_expired_url_is_not_requested_again(storage, fetch, stored, tmp_path, use):
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden")]
    job = stored(storage.url())
    fetcher = fetch(job)
    with pytest.raises(ResultExpiredError) as caught:
        await fetch_by(use, fetcher, job, tmp_path / "out")
    assert caught.value.detail == "Request has expired"
    assert len(storage.heads) == 1
    assert len(fetch.asked) == 1
    assert names(tmp_path) == []


@USES
async def test_at_most_two_renewed_urls_in_a_row_may_be_expired(
    storage, fetch, stored, tmp_path, use
):
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden")]
    fetcher = fetch(*(stored(storage.url(f"/{number}")) for number in range(1, 9)))
    with pytest.raises(ResultExpiredError):
        await fetch_by(use, fetcher, stored(storage.url("/0")), tmp_path / "out")
    assert storage.targets == ["/0", "/1", "/2"]
    assert len(fetch.asked) == 2  # no URL is requested that would not be used
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("failed", JobFailedError),
        ("cancelled", JobCancelledError),
        ("processing", ResultNotReadyError),
    ],
)
async def test_a_renewal_tells_that_the_job_has_no_result(storage, fetch, stored, status, error):
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden")]
    with pytest.raises(error):
        await fetch(stored(status=status), attempts=3).result(stored(storage.url()))
    assert len(fetch.asked) == (3 if status == "processing" else 1)


async def test_a_completed_job_that_seems_active_is_requested_again(
    storage, fetch, stored, result_body
):
    """One server of the service can be behind the others."""
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden"), storage.reply(result_body())]
    fetcher = fetch(stored(status="processing"), stored(storage.url("/fresh")))
    assert await fetcher.result(stored(storage.url("/stale")))
    assert storage.targets == ["/stale", "/fresh"]


async def test_a_job_without_url_on_renewal_stays_expired(storage, fetch, stored):
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden")]
    with pytest.raises(ResultExpiredError):
        await fetch(stored()).result(stored(storage.url()))


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
async def test_expiry_is_recognised_by_the_message_for_several_statuses(
    storage, fetch, stored, result_body, status
):
    message = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
    storage.answers = [storage.reply(message, status=status), storage.reply(result_body())]
    assert await fetch(stored(storage.url("/fresh"))).result(stored(storage.url("/stale")))
    assert storage.targets == ["/stale", "/fresh"]


AZURE = (
    b"<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request."
    b"</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame: Start "
    b"[Sat, 28 Nov 2026 10:00:00 GMT] - Expiry [Sat, 28 Nov 2026 11:00:00 GMT] - Current [Sun, 29 "
    b"Nov 2026 00:00:00 GMT]</AuthenticationErrorDetail></Error>"
)


async def test_the_expiry_of_azure_renews_the_url(storage, fetch, stored, result_body):
    storage.answers = [storage.reply(AZURE, status="403 Forbidden"), storage.reply(result_body())]
    fetcher = fetch(stored(storage.url("/fresh")), attempts=1)
    assert await fetcher.result(stored(storage.url("/stale")))
    assert storage.targets == ["/stale", "/fresh"]


@USES
@pytest.mark.parametrize(
    "said",
    [
        b"<Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message>",
        b"<Code>AccessDenied</Code><Message>Request is not yet valid</Message>",
    ],
)
async def test_a_url_that_is_too_early_for_the_storage_is_requested_again(
    storage, fetch, stored, result_body, tmp_path, said, use
):
    early = storage.reply(b"<Error>" + said + b"</Error>", status="403 Forbidden")
    storage.answers = [early, storage.reply(result_body())]
    await fetch_by(use, fetch(attempts=2), stored(storage.url()), tmp_path / "out")
    assert len(storage.heads) == 2


async def test_a_failed_renewal_raises_the_error_of_the_api(storage, fetch, stored):
    storage.answers = [storage.reply(EXPIRED, status="403 Forbidden")]
    fetcher = fetch(JobNotFoundError(status=404, job_id="job-1"))
    with pytest.raises(JobNotFoundError):
        await fetcher.result(stored(storage.url()))


async def test_failed_renewals_do_not_prevent_the_next_one(storage, fetch, stored):
    """Several transfers of one result share its URL, and count its renewals together."""
    storage.answers = [
        *[storage.reply(EXPIRED, status="403 Forbidden")] * 3,
        storage.reply(b'{"a": 1}'),
    ]
    refused = AuthenticationError(status=401, job_id="job-1")
    fetcher = fetch(refused, refused, stored(storage.url("/new")))
    job = stored(storage.url("/old"))
    async with fetcher._sources.find(job) as found:
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                await (await found.reader()).begin()
        reader = await found.reader()
        await reader.begin()
        assert await reader.read() == b'{"a": 1}'
        await reader.aclose()
    assert storage.targets == ["/old", "/old", "/old", "/new"]


async def test_expiry_between_attempts_renews_the_url_and_costs_no_attempt(
    storage, fetch, stored, result_body, tmp_path
):
    body = result_body()
    cut = storage.reply(body[:500], length=len(body))
    expired = storage.reply(EXPIRED, status="403 Forbidden")
    storage.answers = [cut, expired, cut, storage.reply(body)]
    fetcher = fetch(stored(storage.url("/fresh")), attempts=3)
    await fetcher.download(stored(storage.url("/stale")), tmp_path / "out")
    assert storage.targets == ["/stale", "/stale", "/fresh", "/fresh"]
    assert (tmp_path / "out").read_bytes() == body


# --- stream() -----------------------------------------------------------------------------------


async def test_a_stream_has_size_and_etag_first_and_counts_its_bytes(ade, client, fetcher):
    job_id = ade.submit(JobPlan(result_bytes=5_000_000))
    truth = ade.world.result(job_id)
    async with fetcher.stream(job_id) as stream:
        assert (stream.size, stream.etag, stream.received) == (truth.size, truth.etag, 0)
        digest, count, total = hashlib.sha256(), 0, 0
        async for chunk in stream:
            digest.update(chunk)
            count += 1
            total += len(chunk)
            assert stream.received == total
        assert count > 1
        assert (digest.hexdigest(), total) == (truth.sha256(), truth.size)


async def test_a_stream_of_unknown_size_has_no_size(storage, fetch, stored, result_body):
    body = result_body()
    storage.answers = [storage.reply(body, length=None)]
    async with fetch().stream(stored(storage.url())) as stream:
        assert (stream.size, stream.etag) == (None, None)
        assert await collect(stream) == body


async def test_an_inline_result_streams_too(ade, fetcher):
    job_id = ade.submit(JobPlan(result_bytes=3_000))
    async with fetcher.stream(job_id) as stream:
        size = stream.size
        body = await collect(stream)
    assert stream.etag is None
    assert len(body) == size == stream.received
    assert json.loads(body) == json.loads(ade.world.result(job_id).read())


async def test_a_stream_stays_at_its_end(ade, fetcher):
    for size in (3_000, LARGE):
        async with fetcher.stream(ade.submit(JobPlan(result_bytes=size))) as stream:
            assert await collect(stream)
            assert await collect(stream) == b""


@pytest.mark.parametrize("length", [True, None])
async def test_whitespace_around_the_result_is_accepted(
    storage, fetch, stored, result_body, length
):
    pieces = [b" ", b"\r\n", result_body(), b"\n", b" " * 40]

    async def piecemeal(_reader, writer):
        total = sum(map(len, pieces)) if length else None
        writer.write(storage.reply(length=total))
        for chunk in pieces:
            writer.write(chunk)
            await writer.drain()
            for _ in range(20):  # let the client read the available bytes
                await asyncio.sleep(0)

    storage.answers = [piecemeal]
    async with fetch().stream(stored(storage.url())) as stream:
        assert await collect(stream) == b"".join(pieces)


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_whitespace_before_a_page_does_not_make_it_a_result(
    storage, fetch, stored, tmp_path, use
):
    async def piecemeal(_reader, writer):
        writer.write(storage.reply(length=None))
        for chunk in (b"\r\n", b" ", b"<script>a = {}"):
            writer.write(chunk)
            await writer.drain()
            for _ in range(20):  # let the client read the available bytes
                await asyncio.sleep(0)

    storage.answers = [piecemeal]
    with pytest.raises(ResultMalformedError):
        await fetch_by(use, fetch(), stored(storage.url()), tmp_path / "out")
    assert names(tmp_path) == []


async def test_a_pausing_reader_pauses_the_storage(storage, fetch, stored):
    total, chunk = 256 * 2**20, b"x" * 2**16
    sent = 0

    async def pour(_reader, writer):
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        writer.write(storage.reply(b'{"', length=total))
        while sent < total:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)

    storage.answers = [pour]
    async with fetch().stream(stored(storage.url())) as stream:
        await anext(stream)
        before = -1
        while sent != before:  # until the number of sent bytes stays the same
            before = sent
            for _ in range(1_000):
                await asyncio.sleep(0)
        assert sent < 32 * 2**20  # the buffers of kernel and client
        largest = 0
        while stream.received < 64 * 2**20:
            largest = max(largest, len(await anext(stream)))
        assert largest < 8 * 2**20
    assert sent < 128 * 2**20
    await storage.left_alone()


@pytest.mark.parametrize("after", [0, 1])
async def test_leaving_a_stream_early_closes_its_connection(storage, fetch, stored, after):
    async def endless(_reader, writer):
        writer.write(storage.reply(length=None) + b'{"')
        while True:  # until the client disconnects
            writer.write(b"x" * 10_000)
            await writer.drain()

    storage.answers = [endless]
    async with fetch().stream(stored(storage.url())) as stream:
        if after:
            async for chunk in stream:
                assert chunk
                break
    await storage.left_alone()


async def test_an_error_of_the_caller_is_raised_and_closes_the_connection(storage, fetch, stored):
    async def half(reader, writer):
        writer.write(storage.reply(b'{"extraction":', length=1_000))
        await reader.read()

    storage.answers = [half]
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the error is raised inside the block
        async with fetch().stream(stored(storage.url())) as stream:
            await anext(stream)
            raise ZeroDivisionError
    await storage.left_alone()
    assert len(storage.heads) == 1


# --- Cancellation, closing, simultaneous transfers ----------------------------------------------


@pytest.fixture
def pause_method(monkeypatch):
    """Make a method of PartFile wait in its thread; return the events (began, go_on).

    `where` says whether it waits before or after its work.
    """

    def patch(method, *, where="before"):
        began, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        real = getattr(PartFile, method)

        def paused(self, *args):
            if where == "after":
                result = real(self, *args)
            loop.call_soon_threadsafe(began.set)
            assert go_on.wait(10)
            return result if where == "after" else real(self, *args)

        monkeypatch.setattr(PartFile, method, paused)
        return began, go_on

    return patch


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("method", ["check", "open", "write", "publish"])
async def test_a_download_cancelled_during_disk_work_leaves_no_part_file(
    storage, fetch, stored, result_body, tmp_path, pause_method, method, where
):
    began, go_on = pause_method(method, where=where)
    body = result_body()
    storage.answers = [storage.reply(body)]
    task = asyncio.create_task(fetch().download(stored(storage.url()), tmp_path / "out"))
    await began.wait()
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for its threads
    if method == "publish":
        assert (tmp_path / "out").read_bytes() == body  # too late to stop: it is published
        assert names(tmp_path) == ["out"]
    else:
        assert names(tmp_path) == []
    await storage.left_alone()


@pytest.mark.parametrize("method", ["open", "write", "publish"])
async def test_a_cancelled_download_waits_for_disk_work_without_blocking_the_loop(
    storage, fetch, stored, result_body, tmp_path, pause_method, method
):
    began, go_on = pause_method(method)
    storage.answers = [storage.reply(result_body())]
    task = asyncio.create_task(fetch().download(stored(storage.url()), tmp_path / "out"))
    await began.wait()
    for _ in range(3):  # repeated cancellation changes nothing
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [name for name in names(tmp_path) if name.endswith(".part")] == []


async def test_disk_work_that_holds_its_lock_does_not_block_the_loop_when_cancelled(
    storage, fetch, stored, result_body, tmp_path, monkeypatch
):
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    real = os.fsync

    def slow_fsync(fd):
        loop.call_soon_threadsafe(began.set)
        freed.append(go_on.wait(5))
        real(fd)

    freed = []
    monkeypatch.setattr(os, "fsync", slow_fsync)
    storage.answers = [storage.reply(result_body())]
    task = asyncio.create_task(fetch().download(stored(storage.url()), tmp_path / "out"))
    await began.wait()
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(freed)  # by this loop, not by the timeout of a wait


async def _wait_for_bytes(storage, transfer, sent=b""):
    """Start a transfer from a server that sends so much and no more; return its waiting task."""
    begun = asyncio.Event()

    async def half(reader, writer):
        writer.write(sent)
        begun.set()
        await reader.read()  # until the client disconnects

    storage.answers = [half]
    task = asyncio.create_task(transfer)
    await begun.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("before_headers", [True, False])
@pytest.mark.parametrize(
    ("end", "error"), [("cancel", asyncio.CancelledError), ("close", ClosedError)]
)
async def test_a_transfer_ended_while_waiting_for_bytes_leaves_nothing(
    storage, fetch, stored, tmp_path, use, before_headers, end, error
):
    sent = b"" if before_headers else storage.reply(b'{"', length=1_000)
    before = asyncio.all_tasks()
    fetcher = fetch(attempts=1)
    transfer = fetch_by(use, fetcher, stored(storage.url()), tmp_path / "out")
    task = await _wait_for_bytes(storage, transfer, sent)
    if end == "cancel":
        task.cancel()
    else:
        await fetcher.aclose()
    with pytest.raises(error):
        await task
    await storage.left_alone()
    assert asyncio.all_tasks() == before
    assert len(storage.heads) == 1
    assert names(tmp_path) == []
    gc.collect()  # a ResourceWarning would be an error


async def test_closing_the_fetcher_ends_the_reading_of_an_error_page(storage, fetch, stored):
    sent = storage.reply(b"<Error>", status="503 Slow Down", length=1_000)
    fetcher = fetch(attempts=1)
    task = await _wait_for_bytes(storage, fetcher.result(stored(storage.url())), sent)
    await fetcher.aclose()
    async with asyncio.timeout(60):
        with pytest.raises(ClosedError):
            await task
    await storage.left_alone()


async def test_a_transfer_cancelled_between_attempts_leaves_nothing(
    storage, answering, stored, tmp_path
):
    storage.answers = [storage.reply(status="503 Slow Down")]
    waiting = asyncio.Event()

    class Patient(RetryPolicy):
        def waits(self, rng):
            while True:
                waiting.set()
                yield 3_600.0

    async with ResultFetcher(answering(retry=Patient())) as fetcher:
        task = asyncio.create_task(fetcher.download(stored(storage.url()), tmp_path / "out"))
        await waiting.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(storage.heads) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names(tmp_path) == []


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_a_closed_fetcher_raises_without_a_request(ade, client, tmp_path, use, size):
    job_id = ade.submit(JobPlan(result_bytes=size))
    job = await client.get_job(job_id)
    fetcher = ResultFetcher(client, patience=0)
    await fetcher.aclose()
    await fetcher.aclose()
    for asked in (job, job_id):
        with pytest.raises(ClosedError):
            await fetch_by(use, fetcher, asked, tmp_path / "out")
    assert (ade.world.traffic.get, ade.world.traffic.result) == (1, 0)
    assert names(tmp_path) == []


async def test_closing_the_fetcher_leaves_the_client_open(ade, client):
    job_id = ade.submit(JobPlan(result_bytes=LARGE))
    async with ResultFetcher(client, patience=0) as fetcher:
        await fetcher.result(job_id)
    assert (await client.get_job(job_id)).job_id == job_id


async def test_fifty_simultaneous_jobs_each_get_their_own_bytes(ade, client, fetcher, tmp_path):
    before = asyncio.all_tasks()
    jobs = [ade.submit(JobPlan(result_bytes=1_000_001 + 5_000 * n)) for n in range(50)]
    reports = await asyncio.gather(
        *(fetcher.download(job, tmp_path / f"{n}.json") for n, job in enumerate(jobs))
    )
    for n, (job, report) in enumerate(zip(jobs, reports, strict=True)):
        truth = ade.truth(job)
        assert report.job_id == job
        assert report.sha256 == truth.result_sha256
        assert sha256((tmp_path / f"{n}.json").read_bytes()) == truth.result_sha256
    assert names(tmp_path) == sorted(f"{n}.json" for n in range(50))
    await fetcher.aclose()
    await client.aclose()
    left = {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)}
    assert not left


async def test_one_connection_is_reused_for_several_results(storage, fetch, stored, result_body):
    storage.answers = [storage.keeping(storage.reply(result_body()))]
    fetcher = fetch()
    for _ in range(5):
        await fetcher.result(stored(storage.url()))
    assert (len(storage.heads), storage.connections) == (5, 1)
    await fetcher.aclose()
    await storage.left_alone()


async def test_an_idle_connection_closed_by_the_storage_costs_no_attempt(
    storage, fetch, stored, result_body
):
    async def keep_one(_reader, writer):
        writer.write(storage.reply(result_body()))  # and then close, without announcing it

    storage.answers = [keep_one]
    fetcher = fetch(attempts=1)
    for _ in range(3):
        await fetcher.result(stored(storage.url()))
        await storage.left_alone()


async def test_nothing_is_opened_before_the_first_request(answering):
    before = sessions()
    fetcher = ResultFetcher(answering(), patience=0)
    assert sessions() == before
    await fetcher.aclose()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_result_bytes", [0, -1, math.nan]),
        ("connections", [0, -1]),
        ("connect_timeout", [0, -1, math.nan]),
        ("read_timeout", [0, -1, math.nan]),
        ("min_rate", [-1, math.nan, math.inf]),
        ("patience", [-1, math.nan, math.inf]),
    ],
)
def test_a_number_out_of_range_raises_under_its_name(answering, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
            ResultFetcher(answering(), **{name: value})
    ResultFetcher(answering(), **{name: 0 if name in {"min_rate", "patience"} else 1})
