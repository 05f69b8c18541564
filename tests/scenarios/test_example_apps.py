"""People start batches on the page of the example servers, and watch them: in a real browser."""

import asyncio
import hashlib
import json
import os
import re
import shlex
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from clocks import LeapingClock
from contrast import POOR_CONTRAST
from ports import free_port

from adepoll.emulator import JobPlan, Outcome, Profile

playwright = pytest.importorskip(
    "playwright.async_api", reason="Playwright for Python is not installed (pip's playwright)"
)
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("fastapi", reason="FastAPI is not installed")
expect = playwright.expect
pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop in which Chromium was started

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SOON = JobPlan(processing_time=0.3)
ENDLESS = JobPlan(processing_time=float("inf"))
QUICK = Profile(
    median=2.5, failed=0.15, cancelled=0.1, nonconformant=0.1, large=0.2,
    large_bytes=(2_000_000, 6_000_000),
)  # fmt: skip
SLOW = Profile(median=1e6)
WIDE = {"width": 1100, "height": 800}
PHONE = {"width": 360, "height": 740}


LEAPING = LeapingClock()


class Server:
    """An example as a process, started as its docstring says; it can be started again."""

    def __init__(self, name):
        text = (EXAMPLES / f"{name}.py").read_text("utf-8")
        first, second = re.findall(r"^    (adepoll|python|uvicorn)( .+)$", text, re.MULTILINE)[:2]
        assert "".join(first) == "adepoll emulate"
        self.command = shlex.split("".join(second))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PORT": str(self.port),
                "UVICORN_PORT": str(self.port),
                "WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
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
        for complaint in ("Traceback", "Task was destroyed", "Unclosed", "never retrieved"):
            assert complaint not in stderr.decode()

    async def subscribers(self):
        async with aiohttp.ClientSession(self.url) as http, http.get("/ready") as response:
            return (await response.json())["watcher"]["followers"]

    async def until_followers(self, number):
        async with asyncio.timeout(20):
            while await self.subscribers() != number:  # noqa: ASYNC110 - another process has it
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


@pytest_asyncio.fixture(loop_scope="session", params=["aiohttp_app", "fastapi_app"])
async def server(request, ade_env):
    async with running(request.param) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def one_server(ade_env):
    """For what is the page's business alone: it is the same in both."""
    async with running("aiohttp_app") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def look(new_page):
    """Open a page, and see to it that it asks nobody else and complains of nothing unexpected."""
    pages = []

    async def open_page(address, *, expected="", **options):
        page = await new_page(**{"viewport": WIDE, **options})
        page.requests, page.complaints, page.expected = [], [], expected
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        await page.add_init_script(LISTENING)
        await page.goto(address)
        pages.append((page, "/".join(address.split("/")[:3])))
        return page

    yield open_page
    for page, origin in pages:
        assert [url for url in page.requests if not url.startswith((f"{origin}/", "data:"))] == []
        unexpected = [
            text for text in page.complaints if not (page.expected and page.expected in text)
        ]
        assert unexpected == []


def streams(page):
    """Give the requests for events."""
    return [url for url in page.requests if "/events?" in url]


def rows(page):
    return page.locator("#rows > tr")


async def ended(page, number):
    have = "has" if number == 1 else "have"
    await expect(page.locator("#link")).to_have_text("All jobs have ended")
    await expect(page.locator("#sum")).to_have_text(f"{number} of {number} {have} ended")


@pytest.mark.ade(seed=4, profile=QUICK)
async def test_a_batch_is_started_watched_to_its_end_and_taken_home(server, look, ade, tmp_path):
    page = await look(f"{server.url}/")
    await expect(page.get_by_role("region", name="Jobs")).to_be_hidden()
    await page.get_by_label("Documents").fill("30")
    await page.keyboard.press("Enter")
    await expect(rows(page)).to_have_count(30)
    await ended(page, 30)
    assert "Processing" in await page.evaluate("stood")
    assert len(streams(page)) == 1  # it did not connect again after the end
    await server.until_followers(0)
    truths = list(ade.truth.jobs(digests=True))
    assert len(truths) == 30
    shown = {}
    for row in await rows(page).all():
        shown[await row.get_by_role("rowheader").inner_text()] = row
    for truth in truths:
        row = shown[truth.job_id]
        status = row.locator(".status")
        await expect(status).to_have_text(truth.outcome.status.value.capitalize())
        has_result = truth.outcome in {Outcome.COMPLETED, Outcome.NONCONFORMANT}
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


