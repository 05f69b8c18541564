"""Jobs of all KINDS in one table: facts that stand within the result, or beside it."""

import json

import pytest
from batching import gather, make_client
from pyarrow import parquet
from tabling import write_journal

import adepoll
from adepoll import Batch, JobKind, JobRef
from adepoll.emulator import Emulator, JobPlan

KINDS = JobKind.all()


@pytest.mark.parametrize("has_files", [True, False], ids=["files", "inline"])
async def test_the_facts_of_every_kind_are_in_its_row(tmp_path, has_files):
    async with Emulator() as ade, make_client(ade) as client:
        refs = [
            JobRef(
                ade.submit(JobPlan(processing_time=0.0), kind=kind.name), kind=kind, label=kind.name
            )
            for kind in KINDS
        ]
        out_dir = tmp_path / "r" if has_files else None
        async with Batch(client, journal=tmp_path / "b.db", out_dir=out_dir) as batch:
            outcomes = await gather(batch.run(refs))
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    rows = {row["kind"]: row for row in parquet.read_table(report.files[0]).to_pylist()}
    assert (report.results, report.unreadable, report.missing) == (5, 0, 0)
    for kind in KINDS:
        row = rows[kind.name]
        outcome = outcomes[row["job_id"]].to_dict()
        assert (row["label"], row["status"]) == (kind.name, "completed")
        assert (row["seconds"], row["credits"]) == (outcome["seconds"], outcome["credits"])
        assert row["seconds"] is not None
    assert all(rows[kind.name]["credits"] is not None for kind in KINDS[:4])
    assert rows["v1-parse"]["pages"] >= 1
    assert rows["v2-parse"]["markdown"].startswith(("#", "<"))
    assert rows["v2-extract"]["total"] is not None
    assert rows["v2-workflow"]["output.parse-extract.extract.extraction.total"] is not None
    assert not any(is_of_references(name) for name in report.columns)


def is_of_references(name):
    return name.startswith("references") or "extraction_metadata" in name or ".ground" in name


WORKFLOW = {
    "output": {
        "parse-extract": {
            "extract": {
                "extraction": {"total": 5, "ground": "clay"},
                "extraction_metadata": {"total": {"references": ["0-1"]}},
                "warnings": [],
            },
            "ground": {"total": [{"block_id": "text-1"}]},
            "parse": {"markdown": "# A"},
            "note": "no extraction",
        },
        "chosen": {"ground": "sand", "depth": {"m": 2}},
        "count": 3,
    },
    "metadata": {"duration_ms": 1},
}
VALUES = {
    "output.parse-extract.extract.extraction.total": 5,
    "output.parse-extract.extract.extraction.ground": "clay",
    "output.parse-extract.extract.warnings": [],
    "output.parse-extract.parse.markdown": "# A",
    "output.parse-extract.note": "no extraction",
    "output.chosen.ground": "sand",
    "output.chosen.depth.m": 2,
    "output.count": 3,
}
REFERENCES = {
    "references.output.parse-extract.extract.extraction.total": ["0-1"],
    "references.output.parse-extract.ground.total": [{"block_id": "text-1"}],
}


@pytest.mark.parametrize("references", [True, False])
async def test_the_references_of_a_workflow_are_columns_on_request(tmp_path, references):
    await write_journal(tmp_path / "b.db", [json.dumps(WORKFLOW)], folder=tmp_path)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet", references=references)
    (row,) = parquet.read_table(report.files[0]).to_pylist()
    found = {name: value for name, value in row.items() if "output." in name}
    assert found == VALUES | (REFERENCES if references else {})


@pytest.mark.parametrize(
    ("output", "columns"),
    [
        ("text", {"output": "text"}),
        ([1], {"output": [1]}),
        ({"a": "b"}, {"output.a": "b"}),
        ({"a": {"extract": 1, "ground": 2}}, {"output.a.extract": 1, "output.a.ground": 2}),
        ({"a": {"b": {"extraction": 1}}}, {"output.a.b.extraction": 1}),
    ],
)
async def test_an_odd_output_of_a_workflow_is_exported_as_it_is(tmp_path, output, columns):
    text = json.dumps({"output": output, "metadata": {}})
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet", references=True)
    (row,) = parquet.read_table(report.files[0]).to_pylist()
    found = {name: value for name, value in row.items() if name.startswith("output")}
    assert found == columns
