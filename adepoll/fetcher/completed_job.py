"""Checks that a job has completed, because only a completed job can have a result."""

import asyncio
from itertools import islice

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.errors import JobNotFoundError, ResultNotReadyError


def raise_unless_completed(job: JobSnapshot) -> None:
    """Raise if a job has not completed, because then it has no result.

    Raises:
        ResultNotReadyError: The job has not settled yet.
        JobFailedError: The job failed.
        JobCancelledError: The job was cancelled.
    """
    if not job.is_terminal:
        raise ResultNotReadyError(job_id=job.job_id, status=job.status_text)
    job.raise_for_failure()


async def request_completed(client: AdeClient, ref: JobRef) -> JobSnapshot:
    """Request a job that is known to have completed, and return its snapshot.

    One of the service's servers can be out of date. It answers that the job is still active, or
    that there is no such job (404). Then the job is requested again, up to `RetryPolicy.attempts`
    times in total.

    Raises:
        RequestError: The API failed.
        AdePollError: As for `raise_unless_completed`.
    """
    for wait in islice(client.retry.waits(client.rng), client.retry.attempts - 1):
        try:
            job = await client.get_job(ref)
        except JobNotFoundError:
            pass
        else:
            if job.is_terminal:
                break
        await asyncio.sleep(wait)
    else:
        job = await client.get_job(ref)
    raise_unless_completed(job)
    return job
