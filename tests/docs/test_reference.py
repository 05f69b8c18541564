"""The API reference has every public name, whether or not the site has been built."""

import importlib
import pkgutil
import re
from pathlib import Path

import adepoll.contrib

DOCS = Path(__file__).parents[2] / "docs"


def documented(pages):
    return re.findall(
        r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)", "\n".join(pages.values()), re.MULTILINE
    )


def test_every_public_name_is_on_exactly_one_page(api_pages):
    found = documented(api_pages.pages())
    assert len(found) == len(set(found))
    public = {
        f"{module}.{name}"
        for module in api_pages.public_modules()
        for name in getattr(importlib.import_module(module), "__all__", ())
        if not name.startswith("_")
    }
    # The names of `adepoll.errors` are shown as those of `adepoll` where both have them.
    errors = set(importlib.import_module("adepoll").__all__)
    public -= {f"adepoll.errors.{name}" for name in errors}
    assert set(found) == public


def test_the_modules_with_public_names_are_those_of_the_deprecation_policy(api_pages):
    policy = (DOCS / "contributing.md").read_text("utf-8").partition("## Deprecation policy")[2]
    named = set(re.findall(r"`(adepoll[\w.]*)`", policy))
    contrib = {module.name for module in pkgutil.iter_modules(adepoll.contrib.__path__)}
    named = (named - {"adepoll.contrib"}) | {f"adepoll.contrib.{name}" for name in contrib}
    assert named == set(api_pages.public_modules())


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    listed = set(re.findall(r"^[\w/-]+$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed
