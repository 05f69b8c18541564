"""The queries that `Database` and `JournalReader` share: records, counts and failures."""

import os
import sqlite3
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Any, Final

from attrs import evolve

from adepoll.api.kinds import v1_extract
from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, JournalDamagedError
from adepoll.journal.outcomes import Counts, Failure, Record, RecordedError, ResultFile, Stage

RECORD_COLUMNS: Final = (
    "number, job_id, stage, status, added_at, settled_at, done_at, delivered_at, result_path,"
    " result_bytes, result_sha256, result_modified_ns, error_kind, error, lasting, snapshot"
)


class RecordFilter(Enum):
    """The jobs whose records are read; each value is the SQL that selects these jobs."""

    # Settled; their results must still be fetched.
    FETCHING = "INDEXED BY jobs_fetching WHERE stage = 'fetching'"
    # Settled, and given up because their results could not be fetched.
    FETCH_GIVEN_UP = "NOT INDEXED WHERE stage = 'given_up' AND settled_at IS NOT NULL"
    # With an outcome.
    WITH_OUTCOME = "NOT INDEXED WHERE done_at IS NOT NULL"
    # With an outcome that the consumer has taken.
    DELIVERED = "NOT INDEXED WHERE delivered_at IS NOT NULL"
    # With an outcome that the consumer has not taken.
    UNDELIVERED = "INDEXED BY jobs_undelivered WHERE done_at IS NOT NULL AND delivered_at IS NULL"


def record_from_row(row: tuple[Any, ...], data: str | None, path: Path | None) -> Record:
    """Return the record of a row of `RECORD_COLUMNS`, with its inline result if `data` has one.

    Raises:
        JournalDamagedError: adepoll cannot have written this row; `path` is the journal.
    """
    (number, job_id, stage, status, added_at, settled_at, done_at, delivered_at, file_path, size,
     sha256, modified_ns, kind, error, lasting, text) = row  # fmt: skip
    try:
        snapshot = None if text is None else JobSnapshot.from_json(text)
        if snapshot is not None and data is not None:
            snapshot = evolve(snapshot, data=v1_extract.decode_result(data))
        return Record(
            number=number,
            job_id=job_id,
            stage=Stage(stage),
            status_text=status,
            snapshot=snapshot,
            file=None
            if file_path is None
            else ResultFile(path=Path(os.fsdecode(file_path)), bytes=size, sha256=sha256),
            modified_ns=modified_ns,
            error=None if kind is None else RecordedError(error, kind=kind),
            lasting=None if lasting is None else bool(lasting),
            added_at=added_at,
            settled_at=settled_at,
            done_at=done_at,
            delivered_at=delivered_at,
        )
    except (AdePollError, ValueError, TypeError):
        # Raised outside of this block: the text of these errors may quote a customer's document.
        problem = f"the record of job number {number} cannot be read"
    raise JournalDamagedError([problem], path=None if path is None else str(path))


def count_jobs(connection: sqlite3.Connection) -> Counts:
    """Count the jobs; reads indexes only."""
    (waiting,) = connection.execute(
        "SELECT count(*) FROM jobs INDEXED BY jobs_waiting WHERE stage = 'waiting'"
    ).fetchone()
    by_stage = Counter({Stage.WAITING: waiting} if waiting else {})
    by_status: Counter[str] = Counter()
    all_delivered = all_bytes = 0
    for stage, status, jobs, settled, delivered, size in connection.execute(
        "SELECT stage, status, count(*), count(settled_at), count(delivered_at),"
        " coalesce(sum(result_bytes), 0)"
        " FROM jobs INDEXED BY jobs_counted WHERE stage <> 'waiting' GROUP BY stage, status"
    ):
        by_stage[Stage(stage)] += jobs
        if settled:
            by_status[status] += settled
        all_delivered += delivered
        all_bytes += size
    return Counts(
        jobs=by_stage.total(),
        by_stage=dict(by_stage),
        by_status=dict(by_status),
        delivered=all_delivered,
        bytes=all_bytes,
    )


def time_span(connection: sqlite3.Connection) -> tuple[float | None, float | None]:
    """Return when the first job was added and when the last outcome was recorded."""
    first, last = connection.execute(
        "SELECT (SELECT added_at FROM jobs ORDER BY number LIMIT 1), max(done_at) FROM jobs"
    ).fetchone()
    return first, last


def group_failures(connection: sqlite3.Connection, limit: int) -> list[Failure]:
    """Group failed and given-up jobs by reason; return the `limit` largest groups."""
    rows = connection.execute(
        """
        SELECT kind, reason, lasting, count(*) AS jobs, min(number), job_id
        FROM (
            SELECT number, job_id, error_kind AS kind, replace(error, job_id, '...') AS reason,
                   lasting
            FROM jobs WHERE stage = 'given_up'
            UNION ALL
            SELECT number, job_id, 'JobFailedError', json_extract(snapshot, '$.failure_reason'), 1
            FROM jobs WHERE stage = 'done' AND status = 'failed'
        )
        GROUP BY kind, reason, lasting
        ORDER BY jobs DESC, min(number) LIMIT ?
        """,
        (limit,),
    )
    return [
        Failure(kind=kind, reason=reason, lasting=bool(lasting), jobs=jobs, example=job_id)
        for kind, reason, lasting, jobs, _, job_id in rows
    ]
