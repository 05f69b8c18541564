"""Features of the aiohttp adapter: application keys, sub-applications, tenants."""

import asyncio
from functools import partial

import aiohttp
import pytest
import server_apps
from aiohttp import web
from server_apps import get
from waiting import until

from adepoll import AdeClient, ConfigurationError, JobWatcher, ResultFetcher
from adepoll.contrib.aiohttp import (
    CLIENT,
    FETCHER,
    WATCHER,
    Tenant,
    problem_details_middleware,
    ready,
    setup,
    wait,
)
from adepoll.emulator import JobPlan


async def respond_when_settled(request):
    job = await wait(request, request.match_info["job_id"])
    return web.json_response({"status": job.status.value})


async def until_subscribers(app, number):
    await until(lambda: app[WATCHER].stats.subscribers == number)


async def test_application_keys_are_set_at_the_start_and_resources_closed_at_the_end(ade):
    app = web.Application()
    setup(app, **server_apps.options_for(ade))
    async with server_apps.run_aiohttp(app):
        assert isinstance(app[CLIENT], AdeClient)
        assert isinstance(app[FETCHER], ResultFetcher)
        watcher = app[WATCHER]
        assert not watcher.is_closed
    assert watcher.is_closed


async def test_an_existing_client_stays_open(ade):
    async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
        app = web.Application()
        setup(app, client=client)
        async with server_apps.run_aiohttp(app):
            assert app[CLIENT] is client
        job_id = ade.submit(JobPlan())
        assert (await client.get_job(job_id)).job_id == job_id


async def test_a_server_without_a_key_does_not_start(monkeypatch):
    monkeypatch.delenv("VISION_AGENT_API_KEY", raising=False)
    app = web.Application()
    setup(app)
    with pytest.raises(ConfigurationError):
        async with server_apps.run_aiohttp(app):
            pass


async def test_a_sub_application_uses_the_resources_of_its_parent(ade):
    app, sub = web.Application(middlewares=[problem_details_middleware]), web.Application()
    setup(app, **server_apps.options_for(ade))
    sub.router.add_get("/{job_id}", respond_when_settled)
    app.add_subapp("/sub", sub)
    async with server_apps.run_aiohttp(app) as server:
        assert await get(f"{server.url}/sub/{ade.submit(JobPlan())}") == (
            200,
            {"status": "completed"},
        )
        status, _ = await get(f"{server.url}/sub/none")
        assert status == 404


async def test_sub_applications_with_own_keys_share_nothing(ade, other_ade):
    app = web.Application(middlewares=[problem_details_middleware])
    parts = {}
    for name, service in {"one": ade, "two": other_ade}.items():
        parts[name] = web.Application()
        setup(parts[name], **server_apps.options_for(service))
        parts[name].router.add_get("/wait/{job_id}", respond_when_settled)
        parts[name].router.add_get("/ready", ready)
        app.add_subapp(f"/{name}", parts[name])
    mine = ade.submit(JobPlan(), job_id="same-id")
    other_ade.submit(JobPlan(processing_time=float("inf")), job_id="only-in-two")
    async with server_apps.run_aiohttp(app) as server:
        assert parts["one"][CLIENT] is not parts["two"][CLIENT]
        assert parts["one"][WATCHER] is not parts["two"][WATCHER]
        assert (await get(f"{server.url}/one/wait/{mine}"))[0] == 200
        assert (await get(f"{server.url}/two/wait/{mine}"))[0] == 404  # no snapshot was shared
        assert (await get(f"{server.url}/one/wait/only-in-two"))[0] == 404
        assert (await get(f"{server.url}/one/ready"))[0] == 200
    assert ade.truth.requests.unauthorized == other_ade.truth.requests.unauthorized == 0


async def test_tenants_of_one_application_share_nothing(ade, other_ade):
    us, eu = Tenant("us"), Tenant("eu")
    app = web.Application()
    us.setup(app, **server_apps.options_for(ade))
    eu.setup(app, **server_apps.options_for(other_ade))
    app.router.add_get("/us/ready", us.ready)
    app.router.add_get("/eu/ready", eu.ready)
    async with server_apps.run_aiohttp(app) as server:
        assert app[us.WATCHER] is not app[eu.WATCHER]
        other_ade.faults.add("unauthorized")
        assert (await get(f"{server.url}/us/ready"))[0] == 200
        assert (await get(f"{server.url}/eu/ready"))[0] == 503
        assert (await app[us.WATCHER].wait(ade.submit(JobPlan()))).job_id


async def test_a_wait_ends_if_aiohttp_itself_cancels_the_handler(ade):
    app = server_apps.aiohttp_app(**server_apps.options_for(ade))
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        job_id = ade.submit(JobPlan(processing_time=float("inf")))
        waiting = asyncio.create_task(get(f"{url}/wait/{job_id}"))
        await until_subscribers(app, 1)
        waiting.cancel()
        await until_subscribers(app, 0)
    finally:
        await runner.cleanup()


async def test_a_wait_that_continues_after_its_response_does_not_stop_the_monitor(ade):
    background = []

    async def respond_immediately(request):
        background.append(asyncio.create_task(wait(request, request.match_info["job_id"])))
        return web.Response()

    app = server_apps.aiohttp_app(**server_apps.options_for(ade))
    app.router.add_get("/background/{job_id}", respond_immediately)
    job_id = ade.submit(JobPlan(processing_time=float("inf")))
    async with server_apps.run_aiohttp(app) as server, aiohttp.ClientSession() as other:
        remaining = asyncio.create_task(other.get(f"{server.url}/wait/{job_id}"))
        async with aiohttp.ClientSession() as http:
            await http.get(f"{server.url}/background/{job_id}")
        for _ in range(2):
            async with aiohttp.ClientSession() as http:
                leaving = asyncio.create_task(http.get(f"{server.url}/wait/{job_id}"))
                await until_subscribers(app, 3)
            leaving.cancel()
            await until_subscribers(app, 2)
        remaining.cancel()
        assert not background[0].done()
        background[0].cancel()


async def test_an_error_in_the_middle_of_a_response_aborts_it(ade):
    async def start_and_wait(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await wait(request, request.match_info["job_id"])
        return response

    async def websocket(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await wait(request, request.match_info["job_id"])
        return socket

    app = server_apps.aiohttp_app(**server_apps.options_for(ade))
    app.router.add_get("/stream/{job_id}", start_and_wait)
    app.router.add_get("/websocket/{job_id}", websocket)
    async with server_apps.run_aiohttp(app) as server, aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}/stream/none") as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        async with http.ws_connect(f"{server.url}/websocket/none") as socket:
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSED
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def test_options_can_create_client_and_watcher(ade):
    app = web.Application()
    watchers = []

    def watcher(client):
        watchers.append(JobWatcher(client, concurrency=3))
        return watchers[0]

    client = partial(AdeClient, ade.api_key, base_url=ade.base_url, max_rate=5)
    setup(app, client=client, watcher=watcher)
    async with server_apps.run_aiohttp(app):
        assert app[WATCHER] is watchers[0]


@pytest.mark.parametrize("options", [{"grace": -1.0}, {"probe_every": float("nan")}])
async def test_a_number_out_of_range_is_refused(ade, options):
    app = web.Application()
    setup(app, **server_apps.options_for(ade, **options))
    with pytest.raises(ValueError, match=next(iter(options))):
        async with server_apps.run_aiohttp(app):
            pass
