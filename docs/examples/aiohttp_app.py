"""Batches of jobs in an aiohttp server: start a batch, follow its progress, download the results.

In one terminal, start an emulator of the service, which prints `export` commands:

    adepoll emulate

In another terminal, run those commands, and then:

    python docs/examples/aiohttp_app.py

Then open http://127.0.0.1:8000. The environment variable PORT changes the port. If WEBHOOK_SECRET
is set, there is a route for webhooks.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
from aiohttp import web

from adepoll import Adaptive, AdeClient, JobKind, JobRef, JobWatcher, WebhookVerifier
from adepoll.contrib.aiohttp import (
    events,
    live,
    problem_details_middleware,
    ready,
    send_result,
    send_status,
    setup,
    webhook,
)

SUBMITTING = web.AppKey("SUBMITTING", aiohttp.ClientSession)
PAGE = Path(__file__).with_name("page.html")
SCHEMA = json.dumps({"type": "object", "properties": {"total": {"type": "string"}}})
PATHS = {"v1-extract": "/v1/ade/extract/jobs", "v1-parse": "/v1/ade/parse/jobs"}
UNKNOWN_KIND = f"kind must be one of {', '.join(PATHS)}"
MAX_JOBS = 200  # a URL contains their ids, and many servers and proxies accept 8 kB

log = logging.getLogger(__name__)
routes = web.RouteTableDef()


def watcher(client: AdeClient) -> JobWatcher:
    """Create a watcher that polls often, because people want to see jobs start as well."""
    return JobWatcher(client, schedule=Adaptive(target_lag=1.0, maximum=3.0))


async def submitting(app: web.Application) -> AsyncGenerator[None, None]:
    """Keep an HTTP session for submissions open while the server runs."""
    async with aiohttp.ClientSession(
        os.environ["LANDINGAI_ADE_BASE_URL"],
        headers={"Authorization": f"Bearer {os.environ['VISION_AGENT_API_KEY']}"},
        connector=aiohttp.TCPConnector(limit=8),
        raise_for_status=True,
    ) as session:
        app[SUBMITTING] = session
        yield


async def submit(session: aiohttp.ClientSession, kind: str, number: int) -> str | None:
    """Submit a document; return the job's id, or None if the submission failed.

    adepoll submits no jobs. A real app does this with the official SDK:
    ``AsyncLandingAIADE().extract_jobs.create(schema=..., markdown=...)``.
    """
    text = f"# Invoice {number}\n\nTotal: {number}.00"
    form = aiohttp.FormData(default_to_multipart=True)
    if kind == "v1-parse":
        form.add_field("document", text.encode(), filename=f"{number}.md")
    else:
        form.add_field("schema", SCHEMA)
        form.add_field("markdown", text)
    try:
        async with session.post(PATHS[kind], data=form) as response:
            return str((await response.json())["job_id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("document %d could not be submitted: %s", number, type(error).__name__)
        return None


def named_kind(request: web.Request) -> JobKind | None:
    """Return the kind of jobs that ``?kind=v1-parse`` names."""
    if (name := request.query.get("kind")) is None:
        return None
    if name not in PATHS:
        raise web.HTTPUnprocessableEntity(text=UNKNOWN_KIND)
    return JobKind.named(name)


def job_ref(request: web.Request) -> JobRef:
    """Return the job of a route."""
    return JobRef(request.match_info["job_id"], kind=named_kind(request))


@routes.get("/")
async def page(_request: web.Request) -> web.FileResponse:
    """Return the page, which uses only the routes below."""
    return web.FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


@routes.post("/jobs")
async def start(request: web.Request) -> web.Response:
    """Start a batch: ``{"count": 24, "kind": "v1-parse"}``.

    The page needs only the kind and the ids of its jobs afterwards.
    """
    if request.content_type != "application/json":  # a form of another site cannot send it
        raise web.HTTPUnsupportedMediaType
    try:
        body = await request.json()
        count, kind = int(body["count"]), body.get("kind", "v1-extract")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        count, kind = 0, "v1-extract"
    if not 1 <= count <= MAX_JOBS:
        raise web.HTTPUnprocessableEntity(text=f"count must be a number from 1 to {MAX_JOBS}")
    if not isinstance(kind, str) or kind not in PATHS:
        raise web.HTTPUnprocessableEntity(text=UNKNOWN_KIND)
    session = request.app[SUBMITTING]
    answers = await asyncio.gather(*(submit(session, kind, n) for n in range(1, count + 1)))
    job_ids = [job_id for job_id in answers if job_id is not None]
    return web.json_response({"job_ids": job_ids}, status=202 if job_ids else 502)


@routes.get("/events")
async def subscribe(request: web.Request) -> web.StreamResponse:
    """Send the status of the jobs ``?ids=one,two`` as server-sent events."""
    job_ids = request.query.get("ids", "").split(",")
    if len(job_ids) > MAX_JOBS:
        raise web.HTTPUnprocessableEntity(text=f"at most {MAX_JOBS} ids")
    kind = named_kind(request)
    return await events(request, [JobRef(job_id, kind=kind) for job_id in job_ids])


@routes.get("/jobs/{job_id}")
async def job(request: web.Request) -> web.Response:
    """Return the status of a job when it has settled, or after 20 seconds."""
    return await send_status(request, job_ref(request), timeout=20)


@routes.get("/jobs/{job_id}/result")
async def result(request: web.Request) -> web.StreamResponse:
    """Send a result, whole or a range of it."""
    return await send_result(request, job_ref(request))


def make_app() -> web.Application:
    """Create the application."""
    app = web.Application(middlewares=[problem_details_middleware])
    setup(app, watcher=watcher)
    app.cleanup_ctx.append(submitting)
    app.add_routes(routes)
    app.router.add_get("/ready", ready)
    app.router.add_get("/live", live)
    if secret := os.environ.get("WEBHOOK_SECRET"):
        app.router.add_post("/webhook", webhook(WebhookVerifier(secret)))
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
