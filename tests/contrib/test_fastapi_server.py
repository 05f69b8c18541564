"""Features of the FastAPI adapter: lifespans, dependencies, websockets, tenants."""

import asyncio
import warnings
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import aiohttp
import pytest
import server_apps
from fastapi import Depends, FastAPI, Request, WebSocket, WebSocketDisconnect
from internals import end_now
from server_apps import get
from starlette.background import BackgroundTask
from waiting import until

from adepoll import AdeClient, JobWatcher, ResultFetcher
from adepoll.contrib.fastapi import (
    Client,
    Fetcher,
    Resources,
    Tenant,
    Watcher,
    add_problem_details,
    adepoll_lifespan,
    events,
    ready,
    resources,
    running,
    send_result,
    wait,
)
from adepoll.contrib.starlette import ClientDisconnectedError, cancel_on_disconnect
from adepoll.emulator import JobPlan
from adepoll.server.resources import open_resources

ENDLESS = JobPlan(processing_time=float("inf"))


def add_route_with_dependencies(app):
    @app.get("/kinds")
    async def kinds(client: Client, watcher: Watcher, fetcher: Fetcher):
        return [
            isinstance(client, AdeClient),
            isinstance(watcher, JobWatcher),
            isinstance(fetcher, ResultFetcher),
        ]


async def test_dependencies_inject_client_watcher_and_fetcher(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))
    add_route_with_dependencies(app)
    async with server_apps.run_uvicorn(app) as server:
        assert await get(f"{server.url}/kinds") == (200, [True, True, True])
        watcher = server.watcher
    assert watcher.is_closed


async def test_dependencies_do_not_appear_in_the_schema(ade):
    app = FastAPI()
    add_route_with_dependencies(app)
    operation = app.openapi()["paths"]["/kinds"]["get"]
    assert "parameters" not in operation
    assert "requestBody" not in operation


async def test_an_override_replaces_the_resources_of_dependencies_and_functions(ade, other_ade):
    app = server_apps.fastapi_app(**server_apps.options_for(other_ade))

    @app.get("/same")
    async def same(request: Request, client: Client, mine: Resources):
        return client is mine.client is resources(request).client

    job_id = ade.submit(JobPlan())
    async with (
        open_resources(**server_apps.options_for(ade)) as replacement,
        server_apps.run_uvicorn(app) as server,
    ):
        app.dependency_overrides[resources] = lambda: replacement
        assert await get(f"{server.url}/same") == (200, True)
        assert await get(f"{server.url}/wait/{job_id}") == (200, {"status": "completed"})
        assert (await get(f"{server.url}/result/{job_id}"))[0] == 200
        assert (await get(f"{server.url}/ready"))[0] == 200
    assert other_ade.truth.requests.get == 0


async def test_an_inner_lifespan_runs_within_and_its_state_is_kept(ade):
    states = []

    @asynccontextmanager
    async def own(app):
        states.append(f"{app.state.adepoll.watcher.is_closed} at start")
        yield {"mine": 42}
        states.append(f"{app.state.adepoll.watcher.is_closed} at end")

    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade), inner=own))

    @app.get("/mine")
    async def mine(request: Request, watcher: Watcher):
        return [request.state.mine, watcher.stats.watched]

    async with server_apps.run_uvicorn(app) as server:
        assert await get(f"{server.url}/mine") == (200, [42, 0])
    assert states[0] == "False at start"
    assert len(states) == 2


@pytest.mark.parametrize("state", [None, {}, {"mine": 42}])
async def test_an_inner_lifespan_may_have_no_state(state):
    @asynccontextmanager
    async def own(_app):
        yield state

    app = FastAPI()
    lifespan = adepoll_lifespan(client=partial(AdeClient, "key"), inner=own)
    async with lifespan(app) as found:
        assert found == {**(state or {}), "adepoll": app.state.adepoll}
    assert not hasattr(app.state, "adepoll")


async def test_running_can_be_entered_in_an_own_lifespan(ade):
    @asynccontextmanager
    async def own(app):
        async with running(app, **server_apps.options_for(ade)) as resources:
            await resources.client.list_jobs()
            yield

    app = FastAPI(lifespan=own)
    add_route_with_dependencies(app)
    app.get("/ready")(ready)
    async with server_apps.run_uvicorn(app) as server:
        assert await get(f"{server.url}/kinds") == (200, [True, True, True])
        assert (await get(f"{server.url}/ready"))[0] == 200


