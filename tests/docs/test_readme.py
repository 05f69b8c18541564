"""The README, as a package index shows it: without the files beside it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_its_links_lead_to_files_of_this_repository_or_to_other_sites():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    base = f"{project['project']['urls']['Source']}/blob/main/"
    text = (ROOT / "README.md").read_text("utf-8")
    settings = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for substitution in settings["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 5
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    own = [link.removeprefix(base).partition("#")[0] for link in links if link.startswith(base)]
    assert [path for path in own if not (ROOT / path).exists()] == []


def test_the_urls_of_the_project_lead_to_files_of_this_repository():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    paths = [url.partition("/blob/main/")[2] for url in urls.values() if "/blob/" in url]
    assert all((ROOT / path).exists() for path in paths)


def test_the_guide_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    install = (ROOT / "docs/guide.md").read_text("utf-8").partition("## Find a page")[0]
    rows = [row.split("|")[1] for row in install.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(extras)
