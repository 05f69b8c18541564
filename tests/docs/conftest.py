"""Fixtures for tests of the documentation."""

import importlib
import sys
from pathlib import Path

import pytest
from chromium_fixtures import browser_context, chromium, new_page  # noqa: F401 - fixtures

DOCS = Path(__file__).parents[2] / "docs"


def import_from_docs(name):
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="session")
def api_pages():
    """Import the module that makes the pages of the reference."""
    return import_from_docs("api_pages")


@pytest.fixture(scope="session")
def attrs_signatures():
    """Import the module that makes the signatures of attrs classes readable."""
    return import_from_docs("attrs_signatures")
