"""Converts a job that is added to the values that a journal stores: id, kind, label and columns."""

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
    """Return the values that a journal stores of a job.

    Args:
        job: The job.
        default: Kind of an id whose form does not say its kind.

    Raises:
        InvalidJobIdError: The id of the job cannot be a job id.
    """
    if is_plain(job):  # a fast path, because nearly all jobs are plain ids
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
    """Return a text that is equal for two labels if their files would have the same name.

    Upper and lower case are not distinguished, because some file systems ignore the case of names.
    """
    return label_stem(label).casefold()


def _storable(text: str) -> str:
    r"""Return a text that SQLite can store.

    Python uses surrogates for the bytes of a file name that are not UTF-8. Each becomes an escape
    such as ``\udcff``.
    """
    return text.encode("utf-8", "backslashreplace").decode()
