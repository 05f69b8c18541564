"""What is FastAPI's own: lifespans, dependencies, websockets, mounted applications, tenants."""

import asyncio
import warnings
from contextlib import asynccontextmanager
from typing import Annotated

import aiohttp
import houses
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket, WebSocketDisconnect
from houses import get
from starlette.background import BackgroundTask

from adepoll import AdeClient, JobWatcher, ResultFetcher
from adepoll.contrib.fastapi import (
    Client,
    Fetcher,
    Tenant,
    Watcher,
    adepoll_lifespan,
    handle_problems,
    ready,
    running,
    send_result,
    wait,
)
from adepoll.emulator import JobPlan

ENDLESS = JobPlan(processing_time=float("inf"))


def what_is_injected(app):
    @app.get("/kinds")
    async def kinds(client: Client, watcher: Watcher, fetcher: Fetcher):
        return [
            isinstance(client, AdeClient),
            isinstance(watcher, JobWatcher),
            isinstance(fetcher, ResultFetcher),
        ]


async def test_dependencies_give_client_watcher_and_fetcher(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade)))
    what_is_injected(app)
    async with houses.uvicorn_house(app) as house:
        assert await get(f"{house.url}/kinds") == (200, [True, True, True])
        watcher = house.watcher
    assert watcher.is_closed


async def test_dependencies_do_not_show_in_the_schema(ade):
    app = FastAPI()
    what_is_injected(app)
    operation = app.openapi()["paths"]["/kinds"]["get"]
    assert "parameters" not in operation
    assert "requestBody" not in operation


async def test_a_lifespan_of_ones_own_runs_within_and_keeps_its_state(ade):
    told = []

    @asynccontextmanager
    async def own(app):
        told.append(f"{app.state.adepoll.watcher.is_closed} at start")
        yield {"mine": 42}
        told.append(f"{app.state.adepoll.watcher.is_closed} at end")

    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade), inner=own))

    @app.get("/mine")
    async def mine(request: Request, watcher: Watcher):
        return [request.state.mine, watcher.stats.watched]

    async with houses.uvicorn_house(app) as house:
        assert await get(f"{house.url}/mine") == (200, [42, 0])
    assert told[0] == "False at start"
    assert len(told) == 2


async def test_a_lifespan_of_ones_own_can_be_around_it(ade):
    @asynccontextmanager
    async def own(app):
        async with running(app, **houses.options_for(ade)) as resources:
            await resources.client.list_jobs()
            yield

    app = FastAPI(lifespan=own)
    what_is_injected(app)
    app.get("/ready")(ready)
    async with houses.uvicorn_house(app) as house:
        assert await get(f"{house.url}/kinds") == (200, [True, True, True])
        assert (await get(f"{house.url}/ready"))[0] == 200


async def test_a_mounted_application_has_what_is_around_it(ade):
    app, mounted = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade))), FastAPI()
    what_is_injected(mounted)
    app.mount("/sub", mounted)
    async with houses.uvicorn_house(app) as house:
        assert await get(f"{house.url}/sub/kinds") == (200, [True, True, True])


async def test_tenants_share_nothing(ade, other_ade):
    us, eu = Tenant("us"), Tenant("eu")
    inner = eu.lifespan(**houses.options_for(other_ade))
    app = FastAPI(lifespan=us.lifespan(**houses.options_for(ade), inner=inner))
    handle_problems(app)
    app.get("/us/ready")(us.ready)
    app.get("/eu/ready")(eu.ready)

    @app.get("/us/{job_id}")
    async def in_us(job_id: str, watcher: Annotated[JobWatcher, Depends(us.watcher)]):
        return (await watcher.wait(job_id)).job_id

    @app.get("/eu/{job_id}")
    async def in_eu(request: Request, job_id: str):
        return (await eu.wait(request, job_id)).job_id

    ade.submit(JobPlan(), job_id="job")
    async with houses.uvicorn_house(app) as house:
        assert app.state.us.client is not app.state.eu.client
        other_ade.faults.add("unauthorized")
        assert (await get(f"{house.url}/us/ready"))[0] == 200
        assert (await get(f"{house.url}/eu/ready"))[0] == 503
        other_ade.faults.clear()
        assert await get(f"{house.url}/us/job") == (200, "job")
        assert (await get(f"{house.url}/eu/job"))[0] == 404  # no snapshot was shared
    assert ade.truth.requests.unauthorized == 0


def test_an_application_without_it_says_what_to_do():
    app = FastAPI()
    app.get("/ready")(ready)
    with pytest.raises(RuntimeError, match="adepoll_lifespan"):
        client_of(app).get("/ready")


def client_of(app):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Starlette says of its test client's own HTTP client
        from fastapi.testclient import TestClient  # noqa: PLC0415 - it warns when it is imported

        return TestClient(app)


