"""The emulator over HTTP: the documented API on one port, presigned results on another."""

import asyncio
import hashlib
import io
import json
import math
import socket
from contextlib import suppress
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from clocks import T0
from ports import free_port
from yarl import URL

from adepoll.emulator import Emulator, JobPlan, Outcome, Profile
from adepoll.emulator.responses import requested_range

JOBS = "/v1/ade/extract/jobs"
LARGE = 3_000_000


@pytest.fixture
async def large(ade, api):
    """The result of a large job, and its URL as the API returns it."""
    job_id = ade.submit(JobPlan(result_bytes=LARGE))
    async with api.get(f"{JOBS}/{job_id}") as answer:
        body = await answer.json()
    return ade.world.result(job_id), URL(body["output_url"], encoded=True)


def form(**fields):
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value)
    return data


class TestCreate:
    async def test_a_created_job_can_be_polled(self, ade, api):
        data = form(schema='{"type": "object"}', markdown="# Invoice", strict="true")
        async with api.post(JOBS, data=data) as answer:
            assert answer.status == 202
            created = await answer.json()
        assert created.keys() == {"job_id"}
        async with api.get(f"{JOBS}/{created['job_id']}") as answer:
            assert answer.status == 200
        assert ade.world.traffic.create == 1

    async def test_a_long_document_is_accepted_and_its_name_is_in_the_metadata(self, clock):
        profile = Profile(failed=0, cancelled=0)
        data = form(schema="{}")
        data.add_field("markdown", io.BytesIO(bytes(3_000_000)), filename="long.md")
        async with Emulator(clock=clock, profile=profile) as ade, aiohttp.ClientSession() as api:
            headers = {"Authorization": f"Bearer {ade.api_key}"}
            async with api.post(ade.base_url + JOBS, data=data, headers=headers) as answer:
                job_id = (await answer.json())["job_id"]
            clock.now = ade.truth(job_id).finished_at
            _, body = ade.world.job(job_id)
        assert body["metadata"]["filename"] == "long.md"

    async def test_a_markdown_url_is_enough(self, api):
        data = form(schema="{}", markdown_url="https://example.com/a.md")
        async with api.post(JOBS, data=data) as answer:
            assert answer.status == 202

    @pytest.mark.parametrize(
        ("fields", "where", "kind"),
        [
            ({"markdown": "x"}, ["body", "schema"], "missing"),
            ({"markdown": "x", "schema": "{"}, ["body", "schema"], "value_error"),
            ({"markdown": "x", "schema": "[]"}, ["body", "schema"], "value_error"),
            ({"markdown": "x", "schema": "[" * 9_999}, ["body", "schema"], "value_error"),
            ({"schema": "{}"}, ["body", "markdown"], "value_error"),
            ({"schema": "{}", "markdown": ""}, ["body", "markdown"], "value_error"),
            (
                {"schema": "{}", "markdown": "x", "strict": "perhaps"},
                ["body", "strict"],
                "bool_parsing",
            ),
        ],
    )
    async def test_a_wrong_form_is_422_and_creates_nothing(self, ade, api, fields, where, kind):
        async with api.post(JOBS, data=form(**fields)) as answer:
            assert answer.status == 422
            [problem] = (await answer.json())["detail"]
        assert problem.keys() == {"loc", "msg", "type"}
        assert (problem["loc"], problem["type"]) == (where, kind)
        assert ade.world.page()["jobs"] == []

    async def test_a_body_that_is_not_a_form_lacks_all_fields(self, api):
        async with api.post(JOBS, json={"schema": "{}"}) as answer:
            assert answer.status == 422
            problems = (await answer.json())["detail"]
        assert [problem["loc"][1] for problem in problems] == ["schema", "markdown"]

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("application/json; charset=unknown", b"{}"),
            ("multipart/form-data", b"no boundary"),
            ("multipart/form-data; boundary=x", b"another boundary"),
            (
                "multipart/form-data; boundary=x",
                b"--x\r\nBad\x17Header: 1\r\n\r\n{}\r\n--x--\r\n",
            ),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="schema"\r\n\r\n\xff\r\n--x--\r\n',
            ),
            (
                "multipart/form-data; boundary=x",
                b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
            ),
        ],
    )
    async def test_a_broken_form_is_422(self, api, content_type, body):
        headers = {"Content-Type": content_type}
        async with api.post(JOBS, data=body, headers=headers) as answer:
            assert answer.status == 422
            assert (await answer.json())["detail"][0]["loc"] == ["body"]


