"""adepoll in a server: aiohttp and FastAPI on uvicorn behave alike. Uses real sockets."""

import asyncio
import base64
import contextvars
import hmac
import json
import logging
import math
import time
from contextlib import suppress
from functools import partial
from urllib.parse import quote

import aiohttp
import pytest
import server_apps
from aiohttp import web
from internals import change_plan, end_now
from waiting import bounded, until

from adepoll import AdeClient, Fixed, JobKind, JobWatcher, RetryPolicy
from adepoll.emulator import JobPlan, Outcome, make_fault
from adepoll.server import resources

ENDLESS = JobPlan(processing_time=float("inf"))
PENDING = JobPlan(queue_time=float("inf"))


@pytest.fixture(params=["aiohttp", "fastapi"])
def kind(request):
    return request.param


@pytest.fixture
async def server(kind, ade):
    async with server_apps.run_server(kind, ade) as running:
        yield running


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def until_equal(call, expected):
    async with bounded(f"for the answer {expected}"):
        while await call() != expected:
            pass


async def answered(http, url):
    """Return the response to a wait, and its JSON; wait longer if no poll is answered in time."""
    for timeout in (0.2, 1, 5, 25):
        async with http.get(f"{url}?timeout={timeout}") as response:
            body = await response.json()
        if body.get("error") != "AnswerTimeoutError":
            return response, body
    pytest.fail("no poll was answered")


def events_in(text):
    """Return the events of a stream as (name, data)."""
    found = []
    for frame in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


# --- contexts ----------------------------------------------------------------------------------

REQUEST_ID = contextvars.ContextVar("request_id", default=None)


def app_with_request_ids(kind, ade):
    """Return an app in which each request has its path as its id."""
    options = server_apps.options_for(ade)
    if kind == "aiohttp":

        @web.middleware
        async def set_id(request, handler):
            REQUEST_ID.set(request.path)
            return await handler(request)

        app = server_apps.aiohttp_app(**options)
        app.middlewares.insert(0, set_id)
        return app
    app = server_apps.fastapi_app(**options)

    @app.middleware("http")
    async def set_path(request, call_next):
        REQUEST_ID.set(request.url.path)
        return await call_next(request)

    return app


async def test_polls_and_their_log_records_belong_to_no_request(
    kind, ade, http, monkeypatch, caplog
):
    """Instrumentation of aiohttp, such as that of OpenTelemetry, looks at the context."""
    polls, records = [], []
    start = aiohttp.ClientSession.__init__
    traces = aiohttp.TraceConfig()

    async def note(_session, _trace, request):
        polls.append((request.url.path, REQUEST_ID.get()))

    traces.on_request_start.append(note)
    monkeypatch.setattr(
        aiohttp.ClientSession,
        "__init__",
        lambda session, *args, **options: start(session, *args, trace_configs=[traces], **options),
    )
    caplog.handler.addFilter(
        lambda record: records.append((record.getMessage(), REQUEST_ID.get())) or True
    )
    caplog.set_level("DEBUG", "adepoll")
    run = server_apps.run_aiohttp if kind == "aiohttp" else server_apps.run_uvicorn
    async with run(app_with_request_ids(kind, ade)) as server:
        job_ids = [ade.submit(JobPlan(processing_time=0.1 * number)) for number in range(8)]

        async def wait(path):
            async with http.get(f"{server.url}{path}") as response:
                await response.read()

        paths = [f"/wait/{job_id}" for job_id in job_ids for _ in range(2)]
        await asyncio.gather(*map(wait, [*paths, f"/events?id={job_ids[-1]}&id=no-such-job"]))
        await wait("/wait/unknown-job?timeout=1")
    assert {path.rpartition("/")[2] for path, _ in polls} >= {*job_ids}
    assert {request_id for _, request_id in polls} == {None}
    assert any(job_ids[0] in text for text, _ in records)
    for text, request_id in records:
        assert request_id is None or request_id.rpartition("/")[2] in text


