"""One Chromium for all tests of a pytest process, with pages that share its processes."""

import os
import shutil

import pytest
import pytest_asyncio

PATIENCE = 30_000  # milliseconds, on a busy machine
OF_A_PAGE = {"viewport", "color_scheme"}  # options that a page can have without its own context


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium():
    """Start Chromium; skip where it or Playwright is not installed."""
    playwright = pytest.importorskip(
        "playwright.async_api", reason="Playwright for Python is not installed (pip's playwright)"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium on this machine (Debian's package chromium)")
    playwright.expect.set_options(timeout=PATIENCE)
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--process-per-site"],
            # With LC_ALL=C, Chromium cannot save files in a folder with other letters.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser_context(chromium):
    """Return the context with some options; it is made once, because a new one costs 0.7 s."""
    contexts = {}

    async def of(**options):
        key = tuple(sorted(options.items()))
        if key not in contexts:
            contexts[key] = await chromium.new_context(**options)
            await contexts[key].new_page()  # an open page keeps the processes of a context alive
        return contexts[key]

    return of


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(browser_context):
    """Open pages that are closed with their test."""
    pages = []

    async def open_page(**options):
        own = {name: options.pop(name) for name in OF_A_PAGE & options.keys()}
        context = await browser_context(**options)
        page = await context.new_page()
        pages.append(page)
        if "viewport" in own:
            await page.set_viewport_size(own["viewport"])
        await page.emulate_media(color_scheme=own.get("color_scheme", "light"))
        return page

    yield open_page
    for page in pages:
        await page.close()