async def test_who_closes_the_tab_leaves_nothing_behind(server, look, ade):
    job_ids = [ade.submit(ENDLESS) for _ in range(5)]
    page = await look(server.page_of(job_ids))
    await expect(page.locator("#link")).to_have_text("Live")
    await server.until_followers(1)
    await page.close()
    await server.until_followers(0)


@pytest.mark.ade(clock=LEAPING)
async def test_a_page_goes_on_when_its_server_is_started_again(server, look, ade):
    job_ids = [ade.submit(JobPlan(processing_time=1000)) for _ in range(5)]
    page = await look(server.page_of(job_ids), expected="Failed to load resource")
    await expect(page.get_by_text("Processing", exact=True).last).to_be_visible()
    await server.stop()
    await expect(page.locator("#link")).to_have_text("Connection lost, trying again…")
    LEAPING.ahead += 2000
    await server.start()
    await ended(page, 5)
    await expect(page.get_by_role("link", name="Download")).to_have_count(5)
    said = await page.evaluate("told")
    assert said.index("Connected again, live") > said.index("Connection lost, trying again…")


async def test_two_hundred_jobs_find_room_in_one_address(server, look, ade):
    job_ids = [ade.submit(SOON) for _ in range(200)]
    page = await look(server.page_of(job_ids))
    await ended(page, 200)
    await expect(page.get_by_role("link", name="Download")).to_have_count(200)
    assert len(streams(page)) == 1


@pytest.mark.ade(profile=SLOW)
async def test_a_batch_is_its_address_and_survives_reloading_and_going_back(one_server, look, ade):
    page = await look(f"{one_server.url}/")
    for count in ("2", "3"):
        await page.get_by_label("Documents").fill(count)
        await page.get_by_role("button", name="Start a batch").click()
        await expect(rows(page)).to_have_count(int(count))
    second = await rows(page).get_by_role("rowheader").all_inner_texts()
    await page.reload()
    assert await rows(page).get_by_role("rowheader").all_inner_texts() == second
    await page.go_back()
    await expect(rows(page)).to_have_count(2)
    await one_server.until_followers(1)  # of the batch that is seen, and of no other
    assert {truth.job_id for truth in ade.truth.jobs()} > set(second)


async def test_what_comes_from_elsewhere_is_text(one_server, look, ade):
    nasty = "<img src=x onerror=alert(1)> & <b>bold</b>"
    ade.submit(JobPlan(outcome=Outcome.FAILED, failure_reason=nasty), job_id="<i>1<1i>")
    page = await look(f"{one_server.url}/#jobs=%3Ci%3E1%3C1i%3E,a b")
    await ended(page, 2)
    await expect(rows(page).first).to_contain_text(nasty)
    await expect(rows(page).first.locator("code")).to_have_text("<i>1<1i>")
    await expect(rows(page).last).to_contain_text("Given up")
    assert await page.locator("img, i, b").count() == 0


async def test_an_answer_by_somebody_else_is_no_reason_to_give_up(one_server, look, ade):
    job_id = ade.submit(SOON)
    page = await look(f"{one_server.url}/", expected="503")
    away = [True, True]

    async def proxy(route):
        await (route.fulfill(status=503) if away and away.pop() else route.continue_())

    await page.route("**/events?*", proxy)
    await page.goto(one_server.page_of([job_id]))
    await ended(page, 1)


async def test_a_batch_that_was_not_started_is_complained_of(one_server, look, ade):
    page = await look(f"{one_server.url}/", expected="Failed to load resource")
    ade.faults.add("server-error", endpoints=["create"], times=2)
    await page.get_by_label("Documents").fill("2")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text(
        "The server answered 502. Nothing was started."
    )
    ade.faults.add("server-error", endpoints=["create"], times=1)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("1 of 2 documents were not taken.")
    await expect(rows(page)).to_have_count(1)
    await page.get_by_label("Documents").fill("201")
    before = len(page.requests)
    await page.keyboard.press("Enter")
    assert await page.get_by_label("Documents").evaluate("element => !element.validity.valid")
    assert len(page.requests) == before


