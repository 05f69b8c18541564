"""docs/examples/pipeline.py with the official SDK: every document has one result, also after kills.

`nox -s thorough` also kills the program at random moments.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import sqlite3
import sys
from pathlib import Path
from random import Random

import forkserver
import pytest
from amounts import more
from waiting import supervised, until

from adepoll import JobKind, PaymentRequiredError
from adepoll.emulator import Emulator, Profile

pytest.importorskip("landingai_ade")

EXAMPLE = Path(__file__).parents[2] / "docs/examples/pipeline.py"
SCHEMA = '{"type": "object", "properties": {"total": {"type": "number"}}}'
QUICK = Profile(median=0.0, failed=0, cancelled=0, partial=0, large=0)


@pytest.fixture(scope="module")
def pipeline():
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("pipeline", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """A folder with three documents."""
    return with_documents(tmp_path, 3)


def with_documents(tmp_path, count):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(count):
        (folder / f"invoice-{number}.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "results").mkdir()
    (tmp_path / "schema.json").write_text(SCHEMA)
    return folder


@pytest.fixture
async def ade(monkeypatch):
    async with Emulator(profile=QUICK, seed=3) as ade:
        monkeypatch.setenv("LANDINGAI_ADE_BASE_URL", ade.base_url)
        monkeypatch.setenv("VISION_AGENT_API_KEY", ade.api_key)
        yield ade


async def process(pipeline, folder, **options):
    """Run the example in this process; return its exit status."""
    results = folder.parent / "results"
    todo = [path for path in sorted(folder.iterdir()) if not result_of(path).exists()]
    chosen = {"schema": SCHEMA, "results": results, "in_flight": 2, "list_lag": 0.0, **options}
    notes = pipeline.Notes(results / "pipeline.db")
    try:
        return await pipeline.main(argparse.Namespace(**chosen), todo, notes)
    finally:
        notes.close()


def result_of(document):
    return document.parents[1] / "results" / f"{document.name}.json"


def created(ade):
    """Return the number of jobs of each kind."""
    kinds = [truth.kind for truth in ade.truth.jobs()]
    return kinds.count("v1-parse"), kinds.count("v1-extract")


def check_results(folder, jobs):
    """Each document has the result of an extract job of its own; `jobs` are their ids by digest."""
    uploads = set()
    for document in folder.iterdir():
        result = json.loads(result_of(document).read_text())
        assert result["extraction"].keys() == {"total"}
        uploads.add(result["metadata"]["filename"])
        assert result["metadata"]["filename"].endswith(f"-{document.name}")
        assert result["metadata"]["job_id"] in jobs
    assert len(uploads) == len(list(folder.iterdir()))


async def test_each_document_has_one_result(pipeline, folder, ade):
    assert await process(pipeline, folder) == 0
    assert created(ade) == (3, 3)
    check_results(folder, {truth.job_id for truth in ade.truth.jobs()})
    requests = ade.truth.requests
    assert await process(pipeline, folder) == 0
    assert ade.truth.requests == requests  # nothing is left to do


@pytest.mark.parametrize("kind", more(["v1-extract"], ["v1-parse"]))
async def test_a_job_whose_creation_had_no_answer_is_found_and_not_created_again(
    pipeline, folder, ade, kind
):
    ade.faults.add("reset-before-headers", endpoints=["create"], kinds=[kind], times=2)
    assert await process(pipeline, folder) == 1
    ade.submit(kind=kind)  # somebody else's
    assert await process(pipeline, folder) == 0
    parsed, extracted = created(ade)
    assert parsed + extracted == 3 + 3 + 1
    check_results(folder, {truth.job_id for truth in ade.truth.jobs()})


async def test_a_429_makes_creates_and_polls_wait(pipeline, folder, ade):
    ade.faults.add("too-many-requests", endpoints=["create"], retry_after="absent", times=1)
    assert await process(pipeline, folder) == 0
    assert created(ade) == (3, 3)
    assert ade.truth.early == 0


async def test_a_refused_document_does_not_stop_the_others(pipeline, folder, ade, caplog):
    ade.faults.add("forbidden", endpoints=["create"], times=1)
    assert await process(pipeline, folder) == 1
    assert "pdf: Error code: 403 - {" in caplog.text  # the words of the service
    assert created(ade) == (2, 2)
    lists = ade.truth.requests.list
    assert await process(pipeline, folder) == 0
    assert created(ade) == (3, 3)
    assert ade.truth.requests.list == lists  # it was certain that no job had been created


async def test_missing_credits_stop_the_program(pipeline, folder, ade):
    ade.faults.add("payment-required", endpoints=["create"])
    with pytest.raises(ExceptionGroup) as caught:
        await process(pipeline, folder)
    assert caught.group_contains(PaymentRequiredError)


async def test_a_second_process_cannot_use_the_same_notes(pipeline, tmp_path):
    notes = pipeline.Notes(tmp_path / "pipeline.db")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        pipeline.Notes(tmp_path / "pipeline.db")
    notes.close()
    pipeline.Notes(tmp_path / "pipeline.db").close()


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
async def test_a_program_killed_many_times_creates_each_job_once(pipeline, tmp_path, seed):
    rng = Random(seed)
    folder = with_documents(tmp_path, 24)
    profile = Profile(
        median=0.3, failed=0, cancelled=0, partial=0, large=0.2, large_bytes=(1_000_001, 3_000_000)
    )
    command = [sys.executable, str(EXAMPLE), "documents", "schema.json", "results"]
    async with Emulator(profile=profile, seed=seed) as ade:
        variables = {"LANDINGAI_ADE_BASE_URL": ade.base_url, "VISION_AGENT_API_KEY": ade.api_key}
        ade.faults.add("latency", endpoints=["create"], shape="constant", median=0.2)
        unclear = 0
        # The first kill comes during a creation, the others at random moments.
        for moment in [0.0, *(rng.uniform(0.0, 1.0) for _ in range(5)), None]:
            child = await forkserver.create_subprocess_exec(
                *command, "--in-flight=8", "--list-lag=0.5",
                cwd=tmp_path,
                env={**os.environ, **variables},
                stderr=asyncio.subprocess.PIPE,
                preload=("landingai_ade", "landingai_ade.types"),
            )  # fmt: skip
            async with supervised(child):
                if moment is None:
                    _, said = await child.communicate()
                    assert child.returncode == 0, said.decode()
                    break
                await until(lambda: ade.faults.counts["latency"] > ade.truth.requests.create)
                await asyncio.sleep(moment)
                child.kill()
                await child.wait()
            notes = pipeline.Notes(tmp_path / "results/pipeline.db")
            unclear += len(notes.unclear(JobKind.V1_PARSE) | notes.unclear(JobKind.V1_EXTRACT))
            notes.close()
        assert unclear  # at least after the first kill
        assert created(ade) == (24, 24)
        check_results(folder, {truth.job_id for truth in ade.truth.jobs()})
