"""Journals with given results, for tests and the benchmark of tables."""

import json

from journalling import ENDPOINT, snapshot

from adepoll import Journal
from adepoll.api.models import JobSnapshot
from adepoll.journal import Fetched, GivenUp, Settled
from adepoll.journal.outcomes import ResultFile


def result_text(extraction, references=None):
    result = {"extraction": extraction, "extraction_metadata": references, "metadata": {}}
    return json.dumps(result, ensure_ascii=False)


async def write_journal(path, results, *, folder=None):
    """Write a journal of completed jobs "j0", "j1", ...

    Args:
        path: The journal.
        results: The text of each result; None for a job that is still active, an error for a job
            that was given up, a `JobSnapshot` for a job without a result.
        folder: Folder for the result files; None for inline results.
    """
    results = list(results)
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add([f"j{number}" for number in range(len(results))], at=1_700_000_000.0)
        for number, result in enumerate(results):
            job_id = f"j{number}"
            if isinstance(result, JobSnapshot):
                await journal.write(Settled(result, 1_700_000_060.0, fetching=False))
            elif isinstance(result, Exception):
                await journal.write(GivenUp(job_id, result, lasting=True, at=1_700_000_060.0))
            elif result is not None:
                await _write_result(journal, job_id, result, folder)


async def _write_result(journal, job_id, text, folder):
    if folder is None:
        job = snapshot(job_id, data=json.loads(text))
        await journal.write(Settled(job, 1_700_000_060.0, fetching=False), durable=False)
        return
    path = folder / f"{job_id}.json"
    path.write_text(text, "utf-8", "surrogatepass")
    file = ResultFile(path=path, bytes=path.stat().st_size, sha256="0" * 64)
    await journal.write(
        Settled(snapshot(job_id), 1_700_000_060.0, fetching=True),
        Fetched(job_id, file, 1, 1_700_000_061.0),
        durable=False,
    )
