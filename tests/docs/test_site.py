"""The built site; `nox -s docs` builds it, and names its folder in ADEPOLL_SITE."""

import os
import re
from pathlib import Path

import pytest
from sitefiles import inventory_names

SITE = os.environ.get("ADEPOLL_SITE")
pytestmark = pytest.mark.skipif(SITE is None, reason="only `nox -s docs` builds the site")
PHONE = {"width": 390, "height": 844}
# JavaScript: true if a word of the page's title is too long for one line.
BREAKS_A_TITLE = """[...document.querySelectorAll("h1")].some((title) => {
    title.style.overflowWrap = "normal";
    return title.scrollWidth > title.clientWidth;
})"""


@pytest.fixture
def pages():
    found = sorted(Path(SITE).rglob("*.html"))
    return [page for page in found if "_downloads" not in page.parts]


def test_links_lead_to_every_public_name(api_pages):
    documented = re.findall(r":: (adepoll[\w.]*)", "\n".join(api_pages.pages().values()))
    assert set(documented) <= inventory_names(Path(SITE, "objects.inv"))


def test_signatures_show_no_generated_code(pages):
    assert [page.name for page in pages if "attr_dict" in page.read_text("utf-8")] == []


def test_pages_that_docstrings_name_are_links(pages):
    texts = [page.read_text("utf-8") for page in pages if page.parent.name == "api"]
    named = re.findall(r"docs/[\w-]+\.md", "".join(texts))
    links = re.findall(r'href="\.\./([\w-]+\.html)#?([\w-]*)">docs/', "".join(texts))
    assert len(links) == len(named) > 5
    for page, anchor in links:
        assert not anchor or f'id="{anchor}"' in Path(SITE, page).read_text("utf-8")


def test_nothing_is_loaded_from_elsewhere(pages):
    """So the site, its search included, works offline."""
    loaded = re.compile(r'<(?:script|img|link)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]+"')
    assert {page.name: loaded.findall(page.read_text("utf-8")) for page in pages} == {
        page.name: [] for page in pages
    }
    assert "JobWatcher" in Path(SITE, "searchindex.js").read_text("utf-8")


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_fit_a_phone(pages, new_page, scheme):
    page = await new_page(viewport=PHONE, color_scheme=scheme)
    too_wide, broken_titles = [], []
    backgrounds = set()
    for path in pages:
        await page.goto(path.as_uri())
        width = await page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            too_wide.append((path.name, width))
        if await page.evaluate(BREAKS_A_TITLE):
            broken_titles.append(path.name)
        backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (too_wide, broken_titles) == ([], [])
    assert len(backgrounds) == 1
    (light,) = {"rgb(255, 255, 255)" in backgrounds}
    assert light == (scheme == "light")


@pytest.mark.asyncio(loop_scope="session")
async def test_the_search_finds_a_page_without_a_server(new_page):
    page = await new_page()
    await page.goto(Path(SITE, "search.html").as_uri() + "?q=retry-after")
    await page.wait_for_selector("#search-results li a")