async def test_a_mounted_application_uses_the_outer_resources(ade):
    app, mounted = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade))), FastAPI()
    add_route_with_dependencies(mounted)
    app.mount("/sub", mounted)
    async with server_apps.run_uvicorn(app) as server:
        assert await get(f"{server.url}/sub/kinds") == (200, [True, True, True])


async def test_tenants_share_nothing(ade, other_ade):
    us, eu = Tenant("us"), Tenant("eu")
    inner = eu.lifespan(**server_apps.options_for(other_ade))
    app = FastAPI(lifespan=us.lifespan(**server_apps.options_for(ade), inner=inner))
    add_problem_details(app)
    app.get("/us/ready")(us.ready)
    app.get("/eu/ready")(eu.ready)

    @app.get("/us/{job_id}")
    async def in_us(job_id: str, watcher: Annotated[JobWatcher, Depends(us.watcher)]):
        return (await watcher.wait(job_id)).job_id

    @app.get("/eu/{job_id}")
    async def in_eu(request: Request, job_id: str):
        return (await eu.wait(request, job_id)).job_id

    ade.submit(JobPlan(), job_id="job")
    async with server_apps.run_uvicorn(app) as server:
        assert app.state.us.client is not app.state.eu.client
        other_ade.faults.add("unauthorized")
        assert (await get(f"{server.url}/us/ready"))[0] == 200
        assert (await get(f"{server.url}/eu/ready"))[0] == 503
        other_ade.faults.clear()
        assert await get(f"{server.url}/us/job") == (200, "job")
        assert (await get(f"{server.url}/eu/job"))[0] == 404  # no snapshot was shared
    assert ade.truth.requests.unauthorized == 0


def test_an_application_without_the_lifespan_gets_an_error_that_says_what_to_do():
    app = FastAPI()
    app.get("/ready")(ready)
    with pytest.raises(RuntimeError, match="adepoll_lifespan"):
        client_of(app).get("/ready")


def client_of(app):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Starlette warns about the HTTP client of its test client
        from fastapi.testclient import TestClient  # noqa: PLC0415 - the import warns

        return TestClient(app)


def test_the_test_client_can_use_it_from_another_thread(ade):
    app = server_apps.fastapi_app(**server_apps.options_for(ade))
    with client_of(app) as client:
        assert client.get("/ready").status_code == 200
        assert client.get(f"/wait/{ade.submit(JobPlan())}").json() == {"status": "completed"}
        assert client.get(f"/result/{ade.submit(JobPlan())}").json()["extraction"] is not None
        events = client.get("/events", params={"id": ade.submit(JobPlan())})
        assert "event: end" in events.text


def sockets_app(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))
    add_problem_details(app)

    @app.websocket("/{job_id}")
    async def wait_for_job(socket: WebSocket, job_id: str, watcher: Watcher):
        await socket.accept()
        job = await watcher.wait(job_id)
        await socket.send_json({"status": job.status.value})
        await socket.close()

    return app


async def test_websockets_have_the_same_dependencies(ade):
    async with (
        server_apps.run_uvicorn(sockets_app(ade)) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}/{ade.submit(JobPlan())}") as socket,
    ):
        assert await socket.receive_json() == {"status": "completed"}


@pytest.mark.parametrize(("stops", "code"), [(False, 1008), (True, 1013)])
async def test_an_error_closes_a_websocket_with_its_name(ade, stops, code):
    job_id = ade.submit(ENDLESS) if stops else "none"
    async with (
        server_apps.run_uvicorn(sockets_app(ade)) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}/{job_id}") as socket,
    ):
        if stops:
            await until(lambda: server.watcher.stats.subscribers)
            await server.watcher.aclose()
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)
        assert message.extra == ("ClosedError" if stops else "JobNotFoundError")


async def test_an_error_of_the_service_closes_a_websocket_with_1011(ade):
    ade.faults.add("unauthorized")
    async with (
        server_apps.run_uvicorn(sockets_app(ade)) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}/job") as socket,
    ):
        message = await socket.receive()
        assert (message.data, message.extra) == (1011, "AuthenticationError")


