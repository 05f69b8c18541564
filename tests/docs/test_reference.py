"""The API reference has every public name, whether or not the site has been built."""

import ast
import importlib
import inspect
import json
import math
import pkgutil
import re
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import adepoll
import adepoll.contrib
import adepoll.server
from adepoll import JobStatus

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
    # These names are shown as those of `adepoll` where both have them.
    public -= {f"{part}.{name}" for part in api_pages.PARTS for name in adepoll.__all__}
    assert set(found) == public


def test_all_titles_differ_because_a_search_result_shows_only_the_title(api_pages):
    texts = [*api_pages.pages().values(), *(page.read_text("utf-8") for page in DOCS.glob("*.md"))]
    titles = [text.splitlines()[0] for text in texts]
    assert all(title.startswith("# ") for title in titles)
    assert sorted(set(titles)) == sorted(titles)


def test_the_modules_with_public_names_are_those_of_the_deprecation_policy(api_pages):
    policy = (DOCS / "contributing.md").read_text("utf-8").partition("## Deprecation policy")[2]
    named = set(re.findall(r"`(adepoll[\w.]*)`", policy))
    for package in (adepoll.contrib, adepoll.server):
        modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        named = (named - {package.__name__}) | {module.name for module in modules}
    assert named == set(api_pages.public_modules())


def imported_names(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "adepoll":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def example_codes(path):
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return ["".join(cell["source"]).replace("await ", "") for cell in cells]
    return [text]


EXAMPLES = [
    DOCS.parent / "README.md",
    *DOCS.glob("*.md"),
    *DOCS.glob("notebooks/*.ipynb"),
    *DOCS.glob("examples/*.py"),
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_only_names_of_the_reference(path, api_pages):
    modules = api_pages.public_modules()
    public = set(modules)
    for module in modules:
        names = getattr(importlib.import_module(module), "__all__", ())
        public |= {f"{module}.{name}" for name in names}
    assert {name for code in example_codes(path) for name in imported_names(code)} <= public


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    listed = set(re.findall(r"^[\w/-]+$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed


def test_defaults_of_attrs_classes_are_readable(attrs_signatures):
    @attrs.define
    class Example:
        size: float = math.inf
        _status: JobStatus = JobStatus.FAILED
        names: list[str] = attrs.field(factory=list)
        clock: Callable[[], float] = time.time
        other: object = attrs.field(default=attrs.Factory(lambda self: self.size, takes_self=True))
        many: tuple[int, ...] = tuple(range(50))
        required: int = attrs.field(kw_only=True)

    attrs_signatures.show_defaults(None, Example.__init__, True)
    shown = {
        name: repr(parameter.default)
        for name, parameter in inspect.signature(Example.__init__).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert shown == {
        "size": "inf",
        "status": "JobStatus.FAILED",
        "names": "list()",
        "clock": "time.time",
        "other": "...",
        "many": "tuple(...)",
    }


def test_a_function_that_attrs_did_not_write_keeps_its_signature(attrs_signatures):
    attrs_signatures.show_defaults(None, documented, False)
    assert not hasattr(documented, "__signature__")
