"""Jobs of all kinds in one batch, with labels, and with columns that outcomes contain again."""

import asyncio
import gc
import json

import pytest
from attrs import evolve
from batching import LARGE, NEVER, make_client
from files import names
from waiting import until

from adepoll import JobKind, JobRef, JobSnapshot, ResultFetcher
from adepoll.api.file_names import name_key
from adepoll.api.kinds.v1_extract import V1_EXTRACT
from adepoll.api.received_result import KeptResult
from adepoll.emulator import JobPlan
from adepoll.errors import InvalidJobIdError, JobTimeoutError, ResultTransferError
from adepoll.journal import JournalReader
from adepoll.journal.outcomes import BatchJob


async def outcomes_of(scene, jobs=(), **options):
    return [*(await scene.run(jobs, **options)).values()]


async def test_a_label_is_part_of_outcome_record_and_snapshot(scene):
    job = JobRef(scene.submit(), label="invoice 17")
    (outcome,) = await outcomes_of(scene, [job])
    assert (outcome.label, outcome.snapshot.label) == ("invoice 17", "invoice 17")
    assert outcome.ref == JobRef(job.job_id, kind=JobKind.V1_EXTRACT)
    with JournalReader(scene.journal) as reader:
        (record,) = reader.records()
    assert (record.label, record.snapshot.label) == ("invoice 17", "invoice 17")
    assert record.outcome().ref.label == "invoice 17"


@pytest.mark.parametrize(
    ("label", "recorded"),
    [
        ("a\ud83d\ude00b", "a\U0001f600b"),
        ("\ude00\ud83d", "\\ude00\\ud83d"),
        ("caf\udce9.pdf", "caf\\udce9.pdf"),
        ("\u202e\x1b[31m\u2028\0", "\u202e\x1b[31m\u2028\0"),
    ],
)
async def test_a_label_keeps_its_characters_and_surrogates_are_readable(scene, label, recorded):
    ref = JobRef(scene.submit(), label=label)
    (outcome,) = await outcomes_of(scene, [ref])
    assert outcome.label == recorded
    assert JobSnapshot.from_json(outcome.snapshot.to_json()).label == recorded
    if "\\" not in recorded:
        assert ref.label == recorded
        assert json.loads(json.dumps(ref.label)) == recorded


async def test_unresolved_jobs_have_labels_too(scene):
    jobs = [
        JobRef(scene.submit(processing_time=NEVER), label="late"),
        JobRef("in valid", label="bad"),
        JobRef("in valid 2", label="worse", kind=JobKind.V2_PARSE),
        BatchJob(JobRef("in valid 3", label="worst"), columns={"a": "1"}),
    ]
    found = {o.label: o for o in await outcomes_of(scene, jobs, timeout=0.3)}
    assert isinstance(found["late"].error, JobTimeoutError)
    for label in ("bad", "worse", "worst"):
        assert isinstance(found[label].error, InvalidJobIdError)
    assert (found["bad"].kind, found["worse"].kind) == (JobKind.V1_EXTRACT, JobKind.V2_PARSE)
    assert (found["bad"].columns, found["worst"].columns) == ({}, {"a": "1"})


async def test_a_kind_of_your_own_has_outcomes_and_a_last_status(scene):
    rules = evolve(V1_EXTRACT, kind=JobKind("toy"))
    late, done = [JobRef(scene.submit(processing_time=t), kind=rules.kind) for t in (NEVER, 0.0)]
    async with make_client(scene.ade, kinds=[rules]) as scene.client, scene.batch() as batch:
        async for outcome in batch.run([late, done]):
            assert (outcome.ref, outcome.file is not None) == (done, True)
            await until(lambda: batch.watching.polls == 2)
            break
    record = scene.records()[late.job_id]
    assert (record.kind, record.status_text) == (rules.kind, "processing")


async def test_columns_are_part_of_each_outcome_also_in_later_runs(scene):
    columns = {"customer": "Müller", "pages": "7"}
    jobs = [
        BatchJob(JobRef(scene.submit()), columns=columns),
        BatchJob(JobRef(scene.submit(processing_time=NEVER)), columns=columns),
        BatchJob(JobRef("in valid"), columns=columns),
        scene.submit(),
    ]
    found = await outcomes_of(scene, jobs, timeout=0.3)
    assert sorted(dict(o.columns) != {} for o in found) == [False, True, True, True]
    again = await outcomes_of(scene, replay=True, timeout=0.3)
    assert sorted(o.columns == columns for o in again) == [False, True, True]


