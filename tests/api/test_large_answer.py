"""Answers about v2 jobs that contain a result of any size."""

import asyncio
import errno
import gc
import json
import threading
import tracemalloc
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from files import names
from fuzzing import counted_calls

from adepoll import (
    AdeClient,
    AnswerTimeoutError,
    AnswerTooLargeError,
    JobKind,
    JobRef,
    JobStatus,
    MalformedAnswerError,
    RetryPolicy,
    ServerError,
    TransportError,
    WrongJobError,
)
from adepoll.api.kinds.kind_rules import SUCCESS
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.received_result import KeptResult
from adepoll.api.result_folder import ResultFolder
from adepoll.api.transport import Block

REF = JobRef("j-1", kind=JobKind.V2_EXTRACT, label="a.pdf")
RESULT = {
    "extraction": {"total": 7},
    "markdown": "x" * 3_000_000,
    "metadata": {"job_id": "j-1", "billing": {"total_credits": 2.5}},
}
ENVELOPE = {"job_id": "j-1", "status": "completed", "completed_at": "2026-07-01T12:00:00Z"}


WORKFLOW = JobRef("j-1", kind=JobKind.V2_WORKFLOW)


async def poll(
    body, *, ref=REF, status=200, piece=200_000, pause=0.0, end=True, declared=False, **options
):
    """Return the snapshot of a job whose answer has this body, sent in pieces.

    The connection breaks after the body if `end` is False. If it is "length", headers and body are
    sent together.
    """

    async def answer(request):
        if end == "length":
            return web.Response(body=body, status=status, content_type="application/json")
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        response.content_length = len(body) if declared else None
        await response.prepare(request)
        for start in range(0, len(body), piece):
            await response.write(body[start : start + piece])
            await asyncio.sleep(pause)
        if not end:
            request.transport.close()
        return response

    app = web.Application()
    app.add_routes([web.get(f"/{ref.kind.name.replace('-', '/')}/jobs/j-1", answer)])
    once = RetryPolicy(attempts=1)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        async with AdeClient("key", base_url=url, retry=once, **options) as client:
            job = await client.get_job(ref)
            assert client.stats.bytes_received == len(body)
            return job


def answer_with(result=RESULT, *, first=False, **fields):
    """Return a body whose result is the first or the last member."""
    parts = [{"result": result}, {**ENVELOPE, **fields}]
    return json.dumps({**parts[not first], **parts[first]}).encode()


@pytest.mark.parametrize("first", [True, False])
async def test_a_large_answer_settles_the_job_without_its_result(first):
    job = await poll(answer_with(first=first))
    assert (job.status, job.label, job.kind) == (JobStatus.COMPLETED, "a.pdf", REF.kind)
    assert (job.data, job.data_omitted, job.kept_result) == (None, True, None)
    assert (job.credits, job.conforms) == (2.5, True)
    assert job.completed_at is not None


@pytest.mark.parametrize("status", sorted(SUCCESS))
async def test_every_status_of_a_success_can_have_a_large_answer(status):
    job = await poll(answer_with(), status=status)
    assert (job.status, job.data_omitted) == (JobStatus.COMPLETED, True)


async def test_an_error_page_may_be_larger_than_the_inline_limit():
    page = b"<h1>out of service</h1>"
    with pytest.raises(ServerError, match="answered 503: out of service"):
        await poll(page, status=503, inline_limit=1, piece=10, pause=0.01)


@pytest.mark.parametrize("metadata", [None, [], "x", {"billing": {"total_credits": 9.0}}])
async def test_the_metadata_of_a_job_is_that_of_its_result_if_the_answer_has_none(metadata):
    small = await poll(answer_with({**RESULT, "markdown": "x"}, metadata=metadata))
    large = await poll(answer_with(metadata=metadata))
    assert large.credits == small.credits == (9.0 if isinstance(metadata, dict) else 2.5)


async def test_a_small_answer_has_its_result():
    job = await poll(answer_with({**RESULT, "markdown": "x"}))
    assert (job.data.extraction, job.data_omitted) == ({"total": 7}, False)


async def test_the_limit_is_that_of_the_whole_answer():
    body = answer_with({**RESULT, "markdown": "x" * 500_000})
    assert (await poll(body, inline_limit=len(body))).data is not None
    assert (await poll(body, inline_limit=len(body) - 1)).data_omitted


async def test_a_large_inline_limit_refuses_no_answer():
    job = await poll(answer_with(), inline_limit=2**30, max_body_bytes=2**20)
    assert job.data_omitted


