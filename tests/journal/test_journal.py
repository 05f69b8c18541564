"""A Journal keeps what was written, in whatever order its callers arrive, fail or are cancelled."""

import asyncio
import math
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from amounts import more
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internals import on_connection
from journalling import snapshot
from waiting import until

from adepoll import JobKind, JobRef, JobStatus, Journal
from adepoll.api import codec
from adepoll.api.received_result import ReceivedResult
from adepoll.errors import (
    AdePollError,
    ClosedError,
    ConfigurationError,
    InvalidJobIdError,
    JobNotFoundError,
    JournalBusyError,
    JournalError,
    JournalWriteError,
    ResultUnavailableError,
    ResultUrlError,
    TransportError,
)
from adepoll.journal import (
    Acknowledged,
    Fetched,
    FileLost,
    GivenUp,
    JournalReader,
    RecordFilter,
    Settled,
    StatusChanged,
)
from adepoll.journal.database import Database
from adepoll.journal.outcomes import BatchJob, Outcome, RecordedError, ResultFile, Stage

ENDPOINT = "https://api.example"
CANARY = "CaNaRy0123456789"
PRESIGNED = f"https://bucket.s3.example/r.json?X-Amz-Signature={CANARY}"
SHA = "ab" * 32


async def waiting_in(journal, **options):
    """Return number and id of waiting jobs."""
    return [(number, job.job_id) for number, job in await journal.waiting(**options)]


def inline(job_id, extraction="x"):
    metadata = {"filename": "a.pdf", "org_id": None, "duration_ms": 1, "credit_usage": 1.0,
                "job_id": job_id, "version": None}  # fmt: skip
    data = {"extraction": {"a": extraction}, "extraction_metadata": {}, "metadata": metadata}
    return snapshot(job_id, data=data, metadata=metadata)


def result(path="/out/r.json"):
    return ResultFile(path=Path(path), bytes=7, sha256=SHA)


def not_found(job_id):
    return JobNotFoundError(status=404, job_id=job_id)


