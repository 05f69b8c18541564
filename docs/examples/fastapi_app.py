"""Batches of jobs in a FastAPI server: start a batch, follow its progress, download the results.

In one terminal, start an emulator of the service, which prints `export` commands:

    adepoll emulate

In another terminal, run those commands, and then:

    uvicorn --app-dir docs/examples fastapi_app:app --timeout-graceful-shutdown 4

Then open http://127.0.0.1:8000. If the environment variable WEBHOOK_SECRET is set, there is a
route for webhooks.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypedDict

import aiohttp
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse

from adepoll import Adaptive, AdeClient, JobKind, JobRef, JobWatcher, WebhookVerifier
from adepoll.contrib.fastapi import (
    add_problem_details,
    adepoll_lifespan,
    events,
    live,
    openapi,
    ready,
    send_result,
    send_status,
    webhook,
)

PAGE = Path(__file__).with_name("page.html")
SCHEMA = json.dumps({"type": "object", "properties": {"total": {"type": "string"}}})
PATHS = {"v1-extract": "/v1/ade/extract/jobs", "v1-parse": "/v1/ade/parse/jobs"}
MAX_JOBS = 200  # a URL contains their ids, and many servers and proxies accept 8 kB

KindName: TypeAlias = Literal["v1-extract", "v1-parse"]

log = logging.getLogger(__name__)


def watcher(client: AdeClient) -> JobWatcher:
    """Create a watcher that polls often, because people want to see jobs start as well."""
    return JobWatcher(client, schedule=Adaptive(target_lag=1.0, maximum=3.0))


class State(TypedDict):
    """State of the server, besides adepoll's."""

    submitting: aiohttp.ClientSession


def named_kind(kind: KindName | None = None) -> JobKind | None:
    """Return the kind of jobs that ``?kind=v1-parse`` names, as a dependency."""
    return JobKind.named(kind) if kind else None


Kind: TypeAlias = Annotated[JobKind | None, Depends(named_kind)]


@asynccontextmanager
async def own_lifespan(_app: FastAPI) -> AsyncGenerator[State, None]:
    """Keep an HTTP session for submissions open while the server runs."""
    async with aiohttp.ClientSession(
        os.environ["LANDINGAI_ADE_BASE_URL"],
        headers={"Authorization": f"Bearer {os.environ['VISION_AGENT_API_KEY']}"},
        connector=aiohttp.TCPConnector(limit=8),
        raise_for_status=True,
    ) as session:
        yield {"submitting": session}


def submitting(request: Request) -> aiohttp.ClientSession:
    """Return the session for submissions, as a dependency."""
    session: aiohttp.ClientSession = request.state.submitting
    return session


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


app = FastAPI(
    title="Batches of jobs", lifespan=adepoll_lifespan(watcher=watcher, inner=own_lifespan)
)
add_problem_details(app)
app.get("/ready", **openapi.READY)(ready)
app.get("/live", **openapi.LIVE)(live)
if secret := os.environ.get("WEBHOOK_SECRET"):
    app.post("/webhook", **openapi.WEBHOOK)(webhook(WebhookVerifier(secret)))


@app.exception_handler(RequestValidationError)
async def invalid(_request: Request, error: RequestValidationError) -> Response:
    """Respond with 422 like FastAPI, but without the input: FastAPI fails if it contains NaN."""
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page, which uses only the routes below."""
    return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


@app.post("/jobs", status_code=202)
async def start(
    session: Annotated[aiohttp.ClientSession, Depends(submitting)],
    count: Annotated[int, Body(ge=1, le=MAX_JOBS)],
    kind: Annotated[KindName, Body()] = "v1-extract",
) -> dict[str, list[str]]:
    """Start a batch. The page needs only the kind and the ids of its jobs afterwards."""
    answers = await asyncio.gather(*(submit(session, kind, n) for n in range(1, count + 1)))
    if not any(answers):
        raise HTTPException(502, "no document could be submitted")
    return {"job_ids": [job_id for job_id in answers if job_id is not None]}


@app.get("/events", **openapi.EVENTS)
async def subscribe(request: Request, ids: str, kind: Kind) -> Response:
    """Send the status of the jobs ``?ids=one,two`` as server-sent events."""
    job_ids = ids.split(",")
    if len(job_ids) > MAX_JOBS:
        raise HTTPException(422, f"at most {MAX_JOBS} ids")
    return events(request, [JobRef(job_id, kind=kind) for job_id in job_ids])


@app.get("/jobs/{job_id}", **openapi.STATUS)
async def job(request: Request, job_id: str, kind: Kind) -> Response:
    """Return the status of a job when it has settled, or after 20 seconds."""
    return await send_status(request, JobRef(job_id, kind=kind), timeout=20)


@app.head("/jobs/{job_id}/result", include_in_schema=False)
@app.get("/jobs/{job_id}/result", **openapi.RESULT)
async def result(request: Request, job_id: str, kind: Kind) -> Response:
    """Send a result, whole or a range of it."""
    return send_result(request, JobRef(job_id, kind=kind))
