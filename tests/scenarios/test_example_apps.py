"""The page of the example servers in a real browser: users start batches and follow them.

By default, one batch is followed to its end; `nox -s thorough` tests the rest of the page.
"""

import asyncio
import hashlib
import itertools
import json
import os
import re
import shlex
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import forkserver
import pytest
import pytest_asyncio
from amounts import more
from browser import expect
from clocks import LeapingClock
from contrast import POOR_CONTRAST
from ports import free_port

from adepoll.emulator import JobPlan, Outcome, Profile

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop in which Chromium was started

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SOON = JobPlan(processing_time=0.3)
ENDLESS = JobPlan(processing_time=float("inf"))
QUICK = Profile(
    median=2.5, failed=0.15, cancelled=0.1, partial=0.1, large=0.2,
    large_bytes=(2_000_000, 6_000_000),
)  # fmt: skip
SLOW = Profile(median=1e6)
WIDE = {"width": 1100, "height": 800}
CONTROLS = ("#count", "#count-hint", "#start")
PHONE = {"width": 360, "height": 740}


CLOCK = LeapingClock()


class Server:
    """An example as a process, started with the command in its docstring; it can be restarted."""

    def __init__(self, name):
        text = (EXAMPLES / f"{name}.py").read_text("utf-8")
        first, second = re.findall(r"^    (adepoll|python|uvicorn)( .+)$", text, re.MULTILINE)[:2]
        assert "".join(first) == "adepoll emulate"
        self.command = shlex.split("".join(second))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    async def start(self, *, real=False):
        """Fork the process, or start the command as it is printed."""
        env = {
            **os.environ,
            "PORT": str(self.port),
            "UVICORN_PORT": str(self.port),
            "WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
        }
        streams = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
        if real:
            env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            env["PYTHONPATH"] = str(ROOT)
            start = asyncio.create_subprocess_exec(*self.command, cwd=ROOT, env=env, **streams)
        else:
            program, *arguments = self.command
            module = [] if program == "python" else ["-m", program]
            command = [sys.executable, *module, *arguments]
            start = forkserver.create_subprocess_exec(
                *command, cwd=ROOT, env=env, preload=("fastapi", "uvicorn"), **streams
            )
        self.process = await start
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                assert self.process.returncode is None
                try:
                    async with http.get(f"{self.url}/ready") as response:
                        assert response.status == 200
                        return
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)

    async def stop(self):
        self.process.terminate()
        async with asyncio.timeout(30):
            _, stderr = await self.process.communicate()
        for warning in ("Traceback", "Task was destroyed", "Unclosed", "never retrieved"):
            assert warning not in stderr.decode()

    async def subscribers(self):
        async with aiohttp.ClientSession(self.url) as http, http.get("/ready") as response:
            return (await response.json())["watcher"]["subscribers"]

    async def until_subscribers(self, number):
        async with asyncio.timeout(60):
            while await self.subscribers() != number:  # noqa: ASYNC110 - another process, which sends no notification
                await asyncio.sleep(0.05)

    def page_of(self, job_ids):
        return f"{self.url}/#jobs={','.join(job_ids)}"


@asynccontextmanager
async def running(name):
    server = Server(name)
    await server.start()
    try:
        yield server
        await server.stop()
    finally:
        if server.process.returncode is None:
            server.process.kill()
            await server.process.wait()


def of(*names):
    """Use these servers; `nox -s thorough` also uses the others."""
    others = [name for name in ("aiohttp_app", "fastapi_app") if name not in names]
    return pytest.mark.parametrize("server", more(names, others), indirect=True)


@pytest_asyncio.fixture(loop_scope="session")
async def server(request, ade_env):
    async with running(request.param) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def one_server(ade_env):
    """One of the servers, for tests of the page, which both share."""
    async with running("aiohttp_app") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(new_page):
    """Open pages; at the end, check that they contacted only the server and logged no error."""
    pages = []

    async def open_address(address, *, expected="", **options):
        page = await new_page(**{"viewport": WIDE, **options})
        page.requests, page.messages, page.expected = [], [], expected
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        await page.add_init_script(RECORDING)
        await page.goto(address)
        pages.append((page, "/".join(address.split("/")[:3])))
        return page

    yield open_address
    for page, origin in pages:
        assert [url for url in page.requests if not url.startswith((f"{origin}/", "data:"))] == []
        unexpected = [
            text for text in page.messages if not (page.expected and page.expected in text)
        ]
        assert unexpected == []


