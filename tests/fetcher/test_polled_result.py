"""Results of any size within the answer about their job."""

import asyncio
import json
import os
from contextlib import AsyncExitStack, nullcontext
from functools import cache

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from files import names, sha256
from internals import responses_read
from waiting import until

from adepoll import AdeClient, Batch, JobKind, JobRef, ResultFetcher, RetryPolicy
from adepoll.errors import (
    ClosedError,
    JobFailedError,
    JobNotFoundError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultRangeError,
    ResultTransferError,
    ResultUnavailableError,
    ServerError,
    StatusError,
)
from adepoll.fetcher.range_fallback import is_refused_range
from adepoll.fetcher.responses import MAX_ERROR_PAGE

MIB = 2**20
REF = JobRef("j-1", kind=JobKind.V2_EXTRACT, label="a.pdf")
ENVELOPE = {"job_id": "j-1", "status": "completed", "completed_at": "2026-07-01T12:00:00Z"}


@cache
def result_of(size):
    """Return the JSON text of a result of about that many bytes, with odd whitespace."""
    text = json.dumps("".join(f'{number:07x} \\ "}} ' for number in range(size // 16)))
    return f'{{ "markdown": {text}, "extraction" :{{"total":7}}, "metadata": {{}} }}'.encode()


def answer_with(result, *, first=False, **fields):
    """Return an answer whose result is the first or the last member."""
    envelope = json.dumps({**ENVELOPE, **fields})[1:-1].encode()
    parts = [b'"result": ' + result, envelope]
    return b"{%b}\n" % b", ".join(parts if first else parts[::-1])


def unavailable():
    return web.Response(status=503)


def unknown():
    return web.json_response({"detail": "Not found"}, status=404)


def active():
    return web.json_response({"job_id": "j-1", "status": "processing"})


def failed():
    return web.json_response({"job_id": "j-1", "status": "failed"})


class Api:
    """An API on loopback with one v2 job, whose answer a test chooses.

    Attributes:
        body: The answer.
        status: Its HTTP status.
        cuts: Numbers of bytes after which the next responses break.
        etag: Its ETag; then the API serves ranges.
        range_status: Status of the response to a request of a range; None to serve it.
        later: The answer from the second request on, if it is another one.
        asked: The header `Range` of each request.
        hang: Set when a response that breaks may end.
        held: Set when responses may begin; None to begin immediately.
        instead: Functions that make another response, by the number of the request, from 1.
    """

    def __init__(self):
        self.body = b""
        self.status = 200
        self.cuts = []
        self.etag = None
        self.range_status = None
        self.later = None
        self.asked = []
        self.hang = None
        self.held = None
        self.instead = {}

    async def answer(self, request):
        self.asked.append(request.headers.get("Range"))
        if (other := self.instead.get(len(self.asked))) is not None:
            return other()
        if self.held is not None:
            await self.held.wait()
        if len(self.asked) > 1 and self.later:
            self.body = self.later
        assert request.headers["Authorization"] == "Bearer key"
        if self.range_status is not None and self.asked[-1]:
            return web.json_response({"detail": "no"}, status=self.range_status)
        return await self._send(request)

    async def _send(self, request):
        start, headers, status = 0, {"Content-Type": "application/json"}, self.status
        if self.etag:
            headers["ETag"] = self.etag
            if request.headers.get("If-Match", self.etag) != self.etag:
                return web.Response(status=412)
            if (asked := request.http_range).start:
                start, status = asked.start, 206
                headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        body = self.body[start:]
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else len(body)
        for offset in range(0, cut, 100_000):
            await response.write(body[offset : min(cut, offset + 100_000)])
        if cut < len(body):
            if self.hang is not None:
                await self.hang.wait()
            request.transport.close()
        return response


@pytest.fixture
async def api():
    api = Api()
    app = web.Application()
    app.add_routes([web.get("/v2/extract/jobs/j-1", api.answer)])
    async with TestServer(app) as server:
        api.url = str(server.make_url("/"))
        yield api


@pytest.fixture
async def connect(api):
    """Create a client of that API and its fetcher."""
    async with AsyncExitStack() as stack:

        async def enter(*, patience=0.0, **options):
            retry = RetryPolicy(attempts=3, base=0.001, max_wait=0.001)
            client = AdeClient("key", base_url=api.url, retry=retry, **options)
            await stack.enter_async_context(client)
            fetcher = ResultFetcher(client, patience=patience)
            return client, await stack.enter_async_context(fetcher)

        yield enter


@pytest.mark.parametrize("first", [True, False])
async def test_a_download_reads_the_answer_once_and_cuts_the_result_out(
    api, connect, tmp_path, first
):
    result = result_of(3 * MIB)
    api.body = answer_with(result, first=first)
    _, fetcher = await connect()
    report = await fetcher.download(REF, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result
    assert (report.bytes, report.sha256) == (len(result), sha256(result))
    assert (report.etag, report.resumed) == (None, 0)
    assert len(api.asked) == 1
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
async def test_every_method_fetches_what_a_poll_left_out(api, connect, tmp_path, mark):
    result = result_of(2 * MIB)
    api.body = mark + answer_with(result)
    client, fetcher = await connect()
    job = await client.get_job(REF)
    assert job.data_omitted
    assert (await fetcher.result(job)).extraction == {"total": 7}
    async with fetcher.stream(job) as stream:
        assert b"".join([chunk async for chunk in stream]) == result
    async with fetcher.items(job, "extraction.total") as items:
        assert [item async for item in items] == [7]
    await fetcher.download(job, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result
    assert len(api.asked) == 5
    assert fetcher.stats.finished == 4
    assert fetcher.stats.bytes_received == 4 * len(api.body)


@pytest.mark.parametrize("use", ["stream", "result", "download"])
@pytest.mark.parametrize("fails_from", [2, 3], ids=["before", "within"])
async def test_a_transfer_waits_until_an_outage_of_the_api_has_ended(
    api, connect, tmp_path, use, fails_from
):
    result = result_of(2 * MIB)
    api.body = answer_with(result)
    api.cuts = [len(api.body), MIB]
    api.instead = dict.fromkeys(range(fails_from, fails_from + 12), unavailable)
    client, fetcher = await connect(patience=600.0)
    job = await client.get_job(REF)
    if use == "result":
        assert (await fetcher.result(job)).extraction == {"total": 7}
    elif use == "download":
        await fetcher.download(job, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == result
    else:
        async with fetcher.stream(job) as stream:
            assert b"".join([chunk async for chunk in stream]) == result
    assert len(api.asked) == 3 + 12  # a poll, and two requests of the result around the outage


@pytest.mark.parametrize(
    ("answer", "error"), [(active, ResultNotReadyError), (unknown, JobNotFoundError)]
)
@pytest.mark.parametrize(("stale", "is_fetched"), [((2, 3), True), ((2, 3, 4), False)])
async def test_a_completed_job_that_seems_to_be_active_or_unknown_is_requested_again(
    api, connect, tmp_path, stale, is_fetched, answer, error
):
    api.body = answer_with(result_of(2 * MIB))
    api.instead = dict.fromkeys(stale, answer)
    client, fetcher = await connect()
    job = await client.get_job(REF)
    with nullcontext() if is_fetched else pytest.raises(error):
        await fetcher.download(job, tmp_path / "out")
    assert len(api.asked) == 4


async def test_a_completed_job_that_failed_in_a_later_answer_is_not_requested_again(api, connect):
    api.body = answer_with(result_of(2 * MIB))
    api.instead = dict.fromkeys(range(2, 9), failed)
    client, fetcher = await connect()
    job = await client.get_job(REF)
    with pytest.raises(JobFailedError):
        await fetcher.result(job)
    assert len(api.asked) == 2


@pytest.mark.parametrize("answer", [active, unknown])
async def test_a_job_that_seems_to_be_active_within_its_download_is_requested_again(
    api, connect, tmp_path, answer
):
    api.body = answer_with(result_of(2 * MIB))
    api.cuts = [MIB]
    api.instead = {2: answer, 3: answer}
    _, fetcher = await connect()
    await fetcher.download(REF, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result_of(2 * MIB)
    assert len(api.asked) == 4


@pytest.mark.parametrize(
    ("answer", "error"), [(active, ResultNotReadyError), (unknown, JobNotFoundError)]
)
async def test_an_active_or_unknown_job_of_an_id_is_not_requested_again(
    api, connect, answer, error
):
    api.instead = {1: answer}
    _, fetcher = await connect()
    with pytest.raises(error):
        await fetcher.result(REF)
    assert len(api.asked) == 1


async def test_the_first_request_of_an_id_is_repeated_by_the_client_only(api, connect):
    api.instead = dict.fromkeys(range(1, 13), unavailable)
    _, fetcher = await connect(patience=600.0)
    with pytest.raises(ServerError):
        await fetcher.result(REF)
    assert len(api.asked) == 3


async def test_without_patience_a_request_is_repeated_by_the_client_only(api, connect):
    api.body = answer_with(result_of(2 * MIB))
    api.instead = dict.fromkeys(range(2, 13), unavailable)
    client, fetcher = await connect(patience=0.0)
    job = await client.get_job(REF)
    with pytest.raises(ServerError):
        await fetcher.result(job)
    assert len(api.asked) == 1 + 3


async def test_a_kept_result_is_not_requested_again(api, connect, tmp_path):
    result = result_of(2 * MIB)
    api.body = answer_with(result)
    client, fetcher = await connect(result_dir=tmp_path)
    job = await client.get_job(REF)
    assert len(names(tmp_path)) == 2  # the result, and the lock that shows that it is in use
    assert (await fetcher.result(job)).extraction == {"total": 7}
    async with fetcher.stream(job, start=-10) as stream:
        assert b"".join([chunk async for chunk in stream]) == result[-10:]
        assert (stream.start, stream.stop, stream.size) == (
            len(result) - 10,
            len(result),
            len(result),
        )
    await fetcher.download(job, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result
    assert len(api.asked) == 1

    os.truncate(job.kept_result.path, len(result) - 1)
    stream = fetcher.stream(job)
    with pytest.raises(ResultTransferError, match="it has become shorter"):
        async with fetcher.stream(job) as stream:
            assert b"".join([chunk async for chunk in stream])

    job.kept_result.path.unlink()
    await fetcher.download(job, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == result
    assert len(api.asked) == 2


async def test_a_small_result_is_written_byte_for_byte(api, connect, tmp_path):
    result = b'{ "extraction" : {"total": 7.50}, "metadata":{ } }'
    api.body = answer_with(result)
    client, fetcher = await connect()
    job = await client.get_job(REF)
    await fetcher.download(job, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result
    async with fetcher.stream(job, start=-3) as stream:
        assert b"".join([chunk async for chunk in stream]) == b"} }"
    assert len(api.asked) == 1


@pytest.mark.parametrize("etag", [None, '"one"'])
async def test_a_broken_answer_is_resumed_or_read_again(api, connect, tmp_path, etag):
    result = result_of(3 * MIB)
    api.body, api.etag = answer_with(result), etag
    api.cuts = [2 * MIB, 100_000]
    _, fetcher = await connect()
    report = await fetcher.download(REF, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result
    assert report.resumed == (2 if etag else 1)
    assert api.asked[0] is None
    assert all(asked is not None for asked in api.asked[1:]) == (etag is not None)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 416, 422, 500, 501])
@pytest.mark.parametrize("use", ["download", "stream"])
async def test_where_a_range_of_a_broken_answer_is_refused_the_whole_is_requested(
    api, connect, tmp_path, use, status
):
    result = result_of(MIB)
    api.body, api.etag, api.cuts = answer_with(result), '"one"', [MIB // 2]
    api.range_status = status
    _, fetcher = await connect()
    assert await fetched(fetcher, use, tmp_path / "out") == result
    assert api.asked[0] is api.asked[-1] is None
    assert api.asked[1] is not None


def test_a_range_is_not_refused_if_the_api_asks_to_wait():
    busy = ServerError(status=503, detail="", job_id="j-1", retry_after=60.0)
    assert not is_refused_range(busy)


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_where_the_range_is_not_the_reason_the_whole_is_not_requested(
    api, connect, tmp_path, status
):
    api.body, api.etag, api.cuts = answer_with(result_of(MIB)), '"one"', [MIB // 2]
    api.range_status = status
    _, fetcher = await connect()
    with pytest.raises(StatusError, match=f"answered {status}"):
        await fetcher.download(REF, tmp_path / "out")
    assert api.asked[-1] is not None


async def test_an_answer_that_changes_after_a_break_is_read_from_its_beginning(
    api, connect, tmp_path
):
    api.body, api.cuts = answer_with(result_of(3 * MIB), progress=0.9), [2 * MIB]
    api.later = answer_with(result_of(3 * MIB), progress=1.0)
    _, fetcher = await connect()
    reports = []
    await fetcher.download(REF, tmp_path / "out", progress=lambda *now: reports.append(now))
    assert (tmp_path / "out").read_bytes() == result_of(3 * MIB)
    assert reports.count((0, None)) == 2
    assert len(api.asked) == 3


async def test_an_answer_that_always_breaks_is_given_up(api, connect, tmp_path):
    api.body, api.cuts = answer_with(result_of(MIB)), [1000] * 9
    _, fetcher = await connect()
    with pytest.raises(ResultTransferError):
        await fetcher.download(REF, tmp_path / "out")
    assert len(api.asked) == 3
    assert names(tmp_path) == []


WHOLE = answer_with(result_of(1000), billing={})
CUTS = {
    "in a text of the result": WHOLE[: WHOLE.index(b"}", WHOLE.index(b"markdown")) + 1],
    "in the result, after an object": WHOLE[: WHOLE.rindex(b"{}") + 2],
    "after the result": WHOLE.rstrip()[:-1],
    "before the result": WHOLE[: WHOLE.index(b"status")],
    "before the result, after an object": WHOLE[: WHOLE.index(b"{}") + 2],
    "empty": b"",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("use", ["download", "result", "stream"])
async def test_a_cut_answer_is_requested_again(api, connect, tmp_path, cut, use):
    api.body, api.later = CUTS[cut], WHOLE
    _, fetcher = await connect()
    assert await fetched(fetcher, use, tmp_path / "out") == result_of(1000)
    assert len(api.asked) == 2


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("use", ["download", "result", "stream"])
async def test_an_answer_that_is_always_cut_is_given_up(api, connect, tmp_path, cut, use):
    api.body = CUTS[cut]
    _, fetcher = await connect()
    with pytest.raises(ResultTransferError, match="ended within the result") as caught:
        await fetched(fetcher, use, tmp_path / "out")
    assert caught.value.is_object_at_fault
    assert len(api.asked) == 3
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "page", [b'{"message": "Internal server error"}', b"<html>wait</html>", b'{"job_id": "j-1"}']
)
@pytest.mark.parametrize("use", ["download", "result", "stream"])
async def test_a_page_of_a_gateway_is_requested_again(api, connect, tmp_path, page, use):
    api.body, api.later = page, WHOLE
    _, fetcher = await connect()
    assert await fetched(fetcher, use, tmp_path / "out") == result_of(1000)
    assert len(api.asked) == 2
    assert fetcher.stats.resumed == 1


async def test_a_report_counts_a_page_of_a_gateway_as_an_interruption(api, connect, tmp_path):
    api.body, api.later = b'{"message": "Internal server error"}', WHOLE
    _, fetcher = await connect()
    assert (await fetcher.download(REF, tmp_path / "out")).resumed == 1


@pytest.mark.parametrize("use", ["download", "result", "stream"])
async def test_a_large_malformed_answer_is_requested_once(api, connect, tmp_path, use):
    api.body, api.later = b'{"a": "' + b"a" * 2 * MAX_ERROR_PAGE + b'"?', WHOLE
    _, fetcher = await connect()
    with pytest.raises(ResultMalformedError):
        await fetched(fetcher, use, tmp_path / "out")
    assert len(api.asked) == 1


async def fetched(fetcher, use, path):
    """Fetch the result of the job; return its bytes."""
    if use == "download":
        await fetcher.download(REF, path)
        return path.read_bytes()
    if use == "result":
        assert (await fetcher.result(REF)).extraction == {"total": 7}
        return result_of(1000)
    async with fetcher.stream(REF) as stream:
        return b"".join([chunk async for chunk in stream])


async def test_a_range_of_a_polled_result_is_cut_out(api, connect):
    result = result_of(MIB)
    api.body = answer_with(result)
    _, fetcher = await connect()
    for start, stop in [
        (0, 10), (500_000, 600_000), (len(result) - 5, None),
        (-7, None), (-len(result), None), (-len(result) - 9, None),
    ]:  # fmt: skip
        async with fetcher.stream(REF, start=start, stop=stop) as stream:
            assert b"".join([chunk async for chunk in stream]) == result[start:stop]
    with pytest.raises(ResultRangeError) as caught:
        async with fetcher.stream(REF, start=len(result)):
            pass
    assert caught.value.size == len(result)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({**ENVELOPE, "status": "processing"}, ResultNotReadyError),
        ({**ENVELOPE, "status": "processing", "result": {"extraction": 1}}, ResultNotReadyError),
        ({**ENVELOPE, "status": "failed", "error": {"code": "x"}}, JobFailedError),
        (ENVELOPE, ResultUnavailableError),
        ({**ENVELOPE, "result": None}, ResultUnavailableError),
        ({**ENVELOPE, "result": [1]}, ResultMalformedError),
        ({**ENVELOPE, "result": {"message": "oops"}}, ResultMalformedError),
        ({**ENVELOPE, "job_id": "j-2", "result": {"extraction": 1}}, ResultMalformedError),
        ({"result": {"extraction": 1}}, ResultMalformedError),
    ],
)
async def test_an_answer_without_a_result_says_why(api, connect, tmp_path, body, error):
    api.body = json.dumps(body).encode()
    _, fetcher = await connect()
    with pytest.raises(error):
        await fetcher.download(REF, tmp_path / "out")
    assert names(tmp_path) == []


async def test_errors_of_the_api_are_raised(api, connect, tmp_path):
    api.body, api.status = b'{"message": "no such job"}', 404
    _, fetcher = await connect()
    with pytest.raises(JobNotFoundError):
        await fetcher.download(REF, tmp_path / "out")


async def test_a_partial_result_is_a_result(api, connect, tmp_path):
    """206 means that the data does not conform, not that it is a byte range."""
    result = result_of(2 * MIB)
    api.body, api.status = answer_with(result), 206
    _, fetcher = await connect()
    await fetcher.download(REF, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result


async def test_closing_the_fetcher_ends_a_transfer(api, connect, tmp_path):
    api.body, api.cuts, api.hang = answer_with(result_of(MIB)), [500_000], asyncio.Event()
    _, fetcher = await connect()
    started = asyncio.Event()
    running = asyncio.create_task(
        fetcher.download(REF, tmp_path / "out", progress=lambda *_: started.set())
    )
    await started.wait()
    await fetcher.aclose()
    with pytest.raises(ClosedError):
        await running
    api.hang.set()
    assert names(tmp_path) == []


async def test_closing_the_fetcher_ends_a_transfer_that_waits_for_headers(api, connect, tmp_path):
    api.body, api.held = answer_with(result_of(MIB)), asyncio.Event()
    _, fetcher = await connect()
    running = asyncio.create_task(fetcher.download(REF, tmp_path / "out"))
    await until(lambda: api.asked)
    await fetcher.aclose()
    api.held.set()
    with pytest.raises(ClosedError):
        await running
    assert names(tmp_path) == []


async def test_cancelling_a_transfer_before_its_result_begins_closes_the_connection(
    api, connect, tmp_path
):
    api.body = answer_with(result_of(1000), metadata={"note": "x" * 300_000})
    api.cuts, api.hang = [200_000], asyncio.Event()
    _, fetcher = await connect()
    running = asyncio.create_task(fetcher.download(REF, tmp_path / "out"))
    await until(lambda: responses_read(fetcher) and fetcher.stats.bytes_received)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running  # the task, its exception and the objects in its traceback still exist
    assert not responses_read(fetcher)
    api.hang.set()


async def test_a_batch_requests_a_large_result_once(api, connect, tmp_path):
    """The service may delete it when it was read."""
    result = result_of(2 * MIB)
    api.body = answer_with(result)
    client, _ = await connect(kind=JobKind.V2_EXTRACT)
    async with Batch(client, journal=None, out_dir=tmp_path, discovery="get") as batch:
        async for outcome in batch.run(["j-1"]):
            assert outcome.file.path.read_bytes() == result
    assert len(api.asked) == 1
    assert names(tmp_path) == ["j-1.json"]
