"""A job source without a network: a script says what each poll of a job returns."""

import asyncio
from collections import Counter

from adepoll.api.models import JobSnapshot, JobStatus, JobSummary, from_timestamp


def snapshot(job_id, status="completed"):
    """Return a snapshot of a job that the service received at the start of 1970."""
    return JobSnapshot(
        job_id=job_id,
        status=JobStatus.parse(status),
        status_text=status,
        received_at=from_timestamp(0),
        progress=0.0,
    )


def summary(job_id, status="processing"):
    """Return the entry of such a job in a page of the list."""
    return JobSummary(
        job_id=job_id,
        status=JobStatus.parse(status),
        status_text=status,
        received_at=from_timestamp(0),
        progress=0.0,
    )


class ScriptedSource:
    """Answers each poll of a job with the next line of its script; the last line repeats.

    A line is a status text, an error to raise (a bug too), a future to wait for, or a snapshot. A
    job without a script is completed.
    """

    def __init__(self, scripts=None, *, latency=0.1):
        self.scripts = {job_id: list(lines) for job_id, lines in (scripts or {}).items()}
        self.latency = latency
        self.polls = []  # (time, job_id), as they begin
        self.in_flight = Counter()
        self.most_in_flight = 0
        self.cancelled = 0

    def count(self, job_id=None):
        return sum(job_id in {None, polled_at} for _, polled_at in self.polls)

    def times(self, job_id):
        return [time for time, polled_at in self.polls if polled_at == job_id]

    async def get_job(self, job_id):
        self.polls.append((asyncio.get_running_loop().time(), job_id))
        self.in_flight[job_id] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        script = self.scripts.get(job_id, ["completed"])
        line = script.pop(0) if len(script) > 1 else script[0]
        try:
            await asyncio.sleep(self.latency)
            if isinstance(line, asyncio.Future):
                line = await asyncio.shield(line)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight[job_id] -= 1
        if isinstance(line, BaseException):
            raise line
        return line if isinstance(line, JobSnapshot) else self.snapshot(job_id, line)

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        raise NotImplementedError

    snapshot = staticmethod(snapshot)
