"""Server-sent events in virtual time, parsed as a browser parses them."""

import asyncio
import json

import pytest
from attrs import evolve
from watching import watcher_of

from adepoll import JobKind, JobRef
from adepoll.errors import AuthenticationError, JobNotFoundError
from adepoll.server.sse import JobEventStream


class Browser:
    """Parses an event stream (WHATWG HTML, section 9.2.6)."""

    def __init__(self):
        self.events = []  # (name, data)
        self.comments = 0
        self.last_event_id = ""
        self.retry = None

    def feed(self, chunk):
        assert chunk.endswith(b"\n\n"), "every chunk is a whole event"
        name, data = "message", []
        for line in chunk.decode().split("\n")[:-2]:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not field:
                self.comments += 1
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                self.last_event_id = value
            elif field == "retry":
                self.retry = int(value)
            else:
                raise AssertionError(line)
        if data:
            self.events.append((name, json.loads("\n".join(data))))

    async def read(self, events, *, limit=None):
        async with events:
            async for chunk in events:
                self.feed(chunk)
                if limit is not None and len(self.events) >= limit:
                    return
        assert [chunk async for chunk in events] == []

    def statuses(self):
        return [(data["job_id"], data["status"]) for name, data in self.events if name == "job"]


def test_each_change_is_an_event_and_the_last_event_is_the_end(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "processing", "completed"], "b": ["failed"]})
        browser = Browser()
        async with watcher_of(source) as watcher:
            await browser.read(JobEventStream(watcher, ["a", "b"]))
        assert browser.statuses() == [
            ("a", "pending"),
            ("b", "failed"),
            ("a", "processing"),
            ("a", "completed"),
        ]
        jobs = [data for name, data in browser.events if name == "job"]
        assert [data["is_last"] for data in jobs] == [False, True, False, True]
        assert all(("conforms" in data) == data["is_last"] for data in jobs)
        assert browser.events[-1] == ("end", {})
        assert browser.retry == 2000
        assert browser.last_event_id == "cf"

    replay(script)


def test_a_browser_that_connects_again_gets_only_changes_from_any_worker(replay, scripted):
    async def script():
        browser = Browser()
        job_ids = ["a", "b", "c"]
        source = scripted({"a": ["completed"], "b": ["processing"], "c": ["pending"]})
        async with watcher_of(source) as watcher:
            await browser.read(JobEventStream(watcher, job_ids), limit=3)
        assert browser.last_event_id == "crp"
        source = scripted({"b": ["processing", "completed"], "c": ["pending", "failed"]})
        browser.events.clear()
        async with watcher_of(source) as other:
            again = JobEventStream(other, job_ids, last_event_id=browser.last_event_id)
            await browser.read(again)
        assert browser.statuses() == [("b", "completed"), ("c", "failed")]
        assert source.count("a") == 0

    replay(script)


def test_a_browser_that_connects_again_gets_only_changes_however_jobs_are_named(replay, scripted):
    jobs = ["a", JobRef("a", kind=JobKind.V1_PARSE), "v1-parse/b", JobRef("b"), "v1-parse/?", "x/y"]

    async def script():
        browser = Browser()
        source = scripted({"a": ["completed"], "b": ["failed"]})
        source.kind = JobKind.V1_PARSE
        async with watcher_of(source) as watcher:
            await browser.read(JobEventStream(watcher, jobs))
            assert browser.last_event_id == "cf--"  # one letter for each job, not for each name
            polls = source.count()
            browser.events.clear()
            again = JobEventStream(watcher, jobs, last_event_id=browser.last_event_id)
            await browser.read(again)
        assert browser.statuses() == [("?", None), ("x/y", None)]
        assert source.count() == polls

    replay(script)


@pytest.mark.parametrize("last_event_id", ["", "c", "ccc", "zz", "c\n", "\N{GRINNING FACE}c"])
def test_an_event_id_that_does_not_fit_is_ignored(replay, scripted, last_event_id):
    async def script():
        browser = Browser()
        async with watcher_of(scripted()) as watcher:
            await browser.read(JobEventStream(watcher, ["a", "b"], last_event_id=last_event_id))
        assert browser.statuses() == [("a", "completed"), ("b", "completed")]

    replay(script)


