"""What adepoll does in a server, the same in aiohttp and in FastAPI on uvicorn; real sockets."""

import asyncio
import base64
import hmac
import json
import logging
import math
import time
from contextlib import suppress
from functools import partial

import aiohttp
import houses
import pytest
from internals import end_now

from adepoll import AdeClient, Fixed, JobWatcher, RetryPolicy
from adepoll.contrib import aiohttp as aiohttp_contrib
from adepoll.contrib import starlette as starlette_contrib
from adepoll.emulator import JobPlan, Outcome, make_fault

ENDLESS = JobPlan(processing_time=float("inf"))


@pytest.fixture(params=["aiohttp", "fastapi"])
def kind(request):
    return request.param


@pytest.fixture
async def house(kind, ade):
    async with houses.open_house(kind, **houses.options_for(ade)) as running:
        yield running


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is a server's state, which tells nobody
            await asyncio.sleep(0.01)


def frames(text):
    """The events of a stream: (name, data)."""
    found = []
    for frame in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


# --- waiting -----------------------------------------------------------------------------------


async def test_a_request_waits_until_its_job_has_ended(house, ade, http):
    job_id = ade.submit(JobPlan(processing_time=0.3))
    async with http.get(f"{house.url}/wait/{job_id}") as response:
        assert response.status == 200
        assert await response.json() == {"status": "completed"}


async def test_a_request_that_has_waited_long_enough_is_told_so(house, ade, http):
    job_id = ade.submit(ENDLESS)
    async with http.get(f"{house.url}/wait/{job_id}?timeout=0.2") as response:
        assert response.status == 504
        assert response.content_type == "application/problem+json"
        told = await response.json()
    assert (told["error"], told["job_id"]) == ("JobTimeoutError", job_id)
    await until(lambda: house.watcher.stats.watched == 0)


@pytest.mark.parametrize(
    ("job_id", "status", "error"),
    [("no-such-job", 404, "JobNotFoundError"), ("not%20one", 422, "InvalidJobIdError")],
)
async def test_a_job_that_is_none_is_a_problem_of_the_clients(house, http, job_id, status, error):
    async with http.get(f"{house.url}/wait/{job_id}") as response:
        assert response.status == status
        assert (await response.json())["error"] == error


async def test_a_client_that_leaves_ends_its_own_waiting_alone(house, ade, http):
    job_id = ade.submit(JobPlan(processing_time=1.5))
    leaving = asyncio.create_task(http.get(f"{house.url}/wait/{job_id}"))
    staying = asyncio.create_task(http.get(f"{house.url}/wait/{job_id}"))
    await until(lambda: house.watcher.stats.subscribers == 2)
    leaving.cancel()
    await until(lambda: house.watcher.stats.subscribers == 1)
    assert (await staying).status == 200


async def test_a_client_that_leaves_ends_all_that_its_request_waits_for(house, ade, http):
    soon, never = ade.submit(JobPlan(processing_time=0.3)), ade.submit(ENDLESS)
    leaving = asyncio.create_task(http.get(f"{house.url}/all?id={soon}&id={never}"))
    await until(lambda: house.watcher.stats.subscribers == 2)
    await until(lambda: house.watcher.stats.subscribers == 1)
    leaving.cancel()
    await until(lambda: house.watcher.stats.subscribers == 0)


async def test_a_job_whose_clients_have_all_left_is_looked_at_no_more(house, ade, http):
    job_id = ade.submit(ENDLESS)
    waits = [asyncio.create_task(http.get(f"{house.url}/wait/{job_id}")) for _ in range(5)]
    await until(lambda: house.watcher.stats.subscribers == 5)
    for wait in waits:
        wait.cancel()
    await until(lambda: house.watcher.stats.subscribers == 0)
    assert house.watcher.stats.watched == 0


async def test_many_waiters_cost_no_more_looks_than_their_jobs(house, ade, http):
    async def wait(job_id):
        async with http.get(f"{house.url}/wait/{job_id}") as response:
            return (await response.json())["status"]

    job_ids = [ade.submit(JobPlan(processing_time=math.inf)) for _ in range(20)]
    waits = [asyncio.create_task(wait(job_ids[i % 20])) for i in range(200)]
    await until(lambda: house.watcher.stats.subscribers == 200)
    before = [ade.truth(job_id).gets for job_id in job_ids]
    for job_id in job_ids:  # and not before: who came later would have it settled again
        end_now(ade.world, job_id)
        house.watcher.poll_now(job_id)
    assert await asyncio.gather(*waits) == ["completed"] * 200
    after = [ade.truth(job_id).gets for job_id in job_ids]
    # One poll for the ten that wait for a job, and perhaps one that was on its way.
    assert max(now - then for now, then in zip(after, before, strict=True)) <= 2
    assert house.watcher.stats.settled == 20