async def test_the_limit_does_not_depend_on_how_the_answer_arrives():
    body = answer_with({**RESULT, "markdown": "x"})
    assert (await poll(body, end="length", inline_limit=len(body))).data is not None
    assert (await poll(body, end="length", inline_limit=len(body) - 1)).data_omitted


@pytest.mark.parametrize("problem", ["total: not a string", "x" * 100_000])
async def test_a_result_that_violates_its_schema_is_partial(problem):
    assert (await poll(answer_with({**RESULT, "schema_violation_error": problem}))).partial
    for none in (None, ""):
        assert not (await poll(answer_with({**RESULT, "schema_violation_error": none}))).partial
    assert (await poll(answer_with(), status=206)).partial


def workflow_result(*, markdown="x" * 3_000_000, failed_pages=(), **extract):
    parsed = {"markdown": markdown, "metadata": {"failed_pages": [*failed_pages], "page_count": 3}}
    steps = {"parse": parsed, "extract": {"extraction": {"total": 7}, **extract}, "ground": {}}
    return {"output": {"parse-extract": steps}, "metadata": {"job_id": "j-1"}}


@pytest.mark.parametrize(
    ("facts", "partial"),
    [
        ({}, False),
        ({"schema_violation_error": None}, False),
        ({"schema_violation_error": "no total"}, True),
        ({"schema_violation_error": {"message": "no total"}}, True),
        ({"schema_violation_error": {}}, False),
        ({"failed_pages": [2]}, True),
        ({"failed_pages": range(1, 5_000)}, True),
    ],
)
async def test_a_workflow_is_partial_if_one_of_its_steps_is(facts, partial):
    """Whether the result is in memory or not."""
    for markdown in ("x", "x" * 3_000_000):
        body = answer_with(workflow_result(markdown=markdown, **facts))
        job = await poll(body, ref=WORKFLOW)
        assert (job.partial, job.data_omitted) == (partial, len(markdown) > 1)


def test_many_steps_with_many_members_take_little_work():
    """The answer is scanned in the event loop, so reading each member would block it."""
    members = b"{%b}" % b",".join([b'"":1'] * 250)
    step = b"{%b}" % b",".join([b'"metadata":' + members] * 3)
    workflow = b"{%b}" % b",".join([b'"a":' + step] * 30)
    body = b'{"job_id":"j","result":{"output":{"a":%b}}}' % workflow

    async def read():
        answer = LargeAnswer("result", None)
        await answer.feed(body)
        return await answer.finish()

    with counted_calls() as count:
        assert not asyncio.run(read()).is_partial
    assert len(body) > 100_000
    assert count() < 150_000


@pytest.mark.parametrize("output", [None, [], {"a": 1}, {"a": []}, {"a": {"b": {"metadata": []}}}])
async def test_an_odd_output_of_a_large_workflow_settles_the_job(output):
    result = {"output": output, "filler": "x" * 3_000_000}
    job = await poll(answer_with(result), ref=WORKFLOW)
    assert (job.status, job.partial) == (JobStatus.COMPLETED, False)


@pytest.mark.parametrize("first", [True, False])
async def test_the_result_is_kept_byte_for_byte_until_the_snapshot_is_forgotten(tmp_path, first):
    job = await poll(answer_with(first=first), result_dir=tmp_path)
    kept = job.kept_result
    assert kept.path.parent == tmp_path
    assert kept.path.read_bytes() == json.dumps(RESULT).encode()
    assert kept.size == kept.path.stat().st_size
    assert kept.path.stat().st_mode & 0o777 == 0o600
    del job, kept
    gc.collect()
    assert names(tmp_path) == []


async def test_a_folder_that_cannot_be_written_costs_no_job(tmp_path, caplog):
    job = await poll(answer_with(), result_dir=tmp_path / "absent")
    assert (job.data_omitted, job.kept_result) == (True, None)
    assert "cannot be kept: No such file or directory; it is fetched later" in caplog.text


async def test_a_file_that_cannot_be_deleted_either_costs_no_job(tmp_path, monkeypatch):
    """As on a disk that has become read-only. Here, a folder is in the place of the file."""
    monkeypatch.setattr(ResultFolder, "create", lambda folder: KeptResult(folder.path))
    job = await poll(answer_with(), result_dir=tmp_path)
    assert (job.data_omitted, job.kept_result) == (True, None)


