"""The ground truth: numbers of requests, early requests and leaks."""

import itertools

import aiohttp
import pytest
from clocks import T0
from yarl import URL

from adepoll.emulator import Emulator, Endpoint, JobPlan, Traffic
from adepoll.emulator.request_log import RequestLog

JOBS = "/v1/ade/extract/jobs"


async def status_of(api, path=JOBS + "/one"):
    async with api.get(path) as answer:
        await answer.read()
        return answer.status


async def test_requests_are_counted_by_endpoint_and_by_job(ade, api):
    for job_id in ("one", "two"):
        ade.submit(JobPlan(result_bytes=1_200_000), job_id=job_id)
    for path in (JOBS, f"{JOBS}/one", f"{JOBS}/one", f"{JOBS}/two", f"{JOBS}/nobody"):
        await status_of(api, path)
    _, body = ade.world.job("two")
    async with aiohttp.ClientSession() as other_client:
        for path in (body["output_url"], ade.results_url + "/nothing"):
            await status_of(other_client, URL(path, encoded=True))
    assert ade.truth.requests == Traffic(get=5, list=1, result=2)
    assert (ade.truth("one").polls, ade.truth("one").result_requests) == (2, 0)
    assert (ade.truth("two").polls, ade.truth("two").result_requests) == (2, 1)
    assert [truth.job_id for truth in ade.truth.jobs()] == ["one", "two"]


async def test_requests_that_a_fault_refuses_are_counted_as_well(ade, api):
    ade.submit(JobPlan(), job_id="one")
    ade.faults.add("server-error")
    assert await status_of(api) >= 500
    assert await status_of(api, JOBS) >= 500
    assert ade.truth.requests == Traffic(get=1, list=1)
    assert ade.truth("one").polls == 1
    assert ade.truth.refused.total() == 2
    assert ade.truth.faults == {"server-error": 2}


async def test_a_request_before_the_end_of_a_retry_after_is_early(ade, api, clock):
    ade.submit(JobPlan(), job_id="one")
    ade.faults.add("too-many-requests", retry_after="seconds", wait=10, times=1)
    assert await status_of(api) == 429
    clock.now = T0 + 0.05
    await status_of(api)  # it may have been on its way
    assert ade.truth.early == 0
    clock.now = T0 + 4
    await status_of(api)
    clock.now = T0 + 10
    await status_of(api)
    assert ade.truth.early == 1
    [early] = ade.truth.early_requests
    assert (early.at, early.endpoint, early.job_id) == (T0 + 4, Endpoint.GET, "one")
    assert early.remaining == pytest.approx(6)


async def test_a_request_is_not_early_because_of_its_own_retry_after():
    readings = itertools.count(T0)  # a busy machine: a second passes between any two readings
    async with Emulator(clock=lambda: next(readings)) as ade:
        ade.submit(JobPlan(), job_id="one")
        ade.faults.add("too-many-requests", retry_after="seconds", wait=100)
        headers = {"Authorization": f"Bearer {ade.api_key}"}
        async with aiohttp.ClientSession(ade.base_url, headers=headers) as api:
            assert await status_of(api) == 429
            assert ade.truth.early == 0
            assert await status_of(api) == 429
            assert ade.truth.early == 1


async def test_a_retry_after_of_the_storage_does_not_concern_the_api(ade, api, clock):
    job_id = ade.submit(JobPlan(result_bytes=1_200_000))
    _, body = ade.world.job(job_id)
    ade.faults.add("server-error", endpoints=["result"], retry_after="seconds", wait=60)
    async with aiohttp.ClientSession() as other_client:
        assert await status_of(other_client, URL(body["output_url"], encoded=True)) >= 500
    clock.now += 10
    await status_of(api, f"{JOBS}/{job_id}")
    assert ade.truth.early == 0


async def test_keys_and_cookies_at_the_storage_are_reported_without_their_values(ade):
    headers = {"Authorization": "Bearer secret-1", "Cookie": "a=secret-2"}
    async with aiohttp.ClientSession(headers=headers) as other_client:
        await status_of(other_client, f"{ade.results_url}/some/path?X-Amz-Signature=secret-3")
    assert [(leak.header, leak.path) for leak in ade.truth.leaks] == [
        ("Authorization", "/some/path"),
        ("Cookie", "/some/path"),
    ]
    assert ade.truth.requests.leaks == 1
    assert "secret" not in repr(ade.truth.leaks)


async def test_the_truth_over_http_is_the_same(ade, api, clock):
    ade.submit(JobPlan(), job_id="one")
    ade.faults.add("too-many-requests", retry_after="seconds", wait=10, times=1)
    await status_of(api)
    clock.now = T0 + 4
    await status_of(api)
    async with aiohttp.ClientSession(headers={"Cookie": "a=b"}) as other_client:
        await status_of(other_client, ade.results_url)
    async with api.get("/_emulator/truth") as answer:
        truth = await answer.json()
    assert truth == ade.truth.as_json()
    assert truth["early"] == truth["leaks"] == 1
    assert truth["leaked"] == [{"at": T0 + 4, "header": "Cookie", "path": "/"}]
    assert (truth["refused"], truth["faults"]) == ({"429": 1}, {"too-many-requests": 1})
    assert truth["jobs"][0]["polls"] == 2


def test_overlapping_waits_are_merged():
    log = RequestLog()

    def is_early(at):
        before = log.early
        log.record(Endpoint.GET, "one", at)
        return log.early > before

    log.record_retry_after(known_at=10, until=20)
    log.record_retry_after(known_at=15, until=30)
    assert [is_early(at) for at in (9, 12, 25, 30)] == [False, True, True, False]
    log.record_retry_after(known_at=50, until=60)
    assert [is_early(at) for at in (40, 49, 55, 61)] == [False, False, True, False]
    log.record_retry_after(known_at=70, until=65)
    assert not is_early(68)


def test_an_early_request_to_the_storage_does_not_count():
    log = RequestLog()
    log.record_retry_after(known_at=10, until=20)
    log.record(Endpoint.RESULT, "one", 15)
    assert log.early == 0