async def test_a_websocket_that_disconnects_ends_only_its_own_wait(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))
    codes = []

    @app.websocket("/{job_id}")
    async def wait_for_job(socket: WebSocket, job_id: str):
        await socket.accept()
        try:
            job = await wait(socket, job_id)
        except WebSocketDisconnect as error:
            with pytest.raises(WebSocketDisconnect) as again:
                await wait(socket, job_id)  # a further wait does not begin
            codes.extend([error.code, again.value.code])
        else:
            await socket.send_json({"status": job.status.value})

    async with server_apps.run_uvicorn(app) as server, aiohttp.ClientSession() as http:
        job_id = ade.submit(ENDLESS)
        leaving, remaining = [await http.ws_connect(f"{server.url}/{job_id}") for _ in range(2)]
        await leaving.send_str("a message during the wait")
        await until(lambda: server.watcher.stats.subscribers == 2)
        await leaving.close()
        await until(lambda: codes)
        assert codes == [1006, 1006]  # closed without a message
        assert server.watcher.stats.subscribers == 1
        end_now(ade.world, job_id)
        assert await remaining.receive_json() == {"status": "completed"}
        await remaining.close()


async def test_an_error_after_a_websocket_disconnected_is_not_logged(ade, caplog):
    async with server_apps.run_uvicorn(sockets_app(ade)) as server, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{server.url}/{ade.submit(ENDLESS)}"):
            await until(lambda: server.watcher.stats.subscribers)
        await server.watcher.aclose()
        await server.stop()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_headers_and_background_task_of_a_result_response_are_used(ade):
    done = []
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))

    @app.get("/{job_id}")
    async def result(request: Request, job_id: str):
        response = send_result(request, job_id)
        response.headers["X-Mine"] = "yes"
        response.headers["Cache-Control"] = "no-store"
        response.set_cookie("a", "b")
        response.set_cookie("c", "d")
        response.background = BackgroundTask(done.append, job_id)
        return response

    async with (
        server_apps.run_uvicorn(app) as server,
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/{ade.submit(JobPlan())}") as response,
    ):
        assert response.headers["X-Mine"] == "yes"
        assert response.headers.getall("Cache-Control") == ["no-store"]
        assert {name: morsel.value for name, morsel in response.cookies.items()} == {
            "a": "b",
            "c": "d",
        }
        assert (await response.json())["metadata"]
    assert len(done) == 1


async def test_the_background_task_of_events_runs_after_the_last_one(ade):
    done = []
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))

    @app.get("/{job_id}")
    async def follow(request: Request, job_id: str):
        response = events(request, [job_id])
        response.background = BackgroundTask(done.append, job_id)
        return response

    job_id = ade.submit(JobPlan())
    async with (
        server_apps.run_uvicorn(app) as server,
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/{job_id}") as response,
    ):
        assert "event: end" in await response.text()
        await until(lambda: done)
    assert done == [job_id]


async def test_a_request_of_a_client_that_has_disconnected_has_the_status_of_nginx():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnectedError) as caught:
        async with cancel_on_disconnect(receive):
            await asyncio.Event().wait()
    assert caught.value.status_code == 499


async def test_a_disconnect_is_noticed_behind_a_middleware(ade):
    app = server_apps.fastapi_app(**server_apps.options_for(ade))

    @app.middleware("http")
    async def wrap(request, call_next):
        return await call_next(request)

    async with server_apps.run_uvicorn(app) as server:
        for path in ("wait/{}", "events?id={}&heartbeat=3600"):
            url = f"{server.url}/{path.format(ade.submit(ENDLESS))}"
            async with aiohttp.ClientSession() as http:
                requesting = asyncio.create_task(http.get(url))
                await until(lambda: server.watcher.stats.subscribers)
                if path.startswith("events"):
                    (await requesting).close()
                requesting.cancel()
                await until(lambda: not server.watcher.stats.subscribers)


async def test_wait_works_after_the_body_was_read(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))

    @app.post("/wait")
    async def waiting(request: Request, body: dict[str, str]):
        job = await wait(request, body["job_id"])
        return job.status.value

    body = {"job_id": ade.submit(JobPlan(processing_time=0.2))}
    async with (
        server_apps.run_uvicorn(app) as server,
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/wait", json=body) as response,
    ):
        assert await response.json() == "completed"
