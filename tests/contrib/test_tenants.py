"""Tenants whose keys are known only at run time, in aiohttp and FastAPI."""

import asyncio
import contextvars
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pytest
import server_apps
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from fastapi import FastAPI, Request
from server_apps import get
from waiting import until

from adepoll import AdeClient, ConfigurationError, Fixed, JobWatcher
from adepoll.contrib import aiohttp as for_aiohttp
from adepoll.contrib import fastapi as for_fastapi
from adepoll.emulator import JobPlan

ENDLESS = JobPlan(processing_time=float("inf"))


def aiohttp_app(**options):
    tenants = for_aiohttp.Tenants()
    app = web.Application(middlewares=[for_aiohttp.problem_details_middleware])
    tenants.setup(app, **options)

    async def status(request):
        key, job_id = request.match_info["key"], request.match_info["job_id"]
        timeout = float(request.query.get("timeout", 10))
        return await tenants.get(key).send_status(request, job_id, timeout=timeout)

    async def events(request):
        key = request.match_info["key"]
        return await tenants.get(key).events(request, [request.match_info["job_id"]])

    app.router.add_get("/{key}/jobs/{job_id}", status)
    app.router.add_get("/{key}/events/{job_id}", events)
    app.router.add_get("/ready", tenants.ready)
    return app, lambda: app[tenants.POOL]


def fastapi_app(**options):
    tenants = for_fastapi.Tenants()
    app = FastAPI(lifespan=tenants.lifespan(**options))
    for_fastapi.add_problem_details(app)

    @app.get("/{key}/jobs/{job_id}")
    async def status(request: Request, key: str, job_id: str, timeout: float = 10):  # noqa: ASYNC109 - a query parameter
        return await tenants.get(key).send_status(request, job_id, timeout=timeout)

    @app.get("/{key}/events/{job_id}")
    async def events(request: Request, key: str, job_id: str):
        return tenants.get(key).events(request, [job_id])

    app.get("/ready")(tenants.ready)
    return app, lambda: app.state.tenants


@asynccontextmanager
async def run_server(kind, services, **options):
    def client(key):
        return AdeClient(services[key].api_key, base_url=services[key].base_url)

    options = {
        "client": client,
        "watcher": partial(JobWatcher, schedule=Fixed(interval=0.05), not_found_grace=0.2),
        **options,
    }
    make, run = {
        "aiohttp": (aiohttp_app, server_apps.run_aiohttp),
        "fastapi": (fastapi_app, server_apps.run_uvicorn),
    }[kind]
    app, pool = make(**options)
    async with run(app) as server:
        yield server, pool()


@pytest.fixture(params=["aiohttp", "fastapi"])
def kind(request):
    return request.param


async def test_each_tenant_has_its_own_key_and_jobs(kind, ade, other_ade):
    mine = ade.submit(JobPlan(), job_id="mine")
    other_ade.submit(JobPlan(), job_id="theirs")
    async with run_server(kind, {"a": ade, "b": other_ade}) as (server, pool):
        assert (await get(f"{server.url}/a/jobs/{mine}"))[0] == 200
        assert (await get(f"{server.url}/b/jobs/{mine}"))[0] == 404
        assert (await get(f"{server.url}/b/jobs/theirs"))[0] == 200
        assert len(pool) == 2
        assert await get(f"{server.url}/ready") == (200, {"status": "ok", "tenants": 2})
    assert ade.truth.requests.unauthorized == other_ade.truth.requests.unauthorized == 0
    assert len(pool) == 0


async def test_an_idle_tenant_is_closed_and_one_in_use_is_not(kind, ade):
    services = {"idle": ade, "busy": ade}
    job_id, endless = ade.submit(JobPlan()), ade.submit(ENDLESS)
    async with (
        run_server(kind, services, idle_after=0.1) as (server, pool),
        aiohttp.ClientSession() as http,
    ):
        stream = await http.get(f"{server.url}/busy/events/{endless}")
        await stream.content.readuntil(b"event: job")
        assert (await get(f"{server.url}/idle/jobs/{job_id}"))[0] == 200
        await until(lambda: len(pool) == 1)
        assert not stream.content.at_eof()
        stream.close()
        await until(lambda: len(pool) == 0)
        assert (await get(f"{server.url}/idle/jobs/{job_id}"))[0] == 200  # it opens again


async def test_the_number_of_open_tenants_is_bounded(kind, ade):
    services = dict.fromkeys("abc", ade)
    job_id, endless = ade.submit(JobPlan()), ade.submit(ENDLESS)
    async with (
        run_server(kind, services, limit=2) as (server, pool),
        aiohttp.ClientSession() as http,
    ):
        stream = await http.get(f"{server.url}/a/events/{endless}")
        await stream.content.readuntil(b"event: job")
        for key in "bcb":  # the one that is in use stays
            assert (await get(f"{server.url}/{key}/jobs/{job_id}"))[0] == 200
            assert len(pool) == 2
        second = await http.get(f"{server.url}/b/events/{endless}")
        await second.content.readuntil(b"event: job")
        async with http.get(f"{server.url}/c/jobs/{job_id}") as response:
            assert response.status == 503
            assert (await response.json())["error"] == "TooManyTenantsError"
            assert int(response.headers["Retry-After"]) > 0
        stream.close()
        second.close()