# --- events ------------------------------------------------------------------------------------


async def test_a_client_that_leaves_while_it_is_told_is_no_error(house, ade, caplog):
    job_ids = [ade.submit(JobPlan(processing_time=0.02 * number)) for number in range(50)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)
    address = house.url.removeprefix("http://").split(":")
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET /events?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"event: job")
        writer.transport.abort()
        await asyncio.sleep(0.05)
    await until(lambda: house.watcher.stats.subscribers == 0)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_events_tell_how_jobs_stand_and_end_with_them(house, ade, http):
    good = ade.submit(JobPlan(queue_time=0.3, processing_time=0.3))
    bad = ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="blurred"))
    async with http.get(f"{house.url}/events?id={good}&id={bad}") as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        told = frames(await response.text())
    assert told[-1] == ("end", {})
    jobs = [data for name, data in told if name == "job"]
    assert [data["status"] for data in jobs if data["job_id"] == good] == [
        "pending",
        "processing",
        "completed",
    ]
    assert [data["failure_reason"] for data in jobs if data["job_id"] == bad] == ["blurred"]


async def test_events_go_on_after_the_last_event_that_was_told(house, ade, http):
    done, open_still = ade.submit(JobPlan()), ade.submit(JobPlan(processing_time=0.5))
    url = f"{house.url}/events?id={done}&id={open_still}"
    async with http.get(url, headers={"Last-Event-ID": "cr"}) as response:
        told = frames(await response.text())
    assert told == [
        ("job", {"job_id": open_still, "status": "completed", "is_last": True, "conforms": True}),
        ("end", {}),
    ]


async def test_a_silent_stream_has_a_heartbeat(house, ade, http):
    job_id = ade.submit(ENDLESS)
    async with http.get(f"{house.url}/events?id={job_id}&heartbeat=0.1") as response:
        async for line in response.content:
            if line.startswith(b":"):
                break
        else:
            pytest.fail("it has ended")


async def test_a_listener_that_leaves_between_events_frees_everything_at_once(house, ade, http):
    job_id = ade.submit(ENDLESS)
    async with http.get(f"{house.url}/events?id={job_id}&heartbeat=3600") as response:
        await response.content.readuntil(b"event: job")
        assert house.watcher.stats.subscribers == 1
        response.close()
    await until(lambda: house.watcher.stats.subscribers == 0)
    assert house.watcher.stats.watched == 0


async def test_head_tells_of_events_without_watching_anything(house, ade, http):
    async with http.head(f"{house.url}/events?id={ade.submit(ENDLESS)}") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert "Content-Length" not in response.headers
    async with http.get(f"{house.url}/ready") as response:  # on the same connection
        assert (await response.json())["watcher"]["followers"] == 0
    assert ade.truth.requests.get == 0


async def test_a_hundred_listeners_of_which_half_leave_at_random_leave_nothing(
    house, ade, http, caplog
):
    before = asyncio.all_tasks()
    job_ids = [ade.submit(JobPlan(processing_time=1.5)) for _ in range(10)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)

    async def listen(number):
        async with http.get(f"{house.url}/events?{query}") as response:
            if number % 2:
                await asyncio.sleep(number / 100)
                response.close()
                return None
            return frames(await response.text())

    told = await asyncio.gather(*(listen(number) for number in range(100)))
    assert [stream[-1] for stream in told if stream is not None] == [("end", {})] * 50
    await http.connector.close()  # so that the server's connections end, too
    await until(lambda: house.watcher.stats.subscribers == 0)
    assert house.watcher.stats.watched == house.watcher.stats.in_flight == 0
    await until(lambda: asyncio.all_tasks() <= before)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- results -----------------------------------------------------------------------------------


@pytest.fixture(params=[5_000, 3_000_000], ids=["inline", "stored"])
def job_id(request, ade):
    return ade.submit(JobPlan(result_bytes=request.param))


