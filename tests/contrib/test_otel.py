"""Spans as an exporter receives them."""

import asyncio
import inspect
from random import Random

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span
from scripted import snapshot
from stale import StaleRequest

from adepoll import AdeClient, Fixed, JobKind, JobWatcher, ResultFetcher
from adepoll.api.models import JobPage
from adepoll.api.source import (
    PollingSource,
    TimedSource,
    is_newest_first,
    kind_of,
    origin_of,
)
from adepoll.contrib.otel import FetcherOptions, TracedFetcher, TracedSource
from adepoll.emulator import JobPlan
from adepoll.errors import (
    ConfigurationError,
    InvalidJobIdError,
    JobNotFoundError,
    PaymentRequiredError,
    RateLimitedError,
    TargetExistsError,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.pollers import PollTurns

CANARY = "canary-4711"


class Spans:
    """A tracer, and the spans that it exported: `all`, or the only `one`."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("test")

    @property
    def all(self):
        return self._exporter.get_finished_spans()

    @property
    def one(self):
        (span,) = self.all
        return span

    def text(self):
        return "".join(span.to_json() for span in self.all)


@pytest.fixture
def spans():
    return Spans()


def poll(spans, source, job_id="a", **options):
    return asyncio.run(TracedSource(source, spans.tracer, **options).get_job(job_id))


def test_a_poll_is_a_span_with_the_status_and_without_the_job_id(spans, scripted):
    poll(spans, scripted({CANARY: ["processing"]}), CANARY)
    assert spans.one.name == "adepoll.poll"
    assert dict(spans.one.attributes) == {"adepoll.job.status": "processing"}
    assert spans.one.status.status_code is StatusCode.UNSET
    assert CANARY not in spans.text()


def test_a_poll_has_the_job_id_on_request(spans, scripted):
    poll(spans, scripted(), "job-1", with_ids=True)
    assert spans.one.attributes["adepoll.job.id"] == "job-1"


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (
            RateLimitedError(status=429, detail=CANARY, job_id=CANARY, retry_after=1.0),
            {"http.response.status_code": 429, "adepoll.throttled": True},
        ),
        (
            PaymentRequiredError(status=402, detail=CANARY, job_id=CANARY),
            {"http.response.status_code": 402},
        ),
        (InvalidJobIdError(job_id=CANARY, reason=CANARY), {}),
        (LookupError(CANARY), {}),
    ],
)
def test_a_failed_poll_has_the_kind_of_error_and_no_text_from_the_service(
    spans, scripted, error, attributes
):
    with pytest.raises(type(error)):
        poll(spans, scripted({"a": [error]}))
    assert dict(spans.one.attributes) == {"error.type": type(error).__name__, **attributes}
    assert spans.one.status.status_code is StatusCode.ERROR
    assert not spans.one.events
    assert CANARY not in spans.text()


def test_a_cancelled_poll_is_no_error(spans, replay, scripted):
    async def script():
        source = TracedSource(scripted(), spans.tracer)
        polling = asyncio.create_task(source.get_job("a"))
        await asyncio.sleep(0.01)
        polling.cancel()
        await asyncio.wait({polling})
        assert polling.cancelled()

    replay(script)
    assert spans.one.attributes["error.type"] == "CancelledError"
    assert spans.one.status.status_code is StatusCode.UNSET


def test_a_page_of_the_list_is_a_span_and_its_arguments_are_passed_on(spans, scripted):
    class Listing(scripted):
        async def list_jobs(self, *, page=0, page_size=100, status=None):
            self.arguments = (page, page_size, status)
            return JobPage(jobs=(), has_more=True)

    source = Listing()
    asyncio.run(TracedSource(source, spans.tracer).list_jobs(page=3, page_size=7))
    assert source.arguments == (3, 7, None)
    assert spans.one.name == "adepoll.list_page"
    assert dict(spans.one.attributes) == {
        "adepoll.list.page": 3,
        "adepoll.list.job_count": 0,
        "adepoll.list.has_more": True,
    }


def test_a_source_of_one_kind_is_traced_too(spans, scripted):
    source = TracedSource(scripted(), spans.tracer, with_ids=True)
    asyncio.run(source.for_kind(JobKind.V1_EXTRACT).get_job("a"))
    assert spans.one.attributes["adepoll.job.id"] == "a"
    with pytest.raises(ConfigurationError, match="no jobs of the kind v1-parse"):
        source.for_kind(JobKind.V1_PARSE)


def test_a_poll_has_its_own_trace_and_no_baggage_of_a_request(spans, replay, scripted):
    class Recording(scripted):
        async def get_job(self, job_id):
            self.baggage = dict(baggage.get_all())
            return await super().get_job(job_id)

    async def script():
        source = Recording({"a": ["processing", "completed"]})
        traced = TracedSource(source, spans.tracer)
        async with JobWatcher(traced, schedule=Fixed(interval=1)) as watcher:
            with spans.tracer.start_as_current_span("request") as request:
                token = context.attach(baggage.set_baggage("user", CANARY))
                await watcher.wait("a")
                assert baggage.get_baggage("user") == CANARY
                context.detach(token)
        assert source.baggage == {}
        return request

    request = replay(script)
    polls = [span for span in spans.all if span.name == "adepoll.poll"]
    assert [span.parent for span in polls] == [None, None]
    assert len({span.context.trace_id for span in (*polls, request)}) == 3


def test_the_slot_is_held_and_an_event_marks_when_the_request_was_sent(spans, replay, scripted):
    class Recording(scripted):
        async def get_job(self, job_id):
            self.held = slot.locked()
            return await super().get_job(job_id)

    slot = asyncio.Semaphore(1)

    async def script():
        source = Recording()
        view = TracedSource(source, spans.tracer, with_ids=True).for_polling(slot)
        await view.get_job("a")
        assert source.held
        assert not slot.locked()

    replay(script)
    assert [event.name for event in spans.one.events] == ["adepoll.request.sent"]
    assert spans.one.attributes["adepoll.job.id"] == "a"


class SharedTurns:
    """A source whose requests wait for a semaphore, while another request takes their turn."""

    def __init__(self, sender, semaphore=None):
        self.sender = sender
        self.semaphore = semaphore

    def for_polling(self, semaphore):
        return SharedTurns(self.sender, semaphore)

    async def get_job(self, job_id):
        await self.sender.call_once(lambda _: asyncio.sleep(1), semaphore=self.semaphore)
        return snapshot(job_id)


def test_the_event_marks_when_a_request_is_sent_after_it_has_lost_its_turn(spans, replay):
    async def script():
        sender = RequestSender(RateLimiter(max_rate=0.1, rng=Random(0)), rng=Random(0))
        slot = asyncio.Semaphore(1)
        turns = PollTurns(slot, on_turn=list)
        view = TracedSource(SharedTurns(sender), spans.tracer).for_polling(turns)
        async with slot:
            poll = asyncio.create_task(view.get_job("a"))
            turns.waiting[poll] = 0.0
            await asyncio.sleep(1)
            await sender.call_once(lambda _: asyncio.sleep(0))
        await poll
        assert turns.last_wait == 11.0

    replay(script)
    assert [event.name for event in spans.one.events] == ["adepoll.request.sent"]


class StaleConnections(SharedTurns):
    """A source whose requests are sent on a stale connection first."""

    def for_polling(self, semaphore):
        return StaleConnections(self.sender, semaphore)

    async def get_job(self, job_id):
        await self.sender.call_once(StaleRequest(1.0), semaphore=self.semaphore)
        return snapshot(job_id)


def test_a_request_that_is_sent_once_more_waits_again_and_has_two_events(spans, replay):
    async def script():
        sender = RequestSender(RateLimiter(max_rate=0.1, rng=Random(0)), rng=Random(0))
        turns = PollTurns(asyncio.Semaphore(1), on_turn=list)
        view = TracedSource(StaleConnections(sender), spans.tracer).for_polling(turns)
        await view.get_job("a")
        assert turns.last_wait == 9.0

    replay(script)
    assert [event.name for event in spans.one.events] == 2 * ["adepoll.request.sent"]


async def test_a_watcher_can_use_it_like_its_source(ade, spans, scripted):
    async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
        source = TracedSource(client, spans.tracer)
        assert isinstance(source, PollingSource)
        assert isinstance(source, TimedSource)
        assert source.service_time() is None
        job_id = ade.submit(JobPlan(processing_time=0.2))
        async with JobWatcher(source, schedule=Fixed(interval=0.05), discovery="list") as watcher:
            job = await watcher.wait(job_id)
        assert job.job_id == job_id
        assert source.service_time() == pytest.approx(client.service_time(), abs=5)
        polls = [span for span in spans.all if span.name == "adepoll.poll"]
        assert polls[-1].attributes["adepoll.job.status"] == "completed"
        assert (
            client.stats.requests == len(spans.all) > len(polls)
        )  # the others are pages of the list
        assert all(
            [event.name for event in span.events] == ["adepoll.request.sent"] for span in spans.all
        )
        assert ade.api_key not in spans.text()
        assert job_id not in spans.text()
    assert TracedSource(scripted(), spans.tracer).service_time() is None


@pytest.mark.parametrize("kind", [JobKind.V1_PARSE, JobKind.V2_PARSE], ids=str)
def test_a_watcher_learns_from_it_what_it_learns_from_its_source(spans, kind):
    source = AdeClient("emulator-key").for_kind(kind)
    traced = TracedSource(AdeClient("emulator-key"), spans.tracer).for_kind(kind)
    assert kind_of(traced) == kind
    assert is_newest_first(traced) is is_newest_first(source)
    assert origin_of(traced) == origin_of(source) != ""


@pytest.fixture
async def client(ade):
    async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
        yield client


@pytest.fixture
async def fetcher(client, spans):
    async with TracedFetcher(client, spans.tracer) as fetcher:
        yield fetcher


LARGE = JobPlan(processing_time=0, result_bytes=1_500_000)


async def test_a_download_is_a_child_of_the_current_span(ade, client, fetcher, spans, tmp_path):
    job_id = ade.submit(LARGE)
    path = tmp_path / "a.json"
    seen = []
    with spans.tracer.start_as_current_span("request") as request:
        done = await fetcher.download(job_id, path, progress=lambda *state: seen.append(state))
        assert get_current_span() is request
    async with TracedFetcher(client, spans.tracer, with_ids=True, connections=1) as other:
        with pytest.raises(TargetExistsError):
            await other.download(f"v1-extract/{job_id}", path)
        await other.download(job_id, path, overwrite=True)
        await other.result(job_id)
        async with other.stream(await client.get_job(job_id)):
            pass
    first, _, second, third, *others = spans.all
    assert first.name == "adepoll.download"
    assert first.parent == request.get_span_context()
    assert dict(first.attributes) == {
        "adepoll.result.size": done.bytes,
        "adepoll.result.resume_count": 0,
    }
    assert seen[-1] == (done.bytes, done.bytes)
    assert dict(second.attributes) == {"adepoll.job.id": job_id, "error.type": "TargetExistsError"}
    ids = [span.attributes["adepoll.job.id"] for span in (third, *others)]
    assert ids == [job_id] * 3
    assert str(tmp_path) not in spans.text()


async def test_a_stream_is_a_span_that_ends_with_its_block(ade, fetcher, spans):
    job_id = ade.submit(LARGE)
    with spans.tracer.start_as_current_span("request") as request:
        async with fetcher.stream(job_id, start=10, stop=110) as stream:
            assert get_current_span() is request  # the block belongs to the caller
            assert not spans.all
            async for _ in stream:
                pass
    span, _ = spans.all
    assert span.name == "adepoll.stream"
    assert span.parent == request.get_span_context()
    assert dict(span.attributes) == {"adepoll.result.size": 100, "adepoll.result.resume_count": 0}
    assert span.status.status_code is StatusCode.UNSET


async def test_a_stream_that_is_left_early_has_the_bytes_so_far(ade, fetcher, spans):
    got = []

    async def leave_early():
        async with fetcher.stream(ade.submit(LARGE)) as stream:
            got.append(await anext(stream))
            raise ZeroDivisionError(CANARY)

    with pytest.raises(ZeroDivisionError):
        await leave_early()
    assert dict(spans.one.attributes) == {
        "adepoll.result.size": len(got[0]),
        "adepoll.result.resume_count": 0,
        "error.type": "ZeroDivisionError",
    }
    assert spans.one.status.status_code is StatusCode.ERROR
    assert CANARY not in spans.text()


async def test_a_stream_that_cannot_be_opened_has_the_error(fetcher, spans):
    with pytest.raises(JobNotFoundError):
        async with fetcher.stream(CANARY):
            pass
    expected = {"error.type": "JobNotFoundError", "http.response.status_code": 404}
    assert dict(spans.one.attributes) == expected
    assert CANARY not in spans.text()


async def test_results_and_items_are_spans(ade, fetcher, spans):
    job_id = ade.submit(JobPlan(processing_time=0, result_bytes=1_500_000))
    result = await fetcher.result(job_id)
    (rows,) = [name for name, value in result.extraction.items() if isinstance(value, list)]
    async with fetcher.items(job_id, f"extraction.{rows}.item") as items:
        count = sum([1 async for _ in items])
    assert count == len(result.extraction[rows])
    assert [span.name for span in spans.all] == ["adepoll.result", "adepoll.stream"]
    assert spans.all[1].attributes["adepoll.result.size"] > 1_400_000
    assert "X-Amz" not in spans.text()
    assert ade.api_key not in spans.text()


def test_the_traced_fetcher_has_the_options_of_a_fetcher():
    options = inspect.get_annotations(FetcherOptions)
    assert [*options] == [*inspect.signature(ResultFetcher).parameters][1:]
