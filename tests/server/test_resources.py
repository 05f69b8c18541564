"""Client, watcher and fetcher of a server start and end together; tests/contrib tests the rest."""

import asyncio
import gc
import inspect
import json
from functools import partial
from types import SimpleNamespace

import pytest
from ports import free_port
from waiting import until

from adepoll import AdeClient, ClosedError, JobKind, JobRef, JobTimeoutError, JobWatcher
from adepoll.emulator import JobPlan
from adepoll.errors import AnswerTimeoutError, ConnectionFailedError, ServerError
from adepoll.server import health
from adepoll.server.health import Condition
from adepoll.server.options import ResourceOptions
from adepoll.server.resources import ServerResources, create_resources, open_resources

ENDLESS = JobPlan(processing_time=float("inf"))


@pytest.fixture
def client(ade):
    return partial(AdeClient, ade.api_key, base_url=ade.base_url)


async def test_all_resources_are_closed_at_the_end(ade, client):
    async with open_resources(client=client) as resources:
        assert (await resources.health()).condition is Condition.OK
    assert resources.watcher.is_closed
    for call in (resources.client.get_job, resources.fetcher.result):
        with pytest.raises(ClosedError):
            await call("a")


async def test_resources_that_cannot_be_created_leave_nothing_open(client):
    with pytest.raises(ValueError, match="concurrency"):
        create_resources(client=client, watcher=partial(JobWatcher, concurrency=0))
    gc.collect()  # an unclosed session would warn, and warnings are errors
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stop_ends_waits_immediately_and_streams_after_the_grace_time(ade, client):
    async with open_resources(client=client, grace=0.2) as resources:
        waiting = asyncio.create_task(resources.wait(ade.submit(ENDLESS)))
        await until(lambda: resources.watcher.stats.subscribers)

        async def stream():
            async with resources.until_stopped():
                await waits_are_over.wait()  # so that the stream lasts longer than the waits
                await asyncio.Event().wait()

        waits_are_over = asyncio.Event()
        streaming = asyncio.create_task(stream())
        await asyncio.sleep(0)
        resources.stop()
        resources.stop()
        with pytest.raises(ClosedError):
            await waiting
        assert not streaming.done()
        waits_are_over.set()
        with pytest.raises(ClosedError):
            await streaming
        assert (await resources.health()).condition is Condition.CLOSED


async def test_a_timeout_error_of_the_block_itself_is_unchanged(client):
    async with open_resources(client=client) as resources:
        with pytest.raises(TimeoutError):
            async with resources.until_stopped():
                raise TimeoutError


async def test_only_a_probe_ends_an_outage_that_a_probe_has_found(ade, client):
    """A request that is cancelled has neither failed nor succeeded."""
    ade.faults.add("server-error", endpoints=["list"])
    ade.faults.add("stalled", endpoints=["get"])
    async with open_resources(client=client) as resources:
        assert (await resources.health()).condition is Condition.OUTAGE
        request = asyncio.create_task(resources.client.get_job("a"))
        await until(lambda: resources.client.stats.in_flight)
        request.cancel()
        await asyncio.wait([request])
        assert (await resources.health()).condition is Condition.OUTAGE


async def test_a_server_is_ready_while_only_the_other_host_is_down(ade):
    """Nobody else would notice that the v2 host is back, because probes go to the v1 host."""
    dead = f"http://127.0.0.1:{free_port()}"
    client = partial(AdeClient, ade.api_key, base_url=ade.base_url, v2_base_url=dead)
    async with open_resources(client=client, probe_every=0.0) as resources:
        v2_ids = [f"parse-{number:026}" for number in range(1, 11)]
        for job_id in v2_ids:
            with pytest.raises(ConnectionFailedError):
                await resources.wait(job_id, timeout=0.05)
        assert dead in str(resources.client.outage(JobKind.V2_PARSE))
        assert resources.client.outage() is None
        assert (await resources.health()).condition is Condition.OK
        # The job of the other host is known to be active.
        with pytest.raises(JobTimeoutError):
            await resources.wait(ade.submit(ENDLESS), timeout=0.05)


async def test_a_server_whose_key_may_not_list_jobs_is_ready(ade, client):
    ade.faults.add("forbidden", endpoints=["list"])
    async with open_resources(client=client) as resources:
        assert (await resources.health()).condition is Condition.OK


async def test_health_has_the_statistics_of_each_resource(ade, client):
    async with open_resources(client=client) as resources:
        body = (await resources.health()).body
        assert body["client"]["requests"] == 1  # a probe checked the key
        assert body.keys() == {"status", "watcher", "client", "fetcher"}
        assert body["fetcher"]["in_flight"] == 0


def test_the_options_of_adapters_are_those_of_create_resources():
    options = inspect.get_annotations(ResourceOptions)
    assert {
        name: parameter.annotation
        for name, parameter in inspect.signature(create_resources).parameters.items()
    } == options


async def test_an_idle_server_notices_that_its_service_has_died(ade, client, monkeypatch):
    monkeypatch.setattr(health, "_SILENCE", 0.0)
    async with open_resources(client=client, probe_every=0.0) as resources:
        assert (await resources.health()).condition is Condition.OK
        ade.faults.add("server-error")
        assert (await resources.health()).condition is Condition.OUTAGE
        assert (await resources.health()).condition is Condition.OUTAGE
        ade.faults.clear()
        assert (await resources.health()).condition is Condition.OK


async def test_a_server_notices_after_one_failed_request_that_its_service_has_died(ade, client):
    async with open_resources(client=client, probe_every=0.0) as resources:
        assert (await resources.health()).condition is Condition.OK
        ade.faults.add("server-error")
        with pytest.raises(ServerError):
            await resources.client.get_job("a")
        assert (await resources.health()).condition is Condition.OUTAGE