def test_without_events_a_comment_is_sent(replay, scripted):
    async def script():
        browser = Browser()
        async with watcher_of(scripted({"a": ["processing"]})) as watcher:
            events = JobEventStream(watcher, ["a"], heartbeat=7)
            reading = asyncio.create_task(browser.read(events))
            await asyncio.sleep(36)
            reading.cancel()
            await asyncio.wait([reading])
        assert browser.comments == 5

    replay(script)


def test_a_job_that_is_given_up_is_an_event_with_the_kind_of_error(replay, scripted):
    async def script():
        browser = Browser()
        source = scripted({"gone": [JobNotFoundError(status=404, job_id="gone")]})
        async with watcher_of(source) as watcher:
            await browser.read(JobEventStream(watcher, ["gone", "in valid"]))
        assert [(data["job_id"], data["error"]) for _, data in browser.events[:-1]] == [
            ("in valid", "InvalidJobIdError"),
            ("gone", "JobNotFoundError"),
        ]
        assert browser.last_event_id == "--"  # sent again to a browser that connects again

    replay(script)


def test_an_error_that_ends_the_watch_is_an_event_without_its_text(replay, scripted):
    async def script():
        browser = Browser()
        refused = AuthenticationError(status=401, detail="canary")
        async with watcher_of(scripted({"a": [refused]})) as watcher:
            await browser.read(JobEventStream(watcher, ["a"]))
        assert browser.events == [("failed", {"error": "AuthenticationError"})]

    replay(script)


def test_a_closed_watcher_ends_the_stream_so_that_browsers_connect_again(replay, scripted):
    async def script():
        browser = Browser()
        async with watcher_of(scripted({"a": ["processing"]})) as watcher:
            reading = asyncio.create_task(browser.read(JobEventStream(watcher, ["a"])))
            await asyncio.sleep(5)
        await reading
        assert [name for name, _ in browser.events] == ["job"]  # neither `end` nor `failed`
        assert watcher.is_closed

    replay(script)


def test_with_too_many_jobs_for_an_id_there_is_no_id(replay, scripted):
    async def script():
        browser = Browser()
        async with watcher_of(scripted({}, latency=0)) as watcher:
            await browser.read(JobEventStream(watcher, (f"job{n}" for n in range(4_001))))
        assert len(browser.statuses()) == 4_001
        assert browser.last_event_id == ""

    replay(script)


def test_closing_the_stream_ends_the_watch(replay, scripted):
    async def script():
        async with watcher_of(scripted({"a": ["processing"]})) as watcher:
            await Browser().read(JobEventStream(watcher, ["a"]), limit=1)
            assert watcher.stats.watched == watcher.stats.subscribers == 0
            left = JobEventStream(watcher, ["a"])
            assert [(await anext(left)).split(b":")[0] for _ in range(2)] == [b"retry", b"id"]
            left.leave()
            await asyncio.sleep(0.1)
            assert watcher.stats.watched == watcher.stats.subscribers == 0
            assert [chunk async for chunk in left] == []

    replay(script)


@pytest.mark.parametrize(
    "reason", ["two\nlines", "\r\n\r\nevent: end\ndata: {}", "\x1b[2J", "\u2028"]
)
def test_text_from_the_service_cannot_end_its_event(replay, scripted, reason):
    async def script():
        browser = Browser()
        failed = evolve(scripted.snapshot("a", "failed"), failure_reason=reason)
        async with watcher_of(scripted({"a": [failed]})) as watcher:
            await browser.read(JobEventStream(watcher, ["a"]))
        [(_, data), end] = browser.events
        assert data["failure_reason"].isprintable()
        assert end == ("end", {})

    replay(script)


def test_an_event_has_the_label_of_its_job(replay, scripted):
    async def script():
        browser = Browser()
        async with watcher_of(scripted()) as watcher:
            jobs = [JobRef("a", label="in\nvoice.pdf"), JobRef("b", label="x" * 600), "c"]
            await browser.read(JobEventStream(watcher, jobs))
        labels = {data["job_id"]: data.get("label") for name, data in browser.events if data}
        assert labels.pop("b").startswith("x" * 200)
        assert labels == {"a": r"in\nvoice.pdf", "c": None}

    replay(script)


@pytest.mark.parametrize("heartbeat", [0, -1, float("nan"), float("inf")])
def test_a_heartbeat_must_be_a_positive_number(replay, scripted, heartbeat):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(ValueError, match="heartbeat"):
                JobEventStream(watcher, ["a"], heartbeat=heartbeat)
            with pytest.raises(TypeError, match="not one id"):
                JobEventStream(watcher, "job-1")

    replay(script)