@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_a_result_of_any_kind_is_read_once(scene, size):
    """With zero data retention, the service keeps no result that was read."""
    plan = JobPlan(result_reads=1, result_bytes=size)
    jobs = {scene.ade.submit(plan, kind=kind.name): kind for kind in JobKind.all()}
    found = await scene.run(JobRef(job_id, kind=kind) for job_id, kind in jobs.items())
    for job_id, kind in jobs.items():
        assert (found[job_id].kind, found[job_id].error) == (kind, None)
        result = json.loads(found[job_id].file.path.read_bytes())
        truth = json.loads(scene.truth(job_id))
        assert all(result.get(key) == truth[key] for key in truth if key != "metadata")
    with JournalReader(scene.journal) as reader:
        assert reader.kinds() == dict.fromkeys(sorted(kind.name for kind in JobKind.all()), 1)


async def test_a_large_result_that_was_polled_outlives_the_run(scene, monkeypatch):
    """The service has deleted it, and the run has ended before it was in its file."""
    plan = JobPlan(result_reads=1, result_bytes=LARGE)
    job_id = scene.ade.submit(plan, kind=JobKind.V2_PARSE.name)
    begun = asyncio.Event()

    async def hang(*_args, **_options):
        begun.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(ResultFetcher, "download", hang)
        async with scene.batch() as batch, batch.run([job_id]) as run:
            taking = asyncio.ensure_future(anext(run))
            await begun.wait()
            (kept,) = (path for path in scene.out_dir.iterdir() if path.suffix == ".kept")
            assert kept.stat().st_mode & 0o777 == 0o600
            taking.cancel()
    gc.collect()
    assert kept.exists()
    outcome = (await scene.run())[job_id]
    assert outcome.error is None
    result, truth = json.loads(outcome.file.path.read_bytes()), json.loads(scene.truth(job_id))
    assert result["markdown"] == truth["markdown"]
    assert names(scene.out_dir) == [f"{job_id}.json"]


async def test_a_kept_file_is_removed_after_a_kill_between_its_result_and_its_removal(
    scene, monkeypatch
):
    job_id = scene.ade.submit(JobPlan(result_bytes=LARGE), kind=JobKind.V2_PARSE.name)

    def killed(_kept):
        raise KeyError("in place of a kill")

    with monkeypatch.context() as patch:
        patch.setattr(KeptResult, "delete", killed)
        with pytest.raises(KeyError):
            await scene.run([job_id])
    assert len(names(scene.out_dir)) == 2
    assert (await scene.run())[job_id].error is None
    assert names(scene.out_dir) == [f"{job_id}.json"]


async def test_a_kept_file_of_somebody_else_is_not_used(scene, tmp_path, monkeypatch):
    plan = JobPlan(result_bytes=LARGE)
    job_id = scene.ade.submit(plan, kind=JobKind.V2_PARSE.name)

    async def fail(_fetcher, job, *_args, **_options):
        raise ResultTransferError("broken", job_id=job.job_id, received=0, expected=None)

    with monkeypatch.context() as patch:
        patch.setattr(ResultFetcher, "download", fail)
        await scene.run([job_id])
    (kept,) = (path for path in scene.out_dir.iterdir() if path.suffix == ".kept")
    kept.unlink()
    (tmp_path / "foreign").write_text('{"markdown": "foreign"}')
    kept.symlink_to(tmp_path / "foreign")
    outcome = (await scene.run())[job_id]
    assert "foreign" not in outcome.file.path.read_text()


# --- names of files -----------------------------------------------------------------------------


async def files_of(scene, labels, **options):
    jobs = [JobRef(scene.submit(), label=label) for label in labels]
    found = await outcomes_of(scene, jobs, name_by="label", **options)
    by_id = {outcome.job_id: outcome.file.path for outcome in found}
    for job in jobs:
        assert by_id[job.job_id].read_bytes() == scene.truth(job.job_id)
    return jobs, [by_id[job.job_id].name for job in jobs]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("invoice-17.pdf", "invoice-17.pdf.json"),
        ("/docs/2024/a b.pdf", "docs_2024_a b.pdf.json"),
        ("..\\..\\etc:passwd\0", "_.._etc_passwd_.json"),
        ("../../etc/passwd", "_.._etc_passwd.json"),
        ("con", "_con.json"),
        ("~a~", "_a_.json"),
        (" ", "_.json"),
        ("é" * 150, None),
    ],
)
async def test_a_file_is_named_after_its_label(scene, label, name):
    _, names = await files_of(scene, [label])
    assert names == [name] or (name is None and len(names[0].encode()) < 200)
    assert {path.name for path in scene.out_dir.iterdir()} == set(names)