# --- waiting -----------------------------------------------------------------------------------


async def test_a_request_waits_until_its_job_has_settled(server, ade, http):
    job_id = ade.submit(JobPlan(processing_time=0.3))
    async with http.get(f"{server.url}/wait/{job_id}") as response:
        assert response.status == 200
        assert await response.json() == {"status": "completed"}


async def test_a_wait_that_times_out_gets_504_with_problem_details(server, ade, http):
    job_id = ade.submit(ENDLESS)
    response, problem = await answered(http, f"{server.url}/wait/{job_id}")
    assert response.status == 504
    assert response.content_type == "application/problem+json"
    assert (problem["error"], problem["job_id"]) == ("JobTimeoutError", job_id)
    assert (problem["last_status"], problem["instance"]) == ("processing", f"/wait/{job_id}")
    await until(lambda: server.watcher.stats.watched == 0)


async def test_a_wait_for_an_unknown_job_that_times_out_gets_404(kind, ade, http):
    """It is not pending: a client that tries again would do so forever."""
    watcher = partial(JobWatcher, schedule=Fixed(interval=0.05), not_found_grace=600)
    async with server_apps.run_server(kind, ade, watcher=watcher) as server:
        for path in ("wait", "status"):
            response, problem = await answered(http, f"{server.url}/{path}/no-such-job")
            assert (response.status, problem["error"]) == (404, "JobNotFoundError")


@pytest.mark.parametrize(
    ("fault", "status"), [("server-error", 503), ("stalled", 504), ("unauthorized", 502)]
)
async def test_a_wait_that_times_out_during_an_outage_is_an_error(kind, ade, http, fault, status):
    ade.faults.add(fault)
    job_id = ade.submit(ENDLESS)
    async with server_apps.run_server(kind, ade) as server:
        for path in ("wait", "status"):
            url = f"{server.url}/{path}/{job_id}"
            if fault == "stalled":
                async with http.get(f"{url}?timeout=0.2") as response:
                    problem = await response.json()
            else:
                response, problem = await answered(http, url)
            assert (response.status, problem["job_id"]) == (status, job_id)
            assert ("Retry-After" in response.headers) == (status != 502)


async def test_a_job_that_was_active_before_an_outage_is_not_active_for_ever(kind, ade, http):
    job_id = ade.submit(ENDLESS)
    async with server_apps.run_server(kind, ade) as server:

        async def status():
            async with http.get(f"{server.url}/status/{job_id}?timeout=0.3") as response:
                return response.status

        await until_equal(status, 202)
        ade.faults.add("server-error")
        await until_equal(status, 503)


async def test_the_status_of_a_job_is_200_once_it_has_settled_and_202_before(server, ade, http):
    active, failed = ade.submit(ENDLESS), ade.submit(JobPlan(outcome=Outcome.FAILED))
    response, body = await answered(http, f"{server.url}/status/{active}")
    assert response.status == 202
    assert int(response.headers["Retry-After"]) > 0
    assert (body["job_id"], body["status"], body["is_terminal"]) == (active, "processing", False)
    async with http.get(f"{server.url}/status/{failed}?timeout=10") as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        body = await response.json()
        assert (body["job_id"], body["status"], body["is_terminal"]) == (failed, "failed", True)


@pytest.mark.parametrize(
    ("job_id", "status", "error"),
    [("no-such-job", 404, "JobNotFoundError"), ("not%20one%3F", 422, "InvalidJobIdError")],
)
async def test_an_unknown_or_invalid_job_id_gets_4xx(server, http, job_id, status, error):
    async with http.get(f"{server.url}/wait/{job_id}") as response:
        assert response.status == status
        problem = await response.json()
    assert (problem["error"], problem["instance"]) == (error, f"/wait/{job_id}")


