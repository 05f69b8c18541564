"""Every fault, observed at a raw socket."""

import asyncio
import gzip
import json
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import pytest
from clocks import T0
from yarl import URL

from adepoll.emulator import FAULT_NAMES, KINDS, Emulator, JobPlan
from adepoll.emulator.corruption import DEPTH, DIGITS
from adepoll.emulator.refusals import ABSURD_VALUES
from adepoll.emulator.response_sender import STALL_SECONDS

JOBS = "/v1/ade/extract/jobs"
LARGE = 1_200_000


class Answer:
    """The bytes received from a socket until it was closed."""

    def __init__(self, raw, *, reset):
        self.raw, self.reset = raw, reset
        head, self.blank, self.rest = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split()[1]) if self.blank else None
        self.headers = {
            name.lower(): text for name, _, text in (field.partition(": ") for field in fields)
        }

    @property
    def body(self):
        """The body, without chunk framing."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rest
        rest, parts = self.rest, []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return b"".join(parts)

    @property
    def length(self):
        return int(self.headers["content-length"])

    @property
    def is_complete(self):
        return len(self.rest) == self.length


@pytest.fixture
def slept():
    return []


@pytest.fixture
async def ade(clock, slept):
    async def sleep(seconds):
        slept.append(seconds)
        await asyncio.sleep(0)

    async with Emulator(clock=clock, sleep=sleep, seed=5) as ade:
        yield RawClient(ade)


class RawClient:
    """Sends requests to an emulator over raw sockets."""

    def __init__(self, ade):
        self.ade = ade

    def add(self, name, **options):
        return self.ade.faults.add(name, **options)

    def __getattr__(self, name):
        return getattr(self.ade, name)

    async def request(self, url, *, headers=(), limit=None, method="GET"):
        """Send a request over a new socket; stop after `limit` bytes."""
        url = URL(url, encoded=True)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.authority}", *headers]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        raw, reset = b"", False
        try:
            while (limit is None or len(raw) < limit) and (chunk := await reader.read(65_536)):
                raw += chunk
        except ConnectionResetError:
            reset = True
        finally:
            writer.close()
        return Answer(raw, reset=reset)

    async def get(self, job_id="one", **options):
        return await self.api_get(f"{JOBS}/{job_id}", **options)

    async def api_get(self, path, **options):
        headers = [f"Authorization: Bearer {self.ade.api_key}", *options.pop("headers", ())]
        return await self.request(self.ade.base_url + path, headers=headers, **options)

    async def result_url(self, job_id="large"):
        _, body = self.ade.world.job(job_id)
        return body["output_url"]

    async def result(self, *headers, job_id="large", **options):
        return await self.request(await self.result_url(job_id), headers=headers, **options)


@pytest.fixture
def jobs(ade):
    ade.submit(JobPlan(result_bytes=3_000), job_id="one")
    ade.submit(JobPlan(result_bytes=3_000), job_id="two")
    ade.submit(JobPlan(result_bytes=LARGE), job_id="large")


pytestmark = pytest.mark.usefixtures("jobs")


async def correct_body(ade):
    """Return the answer to a GET of job one without a fault."""
    return ade.world.job_json("one")[1]


async def test_an_answer_without_faults_is_correct(ade):
    answer = await ade.get()
    assert (answer.status, answer.is_complete, answer.reset) == (200, True, False)
    assert answer.body == await correct_body(ade)


@pytest.mark.parametrize("shape", ["constant", "uniform", "exponential", "lognormal"])
async def test_latency_delays_the_answer(ade, slept, shape):
    ade.add("latency", shape=shape, median=0.7)
    assert (await ade.get()).body == await correct_body(ade)
    [delay] = slept
    assert 0 <= delay < 60
    assert (delay == 0.7) == (shape == "constant")


async def test_a_rate_limit_lets_its_burst_through_and_then_one_per_token(ade, clock):
    ade.add("rate-limit", rate=0.5, burst=3)
    answers = [await ade.get() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "2"
    assert json.loads(answers[3].body)["message"]
    clock.now += 2
    assert [(await ade.get()).status for _ in range(2)] == [200, 429]
    assert ade.truth.refused == {429: 3}


async def test_the_truth_counts_requests_before_the_end_of_a_drawn_wait(ade, clock):
    ade.add("rate-limit", rate=10, burst=1, wait_min=20, wait_max=20)
    assert [(await ade.get()).status for _ in range(2)] == [200, 429]
    clock.now += 19
    assert (await ade.get()).status == 200
    assert ade.truth.early == 1
    clock.now += 2
    assert (await ade.get()).status == 200
    assert ade.truth.early == 1


@pytest.mark.parametrize("form", ["absent", "seconds", "date", "absurd"])
async def test_a_429_has_a_retry_after_in_each_form(ade, form):
    ade.add("too-many-requests", retry_after=form, wait=7.2)
    answer = await ade.get()
    header = answer.headers.get("retry-after")
    assert answer.status == 429
    if form == "absent":
        assert header is None
    elif form == "seconds":
        assert header == "8"
    elif form == "date":
        assert 7.2 <= parsedate_to_datetime(header).timestamp() - T0 <= 8.2
    else:
        assert header in ABSURD_VALUES


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("unauthorized", 401),
        ("payment-required", 402),
        ("forbidden", 403),
        ("not-found", 404),
        ("request-timeout", 408),
    ],
)
async def test_a_refusal_has_a_status_and_a_text(ade, name, status):
    ade.add(name)
    answer = await ade.get()
    assert answer.status == status
    key = "error" if status in {401, 403} else "message"  # another layer checks keys
    assert json.loads(answer.body).keys() == {key}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_submission_can_meet_a_conflict(clock, kind):
    keys = {"code", "message"} if kind.startswith("v2") else {"error"}
    async with Emulator(clock=clock, faults=["conflict"]) as ade:
        headers = {"Authorization": f"Bearer {ade.api_key}"}
        async with aiohttp.ClientSession(ade.base_url, headers=headers) as api:
            async with api.post(KINDS[kind].path, data={}) as answer:
                assert answer.status == 409
                assert (await answer.json()).keys() == keys
            async with api.get(KINDS[kind].path) as answer:
                assert answer.status == 200


async def test_a_server_error_has_one_of_four_statuses_and_gateways_answer_in_html(ade):
    ade.add("server-error")
    answers = [await ade.get() for _ in range(30)]
    assert {answer.status for answer in answers} == {500, 502, 503, 504}
    for answer in answers:
        is_html = answer.status in {502, 504}
        assert answer.headers["content-type"].startswith("text/html") == is_html
        assert is_html or json.loads(answer.body)["message"]


async def test_a_server_error_of_the_storage_is_xml(ade):
    ade.add("server-error")
    answers = [await ade.result() for _ in range(20)]
    codes = {answer.status: answer.body for answer in answers}
    assert b"<Code>SlowDown</Code>" in codes[503]
    assert b"<Code>InternalError</Code>" in codes[500]


@pytest.mark.parametrize("name", ["silent", "reset-before-headers"])
async def test_the_client_receives_nothing(ade, slept, name):
    ade.add(name)
    answer = await ade.get()
    assert answer.raw == b""
    assert answer.reset == (name == "reset-before-headers")
    assert slept == ([STALL_SECONDS] if name == "silent" else [])
    assert ade.truth("one").polls == 1


async def test_a_reset_in_the_headers_truncates_them(ade):
    ade.add("reset-in-headers")
    answer = await ade.get()
    assert answer.reset
    assert answer.raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not answer.blank


async def test_a_reset_after_the_headers_sends_no_body(ade):
    ade.add("reset-after-headers")
    answer = await ade.get()
    assert (answer.status, answer.reset, answer.rest) == (200, True, b"")
    assert answer.headers["date"].endswith(" GMT")
    assert answer.length == len(await correct_body(ade))


@pytest.mark.parametrize("name", ["reset-in-body", "truncated", "stalled"])
async def test_a_body_that_breaks_off_is_a_prefix(ade, slept, name):
    ade.add(name)
    answer = await ade.get()
    assert 0 < len(answer.rest) < answer.length
    assert (await correct_body(ade)).startswith(answer.rest)
    assert answer.reset == (name == "reset-in-body")
    assert slept == ([STALL_SECONDS] if name == "stalled" else [])


@pytest.mark.parametrize("name", ["reset-in-body", "truncated", "stalled"])
async def test_a_large_result_can_break_off(ade, name):
    ade.add(name)
    answer = await ade.result()
    assert answer.status == 200
    assert 0 < len(answer.rest) < answer.length == LARGE
    assert ade.world.result("large").read(0, len(answer.rest)) == answer.rest


async def test_a_stalled_answer_ends_when_the_client_disconnects(clock):
    stalled, left = asyncio.Event(), asyncio.Event()

    async def sleep(_seconds):
        stalled.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with Emulator(clock=clock, sleep=sleep, faults=["stalled"]) as ade:
        ade.submit(JobPlan(), job_id="one")
        answer = await RawClient(ade).get(limit=100)
        assert answer.status == 200
        async with asyncio.timeout(60):
            await stalled.wait()
            await left.wait()


async def test_a_request_is_counted_if_the_client_disconnects_during_the_delay(clock):
    late, left = asyncio.Event(), asyncio.Event()

    async def sleep(_seconds):
        late.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with Emulator(clock=clock, sleep=sleep, faults=["latency"]) as ade:
        ade.submit(JobPlan(), job_id="one")
        request = asyncio.create_task(RawClient(ade).get())
        async with asyncio.timeout(60):
            await late.wait()
            request.cancel()
            await left.wait()
        assert ade.truth("one").polls == ade.truth.requests.get == 1


async def test_a_never_ending_body_continues_while_the_client_reads(ade):
    ade.add("never-ending")
    answer = await ade.get(limit=1_000_000)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert len(answer.raw) >= 1_000_000
    assert answer.body.startswith(await correct_body(ade))
    assert answer.body.endswith(b"    ")


async def test_an_overlong_body_is_valid_json_of_the_announced_length(ade):
    ade.add("overlong", extra_bytes=500_000)
    answer = await ade.get()
    assert answer.is_complete
    assert answer.length == 500_000 + len(await correct_body(ade))
    assert json.loads(answer.body) == json.loads(await correct_body(ade))


@pytest.mark.parametrize("by", [-1, -50, 10])
async def test_a_wrong_length_is_announced(ade, by):
    ade.add("wrong-length", by=by)
    for answer in (await ade.get(), await ade.result()):
        assert answer.length == len(answer.rest) + by


async def test_a_slow_body_is_sent_in_small_chunks_with_pauses(ade, slept):
    ade.add("slow-body", rate=10_000)
    answer = await ade.get()
    assert answer.body == await correct_body(ade)
    assert sum(slept) == pytest.approx(answer.length / 10_000)
    assert len(slept) == -(-answer.length // 1_000)


async def test_faults_are_combined(ade, slept):
    ade.add("latency", median=1, sigma=0)
    ade.add("latency", median=2, sigma=0)
    ade.add("nan")
    ade.add("slow-body", rate=100_000)
    ade.add("truncated")
    answer = await ade.get()
    assert slept[0] == 3
    assert len(answer.rest) < answer.length
    assert sum(slept[1:]) == pytest.approx(len(answer.rest) / 100_000)


class TestContent:
    """Wrong bodies with a status of success."""

    async def body(self, ade, name):
        ade.add(name)
        answer = await ade.get()
        assert answer.status == 200
        assert answer.is_complete
        return answer.body

    async def test_html(self, ade):
        ade.add("html")
        answer = await ade.get()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html")
        assert answer.body.startswith(b"<!DOCTYPE html>")

    async def test_invalid_json(self, ade):
        with pytest.raises(json.JSONDecodeError):
            json.loads(await self.body(ade, "invalid-json"))

    async def test_empty_body(self, ade):
        assert await self.body(ade, "empty-body") == b""

    async def test_not_an_object(self, ade):
        assert not isinstance(json.loads(await self.body(ade, "not-an-object")), dict)

    async def test_wrong_job_id(self, ade):
        assert json.loads(await self.body(ade, "wrong-job-id"))["job_id"].startswith("another-")

    async def test_unknown_status(self, ade):
        status = json.loads(await self.body(ade, "unknown-status"))["status"]
        assert status not in {"pending", "processing", "completed", "failed", "cancelled"}

    async def test_missing_status(self, ade):
        assert "status" not in json.loads(await self.body(ade, "missing-status"))

    async def test_backward_status(self, ade):
        raw = json.loads(await self.body(ade, "backward-status"))
        assert (raw["status"], raw["progress"], raw["data"]) == ("processing", 0.0, None)

    async def test_nan(self, ade):
        body = await self.body(ade, "nan")
        with pytest.raises(RuntimeError):
            json.loads(body, parse_constant=self.fail)

    @staticmethod
    def fail(name):
        raise RuntimeError(name)

    async def test_huge_integer(self, ade):
        raw = json.loads(await self.body(ade, "huge-integer"))
        assert len(str(raw["received_at"])) == DIGITS

    async def test_deep_nesting(self, ade):
        body = await self.body(ade, "deep-nesting")
        assert b"[" * DEPTH in body
        with pytest.raises(RecursionError):
            json.loads(body)

    async def test_lone_surrogate(self, ade):
        raw = json.loads(await self.body(ade, "lone-surrogate"))
        with pytest.raises(UnicodeEncodeError):
            raw["org_id"].encode()

    async def test_duplicate_keys(self, ade):
        body = await self.body(ade, "duplicate-keys")
        names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
        assert names.count("status") == 2

    async def test_a_404_is_not_corrupted(self, ade):
        ade.add("html")
        answer = await ade.get("nobody")
        assert answer.status == 404
        assert json.loads(answer.body)["message"]


class TestList:
    @pytest.fixture(autouse=True)
    def _many(self, ade):
        for number in range(40):
            ade.submit(JobPlan(), job_id=str(number), received_at=T0 - 100 + number)

    async def page(self, ade, number=0, size=10):
        answer = await ade.api_get(f"{JOBS}?page={number}&pageSize={size}")
        raw = json.loads(answer.body)
        return [job["job_id"] for job in raw["jobs"]], raw["has_more"]

    async def test_missing_items(self, ade):
        everything, _ = await self.page(ade, size=100)
        ade.add("missing-items")
        some, _ = await self.page(ade, size=100)
        assert 0 < len(some) < len(everything)
        assert some == [job_id for job_id in everything if job_id in set(some)]

    async def test_missing_page(self, ade):
        ade.add("missing-page")
        assert await self.page(ade) == ([], True)

    async def test_shifting_pages(self, ade):
        first, _ = await self.page(ade)
        second, _ = await self.page(ade, 1)
        ade.add("shifting-pages")
        pages = [await self.page(ade, 1) for _ in range(10)]
        assert all(len(jobs) == 10 for jobs, _ in pages)
        assert all(jobs != second for jobs, _ in pages)
        assert any(set(jobs) & set(first) for jobs, _ in pages)

    async def test_endless_list(self, ade):
        ade.add("endless-list")
        assert await self.page(ade, 50) == ([], True)


class TestResults:
    async def test_expired_mid_download(self, ade):
        ade.add("expired-mid-download", times=1)
        url = await ade.result_url()
        answer = await ade.request(url)
        assert answer.reset
        assert 0 < len(answer.rest) < LARGE
        again = await ade.request(url, headers=[f"Range: bytes={len(answer.rest)}-"])
        assert again.status == 403
        assert b"<Message>Request has expired</Message>" in again.body
        ade.world.clock.now += 1
        fresh = await ade.result(f"Range: bytes={len(answer.rest)}-")
        assert answer.rest + fresh.rest == ade.world.result("large").read()

    async def test_changing_etag(self, ade):
        before = await ade.result("Range: bytes=0-99")
        ade.add("changing-etag")
        after = await ade.result("Range: bytes=100-199", f"If-Range: {before.headers['etag']}")
        assert after.status == 200
        assert after.headers["etag"] != before.headers["etag"]
        assert after.rest[:100] != before.rest
        refused = await ade.result(f"If-Match: {after.headers['etag']}")
        assert refused.status == 412
        ade.faults.clear()
        last = await ade.result()
        assert last.rest == ade.world.result("large").read()

    async def test_range_ignored(self, ade):
        ade.add("range-ignored")
        answer = await ade.result("Range: bytes=100-199")
        assert (answer.status, len(answer.rest)) == (200, LARGE)

    async def test_unrequested_gzip(self, ade):
        ade.add("unrequested-gzip")
        answer = await ade.result("Accept-Encoding: identity")
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body) == ade.world.result("large").read()
        assert answer.rest.endswith(b"\r\n0\r\n\r\n")

    @pytest.mark.parametrize("name", ["unrequested-gzip", "never-ending", "overlong"])
    async def test_the_answer_to_head_has_no_body(self, ade, name):
        ade.add(name)
        url = ade.world.presigner.presign(
            origin=ade.results_url, raw_path=ade.world.result_path("large"), now=T0, method="HEAD"
        )
        answer = await ade.request(url, method="HEAD", limit=100_000)
        assert (answer.status, answer.rest) == (200, b"")

    async def test_redirect(self, ade):
        ade.add("redirect", endpoints=["result"], times=1)
        answer = await ade.result()
        target = URL(answer.headers["location"], encoded=True)
        assert answer.status == 307
        assert target.origin() != URL(ade.results_url).origin()
        # The target is the storage, which records the secrets that the client sends.
        assert (await ade.request(target, headers=["Cookie: a=b"])).status == 403
        assert [leak.header for leak in ade.truth.leaks] == ["Cookie"]

    async def test_a_redirect_of_the_api_can_lead_to_any_location(self, ade):
        ade.add("redirect", location="http://elsewhere.invalid/")
        answer = await ade.get()
        assert (answer.status, answer.headers["location"]) == (307, "http://elsewhere.invalid/")


async def test_a_submission_can_fail_after_its_job_was_created(ade):
    ade.add("reset-before-headers", endpoints=["create"])
    reader, writer = await asyncio.open_connection(URL(ade.base_url).host, URL(ade.base_url).port)
    part = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n--x'
    body = "--x\r\n" + "\r\n".join([part.format("schema", "{}"), part.format("markdown", "m")])
    writer.write(
        f"POST {JOBS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ade.api_key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body) + 2}\r\n\r\n"
        f"{body}--".encode()
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert ade.truth.requests.create == 1
    assert len([*ade.truth.jobs()]) == 4


async def test_faults_can_be_added_and_removed_while_the_service_runs(ade):
    fault = ade.add("server-error")
    assert (await ade.get()).status >= 500
    ade.faults.remove(fault)
    assert (await ade.get()).status == 200
    ade.add("html")
    ade.faults.clear()
    assert (await ade.get()).body == await correct_body(ade)
    assert ade.truth.faults == {"server-error": 1}


async def test_a_fault_of_one_job_applies_to_its_result_only(ade):
    ade.submit(JobPlan(result_bytes=LARGE), job_id="other")
    ade.add("range-ignored", jobs=["large"])
    assert (await ade.result("Range: bytes=0-9")).status == 200
    assert (await ade.result("Range: bytes=0-9", job_id="other")).status == 206


async def test_no_fault_applies_to_a_request_without_the_key(ade):
    ade.add("server-error")
    answer = await ade.request(ade.base_url + JOBS)
    assert answer.status == 401
    assert ade.truth.faults == {}


def test_every_fault_is_tested_above():
    text = Path(__file__).read_text("utf-8")
    assert [name for name in FAULT_NAMES if f'"{name}"' not in text] == []