async def test_a_stopping_server_ends_the_waits_of_all_tenants(kind, ade):
    endless = ade.submit(ENDLESS)
    async with run_server(kind, dict.fromkeys("ab", ade)) as (server, pool):
        waits = [
            asyncio.create_task(get(f"{server.url}/{key}/jobs/{endless}?timeout=60"))
            for key in "ab"
        ]
        await until(lambda: len(pool) == 2)
        pool.stop()  # as the signal does
        for wait in waits:
            status, body = await wait
            assert (status, body["error"]) == (503, "ClosedError")


async def test_an_aiohttp_application_that_stops_ends_the_waits_before_it_closes(ade):
    app, pool = aiohttp_app(client=lambda _key: AdeClient(ade.api_key, base_url=ade.base_url))
    runner = web.AppRunner(app)
    await runner.setup()
    tenant = pool().get("a")
    await app.shutdown()
    assert tenant.is_stopping
    assert not tenant.watcher.is_closed
    await runner.cleanup()
    assert tenant.watcher.is_closed


async def test_fifty_tenants_leave_no_task_and_no_timer(ade):
    before = asyncio.all_tasks()
    pool = for_fastapi.TenantPool(
        client=lambda _key: AdeClient(ade.api_key, base_url=ade.base_url), limit=50
    )
    job_id = ade.submit(JobPlan())
    opened = [pool.get(f"key-{number}") for number in range(60)]
    assert pool.get("key-59") is opened[-1]
    assert len(pool) == 50
    await asyncio.gather(*(tenant.wait(job_id) for tenant in opened[-50:]))
    await pool.aclose()
    await until(lambda: asyncio.all_tasks() <= before)
    assert all(tenant.watcher.is_closed for tenant in opened)


def test_a_named_tenant_without_a_client_is_refused():
    """`Tenant("eu")` alone would send the key of the environment to the US host."""
    with pytest.raises(ConfigurationError, match="client"):
        for_aiohttp.Tenant("eu").setup(web.Application())
    running = for_fastapi.Tenant("eu").running(FastAPI())
    with pytest.raises(ConfigurationError, match="client"):
        asyncio.run(running.__aenter__())


async def test_two_tenants_with_one_name_are_refused(ade):
    options, app = server_apps.options_for(ade), FastAPI()
    async with for_fastapi.Tenant("eu").running(app, **options):
        with pytest.raises(ConfigurationError, match="its own name"):
            async with for_fastapi.Tenant("eu").running(app, **options):
                pass


async def test_a_tenant_that_does_not_run_says_which_lifespan_is_missing(ade):
    app, eu = FastAPI(), for_fastapi.Tenant("eu")

    @app.get("/")
    async def route(request: Request):
        try:
            eu.resources(request)
        except RuntimeError as error:
            return str(error)

    async with server_apps.run_uvicorn(app) as server:
        status, text = await get(server.url)
    assert status == 200
    assert "'eu'" in text
    assert "lifespan=eu.lifespan(...)" in text


def test_a_pool_of_tenants_that_does_not_run_says_what_to_call():
    request = Request({"type": "http", "app": FastAPI(), "state": {}})
    with pytest.raises(RuntimeError, match=r"tenant pool 'teams' is .*TENANTS\.lifespan"):
        for_fastapi.Tenants("teams").pool(request)


def test_tenants_of_aiohttp_that_do_not_run_say_what_to_call():
    request = make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(RuntimeError, match=r"tenant pool 'teams' is not .*setup\(app\)"):
        for_aiohttp.Tenants("teams").pool(request)
    with pytest.raises(RuntimeError, match=r"tenant 'eu' is not .*setup\(app\)"):
        for_aiohttp.Tenant("eu").resources(request)


@pytest.mark.parametrize("name", ["wait", "send_status", "events", "send_result"])
@pytest.mark.parametrize("tenant", [for_aiohttp.Tenant("eu"), for_aiohttp.Tenants().get("key")])
async def test_each_function_says_that_its_tenant_was_not_set_up(tenant, name):
    request = make_mocked_request("GET", "/", app=web.Application())
    with pytest.raises(RuntimeError, match=r"call its setup\(app\)"):
        await getattr(tenant, name)(request, ["job-1"] if name == "events" else "job-1")


REQUEST_ID = contextvars.ContextVar("request_id", default=None)


async def test_what_serves_several_requests_has_the_context_of_none(ade):
    """A tenant is opened by a request, and polls jobs for others later."""
    seen = []

    class Watcher(JobWatcher):
        def __init__(self, client):
            seen.append(("open", REQUEST_ID.get()))
            super().__init__(Source(client), schedule=Fixed(interval=0.05))

    class Source:
        def __init__(self, client):
            self.client = client

        async def get_job(self, job_id):
            seen.append(("poll", REQUEST_ID.get()))
            return await self.client.get_job(job_id)

        async def list_jobs(self, **options):
            seen.append(("list", REQUEST_ID.get()))
            return await self.client.list_jobs(**options)

    app, pool = fastapi_app(
        client=lambda _key: AdeClient(ade.api_key, base_url=ade.base_url),
        watcher=Watcher,
        idle_after=0.1,
    )

    @app.middleware("http")
    async def set_request_id(request, call_next):
        REQUEST_ID.set("17")
        return await call_next(request)

    async with server_apps.run_uvicorn(app) as server:
        job_id = ade.submit(JobPlan(processing_time=0.2))
        assert (await get(f"{server.url}/a/jobs/{job_id}"))[0] == 200
        await until(lambda: len(pool()) == 0)  # closed by a timer
    assert {what for what, _ in seen} >= {"open", "poll"}
    assert {request_id for _, request_id in seen} == {None}
