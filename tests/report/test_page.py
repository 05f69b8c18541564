"""The page shows the facts, loads nothing, and shows hostile input as text."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from reporting import ADDED, all_outcomes, record, warning

from adepoll.journal.outcomes import RecordedError
from adepoll.report import render

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects elements, ids, and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.ids, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def html_of(records, *, name="batch.db", endpoint="https://api.test", notes=None, running=False):
    return render(
        records,
        name=name,
        endpoint=endpoint,
        notes=notes or {},
        made_at=ADDED + 100_000,
        running=running,
    )


def page_of(records, **options):
    return Page(html_of(records, **options))


HEADINGS = {
    "Outcomes",
    "Still open",
    "Why jobs failed",
    "Why jobs were given up",
    "Schema violations",
    "Warnings",
    "Settled over time",
    "Durations",
    "Detection lag",
    "Credits by model version",
    "Slowest jobs",
    "Results",
    "Notes of the journal",
}


def headings(html):
    return set(re.findall(r"<h2 id=[^>]*>([^<]*)</h2>", html))


def test_the_page_shows_all_facts():
    html = html_of(all_outcomes(), notes={"options": "--out results"})
    assert headings(html) >= HEADINGS
    text = Page(html).text
    for part in (
        "68 of 70 jobs have an outcome; 2 are still open.",
        "4 jobs failed, all of them: page <n> is blank.",
        "2 jobs were given up.",
        "1 result does not conform to the schema.",
        "1 job has warnings.",
        "1 job fell back to another model version.",
        "JobNotFoundError: job <job> is not there",
        "$.total: no number",
        "odd_schema",
        "extract-0",
        "--out results",
    ):
        assert part in text


def lacking_pages(number):
    found = record(number)
    return evolve(found, snapshot=evolve(found.snapshot, incomplete=True))


def test_results_that_lack_pages_are_counted():
    text = page_of([record(1), lacking_pages(2), lacking_pages(3)]).text
    assert "2 results lack pages that could not be parsed." in text
    assert "1 result lacks pages that could not be parsed." in page_of([lacking_pages(1)]).text


def test_the_next_command_is_shown_once_with_its_effect():
    text = page_of(all_outcomes(), name="Friday's batch.db").text
    assert text.count("adepoll resume") == 1
    assert (
        "adepoll resume 'Friday'\"'\"'s batch.db' prints 1 unacknowledged outcome, "
        "continues the 2 open jobs and retries 1 given-up job." in text
    )
    assert "adepoll resume ./-all.db" in page_of(all_outcomes(), name="-all.db").text


def test_a_running_batch_has_no_next_command():
    text = page_of(all_outcomes(), running=True).text
    assert "The batch is running." in text
    assert "adepoll resume" not in text


def test_a_complete_batch_has_no_next_command():
    text = page_of(record(number) for number in range(1, 9)).text
    assert "All 8 jobs completed." in text
    assert "adepoll resume" not in text


@pytest.mark.parametrize(
    ("records", "sentence", "missing"),
    [
        ([], "Summary This journal contains no jobs yet. Created by", {"Outcomes", "Durations"}),
        ([record()], "The only job completed.", {"Why jobs failed", "Still open"}),
        (
            [record(n, "failed", measured=False) for n in (1, 2)],
            "2 jobs failed, all of them: no reason given.",
            {"Credits by model version", "Results"},
        ),
        (
            [record(n, measured=False) for n in (1, 2)],
            "the service stated neither an end nor a duration for any of the jobs",
            {"Credits by model version"},
        ),
        (
            [record(1, "waiting"), record(2, "waiting")],
            "0 of 2 jobs have an outcome; 2 are still open.",
            {"Durations", "Detection lag", "Settled over time"},
        ),
        ([record(1, "unresolved")], "1 job was given up.", {"Durations", "Slowest jobs"}),
    ],
    ids=["empty", "one", "all failed", "no metadata", "all open", "unresolved"],
)
def test_sections_without_data_are_left_out(records, sentence, missing):
    html = html_of(records)
    assert sentence in Page(html).text
    assert not missing & headings(html)


def test_the_page_says_which_durations_are_measured():
    mixed = [record(1), record(2, measured=False)]
    assert "Measured by the service for 1 job. For the other 1, the time" in page_of(mixed).text
    assert "Durations measured by the service." in page_of([record(1), record(2)]).text


def test_the_lag_is_called_an_upper_bound():
    page = page_of([record(1, lag=3), record(2, lag=3)])
    assert (
        "Upper bound of the time from the end of a job to the poll that observed it." in page.text
    )
    assert "≤ 3\N{NO-BREAK SPACE}s" in html_of([record(1, lag=3), record(2, lag=3)])


def test_at_most_twenty_slowest_jobs_are_listed_the_slowest_first():
    html = html_of(record(n, took=n) for n in range(1, 41))
    section = html[html.index('id="slowest"') : html.index('id="results"')]
    assert re.findall(r"<bdi>(job-\d+)</bdi>", section) == [f"job-{n}" for n in range(40, 20, -1)]


# --- security and accessibility -----------------------------------------------------------------


def test_nothing_is_loaded_or_run():
    html = html_of(all_outcomes())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [a for _, a in page.elements if {"src", "srcset", "style", "onload"} & set(a)]
    assert all(link["href"].startswith("#") for link in page.all("a"))
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_the_style_sheet_and_nothing_else():
    html = html_of([])
    policy = next(m["content"] for m in Page(html).all("meta") if "http-equiv" in m)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy


def test_links_lead_to_sections_and_ids_are_unique():
    page = page_of(all_outcomes())
    assert len(page.ids) == len(set(page.ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(page.ids)


def test_every_chart_is_well_formed_and_has_title_description_and_table():
    html = html_of(all_outcomes())
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 8  # four, wide and narrow
    for chart in charts:
        root = ET.fromstring(chart)
        assert root.get("role") == "img"
        labels = {root.find("title").get("id"), root.find("desc").get("id")}
        assert labels == set(root.get("aria-labelledby").split())
        assert root.find("title").text
        assert re.search(r"\d", root.find("desc").text)
    assert len(set(re.findall("<summary>Numbers.*</summary>", html))) == 4


def test_charts_are_inside_of_their_frame():
    for chart in re.findall(r"<svg.*?</svg>", html_of(all_outcomes()), re.DOTALL):
        root = ET.fromstring(chart)
        width, height = map(float, root.get("viewBox").split()[2:])
        for bar in root.iter("rect"):
            x, y, w, h = (float(bar.get(name)) for name in ("x", "y", "width", "height"))
            assert -0.1 <= x <= x + w <= width + 0.2
            assert -0.1 <= y <= y + h <= height + 0.2
        for text in root.iter("text"):
            assert 0 <= float(text.get("x")) <= width


def test_table_headers_have_a_scope():
    page = page_of(all_outcomes())
    assert all(head.get("scope") == "col" for head in page.all("th"))


# --- hostile ------------------------------------------------------------------------------------

EVIL = (
    "\x1b]0;x\x07\u202e</style></title></svg><script>alert(1)</script>{{ 7*7 }}"
    "<img src=x onerror=y>\"' https://s3.test/r?X-Amz-Signature=canary-signature Bearer canary-key"
)


def test_texts_from_the_service_are_shown_as_text_without_secrets():
    error = RecordedError(EVIL, error_class=EVIL)
    html = html_of(
        [
            record(1, job_id=EVIL, filename=EVIL, version=EVIL, warnings=(warning(EVIL, EVIL),)),
            record(2, "failed", job_id=EVIL, reason=EVIL),
            record(3, "unresolved", job_id=EVIL, error=error),
            record(4, "waiting", job_id=EVIL, reason=EVIL),
            record(5, schema_violation_error=EVIL, fallback_model_version=EVIL),
        ],
        name=f"/tmp/{EVIL}".replace("canary", "local"),  # a local path is shown as it is
        endpoint=EVIL,
        notes={EVIL: EVIL},
    )
    page = Page(html)
    assert not page.all("script")
    assert not page.all("img")
    assert "canary" not in html
    assert "{{ 7*7 }}" in page.text  # unchanged
    assert re.sub(r"[\n\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]", "", html).isprintable()


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_page_for_any_text_is_well_formed(one, other):
    html = html_of(
        [
            record(1, job_id=one, filename=other, version=one or None),
            record(2, "failed", job_id=other, reason=one),
            record(3, "waiting", job_id=one, reason=other),
        ],
        name=one,
        notes={other: one},
    )
    html.encode()
    page = Page(html)
    assert {"h1", "svg", "table"} <= {tag for tag, _ in page.elements}


def test_extreme_numbers_are_accepted():
    long = record(1)
    long = evolve(long, snapshot=evolve(long.snapshot, status_text="x"), settled_at=9e17)
    odd = record(2, took=1e9, credit_usage=1e308, size=10**15)
    assert "Durations" in headings(html_of([long, odd, record(3, credit_usage=1e308)]))


def test_the_page_is_deterministic():
    assert html_of(all_outcomes()) == html_of(all_outcomes())


def test_the_size_of_the_page_does_not_grow_with_the_batch():
    small = html_of(record(n, took=n % 91) for n in range(1, 200))
    large = html_of(record(n, took=n % 91) for n in range(1, 5_000))
    assert len(large) < 1.2 * len(small)
