"""The queries that `Database` and `JournalReader` share: records, counts and failures."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from attrs import evolve

from adepoll.api.file_names import name_key
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.kinds.registry import decode_result
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.received_result import ReceivedResult
from adepoll.common.redaction import redact_text, showable
from adepoll.errors import AdePollError
from adepoll.journal.foreign_file import (
    are_columns,
    damaged,
    is_kind,
    is_time,
    problem_of_job,
    row_problem,
)
from adepoll.journal.outcomes import (
    LONGEST_NAME,
    MOST_CREDITS,
    Counts,
    Failure,
    Record,
    RecordedError,
    ResultFile,
    Stage,
)

RECORD_COLUMNS: Final = (
    "number, job_id, kind, label, columns, stage, status, added_at, settled_at, done_at,"
    " delivered_at, result_path, result_bytes, result_sha256, result_modified_ns, error_kind,"
    " error, lasting, snapshot"
)
_STAGES: Final = frozenset(stage.value for stage in Stage)


class RecordFilter(Enum):
    """Selects the jobs whose records are read; each value is a part of an SQL statement."""

    # Settled jobs whose results must still be fetched.
    FETCHING = "INDEXED BY jobs_fetching WHERE stage = 'fetching'"
    # Jobs with an outcome.
    WITH_OUTCOME = "NOT INDEXED WHERE done_at IS NOT NULL"
    # Jobs with an outcome that the program has acknowledged, by requesting the next one.
    ACKNOWLEDGED = "NOT INDEXED WHERE delivered_at IS NOT NULL"
    # Jobs with an outcome that the program has not acknowledged.
    UNACKNOWLEDGED = (
        "INDEXED BY jobs_undelivered WHERE done_at IS NOT NULL AND delivered_at IS NULL"
    )


def record_from_row(row: tuple[Any, ...], data: str | None, path: Path | None) -> Record:
    """Return the record of a job.

    Args:
        row: The values of `RECORD_COLUMNS`.
        data: JSON of the inline result; None to return a record without one.
        path: Path of the journal, for errors; None if the journal is in memory.

    Raises:
        JournalDamagedError: The row has a value that adepoll cannot have written.
    """
    (number, job_id, kind_name, label, columns, stage, status, added_at, settled_at, done_at,
     delivered_at, file_path, size, sha256, modified_ns, error_kind, error, lasting,
     text) = row  # fmt: skip
    if (problem := row_problem(row)) is not None:
        raise damaged(f"the record of job number {number!r}: {problem}", path)
    try:
        snapshot = None if text is None else JobSnapshot.from_json(text)
        kind = JobKind(kind_name)
        if snapshot is not None:
            if (snapshot.job_id, snapshot.kind) != (job_id, kind):
                raise ValueError  # noqa: TRY301 - the same error as for a snapshot that cannot be read
            snapshot = evolve(snapshot, label=label)
        if snapshot is not None and data is not None:
            snapshot = evolve(
                snapshot,
                data=decode_result(snapshot.kind, data),
                received_result=ReceivedResult(data.encode()),
            )
        return Record(
            number=number,
            job_id=job_id,
            kind=kind,
            label=label,
            columns={} if columns is None else json.loads(columns),
            stage=Stage(stage),
            status_text=status,
            snapshot=snapshot,
            file=None
            if file_path is None
            else ResultFile(path=Path(os.fsdecode(file_path)), bytes=size, sha256=sha256),
            modified_ns=modified_ns,
            error=None if error_kind is None else RecordedError(error, error_class=error_kind),
            lasting=None if lasting is None else bool(lasting),
            added_at=added_at,
            settled_at=settled_at,
            done_at=done_at,
            delivered_at=delivered_at,
        )
    except (AdePollError, ValueError, TypeError):
        # These errors may quote a customer's document. So raise the new error outside of this
        # handler: otherwise the traceback would show both.
        pass
    raise damaged(f"the record of job number {number} cannot be read", path)


def waiting_jobs(
    path: Path | None, after: int, limit: int, connection: sqlite3.Connection
) -> list[tuple[int, JobRef]]:
    """Return jobs that must still be watched, with their numbers, the lowest numbers first.

    Args:
        path: Path of the journal, for errors; None if the journal is in memory.
        after: Only jobs with a higher number are returned.
        limit: Maximum number of jobs.
        connection: An open connection to the journal.

    Raises:
        JournalDamagedError: The id, kind or label of a job is invalid.
    """
    rows = connection.execute(
        "SELECT number, job_id, kind, label FROM jobs INDEXED BY jobs_waiting"
        " WHERE stage = 'waiting' AND number > ? ORDER BY number LIMIT ?",
        (after, limit),
    ).fetchall()
    for number, job_id, kind, label in rows:
        if (problem := problem_of_job(job_id, kind, label)) is not None:
            raise damaged(f"the record of job number {number}: {problem}", path)
    return [
        (number, JobRef(job_id, kind=JobKind(kind), label=label))
        for number, job_id, kind, label in rows
    ]


def columns_of(
    path: Path | None, jobs: Collection[JobRef], connection: sqlite3.Connection
) -> dict[JobRef, Mapping[str, str]]:
    """Return the columns (`BatchJob.columns`) of jobs; jobs without columns are left out.

    Raises:
        JournalDamagedError: The columns of a job are not texts. The error shows `path`.
    """
    found = {}
    for job in jobs:
        kind = job.kind_or(JobKind.V1_EXTRACT)
        row = connection.execute(
            "SELECT columns FROM jobs WHERE job_id = ? AND kind = ? AND columns IS NOT NULL",
            (job.job_id, kind.name),
        ).fetchone()
        if row is not None:
            if not are_columns(row[0]):
                raise damaged("the columns of a job are not texts", path)
            found[job] = json.loads(row[0])
    return found


def shared_names(names: Collection[str], connection: sqlite3.Connection) -> set[str]:
    """Return the names in `names` that two or more jobs have; see `Journal.shared_names`."""
    keys = {name: name_key(name) for name in names}
    jobs = Counter(_jobs_by_id_key({*keys.values()}, connection, "label IS NULL"))
    jobs.update(
        dict(
            connection.execute(
                "SELECT label_key, count(*) FROM jobs INDEXED BY jobs_labelled"
                " WHERE label_key IN (SELECT value FROM json_each(?)) GROUP BY label_key",
                (json.dumps([*keys.values()]),),
            )
        )
    )
    return {name for name, key in keys.items() if jobs[key] > 1}


def similar_ids(job_ids: Collection[str], connection: sqlite3.Connection) -> set[str]:
    """Return the ids for which there is a similar id; see `Journal.similar_ids`."""
    keys = {job_id: name_key(job_id) for job_id in job_ids}
    jobs = _jobs_by_id_key({*keys.values()}, connection, "TRUE")
    return {job_id for job_id, key in keys.items() if jobs.get(key, 0) > 1}


def _jobs_by_id_key(
    keys: Collection[str], connection: sqlite3.Connection, condition: str
) -> dict[str, int]:
    """Count the jobs that have one of these keys as the `name_key` of their id, by key.

    `condition` is an SQL condition for the jobs to count.
    """
    text = json.dumps([*keys])
    rows = connection.execute(
        "SELECT id_key, count(*) FROM jobs INDEXED BY jobs_with_id_key"  # noqa: S608 - built from constants
        " WHERE id_key IN (SELECT value FROM json_each(:keys)) AND id_key IS NOT NULL"
        f" AND {condition} GROUP BY id_key"
        " UNION ALL SELECT job_id, count(*) FROM jobs"
        " WHERE job_id IN (SELECT value FROM json_each(:keys)) AND id_key IS NULL"
        f" AND {condition} GROUP BY job_id",
        {"keys": text},
    )
    jobs: Counter[str] = Counter()
    for key, count in rows:
        jobs[key] += count
    return jobs


def count_jobs(path: Path | None, connection: sqlite3.Connection) -> Counts:
    """Count the jobs by stage and by status; read only indexes.

    Args:
        path: Path of the journal, for errors; None if the journal is in memory.
        connection: An open connection to the journal.

    Raises:
        JournalDamagedError: A job has an impossible stage, status, size or number of credits.
    """
    (waiting,) = connection.execute(
        "SELECT count(*) FROM jobs INDEXED BY jobs_waiting WHERE stage = 'waiting'"
    ).fetchone()
    by_stage = Counter({Stage.WAITING: waiting} if waiting else {})
    by_status: Counter[str] = Counter()
    all_acknowledged = all_bytes = without_file = all_partial = 0
    all_credits = 0.0
    rows = connection.execute(
        "SELECT stage, status, count(*), count(settled_at), count(delivered_at),"
        " count(result_bytes), coalesce(sum(result_bytes), 0), coalesce(sum(partial), 0),"
        " total(credits)"
        " FROM jobs INDEXED BY jobs_counted WHERE stage <> 'waiting' GROUP BY stage, status"
    )
    for stage, status, jobs, settled, acknowledged, files, size, partial, cost in rows:
        if (
            stage not in _STAGES
            or not isinstance(status, str | None)
            or type(size) is not int
            or type(partial) is not int
            or not 0 <= cost <= jobs * MOST_CREDITS
        ):
            raise damaged("a job has an impossible stage, status, size or cost", path)
        by_stage[Stage(stage)] += jobs
        if settled:
            by_status[status or "unknown"] += settled
        all_acknowledged += acknowledged
        all_bytes += size
        if stage == Stage.DONE and JobStatus.parse(status or "") is JobStatus.COMPLETED:
            without_file += jobs - files
        all_partial += partial
        all_credits += cost
    return Counts(
        jobs=by_stage.total(),
        by_stage=dict(by_stage),
        by_status=dict(by_status),
        acknowledged=all_acknowledged,
        bytes=all_bytes,
        without_file=without_file,
        partial=all_partial,
        credits=round(all_credits, 6),  # a sum of floats such as 0.1 ends in many digits
    )


def count_kinds(path: Path, connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of jobs of each kind, the most frequent kind first, at most 100 kinds.

    Raises:
        JournalDamagedError: A kind is impossible. The error shows `path`.
    """
    rows = connection.execute(
        "SELECT kind, count(*) FROM jobs GROUP BY kind ORDER BY count(*) DESC, kind LIMIT 100"
    ).fetchall()
    if not all(is_kind(kind) for kind, _ in rows):
        raise damaged("a kind is not a kind of jobs", path)
    return dict(rows)


