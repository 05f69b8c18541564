"""The report in a real browser: offline, light and dark, on a wide screen and on a phone."""

import itertools
import random
import re

import pytest
from attrs import evolve
from browser import expect
from contrast import POOR_CONTRAST
from reporting import ADDED, record, warning

from adepoll.journal.outcomes import RecordedError, Stage
from adepoll.report import render

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop in which Chromium was started

WIDE = {"width": 1100, "height": 800}
PHONE = {"width": 360, "height": 740}


def friday():
    """Yield the records of a batch with all outcomes."""
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
            error = RecordedError("x" * 200, error_class="ResultServerError")
            yield record(number, "not_fetched", error=error, **common)
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
    """Return a function that writes the page of records and returns its URL."""

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
def open_page(new_page):
    """Return a function that opens a page; it must send no request and log no error."""

    async def open_one(address, viewport=WIDE, **options):
        page = await new_page(viewport=viewport, offline=True, **options)
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        await page.goto(address)
        assert page.requests == [address]
        assert not page.errors
        return page

    return open_one


async def overflow(page):
    """Return by how many pixels the page is wider than the window."""
    return await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


async def test_headings_charts_and_tables_are_found_by_role_and_text(report, open_page):
    page = await open_page(report(friday()))
    await expect(page).to_have_title("friday.db: batch report")
    for heading in ("Outcomes", "Why jobs failed", "Durations", "Detection lag", "Slowest jobs"):
        await expect(page.get_by_role("heading", name=heading)).to_be_visible()
    for chart in ("Outcomes", "Settled over time", "Durations", "Detection lag, upper bound"):
        drawn = page.get_by_role("img", name=chart)
        await expect(drawn).to_have_count(1)  # the drawing for the other width is hidden
        await expect(drawn).to_be_visible()
    await expect(page.get_by_text("still open.").first).to_be_visible()
    await expect(page.get_by_text("adepoll resume friday.db")).to_be_visible()
    slowest = page.get_by_role("region", name="Slowest jobs").get_by_role("row")
    await expect(slowest).to_have_count(21)


@pytest.mark.thorough
async def test_the_numbers_of_a_chart_open_by_keyboard_without_a_script(report, open_page):
    page = await open_page(report(friday()), java_script_enabled=False)
    numbers = page.locator("#durations summary")
    table = page.locator("#durations table")
    await expect(table).to_be_hidden()
    await numbers.focus()
    await page.keyboard.press("Enter")
    await expect(table).to_be_visible()


@pytest.mark.thorough
async def test_a_link_of_the_summary_leads_to_its_section(report, open_page):
    page = await open_page(report(friday()))
    await page.get_by_role("link", name="Violations").click()
    await expect(page.locator("#violations")).to_be_in_viewport()
    assert [url.partition("#")[0] for url in page.requests] == page.requests[:1]


async def test_the_page_is_legible_and_fits_in_light_and_dark_mode(report, open_page, tmp_path):
    page = await open_page(report(friday()))
    await page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for viewport, scheme in itertools.product((WIDE, PHONE), ("light", "dark")):
        await page.set_viewport_size(viewport)
        await page.emulate_media(color_scheme=scheme)
        assert await overflow(page) == 0
        poor = await page.evaluate(POOR_CONTRAST)
        assert not poor
        assert await page.evaluate(CLIPPED) == []
    shot = await page.screenshot(path=tmp_path / "phone-dark.png", full_page=True)
    assert len(shot) > 50_000


@pytest.mark.thorough
@pytest.mark.parametrize(
    "records",
    [[], [record()], [record(n, "failed", measured=False) for n in range(1, 4)]],
    ids=["empty", "one", "all failed"],
)
async def test_the_page_of_a_small_batch_fits_a_phone(report, open_page, records):
    page = await open_page(report(records), PHONE)
    assert await overflow(page) == 0
    await expect(page.get_by_role("heading", level=1)).to_have_text("friday.db")


@pytest.mark.thorough
async def test_the_page_can_be_printed(report, open_page, tmp_path):
    page = await open_page(report(friday()), color_scheme="dark")
    await page.emulate_media(media="print")
    paper, ink = await page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert paper == "rgba(0, 0, 0, 0)"  # not the dark background
    assert luminance(ink) < 0.1
    await page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


async def test_an_injected_script_does_not_run(report, new_page, tmp_path):
    address = report([record()])
    path = tmp_path / "report.html"
    added = "<script>document.title = 'mine'</script><img src='https://x.test/y'></main>"
    path.write_text(path.read_text("utf-8").replace("</main>", added), "utf-8")
    page = await new_page()
    async with page.expect_event("requestfailed") as refused:
        await page.goto(address)
    assert (await refused.value).failure == "csp"
    await expect(page).to_have_title("friday.db: batch report")


ATTACKS = [
    "<script>owned = 1</script>",
    "<img src=x onerror='owned = 1'>",
    '"><svg onload=owned=1>',
    "' onmouseover='owned = 1' onfocus='owned = 1' autofocus='",
    "</style></title></template></textarea><script>owned = 1</script>",
    "<!--><script>owned = 1</script>-->",
    "javascript:owned=1",
    "&lt;script&gt;owned = 1&lt;/script&gt;",
    "\u202e\u2028<script\x0c>owned = 1</script\x0c>",
    "]]><script>owned = 1</script><![CDATA[",
]
PROBES = """() => [...document.querySelectorAll("*")].filter((element) =>
  ["SCRIPT", "IMG", "IFRAME", "OBJECT", "EMBED", "FORM", "BASE"].includes(element.tagName) ||
  [...element.attributes].some((attribute) =>
    attribute.name.startsWith("on") || /^\\s*javascript:/i.test(attribute.value))
).map((element) => element.outerHTML)"""


async def test_no_text_of_a_journal_becomes_a_script(open_page, tmp_path):
    """Even in a browser that ignores the Content-Security-Policy of the page."""
    records = []
    for number, text in enumerate(ATTACKS):
        error = RecordedError(text, error_class=text)
        records += [
            record(5 * number + 1, job_id=text, filename=text, version=text,
                   warnings=(warning(text, text),), schema_violation_error=text),
            record(5 * number + 2, "failed", job_id=f"{text}2", reason=text),
            record(5 * number + 3, "unresolved", job_id=f"{text}3", error=error),
            record(5 * number + 4, "not_fetched", job_id=f"{text}4", error=error),
            record(5 * number + 5, "waiting", job_id=f"{text}5", reason=text),
        ]  # fmt: skip
    records = [
        evolve(each, label=each.job_id, columns={each.job_id: each.job_id}) for each in records
    ]
    everything = " ".join(ATTACKS)
    page = render(
        records, name=everything, endpoint=everything, notes={everything: everything}, made_at=ADDED
    )
    without_policy = re.sub(r"<meta[^>]*Content-Security-Policy[^>]*>", "", page)
    assert without_policy != page
    path = tmp_path / "report.html"
    path.write_text(without_policy, "utf-8")
    opened = await open_page(path.as_uri())
    for summary in await opened.locator("summary").all():
        await summary.click()
    assert await opened.evaluate("window.owned") is None
    assert await opened.evaluate(PROBES) == []


def luminance(color):
    channels = [int(part) / 255 for part in color.strip("rgb()").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Labels of charts that are outside of their drawing, or overlap another label.
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
