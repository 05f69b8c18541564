"""docs/journal.md describes all columns, and its queries return what the page says."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from adepoll import JobKind, JobRef, Journal
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobSnapshot
from adepoll.errors import JobNotFoundError
from adepoll.journal import Fetched, GivenUp, JournalReader, Settled
from adepoll.journal.outcomes import ResultFile

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text("utf-8")
QUERIES = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def settled(job_id, at, *, status="completed", fetching=False, **fields):
    metadata = {"filename": "a.pdf", "org_id": None, "duration_ms": 1, "credit_usage": 1.5,
                "job_id": job_id, "version": "v-1"}  # fmt: skip
    raw = {"job_id": job_id, "status": status, "received_at": 1_700_000_000, "progress": 1.0,
           "version": "v-1", "metadata": metadata | fields.pop("metadata", {})}  # fmt: skip
    if fields.pop("inline", False):
        raw["data"] = {"extraction": {"total": 42}, "extraction_metadata": {}, "metadata": metadata}
    job = JobSnapshot.from_json(json.dumps(raw | fields))
    return Settled(job, 1_700_000_000.0 + at, fetching=fetching)


@pytest.fixture
async def journal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with await Journal.open("batch.db", endpoint="https://api.example") as journal:
        await journal.add([f"job-{n}" for n in range(6)])
        file = ResultFile(path=tmp_path / "r", bytes=2_000_000, sha256="0" * 64)
        await journal.write(
            settled("job-0", 30, inline=True),
            settled("job-1", 50, fetching=True),
            Fetched("job-1", file, 1, 1_700_000_060.0),
            settled("job-2", 10, status="failed", failure_reason="bad scan"),
            settled(
                "job-3", 20, violates_schema=True, metadata={"schema_violation_error": "no total"}
            ),
            *(
                GivenUp(i, JobNotFoundError(status=404, job_id=i), lasting=True, at=1.0)
                for i in ("job-4", "job-5")
            ),
        )
        yield journal


@pytest.fixture
def query(journal):
    """Run a query like a sqlite3 shell while the batch runs."""
    connection = sqlite3.connect("batch.db", isolation_level=None)
    yield lambda sql: connection.execute(sql).fetchall()
    connection.close()


def test_the_page_has_six_queries_and_a_backup():
    assert len(QUERIES) == 7


def test_the_queries_return_what_the_page_says(query):
    progress, reasons, violations, credits_, longest, totals = map(query, QUERIES[:6])
    assert set(progress) == {
        ("done", "completed", 3, 2.0), ("done", "failed", 1, None), ("given_up", None, 2, None),
    }  # fmt: skip
    assert reasons == [
        ("JobNotFoundError",
         f"job ...: the service answered 404 ({JobNotFoundError.hint})",
         2, "job-4"),
        ("JobFailedError", "bad scan", 1, "job-2"),
    ]  # fmt: skip
    assert violations == [("job-3", "no total", None)]
    assert credits_ == [("v1-extract", "v-1", 3, 4.5)]
    assert longest[0] == ("job-1", 50.0, "2023-11-14 22:14:10")
    assert [row[0] for row in longest] == ["job-1", "job-0", "job-3", "job-2"]
    assert totals == [("job-0", 42)]


async def test_the_queries_return_the_numbers_of_v2_jobs(query, journal):
    received = 1_700_000_000.0
    times = {"created_at": received, "completed_at": received + 80}
    billing = {"total_credits": 2.5, "service_tier": "standard"}
    for number, job in enumerate(
        [
            {"status": "completed", "metadata": {"model_version": "dpt-3", "billing": billing}},
            {"status": "failed", "error": {"code": "internal_error", "message": "no pages"}},
        ]
    ):
        ref = JobRef(f"v2-{number}", kind=JobKind.V2_PARSE)
        answer = {"job_id": ref.job_id, **times, **job}
        snapshot = RULES[JobKind.V2_PARSE].decode_job(json.dumps(answer))
        await journal.add([ref])
        await journal.write(Settled(snapshot, received + 90, fetching=False))
    _, reasons, _, credits_, longest = map(query, QUERIES[:5])
    assert ("JobFailedError", "no pages (internal_error)", 1, "v2-1") in reasons
    assert ("v2-parse", "dpt-3", 1, 2.5) in credits_
    assert [row[:2] for row in longest][:2] == [("v2-0", 80.0), ("v2-1", 80.0)]


def test_the_backup_contains_the_wal(query, journal):
    query(QUERIES[6])
    with JournalReader("backup.db") as backup, JournalReader("batch.db") as reader:
        assert backup.counts() == reader.counts()
        assert backup.counts().jobs == 6


def test_the_page_describes_exactly_the_existing_columns(query):
    columns = {name for _, name, *_ in query("PRAGMA table_info(jobs)")}
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Tables")[2], re.MULTILINE))
    assert described == columns
    tables = {name for (name,) in query("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert all(f"`{table}` has" in PAGE for table in tables)


def test_the_pragmas_have_the_values_on_the_page(query):
    for pragma, shown in (("application_id", "is {}"), ("user_version", "is the format, now {}")):
        ((value,),) = query(f"PRAGMA {pragma}")
        assert f"`PRAGMA {pragma}` {shown.format(value)}" in PAGE
