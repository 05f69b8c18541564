"""Every example in README and docs is run, against an emulator with the jobs that it names."""

import asyncio
import importlib
import operator
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import forkserver
import pytest
from doclinks import MENTION, broken_links, broken_mentions
from searchpath import search_path
from waiting import supervised

import adepoll
from adepoll.emulator import Emulator, JobPlan, Profile

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

PRINTED = re.compile(
    r"^```python\n((?:(?!^```).)*)^```\n\nIt prints:\n\n```text\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

# These two are run by .ci/run and by test_cli's demo; in here they would call themselves.
RUN_ELSEWHERE = {
    'pip install ".[cli]" && adepoll demo\n',
    'pip install "nox[uv]" && nox -s tests\n',
}

# The examples of these pages build on each other.
PAGES_RUN_AS_A_WHOLE = {"tables.md"}  # in tests/tables/test_recipes.py

# Test files are run by pytest, in tests/contrib/test_pytest_plugin.py; SQL is asked of a journal,
# in tests/journal/test_docs.py.
IS_TEST_FILE = re.compile(r"^(async )?def test_", re.MULTILINE)


def examples() -> list:
    return [
        pytest.param(language, code, page.name == "README.md", id=f"{page.stem}-{number}")
        for page in PAGES
        if page.name not in PAGES_RUN_AS_A_WHOLE
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
        if code not in RUN_ELSEWHERE
        and not IS_TEST_FILE.search(code)
        and language in {"python", "sh"}
    ]


@pytest.mark.parametrize(("language", "code", "real"), examples())
async def test_example_runs_as_printed(language, code, real, tmp_path, tmp_path_factory):
    """Commands of the README are started as users start them, and those of other pages forked."""
    variables, options = {}, {}
    if language == "python":
        command = [sys.executable, "-W", "error", "-c", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
        server = None if real else forkserver.descriptor("-W", "error")
        options = {"process_group": 0, "pass_fds": [] if real else [server]}
        variables["PATH"] = search_path(tmp_path_factory.mktemp("bin"), descriptor=server)
        packages = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables |= {"PYTHONPATH": packages, "PYTHONWARNINGS": "error"}
    if "invoice.pdf" in code:
        tmp_path.joinpath("invoice.pdf").write_bytes(b"%PDF-1.7")
    # The profile is for jobs that an example submits with the official SDK.
    async with Emulator(profile=Profile(median=0.1, failed=0, cancelled=0)) as ade:
        for number in (1, 2, 3):
            size = 1_500_000 if number == 2 else 4_000
            # Settled already, because some examples fetch the results immediately.
            ade.submit(JobPlan(processing_time=0.0, result_bytes=size), job_id=f"job-{number}")
        plan = JobPlan(processing_time=0.0, result_bytes=1_500_000)
        ade.submit(plan, kind="v2-extract", job_id="job-of-v2")
        process = await forkserver.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env={
                **os.environ,
                "LANDINGAI_ADE_BASE_URL": ade.base_url,
                "VISION_AGENT_API_KEY": ade.api_key,
                **variables,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            **options,
        )
        async with supervised(process, group=bool(options)):
            stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert stdout or any(tmp_path.iterdir()), "an example that shows nothing"
    printed = dict(pair for page in PAGES for pair in PRINTED.findall(page.read_text("utf-8")))
    assert stdout.decode() == printed.get(code, stdout.decode())


async def test_an_example_that_waits_for_the_command_ends_where_there_is_none(tmp_path):
    (code,) = [
        code
        for page in PAGES
        for _, code in BLOCK.findall(page.read_text("utf-8"))
        if "sleep" in code and "adepoll emulate" in code
    ]
    for name in ("bash", "cat", "sleep", "wc"):
        (tmp_path / name).symlink_to(shutil.which(name))
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        code,
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
        process_group=0,
    )
    async with supervised(process, group=True):
        _, stderr = await process.communicate()
    assert process.returncode != 0
    assert b"adepoll: command not found" in stderr


def test_every_page_has_been_found():
    assert {page.name for page in PAGES} >= {
        "README.md",
        "guide.md",
        "command-line.md",
        "journal.md",
    }
    assert len(examples()) >= 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files_and_headings_that_exist(page):
    assert broken_links(page) == []


def test_pages_name_only_tests_that_exist():
    named = [
        name for page in PAGES for name in re.findall(r"`(tests/[^` ]+)`", page.read_text("utf-8"))
    ]
    assert named
    assert [name for name in named if not [*ROOT.glob(name)]] == []


def test_code_names_only_pages_and_headings_that_exist():
    sources = [*(ROOT / "adepoll").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    sources.remove(Path(__file__))
    broken = {source.name: broken_mentions(source, ROOT) for source in sources}
    assert {name: found for name, found in broken.items() if found} == {}
    assert any(MENTION.search(source.read_text("utf-8")) for source in sources)


LINKED = """
# The `first` one: what's new?
# Twice
# Twice

[a](#the-first-one-whats-new) [b](#twice) [c](#twice-1) [d](other.md) [e](other.md#über-uns)
[f](other.md#%C3%BCber-uns "with a title") [g]( <other.md> ) [h][other] [i](https://else.where/x#y)
`[not a link](#within-code)`

[other]: other.md#über-uns
"""


def test_good_links_are_not_reported(tmp_path):
    (tmp_path / "other.md").write_text("Über uns\n========\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(LINKED, "utf-8")
    assert broken_links(page) == []


@pytest.mark.parametrize(
    "link",
    [
        "gone.md",
        "gone.md#über-uns",
        "#twice-2",
        "#Twice",
        "#within-code",
        "other.md#twice",
        "script.py#L1",
        "/other.md",
    ],
)
@pytest.mark.parametrize("form", ["[x]({})", "[x][y]\n\n[y]: {}", "![x]({})"])
def test_broken_links_are_reported(tmp_path, link, form):
    (tmp_path / "other.md").write_text("# Über uns\n", "utf-8")
    (tmp_path / "script.py").write_text("", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"{LINKED}\n```\n# Within code\n```\n\n{form.format(link)}\n", "utf-8")
    assert [unquote(found) for found in broken_links(page)] == [link]


def test_broken_mentions_are_reported(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        '"""See docs/guide.md#no-such-heading and docs/gone.md, not docs/guide.md."""'
    )
    assert broken_mentions(source, ROOT) == ["docs/guide.md#no-such-heading", "docs/gone.md"]


def test_readme_names_only_what_is_exported():
    for name in re.findall(r"^\| `(\w+)`", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE):
        assert name == "adepoll" or name in adepoll.__all__


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_the_architecture_names_only_files_that_exist():
    named = {*re.findall(r"`([\w/]+\.py)`", ARCHITECTURE)}
    missing = {
        name
        for name in named
        if not (any((ROOT / "adepoll").glob(f"**/{name}")) or (ROOT / name).exists())
    }
    assert missing == set()
    assert len(named) > 50


def test_the_architecture_lists_only_calls_that_exist():
    rows = re.findall(r"^\| `([\w/]+)\.py` \| (`.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) > 15
    for file, calls in rows:
        module = importlib.import_module(f"adepoll.{file.replace('/', '.')}")
        for name in re.findall(r"`([\w.]+)`", calls):
            assert callable(operator.attrgetter(name)(module)), f"{file}: {name}"
