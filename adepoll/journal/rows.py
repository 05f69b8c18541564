"""Rows of a journal and what they mean: texts that may be kept, Record, Counts, Failure.

Imports outcome, models, errors, wire and redaction.
"""

import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from adepoll.api.kinds import v1_extract
from adepoll.api.models import JobSnapshot, Json
from adepoll.errors import AdePollError, JournalDamagedError
from adepoll.journal.outcomes import Counts, Record, RecordedError, ResultFile, Stage, as_recorded
from adepoll.redaction import redact_text, showable

_LONGEST_STATUS: Final = 100
_LONGEST_ERROR: Final = 1_000
_LONGEST_KIND: Final = 80

RECORD_COLUMNS: Final = (
    "number, job_id, stage, status, added_at, settled_at, done_at, delivered_at, result_path,"
    " result_bytes, result_sha256, result_modified_ns, error_kind, error, lasting, snapshot"
)


@frozen(kw_only=True)
class Failure:
    """Jobs that went wrong in one and the same way.

    Attributes:
        kind: The name of the error's class; ``JobFailedError`` where the service tells the job as
            failed.
        reason: What the error says, with "..." for the job id; None where no reason was given.
        lasting: Whether trying again is of no use.
        jobs: How many there are.
        example: One of them.
    """

    kind: str
    reason: str | None
    lasting: bool
    jobs: int
    example: str


# --- to be written ------------------------------------------------------------------------------


def status_to_keep(status_text: str) -> str:
    """Give a status as it may be written down: the documented ones unchanged."""
    return showable(status_text, _LONGEST_STATUS)


def error_to_keep(error: AdePollError) -> tuple[str, str]:
    """Give kind and text of an error, as they may be written down."""
    recorded = as_recorded(error)
    kind = showable(recorded.kind, _LONGEST_KIND)
    return kind, showable(str(recorded), _LONGEST_ERROR)


def snapshot_to_keep(snapshot: JobSnapshot) -> str:
    """Give a snapshot as JSON, without its data and without what could be a secret.

    Any text of the service can hold a presigned URL: a failure reason does, when the result could
    not be put where the caller wanted it.
    """
    text = evolve(snapshot.redacted(), data=None).to_json()
    raw = json.loads(text)
    kept = _redacted(raw, snapshot.job_id)
    return text if kept == raw else json.dumps(kept, allow_nan=False, separators=(",", ":"))


def path_to_keep(path: Path) -> str | bytes:
    """Give the absolute path as text; as bytes, where it is no UTF-8."""
    shown = str(path.absolute())
    try:
        shown.encode()
    except UnicodeEncodeError:
        return os.fsencode(shown)
    return shown


def _redacted(value: Json, job_id: str) -> Json:
    if isinstance(value, str):
        return value if value == job_id else redact_text(value)
    if isinstance(value, dict):
        return {redact_text(key): _redacted(item, job_id) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, job_id) for item in value]
    return value


# --- as it was written --------------------------------------------------------------------------


def record_of(row: tuple[Any, ...], data: str | None, path: Path | None) -> Record:
    """Give the record of a row of `RECORD_COLUMNS`, with its inline result if that is given.

    Raises:
        JournalDamagedError: They cannot be what was written; `path` is the journal.
    """
    (number, job_id, stage, status, added_at, settled_at, done_at, delivered_at, where, size,
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
            if where is None
            else ResultFile(path=Path(os.fsdecode(where)), bytes=size, sha256=sha256),
            modified_ns=modified_ns,
            error=None if kind is None else RecordedError(error, kind=kind),
            lasting=None if lasting is None else bool(lasting),
            added_at=added_at,
            settled_at=settled_at,
            done_at=done_at,
            delivered_at=delivered_at,
        )
    except (AdePollError, ValueError, TypeError):
        # What the error says may quote a customer's document.
        problem = f"the record of job number {number} cannot be read"
    raise JournalDamagedError([problem], path=None if path is None else str(path))


def count(connection: sqlite3.Connection) -> Counts:
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


def span(connection: sqlite3.Connection) -> tuple[float | None, float | None]:
    """Give when the first job was added, and when the last outcome was written down."""
    began, last = connection.execute(
        "SELECT (SELECT added_at FROM jobs ORDER BY number LIMIT 1), max(done_at) FROM jobs"
    ).fetchone()
    return began, last


def failures(connection: sqlite3.Connection, most: int) -> list[Failure]:
    """Give what went wrong, the most frequent first; at most so many."""
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
        (most,),
    )
    return [
        Failure(kind=kind, reason=reason, lasting=bool(lasting), jobs=jobs, example=job_id)
        for kind, reason, lasting, jobs, _, job_id in rows
    ]