def streams(page):
    """Return the requests for events."""
    return [url for url in page.requests if "/events?" in url]


def rows(page):
    return page.locator("#rows > tr")


async def expect_all_ended(page, number):
    have = "has" if number == 1 else "have"
    await expect(page.locator("#link")).to_have_text("All jobs have ended")
    await expect(page.locator("#sum")).to_have_text(f"{number} of {number} {have} ended")


@of("aiohttp_app")
@pytest.mark.ade(seed=4, profile=QUICK)
async def test_a_batch_is_started_and_watched_and_its_results_are_downloaded(
    server, open_page, ade, tmp_path
):
    page = await open_page(f"{server.url}/")
    await expect(page.get_by_role("region", name="Jobs")).to_be_hidden()
    await page.get_by_label("Documents").fill("30")
    await page.keyboard.press("Enter")
    await expect(rows(page)).to_have_count(30)
    await expect_all_ended(page, 30)
    assert "Processing" in await page.evaluate("statuses")
    assert len(streams(page)) == 1  # it did not connect again after the end
    await server.until_subscribers(0)
    truths = list(ade.truth.jobs(digests=True))
    assert len(truths) == 30
    shown = {}
    for row in await rows(page).all():
        shown[await row.get_by_role("rowheader").inner_text()] = row
    for truth in truths:
        row = shown[truth.job_id]
        status = row.locator(".status")
        await expect(status).to_have_text(truth.outcome.status.value.capitalize())
        has_result = truth.outcome in {Outcome.COMPLETED, Outcome.PARTIAL}
        await expect(row.get_by_role("link")).to_have_count(int(has_result))
    assert {truth.outcome for truth in truths} == set(Outcome)
    with_result = [t for t in truths if t.result_bytes and t.outcome is Outcome.COMPLETED]
    for truth in (
        max(with_result, key=lambda t: t.result_bytes),
        min(with_result, key=lambda t: t.result_bytes),
    ):
        async with page.expect_download() as starting:
            await shown[truth.job_id].get_by_role("link", name="Download").click()
        download = await starting.value
        assert download.suggested_filename == f"{truth.job_id}.json"
        await download.save_as(tmp_path / "result.json")
        body = (tmp_path / "result.json").read_bytes()
        assert hashlib.sha256(body).hexdigest() == truth.result_sha256
    assert max(t.result_bytes for t in with_result) > 2_000_000


@pytest.mark.thorough
@of("fastapi_app")
@pytest.mark.ade(profile=Profile(median=0.2))
async def test_a_batch_can_consist_of_parse_jobs(server, open_page, ade):
    page = await open_page(f"{server.url}/")
    await page.get_by_label("Documents").fill("3")
    await page.locator("#kind").select_option("parse")
    await page.get_by_role("button", name="Start a batch").click()
    await expect_all_ended(page, 3)
    truths = list(ade.truth.jobs(digests=True))
    assert [truth.kind for truth in truths] == ["v1-parse"] * 3
    for link in await page.get_by_role("link", name="Download").all():
        async with page.expect_download() as starting:
            await link.click()
        body = (await (await starting.value).path()).read_bytes()
        assert hashlib.sha256(body).hexdigest() in {truth.result_sha256 for truth in truths}


@pytest.mark.thorough
@of("fastapi_app")
async def test_closing_the_tab_ends_the_subscription(server, open_page, ade):
    job_ids = [ade.submit(ENDLESS) for _ in range(5)]
    page = await open_page(server.page_of(job_ids))
    await expect(page.locator("#link")).to_have_text("Live")
    await server.until_subscribers(1)
    await page.close()
    await server.until_subscribers(0)


@pytest.mark.thorough
@of("fastapi_app")
@pytest.mark.ade(clock=CLOCK)
async def test_a_page_continues_after_a_restart_of_its_server(server, open_page, ade):
    job_ids = [ade.submit(JobPlan(processing_time=1000)) for _ in range(5)]
    page = await open_page(server.page_of(job_ids), expected="Failed to load resource")
    await expect(page.get_by_text("Processing", exact=True).last).to_be_visible()
    await server.stop()
    await expect(page.locator("#link")).to_have_text("Connection lost, trying again…")
    CLOCK.ahead += 2000
    await server.start(real=True)
    await expect_all_ended(page, 5)
    await expect(page.get_by_role("link", name="Download")).to_have_count(5)
    states = await page.evaluate("linkStates")
    assert states.index("Connected again, live") > states.index("Connection lost, trying again…")