class TestGet:
    @pytest.mark.parametrize(
        ("outcome", "status"), [(Outcome.COMPLETED, 200), (Outcome.PARTIAL, 206)]
    )
    async def test_a_poll_returns_the_answer_of_the_world(self, ade, api, outcome, status):
        job_id = ade.submit(JobPlan(outcome=outcome))
        async with api.get(f"{JOBS}/{job_id}") as answer:
            assert answer.status == status
            assert answer.content_type == "application/json"
            assert (status, await answer.json()) == ade.world.job(job_id)

    async def test_an_unknown_job_is_404_with_a_message(self, api):
        async with api.get(f"{JOBS}/nobody") as answer:
            assert answer.status == 404
            assert (await answer.json())["message"]

    async def test_the_date_header_is_the_time_of_the_world(self, ade, api, clock):
        job_id = ade.submit(JobPlan())
        for clock.now in (T0, T0 + 86_400):
            async with api.get(f"{JOBS}/{job_id}") as answer:
                date = parsedate_to_datetime(answer.headers["Date"])
                assert answer.headers["Date"].endswith(" GMT")
            assert date.timestamp() == math.floor(clock.now)


class TestList:
    async def test_ten_jobs_are_listed_by_default(self, ade, api):
        ids = [ade.submit(JobPlan(), received_at=T0 - 20 + n) for n in range(12)]
        async with api.get(JOBS) as answer:
            body = await answer.json()
        assert [job["job_id"] for job in body["jobs"]] == ids[:1:-1]
        assert body["has_more"] is True
        assert body["org_id"] == ade.world.org_id

    async def test_the_query_selects_page_and_status(self, ade, api):
        for n in range(7):
            ade.submit(JobPlan(processing_time=n % 2), job_id=str(n))
        query = {"page": "1", "pageSize": "2", "status": "completed"}
        async with api.get(JOBS, params=query) as answer:
            body = await answer.json()
        assert [job["job_id"] for job in body["jobs"]] == ["2", "0"]
        assert body["has_more"] is False

    @pytest.mark.parametrize(
        ("query", "name", "kind"),
        [
            ({"page": "-1"}, "page", "greater_than_equal"),
            ({"page": "one"}, "page", "int_parsing"),
            ({"page": ""}, "page", "int_parsing"),
            ({"page": "9" * 5_000}, "page", "int_parsing"),
            ({"pageSize": "0"}, "pageSize", "greater_than_equal"),
            ({"pageSize": "101"}, "pageSize", "less_than_equal"),
            ({"pageSize": "1.5"}, "pageSize", "int_parsing"),
            ({"status": "done"}, "status", "literal_error"),
            ({"status": ""}, "status", "literal_error"),
            ({"status": "unknown"}, "status", "literal_error"),
        ],
    )
    async def test_an_undocumented_query_is_422(self, api, query, name, kind):
        async with api.get(JOBS, params=query) as answer:
            assert answer.status == 422
            [problem] = (await answer.json())["detail"]
        assert problem["loc"] == ["query", name]
        assert problem["type"] == kind
        assert problem["msg"]

    @pytest.mark.parametrize("page", ["1", "99999999999999999999"])
    async def test_a_page_past_the_end_is_empty(self, ade, api, page):
        ade.submit(JobPlan())
        async with api.get(JOBS, params={"page": page}) as answer:
            assert answer.status == 200
            body = await answer.json()
        assert (body["jobs"], body["has_more"]) == ([], False)


class TestKey:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "emulator-key"},
            {"Authorization": "Basic emulator-key"},
        ],
    )
    @pytest.mark.parametrize("path", [JOBS, f"{JOBS}/one", "/_emulator/truth"])
    async def test_every_route_requires_the_key(self, ade, storage, headers, path):
        ade.submit(JobPlan(), job_id="one")
        async with storage.get(ade.base_url + path, headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json()).keys() == {"error"}
        assert ade.world.traffic.unauthorized == 1
        assert ade.truth("one").polls == 0

    async def test_a_submission_requires_the_key(self, ade, storage):
        data = form(schema="{}", markdown="x")
        async with storage.post(ade.base_url + JOBS, data=data) as answer:
            assert answer.status == 401
        assert ade.world.page()["jobs"] == []