async def whole(house, http, job_id):
    async with http.get(f"{house.url}/result/{job_id}") as response:
        assert response.status == 200
        return await response.read(), response.headers


async def test_a_result_is_passed_through_with_what_browsers_need(house, ade, http, job_id):
    body, headers = await whole(house, http, job_id)
    assert json.loads(body)["metadata"]["job_id"] == job_id
    assert headers["Content-Length"] == str(len(body))
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Content-Disposition"] == f'attachment; filename="{job_id}.json"'
    assert headers["Accept-Ranges"] == "bytes"
    assert house.fetcher.stats.under_way == 0


async def test_a_range_is_given_as_such(house, http, job_id):
    body, _ = await whole(house, http, job_id)
    size = len(body)
    for asked, expected in [
        ("bytes=0-0", (0, 1)),
        ("bytes=100-199", (100, 200)),
        ("bytes=1000-", (1000, size)),
        ("bytes=-7", (size - 7, size)),
        (f"bytes={size - 5}-{size + 500}", (size - 5, size)),
    ]:
        async with http.get(f"{house.url}/result/{job_id}", headers={"Range": asked}) as response:
            start, stop = expected
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert response.headers["Content-Length"] == str(stop - start)
            assert await response.read() == body[start:stop]


async def test_a_range_beyond_the_end_cannot_be_given(house, http, job_id):
    body, _ = await whole(house, http, job_id)
    asked = {"Range": f"bytes={len(body) + 10}-"}
    async with http.get(f"{house.url}/result/{job_id}", headers=asked) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(body)}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "items=0-1", "bytes=0-1,4-5", "bytes=-", "x"])
async def test_a_range_that_is_not_understood_is_answered_with_the_whole(house, ade, http, asked):
    body, _ = await whole(house, http, job_id := ade.submit(JobPlan()))
    headers = {"Range": asked}
    async with http.get(f"{house.url}/result/{job_id}", headers=headers) as response:
        assert response.status == 200
        assert await response.read() == body