async def test_labels_that_give_the_same_name_have_the_id_too(scene):
    jobs, names = await files_of(scene, ["a/b", "A_b", "a", None])
    ids = [job.job_id for job in jobs]
    assert names == [f"a_b~{ids[0]}.json", f"A_b~{ids[1]}.json", "a.json", f"{ids[3]}.json"]


@pytest.mark.parametrize("order", ["together", "label first", "id first"])
async def test_a_label_that_is_the_id_of_another_job_replaces_no_file(scene, order):
    """The label of an extract job can be the id of its parse job, for example."""
    parsed, extracted = scene.submit(), scene.submit()
    jobs = [JobRef(extracted, label=parsed), parsed]
    runs = {
        "together": [jobs],
        "label first": [jobs[:1], jobs[1:]],
        "id first": [jobs[1:], jobs[:1]],
    }
    for some in runs[order]:
        for outcome in await outcomes_of(scene, some, name_by="label", overwrite=True):
            assert outcome.file.path.read_bytes() == scene.truth(outcome.job_id)
    for outcome in await outcomes_of(scene, name_by="label", overwrite=True, replay=True):
        assert outcome.file.path.read_bytes() == scene.truth(outcome.job_id)


@pytest.mark.parametrize("separator", ["-", "~"])
async def test_a_label_that_ends_with_the_id_of_another_job_replaces_no_file(scene, separator):
    jobs = [JobRef(scene.submit(), label="a") for _ in range(2)]
    jobs.append(JobRef(scene.submit(), label=f"a{separator}{jobs[0].job_id}"))
    found = await outcomes_of(scene, jobs, name_by="label", overwrite=True)
    for outcome in found:
        assert outcome.file.path.read_bytes() == scene.truth(outcome.job_id)


async def test_a_later_job_with_the_same_label_replaces_no_file(scene):
    jobs, names = await files_of(scene, ["a"])
    assert names == ["a.json"]
    later, more = await files_of(scene, ["a"])
    assert more == [f"a~{later[0].job_id}.json"]
    (scene.out_dir / "a.json").unlink()  # it is fetched again, under its name
    (again,) = await outcomes_of(scene, name_by="label")
    assert (again.job_id, again.file.path.name) == (jobs[0].job_id, "a.json")


SIMILAR = {
    "case": ["Job-A", "job-a"],
    "long": ["A" * 200, "a" * 200],
    "normalisation": [
        "caf\u00e9",
        "cafe\u0301",
        "CAFE\u0301",
    ],
    "letters": ["stra\u00dfe", "STRASSE", "\u017ftrasse"],
    "width": ["\uff21", "a"],
    "variation": ["\u2603\ufe0e", "\u2603"],
}


@pytest.mark.parametrize("name_by", ["job_id", "label"])
@pytest.mark.parametrize("label", [None, "invoice"])
@pytest.mark.parametrize("ids", SIMILAR.values(), ids=SIMILAR)
async def test_no_file_system_mixes_up_the_files_of_similar_ids(scene, ids, label, name_by):
    for job_id in ids:
        scene.submit(job_id)
    jobs = [JobRef(job_id, label=label) for job_id in ids]
    found = await outcomes_of(scene, jobs, overwrite=True, name_by=name_by)
    paths = {outcome.job_id: outcome.file.path for outcome in found}
    assert len({name_key(path.name) for path in paths.values()}) == len(ids)
    for job_id in ids:
        assert paths[job_id].read_bytes() == scene.truth(job_id)
        assert (job_id in paths[job_id].name) == (len(job_id) < 200)


async def test_a_later_job_with_a_similar_id_replaces_no_file(scene):
    """The earlier job keeps the name of its file, also if its file is lost."""
    (first,) = await outcomes_of(scene, [scene.submit("A")], overwrite=True)
    assert first.file.path.name == "A.json"
    (second,) = await outcomes_of(scene, [scene.submit("a")], overwrite=True)
    assert second.file.path.name.startswith("a~")
    first.file.path.unlink()
    (again,) = await outcomes_of(scene, overwrite=True)
    assert (again.job_id, again.file.path.name) == ("A", "A.json")
    assert await outcomes_of(scene, overwrite=True) == []  # both files count as unchanged


async def test_the_names_of_ids_with_capital_letters_stay_simple(scene):
    ids = ["AB-12", "CMG4X0Q5P0001", "a~b", "\u00fc1"]
    found = await outcomes_of(scene, [scene.submit(job_id) for job_id in ids], name_by="label")
    assert {outcome.file.path.name for outcome in found} == {f"{job_id}.json" for job_id in ids}


async def test_name_by_has_two_values(scene):
    with pytest.raises(ValueError, match="name_by must be 'job_id' or 'label', got 'id'"):
        scene.batch(name_by="id")