class TestResults:
    async def test_a_large_result_is_served_completely_by_another_origin(self, ade, large, storage):
        stored, url = large
        assert str(url).startswith(ade.results_url + "/")
        assert ade.results_url != ade.base_url
        async with storage.get(url) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Length"] == str(LARGE)
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["ETag"] == stored.etag
            body = await answer.read()
        assert hashlib.sha256(body).hexdigest() == stored.sha256()

    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=1000000-1999999", 1_000_000, 2_000_000),
            ("bytes=2999000-", 2_999_000, LARGE),
            ("bytes=-500", LARGE - 500, LARGE),
            ("bytes=2999999-9999999", LARGE - 1, LARGE),
            ("bytes=-9999999", 0, LARGE),
        ],
    )
    async def test_a_range_returns_only_these_bytes(self, large, storage, wanted, start, stop):
        stored, url = large
        async with storage.get(url, headers={"Range": wanted}) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{LARGE}"
            assert answer.headers["Content-Length"] == str(stop - start)
            assert await answer.read() == stored.read(start, stop)

    @pytest.mark.parametrize("wanted", ["bytes=3000000-", "bytes=9999999-99999999", "bytes=-0"])
    async def test_a_range_past_the_end_is_416_with_the_size(self, large, storage, wanted):
        _, url = large
        async with storage.get(url, headers={"Range": wanted}) as answer:
            assert answer.status == 416
            assert answer.headers["Content-Range"] == f"bytes */{LARGE}"
            text = await answer.text()
            assert "<Code>InvalidRange</Code>" in text
            assert f"<RangeRequested>{wanted}</RangeRequested>" in text
            assert f"<ActualObjectSize>{LARGE}</ActualObjectSize>" in text

    async def test_if_match_with_another_tag_is_412(self, large, storage):
        stored, url = large
        async with storage.get(url, headers={"If-Match": '"other"'}) as answer:
            assert answer.status == 412
            assert "<Code>PreconditionFailed</Code>" in await answer.text()
        for tags in (stored.etag, f'"other", {stored.etag}', "*"):
            headers = {"If-Match": tags, "Range": "bytes=0-1"}
            async with storage.get(url, headers=headers) as answer:
                assert answer.status == 206

    async def test_if_range_with_another_tag_returns_everything(self, large, storage):
        stored, url = large
        for tag, status in ((stored.etag, 206), ('"other"', 200)):
            headers = {"If-Range": tag, "Range": "bytes=0-1"}
            async with storage.get(url, headers=headers) as answer:
                assert answer.status == status

    async def test_a_url_expires_after_an_hour_and_a_new_poll_returns_a_new_one(
        self, ade, api, large, storage, clock
    ):
        _, url = large
        clock.now += 3_601
        async with storage.get(url) as answer:
            assert answer.status == 403
            assert answer.content_type == "application/xml"
            text = await answer.text()
        assert "<Code>AccessDenied</Code>" in text
        assert "<Message>Request has expired</Message>" in text
        [job] = ade.world.page()["jobs"]
        async with api.get(f"{JOBS}/{job['job_id']}") as answer:
            fresh = (await answer.json())["output_url"]
        async with storage.get(URL(fresh, encoded=True)) as answer:
            assert answer.status == 200

    async def test_a_client_that_quotes_the_url_again_is_refused(self, large, storage):
        _, url = large
        requoted = URL(str(url))
        assert str(requoted) != str(url)
        async with storage.get(requoted) as answer:
            assert answer.status == 403
            assert "<Code>SignatureDoesNotMatch</Code>" in await answer.text()

    async def test_a_url_without_a_signature_is_denied(self, large, storage):
        _, url = large
        async with storage.get(URL(str(url).partition("?")[0], encoded=True)) as answer:
            assert answer.status == 403
            assert "<Message>Access Denied</Message>" in await answer.text()

    async def test_a_key_sent_to_the_storage_is_refused_and_counted_as_a_leak(
        self, ade, large, storage
    ):
        _, url = large
        headers = {"Authorization": f"Bearer {ade.api_key}"}
        async with storage.get(url, headers=headers) as answer:
            assert answer.status == 400
            text = await answer.text()
        assert "<Code>InvalidArgument</Code>" in text
        assert "Only one auth mechanism allowed" in text
        assert ade.world.traffic.leaks == 1

    async def test_a_cookie_sent_to_the_storage_is_counted_as_a_leak(self, ade, large, storage):
        _, url = large
        async with storage.get(url, headers={"Cookie": "a=b"}) as answer:
            assert answer.status == 200
        assert ade.world.traffic.leaks == 1

    async def test_a_signed_url_of_a_missing_object_is_404(self, ade, storage):
        url = ade.world.presigner.presign(origin=ade.results_url, raw_path="/no/such", now=T0)
        async with storage.get(URL(url, encoded=True)) as answer:
            assert answer.status == 404
            assert "<Code>NoSuchKey</Code>" in await answer.text()

    async def test_head_requires_a_url_signed_for_head_as_in_s3(self, ade, large, storage):
        stored, url = large
        async with storage.head(url) as answer:
            assert answer.status == 403
        signed = ade.world.presigner.presign(
            origin=ade.results_url, raw_path=url.raw_path, now=T0, method="HEAD"
        )
        async with storage.head(URL(signed, encoded=True)) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Length"] == str(LARGE)
            assert answer.headers["ETag"] == stored.etag
            assert await answer.read() == b""

    async def test_a_client_can_disconnect_during_a_download(self, ade, api, storage, caplog):
        job_id = ade.submit(JobPlan(result_bytes=500_000_000))
        async with api.get(f"{JOBS}/{job_id}") as answer:
            url = URL((await answer.json())["output_url"], encoded=True)
        async with storage.get(url) as answer:
            await answer.content.readexactly(100_000)
            answer.close()
        async with storage.get(url, headers={"Range": "bytes=-2"}) as answer:
            assert await answer.read() == b"}}"
        assert not caplog.records

    async def test_the_storage_sends_no_faster_than_the_client_reads(
        self, ade, api, storage, monkeypatch
    ):
        sent = []
        job_id = ade.submit(JobPlan(result_bytes=500_000_000))
        stored = ade.world.result(job_id)
        read = type(stored).read
        monkeypatch.setattr(
            type(stored), "read", lambda *args: sent.append(len(read(*args))) or read(*args)
        )
        async with api.get(f"{JOBS}/{job_id}") as answer:
            url = URL((await answer.json())["output_url"], encoded=True)
        async with storage.get(url) as answer:
            await answer.content.readexactly(1_000)
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert sum(sent) < 50_000_000
            answer.close()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "lines=0-1",
        "bytes=5-4",
        "bytes=0-1,3-4",
        "bytes=0 - 1",
    ],
)
def test_malformed_and_multiple_ranges_are_ignored(header):
    assert requested_range(header, 10) is None


