"""What is aiohttp's own: application keys, sub-applications, tenants."""

import asyncio
from functools import partial

import aiohttp
import houses
import pytest
from aiohttp import web
from houses import get

from adepoll import AdeClient, ConfigurationError, JobWatcher, ResultFetcher
from adepoll.contrib.aiohttp import CLIENT, FETCHER, WATCHER, Tenant, problems, ready, setup, wait
from adepoll.emulator import JobPlan


async def answer_when_done(request):
    job = await wait(request, request.match_info["job_id"])
    return web.json_response({"status": job.status.value})


async def until_followers(app, number):
    async with asyncio.timeout(5):
        while app[WATCHER].stats.subscribers != number:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_keys_are_there_from_start_to_end_and_closed_then(ade):
    app = web.Application()
    setup(app, **houses.options_for(ade))
    async with houses.aiohttp_house(app):
        assert isinstance(app[CLIENT], AdeClient)
        assert isinstance(app[FETCHER], ResultFetcher)
        watcher = app[WATCHER]
        assert not watcher.is_closed
    assert watcher.is_closed


async def test_a_client_of_ones_own_stays_open(ade):
    async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
        app = web.Application()
        setup(app, client=client)
        async with houses.aiohttp_house(app):
            assert app[CLIENT] is client
        job_id = ade.submit(JobPlan())
        assert (await client.get_job(job_id)).job_id == job_id


async def test_a_server_without_a_key_does_not_start(monkeypatch):
    monkeypatch.delenv("VISION_AGENT_API_KEY", raising=False)
    app = web.Application()
    setup(app)
    with pytest.raises(ConfigurationError):
        async with houses.aiohttp_house(app):
            pass


async def test_a_sub_application_has_what_its_parent_set_up(ade):
    app, sub = web.Application(middlewares=[problems]), web.Application()
    setup(app, **houses.options_for(ade))
    sub.router.add_get("/{job_id}", answer_when_done)
    app.add_subapp("/sub", sub)
    async with houses.aiohttp_house(app) as house:
        assert await get(f"{house.url}/sub/{ade.submit(JobPlan())}") == (
            200,
            {"status": "completed"},
        )
        status, _ = await get(f"{house.url}/sub/none")
        assert status == 404


async def test_sub_applications_of_several_keys_share_nothing(ade, other_ade):
    app = web.Application(middlewares=[problems])
    parts = {}
    for name, service in {"one": ade, "two": other_ade}.items():
        parts[name] = web.Application()
        setup(parts[name], **houses.options_for(service))
        parts[name].router.add_get("/wait/{job_id}", answer_when_done)
        parts[name].router.add_get("/ready", ready)
        app.add_subapp(f"/{name}", parts[name])
    mine = ade.submit(JobPlan(), job_id="same-id")
    other_ade.submit(JobPlan(processing_time=float("inf")), job_id="only-theirs")
    async with houses.aiohttp_house(app) as house:
        assert parts["one"][CLIENT] is not parts["two"][CLIENT]
        assert parts["one"][WATCHER] is not parts["two"][WATCHER]
        assert (await get(f"{house.url}/one/wait/{mine}"))[0] == 200
        assert (await get(f"{house.url}/two/wait/{mine}"))[0] == 404  # no snapshot was shared
        assert (await get(f"{house.url}/one/wait/only-theirs"))[0] == 404
        assert (await get(f"{house.url}/one/ready"))[0] == 200
    assert ade.truth.requests.unauthorized == other_ade.truth.requests.unauthorized == 0


async def test_tenants_of_one_application_share_nothing(ade, other_ade):
    us, eu = Tenant("us"), Tenant("eu")
    app = web.Application()
    us.setup(app, **houses.options_for(ade))
    eu.setup(app, **houses.options_for(other_ade))
    app.router.add_get("/us/ready", us.ready)
    app.router.add_get("/eu/ready", eu.ready)
    async with houses.aiohttp_house(app) as house:
        assert app[us.WATCHER] is not app[eu.WATCHER]
        other_ade.faults.add("unauthorized")
        assert (await get(f"{house.url}/us/ready"))[0] == 200
        assert (await get(f"{house.url}/eu/ready"))[0] == 503
        assert (await app[us.WATCHER].wait(ade.submit(JobPlan()))).job_id


async def test_handlers_that_aiohttp_cancels_itself_wait_as_well(ade):
    app = houses.aiohttp_app(**houses.options_for(ade))
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        job_id = ade.submit(JobPlan(processing_time=float("inf")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(get(f"{url}/wait/{job_id}"), 0.3)
        async with asyncio.timeout(5):
            while app[WATCHER].stats.subscribers:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
    finally:
        await runner.cleanup()


async def test_who_waits_on_after_the_answer_does_not_blind_the_door(ade):
    behind = []

    async def answer_at_once(request):
        behind.append(asyncio.create_task(wait(request, request.match_info["job_id"])))
        return web.Response()

    app = houses.aiohttp_app(**houses.options_for(ade))
    app.router.add_get("/behind/{job_id}", answer_at_once)
    job_id = ade.submit(JobPlan(processing_time=float("inf")))
    async with houses.aiohttp_house(app) as house, aiohttp.ClientSession() as own:
        staying = asyncio.create_task(own.get(f"{house.url}/wait/{job_id}"))
        async with aiohttp.ClientSession() as http:
            await http.get(f"{house.url}/behind/{job_id}")
        for _ in range(2):
            async with aiohttp.ClientSession() as http:
                leaving = asyncio.create_task(http.get(f"{house.url}/wait/{job_id}"))
                await until_followers(app, 3)
            leaving.cancel()
            await until_followers(app, 2)
        staying.cancel()
        assert not behind[0].done()
        behind[0].cancel()


async def test_a_problem_in_the_middle_of_an_answer_breaks_it_off(ade):
    async def answer_and_wait(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await wait(request, request.match_info["job_id"])
        return response

    async def talk(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await wait(request, request.match_info["job_id"])
        return socket

    app = houses.aiohttp_app(**houses.options_for(ade))
    app.router.add_get("/answer/{job_id}", answer_and_wait)
    app.router.add_get("/talk/{job_id}", talk)
    async with houses.aiohttp_house(app) as house, aiohttp.ClientSession() as http:
        async with http.get(f"{house.url}/answer/none") as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        async with http.ws_connect(f"{house.url}/talk/none") as socket:
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSED
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def test_options_go_to_what_they_are_for(ade):
    app = web.Application()
    made = []

    def watcher(client):
        made.append(JobWatcher(client, concurrency=3))
        return made[0]

    client = partial(AdeClient, ade.api_key, base_url=ade.base_url, max_rate=5)
    setup(app, client=client, watcher=watcher)
    async with houses.aiohttp_house(app):
        assert app[WATCHER] is made[0]


@pytest.mark.parametrize("options", [{"grace": -1.0}, {"probe_every": float("nan")}])
async def test_a_number_out_of_range_is_refused(ade, options):
    app = web.Application()
    setup(app, **houses.options_for(ade, **options))
    with pytest.raises(ValueError, match=next(iter(options))):
        async with houses.aiohttp_house(app):
            pass