async def test_a_range_of_another_version_is_answered_with_the_whole(house, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    body, headers = await whole(house, http, job_id)
    for name, status in [(headers["ETag"], 206), ('"another"', 200), (f"W/{headers['ETag']}", 200)]:
        asked = {"Range": "bytes=10-19", "If-Range": name}
        async with http.get(f"{house.url}/result/{job_id}", headers=asked) as response:
            assert response.status == status
            assert await response.read() == (body if status == 200 else body[10:20])


async def test_a_version_that_the_client_has_is_not_sent_again(house, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    _, headers = await whole(house, http, job_id)
    asked = {"If-None-Match": f'"x", W/{headers["ETag"]}'}
    async with http.get(f"{house.url}/result/{job_id}", headers=asked) as response:
        assert response.status == 304
        assert response.headers["ETag"] == headers["ETag"]


async def test_head_tells_of_a_result_what_get_would(house, http, job_id):
    _, headers = await whole(house, http, job_id)
    async with http.head(f"{house.url}/result/{job_id}") as response:
        assert response.status == 200
        names = ("Content-Length", "Content-Type", "ETag", "Content-Disposition")
        assert [response.headers.get(name) for name in names] == [
            headers.get(name) for name in names
        ]
        assert await response.read() == b""


async def test_a_filename_is_safe_in_its_header(house, ade, http):
    job_id = ade.submit(JobPlan())
    params = {"name": 'Häuser "2"\r\nX-Evil: 1.json'}
    async with http.get(f"{house.url}/result/{job_id}", params=params) as response:
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
async def test_a_job_without_a_result_is_a_problem(house, ade, http, plan, status, error):
    async with http.get(f"{house.url}/result/{ade.submit(plan)}") as response:
        assert response.status == status
        assert (await response.json())["error"] == error


async def test_a_result_that_breaks_off_in_the_middle_breaks_the_answer_off(kind, ade, http):
    ade.faults.add(make_fault("truncated", endpoints=["result"]))
    ade.faults.add(make_fault("range-ignored"))
    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    client = partial(AdeClient, ade.api_key, base_url=ade.base_url, retry=RetryPolicy(attempts=1))
    async with houses.open_house(kind, **houses.options_for(ade, client=client)) as house:
        with pytest.raises(aiohttp.ClientError):
            await whole(house, http, job_id)
        assert house.fetcher.stats.under_way == 0


async def test_a_client_that_leaves_in_the_middle_lets_the_storage_go(house, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    async with http.get(f"{house.url}/result/{job_id}") as response:
        await response.content.readexactly(100_000)
        assert house.fetcher.stats.under_way == 1
        response.close()
    await until(lambda: house.fetcher.stats.under_way == 0)
    assert house.fetcher.stats.abandoned == 1


@pytest.mark.parametrize("path", ["events?id={}&padding=20000000", "result/{}"])
async def test_a_client_that_takes_nothing_is_given_up(house, ade, caplog, monkeypatch, path):
    for module in (aiohttp_contrib, starlette_contrib):
        monkeypatch.setattr(module, "_MOST_STALLED", 0.2)
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    address = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(*address, limit=2**10)
    writer.write(f"GET /{path.format(job_id)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: "broken off" in caplog.text)
    await until(lambda: not (house.watcher.stats.subscribers or house.fetcher.stats.under_way))
    writer.transport.abort()


# --- webhooks ----------------------------------------------------------------------------------


def signed(body, key=b"the secret of the hooks", moment=None):
    moment = int(time.time() if moment is None else moment)
    digest = hmac.new(key, f"hook-1.{moment}.".encode() + body, "sha256").digest()
    return {
        "webhook-id": "hook-1",
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def test_a_genuine_webhook_makes_the_watcher_look_now(kind, ade, http):
    watcher = partial(JobWatcher, schedule=Fixed(interval=3600))
    async with houses.open_house(kind, **houses.options_for(ade, watcher=watcher)) as house:
        job_id = ade.submit(JobPlan(processing_time=0.3))
        waiting = asyncio.create_task(http.get(f"{house.url}/wait/{job_id}"))
        await until(lambda: ade.truth(job_id).gets == 1)
        await asyncio.sleep(0.5)  # until the job has ended; the emulator's time is real
        body = json.dumps({"type": "job.completed", "data": {"job_id": job_id}}).encode()
        async with http.post(f"{house.url}/hook", data=body, headers=signed(body)) as response:
            assert response.status == 204
        async with await waiting as response:
            assert response.status == 200
        assert ade.truth(job_id).gets == 2


@pytest.mark.parametrize(
    ("signature", "body", "status"),
    [
        (None, b"{}", 400),
        ({"key": b"another secret"}, b"{}", 400),
        ({"moment": 1_700_000_000}, b"{}", 400),
        ({}, b"no JSON", 400),
        (None, b"x" * 70_000, 413),
    ],
)
async def test_a_webhook_that_is_not_genuine_is_refused(house, http, signature, body, status):
    headers = {} if signature is None else signed(body, **signature)
    async with http.post(f"{house.url}/hook", data=body, headers=headers) as response:
        assert response.status == status


async def test_a_webhook_that_is_cut_off_in_the_middle_is_no_error(kind, ade, http, caplog):
    async with houses.open_house(kind, **houses.options_for(ade)) as house:
        address = house.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(b"Expect: 100-continue\r\n\r\n")
        await reader.readuntil(b"100 Continue\r\n\r\n")  # it waits for the body
        writer.transport.abort()
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_webhook_of_a_job_that_nobody_waits_for_asks_nothing(house, ade, http):
    body = json.dumps({"job_id": ade.submit(JobPlan())}).encode()
    async with http.post(f"{house.url}/hook", data=body, headers=signed(body)) as response:
        assert response.status == 204
    assert ade.truth.requests.get == 0


# --- secrets -----------------------------------------------------------------------------------


async def test_no_answer_holds_a_secret(house, ade, http):
    large = ade.submit(JobPlan(result_bytes=2_000_000))
    paths = [f"result/{large}", "result/no-such", f"wait/{large}", f"events?id={large}", "ready"]
    for path in paths:
        async with http.get(f"{house.url}/{path}") as response:
            told = json.dumps([*response.headers.items()])
            told += "" if path == paths[0] else await response.text()
        assert ade.api_key not in told
        assert ade.results_url not in told
        assert "X-Amz" not in told


# --- readiness ---------------------------------------------------------------------------------


async def test_a_server_that_is_well_is_ready_and_tells_what_it_does(house, ade, http):
    waiting = asyncio.create_task(http.get(f"{house.url}/wait/{ade.submit(ENDLESS)}"))
    await until(lambda: house.watcher.stats.subscribers == 1)
    async with http.get(f"{house.url}/ready") as response:
        assert response.status == 200
        told = await response.json()
    assert told["status"] == "ok"
    assert told["watcher"]["followers"] == 1
    assert told["client"]["requests"] >= 1
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_a_bad_key_is_told_though_nobody_has_asked_for_a_job(kind, ade, http):
    options = houses.options_for(ade, client=partial(AdeClient, "canary", base_url=ade.base_url))
    async with houses.open_house(kind, **options) as house:
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "refused"
        async with http.get(f"{house.url}/wait/some-job") as response:  # and nobody hangs
            assert response.status == 502
            assert "canary" not in await response.text()


async def test_however_many_ask_whether_it_is_ready_the_service_is_asked_once(kind, ade, http):
    options = houses.options_for(ade, client=partial(AdeClient, "canary", base_url=ade.base_url))
    async with houses.open_house(kind, **options) as house:

        async def ask():
            async with http.get(f"{house.url}/ready") as response:
                return response.status

        assert await asyncio.gather(*(ask() for _ in range(50))) == [503] * 50
        assert await ask() == 503
    assert ade.truth.requests.unauthorized == 1


async def test_a_server_that_shall_not_probe_does_not(kind, ade, http):
    async with houses.open_house(kind, **houses.options_for(ade, probe_every=None)) as house:
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 200
        assert house.client.stats.requests == 0


async def test_a_server_learns_without_traffic_that_its_key_is_good_again(kind, ade, http):
    options = houses.options_for(ade, probe_every=0.0)
    ade.faults.add(make_fault("unauthorized"))
    async with houses.open_house(kind, **options) as house:
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 503
        ade.faults.clear()
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 200


async def test_an_outage_is_told_and_its_end(kind, ade, http):
    options = houses.options_for(ade, probe_every=0.0)
    async with houses.open_house(kind, **options) as house:
        ade.faults.add(make_fault("server-error"))
        job_id = ade.submit(ENDLESS)
        waiting = asyncio.create_task(http.get(f"{house.url}/wait/{job_id}"))
        await until(lambda: house.client.stats.is_outage)
        async with http.get(f"{house.url}/ready") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "outage"
        waiting.cancel()


async def test_a_closed_watcher_is_not_ready(house, http):
    await house.watcher.aclose()
    async with http.get(f"{house.url}/ready") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "closed"


# --- stopping ----------------------------------------------------------------------------------


async def test_a_server_that_stops_tells_everybody_and_is_down_soon(house, ade, http):
    endless = ade.submit(ENDLESS)
    waits = [asyncio.create_task(http.get(f"{house.url}/wait/{endless}")) for _ in range(20)]
    streams = [await http.get(f"{house.url}/events?id={endless}") for _ in range(20)]
    await until(lambda: house.watcher.stats.subscribers == 40)
    async with asyncio.timeout(10):
        await house.stop()
    for response in await asyncio.gather(*waits):
        assert response.status == 503
        assert (await response.json())["error"] == "ClosedError"
        assert int(response.headers["Retry-After"]) > 0
    for stream in streams:
        told = frames(await stream.text())  # whole, not broken off; and a browser comes again
        assert [name for name, _ in told] == ["job"]


async def test_a_listener_who_takes_nothing_does_not_hold_up_the_end(kind, ade, caplog):
    job_ids = [ade.submit(JobPlan()) for _ in range(60)]
    query = "&".join(f"id={job_id}" for job_id in job_ids)
    async with houses.open_house(kind, **houses.options_for(ade, grace=0.2)) as house:
        address = house.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address, limit=2**10)
        writer.write(f"GET /events?{query}&padding=200000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: house.watcher.stats.settled == 60)
        stopping = asyncio.create_task(house.stop())
        await until(lambda: "broken off" in caplog.text)
        writer.transport.abort()  # a connection that stays is bounded by the server's own option
        async with asyncio.timeout(10):
            await stopping


async def test_a_result_on_its_way_is_cut_off_after_the_grace_time(kind, ade, http):
    job_id = ade.submit(JobPlan(result_bytes=60_000_000))
    async with houses.open_house(kind, **houses.options_for(ade, grace=0.2)) as house:
        response = await http.get(f"{house.url}/result/{job_id}")
        await response.content.readexactly(1000)
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(house.stop())
            await until(lambda: house.fetcher.stats.under_way == 0)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
            response.close()
            await stopping
