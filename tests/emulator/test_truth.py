"""The truth: who asked for what, who came too early, what leaked."""

import aiohttp
import pytest
from clocks import T0
from yarl import URL

from adepoll.emulator import Endpoint, JobPlan, Traffic
from adepoll.emulator.ledger import Ledger

JOBS = "/v1/ade/extract/jobs"


async def status_of(api, path=JOBS + "/one"):
    async with api.get(path) as answer:
        await answer.read()
        return answer.status


async def test_requests_are_told_by_kind_and_by_job(ade, api):
    for job_id in ("one", "two"):
        ade.submit(JobPlan(result_bytes=1_200_000), job_id=job_id)
    for path in (JOBS, f"{JOBS}/one", f"{JOBS}/one", f"{JOBS}/two", f"{JOBS}/nobody"):
        await status_of(api, path)
    _, body = ade.world.job("two")
    async with aiohttp.ClientSession() as stranger:
        for path in (body["output_url"], ade.results_url + "/nothing"):
            await status_of(stranger, URL(path, encoded=True))
    assert ade.truth.requests == Traffic(get=5, list=1, result=2)
    assert (ade.truth("one").gets, ade.truth("one").result_requests) == (2, 0)
    assert (ade.truth("two").gets, ade.truth("two").result_requests) == (2, 1)
    assert [truth.job_id for truth in ade.truth.jobs()] == ["one", "two"]


async def test_requests_that_a_fault_refuses_are_told_as_well(ade, api):
    ade.submit(JobPlan(), job_id="one")
    ade.faults.add("server-error")
    assert await status_of(api) >= 500
    assert await status_of(api, JOBS) >= 500
    assert ade.truth.requests == Traffic(get=1, list=1)
    assert ade.truth("one").gets == 1
    assert ade.truth.refused.total() == 2
    assert ade.truth.faults == {"server-error": 2}


async def test_who_comes_within_a_retry_after_is_found_out(ade, api, clock):
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
    assert early.left == pytest.approx(6)


async def test_a_wait_that_the_storage_asks_for_does_not_concern_the_api(ade, api, clock):
    job_id = ade.submit(JobPlan(result_bytes=1_200_000))
    _, body = ade.world.job(job_id)
    ade.faults.add("server-error", endpoints=["result"], retry_after="seconds", wait=60)
    async with aiohttp.ClientSession() as stranger:
        assert await status_of(stranger, URL(body["output_url"], encoded=True)) >= 500
    clock.now += 10
    await status_of(api, f"{JOBS}/{job_id}")
    assert ade.truth.early == 0


async def test_keys_and_cookies_at_the_origin_of_the_results_are_told_but_not_kept(ade):
    headers = {"Authorization": "Bearer secret-1", "Cookie": "a=secret-2"}
    async with aiohttp.ClientSession(headers=headers) as stranger:
        await status_of(stranger, f"{ade.results_url}/some/path?X-Amz-Signature=secret-3")
    assert [(leak.header, leak.path) for leak in ade.truth.leaks] == [
        ("Authorization", "/some/path"),
        ("Cookie", "/some/path"),
    ]
    assert ade.truth.requests.leaks == 1
    assert "secret" not in repr(ade.truth.leaks)


async def test_the_same_truth_is_told_over_http(ade, api, clock):
    ade.submit(JobPlan(), job_id="one")
    ade.faults.add("too-many-requests", retry_after="seconds", wait=10, times=1)
    await status_of(api)
    clock.now = T0 + 4
    await status_of(api)
    async with aiohttp.ClientSession(headers={"Cookie": "a=b"}) as stranger:
        await status_of(stranger, ade.results_url)
    async with api.get("/_emulator/truth") as answer:
        told = await answer.json()
    assert told == ade.truth.as_json()
    assert told["early"] == told["leaks"] == 1
    assert told["leaked"] == [{"at": T0 + 4, "header": "Cookie", "path": "/"}]
    assert (told["refused"], told["faults"]) == ({"429": 1}, {"too-many-requests": 1})
    assert told["jobs"][0]["gets"] == 2


def test_waits_that_overlap_are_one_and_waits_apart_are_two():
    ledger = Ledger()

    def came(at):
        before = ledger.early
        ledger.request(Endpoint.GET, "one", at)
        return ledger.early > before

    ledger.ask_to_wait(heard_at=10, until=20)
    ledger.ask_to_wait(heard_at=15, until=30)
    assert [came(at) for at in (9, 12, 25, 30)] == [False, True, True, False]
    ledger.ask_to_wait(heard_at=50, until=60)
    assert [came(at) for at in (40, 49, 55, 61)] == [False, False, True, False]
    ledger.ask_to_wait(heard_at=70, until=65)
    assert not came(68)


def test_an_early_request_to_the_storage_does_not_count():
    ledger = Ledger()
    ledger.ask_to_wait(heard_at=10, until=20)
    ledger.request(Endpoint.RESULT, "one", 15)
    assert ledger.early == 0
