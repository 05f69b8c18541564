"""Every example in README and docs is run, against an emulator with the jobs that it names."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from searchpath import search_path

import adepoll
from adepoll.emulator import Emulator, JobPlan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# These two are run by .ci/run and by test_cli's demo; in here they would call themselves.
RUN_ELSEWHERE = {
    'pip install ".[cli]" && adepoll demo\n',
    "pip install nox && nox -s tests\n",
}

# Test files are run by pytest, in tests/contrib/test_pytest_plugin.py; SQL is asked of a journal,
# in tests/test_journal_docs.py.
IS_TEST_FILE = re.compile(r"^(async )?def test_", re.MULTILINE)


def examples() -> list:
    return [
        pytest.param(language, code, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
        if code not in RUN_ELSEWHERE and not IS_TEST_FILE.search(code) and language != "sql"
    ]


@pytest.mark.parametrize(("language", "code"), examples())
async def test_example_runs_as_printed(language, code, tmp_path, tmp_path_factory):
    command = {"python": [sys.executable, "-c", code], "sh": ["bash", "-euc", code]}[language]
    async with Emulator() as ade:
        for number in (1, 2, 3):
            size = 1_500_000 if number == 2 else 4_000
            ade.submit(JobPlan(processing_time=0.05, result_bytes=size), job_id=f"job-{number}")
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env={
                **os.environ,
                "LANDINGAI_ADE_BASE_URL": ade.base_url,
                "VISION_AGENT_API_KEY": ade.api_key,
                "PATH": search_path(tmp_path_factory.mktemp("bin")),
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "error",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert stdout or any(tmp_path.iterdir()), "an example that shows nothing"


def test_every_page_has_been_found():
    assert {page.name for page in PAGES} >= {
        "README.md",
        "guide.md",
        "command-line.md",
        "journal.md",
    }
    assert len(examples()) >= 9


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_names_only_what_is_exported():
    for name in re.findall(r"^\| `(\w+)`", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE):
        assert name == "adepoll" or name in adepoll.__all__
