"""A kind of jobs with other paths, parameters and payloads is one object, passed to the client."""

import asyncio
from datetime import datetime

from aiohttp import web
from aiohttp.test_utils import TestServer

from adepoll import AdeClient, Fixed, JobPage, JobSnapshot, JobStatus, JobSummary, JobWatcher
from adepoll.api.job_kind import JobKind
from adepoll.api.json_text import loads
from adepoll.api.kinds.kind_rules import KindRules

STATUSES = {"running": JobStatus.PROCESSING, "done": JobStatus.COMPLETED}


def envelope(raw):
    status, started = STATUSES[raw["state"]], datetime.fromisoformat(raw["started"])
    shared = {"job_id": raw["id"], "status": status, "status_text": raw["state"]}
    return {**shared, "received_at": started, "progress": raw["percent"] / 100}


TASKS = KindRules(
    kind=JobKind("toy-task"),
    path="/toy/tasks",
    success=frozenset({203}),
    list_query=lambda page, size, _status: {"offset": page * size, "limit": size},
    decode_job=lambda body, _: JobSnapshot(**envelope(loads(body)), data=loads(body).get("answer")),
    decode_page=lambda body: JobPage(jobs=tuple(JobSummary(**envelope(r)) for r in loads(body))),
    decode_result=loads,
)


OF_TASKS = {"kind": TASKS.kind, "kinds": [TASKS]}


async def test_jobs_of_another_kind_are_listed_and_watched_to_their_end():
    ends = {f"t-{n}": asyncio.get_running_loop().time() + n / 20 for n in (1, 2)}

    def state(job_id):
        raw = {"id": job_id, "state": "running", "percent": 50, "started": "2026-07-01T12:00:00Z"}
        done = asyncio.get_running_loop().time() >= ends[job_id]
        return {**raw, "state": "done", "percent": 100, "answer": f"of {job_id}"} if done else raw

    async def get(request):
        return web.json_response(state(request.match_info["id"]), status=203)

    async def list_tasks(request):
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        return web.json_response([state(job_id) for job_id in [*ends][offset : offset + limit]])

    app = web.Application()
    app.add_routes([web.get("/toy/tasks/{id}", get), web.get("/toy/tasks", list_tasks)])
    async with (
        TestServer(app) as server,
        AdeClient("key", base_url=str(server.make_url("/")), **OF_TASKS) as client,
        JobWatcher(client, schedule=Fixed(interval=0.01)) as watcher,
    ):
        listed = [job.job_id async for job in client.iter_jobs()]
        found = {job.job_id: job.data async for job in watcher.watch(listed)}
    assert found == {"t-1": "of t-1", "t-2": "of t-2"}
