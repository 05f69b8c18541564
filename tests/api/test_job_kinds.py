"""A kind of jobs with other paths, parameters and payloads is one module and one argument."""

import asyncio
import json
from datetime import datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adepoll import AdeClient, Fixed, JobPage, JobSnapshot, JobStatus, JobSummary, JobWatcher
from adepoll.api.json_text import loads
from adepoll.api.kinds.job_kind import JobKind

STATUSES = {"running": JobStatus.PROCESSING, "done": JobStatus.COMPLETED}


def task(cls, raw, **more):
    return cls(
        job_id=raw["id"],
        status=STATUSES[raw["state"]],
        status_text=raw["state"],
        received_at=datetime.fromisoformat(raw["started"]),
        progress=raw["percent"] / 100,
        **more,
    )


TASKS = JobKind(
    name="toy-task",
    path="/toy/tasks",
    success=frozenset({200, 203}),
    list_query=lambda page, size, _status: {"offset": page * size, "limit": size},
    decode_job=lambda body, _status: task(JobSnapshot, loads(body), data=loads(body).get("answer")),
    decode_page=lambda body: JobPage(jobs=tuple(task(JobSummary, raw) for raw in loads(body))),
    decode_result=json.loads,
)


@pytest.fixture
async def toy_service():
    ends = {f"t-{n}": asyncio.get_running_loop().time() + n / 20 for n in (1, 2)}

    def state(job_id):
        done = asyncio.get_running_loop().time() >= ends[job_id]
        percent, name = (100, "done") if done else (50, "running")
        raw = {"id": job_id, "state": name, "percent": percent, "started": "2026-07-01T12:00:00Z"}
        return {**raw, "answer": f"of {job_id}"} if done else raw

    async def get(request):
        return web.json_response(state(request.match_info["id"]), status=203)

    async def list_tasks(request):
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        return web.json_response([state(job_id) for job_id in [*ends][offset : offset + limit]])

    app = web.Application()
    app.add_routes([web.get("/toy/tasks/{id}", get), web.get("/toy/tasks", list_tasks)])
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_jobs_of_another_kind_are_watched_to_their_end(toy_service):
    async with (
        AdeClient("key", base_url=toy_service, kind=TASKS) as client,
        JobWatcher(client, schedule=Fixed(interval=0.01)) as watcher,
    ):
        found = {job.job_id: job.data async for job in watcher.watch(["t-1", "t-2"])}
        listed = [job.job_id async for job in client.iter_jobs()]
    assert found == {"t-1": "of t-1", "t-2": "of t-2"}
    assert listed == ["t-1", "t-2"]
