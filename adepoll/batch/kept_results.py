"""Keeps the temporary files of large results until the results are in their result files.

The client writes a large result of a poll to a temporary file, and deletes this file together with
the snapshot. With zero data retention, the service has deleted the result, too. So a batch renames
the file: the client does not delete it, and if this process is killed, the next run finds it.
Blocking code; call it from threads.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve

from adepoll.api.models import JobSnapshot
from adepoll.api.received_result import KeptResult
from adepoll.common.file_system import is_own_file
from adepoll.common.system_errors import reason_of

_log = logging.getLogger(__name__)


def keep(folder: Path, snapshots: Iterable[JobSnapshot]) -> None:
    """Rename the temporary file of each large result, so that the client does not delete it."""
    for snapshot in snapshots:
        if snapshot.kept_result is None:
            continue
        try:
            snapshot.kept_result.rename(_path_of(folder, snapshot))
        except OSError as exc:  # this run still has the file
            _log.warning("a large result is lost if the process is killed: %s", reason_of(exc))


def with_kept_result(folder: Path, snapshot: JobSnapshot) -> JobSnapshot:
    """Return the snapshot with its large result, if an earlier run has kept the file of the result.

    Otherwise, return the snapshot unchanged.
    """
    path = _path_of(folder, snapshot)
    try:
        status = path.lstat()
    except OSError:
        return snapshot
    if not is_own_file(status):
        return snapshot
    kept = KeptResult(path)
    kept.size = status.st_size
    kept.keep()
    return evolve(snapshot, kept_result=kept)


def remove(folder: Path, snapshots: Iterable[JobSnapshot]) -> None:
    """Remove the files that `keep` has renamed, because the results are in result files now."""
    for snapshot in snapshots:
        with contextlib.suppress(OSError):
            _path_of(folder, snapshot).unlink()


def _path_of(folder: Path, job: JobSnapshot) -> Path:
    # A job id can be as long as a file name.
    digest = hashlib.sha256(f"{job.kind.name}/{job.job_id}".encode()).hexdigest()
    return folder / f".adepoll-{digest[:32]}.kept"