@pytest.mark.thorough
@of("aiohttp_app")
async def test_one_url_has_room_for_two_hundred_jobs(server, open_page, ade):
    job_ids = [ade.submit(SOON) for _ in range(200)]
    page = await open_page(server.page_of(job_ids))
    await expect_all_ended(page, 200)
    await expect(page.get_by_role("link", name="Download")).to_have_count(200)
    assert len(streams(page)) == 1


@pytest.mark.thorough
@pytest.mark.ade(profile=SLOW)
async def test_the_url_contains_the_batch_after_reloading_and_going_back(
    one_server, open_page, ade
):
    page = await open_page(f"{one_server.url}/")
    for count in ("2", "3"):
        await page.get_by_label("Documents").fill(count)
        await page.get_by_role("button", name="Start a batch").click()
        await expect(rows(page)).to_have_count(int(count))
    second = await rows(page).get_by_role("rowheader").all_inner_texts()
    await page.reload()
    assert await rows(page).get_by_role("rowheader").all_inner_texts() == second
    await page.go_back()
    await expect(rows(page)).to_have_count(2)
    await one_server.until_subscribers(1)  # only of the batch on display
    assert {truth.job_id for truth in ade.truth.jobs()} > set(second)


async def test_text_from_the_service_is_not_interpreted_as_html(one_server, open_page, ade):
    nasty = "<img src=x onerror=alert(1)> & <b>bold</b>"
    ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason=nasty), job_id="<i>1<1i>")
    page = await open_page(f"{one_server.url}/#jobs=%3Ci%3E1%3C1i%3E,a b")
    await expect_all_ended(page, 2)
    await expect(rows(page).first).to_contain_text(nasty)
    await expect(rows(page).first.locator("code")).to_have_text("<i>1<1i>")
    await expect(rows(page).last).to_contain_text("Given up")
    assert await page.locator("img, i, b").count() == 0


@pytest.mark.thorough
async def test_the_page_connects_again_after_an_error_of_a_proxy(one_server, open_page, ade):
    job_id = ade.submit(SOON)
    page = await open_page(f"{one_server.url}/", expected="503")
    failures = [True, True]

    async def proxy(route):
        await (route.fulfill(status=503) if failures and failures.pop() else route.continue_())

    await page.route("**/events?*", proxy)
    await page.goto(one_server.page_of([job_id]))
    await expect_all_ended(page, 1)


@pytest.mark.thorough
async def test_the_page_shows_that_a_batch_could_not_be_started(one_server, open_page, ade):
    page = await open_page(f"{one_server.url}/", expected="Failed to load resource")
    ade.faults.add("server-error", endpoints=["create"], times=2)
    await page.get_by_label("Documents").fill("2")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text(
        "The server answered 502. Nothing was started."
    )
    ade.faults.add("server-error", endpoints=["create"], times=1)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("1 of 2 documents could not be submitted.")
    await expect(rows(page)).to_have_count(1)
    await page.get_by_label("Documents").fill("201")
    before = len(page.requests)
    await page.keyboard.press("Enter")
    assert await page.get_by_label("Documents").evaluate("element => !element.validity.valid")
    assert len(page.requests) == before


@pytest.mark.thorough
async def test_progress_is_announced_at_the_end_and_not_for_each_job(one_server, open_page, ade):
    job_ids = [ade.submit(JobPlan(processing_time=0.1 * n)) for n in range(20)]
    page = await open_page(one_server.page_of(job_ids))
    await expect_all_ended(page, 20)
    announced = await page.evaluate("announced")
    assert announced[0] == "Watching 20 jobs."
    assert announced[-1] == "All 20 have ended: 20 completed, 0 failed or cancelled."
    assert len(announced) <= 3  # on a slow machine there may be one in between


