"""Errands: results that are brought home, one at a time. Imports equipment, files and progress."""

import asyncio
import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from adepoll.api.job_ids import result_name
from adepoll.api.models import JobSnapshot
from adepoll.batch import files
from adepoll.batch.equipment import Equipment
from adepoll.batch.progress import Tally
from adepoll.errors import (
    AdePollError,
    BatchStoppedError,
    InvalidJobIdError,
    JobNotFoundError,
    ResultUnavailableError,
    StorageError,
    TargetExistsError,
)
from adepoll.journal import Change, Fetched, GivenUp
from adepoll.journal.outcomes import Outcome, Record, ResultFile

# What another try would meet again. All else may be different at the next run.
LASTING: Final = (InvalidJobIdError, JobNotFoundError, ResultUnavailableError)
# The name of one file is at fault; anything else would befall the others, too.
_OF_ONE_FILE: Final = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL})


@frozen(kw_only=True)
class Errand:
    """A result to be brought home.

    Attributes:
        snapshot: The job as it ended.
        path: Where the result goes.
        overwrite: Whether a file that is there is replaced.
    """

    snapshot: JobSnapshot
    path: Path
    overwrite: bool


async def bring_home(errand: Errand, equipment: Equipment, tally: Tally) -> tuple[Outcome, Change]:
    """Write a result to its file; give what to tell of it, and what to write down.

    Raises:
        BatchStoppedError: The others could not be written either.
        AdePollError: No other request could do better.
    """
    job_id = errand.snapshot.job_id

    def progress(there: int, _size: int | None) -> None:
        tally.on_their_way[job_id] = there

    tally.on_their_way[job_id] = 0
    try:
        done = await equipment.fetcher.download(
            errand.snapshot, errand.path, progress=progress, overwrite=errand.overwrite
        )
        modified_ns = await asyncio.to_thread(files.modified_ns, done.path)
    except StorageError as error:
        if error.errno not in _OF_ONE_FILE:
            raise BatchStoppedError(error) from error
        missed: AdePollError = error
    except AdePollError as error:
        if error.fatal:
            raise
        missed = error
    else:
        tally.bytes_home += done.bytes
        file = ResultFile(path=done.path, bytes=done.bytes, sha256=done.sha256)
        outcome = Outcome(job_id=job_id, snapshot=bare(errand.snapshot), file=file)
        return outcome, Fetched(job_id, file, modified_ns, equipment.now())
    finally:
        del tally.on_their_way[job_id]
    tally.missed += 1
    outcome = Outcome(job_id=job_id, snapshot=bare(errand.snapshot), error=missed)
    return outcome, given_up(job_id, missed, equipment.now())


async def blocked_of(equipment: Equipment, job_ids: Iterable[str]) -> dict[str, TargetExistsError]:
    """Give those of the jobs in whose results' place there is a file that is to stay."""
    if equipment.out_dir is None or equipment.overwrite:
        return {}
    targets = {job_id: equipment.out_dir / result_name(job_id) for job_id in job_ids}
    there = await asyncio.to_thread(files.existing, targets.values()) if targets else set()
    return {
        job_id: TargetExistsError(job_id=job_id, path=str(path))
        for job_id, path in targets.items()
        if path in there
    }


def is_at_its_place(equipment: Equipment, record: Record) -> bool:
    """Tell whether the file of a result is where it would be written now."""
    if record.file is None or equipment.out_dir is None:
        return False
    return record.file.path == equipment.out_dir / result_name(record.job_id)


def given_up(job_id: str, error: AdePollError, now: float) -> GivenUp:
    """Give what is written down of a job that was given up."""
    return GivenUp(job_id, error, lasting=isinstance(error, LASTING), at=now)


def bare(snapshot: JobSnapshot) -> JobSnapshot:
    """Give the snapshot as it is told beside a file: what the file holds, it need not."""
    return evolve(snapshot, data=None).redacted()