def dump(path):
    """Return all rows as a sqlite3 shell shows them."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("jobs", "data", "notes")
        }
    finally:
        connection.close()


@pytest.fixture
async def journal(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        yield journal


@pytest.fixture
async def memory():
    async with await Journal.in_memory(endpoint=ENDPOINT) as journal:
        yield journal


async def one(journal, which=RecordFilter.WITH_OUTCOME):
    (record,) = await journal.records(which)
    return record


# --- ids ----------------------------------------------------------------------------------------


async def test_known_ids_are_ignored_and_new_ids_are_numbered_in_their_order(memory):
    assert await memory.add(["b", "a", "b"], at=5.0) == 2
    assert await memory.add(["a", "c"]) == 1
    assert await waiting_in(memory, after=0, limit=10) == [(1, "b"), (2, "a"), (4, "c")]
    assert await memory.add([]) == 0


async def test_waiting_jobs_are_returned_in_pages_by_number(memory):
    await memory.add([f"j{n}" for n in range(10)])
    first = await waiting_in(memory, after=0, limit=4)
    second = await waiting_in(memory, after=first[-1][0], limit=100)
    assert [job_id for _, job_id in first + second] == [f"j{n}" for n in range(10)]


async def test_unusual_ids_are_stored_unchanged(journal, path):
    hostile = ["';DROPTABLEjobs;--", '"', "$(id)", "..a", "ü", "\U0001f600"]
    await journal.add(hostile)
    assert [job_id for _, job_id in await waiting_in(journal, after=0, limit=9)] == hostile
    await journal.write(*(GivenUp(job_id, not_found(job_id), lasting=True, at=1.0)
                          for job_id in hostile))  # fmt: skip
    assert [record.job_id for record in await journal.records(RecordFilter.WITH_OUTCOME)] == hostile
    with JournalReader(path) as reader:
        assert [record.job_id for record in reader.records()] == hostile


@pytest.mark.parametrize("bad", ["\udc80", 7j, None, b"a", "a\x1b[31m", "b\x00c", "\n", "../a", ""])
async def test_something_that_is_no_job_id_is_named_and_nothing_of_its_chunk_is_added(memory, bad):
    with pytest.raises(InvalidJobIdError):
        await memory.add(["a", bad, "c"])
    assert (await memory.counts()).jobs == 0
    assert await memory.add(["a"]) == 1


async def test_ids_keep_their_order_although_each_chunk_is_sorted(memory, monkeypatch):
    monkeypatch.setattr("adepoll.journal.journal._CHUNK", 3)
    durable, add = [], Database.add

    def add_and_record(self, *args):
        durable.append(args[-1])
        return add(self, *args)

    monkeypatch.setattr(Database, "add", add_and_record)
    ids = ["f", "b", "z", "a", "f", "y", "b", "c"]
    assert await memory.add(ids) == 6
    assert durable == [False, False, True]
    found = await waiting_in(memory, after=0, limit=9)
    assert [job_id for _, job_id in found] == ["f", "b", "z", "a", "y", "c"]
    assert await memory.add([*ids, "g"]) == 1


async def test_of_a_job_that_is_given_twice_the_first_label_and_columns_are_kept(memory):
    plain, labelled = JobRef("a"), JobRef("a", label="x")
    with_columns = BatchJob(JobRef("b", label="y"), columns={"k": "v"})
    assert await memory.add([with_columns, plain, labelled, JobRef("b", label="x")]) == 2
    assert await memory.add([labelled, with_columns]) == 0
    found = [job for _, job in await memory.waiting(after=0, limit=9)]
    assert [(job.job_id, job.label) for job in found] == [("b", "y"), ("a", None)]
    assert await memory.columns(found) == {found[0]: {"k": "v"}}
    assert await memory.columns([JobRef("a"), JobRef("b")]) == {JobRef("b"): {"k": "v"}}


@pytest.mark.parametrize("count", more([20_000], [200_000]))
async def test_a_large_batch_of_ids_is_added_and_read(journal, path, count):
    ids = [f"job-{n}" for n in range(count)]
    assert await journal.add(ids) == count
    assert await journal.add(ids[::1000]) == 0
    assert (await journal.counts()).by_stage == {Stage.WAITING: count}
    assert await waiting_in(journal, after=count - 2, limit=9) == [
        (count - 1, f"job-{count - 2}"), (count, f"job-{count - 1}"),
    ]  # fmt: skip
    with JournalReader(path) as reader:
        assert sum(1 for _ in reader.records()) == count


# --- the stages of a job ------------------------------------------------------------------------


async def test_a_job_goes_through_all_stages(journal):
    await journal.add(["a"], at=1.0)
    await journal.write(StatusChanged("a", "processing"))
    job = snapshot("a", output_url=PRESIGNED)
    await journal.write(Settled(job, 2.0, fetching=True))
    record = await one(journal, RecordFilter.FETCHING)
    assert (record.stage, record.settled_at, record.done_at) == (Stage.FETCHING, 2.0, None)
    assert await journal.records(RecordFilter.WITH_OUTCOME) == []
    await journal.write(Fetched("a", result(), 123, 3.0))
    assert (await one(journal, RecordFilter.UNACKNOWLEDGED)).outcome() == Outcome(
        job_id="a", snapshot=job.redacted(), file=result()
    )
    await journal.write(Acknowledged("a", 4.0), durable=False)
    assert await journal.records(RecordFilter.UNACKNOWLEDGED) == []
    record = await one(journal, RecordFilter.ACKNOWLEDGED)
    assert record == await one(journal, RecordFilter.WITH_OUTCOME)
    assert (record.number, record.stage, record.status_text) == (1, Stage.DONE, "completed")
    assert (record.added_at, record.settled_at, record.done_at, record.delivered_at) == (1, 2, 3, 4)
    assert record.modified_ns == 123
    assert await waiting_in(journal, after=0, limit=9) == []


def with_facts(job):
    """Return a job with the facts of its result also in its own metadata."""
    return evolve(job, metadata=job.facts)


async def test_statuses_in_other_case_are_counted_together(path):
    jobs = {"a": "FAILED", "b": "Failed", "c": "failed", "d": "COMPLETED"}
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add([*jobs])
        for job_id, text in jobs.items():
            job = evolve(snapshot(job_id), status=JobStatus.parse(text), status_text=text)
            await journal.write(Settled(job, 2.0, fetching=False))
    with JournalReader(path) as reader:
        assert reader.counts().by_status == {"failed": 3, "completed": 1}
        [failure] = reader.failures()
        assert (failure.error_class, failure.jobs) == ("JobFailedError", 3)
        shown = {record.job_id: record.snapshot.status_text for record in reader.records()}
        assert shown == jobs  # as the service wrote it


async def test_a_journal_opened_again_has_the_same_records(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a", "b", "c"])
        await journal.write(Settled(inline("a"), 2.0, fetching=False))
        await journal.write(GivenUp("b", not_found("b"), lasting=True, at=2.0))
        before = await journal.records(RecordFilter.WITH_OUTCOME)
    async with await Journal.open(path, endpoint=ENDPOINT, must_exist=True) as journal:
        assert [r.outcome().snapshot for r in await journal.records(RecordFilter.WITH_OUTCOME)] == [
            with_facts(inline("a")), None,
        ]  # fmt: skip
        again = await journal.records(RecordFilter.WITH_OUTCOME)
        assert [repr(record) for record in again] == [repr(record) for record in before]
        assert await waiting_in(journal, after=0, limit=9) == [(3, "c")]


async def test_an_inline_result_is_kept_by_a_file_and_not_in_memory(journal, memory):
    for each in (journal, memory):
        await each.add(["a"])
        await each.write(Settled(inline("a"), 2.0, fetching=False))
    assert (await one(journal)).snapshot == with_facts(inline("a"))
    [without] = await journal.records(RecordFilter.WITH_OUTCOME, data=False)
    for kept in (without.snapshot, (await one(memory)).snapshot):
        assert (kept.data, kept.metadata) == (None, inline("a").data.metadata)


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        (b'{ "extraction": {"a":1.50}}', b'{ "extraction": {"a":1.50}}'),
        (b'{"extraction":NaN}', None),  # SQLite would not accept it
    ],
)
async def test_an_inline_result_is_kept_as_the_service_has_sent_it(journal, received, kept):
    job = evolve(inline("a"), received_result=ReceivedResult(received))
    await journal.add(["a"])
    await journal.write(Settled(job, 2.0, fetching=False))
    record = await one(journal)
    assert record.snapshot.received_result.read() == (kept or codec.encode(job.data).encode())


async def test_facts_that_stand_in_the_result_alone_stay_when_it_is_dropped(memory):
    data = {"extraction": {}, "extraction_metadata": {}, "metadata": {"credit_usage": 2.5}}
    await memory.add(["a"])
    await memory.write(Settled(snapshot("a", data=data), 2.0, fetching=False))
    assert ((await one(memory)).snapshot.data, (await one(memory)).snapshot.credits) == (None, 2.5)


async def test_the_sum_of_credits_has_no_digits_of_rounding_errors(journal):
    ids = [f"j{n}" for n in range(3)]
    await journal.add(ids)
    data = {"extraction": {}, "extraction_metadata": {}, "metadata": {"credit_usage": 0.1}}
    for job_id in ids:
        await journal.write(Settled(snapshot(job_id, data=data), 2.0, fetching=False))
    assert (await journal.counts()).credits == 0.3


async def test_a_page_of_records_is_shorter_if_their_data_is_large(journal):
    ids = [f"j{n}" for n in range(10)]
    await journal.add(ids)
    await journal.write(*(Settled(inline(i, "x" * 900_000), 2.0, fetching=False) for i in ids))
    page = await journal.records(RecordFilter.WITH_OUTCOME)
    assert len(page) == 5
    rest = await journal.records(RecordFilter.WITH_OUTCOME, after=page[-1].number)
    assert [record.job_id for record in page + rest] == ids
    assert len(await journal.records(RecordFilter.WITH_OUTCOME, data=False)) == 10


async def test_a_job_that_was_given_up_has_a_record_without_a_snapshot(journal):
    await journal.add(["a", "b"])
    await journal.write(GivenUp("a", not_found("a"), lasting=True, at=2.0))
    record = await one(journal)
    assert (record.job_id, record.snapshot) == ("a", None)
    assert record.error.error_class == "JobNotFoundError"


async def test_a_job_whose_file_is_lost_becomes_fetching_again(journal):
    await journal.add(["a"])
    await journal.write(Settled(snapshot("a"), 2.0, fetching=True), Fetched("a", result(), 1, 3.0))
    await journal.write(Acknowledged("a", 4.0))
    await journal.write(FileLost("a"))
    record = await one(journal, RecordFilter.FETCHING)
    assert (record.file, record.modified_ns, record.done_at, record.delivered_at) == (None,) * 4
    assert record.snapshot is not None
    await journal.write(Fetched("a", result("/out/2"), 5, 6.0))
    assert (await one(journal, RecordFilter.UNACKNOWLEDGED)).file == result("/out/2")


async def test_given_up_jobs_are_reopened_unless_their_error_is_lasting(journal):
    await journal.add(["unseen", "settled", "lasting", "done"])
    await journal.write(
        GivenUp("unseen", TransportError("reset", job_id="unseen"), lasting=False, at=1.0),
        Settled(snapshot("settled"), 1.0, fetching=True),
        GivenUp("settled", TransportError("reset", job_id="settled"), lasting=False, at=2.0),
        Acknowledged("settled", 3.0),
        GivenUp("lasting", not_found("lasting"), lasting=True, at=1.0),
        Settled(snapshot("done", "failed", failure_reason="bad scan"), 1.0, fetching=False),
    )
    assert await journal.reopen() == 2
    assert await waiting_in(journal, after=0, limit=9) == [(1, "unseen")]
    record = await one(journal, RecordFilter.FETCHING)
    assert (record.job_id, record.error, record.lasting, record.delivered_at) == (
        "settled", None, None, None,
    )  # fmt: skip
    assert [r.job_id for r in await journal.records(RecordFilter.WITH_OUTCOME)] == [
        "lasting",
        "done",
    ]
    assert await journal.reopen() == 0


async def test_reopen_can_include_lasting_errors_of_some_kinds(journal):
    job_ids = ["unkept", "unknown", "silent"]
    await journal.add(job_ids)
    errors = {
        "unkept": ResultUnavailableError(job_id="unkept"),
        "unknown": not_found("unknown"),
        "silent": TransportError("no answer", job_id="silent"),
    }
    for job_id, error in errors.items():
        lasting = job_id.startswith("un")
        await journal.write(GivenUp(job_id, error, lasting=lasting, at=1.0))
    kinds = {"ResultUnavailableError"}
    assert await journal.reopen(error_classes=kinds) == 2
    waiting = await waiting_in(journal, after=0, limit=9)
    assert [job_id for _, job_id in waiting] == ["unkept", "silent"]


async def test_a_settled_job_ignores_a_later_status_change(memory):
    await memory.add(["a"])
    await memory.write(
        Settled(snapshot("a"), 1.0, fetching=False), StatusChanged("a", "processing")
    )
    assert (await one(memory)).status_text == "completed"


async def test_an_error_is_recorded_with_kind_and_text(journal):
    await journal.add(["a", "b"])
    await journal.write(
        GivenUp("a", not_found("a"), lasting=True, at=1.0),
        GivenUp("b", RecordedError("old", error_class="TransportError"), lasting=False, at=1.0),
    )
    a, b = await journal.records(RecordFilter.WITH_OUTCOME)
    assert (a.error.error_class, str(a.error), a.lasting) == (
        "JobNotFoundError", str(not_found("a")), True,
    )  # fmt: skip
    assert (b.error.error_class, str(b.error), b.lasting) == ("TransportError", "old", False)


async def test_counts_cover_stages_statuses_deliveries_and_bytes(journal):
    await journal.add([f"j{n}" for n in range(6)])
    await journal.write(
        StatusChanged("j0", "processing"),
        Settled(snapshot("j1"), 1.0, fetching=True),
        Settled(snapshot("j2"), 1.0, fetching=True),
        Fetched("j2", result(), 1, 2.0),
        Acknowledged("j2", 3.0),
        Settled(snapshot("j3", "failed"), 1.0, fetching=False),
        GivenUp("j4", not_found("j4"), lasting=True, at=1.0),
        StatusChanged("j5", "pending"),
        GivenUp("j5", not_found("j5"), lasting=True, at=1.0),
    )
    counts = await journal.counts()
    assert counts.jobs == 6
    assert counts.by_stage == {
        Stage.WAITING: 1, Stage.FETCHING: 1, Stage.DONE: 2, Stage.GIVEN_UP: 2,
    }  # fmt: skip
    assert counts.by_status == {"completed": 2, "failed": 1}
    assert (counts.acknowledged, counts.bytes, counts.open) == (1, 7, 2)


async def test_counts_of_an_empty_journal_are_zero(memory):
    counts = await memory.counts()
    assert (counts.jobs, counts.by_stage, counts.by_status, counts.bytes) == (0, {}, {}, 0)


async def test_notes_can_be_replaced_but_not_the_endpoint(journal):
    assert await journal.note("durations") is None
    await journal.set_note("durations", "{}")
    await journal.set_note("durations", '{"a":1}')
    assert await journal.note("durations") == '{"a":1}'
    assert await journal.note("endpoint") == ENDPOINT
    for key in ("endpoint", "v2_endpoint"):
        with pytest.raises(ConfigurationError):
            await journal.set_note(key, "https://other.example")
    with pytest.raises(JournalError, match="cannot store the note 'a'") as caught:
        await journal.set_note("a", "\udc80")
    assert caught.value.path == str(journal.path)
    await journal.set_note("b", "{}")  # the change that failed was undone
    assert await journal.note("a") is None


async def test_a_result_path_is_absolute(journal, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    await journal.add(["a"])
    await journal.write(
        Settled(snapshot("a"), 1.0, fetching=True), Fetched("a", result("out/a.json"), 1, 2.0)
    )
    assert (await one(journal)).file.path == tmp_path / "out" / "a.json"


async def test_a_result_path_that_is_not_utf8_is_read_unchanged(journal):
    where = os.fsdecode(b"/out/\xff\xfe.json")
    await journal.add(["a"])
    await journal.write(
        Settled(snapshot("a"), 1.0, fetching=True), Fetched("a", result(where), 1, 2.0)
    )
    assert os.fsencode((await one(journal)).file.path) == b"/out/\xff\xfe.json"


JOBS = [f"j{n}" for n in range(4)]
CHANGES = st.sampled_from(JOBS).flatmap(
    lambda job: st.sampled_from(
        [
            StatusChanged(job, "pending"),
            Settled(snapshot(job), 1.0, fetching=True),
            Settled(snapshot(job, "failed"), 1.0, fetching=False),
            Settled(inline(job), 1.0, fetching=False),
            Fetched(job, result(), 1, 2.0),
            GivenUp(job, not_found(job), lasting=True, at=2.0),
            GivenUp(job, not_found(job), lasting=False, at=2.0),
            Acknowledged(job, 3.0),
            FileLost(job),
        ]
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, max_size=30))
def test_a_job_is_at_exactly_one_stage_after_any_changes(changes):
    """Each job is waiting, fetching or has an outcome, delivered or not; the counts agree."""

    async def run():
        async with await Journal.in_memory(endpoint=ENDPOINT) as journal:
            await journal.add(JOBS)
            for change in changes:
                try:
                    await journal.write(change)
                except JournalError:
                    continue  # impossible at that stage; nothing was written
            waiting = [job_id for _, job_id in await waiting_in(journal, after=0, limit=9)]
            found = {which: await journal.records(which) for which in RecordFilter}
            ids = {which: [r.job_id for r in records] for which, records in found.items()}
            assert (
                sorted(waiting + ids[RecordFilter.FETCHING] + ids[RecordFilter.WITH_OUTCOME])
                == JOBS
            )
            assert (
                sorted(ids[RecordFilter.ACKNOWLEDGED] + ids[RecordFilter.UNACKNOWLEDGED])
                == ids[RecordFilter.WITH_OUTCOME]
            )
            for record in found[RecordFilter.WITH_OUTCOME]:
                assert (record.error is None) == (record.stage is Stage.DONE)
                assert (record.error is None) == (record.lasting is None)
                assert record.error is not None or record.snapshot is not None
                assert (record.file is None) == (record.modified_ns is None)
            counts = await journal.counts()
            assert counts.by_stage.get(Stage.WAITING, 0) == len(waiting)
            assert counts.acknowledged == len(ids[RecordFilter.ACKNOWLEDGED])
            assert counts.open == len(waiting) + len(ids[RecordFilter.FETCHING])

    asyncio.run(run())


# --- impossible changes -------------------------------------------------------------------------

IMPOSSIBLE = [
    Acknowledged("unknown", 1.0),
    Fetched("unknown", result(), 1, 1.0),
    FileLost("unknown"),
    GivenUp("unknown", AdePollError("x"), lasting=True, at=1.0),
    Settled(snapshot("unknown"), 1.0, fetching=False),
    Acknowledged("a", 1.0),  # has no outcome
    Fetched("a", result(), 1, 1.0),  # is not settled
    FileLost("a"),
    Fetched("b", ResultFile(path=Path("/r"), bytes=2**63, sha256=SHA), 1, 1.0),
    Fetched("b", ResultFile(path=Path("/r"), bytes=1, sha256="no hash"), 1, 1.0),
    Settled(snapshot("a"), math.nan, fetching=False),
]  # fmt: skip


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=repr)
async def test_an_impossible_change_fails_its_own_call_only(memory, change):
    await memory.add(["a", "b", "c"])
    await memory.write(Settled(snapshot("b"), 1.0, fetching=True))
    good, bad, other = await asyncio.gather(
        memory.write(StatusChanged("a", "pending")),
        memory.write(Settled(snapshot("c"), 1.0, fetching=True), change),
        memory.write(Fetched("b", result(), 1, 2.0)),
        return_exceptions=True,
    )
    assert (good, other) == (None, None)
    assert type(bad) is JournalError
    assert [r.job_id for r in await memory.records(RecordFilter.WITH_OUTCOME)] == ["b"]
    assert await waiting_in(memory, after=0, limit=9) == [(1, "a"), (3, "c")]


# --- writes that share a commit -----------------------------------------------------------------


class Counted:
    """Counts the transactions of a journal, and can delay them."""

    def __init__(self, journal, monkeypatch):
        self.groups = []
        self.go = threading.Event()
        self.go.set()
        write = Database.write

        def counted(database, calls, durable):
            self.go.wait(10)
            self.groups.append((len(calls), durable))
            return write(database, calls, durable)

        monkeypatch.setattr(Database, "write", counted)


@pytest.fixture
def groups(journal, monkeypatch):
    return Counted(journal, monkeypatch)


async def begin(*writes):
    """Start tasks that write. The first one runs if no other did, and the rest wait."""
    tasks = [asyncio.create_task(write) for write in writes]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_calls_during_a_transaction_share_the_next_one(journal, groups):
    ids = [f"j{n}" for n in range(20)]
    await journal.add(ids)
    groups.go.clear()
    first = await begin(journal.write(StatusChanged("j0", "pending")))
    rest = await begin(*(journal.write(StatusChanged(i, "pending")) for i in ids[1:]))
    groups.go.set()
    await asyncio.gather(*first, *rest)
    assert groups.groups == [(1, True), (19, True)]


async def test_a_transaction_is_durable_if_one_of_its_calls_is(journal, groups):
    await journal.add(["a", "b"])
    await asyncio.gather(
        journal.write(StatusChanged("a", "x"), durable=False),
        journal.write(StatusChanged("b", "x"), durable=True),
    )
    await journal.write(StatusChanged("a", "y"), durable=False)
    assert groups.groups == [(2, True), (1, False)]


@pytest.mark.parametrize(
    ("text", "recorded"),
    [("Processing", "processing"), ("on hold", "on hold"), ("On\x1bHold", r"On\x1bHold")],
)
async def test_a_known_status_is_recorded_in_lower_case(journal, path, text, recorded):
    await journal.add(["a"])
    await journal.write(StatusChanged("a", text))
    with JournalReader(path) as reader:
        assert [record.status_text for record in reader.records()] == [recorded]


async def test_durable_writes_are_synced_and_others_are_not(journal, monkeypatch):
    await journal.add(["a"])
    statements = []
    on_connection(journal, lambda connection: connection.set_trace_callback(statements.append))
    await journal.write(StatusChanged("a", "x"))
    await journal.write(StatusChanged("a", "y"), durable=False)
    await journal.set_note("durations", "{}")
    await journal.reopen()
    await journal.reopen_without_file()
    synchronous = [text for text in statements if "synchronous" in text]
    assert synchronous == [
        "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL",
        *["PRAGMA synchronous = FULL"] * 3,
    ]  # fmt: skip
    assert [text for text in statements if text in {"BEGIN IMMEDIATE", "COMMIT"}] == [
        "BEGIN IMMEDIATE", "COMMIT",
    ] * 5  # fmt: skip


async def test_a_write_without_changes_starts_no_transaction(journal, groups):
    await journal.write()
    assert groups.groups == []


async def test_a_cancelled_call_does_not_affect_other_calls(journal, groups):
    await journal.add(["a", "b", "c"])
    groups.go.clear()
    (running,) = await begin(journal.write(StatusChanged("a", "x")))
    queued, other = await begin(
        journal.write(StatusChanged("b", "x")), journal.write(StatusChanged("c", "x"))
    )
    running.cancel()
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(asyncio.CancelledError):
        await queued
    groups.go.set()
    await other
    await journal.write(StatusChanged("a", "y"))
    assert groups.groups == [(1, True), (1, True), (1, True)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_write_is_complete_or_absent_whichever_call_is_cancelled(plan):
    async def run():
        async with await Journal.in_memory(endpoint=ENDPOINT) as journal:
            ids = [(f"a{n}", f"b{n}") for n in range(len(plan))]
            await journal.add([job_id for pair in ids for job_id in pair])
            tasks = []
            for (cancel, turns), pair in zip(plan, ids, strict=True):
                changes = [Settled(snapshot(job_id), 1.0, fetching=False) for job_id in pair]
                tasks.append(asyncio.create_task(journal.write(*changes)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if cancel:
                    tasks[-1].cancel()
            returned = await asyncio.gather(*tasks, return_exceptions=True)
            done = {record.job_id for record in await journal.records(RecordFilter.WITH_OUTCOME)}
        for pair, outcome in zip(ids, returned, strict=True):
            assert len(done.intersection(pair)) in ({2} if outcome is None else {0, 2})

    asyncio.run(run())


async def test_a_cancelled_read_and_add_leave_the_journal_usable(journal):
    for call in (
        lambda: journal.add(["a"]),
        lambda: journal.records(RecordFilter.WITH_OUTCOME),
        lambda: journal.set_note("a", "b"),
    ):
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await journal.add(["b"]) == 1


# --- closing ------------------------------------------------------------------------------------


async def test_a_closed_journal_leaves_no_file_thread_or_task(path, tmp_path):
    threads = threading.active_count()
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
        assert {found.name for found in tmp_path.iterdir()} == {
            "batch.db", "batch.db-wal", "batch.db-shm", "batch.db.lock",
        }  # fmt: skip
    assert [found.name for found in tmp_path.iterdir()] == ["batch.db"]
    assert threading.active_count() == threads
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_writes_called_before_closing_are_written(path):
    journal = await Journal.open(path, endpoint=ENDPOINT)
    await journal.add(["a", "b"])
    writes = [
        asyncio.create_task(journal.write(Settled(snapshot(i), 1.0, fetching=False)))
        for i in ("a", "b")
    ]
    await asyncio.sleep(0)
    await journal.aclose()
    await asyncio.gather(*writes)
    assert [row[6] for row in dump(path)["jobs"]] == ["done", "done"]


async def test_closing_can_be_repeated(path):
    journal = await Journal.open(path, endpoint=ENDPOINT)
    await asyncio.gather(journal.aclose(), journal.aclose())
    await journal.aclose()


async def test_a_cancelled_close_still_closes(path, monkeypatch):
    journal = await Journal.open(path, endpoint=ENDPOINT)
    go = threading.Event()
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda database: (go.wait(10), close(database)))
    closing = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await (await Journal.open(path, endpoint=ENDPOINT)).aclose()


async def test_a_cancelled_opening_releases_the_file(path, tmp_path):
    threads = threading.active_count()
    for turns in range(3):
        opening = asyncio.create_task(Journal.open(path, endpoint=ENDPOINT))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert {found.name for found in tmp_path.iterdir()} <= {"batch.db"}
    assert threading.active_count() == threads
    await (await Journal.open(path, endpoint=ENDPOINT)).aclose()


async def test_a_closed_journal_raises(path):
    journal = await Journal.open(path, endpoint=ENDPOINT)
    await journal.aclose()
    for call in (
        lambda: journal.add(["a"]),
        lambda: journal.write(StatusChanged("a", "x")),
        journal.write,
        lambda: journal.waiting(after=0, limit=1),
        lambda: journal.records(RecordFilter.WITH_OUTCOME),
        journal.counts,
        lambda: journal.note("a"),
        lambda: journal.set_note("a", "b"),
        journal.reopen,
    ):
        with pytest.raises(ClosedError):
            await call()


async def test_a_journal_refuses_another_event_loop(journal):
    def elsewhere():
        with pytest.raises(ClosedError, match="another event loop"):
            asyncio.run(journal.counts())
        with pytest.raises(ClosedError, match="another event loop"):
            asyncio.run(journal.aclose())

    await asyncio.to_thread(elsewhere)
    await journal.add(["a"])


async def test_two_journals_in_one_process_are_independent(tmp_path):
    async with (
        await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT) as a,
        await Journal.open(tmp_path / "b.db", endpoint=ENDPOINT) as b,
    ):
        await asyncio.gather(a.add(["a"]), b.add(["b", "c"]))
        assert [(await each.counts()).jobs for each in (a, b)] == [1, 2]


# --- secrets and modes --------------------------------------------------------------------------


def leaks(folder):
    return [found.name for found in folder.iterdir() if CANARY.encode() in found.read_bytes()]


async def test_no_presigned_query_reaches_any_file_of_a_journal(path, tmp_path):
    secretive = snapshot(
        "a",
        "failed",
        output_url=PRESIGNED,
        failure_reason=f"PUT {PRESIGNED} returned 403\nsig={CANARY}",
        output_save_url=PRESIGNED,
        deeper=[{"Authorization": f"Bearer {CANARY}"}, {PRESIGNED: 'a "quote"'}],
    )
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a", "b", "c"])
        await journal.write(
            Settled(secretive, 1.0, fetching=False),
            StatusChanged("b", f"Bearer {CANARY}"),
            GivenUp("b", AdePollError(f"{PRESIGNED} and sig={CANARY}"), lasting=True, at=1.0),
            GivenUp("c", ResultUrlError(job_id="c", url=PRESIGNED, reason="no"),
                    lasting=True, at=1.0),
        )  # fmt: skip
        assert leaks(tmp_path) == []
        record = (await journal.records(RecordFilter.WITH_OUTCOME))[0]
        assert record.snapshot.output_url == "https://bucket.s3.example/r.json?REDACTED"
        assert record.snapshot.failure_reason.startswith("PUT https://bucket.s3.example/r.json?")
        assert CANARY not in repr(await journal.records(RecordFilter.WITH_OUTCOME))
    assert leaks(tmp_path) == []


@pytest.mark.parametrize("secret", ["https://user:pw@api.example", f"https://a.example?k={CANARY}"])
async def test_an_endpoint_with_a_secret_is_refused_before_a_file_is_created(path, secret):
    with pytest.raises(ConfigurationError) as caught:
        await Journal.open(path, endpoint=secret)
    assert CANARY not in str(caught.value)
    assert not path.exists()


async def test_an_id_that_looks_like_a_secret_is_not_redacted(journal):
    await journal.add(["sig=1234"])
    await journal.write(Settled(snapshot("sig=1234"), 1.0, fetching=False))
    assert (await one(journal)).snapshot.job_id == "sig=1234"


async def test_an_inline_result_is_kept_unchanged_with_its_urls(journal):
    await journal.add(["a"])
    await journal.write(Settled(inline("a", PRESIGNED), 1.0, fetching=False))
    assert (await one(journal)).snapshot.data.extraction == {"a": PRESIGNED}


@pytest.mark.posix
@pytest.mark.parametrize("mask", [0o000, 0o277])
async def test_only_the_owner_can_read_the_files_with_any_umask(path, tmp_path, mask):
    before = os.umask(mask)
    try:
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add(["a"])
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ["batch.db", "batch.db-wal", "batch.db-shm", "batch.db.lock"], 0o600
    )


# --- is_busy ------------------------------------------------------------------------------------


async def test_a_journal_is_busy_while_calls_read(journal):
    await journal.add(["a"])
    assert not journal.is_busy
    first, second = (asyncio.create_task(call) for call in (journal.counts(), journal.note("n")))
    await asyncio.sleep(0)  # both have begun, and their ends need another turn of the loop
    assert journal.is_busy
    await asyncio.wait([first, second])
    assert not journal.is_busy


async def test_a_journal_is_busy_while_calls_write(journal):
    await journal.add(["a"])
    writing = asyncio.create_task(journal.write(StatusChanged("a", "x")))
    await asyncio.sleep(0)
    assert journal.is_busy
    await writing
    await until(lambda: not journal.is_busy)


async def test_adding_ids_does_not_make_a_journal_busy(journal):
    adding = asyncio.create_task(journal.add(["a"]))
    await asyncio.sleep(0)
    assert not journal.is_busy
    await adding


# --- a full disk --------------------------------------------------------------------------------


def fill(journal):
    """Allow no more pages; SQLite reports this like a full disk."""

    def limit(connection):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    on_connection(journal, limit)


def empty(journal):
    on_connection(journal, lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))


async def test_a_full_disk_fails_every_call_of_the_transaction_and_later_calls_succeed(
    journal, path
):
    ids = [f"j{n}" for n in range(40)]
    await journal.add(ids)
    fill(journal)
    reason = "x" * 3_000
    settled = [
        Settled(snapshot(i, "failed", failure_reason=reason), 1.0, fetching=False) for i in ids
    ]
    errors = await asyncio.gather(*map(journal.write, settled), return_exceptions=True)
    assert {type(error) for error in errors} == {JournalWriteError}
    assert len({id(error) for error in errors}) == 40
    assert all(isinstance(error.__cause__, sqlite3.Error) for error in errors)
    assert (errors[0].code, errors[0].errno, errors[0].path) == ("SQLITE_FULL", 28, str(path))
    assert "free some space" in str(errors[0])
    assert (await journal.counts()).by_stage == {Stage.WAITING: 40}
    empty(journal)
    await asyncio.gather(*map(journal.write, settled))
    assert (await journal.counts()).by_stage == {Stage.DONE: 40}


async def test_a_full_disk_adds_no_id_of_its_chunk(journal):
    fill(journal)
    with pytest.raises(JournalWriteError):
        await journal.add([f"j{n}" for n in range(5_000)])
    assert (await journal.counts()).jobs == 0
    empty(journal)
    assert await journal.add([f"j{n}" for n in range(5_000)]) == 5_000


async def test_a_write_fails_while_a_shell_writes_and_succeeds_later(journal, path, monkeypatch):
    await journal.add(["a"])
    on_connection(journal, lambda connection: connection.execute("PRAGMA busy_timeout = 20"))
    shell = sqlite3.connect(path, isolation_level=None)
    try:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalWriteError, match="sqlite3 shell"):
            await journal.write(StatusChanged("a", "x"))
    finally:
        shell.close()
    await journal.write(StatusChanged("a", "x"))


async def test_a_second_opening_in_one_process_is_refused_without_harm(journal, path):
    await journal.add(["a"])
    for _ in range(2):
        with pytest.raises(JournalBusyError) as caught:
            await Journal.open(path, endpoint=ENDPOINT)
        assert caught.value.pid == os.getpid()
    await journal.write(StatusChanged("a", "x"))


async def test_similar_ids_are_those_of_another_job(journal):
    parse = JobRef("same", kind=JobKind.V1_PARSE)
    ids = ["a", "A", "b", "C", "same", "\u00e9", "E\u0301", "E"]
    await journal.add([*ids, parse, JobRef("D", label="d")])
    asked = [*ids, "D", "d", "unknown"]
    assert await journal.similar_ids(asked) == {"a", "A", "same", "\u00e9", "E\u0301"}
    assert await journal.similar_ids([]) == set()