class TestTruth:
    async def test_the_truth_contains_jobs_requests_and_leaks(self, ade, api, large, storage):
        _, url = large
        stuck = ade.submit(JobPlan(processing_time=math.inf, outcome=Outcome.FAILED))
        async with api.get(JOBS):
            pass
        async with storage.get(url, headers={"Cookie": "a=b"}) as answer:
            await answer.read()
        async with api.get("/_emulator/truth", params={"digests": "1"}) as answer:
            truth = json.loads(await answer.text(), parse_constant=pytest.fail)
        done, never = truth["jobs"]
        assert done["result_sha256"] == ade.truth(done["job_id"]).result_sha256
        assert (done["outcome"], done["result_bytes"], done["polls"]) == ("completed", LARGE, 1)
        assert done["received_at"] == done["finished_at"] == T0
        assert (never["job_id"], never["finished_at"]) == (stuck, None)
        assert truth["requests"] == {
            "create": 0,
            "get": 1,
            "list": 1,
            "unauthorized": 0,
            "result": 1,
        }
        assert truth["leaks"] == 1

    async def test_digests_are_omitted_by_default(self, ade, api):
        ade.submit(JobPlan())
        async with api.get("/_emulator/truth") as answer:
            [job] = (await answer.json())["jobs"]
        assert job["result_sha256"] is None


class TestEmulator:
    async def test_there_is_no_url_before_the_start_and_after_the_end(self):
        ade = Emulator()
        with pytest.raises(RuntimeError, match="async with Emulator"):
            _ = ade.base_url
        async with ade:
            assert ade.base_url.startswith("http://127.0.0.1:")
        with pytest.raises(RuntimeError, match="not running"):
            _ = ade.base_url

    async def test_the_end_closes_the_ports_although_clients_are_connected(self, storage):
        async with Emulator() as ade:
            url = URL(ade.base_url)
            async with storage.get(url) as answer:
                assert answer.status == 404
        with pytest.raises(aiohttp.ClientConnectorError):
            await storage.get(url)

    @pytest.mark.parametrize("steps", range(5))
    async def test_a_connection_that_was_accepted_just_before_the_end_is_closed(self, steps):
        """Otherwise Python warns about an unclosed socket, in any later test of a user."""
        async with Emulator() as ade:
            url = URL(ade.base_url)
            sock = socket.create_connection((url.host, url.port))
            for _ in range(steps):
                await asyncio.sleep(0)
        with sock:
            sock.settimeout(60)
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(sock.recv, 1) == b""

    async def test_jobs_are_kept_after_a_restart_on_other_ports(self):
        ade = Emulator()
        async with ade:
            job_id = ade.submit(JobPlan(result_bytes=LARGE))
        async with ade:
            _, body = ade.world.job(job_id)
            assert body["output_url"].startswith(ade.results_url)

    async def test_a_port_in_use_is_an_error_and_no_port_stays_open(self):
        results_port = free_port()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            ade = Emulator(port=port, results_port=results_port)
            with pytest.raises(OSError, match="address already in use"):
                await ade.__aenter__()
            socket.create_server(("127.0.0.1", results_port)).close()

    def test_the_key_is_not_shown(self):
        assert "hush" not in repr(Emulator(api_key="hush"))
