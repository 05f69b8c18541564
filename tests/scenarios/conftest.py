"""The browser for the tests of pages."""

from chromium_fixtures import chromium, new_page  # noqa: F401 - fixtures
