"""Batches against an emulator over HTTP: one service, one journal, one folder, several runs."""

import attrs
from internals import end_now

from adepoll import AdeClient, Batch, RetryPolicy
from adepoll.emulator import JobPlan
from adepoll.journal import JournalReader

LARGE = 1_050_000
NEVER = float("inf")


@attrs.define(kw_only=True)
class Scene:
    """A service, its client, and the paths of journal and results, for several batches.

    Attributes:
        grace: `not_found_grace` and `patience` of the batches, in seconds; None for the defaults.
    """

    ade: object
    client: AdeClient
    journal: object
    out_dir: object
    grace: float | None = None

    def submit(self, job_id=None, **plan):
        return self.ade.submit(JobPlan(**plan), job_id=job_id)

    def end(self, job_id):
        """Complete a job that would never settle."""
        end_now(self.ade.world, job_id)

    def many(self, count, **plan):
        return [self.submit(**plan) for _ in range(count)]

    def batch(self, **options):
        defaults = {"journal": self.journal, "out_dir": self.out_dir, "download_patience": 0.0}
        if self.grace is not None:
            defaults |= {"not_found_grace": self.grace, "patience": self.grace}
        return Batch(self.client, **(defaults | options))

    async def run(self, job_ids=(), *, timeout=None, replay=False, **options):  # noqa: ASYNC109 - passed to `Batch.run`
        """Run a new batch; return its outcomes by job id, each of which must come once."""
        async with self.batch(**options) as batch:
            return await gather(batch.run(job_ids, timeout=timeout, replay=replay))

    @property
    def requests(self):
        """Number of requests to the service and its storage so far."""
        traffic = self.ade.world.traffic
        return traffic.get + traffic.list + traffic.result

    def records(self):
        """Return the current records of the journal by job id, read by another connection."""
        with JournalReader(self.journal) as reader:
            return {record.job_id: record for record in reader.records()}

    def path(self, job_id):
        return self.out_dir / f"{job_id}.json"

    def truth(self, job_id):
        return self.ade.world.result(job_id).read()

    def leftovers(self):
        """Return the names in the result folder that are not results."""
        return sorted(p.name for p in self.out_dir.iterdir() if p.name.startswith("."))


async def gather(run):
    """Return all outcomes of a run by job id, each of which must come once."""
    found = {}
    async for outcome in run:
        assert outcome.job_id not in found
        found[outcome.job_id] = outcome
    return found


async def gather_until(run, error):
    """Return the outcomes before an error of this class ends the run, and the error."""
    found = {}
    try:
        async for outcome in run:
            assert outcome.job_id not in found
            found[outcome.job_id] = outcome
    except error as caught:
        assert await anext(run, None) is None  # the error is raised only once
        return found, caught
    raise AssertionError(f"the run ended without {error}")


def make_client(ade, **options):
    retry = RetryPolicy(attempts=3, base=0.001, max_wait=0.001)
    defaults = {"api_key": ade.api_key, "base_url": ade.base_url, "retry": retry}
    return AdeClient(**(defaults | options))
