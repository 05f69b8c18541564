"""Checks that a job has completed, because only a completed job can have a result."""

import asyncio

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.errors import ResultNotReadyError


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

    One of the service's servers can be out of date, and answer that the job is still active. Then
    the job is requested again, up to `RetryPolicy.attempts` times in total.

    Raises:
        RequestError: The API failed.
        AdePollError: As for `raise_unless_completed`.
    """
    waits = client.retry.waits(client.rng)
    job = await client.get_job(ref)
    for _ in range(client.retry.attempts - 1):
        if job.is_terminal:
            break
        await asyncio.sleep(next(waits))
        job = await client.get_job(ref)
    raise_unless_completed(job)
    return job
