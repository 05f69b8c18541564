"""A team opens the report on Monday: in a real browser, offline, by day and night, on a phone."""

import random

import pytest
from contrast import POOR_CONTRAST
from reporting import ADDED, record, warning

from adepoll.journal.outcomes import RecordedError, Stage
from adepoll.report import render

playwright = pytest.importorskip(
    "playwright.async_api", reason="Playwright for Python is not installed (pip's playwright)"
)
pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop in which Chromium was started

WIDE = {"width": 1100, "height": 800}
PHONE = {"width": 360, "height": 740}


def friday():
    """Give the records of a batch in which everything happened that can."""
    rng = random.Random(5)
    for number in range(1, 1_201):
        kind = rng.random()
        common = {
            "job_id": f"job-{rng.getrandbits(64):016x}",
            "received": rng.uniform(0, 9_000),
            "took": rng.lognormvariate(3, 1),
            "lag": rng.expovariate(0.5),
        }
        if kind < 0.03:
            reason = f"page {number} of a-very-long-word-that-does-not-break{'x' * 90} is blank"
            yield record(number, "failed", reason=reason, measured=False, **common)
        elif kind < 0.04:
            yield record(number, "waiting", reason="processing", job_id=common["job_id"])
        elif kind < 0.05:
            error = RecordedError("x" * 200, kind="ResultServerError")
            yield record(number, "missed", error=error, **common)
        elif kind < 0.06:
            yield record(number, "unresolved", lasting=True, job_id=common["job_id"])
        elif kind < 0.07:
            yield record(number, stage=Stage.FETCHING, **common)
        else:
            yield record(
                number,
                size=round(rng.lognormvariate(11, 2)),
                filename=f"Rechnung {number} {'y' * 60}.pdf",
                version=rng.choice(["extract-20260314", "extract-20251024"]),
                schema_violation_error="$.total: no number" if kind < 0.1 else None,
                warnings=(warning("nonconformant_schema"),) if kind > 0.9 else (),
                **common,
            )


@pytest.fixture
def report(tmp_path):
    """Write the page of some records, and give its address."""

    def write(records):
        path = tmp_path / "report.html"
        page = render(
            records,
            name="friday.db",
            endpoint="https://api.test",
            notes={"options": "x" * 180},
            made_at=ADDED + 90_000,
        )
        path.write_text(page, "utf-8")
        return path.as_uri()

    return write


@pytest.fixture
def look(new_page):
    """Open a page, and see to it that it asks for nothing and complains of nothing."""

    async def open_page(address, viewport=WIDE, **options):
        page = await new_page(viewport=viewport, offline=True, **options)
        page.requests, page.complaints = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        await page.goto(address)
        assert page.requests == [address]
        assert not page.complaints
        return page

    return open_page


async def overflow(page):
    """Give how many pixels the page is wider than the window."""
    return await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


async def test_everything_is_found_by_its_role_and_text(report, look):
    page = await look(report(friday()))
    await playwright.expect(page).to_have_title("friday.db: report of a batch")
    for heading in ("Outcomes", "Why jobs failed", "Durations", "Detection lag", "Slowest jobs"):
        await playwright.expect(page.get_by_role("heading", name=heading)).to_be_visible()
    for chart in ("Outcomes", "Settled over time", "Durations", "Detection lag, at most"):
        drawn = page.get_by_role("img", name=chart)
        await playwright.expect(drawn).to_have_count(1)  # the other width is not there for anyone
        await playwright.expect(drawn).to_be_visible()
    await playwright.expect(page.get_by_text("still open.").first).to_be_visible()
    await playwright.expect(page.get_by_text("adepoll resume friday.db")).to_be_visible()
    slowest = page.get_by_role("region", name="Slowest jobs").get_by_role("row")
    await playwright.expect(slowest).to_have_count(21)


async def test_numbers_of_a_chart_open_by_keyboard_without_a_script(report, look):
    page = await look(report(friday()), java_script_enabled=False)
    numbers = page.locator("#durations summary")
    table = page.locator("#durations table")
    await playwright.expect(table).to_be_hidden()
    await numbers.focus()
    await page.keyboard.press("Enter")
    await playwright.expect(table).to_be_visible()


async def test_a_link_of_the_summary_leads_to_what_it_names(report, look):
    page = await look(report(friday()))
    await page.get_by_role("link", name="Violations").click()
    await playwright.expect(page.locator("#violations")).to_be_in_viewport()
    assert [url.partition("#")[0] for url in page.requests] == page.requests[:1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
async def test_it_is_legible_and_fits_by_day_and_by_night(report, look, scheme, viewport, tmp_path):
    page = await look(report(friday()), viewport, color_scheme=scheme)
    for summary in await page.locator("summary").all():
        await summary.click()
    assert await overflow(page) == 0
    shot = tmp_path / f"{scheme}-{viewport['width']}.png"
    await page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000
    poor = await page.evaluate(POOR_CONTRAST)
    assert not poor
    assert await page.evaluate(CLIPPED) == []


@pytest.mark.parametrize(
    "records",
    [[], [record()], [record(n, "failed", measured=False) for n in range(1, 4)]],
    ids=["empty", "one", "all failed"],
)
async def test_a_small_batch_fits_too(report, look, records):
    page = await look(report(records), PHONE)
    assert await overflow(page) == 0
    await playwright.expect(page.get_by_role("heading", level=1)).to_have_text("friday.db")


async def test_it_can_be_printed(report, look, tmp_path):
    page = await look(report(friday()), color_scheme="dark")
    await page.emulate_media(media="print")
    paper, ink = await page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert paper == "rgba(0, 0, 0, 0)"  # none of the night's
    assert luminance(ink) < 0.1
    await page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


async def test_a_script_that_came_in_all_the_same_would_not_run(report, new_page, tmp_path):
    address = report([record()])
    path = tmp_path / "report.html"
    added = "<script>document.title = 'mine'</script><img src='https://x.test/y'></main>"
    path.write_text(path.read_text("utf-8").replace("</main>", added), "utf-8")
    page = await new_page()
    async with page.expect_event("requestfailed") as refused:
        await page.goto(address)
    assert (await refused.value).failure == "csp"
    await playwright.expect(page).to_have_title("friday.db: report of a batch")


def luminance(color):
    channels = [int(part) / 255 for part in color.strip("rgb()").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Labels of charts that stand outside their drawing, or over another label.
CLIPPED = """() => {
  const wrong = [];
  for (const chart of document.querySelectorAll("svg")) {
    if (!chart.checkVisibility()) continue;
    const frame = chart.getBoundingClientRect();
    const labels = [...chart.querySelectorAll("text")];
    const boxes = labels.map(label => label.getBoundingClientRect());
    boxes.forEach((box, index) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1) {
        wrong.push(["outside", labels[index].textContent]);
      }
      for (const other of boxes.slice(index + 1)) {
        const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (wide > 1 && high > 5) wrong.push(["over another", labels[index].textContent]);
      }
    });
  }
  return wrong;
}"""
