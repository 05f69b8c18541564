"""The semaphore is held during each request, for any source."""

import asyncio
import contextlib
from types import SimpleNamespace
from unittest.mock import AsyncMock, MagicMock, create_autospec

import pytest
from scripted import snapshot

from adepoll import JobRef, JobWatcher
from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobPage, JobStatus
from adepoll.api.source import (
    PollingSource,
    clock_of,
    for_kind,
    for_polling,
    is_newest_first,
    kind_of,
    origin_of,
)
from adepoll.emulator import Emulator, JobPlan


class Plain:
    """A source without `for_polling`."""

    def __init__(self, semaphore):
        self.semaphore = semaphore
        self.seen = []
        self.results = {}

    async def get_job(self, job_id):
        self.seen.append((job_id, self.semaphore.locked()))
        if job_id == "bad":
            raise LookupError(job_id)
        return self.results.get(job_id, snapshot(job_id))

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        self.seen.append(((page, page_size, status), self.semaphore.locked()))
        return JobPage(jobs=())


class Waiting(Plain):
    """A source whose calls wait before they hold the semaphore."""

    def for_polling(self, semaphore):
        return View(self, semaphore)


class View:
    def __init__(self, source, semaphore):
        self.source, self.semaphore = source, semaphore

    async def get_job(self, job_id):
        await asyncio.sleep(5)
        self.source.seen.append(("waiting", self.semaphore.locked()))
        async with self.semaphore:
            return await self.source.get_job(job_id)


def test_a_call_to_a_plain_source_holds_the_semaphore(replay):
    async def script():
        semaphore = asyncio.Semaphore(1)
        source = Plain(semaphore)
        assert await for_polling(source, semaphore).get_job("one") == snapshot("one")
        assert not semaphore.locked()
        return source.seen

    assert replay(script) == [("one", True)]


def test_a_list_of_a_plain_source_holds_the_semaphore_and_keeps_its_arguments(replay):
    async def script():
        semaphore = asyncio.Semaphore(1)
        source = Plain(semaphore)
        held = for_polling(source, semaphore)
        await held.list_jobs()
        await held.list_jobs(page=3, page_size=7, status=JobStatus.PENDING)
        assert not semaphore.locked()
        return source.seen

    assert replay(script) == [((0, 100, None), True), ((3, 7, JobStatus.PENDING), True)]


def test_an_error_releases_the_semaphore(replay):
    async def script():
        semaphore = asyncio.Semaphore(1)
        with pytest.raises(LookupError):
            await for_polling(Plain(semaphore), semaphore).get_job("bad")
        assert not semaphore.locked()

    replay(script)


@pytest.mark.parametrize("result", [None, {"job_id": "one"}, MagicMock(job_id="one")])
def test_a_watcher_says_what_a_source_must_return(replay, result):
    async def script():
        source = Plain(asyncio.Semaphore(1))
        source.results["one"] = result
        async with JobWatcher(source, concurrency=source.semaphore) as watcher:
            with pytest.raises(TypeError, match="must return a JobSnapshot, not a"):
                await watcher.wait("one")
            assert not source.semaphore.locked()

    replay(script)


@pytest.mark.parametrize("page", [None, {"jobs": []}])
def test_a_watcher_says_what_a_list_must_return(replay, scripted, page):
    async def script():
        source = scripted({f"job{number}": ["pending"] for number in range(20)})
        source.list_jobs = AsyncMock(return_value=page)
        async with JobWatcher(source) as watcher:
            with pytest.raises(TypeError, match=r"`list_jobs` .* must return a JobPage, not a"):
                await anext(watcher.watch(source.scripts))

    replay(script)


@pytest.mark.parametrize("name", ["get_job", "list_jobs"])
async def test_an_overridden_method_must_return_something(name):
    async def nothing(*_args, **_options):
        """Return None, as a method without `return` does."""

    client_class = type("Forgetful", (AdeClient,), {name: nothing})
    async with client_class("key") as client:
        polling_client = client.for_polling(contextlib.nullcontext())
        with pytest.raises(TypeError, match=rf"`{name}` .* must return a Job.*, not a NoneType"):
            await getattr(polling_client, name)(*["job1"][: name == "get_job"])


def test_a_cancelled_call_releases_the_semaphore(replay, scripted):
    async def script():
        semaphore = asyncio.Semaphore(1)
        call = asyncio.create_task(for_polling(scripted(), semaphore).get_job("one"))
        await asyncio.sleep(0.05)
        assert semaphore.locked()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert not semaphore.locked()

    replay(script)


def test_a_polling_source_decides_itself_when_it_holds_the_semaphore(replay):
    async def script():
        semaphore = asyncio.Semaphore(1)
        source = Waiting(semaphore)
        await for_polling(source, semaphore).get_job("one")
        return source.seen

    assert replay(script) == [("waiting", False), ("one", True)]


def test_the_client_is_a_polling_source():
    assert isinstance(AdeClient("key"), PollingSource)
    assert not isinstance(Plain(None), PollingSource)


