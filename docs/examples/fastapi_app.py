"""Batches of jobs in a FastAPI server: start one, watch it live, take the results.

In one terminal, an emulator of the service, which says what to export:

    adepoll emulate

In another, with those two exports:

    uvicorn --app-dir docs/examples fastapi_app:app --timeout-graceful-shutdown 4

Then open http://127.0.0.1:8000. A variable WEBHOOK_SECRET opens the route for webhooks.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict

import aiohttp
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from adepoll import Adaptive, AdeClient, JobWatcher, WebhookVerifier
from adepoll.contrib.fastapi import (
    adepoll_lifespan,
    events,
    handle_problems,
    ready,
    send_result,
    wait,
    webhook,
)
from adepoll.errors import JobTimeoutError

PAGE = Path(__file__).with_name("page.html")
SCHEMA = json.dumps({"type": "object", "properties": {"total": {"type": "string"}}})
MOST_JOBS = 200  # their ids stand in a URL, of which many servers and proxies take 8 kB

log = logging.getLogger(__name__)


def watcher(client: AdeClient) -> JobWatcher:
    """Make the watcher. People look on, who like to see a job begin, and not its end alone."""
    return JobWatcher(client, schedule=Adaptive(target_lag=1.0, maximum=3.0))


class State(TypedDict):
    """What the server has from its start to its end, besides what adepoll has."""

    submitting: aiohttp.ClientSession


@asynccontextmanager
async def own_lifespan(_app: FastAPI) -> AsyncGenerator[State, None]:
    """Have a session for submitting, as long as the server runs."""
    async with aiohttp.ClientSession(
        os.environ["LANDINGAI_ADE_BASE_URL"],
        headers={"Authorization": f"Bearer {os.environ['VISION_AGENT_API_KEY']}"},
        connector=aiohttp.TCPConnector(limit=8),
        raise_for_status=True,
    ) as session:
        yield {"submitting": session}


def submitting(request: Request) -> aiohttp.ClientSession:
    """A dependency: the session for submitting."""
    session: aiohttp.ClientSession = request.state.submitting
    return session


async def submit(session: aiohttp.ClientSession, number: int) -> str | None:
    """Submit a document and give its job's id, or None where it was not taken.

    adepoll watches jobs and submits none: a real app has the official SDK do this, with
    ``AsyncLandingAIADE().extract_jobs.create(schema=..., markdown=...)``.
    """
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("schema", SCHEMA)
    form.add_field("markdown", f"# Invoice {number}\n\nTotal: {number}.00")
    try:
        async with session.post("/v1/ade/extract/jobs", data=form) as response:
            return str((await response.json())["job_id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("document %d was not taken: %s", number, type(error).__name__)
        return None


app = FastAPI(
    title="Batches of jobs", lifespan=adepoll_lifespan(watcher=watcher, inner=own_lifespan)
)
handle_problems(app)
app.get("/ready")(ready)
if secret := os.environ.get("WEBHOOK_SECRET"):
    app.post("/webhook")(webhook(WebhookVerifier(secret)))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Give the page, which asks for nothing but the routes below."""
    return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


@app.post("/jobs", status_code=202)
async def start(
    session: Annotated[aiohttp.ClientSession, Depends(submitting)],
    count: Annotated[int, Body(embed=True, ge=1, le=MOST_JOBS)],
) -> dict[str, list[str]]:
    """Start a batch. The ids of its jobs are all that is needed from then on."""
    answers = await asyncio.gather(*(submit(session, n) for n in range(1, count + 1)))
    if not any(answers):
        raise HTTPException(502, "no document was taken")
    return {"job_ids": [job_id for job_id in answers if job_id is not None]}


@app.get("/events")
async def subscribe(request: Request, ids: str) -> Response:
    """Tell how jobs stand, ``?ids=one,two``, as server-sent events."""
    job_ids = ids.split(",")
    if len(job_ids) > MOST_JOBS:
        raise HTTPException(422, f"no more than {MOST_JOBS} ids")
    return events(request, job_ids)


@app.get("/jobs/{job_id}")
async def job(request: Request, job_id: str) -> Response:
    """Tell how a job has ended; after 20 seconds, that it has not."""
    try:
        ended = await wait(request, job_id, timeout=20)
    except JobTimeoutError as error:
        return JSONResponse({"job_id": job_id, "status": error.last_status}, status_code=202)
    return JSONResponse({"job_id": job_id, "status": ended.status.value})


@app.api_route("/jobs/{job_id}/result", methods=["GET", "HEAD"])
async def result(request: Request, job_id: str) -> Response:
    """Pass a result through to who asks for it, whole or a range."""
    return send_result(request, job_id)
