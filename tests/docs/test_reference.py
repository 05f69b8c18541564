"""The API reference has every public name, whether or not the site has been built."""

import importlib
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def api_pages():
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("api_pages")
    finally:
        sys.path.remove(str(DOCS))


def documented(pages):
    return re.findall(r"^\.\. (?:auto\w+|py:\w+):: (\S+)", "\n".join(pages.values()), re.MULTILINE)


def test_every_public_name_is_on_exactly_one_page(api_pages):
    found = documented(api_pages.pages())
    assert len(found) == len(set(found))
    public = {
        f"{module}.{name}"
        for module in api_pages.public_modules()
        for name in importlib.import_module(module).__all__
        if not name.startswith("_")
    }
    # The names of `adepoll.errors` are shown as those of `adepoll` where both have them.
    errors = set(importlib.import_module("adepoll").__all__)
    public -= {f"adepoll.errors.{name}" for name in errors}
    assert set(found) == public


def test_the_modules_with_public_names_are_those_of_the_deprecation_policy(api_pages):
    policy = (DOCS / "contributing.md").read_text("utf-8").partition("## Deprecation policy")[2]
    named = set(re.findall(r"`(adepoll[\w.]*)`", policy))
    contrib = {path.stem for path in Path(DOCS.parent, "adepoll", "contrib").glob("[!_]*.py")}
    named = (named - {"adepoll.contrib"}) | {f"adepoll.contrib.{name}" for name in contrib}
    named.discard("adepoll/__about__")
    assert named == set(api_pages.public_modules())


def test_names_without_a_package_of_their_own_get_a_page(api_pages):
    assert all(text.count("# ") == 1 for text in api_pages.pages().values())
