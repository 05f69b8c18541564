"""The browser for the tests of pages."""

from chromium_fixtures import browser_context, chromium, new_page  # noqa: F401 - fixtures
