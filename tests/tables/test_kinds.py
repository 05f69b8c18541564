"""Jobs of all KINDS in one table: facts that stand within the result, or beside it."""

import pytest
from batching import gather, make_client
from pyarrow import parquet

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
