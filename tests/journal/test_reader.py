"""A JournalReader reads a journal and writes nothing into its folder."""

import os
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from journalling import snapshot

from adepoll import JobKind, JobRef, Journal
from adepoll.errors import (
    ClosedError,
    JobNotFoundError,
    JournalAccessError,
    JournalDamagedError,
    TransportError,
)
from adepoll.journal import (
    Acknowledged,
    Failure,
    Fetched,
    GivenUp,
    JournalReader,
    Settled,
)
from adepoll.journal import reader as reading
from adepoll.journal.outcomes import Outcome, Record, ResultFile, Stage
from adepoll.watching.watch import UnresolvedJob

ENDPOINT = "https://api.example"


def failed(job_id, reason):
    return Settled(snapshot(job_id, "failed", failure_reason=reason), 1.0, fetching=False)


@pytest.fixture
async def journal(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add([f"j{n}" for n in range(10)], at=1.0)
        yield journal


async def write_all(journal):
    await journal.write(
        Settled(snapshot("j1"), 2.0, fetching=True),
        Fetched("j1", ResultFile(path=Path("/r"), bytes=9, sha256="0" * 64), 7, 3.0),
        Acknowledged("j1", 4.0),
        *(failed(f"j{n}", "bad scan") for n in (2, 3, 4)),
        failed("j5", None),
        *(
            GivenUp(f"j{n}", JobNotFoundError(status=404, job_id=f"j{n}"), lasting=True, at=2.0)
            for n in (6, 7)
        ),
        GivenUp("j8", TransportError("reset", job_id="j8"), lasting=False, at=2.0),
    )


def check_all(reader):
    assert reader.endpoints.v1 == ENDPOINT
    assert reader.notes() == {"endpoint": ENDPOINT, "v2_endpoint": ENDPOINT}
    records = list(reader.records())
    assert [record.job_id for record in records] == [f"j{n}" for n in range(10)]
    assert [record.number for record in records] == list(range(1, 11))
    assert records[1].file == ResultFile(path=Path("/r"), bytes=9, sha256="0" * 64)
    assert records[1].snapshot == snapshot("j1")
    assert reader.counts().by_stage == {Stage.WAITING: 2, Stage.DONE: 5, Stage.GIVEN_UP: 3}
    reason = f"job ...: the service answered 404 ({JobNotFoundError.hint})"
    bad, gone, reset = "JobFailedError", "JobNotFoundError", "TransportError"
    assert reader.failures() == [
        Failure(error_class=bad, reason="bad scan", lasting=True, jobs=3, example="j2"),
        Failure(error_class=gone, reason=reason, lasting=True, jobs=2, example="j6"),
        Failure(error_class=bad, reason=None, lasting=True, jobs=1, example="j5"),
        Failure(error_class=reset, reason="job ...: reset", lasting=False, jobs=1, example="j8"),
    ]
    assert len(reader.failures(most=2)) == 2


async def test_the_example_of_a_failure_has_its_kind_before_its_id(journal, path):
    job = JobRef("a", kind=JobKind.V1_PARSE)
    await journal.add([job])
    await journal.write(GivenUp(job, TransportError("reset", job_id="a"), lasting=False, at=2.0))
    with JournalReader(path) as reader:
        assert [failure.example for failure in reader.failures()] == ["v1-parse/a"]


async def test_it_reads_while_the_batch_writes(journal, path):
    with JournalReader(path) as reader:
        assert reader.counts().by_stage == {Stage.WAITING: 10}
        await write_all(journal)
        check_all(reader)
        assert reader.holder == os.getpid()


async def test_span_is_from_the_first_job_to_the_last_outcome(journal, path):
    with JournalReader(path) as reader:
        assert reader.span() == (1.0, None)
        await journal.add(["later"], at=2.0)
        await journal.write(Settled(snapshot("j2", "failed"), 30.0, fetching=False))
        await journal.write(Settled(snapshot("j1", "failed"), 20.0, fetching=False))
        assert reader.span() == (1.0, 30.0)


async def test_it_reads_after_the_batch_without_writing(path, tmp_path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add([f"j{n}" for n in range(10)])
        await write_all(journal)
    before = path.stat()
    with JournalReader(path) as reader:
        check_all(reader)
        assert reader.holder is None
        assert [found.name for found in tmp_path.iterdir()] == ["batch.db"]
    assert [found.name for found in tmp_path.iterdir()] == ["batch.db"]
    assert path.stat().st_mtime_ns == before.st_mtime_ns


async def test_a_job_that_settles_while_jobs_are_counted_is_counted_once(
    journal, path, monkeypatch
):
    count_jobs = reading.count_jobs

    def count_before_and_after_a_change(path, connection):
        before = count_jobs(path, connection)
        with closing(sqlite3.connect(path)) as writer, writer:
            writer.execute(
                "UPDATE jobs SET stage = 'given_up', error_kind = 'E', error = 'e', lasting = 0,"
                " done_at = 2.0 WHERE number = 1"
            )
        return before, count_jobs(path, connection)

    with JournalReader(path) as reader:
        monkeypatch.setattr(reading, "count_jobs", count_before_and_after_a_change)
        before, after = reader.counts()
        assert before == after
        monkeypatch.undo()
        assert reader.counts().by_stage == {Stage.WAITING: 9, Stage.GIVEN_UP: 1}


async def test_it_keeps_reading_while_batches_start_and_end(path):
    await (await Journal.open(path, endpoint=ENDPOINT)).aclose()
    with JournalReader(path) as reader:
        assert reader.counts().jobs == 0
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add([f"j{n}" for n in range(10)])
            assert reader.counts().jobs == 10
            await write_all(journal)
        check_all(reader)
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add(["k"])
        assert reader.counts().jobs == 11


async def test_an_iteration_continues_while_the_batch_writes(journal, path, monkeypatch):
    monkeypatch.setattr("adepoll.journal.reader._PAGE", 3)
    with JournalReader(path) as reader:
        walk = reader.records()
        first = [next(walk) for _ in range(4)]
        await write_all(journal)
        assert [r.job_id for r in (*first, *walk)] == [f"j{n}" for n in range(10)]


async def test_records_with_long_texts_are_read_in_small_pages(path):
    """In a crafted file, all rows can share one long text: a small file could fill the memory."""
    count, megabyte = 20, 2**20
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add([f"j{number}" for number in range(count)])
    with closing(sqlite3.connect(path)) as db:
        text = "json_object('a', hex(zeroblob(?)))"
        db.execute(f"UPDATE jobs SET columns = {text}", (megabyte // 2,))
        db.commit()
    with JournalReader(path) as reader:
        tracemalloc.start()
        try:
            found = sum(len(record.columns["a"]) for record in reader.records())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == count * megabyte
    assert peak < 12 * megabyte


async def test_inline_results_are_read_up_to_a_size(journal, path, monkeypatch):
    results = [
        snapshot(f"j{n}", data={"extraction": {}, "extraction_metadata": {}, "metadata": {}})
        for n in (1, 2, 4, 5)
    ]
    await journal.write(*(Settled(job, 2.0, fetching=False) for job in results), failed("j3", None))
    with JournalReader(path) as reader:
        texts = reader.inline_results(1, 10)
        assert [*texts] == [2, 3, 5, 6]
        (text,) = {*texts.values()}
        assert [*reader.inline_results(3, 5)] == [3, 5]
        assert reader.inline_results(4, 4) == reader.inline_results(7, 2**70) == {}
        for size, numbers in (
            (1, [2]),
            (2 * len(text), [2, 3]),
            (2 * len(text) + 1, [2, 3, 5]),
        ):
            monkeypatch.setattr(reading, "_PAGE_BYTES", size)
            assert [*reader.inline_results(1, 10)] == numbers


async def test_the_journal_of_a_killed_batch_is_read_with_its_wal(journal, path, tmp_path):
    await write_all(journal)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("batch.db", "batch.db-wal"):
        shutil.copy(path.with_name(name), copy)
    with JournalReader(copy / "batch.db") as reader:
        check_all(reader)
    async with await Journal.open(copy / "batch.db", endpoint=ENDPOINT):
        pass
    assert [found.name for found in copy.iterdir()] == ["batch.db"]


@pytest.fixture
async def unclosed(journal, path):
    """The bytes of the files of a journal that was not closed."""
    await write_all(journal)
    return {name: path.with_name(name).read_bytes() for name in ("batch.db", "batch.db-wal")}


async def test_a_wal_in_a_read_only_folder_is_not_ignored(unclosed, folder_as_nobody, request):
    """Without the WAL, the journal would lack the latest writes."""
    for name, data in unclosed.items():
        (folder_as_nobody / name).write_bytes(data)
        (folder_as_nobody / name).chmod(0o444)
    folder_as_nobody.chmod(0o555)
    request.addfinalizer(lambda: folder_as_nobody.chmod(0o755))
    with pytest.raises(JournalAccessError, match="-wal and -shm"):
        JournalReader(folder_as_nobody / "batch.db")


async def test_a_closed_reader_raises(journal, path):
    reader = JournalReader(path)
    reader.close()
    reader.close()
    for call in (reader.counts, reader.notes, reader.failures, lambda: next(reader.records())):
        with pytest.raises(ClosedError):
            call()


def test_reprs_show_no_secret_of_a_text_that_anybody_may_have_written():
    """A journal may come from a stranger, and a label can be a presigned URL of a document."""
    text = "https://h/p?X-Amz-Signature=canary-0123456789\x1b[2J"
    shown = [
        Record(number=1, job_id="j", stage=Stage.WAITING, label=text, added_at=0.0),
        Record(number=1, job_id="j", stage=Stage.WAITING, status_text=text, added_at=0.0),
        Outcome(job_id="j", label=text),
        UnresolvedJob("j", ClosedError("closed"), label=text),
    ]
    for each in shown:
        assert "h/p?REDACTED" in repr(each)
        assert "canary" not in repr(each)
        assert repr(each).isprintable()


async def test_a_file_that_was_refused_is_refused_again(path, tmp_path):
    """A trigger would run SQL that the author of the file wrote."""
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
    crafted = shutil.copy(path, tmp_path / "crafted")
    with closing(sqlite3.connect(crafted)) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON jobs BEGIN SELECT 1; END")
    with JournalReader(path) as reader:
        assert reader.counts().jobs == 1
        shutil.move(crafted, path)
        for _ in range(2):
            with pytest.raises(JournalDamagedError):
                reader.counts()


async def test_a_kind_that_another_program_has_written_is_damage(journal, path):
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("UPDATE jobs SET kind = 'not a kind' WHERE number = 1")
    with (
        JournalReader(path) as reader,
        pytest.raises(JournalDamagedError, match="a kind is not a kind of jobs"),
    ):
        reader.kinds()