def test_what_a_plain_source_does_not_say_has_a_careful_default():
    source = Plain(None)
    assert kind_of(source) is JobKind.V1_EXTRACT
    assert for_kind(source, JobKind.V1_EXTRACT) is source
    assert for_kind(source, JobKind.V1_PARSE) is None
    assert is_newest_first(source) is False
    assert origin_of(source) == ""
    assert clock_of(source) is None
    source.newest_first = True
    assert is_newest_first(source)


def test_a_mock_does_not_answer_for_a_source():
    """An attribute of a mock is another mock, which is true and can be called."""
    source = MagicMock()
    assert kind_of(source) is JobKind.V1_EXTRACT
    assert for_kind(source, JobKind.V1_PARSE) is None
    assert not is_newest_first(source)
    assert origin_of(source) == ""
    assert clock_of(source) is None


class Counting(AdeClient):
    """A client whose methods are overridden, as for logging or a cache."""

    calls = ()

    async def get_job(self, job_id):
        self.calls += (job_id,)
        return await super().get_job(job_id)

    async def list_jobs(self, **options):
        self.calls += ("list",)
        return await super().list_jobs(**options)


async def test_a_watcher_calls_overridden_methods_of_a_client():
    async with Emulator() as ade, Counting(ade.api_key, base_url=ade.base_url) as client:
        job_ids = [ade.submit(JobPlan(processing_time=0.0)) for _ in range(20)]
        async with JobWatcher(client, discovery="list") as watcher:
            assert len([job async for job in watcher.watch(job_ids, timeout=30)]) == 20
        assert {*job_ids, "list"} == {*client.calls}


@pytest.mark.parametrize("kind", [JobKind.V1_EXTRACT, JobKind.V1_PARSE, JobKind.V2_PARSE])
@pytest.mark.parametrize("job_id", ["job1", f"parse-{'0' * 26}"])
async def test_an_overridden_method_gets_a_job_of_the_right_kind(monkeypatch, kind, job_id):
    async with AdeClient("key") as client:
        get_job = AsyncMock(return_value=snapshot(job_id))
        monkeypatch.setattr(client, "get_job", get_job)
        await client.for_kind(kind).for_polling(contextlib.nullcontext()).get_job(job_id)
        (job,) = get_job.await_args.args
        ref = JobRef.of(job)
        assert (ref.job_id, ref.kind_or(client.kind)) == (job_id, kind)


async def test_an_overridden_list_is_told_the_kind_only_if_the_client_has_another_one(monkeypatch):
    """So a `list_jobs` without the argument `kind` can be used for the kind of the client."""
    async with AdeClient("key", kind=JobKind.V1_PARSE) as client:
        list_jobs = AsyncMock()
        monkeypatch.setattr(client, "list_jobs", list_jobs)
        query = {"page": 2, "page_size": 50, "status": JobStatus.PENDING}
        for kind, more in ((JobKind.V1_PARSE, {}), (JobKind.V2_PARSE, {"kind": JobKind.V2_PARSE})):
            await client.for_kind(kind).for_polling(contextlib.nullcontext()).list_jobs(**query)
            list_jobs.assert_awaited_with(**query, **more)


@pytest.mark.parametrize("where", ["class", "object"])
async def test_a_watcher_calls_a_method_that_is_patched_while_it_runs(monkeypatch, where):
    async with AdeClient("key") as client, JobWatcher(client, discovery="get") as watcher:
        get_job = AsyncMock(return_value=snapshot("patched"))
        monkeypatch.setattr(AdeClient if where == "class" else client, "get_job", get_job)
        assert (await watcher.wait("patched", timeout=10)).job_id == "patched"


@pytest.mark.parametrize(
    "client", [AsyncMock(spec=AdeClient), create_autospec(AdeClient, instance=True)]
)
async def test_a_mock_with_the_spec_of_a_client_is_a_source(client):
    client.get_job.side_effect = snapshot
    async with JobWatcher(client) as watcher:
        assert (await watcher.wait("mocked", timeout=10)).job_id == "mocked"
        jobs = {job.job_id async for job in watcher.watch([f"job{n}" for n in range(30)])}
    assert len(jobs) == 30


class WithoutList:
    async def get_job(self, job_id):
        return snapshot(job_id)


@pytest.mark.parametrize(
    ("source", "got"),
    [
        (SimpleNamespace(list_jobs=len), "an object of the class SimpleNamespace"),
        (SimpleNamespace(get_job="x", list_jobs=len), "an object of the class SimpleNamespace"),
        ("job-1", "an object of the class str"),
        (Plain, "the class Plain"),
    ],
)
def test_an_object_that_cannot_be_polled_is_refused_before_any_job_is_watched(source, got):
    with pytest.raises(TypeError, match=f"^the source must be an object .*, not {got}$"):
        JobWatcher(source)


@pytest.mark.parametrize("discovery", ["auto", "list", "get"])
async def test_many_jobs_of_a_source_without_a_list_are_polled(discovery):
    async with JobWatcher(WithoutList(), discovery=discovery) as watcher:
        jobs = [job async for job in watcher.watch([f"job{n}" for n in range(30)])]
        assert not watcher.stats.sweeping
    assert len(jobs) == 30