async def test_a_client_that_disconnects_ends_only_its_own_wait(server, ade, http):
    job_id = ade.submit(ENDLESS)
    leaving = asyncio.create_task(http.get(f"{server.url}/wait/{job_id}"))
    staying = asyncio.create_task(http.get(f"{server.url}/wait/{job_id}"))
    await until(lambda: server.watcher.stats.subscribers == 2)
    leaving.cancel()
    await until(lambda: server.watcher.stats.subscribers == 1)
    end_now(ade.world, job_id)
    assert (await staying).status == 200


async def test_a_client_that_disconnects_ends_all_waits_of_its_request(server, ade, http):
    soon, never = ade.submit(ENDLESS), ade.submit(ENDLESS)
    leaving = asyncio.create_task(http.get(f"{server.url}/all?id={soon}&id={never}"))
    await until(lambda: server.watcher.stats.subscribers == 2)
    end_now(ade.world, soon)
    await until(lambda: server.watcher.stats.subscribers == 1)
    leaving.cancel()
    await until(lambda: server.watcher.stats.subscribers == 0)


async def test_a_job_whose_clients_have_all_disconnected_is_no_longer_polled(server, ade, http):
    job_id = ade.submit(ENDLESS)
    waits = [asyncio.create_task(http.get(f"{server.url}/wait/{job_id}")) for _ in range(5)]
    await until(lambda: server.watcher.stats.subscribers == 5)
    for wait in waits:
        wait.cancel()
    await until(lambda: server.watcher.stats.subscribers == 0)
    assert server.watcher.stats.watched == 0


@pytest.mark.usefixtures("thousand_files")
async def test_many_waiters_of_a_job_share_its_polls(server, ade, http):
    async def wait(job_id):
        async with http.get(f"{server.url}/wait/{job_id}") as response:
            return (await response.json())["status"]

    job_ids = [ade.submit(JobPlan(processing_time=math.inf)) for _ in range(20)]
    waits = [asyncio.create_task(wait(job_ids[i % 20])) for i in range(200)]
    await until(lambda: server.watcher.stats.subscribers == 200)
    before = [ade.truth(job_id).polls for job_id in job_ids]
    for job_id in job_ids:  # only now: a later request would settle the job again
        end_now(ade.world, job_id)
        server.watcher.poll_now(job_id)
    assert await asyncio.gather(*waits) == ["completed"] * 200
    after = [ade.truth(job_id).polls for job_id in job_ids]
    # One poll for the ten that wait for a job, and perhaps one that was on its way.
    assert max(now - then for now, then in zip(after, before, strict=True)) <= 2
    assert server.watcher.stats.settled == 20


# --- events ------------------------------------------------------------------------------------


async def test_a_client_that_disconnects_during_an_event_is_no_error(server, ade, caplog):
    job_ids = [ade.submit(JobPlan(processing_time=0.02 * number)) for number in range(50)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)
    address = server.url.removeprefix("http://").split(":")
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET /events?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"event: job")
        writer.transport.abort()
        await asyncio.sleep(0.05)
    await until(lambda: server.watcher.stats.subscribers == 0)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_events_contain_each_status_and_end_with_the_last_job(server, ade, http):
    good = ade.submit(PENDING)
    bad = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="blurred"))
    async with http.get(f"{server.url}/events?id={good}&id={bad}") as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        text = await response.content.readuntil(b'"pending"')
        change_plan(ade.world, good, ENDLESS)
        text += await response.content.readuntil(b'"processing"')
        end_now(ade.world, good)
        text += await response.read()
    events = events_in(text.decode())
    assert events[-1] == ("end", {})
    jobs = [data for name, data in events if name == "job"]
    assert [data["status"] for data in jobs if data["job_id"] == good] == [
        "pending",
        "processing",
        "completed",
    ]
    assert [data["failure_reason"] for data in jobs if data["job_id"] == bad] == ["blurred"]


