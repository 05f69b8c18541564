"""Fixtures for tests of the documentation."""

import importlib
import sys
from pathlib import Path

import pytest
from chromium_fixtures import browser_context, chromium, new_page  # noqa: F401 - fixtures

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def api_pages():
    """Import the module that makes the pages of the reference."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("api_pages")
    finally:
        sys.path.remove(str(DOCS))
