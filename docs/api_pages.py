"""The pages of the API reference, generated from ``__all__`` of the public modules.

A new public name appears on the page of the package that defines it.
"""

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import adepoll
import adepoll.contrib
import adepoll.server

# Public modules (see "Deprecation policy" in contributing.md) with a page of their own.
_CONTRIB: Final = [module.name for module in pkgutil.iter_modules(adepoll.contrib.__path__)]
_TITLES: Final = {
    "adepoll.contrib.aiohttp": "aiohttp servers",
    "adepoll.contrib.fastapi": "FastAPI servers",
    "adepoll.contrib.starlette": "Starlette servers",
    "adepoll.contrib.otel": "OpenTelemetry",
    "adepoll.contrib.prometheus": "Prometheus",
    "adepoll.contrib.pytest": "pytest fixtures",
    "adepoll.contrib.testing": "Parts of the pytest fixtures",
    "adepoll.emulator": "Emulator",
    "adepoll.journal": "Journal",
    "adepoll.report": "Report",
    "adepoll.sync": "Scripts without asyncio",
}
MODULES: Final = {
    **{name: title for name, title in _TITLES.items() if ".contrib." not in name},
    **{
        f"adepoll.contrib.{name}": _TITLES.get(f"adepoll.contrib.{name}", name) for name in _CONTRIB
    },
}
# Public modules whose names are on the page of their package, below those of `adepoll` itself.
PARTS: Final = [
    "adepoll.errors",
    *(f"adepoll.server.{module.name}" for module in pkgutil.iter_modules(adepoll.server.__path__)),
]
# Pages for the names of `adepoll` itself, by the package that defines them.
PACKAGES: Final = {
    "api": ("client", "Client, jobs and results"),
    "throttling": ("client", "Client, jobs and results"),
    "watching": ("watcher", "Watcher"),
    "scheduling": ("schedules", "Schedules"),
    "fetcher": ("fetcher", "Fetcher"),
    "batch": ("batch", "Batch"),
    "journal": ("batch", "Batch"),
    "tables": ("tables", "Export"),
    "display": ("display", "Progress"),
    "server": ("server", "Parts of servers"),
    "errors": ("errors", "Error classes"),
}


def public_modules() -> list[str]:
    """Return the names of the modules whose ``__all__`` is public."""
    return ["adepoll", *PARTS, *MODULES]


def pages() -> dict[str, str]:
    """Return the text of each page by its name, in the order of the table of contents."""
    titles = dict(PACKAGES.values())
    names: dict[str, list[str]] = {page: [] for page in titles}
    for name in _names("adepoll"):
        package = _package_of(name)
        page, title = PACKAGES.get(package, (package.replace(".", "-"), package))
        titles[page] = title
        names.setdefault(page, []).append(f"adepoll.{name}")
    for module in PARTS:
        package = module.split(".")[1]
        new = [name for name in _names(module) if name not in adepoll.__all__]
        names[PACKAGES[package][0]] += [f"{module}.{name}" for name in new]
    for module, title in MODULES.items():
        page = module.removeprefix("adepoll.").replace(".", "-")
        titles[page] = title
        names.setdefault(page, []).extend(f"{module}.{name}" for name in _names(module))
    shown: dict[int, str] = {}
    return {page: _text(titles[page], members, shown) for page, members in names.items()}


def write(folder: Path) -> None:
    """Write all pages and their table of contents; leave unchanged files alone."""
    folder.mkdir(exist_ok=True)
    texts = pages()
    listed = "\n".join(texts)
    index = (
        "# API reference\n\nGenerated from the docstrings. Everything that has no page here is "
        f"internal.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
    for page, text in {**texts, "index": index}.items():
        path = folder / f"{page}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def _names(module: str) -> list[str]:
    return [
        name
        for name in getattr(importlib.import_module(module), "__all__", [])
        if not name.startswith("_")
    ]


def _package_of(name: str) -> str:
    """Return the package below `adepoll` that defines a name of `adepoll`."""
    module = getattr(getattr(adepoll, name), "__module__", None) or ""
    return module.split(".")[1] if module.startswith("adepoll.") else "api"  # a type alias


def _text(title: str, names: list[str], shown: dict[int, str]) -> str:
    blocks = [f"# {title}\n"]
    blocks += [f"```{{eval-rst}}\n{_directive(name, shown)}\n```\n" for name in names]
    return "\n".join(blocks)


def _directive(name: str, shown: dict[int, str]) -> str:
    """Return the directive for a name; `shown` has the names of the classes on earlier pages."""
    module, _, last = name.rpartition(".")
    value = getattr(importlib.import_module(module), last)
    if isinstance(value, type):
        first = shown.setdefault(id(value), name)
        if first != name:
            return f".. py:class:: {name}\n\n   The same as :py:class:`{first}`."
        return f".. autoclass:: {name}\n   :members:"
    if inspect.isroutine(value):
        # Sphinx would take the first argument of a bound method for `self`.
        signature = _bare_signature(value) if inspect.ismethod(value) else ""
        return f".. autofunction:: {name}{signature}"
    text = _documented_values().get(last) or _first_paragraph(value)
    return f".. py:data:: {name}\n\n{textwrap.indent(text, ' ' * 3)}"


def _bare_signature(function: Callable[..., object]) -> str:
    """Return the signature of a function without its types."""
    signature = inspect.signature(function)
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _first_paragraph(value: object) -> str:
    """Return the beginning of a value's own docstring; its type if it has none."""
    text = inspect.getdoc(value)
    if text is None or text == inspect.getdoc(type(value)):
        return f"A value of type `{type(value).__name__}`."
    return text.partition("\n\n")[0]


@cache
def _documented_values() -> dict[str, str]:
    """Return the docstrings below assignments of the library, by the name that is assigned."""
    found = {}
    for path in sorted(Path(adepoll.__file__).parent.rglob("*.py")):
        for statement, following in pairwise(ast.parse(path.read_text("utf-8")).body):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name))
                    | ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found
