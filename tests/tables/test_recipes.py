"""The examples of docs/tables.md, run in order in one folder: each builds on those before it."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from searchpath import search_path
from waiting import supervised

from adepoll.emulator import Emulator, JobPlan

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall((ROOT / "docs/tables.md").read_text("utf-8"))

SHELL = ["bash", "-euo", "pipefail", "-c"]


async def output_of(command, **options):
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        process_group=0,
        **options,
    )
    async with supervised(process, group=True):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


@pytest.mark.thorough
async def test_every_recipe_runs(tmp_path, tmp_path_factory):
    path = search_path(tmp_path_factory.mktemp("bin"))
    async with Emulator() as ade:
        for number in (1, 2, 3):
            ade.submit(JobPlan(processing_time=0.0, result_bytes=4_000), job_id=f"job-{number}")
        environment = os.environ | {
            "LANDINGAI_ADE_BASE_URL": ade.base_url,
            "VISION_AGENT_API_KEY": ade.api_key,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
        }
        printed = {}
        for language, code in BLOCKS:
            command = SHELL if language == "sh" else [sys.executable, "-c"]
            printed[code] = await output_of([*command, code], cwd=tmp_path, env=environment)
    assert len(BLOCKS) >= 8
    assert all(printed[code] for language, code in BLOCKS if language == "python")
    assert (tmp_path / "invoices-line_items.csv").exists()
