"""What serves several callers runs in an empty context, and keeps no caller's context alive."""

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest
from watching import watcher_of

from adepoll.api.models import JobPage
from adepoll.errors import JobTimeoutError

REQUEST = ContextVar("request")


class Request:
    """Stands for what a server keeps in a context: a request, a user, a trace."""


def observing(scripted, scripts, seen):
    """Return a source that records the request in whose context each call runs."""

    class Source(scripted):
        async def get_job(self, job_id):
            seen.append(REQUEST.get(None))
            return await super().get_job(job_id)

        async def list_jobs(self, *, page=0, page_size=100, status=None):
            seen.append(REQUEST.get(None))
            return JobPage(jobs=(), has_more=False)

    return Source(scripts)


async def serve(call, alive):
    """Do what a server does with one request: `call` runs in a context of its own."""
    request = Request()
    alive.add(request)
    REQUEST.set(request)
    await call


@pytest.mark.parametrize("discovery", ["get", "list"])
def test_polls_and_sweeps_run_in_the_context_of_no_caller(replay, scripted, discovery):
    async def script():
        seen, alive = [], weakref.WeakSet()
        scripts = {f"job{n}": ["processing"] * 5 + ["completed"] for n in range(20)}
        source = observing(scripted, scripts, seen)
        async with (
            watcher_of(source, discovery=discovery) as watcher,
            asyncio.TaskGroup() as requests,
        ):
            for job_id in scripts:
                requests.create_task(serve(watcher.wait(job_id), alive))
        assert len(seen) > 100
        assert set(seen) == {None}

    replay(script)


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_the_context_of_a_finished_request_is_released(replay, scripted, timeout):
    async def script():
        alive = weakref.WeakSet()
        source = scripted({"slow": ["processing"]})
        async with watcher_of(source) as watcher:
            other = asyncio.create_task(watcher.wait("slow"))
            await asyncio.sleep(0)

            async def watch():
                async with watcher.watch(["quick", "slow"], timeout=timeout) as watch:
                    await anext(watch)

            async def follow():
                async with watcher.status_updates(["slow"]) as updates:
                    await anext(updates)

            for call in (watcher.wait("quick", timeout=timeout), watch(), follow()):
                await asyncio.create_task(serve(call, alive))
            await asyncio.sleep(25)
            gc.collect()
            assert not alive
            other.cancel()
            await asyncio.wait([other])

    replay(script)


def test_a_wait_in_a_timeout_of_the_caller_is_left_by_the_caller(replay, scripted):
    async def script():
        async with watcher_of(scripted({"slow": ["processing"]})) as watcher:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(5):
                    await watcher.wait("slow", timeout=50)
            assert not isinstance(caught.value, JobTimeoutError)

    replay(script)
