"""What a journal stores of a job that is added: id, kind, label, and the caller's columns."""

import json
from typing import TypeAlias

from adepoll.api.file_names import label_stem
from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import JobKind, JobRef, kind_of_id
from adepoll.journal.outcomes import BatchJob

JobToAdd: TypeAlias = str | JobRef | BatchJob
StoredJob: TypeAlias = tuple[str, str, str | None, str | None, str | None]
"""Id, name of the kind, label, key of the label (`label_key`), and JSON of the columns."""


def stored_job(job: JobToAdd, default: JobKind) -> StoredJob:
    """Return what is stored of a job.

    Args:
        job: The job.
        default: Kind of an id whose form does not say its kind.

    Raises:
        InvalidJobIdError: Its id cannot be a job id.
    """
    if is_plain(job):  # nearly all
        return job, (kind_of_id(job) or default).name, None, None, None
    columns = None
    if isinstance(job, BatchJob):
        if job.columns:
            columns = json.dumps(dict(job.columns), separators=(",", ":"))
        job = job.ref
    ref = JobRef.of(job).resolved(default)
    label = None if ref.label is None else _storable(ref.label)
    kind = ref.kind or default
    key = None if label is None else label_key(label)
    return ref.job_id, kind.name, label, key, columns


def check_job(job: JobToAdd) -> None:
    """Raise `InvalidJobIdError` if the id of a job cannot be a job id."""
    JobRef.of(job.ref if isinstance(job, BatchJob) else job)


def label_key(label: str) -> str:
    """Return a text that is equal for all labels whose files would have equal names.

    Some file systems ignore the case of names.
    """
    return label_stem(label).casefold()


def _storable(text: str) -> str:
    """Return a text that SQLite can store: without the bytes of names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
