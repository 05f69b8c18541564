"""Thousands of jobs over real HTTP against a service that shares no code with adepoll.

The service is written from the API's description, not from the emulator. It misbehaves: 2% of the
requests are reset or answered 5xx, results included, and some are answered 429.
"""

import hashlib
import hmac
import json
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from amounts import counts

from adepoll import (
    AdeClient,
    Exponential,
    JobStatus,
    JobWatcher,
    ResultFetcher,
    RetryPolicy,
    UnresolvedJobsError,
)

KEY = "canary-key-5c1a"
SECRET = b"storage secret"


class ForeignService:
    """The API as described, with plain dictionaries and handlers, and without adepoll."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.jobs = {}
        self.storage = ""
        self.requests = Counter()
        self.keys_at_storage = 0
        self.terminal_gets = Counter()

    def add(self, number):
        rng = self.rng
        kind = rng.choices(["plain", "partial", "failed", "cancelled", "large"], [80, 5, 5, 3, 7])[
            0
        ]
        job_id = f"{number:05d}-{rng.randrange(16**8):08x}"
        size = rng.randrange(1_000_001, 3_000_000) if kind == "large" else rng.randrange(10, 3000)
        self.jobs[job_id] = {
            "kind": kind,
            "received": time.time(),
            "ends": time.time() + rng.lognormvariate(0.5, 0.5),
            "size": size,
        }
        return job_id

    def data(self, job_id):
        job = self.jobs[job_id]
        metadata = {
            "filename": "d.md",
            "org_id": None,
            "duration_ms": 3,
            "credit_usage": 0.5,
            "job_id": job_id,
            "version": "extract-x",
            "schema_violation_error": "total: required" if job["kind"] == "partial" else None,
        }
        return {
            "extraction": {"text": "x" * job["size"]},
            "extraction_metadata": {"text": {"references": [job_id]}},
            "metadata": metadata,
        }

    def misbehaves(self, request):
        """Return an error for 2.2% of the requests: a reset, a 5xx or a 429."""
        draw = self.rng.random()
        if draw < 0.01:
            request.transport.abort()
            return web.Response()
        if draw < 0.02:
            return web.Response(status=self.rng.choice([500, 502, 503]), text="<h1>oops</h1>")
        if draw < 0.022:
            return web.Response(status=429, headers={"Retry-After": "0"})
        return None

    async def get(self, request):
        self.requests["get"] += 1
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"detail": "Unauthorized"}, status=401)
        if bad := self.misbehaves(request):
            return bad
        job_id = request.match_info["job_id"]
        if job_id not in self.jobs:
            return web.json_response({"detail": "Not Found"}, status=404)
        job = self.jobs[job_id]
        body = {
            "job_id": job_id,
            "status": "processing",
            "received_at": int(job["received"]),
            "progress": 0.0,
            "new_field": {"of": "tomorrow"},
        }
        status = 200
        if time.time() >= job["ends"]:
            self.terminal_gets[job_id] += 1
            if job["kind"] in {"failed", "cancelled"}:
                body |= {"status": job["kind"], "failure_reason": "because"}
            else:
                body |= {"status": "completed", "progress": 1.0, "version": "extract-x"}
                data = self.data(job_id)
                body["metadata"] = data["metadata"]
                if job["kind"] == "large":
                    path = f"/bucket/{job_id}%2Fresult%20file.json"
                    query = f"X-Amz-Credential=A%2FB&X-Amz-Date={time.time()}&X-Amz-Expires=3600"
                    body["output_url"] = (
                        f"{self.storage}{path}?{query}&X-Amz-Signature={self.sign(path, query)}"
                    )
                else:
                    body["data"] = data
                status = 206 if job["kind"] == "partial" else 200
        return web.json_response(body, status=status)

    def sign(self, path, query):
        return hmac.new(SECRET, f"{path}?{query}".encode(), hashlib.sha256).hexdigest()

    async def result(self, request):
        self.requests["result"] += 1
        self.keys_at_storage += "Authorization" in request.headers or "Cookie" in request.headers
        if bad := self.misbehaves(request):
            return bad
        path, _, query = request.raw_path.partition("?")
        query, _, signature = query.rpartition("&X-Amz-Signature=")
        if not hmac.compare_digest(signature, self.sign(path, query)):
            return web.Response(
                status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>"
            )
        job_id = path.removeprefix("/bucket/").removesuffix("%2Fresult%20file.json")
        body = json.dumps(self.data(job_id)).encode()
        if self.rng.random() < 0.02:  # reset in the middle of the body
            response = web.StreamResponse(headers={"Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            request.transport.abort()
            return response
        return web.Response(body=body, content_type="application/json", headers={"ETag": '"e"'})


@asynccontextmanager
async def serving(service):
    api, storage = web.Application(), web.Application()
    api.router.add_get("/v1/ade/extract/jobs/{job_id}", service.get)
    storage.router.add_get("/bucket/{name:.*}", service.result)
    runners = [web.AppRunner(app, access_log=None, shutdown_timeout=0.1) for app in (api, storage)]
    urls = []
    for runner in runners:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
    service.storage = urls[1]
    try:
        yield urls[0]
    finally:
        for runner in runners:
            await runner.cleanup()


@pytest.mark.parametrize("jobs", counts("ADEPOLL_FOREIGN_JOBS", default=300, most=1500))
async def test_every_job_settles_once_and_large_results_are_complete(tmp_path, jobs):
    service = ForeignService(seed=7)
    async with serving(service) as base_url:
        ids = [service.add(number) for number in range(jobs)]
        settled, hashes = [], {}
        # Short waits for retries and polls, since this test does not check times.
        retry = RetryPolicy(base=0.02, max_wait=0.2)
        async with (
            AdeClient(KEY, base_url=base_url, retry=retry) as client,
            JobWatcher(client, schedule=Exponential(initial=0.3, maximum=1.0)) as watcher,
            ResultFetcher(client, patience=0) as fetcher,
        ):
            unresolved = {}
            try:
                async for job in watcher.watch([*ids, *ids[:50], "unknown/id"]):
                    settled.append(job)
                    if job.output_url is not None:
                        done = await fetcher.download(job, tmp_path / f"{job.job_id}.json")
                        hashes[job.job_id] = done.sha256
            except UnresolvedJobsError as error:
                unresolved = error.causes
            stats = client.stats

    assert list(unresolved) == ["unknown/id"]
    assert sorted(job.job_id for job in settled) == sorted(ids)
    for job in settled:
        kind = service.jobs[job.job_id]["kind"]
        expected = {"failed": JobStatus.FAILED, "cancelled": JobStatus.CANCELLED}
        assert job.status is expected.get(kind, JobStatus.COMPLETED)
        is_completed = job.status is JobStatus.COMPLETED
        assert job.conforms is (kind != "partial" if is_completed else None)
        assert job.schema_violation == ("total: required" if kind == "partial" else None)
        assert (job.data is not None) is (kind in {"plain", "partial"})
        assert job.extra == {"new_field": {"of": "tomorrow"}}
    large = {job_id for job_id, job in service.jobs.items() if job["kind"] == "large"}
    assert hashes == {
        job_id: hashlib.sha256(json.dumps(service.data(job_id)).encode()).hexdigest()
        for job_id in large
    }
    assert len(list(tmp_path.iterdir())) == len(large)
    assert service.keys_at_storage == 0
    assert stats.failures > 0  # the service did misbehave
    # Few polls of settled jobs were wasted.
    assert sum(service.terminal_gets.values()) <= 1.1 * jobs