@pytest.mark.thorough
async def test_jobs_can_be_filtered_by_status(one_server, open_page, ade):
    job_ids = [ade.submit(JobPlan(outcome=outcome)) for outcome in Outcome]
    page = await open_page(one_server.page_of(job_ids))
    await expect_all_ended(page, len(Outcome))
    show = page.get_by_label("Show")
    for choice, number in (("completed", 2), ("failed or cancelled", 2), ("all", 4)):
        await show.select_option(choice)
        await expect(page.get_by_role("rowheader")).to_have_count(number)
    await show.select_option("pending or processing")
    await expect(page.get_by_text("There are no such jobs at the moment.")).to_be_visible()


@pytest.mark.thorough
async def test_the_page_fits_and_has_contrast_in_light_and_dark(
    one_server, open_page, ade, tmp_path
):
    plans = [
        JobPlan(queue_time=1e6),
        ENDLESS,
        *(JobPlan(outcome=outcome) for outcome in Outcome),
        JobPlan(outcome=Outcome.FAILED, failure_reason=f"page 3 is {'blank' * 60}"),
    ]
    job_ids = [ade.submit(plan) for _ in range(3) for plan in plans]
    page = await open_page(one_server.page_of([*job_ids, "no job"]))
    await expect(page.locator("#sum")).to_have_text("16 of 22 have ended")
    for group in ("pending", "processing"):
        await expect(page.locator(f"tr.{group}")).to_have_count(3)
    for viewport, scheme in itertools.product((WIDE, PHONE), ("light", "dark")):
        await page.set_viewport_size(viewport)
        await page.emulate_media(color_scheme=scheme)
        assert (
            await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            == 0
        )
        assert not await page.evaluate(POOR_CONTRAST)
        field, hint, button = [await page.locator(name).bounding_box() for name in CONTROLS]
        assert field["x"] < hint["x"]  # the hint stands beside its field, not after the button
        assert field["y"] <= hint["y"] + hint["height"] / 2 <= field["y"] + field["height"]
        assert (button["y"], button["x"]) > (field["y"] - 5, hint["x"])
    shot = await page.screenshot(path=tmp_path / "phone-dark.png", full_page=True)
    assert len(shot) > 20_000
    signs = {
        await page.locator(f"tr.{group} .status").first.evaluate(
            "element => getComputedStyle(element, '::before').content"
        )
        for group in ("pending", "processing", "completed", "ended")
    }
    assert len(signs) == 4  # statuses differ not only in colour
    solid = "element => getComputedStyle(element).backgroundImage === 'none'"
    assert await page.locator("#bar .completed").evaluate(solid)
    assert not await page.locator("#bar .processing").evaluate(solid)  # only what ended fills it


@pytest.mark.thorough
async def test_all_controls_can_be_reached_by_keyboard_in_visible_order(one_server, open_page, ade):
    page = await open_page(one_server.page_of([ade.submit(SOON), ade.submit(SOON)]))
    await expect_all_ended(page, 2)
    reached = []
    for _ in range(6):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) != "none"
    assert reached[2] == "Start a batch"
    assert [text[:8] for text in reached[4:]] == ["Download"] * 2


@of("aiohttp_app")
async def test_programs_can_use_the_routes_for_single_jobs(server, ade):
    job_id = ade.submit(JobPlan(result_bytes=1_500_000))
    async with aiohttp.ClientSession(server.url) as http:
        async with http.get(f"/jobs/{job_id}") as response:
            body = await response.json()
            assert (body["job_id"], body["status"]) == (job_id, "completed")
        parsed = ade.submit(kind="v1-parse")
        async with http.get(f"/jobs/{parsed}", params={"kind": "v1-parse"}) as response:
            body = await response.json()
            assert (body["job_id"], body["kind"], response.status) == (parsed, "v1-parse", 200)
        for path in (f"/jobs/{parsed}", f"/jobs/{parsed}/result", "/events?ids=a"):
            async with http.get(path, params={"kind": "v3-parse"}) as response:
                assert response.status == 422
        part = {"Range": "bytes=10-19"}
        async with http.get(f"/jobs/{job_id}/result", headers=part) as response:
            assert response.status == 206
            assert len(await response.read()) == 10
            assert response.headers["Content-Disposition"].startswith("attachment")
        for body in ({"count": 0}, {"count": 201}, [], {"count": 1, "kind": "v3-parse"}):
            async with http.post("/jobs", json=body) as response:
                assert response.status == 422
        odd = ("NaN", "1e999", '"1e999"', "[1]")
        for text in ("{", "[" * 100_000, *(f'{{"count": {count}}}' for count in odd)):
            broken = {"data": text, "headers": {"Content-Type": "application/json"}}
            async with http.post("/jobs", **broken) as response:
                assert response.status in {400, 422}  # FastAPI: 400 if JSON is nested too deeply
        async with http.post("/jobs", data=json.dumps({"count": 1})) as response:
            assert response.status in {415, 422}  # as a form of another site could send it
        async with http.get("/events", params={"ids": "a," * 200}) as response:
            assert response.status == 422
        async with http.post("/webhook", data=b"{}") as response:
            assert response.status == 400  # it has no signature
    assert len(list(ade.truth.jobs())) == 2