def time_span(path: Path, connection: sqlite3.Connection) -> tuple[float | None, float | None]:
    """Return when the first job was added and when the last outcome was recorded.

    Both are Unix times. The first is None if there is no job, the second if there is no outcome.

    Raises:
        JournalDamagedError: A value is not a Unix time. The error shows `path`.
    """
    first, last = connection.execute(
        "SELECT (SELECT added_at FROM jobs ORDER BY number LIMIT 1), max(done_at) FROM jobs"
    ).fetchone()
    if all(time is None or is_time(time) for time in (first, last)):
        return first, last
    raise damaged("a time is not a number", path)


def has_retryable(connection: sqlite3.Connection) -> bool:
    """Return whether a job was given up after an error that is not lasting."""
    rows = connection.execute(
        "SELECT 1 FROM jobs INDEXED BY jobs_counted"
        " WHERE stage = 'given_up' AND stage <> 'waiting' AND lasting = 0 LIMIT 1"
    )
    return rows.fetchone() is not None


def group_failures(path: Path, limit: int, connection: sqlite3.Connection) -> list[Failure]:
    """Group failed and given-up jobs by the reason; return the `limit` largest groups.

    Raises:
        JournalDamagedError: A recorded error is not text, or a job has an invalid id or kind.
            The error shows `path`.
    """
    rows = connection.execute(
        """
        SELECT error_kind, reason, lasting, count(*) AS jobs, min(number), job_id, kind
        FROM (
            SELECT number, job_id, kind, error_kind, replace(error, job_id, '...') AS reason,
                   lasting
            FROM jobs WHERE stage = 'given_up'
            UNION ALL
            SELECT number, job_id, kind, 'JobFailedError',
                   json_extract(snapshot, '$.failure_reason'), 1
            FROM jobs WHERE stage = 'done' AND status = 'failed'
        )
        GROUP BY error_kind, reason, lasting
        ORDER BY jobs DESC, min(number) LIMIT ?
        """,
        (limit,),
    )
    failures = []
    for error_kind, reason, lasting, jobs, _, job_id, kind in rows:
        if (problem := problem_of_job(job_id, kind, None)) is not None:
            raise damaged(f"a job with an error: {problem}", path)
        if not (isinstance(error_kind, str) and isinstance(reason, str | None)):
            raise damaged("an error is not text", path)
        failures.append(
            Failure(
                error_class=showable(error_kind, LONGEST_NAME),
                reason=None if reason is None else redact_text(reason),
                lasting=bool(lasting),
                jobs=jobs,
                example=str(JobRef(job_id, kind=JobKind(kind))),
            )
        )
    return failures