async def test_events_continue_after_the_last_event_id(server, ade, http):
    done, active = ade.submit(JobPlan()), ade.submit(JobPlan(processing_time=0.5))
    url = f"{server.url}/events?id={done}&id={active}"
    async with http.get(url, headers={"Last-Event-ID": "cr"}) as response:
        events = events_in(await response.text())
    assert events == [
        (
            "job",
            {
                "job_id": active,
                "kind": "v1-extract",
                "status": "completed",
                "is_last": True,
                "conforms": True,
                "partial": False,
            },
        ),
        ("end", {}),
    ]


async def test_a_stream_without_events_has_a_heartbeat(server, ade, http):
    job_id = ade.submit(ENDLESS)
    async with http.get(f"{server.url}/events?id={job_id}&heartbeat=0.1") as response:
        async for line in response.content:
            if line.startswith(b":"):
                break
        else:
            pytest.fail("the stream has ended")


async def test_a_disconnect_between_events_ends_the_watch_immediately(server, ade, http):
    job_id = ade.submit(ENDLESS)
    async with http.get(f"{server.url}/events?id={job_id}&heartbeat=3600") as response:
        await response.content.readuntil(b"event: job")
        assert server.watcher.stats.subscribers == 1
        response.close()
    await until(lambda: server.watcher.stats.subscribers == 0)
    assert server.watcher.stats.watched == 0


async def test_head_of_events_watches_no_job(server, ade, http):
    async with http.head(f"{server.url}/events?id={ade.submit(ENDLESS)}") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert "Content-Length" not in response.headers
    async with http.get(f"{server.url}/ready") as response:  # on the same connection
        assert (await response.json())["watcher"]["subscribers"] == 0
    assert ade.truth.requests.get == 0


async def test_a_hundred_event_streams_leave_no_subscribers_tasks_or_errors(
    server, ade, http, caplog
):
    before = asyncio.all_tasks()
    job_ids = [ade.submit(JobPlan(processing_time=1.5)) for _ in range(10)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)

    async def read_events(number):
        async with http.get(f"{server.url}/events?{query}") as response:
            if number % 2:
                await asyncio.sleep(number / 100)
                response.close()
                return None
            return events_in(await response.text())

    events = await asyncio.gather(*(read_events(number) for number in range(100)))
    assert [stream[-1] for stream in events if stream is not None] == [("end", {})] * 50
    await http.connector.close()  # so that the server's connections end, too
    await until(lambda: server.watcher.stats.subscribers == 0)
    assert server.watcher.stats.watched == server.watcher.stats.in_flight == 0
    await until(lambda: asyncio.all_tasks() <= before)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- results -----------------------------------------------------------------------------------


@pytest.fixture(params=[5_000, 3_000_000], ids=["inline", "stored"])
def job_id(request, ade):
    return ade.submit(JobPlan(result_bytes=request.param))


async def get_result(server, http, job_id):
    async with http.get(f"{server.url}/result/{job_id}") as response:
        assert response.status == 200
        return await response.read(), response.headers


async def test_a_result_is_sent_with_the_headers_that_browsers_need(server, ade, http, job_id):
    body, headers = await get_result(server, http, job_id)
    assert json.loads(body)["metadata"]["job_id"] == job_id
    assert headers["Content-Length"] == str(len(body))
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Content-Disposition"] == f'attachment; filename="{job_id}.json"'
    assert headers["Accept-Ranges"] == "bytes"
    assert server.fetcher.stats.in_flight == 0


async def test_a_range_is_sent_with_status_206(server, http, job_id):
    body, _ = await get_result(server, http, job_id)
    size = len(body)
    for header, expected in [
        ("bytes=0-0", (0, 1)),
        ("bytes=100-199", (100, 200)),
        ("bytes=1000-", (1000, size)),
        ("bytes=-7", (size - 7, size)),
        (f"bytes={size - 5}-{size + 500}", (size - 5, size)),
    ]:
        async with http.get(f"{server.url}/result/{job_id}", headers={"Range": header}) as response:
            start, stop = expected
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert response.headers["Content-Length"] == str(stop - start)
            assert await response.read() == body[start:stop]