EVENTS_PAGE = (ROOT / "docs" / "server-events.md").read_text("utf-8")
(TICKETS,) = re.findall(r"^```js\n(.*?)^```$", EVENTS_PAGE, re.DOTALL | re.MULTILINE)
(SMALL_PAGE,) = re.findall(r'^PAGE = """(.*?)"""$', EVENTS_PAGE, re.DOTALL | re.MULTILINE)
STREAM = 'event: job\ndata: "{}"\n\nevent: {}\ndata: {{}}\n\n'


async def test_a_page_with_tickets_requests_a_new_one_after_a_break_and_ends_at_the_end(new_page):
    """The first stream breaks, the second ticket is too late, and the third stream is complete."""
    asked, opened, streams = [], [], [STREAM.format("pending", "ping"), None]

    async def ticket(route):
        asked.append((route.request.method, route.request.headers["authorization"]))
        await route.fulfill(json={"url": f"/events?ticket={len(asked)}"})

    async def events(route):
        opened.append(route.request.url.partition("?")[2])
        body = streams.pop(0) if streams else STREAM.format("completed", "end")
        if body is None:
            await route.fulfill(status=403)
        else:
            await route.fulfill(body=body, content_type="text/event-stream")

    page = await new_page()
    await page.route("**/*", lambda route: route.fulfill(body="", content_type="text/html"))
    await page.route("**/tickets?ids=job-1%2Cjob-2", ticket)
    await page.route("**/events?*", events)
    await page.goto("http://server.invalid/")
    await page.evaluate("window.setTimeout = (callback) => queueMicrotask(callback); null")
    await page.add_script_tag(content=TICKETS)
    await page.evaluate(
        """window.shown = [];
        follow(["job-1", "job-2"], {authorization: "mine"}, (job) => shown.push(job)); null"""
    )
    await page.wait_for_function("shown.length === 2")
    assert await page.evaluate("shown") == ["pending", "completed"]
    assert asked == [("POST", "mine")] * 3
    assert opened == ["ticket=1", "ticket=2", "ticket=3"]


async def test_the_small_page_shows_the_latest_status_of_each_job_and_closes_at_the_end(new_page):
    opened = []
    data = [
        {"job_id": "job-1", "status": "pending", "error": None},
        {"job_id": "<b>", "status": None, "error": "JobNotFoundError"},
        {"job_id": "job-1", "status": "completed", "error": None},
    ]
    stream = "".join(f"event: job\ndata: {json.dumps(job)}\n\n" for job in data)

    async def events(route):
        opened.append(route.request.url.partition("?")[2])
        await route.fulfill(
            body=f"{stream}event: end\ndata: {{}}\n\n", content_type="text/event-stream"
        )

    page = await new_page()
    await page.route("**/*", lambda route: route.fulfill(body=SMALL_PAGE, content_type="text/html"))
    await page.route("**/events?*", events)
    await page.goto("http://server.invalid/?ids=job-1,%3Cb%3E")
    await page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert await page.locator("li").all_inner_texts() == [
        "job-1: completed",
        "<b>: JobNotFoundError",
    ]
    assert opened == ["ids=job-1,%3Cb%3E"]


# Records each state of the connection and of jobs, and each announcement.
RECORDING = """
window.linkStates = []; window.announced = []; window.statuses = [];
new MutationObserver(records => {
  for (const {target} of records) {
    if (target.id === "link") linkStates.push(target.textContent);
    if (target.className === "status sign") statuses.push(target.textContent);
    if (target.id === "announcement") announced.push(target.textContent);
  }
}).observe(document, {childList: true, subtree: true});
"""