async def test_progress_is_spoken_at_the_end_and_not_job_by_job(one_server, look, ade):
    job_ids = [ade.submit(JobPlan(processing_time=0.1 * n)) for n in range(20)]
    page = await look(one_server.page_of(job_ids))
    await ended(page, 20)
    spoken = await page.evaluate("spoken")
    assert spoken[0] == "Watching 20 jobs."
    assert spoken[-1] == "All 20 have ended: 20 completed, 0 failed or cancelled."
    assert len(spoken) <= 3  # there may have been a word in between, on a slow machine


async def test_only_jobs_of_a_kind_are_shown_to_who_asks_for_them(one_server, look, ade):
    job_ids = [ade.submit(JobPlan(outcome=outcome)) for outcome in Outcome]
    page = await look(one_server.page_of(job_ids))
    await ended(page, len(Outcome))
    show = page.get_by_label("Show")
    for choice, number in (("completed", 2), ("failed or cancelled", 2), ("all", 4)):
        await show.select_option(choice)
        await expect(page.get_by_role("rowheader")).to_have_count(number)
    await show.select_option("pending or processing")
    await expect(page.get_by_text("No such jobs at the moment.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
async def test_it_is_legible_and_fits_by_day_and_by_night(
    one_server, look, ade, scheme, viewport, tmp_path
):
    plans = [
        JobPlan(queue_time=1e6),
        ENDLESS,
        *(JobPlan(outcome=outcome) for outcome in Outcome),
        JobPlan(outcome=Outcome.FAILED, failure_reason=f"page 3 is {'blank' * 60}"),
    ]
    job_ids = [ade.submit(plan) for _ in range(3) for plan in plans]
    page = await look(
        one_server.page_of([*job_ids, "no job"]), viewport=viewport, color_scheme=scheme
    )
    await expect(page.locator("#sum")).to_have_text("16 of 22 have ended")
    for group in ("pending", "processing"):
        await expect(page.locator(f"tr.{group}")).to_have_count(3)
    shot = tmp_path / f"{scheme}-{viewport['width']}.png"
    await page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    assert (
        await page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        == 0
    )
    assert not await page.evaluate(POOR_CONTRAST)
    marks = {
        await page.locator(f"tr.{group} .status").first.evaluate(
            "element => getComputedStyle(element, '::before').content"
        )
        for group in ("pending", "processing", "completed", "ended")
    }
    assert len(marks) == 4  # it is not by colour alone that they differ


async def test_all_can_be_reached_by_keyboard_in_the_order_in_which_it_is_seen(
    one_server, look, ade
):
    page = await look(one_server.page_of([ade.submit(SOON), ade.submit(SOON)]))
    await ended(page, 2)
    reached = []
    for _ in range(5):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) != "none"
    assert reached[1] == "Start a batch"
    assert [text[:8] for text in reached[3:]] == ["Download"] * 2


async def test_what_the_page_does_not_use_is_there_for_programs(server, ade):
    job_id = ade.submit(JobPlan(result_bytes=1_500_000))
    async with aiohttp.ClientSession(server.url) as http:
        async with http.get(f"/jobs/{job_id}") as response:
            assert await response.json() == {"job_id": job_id, "status": "completed"}
        part = {"Range": "bytes=10-19"}
        async with http.get(f"/jobs/{job_id}/result", headers=part) as response:
            assert response.status == 206
            assert len(await response.read()) == 10
            assert response.headers["Content-Disposition"].startswith("attachment")
        for body, status in (({"count": 0}, 422), ({"count": 201}, 422), ([], 422)):
            async with http.post("/jobs", json=body) as response:
                assert response.status == status
        broken = {"data": "{", "headers": {"Content-Type": "application/json"}}
        async with http.post("/jobs", **broken) as response:
            assert response.status == 422
        async with http.post("/jobs", data=json.dumps({"count": 1})) as response:
            assert response.status in {415, 422}  # as a form of another site may send it
        async with http.get("/events", params={"ids": "a," * 200}) as response:
            assert response.status == 422
        async with http.post("/webhook", data=b"{}") as response:
            assert response.status == 400  # it bears no signature
    assert len(list(ade.truth.jobs())) == 1


# Keeps all that the page says of its connection and of jobs, and all that is spoken.
LISTENING = """
window.told = []; window.spoken = []; window.stood = [];
new MutationObserver(records => {
  for (const {target} of records) {
    if (target.id === "link") told.push(target.textContent);
    if (target.className === "status sign") stood.push(target.textContent);
    if (target.id === "spoken") spoken.push(target.textContent);
  }
}).observe(document, {childList: true, subtree: true});
"""