def test_it_runs_under_the_test_client_in_whatever_thread(ade):
    app = houses.fastapi_app(**houses.options_for(ade))
    with client_of(app) as client:
        assert client.get("/ready").status_code == 200
        assert client.get(f"/wait/{ade.submit(JobPlan())}").json() == {"status": "completed"}
        assert client.get(f"/result/{ade.submit(JobPlan())}").json()["extraction"] is not None
        events = client.get("/events", params={"id": ade.submit(JobPlan())})
        assert "event: end" in events.text


def sockets_app(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade)))
    handle_problems(app)

    @app.websocket("/{job_id}")
    async def told(socket: WebSocket, job_id: str, watcher: Watcher):
        await socket.accept()
        job = await watcher.wait(job_id)
        await socket.send_json({"status": job.status.value})
        await socket.close()

    return app


async def test_websockets_have_the_same_dependencies(ade):
    async with (
        houses.uvicorn_house(sockets_app(ade)) as house,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{house.url}/{ade.submit(JobPlan())}") as socket,
    ):
        assert await socket.receive_json() == {"status": "completed"}


@pytest.mark.parametrize(("stops", "code"), [(False, 1011), (True, 1013)])
async def test_a_problem_closes_a_websocket_with_its_name(ade, stops, code):
    job_id = ade.submit(ENDLESS) if stops else "none"
    async with (
        houses.uvicorn_house(sockets_app(ade)) as house,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{house.url}/{job_id}") as socket,
    ):
        if stops:
            while not house.watcher.stats.subscribers:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            await house.watcher.aclose()
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)
        assert message.extra == ("ClosedError" if stops else "JobNotFoundError")


async def test_a_websocket_that_is_left_ends_its_own_waiting_alone(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade)))
    left = []

    @app.websocket("/{job_id}")
    async def told(socket: WebSocket, job_id: str):
        await socket.accept()
        try:
            job = await wait(socket, job_id)
        except WebSocketDisconnect:
            left.append(socket)
        else:
            await socket.send_json({"status": job.status.value})

    async with houses.uvicorn_house(app) as house, aiohttp.ClientSession() as http:
        job_id = ade.submit(JobPlan(processing_time=1))
        leaving, staying = [await http.ws_connect(f"{house.url}/{job_id}") for _ in range(2)]
        await leaving.send_str("what a client sends meanwhile")
        while house.watcher.stats.subscribers < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        await leaving.close()
        async with asyncio.timeout(5):
            while not left:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert house.watcher.stats.subscribers == 1
        assert await staying.receive_json() == {"status": "completed"}
        await staying.close()


async def test_a_problem_of_a_websocket_that_was_left_is_no_error(ade, caplog):
    async with houses.uvicorn_house(sockets_app(ade)) as house, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{house.url}/{ade.submit(ENDLESS)}"):
            while not house.watcher.stats.subscribers:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await house.watcher.aclose()
        await house.stop()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_was_set_on_the_answer_is_sent_with_the_result(ade):
    done = []
    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade)))

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
        houses.uvicorn_house(app) as house,
        aiohttp.ClientSession() as http,
        http.get(f"{house.url}/{ade.submit(JobPlan())}") as response,
    ):
        assert response.headers["X-Mine"] == "yes"
        assert response.headers.getall("Cache-Control") == ["no-store"]
        assert {name: morsel.value for name, morsel in response.cookies.items()} == {
            "a": "b",
            "c": "d",
        }
        assert (await response.json())["metadata"]
    assert len(done) == 1


async def test_a_middleware_that_wraps_answers_does_not_hide_that_a_client_left(ade):
    app = houses.fastapi_app(**houses.options_for(ade))

    @app.middleware("http")
    async def wrap(request, call_next):
        return await call_next(request)

    async with houses.uvicorn_house(app) as house:
        for path in ("wait/{}", "events?id={}&heartbeat=3600"):
            url = f"{house.url}/{path.format(ade.submit(ENDLESS))}"
            async with aiohttp.ClientSession() as http:
                asking = asyncio.create_task(http.get(url))
                async with asyncio.timeout(5):
                    while not house.watcher.stats.subscribers:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)
                    if path.startswith("events"):
                        (await asking).close()
                    asking.cancel()
                    while house.watcher.stats.subscribers:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)


async def test_waiting_after_the_body_was_read(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**houses.options_for(ade)))

    @app.post("/wait")
    async def waiting(request: Request, body: dict[str, str]):
        job = await wait(request, body["job_id"])
        return job.status.value

    body = {"job_id": ade.submit(JobPlan(processing_time=0.2))}
    async with (
        houses.uvicorn_house(app) as house,
        aiohttp.ClientSession() as http,
        http.post(f"{house.url}/wait", json=body) as response,
    ):
        assert await response.json() == "completed"
