"""Converts a job to the values that a journal stores.

The values of an added job are id, kind, label and `BatchJob.columns`. The values of a settled job
are its snapshot and, separately, its inline result.
"""

import json
import sqlite3
from contextlib import suppress
from typing import TypeAlias

from adepoll.api import codec
from adepoll.api.file_names import label_stem, name_key
from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import JobKind, JobRef, kind_of_id
from adepoll.api.models import JobSnapshot
from adepoll.journal.outcomes import BatchJob

JobToAdd: TypeAlias = str | JobRef | BatchJob
StoredJob: TypeAlias = tuple[str, str, str | None, str | None, str | None, str | None]
"""Id, name of the kind, key of the id (`id_key`), label, its key (`label_key`), JSON of columns."""


def stored_job(job: JobToAdd, default: JobKind) -> StoredJob:
    """Return the values that a journal stores when a job is added.

    Args:
        job: The job.
        default: Kind to assume for an id that does not contain its kind.

    Raises:
        InvalidJobIdError: The id breaks the rules for job ids.
    """
    if is_plain(job):  # a fast path, because nearly all jobs are plain ids
        return job, (kind_of_id(job) or default).name, id_key(job), None, None, None
    columns = None
    if isinstance(job, BatchJob):
        if job.columns:
            columns = json.dumps(dict(job.columns), separators=(",", ":"))
        job = job.ref
    ref = JobRef.of(job)
    label = None if ref.label is None else _storable(ref.label)
    key = None if label is None else label_key(label)
    kind = ref.kind_or(default).name
    return ref.job_id, kind, id_key(ref.job_id), label, key, columns


def check_job(job: JobToAdd) -> None:
    """Raise `InvalidJobIdError` if the id of a job breaks the rules for job ids."""
    JobRef.of(job.ref if isinstance(job, BatchJob) else job)


def id_key(job_id: str) -> str | None:
    """Return the `name_key` of an id; None if it is the id itself, as for nearly all ids."""
    key = name_key(job_id)
    return None if key == job_id else key


def label_key(label: str) -> str:
    """Return a key that is equal for two labels that give their result files the same name.

    The names can also be different, but the same for some file systems (`name_key`).
    """
    return name_key(label_stem(label))


def _storable(text: str) -> str:
    r"""Return a text that SQLite can store.

    Python uses surrogates for the bytes of a file name that are not UTF-8. Each surrogate becomes
    an escape of six characters, such as ``\udcff``.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def snapshot_json(snapshot: JobSnapshot) -> str:
    """Return a snapshot as JSON, without its result and without possible secrets.

    Any text of the service can contain a presigned URL, which is a secret. For example, if the
    service cannot store a result at the `output_save_url`, the failure reason contains this URL.
    """
    return snapshot.without_data().redacted().to_json()


def result_json(connection: sqlite3.Connection, snapshot: JobSnapshot) -> str:
    """Return the JSON of an inline result.

    This is the text that the service sent, if the snapshot has kept it and SQLite accepts it as
    JSON. Otherwise, for example if the text contains NaN, the decoded result is encoded again.
    """
    received = None if snapshot.received_result is None else snapshot.received_result.read()
    if received is not None:
        with suppress(UnicodeDecodeError):
            text = received.decode()
            if connection.execute("SELECT json_valid(?)", (text,)).fetchone()[0]:
                return text
    return codec.encode(snapshot.data)