class FullDisk:
    """A file on a disk that becomes full with the second write, or when the file is closed."""

    def __init__(self, file, *, fails):
        self.file, self.fails, self.writes = file, fails, 0

    def write(self, piece):
        self.writes += 1
        if self.fails == "write" and self.writes > 1:
            raise OSError(errno.ENOSPC, "No space left")
        return self.file.write(piece)

    def close(self):
        self.file.close()
        if self.fails == "close":
            raise OSError(errno.ENOSPC, "No space left")


@pytest.mark.parametrize("fails", ["write", "close"])
async def test_a_disk_that_becomes_full_costs_no_job_and_leaves_no_file(
    tmp_path, monkeypatch, caplog, fails
):
    real, opened = Path.open, []

    def open_file(path, *args):
        opened.append(FullDisk(real(path, *args), fails=fails))
        return opened[-1]

    monkeypatch.setattr(Path, "open", open_file)
    job = await poll(answer_with(), result_dir=tmp_path)
    assert (job.status, job.data_omitted, job.kept_result) == (JobStatus.COMPLETED, True, None)
    assert names(tmp_path) == []
    assert len(opened) == 1
    assert caplog.text.count("cannot be kept: No space left") == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (answer_with()[:-1], MalformedAnswerError),
        (answer_with() + b"{}", MalformedAnswerError),
        (b"[" + b"0," * 600_000 + b"0]", MalformedAnswerError),
        (answer_with(["x" * 2_000_000]), MalformedAnswerError),
        (answer_with(job_id="j-2"), WrongJobError),
    ],
)
async def test_a_malformed_large_answer_is_an_error_and_leaves_no_file(tmp_path, body, error):
    with pytest.raises(error) as caught:
        await poll(body, result_dir=tmp_path)
    assert caught.value.job_id == "j-1"
    gc.collect()
    assert names(tmp_path) == []


async def test_a_larger_answer_than_any_result_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("adepoll.api.large_answer._LARGEST", 2_000_000)
    with pytest.raises(AnswerTooLargeError) as caught:
        await poll(answer_with(), result_dir=tmp_path)
    assert (caught.value.job_id, caught.value.limit) == ("j-1", 2_000_000)
    gc.collect()
    assert names(tmp_path) == []


async def test_a_connection_that_breaks_within_a_large_answer_leaves_no_file(tmp_path):
    with pytest.raises(TransportError):
        await poll(answer_with()[:2_000_000], end=False, result_dir=tmp_path)
    assert names(tmp_path) == []


async def test_a_poll_that_is_cancelled_while_it_writes_leaves_no_file(tmp_path, monkeypatch):
    create = ResultFolder.create
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def create_slowly(folder):
        begun.set()
        go_on.wait()
        kept = create(folder)
        ended.set()
        return kept

    monkeypatch.setattr(ResultFolder, "create", create_slowly)
    polling = asyncio.create_task(poll(answer_with(), result_dir=tmp_path))
    try:
        await asyncio.to_thread(begun.wait, 30)
        polling.cancel()
        await asyncio.sleep(0)
    finally:
        go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await polling
    await asyncio.to_thread(ended.wait, 30)
    assert names(tmp_path) == []


async def test_an_error_page_of_any_size_is_an_error_of_its_status():
    with pytest.raises(ServerError):
        await poll(b"<html>" * 500_000, status=503)


async def test_the_time_limit_holds_for_each_part_of_a_large_answer(monkeypatch):
    restart, restarts = Block.restart, []

    def count(block, now):
        restarts.append(now)
        restart(block, now)

    monkeypatch.setattr(Block, "restart", count)
    assert (await poll(answer_with())).data_omitted
    assert len(restarts) > 3  # in 3 MB
    with pytest.raises(AnswerTimeoutError):
        await poll(answer_with(), pause=0.2, timeout=0.05)


async def peak_of_poll(body, **options):
    """Return the snapshot, and the most bytes that were allocated while it was polled."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        job = await poll(body, **options)
        return job, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def test_the_memory_of_a_large_answer_does_not_grow_with_its_size(tmp_path):
    body = answer_with({**RESULT, "markdown": "x" * 20_000_000})
    job, peak = await peak_of_poll(body, result_dir=tmp_path)
    assert job.kept_result.size > 20_000_000
    assert peak < 8_000_000


async def test_an_answer_that_declares_its_size_is_not_collected_up_to_the_limit(tmp_path):
    body = answer_with({**RESULT, "markdown": "x" * 10_000_000})
    options = {"declared": True, "inline_limit": 9_000_000, "max_body_bytes": 1}
    job, peak = await peak_of_poll(body, result_dir=tmp_path, **options)
    assert job.kept_result.size > 10_000_000
    assert peak < 5_000_000
