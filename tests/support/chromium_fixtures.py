"""One Chromium for all tests of a pytest process; each page has a browser context of its own."""

import shutil

import pytest
import pytest_asyncio

PATIENCE = 30_000  # milliseconds, on a busy machine


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
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(chromium):
    """Open pages that are closed with their test."""
    pages = []

    async def open_page(**options):
        page = await chromium.new_page(**options)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        await page.context.close()
