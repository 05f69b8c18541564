"""No output shows a signature or token that the service quotes in a text or an unknown field."""

import asyncio
import json
import logging
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
from amounts import more
from commandline import KEY, adepoll

from adepoll import AdeClient, Fixed, JobWatcher
from adepoll.api.kinds import v1_extract
from adepoll.errors import AdePollError, JobFailedError, UnresolvedJobsError
from adepoll.server.problem_details import problem_details
from adepoll.server.sse import JobEventStream

SECRET = "CaNaRy0123456789"
URL = f"https://bucket.s3.example/r?X-Amz-Signature={SECRET}"
TEXTS = [URL, f"Authorization: Bearer {SECRET}", f"sig%3D{SECRET}", f'{{"sig": "{SECRET}"}}']
TEXT = f"could not write {' or '.join(TEXTS)}\x1b[31m"
NESTED = json.loads('{"a":[' * 300 + json.dumps(TEXT) + "]}" * 300)
ODD = {"new": TEXT, "names": {URL: 1}, "Signature": SECRET, "nested": NESTED, "progress": [TEXT]}
METADATA = {
    "filename": TEXT,
    "org_id": URL,
    "duration_ms": TEXT,
    "credit_usage": 1,
    "job_id": URL,
    "version": URL,
    "schema_violation_error": TEXT,
    "fallback_model_version": URL,
    "warnings": [{"code": URL, "msg": TEXT, "new": TEXT}, {"message": TEXT}, TEXT],
    **ODD,
}


def job(job_id, status, **fields):
    return {"job_id": job_id, "status": status, "received_at": 1_780_000_000, **ODD, **fields}


RESULT = {"extraction": {"total": 1}, "extraction_metadata": {}, "metadata": METADATA, **ODD}
FAILED = {"failure_reason": TEXT, "metadata": METADATA, "org_id": URL, "version": URL}
JOBS = {
    "failed": job("failed", "failed", **FAILED),
    "odd": job("odd", "failed", error={"code": URL, "message": TEXT, "detail": [TEXT]}),
    "completed": job("completed", "completed", data=RESULT),
}
PAGE = {
    "jobs": [
        job("failed", "failed", failure_reason=TEXT),
        job("odd", URL, error=TEXT),
        job(URL, "pending"),
        {"job_id": [URL]},
    ],
    "next": URL,
    "has_more": False,
}
ERROR = {"error": {"code": URL, "message": f"{TEXT} {KEY}"}}


@pytest.fixture
async def service():
    """Serve the jobs above; any other job is answered with an error that quotes secrets."""

    async def serve(reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = request.split()[1].partition("?")[0]
        last = path.rpartition("/")[2]
        found = PAGE if path == v1_extract.V1_EXTRACT.path else JOBS.get(last)
        body = json.dumps(ERROR if found is None else found).encode()
        status = 400 if found is None else 200
        headers = f"Content-Type: application/json; {URL}\r\nContent-Length: {len(body)}"
        writer.write(
            f"HTTP/1.1 {status} X\r\n{headers}\r\nConnection: close\r\n\r\n".encode() + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield SimpleNamespace(base_url=f"http://127.0.0.1:{port}")


def assert_shows_no_secret(text):
    assert SECRET not in text
    assert KEY not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("limit", more([["--timeout=2"]], [[]]))
async def test_no_command_shows_a_secret(service, tmp_path, limit):
    """Without a limit, the refused job is given up after a minute, in each of two runs."""
    journal, page = tmp_path / "batch.db", tmp_path / "report.html"
    runs = [
        ("get", "failed"),
        ("get", "unknown"),
        ("list",),
        ("watch", *JOBS, "unknown", "--journal", journal, *limit),
        ("resume", journal, *limit),
        ("status", journal),
        ("report", journal, "--out", page),
    ]
    for arguments in runs:
        _, out, err = await adepoll(service, *arguments)
        assert_shows_no_secret(out + err)
        assert out or err, arguments
        assert "bug in adepoll" not in err
    assert_shows_no_secret(page.read_text())
    # The journal keeps the result of a completed job as it is, until the caller has got it.
    with closing(sqlite3.connect(journal)) as connection:
        found = [line for line in connection.iterdump() if SECRET in line]
    assert all(line.startswith('INSERT INTO "data"') for line in found)


async def test_no_log_event_or_problem_shows_a_secret(service, caplog):
    caplog.set_level(logging.DEBUG)
    shown = []
    async with (
        AdeClient(KEY, base_url=service.base_url) as client,
        JobWatcher(client, schedule=Fixed(interval=0.01), patience=0.1) as watcher,
    ):
        for job_id in (*JOBS, "unknown"):
            try:
                found = await client.get_job(job_id)
                shown += [repr(found), str(found), found.redacted().to_json()]
                found.raise_for_failure()
            except AdePollError as error:
                shown += [str(error), repr(error), json.dumps(problem_details(error).body)]
        listed = await client.list_jobs()
        shown += [repr(listed), *(repr(entry.redacted()) for entry in listed.jobs)]
        watch = watcher.watch([*JOBS, "unknown"])
        with pytest.raises(UnresolvedJobsError) as unresolved:
            shown += [repr(found) async for found in watch]
        shown += [str(unresolved.value), repr(unresolved.value)]
        with pytest.raises(JobFailedError) as failed:
            (await watcher.wait("failed")).raise_for_failure()
        shown.append(str(failed.value))
        stream = JobEventStream(watcher, [*JOBS, "unknown"])
        shown += [event.decode() async for event in stream]
    assert any("could not write" in text for text in shown)
    for text in [*shown, caplog.text]:
        assert_shows_no_secret(text)
