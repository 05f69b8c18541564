"""A server for uvicorn that stores each outcome in PostgreSQL with the recipe of docs/workers.md.

The environment variable ``DATABASE`` is the address of the database. A request waits for a job or
receives its events, so that a signal always finds the server under load.
"""

import asyncio
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from sqlalchemy import update

from adepoll import UnresolvedJob, repeat_query, store_outcomes
from adepoll.contrib import fastapi as ade

WORKERS = Path(__file__).parents[2] / "docs" / "workers.md"


def recipe():
    """Return the names of the recipe for SQLAlchemy, which is executed as it is printed."""
    text = WORKERS.read_text("utf-8")
    (code,) = re.findall(r"```python\n((?:(?!```).)*?create_async_engine.*?)```", text, re.DOTALL)
    code, found, _ = code.partition("\nasync def main():")
    assert found
    code, count = re.subn(r'"sqlite\+aiosqlite:.*?"', repr(os.environ["DATABASE"]), code)
    assert count == 1
    names = {"__name__": "recipe"}
    exec(compile(code, "recipe", "exec"), names)
    return names


RECIPE = recipe()
engine, Job = RECIPE["engine"], RECIPE["Job"]


@asynccontextmanager
async def storing(app):
    """Store outcomes while the server runs."""
    resources = app.state.adepoll

    async def store(job):
        if isinstance(job, UnresolvedJob) and job.error.transient:
            return
        values = await RECIPE["outcome_of"](job, resources.fetcher)
        async with engine.begin() as db:
            await db.execute(update(Job).where(Job.job_id == job.job_id).values(values))

    ids = repeat_query(RECIPE["open_ids"], every=0.2)
    task = asyncio.create_task(store_outcomes(resources.watcher, ids, store))
    yield
    resources.stop()
    await task
    await engine.dispose()


app = FastAPI(lifespan=ade.adepoll_lifespan(inner=storing))
ade.add_problem_details(app)


@app.get("/jobs/{job_id}", **ade.openapi.STATUS)
async def status(request: Request, job_id: str):
    """Wait for a job."""
    return await ade.send_status(request, job_id, timeout=5)


@app.get("/jobs/{job_id}/events", **ade.openapi.EVENTS)
async def events(request: Request, job_id: str):
    """Send events of a job."""
    return ade.events(request, [job_id])