async def test_a_range_beyond_the_end_gets_416(server, http, job_id):
    body, _ = await get_result(server, http, job_id)
    headers = {"Range": f"bytes={len(body) + 10}-"}
    async with http.get(f"{server.url}/result/{job_id}", headers=headers) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(body)}"


@pytest.mark.parametrize("header", ["bytes=5-2", "items=0-1", "bytes=0-1,4-5", "bytes=-", "x"])
async def test_an_invalid_range_gets_the_whole_result(server, ade, http, header):
    body, _ = await get_result(server, http, job_id := ade.submit(JobPlan()))
    headers = {"Range": header}
    async with http.get(f"{server.url}/result/{job_id}", headers=headers) as response:
        assert response.status == 200
        assert await response.read() == body


async def test_a_range_of_another_version_gets_the_whole_result(server, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    body, headers = await get_result(server, http, job_id)
    for name, status in [(headers["ETag"], 206), ('"another"', 200), (f"W/{headers['ETag']}", 200)]:
        request_headers = {"Range": "bytes=10-19", "If-Range": name}
        async with http.get(f"{server.url}/result/{job_id}", headers=request_headers) as response:
            assert response.status == status
            assert await response.read() == (body if status == 200 else body[10:20])


async def test_a_version_that_the_client_has_gets_304(server, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    _, headers = await get_result(server, http, job_id)
    request_headers = {"If-None-Match": f'"x", W/{headers["ETag"]}'}
    async with http.get(f"{server.url}/result/{job_id}", headers=request_headers) as response:
        assert response.status == 304
        assert response.headers["ETag"] == headers["ETag"]


async def test_head_of_a_result_gets_the_headers_of_get(server, http, job_id):
    _, headers = await get_result(server, http, job_id)
    async with http.head(f"{server.url}/result/{job_id}") as response:
        assert response.status == 200
        names = ("Content-Length", "Content-Type", "ETag", "Content-Disposition")
        assert [response.headers.get(name) for name in names] == [
            headers.get(name) for name in names
        ]
        assert await response.read() == b""


async def test_head_of_a_result_of_unknown_size_has_no_length(server, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=3_000_000), kind="v2-parse")
    for method in ("GET", "HEAD"):
        async with http.request(method, f"{server.url}/result/{job_id}") as response:
            assert response.status == 200
            assert "Content-Length" not in response.headers
            assert bool(await response.read()) == (method == "GET")


async def test_any_filename_is_safe_in_its_header(server, ade, http):
    job_id = ade.submit(JobPlan())
    params = {"name": 'Häuser "2"\r\nX-Evil: 1.json'}
    async with http.get(f"{server.url}/result/{job_id}", params=params) as response:
        assert response.status == 200
        assert "X-Evil" not in response.headers
        assert response.content_disposition.filename == params["name"]


@pytest.mark.parametrize(
    ("plan", "status", "error"),
    [
        (ENDLESS, 409, "ResultNotReadyError"),
        (JobPlan(outcome=Outcome.FAILED), 409, "JobFailedError"),
        (JobPlan(outcome=Outcome.CANCELLED), 409, "JobCancelledError"),
        (JobPlan(zero_data_retention=True), 410, "ResultUnavailableError"),
    ],
)
async def test_a_job_without_a_result_gets_problem_details(server, ade, http, plan, status, error):
    async with http.get(f"{server.url}/result/{ade.submit(plan)}") as response:
        assert response.status == status
        assert (await response.json())["error"] == error


async def test_a_result_that_fails_midway_aborts_the_response(kind, ade, http):
    ade.faults.add(make_fault("truncated", endpoints=["result"]))
    ade.faults.add(make_fault("range-ignored"))
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    client = partial(AdeClient, ade.api_key, base_url=ade.base_url, retry=RetryPolicy(attempts=1))
    async with server_apps.run_server(kind, ade, client=client) as server:
        with pytest.raises(aiohttp.ClientError):
            await get_result(server, http, job_id)
        assert server.fetcher.stats.in_flight == 0


async def test_a_client_that_disconnects_midway_ends_the_transfer(server, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    async with http.get(f"{server.url}/result/{job_id}") as response:
        await response.content.readexactly(100_000)
        assert server.fetcher.stats.in_flight == 1
        response.close()
    await until(lambda: server.fetcher.stats.in_flight == 0)
    assert server.fetcher.stats.abandoned == 1


@pytest.mark.parametrize(
    "path", ["events?id={}&padding=20000000", "result/{}", "a%0AFORGED%1B[31m/result/{}"]
)
async def test_a_client_that_accepts_no_data_is_disconnected(
    server, ade, caplog, monkeypatch, path
):
    monkeypatch.setattr(resources, "_SEND_TIMEOUT", 0.2)
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    address = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(*address, limit=2**10)
    writer.write(f"GET /{path.format(job_id)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: "aborted" in caplog.text)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    name = "/events" if path.startswith("events") else f"/result/{job_id}"
    (text,) = (text for text in caplog.messages if "aborted" in text)
    assert name in text
    assert text.endswith("aborted: the client accepts no data")
    await until(lambda: not (server.watcher.stats.subscribers or server.fetcher.stats.in_flight))
    writer.transport.abort()


# --- webhooks ----------------------------------------------------------------------------------


def signed(body, key=b"the secret of the webhooks", moment=None):
    moment = int(time.time() if moment is None else moment)
    digest = hmac.new(key, f"hook-1.{moment}.".encode() + body, "sha256").digest()
    return {
        "webhook-id": "hook-1",
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def test_after_a_genuine_webhook_the_watcher_polls_immediately(kind, ade, http):
    watcher = partial(JobWatcher, schedule=Fixed(interval=3600))
    async with server_apps.run_server(kind, ade, watcher=watcher) as server:
        job_id = ade.submit(ENDLESS)
        waiting = asyncio.create_task(http.get(f"{server.url}/wait/{job_id}"))
        await until(lambda: server.watcher.stats.polls == 1)
        end_now(ade.world, job_id)
        body = json.dumps({"type": "job.completed", "data": {"job_id": job_id}}).encode()
        async with http.post(f"{server.url}/hook", data=body, headers=signed(body)) as response:
            assert response.status == 204
        async with await waiting as response:
            assert response.status == 200
        assert ade.truth(job_id).polls == 2


@pytest.mark.parametrize(
    ("signature", "body", "status"),
    [
        (None, b"{}", 400),
        ({"key": b"another secret"}, b"{}", 400),
        ({"moment": 1_700_000_000}, b"{}", 400),
        ({}, b"not JSON", 400),
        (None, b"x" * 70_000, 413),
    ],
)
async def test_a_webhook_that_is_not_genuine_is_refused(server, http, signature, body, status):
    headers = {} if signature is None else signed(body, **signature)
    async with http.post(f"{server.url}/hook", data=body, headers=headers) as response:
        assert response.status == status


async def test_a_webhook_without_its_stated_encoding_is_refused(server, http):
    headers = signed(b"other") | {"Content-Encoding": "gzip"}
    async with http.post(f"{server.url}/hook", data=b"no gzip", headers=headers) as response:
        assert response.status == 400


async def test_a_webhook_that_is_cut_off_midway_is_no_error(kind, ade, http, caplog):
    async with server_apps.run_server(kind, ade) as server:
        address = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(b"Expect: 100-continue\r\n\r\n")
        await reader.readuntil(b"100 Continue\r\n\r\n")  # the server waits for the body
        writer.transport.abort()
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_webhook_of_an_unwatched_job_causes_no_poll(server, ade, http):
    body = json.dumps({"job_id": ade.submit(JobPlan())}).encode()
    async with http.post(f"{server.url}/hook", data=body, headers=signed(body)) as response:
        assert response.status == 204
    assert ade.truth.requests.get == 0


# --- secrets -----------------------------------------------------------------------------------


async def test_no_response_contains_a_secret(server, ade, http):
    large = ade.submit(JobPlan(result_bytes=2_000_000))
    paths = [f"result/{large}", "result/no-such", f"wait/{large}", f"events?id={large}", "ready"]
    for path in paths:
        async with http.get(f"{server.url}/{path}") as response:
            text = json.dumps([*response.headers.items()])
            text += "" if path == paths[0] else await response.text()
        assert ade.api_key not in text
        assert ade.results_url not in text
        assert "X-Amz" not in text


# --- readiness ---------------------------------------------------------------------------------


async def test_a_healthy_server_is_ready_and_returns_its_statistics(server, ade, http):
    waiting = asyncio.create_task(http.get(f"{server.url}/wait/{ade.submit(ENDLESS)}"))
    await until(lambda: server.watcher.stats.subscribers == 1)
    async with http.get(f"{server.url}/ready") as response:
        assert response.status == 200
        body = await response.json()
    assert body["status"] == "ok"
    assert body["watcher"]["subscribers"] == 1
    assert body["client"]["requests"] >= 1
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_a_refused_key_is_reported_before_the_first_wait(kind, ade, http):
    client = partial(AdeClient, "canary", base_url=ade.base_url)
    async with server_apps.run_server(kind, ade, client=client) as server:
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "refused"
        async with http.get(f"{server.url}/wait/some-job") as response:  # it does not hang
            assert response.status == 502
            assert "canary" not in await response.text()


async def test_many_readiness_requests_share_one_probe(kind, ade, http):
    client = partial(AdeClient, "canary", base_url=ade.base_url)
    async with server_apps.run_server(kind, ade, client=client) as server:

        async def check():
            async with http.get(f"{server.url}/ready") as response:
                return response.status

        assert await asyncio.gather(*(check() for _ in range(50))) == [503] * 50
        assert await check() == 503
    assert ade.truth.requests.unauthorized == 1


async def test_without_probes_readiness_sends_no_request(kind, ade, http):
    async with server_apps.run_server(kind, ade, probe_every=None) as server:
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 200
        assert server.client.stats.requests == 0


async def test_a_probe_notices_that_the_key_is_accepted_again(kind, ade, http):
    ade.faults.add(make_fault("unauthorized"))
    async with server_apps.run_server(kind, ade, probe_every=0.0) as server:
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 503
        ade.faults.clear()
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 200


async def test_an_idle_server_whose_service_is_down_is_not_ready_until_it_is_back(kind, ade, http):
    """One failed probe is no outage by the client's own rule, but nobody else sends requests."""
    ade.faults.add(make_fault("server-error"))
    async with server_apps.run_server(kind, ade, probe_every=0.0) as server:

        async def status():
            async with http.get(f"{server.url}/ready") as response:
                return response.status, (await response.json())["status"]

        for number in range(1, 4):
            assert await status() == (503, "outage")
            assert server.client.stats.requests == number  # each check probes again
        ade.faults.clear()
        assert await status() == (200, "ok")


async def test_an_outage_is_reported(kind, ade, http):
    async with server_apps.run_server(kind, ade, probe_every=0.0) as server:
        ade.faults.add(make_fault("server-error"))
        urls = [f"{server.url}/wait/{ade.submit(ENDLESS)}" for _ in range(3)]
        waits = [asyncio.create_task(http.get(url)) for url in urls]
        await until(lambda: server.client.stats.is_outage)
        async with http.get(f"{server.url}/ready") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "outage"
        async with http.get(f"{server.url}/live") as response:  # a restart would repair nothing
            assert response.status == 200
            assert (await response.json())["status"] == "ok"
        for wait in waits:
            wait.cancel()


async def test_a_closed_watcher_is_not_ready(server, http):
    await server.watcher.aclose()
    async with http.get(f"{server.url}/ready") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "closed"


# --- stopping ----------------------------------------------------------------------------------


async def test_a_log_record_about_a_job_names_the_job(kind, ade, http, caplog):
    ade.faults.add("unauthorized")
    async with (
        server_apps.run_server(kind, ade) as server,
        http.get(f"{server.url}/wait/some-job") as response,
    ):
        assert response.status == 502
    records = [record for record in caplog.records if "responded with" in record.message]
    assert [record.job_id for record in records] == ["some-job"]


async def test_a_stopping_server_ends_waits_and_streams_within_seconds(server, ade, http):
    endless = ade.submit(ENDLESS)
    waits = [asyncio.create_task(http.get(f"{server.url}/wait/{endless}")) for _ in range(20)]
    streams = [await http.get(f"{server.url}/events?id={endless}") for _ in range(20)]
    begun = [await stream.content.readuntil(b"event: job") for stream in streams]
    await until(lambda: server.watcher.stats.subscribers == 40)
    async with bounded("for the server to stop"):
        await server.stop()
    for response in await asyncio.gather(*waits):
        assert response.status == 503
        assert (await response.json())["error"] == "ClosedError"
        assert int(response.headers["Retry-After"]) > 0
    for start, stream in zip(begun, streams, strict=True):
        text = (start + await stream.read()).decode()
        events = events_in(text)  # complete; the browser will connect again
        assert [name for name, _ in events] == ["job"]


async def test_a_client_that_accepts_no_events_does_not_delay_the_stop(kind, ade, caplog):
    job_ids = [ade.submit(JobPlan()) for _ in range(60)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)
    async with server_apps.run_server(kind, ade, grace=0.2) as server:
        address = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address, limit=2**10)
        writer.write(f"GET /events?{query}&padding=200000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: server.watcher.stats.settled == 60)
        stopping = asyncio.create_task(server.stop())
        await until(lambda: "aborted" in caplog.text)
        writer.transport.abort()  # the server's own option bounds an open connection
        async with bounded("for the server to stop"):
            await stopping


async def test_a_result_is_aborted_after_the_grace_time(kind, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    async with server_apps.run_server(kind, ade, grace=0.2) as server:
        response = await http.get(f"{server.url}/result/{job_id}")
        await response.content.readexactly(1000)
        async with bounded("for the server to stop"):
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.fetcher.stats.in_flight == 0)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
            response.close()
            await stopping


# --- kinds -------------------------------------------------------------------------------------


async def test_jobs_of_all_kinds_are_waited_for_and_followed(server, ade, http):
    names = {kind: ade.submit(JobPlan(), kind=kind) for kind in JobKind.all()}
    refs = [f"{kind}/{job_id}" for kind, job_id in names.items()]
    for kind, job_id in names.items():
        async with http.get(f"{server.url}/status/{job_id}?kind={kind}") as response:
            assert response.status == 200
            body = await response.json()
            assert (body["job_id"], body["kind"]) == (job_id, kind.name)
    query = "&".join(f"id={quote(ref, safe='')}" for ref in refs)
    async with http.get(f"{server.url}/events?{query}") as response:
        text = await response.text()
    jobs = [data for name, data in events_in(text) if name == "job"]
    assert {(data["job_id"], data["kind"]) for data in jobs if data["is_last"]} == {
        (job_id, kind.name) for kind, job_id in names.items()
    }
    assert "id: ccccc\n" in text  # so that a browser that connects again gets no job twice


async def test_an_unknown_kind_gets_422(server, http):
    async with http.get(f"{server.url}/status/job?kind=v9-dream") as response:
        assert response.status == 422