async def test_requests_that_get_no_answer_do_not_hide_that_the_service_is_silent(
    ade, client, monkeypatch
):
    monkeypatch.setattr(health, "_SILENCE", 0.02)
    async with open_resources(client=client, probe_every=0.0) as resources:
        assert (await resources.health()).condition is Condition.OK
        monkeypatch.setattr(health, "_PROBE_TIMEOUT", 0.05)
        ade.faults.add("silent")
        with pytest.raises(AnswerTimeoutError):
            await resources.wait("a", timeout=0.05)
        assert (await resources.health()).condition is Condition.OUTAGE


class Stub:
    """A client, a watcher and a fetcher whose answers a test chooses."""

    kind = JobKind.V1_PARSE
    stats = SimpleNamespace(subscribers=0, in_flight=0)

    def __init__(self, *, outage=None, error=None, **stats):
        self.found, self.error = outage, error
        self.stats = SimpleNamespace(**(vars(self.stats) | stats))
        self.kinds = []

    def outage(self, kind):
        self.kinds.append(kind)
        return self.found

    async def wait(self, _job, *, timeout):  # noqa: ASYNC109 - as in JobWatcher
        assert timeout == 5.0
        raise self.error


def resources_of(stub):
    return ServerResources(stub, stub, stub, owns_client=False, grace=1.0, probe_every=None)


DOWN, FAILED = ServerError(status=500), ServerError(status=502)


@pytest.mark.parametrize(
    ("outage", "last_status", "last_error", "cause"),
    [
        (None, "pending", None, None),
        (None, "pending", FAILED, None),
        (None, None, FAILED, FAILED),
        (None, None, None, AnswerTimeoutError),
        (DOWN, "pending", None, DOWN),
        (DOWN, "pending", FAILED, FAILED),
        (DOWN, None, None, DOWN),
    ],
)
async def test_a_wait_that_times_out_says_why_the_status_is_unknown(
    outage, last_status, last_error, cause
):
    timeout = JobTimeoutError(
        job_id="a", timeout=5.0, last_status=last_status, last_error=last_error
    )
    stub = Stub(outage=outage, error=timeout)
    with pytest.raises((JobTimeoutError, AnswerTimeoutError, ServerError)) as caught:
        await resources_of(stub).wait(JobRef("a", kind=JobKind.V2_PARSE), timeout=5.0)
    if cause is AnswerTimeoutError:
        assert (caught.value.job_id, caught.value.timeout) == ("a", 5.0)
    else:
        assert caught.value is (cause or timeout)
    assert stub.kinds == [JobKind.V2_PARSE]
    with pytest.raises((JobTimeoutError, AnswerTimeoutError, ServerError)):
        await resources_of(stub).wait("a", timeout=5.0)
    assert stub.kinds[1:] == [JobKind.V1_PARSE]


async def test_an_id_without_a_kind_has_the_kind_of_the_watcher():
    client = Stub()
    watcher = Stub(error=JobTimeoutError(job_id="a", timeout=5.0, last_status="pending"))
    watcher.kind = JobKind.V2_PARSE
    resources = ServerResources(
        client, watcher, client, owns_client=False, grace=1.0, probe_every=None
    )
    reply = await resources.wait_and_reply("a", timeout=5.0)
    assert (reply.status, reply.body["kind"]) == (202, "v2-parse")
    assert client.kinds == [JobKind.V2_PARSE]


async def test_resources_are_in_use_by_waits_streams_and_downloads():
    assert not resources_of(Stub()).is_in_use
    assert resources_of(Stub(subscribers=1)).is_in_use
    assert resources_of(Stub(in_flight=1)).is_in_use
    resources = resources_of(Stub())
    async with resources.until_stopped():
        assert resources.is_in_use
    assert not resources.is_in_use


@pytest.mark.parametrize("name", ["grace", "probe_every"])
@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_times_are_not_negative(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number of 0 or more, got {value}"):
        create_resources(**{name: value})


async def test_at_most_16_tasks_continue_in_one_step_of_the_loop():
    resources = resources_of(Stub())
    tasks = [asyncio.create_task(resources.wait_for_step()) for _ in range(20)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in tasks) == 16
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("size", "status"), [(0, 204), (2**20 + 1, 204), (3 * 2**20, 413)])
async def test_a_webhook_may_be_as_large_as_the_caller_allows(ade, client, size, status):
    async def chunks():
        yield b'{"text": "'
        yield b"x" * size
        yield b'", "job_id": "job-1"}'

    seen = []

    class Verifier:
        def verify(self, headers, body, *, now):
            seen.append((headers["a"], json.loads(body)["job_id"], type(body)))

    async with open_resources(client=client) as resources:
        polled = []
        resources.watcher = SimpleNamespace(poll_now=polled.append, aclose=resources.watcher.aclose)
        answered = await resources.receive_webhook(
            Verifier(), headers={"a": "b"}, body=chunks(), max_bytes=2 * 2**20
        )
    assert answered == status
    is_read = status == 204
    assert polled == ["job-1"] * is_read
    assert seen == [("b", "job-1", bytes)] * is_read


def test_a_webhook_that_does_not_end_has_a_time_limit(replay):
    async def endless():
        while True:
            yield b" "
            await asyncio.sleep(1)

    async def script():
        async with open_resources(client=AdeClient("key")) as resources:
            return await resources.receive_webhook(
                None, headers={}, body=endless(), max_bytes=2**20
            ), asyncio.get_running_loop().time()

    assert replay(script) == (408, 60)
