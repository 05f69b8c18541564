"""The notebooks of the documentation, run by a real kernel."""

import os
from pathlib import Path

import pytest
from lazyimport import lazy_import

nbclient, nbformat = lazy_import("nbclient"), lazy_import("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
async def test_a_notebook_runs(path, tmp_path, monkeypatch):
    packages = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", packages)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    )
    await client.async_execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("<progress" in text for text in html)
    assert any("<table>" in text for text in html)
    assert not any(ended in text for text in html for ended in ("Traceback", "emulator-key"))
    errors = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert errors == []


def test_notebooks_are_stored_without_outputs():
    assert {path.stem for path in NOTEBOOKS} == {"tutorial", "watch"}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells)
