"""The same small server in aiohttp and in FastAPI, each served in the loop of the test."""

import asyncio
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Annotated

import aiohttp
import attrs
import uvicorn
from aiohttp import web
from fastapi import APIRouter, FastAPI, Query, Request
from waiting import bounded

from adepoll import AdeClient, Fixed, JobWatcher, WebhookVerifier
from adepoll.contrib import aiohttp as for_aiohttp
from adepoll.contrib import fastapi as for_fastapi
from adepoll.emulator.service import stop_listening
from adepoll.server.sse import as_event

VERIFIER = WebhookVerifier(b"the secret of the webhooks")


@attrs.define
class RunningServer:
    """A running server.

    Attributes:
        url: Its address.
        client: Its `AdeClient`.
        watcher: Its `JobWatcher`.
        fetcher: Its `ResultFetcher`.
        stop: A coroutine function that stops the server as a signal would.
    """

    url: str
    client: object
    watcher: object
    fetcher: object
    stop: object


async def get(url):
    """Return the status and the JSON of an answer."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.json()


def options_for(ade, **options):
    """Return options of `setup` and `adepoll_lifespan` for an emulator."""
    return {
        "client": partial(AdeClient, ade.api_key, base_url=ade.base_url),
        "watcher": partial(JobWatcher, schedule=Fixed(interval=0.05), not_found_grace=0.2),
        **options,
    }


def encoder(padding):
    """Return an `encode` function whose events have `padding` more bytes."""
    return lambda update: as_event(update) | ({"padding": padding * "-"} if padding else {})


def named(job_id, kind):
    """Return the text that names a job of a kind."""
    return job_id if kind is None else f"{kind}/{job_id}"


def aiohttp_app(**options):
    async def wait(request):
        timeout = request.query.get("timeout")
        job = await for_aiohttp.wait(
            request,
            request.match_info["job_id"],
            timeout=None if timeout is None else float(timeout),
        )
        return web.json_response({"status": job.status.value})

    async def wait_for_all(request):
        waits = (for_aiohttp.wait(request, job_id) for job_id in request.query.getall("id"))
        return web.json_response([job.status.value for job in await asyncio.gather(*waits)])

    async def status(request):
        timeout = float(request.query.get("timeout", 20))
        return await for_aiohttp.send_status(
            request, named(request.match_info["job_id"], request.query.get("kind")), timeout=timeout
        )

    async def events(request):
        return await for_aiohttp.events(
            request,
            request.query.getall("id"),
            heartbeat=float(request.query.get("heartbeat", 15)),
            encode=encoder(int(request.query.get("padding", 0))),
        )

    async def result(request):
        job_id = request.match_info["job_id"]
        return await for_aiohttp.send_result(request, job_id, filename=request.query.get("name"))

    app = web.Application(middlewares=[for_aiohttp.problem_details_middleware])
    for_aiohttp.setup(app, **options)
    app.router.add_get("/wait/{job_id}", wait)
    app.router.add_get("/status/{job_id}", status)
    app.router.add_get("/all", wait_for_all)
    app.router.add_get("/events", events)
    app.router.add_get("/result/{job_id}", result)
    app.router.add_get("/{tenant}/result/{job_id}", result)
    app.router.add_get("/ready", for_aiohttp.ready)
    app.router.add_get("/live", for_aiohttp.live)
    app.router.add_post("/hook", for_aiohttp.webhook(VERIFIER))
    return app


@cache
def fastapi_routes():
    """Return the routes, which are made once: FastAPI inspects each function for milliseconds."""
    router = APIRouter()

    @router.get("/wait/{job_id}")
    async def wait(request: Request, job_id: str, timeout: float | None = None):  # noqa: ASYNC109 - a query parameter
        job = await for_fastapi.wait(request, job_id, timeout=timeout)
        return {"status": job.status.value}

    @router.get("/status/{job_id}", **for_fastapi.openapi.STATUS)
    async def status(
        request: Request,
        job_id: str,
        kind: str | None = None,
        timeout: float = 20,  # noqa: ASYNC109 - a query parameter
    ):
        return await for_fastapi.send_status(request, named(job_id, kind), timeout=timeout)

    @router.get("/all")
    async def wait_for_all(request: Request, ids: Annotated[list[str], Query(alias="id")]):
        waits = (for_fastapi.wait(request, job_id) for job_id in ids)
        return [job.status.value for job in await asyncio.gather(*waits)]

    @router.head("/events", include_in_schema=False)
    @router.get("/events", **for_fastapi.openapi.EVENTS)
    async def events(
        request: Request,
        ids: Annotated[list[str], Query(alias="id")],
        heartbeat: float = 15,
        padding: int = 0,
    ):
        return for_fastapi.events(request, ids, heartbeat=heartbeat, encode=encoder(padding))

    @router.head("/result/{job_id}", include_in_schema=False)
    @router.get("/result/{job_id}", **for_fastapi.openapi.RESULT)
    @router.get("/{tenant}/result/{job_id}", include_in_schema=False)
    async def result(request: Request, job_id: str, name: str | None = None):
        return for_fastapi.send_result(request, job_id, filename=name)

    router.get("/ready", **for_fastapi.openapi.READY)(for_fastapi.ready)
    router.get("/live", **for_fastapi.openapi.LIVE)(for_fastapi.live)
    router.post("/hook", **for_fastapi.openapi.WEBHOOK)(for_fastapi.webhook(VERIFIER))
    return router.routes


def fastapi_app(**options):
    app = FastAPI(lifespan=for_fastapi.adepoll_lifespan(**options), routes=fastapi_routes())
    for_fastapi.add_problem_details(app)
    return app


@asynccontextmanager
async def run_aiohttp(app):
    runner = web.AppRunner(app)
    await runner.setup()
    server = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keys = (for_aiohttp.CLIENT, for_aiohttp.WATCHER, for_aiohttp.FETCHER)

    async def stop():
        await stop_listening(server)
        await runner.cleanup()

    try:
        parts = [app.get(key) for key in keys]
        yield RunningServer(f"http://127.0.0.1:{port}", *parts, stop)
    finally:
        await stop()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, which would remain after a failed test."""

    async def serve(self, sockets=None):
        await self._serve(sockets)


@asynccontextmanager
async def run_uvicorn(app):
    # Without a `log_config`, its log records reach pytest's `caplog`.
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", log_config=None)
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve())
    async with bounded("for uvicorn to start"):
        while not server.started:
            await asyncio.sleep(0.01)
            if serving.done():
                serving.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    resources = getattr(app.state, "adepoll", None)

    async def stop():
        if resources is not None:
            resources.stop()  # as `on_stop_signal` does
        for listening in server.servers:
            await stop_listening(listening)
        server.should_exit = True
        async with bounded("for uvicorn to stop"):
            await serving

    try:
        parts = [getattr(resources, name, None) for name in ("client", "watcher", "fetcher")]
        yield RunningServer(f"http://127.0.0.1:{port}", *parts, stop)
    finally:
        await stop()


def run_server(kind, ade, **options):
    """Run the server of this kind, aiohttp or FastAPI, for an emulator."""
    options = options_for(ade, **options)
    if kind == "aiohttp":
        return run_aiohttp(aiohttp_app(**options))
    return run_uvicorn(fastapi_app(**options))
