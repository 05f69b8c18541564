"""The notebooks of the documentation, run by a real kernel."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest
from lazyimport import lazy_import

from adepoll.emulator import Emulator, JobPlan

nbclient, nbformat = lazy_import("nbclient"), lazy_import("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


RUN = """
import asyncio
from adepoll import AdeClient, Batch, progress
found = []
async with AdeClient() as client, Batch(client, journal="batch.db") as batch:
    async for outcome in progress(batch.run({job_ids})):
        found.append(outcome.job_id)
        print("got", len(found))
        if len(found) == 3:
            await asyncio.Event().wait()  # until somebody interrupts the cell
"""


@pytest.fixture
def start_kernel(tmp_path, monkeypatch):
    """Return a function that creates the client of a kernel for the cells of a notebook."""
    packages = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", packages)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    resources = {"metadata": {"path": str(tmp_path)}}
    return partial(nbclient.NotebookClient, timeout=60, resources=resources)


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
async def test_a_notebook_runs(path, start_kernel):
    notebook = nbformat.read(path, as_version=4)
    await start_kernel(notebook).async_execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("<progress" in text for text in html)
    assert any("<table>" in text for text in html)
    assert not any(ended in text for text in html for ended in ("Traceback", "emulator-key"))
    errors = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert errors == []


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.posix  # interrupts the kernel with a signal
@pytest.mark.thorough
async def test_an_interrupted_cell_that_is_run_again_continues(start_kernel, monkeypatch):
    async with Emulator() as ade:
        monkeypatch.setenv("LANDINGAI_ADE_BASE_URL", ade.base_url)
        monkeypatch.setenv("VISION_AGENT_API_KEY", ade.api_key)
        job_ids = [ade.submit(JobPlan(processing_time=0)) for _ in range(4)]
        texts = (RUN.format(job_ids=job_ids), "print(*found)")
        cells = [nbformat.v4.new_code_cell(text) for text in (*texts, *texts, texts[0])]
        run, found, _, found_again, last = cells
        client = start_kernel(nbformat.v4.new_notebook(cells=cells), allow_errors=True)
        async with client.async_setup_kernel():
            running = asyncio.create_task(client.async_execute_cell(run, 0))
            while "got 3" not in printed(run):
                assert not running.done(), run.outputs
                await asyncio.sleep(0.01)
            await client.km.interrupt_kernel()
            await running
            for index, cell in enumerate(cells[1:], 1):
                await client.async_execute_cell(cell, index)
    errors = [output.ename for output in run.outputs if output.output_type == "error"]
    assert errors == ["CancelledError"]
    first, second = printed(found).split(), printed(found_again).split()
    assert (len(first), len(second)) == (3, 2)
    assert first[2] in second  # the interrupted cell had not acknowledged it
    assert {*first, *second} == set(job_ids)
    assert "4 acknowledged in earlier runs" in str(last.outputs)


def test_notebooks_are_stored_without_outputs():
    assert {path.stem for path in NOTEBOOKS} == {"tutorial", "watch"}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells)
